//! The promise about batches that fail: Python functions that read Lambda's event fail in every
//! way, in each order, and what runs again, what is given up and why is what the rules say.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::demand;
use crate::harness::api::Api;
use crate::harness::wait;
use crate::promise::{Figures, NotShown, Run, broken};

mod app;
mod judge;

use app::{App, CASES, Order, function, produce};
use judge::{Dead, Seen, judge, mistakes};

const PATIENCE: Duration = Duration::from_secs(120);
/// The case during which the node is killed.
const KILLED: &str = "killed";

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let is_there = Command::new("python3").arg("-c").arg("").status().is_ok_and(|it| it.success());
    if !is_there {
        return Err(NotShown::Unchecked("there is no python3 on PATH".to_owned()));
    }
    let app = App::make(&run.evidence)?;
    let (mut node, api) = app.serve(&run.evidence)?;
    for case in CASES.iter().filter(|case| case.name != KILLED) {
        run.note(format!("case {}", case.name));
        Order::ALL.iter().try_for_each(|order| produce(&api, case, *order))?;
        settled(&api)?;
    }
    run.note("the node is killed while functions run");
    let killed = CASES.iter().find(|case| case.name == KILLED).expect("it is one of them");
    Order::ALL.iter().try_for_each(|order| produce(&api, killed, *order))?;
    let is_running = |order: &Order| {
        let runs = app.runs(&function(killed, *order)).unwrap_or_default();
        runs.iter().any(|run| run.said == "sleeps")
    };
    let all_run = wait::until(PATIENCE, || Order::ALL.iter().all(is_running).then_some(()));
    demand!(all_run.is_some(), "not every function ran before the kill");
    demand!(node.kill()?, "the node was not killed");
    let (mut node, api) = app.serve(&run.evidence)?;
    settled(&api)?;

    let (mut runs, mut dead, mut red) = (0, 0, 0);
    for case in &CASES {
        for order in Order::ALL {
            let name = function(case, order);
            let seen = Seen { order, runs: app.runs(&name)?, dead: dead_of(&api, &name)? };
            judge(case, &seen).map_err(|why| broken(format!("{name}: {why}; {:?}", seen.runs)))?;
            runs += seen.runs.len();
            dead += seen.dead.len();
            if case.name == "reported" && order == Order::Key {
                for (mistake, seen) in mistakes(&seen) {
                    let noticed = judge(case, &seen).is_err();
                    demand!(noticed, "{mistake}, and nobody notices: {:?}", seen.runs);
                    red += 1;
                }
            }
        }
    }
    node.stop(rustix::process::Signal::TERM, PATIENCE)?;
    Ok(Figures::default()
        .with("cases", CASES.len() * Order::ALL.len())
        .with("invocations", runs)
        .with("dead_letters", dead)
        .with("red_controls", red))
}

/// Waits until no record is open.
fn settled(api: &Api) -> Result<(), NotShown> {
    let is_settled = || (api.lag().ok()? == 0 && api.in_flight().ok()? == 0).then_some(());
    wait::until(PATIENCE, is_settled).ok_or_else(|| broken("records are still open"))
}

/// The dead letters of a function, by the number in the record.
fn dead_of(api: &Api, function: &str) -> Result<BTreeMap<u64, Dead>, NotShown> {
    let records = api.records(&format!("{function}.dead"), 100)?;
    let read = |record: &Value| {
        let header = |name: &str| {
            let headers = record["headers"].as_array()?;
            let name = format!("millrace-dead-{name}");
            headers.iter().find(|it| it["name"] == *name)?["value"].as_str().map(str::to_owned)
        };
        let value: Value = serde_json::from_str(record["value"].as_str()?).ok()?;
        let (cause, error_type) = (header("cause")?, header("error-type")?);
        let attempts = header("attempts")?.parse().ok()?;
        Some((value["n"].as_u64()?, Dead { cause, attempts, error_type }))
    };
    let dead: Option<BTreeMap<u64, Dead>> = records.iter().map(read).collect();
    let count = records.len();
    let dead = dead.ok_or_else(|| broken(format!("an odd dead letter of {function}")))?;
    demand!(dead.len() == count, "a record of {function} is dead twice");
    Ok(dead)
}
