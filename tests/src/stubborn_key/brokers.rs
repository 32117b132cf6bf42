//! The stubborn key on a real Kafka: load and verdict are Python's, with a client that shares no code
//! with the node's and works on while the node is down.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Bus, Seen, Verdict};
use crate::demand;
use crate::harness::api::Api;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::promise::{NotShown, Run, broken};

/// A client of Kafka in Python alone, with a protocol of its own.
const CLIENT: &str = "aiokafka==0.14.0";
const PATIENCE: Duration = Duration::from_secs(600);

/// See the module's head.
pub(super) struct OnKafka {
    broker: Broker,
    script: Asked,
}

impl OnKafka {
    pub(super) fn new(run: &Run, within: &Path) -> Result<Self, NotShown> {
        run.note("fetch Kafka and a client of it");
        let (kafka, python) = (Kafka::fetch()?, python::with(&[CLIENT])?);
        let broker = Broker::start(&kafka, &within.join("broker"), Listeners::Plain)?;
        let arguments = [&*broker.address(), "in", "out", "stubborn.work.dead"];
        let mut script = Asked::start(&python, "stubborn.py", &arguments, within)?;
        script.ask("topics", PATIENCE)?;
        Ok(Self { broker, script })
    }

    pub(super) fn address(&self) -> String {
        self.broker.address()
    }
}

impl Bus for OnKafka {
    fn load(&mut self, _api: &Api, rate: u64) -> Result<(), NotShown> {
        self.script.ask(&format!("rate {rate}"), PATIENCE).map(drop)
    }

    fn sent(&mut self) -> Result<u64, NotShown> {
        let said = self.script.ask("sent", PATIENCE)?;
        said["sent"].as_u64().ok_or_else(|| broken(format!("no count in {said}")))
    }

    fn hush(&mut self) -> Result<(), NotShown> {
        Ok(())
    }

    fn finish(&mut self, _api: &Api) -> Result<(), NotShown> {
        let said = self.script.ask("rate 0", PATIENCE)?;
        demand!(said["refused"].as_u64() == Some(0), "the broker refused records: {said}");
        Ok(())
    }

    fn judge(&mut self, ranges: [(u64, u64); 3]) -> Result<Verdict, NotShown> {
        let asked = ranges.map(|(from, to)| format!("{from} {to}")).join(" ");
        let asked = format!("judge {asked}");
        let said = self.script.ask(&asked, PATIENCE)?;
        demand!(said["finding"] == Value::Null, "{}", said["finding"]);
        let count = |name: &str| said[name].as_u64();
        demand!(
            count("red") == Some(2),
            "of a lost and two swapped outputs not all was found: {said}"
        );
        let seen = |at: usize| {
            let it = &said["seen"][at];
            let number = |name: &str| it[name].as_f64();
            Some(Seen { p99_ms: number("p99_ms")?, rate: number("rate")?, sent: number("sent")? })
        };
        let verdict = || {
            Some(Verdict {
                records: count("records")?,
                hot: count("hot")?,
                repeats: count("repeats")?,
                seen: [seen(0)?, seen(1)?, seen(2)?],
            })
        };
        verdict().ok_or_else(|| broken(format!("not a verdict: {said}")))
    }
}
