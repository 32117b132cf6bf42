//! Poison on the embedded bus: records come over the control API, outputs are watched as they appear,
//! and the stopped journal is read by a decoder of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::app::{App, Function, PARTITIONS};
use super::plan::{Kind, Stretch, key, number, value};
use super::verdict::{Dead, Out};
use super::{Bus, Results, now_s};
use crate::harness::api::Api;
use crate::harness::wait;
use crate::journal_reader::Journal;
use crate::journal_reader::layout::Record;
use crate::promise::{During, NotShown, broken};

/// Requests a second.
const REQUESTS: u64 = 50;

/// See the module's head.
pub(super) struct Journaled {
    data: PathBuf,
    over: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<Result<BTreeMap<u64, f64>, String>>>,
}

impl Journaled {
    pub(super) fn new(app: &App) -> Self {
        Self { data: app.data.clone(), over: Arc::default(), watchers: Vec::new() }
    }
}

impl Bus for Journaled {
    fn watch(&mut self, api: &Api) -> Result<(), NotShown> {
        for function in Function::ALL {
            let (api, over) = (api.clone(), Arc::clone(&self.over));
            self.watchers.push(std::thread::spawn(move || watch(&api, function.outputs(), &over)));
        }
        Ok(())
    }

    fn send(&mut self, api: &Api, stretch: &Stretch, rate: u64) -> Result<(), NotShown> {
        let bad: BTreeMap<u64, Kind> = stretch.bad.iter().copied().collect();
        let (started_at, at_once) = (Instant::now(), (rate / REQUESTS).max(1));
        let mut next = stretch.from;
        while next < stretch.to {
            let until = stretch.to.min(next + at_once);
            let at_s = now_s();
            let records = (next..until).map(|it| {
                let value = value(it, bad.get(&it).copied(), at_s);
                match key(it) {
                    Some(key) => json!({ "key": key, "value": value }),
                    None => json!({ "value": value }),
                }
            });
            let records = json!({ "records": records.collect::<Vec<Value>>() });
            api.post("/v1/topics/in/records", &records)?;
            next = until;
            let due = Duration::from_secs_f64((next - stretch.from) as f64 / rate as f64);
            wait::pause(due.saturating_sub(started_at.elapsed()));
        }
        Ok(())
    }

    fn unwatch(&mut self) -> Result<(), NotShown> {
        self.over.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn read(&mut self) -> Result<BTreeMap<Function, Results>, NotShown> {
        let journal = Journal::open(&self.data)?;
        let mut found = BTreeMap::new();
        for (function, watcher) in Function::ALL.into_iter().zip(self.watchers.drain(..)) {
            let seen = watcher.join().map_err(|_panic| broken("a watcher panicked"))?;
            let seen = seen.during("watch the outputs")?;
            let mut results = Results::default();
            let mut strange = None;
            read(
                &journal,
                function.outputs(),
                |record| {
                    let it: Value = record.value.and_then(|it| serde_json::from_slice(it).ok())?;
                    let (number, sent_s) = (it["n"].as_u64()?, it["at"].as_f64()?);
                    // One that was not seen as it came took for ever.
                    let took_s = seen.get(&number).map_or(f64::MAX, |at_s| at_s - sent_s);
                    results.outputs.push(Out { number, took_s });
                    Some(())
                },
                &mut strange,
            )?;
            read(
                &journal,
                function.dead(),
                |record| {
                    let header = |name| {
                        let value = record.header(&format!("millrace-dead-{name}"))?;
                        std::str::from_utf8(value).ok().map(str::to_owned)
                    };
                    results.dead.push(Dead {
                        number: number(record.value?)?,
                        cause: header("cause")?,
                        error_type: header("error-type")?,
                        attempts: header("attempts")?.parse().ok()?,
                    });
                    Some(())
                },
                &mut strange,
            )?;
            match strange {
                Some(it) => {
                    return Err(broken(format!("an odd record of {}: {it}", function.name())));
                }
                None => drop(found.insert(function, results)),
            }
        }
        Ok(found)
    }
}

/// Reads a topic; the last record that `each` could not make sense of is strange.
fn read(
    journal: &Journal,
    topic: &str,
    mut each: impl FnMut(&Record<'_>) -> Option<()>,
    strange: &mut Option<String>,
) -> Result<(), NotShown> {
    let partitions = journal.topics.get(topic).map_or(0, |it| it.partitions);
    for partition in 0..partitions {
        journal.records(topic, partition, 0, |record| {
            if each(record).is_none() {
                *strange = Some(format!("{topic}[{partition}]@{}", record.offset));
            }
        })?;
    }
    Ok(())
}

/// When each output was first seen by who waits for it, by its number.
fn watch(api: &Api, topic: &str, over: &AtomicBool) -> Result<BTreeMap<u64, f64>, String> {
    let (mut seen, path) = (BTreeMap::new(), format!("/v1/topics/{topic}:fetch"));
    let mut next = json!({});
    for partition in 0..PARTITIONS {
        next[partition.to_string()] = json!(0);
    }
    loop {
        let is_over = over.load(Ordering::Relaxed);
        let asked = json!({ "positions": next, "max": 10_000, "wait_ms": 200 });
        let answer = match api.post(&path, &asked) {
            Ok(answer) => answer,
            Err(error) => return Err(error.to_string()),
        };
        let at_s = now_s();
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        let records = answer["records"].as_array().ok_or("no records")?;
        for record in records {
            let value = record["value"].as_str().and_then(|it| serde_json::from_str(it).ok());
            let number = value.and_then(|it: Value| it["n"].as_u64());
            seen.entry(number.ok_or_else(|| format!("no number in {record}"))?).or_insert(at_s);
        }
        let places = answer["next"].as_object().ok_or("no next")?;
        places.iter().for_each(|(partition, at)| next[partition] = at.clone());
        if is_over && records.is_empty() {
            return Ok(seen);
        }
    }
}
