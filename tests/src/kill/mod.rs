//! The promises that SIGKILL loses nothing and reorders nothing: `kill-embedded` and `kill-both`.
//!
//! ```text
//! load ──▶ in[8] ──▶ first ──▶ mid[8] ──▶ second ──▶ out[8]      (one node, killed)
//!            └──────────┴─────────┴───────────┴─────────┘
//!                     the bus, read after every kill
//! ```
//!
//! A kill counts only after an output since the last start and with an invocation in flight, and
//! when it was SIGKILL that ended the process. Whatever the node had started is gone 2 s later,
//! after any kill. The node's own view plays no part in the verdict: that is made by who reads the
//! bus without it, a [`Scene`].

mod app;
mod both;
mod embedded;
mod family;
mod kafka;
pub(crate) mod load;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::demand;
use crate::harness::api::Api;
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, seconds};
pub(crate) use app::{App, First, PARTITIONS};
use family::Family;

pub use both::run as run_both;
pub use embedded::run as run_embedded;

/// How long a life lasts after its first output, at most.
const LIFE: Duration = Duration::from_millis(1_500);

/// How fast a load has to be to last.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Time to send in, in all lives so far.
    took: Duration,
    lives: u32,
}

impl Pace {
    fn add(&mut self, life: Duration) {
        self.took += life;
        self.lives += 1;
    }

    /// Records a second, so that `left` of them last for so many more lives like those before;
    /// and how many at most, should this life be longer.
    fn share(self, left: u64, lives: u64) -> (f64, u64) {
        let life = if self.lives == 0 { LIFE } else { self.took / self.lives };
        let share = left as f64 / lives as f64;
        (share / life.as_secs_f64(), (2.0 * share) as u64)
    }
}

/// What is beneath the application: who brings records, and who judges what became of them.
trait Scene {
    /// How many records were never sent.
    fn left(&mut self) -> Result<u64, NotShown>;

    /// Sends from now on, so that what is left lasts for so many more lives.
    fn load(&mut self, api: &Api, lives: u64) -> Result<(), NotShown>;

    /// The node has been killed: ends what cannot go on without it.
    fn hush(&mut self) -> Result<(), NotShown>;

    /// Sends all that is left, as fast as it can.
    fn finish(&mut self, api: &Api) -> Result<(), NotShown>;

    /// There is nothing left to do: waits until the bus says so too.
    fn settle(&mut self) -> Result<(), NotShown>;

    /// Reads what was added to the bus since the last look, and judges it.
    fn look(&mut self) -> Result<Look, NotShown>;
}

/// What a look at the bus found, when it found nothing wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// Outputs of the chain that are new.
    outputs: u64,
    /// Records that are not settled.
    open: u64,
    /// Outputs, of either function, that had been there before, since the first look.
    repeats: u64,
}

#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    uncounted: u64,
    sled_deletions: u64,
    /// Outputs that were repeated by lives that began with sled's directory.
    repeats: u64,
    /// Outputs that were repeated by lives that began without it.
    repeats_without_sled: u64,
    /// Records that were never sent when the last kill counted.
    left: u64,
    /// Records that were read and not settled when a kill struck, the most of them.
    open_max: u64,
    slowest_start: Duration,
    /// Processes that nodes had started when they were killed.
    processes: u64,
    /// How long the last of them lived on, at most.
    outlived: Duration,
}

/// What the kills on one bus have shown.
struct Shown {
    figures: Figures,
    tally: Tally,
    /// Planted faults that turned the checker red.
    red: u64,
}

/// One node that is killed again and again.
struct Mill<S> {
    app: App,
    scene: S,
    rng: Rng,
    tally: Tally,
}

impl<S: Scene> Mill<S> {
    fn new(app: App, scene: S, rng: Rng) -> Self {
        Self { app, scene, rng, tally: Tally::default() }
    }

    /// Kills until so many counted, three times with sled's directory deleted before the next
    /// start, and lets the rest run through.
    fn run(&mut self, run: &Run, records: u64, kills: u64) -> Result<(), NotShown> {
        let deletions: BTreeSet<u64> = (1..=3).map(|part| (kills * part / 4).max(part)).collect();
        while self.tally.kills < kills {
            let (left, tally) = (self.scene.left()?, &self.tally);
            let all = tally.kills + tally.uncounted;
            let counted = tally.kills;
            run.note(format!("{counted} of {kills} kills counted ({all} in all), {left} left"));
            demand!(0 < left, "the records were over before the kills; give more");
            demand!(tally.uncounted <= 2 * kills + 10, "kills do not come to count: {tally:?}");
            self.live_and_die(kills - counted)?;
            if counted < self.tally.kills && deletions.contains(&self.tally.kills) {
                self.delete_sled()?;
            }
        }
        self.tally.left = self.scene.left()?;
        run.note(format!("{kills} kills counted, {} records left: draining", self.tally.left));
        self.drain(Duration::from_secs(60 + records / 2_000))
    }

    /// One life of the node: from its start to a kill at a random time, and a look at what it
    /// left behind.
    fn live_and_die(&mut self, kills_left: u64) -> Result<(), NotShown> {
        let had_sled = self.app.sled().is_dir();
        let (mut node, api) = self.app.serve()?;
        self.tally.slowest_start = self.tally.slowest_start.max(node.started_at.elapsed());
        let outputs_before = api.end_of("out")?;
        // So that the load outlasts the kills that are left, and two more lives.
        self.scene.load(&api, kills_left + 2)?;
        wait::until(Duration::from_secs(30), || {
            (outputs_before < api.end_of("out").ok()?).then_some(())
        });
        wait::pause(self.rng.time(Duration::ZERO, LIFE));
        let family = Family::of(node.pid(), self.app.folder());
        let in_flight =
            wait::until(Duration::from_secs(2), || (0 < api.in_flight().ok()?).then_some(()));
        let killed_at = Instant::now();
        let was_killed = node.kill()?;
        self.tally.processes += family.len() as u64;
        self.tally.outlived = self.tally.outlived.max(family.gone(killed_at)?);
        self.scene.hush()?;
        demand!(was_killed, "the node was gone before SIGKILL: {}", node.tail());
        let look = self.look(had_sled)?;
        self.tally.open_max = self.tally.open_max.max(look.open);
        if 0 < look.outputs && in_flight.is_some() {
            self.tally.kills += 1;
        } else {
            self.tally.uncounted += 1;
        }
        Ok(())
    }

    /// The last look at a life that began with sled's directory, or without.
    fn look(&mut self, had_sled: bool) -> Result<Look, NotShown> {
        let look = self.scene.look()?;
        let tally = &mut self.tally;
        let known = tally.repeats + tally.repeats_without_sled;
        let repeats = if had_sled { &mut tally.repeats } else { &mut tally.repeats_without_sled };
        *repeats += look.repeats - known;
        Ok(look)
    }

    fn delete_sled(&mut self) -> Result<(), NotShown> {
        let sled = self.app.sled();
        demand!(sled.is_dir(), "{} is not there to be deleted", sled.display());
        std::fs::remove_dir_all(&sled).during("delete sled's directory")?;
        self.tally.sled_deletions += 1;
        Ok(())
    }

    /// The last life: the rest of the load, until nothing is left to do, and a clean end.
    fn drain(&mut self, within: Duration) -> Result<(), NotShown> {
        let had_sled = self.app.sled().is_dir();
        let (mut node, api) = self.app.serve()?;
        self.scene.finish(&api)?;
        let drained = wait::until(within, || {
            wait::pause(Duration::from_millis(100));
            (api.lag().ok()? == 0).then_some(())
        });
        demand!(drained.is_some(), "the lag is {:?} after {within:?}", api.lag());
        self.scene.settle()?;
        let family = Family::of(node.pid(), self.app.folder());
        let (status, _) = node.stop(Signal::TERM, Duration::from_secs(30))?;
        demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
        family.gone(Instant::now())?;
        self.look(had_sled).map(drop)
    }
}

impl Tally {
    /// What was counted, under names that begin with `of`.
    fn figures(&self, figures: &mut Figures, of: &str) {
        figures.set(&format!("{of}kills"), self.kills);
        figures.set(&format!("{of}uncounted"), self.uncounted);
        figures.set(&format!("{of}sled_deleted"), self.sled_deletions);
        figures.set(&format!("{of}repeats"), self.repeats);
        figures.set(&format!("{of}repeats_without_sled"), self.repeats_without_sled);
        figures.set(&format!("{of}left_after_kills"), self.left);
        figures.set(&format!("{of}open_at_kill_max"), self.open_max);
        figures.set(&format!("{of}slowest_start_s"), seconds(self.slowest_start));
        figures.set(&format!("{of}processes_killed_with"), self.processes);
        figures.set(&format!("{of}outlived_s"), seconds(self.outlived));
    }
}
