//! The promise that SIGKILL loses nothing and repeats nothing on the embedded bus.
//!
//! ```text
//! load ──HTTP──▶ in[8] ──▶ first ──▶ mid[8] ──▶ second ──▶ out[8]      (one node, killed)
//!                  └──────────┴─────────┴───────────┴─────────┘
//!                        the stopped journal, read after every kill
//! ```
//!
//! A kill counts only after an output since the last start and with an invocation in flight. The
//! node's own view plays no part in the verdict: that is made from the file.

mod app;
mod load;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::checker::{Checker, DUPLICATE, GAP, Outputs, POSITION, Stage};
use crate::demand;
use crate::harness::api::Api;
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::journal_reader::{Fault, Follower, Journal, Role, plant};
use crate::promise::{During, Figures, NotShown, Run, broken, seconds};
use app::{App, PARTITIONS};
use load::Load;

/// How long a life lasts after its first output, at most.
const LIFE: Duration = Duration::from_millis(1_500);

/// What is planted in a copy of the journal, and what the checker has to call it.
const FAULTS: [(Fault, &str); 3] =
    [(Fault::Removed, GAP), (Fault::Repeated, DUPLICATE), (Fault::Advanced, POSITION)];

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let records = run.count("records", 60_000, 1_000_000);
    let kills = run.count("kills", 6, 50);
    let app = App::make(&run.evidence)?;
    let mut mill = Mill {
        load: Load::new(records),
        checker: checker(),
        follower: follower(),
        rng: Rng::new(run.seed, 2),
        app,
        tally: Tally::default(),
    };
    let deletions: BTreeSet<u64> = (1..=3).map(|part| (kills * part / 4).max(part)).collect();
    while mill.tally.kills < kills {
        run.note(format!(
            "{} of {kills} kills counted ({} in all), {} records left",
            mill.tally.kills,
            mill.tally.kills + mill.tally.uncounted,
            mill.load.left()
        ));
        demand!(mill.load.left() > 0, "the records were over before the kills; give more");
        demand!(
            mill.tally.uncounted <= 2 * kills + 10,
            "kills do not come to count: {:?}",
            mill.tally
        );
        let before = mill.tally.kills;
        mill.live_and_die(kills - before)?;
        if before < mill.tally.kills && deletions.contains(&mill.tally.kills) {
            mill.delete_sled()?;
        }
    }
    let left = mill.load.left();
    run.note(format!("{kills} kills counted, {left} records left: draining"));
    mill.drain(Duration::from_secs(60 + records / 2_000))?;
    run.note("the final read, from the beginning");
    let mut figures = mill.verdict(records)?;
    figures.set("left_after_kills", left);
    let mut red = 0;
    for (fault, kind) in FAULTS {
        run.note(format!("planting {fault:?} in a copy"));
        planted(&mill.app.data, &run.evidence.join("planted"), fault, kind)?;
        red += 1;
    }
    figures.set("red_controls", red);
    Ok(figures)
}

fn checker() -> Checker {
    let stage = |source: &str| Stage {
        source: source.to_owned(),
        partitions: PARTITIONS,
        outputs: Outputs::One,
    };
    Checker::new(vec![stage("in"), stage("mid")])
}

fn follower() -> Follower {
    Follower::new(vec![
        Role::topic("in").source_of(0),
        Role::topic("chain.first.dead").dead_of(0),
        Role::topic("mid").outputs_of(0).source_of(1),
        Role::topic("chain.second.dead").dead_of(1),
        Role::topic("out").outputs_of(1),
    ])
}

#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    uncounted: u64,
    sled_deletions: u64,
    /// Records that were read and not settled when a kill struck, the most of them.
    open_max: u64,
    slowest_start: Duration,
}

struct Mill {
    app: App,
    load: Arc<Load>,
    checker: Checker,
    follower: Follower,
    rng: Rng,
    tally: Tally,
}

impl Mill {
    /// One life of the node: from its start to a kill at a random time, and a look at what it
    /// left behind.
    fn live_and_die(&mut self, kills_left: u64) -> Result<(), NotShown> {
        let (mut node, api) = self.app.serve()?;
        self.tally.slowest_start = self.tally.slowest_start.max(node.started_at.elapsed());
        let outputs_before = api.end_of("out")?;
        // So many that the load outlasts the kills that are left, and two more lives.
        let rate = self.load.left() * 1_000 / (kills_left + 2) / LIFE.as_millis() as u64;
        let sender = self.load.start(api.clone(), rate.max(1_000));
        let has_output = wait::until(Duration::from_secs(30), || {
            (outputs_before < api.end_of("out").ok()?).then_some(())
        });
        wait::pause(self.rng.time(Duration::ZERO, LIFE));
        let in_flight = wait::until(Duration::from_secs(2), || is_in_flight(&api));
        let was_killed = node.kill()?;
        self.load.stop();
        sender.join().map_err(|_| broken("the load panicked"))??;
        demand!(was_killed, "the node was gone before SIGKILL: {}", node.tail());
        if has_output.is_some() && in_flight.is_some() {
            self.tally.kills += 1;
        } else {
            self.tally.uncounted += 1;
        }
        self.look()
    }

    /// Reads what was added to the stopped journal, and checks every settled offset.
    fn look(&mut self) -> Result<(), NotShown> {
        let journal = Journal::open(&self.app.data)?;
        let (load, mut twice) = (&self.load, None);
        self.follower.follow(&journal, &mut self.checker, |topic, partition, record| {
            if topic == "in" {
                let number = record.value.and_then(load::number);
                if !number.is_some_and(|number| load.arrived(number)) {
                    twice.get_or_insert((partition, record.offset, number));
                }
            }
        })?;
        demand!(twice.is_none(), "an input is there twice, or is none of the load's: {twice:?}");
        demand!(self.checker.findings().is_empty(), "{}", self.checker.findings().text());
        let open = self.checker.open(0) + self.checker.open(1);
        self.tally.open_max = self.tally.open_max.max(open);
        self.load.resume()
    }

    fn delete_sled(&mut self) -> Result<(), NotShown> {
        let sled = self.app.data.join("sled");
        demand!(sled.is_dir(), "{} is not there to be deleted", sled.display());
        std::fs::remove_dir_all(&sled).during("delete sled's directory")?;
        self.tally.sled_deletions += 1;
        Ok(())
    }

    /// The last life: the rest of the load, until nothing is left to do, and a clean end.
    fn drain(&mut self, within: Duration) -> Result<(), NotShown> {
        let (mut node, api) = self.app.serve()?;
        let sender = self.load.start(api.clone(), 0);
        sender.join().map_err(|_| broken("the load panicked"))??;
        demand!(self.load.left() == 0, "the connection was lost while draining: {}", node.tail());
        let drained = wait::until(within, || {
            wait::pause(Duration::from_millis(100));
            (api.lag().ok()? == 0).then_some(())
        });
        demand!(drained.is_some(), "the lag is {:?} after {within:?}", api.lag());
        let (status, _) = node.stop(Signal::TERM, Duration::from_secs(30))?;
        demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
        self.look()
    }

    /// Everything once more, by a checker that has seen nothing yet.
    fn verdict(&self, records: u64) -> Result<Figures, NotShown> {
        let read = read_all(&self.app.data)?;
        demand!(read.checker.findings().is_empty(), "{}", read.checker.findings().text());
        let all = usize::try_from(records).unwrap_or(usize::MAX);
        demand!(read.inputs.len() == all, "{} of {records} inputs", read.inputs.len());
        let dead = read.checker.dead_letters(0) + read.checker.dead_letters(1);
        demand!(dead == 0, "{dead} dead letters, but no record is bad");
        demand!(read.inputs == read.outputs, "inputs and outputs have other numbers");
        Ok(Figures::default()
            .with("records", records)
            .with("kills", self.tally.kills)
            .with("uncounted", self.tally.uncounted)
            .with("outputs", read.checker.outputs(0) + read.checker.outputs(1))
            .with("duplicates", 0)
            .with("gaps", 0)
            .with("disorder", 0)
            .with("sled_deleted", self.tally.sled_deletions)
            .with("open_at_kill_max", self.tally.open_max)
            .with("slowest_start_s", seconds(self.tally.slowest_start)))
    }
}

/// Right before a kill: whether an invocation is in flight.
fn is_in_flight(api: &Api) -> Option<()> {
    (0 < api.in_flight().ok()?).then_some(())
}

struct Read {
    checker: Checker,
    inputs: BTreeSet<u64>,
    outputs: BTreeSet<u64>,
}

fn read_all(data: &Path) -> Result<Read, NotShown> {
    let (mut checker, mut follower) = (checker(), follower());
    let (mut inputs, mut outputs) = (BTreeSet::new(), BTreeSet::new());
    let journal = Journal::open(data)?;
    follower.follow(&journal, &mut checker, |topic, _, record| {
        let number = record.value.and_then(load::number);
        match (topic, number) {
            ("in", Some(number)) => drop(inputs.insert(number)),
            ("out", Some(number)) => drop(outputs.insert(number)),
            _ => {}
        }
    })?;
    checker.on_end();
    Ok(Read { checker, inputs, outputs })
}

/// Proves the checker: a copy of the journal with this fault has to be red, and for the right
/// reason.
fn planted(data: &Path, copy: &Path, fault: Fault, kind: &str) -> Result<(), NotShown> {
    std::fs::create_dir_all(copy).during("make a folder for a copy")?;
    let (from, to) = (data.join("journal.redb"), copy.join("journal.redb"));
    std::fs::copy(from, to).during("copy the journal")?;
    let topic = if fault == Fault::Advanced { "mid" } else { "out" };
    plant(copy, fault, topic, 0)?;
    let read = read_all(copy)?;
    std::fs::remove_dir_all(copy).during("remove the copy")?;
    let findings = read.checker.findings();
    demand!(0 < findings.count(kind), "planted {fault:?}, but the checker found {findings:?}");
    Ok(())
}
