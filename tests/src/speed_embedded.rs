//! The promise about the speed of one node on its embedded bus: the load generator measures in a
//! process of its own, and its figures are held against their bounds here.

use serde_json::Value;

use crate::demand;
use crate::harness::bench::{self, number};
use crate::promise::{Figures, NotShown, Run};

/// End to end, records a second on 2 cores, the load on them too.
const PER_SECOND_MIN: f64 = 400_000.0;
/// Where the run is marked noisy: CPU of all processes together for a record, microseconds.
const CPU_US_MAX: f64 = 4.0;
/// CPU of a record at 1,024 partitions to that at 8, and with 1,000 idle functions to one.
const RATIO_MAX: f64 = 1.25;
/// From nothing to the first record's answer, microseconds.
const COLD_P50_US_MAX: f64 = 30.0;
const COLD_P99_US_MAX: f64 = 300.0;
/// Records a second and core with a fresh instance for each.
const FRESH_PER_RECORD_MIN: f64 = 60_000.0;

/// Shows it.
///
/// # Errors
///
/// When a figure is out of its bound.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let records = run.count("records", 1_000_000, 2_000_000);
    let rounds = run.count("rounds", 3, 5);
    let mut figures = Figures::default();
    let mut late = Vec::new();

    let (records, rounds) = (records.to_string(), rounds.to_string());
    let embedded = bench::run(run, &["embedded", "--records", &records, "--rounds", &rounds])?;
    let per_second = number(&embedded, "/per_second/median")?;
    let cpu_us = number(&embedded, "/cpu_us/median")?;
    let is_noisy = embedded["noisy"].as_bool().unwrap_or(true);
    figures.set("records", number(&embedded, "/records")?);
    figures.set("per_second", per_second);
    figures.set("cpu_us", cpu_us);
    figures.set("noisy", is_noisy);
    figures.set("resident_mib", number(&embedded, "/resident_mib")?);
    let is_whole = number(&embedded, "/outputs")? == number(&embedded, "/records")?;
    demand!(is_whole, "records were lost: {embedded}");
    let is_fast = PER_SECOND_MIN <= per_second || (is_noisy && cpu_us <= CPU_US_MAX);
    if !is_fast {
        late.push(format!("{per_second} records/s at {cpu_us} us, noisy: {is_noisy}"));
    }

    // The curves take minutes of a machine at rest; CI's budget leaves them out, and says so.
    if run.full {
        scale(run, &rounds, &mut figures, &mut late)?;
    } else {
        figures.set("scale", "left out: --full measures it");
    }

    let cold = bench::run(run, &["cold"])?;
    for (figure, bound) in [("cold_p50_us", COLD_P50_US_MAX), ("cold_p99_us", COLD_P99_US_MAX)] {
        let value = number(&cold, &format!("/{figure}"))?;
        figures.set(figure, value);
        if bound < value {
            late.push(format!("{figure} is {value}, the bound is {bound}"));
        }
    }
    let fresh = number(&cold, "/fresh_per_record_per_second_core")?;
    figures.set("fresh_per_record_per_second_core", fresh);
    if fresh < FRESH_PER_RECORD_MIN {
        late.push(format!("{fresh} records/s and core with a fresh instance for each"));
    }
    // Speed on a shared machine gates nothing but a run that asks for it: CI
    // prints what was missed, and fails on lost records alone.
    demand!(!run.full || late.is_empty(), "{}; {figures}", late.join("; "));
    figures.set("missed", late.join("; "));
    Ok(figures)
}

/// What a record costs at many partitions and with many idle functions.
fn scale(
    run: &Run,
    rounds: &str,
    figures: &mut Figures,
    late: &mut Vec<String>,
) -> Result<(), NotShown> {
    let scale = bench::run(run, &["scale", "--rounds", rounds])?;
    for (figure, what) in [("partitions", "1,024 partitions"), ("functions", "1,000 functions")] {
        let ratio = number(&scale, &format!("/ratio_{figure}/median"))?;
        figures.set(&format!("ratio_{figure}"), ratio);
        if RATIO_MAX < ratio {
            late.push(format!("CPU of a record with {what} is {ratio} x that with few"));
        }
    }
    let resident = scale["resident_mib"].as_array().into_iter().flatten();
    let resident: Vec<String> = resident.map(Value::to_string).collect();
    figures.set("resident_mib_scale", resident.join("/"));
    Ok(())
}
