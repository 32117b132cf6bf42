//! The promise `failover`: a node of three that is killed is a non-event.
//!
//! ```text
//! load ──▶ in[8] ──▶ first ──▶ mid[8] ──▶ second ──▶ out[8]     (three nodes; one is killed)
//!            └──────────┴─────────┴───────────┴─────────┘
//!                  Kafka, read by who knows no node
//! ```
//!
//! Every third kill strikes the leader. A kill counts when shards changed hands. How long each of
//! these was silent, from the kill to the first result under its new epoch, is in the times at
//! which the broker took results; which shard that is, the origin of the results says. Loss and
//! order are judged as for a node alone.

mod times;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::demand;
use crate::harness::fleet::Fleet;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::kill::{App, First};
use crate::promise::{Figures, NotShown, Run, broken};
use times::{Seen, Times};

/// A client of Kafka in Python alone, with a protocol of its own.
const CLIENT: &str = "aiokafka==0.14.0";
const PATIENCE: Duration = Duration::from_secs(300);
const NODES: usize = 3;
/// Records a second.
const RATE: u64 = 500;
/// A kill that is not over by then has broken the promise.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// What is allowed of a busy machine where `--full` was not asked for.
const SILENT_CI: Duration = Duration::from_secs(15);
/// Until a node that came back has its shards again.
const BALANCED_WITHIN: Duration = Duration::from_secs(30);
/// No shard changes hands for so long: balanced.
const STILL: Duration = Duration::from_millis(1_500);

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let kills = run.count("kills", 15, 100);
    run.note("fetch Kafka and a client of it");
    let kafka = Kafka::fetch()?;
    let python = python::with(&[CLIENT])?;
    let broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::Plain)?;
    let address = broker.address();
    run.note("three nodes");
    let fleet = Fleet::form(&run.evidence, &address, NODES)?;
    let name = fleet.name()?;
    let mut judge = Asked::start(&python, "judge.py", &[&address, &name], &run.evidence)?;
    judge.ask("topics", PATIENCE)?;
    let all = "100000000";
    let load = Asked::start(&python, "load.py", &[&address, "in", all], &run.evidence)?;
    let app = App::make(&run.evidence, First::Python, None)?;
    fleet.slots[0].run(&["deploy", "--yes", &app.dir().display().to_string()])?;
    let mut mill = Mill {
        judge,
        load,
        fleet,
        rng: Rng::new(run.seed, 7),
        times: Times::default(),
        alias: 0,
        is_strict: run.full,
    };
    mill.load.ask(&format!("rate {RATE} {all}"), PATIENCE)?;
    mill.settle()?;
    for kill in 0..kills {
        run.note(format!("kill {} of {kills}", kill + 1));
        mill.kill(kill % 3 == 2)?;
    }
    run.note("all nodes are up: the rest, and the final read");
    let records = mill.stop()?;
    let last = judged(mill.judge.ask(&format!("final {records}"), PATIENCE)?)?;
    let dead = number(&last, "dead_letters")?;
    demand!(dead == 0, "{dead} dead letters, but no record is bad");
    let planted = mill.judge.ask("planted", PATIENCE)?;
    let red = planted["red"].as_object().into_iter().flatten();
    let red = red.filter(|it| it.1.as_u64() > Some(0)).count();
    demand!(red == 3, "of dropped, reordered, advanced only {red} were found: {planted}");
    mill.times.judge(run.full)?;
    let figures = Figures::default()
        .with("kills", kills)
        .with("records", records)
        .with("outputs", number(&last, "outputs")?)
        .with("repeats", number(&last, "repeats")?);
    Ok(mill.times.figures(figures).with("gaps", 0).with("disorder", 0).with("red_controls", red))
}

struct Mill {
    judge: Asked,
    load: Asked,
    fleet: Fleet,
    rng: Rng,
    times: Times,
    /// How often the alias was set: a write of metadata.
    alias: u64,
    is_strict: bool,
}

impl Mill {
    fn look(&mut self) -> Result<Seen, NotShown> {
        Seen::of(&judged(self.judge.ask("owners", PATIENCE)?)?)
    }

    /// Waits until every shard puts out results, and none has changed hands for a while.
    fn settle(&mut self) -> Result<Seen, NotShown> {
        let (until, mut still_since) = (Instant::now() + BALANCED_WITHIN, Instant::now());
        let mut seen = self.look()?;
        while Instant::now() < until {
            wait::pause(Duration::from_millis(100));
            let now = self.look()?;
            if now.epochs() != seen.epochs() {
                still_since = Instant::now();
            }
            seen = now;
            if seen.shards() == 2 * crate::kill::PARTITIONS && STILL < still_since.elapsed() {
                return Ok(seen);
            }
        }
        Err(broken(format!("shards change hands for {BALANCED_WITHIN:?}: {seen:?}")))
    }

    /// Kills a node under load, measures, and starts it again.
    fn kill(&mut self, is_leader: bool) -> Result<(), NotShown> {
        let before = self.settle()?;
        let leader = self.fleet.leader();
        let victim = match leader {
            Some(leader) if is_leader => leader,
            _ => self.rng.draw(NODES as u64) as usize,
        };
        wait::pause(self.rng.time(Duration::ZERO, Duration::from_millis(500)));
        let at = bus::Timestamp::now();
        self.fleet.slots[victim].kill()?;
        if leader == Some(victim) {
            let written = self.write(victim)?;
            self.times.on_write(written);
        }
        let most = if self.is_strict { SILENT_MAX } else { SILENT_CI };
        let resumed = wait::until(most, || match self.look() {
            Ok(seen) if seen.resumed_since(at, &before) => Some(Ok(seen)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let Some(seen) = resumed else {
            let seen = self.look()?;
            let silent = seen.silent_since(at);
            let name = &self.fleet.slots[victim].name;
            return Err(broken(format!("{name} was killed; {most:?} later silent: {silent:?}")));
        };
        let moved = self.times.on_kill(at, &before, &seen?);
        demand!(0 < moved, "{} had no shards", self.fleet.slots[victim].name);
        self.fleet.slots[victim].start()
    }

    /// Changes the replicated state at a node that lives, and again until it is taken; how long
    /// that took.
    fn write(&mut self, dead: usize) -> Result<Duration, NotShown> {
        let started_at = Instant::now();
        let slot = &self.fleet.slots[(dead + 1) % NODES];
        self.alias += 1;
        let path = format!("/v1/functions/chain/second/aliases/canary-{}", self.alias);
        let mut refused = String::new();
        let written = wait::until(SILENT_CI, || {
            let put = slot.api().ok()?.put(&path, &json!({}));
            put.map_err(|error| refused = error.to_string()).ok()
        });
        written.ok_or_else(|| broken(format!("{} takes no change: {refused}", slot.name)))?;
        Ok(started_at.elapsed())
    }

    /// Ends the load, and waits until everything is settled; how many records there are.
    fn stop(&mut self) -> Result<u64, NotShown> {
        let said = self.load.ask("rate 0 0", PATIENCE)?;
        let sent = number(&said, "sent")?;
        let acknowledged = wait::until(Duration::from_secs(30), || {
            let said = self.load.ask("left", PATIENCE).ok()?;
            (said["acknowledged"] == said["sent"]).then_some(said)
        });
        let said = acknowledged.ok_or_else(|| broken("Kafka did not acknowledge the load"))?;
        demand!(number(&said, "sent")? == sent, "the load went on: {said}");
        let settled = wait::until(Duration::from_secs(60), || {
            let look = self.judge.ask("look", PATIENCE);
            match look.and_then(judged) {
                Ok(said) => (said["open"] == 0).then_some(Ok(())),
                Err(error) => Some(Err(error)),
            }
        });
        settled.ok_or_else(|| broken("lag does not return to 0"))??;
        Ok(sent)
    }
}

/// What the judge said, when it found nothing.
fn judged(said: Value) -> Result<Value, NotShown> {
    let is_green = said["findings"].as_object().is_some_and(serde_json::Map::is_empty);
    demand!(is_green, "{}: {}", said["findings"], said["accounts"]);
    Ok(said)
}

fn number(said: &Value, name: &str) -> Result<u64, NotShown> {
    said[name].as_u64().ok_or_else(|| broken(format!("no {name} in {said}")))
}
