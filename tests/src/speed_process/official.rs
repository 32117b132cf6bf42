//! One event at a time, with the same handler: our bootstrap and the client that AWS publishes for
//! Python on a node, and that client on a server that does nothing. The handler itself says how
//! long its invocations take, from one call to a later one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::null::NullServer;
use super::{RECORD, median};
use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::{command, wait};
use crate::promise::{During, Figures, NotShown, Run, broken, rounded};

/// The client, as PyPI has it.
const CLIENT: &str = "awslambdaric==4.2.2";
/// Invocations of a measurement, and of the way from one mark to the next.
const INVOCATIONS: u64 = 2_000;
const MARK: u64 = 100;
/// What our bootstrap does at least of the client's invocations in the same time.
const OWN_MIN: f64 = 2.5;
/// A client's time for an invocation on a node, at most, as a multiple of that on the server that
/// does nothing.
const NODE_MAX: f64 = 1.1;
const PATIENCE: Duration = Duration::from_secs(60);

const HANDLER: &str = r#"
import os, time
calls, marks = 0, os.environ["MARKS"]

def handler(event, context):
    global calls
    calls += 1
    if calls % 100 == 0:
        with open(marks, "a") as file:
            file.write(f"{time.perf_counter_ns()}\n")
"#;

/// Shows it. Gives what is out of its bounds.
pub(super) fn run(run: &Run, rounds: u64, figures: &mut Figures) -> Result<Vec<String>, NotShown> {
    let app = run.evidence.join("official");
    let marks = |name: &str| run.evidence.join(format!("{name}.marks"));
    for name in ["own", "client"] {
        let folder = app.join(name);
        std::fs::create_dir_all(&folder).during("make a package")?;
        std::fs::write(folder.join("app.py"), HANDLER).during("write a handler")?;
        std::fs::write(marks(name), "").during("make a file for marks")?;
    }
    run.note(format!("fetch {CLIENT}"));
    let client = app.join("client");
    crate::clients::pip(&client, CLIENT)?;
    // The interpreter that our bootstrap runs in, for all of them.
    let mut asked = Command::new("python3");
    asked.args(["-c", "import sys; print(sys.executable)"]);
    let said = command::run(&mut asked, PATIENCE)?;
    demand!(said.status == Some(0), "python3 does not say where it is: {}", said.all());
    let start = format!("#!/bin/sh\nexec {} -m awslambdaric app.handler\n", said.stdout.trim());
    crate::clients::write(&client, "bootstrap", &start)?;
    let manifest: String = [("own", "python3"), ("client", "provided")]
        .map(|(name, runtime)| function(name, runtime, &marks(name)))
        .concat();
    let manifest = format!("[app]\nname = \"single\"\n{manifest}");
    std::fs::write(app.join("millrace.toml"), manifest).during("write the manifest")?;
    let (mut node, api) = Api::serve(&app, &run.evidence, PATIENCE)?;
    let server = NullServer::start(&event_headers(), RECORD)?;
    let bare = Bare(bare_client(&client, &server, &marks("null"))?);

    let record = ToProduce { key: b"EWR".to_vec(), value: RECORD.as_bytes().to_vec() };
    let records = vec![record; INVOCATIONS as usize];
    let produce = |topic: &str| api.produce(topic, &records).map_err(NotShown::from);
    let (mut own, mut added, mut times) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=rounds {
        run.note(format!("single invocations: round {round} of {rounds}"));
        let ours = time(&marks("own"), || produce("own.in"))?;
        let null = time(&marks("null"), || {
            server.give(INVOCATIONS);
            Ok(())
        })?;
        let official = time(&marks("client"), || produce("client.in"))?;
        if 0 < round {
            own.push(official / ours);
            added.push(official / null);
            times.push((ours, official, null));
        }
    }
    drop(bare);
    let (status, _) = node.stop(Signal::TERM, PATIENCE)?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());

    let micros = |of: fn(&(f64, f64, f64)) -> f64| {
        let mut values: Vec<f64> = times.iter().map(of).collect();
        rounded(median(&mut values) * 1e6, 0)
    };
    figures.set("own_us", micros(|it| it.0));
    figures.set("client_us", micros(|it| it.1));
    figures.set("null_us", micros(|it| it.2));
    let (own, added) = (median(&mut own), median(&mut added));
    figures.set("own_to_client", rounded(own, 2));
    figures.set("client_to_null", rounded(added, 3));
    let mut late = Vec::new();
    if own < OWN_MIN {
        late.push(format!("own bootstrap {own:.2} of the client, the bound is {OWN_MIN}"));
    }
    if NODE_MAX < added {
        late.push(format!("client on a node {added:.2} of its time, the bound is {NODE_MAX}"));
    }
    Ok(late)
}

/// What our node says beside an event.
fn event_headers() -> String {
    let facts = json!({
        "attempt": 1,
        "decode": "json",
        "function": "single/client",
        "headers": [],
        "idempotencyKey": "single/single/client/client/client.in/0/1000",
        "key": "RVdS",
        "offset": 1000,
        "partition": 0,
        "revision": "0123456789ab",
        "timestamp": 1_764_201_600_000_i64,
        "topic": "client.in",
        "trigger": "single/client/client",
    });
    let context = json!({ "custom": { "millrace": facts.to_string() } });
    format!(
        "Lambda-Runtime-Aws-Request-Id: 4f2b8a10-1c2d-4e3f-a456-000000000001\r\n\
         Lambda-Runtime-Deadline-Ms: 4102444800000\r\n\
         Lambda-Runtime-Invoked-Function-Arn: \
         arn:aws:lambda:us-east-1:000000000000:function:single/client\r\n\
         Lambda-Runtime-Trace-Id: Root=1-6a1b2c3d-0123456789abcdef01234567;\
         Parent=0123456789abcdef;Sampled=0\r\n\
         Lambda-Runtime-Client-Context: {context}\r\n"
    )
}

/// A function of the manifest: one instance, one record at a time, as many waiting as there are.
fn function(name: &str, runtime: &str, marks: &Path) -> String {
    let handler = if runtime == "provided" { "" } else { "handler = \"app.handler\"" };
    format!(
        r#"
[topic."{name}.in"]
partitions = 1

[function.{name}]
runtime = "{runtime}"
path = "{name}"
{handler}
env = {{ MARKS = '{}' }}
instances = {{ max = 1 }}

[[function.{name}.trigger]]
topics = ["{name}.in"]
order = "none"
decode = "json"
batch = {{ records = 1 }}
"#,
        marks.display()
    )
}

/// Seconds of an invocation, from the first mark that `load` leads to, to the last.
fn time(marks: &PathBuf, load: impl FnOnce() -> Result<(), NotShown>) -> Result<f64, NotShown> {
    let read = || -> Vec<f64> {
        let text = std::fs::read_to_string(marks).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.filter_map(|line| line.trim().parse().ok()).collect()
    };
    let before = read().len();
    let new = (INVOCATIONS / MARK) as usize;
    load()?;
    let found = wait::until(PATIENCE, || {
        let found = read();
        (before + new <= found.len()).then_some(found)
    });
    let found = found.ok_or_else(|| {
        broken(format!("{} has {} marks more, not {new}", marks.display(), read().len() - before))
    })?;
    demand!(found.len() == before + new, "{} marks for {new}", found.len() - before);
    // The first ones are while the load still comes.
    let first = before + new / 4;
    let (from, to) = (found[first], found[found.len() - 1]);
    Ok((to - from) / 1e9 / ((found.len() - 1 - first) as u64 * MARK) as f64)
}

/// A process that is killed when it is dropped.
struct Bare(Child);

impl Drop for Bare {
    fn drop(&mut self) {
        command::end(&mut self.0);
    }
}

/// The client beside the node, in the environment that a node gives it.
fn bare_client(folder: &Path, server: &NullServer, marks: &Path) -> Result<Child, NotShown> {
    let mut client = Command::new(folder.join("bootstrap"));
    client.current_dir(folder).env_clear();
    for (name, value) in [
        ("LANG", "en_US.UTF-8"),
        ("TZ", ":UTC"),
        ("PYTHONUNBUFFERED", "1"),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_provided"),
        ("AWS_LAMBDA_FUNCTION_NAME", "single.client"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "0123456789ab"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/single.client"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "0123456789ab/0"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_FORMAT", "Text"),
        ("AWS_REGION", "us-east-1"),
        ("_HANDLER", "app.handler"),
    ] {
        client.env(name, value);
    }
    client.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    client.env("LAMBDA_TASK_ROOT", folder).env("HOME", folder).env("MARKS", marks);
    client.env("AWS_LAMBDA_RUNTIME_API", server.address.to_string());
    client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    client.spawn().during("start the client")
}
