//! The parts of a run together: broker, independent client, node; what the node says of itself, and
//! waiting for it.

use std::time::Duration;

use bus::Timestamp;
use serde_json::Value;

use super::app::{self, App, LINES, STEADY};
use super::hand::Hand;
use crate::demand;
use crate::harness::api::Api;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::node::Node;
use crate::harness::rng::Rng;
use crate::harness::{command, wait};
use crate::promise::{During, NotShown, Run, broken};

/// What anything may take on a loaded machine that is not measured.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How often the node is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A time from which on outputs had to come again, and until when that is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Return {
    pub(super) case: &'static str,
    /// Between these there was no way for an output.
    pub(super) down: (i64, i64),
    pub(super) from: i64,
    pub(super) to: i64,
}

pub(super) struct Stage<'a> {
    pub(super) run: &'a Run,
    pub(super) broker: Broker,
    pub(super) hand: Hand,
    pub(super) app: App,
    pub(super) node: Node,
    pub(super) api: Api,
    rng: Rng,
    pub(super) returns: Vec<Return>,
    /// Cases whose fault took effect and ended as it should, as far as was seen while it ran.
    pub(super) cases: Vec<&'static str>,
}

/// Now, as the broker stamps records.
pub(super) fn now() -> i64 {
    Timestamp::now().0
}

impl<'a> Stage<'a> {
    /// Starts everything, with its load, and waits until records flow everywhere.
    pub(super) fn set(run: &'a Run) -> Result<Self, NotShown> {
        let kafka = Kafka::fetch()?;
        run.note("start the broker, the independent client and the node");
        let doors = Listeners::PlainAndPassword;
        let broker = Broker::start(&kafka, &run.evidence.join("broker"), doors)?;
        let mut hand = Hand::start(&kafka, &broker.address(), &run.evidence.join("hand"))?;
        app::make_topics(&mut hand)?;
        let app = App::make(&run.evidence, &broker)?;
        let (node, api) = app.serve()?;
        let (returns, cases) = (Vec::new(), Vec::new());
        let rng = Rng::new(run.seed, 11);
        let mut stage = Self { run, broker, hand, app, node, api, rng, returns, cases };
        let loaded = LINES.iter().filter(|line| 0 < line.rate);
        for line in loaded.clone() {
            let topic = format!("{}.in", line.name);
            stage.hand.load(&topic, line.partitions, line.rate, line.name)?;
        }
        for line in loaded {
            stage.flows(line.name)?;
        }
        demand!(stage.held_up()?.is_empty(), "before any fault: {:?}", stage.held_up()?);
        Ok(stage)
    }

    /// Lets some time pass, which follows from the seed.
    pub(super) fn any_moment(&mut self) {
        wait::pause(self.rng.time(Duration::ZERO, Duration::from_secs(1)));
    }

    /// Waits until each partition of an output topic has more records than now.
    pub(super) fn flows(&mut self, name: &str) -> Result<(), NotShown> {
        let topic = format!("{name}.out");
        let before = self.hand.ends(&topic)?;
        self.until(&format!("outputs in {topic}"), PATIENCE, |stage| {
            let ends = stage.hand.ends(&topic)?;
            Ok(ends.iter().zip(&before).all(|(now, before)| before.1 < now.1))
        })
    }

    /// Asks again and again until it is so.
    pub(super) fn until(
        &mut self,
        what: &str,
        within: Duration,
        mut is_so: impl FnMut(&mut Self) -> Result<bool, NotShown>,
    ) -> Result<(), NotShown> {
        let found = wait::until(within, || match is_so(self) {
            Ok(true) => Some(Ok(())),
            Ok(false) if self.node.is_running() => {
                wait::pause(ASK_EVERY);
                None
            }
            Ok(false) => Some(Err(broken(format!("the node ended: {}", self.node.tail())))),
            Err(error) => Some(Err(error)),
        });
        found.unwrap_or_else(|| {
            let status = self.api.status().unwrap_or_default();
            let (held_up, warnings) = (&status["held_up"], &status["warnings"]);
            let tail = self.node.tail();
            Err(broken(format!("no {what} within {within:?}: {held_up} {warnings}; {tail}")))
        })
    }

    /// The triggers that do not go on: function, state, code, partitions.
    pub(super) fn held_up(&self) -> Result<Vec<(String, String, String, usize)>, NotShown> {
        let status = self.api.status()?;
        let all = status["held_up"].as_array().ok_or_else(|| broken("status has no held_up"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let one = |it: &Value| {
            let function = text(&it["function"]).trim_start_matches("faults/").to_owned();
            let partitions = it["partitions"].as_array().map_or(0, Vec::len);
            (function, text(&it["state"]), text(&it["code"]), partitions)
        };
        Ok(all.iter().map(one).collect())
    }

    /// Waits until a trigger has stopped in all its partitions with this name, while the node says
    /// that something needs a person.
    pub(super) fn stops(&mut self, name: &str, code: &str) -> Result<(), NotShown> {
        self.holds_up(name, "stopped", code)
    }

    /// As [`stops`](Self::stops), for a trigger that may also wait.
    pub(super) fn holds_up(&mut self, name: &str, state: &str, code: &str) -> Result<(), NotShown> {
        let partitions = app::find(name).partitions;
        self.until(&format!("{name} {state} with {code}"), PATIENCE, |stage| {
            let is_it = |it: &(String, String, String, usize)| {
                (&*it.0, &*it.1, &*it.2) == (name, state, code) && partitions <= it.3
            };
            let is_there = stage.held_up()?.iter().any(is_it);
            Ok(is_there && stage.api.status()?["health"] == "degraded")
        })
    }

    /// That only these triggers have stopped.
    pub(super) fn others_run(&self, stopped: &[&str]) -> Result<(), NotShown> {
        for (function, state, code, _) in self.held_up()? {
            let is_known = state != "stopped" || stopped.contains(&&*function);
            demand!(is_known, "{function} has stopped too, with {code}");
        }
        Ok(())
    }

    /// What `millrace status` shows a person has this text.
    pub(super) fn shows(&self, text: &str) -> Result<(), NotShown> {
        let said = command::run(&mut self.app.shown_status(), PATIENCE)?;
        demand!(said.stdout.contains(text), "`millrace status` has no {text:?}: {}", said.all());
        Ok(())
    }

    /// The load is back: lets it flow, and takes note of the time to look at.
    pub(super) fn back(
        &mut self,
        case: &'static str,
        down: (i64, i64),
        from: i64,
    ) -> Result<(), NotShown> {
        self.flows(STEADY)?;
        // A second silence after the first output would show.
        wait::pause(Duration::from_secs(3));
        self.returns.push(Return { case, down, from, to: now() });
        self.cases.push(case);
        Ok(())
    }

    /// Ends a load; nothing of it may be missing.
    pub(super) fn unload(&mut self, name: &str) -> Result<(), NotShown> {
        let missing = self.hand.unload(&format!("{name}.in"), 30)?;
        demand!(missing == 0, "{missing} records of {name} were not acknowledged");
        Ok(())
    }

    /// How many lines of the node's log have this text.
    pub(super) fn said(&self, text: &str) -> usize {
        self.node.lines().iter().filter(|line| line.text.contains(text)).count()
    }

    /// Waits until there are more such lines than `before`.
    pub(super) fn says(&self, text: &str, before: usize) -> Result<(), NotShown> {
        let found = wait::until(PATIENCE, || (before < self.said(text)).then_some(()));
        found.ok_or_else(|| broken(format!("the node does not say {text:?}: {}", self.node.tail())))
    }

    /// SIGTERM; the node drains.
    pub(super) fn stop_node(&mut self) -> Result<(), NotShown> {
        let (status, _) = self.node.stop(rustix::process::Signal::TERM, PATIENCE)?;
        demand!(status == 0, "SIGTERM ended with status {status}: {}", self.node.tail());
        Ok(())
    }

    /// Starts it again.
    pub(super) fn start_node(&mut self) -> Result<(), NotShown> {
        (self.node, self.api) = self.app.serve()?;
        Ok(())
    }

    /// The records of a topic, as the independent client reads them.
    pub(super) fn read(&mut self, topic: &str) -> Result<Vec<super::judge::Record>, NotShown> {
        let file = self.hand.read(topic)?;
        let text = std::fs::read_to_string(file).during("read what the client read")?;
        let records: Option<Vec<_>> = text.lines().map(super::judge::parse).collect();
        records.ok_or_else(|| broken(format!("what the client read of {topic} is no records")))
    }
}
