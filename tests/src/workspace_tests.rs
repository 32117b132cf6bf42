//! The promise that `cargo test` runs every crate of the workspace: a crate that is no default
//! member, or a target that opted out, would go untested without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::demand;
use crate::harness::{binaries, command};
use crate::promise::{During, Figures, NotShown, Run, broken};

/// Shows it.
///
/// # Errors
///
/// When a crate or a target of it is left out.
pub fn run(_run: &mut Run) -> Result<Figures, NotShown> {
    let members = members()?;
    let mut targets = 0;
    for member in &members {
        demand!(member.is_default, "`cargo test` leaves {} out", member.name);
        for (target, is_tested) in &member.targets {
            demand!(*is_tested, "target {target} of {} has `test = false`", member.name);
            targets += 1;
        }
    }
    Ok(Figures::default().with("crates", members.len()).with("targets", targets))
}

/// Checks the output of a `cargo test` that was run: each target of each crate must be in it.
/// Returns how many tests it ran.
///
/// # Errors
///
/// Which target did not run, or that a test failed.
pub fn check_log(log: &str) -> Result<u64, NotShown> {
    // "     Running unittests src/lib.rs (target/debug/deps/millrace_bus-0123456789abcdef)"
    let mut ran: BTreeMap<&str, u64> = BTreeMap::new();
    for line in log.lines().filter_map(|line| line.trim().strip_prefix("Running ")) {
        if let Some((name, _)) = line.rsplit_once('/').and_then(|(_, it)| it.rsplit_once('-')) {
            *ran.entry(name).or_default() += 1;
        }
    }
    for member in members()? {
        for (target, _) in member.targets {
            // Targets of several crates may share a name: each takes one run away.
            let name = target.replace('-', "_");
            let left = ran.get_mut(name.as_str()).filter(|left| 0 < **left);
            let left =
                left.ok_or_else(|| broken(format!("{target} of {} did not run", member.name)))?;
            *left -= 1;
        }
    }
    let (mut passed, mut failed) = (0, 0);
    for line in log.lines().filter(|line| line.starts_with("test result:")) {
        let count = |word: &str| {
            let part = line.split([';', '.']).find(|part| part.ends_with(word))?;
            part.split_whitespace().rev().nth(1)?.parse::<u64>().ok()
        };
        passed += count("passed").unwrap_or(0);
        failed += count("failed").unwrap_or(1);
    }
    demand!(failed == 0, "{failed} tests failed");
    demand!(passed != 0, "no test ran");
    Ok(passed)
}

struct Member {
    name: String,
    is_default: bool,
    /// Targets that have tests (libraries, binaries, integration tests), and whether they run.
    targets: Vec<(String, bool)>,
}

fn members() -> Result<Vec<Member>, NotShown> {
    let mut cargo = binaries::cargo();
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let said = command::run(&mut cargo, Duration::from_secs(60))?;
    let metadata: Value = serde_json::from_str(&said.stdout).during("read cargo metadata")?;
    let ids = |key: &str| -> BTreeSet<String> {
        let ids = metadata[key].as_array().into_iter().flatten();
        ids.filter_map(|id| id.as_str().map(str::to_owned)).collect()
    };
    let (all, default) = (ids("workspace_members"), ids("workspace_default_members"));
    let packages = metadata["packages"].as_array().ok_or_else(|| broken("no packages"))?;
    let mut members = Vec::new();
    for package in packages {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = text(&package["id"]);
        if !all.contains(&id) {
            continue;
        }
        let has_tests = |target: &&Value| {
            let kinds = target["kind"].as_array().into_iter().flatten();
            let is_plain = target["required-features"].as_array().is_none_or(Vec::is_empty);
            // A binary that only another build has is run by the promise that makes that build.
            kinds
                .filter_map(Value::as_str)
                .any(|kind| ["lib", "test"].contains(&kind) || (kind == "bin" && is_plain))
        };
        let targets = package["targets"].as_array().into_iter().flatten().filter(has_tests);
        members.push(Member {
            name: text(&package["name"]),
            is_default: default.contains(&id),
            targets: targets
                .map(|target| (text(&target["name"]), target["test"] == Value::Bool(true)))
                .collect(),
        });
    }
    demand!(!members.is_empty(), "a workspace without members");
    Ok(members)
}
