//! The application: two functions that misbehave as a record says, one called for each record and one
//! for a batch, which write down what they were given before they look at it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::api::Api;
use crate::harness::binaries;
use crate::harness::node::Node;
use crate::promise::{During, NotShown, broken};

/// Attempts of a record, and records of a batch at most.
pub(super) const ATTEMPTS: u64 = 3;
pub(super) const BATCH: u64 = 100;
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const PARTITIONS: u32 = 2;

/// How a function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Function {
    /// For each record: an exception is of one record.
    Each,
    /// For a batch, with AWS's event: an exception is of the batch.
    Whole,
}

impl Function {
    pub(super) const ALL: [Self; 2] = [Self::Each, Self::Whole];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Whole => "whole",
        }
    }

    pub(super) const fn outputs(self) -> &'static str {
        match self {
            Self::Each => "each-out",
            Self::Whole => "whole-out",
        }
    }

    pub(super) const fn dead(self) -> &'static str {
        match self {
            Self::Each => "poison.each.dead",
            Self::Whole => "poison.whole.dead",
        }
    }
}

const HANDLERS: &str = r#"
import base64
import json
import os
import re
import time

LOG = os.open(os.environ["LOG"] + f".{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
NUMBER = re.compile(rb'{"n":(\d+)')


def write_down(context, numbers):
    numbers = ",".join(map(str, numbers))
    os.write(LOG, f"{time.time()} {context.aws_request_id} {numbers}\n".encode())


def misbehave(record):
    deed = record.get("do")
    if deed == "exception":
        raise ValueError("as the record says")
    if deed == "crash":
        os._exit(3)
    if deed == "timeout":
        time.sleep(60)


def each(record, context):
    write_down(context, [record["n"]])
    misbehave(record)
    return {"n": record["n"], "at": record["at"]}


def whole(event, context):
    records = [it for group in event["records"].values() for it in group]
    values = [base64.b64decode(it["value"]) for it in records]
    write_down(context, [int(NUMBER.match(it).group(1)) for it in values])
    outputs = []
    for record, value in zip(records, values):
        it = json.loads(value)
        misbehave(it)
        source = {"partition": f"{record['topic']}-{record['partition']}", "offset": record["offset"]}
        outputs.append({"value": {"n": it["n"], "at": it["at"]}, "source": source})
    return {"$outputs": outputs}
"#;

/// One invocation, as the function wrote it down.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ran {
    /// When it began, in seconds of Unix time.
    pub(super) at_s: f64,
    pub(super) records: Vec<u64>,
}

/// Where everything of the run on one bus lies.
#[derive(Debug)]
pub(super) struct App {
    dir: PathBuf,
    pub(super) data: PathBuf,
    state: PathBuf,
    log: PathBuf,
    /// The node's file, where it is on Kafka.
    kafka: Option<PathBuf>,
}

impl App {
    /// Writes it.
    pub(super) fn make(within: &Path, brokers: Option<String>) -> Result<Self, NotShown> {
        let dir = within.join("app");
        std::fs::create_dir_all(dir.join("code")).during("make the application")?;
        std::fs::write(dir.join("code/app.py"), HANDLERS).during("write the handlers")?;
        let mut manifest =
            format!("[app]\nname = \"poison\"\n[topic.in]\npartitions = {PARTITIONS}\n");
        for function in Function::ALL {
            let (name, outputs) = (function.name(), function.outputs());
            let event = if function == Function::Each { "record" } else { "lambda" };
            let log = within.join(name);
            manifest.push_str(&format!(
                "[topic.{outputs}]\npartitions = {PARTITIONS}\n\
                 [function.{name}]\nruntime = \"python3\"\npath = \"code\"\n\
                 handler = \"app.{name}\"\ntimeout = \"{}ms\"\ninstances = {{ max = 4 }}\n\
                 env = {{ LOG = {log:?} }}\n\
                 [[function.{name}.trigger]]\ntopics = [\"in\"]\nstart = \"earliest\"\n\
                 event = \"{event}\"\norder = \"key\"\n\
                 batch = {{ records = {BATCH}, window = \"100ms\" }}\n\
                 retry = {{ attempts = {ATTEMPTS}, backoff = \"50ms..200ms\" }}\n\
                 output = {{ topic = \"{outputs}\" }}\n",
                TIMEOUT.as_millis(),
            ));
        }
        std::fs::write(dir.join("millrace.toml"), manifest).during("write the manifest")?;
        let kafka = brokers.is_some().then(|| within.join("node.toml"));
        if let (Some(file), Some(brokers)) = (&kafka, brokers) {
            let text = format!(
                "[kafka]\nbrokers = \"{brokers}\"\ncluster = \"poison\"\ncreate-topics = true\n"
            );
            std::fs::write(file, text).during("write the node's file")?;
        }
        let (data, state) = (within.join("data"), within.join("state"));
        Ok(Self { dir, data, state, log: within.join("node.log"), kafka })
    }

    /// A node with it.
    pub(super) fn serve(&self) -> Result<(Node, Api), NotShown> {
        let mut command = Command::new(binaries::millrace());
        command.env("XDG_STATE_HOME", &self.state).env_remove("MILLRACE_NODE");
        command.arg("serve").arg("--app").arg(&self.dir).arg("--data").arg(&self.data);
        if let Some(file) = &self.kafka {
            command.arg("--config").arg(file);
        }
        let mut node = Node::start(&mut command, &self.log)?;
        let api = Api::of(&self.state, &mut node, Duration::from_secs(60))?;
        Ok((node, api))
    }

    /// What a function wrote down, in the order in which its invocations began.
    pub(super) fn ran(&self, function: Function) -> Result<Vec<Ran>, NotShown> {
        let folder = self.log.with_file_name("");
        let begin = format!("{}.", function.name());
        let mut by_id: BTreeMap<String, Ran> = BTreeMap::new();
        for entry in std::fs::read_dir(folder).during("look for what was written down")? {
            let entry = entry.during("look for what was written down")?;
            if !entry.file_name().to_string_lossy().starts_with(&begin) {
                continue;
            }
            let text =
                std::fs::read_to_string(entry.path()).during("read what was written down")?;
            for line in text.lines() {
                let read = read(line).ok_or_else(|| broken(format!("{line:?}")))?;
                let (at_s, id, records) = read;
                let it = by_id.entry(id).or_insert(Ran { at_s, records: Vec::new() });
                it.at_s = it.at_s.min(at_s);
                it.records.extend(records);
            }
        }
        let mut ran: Vec<Ran> = by_id.into_values().collect();
        ran.sort_by(|one, two| one.at_s.total_cmp(&two.at_s));
        Ok(ran)
    }
}

fn read(line: &str) -> Option<(f64, String, Vec<u64>)> {
    let mut words = line.split(' ');
    let (at_s, id, numbers) = (words.next()?, words.next()?, words.next()?);
    let numbers = numbers.split(',').map(|it| it.parse().ok()).collect::<Option<Vec<u64>>>()?;
    Some((at_s.parse().ok()?, id.to_owned(), numbers))
}
