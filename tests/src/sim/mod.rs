//! The promise that the cores, composed, lose nothing and keep their order over any seeded life, and
//! repeat nothing on the embedded bus (odd seeds) and only what was not settled durably on Kafka
//! (even ones): bus, brokers, disks, functions, clock and crashes are simulated, the cores are the
//! real ones. Faults planted in what surrounds them have to be noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::demand;
use crate::promise::{During, Figures, NotShown, Run, broken};

mod bug;
mod bus;
mod checker;
mod cluster;
mod disk;
mod fleet;
mod groups;
mod handler;
mod home;
mod plan;
mod pool;
mod shell;
mod sum;
mod world;

pub(crate) use bug::Bug;
use plan::Plan;
use sum::Sum;
use world::{Life, World};

/// Seeds within which a planted bug has to be noticed.
const RED_WITHIN: u64 = 500;
/// Every so many seeds, one is played twice.
const TWICE_EVERY: u64 = 40;

/// Who lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nodes that nobody has agree.
    Alone,
    /// A whole cluster.
    Fleet,
}

impl Kind {
    /// Of the promise, to play one life.
    const fn flags(self) -> &'static str {
        match self {
            Self::Alone => "--seeds 1 --fleets 0",
            Self::Fleet => "--seeds 0 --fleets 1",
        }
    }
}

/// Plays one life. A core that panics has broken its word, too.
fn play(kind: Kind, seed: u64, bug: Option<Bug>) -> Result<Life, String> {
    let plan = match kind {
        Kind::Alone => Plan::new(seed),
        Kind::Fleet => Plan::of_fleet(seed),
    };
    let played = catch_unwind(AssertUnwindSafe(|| World::new(plan, bug).play()));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

/// Plays seeds from a shared counter until there are none, or one fails.
fn work(kind: Kind, first: u64, seeds: u64, next: &AtomicU64) -> Sum {
    let mut sum = Sum::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if seeds <= number {
            return sum;
        }
        let seed = first + number;
        let mut played = play(kind, seed, None);
        if number.is_multiple_of(TWICE_EVERY)
            && let Ok(life) = played
        {
            sum.twice += 1;
            if play(kind, seed, None) != Ok(life) {
                played = Err("the same seed gave another trace".to_owned());
            }
        }
        match played {
            Ok(life) => sum.add(&life),
            Err(why) => {
                next.store(seeds, Ordering::Relaxed);
                sum.failed = Some((seed, why));
                return sum;
            }
        }
    }
}

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let (seeds, fleets) = (run.count("seeds", 4_000, 40_000), run.count("fleets", 2_000, 20_000));
    let mut figures = Figures::default();
    if 0 < seeds {
        show_nodes(run, seeds, &mut figures)?;
    }
    if 0 < fleets {
        fleet::show(run, fleets, &mut figures)?;
    }
    Ok(figures)
}

/// The part about nodes alone.
fn show_nodes(run: &Run, seeds: u64, figures: &mut Figures) -> Result<(), NotShown> {
    run.note(format!("{seeds} seeds from {}", run.seed));
    let sum = all(Kind::Alone, run.seed, seeds)?;
    demand!(500 <= sum.records_least, "a life of {} records", sum.records_least);
    demand!(3 <= sum.crashes_least, "a life of {} crashes", sum.crashes_least);
    *figures = Figures::default()
        .with("seeds", sum.lives)
        .with("records", sum.total.records)
        .with("outputs", sum.total.outputs)
        .with("dead_letters", sum.total.dead)
        .with("filtered", sum.total.filtered)
        .with("effective_crashes", sum.total.crashes)
        .with("effective_crashes_least", sum.crashes_least)
        .with("writes_lost", sum.total.lost_writes)
        .with("commits_fenced", sum.total.fenced)
        .with("checks", sum.total.checks)
        .with("parked", sum.total.parked)
        .with("resumed", sum.total.resumed)
        .with("played_twice", sum.twice);
    let (kafka, tally) = (sum.kafka, sum.kafka.tally);
    let kafkas = [
        ("kafka_lives", sum.kafka_lives),
        ("kafka_records", sum.kafka_records),
        ("kafka_crashes", sum.kafka_crashes),
        ("kafka_logs_deleted", kafka.deleted),
        ("kafka_pauses", kafka.pauses),
        ("kafka_assigned", kafka.assigned),
        ("kafka_from_group", tally.from_group),
        ("kafka_from_log", tally.from_log),
        ("kafka_unsure_commits", kafka.unsure),
        ("kafka_duplicates", tally.duplicates),
        ("kafka_stale_offsets", tally.stale),
        ("kafka_moved_back", tally.moved_back),
        ("kafka_restored", tally.restored),
        ("kafka_left_back", tally.left_back),
        ("kafka_restored_within_ms", tally.restored_within / 1_000),
    ];
    kafkas.iter().for_each(|(name, count)| figures.set(name, *count));
    // What never happened was not survived; a few lives need not meet everything.
    let rarest = sum.total.lost_writes.min(sum.total.fenced).min(sum.total.dead);
    let rarest = rarest.min(sum.total.filtered);
    let rarest = rarest.min(kafka.deleted).min(tally.from_group).min(tally.from_log);
    let rarest = rarest.min(sum.total.parked).min(sum.total.resumed);
    let rarest = rarest.min(kafka.unsure).min(tally.restored).min(tally.duplicates);
    demand!(0 < rarest || seeds < 500, "some fault never struck: {figures}");
    figures.set("red_controls", Bug::ALL.len());
    for bug in Bug::ALL {
        run.note(format!("with a planted bug: {}", bug.name()));
        let (within, why) = red(Kind::Alone, run.seed, bug)?;
        let id = why.split(':').next().unwrap_or_default().to_owned();
        figures.set(&format!("red_{}", bug.name()), format!("at seed {within} ({id})"));
    }
    Ok(())
}

/// Plays these seeds on all processors.
fn all(kind: Kind, first: u64, seeds: u64) -> Result<Sum, NotShown> {
    let threads = std::thread::available_parallelism().during("count processors")?;
    let next = AtomicU64::new(0);
    let sum = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads.get()).map(|_| scope.spawn(|| work(kind, first, seeds, &next))).collect();
        let sums = workers.into_iter().map(|it| it.join().expect("panics are caught inside"));
        sums.fold(Sum::default(), Sum::join)
    });
    match sum.failed {
        None => Ok(sum),
        Some((seed, why)) => Err(broken(format!(
            "seed {seed}: {why}; repeat it: cargo prove simulation --seed {seed} {}",
            kind.flags()
        ))),
    }
}

/// How many seeds it takes until the bug is noticed by its invariant, and what noticed it.
fn red(kind: Kind, first: u64, bug: Bug) -> Result<(u64, String), NotShown> {
    (0..RED_WITHIN)
        .find_map(|number| {
            let why = play(kind, first + number, Some(bug)).err()?;
            why.starts_with(bug.breaks()).then_some((number + 1, why))
        })
        .ok_or_else(|| broken(format!("{} went unnoticed in {RED_WITHIN} seeds", bug.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_hold_and_repeat_themselves() {
        let sum = all(Kind::Alone, 1, 20).unwrap();
        assert_eq!((sum.lives, sum.twice, sum.kafka_lives), (20, 1, 10));
        assert!(3 <= sum.crashes_least && 500 <= sum.records_least, "{sum:?}");
    }

    #[test]
    fn lives_that_were_broken_once_hold() {
        // DEL-6: the second half of a halved batch ran ahead of what waited behind a hold.
        play(Kind::Alone, 109_807, None).unwrap();
        // KL-1: an owner took a log for the truth although somebody else had owned the shard since.
        play(Kind::Alone, 2, None).unwrap();
        // OWN-5: what a look at a group said of its other shards was ignored.
        play(Kind::Alone, 40, None).unwrap();
        // OWN-5: an epoch was written into the group after a higher one had been seen meanwhile.
        play(Kind::Alone, 296, None).unwrap();
        // OWN-5: a position was, after the group had taken its time.
        play(Kind::Alone, 1_076, None).unwrap();
    }

    #[test]
    fn planted_bugs_are_noticed() {
        for bug in Bug::ALL {
            let (within, why) = red(Kind::Alone, 1, bug).unwrap();
            assert!(within <= RED_WITHIN && why.starts_with(bug.breaks()), "{bug:?}: {why}");
        }
    }
}
