//! Arguments of the prove binary that are not for people: the gate calls one, and promises use
//! others to start the binary again as a part of themselves. Its help does not show them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "parts of a command")]

use std::path::Path;
use std::process::ExitCode;

use crate::promise::{During as _, NotShown};
use crate::{crash_store, workspace_tests};

/// Runs the hidden part that the arguments ask for, if they do.
#[must_use]
pub fn dispatch(arguments: &[String]) -> Option<ExitCode> {
    let (name, rest) = arguments.split_first()?;
    match name.as_str() {
        "__tests-ran" => Some(tests_ran(rest)),
        crash_store::HIDDEN => Some(store_script(rest)),
        _ => None,
    }
}

/// `__tests-ran LOG`: that a `cargo test` ran every crate, by what it printed.
fn tests_ran(arguments: &[String]) -> ExitCode {
    let [log] = arguments else { return ExitCode::from(2) };
    let checked = std::fs::read_to_string(log)
        .map_err(|error| NotShown::Broken(format!("read {log}: {error}")))
        .and_then(|log| workspace_tests::check_log(&log));
    match checked {
        Ok(passed) => {
            println!("{passed} tests passed, every target of every crate ran");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// `__store-script SEED OPERATIONS DIR`: the script of the position store.
fn store_script(arguments: &[String]) -> ExitCode {
    let [seed, operations, root] = arguments else { return ExitCode::from(2) };
    let carried_out = seed.parse().during("read the seed").and_then(|seed| {
        let operations = operations.parse().during("count the operations")?;
        crash_store::carry_out(seed, operations, Path::new(root))
    });
    match carried_out {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
