//! The promise that a function that is far behind costs only itself: `backlog`, on the embedded bus.
//!
//! ```text
//! 2,000,000 records of 1 KB ─▶ far[4] ──▶ slow     100 ms a record, in a process
//! load ─▶ in[4] ──▶ quick ──▶ out                  measured before there is a backlog, and beside it
//! ```
//!
//! The node's memory is looked at from outside, without what it has started. `lag` is compared with
//! what a decoder of this crate finds in the journal of the stopped node.

mod journal;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::processes::resident_kib;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken};

/// What the node may hold in memory, in KiB: 300 MB.
const RESIDENT_KIB_MAX: u64 = 300_000_000 >> 10;
/// Waits below this are as good as none, so that a machine's own noise breaks no promise.
const P99_FLOOR_MS: f64 = 50.0;
/// Bytes of a record of the backlog.
const RECORD_BYTES: usize = 1_000;
/// Records of a request.
const BATCH: u64 = 1_000;
/// Records a second that the quick function gets, and requests that bring them.
const RATE: u64 = 2_000;
const REQUESTS: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(120);

const MANIFEST: &str = r#"
[app]
name = "backlog"

[topic.far]
partitions = 4

[topic.in]
partitions = 4

[function.slow]
runtime   = "python3"
path      = "work"
handler   = "app.slow"
instances = { max = 2 }

[[function.slow.trigger]]
topics = ["far"]
start  = "earliest"
decode = "none"
batch  = { records = 10 }

[function.quick]
runtime   = "python3"
path      = "work"
handler   = "app.quick"
instances = { max = 2 }

[[function.quick.trigger]]
topics = ["in"]
start  = "earliest"
output = { topic = "out" }
"#;

const HANDLER: &str = r#"
import time


def slow(record, context):
    time.sleep(0.1)


def quick(record, context):
    return {"n": record["n"], "at": record["at"], "ran": time.time()}
"#;

/// Brings records to the quick function, at a rate.
struct Load {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Option<String>>>,
    sender: JoinHandle<()>,
}

impl Load {
    fn start(api: &Api) -> Self {
        let (sent, stop, failed) = <(Arc<AtomicU64>, Arc<AtomicBool>, Arc<Mutex<_>>)>::default();
        let (count, ends, told) = (Arc::clone(&sent), Arc::clone(&stop), Arc::clone(&failed));
        let api = api.clone();
        let sender = std::thread::spawn(move || {
            let (started_at, batch) = (Instant::now(), RATE / REQUESTS);
            let mut next = 0;
            while !ends.load(Ordering::Relaxed) {
                let at = bus::Timestamp::now().0 as f64 / 1_000.0;
                let value = |n: u64| format!("{{\"n\":{n},\"at\":{at}}}").into_bytes();
                let key = |n: u64| format!("key-{}", n % 997).into_bytes();
                let records = next..next + batch;
                let records: Vec<_> =
                    records.map(|n| ToProduce { key: key(n), value: value(n) }).collect();
                if let Err(error) = api.produce("in", &records) {
                    *told.lock().expect("nothing panics holding it") = Some(error.to_string());
                    return;
                }
                next += batch;
                count.store(next, Ordering::Relaxed);
                let due = Duration::from_secs_f64(next as f64 / RATE as f64);
                wait::pause(due.saturating_sub(started_at.elapsed()));
            }
        });
        Self { sent, stop, failed, sender }
    }

    /// The records that are sent from now on for so long; `look` is called every second.
    fn window(
        &self,
        length: Duration,
        mut look: impl FnMut() -> Result<(), NotShown>,
    ) -> Result<(u64, u64), NotShown> {
        let (from, until) = (self.sent.load(Ordering::Relaxed), Instant::now() + length);
        while Instant::now() < until {
            wait::pause(Duration::from_secs(1));
            look()?;
        }
        Ok((from, self.sent.load(Ordering::Relaxed)))
    }

    fn end(self) -> Result<(), NotShown> {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().map_err(|_panic| broken("the load panicked"))?;
        let failed = self.failed.lock().expect("nothing panics holding it").take();
        failed.map_or(Ok(()), |why| Err(broken(format!("the node refused records: {why}"))))
    }
}

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    if !Command::new("python3").arg("-c").arg("").status().is_ok_and(|it| it.success()) {
        return Err(NotShown::Unchecked("there is no python3 on PATH".to_owned()));
    }
    let records = run.count("records", 40_000, 2_000_000);
    let length = Duration::from_secs(run.count("seconds", 12, 180));
    let app = run.evidence.join("app");
    std::fs::create_dir_all(app.join("work")).during("make the application")?;
    std::fs::write(app.join("work/app.py"), HANDLER).during("write the functions")?;
    std::fs::write(app.join("millrace.toml"), MANIFEST).during("write the manifest")?;
    let (mut node, api) = Api::serve(&app, &run.evidence, PATIENCE)?;

    run.note("the quick function alone");
    let load = Load::start(&api);
    wait::pause(Duration::from_secs(2));
    let before = load.window(length.min(Duration::from_secs(20)), || Ok(()))?;
    run.note(format!("{records} records of {RECORD_BYTES} bytes for the slow one"));
    for start in (0..records).step_by(BATCH as usize) {
        let batch: Vec<ToProduce> = (start..(start + BATCH).min(records)).map(of_backlog).collect();
        api.produce("far", &batch)?;
    }
    wait::pause(Duration::from_secs(2));
    run.note(format!("both, for {} s", length.as_secs()));
    let mut most = 0;
    let beside = load.window(length, || {
        most = resident_kib(node.pid())?.max(most);
        Ok(())
    })?;
    load.end()?;
    demand!(most <= RESIDENT_KIB_MAX, "the node holds {most} KiB, {RESIDENT_KIB_MAX} are allowed");

    run.note("the trigger of the slow one is paused, and its lag is looked at from both sides");
    let trigger = "/v1/triggers/backlog/slow/slow";
    api.post(&format!("{trigger}:pause"), &json!({}))?;
    let still = wait::until(PATIENCE, || {
        let in_flight = api.in_flight().ok()?;
        let lag = api.lag().ok()?;
        wait::pause(Duration::from_secs(2));
        let (later, again) = (api.in_flight().ok()?, api.lag().ok()?);
        (in_flight + later == 0 && lag == again).then_some(lag)
    });
    let lag = still.ok_or_else(|| broken("the paused trigger does not come to rest"))?;
    let (status, _) = node.stop(Signal::TERM, PATIENCE)?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    let data = run.evidence.join("data");
    let counted = journal::lag(&data, "far")?;
    demand!(lag == counted, "`lag` said {lag}, the journal says {counted}");
    demand!(journal::lag(&data, "in")? == 0, "the quick function has not done everything");
    demand!(records / 2 <= lag, "the slow function is done with {} already", records - lag);

    let [before, beside] = journal::seen(&data, [before, beside])?;
    let p99_ms = before.p99_ms.max(P99_FLOOR_MS);
    let mut late = Vec::new();
    if beside.rate < 0.9 * beside.sent {
        late.push(format!("{:.0} records/s of {:.0} that came", beside.rate, beside.sent));
    }
    if 1.5 * p99_ms < beside.p99_ms {
        late.push(format!("p99 {:.1} ms, {:.1} before", beside.p99_ms, before.p99_ms));
    }
    // Speed on a shared machine gates nothing but a run that asks for it.
    demand!(!run.full || late.is_empty(), "{}", late.join("; "));
    Ok(Figures::default()
        .with("records", records)
        .with("seconds", length.as_secs())
        .with("resident_kib", most)
        .with("lag", lag)
        .with("sent", beside.sent.round())
        .with("rate", beside.rate.round())
        .with("p99_before_ms", (10.0 * before.p99_ms).round() / 10.0)
        .with("p99_beside_ms", (10.0 * beside.p99_ms).round() / 10.0)
        .with("missed", late.join("; ")))
}

/// A record of the backlog.
fn of_backlog(number: u64) -> ToProduce {
    let mut value = format!("{number} ").into_bytes();
    value.resize(RECORD_BYTES, b'x');
    ToProduce { key: format!("key-{}", number % 997).into_bytes(), value }
}
