//! The promise that every record has an answer: a run with records that succeed, are tried again, are
//! filtered, parked and given up, and with two SIGKILLs; then the node is asked what happened to
//! a thousand of them, and every answer is compared with what the journal itself says.

mod app;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demand;
use crate::harness::api::Api;
use crate::harness::rng::Rng;
use crate::harness::{command, wait};
use crate::promise::{During, Figures, NotShown, Run, broken};
use app::{HISTORY_BYTES_MAX, Mill, TOPICS};
use verdict::{Answer, FAULTS, Seen};

/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// Answers that are asked for by the command line, too.
const BY_COMMAND: usize = 12;
/// Invocations that are looked at.
const INVOCATIONS: usize = 40;

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let found = std::process::Command::new("python3").arg("--version").output();
    if !found.is_ok_and(|said| said.status.success()) {
        return Err(NotShown::Unchecked("there is no python3".to_owned()));
    }
    let records = run.count("records", 9_000, 90_000);
    let asked = run.count("asked", 1_000, 1_000) as usize;
    let mut rng = Rng::new(run.seed, 7);
    let mill = Mill::make(&run.evidence)?;
    let mut kills = 0;
    let (mut node, mut api) = mill.serve(PATIENCE)?;
    for phase in 0..3 {
        run.note(format!("records of every kind, {} of 3", phase + 1));
        mill.produce(&api, phase, records / 3)?;
        if phase < 2 {
            // In the middle of them: the function sees what came last.
            wait::pause(Duration::from_millis(rng.draw(250)));
            kills += u64::from(node.kill()?);
            (node, api) = mill.serve(PATIENCE)?;
        }
    }
    demand!(kills == 2, "{kills} of 2 kills took effect");
    run.note("what was sick heals, and what can end does");
    mill.heal()?;
    let settled = wait::until(PATIENCE, || match is_settled(&api) {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    });
    settled.ok_or_else(|| broken("it does not come to rest"))??;

    run.note(format!("{asked} records are asked after"));
    let ends = ends(&api)?;
    let chosen = choose(&ends, asked, &mut rng);
    let (mut answers, mut slowest) = (Vec::new(), Duration::ZERO);
    for (topic, partition, offset) in &chosen {
        let begun = Instant::now();
        let said = api.get(&format!("/v1/records/{topic}/{partition}/{offset}"))?;
        slowest = slowest.max(begun.elapsed());
        let said: Value = serde_json::from_str(&said).during("read an answer")?;
        answers.push(Answer::of(&said)?);
    }
    for answer in answers.iter().filter(|it| it.is_over()).take(BY_COMMAND) {
        let said =
            command::run(&mut mill.command(&["record", &answer.place(), "-o", "json"]), PATIENCE)?;
        demand!(said.status == Some(0), "{} by the command line: {}", answer.place(), said.all());
        let said: Value = serde_json::from_str(&said.stdout).during("read an answer")?;
        demand!(Answer::of(&said)? == *answer, "the command line says {said} of {answer:?}");
    }
    invocations(&api, &answers)?;
    bounds(&api)?;
    node.stop(rustix::process::Signal::TERM, PATIENCE)?;

    run.note("the final read, and its planted faults");
    let seen = Seen::read(&mill.data())?;
    let told = verdict::judge(&seen, &answers).map_err(broken)?;
    for (name, plant) in FAULTS {
        let mut other = answers.clone();
        demand!(plant(&mut other), "nothing to plant a fault in: {name}");
        demand!(verdict::judge(&seen, &other).is_err(), "a planted fault is not seen: {name}");
    }
    let bytes_per_record = seen.history_bytes as f64 / seen.records.len() as f64;
    demand!(
        seen.history_bytes < HISTORY_BYTES_MAX,
        "the histories have {} bytes",
        seen.history_bytes
    );
    let mut figures = Figures::default()
        .with("records", seen.records.len())
        .with("asked", answers.len())
        .with("kills", kills)
        .with("unknown", 0);
    for (state, count) in told {
        figures.set(&state, count);
    }
    Ok(figures
        .with("history_bytes", seen.history_bytes)
        .with("bytes_a_record", (bytes_per_record * 10.0).round() / 10.0)
        .with("slowest_answer_ms", slowest.as_millis() as u64)
        .with("red_controls", FAULTS.len()))
}

/// Whether only what cannot end is left.
fn is_settled(api: &Api) -> Result<bool, NotShown> {
    let lag: Value = serde_json::from_str(&api.get("/v1/lag")?).during("read the lag")?;
    let of = |trigger: &str| {
        let mut all = lag["triggers"].as_array().into_iter().flatten();
        all.find(|it| it["trigger"] == trigger).and_then(|it| it["lag"].as_u64())
    };
    let status = api.status()?;
    let parked = |function: &str| {
        let mut all = status["functions"].as_array().into_iter().flatten();
        all.find(|it| it["name"] == function).and_then(|it| it["parked"].as_u64())
    };
    let over = ["mill/read/read", "mill/heals/heals", "mill/again/again"];
    Ok(over.iter().all(|it| of(it) == Some(0))
        && parked("heals") == Some(0)
        && parked("stuck").is_some_and(|it| 200 < it))
}

/// One past the last record of each partition of the input topics, and of what the first function made.
fn ends(api: &Api) -> Result<Vec<(String, i32, i64)>, NotShown> {
    let mut ends = Vec::new();
    for topic in TOPICS {
        let said = api.get(&format!("/v1/topics/{topic}"))?;
        let said: Value = serde_json::from_str(&said).during("read a topic")?;
        for marks in said["watermarks"].as_array().into_iter().flatten() {
            let partition = marks["partition"].as_i64().and_then(|it| i32::try_from(it).ok());
            let (Some(partition), Some(end)) = (partition, marks["end"].as_i64()) else { continue };
            ends.push((topic.to_owned(), partition, end));
        }
    }
    Ok(ends)
}

/// Records drawn from every topic: of each as many, as far as there are.
fn choose(
    ends: &[(String, i32, i64)],
    asked: usize,
    rng: &mut Rng,
) -> BTreeSet<(String, i32, i64)> {
    let mut by_topic: BTreeMap<&str, Vec<(i32, i64)>> = BTreeMap::new();
    for (topic, partition, end) in ends {
        by_topic.entry(topic).or_default().extend((0..*end).map(|offset| (*partition, offset)));
    }
    let mut chosen = BTreeSet::new();
    while chosen.len() < asked && !by_topic.is_empty() {
        by_topic.retain(|topic, left| {
            if chosen.len() < asked && !left.is_empty() {
                let at = rng.draw(left.len() as u64) as usize;
                let (partition, offset) = left.swap_remove(at);
                chosen.insert(((*topic).to_owned(), partition, offset));
            }
            !left.is_empty()
        });
    }
    chosen
}

/// Invocations that answers name have those records, and say how they ended.
fn invocations(api: &Api, answers: &[Answer]) -> Result<(), NotShown> {
    let over = answers.iter().filter(|it| it.is_over() && it.invocation.is_some());
    let step = (over.clone().count() / INVOCATIONS).max(1);
    for answer in over.step_by(step) {
        let name = answer.invocation.clone().unwrap_or_default();
        let said = api.get(&format!("/v1/invocations/{name}"))?;
        let said: Value = serde_json::from_str(&said).during("read an invocation")?;
        let ranges = said["ranges"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let place = format!("{}[{}]@", answer.topic, answer.partition);
        let has = ranges.filter_map(|it| it.strip_prefix(&place)).any(|it| {
            let (first, last) = it.split_once("..").unwrap_or((it, it));
            let bounds = (first.parse::<i64>(), last.parse::<i64>());
            matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&answer.offset))
        });
        demand!(has, "invocation {name} has no {}: {said}", answer.place());
        demand!(said["revision"] == answer.revision.as_deref().unwrap_or_default(), "{said}");
        let is_ok = answer.state == "succeeded";
        demand!(!is_ok || said["outcome"] != "failed", "{name} made outputs, and is {said}");
    }
    Ok(())
}

/// The histories have the bounds of the node's file.
fn bounds(api: &Api) -> Result<(), NotShown> {
    for function in app::FUNCTIONS {
        let said = api.get(&format!("/v1/topics/millrace.history.mill.{function}.{function}"))?;
        let said: Value = serde_json::from_str(&said).during("read a topic")?;
        let bound = said["retention_bytes"].as_u64();
        demand!(bound == Some(app::BYTES_MAX) && said["partitions"] == 1, "a history is {said}");
    }
    Ok(())
}
