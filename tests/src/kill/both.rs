//! `kill-both`: the same kills, with a Python function chained into a WebAssembly function, on the
//! embedded bus and on a real Kafka.

use std::process::Command;

use super::app::First;
use super::{embedded, kafka};
use crate::demand;
use crate::promise::{Figures, NotShown, Run};

/// A spawner, and for each worker a guardian and the worker itself.
const PROCESSES_MIN: u64 = 3;

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    if !Command::new("python3").arg("-c").arg("").status().is_ok_and(|it| it.success()) {
        return Err(NotShown::Unchecked("there is no python3 on PATH".to_owned()));
    }
    let records = run.count("records", 40_000, 1_000_000);
    let kills = run.count("kills", 5, 50);
    let embedded = embedded::show(run, First::Python, records, kills)?;
    let kafka = kafka::show(run, records, kills)?;
    let mut figures = Figures::default()
        .with("kills", embedded.tally.kills + kafka.tally.kills)
        .with("red_controls", embedded.red + kafka.red);
    let halves =
        [("embedded_", embedded.tally, embedded.figures), ("kafka_", kafka.tally, kafka.figures)];
    for (of, tally, found) in halves {
        let (processes, kills) = (tally.processes, tally.kills + tally.uncounted);
        let least = PROCESSES_MIN * kills;
        demand!(least <= processes, "{of}: only {processes} processes in {kills} kills");
        figures.extend(of, found);
        tally.figures(&mut figures, of);
    }
    Ok(figures)
}
