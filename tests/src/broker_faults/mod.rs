//! The promise about a Kafka that misbehaves: a real broker is stopped, killed, locked, and loses
//! topics and records under a steady load; outputs come back within seconds, what needs a person
//! stops by name and alone, and nothing is lost or read silently from somewhere else.
//!
//! The verdict is made from what Kafka's own Java client read of all topics at the end.

mod app;
mod faults;
mod hand;
mod judge;
mod stage;

use std::time::Duration;

use crate::demand;
use crate::promise::{During, Figures, NotShown, Run, broken, seconds};
use app::{LINES, STEADY};
use judge::{Counts, Expects, Record, Seen};
use stage::{Stage, now};

/// Outputs come again within this time after the broker's return, in every partition.
const BACK_WITHIN: i64 = 10_000;
/// The longest silence of a trigger beside others that stop.
const BESIDE_MAX: i64 = 5_000;

/// Shows it.
///
/// # Errors
///
/// When it is broken, or there is no broker to be had.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let outage = Duration::from_secs(run.count("outage", 8, 60));
    let mut stage = Stage::set(run)?;
    faults::stopped(&mut stage, outage)?;
    // Longer than the node waits for an answer.
    let dead = if run.full { Duration::from_secs(25) } else { Duration::ZERO };
    faults::killed(&mut stage, dead)?;
    let topics_at = now();
    faults::topics(&mut stage)?;
    let beside = (topics_at, now());
    faults::expired_meanwhile(&mut stage)?;
    faults::revoked(&mut stage)?;
    faults::without_a_node(&mut stage)?;
    let healed_at = faults::heal(&mut stage)?;
    stage.stop_node()?;
    run.note("the last read");
    let (mut counts, mut steady) = (Counts::default(), None);
    for line in LINES {
        let seen = read(&mut stage, line.name)?;
        let one = judge::judge(&seen, expects(line.name, healed_at)).map_err(broken)?;
        demand!(0 < one.sources && 0 < one.outputs, "{}: nothing was to be done", line.name);
        counts.sources += one.sources;
        counts.outputs += one.outputs;
        counts.duplicates += one.duplicates;
        if line.name == STEADY {
            steady = Some(seen);
        }
    }
    let steady = steady.ok_or_else(|| broken("the steady line is missing"))?;
    let mut figures = Figures::default().with("cases", stage.cases.len());
    for it in &stage.returns {
        let outputs = judge::outputs_within(&steady, it.down.0, it.down.1);
        demand!(outputs == 0, "{}: {outputs} outputs meanwhile: it took no effect", it.case);
        let (longest, first) = judge::silence(&steady, it.from, it.to);
        demand!(longest <= BACK_WITHIN, "{}: silent for {longest} ms", it.case);
        let name = format!("{}_back_s", it.case.replace(' ', "_"));
        figures.set(&name, seconds(Duration::from_millis(first.unsigned_abs())));
    }
    let (longest, _) = judge::silence(&steady, beside.0, beside.1);
    demand!(longest <= BESIDE_MAX, "beside others that stop: silent for {longest} ms");
    figures.set("beside_silent_s", seconds(Duration::from_millis(longest.unsigned_abs())));
    figures.set("records", counts.sources);
    figures.set("outputs", counts.outputs);
    figures.set("duplicates", counts.duplicates);
    figures.set("red_controls", red_controls(&steady)?);
    Ok(figures)
}

/// Everything there is of a line at the end.
fn read(stage: &mut Stage<'_>, name: &str) -> Result<Seen, NotShown> {
    let sources = stage.read(&format!("{name}.in"))?;
    let mut outputs = Vec::new();
    if name == "sink" {
        // Its output topic was deleted; what was in it was read before.
        let before = stage.run.evidence.join("hand/sink.out.before");
        let text = std::fs::read_to_string(before).during("read what was kept")?;
        outputs.extend(text.lines().filter_map(judge::parse));
    }
    outputs.extend(stage.read(&format!("{name}.out"))?);
    let dead_letters = stage.read(&format!("{name}.dead"))?;
    Ok(Seen { name: name.to_owned(), sources, outputs, dead_letters })
}

fn expects(name: &str, healed_at: i64) -> Expects {
    let stopped = ["gone", "again", "left", "swap", "late", "old"].contains(&name);
    let refuses = ["large", "lower"].contains(&name);
    Expects {
        dead_letters: usize::from(refuses),
        code: "Millrace.OutputTooLarge",
        healed_at: stopped.then_some(healed_at),
        has_past: stopped,
    }
}

/// Faults planted in what was read; how many the judge finds. It has to find all.
fn red_controls(steady: &Seen) -> Result<u64, NotShown> {
    type Plant = (&'static str, fn(&mut Seen));
    const PLANTS: [Plant; 3] = [
        ("lost", |seen| drop(seen.outputs.remove(seen.outputs.len() / 2))),
        ("phantom", |seen| seen.outputs[7].value.push(b'!')),
        ("disorder", |seen| {
            let key = seen.outputs[0].key.clone();
            let of_key = |(at, it): (usize, &Record)| (it.key == key).then_some(at);
            let same: Vec<usize> = seen.outputs.iter().enumerate().filter_map(of_key).collect();
            seen.outputs.swap(same[3], same[5]);
        }),
    ];
    let mut red = 0;
    for (finding, plant) in PLANTS {
        let mut planted = steady.clone();
        plant(&mut planted);
        let found = judge::judge(&planted, Expects::default());
        let is_found = found.as_ref().is_err_and(|it| it.starts_with(finding));
        demand!(is_found, "a planted {finding} is judged {found:?}");
        red += 1;
    }
    let read_early = Expects { healed_at: Some(i64::MAX), ..Expects::default() };
    demand!(judge::judge(steady, read_early).is_err(), "a silent read is not found");
    let from = steady.sources[0].time;
    let mut silent = steady.clone();
    silent.outputs.retain(|it| it.time < from + 1_000 || from + 12_000 < it.time);
    let longest = judge::silence(&silent, from, from + 20_000).0;
    demand!(BACK_WITHIN < longest, "a planted silence of 11 s is judged {longest} ms");
    Ok(red + 2)
}
