//! The stubborn key on the embedded bus: records come over the control API, and the stopped journal
//! is read by a decoder of its own. A kill repeats nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{App, Bus, HOT, Seen, Verdict, key};
use crate::checker::{Checker, Outputs, Stage};
use crate::demand;
use crate::harness::api::{Api, ApiError, ToProduce};
use crate::harness::wait;
use crate::journal_reader::{Follower, Journal, Role};
use crate::promise::{NotShown, broken};

/// Requests a second.
const REQUESTS: u64 = 40;

#[derive(Debug, Default)]
struct Load {
    /// Sent and acknowledged.
    sent: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<Option<String>>,
}

/// See the module's head.
pub(super) struct Journaled {
    load: Arc<Load>,
    sender: Option<JoinHandle<()>>,
    data: PathBuf,
}

fn now_s() -> f64 {
    bus::Timestamp::now().0 as f64 / 1_000.0
}

impl Load {
    fn run(&self, api: &Api, rate: u64) {
        let (started_at, from) = (Instant::now(), self.sent.load(Ordering::Relaxed));
        let batch = (rate / REQUESTS).max(1);
        let mut next = from;
        while !self.stop.load(Ordering::Relaxed) {
            let records: Vec<ToProduce> = (next..next + batch)
                .map(|n| ToProduce {
                    key: key(n).into_bytes(),
                    value: format!("{{\"n\":{n},\"at\":{}}}", now_s()).into_bytes(),
                })
                .collect();
            match api.produce("in", &records) {
                Ok(()) => next += batch,
                // Whether they arrived is for the next life to say.
                Err(ApiError::Lost(_)) => return,
                Err(error) => {
                    *self.failed.lock().expect("nothing panics holding it") =
                        Some(error.to_string());
                    return;
                }
            }
            self.sent.store(next, Ordering::Relaxed);
            let due = Duration::from_secs_f64((next - from) as f64 / rate as f64);
            wait::pause(due.saturating_sub(started_at.elapsed()));
        }
    }
}

impl Journaled {
    pub(super) fn new(app: &App) -> Self {
        Self { load: Arc::default(), sender: None, data: app.data.clone() }
    }
}

impl Bus for Journaled {
    fn load(&mut self, api: &Api, rate: u64) -> Result<(), NotShown> {
        // A request is one append: all of it is there, or nothing.
        self.load.sent.store(api.end_of("in")?.unsigned_abs(), Ordering::Relaxed);
        self.load.stop.store(false, Ordering::Relaxed);
        let (load, api) = (Arc::clone(&self.load), api.clone());
        self.sender = Some(std::thread::spawn(move || load.run(&api, rate)));
        Ok(())
    }

    fn sent(&mut self) -> Result<u64, NotShown> {
        Ok(self.load.sent.load(Ordering::Relaxed))
    }

    fn hush(&mut self) -> Result<(), NotShown> {
        self.load.stop.store(true, Ordering::Relaxed);
        let Some(sender) = self.sender.take() else { return Ok(()) };
        sender.join().map_err(|_panic| broken("the load panicked"))?;
        let failed = self.load.failed.lock().expect("nothing panics holding it").take();
        failed.map_or(Ok(()), |why| Err(broken(format!("the node refused records: {why}"))))
    }

    fn finish(&mut self, api: &Api) -> Result<(), NotShown> {
        self.hush()?;
        let (end, sent) = (api.end_of("in")?.unsigned_abs(), self.sent()?);
        demand!(end == sent, "{end} records in the topic, {sent} were acknowledged");
        Ok(())
    }

    fn judge(&mut self, ranges: [(u64, u64); 3]) -> Result<Verdict, NotShown> {
        let stage = Stage { source: "in".to_owned(), partitions: 8, outputs: Outputs::One };
        let mut checker = Checker::new(vec![stage]);
        let mut follower = Follower::new(vec![
            Role::topic("in").source_of(0),
            Role::topic("stubborn.work.dead").dead_of(0),
            Role::topic("out").outputs_of(0),
        ]);
        let (mut records, mut ran, mut hot) = (0, BTreeMap::new(), Vec::new());
        follower.follow(&Journal::open(&self.data)?, &mut checker, |topic, _, record| {
            records += u64::from(topic == "in");
            let value = record.value.filter(|_| topic == "out");
            let Some(it) = value.and_then(|it| serde_json::from_slice::<Value>(it).ok()) else {
                return;
            };
            let Some(number) = it["n"].as_u64() else { return };
            if record.key == Some(HOT.as_bytes()) {
                hot.push(number);
            } else if let (Some(at), Some(then)) = (it["at"].as_f64(), it["ran"].as_f64()) {
                ran.insert(number, (at, then));
            }
        })?;
        checker.on_end();
        demand!(checker.findings().is_empty(), "{}", checker.findings().text());
        let dead = checker.dead_letters(0);
        demand!(dead == 0, "{dead} dead letters, but each record ends well at last");
        demand!(hot.is_sorted(), "the stubborn key's records came out of order (DEL-6)");
        let outputs = ran.len() + hot.len();
        demand!(records == outputs as u64, "{records} records, {outputs} outputs (DEL-1)");
        let seen = ranges.map(|range| seen(&ran, range));
        Ok(Verdict { records, hot: hot.len() as u64, repeats: 0, seen })
    }
}

/// Of these records, p99 of the wait in milliseconds, and how many ran a second.
fn seen(ran: &BTreeMap<u64, (f64, f64)>, (from, to): (u64, u64)) -> Seen {
    let these: Vec<(f64, f64)> = ran.range(from..to).map(|it| *it.1).collect();
    let mut waits: Vec<f64> = these.iter().map(|(at, then)| then - at).collect();
    waits.sort_by(f64::total_cmp);
    let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or_default();
    let a_second = |times: Vec<f64>| {
        let first = times.iter().copied().fold(f64::MAX, f64::min);
        let span = times.iter().copied().fold(0.0, f64::max) - first;
        times.len() as f64 / span.max(0.001)
    };
    let sent = a_second(these.iter().map(|it| it.0).collect());
    Seen { p99_ms: 1_000.0 * p99, rate: a_second(these.iter().map(|it| it.1).collect()), sent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_and_rates_are_of_the_records_asked_for() {
        let ran = (0..200).map(|n| (n, (f64::from(n as u32), f64::from(n as u32) + 0.5)));
        let Seen { p99_ms, rate, sent } = seen(&ran.collect(), (100, 200));
        assert!((p99_ms - 500.0).abs() < 1e-6 && (rate - sent).abs() < 1e-6, "{p99_ms} {rate}");
        assert!((sent - 100.0 / 99.0).abs() < 1e-6, "{sent}");
        assert!(seen(&BTreeMap::new(), (0, 9)).rate < 1.0);
    }
}
