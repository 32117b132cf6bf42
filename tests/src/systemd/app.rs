//! The application that the node of the machine runs, and the verdict about its records: from the
//! stopped node's journal, and from what the function said before it worked on each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::machine::{Machine, PATIENCE};
use crate::checker::{Checker, DUPLICATE, GAP, Outputs, POSITION, Stage};
use crate::demand;
use crate::harness::wait;
use crate::journal_reader::{Fault, Follower, Journal, Role, plant};
use crate::promise::{During, NotShown, broken};

const PARTITIONS: usize = 4;

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 4

[topic.out]
partitions = 4

[function.slow]
runtime   = "python3"
path      = "slow"
handler   = "app.handler"
timeout   = "15s"
instances = { max = 2 }

[[function.slow.trigger]]
topics = ["in"]
start  = "earliest"
batch  = { records = 1 }
output = { topic = "out" }
"#;

/// Its start takes a second, so that a node that starts can be seen before it is ready, and says
/// when it begins.
const HANDLER: &str = r#"
import time

print("loads", flush=True)
time.sleep(1)


def handler(record, context):
    print("begin", record["n"], flush=True)
    time.sleep(record["s"])
    return {"n": record["n"]}
"#;

/// The application, and which records it was given.
#[derive(Debug)]
pub(super) struct Mill<'a> {
    machine: &'a Machine,
    produced: u64,
}

impl<'a> Mill<'a> {
    /// Deploys it into the machine's node.
    ///
    /// # Errors
    ///
    /// When that is refused.
    pub(super) fn deploy(machine: &'a Machine) -> Result<Self, NotShown> {
        machine.write("/srv/mill/millrace.toml", MANIFEST)?;
        machine.write("/srv/mill/slow/app.py", HANDLER)?;
        machine.sh("millrace deploy mill --yes")?;
        Ok(Self { machine, produced: 0 })
    }

    /// How many records it was given.
    pub(super) const fn produced(&self) -> u64 {
        self.produced
    }

    /// Gives it records that take so long each.
    ///
    /// # Errors
    ///
    /// When the node does not take them.
    pub(super) fn produce(&mut self, records: u64, each: Duration) -> Result<(), NotShown> {
        let numbers = self.produced..self.produced + records;
        let lines = numbers.map(|n| {
            let (key, seconds) = (n % 13, each.as_secs_f64());
            format!("{{\"n\":{n},\"k\":\"key-{key}\",\"s\":{seconds}}}\n")
        });
        self.machine.write("/srv/in.jsonl", &lines.collect::<String>())?;
        self.machine.sh("millrace produce in -f in.jsonl --key-field k")?;
        self.produced += records;
        Ok(())
    }

    /// Which records the function has begun with, and how often, by the system's journal.
    ///
    /// # Errors
    ///
    /// When the journal does not answer.
    pub(super) fn begun(&self) -> Result<BTreeMap<u64, u32>, NotShown> {
        let said = self.machine.sh("journalctl --sync; journalctl -q -o cat -u millrace")?;
        let mut begun = BTreeMap::new();
        for number in said.lines().filter_map(|line| line.strip_prefix("begin ")) {
            if let Ok(number) = number.trim().parse() {
                *begun.entry(number).or_default() += 1;
            }
        }
        Ok(begun)
    }

    /// Waits until records are worked on that have no output yet.
    ///
    /// # Errors
    ///
    /// When there are none in time.
    pub(super) fn is_at_work(&self) -> Result<(), NotShown> {
        let busy = wait::until(PATIENCE, || {
            let status = self.machine.sh("millrace status -o json").ok()?;
            let status: Value = serde_json::from_str(&status).ok()?;
            let functions = status["functions"].as_array()?;
            let slow = functions.iter().find(|it| it["name"] == "slow");
            (0 < slow?["in_flight"].as_u64()?).then_some(())
        });
        busy.ok_or_else(|| broken("no record is in flight"))
    }

    /// Waits until the node has nothing left to do.
    ///
    /// # Errors
    ///
    /// When it does not get there.
    pub(super) fn is_done(&self) -> Result<(), NotShown> {
        let mut last = String::new();
        let done = wait::until(2 * PATIENCE, || {
            last = self.machine.sh("millrace lag -o json").ok()?;
            let lag: Value = serde_json::from_str(&last).ok()?;
            (crate::harness::api::lag_of(&lag)? == 0).then_some(())
        });
        done.ok_or_else(|| broken(format!("the lag does not get to zero: {last}")))
    }

    fn data(&self) -> PathBuf {
        self.machine.path("/var/lib/millrace")
    }

    /// Which records have their output, in the journal of the stopped node.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub(super) fn done(&self) -> Result<BTreeSet<u64>, NotShown> {
        Ok(read(&self.data())?.1)
    }

    /// The verdict about everything, once the node is stopped with nothing left to do: each record
    /// has its output once and in order. Returns how many planted faults were found.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub(super) fn verdict(&self, folder: &Path) -> Result<usize, NotShown> {
        let (mut checker, done) = read(&self.data())?;
        checker.on_end();
        demand!(checker.findings().is_empty(), "{}", checker.findings().text());
        let all: BTreeSet<u64> = (0..self.produced).collect();
        demand!(done == all, "outputs of {} records, {} were produced", done.len(), all.len());
        let faults = [
            (Fault::Removed, "out", GAP),
            (Fault::Repeated, "out", DUPLICATE),
            (Fault::Advanced, "in", POSITION),
        ];
        for (fault, topic, kind) in faults {
            let copy = folder.join("copy");
            std::fs::create_dir_all(&copy).during("make a folder for a copy")?;
            let to = copy.join("journal.redb");
            std::fs::copy(self.data().join("journal.redb"), to).during("copy the journal")?;
            let partition = partition_with_records(&copy, topic)?;
            plant(&copy, fault, topic, partition)?;
            let (mut checker, _) = read(&copy)?;
            checker.on_end();
            let found = checker.findings();
            demand!(0 < found.count(kind), "planted {fault:?}, but the checker found {found:?}");
            std::fs::remove_dir_all(copy).during("remove the copy")?;
        }
        Ok(faults.len())
    }
}

/// How often records were begun once more: none is by a drain.
pub(super) fn repeats(begun: &BTreeMap<u64, u32>) -> u32 {
    begun.values().map(|times| times - 1).sum()
}

/// Whether every record that was begun has its output: what a drain has to leave.
pub(super) fn is_drained(begun: &BTreeMap<u64, u32>, done: &BTreeSet<u64>) -> Result<(), String> {
    let open: Vec<&u64> = begun.keys().filter(|it| !done.contains(it)).collect();
    if open.is_empty() { Ok(()) } else { Err(format!("begun and without an output: {open:?}")) }
}

fn read(data: &Path) -> Result<(Checker, BTreeSet<u64>), NotShown> {
    let stage = Stage { source: "in".to_owned(), partitions: PARTITIONS, outputs: Outputs::One };
    let mut checker = Checker::new(vec![stage]);
    let mut follower = Follower::new(vec![
        Role::topic("in").source_of(0),
        Role::topic("mill.slow.dead").dead_of(0),
        Role::topic("out").outputs_of(0),
    ]);
    let mut done = BTreeSet::new();
    follower.follow(&Journal::open(data)?, &mut checker, |topic, _, record| {
        if topic == "out" {
            let value: Value =
                serde_json::from_slice(record.value.unwrap_or_default()).unwrap_or_default();
            done.extend(value["n"].as_u64());
        }
    })?;
    Ok((checker, done))
}

fn partition_with_records(data: &Path, topic: &str) -> Result<i32, NotShown> {
    let journal = Journal::open(data)?;
    for partition in 0..PARTITIONS as i32 {
        if 0 < journal.records(topic, partition, 0, |_| {})? {
            return Ok(partition);
        }
    }
    Err(broken(format!("{topic} has no records")))
}
