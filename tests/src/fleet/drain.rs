//! Nodes go on purpose, one after the other: drained by command, and stopped and started again as
//! an upgrade does it. Shards go on elsewhere with the position at which they stopped.

use std::time::Duration;

use rustix::process::Signal;

use super::times::share;
use super::{Mill, NODES};
use crate::demand;
use crate::harness::wait;
use crate::promise::{Figures, NotShown, Run, broken};

/// How long a shard may be silent (p99), in milliseconds.
const SILENT_MS_MAX: i64 = 300;
/// How long a node may take to be rid of its shards, and to end.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let rounds = run.count("rounds", 1, 10);
    let rate = run.count("rate", 500, 5_000);
    let mut mill = Mill::start(run, rate, 8)?;
    let (mut drained, mut restarted) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for node in 0..NODES {
            run.note(format!("round {} of {rounds}: {} drains", round + 1, node + 1));
            mill.settle()?;
            drained.extend(mill.drain(node)?);
            run.note(format!("round {} of {rounds}: {} is started again", round + 1, node + 1));
            mill.settle()?;
            restarted.extend(mill.restart(node)?);
        }
    }
    let figures = mill.finish(run)?;
    let repeats = figures.number("repeats").unwrap_or_default();
    demand!(repeats == 0, "{repeats} results are there twice");
    let most = if run.full { SILENT_MS_MAX } else { 3 * SILENT_MS_MAX };
    for (how, silent) in [("drain", &drained), ("restart", &restarted)] {
        let found = share(silent, 99);
        demand!(found <= most, "{how}: a shard was silent for {found} ms (p99), {most} may be");
    }
    Ok(Figures::default()
        .with("drains", rounds * NODES as u64)
        .with("restarts", rounds * NODES as u64)
        .with("drain_silent_ms_p50", share(&drained, 50))
        .with("drain_silent_ms_p99", share(&drained, 99))
        .with("restart_silent_ms_p50", share(&restarted, 50))
        .with("restart_silent_ms_p99", share(&restarted, 99))
        .with_all(figures))
}

impl Mill {
    /// Has a node give away its shards, and take some back; how long each shard was silent.
    fn drain(&mut self, node: usize) -> Result<Vec<i64>, NotShown> {
        self.look()?;
        let name = self.fleet.slots[node].name.clone();
        self.fleet.slots[node].run(&["node", "drain", &name])?;
        let empty = wait::until(GONE_WITHIN, || {
            let members = self.fleet.slots[node].members().ok()?;
            let member = members.iter().find(|it| it["name"] == name.as_str())?;
            (member["shards"] == 0).then_some(())
        });
        empty.ok_or_else(|| broken(format!("{name} keeps shards")))?;
        self.fleet.slots[node].run(&["node", "undrain", &name])?;
        Ok(self.settle()?.silent())
    }

    /// Ends a node as systemd does, and starts it again; how long each shard was silent.
    fn restart(&mut self, node: usize) -> Result<Vec<i64>, NotShown> {
        self.look()?;
        self.fleet.slots[node].stop(Signal::TERM, GONE_WITHIN)?;
        self.fleet.slots[node].start()?;
        Ok(self.settle()?.silent())
    }
}
