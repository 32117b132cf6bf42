//! Traces through two chained functions, as a real collector got them: it passes on what it took to a
//! sink, and a program that knows nothing of a node but its headers says whether the spans connect
//! every record of the input with what came out.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::PATIENCE;
use crate::demand;
use crate::harness::api::Api;
use crate::harness::{binaries, command, python, wait};
use crate::journal_reader::{Journal, ORIGIN, layout::Record};
use crate::promise::{During, Figures, NotShown, Run, broken};

const PACKAGES: [&str; 2] = ["rotel==0.0.1a15", "opentelemetry-proto==1.45.2"];
/// Records that come alone, each in a trace of its own, and of each other kind.
const ALONE: u64 = 10;
const OF_A_KIND: u64 = 300;

const MANIFEST: &str = r#"
[app]
name = "chain"

[topic.in]
partitions = 2

[topic.middle]
partitions = 2

[function.first]
runtime = "python3"
path    = "first"
handler = "app.handler"

[[function.first.trigger]]
topics = ["in"]
output = { topic = "middle" }

[function.second]
runtime = "wasm"
path    = "second"
handler = "identity.wasm"

[[function.second.trigger]]
topics = ["middle"]
output = { topic = "out" }
"#;

const HANDLER: &str = r#"import os

def handler(value, context):
    return {"trace": context.trace, "xray": os.environ.get("_X_AMZN_TRACE_ID")}
"#;

/// Shows it.
pub(super) fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let interpreter = python::with(&PACKAGES)?;
    let folder = run.evidence.join("traces");
    let app = folder.join("app");
    for part in ["first", "second"] {
        std::fs::create_dir_all(app.join(part)).during("make the application")?;
    }
    std::fs::write(app.join("millrace.toml"), MANIFEST).during("write the manifest")?;
    std::fs::write(app.join("first/app.py"), HANDLER).during("write a handler")?;
    std::fs::copy(binaries::component("identity"), app.join("second/identity.wasm"))
        .during("copy a component")?;

    run.note("a collector, and a node that sends it traces");
    let collector = Collector::start(&interpreter, &folder)?;
    let words = ["--traces-endpoint", &collector.url, "--traces-ratio", "1"];
    let (mut node, api) = Api::serve_with(&app, &folder, &words, PATIENCE)?;
    let mut number = 0;
    for _record in 0..ALONE {
        number += 1;
        produce(&api, "own", number..number + 1)?;
        through(&api, number)?;
    }
    for kind in ["many", "unsampled", "none"] {
        produce(&api, kind, number + 1..number + 1 + OF_A_KIND)?;
        number += OF_A_KIND;
        through(&api, number)?;
    }
    node.stop(rustix::process::Signal::TERM, PATIENCE)?;

    run.note("what the collector got");
    let records = folder.join("records.jsonl");
    write_records(&folder.join("data"), &records)?;
    let mut said = Value::Null;
    let held = wait::until(PATIENCE, || {
        said = collector.judge("judge", &records).ok()?;
        said["wrong"].is_null().then_some(())
    });
    demand!(held.is_some(), "the spans do not connect the records: {}", said["wrong"]);
    let planted = collector.judge("plant", &records)?;
    let (found, missed) = (planted["found"].as_u64().unwrap_or(0), &planted["missed"]);
    demand!(missed == &json!([]), "the judge does not see {missed}");

    run.note("a node without traces");
    let (mut node, api) = Api::serve(&app, &folder, PATIENCE)?;
    produce(&api, "own", number + 1..number + 11)?;
    through(&api, number + 10)?;
    let outputs = api.records("out", 10_000)?;
    node.stop(rustix::process::Signal::TERM, PATIENCE)?;
    let is_traced = |it: &&Value| it["headers"].to_string().contains("traceparent");
    let traced = outputs.iter().filter(is_traced).count() as u64;
    demand!(
        traced == number && outputs.len() as u64 == number + 10,
        "{traced} of {} outputs are traced, not the {number} before the last start",
        outputs.len()
    );
    let mut figures = Figures::default().with("records", number);
    for name in ["spans", "links", "parents", "through", "untraced"] {
        figures.set(name, said[name].clone());
    }
    Ok(figures.with("red_controls", found))
}

/// Records with these numbers, in one request each partition: they come in batches.
fn produce(api: &Api, kind: &str, numbers: std::ops::Range<u64>) -> Result<(), NotShown> {
    let records: Vec<Value> = numbers
        .map(|number| {
            let flags = if kind == "unsampled" { "00" } else { "01" };
            let context = format!("00-{number:032x}-{number:016x}-{flags}");
            let headers = match kind {
                "none" => json!([]),
                _ => json!([
                    { "name": "traceparent", "value": context },
                    { "name": "tracestate", "value": format!("test={number}") },
                ]),
            };
            json!({ "key": format!("{kind}-{number}"), "value": "0", "headers": headers })
        })
        .collect();
    api.post("/v1/topics/in/records", &json!({ "records": records })).map(drop)?;
    Ok(())
}

/// Until so many outputs are there.
fn through(api: &Api, count: u64) -> Result<(), NotShown> {
    let there = || api.end_of("out").is_ok_and(|it| i64::try_from(count) == Ok(it)).then_some(());
    match wait::until(PATIENCE, there) {
        Some(()) => Ok(()),
        None => Err(broken(format!("{count} records did not come through in {PATIENCE:?}"))),
    }
}

/// Every record of the stopped node's topics, as the judge wants it.
fn write_records(data: &Path, to: &Path) -> Result<(), NotShown> {
    let journal = Journal::open(data)?;
    let mut lines = String::new();
    let text = |bytes: Option<&[u8]>| {
        bytes.map(|it| String::from_utf8_lossy(it).into_owned()).unwrap_or_default()
    };
    for topic in ["in", "middle", "out"] {
        let partitions = journal.topics.get(topic).map_or(0, |it| it.partitions);
        for partition in 0..partitions {
            let mut each = |record: &Record<'_>| {
                let key = text(record.key);
                let told: Value = serde_json::from_str(&text(record.value)).unwrap_or_default();
                let line = json!({
                    "topic": topic,
                    "partition": partition,
                    "offset": record.offset,
                    "kind": key.split('-').next(),
                    "traceparent": text(record.header("traceparent")),
                    "tracestate": text(record.header("tracestate")),
                    "origin": text(record.header(ORIGIN)),
                    "told": told,
                });
                lines.push_str(&format!("{line}\n"));
            };
            journal.records(topic, partition, 0, &mut each)?;
        }
    }
    std::fs::write(to, lines).during("write the records")
}

/// A collector and the sink behind it.
struct Collector {
    sink: Child,
    agent: Child,
    interpreter: PathBuf,
    spans: PathBuf,
    url: String,
}

impl Collector {
    fn start(interpreter: &Path, folder: &Path) -> Result<Self, NotShown> {
        let spans = folder.join("spans.jsonl");
        let mut sink = program(interpreter, "sink");
        sink.arg(&spans).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut sink = sink.spawn().during("start the sink")?;
        let mut port = String::new();
        let said = sink.stdout.take().map(BufReader::new);
        let read = said.map(|mut it| it.read_line(&mut port));
        let port = port.trim().to_owned();
        if !matches!(read, Some(Ok(_))) || port.is_empty() {
            command::end(&mut sink);
            return Err(broken("the sink does not say its port"));
        }
        let started = start_agent(interpreter, folder, &port);
        let (agent, url) = started.inspect_err(|_| command::end(&mut sink))?;
        let collector =
            Self { sink, agent, interpreter: interpreter.to_owned(), spans, url: url.clone() };
        let address = url.trim_start_matches("http://").to_owned();
        let listens = || std::net::TcpStream::connect(&address).ok();
        match wait::until(PATIENCE, listens) {
            Some(_) => Ok(collector),
            None => Err(NotShown::Unchecked("rotel does not listen".to_owned())),
        }
    }

    fn judge(&self, verb: &str, records: &Path) -> Result<Value, NotShown> {
        let mut judge = program(&self.interpreter, verb);
        judge.arg(&self.spans).arg(records);
        let said = command::run(&mut judge, Duration::from_secs(60))?;
        let line = said.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).during(format!("read {}", said.all()))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        command::end(&mut self.agent);
        command::end(&mut self.sink);
    }
}

fn program(interpreter: &Path, verb: &str) -> Command {
    let mut program = Command::new(interpreter);
    // No bytecode beside the sources.
    program.arg("-B").arg(binaries::root().join("tests/spans/spans.py")).arg(verb);
    program
}

/// The collector as it is published, and its address.
fn start_agent(
    interpreter: &Path,
    folder: &Path,
    sink_port: &str,
) -> Result<(Child, String), NotShown> {
    let place =
        "import os, rotel; print(os.path.join(os.path.dirname(rotel.__file__), 'rotel-agent'))";
    let said = command::run(Command::new(interpreter).args(["-c", place]), PATIENCE)?;
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        listener.map(|it| it.to_string()).during("find a free port")
    };
    let (http, grpc) = (free()?, free()?);
    let log = std::fs::File::create(folder.join("rotel.log")).during("make a log")?;
    let mut agent = Command::new(said.stdout.trim());
    agent.args(["start", "--otlp-http-endpoint", &http, "--otlp-grpc-endpoint", &grpc]);
    agent.args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"]);
    agent.arg("--otlp-exporter-endpoint").arg(format!("http://127.0.0.1:{sink_port}"));
    agent.args(["--batch-timeout", "100ms"]).stdin(Stdio::null());
    agent.stderr(log.try_clone().during("share a log")?).stdout(log).current_dir(folder);
    let agent = agent.spawn().map_err(|error| NotShown::Unchecked(format!("rotel: {error}")))?;
    Ok((agent, format!("http://{http}")))
}
