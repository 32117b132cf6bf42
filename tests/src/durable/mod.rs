//! The promise `durable`: acknowledged deploys, pauses and tokens outlive the loss and the wiping of
//! a minority, a quorum that is lost for good, and a power cut of everything; and a backup goes on
//! elsewhere where it was.
//!
//! ```text
//! one person's commands ──▶ any node     deploy, pause, resume, token: written down when acknowledged
//! chance                ──▶ kill -9 of one node at a time, then of all, then a disk, then the quorum
//! ```

mod verdict;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use self::verdict::{Acknowledged, Said};
use crate::demand;
use crate::harness::command;
use crate::harness::fleet::{Fleet, Slot, User};
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken};

/// A client of Kafka in Python alone, with a protocol of its own.
const CLIENT: &str = "aiokafka==0.14.0";
const PATIENCE: Duration = Duration::from_secs(90);
/// Applications that are deployed again and again.
const APPS: u64 = 3;
/// Records before a backup, and after it.
const BEFORE: u64 = 300;
const AFTER: u64 = 200;

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let (kills, cuts) = (run.count("kills", 6, 40), run.count("cuts", 500, 5_000));
    run.note(format!("{cuts} power cuts of simulated groups"));
    let mut figures = crate::raft_sim::power_cuts(run.seed, cuts)?;
    run.note("fetch Kafka and a client of it");
    let kafka = Kafka::fetch()?;
    let python = python::with(&[CLIENT])?;
    let broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::Plain)?;
    run.note("three nodes");
    let mut fleet = Fleet::form(&run.evidence, &broker.address(), 3)?;
    make_topics(&fleet.slots[0])?;
    let mut rng = Rng::new(run.seed, 0xd0);

    run.note(format!("deploys, pauses and tokens through {kills} kills"));
    let mut person = Person::new(&run.evidence);
    under_kills(&mut fleet, &mut person, kills, &mut rng)?;
    holds_everywhere(&fleet, &person.acknowledged)?;
    run.note("every node at once");
    for slot in &mut fleet.slots {
        slot.kill()?;
    }
    fleet.start_all()?;
    holds_everywhere(&fleet, &person.acknowledged)?;

    run.note("a node loses its disk");
    let spent = lose_a_disk(&mut fleet, &person.tokens)?;
    holds_everywhere(&fleet, &person.acknowledged)?;
    run.note("a quorum is lost for good");
    lose_the_quorum(&mut fleet)?;
    holds_everywhere(&fleet, &person.acknowledged)?;

    run.note("a backup goes on in another cluster");
    let mut reader = Asked::start(&python, "dump.py", &[&broker.address()], &run.evidence)?;
    let other = run.evidence.join("other");
    let (said, outputs) =
        go_on_elsewhere(&mut fleet, &other, &broker.address(), &person, &mut reader)?;
    let (red, planted) = verdict::red(&person.acknowledged, &said, &outputs);
    demand!(red == planted, "{red} of {planted} planted losses were noticed");
    let simulated = figures.number("red_controls").unwrap_or_default();
    figures.set("kills", kills);
    figures.set("deploys", person.deploys);
    figures.set("pauses", person.pauses);
    figures.set("tokens", person.tokens.len());
    figures.set("tokens_spent", spent);
    figures.set("tried_again", person.tried_again);
    figures.set("records", BEFORE + AFTER);
    figures.set("red_controls", simulated + red);
    Ok(figures)
}

/// On Kafka nodes make none of their own.
fn make_topics(slot: &Slot) -> Result<(), NotShown> {
    let outputs = (0..APPS).map(|it| format!("out-app-{it}"));
    for topic in ["in".to_owned(), "in.dead".to_owned()].into_iter().chain(outputs) {
        slot.run(&["topic", "create", &topic, "--partitions", "4"])?;
    }
    Ok(())
}

/// Who deploys, pauses and makes tokens, one thing after the other, and writes down what was
/// acknowledged. What was not is asked for again: then it holds whatever became of it before.
struct Person {
    folder: PathBuf,
    acknowledged: Acknowledged,
    tokens: Vec<String>,
    number: u64,
    deploys: u64,
    pauses: u64,
    tried_again: u64,
}

impl Person {
    fn new(folder: &Path) -> Self {
        Self {
            folder: folder.join("apps"),
            acknowledged: Acknowledged::default(),
            tokens: Vec::new(),
            number: 0,
            deploys: 0,
            pauses: 0,
            tried_again: 0,
        }
    }

    /// Does the next thing through any of these nodes.
    fn act(&mut self, users: &[User]) -> Result<(), NotShown> {
        let number = self.number;
        self.number += 1;
        let app = format!("app-{}", number / 3 % APPS);
        let trigger = format!("{app}/mark/mark");
        match number % 3 {
            0 => {
                let dir = self.write(&app, number)?;
                let said = self.insist(users, &["deploy", &dir, "--yes", "-o", "json"])?;
                let revision = said["functions"][0]["runs"]["revision"].as_str();
                let revision = revision.ok_or_else(|| broken(format!("no revision: {said}")))?;
                self.acknowledged.deploys.insert(app, revision.to_owned());
                self.acknowledged.pauses.entry(trigger).or_insert(false);
                self.deploys += 1;
            }
            // The first application runs all the time.
            1 if app != "app-0" => {
                let was = self.acknowledged.pauses.get(&trigger).copied().unwrap_or_default();
                let verb = if was { "resume" } else { "pause" };
                self.insist(users, &["trigger", verb, &trigger, "-o", "json"])?;
                self.acknowledged.pauses.insert(trigger, !was);
                self.pauses += 1;
            }
            _ => {
                let said = self.insist(users, &["node", "token", "-o", "json"])?;
                let token = said["token"].as_str().ok_or_else(|| broken("no token"))?;
                self.tokens.push(token.to_owned());
            }
        }
        Ok(())
    }

    fn insist(&mut self, users: &[User], words: &[&str]) -> Result<Value, NotShown> {
        let mut last = String::new();
        for again in 0..40 {
            let user = &users[(self.number + again) as usize % users.len()];
            let said = command::run(&mut user.command(words), PATIENCE)?;
            if said.status == Some(0) {
                return serde_json::from_str(&said.stdout).during("read an answer");
            }
            last = said.all();
            self.tried_again += 1;
            wait::pause(Duration::from_millis(250));
        }
        Err(broken(format!("{words:?} was never acknowledged: {last}")))
    }

    fn write(&self, app: &str, number: u64) -> Result<String, NotShown> {
        let dir = self.folder.join(app);
        let code = format!("# {number}\ndef mark(value, context):\n    return value\n");
        let manifest = format!(
            "[app]\nname = \"{app}\"\n\n[topic.in]\npartitions = 4\n\n[topic.out-{app}]\npartitions = 4\n\n\
             [function.mark]\nruntime = \"python3\"\npath = \"mark\"\nhandler = \"app.mark\"\n\n\
             [[function.mark.trigger]]\ntopics = [\"in\"]\ndead-letter = \"in.dead\"\noutput = {{ topic = \"out-{app}\" }}\n"
        );
        std::fs::create_dir_all(dir.join("mark")).during("make an application")?;
        std::fs::write(dir.join("mark/app.py"), code).during("write a function")?;
        std::fs::write(dir.join("millrace.toml"), manifest).during("write a manifest")?;
        Ok(dir.display().to_string())
    }
}

fn under_kills(
    fleet: &mut Fleet,
    person: &mut Person,
    kills: u64,
    rng: &mut Rng,
) -> Result<(), NotShown> {
    let users: Vec<User> = fleet.slots.iter().map(Slot::user).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| -> Result<(), NotShown> {
            // At least one of each thing of each application.
            while !is_over.load(Ordering::Relaxed) || person.number < 3 * APPS {
                person.act(&users)?;
            }
            Ok(())
        });
        let mut killed = Ok(());
        for _kill in 0..kills {
            wait::pause(rng.time(Duration::from_millis(200), Duration::from_secs(3)));
            let place = rng.draw(fleet.slots.len() as u64) as usize;
            let slot = &mut fleet.slots[place];
            killed = slot.kill();
            wait::pause(rng.time(Duration::ZERO, Duration::from_secs(2)));
            killed = killed.and_then(|()| slot.start());
            if killed.is_err() {
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        let acted = acting.join().map_err(|_panic| broken("the thread that acts ended"))?;
        killed.and(acted)
    })
}

/// Every node that is up says what was acknowledged, once it has caught up.
fn holds_everywhere(fleet: &Fleet, acknowledged: &Acknowledged) -> Result<(), NotShown> {
    for slot in fleet.up() {
        let mut last = Vec::new();
        let holds = wait::until(PATIENCE, || {
            last = verdict::lost(acknowledged, &said_by(slot).ok()?);
            last.is_empty().then_some(())
        });
        holds.ok_or_else(|| broken(format!("{}: {}", slot.name, last.join("; "))))?;
    }
    Ok(())
}

fn said_by(slot: &Slot) -> Result<Said, NotShown> {
    let functions = json(slot, &["functions", "-o", "json"])?;
    Ok(Said::of(&functions, &json(slot, &["trigger", "list", "-o", "json"])?))
}

fn json(slot: &Slot, words: &[&str]) -> Result<Value, NotShown> {
    serde_json::from_str(&slot.run(words)?).during("read an answer")
}

/// The last node's disk is lost; who shows its old identity is refused, and a new one joins with a
/// token that was acknowledged before. A token is of use once.
fn lose_a_disk(fleet: &mut Fleet, tokens: &[String]) -> Result<u64, NotShown> {
    let mut lost = fleet.slots.pop().ok_or_else(|| broken("no node"))?;
    lost.kill()?;
    let kept = lost.folder().join("kept");
    std::fs::rename(lost.data.join("cluster"), &kept).during("keep an identity")?;
    std::fs::remove_dir_all(&lost.data).during("wipe a disk")?;
    std::fs::create_dir(&lost.data).during("make a folder")?;
    std::fs::rename(&kept, lost.data.join("cluster")).during("put back an identity")?;
    refused(&lost, "E0423")?;
    let first = &fleet.slots[0];
    first.run(&["node", "remove", &lost.name])?;
    let (Some(token), Some(other)) = (tokens.last(), tokens.first()) else {
        return Err(broken("no token was made"));
    };
    let mut new = lost.replaced("edge-4")?;
    new.join_with(token, first)?;
    let mut late = lost.replaced("edge-5")?;
    demand!(late.join_with(token, first).is_err(), "a token let in two nodes");
    late = lost.replaced("edge-6")?;
    late.join_with(other, first)?;
    first.run(&["node", "remove", "edge-6"])?;
    new.start()?;
    fleet.slots.push(new);
    fleet.until_voters(3, PATIENCE)?;
    Ok(2)
}

/// Two of three are gone: one of them comes back too late, when the last has gone on alone.
fn lose_the_quorum(fleet: &mut Fleet) -> Result<(), NotShown> {
    // All of them know all: what a survivor does not know it cannot keep.
    for slot in &mut fleet.slots {
        slot.kill()?;
    }
    let late = fleet.slots.remove(1);
    let gone = fleet.slots.remove(1);
    std::fs::remove_dir_all(&gone.data).during("wipe a disk")?;
    let data = fleet.slots[0].data.display().to_string();
    let survivor = &mut fleet.slots[0];
    survivor.run(&["raft", "recover", "--data", &data, "--yes"])?;
    survivor.start()?;
    fleet.until_voters(1, PATIENCE)?;
    refused(&late, "E0424")
}

/// A node that must not come back: it ends by itself, with status 78 and this code.
fn refused(slot: &Slot, code: &str) -> Result<(), NotShown> {
    let said = command::run(&mut slot.serving(), PATIENCE)?;
    let is_so = said.status == Some(78) && said.all().contains(&format!("error[{code}]"));
    demand!(is_so, "{} ended with {:?}, not with {code}: {}", slot.name, said.status, said.all());
    Ok(())
}

/// A cluster of another name on the same Kafka goes on where the backup was: each record has one
/// output of one of the two. What the new one says, and the outputs of both.
fn go_on_elsewhere(
    fleet: &mut Fleet,
    folder: &Path,
    brokers: &str,
    person: &Person,
    reader: &mut Asked,
) -> Result<(Said, Vec<(i64, i64)>), NotShown> {
    let file = folder.with_extension("backup").display().to_string();
    let first = &mut fleet.slots[0];
    produce(first, BEFORE)?;
    arrive(reader, BEFORE)?;
    first.run(&["backup", &file])?;
    first.kill()?;
    std::fs::create_dir_all(folder).during("make a folder")?;
    let other = Fleet::form(folder, brokers, 1)?;
    produce(&other.slots[0], AFTER)?;
    other.slots[0].run(&["restore", &file])?;
    holds_everywhere(&other, &person.acknowledged)?;
    let outputs = arrive(reader, BEFORE + AFTER)?;
    let read = reader.ask("in", PATIENCE)?;
    let records = read["records"].as_array().into_iter().flatten();
    let sources: BTreeSet<(i64, i64)> =
        records.filter_map(|it| Some((it[0].as_i64()?, it[4].as_i64()?))).collect();
    let uneven = verdict::uneven(&sources, &outputs);
    demand!(uneven.is_empty(), "{} records have not one output: {uneven:?}", uneven.len());
    Ok((said_by(&other.slots[0])?, outputs))
}

fn produce(slot: &Slot, records: u64) -> Result<(), NotShown> {
    let lines: Vec<String> = (0..records).map(|it| format!("{{\"id\":{it}}}")).collect();
    let file = slot.folder().join("records.jsonl");
    std::fs::write(&file, lines.join("\n")).during("write records")?;
    let file = file.display().to_string();
    slot.run(&["produce", "in", "--key-field", "id", "-f", &file]).map(drop)
}

/// Waits until the first application has put out so much, and then whether more comes.
fn arrive(reader: &mut Asked, wanted: u64) -> Result<Vec<(i64, i64)>, NotShown> {
    let mut found = Vec::new();
    let arrived = wait::until(PATIENCE, || {
        let said = match reader.ask("out-app-0", PATIENCE) {
            Ok(said) => said,
            Err(error) => return Some(Err(error)),
        };
        found = sources(&said);
        (wanted <= found.len() as u64).then_some(Ok(()))
    });
    arrived.ok_or_else(|| broken(format!("{} of {wanted} outputs", found.len())))??;
    wait::pause(Duration::from_secs(2));
    Ok(sources(&reader.ask("out-app-0", PATIENCE)?))
}

/// Which source record each output is of: `1;topic;partition;offset;...`.
fn sources(said: &Value) -> Vec<(i64, i64)> {
    let records = said["records"].as_array().into_iter().flatten();
    let origins = records.filter_map(|record| record[3]["millrace-origin"].as_str());
    let place = |origin: &str| {
        let mut parts = origin.split(';').skip(2);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    origins.filter_map(place).collect()
}
