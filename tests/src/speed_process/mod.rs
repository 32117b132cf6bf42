//! The promise about the speed of processes: one worker of ours against the same handler in a bare
//! loop of decode, call and encode in one thread of the same interpreter, interleaved, on the same
//! records; its start against the bare interpreter's; and single events through our bootstrap, and
//! through the client that AWS publishes, on a node and on a server that does nothing.

mod null;
mod official;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frame::{Context, Order, RequestBuilder, Response};
use runtime::{
    Calling, Decode, Event, Invocation, Invoke as _, Language, Pool, PoolConfig, Program, Spawner,
    WorkerSpec, Workers, WorkersConfig,
};

use crate::demand;
use crate::harness::{binaries, command};
use crate::promise::{During, Figures, NotShown, Run, broken, rounded};

/// Records of a batch.
const BATCH: usize = 100;
/// How long one measurement takes.
const SPAN: Duration = Duration::from_millis(400);
/// Starts that are timed.
const STARTS: usize = 9;
/// The longest start, as a multiple of the bare interpreter's.
const START_MAX: f64 = 1.2;

/// 200 bytes of JSON, as a weather station sends it.
const RECORD: &str = "{\"origin\":\"EWR\",\"time_hour\":\"2013-01-30T05:00:00Z\",\"temp\":42.8,\
    \"dewp\":41,\"humid\":95.9,\"wind_dir\":30,\"wind_speed\":6.90468,\"wind_gust\":17.2,\
    \"precip\":0.01,\"pressure\":1018.3,\"visib\":2.5,\"seq\":1234567}";

/// A language, and what it must reach of its bare loop without and with an output a record.
struct Side {
    name: &'static str,
    language: Language,
    file: &'static str,
    handler: &'static str,
    noop: &'static str,
    echo: &'static str,
    /// Prints records a second of both loops.
    bare: &'static str,
    /// Imports what the bootstrap imports, and ends.
    bare_start: &'static str,
    noop_min: f64,
    echo_min: f64,
}

const SIDES: &[Side] = &[
    Side {
        name: "python",
        language: Language::Python(None),
        file: "app.py",
        handler: "app.handler",
        noop: "def handler(value, context):\n    return None\n",
        echo: "def handler(value, context):\n    return value\n",
        bare: r#"
import json, sys, time
raw, span = [sys.argv[1].encode()] * 100, float(sys.argv[2])
def noop(value, context):
    return None
def echo(value, context):
    return value
def run(handler, has_output):
    count, until = 0, time.perf_counter() + span
    start = time.perf_counter()
    while time.perf_counter() < until:
        for it in raw:
            made = handler(json.loads(it), None)
            if has_output:
                json.dumps(made).encode()
        count += 100
    return count / (time.perf_counter() - start)
run(echo, True)
print(run(noop, False), run(echo, True))
"#,
        bare_start: "import json, os, socket, sys, time, struct, types, importlib",
        noop_min: 0.5,
        echo_min: 0.55,
    },
    Side {
        name: "node",
        language: Language::Node(None),
        file: "index.js",
        handler: "index.handler",
        noop: "exports.handler = () => undefined;",
        echo: "exports.handler = (value) => value;",
        bare: r#"
const [, text, seconds] = process.argv;
const raw = Array(100).fill(Buffer.from(text));
const run = (handler, hasOutput) => {
  let count = 0;
  const start = performance.now();
  while (performance.now() < start + 1000 * seconds) {
    for (const it of raw) {
      const made = handler(JSON.parse(it.toString()));
      if (hasOutput) Buffer.from(JSON.stringify(made));
    }
    count += 100;
  }
  return (count / (performance.now() - start)) * 1000;
};
const [noop, echo] = [() => undefined, (value) => value];
run(noop, false);
run(echo, true);
console.log(run(noop, false), run(echo, true));
"#,
        bare_start: "require('node:fs'); require('node:net'); require('node:path'); require('node:util')",
        noop_min: 0.36,
        echo_min: 0.35,
    },
];

/// Shows it.
///
/// # Errors
///
/// When a record is not answered; with `--full` also when a figure is out of its bound.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let rounds = run.count("rounds", 3, 9);
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let threads = threads.during("start threads")?;
    let mut figures = Figures::default();
    let mut late = threads.block_on(batches(run, rounds, &mut figures))?;
    let missing = match official::run(run, rounds, &mut figures) {
        Ok(more) => {
            late.extend(more);
            None
        }
        Err(NotShown::Unchecked(why)) => Some(why),
        Err(error) => return Err(error),
    };
    if !late.is_empty() {
        figures.set("missed", late.join("; "));
    }
    demand!(late.is_empty() || !run.full, "{} ({})", late.join("; "), figures);
    missing.map_or(Ok(figures), |why| Err(NotShown::Unchecked(why)))
}

/// Batches and starts; gives what is out of its bounds.
async fn batches(run: &Run, rounds: u64, figures: &mut Figures) -> Result<Vec<String>, NotShown> {
    let spawner = Spawner::launch(&binaries::millrace(), &["__spawner"]);
    let config = WorkersConfig {
        dir: run.evidence.join("workers"),
        path: std::env::var_os("PATH"),
        brokers: "b-1:9092".to_owned(),
        control_groups: true,
        logs: None,
    };
    let workers = Workers::new(spawner.during("start a spawner")?, config);
    let workers = workers.during("prepare workers")?;
    let mut late = Vec::new();
    for side in SIDES {
        let program = workers.program(side.language).await;
        let program = program.map_err(|missing| NotShown::Unchecked(missing.to_string()))?;
        let noop = pool(run, &workers, side, &program, "noop", side.noop)?;
        let echo = pool(run, &workers, side, &program, "echo", side.echo)?;
        let (mut noops, mut echoes, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            run.note(format!("{}: round {} of {rounds}", side.name, round + 1));
            let bare = bare(side, &program)?;
            noops.push(rate(&noop, 0).await? / bare.0);
            echoes.push(rate(&echo, BATCH).await? / bare.1);
        }
        run.note(format!("{}: starts", side.name));
        for number in 0..STARTS {
            let name = format!("start-{number}");
            let fresh = pool(run, &workers, side, &program, &name, side.noop)?;
            let bare = bare_start(side, &program)?;
            let started_at = Instant::now();
            fresh.try_start().await.during("start a process")?;
            starts.push(started_at.elapsed().as_secs_f64() / bare);
            fresh.drain().await;
        }
        for (what, mut ratios, bound, is_floor) in [
            ("noop", noops, side.noop_min, true),
            ("echo", echoes, side.echo_min, true),
            ("start", starts, START_MAX, false),
        ] {
            let found = median(&mut ratios);
            figures.set(&format!("{}_{what}_ratio", side.name), rounded(found, 2));
            if (is_floor && found < bound) || (!is_floor && bound < found) {
                late.push(format!("{} {what}: {found:.2}, the bound is {bound}", side.name));
            }
        }
    }
    workers.wait_gone(Duration::from_secs(2)).await;
    Ok(late)
}

fn pool(
    run: &Run,
    workers: &Arc<Workers>,
    side: &Side,
    program: &Program,
    name: &str,
    code: &str,
) -> Result<Arc<Pool>, NotShown> {
    let package = run.evidence.join(format!("{}-{name}", side.name));
    std::fs::create_dir_all(&package).during("make a package")?;
    std::fs::write(package.join(side.file), code).during("write a handler")?;
    let spec = WorkerSpec {
        program: program.clone(),
        handler: side.handler.to_owned(),
        package,
        env: std::collections::BTreeMap::new(),
        revision: "0123456789ab".to_owned(),
        timeout: Duration::from_secs(30),
    };
    let config = PoolConfig {
        memory_bytes_max: 512 << 20,
        max: 1,
        fresh: runtime::Fresh::Never,
        ..PoolConfig::new(side.name)
    };
    Ok(workers.pool(spec, config))
}

/// Records a second of one worker, batch after batch; each must give that many outputs.
async fn rate(pool: &Pool, outputs: usize) -> Result<f64, NotShown> {
    let deadline_ms = bus::Timestamp::now().0 + 60_000;
    let context = Context { deadline_ms, ..Context::default() };
    let mut builder = RequestBuilder::new(7, Order::Key, &context, &[("in", 0)]);
    for offset in 0..BATCH as i64 {
        builder.push(0, offset, 1_000, 1, Some(b"EWR"), Some(RECORD.as_bytes()), &[], 0);
    }
    let frame: bytes::Bytes = builder.finish().into();
    let calling = Calling { event: Event::Record, decode: Decode::Json, has_output: true };
    let invocation = Invocation {
        frame,
        batch_id: 7,
        records: BATCH as u32,
        timeout: Duration::from_secs(30),
        calling,
        is_risky: false,
        ends_with_caller: false,
        named: runtime::Named::default(),
    };
    // Warm: as the bare loop is when its turn is counted.
    let warm_until = Instant::now() + SPAN;
    while Instant::now() < warm_until {
        pool.invoke(invocation.clone()).await.during("run a batch")?;
    }
    let (mut batches, started_at) = (0, Instant::now());
    while started_at.elapsed() < SPAN {
        let answer = pool.invoke(invocation.clone()).await.during("run a batch")?;
        let response = Response::parse(&answer.frame, 7, BATCH).during("read an answer")?;
        let found = response.outputs().count();
        demand!(response.all_ok() && found == outputs, "a batch gave {found} outputs");
        batches += 1;
    }
    Ok(f64::from(batches) * BATCH as f64 / started_at.elapsed().as_secs_f64())
}

/// Records a second of the bare loops, without and with an output.
fn bare(side: &Side, program: &Program) -> Result<(f64, f64), NotShown> {
    let mut bare = interpreter(side, &program.path, side.bare);
    bare.args([RECORD, &SPAN.as_secs_f64().to_string()]);
    let said = command::run(&mut bare, Duration::from_secs(30))?;
    let mut rates = said.stdout.split_whitespace().filter_map(|it| it.parse::<f64>().ok());
    match (rates.next(), rates.next()) {
        (Some(noop), Some(echo)) => Ok((noop, echo)),
        _ => Err(broken(format!("the bare loop said {}", said.all()))),
    }
}

/// Seconds from nothing to a bare interpreter that has imported the same, and its end.
fn bare_start(side: &Side, program: &Program) -> Result<f64, NotShown> {
    let mut bare = interpreter(side, &program.path, side.bare_start);
    let started_at = Instant::now();
    let status = bare.status().during("start an interpreter")?;
    demand!(status.success(), "the bare interpreter ended with {status}");
    Ok(started_at.elapsed().as_secs_f64())
}

fn interpreter(side: &Side, path: &Path, code: &str) -> Command {
    let mut command = Command::new(path);
    let flag = if side.name == "python" { "-c" } else { "-e" };
    command.arg(flag).arg(code);
    command
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
