//! Nodes go on purpose, one after the other: drained by command, and stopped and started again as
//! an upgrade does it. Shards go on elsewhere with the position at which they stopped.

use std::time::Duration;

use rustix::process::Signal;

use super::times::share;
use super::{Mill, NODES};
use crate::demand;
use crate::harness::api::metric_of;
use crate::harness::fleet::Slot;
use crate::harness::wait;
use crate::promise::{During as _, Figures, NotShown, Run, broken};

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
    mill.settle()?;
    let placed = mill.begun()?;
    let mut ended = Begun::default();
    for round in 0..rounds {
        for node in 0..NODES {
            run.note(format!("round {} of {rounds}: {} drains", round + 1, node + 1));
            mill.settle()?;
            drained.extend(mill.drain(node)?);
            run.note(format!("round {} of {rounds}: {} is started again", round + 1, node + 1));
            mill.settle()?;
            ended.add(Begun::at(&mill.fleet.slots[node])?);
            restarted.extend(mill.restart(node)?);
        }
    }
    ended.add(mill.begun()?);
    let (told, asked) = (ended.owner - placed.owner, ended.bus - placed.bus);
    let figures = mill.finish(run)?;
    let repeats = figures.number("repeats").unwrap_or_default();
    demand!(repeats == 0, "{repeats} results are there twice");
    // Without what owners tell, all of them would have asked Kafka.
    demand!(asked < told, "{told} shards began where their owner ended, {asked} asked Kafka");
    let most = if run.full { SILENT_MS_MAX } else { 3 * SILENT_MS_MAX };
    for (how, silent) in [("drain", &drained), ("restart", &restarted)] {
        let found = share(silent, 99);
        demand!(found <= most, "{how}: a shard was silent for {found} ms (p99), {most} may be");
    }
    Ok(Figures::default()
        .with("drains", rounds * NODES as u64)
        .with("restarts", rounds * NODES as u64)
        .with("began_where_owners_ended", told)
        .with("began_where_kafka_said", asked)
        .with("drain_silent_ms_p50", share(&drained, 50))
        .with("drain_silent_ms_p99", share(&drained, 99))
        .with("restart_silent_ms_p50", share(&restarted, 50))
        .with("restart_silent_ms_p99", share(&restarted, 99))
        .with_all(figures))
}

/// How many shards began, by who had said where.
#[derive(Clone, Copy, Debug, Default)]
struct Begun {
    owner: u64,
    bus: u64,
}

impl Begun {
    /// Those of a node's process.
    fn at(slot: &Slot) -> Result<Self, NotShown> {
        let text = slot.api()?.get("/metrics").during("read a node's metrics")?;
        let of = |who| metric_of(&text, &format!("millrace_shard_starts_total{{from=\"{who}\"}}"));
        Ok(Self { owner: of("owner"), bus: of("bus") })
    }

    const fn add(&mut self, other: Self) {
        self.owner += other.owner;
        self.bus += other.bus;
    }
}

impl Mill {
    /// Shards that began at the processes that run.
    fn begun(&self) -> Result<Begun, NotShown> {
        let mut all = Begun::default();
        for slot in self.fleet.up() {
            all.add(Begun::at(slot)?);
        }
        Ok(all)
    }

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
