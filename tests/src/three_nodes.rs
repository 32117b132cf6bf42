//! The promise `three-nodes`: one script brings up a real Kafka and three nodes, deploys the weather
//! application and shows the cluster; a node that is killed then is not missed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demand;
use crate::harness::kafka::Kafka;
use crate::harness::python::{self, Asked};
use crate::harness::{binaries, command, ports, wait};
use crate::promise::{During, Figures, NotShown, Run, broken, seconds};

/// A client of Kafka in Python alone, with a protocol of its own.
const CLIENT: &str = "aiokafka==0.14.0";
/// What the script may take, once everything is built.
const UP_MAX: Duration = Duration::from_secs(15);
/// The same where nobody asked for figures.
const UP_CI: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);
/// What a command that asks all nodes may take when one is gone, on a loaded machine.
const ANSWER_MAX: Duration = Duration::from_secs(8);
const NAMES: [&str; 3] = ["edge-1", "edge-2", "edge-3"];
/// Gusts of Beaufort 8 and more in the committed readings, counted by hand-written code below.
const GUST_M_S: f64 = 17.2;
const MPH_TO_M_S: f64 = 0.447_04;

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    run.note("fetch Kafka and a client of it");
    Kafka::fetch()?;
    let python = python::with(&[CLIENT])?;
    let dir = run.evidence.join("cluster");
    // Of Kafka, its controller, and the nodes.
    let [port, ..] = ports::free::<5>()?;
    run.note("the script");
    let started_at = Instant::now();
    let mut up = script("up", &dir);
    let up = command::run(up.arg("--port").arg(port.to_string()), 2 * PATIENCE)?;
    let took = started_at.elapsed();
    let _down = Down(&dir);
    demand!(up.status == Some(0), "up ended with {:?}: {}", up.status, up.all());
    let most = if run.full { UP_MAX } else { UP_CI };
    demand!(took <= most, "up took {took:?}, {most:?} may be: {}", up.all());
    for name in NAMES {
        let is_it = |line: &&str| line.split_whitespace().nth(1) == Some(name);
        let row = up.stdout.lines().find(is_it).unwrap_or_default();
        let votes = row.contains(" voter ") || row.contains(" leader ");
        demand!(votes && row.contains(" up "), "{name} does not vote: {}", up.stdout);
    }
    let status = told(&dir, &["status"])?;
    demand!(names(&status["nodes"]) == NAMES, "not all nodes answered edge-3: {status}");
    run.note("alerts, by a client that knows no node");
    let wanted = gales()?;
    let address = format!("127.0.0.1:{port}");
    let mut reader = Asked::start(&python, "dump.py", &[&address], &run.evidence)?;
    arrive(&mut reader, wanted)?;
    run.note("a node is killed, and the readings come again");
    let place = account(&dir, &mut reader)?;
    // Its partitions have three owners, and nothing is left to skip.
    let sought = told(&dir, &["trigger", "seek", "tidy", "--to", "latest", "--yes"])?;
    let moved = sought["partitions"].as_array().map_or(0, Vec::len);
    demand!(moved == 4 && sought["skipped"] == 0, "a seek at edge-3: {sought}");
    let pid = std::fs::read_to_string(dir.join("edge-2/node.pid")).during("read a pid")?;
    let kill = command::run(Command::new("kill").args(["-9", pid.trim()]), PATIENCE)?;
    demand!(kill.status == Some(0), "edge-2 was gone before: {}", kill.all());
    let asked_at = Instant::now();
    let status = told(&dir, &["status"])?;
    let answered = asked_at.elapsed();
    demand!(names(&status["unheard"]) == ["edge-2"], "edge-2 is not missed: {status}");
    demand!(answered < ANSWER_MAX, "status took {answered:?} with one node gone");
    let mut produce = Command::new(binaries::millrace());
    produce.args(["produce", "readings", "--key-field", "origin", "-f"]).arg(readings(&dir)?);
    produce.env("XDG_STATE_HOME", dir.join("edge-3/state")).env_remove("MILLRACE_NODE");
    let killed_at = Instant::now();
    let produced = command::run(&mut produce, PATIENCE)?;
    demand!(produced.status == Some(0), "produce at edge-3: {}", produced.all());
    arrive(&mut reader, 2 * wanted)?;
    run.note("what the dead one settled is told by others");
    succeeded(&told(&dir, &["record", &place])?)?;
    Ok(Figures::default()
        .with("status_with_one_gone_s", seconds(answered))
        .with("up_s", seconds(took))
        .with("alerts", 2 * wanted)
        .with("after_the_kill_s", seconds(killed_at.elapsed())))
}

/// What a command prints at edge-3, as JSON.
fn told(dir: &Path, words: &[&str]) -> Result<Value, NotShown> {
    let mut command = Command::new(binaries::millrace());
    command.args(words).args(["-o", "json"]).env("XDG_STATE_HOME", dir.join("edge-3/state"));
    let said = command::run(command.env_remove("MILLRACE_NODE"), PATIENCE)?;
    demand!(said.status == Some(0), "{words:?} at edge-3: {}", said.all());
    serde_json::from_str(&said.stdout).during("read what a command printed")
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|it| it["node"].as_str()).collect()
}

/// Looks at a record that an alert was made from, at edge-3, whichever node runs its partition;
/// where it lies, as Kafka's client told.
fn account(dir: &Path, reader: &mut Asked) -> Result<String, NotShown> {
    let said = reader.ask("alerts", PATIENCE)?;
    let mut records = said["records"].as_array().into_iter().flatten();
    let origin = records.find_map(|record| record[3]["millrace-origin"].as_str());
    let origin: Vec<&str> = origin.unwrap_or_default().split(';').collect();
    demand!(4 <= origin.len(), "no alert says what it was made from: {said}");
    let place = format!("{}[{}]@{}", origin[1], origin[2], origin[3]);
    succeeded(&told(dir, &["record", &place])?)?;
    Ok(place)
}

/// Every trigger that reads it has succeeded, and says on which node.
fn succeeded(account: &Value) -> Result<(), NotShown> {
    let triggers = account["triggers"].as_array().into_iter().flatten();
    let well = triggers.filter(|it| it["state"] == "succeeded" && it["node"].is_string());
    demand!(well.count() != 0, "a record that an alert was made from: {account}");
    Ok(())
}

/// Ends everything, whatever became of the run.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        drop(command::run(&mut script("down", self.0), 2 * PATIENCE));
    }
}

fn script(name: &str, dir: &Path) -> Command {
    let mut script = Command::new(binaries::root().join("examples/cluster").join(name));
    script.arg("--dir").arg(dir).env("MILLRACE", binaries::millrace()).env("NO_COLOR", "1");
    script.env_remove("MILLRACE_NODE");
    script
}

/// Waits until there are alerts of so many sources, and not of more.
fn arrive(reader: &mut Asked, wanted: u64) -> Result<(), NotShown> {
    let mut found = 0;
    let arrived = wait::until(PATIENCE, || {
        found = match reader.ask("alerts", PATIENCE) {
            Ok(said) => sources(&said),
            Err(error) => return Some(Err(error)),
        };
        (wanted <= found).then_some(Ok(()))
    });
    arrived.ok_or_else(|| broken(format!("{found} of {wanted} alerts have arrived")))??;
    demand!(found == wanted, "{found} alerts, {wanted} were wanted");
    Ok(())
}

/// How many source records the outputs are of: `1;topic;partition;offset;index;...`.
fn sources(said: &Value) -> u64 {
    let records = said["records"].as_array().into_iter().flatten();
    let origins = records.filter_map(|record| record[3]["millrace-origin"].as_str());
    let sources: BTreeSet<Vec<&str>> =
        origins.map(|origin| origin.split(';').skip(1).take(4).collect()).collect();
    sources.len() as u64
}

/// How many readings are usable and have a gust of Beaufort 8.
fn gales() -> Result<u64, NotShown> {
    let rows = rows()?;
    let gales = rows.iter().filter(|row| {
        let number = |name: &str| row[name].as_f64();
        let gust = number("wind_gust").map(|gust| gust * MPH_TO_M_S);
        gust.is_some_and(|gust| GUST_M_S <= gust)
            && number("temp").is_some()
            && number("wind_speed").is_some_and(|speed| speed < 300.0)
    });
    Ok(gales.count() as u64)
}

/// The readings as lines of JSON, in a file.
fn readings(dir: &Path) -> Result<std::path::PathBuf, NotShown> {
    let lines: Vec<String> = rows()?.iter().map(Value::to_string).collect();
    let path = dir.join("readings.jsonl");
    std::fs::write(&path, lines.join("\n")).during("write the readings")?;
    Ok(path)
}

fn rows() -> Result<Vec<Value>, NotShown> {
    let path = binaries::root().join("examples/weather/weather.csv");
    let text = std::fs::read_to_string(path).during("read the readings")?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let cell = |cell: &str| match cell {
        "" | "NA" => Value::Null,
        cell => cell.parse::<f64>().map_or_else(|_| cell.into(), Into::into),
    };
    let row = |line: &str| names.iter().copied().zip(line.split(',').map(cell)).collect();
    Ok(lines.map(row).collect())
}
