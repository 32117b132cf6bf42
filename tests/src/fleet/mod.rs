//! The promises that several nodes on one Kafka keep: `failover` (a node that is killed is a
//! non-event), `zombies` (one that stops and goes on does no harm), `partitions` (nor does a network that
//! is cut), `drain` (one that goes on
//! purpose is no event at all), `rebalance` (one that comes gets its share and no more),
//! `ca-rotation` (who vouches for them changes, and nobody notices) and `upgrade` (builds are
//! exchanged one by one, and back).
//!
//! ```text
//! load ──▶ in[8] ──▶ first ──▶ mid[8] ──▶ second ──▶ out[8]     (three nodes)
//!            └──────────┴─────────┴───────────┴─────────┘
//!                  Kafka, read by who knows no node
//! ```
//!
//! Which shard a result is of, and under which epoch, its origin says; when it was there, the
//! broker. Loss and order are judged as for a node alone.

mod drain;
mod failover;
mod partitions;
mod rebalance;
mod rotation;
mod times;
mod upgrade;
mod zombies;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demand;
use crate::harness::fleet::Fleet;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::network::{Host, Network, Place};
use crate::harness::python::{self, Asked};
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::kill::{App, First};
use crate::promise::{Figures, NotShown, Run, broken};
use times::Seen;

pub use drain::run as run_drain;
pub use failover::run as run_failover;
pub use partitions::run as run_partitions;
pub use rebalance::run as run_rebalance;
pub use rotation::run as run_rotation;
pub use upgrade::run as run_upgrade;
pub use zombies::run as run_zombies;

/// A client of Kafka in Python alone, with a protocol of its own.
const CLIENT: &str = "aiokafka==0.14.0";
const PATIENCE: Duration = Duration::from_secs(300);
const NODES: usize = 3;
/// Until shards that move have come to rest.
const BALANCED_WITHIN: Duration = Duration::from_secs(30);
/// No shard changes hands for so long: balanced.
const STILL: Duration = Duration::from_millis(1_500);
/// More records than any run sends.
const ALL: &str = "100000000";

/// Three nodes under load, and who judges them.
struct Mill {
    judge: Asked,
    /// How many kinds of faults the judge plants.
    plants: usize,
    load: Asked,
    fleet: Fleet,
    rng: Rng,
    broker: Broker,
}

/// Where all of it runs.
struct Hosts {
    /// Kafka, the load and the judge.
    hub: Host,
    nodes: Vec<Host>,
}

impl Hosts {
    fn here() -> Self {
        Self { hub: Host::HERE, nodes: vec![Host::HERE; NODES] }
    }
}

impl Mill {
    /// Brings up Kafka and the nodes, deploys the chain, and sends so many records a second.
    fn start(run: &Run, rate: u64, salt: u64) -> Result<Self, NotShown> {
        Self::on(&Hosts::here(), run, rate, salt, false)
    }

    /// The same where a node may go on with an old view.
    fn start_with_zombies(run: &Run, rate: u64, salt: u64) -> Result<Self, NotShown> {
        Self::on(&Hosts::here(), run, rate, salt, true)
    }

    /// The same in a network that can be cut.
    fn start_in(network: &Network, run: &Run, rate: u64, salt: u64) -> Result<Self, NotShown> {
        let nodes = (0..NODES).map(|node| network.host(Place::Node(node))).collect();
        Self::on(&Hosts { hub: network.host(Place::Hub), nodes }, run, rate, salt, true)
    }

    fn on(
        hosts: &Hosts,
        run: &Run,
        rate: u64,
        salt: u64,
        has_zombies: bool,
    ) -> Result<Self, NotShown> {
        run.note("fetch Kafka and a client of it");
        let kafka = Kafka::fetch()?;
        let (python, hub) = (python::with(&[CLIENT])?, hosts.hub);
        let dir = run.evidence.join("broker");
        let broker = Broker::start_on(hub, &kafka, &dir, Listeners::Plain)?;
        let address = broker.address();
        run.note("three nodes");
        let fleet = Fleet::form_on(&hosts.nodes, &run.evidence, &address)?;
        let name = fleet.name()?;
        let zombies: &[&str] = if has_zombies { &["zombies"] } else { &[] };
        let words = [&[address.as_str(), &name], zombies].concat();
        let mut judge = Asked::start_on(hub, &python, "judge.py", &words, &run.evidence)?;
        judge.ask("topics", PATIENCE)?;
        let words = [&address, "in", ALL];
        let mut load = Asked::start_on(hub, &python, "load.py", &words, &run.evidence)?;
        let app = App::make(&run.evidence, First::Python, None)?;
        fleet.slots[0].run(&["deploy", "--yes", &app.dir().display().to_string()])?;
        load.ask(&format!("rate {rate} {ALL}"), PATIENCE)?;
        let (plants, rng) = (if has_zombies { 5 } else { 3 }, Rng::new(run.seed, salt));
        Ok(Self { judge, plants, load, fleet, rng, broker })
    }

    fn brokers(&self) -> String {
        self.broker.address()
    }

    fn look(&mut self) -> Result<Seen, NotShown> {
        Seen::of(&judged(self.judge.ask("owners", PATIENCE)?)?)
    }

    /// Waits until every shard puts out results, and none has changed hands for a while. What comes
    /// back has the longest silences of all that time.
    fn settle(&mut self) -> Result<Seen, NotShown> {
        let (until, mut still_since) = (Instant::now() + BALANCED_WITHIN, Instant::now());
        let mut seen = self.look()?;
        while Instant::now() < until {
            wait::pause(Duration::from_millis(100));
            let mut now = self.look()?;
            now.add_silence(&seen);
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

    /// Ends the load, reads everything once more from the beginning, and proves the judge; the
    /// figures of all that.
    fn finish(&mut self, run: &Run) -> Result<Figures, NotShown> {
        run.note("all nodes are up: the rest, and the final read");
        let records = self.stop()?;
        let last = judged(self.judge.ask(&format!("final {records}"), PATIENCE)?)?;
        let dead = number(&last, "dead_letters")?;
        demand!(dead == 0, "{dead} dead letters, but no record is bad");
        let planted = self.judge.ask("planted", PATIENCE)?;
        let red = planted["red"].as_object().into_iter().flatten();
        let red = red.filter(|it| it.1.as_u64() > Some(0)).count();
        demand!(
            red == self.plants,
            "of {} kinds of faults only {red} were found: {planted}",
            self.plants
        );
        Ok(Figures::default()
            .with("records", records)
            .with("outputs", number(&last, "outputs")?)
            .with("repeats", number(&last, "repeats")?)
            .with("gaps", 0)
            .with("disorder", 0)
            .with("red_controls", red))
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
