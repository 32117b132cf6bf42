//! The promise that a record waits as long as a list of pauses says, across a kill, and keeps nobody
//! but its key: `delayed-retry`, on both buses.
//!
//! ```text
//! 60 records of 6 keys ─▶ one of key 0 and one of none fail three times: 1 s, 11 s, 11 s
//!                              │ from 11 s on parked: the lag is 0, SIGKILL, start
//! ```
//!
//! When a record ran is what the handler wrote down; what came of it is read from the topics.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::demand;
use crate::harness::api::Api;
use crate::harness::binaries;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::node::Node;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken, rounded};

const RECORDS: u64 = 60;
const KEYS: u64 = 6;
/// Of a key, and of none.
const FAIL: [u64; 2] = [12, 7];
/// The pauses of the manifest, in seconds.
const PAUSES: [f64; 2] = [1.0, 11.0];
/// How much later than it says a record may be tried: a tenth is drawn on top, a start and a busy
/// machine come to it.
const LATE_S: f64 = 4.0;
const PATIENCE: Duration = Duration::from_secs(60);

const HANDLER: &str = r#"
import json
import os
import time

LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def handler(record, context):
    n = record["n"]
    ran = {"n": n, "attempt": context.attempt, "at": time.time()}
    os.write(LOG, (json.dumps(ran) + "\n").encode())
    if n in (12, 7) and context.attempt <= 3:
        raise ValueError("not yet")
    return record
"#;

const MANIFEST: &str = r#"
[app]
name = "delayed"
[topic.in]
partitions = 1
[topic.out]
partitions = 1
[function.work]
runtime = "python3"
path    = "code"
handler = "app.handler"
env     = { LOG = "FILE" }
[[function.work.trigger]]
topics = ["in"]
start  = "earliest"
retry  = { attempts = 5, backoff = ["1s", "11s"] }
output = { topic = "out" }
"#;

/// When a record ran, by its number.
type Ran = BTreeMap<u64, Vec<f64>>;

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java or Maven.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    if !Command::new("python3").arg("-c").arg("").status().is_ok_and(|it| it.success()) {
        return Err(NotShown::Unchecked("there is no python3 on PATH".to_owned()));
    }
    let mut figures = Figures::default();
    run.note("on the embedded bus");
    figures.extend("embedded_", play(run, "embedded", None)?);
    run.note("on Kafka");
    let kafka = Kafka::fetch()?;
    let broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::Plain)?;
    figures.extend("kafka_", play(run, "kafka", Some(broker.address()))?);
    Ok(figures)
}

fn play(run: &Run, name: &str, brokers: Option<String>) -> Result<Figures, NotShown> {
    let folder = run.evidence.join(name);
    std::fs::create_dir_all(folder.join("app/code")).during("make the application")?;
    std::fs::write(folder.join("app/code/app.py"), HANDLER).during("write the handler")?;
    let log = folder.join("ran.log");
    let manifest = MANIFEST.replace("FILE", &log.display().to_string());
    std::fs::write(folder.join("app/millrace.toml"), manifest).during("write the manifest")?;
    let config = folder.join("node.toml");
    if let Some(brokers) = &brokers {
        let text = format!(
            "[kafka]\nbrokers = \"{brokers}\"\ncluster = \"delayed\"\ncreate-topics = true\n"
        );
        std::fs::write(&config, text).during("write the node's file")?;
    }
    let config = brokers.is_some().then_some(&*config);
    let (mut node, api) = serve(&folder, config)?;
    let records = (0..RECORDS).map(|n| match key(n) {
        Some(key) => json!({ "key": key, "value": format!("{{\"n\":{n}}}") }),
        None => json!({ "value": format!("{{\"n\":{n}}}") }),
    });
    let records = json!({ "records": records.collect::<Vec<Value>>() });
    api.post("/v1/topics/in/records", &records)?;
    run.note("until both wait for the long pause");
    let both_wait = wait::until(PATIENCE, || {
        let ran = ran(&log).ok()?;
        let twice = FAIL.iter().all(|n| ran.get(n).is_some_and(|it| it.len() == 2));
        // What waits is in no position: the lag is that of records that nobody has looked at.
        (twice && api.lag().ok()? == 0 && FAIL.len() as u64 <= parked(&api).ok()?).then_some(())
    });
    demand!(both_wait.is_some(), "lag {:?}, parked {:?}", api.lag(), parked(&api));
    let parked = parked(&api)?;
    let before = ran(&log)?;
    let others = (0..RECORDS).filter(|n| !waits(*n)).all(|n| before.contains_key(&n));
    demand!(others, "what shares no key with a record that waits has to wait: {before:?}");
    demand!(node.kill()?, "the node was gone before SIGKILL");
    let (mut node, api) = serve(&folder, config)?;
    run.note(format!("SIGKILL, with {parked} parked"));
    let all_out = wait::until(PATIENCE, || {
        wait::pause(Duration::from_millis(100));
        (RECORDS.cast_signed() <= api.end_of("out").ok()?).then_some(())
    });
    demand!(all_out.is_some(), "{:?} outputs of {RECORDS}", api.end_of("out"));
    let outputs = api.records("out", 1_000)?;
    let (status, _) = node.stop(Signal::TERM, Duration::from_secs(30))?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    let ran = ran(&log)?;
    let numbers: Option<Vec<u64>> = outputs.iter().map(number).collect();
    let numbers = numbers.ok_or_else(|| broken("an odd output"))?;
    let late = judge(&ran, &numbers).map_err(broken)?;
    let mut red = 0;
    for (mistake, ran, numbers) in mistakes(&ran, &numbers) {
        let noticed = judge(&ran, &numbers).err();
        demand!(
            noticed.as_ref().is_some_and(|it| it.starts_with(mistake)),
            "planted {mistake}, noticed {noticed:?}"
        );
        red += 1;
    }
    Ok(Figures::default()
        .with("records", RECORDS)
        .with("parked", parked)
        .with("latest_by_s", rounded(late, 2))
        .with("red_controls", red))
}

fn key(number: u64) -> Option<String> {
    number.is_multiple_of(2).then(|| format!("key-{}", number % KEYS))
}

/// Whether a record has to wait for one that fails, or fails itself.
fn waits(number: u64) -> bool {
    FAIL.iter()
        .any(|it| *it == number || (*it <= number && key(*it).is_some() && key(*it) == key(number)))
}

fn serve(folder: &Path, config: Option<&Path>) -> Result<(Node, Api), NotShown> {
    let state = folder.join("state");
    let mut command = Command::new(binaries::millrace());
    command.env("XDG_STATE_HOME", &state).env_remove("MILLRACE_NODE");
    command.arg("serve").arg("--app").arg(folder.join("app"));
    command.arg("--data").arg(folder.join("data"));
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let mut node = Node::start(&mut command, &folder.join("node.log"))?;
    let api = Api::of(&state, &mut node, PATIENCE)?;
    Ok((node, api))
}

fn parked(api: &Api) -> Result<u64, NotShown> {
    let status = api.status().during("ask for the status")?;
    status["functions"][0]["parked"].as_u64().ok_or_else(|| broken("no count of parked records"))
}

fn ran(log: &Path) -> Result<Ran, NotShown> {
    let mut ran = Ran::new();
    for line in std::fs::read_to_string(log).during("read what was written down")?.lines() {
        let it: Value = serde_json::from_str(line).during("read what was written down")?;
        let (Some(n), Some(at)) = (it["n"].as_u64(), it["at"].as_f64()) else {
            return Err(broken(format!("odd: {line}")));
        };
        ran.entry(n).or_default().push(at);
    }
    Ok(ran)
}

fn number(record: &Value) -> Option<u64> {
    let value: Value = serde_json::from_str(record["value"].as_str()?).ok()?;
    value["n"].as_u64()
}

/// Whether each record waited as it has to; by how much the latest was later.
fn judge(ran: &Ran, outputs: &[u64]) -> Result<f64, String> {
    let mut late = 0.0_f64;
    for number in FAIL {
        let times = ran.get(&number).ok_or_else(|| format!("RUNS: {number} never ran"))?;
        if times.len() != 4 {
            return Err(format!("RUNS: {number} ran {} times", times.len()));
        }
        for (at, pair) in times.windows(2).enumerate() {
            let (waited, pause) = (pair[1] - pair[0], PAUSES[at.min(1)]);
            if waited < pause {
                return Err(format!("EARLY: {number} waited {waited:.2} s of {pause}"));
            }
            late = late.max(waited - pause);
        }
    }
    if LATE_S < late {
        return Err(format!("LATE: a record was tried {late:.2} s after its time"));
    }
    let mut keys: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for number in outputs {
        key(*number).into_iter().for_each(|key| keys.entry(key).or_default().push(*number));
    }
    if let Some((key, numbers)) = keys.iter().find(|(_, numbers)| !numbers.is_sorted()) {
        return Err(format!("ORDER: of {key} came {numbers:?}"));
    }
    let mut sorted = outputs.to_vec();
    sorted.sort_unstable();
    if sorted != (0..RECORDS).collect::<Vec<u64>>() {
        return Err(format!("OUTPUTS: {sorted:?}"));
    }
    Ok(late)
}

fn mistakes(ran: &Ran, outputs: &[u64]) -> Vec<(&'static str, Ran, Vec<u64>)> {
    let mut early = ran.clone();
    early.entry(FAIL[0]).and_modify(|it| it[3] = it[2] + 10.9);
    let mut late = ran.clone();
    late.entry(FAIL[1]).and_modify(|it| it[3] += 30.0);
    let mut again = ran.clone();
    again.entry(FAIL[1]).and_modify(|it| it.push(it[3] + 12.0));
    // The key's last two come in another order.
    let mut swapped = outputs.to_vec();
    let of_key: Vec<usize> =
        (0..outputs.len()).filter(|at| outputs[*at].is_multiple_of(KEYS)).collect();
    if let [.., one, two] = of_key[..] {
        swapped.swap(one, two);
    }
    let lost = outputs[1..].to_vec();
    vec![
        ("EARLY", early, outputs.to_vec()),
        ("LATE", late, outputs.to_vec()),
        ("RUNS", again, outputs.to_vec()),
        ("ORDER", ran.clone(), swapped),
        ("OUTPUTS", ran.clone(), lost),
    ]
}
