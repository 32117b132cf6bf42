//! A fourth node joins three that share very many shards: no more move than have to, quickly, and
//! those that stay notice nothing. Then it leaves and comes again, and all end with equal shares.

use std::path::Path;
use std::time::{Duration, Instant};

use bus::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

use super::times::share as share_of;
use super::{ALL, CLIENT, PATIENCE, number};
use crate::demand;
use crate::harness::fleet::Fleet;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::harness::{binaries, wait};
use crate::promise::{During, Figures, NotShown, Run, broken};

const NODES: usize = 3;
/// Records a second, of all shards together.
const RATE: u64 = 1_000;
/// How long a join may take, from when the node is ready to when it has its share.
const JOIN_MAX: Duration = Duration::from_secs(2);
/// What is allowed of a busy machine where `--full` was not asked for.
const JOIN_CI: Duration = Duration::from_secs(10);
/// How much longer than before a shard that stays may be silent.
const SILENT_FACTOR: f64 = 1.5;
/// A share may differ from an equal one by a tenth: less is not worth a move.
const SHARE_TOLERANCE: f64 = 0.1;
/// No shard puts out anything under a newer epoch for so long: all have come to rest.
const STILL: Duration = Duration::from_secs(4);
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

const MANIFEST: &str = r#"
[app]
name = "wide"

[topic.in]
partitions = PARTITIONS

[topic.out]
partitions = PARTITIONS

[function.same]
runtime = "wasm"
path    = "function"
handler = "identity.wasm"

[[function.same.trigger]]
topics = ["in"]
start  = "earliest"
output = { topic = "out" }
"#;

/// What a look found of one source partition.
#[derive(Clone, Copy, Debug)]
struct Source {
    epoch: u64,
    /// When the first result of that epoch was taken, if there is one.
    began_ms: Option<i64>,
    silent_ms: i64,
}

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let shards = run.count("shards", 200, 1_000);
    let turns = run.count("turns", 4, 10);
    run.note("fetch Kafka and a client of it");
    let kafka = Kafka::fetch()?;
    let python = python::with(&[CLIENT])?;
    let broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::Plain)?;
    let address = broker.address();
    let arguments = [address.as_str(), "wide", &shards.to_string()];
    let mut spread = Asked::start(&python, "spread.py", &arguments, &run.evidence)?;
    spread.ask("topics", PATIENCE)?;
    let mut load = Asked::start(&python, "load.py", &[&address, "in", ALL], &run.evidence)?;
    let app = make(&run.evidence.join("app"), shards)?;
    run.note("three nodes");
    let mut fleet = Fleet::form(&run.evidence, &address, NODES)?;
    fleet.slots[0].run(&["deploy", "--yes", &app])?;
    load.ask(&format!("rate {RATE} {ALL}"), PATIENCE)?;
    settle(&mut spread, &fleet, NODES, shards)?;

    run.note("what silence is usual");
    // A shard that has just begun was silent before.
    wait::pause(STILL);
    look(&mut spread)?;
    wait::pause(Duration::from_secs(if run.full { 60 } else { 15 }));
    let before = look(&mut spread)?;
    run.note("a fourth node joins");
    fleet.add(&run.evidence, &address)?;
    let (ready_at, joined_at) = (Instant::now(), Timestamp::now());
    let share = shards / (NODES as u64 + 1);
    let has_share = || (share <= shares(&fleet).ok()?.last().copied()?).then_some(());
    let joined = wait::until(SETTLED_WITHIN, has_share);
    joined.ok_or_else(|| broken(format!("shares are {:?}", shares(&fleet))))?;
    let took = ready_at.elapsed();
    let after = settle(&mut spread, &fleet, NODES + 1, shards)?;
    let is_moved = |at: usize| before[at].epoch != after[at].epoch;
    let moved = (0..after.len()).filter(|at| is_moved(*at)).count() as u64;
    let most = shards.div_ceil(NODES as u64 + 1) + 1;
    demand!(moved <= most, "{moved} shards moved, {most} had to");
    // One that nobody sent a record to meanwhile does not show.
    demand!(9 * share <= 10 * moved, "only {moved} shards put out results of a new owner");
    let began = (0..after.len()).filter(|at| is_moved(*at)).filter_map(|at| after[at].began_ms);
    let first_ms: Vec<i64> = began.map(|it| it - joined_at.0).collect();
    let usual = before.iter().map(|it| it.silent_ms).max().unwrap_or_default();
    let stayed = (0..after.len()).filter(|at| !is_moved(*at)).map(|at| after[at].silent_ms);
    let silent = stayed.max().unwrap_or_default();

    for turn in 0..turns {
        run.note(format!("turn {} of {turns}", turn + 1));
        if turn % 2 == 0 {
            fleet.slots[NODES].stop(Signal::TERM, SETTLED_WITHIN)?;
            settle(&mut spread, &fleet, NODES, shards)?;
        } else {
            fleet.slots[NODES].start()?;
            settle(&mut spread, &fleet, NODES + 1, shards)?;
        }
    }
    run.note("the rest");
    load.ask("rate 0 0", PATIENCE)?;
    let last = finish(&mut spread)?;
    let limit = if run.full { JOIN_MAX } else { JOIN_CI };
    demand!(took <= limit, "the join took {took:?}, {limit:?} may be");
    let is_quiet = silent as f64 <= SILENT_FACTOR * usual as f64;
    // A busy machine is silent by itself.
    demand!(is_quiet || !run.full, "who stayed was silent for {silent} ms, for {usual} before");
    Ok(Figures::default()
        .with("shards", shards)
        .with("moved", moved)
        .with("join_ms", took.as_millis() as u64)
        .with("first_result_ms_p50", share_of(&first_ms, 50))
        .with("first_result_ms_p90", share_of(&first_ms, 90))
        .with("silent_ms_before", usual)
        .with("silent_ms_of_those_that_stayed", silent)
        .with("turns", turns)
        .with("records", number(&last, "inputs")?)
        .with("repeats", number(&last, "repeats")?))
}

fn make(dir: &Path, shards: u64) -> Result<String, NotShown> {
    std::fs::create_dir_all(dir.join("function")).during("make the application")?;
    let component = dir.join("function/identity.wasm");
    std::fs::copy(binaries::component("identity"), component).during("copy a component")?;
    let manifest = MANIFEST.replace("PARTITIONS", &shards.to_string());
    std::fs::write(dir.join("millrace.toml"), manifest).during("write the manifest")?;
    Ok(dir.display().to_string())
}

fn look(spread: &mut Asked) -> Result<Vec<Source>, NotShown> {
    let said = spread.ask("look", PATIENCE)?;
    let rows = said["sources"].as_array().into_iter().flatten();
    let source = |row: &Value| {
        Some(Source {
            epoch: row[0].as_u64()?,
            began_ms: row[1].as_i64(),
            silent_ms: row[2].as_i64()?,
        })
    };
    rows.map(|row| source(row).ok_or_else(|| broken(format!("no source: {row}")))).collect()
}

/// How many shards each node has, in the order they joined.
fn shares(fleet: &Fleet) -> Result<Vec<u64>, NotShown> {
    let members = fleet.slots[0].members()?;
    let share = |name: &str| {
        let member = members.iter().find(|it| it["name"] == name);
        member.and_then(|it| it["shards"].as_u64()).unwrap_or_default()
    };
    Ok(fleet.slots.iter().map(|slot| share(&slot.name)).collect())
}

/// Waits until so many nodes have equal shares, and every shard puts out something under the
/// epoch that it keeps. What comes back has the longest silences of all that time.
fn settle(
    spread: &mut Asked,
    fleet: &Fleet,
    nodes: usize,
    shards: u64,
) -> Result<Vec<Source>, NotShown> {
    let equal = shards as f64 / nodes as f64;
    let (mut seen, mut still_since) = (look(spread)?, Instant::now());
    let settled = wait::until(SETTLED_WITHIN, || {
        wait::pause(Duration::from_millis(300));
        let (now, shares) = match (look(spread), shares(fleet)) {
            (Ok(now), Ok(shares)) => (now, shares),
            (Err(error), _) | (_, Err(error)) => return Some(Err(error)),
        };
        if now.iter().zip(&seen).any(|(now, was)| now.epoch != was.epoch) {
            still_since = Instant::now();
        }
        let has_begun = now.iter().all(|it| it.began_ms.is_some());
        let near = |share: u64| (share as f64 - equal).abs() <= (SHARE_TOLERANCE * equal).max(1.0);
        let is_fair = shares.iter().sum::<u64>() == shards
            && shares.iter().filter(|share| near(**share)).count() == nodes;
        let longest = now.iter().zip(&seen);
        seen = longest
            .map(|(now, was)| Source { silent_ms: now.silent_ms.max(was.silent_ms), ..*now })
            .collect();
        (STILL < still_since.elapsed() && has_begun && is_fair).then_some(Ok(()))
    });
    let told = || broken(format!("not settled: shares are {:?}", shares(fleet)));
    settled.ok_or_else(told)??;
    Ok(seen)
}

/// Waits until there is an output of every record.
fn finish(spread: &mut Asked) -> Result<Value, NotShown> {
    let mut last = Value::Null;
    let done = wait::until(SETTLED_WITHIN, || {
        last = match spread.ask("final", PATIENCE) {
            Ok(said) => said,
            Err(error) => return Some(Err(error)),
        };
        (last["inputs"] == last["distinct"]).then_some(Ok(()))
    });
    done.ok_or_else(|| broken(format!("records without an output: {last}")))??;
    Ok(last)
}
