//! A node of three is killed again and again, every third time the one that leads. A kill counts when
//! shards changed hands.

use std::time::{Duration, Instant};

use bus::Timestamp;
use serde_json::json;

use super::times::Times;
use super::{Mill, NODES};
use crate::demand;
use crate::harness::wait;
use crate::promise::{Figures, NotShown, Run, broken};

/// Records a second.
const RATE: u64 = 500;
/// A kill that is not over by then has broken the promise.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// What is allowed of a busy machine where `--full` was not asked for.
const SILENT_CI: Duration = Duration::from_secs(15);

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let kills = run.count("kills", 15, 100);
    let most = if run.full { SILENT_MAX } else { SILENT_CI };
    let mut killer = Killer { mill: Mill::start(run, RATE, 7)?, times: Times::default(), most };
    for kill in 0..kills {
        run.note(format!("kill {} of {kills}", kill + 1));
        killer.kill(kill, kill % 3 == 2)?;
    }
    let Killer { mut mill, times, .. } = killer;
    let figures = mill.finish(run)?;
    times.judge(run.full)?;
    Ok(times.figures(Figures::default().with("kills", kills).with_all(figures)))
}

struct Killer {
    mill: Mill,
    times: Times,
    most: Duration,
}

impl Killer {
    /// Kills a node under load, measures, and starts it again.
    fn kill(&mut self, number: u64, is_leader: bool) -> Result<(), NotShown> {
        let before = self.mill.settle()?;
        let leader = self.mill.fleet.leader();
        let victim = match leader {
            Some(leader) if is_leader => leader,
            _ => self.mill.rng.draw(NODES as u64) as usize,
        };
        wait::pause(self.mill.rng.time(Duration::ZERO, Duration::from_millis(500)));
        let at = Timestamp::now();
        self.mill.fleet.slots[victim].kill()?;
        if leader == Some(victim) {
            let written = self.write(victim, number)?;
            self.times.on_write(written);
        }
        let most = self.most;
        let resumed = wait::until(most, || match self.mill.look() {
            Ok(seen) if seen.resumed_since(at, &before) => Some(Ok(seen)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let Some(seen) = resumed else {
            let seen = self.mill.look()?;
            let silent = seen.silent_since(at);
            let name = &self.mill.fleet.slots[victim].name;
            return Err(broken(format!("{name} was killed; {most:?} later silent: {silent:?}")));
        };
        let moved = self.times.on_kill(at, &before, &seen?);
        demand!(0 < moved, "{} had no shards", self.mill.fleet.slots[victim].name);
        self.mill.fleet.slots[victim].start()
    }

    /// Changes the replicated state at a node that lives, and again until it is taken; how long
    /// that took.
    fn write(&self, dead: usize, number: u64) -> Result<Duration, NotShown> {
        let started_at = Instant::now();
        let slot = &self.mill.fleet.slots[(dead + 1) % NODES];
        let path = format!("/v1/functions/chain/second/aliases/kill-{number}");
        let mut refused = String::new();
        let written = wait::until(SILENT_CI, || {
            let put = slot.api().ok()?.put(&path, &json!({}));
            put.map_err(|error| refused = error.to_string()).ok()
        });
        written.ok_or_else(|| broken(format!("{} takes no change: {refused}", slot.name)))?;
        Ok(started_at.elapsed())
    }
}
