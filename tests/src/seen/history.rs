//! Sums of metrics against the history: what the function wrote down of every call, and what the
//! stopped journal holds, read by code that shares nothing with the node (RES-4, DEL-9).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::PATIENCE;
use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::{binaries, wait};
use crate::journal_reader::{Journal, layout::Record};
use crate::promise::{During, Figures, NotShown, Run, broken};

/// Records of a request, and keys.
const REQUEST: u64 = 1_000;
const KEYS: u64 = 997;
/// How often a record is tried.
const ATTEMPTS: u64 = 3;

const MANIFEST: &str = r#"
[app]
name = "sums"

[topic.in]
partitions = 4

[function.odd]
runtime   = "python3"
path      = "odd"
handler   = "app.handler"
timeout   = "1s"
instances = { max = 2 }
env       = { HISTORY = "FOLDER" }

[[function.odd.trigger]]
topics      = ["in"]
event       = "lambda"
filter      = { value = { wanted = [true] } }
batch       = { records = 100 }
retry       = { attempts = 3, backoff = "20ms" }
dead-letter = "dead"

[function.even]
runtime = "wasm"
path    = "even"
handler = "identity.wasm"

[[function.even.trigger]]
topics = ["in"]
output = { topic = "out" }
"#;

/// Fails in every way there is, each by the number of the record; writes down each call.
const HANDLER: &str = r#"import base64, json, os, time

FOLDER = os.environ["HISTORY"]
LOG = os.open(os.path.join(FOLDER, "calls"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)

def is_first(n):
    try:
        os.close(os.open(os.path.join(FOLDER, "tried", str(n)), os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def handler(event, context):
    records = [it for group in event["records"].values() for it in group]
    numbered = [(json.loads(base64.b64decode(it["value"]))["n"], it) for it in records]
    batch = [n for n, _ in numbered]
    def say(word, bad=()):
        line = json.dumps({"batch": batch, "said": word, "bad": list(bad)}) + "\n"
        os.write(LOG, line.encode())
    if any(n % 20000 == 14 for n in batch):
        say("ends")
        os._exit(3)
    if any(n % 40000 == 21 for n in batch):
        say("sleeps")
        time.sleep(60)
    if any([is_first(n) for n in batch if n % 3000 == 17]):
        say("raises")
        raise ValueError("for once")
    bad = [n for n in batch if n % 5000 == 11 or n % 1000 == 7 and is_first(n)]
    say("reports", bad)
    return {"batchItemFailures": [
        {"itemIdentifier": {"partition": f"{it['topic']}-{it['partition']}", "offset": it["offset"]}}
        for n, it in numbered if n in bad]}
"#;

/// A call, as the function wrote it down.
#[derive(Clone, Debug, Deserialize)]
struct Call {
    batch: Vec<u64>,
    said: String,
    bad: Vec<u64>,
}

/// What happened, by what is left of it.
#[derive(Clone, Debug, Default)]
struct History {
    /// Numbers in the input, and of those that the filter lets through.
    input: Vec<u64>,
    wanted: BTreeSet<u64>,
    calls: Vec<Call>,
    /// Number of each dead letter, and the attempts that it says it had.
    dead: Vec<(u64, u64)>,
    /// Outputs of the other function.
    outputs: u64,
}

/// Shows it.
pub(super) fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let records = run.count("records", 40_000, 1_000_000).next_multiple_of(REQUEST);
    let folder = run.evidence.join("sums");
    let app = make(&folder)?;
    run.note(format!("{records} records, of which some fail in every way"));
    let (mut node, api) = Api::serve(&app, &folder, PATIENCE)?;
    for first in (0..records).step_by(REQUEST as usize) {
        let numbers = first..first + REQUEST;
        let record = |n: u64| {
            let value = json!({ "n": n, "wanted": n % 10 != 3 }).to_string();
            ToProduce { key: format!("k-{}", n % KEYS).into(), value: value.into() }
        };
        api.produce("in", &numbers.map(record).collect::<Vec<_>>())?;
    }
    let patience = PATIENCE * u32::try_from(2 + records / 20_000).unwrap_or(u32::MAX);
    let done = || {
        let text = api.get("/metrics").ok()?;
        let settled = |it| counter(&text, "millrace_trigger_records_settled_total", it);
        let all = settled("odd") == records && settled("even") == records;
        (all && text.contains("millrace_trigger_parked_records")).then_some(text)
    };
    let text = wait::until(patience, done);
    let text = text.ok_or_else(|| broken(format!("it is not over within {patience:?}")))?;
    node.stop(rustix::process::Signal::TERM, PATIENCE)?;
    std::fs::write(folder.join("metrics.txt"), &text).during("keep the metrics")?;

    run.note("what is left of it, against the sums");
    let history = read(&folder)?;
    let metrics = Metrics::of(&text);
    judge(&metrics, &history).map_err(broken)?;
    let ways = |word: &str| history.calls.iter().filter(|it| it.said == word).count();
    let (ends, sleeps, raises) = (ways("ends"), ways("sleeps"), ways("raises"));
    demand!(0 < ends && 0 < sleeps && 0 < raises, "{ends} ends, {sleeps} sleeps, {raises} raises");

    run.note("planted faults");
    let mut red = 0;
    for (name, metrics, history) in mistakes(&metrics, &history) {
        demand!(judge(&metrics, &history).is_err(), "the judge does not see {name}");
        red += 1;
    }
    Ok(Figures::default()
        .with("records", records)
        .with("calls", history.calls.len())
        .with("failed", metrics.odd["failed"])
        .with("dead_lettered", history.dead.len())
        .with("filtered", metrics.odd["filtered"])
        .with("parked", metrics.odd["parked"])
        .with("processes_ended", ends + sleeps)
        .with("red_controls", red))
}

fn make(folder: &Path) -> Result<std::path::PathBuf, NotShown> {
    let app = folder.join("app");
    for part in ["odd", "even"] {
        std::fs::create_dir_all(app.join(part)).during("make the application")?;
    }
    let history = folder.join("history");
    std::fs::create_dir_all(history.join("tried")).during("make a folder")?;
    let history = std::path::absolute(history).during("find the folder")?;
    let manifest = MANIFEST.replace("FOLDER", &history.display().to_string());
    std::fs::write(app.join("millrace.toml"), manifest).during("write the manifest")?;
    std::fs::write(app.join("odd/app.py"), HANDLER).during("write a handler")?;
    std::fs::copy(binaries::component("identity"), app.join("even/identity.wasm"))
        .during("copy a component")?;
    Ok(app)
}

/// Reads what is left: calls from the function's file, the rest from the journal.
fn read(folder: &Path) -> Result<History, NotShown> {
    let mut history = History::default();
    let calls = folder.join("history/calls");
    let calls = std::fs::read_to_string(calls).during("read the calls")?;
    for line in calls.lines() {
        history.calls.push(serde_json::from_str(line).during("read a call")?);
    }
    let journal = Journal::open(&folder.join("data"))?;
    let value = |record: &Record<'_>| -> Value {
        serde_json::from_slice(record.value.unwrap_or_default()).unwrap_or_default()
    };
    let number = |value: &Value| value["n"].as_u64().unwrap_or(u64::MAX);
    each(&journal, "in", |record| {
        let value = value(record);
        history.input.push(number(&value));
        if value["wanted"] == true {
            history.wanted.insert(number(&value));
        }
    })?;
    each(&journal, "dead", |record| {
        let attempts = record.header("millrace-dead-attempts").unwrap_or_default();
        let attempts = String::from_utf8_lossy(attempts).parse().unwrap_or(u64::MAX);
        history.dead.push((number(&value(record)), attempts));
    })?;
    each(&journal, "out", |_| history.outputs += 1)?;
    Ok(history)
}

fn each(journal: &Journal, topic: &str, mut take: impl FnMut(&Record<'_>)) -> Result<(), NotShown> {
    let partitions = journal.topics.get(topic).map_or(0, |it| it.partitions);
    (0..partitions).try_for_each(|it| journal.records(topic, it, 0, &mut take).map(drop))
}

/// What a node says of both triggers, by the middle of the names.
#[derive(Clone, Debug)]
struct Metrics {
    odd: BTreeMap<&'static str, u64>,
    even: BTreeMap<&'static str, u64>,
}

const COUNTED: [(&str, &str); 12] = [
    ("polled", "millrace_trigger_records_polled_total"),
    ("filtered", "millrace_trigger_records_filtered_total"),
    ("invocations", "millrace_trigger_invocations_total"),
    ("attempts", "millrace_trigger_attempts_total"),
    ("failed", "millrace_trigger_attempts_failed_total"),
    ("retried", "millrace_trigger_records_retried_total"),
    ("dead", "millrace_trigger_records_dead_lettered_total"),
    ("settled", "millrace_trigger_records_settled_total"),
    ("outputs", "millrace_trigger_outputs_total"),
    ("runs", "millrace_invocation_run_seconds_count"),
    ("parked", "millrace_trigger_records_parked_total"),
    ("parked now", "millrace_trigger_parked_records"),
];

impl Metrics {
    fn of(text: &str) -> Self {
        let of = |function: &str| COUNTED.map(|(it, name)| (it, counter(text, name, function)));
        Self { odd: of("odd").into(), even: of("even").into() }
    }
}

/// A sample of this function, in Prometheus' text.
fn counter(text: &str, name: &str, function: &str) -> u64 {
    let label = format!("function=\"{function}\"");
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let values = lines.filter(|it| it.contains(&label)).filter_map(|it| it.rsplit(' ').next());
    values.filter_map(|it| it.parse::<f64>().ok()).map(|it| it as u64).sum()
}

/// Whether the sums are those of the history.
fn judge(metrics: &Metrics, history: &History) -> Result<(), String> {
    let (odd, even) = (&metrics.odd, &metrics.even);
    let equal = |what: &str, said: u64, is: u64| match said == is {
        true => Ok(()),
        false => Err(format!("{what}: the metrics say {said}, it is {is}")),
    };
    let (input, wanted) = (history.input.len() as u64, history.wanted.len() as u64);
    let numbers: BTreeSet<u64> = history.input.iter().copied().collect();
    equal("records of the input, each once", numbers.len() as u64, input)?;
    equal("polled", odd["polled"], input)?;
    equal("filtered", odd["filtered"], input - wanted)?;
    equal("settled", odd["settled"], input)?;
    equal("invocations", odd["invocations"], history.calls.len() as u64)?;
    // A histogram of the pool, which knows nothing of triggers: every invocation ended once.
    equal("invocations that ended", odd["runs"], history.calls.len() as u64)?;
    let given: u64 = history.calls.iter().map(|it| it.batch.len() as u64).sum();
    equal("attempts", odd["attempts"], given)?;
    let (mut failures, mut well) = (BTreeMap::<u64, u64>::new(), BTreeSet::new());
    for call in &history.calls {
        let reports = call.said == "reports";
        // Of a batch that failed as a whole nobody knows who it was, until one is alone.
        let failed = if !reports && call.batch.len() == 1 { &call.batch } else { &call.bad };
        failed.iter().for_each(|it| *failures.entry(*it).or_default() += 1);
        well.extend(call.batch.iter().filter(|it| reports && !call.bad.contains(it)));
    }
    equal("failed attempts", odd["failed"], failures.values().sum())?;
    equal("dead letters", odd["dead"], history.dead.len() as u64)?;
    equal("retried", odd["retried"], odd["failed"].saturating_sub(odd["dead"]))?;
    for (number, attempts) in &history.dead {
        let failed = failures.get(number).copied().unwrap_or(0);
        if (*attempts, failed) != (ATTEMPTS, ATTEMPTS) {
            return Err(format!("{number} failed {failed} times and is dead after {attempts}"));
        }
    }
    let dead: BTreeSet<u64> = history.dead.iter().map(|(it, _)| *it).collect();
    equal("dead letters, each once", dead.len() as u64, history.dead.len() as u64)?;
    // DEL-9: what came in ended well, was given up or was filtered, and nothing is in flight.
    let ended: BTreeSet<u64> = well.difference(&dead).chain(&dead).copied().collect();
    if let Some(lost) = history.wanted.symmetric_difference(&ended).next() {
        return Err(format!("{lost} is neither filtered nor ended, or both"));
    }
    equal("outputs", odd["outputs"], 0)?;
    equal("parked at the end", odd["parked now"], 0)?;
    for (what, is) in [
        ("polled", input),
        ("attempts", input),
        ("settled", input),
        ("outputs", history.outputs),
        ("filtered", 0),
        ("failed", 0),
        ("dead", 0),
    ] {
        equal(&format!("{what} of the other function"), even[what], is)?;
    }
    equal("outputs of the other function", history.outputs, input)
}

/// The same with a mistake each: a sum that is off by one, or a thing that nobody counted.
fn mistakes(metrics: &Metrics, history: &History) -> Vec<(String, Metrics, History)> {
    let mut planted = Vec::new();
    for (name, _) in COUNTED.iter().filter(|(it, _)| *it != "parked") {
        let mut changed = metrics.clone();
        *changed.odd.entry(name).or_default() += 1;
        planted.push((format!("{name} off by one"), changed, history.clone()));
    }
    let mut change = |name: &str, how: &dyn Fn(&mut History)| {
        let mut changed = history.clone();
        how(&mut changed);
        planted.push((name.to_owned(), metrics.clone(), changed));
    };
    change("a call left out", &|it| drop(it.calls.pop()));
    change("a call twice", &|it| it.calls.push(it.calls[0].clone()));
    change("a dead letter left out", &|it| it.dead.truncate(it.dead.len() - 1));
    change("a dead letter twice", &|it| it.dead.push(it.dead[0]));
    change("a dead letter of another record", &|it| it.dead[0].0 += 1);
    change("a record left out", &|it| it.input.truncate(it.input.len() - 1));
    change("an output left out", &|it| it.outputs -= 1);
    change("a failure that nobody reported", &|it| {
        let reports = it.calls.iter_mut().find(|it| !it.bad.is_empty());
        reports.into_iter().for_each(|it| it.bad.clear());
    });
    planted
}
