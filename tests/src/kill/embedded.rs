//! Kills a node on its own bus: outputs and position are one journal write, so a kill repeats
//! nothing. The verdict is made from the stopped journal, by a reader that shares no code with
//! bus/.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::app::{App, First, PARTITIONS};
use super::load::{self, Load};
use super::{Look, Mill, Pace, Scene, Shown};
use crate::checker::{Checker, DUPLICATE, GAP, Outputs, POSITION, Stage};
use crate::demand;
use crate::harness::api::Api;
use crate::harness::rng::Rng;
use crate::journal_reader::{Fault, Follower, Journal, Role, plant};
use crate::promise::{During, Figures, NotShown, Run, broken};

/// What is planted in a copy of the journal, and what the checker has to call it.
const FAULTS: [(Fault, &str); 3] =
    [(Fault::Removed, GAP), (Fault::Repeated, DUPLICATE), (Fault::Advanced, POSITION)];

/// Shows `kill-embedded`.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let records = run.count("records", 60_000, 1_000_000);
    let kills = run.count("kills", 6, 50);
    let shown = show(run, First::Wasm, records, kills)?;
    let mut figures = shown.figures;
    figures.set("red_controls", shown.red);
    shown.tally.figures(&mut figures, "");
    Ok(figures)
}

/// Kills a chain that begins with `first`, and judges it.
pub(super) fn show(run: &Run, first: First, records: u64, kills: u64) -> Result<Shown, NotShown> {
    let app = App::make(&run.evidence.join("embedded"), first, None)?;
    let scene = OnJournal {
        load: Load::new(records),
        sender: None,
        pace: Pace::default(),
        began_at: Instant::now(),
        checker: checker(),
        follower: follower(),
        app: app.clone(),
    };
    let mut mill = Mill::new(app, scene, Rng::new(run.seed, 2));
    mill.run(run, records, kills)?;
    run.note("the final read, from the beginning");
    let figures = verdict(&mill.app, records)?;
    let mut red = 0;
    for (fault, kind) in FAULTS {
        run.note(format!("planting {fault:?} in a copy"));
        planted(&mill.app, &run.evidence.join("planted"), fault, kind)?;
        red += 1;
    }
    Ok(Shown { figures, tally: mill.tally, red })
}

fn checker() -> Checker {
    let stage = |source: &str| Stage {
        source: source.to_owned(),
        partitions: PARTITIONS,
        outputs: Outputs::One,
    };
    Checker::new(vec![stage("in"), stage("mid")])
}

fn follower() -> Follower {
    Follower::new(vec![
        Role::topic("in").source_of(0),
        Role::topic("chain.first.dead").dead_of(0),
        Role::topic("mid").outputs_of(0).source_of(1),
        Role::topic("chain.second.dead").dead_of(1),
        Role::topic("out").outputs_of(1),
    ])
}

/// The embedded bus: records come over the control API, the journal is read while the node is
/// stopped.
struct OnJournal {
    load: Arc<Load>,
    sender: Option<JoinHandle<Result<(), NotShown>>>,
    pace: Pace,
    began_at: Instant,
    checker: Checker,
    follower: Follower,
    app: App,
}

impl OnJournal {
    fn joined(&mut self) -> Result<(), NotShown> {
        let Some(sender) = self.sender.take() else { return Ok(()) };
        sender.join().map_err(|_panic| broken("the load panicked"))?
    }
}

impl Scene for OnJournal {
    fn left(&mut self) -> Result<u64, NotShown> {
        Ok(self.load.left())
    }

    fn load(&mut self, api: &Api, lives: u64) -> Result<(), NotShown> {
        let (rate, most) = self.pace.share(self.load.left(), lives);
        self.began_at = Instant::now();
        self.sender = Some(self.load.start(api.clone(), (rate as u64).max(1), most));
        Ok(())
    }

    fn hush(&mut self) -> Result<(), NotShown> {
        self.pace.add(self.began_at.elapsed());
        self.load.stop();
        self.joined()
    }

    fn finish(&mut self, api: &Api) -> Result<(), NotShown> {
        self.sender = Some(self.load.start(api.clone(), 0, u64::MAX));
        self.joined()?;
        demand!(self.load.left() == 0, "the connection was lost while draining");
        Ok(())
    }

    fn settle(&mut self) -> Result<(), NotShown> {
        Ok(())
    }

    fn look(&mut self) -> Result<Look, NotShown> {
        let journal = Journal::open(&self.app.data)?;
        let before = self.checker.outputs(1);
        let (load, mut twice) = (&self.load, None);
        self.follower.follow(&journal, &mut self.checker, |topic, partition, record| {
            if topic == "in" {
                let number = record.value.and_then(load::number);
                if !number.is_some_and(|number| load.arrived(number)) {
                    twice.get_or_insert((partition, record.offset, number));
                }
            }
        })?;
        demand!(twice.is_none(), "an input is there twice, or is none of the load's: {twice:?}");
        demand!(self.checker.findings().is_empty(), "{}", self.checker.findings().text());
        self.load.resume()?;
        let outputs = self.checker.outputs(1) - before;
        // A repeat is a finding of the checker here.
        Ok(Look { outputs, open: self.checker.open(0) + self.checker.open(1), repeats: 0 })
    }
}

/// Everything once more, by a checker that has seen nothing yet.
fn verdict(app: &App, records: u64) -> Result<Figures, NotShown> {
    let read = read_all(&app.data, app.first)?;
    demand!(read.checker.findings().is_empty(), "{}", read.checker.findings().text());
    let all = usize::try_from(records).unwrap_or(usize::MAX);
    demand!(read.inputs.len() == all, "{} of {records} inputs", read.inputs.len());
    let dead = read.checker.dead_letters(0) + read.checker.dead_letters(1);
    demand!(dead == 0, "{dead} dead letters, but no record is bad");
    demand!(read.inputs == read.outputs, "inputs and outputs have other numbers");
    Ok(Figures::default()
        .with("records", records)
        .with("outputs", read.checker.outputs(0) + read.checker.outputs(1))
        .with("duplicates", 0)
        .with("gaps", 0)
        .with("disorder", 0))
}

struct Read {
    checker: Checker,
    inputs: BTreeSet<u64>,
    outputs: BTreeSet<u64>,
}

fn read_all(data: &Path, first: First) -> Result<Read, NotShown> {
    let (mut checker, mut follower) = (checker(), follower());
    let (mut inputs, mut outputs) = (BTreeSet::new(), BTreeSet::new());
    let journal = Journal::open(data)?;
    follower.follow(&journal, &mut checker, |topic, _, record| match topic {
        "in" => inputs.extend(record.value.and_then(load::number)),
        "out" => outputs.extend(record.value.and_then(|value| first.number(value))),
        _ => {}
    })?;
    checker.on_end();
    Ok(Read { checker, inputs, outputs })
}

/// Proves the checker: a copy of the journal with this fault has to be red, and for the right
/// reason.
fn planted(app: &App, copy: &Path, fault: Fault, kind: &str) -> Result<(), NotShown> {
    std::fs::create_dir_all(copy).during("make a folder for a copy")?;
    let (from, to) = (app.data.join("journal.redb"), copy.join("journal.redb"));
    std::fs::copy(from, to).during("copy the journal")?;
    let topic = if fault == Fault::Advanced { "mid" } else { "out" };
    plant(copy, fault, topic, 0)?;
    let read = read_all(copy, app.first)?;
    std::fs::remove_dir_all(copy).during("remove the copy")?;
    let findings = read.checker.findings();
    demand!(0 < findings.count(kind), "planted {fault:?}, but the checker found {findings:?}");
    Ok(())
}
