//! The ground a case stands on: a folder with an application, a data directory and a state
//! directory of its own, and a node on it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::command::{self, Said};
use crate::harness::node::Node;
use crate::harness::{binaries, wait};
use crate::promise::{During, NotShown, broken};

/// How long a node may take to do what is asked.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Where a case runs.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) dir: PathBuf,
    pub(super) app: PathBuf,
    pub(super) data: PathBuf,
    pub(super) seed: u64,
}

/// A function of a case's application: what it reads is `<name>.in`, what it writes `<name>.out`,
/// what it gives up on `<name>.dead`.
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) component: PathBuf,
    /// More keys of the function's table.
    pub(super) keys: &'a str,
}

impl<'a> Function<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        Self { name, component: binaries::component(name), keys: "" }
    }
}

impl Ground {
    pub(super) fn new(dir: &Path, seed: u64) -> Result<Self, NotShown> {
        let (app, data) = (dir.join("app"), dir.join("data"));
        std::fs::create_dir_all(&app).during("make a case's folder")?;
        Ok(Self { dir: dir.to_owned(), app, data, seed })
    }

    /// Writes an application of these functions.
    pub(super) fn application(&self, functions: &[Function<'_>]) -> Result<(), NotShown> {
        let mut manifest = "[app]\nname = \"bad\"\n".to_owned();
        for Function { name, component, keys } in functions {
            let folder = self.app.join("functions").join(name);
            std::fs::create_dir_all(&folder).during("make a function's folder")?;
            std::fs::copy(component, folder.join("handler.wasm")).during("copy a component")?;
            write!(
                manifest,
                r#"
[topic."{name}.in"]
partitions = 2

[topic."{name}.out"]
partitions = 2

[function.{name}]
runtime = "wasm"
path    = "functions/{name}"
handler = "handler.wasm"
memory  = "16MiB"
timeout = "300ms"
{keys}

[[function.{name}.trigger]]
topics      = ["{name}.in"]
start       = "earliest"
order       = "key"
output      = {{ topic = "{name}.out" }}
retry       = {{ attempts = 2, backoff = "10ms..20ms" }}
dead-letter = "{name}.dead"
"#
            )
            .during("write a manifest")?;
        }
        std::fs::write(self.app.join("millrace.toml"), manifest).during("write a manifest")
    }

    /// The node's binary, with this case's state directory.
    pub(super) fn millrace(&self) -> Command {
        let mut command = Command::new(binaries::millrace());
        self.environment(&mut command);
        command
    }

    pub(super) fn environment(&self, command: &mut Command) {
        command.env("XDG_STATE_HOME", self.dir.join("state")).env_remove("MILLRACE_NODE");
        command.env("NO_COLOR", "1");
    }

    pub(super) fn serve_command(&self) -> Command {
        let mut command = self.millrace();
        command.arg("serve").arg("--app").arg(&self.app).arg("--data").arg(&self.data);
        command
    }

    /// A node on this ground that answers.
    pub(super) fn serve(&self) -> Result<(Node, Api), NotShown> {
        let mut node = Node::start(&mut self.serve_command(), &self.dir.join("node.log"))?;
        let api = Api::of(&self.dir.join("state"), &mut node, PATIENCE)?;
        Ok((node, api))
    }

    /// A node that has to refuse to start, with an error that contains all of `words`.
    pub(super) fn refuses(&self, words: &[&str]) -> Result<Said, NotShown> {
        let said = command::run(&mut self.serve_command(), PATIENCE)?;
        demand!(said.status != Some(0), "it ended with status 0: {}", said.all());
        demand!(said.status.is_some(), "a signal ended it: {}", said.all());
        is_clear(&said.stderr)?;
        for word in words {
            demand!(said.stderr.contains(word), "the error does not say {word:?}: {}", said.stderr);
        }
        Ok(said)
    }
}

/// An error that a person can use: it begins with `error`, and is no panic or debug output.
pub(super) fn is_clear(stderr: &str) -> Result<(), NotShown> {
    demand!(stderr.contains("error"), "no error on standard error: {stderr:?}");
    for word in ["panicked", "RUST_BACKTRACE", "unwrap()", "Err(", "Os { code"] {
        demand!(!stderr.contains(word), "an error with {word:?} in it: {stderr}");
    }
    Ok(())
}

/// Records with keys of their own.
pub(super) fn records(values: &[&str]) -> Vec<ToProduce> {
    let record = |(index, value): (usize, &&str)| ToProduce {
        key: format!("key-{index}").into_bytes(),
        value: value.as_bytes().to_vec(),
    };
    values.iter().enumerate().map(record).collect()
}

/// Waits until a topic has so many records, and returns them.
pub(super) fn arrived(api: &Api, topic: &str, count: usize) -> Result<Vec<Value>, NotShown> {
    let all = wait::until(PATIENCE, || {
        let records = api.records(topic, 10_000).ok()?;
        (count <= records.len()).then_some(records)
    });
    all.ok_or_else(|| {
        let there = api.records(topic, 10_000).map(|records| records.len());
        broken(format!(
            "{topic} has {there:?} records instead of {count}; status {:?}",
            api.status()
        ))
    })
}

/// The values of records as text.
pub(super) fn values(records: &[Value]) -> BTreeSet<String> {
    let values = records.iter().filter_map(|record| record["value"].as_str());
    values.map(str::to_owned).collect()
}

/// A header of a record, as text.
pub(super) fn header<'a>(record: &'a Value, name: &str) -> Option<&'a str> {
    let headers = record["headers"].as_array().into_iter().flatten();
    let mut named = headers.filter(|header| header["name"] == name);
    named.next_back()?["value"].as_str()
}

/// SIGTERM, and a clean end.
pub(super) fn stop(mut node: Node) -> Result<(), NotShown> {
    let (status, _) = node.stop(Signal::TERM, PATIENCE)?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    Ok(())
}

/// Starts a node, has it process `values` of the function `identity`, and stops it.
pub(super) fn process(ground: &Ground, values: &[&str]) -> Result<(), NotShown> {
    let (node, api) = ground.serve()?;
    api.produce("identity.in", &records(values))?;
    arrived(&api, "identity.out", values.len())?;
    let settled = wait::until(PATIENCE, || (api.lag().ok()? == 0).then_some(()));
    demand!(settled.is_some(), "the lag did not reach zero");
    stop(node)
}

/// Starts a node, demands that exactly `before` went through `identity`, each once, and that one
/// more record goes through too.
pub(super) fn goes_on(ground: &Ground, before: &[&str]) -> Result<Node, NotShown> {
    let (node, api) = ground.serve()?;
    api.produce("identity.in", &records(&["one more"]))?;
    arrived(&api, "identity.out", before.len() + 1)?;
    let settled = wait::until(PATIENCE, || (api.lag().ok()? == 0).then_some(()));
    demand!(settled.is_some(), "the lag did not reach zero");
    let expected: BTreeSet<String> =
        before.iter().copied().chain(["one more"]).map(str::to_owned).collect();
    for topic in ["identity.in", "identity.out"] {
        let there = api.records(topic, 10_000)?;
        demand!(there.len() == expected.len(), "{topic} has {} records", there.len());
        demand!(values(&there) == expected, "{topic} has other records than were acknowledged");
    }
    Ok(node)
}
