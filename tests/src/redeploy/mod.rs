//! The promise that deploys lose nothing, repeat nothing and reorder nothing, under load and under
//! SIGKILL, and that a revision which cannot start never gets a record.
//!
//! ```text
//! load ──HTTP──▶ in ──▶ py ──▶ a ──▶ js ──▶ b ──▶ wasm ──▶ out       (one node, `serve` alone)
//!                        ▲           ▲            ▲
//!                 millrace deploy, again and again, three times broken
//! ```
//!
//! The code of each revision adds a mark of its own, and each output names its revision: which code
//! ran is seen in every record. The verdict is made from the journal and the packages of the
//! stopped node.

mod app;
mod kills;
mod reload;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::checker::{Checker, DUPLICATE, GAP, POSITION};
use crate::demand;
use crate::harness::api::Api;
use crate::harness::node::Node;
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::journal_reader::{Fault, Follower, Journal, plant};
use crate::kill::load::{self, Load};
use crate::promise::{During, Figures, NotShown, Run, broken, rounded, seconds};
use app::{App, PARTS, PATIENCE, Part, Revisions, revisions_of};
use verdict::{Marks, Seen};

/// More than any run sends.
const RECORDS_MAX: u64 = 20_000_000;
/// Connections of the load.
const SENDERS: u64 = 2;
/// Outputs that a function makes after a deploy, before the next one comes.
const OUTPUTS_BETWEEN: i64 = 2_000;
/// From a save to the first record on the new code.
const RELOAD_MAX: Duration = Duration::from_secs(1);

/// What is planted in a copy of the journal, and what the checker has to call it.
const FAULTS: [(Fault, &str, &str); 3] = [
    (Fault::Removed, "out", GAP),
    (Fault::Repeated, "out", DUPLICATE),
    (Fault::Advanced, "b", POSITION),
];

/// The node, its load, and what is known of both.
struct Mill {
    app: App,
    load: Arc<Load>,
    checker: Checker,
    follower: Follower,
    rng: Rng,
    marks: Marks,
    seen: Seen,
    /// The newest mark that any function was given.
    newest: u64,
}

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    for interpreter in ["python3", "node"] {
        let found = std::process::Command::new(interpreter).arg("--version").output();
        if !found.is_ok_and(|said| said.status.success()) {
            return Err(NotShown::Unchecked(format!("there is no {interpreter}")));
        }
    }
    let rate = run.count("rate", 20_000, 20_000);
    let deploys = run.count("deploys", 8, 20).max(8);
    let kills = run.count("kills", 5, 200);
    let saves = run.count("saves", 8, 40);
    let mut mill = Mill {
        app: App::make(&run.evidence)?,
        load: Load::new(RECORDS_MAX),
        checker: verdict::checker(),
        follower: verdict::follower(),
        rng: Rng::new(run.seed, 4),
        marks: Marks::default(),
        seen: Seen::default(),
        newest: 0,
    };
    let mut figures = mill.deploy_under_load(run, deploys, rate)?;
    let tally = kills::run(&mut mill, run, kills)?;
    run.note("the final read, from the beginning");
    mill.verdict(&mut figures)?;
    figures.set("kills", tally.kills);
    figures.set("kills_after", tally.after);
    figures.set("acknowledged", tally.acknowledged);
    figures.set("whole", tally.whole);
    figures.set("absent", tally.absent);
    figures.set("slowest_start_s", seconds(tally.slowest_start));
    let red = mill.planted(run)?;
    figures.set("red_controls", red);
    run.note(format!("{saves} saves in dev"));
    let took = reload::measure(&run.evidence, saves)?;
    let p95 = reload::percentile(&took, 0.95);
    figures.set("saves", saves);
    figures.set("reload_p50_s", seconds(reload::percentile(&took, 0.5)));
    figures.set("reload_p95_s", seconds(p95));
    demand!(!run.full || p95 <= RELOAD_MAX, "dev reloads in {p95:?} (p95): {figures}");
    Ok(figures)
}

/// What is deployed: a function with new code, and whether that can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deploy {
    part: Part,
    is_broken: bool,
}

/// Good ones in turn, and one broken in each way among them.
fn schedule(deploys: u64) -> Vec<Deploy> {
    let good = |turn: u64| PARTS[usize::try_from(turn).unwrap_or(0) % PARTS.len()];
    let mut all: Vec<Deploy> =
        (0..deploys - 3).map(|turn| Deploy { part: good(turn), is_broken: false }).collect();
    for (number, part) in PARTS.into_iter().enumerate() {
        let place = all.len() * (number + 1) / 4;
        all.insert(place, Deploy { part, is_broken: true });
    }
    all
}

impl Mill {
    /// Deploys in a row while records flow; then everything settles, and the node ends.
    fn deploy_under_load(
        &mut self,
        run: &Run,
        deploys: u64,
        rate: u64,
    ) -> Result<Figures, NotShown> {
        let (node, api) = self.app.serve()?;
        let mut numbers = [0; 3];
        let first = self.app.planned()?;
        self.marks.learn(&first, numbers);
        let (status, answer) = self.app.deploy()?;
        demand!(status == Some(0), "the first deploy ended with {status:?}: {answer}");
        let mut current = running(&answer)?;
        demand!(current == first, "planned {first:?}, deployed {current:?}");
        let started_at = Instant::now();
        let senders: Vec<_> =
            (0..SENDERS).map(|_| self.load.start(api.clone(), rate / SENDERS, u64::MAX)).collect();
        let (mut refused, mut took) = (0, Vec::new());
        for (number, deploy) in schedule(deploys).into_iter().enumerate() {
            run.note(format!("deploy {} of {deploys}: {deploy:?}", number + 1));
            let place = PARTS.iter().position(|part| *part == deploy.part).unwrap_or(0);
            let asked_at = Instant::now();
            if deploy.is_broken {
                self.app.damage(deploy.part)?;
                let (status, answer) = self.app.deploy()?;
                is_refused(deploy.part, status, &answer, &current)?;
                self.app.write(deploy.part, numbers[place])?;
                refused += 1;
            } else {
                self.newest += 1;
                numbers[place] = self.newest;
                self.app.write(deploy.part, self.newest)?;
                // Before any record can have passed it.
                let planned = self.app.planned()?;
                self.marks.learn(&planned, numbers);
                let (status, answer) = self.app.deploy()?;
                current = is_deployed(deploy.part, status, &answer, &planned)?;
                took.push(asked_at.elapsed());
            }
            let (topic, end) = (deploy.part.output(), api.end_of(deploy.part.output())?);
            let flows = wait::until(PATIENCE, || {
                (end + OUTPUTS_BETWEEN <= api.end_of(topic).ok()?).then_some(())
            });
            demand!(flows.is_some(), "nothing comes out of {topic}: {}", node.tail());
        }
        let sent = RECORDS_MAX - self.load.left();
        let rate_seen = sent as f64 / started_at.elapsed().as_secs_f64();
        self.load.stop();
        for sender in senders {
            sender.join().map_err(|_| broken("the load panicked"))??;
        }
        run.note(format!("{sent} records sent, {rate_seen:.0} a second: draining"));
        self.drain(node, &api)?;
        demand!(!run.full || 0.9 * rate as f64 <= rate_seen, "{rate_seen:.0} records/s were sent");
        took.sort();
        Ok(Figures::default()
            .with("rate", rounded(rate_seen, 0))
            .with("deploys", deploys)
            .with("refused", refused)
            .with("deploy_p50_s", seconds(reload::percentile(&took, 0.5)))
            .with("deploy_max_s", seconds(reload::percentile(&took, 1.0))))
    }

    /// Until nothing is left to do, and a clean end.
    fn drain(&mut self, mut node: Node, api: &Api) -> Result<(), NotShown> {
        let drained = wait::until(PATIENCE, || {
            wait::pause(Duration::from_millis(50));
            (api.lag().ok()? == 0).then_some(())
        });
        demand!(drained.is_some(), "the lag is {:?} after {PATIENCE:?}", api.lag());
        let (status, _) = node.stop(Signal::TERM, Duration::from_secs(30))?;
        demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
        self.look()
    }

    /// Reads what was added to the stopped journal, and checks every settled offset.
    fn look(&mut self) -> Result<(), NotShown> {
        let journal = Journal::open(&self.app.data)?;
        let (load, marks, seen, mut twice) = (&self.load, &self.marks, &mut self.seen, None);
        self.follower.follow(&journal, &mut self.checker, |topic, partition, record| {
            seen.on_record(marks, topic, record);
            if topic == "in" {
                let number = record.value.and_then(load::number);
                if !number.is_some_and(|number| load.arrived(number)) {
                    twice.get_or_insert((partition, record.offset, number));
                }
            }
        })?;
        demand!(twice.is_none(), "an input is there twice, or is none of the load's: {twice:?}");
        demand!(self.checker.findings().is_empty(), "{}", self.checker.findings().text());
        self.seen.demand_marks()?;
        self.load.resume()
    }

    /// Everything once more, by a checker that has seen nothing yet.
    fn verdict(&self, figures: &mut Figures) -> Result<(), NotShown> {
        let (checker, seen) = verdict::read_all(&self.app.data, &self.marks)?;
        demand!(checker.findings().is_empty(), "{}", checker.findings().text());
        seen.demand_marks()?;
        let dead: u64 = (0..PARTS.len()).map(|stage| checker.dead_letters(stage)).sum();
        demand!(dead == 0, "{dead} dead letters, but no record is bad");
        demand!(seen.inputs == seen.outputs, "inputs and outputs have other numbers");
        let outputs: u64 = (0..PARTS.len()).map(|stage| checker.outputs(stage)).sum();
        for part in PARTS {
            let ran = seen.by_revision.keys().filter(|(it, _)| *it == part).count();
            demand!(1 < ran, "{ran} of {} revisions of {part:?} ran", self.marks.count(part));
        }
        figures.set("records", seen.inputs.len());
        figures.set("outputs", outputs);
        figures.set("revisions_run", seen.by_revision.len());
        for zero in ["duplicates", "gaps", "disorder", "wrong_revision"] {
            figures.set(zero, 0);
        }
        Ok(())
    }

    /// Proves the checks: each planted fault has to be red, and for the right reason.
    fn planted(&self, run: &Run) -> Result<u64, NotShown> {
        let copy = run.evidence.join("planted");
        for (fault, topic, kind) in FAULTS {
            run.note(format!("planting {fault:?} in a copy"));
            std::fs::create_dir_all(&copy).during("make a folder for a copy")?;
            let (from, to) = (self.app.data.join("journal.redb"), copy.join("journal.redb"));
            std::fs::copy(from, to).during("copy the journal")?;
            plant(&copy, fault, topic, 0)?;
            let (checker, _) = verdict::read_all(&copy, &self.marks)?;
            std::fs::remove_dir_all(&copy).during("remove the copy")?;
            let findings = checker.findings();
            demand!(0 < findings.count(kind), "planted {fault:?}, but found {findings:?}");
        }
        run.note("taking one revision for another, and a byte of a package for another");
        let mut marks = self.marks.clone();
        marks.confuse();
        let (_, seen) = verdict::read_all(&self.app.data, &marks)?;
        demand!(seen.demand_marks().is_err(), "outputs of the wrong code are not noticed");
        let folder = copy.join("packages");
        std::fs::create_dir_all(&folder).during("make a folder for a copy")?;
        let name = verdict::packages(&self.app.data)?.pop_first();
        let name = name.ok_or_else(|| broken("there is no package"))?;
        let path = self.app.data.join("packages").join(&name);
        let mut bytes = std::fs::read(path).during("read a package")?;
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
        std::fs::write(folder.join(&name), bytes).during("write a damaged package")?;
        demand!(verdict::packages(&copy).is_err(), "a damaged package is not noticed");
        Ok(FAULTS.len() as u64 + 2)
    }
}

/// The revisions that run, as a deploy says.
fn running(answer: &Value) -> Result<Revisions, NotShown> {
    revisions_of(&answer["functions"], |function| &function["runs"]["revision"])
}

fn function(answer: &Value, part: Part) -> Result<&Value, NotShown> {
    let mut all = answer["functions"].as_array().into_iter().flatten();
    let one = all.find(|function| function["name"] == part.name());
    one.ok_or_else(|| broken(format!("nothing of {part:?} in {answer}")))
}

/// The function has its new revision, and only it.
fn is_deployed(
    part: Part,
    status: Option<i32>,
    answer: &Value,
    planned: &Revisions,
) -> Result<Revisions, NotShown> {
    demand!(status == Some(0), "a deploy of {part:?} ended with {status:?}: {answer}");
    for other in PARTS {
        let expected = if other == part { "deployed" } else { "unchanged" };
        let outcome = &function(answer, other)?["outcome"];
        demand!(*outcome == *expected, "{other:?} is {outcome}, not {expected}: {answer}");
    }
    let now = running(answer)?;
    demand!(now == *planned, "planned {planned:?}, deployed {now:?}");
    Ok(now)
}

/// The function was refused for the reason that was planted, and all run on as they were.
fn is_refused(
    part: Part,
    status: Option<i32>,
    answer: &Value,
    current: &Revisions,
) -> Result<(), NotShown> {
    let damage = part.damage();
    demand!(status == Some(1), "a broken deploy of {part:?} ended with {status:?}: {answer}");
    let refused = function(answer, part)?;
    let (outcome, error) = (&refused["outcome"], &refused["error"]);
    let message = error["message"].as_str().unwrap_or_default();
    demand!(
        *outcome == "refused" && error["code"] == damage.code && message.contains(damage.says),
        "{part:?} should be refused with {damage:?}: {answer}"
    );
    let now = running(answer)?;
    demand!(now == *current, "{now:?} runs after a refusal, {current:?} ran before");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_is_broken_once_among_good_deploys() {
        for deploys in [8, 20] {
            let all = schedule(deploys);
            assert_eq!(all.len() as u64, deploys);
            for part in PARTS {
                let of =
                    |is_broken| all.iter().filter(move |it| **it == Deploy { part, is_broken });
                assert_eq!(of(true).count(), 1);
                assert!(1 <= of(false).count());
            }
            assert!(!all[0].is_broken && !all[all.len() - 1].is_broken);
        }
    }
}
