//! The application that meets the faults: a trigger for each, the identity of their inputs in their
//! outputs, and one beside them that no fault is meant for. Topics are made by the independent
//! client, and the node is not permitted to make any.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::hand::Hand;
use crate::harness::api::Api;
use crate::harness::binaries;
use crate::harness::kafka::{Broker, PASSWORD, USER};
use crate::harness::node::Node;
use crate::promise::{During, NotShown};

/// A trigger: `NAME.in` to `NAME.out`, dead letters in `NAME.dead`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) partitions: usize,
    /// Its trigger's `start` at first.
    pub(super) start: &'static str,
    /// Records a second that flow through it; 0 = only what a case sends.
    pub(super) rate: u32,
    /// Settings of its output topic.
    pub(super) output: &'static str,
}

const fn line(name: &'static str, partitions: usize, rate: u32) -> Line {
    Line { name, partitions, start: "earliest", rate, output: "" }
}

/// The one that no fault is meant for.
pub(super) const STEADY: &str = "steady";

/// Bytes of a batch that topics with a small limit take.
pub(super) const SMALL_LIMIT: usize = 20_000;

pub(super) const LINES: &[Line] = &[
    line(STEADY, 4, 200),
    // Deleted, and deleted and made again, while the node runs.
    line("gone", 2, 20),
    line("again", 2, 20),
    // The same while it is stopped.
    line("left", 2, 20),
    line("swap", 2, 20),
    // Its output topic is deleted.
    line("sink", 2, 20),
    // Gets partitions; of its own records only the new ones are wanted.
    Line { start: "latest", ..line("grow", 2, 20) },
    // Loses records while the node is frozen, and while it is stopped.
    line("late", 1, 0),
    line("old", 2, 20),
    // Has an output topic with a small limit, and one whose limit is lowered.
    Line { output: "max.message.bytes=20000", ..line("large", 1, 0) },
    line("lower", 1, 20),
];

#[derive(Clone, Debug)]
pub(super) struct App {
    dir: PathBuf,
    data: PathBuf,
    state: PathBuf,
    log: PathBuf,
    config: PathBuf,
    /// Triggers that were healed: under another name they begin anew.
    healed: Vec<&'static str>,
}

impl App {
    /// Writes the application, and the node's file, into `within`.
    pub(super) fn make(within: &Path, broker: &Broker) -> Result<Self, NotShown> {
        let app = Self {
            dir: within.join("app"),
            data: within.join("data"),
            state: within.join("state"),
            log: within.join("node.log"),
            config: within.join("node.toml"),
            healed: Vec::new(),
        };
        let folder = app.dir.join("identity");
        std::fs::create_dir_all(&folder).during("make the application")?;
        let to = folder.join("identity.wasm");
        std::fs::copy(binaries::component("identity"), to).during("copy a component")?;
        app.write()?;
        let config = format!(
            "[kafka]\nbrokers = \"{}\"\ncluster = \"faults\"\ncreate-topics = false\n\
             [kafka.settings]\n\"security.protocol\" = \"SASL_PLAINTEXT\"\n\
             \"sasl.mechanisms\" = \"PLAIN\"\n\"sasl.username\" = \"{USER}\"\n\
             \"sasl.password\" = \"{PASSWORD}\"\n",
            broker.password_address()
        );
        std::fs::write(&app.config, config).during("write the node's file")?;
        Ok(app)
    }

    fn write(&self) -> Result<(), NotShown> {
        let mut text = "[app]\nname = \"faults\"\n".to_owned();
        for Line { name, partitions, start, .. } in LINES {
            let is_healed = self.healed.contains(name);
            let (trigger, start) = if is_healed {
                (format!("{name}-2"), "earliest")
            } else {
                ((*name).into(), *start)
            };
            text.push_str(&format!(
                r#"
[topic."{name}.in"]
partitions = {partitions}

[function.{name}]
runtime = "wasm"
path    = "identity"
handler = "identity.wasm"

[[function.{name}.trigger]]
name        = "{trigger}"
topics      = ["{name}.in"]
start       = "{start}"
order       = "key"
retry       = {{ attempts = 2, backoff = "50ms..200ms" }}
output      = {{ topic = "{name}.out" }}
dead-letter = "{name}.dead"
"#
            ));
        }
        std::fs::write(self.dir.join("millrace.toml"), text).during("write the manifest")
    }

    /// Gives these triggers another name, as the pages of their errors say: they begin anew.
    pub(super) fn heal(&mut self, names: &[&'static str]) -> Result<(), NotShown> {
        self.healed.extend(names);
        self.write()
    }

    /// Starts the node and waits until it answers.
    pub(super) fn serve(&self) -> Result<(Node, Api), NotShown> {
        let mut command = Command::new(binaries::millrace());
        command.env("XDG_STATE_HOME", &self.state).env_remove("MILLRACE_NODE");
        command.arg("serve").arg("--app").arg(&self.dir).arg("--data").arg(&self.data);
        command.arg("--config").arg(&self.config);
        let mut node = Node::start(&mut command, &self.log)?;
        let api = Api::of(&self.state, &mut node, Duration::from_secs(60))?;
        Ok((node, api))
    }

    /// What the command `millrace status` shows a person.
    pub(super) fn shown_status(&self) -> Command {
        let mut command = Command::new(binaries::millrace());
        command.env("XDG_STATE_HOME", &self.state).env_remove("MILLRACE_NODE").arg("status");
        command
    }
}

/// Makes the topics of all lines.
pub(super) fn make_topics(hand: &mut Hand) -> Result<(), NotShown> {
    for line in LINES {
        make_input(hand, line)?;
        hand.create(&format!("{}.out", line.name), line.partitions, line.output)?;
        hand.create(&format!("{}.dead", line.name), 1, "")?;
    }
    Ok(())
}

/// Makes the input of a line, for the first time or again.
pub(super) fn make_input(hand: &mut Hand, line: &Line) -> Result<(), NotShown> {
    hand.create(&format!("{}.in", line.name), line.partitions, "")
}

/// The line of this name.
pub(super) fn find(name: &str) -> Line {
    *LINES.iter().find(|line| line.name == name).expect("it is one of the list")
}
