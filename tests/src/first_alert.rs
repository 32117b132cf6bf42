//! The promise of the README's first command: an alert within seconds, a quick and clean end, and
//! over ten stops and starts, five of them by SIGKILL, no reading lost or repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::checker::{Checker, Origin, Outputs, Stage};
use crate::demand;
use crate::harness::node::Node;
use crate::harness::rng::Rng;
use crate::harness::{binaries, command, wait};
use crate::journal_reader::layout::Position;
use crate::journal_reader::{Follower, Journal, ORIGIN, Role};
use crate::promise::{During, Figures, NotShown, Run, broken, seconds};

/// From process start to the first alert on the terminal.
const FIRST_ALERT_MAX: Duration = Duration::from_secs(5);
/// From Ctrl-C to the end of the process.
const EXIT_MAX: Duration = Duration::from_secs(2);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Gusts that `gale` reports, in m/s.
const GALE_M_S: f64 = 17.2;

/// The copy of the example that is run.
struct Example {
    app: PathBuf,
    state: PathBuf,
    log: PathBuf,
}

impl Example {
    fn copied(to: &Path) -> Result<Self, NotShown> {
        let app = to.join("weather");
        copy_tree(&binaries::root().join("examples/weather"), &app)
            .during("copy examples/weather")?;
        Ok(Self { app, state: to.join("state"), log: to.join("node.log") })
    }

    fn millrace(&self) -> Command {
        let mut command = Command::new(binaries::millrace());
        command.env("XDG_STATE_HOME", &self.state).env_remove("MILLRACE_NODE");
        command.env("NO_COLOR", "1");
        command
    }

    fn dev(&self) -> Result<Node, NotShown> {
        let mut command = self.millrace();
        Node::start(command.arg("dev").arg(&self.app), &self.log)
    }

    fn data(&self) -> PathBuf {
        self.app.join(".millrace")
    }
}

/// Copies a folder, but not what was built or run in it.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "target" || name == ".millrace" {
            continue;
        }
        let (path, to) = (entry.path(), to.join(&name));
        if path.is_dir() {
            copy_tree(&path, &to)?;
        } else {
            std::fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let example = Example::copied(&run.evidence)?;
    let stops = run.count("stops", 10, 10).max(1);
    let mut figures = Figures::default();
    first_start(run, &example, &mut figures)?;
    let mut rng = Rng::new(run.seed, 1);
    let (mut kills, mut slowest_exit) = (0, Duration::ZERO);
    let mut settled = settled(&example)?;
    for stop in 0..stops {
        run.note(format!("stop {} of {stops}, {settled} readings settled", stop + 1));
        let mut node = example.dev()?;
        says_how_far(&mut node, settled)?;
        alert(&mut node)?;
        wait::pause(rng.time(Duration::from_millis(50), Duration::from_millis(1_500)));
        if stop % 2 == 0 {
            demand!(node.kill()?, "SIGKILL did not end the node");
            kills += 1;
        } else {
            let (status, took) = node.stop(Signal::INT, EXIT_MAX)?;
            demand!(status == 0, "Ctrl-C ended with status {status}: {}", node.tail());
            slowest_exit = slowest_exit.max(took);
        }
        let now = self::settled(&example)?;
        demand!(settled <= now, "{settled} readings were settled, now only {now}");
        settled = now;
    }
    figures.set("kills", kills);
    figures.set("stops", stops);
    figures.set("slowest_exit_s", seconds(slowest_exit));
    drain(&example)?;
    verdict(&example, &mut figures)?;
    Ok(figures)
}

/// The first command, its first alert, the second terminal, and Ctrl-C.
fn first_start(run: &Run, example: &Example, figures: &mut Figures) -> Result<(), NotShown> {
    run.note("the first start");
    let mut node = example.dev()?;
    let first = alert(&mut node)?;
    figures.set("first_alert_s", seconds(first));
    demand!(first <= FIRST_ALERT_MAX, "the first alert came after {first:?}");
    run.note("the second terminal");
    let mut consume = example.millrace();
    let said =
        command::run(consume.args(["consume", "alerts", "-n", "1"]), Duration::from_secs(10))?;
    demand!(said.status == Some(0), "consume ended with {:?}: {}", said.status, said.all());
    demand!(said.stdout.contains("beaufort"), "consume printed no alert: {}", said.all());
    figures.set("second_terminal_s", seconds(said.took));
    let (status, took) = node.stop(Signal::INT, EXIT_MAX)?;
    demand!(status == 0, "Ctrl-C ended with status {status}: {}", node.tail());
    figures.set("exit_s", seconds(took));
    Ok(())
}

/// Waits for an alert on standard output.
fn alert(node: &mut Node) -> Result<Duration, NotShown> {
    let is_alert =
        |line: &crate::harness::node::Line| !line.is_stderr && line.text.contains("\"beaufort\"");
    Ok(node.line("alert", PATIENCE, is_alert)?.after)
}

/// A start after the first says where it goes on: in the line of `tidy` stands how many readings
/// are done, and it may have done some more by then.
fn says_how_far(node: &mut Node, settled: u64) -> Result<(), NotShown> {
    let what = "line that says how many readings are done";
    let line = node.line(what, Duration::from_secs(10), |line| line.text.contains("goes on"))?;
    demand!(line.text.contains("tidy"), "the first function is not the first: {}", line.text);
    let number = line.text.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    demand!(
        number.is_some_and(|number| settled <= number),
        "{settled} readings are settled, but it says {:?}",
        line.text
    );
    Ok(())
}

/// How many readings `tidy` has settled, by the journal of the stopped node.
fn settled(example: &Example) -> Result<u64, NotShown> {
    let journal = Journal::open(&example.data())?;
    let positions = journal.positions()?;
    let of_readings = |position: &&Position| {
        journal.partition(position).is_some_and(|(topic, _)| topic == "readings")
    };
    let next: i64 = positions.iter().filter(of_readings).map(|position| position.next).sum();
    u64::try_from(next).during("count positions")
}

/// Starts once more without a feed, and stops when everything is settled.
fn drain(example: &Example) -> Result<(), NotShown> {
    let path = example.app.join("millrace.toml");
    let manifest = std::fs::read_to_string(&path).during("read the manifest")?;
    let without = manifest.split("[dev.feed]").next().unwrap_or_default();
    std::fs::write(&path, without).during("write the manifest")?;
    let mut node = example.dev()?;
    node.line("line that it is ready", PATIENCE, |line| line.text.contains("ready in"))?;
    let drained = wait::until(PATIENCE, || {
        let mut lag = example.millrace();
        let said = command::run(lag.args(["lag", "-o", "json"]), Duration::from_secs(5)).ok()?;
        let lag: Value = serde_json::from_str(&said.stdout).ok()?;
        (crate::harness::api::lag_of(&lag)? == 0).then_some(())
    });
    demand!(drained.is_some(), "the lag did not reach zero: {}", node.tail());
    let (status, _) = node.stop(Signal::INT, EXIT_MAX)?;
    demand!(status == 0, "the last stop ended with status {status}");
    Ok(())
}

/// Every reading has its observation or its dead letter once, and every gale its alert once.
fn verdict(example: &Example, figures: &mut Figures) -> Result<(), NotShown> {
    let journal = Journal::open(&example.data())?;
    let partitions = |topic: &str| {
        let found = journal.topics.get(topic).map(|topic| topic.partitions);
        usize::try_from(found.unwrap_or(0)).unwrap_or(0)
    };
    let stage = |source: &str, outputs| Stage {
        source: source.to_owned(),
        partitions: partitions(source),
        outputs,
    };
    let stages = vec![stage("readings", Outputs::One), stage("observations", Outputs::AtMostOne)];
    let mut checker = Checker::new(stages);
    let mut follower = Follower::new(vec![
        Role::topic("readings").source_of(0),
        Role::topic("readings.unusable").dead_of(0),
        Role::topic("observations").outputs_of(0).source_of(1),
        Role::topic("alerts").outputs_of(1),
    ]);
    let (mut gales, mut alerts) = (BTreeSet::new(), BTreeSet::new());
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    follower.follow(&journal, &mut checker, |topic, partition, record| match topic {
        "readings" => {
            let text = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
            *rows.entry(text).or_default() += 1;
        }
        "observations" => {
            let value: Value =
                serde_json::from_slice(record.value.unwrap_or_default()).unwrap_or_default();
            if value["gust_m_s"].as_f64().is_some_and(|gust| GALE_M_S <= gust) {
                gales.insert((partition, record.offset));
            }
        }
        "alerts" => {
            if let Some(origin) = record.header(ORIGIN).and_then(Origin::parse) {
                alerts.insert((origin.partition, origin.offset));
            }
        }
        _ => {}
    })?;
    checker.on_end();
    figures.set("readings", checker.sources(0));
    figures.set("observations", checker.outputs(0));
    figures.set("unusable", checker.dead_letters(0));
    figures.set("alerts", checker.outputs(1));
    demand!(checker.findings().is_empty(), "{}", checker.findings().text());
    demand!(
        gales == alerts,
        "{} gales but {} alerts; first difference {:?}",
        gales.len(),
        alerts.len(),
        gales.symmetric_difference(&alerts).next()
    );
    demand!(!alerts.is_empty(), "no gale was seen");
    // The feed goes on where it was: the file is played in turn, so that no row comes a second
    // time more often than another has come.
    let (least, most) = (rows.values().min().copied(), rows.values().max().copied());
    let (Some(least), Some(most)) = (least, most) else { return Err(broken("no reading")) };
    let all = csv_rows(&example.app)?;
    let least = if (rows.len() as u64) < all { 0 } else { least };
    demand!(most <= least + 1, "one row was fed {most} times, another {least} times");
    figures.set("duplicates", 0);
    figures.set("gaps", 0);
    Ok(())
}

fn csv_rows(app: &Path) -> Result<u64, NotShown> {
    let text = std::fs::read_to_string(app.join("weather.csv")).during("read weather.csv")?;
    Ok((text.lines().count() as u64).saturating_sub(1))
}
