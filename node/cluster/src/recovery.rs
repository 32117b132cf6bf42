//! A pure core: what is left of a group whose quorum is gone for good, and the one write by which
//! one of its members goes on alone.
//!
//! - **RV-1** everything on the survivor's disk counts, also what nobody knows to be agreed on: the
//!   lost members may have acknowledged it.
//! - **RV-2** the survivor alone votes and belongs to the group. Every other id that it knows is a
//!   removed member's, and so are [`IDS_PASSED`] more, which members may have had that joined where
//!   its log does not reach.
//! - **RV-3** no epoch, shard id or version is used again that the lost members may have used:
//!   [`PASSED`] of each are passed over.
//! - **RV-4** the state lies at a higher term and index than anything before, and no log of before
//!   goes on behind it.
//! - **RV-5** no join token of before lets anybody in: the lost members may have taken it already.

use raft::eraftpb::HardState;
use storage::codec;

use crate::format::{decode_command, decode_state, encode_state};
use crate::group::{RequestId, changes_members};
use crate::image::{Checkpoint, Cut, Image, Place, Write, place_of};

use crate::members::{Change, Members};
use crate::state::{Role, State};

/// Ids of members that nobody gets: more than a cluster ever lets in while one of it looks away.
pub const IDS_PASSED: u64 = 100;

/// Epochs of each shard, ids of shards and versions that are never used: more than a cluster makes
/// while one of it looks away.
pub const PASSED: u64 = 1 << 20;

/// Why nobody can go on alone from a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRecovered {
    /// Nothing of the group has reached it.
    #[error("nothing of the cluster has reached this folder yet")]
    Blank,
    /// By its own log it has no vote.
    #[error("by its own log this node does not vote")]
    NoVote,
    /// Nobody else votes, so that nothing is lost.
    #[error("nobody else votes in this node's cluster: it decides alone as it is")]
    Alone,
    /// It contradicts itself.
    #[error("the log cannot be read: {0}")]
    Unreadable(String),
}

/// An entry of which nobody here knows whether it was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubtful {
    /// Where it is in the log.
    pub place: Place,
    /// What it changes, in words.
    pub what: String,
}

/// What a recovery would do, and what it would do it by.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The term that the survivor was in.
    pub term: u64,
    /// The last place of its log. Of several survivors that with the greatest one knows most.
    pub last: Place,
    /// What it knows to be agreed on.
    pub committed: u64,
    /// What its last checkpoint holds.
    pub checkpoint: Place,
    /// Commands behind what it knows to be agreed on. They count from now on.
    pub doubtful: Vec<Doubtful>,
    /// Who belongs to the group no more.
    pub removed: Vec<(u64, String)>,
    /// What is agreed on from now on.
    pub state: State,
    /// Carries it out.
    pub write: Write,
}

impl Recovery {
    /// What becomes of this member's log.
    ///
    /// # Errors
    ///
    /// [`NotRecovered`]: nothing may be changed.
    pub fn of(me: u64, image: &Image) -> Result<Self, NotRecovered> {
        if image.is_blank() {
            return Err(NotRecovered::Blank);
        }
        let unreadable = |error: &codec::CodecError| NotRecovered::Unreadable(error.to_string());
        let mut state =
            decode_state(&image.checkpoint.state).map_err(|error| unreadable(&error))?;
        let mut members = image.checkpoint.members.clone();
        let mut doubtful = Vec::new();
        for entry in image.entries.iter().filter(|it| image.checkpoint.place.index < it.index) {
            let Some(request) = RequestId::of_bytes(&entry.context) else { continue };
            let what = if changes_members(entry) {
                let change = Change::of_entry(entry);
                let change = change.ok_or_else(|| NotRecovered::Unreadable("a change".into()))?;
                if let Ok(after) = members.after(change) {
                    members = after;
                }
                state.change_members(change);
                format!("{change:?}")
            } else {
                let logged = decode_command(&entry.data, state.format());
                let logged = logged.map_err(|error| unreadable(&error))?;
                // One that is refused, or was applied before, changes nothing (RS-4, RS-13).
                drop(state.apply_logged(request, &logged));
                logged.title()
            };
            if image.hard.commit < entry.index {
                doubtful.push(Doubtful { place: place_of(entry), what });
            }
        }
        if !members.voters().contains(&me) {
            return Err(NotRecovered::NoVote);
        }
        if members.voters().len() == 1 {
            return Err(NotRecovered::Alone);
        }
        let present = state.roster().members().iter();
        let removed = present.filter(|(id, it)| **id != me && it.role != Role::Removed);
        let removed = removed.map(|(id, it)| (*id, it.name.clone())).collect();
        let newest = members.newest().max(state.roster().next_id() - 1) + IDS_PASSED;
        state.go_on_alone(me, newest);
        let write = alone(me, newest, image, &state).map_err(|error| unreadable(&error))?;
        Ok(Self {
            term: image.hard.term,
            last: image.last(),
            committed: image.hard.commit,
            checkpoint: image.checkpoint.place,
            doubtful,
            removed,
            state,
            write,
        })
    }
}

/// As a group is founded, but behind all that there was.
fn alone(me: u64, newest: u64, image: &Image, state: &State) -> Result<Write, codec::CodecError> {
    let place = Place { term: image.hard.term + 1, index: image.last().index + 1 };
    let hard = HardState { term: place.term, commit: place.index, ..HardState::default() };
    let checkpoint =
        Checkpoint { place, members: Members::new([me], [], newest), state: encode_state(state)? };
    Ok(Write {
        checkpoint: Some(checkpoint),
        cut: Cut::All(place),
        entries: Vec::new(),
        hard: Some(hard),
    })
}

#[cfg(test)]
mod tests {
    use bus::{Epoch, ShardId};
    use raft::eraftpb::Entry;

    use super::*;
    use crate::group::{Group, Limits, Step};
    use crate::state::Command;
    use crate::state::{App, Function, MemberChange, Placing, Spent, Trigger};

    fn join(id: u64, token: Option<Spent>) -> Command {
        let (name, address) = (format!("edge-{id}"), "a:1".to_owned());
        let key = [u8::try_from(id).unwrap(); 32];
        Command::Member { member: id, change: MemberChange::Join { name, address, key, token } }
    }

    fn deploy(name: &str) -> Command {
        let function =
            Function { revision: "1".into(), package: "p".into(), spec: "{}".to_owned() };
        let trigger = Trigger { function: "f".to_owned(), topics: [("in".to_owned(), 2)].into() };
        let app = App {
            functions: [("f".to_owned(), function)].into(),
            triggers: [(format!("{name}/f/f"), trigger)].into(),
            ..App::default()
        };
        Command::Deploy { name: name.into(), app, expects: None, at: bus::Timestamp(0) }
    }

    fn assign(ends: u64, to: u64) -> Command {
        Command::Assign { moves: vec![Placing { shard: ShardId(1), ends: Epoch(ends), to }] }
    }

    fn entry(term: u64, index: u64, command: &Command) -> Entry {
        let request = RequestId { member: 1, number: (1 << 32) + index };
        let data = codec::encode_large(command).unwrap().into();
        Entry { term, index, context: request.to_bytes().into(), data, ..Entry::default() }
    }

    /// Three voters; what member 2 knows to be agreed on ends at `commit`.
    fn three(commands: &[Command], commit: u64) -> Image {
        let mut state = State::default();
        for id in 1..=3 {
            state.apply(&join(id, None)).unwrap();
            let change = MemberChange::Promote;
            state.apply(&Command::Member { member: id, change }).unwrap();
        }
        let bytes = codec::encode_snapshot(&state).unwrap();
        let mut image = Image::default();
        image.carry_out(&Image::founding(vec![1, 2, 3], bytes));
        let entries = commands.iter().enumerate();
        image.entries = entries.map(|(at, it)| entry(1, at as u64 + 2, it)).collect();
        image.hard = HardState { term: 4, vote: 3, commit, ..HardState::default() };
        image.check().unwrap();
        image
    }

    #[test]
    fn what_was_acknowledged_and_what_is_in_doubt_counts_and_the_others_are_gone() {
        let commands = [deploy("a"), assign(0, 3), deploy("b")];
        let image = three(&commands, 3);
        let recovery = Recovery::of(2, &image).unwrap();
        assert_eq!(recovery.last, Place { term: 1, index: 4 });
        let doubts: Vec<_> =
            recovery.doubtful.iter().map(|it| (it.place.index, it.what.as_str())).collect();
        assert_eq!(doubts, [(4, "deploy of b")], "RV-1");
        assert!(recovery.state.apps().contains_key("a") && recovery.state.apps().contains_key("b"));
        assert_eq!(recovery.removed, [(1, "edge-1".to_owned()), (3, "edge-3".to_owned())]);
        let roster = recovery.state.roster();
        let present = roster.members().iter().filter(|(_, it)| it.role != Role::Removed);
        assert_eq!(present.map(|(id, _)| *id).collect::<Vec<_>>(), [2], "RV-2");
        assert_eq!(roster.next_id(), 3 + IDS_PASSED + 1, "RV-2");
        let shard = &recovery.state.shards()[&ShardId(1)];
        assert_eq!((shard.epoch, shard.owner), (Epoch(1 + PASSED), None), "RV-3");
    }

    #[test]
    fn nothing_that_the_lost_may_have_used_is_used_again() {
        let token = Command::Token { hash: [9; 32], at: 0, until: 100 };
        let mut state = Recovery::of(2, &three(&[deploy("a"), token], 3)).unwrap().state;
        let spent = Spent { hash: [9; 32], at: 1 };
        assert!(state.apply(&join(200, Some(spent))).is_err(), "RV-5");
        let before = state.version("a");
        let added = state.apply(&deploy("c")).unwrap().added;
        assert!(added.iter().all(|it| PASSED < it.0), "RV-3: {added:?}");
        assert!(before + PASSED < state.version("c"), "RV-3");
        for id in [1, 3, 4, 3 + IDS_PASSED] {
            assert!(state.apply(&join(id, None)).is_err(), "RV-2: {id}");
        }
        assert!(state.apply(&join(3 + IDS_PASSED + 1, None)).is_ok());
    }

    /// The member leads by its own vote, at a higher term, and its log takes a new member.
    #[test]
    fn the_group_goes_on_with_one_member() {
        let image = three(&[deploy("a"), assign(0, 3)], 2);
        let recovery = Recovery::of(2, &image).unwrap();
        let mut after = image.clone();
        after.carry_out(&recovery.write);
        after.check().unwrap();
        let place = after.checkpoint.place;
        assert!(image.hard.term < place.term && image.last() < place, "RV-4");
        assert!(after.entries.is_empty(), "RV-4");
        let mut group = Group::new(2, after, Limits::default(), 7).unwrap();
        group.campaign();
        while let Some(step) = group.step() {
            assert!(!matches!(step, Step::Restore(_)));
        }
        assert!(group.leads() && image.hard.term < group.term());
        for (id, is_new) in [(3, false), (3 + IDS_PASSED, false), (3 + IDS_PASSED + 1, true)] {
            let request = RequestId { member: 2, number: id };
            let change = group.change(request, Change::AddLearner(id));
            assert_eq!(change.is_ok(), is_new, "RV-2: {id}: {change:?}");
        }
    }

    #[test]
    fn who_cannot_go_on_alone_is_told_why() {
        let mut blank = Image::default();
        blank.carry_out(&Image::joining());
        assert_eq!(Recovery::of(1, &blank).unwrap_err(), NotRecovered::Blank);
        assert_eq!(Recovery::of(4, &three(&[], 1)).unwrap_err(), NotRecovered::NoVote);
        let once = Recovery::of(2, &three(&[], 1)).unwrap();
        let mut image = three(&[], 1);
        image.carry_out(&once.write);
        assert_eq!(Recovery::of(2, &image).unwrap_err(), NotRecovered::Alone);
    }
}
