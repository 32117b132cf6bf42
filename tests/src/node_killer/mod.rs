//! The promise that a record whose processing ends the whole node is found and dead-lettered after
//! seven attempts: `node-killer`, on both buses.
//!
//! ```text
//! in[4] ──▶ work ──▶ out           a killer asks this process to kill its node, and waits for it
//!       └─▶ beside ──▶ beside      gets every record, and none of its may be lost or blamed
//! ```
//!
//! The function cannot reach its node, so it says over a socket which record it runs; whoever
//! listens here sends SIGKILL and starts the node again, as a supervisor does, and nothing else.
//! On Kafka one of three nodes is killed so too, whichever runs the record. One more is parked first,
//! because it fails, and kills its node whenever it is tried again.

mod three;
mod verdict;

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::node::Node;
use crate::harness::python::{self, Asked};
use crate::harness::rng::Rng;
use crate::harness::{binaries, wait};
use crate::promise::{During, Figures, NotShown, Run, broken, seconds};
use verdict::{Expected, FAULTS, Seen};

/// Attempts that no node outlives, before a record is given up: more than the trigger allows, because
/// nodes end for other reasons too.
const ATTEMPTS: u32 = 7;
const KEYS: u64 = 499;
/// Records of a request.
const BATCH: u64 = 500;
const PATIENCE: Duration = Duration::from_secs(120);

const TOPICS: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 4

[topic.out]
partitions = 4

[topic.beside]
partitions = 4
"#;

const FUNCTIONS: &str = r#"
[function.work]
runtime = "python3"
path    = "work"
handler = "app.work"
env     = { LISTENER = "ADDRESS", FAILS_FIRST = "FAILS" }

[[function.work.trigger]]
topics = ["in"]
start  = "earliest"
batch  = { records = 100 }
retry  = RETRY
output = { topic = "out" }

[function.beside]
runtime = "python3"
path    = "work"
handler = "app.beside"

[[function.beside.trigger]]
topics = ["in"]
start  = "earliest"
batch  = { records = 100 }
output = { topic = "beside" }
"#;

const HANDLER: &str = r#"
import os
import socket


def work(record, context):
    if record["kills"]:
        if os.environ["FAILS_FIRST"] and context.attempt == 1:
            raise ValueError("it is to be parked")
        host, port = os.environ["LISTENER"].rsplit(":", 1)
        with socket.create_connection((host, int(port))) as listener:
            listener.sendall(b"%d %s\n" % (record["n"], __file__.encode()))
            listener.recv(1)
    return record


def beside(record, context):
    return record
"#;

/// A manifest whose function says over this address what it runs.
fn manifest(address: &str, expected: &Expected) -> String {
    // What waits for ten seconds or more waits in the park topic.
    let (retry, fails) = match expected.fails_first {
        true => (r#"{ backoff = ["10s", "10s", "10s", "10s"] }"#, "yes"),
        false => ("{ attempts = 5 }", ""),
    };
    let functions = FUNCTIONS.replace("ADDRESS", address);
    format!(
        "{TOPICS}{}",
        functions.replace("RETRY", retry).replace("\"FAILS\"", &format!("{fails:?}"))
    )
}

/// Where everything of the run on one bus lies.
struct Mill {
    folder: PathBuf,
    app: PathBuf,
    /// The node's file, where it is on Kafka.
    config: Option<PathBuf>,
}

impl Mill {
    fn make(folder: PathBuf, brokers: Option<String>) -> Result<Self, NotShown> {
        let app = folder.join("app");
        std::fs::create_dir_all(app.join("work")).during("make the application")?;
        std::fs::write(app.join("work/app.py"), HANDLER).during("write the functions")?;
        let config = folder.join("node.toml");
        if let Some(brokers) = &brokers {
            let text = format!(
                "[kafka]\nbrokers = \"{brokers}\"\ncluster = \"mill\"\ncreate-topics = true\n"
            );
            std::fs::write(&config, text).during("write the node's file")?;
        }
        Ok(Self { folder, app, config: brokers.map(|_| config) })
    }

    fn write(&self, manifest: &str) -> Result<(), NotShown> {
        std::fs::write(self.app.join("millrace.toml"), manifest).during("write the manifest")
    }

    fn serve(&self) -> Result<(Node, Api), NotShown> {
        let state = self.folder.join("state");
        let mut serve = Command::new(binaries::millrace());
        serve.arg("serve").arg("--app").arg(&self.app).arg("--data").arg(self.folder.join("data"));
        serve.env("XDG_STATE_HOME", &state).env_remove("MILLRACE_NODE").env("NO_COLOR", "1");
        if let Some(config) = &self.config {
            serve.arg("--config").arg(config);
        }
        let mut node = Node::start(&mut serve, &self.folder.join("node.log"))?;
        let api = Api::of(&state, &mut node, PATIENCE)?;
        Ok((node, api))
    }
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
    let records = run.count("records", 10_000, 100_000);
    let killers = run.count("killers", 3, 10);
    let mut figures = Figures::default();
    for (name, count) in [("one_", 1), ("several_", killers), ("parked_", 1)] {
        let first = if name == "parked_" { ", parked first," } else { "" };
        run.note(format!(
            "{count} of {records} records{first} end their node, on the embedded bus"
        ));
        let mill = Mill::make(folder(run, &format!("{name}embedded"))?, None)?;
        let mut expected = Expected::draw(&mut Rng::new(run.seed, count), records, count, true);
        expected.fails_first = name == "parked_";
        let played = play(run, &mill, &expected)?;
        let seen = Seen::in_journal(&mill.folder.join("data"))?;
        figures.extend(&format!("{name}embedded_"), judge(&expected, &seen, played)?);
    }
    run.note(format!("one of {records} records ends its node, on Kafka"));
    let (kafka, python) = (Kafka::fetch()?, python::with(&["aiokafka==0.14.0"])?);
    let within = folder(run, "kafka")?;
    let broker = Broker::start(&kafka, &within.join("broker"), Listeners::Plain)?;
    let mill = Mill::make(within, Some(broker.address()))?;
    let expected = Expected::draw(&mut Rng::new(run.seed, 99), records, 1, false);
    let played = play(run, &mill, &expected)?;
    let mut dump = Asked::start(&python, "dump.py", &[&broker.address()], &mill.folder)?;
    let seen = Seen::in_kafka(|topic| dump.ask(topic, PATIENCE))?;
    figures.extend("one_kafka_", judge(&expected, &seen, played)?);
    drop(broker);
    run.note(format!("one of {records} records ends whichever of three nodes runs it"));
    let expected = Expected::draw(&mut Rng::new(run.seed, 3), records, 1, false);
    let folder = folder(run, "three")?;
    let broker = Broker::start(&kafka, &folder.join("broker"), Listeners::Plain)?;
    let played = three::play(run, &folder, &broker.address(), &expected)?;
    let mut dump = Asked::start(&python, "dump.py", &[&broker.address()], &folder)?;
    let seen = Seen::in_kafka(|topic| dump.ask(topic, PATIENCE))?;
    figures.extend("three_nodes_", judge(&expected, &seen, played)?);
    Ok(figures.with("red_controls", 5 * FAULTS.len()))
}

fn folder(run: &Run, name: &str) -> Result<PathBuf, NotShown> {
    let folder = run.evidence.join(name);
    std::fs::create_dir_all(&folder).during("make a folder")?;
    Ok(folder)
}

/// What it took until every record had its end.
#[derive(Clone, Copy, Debug)]
struct Played {
    deaths: u32,
    slowest_start: Duration,
    took: Duration,
}

/// Brings the records, then supervises the node until nothing is left to do.
fn play(run: &Run, mill: &Mill, expected: &Expected) -> Result<Played, NotShown> {
    mill.write(TOPICS)?;
    let (mut node, api) = mill.serve()?;
    for start in (0..expected.records).step_by(BATCH as usize) {
        let until = (start + BATCH).min(expected.records);
        let batch: Vec<ToProduce> = (start..until).map(|it| expected.record(it, KEYS)).collect();
        api.produce("in", &batch)?;
    }
    node.stop(Signal::TERM, PATIENCE)?;
    let listener = TcpListener::bind("127.0.0.1:0").during("listen")?;
    let address = listener.local_addr().during("listen")?.to_string();
    listener.set_nonblocking(true).during("listen")?;
    mill.write(&manifest(&address, expected))?;

    let started_at = Instant::now();
    let (mut node, mut api) = mill.serve()?;
    let mut played = Played { deaths: 0, slowest_start: Duration::ZERO, took: Duration::ZERO };
    loop {
        if let Some((killer, _)) = asked(&listener)? {
            demand!(node.kill()?, "the node was gone before it was killed");
            played.deaths += 1;
            run.note(format!("record {killer} ends the node: {} times so far", played.deaths));
            (node, api) = mill.serve()?;
            played.slowest_start = played.slowest_start.max(node.started_at.elapsed());
            continue;
        }
        demand!(node.is_running(), "the node ended by itself: {}", node.tail());
        if is_done(&api, expected)? {
            break;
        }
        demand!(started_at.elapsed() < PATIENCE, "not done: {}", api.status()?);
        wait::pause(Duration::from_millis(20));
    }
    played.took = started_at.elapsed();
    let (status, _) = node.stop(Signal::TERM, PATIENCE)?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    Ok(played)
}

/// Whether a record asks for the end of its node: its number, and the file that runs it.
fn asked(listener: &TcpListener) -> Result<Option<(u64, PathBuf)>, NotShown> {
    let stream: TcpStream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(broken(format!("accept: {error}"))),
    };
    stream.set_nonblocking(false).during("listen")?;
    stream.set_read_timeout(Some(PATIENCE)).during("listen")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).during("hear a record")?;
    let said = line.trim().split_once(' ');
    Ok(said.and_then(|(number, file)| Some((number.parse().ok()?, PathBuf::from(file)))))
}

fn is_done(api: &Api, expected: &Expected) -> Result<bool, NotShown> {
    let of = |topic: &str| Ok::<_, NotShown>(api.end_of(topic)?.unsigned_abs());
    let killers = expected.killers.len() as u64;
    // On Kafka some may be there twice.
    Ok(expected.records - killers <= of("out")?
        && expected.records <= of("beside")?
        && api.lag()? == 0)
}

fn judge(expected: &Expected, seen: &Seen, played: Played) -> Result<Figures, NotShown> {
    let found = verdict::judge(expected, seen).map_err(broken)?;
    for (name, plant) in FAULTS {
        let mut other = seen.clone();
        plant(&mut other, expected);
        demand!(verdict::judge(expected, &other).is_err(), "a planted fault is not seen: {name}");
    }
    let killers = expected.killers.len() as u32;
    // Of several, one may end a node while another is looked for.
    let most = match (killers, expected.fails_first) {
        (1, false) => ATTEMPTS,
        // Nobody suspected it when it ran for the first time after it was parked.
        (1, true) => ATTEMPTS + 1,
        _ => 2 * ATTEMPTS * killers,
    };
    let deaths = played.deaths;
    demand!(deaths <= most, "{deaths} deaths for {killers} records, {ATTEMPTS} for one");
    demand!(ATTEMPTS <= deaths, "only {deaths} deaths for {killers} records");
    Ok(Figures::default()
        .with("records", expected.records)
        .with("killers", killers)
        .with("deaths", deaths)
        .with("dead_letters", found.dead_letters)
        .with("repeats", found.repeats)
        .with("slowest_start_s", seconds(played.slowest_start))
        .with("took_s", seconds(played.took)))
}
