//! Runs the load generator, which measures in a process of its own, and reads its figures.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::demand;
use crate::harness::{binaries, command};
use crate::promise::{During, NotShown, Run, broken};

/// The longest run of any bench.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Runs `millrace-bench` with these words; its figures.
///
/// # Errors
///
/// When it fails: records were lost, or what it measures did not work.
pub fn run(run: &Run, words: &[&str]) -> Result<Value, NotShown> {
    run.note(format!("millrace-bench {}", words.join(" ")));
    let mut command = Command::new(binaries::binary("millrace-bench"));
    command.args(words).arg("--json").arg("--dir").arg(run.evidence.join("bench"));
    let said = command::run(&mut command, PATIENCE)?;
    demand!(said.status == Some(0), "{words:?} ended with {:?}: {}", said.status, said.all());
    run.note(said.stdout.trim());
    serde_json::from_str(said.stdout.trim()).during("read the figures")
}

/// A number of its figures, by JSON pointer.
///
/// # Errors
///
/// When there is none.
pub fn number(figures: &Value, pointer: &str) -> Result<f64, NotShown> {
    let value = figures.pointer(pointer).and_then(Value::as_f64);
    value.ok_or_else(|| broken(format!("no figure {pointer} in {figures}")))
}
