//! The promise that a raft group keeps its word whatever crashes at whichever step: the real core of
//! node/cluster over simulated disks, clocks and a network, one seed a life. Members join, are
//! promoted and removed, hand over the lead, and lose their disks meanwhile. Faults planted in what
//! surrounds the core have to be noticed, each by the invariant that names it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::demand;
use crate::promise::{During, Figures, NotShown, Run, broken};

pub(crate) mod judge;
pub(crate) mod member;
mod operator;
mod world;

use world::{Life, World};

/// Seeds within which a planted bug has to be noticed.
const RED_WITHIN: u64 = 500;
/// Lives that are played at a time while power cuts are counted.
const LIVES: u64 = 40;
/// Every so many seeds, one is played twice.
const TWICE_EVERY: u64 = 40;

/// A fault that is planted around the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// BUG-1: nothing is synced before it is acknowledged.
    SkippedSync,
    /// BUG-2: votes and answers leave before the write is synced.
    SentBeforeSync,
    /// BUG-9: a checkpoint of another member is installed in two writes.
    InstallInTwo,
    /// A checkpoint of our own without the commit that goes with it.
    CheckpointAlone,
    /// A conflicting suffix stays.
    SuffixKept,
    /// A command is acknowledged when it is proposed.
    AnsweredEarly,
    /// BUG-7: a member answers a read from the state that it has.
    StaleRead,
    /// Nobody is told that a read has failed.
    ReadForgotten,
    /// BUG-8: a member comes back under its old id without its disk.
    OldId,
    /// The members are no part of the write of a checkpoint.
    MembersApart,
}

impl Bug {
    const ALL: [Self; 10] = [
        Self::SkippedSync,
        Self::SentBeforeSync,
        Self::InstallInTwo,
        Self::CheckpointAlone,
        Self::SuffixKept,
        Self::AnsweredEarly,
        Self::StaleRead,
        Self::ReadForgotten,
        Self::OldId,
        Self::MembersApart,
    ];

    /// How it is called, and the invariant that it breaks.
    const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::SkippedSync => ("skipped_sync", "CLU-2"),
            Self::SentBeforeSync => ("sent_before_sync", "CLU-1"),
            Self::InstallInTwo => ("install_in_two", "CLU-7"),
            Self::CheckpointAlone => ("checkpoint_alone", "CLU-7"),
            Self::SuffixKept => ("suffix_kept", "CLU-1"),
            Self::AnsweredEarly => ("answered_early", "CLU-2"),
            Self::StaleRead => ("stale_read", "CLU-4"),
            Self::ReadForgotten => ("read_forgotten", "CLU-5"),
            Self::OldId => ("old_id", "CLU-6"),
            Self::MembersApart => ("members_apart", "CLU-7"),
        }
    }
}

/// Plays one life. A core that panics has broken its word, too.
fn play(seed: u64, bug: Option<Bug>) -> Result<Life, String> {
    let played = catch_unwind(AssertUnwindSafe(|| World::new(seed, bug).play()));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// Plays these seeds on all processors: the lives, by seed, and how many were played twice.
fn all(first: u64, seeds: u64) -> Result<(Vec<Life>, u64), NotShown> {
    let threads = std::thread::available_parallelism().during("count processors")?;
    let next = AtomicU64::new(0);
    let twice = AtomicU64::new(0);
    let lives = Mutex::new(Vec::new());
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if seeds <= number {
                return;
            }
            let seed = first + number;
            let mut played = play(seed, None);
            if number.is_multiple_of(TWICE_EVERY) && played.is_ok() {
                twice.fetch_add(1, Ordering::Relaxed);
                if play(seed, None) != played {
                    played = Err("the same seed gave another trace".to_owned());
                }
            }
            match played {
                Ok(life) => lives.lock().expect("no panic holds it").push(life),
                Err(why) => {
                    next.store(seeds, Ordering::Relaxed);
                    *failed.lock().expect("no panic holds it") = Some((seed, why));
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _thread in 0..threads.get() {
            scope.spawn(work);
        }
    });
    if let Some((seed, why)) = failed.into_inner().expect("no panic holds it") {
        let again = format!("cargo prove raft --seeds 1 --seed {seed}");
        return Err(broken(format!("seed {seed}: {why}; repeat it: {again}")));
    }
    Ok((lives.into_inner().expect("no panic holds it"), twice.into_inner()))
}

/// How many seeds it takes until the bug is noticed by its invariant.
fn red(first: u64, bug: Bug) -> Result<u64, NotShown> {
    let (name, id) = bug.name();
    let noticed = |number: &u64| {
        play(first + number, Some(bug)).is_err_and(|why| why.starts_with(&format!("{id}:")))
    };
    let found = (0..RED_WITHIN).find(noticed).map(|number| number + 1);
    found.ok_or_else(|| broken(format!("{name} did not break {id} in {RED_WITHIN} seeds")))
}

/// Lives until there were so many power cuts of everything, each after a random step; what was
/// acknowledged outlives all of them.
///
/// # Errors
///
/// When it does not, or a sync that is left out goes unnoticed.
pub fn power_cuts(first: u64, wanted: u64) -> Result<Figures, NotShown> {
    let (mut cuts, mut commands, mut seeds) = (0, 0, 0);
    while cuts < wanted {
        let (lives, _) = all(first + seeds, LIVES)?;
        seeds += LIVES;
        cuts += lives.iter().map(|it| it.power_cuts).sum::<u64>();
        commands += lives.iter().map(|it| it.commands).sum::<u64>();
    }
    let within = red(first, Bug::SkippedSync)?;
    Ok(Figures::default()
        .with("power_cuts", cuts)
        .with("simulated_commands", commands)
        .with("red_skipped_sync", format!("at seed {within} (CLU-2)"))
        .with("red_controls", 1))
}

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let seeds = run.count("seeds", 2_000, 20_000);
    run.note(format!("{seeds} seeds from {}", run.seed));
    let (lives, twice) = all(run.seed, seeds)?;
    let sum = |of: fn(&Life) -> u64| lives.iter().map(of).sum::<u64>();
    let mut figures = Figures::default()
        .with("seeds", lives.len())
        .with("commands", sum(|it| it.commands))
        .with("terms_led", sum(|it| it.terms))
        .with("crashes", sum(|it| it.crashes))
        .with("power_cuts", sum(|it| it.power_cuts))
        .with("before_persist", sum(|it| it.before_persist))
        .with("after_persist", sum(|it| it.after_persist))
        .with("at_install", sum(|it| it.at_install))
        .with("before_send", sum(|it| it.before_send))
        .with("before_apply", sum(|it| it.before_apply))
        .with("checkpoints", sum(|it| it.checkpoints))
        .with("installs", sum(|it| it.installs))
        .with("disks_lost", sum(|it| it.disks_lost))
        .with("joined", sum(|it| it.joined))
        .with("promoted", sum(|it| it.promoted))
        .with("removed", sum(|it| it.removed))
        .with("refused", sum(|it| it.refused))
        .with("transfers", sum(|it| it.transfers))
        .with("reads", sum(|it| it.reads))
        .with("reads_failed", sum(|it| it.reads_failed))
        .with("checks", sum(|it| it.checks))
        .with("played_twice", twice);
    let rarest = [
        sum(|it| it.at_install),
        sum(|it| it.before_apply),
        sum(|it| it.disks_lost),
        sum(|it| it.removed),
        sum(|it| it.transfers),
        sum(|it| it.reads_failed),
    ];
    let rarest = rarest.into_iter().min().unwrap_or_default();
    demand!(0 < rarest || seeds < 1_000, "some fault never struck: {figures}");
    figures.set("red_controls", Bug::ALL.len());
    // raft-rs panics at some of what is planted; that is no news.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let reds: Vec<_> = Bug::ALL.into_iter().map(|bug| (bug, red(run.seed, bug))).collect();
    std::panic::set_hook(hook);
    for (bug, within) in reds {
        let (name, id) = bug.name();
        figures.set(&format!("red_{name}"), format!("at seed {} ({id})", within?));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_hold_and_repeat_themselves() {
        let (lives, twice) = all(1, 40).unwrap();
        assert_eq!((lives.len(), twice), (40, 1));
        assert!(lives.iter().any(|it| 0 < it.installs), "{lives:?}");
    }

    #[test]
    fn planted_bugs_are_noticed() {
        for bug in Bug::ALL {
            red(1, bug).unwrap();
        }
    }
}
