//! The promise `labels`: a function that names a label runs where that is and nowhere else, whichever
//! of three nodes it is deployed at, called at, or rolled back at, and whichever of them dies.
//!
//! ```text
//! jobs[6] ──▶ render, labels = ["gpu"] (Python, says where it ran) ──▶ rendered
//! ```
//!
//! Where it ran is the path of its own file, which lies in the folder of the node that started it; it
//! is read from the topic by a client of Kafka that is not ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::demand;
use crate::harness::fleet::{Fleet, Slot};
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::harness::{command, wait};
use crate::promise::{During, Figures, NotShown, Run, broken};

const CLIENT: &str = "aiokafka==0.14.0";
const PATIENCE: Duration = Duration::from_secs(60);
/// Records of each part of the run.
const RECORDS: u64 = 120;

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    run.note("fetch Kafka and a client of it");
    let kafka = Kafka::fetch()?;
    let python = python::with(&[CLIENT])?;
    let broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::Plain)?;
    run.note("three nodes, of which two have the label");
    let mut fleet = Fleet::form_making_topics(&run.evidence, &broker.address(), 3)?;
    for at in [1, 2] {
        relabel(&mut fleet.slots[at], &["gpu"])?;
    }
    let reader = Asked::start(&python, "dump.py", &[&broker.address()], &run.evidence)?;
    let app = run.evidence.join("app");
    let mut stage = Stage { fleet, reader, app, parts: Vec::new() };
    stage.play(run)?;
    let outputs = stage.outputs()?;
    judge(&stage.parts, &outputs)?;
    let red = plants(&stage.parts, &outputs)?;
    Ok(Figures::default()
        .with("records", RECORDS * stage.parts.len() as u64)
        .with("parts", stage.parts.len() as u64)
        .with("red_controls", red))
}

/// A part of the run: its records are numbered from `RECORDS` times its own number.
#[derive(Clone, Debug)]
struct Part {
    what: &'static str,
    version: u64,
    /// Where its records may run.
    nodes: &'static [&'static str],
}

/// An output: which record, by which version, at which node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Output {
    number: u64,
    version: u64,
    node: String,
}

struct Stage {
    fleet: Fleet,
    reader: Asked,
    app: PathBuf,
    parts: Vec<Part>,
}

impl Stage {
    fn play(&mut self, run: &Run) -> Result<(), NotShown> {
        run.note("deployed at the one without the label");
        write_app(&self.app, 1, &["gpu"], "")?;
        self.deploy(0)?;
        self.part("both have it", 1, &["edge-2", "edge-3"], 0)?;
        let said = self.fleet.slots[0].run(&["invoke", "render", "{\"n\":0}"])?;
        let at = node_of(&said).ok_or_else(|| broken(format!("a call answered {said}")))?;
        demand!(at != "edge-1", "a call ran at {at}, which lacks the label");
        run.note("one of the two is killed");
        self.fleet.slots[1].kill()?;
        self.part("one of them is dead", 1, &["edge-3"], 0)?;
        self.fleet.slots[1].start()?;
        run.note("what cannot start, and what no node has the label of");
        write_app(&self.app, 2, &["gpu"], "import nothing_of_this_name\n")?;
        self.refused("E0315", "nothing_of_this_name")?;
        write_app(&self.app, 2, &["gpu", "tpu"], "")?;
        self.refused("E0443", "the labels gpu and tpu")?;
        self.part("two deploys were refused", 1, &["edge-2", "edge-3"], 0)?;
        run.note("the label goes to the other node");
        relabel(&mut self.fleet.slots[0], &["gpu"])?;
        for at in [1, 2] {
            relabel(&mut self.fleet.slots[at], &[])?;
        }
        self.part("another node has it", 1, &["edge-1"], 2)?;
        run.note("a new version, and back, at one without the label");
        write_app(&self.app, 2, &["gpu"], "")?;
        self.deploy(2)?;
        self.part("a new version", 2, &["edge-1"], 2)?;
        self.fleet.slots[1].run(&["rollback", "render"])?;
        self.settle()?;
        self.part("rolled back", 1, &["edge-1"], 1)?;
        run.note("a new version that any node may run");
        write_app(&self.app, 3, &[], "")?;
        self.deploy(1)?;
        self.part("without a label", 3, &["edge-1", "edge-2", "edge-3"], 1)
    }

    fn deploy(&self, at: usize) -> Result<(), NotShown> {
        let app = self.app.display().to_string();
        self.fleet.slots[at].run(&["deploy", "--yes", &app])?;
        self.settle()
    }

    /// Waits until whoever runs the function runs what is deployed: a command ends when the cluster has
    /// agreed, and other nodes follow.
    fn settle(&self) -> Result<(), NotShown> {
        let read = |slot: &Slot, path: &str| -> Result<Value, NotShown> {
            let text = slot.api()?.get(path).during(format!("ask for {path}"))?;
            serde_json::from_str(&text).during(format!("read {path}"))
        };
        let is_settled = || -> Result<bool, NotShown> {
            let deployed = read(&self.fleet.slots[0], "/v1/functions")?;
            let deployed = deployed["functions"][0]["runs"]["revision"].clone();
            let mut running = Vec::new();
            for slot in self.fleet.up() {
                let status = read(slot, &format!("/v1/status?node={}", slot.name))?;
                let all = status["functions"].as_array().into_iter().flatten();
                running.extend(all.map(|it| it["revision"].clone()));
            }
            Ok(!running.is_empty() && running.iter().all(|it| *it == deployed))
        };
        let settled = wait::until(PATIENCE, || match is_settled() {
            Ok(is_settled) => is_settled.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        });
        settled.ok_or_else(|| broken("nodes run another revision than what is deployed"))?
    }

    /// A deploy at the node without the label that has to be refused, by name.
    fn refused(&self, code: &str, why: &str) -> Result<(), NotShown> {
        let app = self.app.display().to_string();
        let mut deploy = self.fleet.slots[0].user().command(&["deploy", "--yes", &app]);
        let said = command::run(&mut deploy, PATIENCE)?;
        demand!(said.status == Some(1), "a deploy that has to be refused: {}", said.all());
        let names_it = said.all().contains(code) && said.all().contains(why);
        demand!(names_it, "{code} and {why:?} are not in {}", said.all());
        Ok(())
    }

    /// Sends the records of a part at a node, and waits for their outputs.
    fn part(
        &mut self,
        what: &'static str,
        version: u64,
        nodes: &'static [&'static str],
        at: usize,
    ) -> Result<(), NotShown> {
        let first = RECORDS * self.parts.len() as u64;
        self.parts.push(Part { what, version, nodes });
        let record = |n: u64| format!("{{\"n\":{n},\"key\":\"{}\"}}", n % 60);
        let lines: Vec<String> = (first..first + RECORDS).map(record).collect();
        let file = self.app.join("../jobs.jsonl");
        std::fs::write(&file, lines.join("\n")).during("write records")?;
        let file = file.display().to_string();
        self.fleet.slots[at].run(&["produce", "jobs", "--key-field", "key", "-f", &file])?;
        let mut found = 0;
        let arrived = wait::until(PATIENCE, || {
            let outputs = match self.outputs() {
                Ok(outputs) => outputs,
                Err(error) => return Some(Err(error)),
            };
            let numbers: BTreeSet<u64> = outputs.iter().map(|it| it.number).collect();
            found = numbers.range(first..first + RECORDS).count();
            (found as u64 == RECORDS).then_some(Ok(()))
        });
        let told = || broken(format!("{what}: {found} of {RECORDS} outputs"));
        arrived.ok_or_else(told)?
    }

    fn outputs(&mut self) -> Result<Vec<Output>, NotShown> {
        let said = self.reader.ask("rendered", PATIENCE)?;
        let records = said["records"].as_array().into_iter().flatten();
        records.map(|record| output(&record[2])).collect()
    }
}

fn output(text: &Value) -> Result<Output, NotShown> {
    let text = text.as_str().unwrap_or_default();
    let value: Value = serde_json::from_str(text).during(format!("read {text:?}"))?;
    let number = value["n"].as_u64().ok_or_else(|| broken(format!("no number in {text}")))?;
    let version = value["version"].as_u64().unwrap_or_default();
    let node = node_of(text).ok_or_else(|| broken(format!("no node's folder in {text}")))?;
    Ok(Output { number, version, node })
}

/// The node in whose folder the file lies that ran.
fn node_of(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    let mut parts = Path::new(value["ran"].as_str()?).iter().filter_map(|it| it.to_str());
    parts.rfind(|it| it.starts_with("edge-")).map(str::to_owned)
}

/// Ends a node and starts it with these labels.
fn relabel(slot: &mut Slot, labels: &[&str]) -> Result<(), NotShown> {
    slot.stop(Signal::TERM, PATIENCE)?;
    slot.set_labels(labels);
    slot.start()
}

fn write_app(dir: &Path, version: u64, labels: &[&str], first: &str) -> Result<(), NotShown> {
    let manifest = format!(
        "[app]\nname = \"shop\"\n\n[topic.jobs]\npartitions = 6\n\n[topic.rendered]\npartitions = \
         1\n\n[function.render]\nruntime = \"python3\"\npath = \"render\"\nhandler = \
         \"app.handler\"\nlabels = {labels:?}\n\n[[function.render.trigger]]\ntopics = \
         [\"jobs\"]\nstart = \"earliest\"\noutput = {{ topic = \"rendered\" }}\n"
    );
    let handler = format!(
        "{first}\n\ndef handler(value, context):\n    return {{\"n\": value[\"n\"], \"ran\": \
         __file__, \"version\": {version}}}\n"
    );
    std::fs::create_dir_all(dir.join("render")).during("make the application")?;
    std::fs::write(dir.join("millrace.toml"), manifest).during("write the manifest")?;
    std::fs::write(dir.join("render/app.py"), handler).during("write the function")
}

/// Every record has an output, of the version and at a node that its part allows, and all of these
/// nodes have a part in it.
fn judge(parts: &[Part], outputs: &[Output]) -> Result<(), NotShown> {
    let mut at: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    for output in outputs {
        let index = output.number / RECORDS;
        let part = parts.get(usize::try_from(index).during("count parts")?);
        let part = part.ok_or_else(|| broken(format!("nobody sent {output:?}")))?;
        let is_there = part.nodes.contains(&output.node.as_str());
        demand!(is_there, "{}: {output:?} may run at {:?}", part.what, part.nodes);
        demand!(output.version == part.version, "{}: {output:?} is of another version", part.what);
        at.entry(index).or_default().insert(&output.node);
        seen.insert(output.number);
    }
    let sent = RECORDS * parts.len() as u64;
    demand!(seen.len() as u64 == sent, "{} of {sent} records have an output", seen.len());
    // Later on a node that came back is given partitions when it weighs less, not at once.
    let first = at.get(&0).map_or(0, BTreeSet::len);
    demand!(first == parts[0].nodes.len(), "{first} of {:?} ran some", parts[0].nodes);
    Ok(())
}

/// What could go wrong, in a copy of what was seen: each has to be noticed. How many there are.
fn plants(parts: &[Part], outputs: &[Output]) -> Result<u64, NotShown> {
    let changed = |change: fn(&mut Output)| {
        let mut outputs = outputs.to_vec();
        outputs.iter_mut().filter(|it| it.number == 7).for_each(change);
        outputs
    };
    let mut one_sided = outputs.to_vec();
    one_sided.iter_mut().filter(|it| it.number < RECORDS).for_each(|it| it.node = "edge-2".into());
    let all = [
        ("a record that ran without the label", changed(|it| it.node = "edge-1".to_owned())),
        ("a record of another version", changed(|it| it.version = 9)),
        ("a record that nobody sent", changed(|it| it.number = RECORDS * 99)),
        ("a node that is left out", one_sided),
        ("a lost record", outputs.iter().filter(|it| it.number != 7).cloned().collect()),
    ];
    let count = all.len() as u64;
    for (what, planted) in all {
        demand!(judge(parts, &planted).is_err(), "nobody noticed {what}");
    }
    Ok(count)
}
