//! Poison on a real Kafka: load and reading are Python's, with a client that shares no code with the
//! node's. The broker says of each output when it was appended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::app::{Function, PARTITIONS};
use super::plan::{Stretch, number};
use super::verdict::{Dead, Out};
use super::{Bus, Results};
use crate::demand;
use crate::harness::api::Api;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::promise::{During, NotShown, Run, broken};

/// A client of Kafka in Python alone, with a protocol of its own.
const CLIENT: &str = "aiokafka==0.14.0";
const PATIENCE: Duration = Duration::from_secs(600);

/// See the module's head.
pub(super) struct OnKafka {
    broker: Broker,
    script: Asked,
    folder: PathBuf,
}

impl OnKafka {
    pub(super) fn new(run: &Run, within: &Path) -> Result<Self, NotShown> {
        run.note("fetch Kafka and a client of it");
        let (kafka, python) = (Kafka::fetch()?, python::with(&[CLIENT])?);
        let broker = Broker::start(&kafka, &within.join("broker"), Listeners::Plain)?;
        let mut script = Asked::start(&python, "poison.py", &[&broker.address()], within)?;
        let outputs = Function::ALL.map(Function::outputs).join(" ");
        script.ask(&format!("topics {PARTITIONS} in {outputs}"), PATIENCE)?;
        Ok(Self { broker, script, folder: within.to_owned() })
    }

    pub(super) fn address(&self) -> String {
        self.broker.address()
    }

    fn dump(&mut self, topic: &str) -> Result<Vec<Value>, NotShown> {
        let file = self.folder.join(format!("{topic}.json"));
        self.script.ask(&format!("read {topic} {}", file.display()), PATIENCE)?;
        let text = std::fs::read_to_string(file).during("read what was read")?;
        text.lines().map(|it| serde_json::from_str(it).during("read what was read")).collect()
    }
}

impl Bus for OnKafka {
    fn watch(&mut self, _api: &Api) -> Result<(), NotShown> {
        Ok(())
    }

    fn send(&mut self, _api: &Api, stretch: &Stretch, rate: u64) -> Result<(), NotShown> {
        let bad = stretch.bad.iter().map(|(number, kind)| format!("{number}={}", kind.name()));
        let bad = bad.collect::<Vec<_>>().join(" ");
        let asked = format!("send in {rate} {} {} {bad}", stretch.from, stretch.to);
        let said = self.script.ask(&asked, PATIENCE)?;
        demand!(said["refused"].as_u64() == Some(0), "the broker refused records: {said}");
        Ok(())
    }

    fn unwatch(&mut self) -> Result<(), NotShown> {
        Ok(())
    }

    fn read(&mut self) -> Result<BTreeMap<Function, Results>, NotShown> {
        let mut found = BTreeMap::new();
        for function in Function::ALL {
            let out = |it: &Value| {
                let value: Value = serde_json::from_str(it["value"].as_str()?).ok()?;
                let took_s = it["at_ms"].as_f64()? / 1_000.0 - value["at"].as_f64()?;
                Some(Out { number: value["n"].as_u64()?, took_s })
            };
            let dead = |it: &Value| {
                let header = |name| it["headers"][format!("millrace-dead-{name}")].as_str();
                Some(Dead {
                    number: number(it["value"].as_str()?.as_bytes())?,
                    cause: header("cause")?.to_owned(),
                    error_type: header("error-type")?.to_owned(),
                    attempts: header("attempts")?.parse().ok()?,
                })
            };
            let strange = || broken(format!("an odd record of {}", function.name()));
            let outputs =
                self.dump(function.outputs())?.iter().map(out).collect::<Option<Vec<_>>>();
            let dead = self.dump(function.dead())?.iter().map(dead).collect::<Option<Vec<_>>>();
            let (outputs, dead) = (outputs.ok_or_else(strange)?, dead.ok_or_else(strange)?);
            found.insert(function, Results { outputs, dead });
        }
        Ok(found)
    }
}
