//! A part of the promise `conformance`, in a build with TLS: the rules of the bus over an
//! encrypted listener. `kafka-conformance ADDRESS AUTHORITY DIR` prints how many rules hold.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks on its streams")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::ProgressBar;
use millrace_tests::conformance;
use millrace_tests::promise::Run;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, authority, dir] = &arguments[..] else { return ExitCode::from(2) };
    let dir = PathBuf::from(dir);
    if let Err(error) = std::fs::create_dir_all(&dir) {
        eprintln!("make {}: {error}", dir.display());
        return ExitCode::FAILURE;
    }
    let run = Run {
        full: false,
        seed: 0,
        flags: BTreeMap::new(),
        evidence: dir.clone(),
        progress: ProgressBar::hidden(),
    };
    match conformance::scram(address, authority.as_ref(), &dir, &run) {
        Ok(rules) => {
            println!("{rules}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
