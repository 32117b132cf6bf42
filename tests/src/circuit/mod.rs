//! The promise that a trigger whose attempts fail stops trying, probes, and goes on by itself:
//! `circuit`.
//!
//! ```text
//! all well ─▶ what the function needs is away ─▶ open: a probe after 1, 2, 4, 4 s ─▶ it is back
//! ```
//!
//! What ran when is what the handler wrote down, what came of it is read from the topics; what the
//! node says of it is asked for beside.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::demand;
use crate::harness::api::Api;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken, rounded};

/// Records while all is well, and while what the function needs is away.
const WELL: u64 = 50;
const AWAY: u64 = 400;
/// The manifest's pauses in seconds, and what an invocation may be late.
const PAUSES: [f64; 4] = [1.0, 2.0, 4.0, 4.0];
const LATE_S: f64 = 2.0;
/// What was on its way to a process when the circuit opened starts there a moment after it: its
/// pause counts from before that, and so may look shorter than it is by this much, in seconds.
const ON_ITS_WAY_S: f64 = 0.1;
/// Records of a probe at most.
const PROBE: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

const HANDLER: &str = r#"
import json
import os
import time

LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def handler(record, context):
    ran = {"n": record["n"], "id": context.aws_request_id, "at": time.time()}
    os.write(LOG, (json.dumps(ran) + "\n").encode())
    if os.path.exists(os.environ["AWAY"]):
        raise ConnectionError("it is away")
    return record
"#;

const MANIFEST: &str = r#"
[app]
name = "circuit"
[topic.in]
partitions = 1
[topic.out]
partitions = 1
[function.work]
runtime = "python3"
path    = "code"
handler = "app.handler"
env     = { LOG = "LOG-FILE", AWAY = "AWAY-FILE" }
[[function.work.trigger]]
topics  = ["in"]
start   = "earliest"
batch   = { records = 20 }
retry   = { attempts = 100, backoff = "50ms..200ms" }
circuit = { failures = "50%", attempts = 10, window = "10s", pause = "1s..4s" }
output  = { topic = "out" }
"#;

/// An invocation, as the handler wrote it down.
#[derive(Clone, Debug, PartialEq)]
struct Ran {
    at: f64,
    records: Vec<u64>,
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
    let folder = run.evidence.clone();
    let (log, away) = (folder.join("ran.log"), folder.join("away"));
    let app = folder.join("app");
    std::fs::create_dir_all(app.join("code")).during("make the application")?;
    std::fs::write(app.join("code/app.py"), HANDLER).during("write the handler")?;
    let manifest = MANIFEST.replace("LOG-FILE", &log.display().to_string());
    let manifest = manifest.replace("AWAY-FILE", &away.display().to_string());
    std::fs::write(app.join("millrace.toml"), manifest).during("write the manifest")?;
    let (mut node, api) = Api::serve(&app, &folder, PATIENCE)?;
    produce(&api, 0, WELL)?;
    outputs(&api, WELL)?;
    says(&api, false)?;
    run.note("what the function needs is away");
    std::fs::write(&away, "").during("take it away")?;
    let away_s = now_s();
    produce(&api, WELL, WELL + AWAY)?;
    says(&api, true)?;
    wait::pause(Duration::from_secs(12));
    says(&api, true)?;
    let back_s = now_s();
    std::fs::remove_file(&away).during("bring it back")?;
    run.note("it is back");
    outputs(&api, WELL + AWAY)?;
    says(&api, false)?;
    let dead = api.end_of("circuit.work.dead")?;
    demand!(dead == 0, "{dead} dead letters of what only waited");
    let numbers: Vec<Value> = api.records("out", 1_000)?;
    let (status, _) = node.stop(Signal::TERM, Duration::from_secs(30))?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    let numbers: Option<Vec<u64>> = numbers.iter().map(number).collect();
    let mut numbers = numbers.ok_or_else(|| broken("an odd output"))?;
    numbers.sort_unstable();
    demand!(numbers == (0..WELL + AWAY).collect::<Vec<u64>>(), "outputs of {numbers:?}");
    let ran = read(&log)?;
    let seen = judge(&ran, away_s, back_s).map_err(broken)?;
    let mut red = 0;
    for (mistake, ran) in mistakes(&ran, away_s, back_s) {
        let noticed = judge(&ran, away_s, back_s).err();
        let is_it = noticed.as_ref().is_some_and(|it| it.starts_with(mistake));
        demand!(is_it, "planted {mistake}, noticed {noticed:?}");
        red += 1;
    }
    Ok(Figures::default()
        .with("records", WELL + AWAY)
        .with("failed_until_open", seen.until_open)
        .with("probes", seen.probes)
        .with("back_after_s", rounded(seen.back_after_s, 2))
        .with("red_controls", red))
}

fn now_s() -> f64 {
    bus::Timestamp::now().0 as f64 / 1_000.0
}

fn produce(api: &Api, from: u64, to: u64) -> Result<(), NotShown> {
    let record = |n| json!({ "key": format!("k{}", n % 97), "value": format!("{{\"n\":{n}}}") });
    let records: Vec<Value> = (from..to).map(record).collect();
    api.post("/v1/topics/in/records", &json!({ "records": records }))?;
    Ok(())
}

fn outputs(api: &Api, count: u64) -> Result<(), NotShown> {
    let is_there = || (count.cast_signed() <= api.end_of("out").ok()?).then_some(());
    let there = wait::until(PATIENCE, is_there);
    demand!(there.is_some(), "{:?} outputs of {count}", api.end_of("out"));
    Ok(())
}

/// Whether status, the list of triggers and the metric say the same, soon.
fn says(api: &Api, is_open: bool) -> Result<(), NotShown> {
    let look = || {
        let status = api.get("/v1/status").ok()?;
        let triggers = api.get("/v1/triggers").ok()?;
        let metric = api.metric("millrace_trigger_circuits_open").ok()?;
        let said = [status.contains("E0422"), triggers.contains("\"waiting\""), metric == 1];
        Some((said, status, triggers))
    };
    let agrees = || look().filter(|it| it.0 == [is_open; 3]).map(|_| ());
    let agreed = wait::until(Duration::from_secs(10), agrees);
    demand!(agreed.is_some(), "open is {is_open}, and the node says {:?}", look());
    Ok(())
}

fn number(record: &Value) -> Option<u64> {
    let value: Value = serde_json::from_str(record["value"].as_str()?).ok()?;
    value["n"].as_u64()
}

fn read(log: &Path) -> Result<Vec<Ran>, NotShown> {
    let mut by_id: BTreeMap<String, Ran> = BTreeMap::new();
    for line in std::fs::read_to_string(log).during("read what was written down")?.lines() {
        let it: Value = serde_json::from_str(line).during("read what was written down")?;
        let (Some(n), Some(at), Some(id)) =
            (it["n"].as_u64(), it["at"].as_f64(), it["id"].as_str())
        else {
            return Err(broken(format!("odd: {line}")));
        };
        let ran = by_id.entry(id.to_owned()).or_insert(Ran { at, records: Vec::new() });
        ran.at = ran.at.min(at);
        ran.records.push(n);
    }
    let mut ran: Vec<Ran> = by_id.into_values().collect();
    ran.sort_by(|one, two| one.at.total_cmp(&two.at));
    Ok(ran)
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Attempts that failed before it opened.
    until_open: usize,
    probes: usize,
    back_after_s: f64,
}

/// Whether nothing but probes ran while it was open, as late and as small as they have to be.
fn judge(ran: &[Ran], away_s: f64, back_s: f64) -> Result<Seen, String> {
    let failing: Vec<&Ran> = ran.iter().filter(|it| (away_s..back_s).contains(&it.at)).collect();
    let first = failing.windows(2).position(|pair| 0.9 <= pair[1].at - pair[0].at);
    let opened = first.ok_or("OPEN: it never opened")?;
    let until_open: usize = failing[..=opened].iter().map(|it| it.records.len()).sum();
    // Half of the window's attempts, of which so many ended well; two of 20 may be on their way.
    let least = WELL as usize;
    if !(least..=least + 60).contains(&until_open) {
        return Err(format!("OPEN: after {until_open} attempts"));
    }
    let probes = &failing[opened + 1..];
    if probes.len() < 3 {
        return Err(format!("PROBES: {} in 12 s", probes.len()));
    }
    let mut last = failing[opened].at;
    for (at, probe) in probes.iter().enumerate() {
        let (pause, waited) = (PAUSES[at.min(PAUSES.len() - 1)], probe.at - last);
        if waited < pause - ON_ITS_WAY_S || 1.1 * pause + LATE_S < waited {
            return Err(format!("PAUSE: probe {at} came {waited:.3} s after, not {pause}"));
        }
        if PROBE < probe.records.len() {
            return Err(format!("SIZE: probe {at} had {} records", probe.records.len()));
        }
        last = probe.at;
    }
    let back = ran.iter().find(|it| back_s <= it.at).ok_or("BACK: nothing ran again")?;
    let back_after_s = back.at - back_s;
    if 4.4 + LATE_S < back_after_s {
        return Err(format!("BACK: after {back_after_s:.2} s"));
    }
    Ok(Seen { until_open, probes: probes.len(), back_after_s })
}

fn mistakes(ran: &[Ran], away_s: f64, back_s: f64) -> Vec<(&'static str, Vec<Ran>)> {
    let last = ran.iter().rposition(|it| it.at < back_s).unwrap_or_default();
    let mut early = ran.to_vec();
    early.insert(last, Ran { at: ran[last].at - 0.5, records: vec![1] });
    let mut large = ran.to_vec();
    large[last].records = (0..6).collect();
    let is_probe = |it: &Ran| it.records.len() <= PROBE && away_s + 1.0 < it.at && it.at < back_s;
    let none: Vec<Ran> = ran.iter().filter(|it| !is_probe(it)).cloned().collect();
    let late: Vec<Ran> = ran
        .iter()
        .map(|it| Ran { at: if back_s <= it.at { it.at + 10.0 } else { it.at }, ..it.clone() })
        .collect();
    vec![("PAUSE", early), ("SIZE", large), ("OPEN", none), ("BACK", late)]
}
