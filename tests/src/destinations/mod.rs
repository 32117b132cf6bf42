//! The promise that destinations hear of every record that has its end, once, and that what they hear
//! is true: `destinations`, on both buses, across a SIGKILL.
//!
//! ```text
//! in[4] ─┬▶ each (Python, record by record) ─▶ each.out, each.done, each.failed
//!        ├▶ whole (Python, Lambda's event)  ─▶ whole.out, whole.done, whole.failed
//!        └▶ wasm                            ─▶ wasm.out, wasm.told: both kinds in one topic
//! ```

mod app;
mod seen;
mod verdict;

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::demand;
use crate::harness::api::Api;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::harness::wait;
use crate::promise::{Figures, NotShown, Run, broken};
use app::{App, FUNCTIONS};
use seen::Seen;
use verdict::{Bus, FAULTS};

const PATIENCE: Duration = Duration::from_secs(60);

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    if !Command::new("python3").arg("-c").arg("").status().is_ok_and(|it| it.success()) {
        return Err(NotShown::Unchecked("there is no python3 on PATH".to_owned()));
    }
    let records = run.count("records", 480, 20_000);
    let mut figures = Figures::default();
    run.note(format!("{records} records on the embedded bus"));
    let app = App::make(&run.evidence.join("embedded"), None)?;
    let began = verdict::now_ms();
    play(run, &app, records)?;
    let bus = Bus { brokers: "embedded.millrace:9092".to_owned(), is_exact: true, began };
    figures.extend("embedded_", judge(&Seen::in_journal(&app.data)?, &bus, records)?);

    run.note(format!("{records} records on Kafka"));
    let (kafka, python) = (Kafka::fetch()?, python::with(&["aiokafka==0.14.0"])?);
    let within = run.evidence.join("kafka");
    let broker = Broker::start(&kafka, &within.join("broker"), Listeners::Plain)?;
    let app = App::make(&within, Some(broker.address()))?;
    let began = verdict::now_ms();
    play(run, &app, records)?;
    let mut dump = Asked::start(&python, "dump.py", &[&broker.address()], &within)?;
    let seen = Seen::in_kafka(|topic| dump.ask(topic, PATIENCE))?;
    let bus = Bus { brokers: broker.address(), is_exact: false, began };
    figures.extend("kafka_", judge(&seen, &bus, records)?);
    Ok(figures)
}

/// Brings the records, kills the node while it works, and lets it end its work.
fn play(run: &Run, app: &App, records: u64) -> Result<(), NotShown> {
    let (mut node, api) = app.serve()?;
    app::produce(&api, 0..records / 3)?;
    let is_told = || (20 <= api.end_of("each.done").ok()?).then_some(());
    demand!(wait::until(PATIENCE, is_told).is_some(), "nobody is told: {}", node.tail());
    app::produce(&api, records / 3..2 * records / 3)?;
    let is_busy = || (0 < api.in_flight().ok()?).then_some(());
    demand!(wait::until(PATIENCE, is_busy).is_some(), "not at work: {}", node.tail());
    demand!(node.kill()?, "the node was gone before it was killed");
    run.note("the node was killed");
    let (mut node, api) = app.serve()?;
    app::produce(&api, 2 * records / 3..records)?;
    let is_settled = || (api.lag().ok()? == 0 && api.in_flight().ok()? == 0).then_some(());
    demand!(wait::until(PATIENCE, is_settled).is_some(), "records are still open");
    counted(&api)?;
    let (status, _) = node.stop(Signal::TERM, PATIENCE)?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    Ok(())
}

/// What the node that lives counted is a part of what lies there, and it did count.
fn counted(api: &Api) -> Result<(), NotShown> {
    for (metric, topics) in [
        ("millrace_trigger_on_success_delivered_total", ["each.done", "whole.done", "wasm.told"]),
        (
            "millrace_trigger_on_failure_delivered_total",
            ["each.failed", "whole.failed", "wasm.told"],
        ),
    ] {
        let mut there = 0;
        for topic in topics {
            there += api.end_of(topic)?.unsigned_abs();
        }
        let counted = wait::until(PATIENCE, || api.metric(metric).ok().filter(|it| 0 < *it));
        demand!(counted.is_some_and(|it| it <= there), "{metric} is {counted:?} of {there}");
    }
    Ok(())
}

fn judge(seen: &Seen, bus: &Bus, records: u64) -> Result<Figures, NotShown> {
    demand!(seen.sources.len() as u64 == records, "{} of {records} sent", seen.sources.len());
    let found = verdict::judge(seen, bus).map_err(broken)?;
    let mut red = 0;
    for (name, plant) in FAULTS {
        let mut other = seen.clone();
        demand!(plant(&mut other), "nothing to plant {name} in");
        demand!(verdict::judge(&other, bus).is_err(), "a planted fault is not seen: {name}");
        red += 1;
    }
    if bus.is_exact {
        let mut other = seen.clone();
        let told = &mut other.told[0];
        told.extend(told.last().cloned());
        demand!(verdict::judge(&other, bus).is_err(), "a repeated message is not seen");
        red += 1;
    }
    Ok(Figures::default()
        .with("records", records)
        .with("functions", FUNCTIONS.len())
        .with("successes", found.successes)
        .with("failures", found.failures)
        .with("repeats", found.repeats)
        .with("red_controls", red))
}
