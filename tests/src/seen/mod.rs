//! The promise that what a node does can be seen: Prometheus' own tool has nothing to say of its
//! metrics and fires every alert rule, rules and dashboard name only what a node serves, traces
//! reach a real collector unbroken through two functions, and sums of metrics are those of the
//! history.

mod history;
mod traces;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::{binaries, command, wait};
use crate::promise::{During, Figures, NotShown, Run, broken};

const PATIENCE: Duration = Duration::from_secs(60);

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 2

[function.identity]
runtime = "wasm"
path    = "identity"
handler = "identity.wasm"

[[function.identity.trigger]]
topics = ["in"]
output = { topic = "out" }
"#;

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let mut figures = metrics(run)?;
    figures.extend("trace_", traces::run(run)?);
    figures.extend("sum_", history::run(run)?);
    Ok(figures)
}

/// What Prometheus reads, and what is made of it.
fn metrics(run: &mut Run) -> Result<Figures, NotShown> {
    let promtool = Promtool::find()?;
    run.note("a node that has work");
    let folder = run.evidence.join("metrics");
    let app = folder.join("app");
    std::fs::create_dir_all(app.join("identity")).during("make the application")?;
    std::fs::write(app.join("millrace.toml"), MANIFEST).during("write the manifest")?;
    std::fs::copy(binaries::component("identity"), app.join("identity/identity.wasm"))
        .during("copy a component")?;
    let (mut node, api) = Api::serve(&app, &folder, PATIENCE)?;
    let records: Vec<ToProduce> = (0..100_u32)
        .map(|it| ToProduce { key: it.to_string().into(), value: it.to_string().into() })
        .collect();
    api.produce("in", &records)?;
    let settled = "millrace_trigger_records_settled_total";
    let done = wait::until(PATIENCE, || (api.metric(settled).ok()? == 100).then_some(()));
    demand!(done.is_some(), "100 records are not settled in {PATIENCE:?}");
    let text = api.get("/metrics")?;
    node.stop(rustix::process::Signal::TERM, PATIENCE)?;

    run.note("promtool on the metrics, the rules and their tests");
    let said = promtool.check_metrics(run, &text)?;
    demand!(said.is_empty(), "promtool check metrics says {said}");
    let deploy = binaries::root().join("deploy");
    let checked = promtool.run(["check", "rules"], &deploy.join("alerts.yml"))?;
    demand!(checked.status == Some(0), "promtool check rules: {}", checked.all());
    let tested = promtool.run(["test", "rules"], &deploy.join("alerts_test.yml"))?;
    demand!(tested.status == Some(0), "promtool test rules: {}", tested.all());

    let rules = std::fs::read_to_string(deploy.join("alerts.yml")).during("read the rules")?;
    let tests = std::fs::read_to_string(deploy.join("alerts_test.yml")).during("read the tests")?;
    let alerts: Vec<&str> =
        rules.lines().filter_map(|it| it.trim().strip_prefix("- alert: ")).collect();
    let untested = alerts.iter().find(|it| !tests.contains(&format!("\"{it}\"")));
    demand!(untested.is_none(), "no test fires {untested:?}");
    let dashboard = std::fs::read_to_string(deploy.join("dashboard.json")).during("read it")?;
    let used = used(&rules, &dashboard)?;
    let missing = missing(&used, &text);
    demand!(missing.is_empty(), "no node serves {missing:?}");

    run.note("planted faults");
    let bare: String =
        text.lines().filter(|it| !it.starts_with("# HELP")).map(|it| format!("{it}\n")).collect();
    demand!(!promtool.check_metrics(run, &bare)?.is_empty(), "metrics without help pass");
    let late = run.evidence.join("late");
    std::fs::create_dir_all(&late).during("make a folder")?;
    std::fs::write(late.join("alerts.yml"), rules.replace("for: 1m", "for: 9h"))
        .during("plant a fault")?;
    std::fs::write(late.join("alerts_test.yml"), &tests).during("plant a fault")?;
    let tested = promtool.run(["test", "rules"], &late.join("alerts_test.yml"))?;
    demand!(tested.status != Some(0), "rules that never fire pass");
    let other = self::used(&rules.replace("_settled_total", "_done_total"), &dashboard)?;
    demand!(
        !self::missing(&other, &text).is_empty(),
        "a rule on a metric that is not there passes"
    );

    let families = text.lines().filter(|it| it.starts_with("# TYPE")).count();
    Ok(Figures::default()
        .with("families", families)
        .with("lines_of_promtool", 0)
        .with("rules", alerts.len())
        .with("names_used", used.len())
        .with("red_controls", 3))
}

/// The metrics that rules and dashboard use.
fn used(rules: &str, dashboard: &str) -> Result<BTreeSet<String>, NotShown> {
    let mut used = BTreeSet::new();
    for line in rules.lines().filter(|line| !line.trim_start().starts_with('#')) {
        names(line, &mut used);
    }
    let dashboard: Value = serde_json::from_str(dashboard).during("read the dashboard")?;
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            names(target["expr"].as_str().unwrap_or_default(), &mut used);
        }
    }
    Ok(used)
}

fn names(text: &str, used: &mut BTreeSet<String>) {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|it| it.starts_with("millrace_") || it.starts_with("process_"));
    used.extend(ours.map(str::to_owned));
}

/// Those that no sample has.
fn missing(used: &BTreeSet<String>, text: &str) -> Vec<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    used.iter().filter(|name| !there.contains(name.as_str())).cloned().collect()
}

/// Prometheus' own tool.
struct Promtool(PathBuf);

impl Promtool {
    /// The one on PATH, else that of the distribution's package, unpacked beside the build.
    fn find() -> Result<Self, NotShown> {
        let is_there = |path: &Path| {
            let mut asked = Command::new(path);
            command::run(asked.arg("--version"), PATIENCE).is_ok_and(|it| it.status == Some(0))
        };
        let dir = binaries::target().join("promtool");
        let unpacked = dir.join("usr/bin/promtool");
        for path in [Path::new("promtool"), &unpacked] {
            if is_there(path) {
                return Ok(Self(path.to_owned()));
            }
        }
        std::fs::create_dir_all(&dir).during("make a folder for promtool")?;
        command::fetch(Command::new("apt-get").args(["download", "prometheus"]).current_dir(&dir))?;
        let files = std::fs::read_dir(&dir).during("look for the package")?;
        let mut files = files.filter_map(|entry| Some(entry.ok()?.path()));
        let package = files.find(|it| it.extension().is_some_and(|it| it == "deb"));
        let package = package.ok_or_else(|| NotShown::Unchecked("there is no promtool".into()))?;
        command::fetch(Command::new("dpkg").arg("-x").arg(&package).arg(&dir))?;
        match is_there(&unpacked) {
            true => Ok(Self(unpacked)),
            false => Err(NotShown::Unchecked("there is no promtool".to_owned())),
        }
    }

    fn run(&self, words: [&str; 2], file: &Path) -> Result<command::Said, NotShown> {
        command::run(Command::new(&self.0).args(words).arg(file), PATIENCE)
    }

    /// What it says of metrics; of good ones nothing.
    fn check_metrics(&self, run: &Run, text: &str) -> Result<String, NotShown> {
        let file = run.evidence.join("metrics.txt");
        std::fs::write(&file, text).during("write the metrics")?;
        let input = File::open(&file).during("open the metrics")?;
        let mut check = Command::new(&self.0);
        check.args(["check", "metrics"]);
        let said = command::run_with(&mut check, Stdio::from(input), PATIENCE)?;
        match said.status {
            Some(0 | 3) => Ok(said.all()),
            other => Err(broken(format!("promtool ended with {other:?}: {}", said.all()))),
        }
    }
}
