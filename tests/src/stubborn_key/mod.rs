//! The promise that a key that keeps failing costs only itself, for as long as it fails:
//! `stubborn-key`, on both buses, and with three nodes while its shard moves.
//!
//! ```text
//! load ──▶ in[8] ──▶ work ──▶ out[8]        one record of a hundred has the key "hot"
//!
//! all well ─▶ "hot" fails ─▶ two SIGKILLs while it fails ─▶ it heals, all comes out ─▶ all well
//!  measured     measured                                                                measured
//! ```
//!
//! How long a record of another key waits is told by the handler, which stamps each output with the
//! time at which it ran; what the load says is when it was sent. The verdict is made by who reads the
//! bus without the node.

mod brokers;
mod journal;
mod three;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::demand;
use crate::harness::api::Api;
use crate::harness::binaries;
use crate::harness::node::Node;
use crate::harness::processes::resident_kib;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken, rounded};

/// The stubborn key, which every hundredth record has.
const HOT: &str = "hot";
const HOT_EVERY: u64 = 100;
/// Waits below this are as good as none, so that a machine's own noise breaks no promise.
const P99_FLOOR_MS: f64 = 50.0;
/// How much the node may grow while the key fails: its journal's caches of 64 MiB each may only fill
/// up meanwhile, and 32 MiB beside them.
const GROWTH_KIB_MAX: u64 = (64 + 64 + 32) << 10;
/// How much the node may grow in a minute once the first is over, a part of what it has.
const SLOPE_MAX: f64 = 0.01;
/// So long a slope has to be watched to be told from noise, seconds beyond the first minute.
const SLOPE_AFTER_S: u64 = 120;

const MANIFEST: &str = r#"
[app]
name = "stubborn"

[topic.in]
partitions = 8

[topic.out]
partitions = 8

[function.work]
runtime   = "python3"
path      = "functions/work"
handler   = "app.handler"
instances = { max = 2 }
env       = { HEALED = "FLAG" }

[[function.work.trigger]]
topics = ["in"]
start  = "earliest"
order  = "key"
retry  = { attempts = 10000, backoff = "50ms..1s" }
output = { topic = "out" }
"#;

const HANDLER: &str = r#"
import os
import time

HEALED = os.environ["HEALED"]


def handler(record, context):
    if context.key == b"hot" and not os.path.exists(HEALED):
        raise RuntimeError("the key is stubborn")
    return {"n": record["n"], "at": record["at"], "ran": time.time()}
"#;

/// The key of a record.
fn key(number: u64) -> String {
    if number % HOT_EVERY == 7 { HOT.to_owned() } else { format!("key-{}", number % 997) }
}

/// Where everything of the run on one bus lies.
#[derive(Debug)]
struct App {
    dir: PathBuf,
    data: PathBuf,
    state: PathBuf,
    log: PathBuf,
    healed: PathBuf,
    /// The node's file, where it is on Kafka.
    kafka: Option<PathBuf>,
}

impl App {
    fn make(within: &Path, brokers: Option<String>) -> Result<Self, NotShown> {
        let dir = within.join("app");
        std::fs::create_dir_all(dir.join("functions/work")).during("make the application")?;
        let healed = within.join("healed");
        std::fs::write(dir.join("functions/work/app.py"), HANDLER).during("write the handler")?;
        let manifest = MANIFEST.replace("FLAG", &healed.display().to_string());
        std::fs::write(dir.join("millrace.toml"), manifest).during("write the manifest")?;
        let kafka = brokers.is_some().then(|| within.join("node.toml"));
        if let (Some(file), Some(brokers)) = (&kafka, brokers) {
            let text = format!(
                "[kafka]\nbrokers = \"{brokers}\"\ncluster = \"keys\"\ncreate-topics = true\n"
            );
            std::fs::write(file, text).during("write the node's file")?;
        }
        let (data, state) = (within.join("data"), within.join("state"));
        Ok(Self { dir, data, state, log: within.join("node.log"), healed, kafka })
    }

    fn serve(&self) -> Result<(Node, Api), NotShown> {
        let mut command = Command::new(binaries::millrace());
        command.env("XDG_STATE_HOME", &self.state).env_remove("MILLRACE_NODE");
        command.arg("serve").arg("--app").arg(&self.dir).arg("--data").arg(&self.data);
        if let Some(file) = &self.kafka {
            command.arg("--config").arg(file);
        }
        let mut node = Node::start(&mut command, &self.log)?;
        let api = Api::of(&self.state, &mut node, Duration::from_secs(60))?;
        Ok((node, api))
    }

    fn heal(&self, is_healed: bool) -> Result<(), NotShown> {
        if is_healed {
            return std::fs::write(&self.healed, "").during("heal the key");
        }
        std::fs::remove_file(&self.healed).during("make the key stubborn")
    }
}

/// What is beneath the application: who brings records, and who judges what became of them.
trait Bus {
    /// Sends so many records a second from now on.
    fn load(&mut self, api: &Api, rate: u64) -> Result<(), NotShown>;

    /// How many records were sent, and are there.
    fn sent(&mut self) -> Result<u64, NotShown>;

    /// The node was killed: ends what cannot go on without it.
    fn hush(&mut self) -> Result<(), NotShown>;

    /// Sends no more, and knows what is there.
    fn finish(&mut self, api: &Api) -> Result<(), NotShown>;

    /// Reads everything; the node has ended. Of the other keys' records in these ranges, how long
    /// they waited and how many ran a second.
    fn judge(&mut self, ranges: [(u64, u64); 3]) -> Result<Verdict, NotShown>;
}

/// What became of the records, when nothing is wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Verdict {
    records: u64,
    hot: u64,
    repeats: u64,
    seen: [Seen; 3],
}

/// What the other keys' records saw.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    p99_ms: f64,
    /// Records that ran a second.
    rate: f64,
    /// The same of those that were sent, by their own time.
    sent: f64,
}

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    if !Command::new("python3").arg("-c").arg("").status().is_ok_and(|it| it.success()) {
        return Err(NotShown::Unchecked("there is no python3 on PATH".to_owned()));
    }
    let mut figures = Figures::default();
    run.note("on the embedded bus");
    let within = run.evidence.join("embedded");
    std::fs::create_dir_all(&within).during("make a folder")?;
    let app = App::make(&within, None)?;
    let mut bus = journal::Journaled::new(&app);
    let rate = run.count("rate", 20_000, 20_000);
    figures.extend("embedded_", play(run, &app, &mut bus, rate)?);
    run.note("on Kafka");
    let within = run.evidence.join("kafka");
    std::fs::create_dir_all(&within).during("make a folder")?;
    let mut bus = brokers::OnKafka::new(run, &within)?;
    let app = App::make(&within, Some(bus.address()))?;
    // Load, broker and node share the processors there.
    figures.extend("kafka_", play(run, &app, &mut bus, (rate / 4).max(1))?);
    drop(bus);
    run.note("on Kafka, with three nodes");
    figures.extend("three_", three::play(run, (rate / 5).max(1))?);
    Ok(figures)
}

fn play(run: &Run, app: &App, bus: &mut impl Bus, rate: u64) -> Result<Figures, NotShown> {
    let failing_s = run.count("failing", 8, 600);
    app.heal(true)?;
    let (mut node, api) = app.serve()?;
    run.note(format!("{rate} records a second, all well"));
    bus.load(&api, rate)?;
    wait::pause(Duration::from_secs(2));
    let before = window(bus, 5)?;
    run.note(format!("one key fails, for {failing_s} s"));
    app.heal(false)?;
    wait::pause(Duration::from_secs(2));
    let held = resident_kib(node.pid())?;
    let (failing, slope) = watched_window(bus, failing_s, || resident_kib(node.pid()))?;
    let growth = resident_kib(node.pid())?.saturating_sub(held);
    // What the kill finds in flight runs again, and would count as slow.
    wait::pause(Duration::from_secs(1));
    let parked = parked(&api)?;
    demand!(0 < parked, "nothing is parked");
    demand!(growth <= GROWTH_KIB_MAX, "the node grew by {growth} KiB while the key failed");
    let is_flat = slope.is_none_or(|slope| slope <= SLOPE_MAX);
    demand!(is_flat, "the node grew by {slope:?} of its memory a minute while the key failed");
    let mut slowest = Duration::ZERO;
    for kill in 1..=2 {
        run.note(format!("SIGKILL {kill}, {parked} records parked"));
        demand!(node.kill()?, "the node was gone before SIGKILL");
        bus.hush()?;
        let (again, api) = app.serve()?;
        slowest = slowest.max(again.started_at.elapsed());
        node = again;
        bus.load(&api, rate)?;
        wait::pause(Duration::from_secs(2));
    }
    let api = Api::of(&app.state, &mut node, Duration::from_secs(60))?;
    let left = self::parked(&api)?;
    run.note(format!("the key heals, {left} records parked"));
    app.heal(true)?;
    let healed_at = Instant::now();
    let within = Duration::from_secs(60 + failing_s);
    let is_out = || {
        wait::pause(Duration::from_millis(100));
        (self::parked(&api).ok()? == 0).then_some(())
    };
    let out = wait::until(within, is_out);
    let healed_s = healed_at.elapsed().as_secs_f64();
    demand!(out.is_some(), "parked {:?}", self::parked(&api));
    let after = window(bus, 5)?;
    bus.finish(&api)?;
    let drained = wait::until(Duration::from_secs(60), || {
        wait::pause(Duration::from_millis(100));
        (api.lag().ok()? == 0 && self::parked(&api).ok()? == 0).then_some(())
    });
    demand!(drained.is_some(), "lag {:?}, parked {:?}", api.lag(), self::parked(&api));
    let (status, _) = node.stop(Signal::TERM, Duration::from_secs(30))?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    run.note("the final read");
    let it = bus.judge([before, failing, after])?;
    Ok(judged(&it)?
        .with("parked_max", parked.max(left))
        .with("kills", 2)
        .with("growth_kib", growth)
        .with("growth_a_minute", slope.map_or_else(|| "not watched".into(), |it| rounded(it, 4)))
        .with("slowest_start_s", rounded(slowest.as_secs_f64(), 1))
        .with("healed_after_s", rounded(healed_s, 1)))
}

/// What the other keys saw, if that is as good as nothing.
fn judged(it: &Verdict) -> Result<Figures, NotShown> {
    // What a machine does by itself is told by two windows in which all is well.
    let [before, failing, after] = it.seen;
    let p99_ms = before.p99_ms.max(after.p99_ms).max(P99_FLOOR_MS);
    let is_quick = failing.p99_ms <= 1.5 * p99_ms;
    demand!(
        is_quick,
        "p99 of the other keys {:.1} ms, {:.1} before and {:.1} after",
        failing.p99_ms,
        before.p99_ms,
        after.p99_ms
    );
    let keeps_up = 0.9 * failing.sent <= failing.rate;
    demand!(
        keeps_up,
        "{:.0} records/s of the other keys, of {:.0} that came",
        failing.rate,
        failing.sent
    );
    Ok(Figures::default()
        .with("records", it.records)
        .with("hot", it.hot)
        .with("repeats", it.repeats)
        .with("p99_before_ms", rounded(before.p99_ms, 1))
        .with("p99_failing_ms", rounded(failing.p99_ms, 1))
        .with("p99_after_ms", rounded(after.p99_ms, 1))
        .with("sent_failing", failing.sent.round() as u64)
        .with("rate_failing", failing.rate.round() as u64))
}

/// The records that are sent in so many seconds.
fn window(bus: &mut impl Bus, length_s: u64) -> Result<(u64, u64), NotShown> {
    let from = bus.sent()?;
    wait::pause(Duration::from_secs(length_s));
    Ok((from, bus.sent()?))
}

/// The same, and by what part of it the memory grows in a minute, where it is watched for long
/// enough.
fn watched_window(
    bus: &mut impl Bus,
    length_s: u64,
    mut resident_kib: impl FnMut() -> Result<u64, NotShown>,
) -> Result<((u64, u64), Option<f64>), NotShown> {
    let (from, begun) = (bus.sent()?, Instant::now());
    let mut samples = Vec::new();
    while begun.elapsed() < Duration::from_secs(length_s) {
        wait::pause(Duration::from_secs(1));
        samples.push((begun.elapsed().as_secs_f64() / 60.0, resident_kib()? as f64));
    }
    samples.retain(|(minutes, _)| 1.0 <= *minutes);
    let slope = (60 + SLOPE_AFTER_S <= length_s).then(|| relative_slope(&samples));
    Ok(((from, bus.sent()?), slope))
}

/// The slope of the straight line through the points (least squares), as a part of their mean.
fn relative_slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|it| it.0), mean(|it| it.1));
    let product = |it: &(f64, f64)| (it.0 - x) * (it.1 - y);
    let square = |it: &(f64, f64)| (it.0 - x) * (it.0 - x);
    points.iter().map(product).sum::<f64>() / points.iter().map(square).sum::<f64>() / y
}

fn parked(api: &Api) -> Result<u64, NotShown> {
    let status = api.status().during("ask for the status")?;
    status["functions"][0]["parked"].as_u64().ok_or_else(|| broken("no count of parked records"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_a_part_of_the_mean() {
        let rising: Vec<(f64, f64)> =
            (0..10).map(|it| (f64::from(it), 95.5 + f64::from(it))).collect();
        assert!((relative_slope(&rising) - 0.01).abs() < 1e-9);
        let swinging = [(0.0, 9.0), (1.0, 11.0), (2.0, 11.0), (3.0, 9.0)];
        assert!(relative_slope(&swinging).abs() < 1e-9);
    }
}
