//! A rotation step by step, and any order of commands.

use super::*;
use crate::state::{Command, MemberChange, State, SubscriberChange, SubscriberToken};

fn ca(number: u8) -> Ca {
    Ca { key: [number; 32], certificate: vec![number], bridge: vec![number, number] }
}

fn change(state: &mut State, change: CaChange) -> Result<(), Refused> {
    state.apply(&Command::Ca { change }).map(drop)
}

fn begin(from: u8, to: u8) -> CaChange {
    CaChange::Begin { from: ca(from), to: ca(to), at: 100, window_s: 50 }
}

fn turn(state: &State) -> u64 {
    state.authorities().rotation().unwrap().turn
}

fn done(state: &mut State, member: u64) -> Result<(), Refused> {
    let turn = turn(state);
    change(state, CaChange::Done { member, turn })
}

fn step(state: &mut State, at: u64, is_early: bool) -> Result<(), Refused> {
    let turn = turn(state);
    change(state, CaChange::Step { turn, at, is_early })
}

fn join(state: &mut State, member: u64) {
    let (name, address) = (format!("edge-{member}"), "a:1".to_owned());
    let join = MemberChange::Join { name, address, key: [member as u8; 32], token: None };
    state.apply(&Command::Member { member, change: join }).unwrap();
}

fn make_token(state: &mut State, id: u32) {
    let (name, topics) = (String::new(), vec!["alerts".to_owned()]);
    let token = SubscriberToken { hash: [7; 32], name, topics, at: 1, until: 999, revoked: None };
    let change = SubscriberChange::Make(token);
    state.apply(&Command::Subscriber { id, change }).unwrap();
}

fn of(members: u64) -> State {
    let mut state = State::default();
    (1..=members).for_each(|id| join(&mut state, id));
    state
}

fn trusted(state: &State) -> Vec<u8> {
    state.authorities().trusted().iter().map(|it| it.key[0]).collect()
}

fn issuing(state: &State) -> Option<u8> {
    state.authorities().issuing().map(|it| it[0])
}

#[test]
fn a_rotation_waits_for_everybody_at_each_stage() {
    let mut state = of(3);
    assert_eq!((trusted(&state), issuing(&state)), (vec![], None));
    change(&mut state, begin(1, 2)).unwrap();
    assert_eq!((trusted(&state), issuing(&state)), (vec![1, 2], Some(1)), "RS-17");
    assert_eq!(change(&mut state, begin(1, 3)), Err(Refused::Rotating));
    done(&mut state, 1).unwrap();
    done(&mut state, 3).unwrap();
    assert_eq!(step(&mut state, 110, true), Err(Refused::Unrotated(vec![2])), "RS-17");
    done(&mut state, 2).unwrap();
    let trusting = turn(&state);
    step(&mut state, 110, false).unwrap();
    assert_eq!((trusted(&state), issuing(&state)), (vec![1, 2], Some(2)));
    // What was said of the stage before counts for nothing here.
    let late = change(&mut state, CaChange::Done { member: 1, turn: trusting });
    assert_eq!(late, Err(Refused::StaleTurn { turn: trusting, now: trusting + 1 }), "RS-19");
    // Somebody joins meanwhile, and is waited for too.
    join(&mut state, 4);
    (1..=3).for_each(|id| done(&mut state, id).unwrap());
    assert_eq!(step(&mut state, 120, true), Err(Refused::Unrotated(vec![4])), "RS-18");
    // Who is removed is not.
    let gone = MemberChange::Remove;
    state.apply(&Command::Member { member: 4, change: gone }).unwrap();
    assert_eq!(done(&mut state, 4), Err(Refused::UnknownMember(4)));
    step(&mut state, 120, false).unwrap();
    assert_eq!(state.authorities().rotation().unwrap().ends(), Some(170));
    assert_eq!(trusted(&state), [1, 2], "both in the window");
    assert_eq!(step(&mut state, 169, false), Err(Refused::EarlyEnd));
    step(&mut state, 170, false).unwrap();
    assert_eq!((trusted(&state), issuing(&state)), (vec![2], Some(2)));
    // The next one begins with the CA there is.
    assert_eq!(change(&mut state, begin(1, 3)), Err(Refused::ForeignCa));
    change(&mut state, begin(2, 3)).unwrap();
}

#[test]
fn somebody_may_end_the_window_and_nobody_skips_a_member() {
    let mut state = of(1);
    change(&mut state, begin(1, 2)).unwrap();
    for at in [100, 100] {
        done(&mut state, 1).unwrap();
        step(&mut state, at, false).unwrap();
    }
    // Who joined just now was perhaps certified by the one that goes.
    join(&mut state, 2);
    assert_eq!(step(&mut state, 101, true), Err(Refused::Unrotated(vec![2])), "RS-18");
    done(&mut state, 2).unwrap();
    step(&mut state, 101, true).unwrap();
    assert_eq!(trusted(&state), [2]);
    let nothing = change(&mut state, CaChange::Abort { turn: 3 });
    assert_eq!(nothing, Err(Refused::NotRotating));
}

#[test]
fn an_abort_is_a_rotation_the_other_way_round() {
    let mut state = of(2);
    change(&mut state, begin(1, 2)).unwrap();
    let first = turn(&state);
    change(&mut state, CaChange::Abort { turn: first }).unwrap();
    assert_eq!((trusted(&state), issuing(&state)), (vec![1], Some(1)), "nobody showed the next");
    change(&mut state, begin(1, 3)).unwrap();
    (1..=2).for_each(|id| done(&mut state, id).unwrap());
    step(&mut state, 100, false).unwrap();
    done(&mut state, 1).unwrap();
    let renewing = turn(&state);
    change(&mut state, CaChange::Abort { turn: renewing }).unwrap();
    assert_eq!((trusted(&state), issuing(&state)), (vec![3, 1], Some(1)), "RS-18: 1 shows CA 3");
    assert_eq!(step(&mut state, 100, true), Err(Refused::Unrotated(vec![1, 2])), "RS-18");
    let stale = change(&mut state, CaChange::Abort { turn: renewing });
    assert!(matches!(stale, Err(Refused::StaleTurn { .. })), "asked for twice, done once");
    (1..=2).for_each(|id| done(&mut state, id).unwrap());
    step(&mut state, 100, false).unwrap();
    step(&mut state, 150, false).unwrap();
    assert_eq!(trusted(&state), [1]);
}

#[test]
fn tokens_that_name_a_ca_that_goes_are_known() {
    let mut state = of(1);
    make_token(&mut state, 7);
    assert_eq!(state.authorities().outdated(7), None, "before any rotation");
    change(&mut state, begin(1, 2)).unwrap();
    make_token(&mut state, 8);
    let outdated = |state: &State| [7, 8, 9].map(|id| state.authorities().outdated(id).is_some());
    assert_eq!(outdated(&state), [true, true, false]);
    for _ in 0..2 {
        done(&mut state, 1).unwrap();
        step(&mut state, 100, false).unwrap();
    }
    make_token(&mut state, 9);
    assert_eq!(outdated(&state), [true, true, false]);
    // Back again: then the third is.
    let turn = turn(&state);
    change(&mut state, CaChange::Abort { turn }).unwrap();
    assert_eq!(outdated(&state), [false, false, true]);
}

/// RS-4, RS-17, RS-18, RS-19 over seeded commands, against what each member can have done.
#[test]
fn any_commands_keep_the_invariants() {
    for seed in 1..=300_u64 {
        let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng % below
        };
        let mut state = of(3);
        // What each member trusts and shows; who lags behind does neither.
        let mut holds: BTreeMap<u64, (BTreeSet<u8>, u8)> =
            (1..=3).map(|id| (id, ([1].into(), 1))).collect();
        let (mut newest, mut ended) = (1_u8, 0);
        for at in 0..150_u64 {
            let before = state.clone();
            let at_turn = state.authorities().rotation().map_or(0, |it| it.turn);
            let turn = at_turn.saturating_sub(u64::from(draw(5) == 0));
            let id = 1 + draw(3);
            let done = match draw(8) {
                0 if newest < 200 => {
                    newest += 1;
                    let from = issuing(&state).unwrap_or(1);
                    change(&mut state, begin(from, newest))
                }
                1 if draw(4) == 0 => change(&mut state, CaChange::Abort { turn }),
                2 | 3 => {
                    let is_early = draw(2) == 0;
                    change(&mut state, CaChange::Step { turn, at, is_early })
                }
                _ => {
                    // The member follows what it knows, and says so.
                    let known = holds.get_mut(&id).unwrap();
                    let trusts = trusted(&state);
                    if !trusts.is_empty() {
                        known.0 = trusts.into_iter().collect();
                    }
                    known.1 = issuing(&state).unwrap_or(known.1);
                    change(&mut state, CaChange::Done { member: id, turn })
                }
            };
            if done.is_err() {
                assert_eq!(state, before, "seed {seed}: RS-4");
            }
            ended += u64::from(
                before.authorities().rotation().is_some()
                    && state.authorities().rotation().is_none(),
            );
            // Whoever shows a certificate is known to everybody, however late each is.
            for (one, (_, shows)) in &holds {
                for (other, (trusts, _)) in &holds {
                    assert!(
                        trusts.contains(shows),
                        "seed {seed}, {at}: {other} trusts {trusts:?}, {one} shows {shows}"
                    );
                }
            }
        }
        assert!(seed < 300 || 0 < ended, "no rotation came to its end");
    }
}
