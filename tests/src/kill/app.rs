//! The application that is killed: two functions in a chain, in a folder of its own, and the node
//! that serves it on its own bus or on Kafka.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::load;
use crate::harness::api::Api;
use crate::harness::binaries;
use crate::harness::node::Node;
use crate::promise::{During, NotShown};

/// How many partitions each topic has.
pub(crate) const PARTITIONS: usize = 8;
/// How many keys the records have.
pub(super) const KEYS: u64 = 10_000;

/// What the first function of the chain is. The second is WebAssembly and gives back what it is
/// given, at a price of some microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// WebAssembly, the identity.
    Wasm,
    /// Python: called record by record, with an answer of its own making.
    Python,
}

const MANIFEST: &str = r#"
[app]
name = "chain"

[topic.in]
partitions = 8

[topic.mid]
partitions = 8

[topic.out]
partitions = 8

[function.first]
RUNTIME
path = "functions/first"

[[function.first.trigger]]
topics = ["in"]
start  = "earliest"
order  = "key"
output = { topic = "mid" }

[function.second]
runtime = "wasm"
path    = "functions/second"
handler = "work.wasm"

[[function.second.trigger]]
topics = ["mid"]
start  = "earliest"
order  = "key"
output = { topic = "out" }
"#;

/// Some tens of microseconds of work, so that a kill meets it running; [`First::answer`] says the
/// same.
const HANDLER: &str = r#"
def handler(record, context):
    state = record["n"]
    for _ in range(300):
        state = (state * 5 + 1) % 1000003
    return {"n": record["n"], "mark": record["n"] * 2654435761 % 4294967296}
"#;

impl First {
    const fn runtime(self) -> &'static str {
        match self {
            Self::Wasm => "runtime = \"wasm\"\nhandler = \"identity.wasm\"",
            Self::Python => "runtime = \"python3\"\nhandler = \"app.handler\"",
        }
    }

    /// What the chain makes of a record.
    pub(super) fn answer(self, number: u64) -> Vec<u8> {
        match self {
            Self::Wasm => load::value(number),
            Self::Python => {
                let mark = number.wrapping_mul(2_654_435_761) % (1 << 32);
                format!("{{\"n\":{number},\"mark\":{mark}}}").into_bytes()
            }
        }
    }

    /// The number in an output, if it is a whole answer of the chain.
    pub(super) fn number(self, bytes: &[u8]) -> Option<u64> {
        load::leading_number(bytes).filter(|number| bytes == self.answer(*number))
    }
}

/// Where everything of the run lies.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(super) first: First,
    /// The manifest's folder.
    dir: PathBuf,
    /// The node's data directory.
    pub(super) data: PathBuf,
    state: PathBuf,
    log: PathBuf,
    /// The brokers of its bus; `None` is the node's own.
    kafka: Option<String>,
}

impl App {
    /// Writes the application into `within`, for a node on these brokers or on its own bus.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn make(
        within: &Path,
        first: First,
        kafka: Option<String>,
    ) -> Result<Self, NotShown> {
        let dir = within.join("app");
        for function in ["first", "second"] {
            let folder = dir.join("functions").join(function);
            std::fs::create_dir_all(folder).during("make the application")?;
        }
        let component = |name: &str, function: &str| {
            let to = dir.join(format!("functions/{function}/{name}.wasm"));
            std::fs::copy(binaries::component(name), to).during("copy a component")
        };
        component("work", "second")?;
        match first {
            First::Wasm => drop(component("identity", "first")?),
            First::Python => std::fs::write(dir.join("functions/first/app.py"), HANDLER)
                .during("write the handler")?,
        }
        let manifest = MANIFEST.replace("RUNTIME", first.runtime());
        std::fs::write(dir.join("millrace.toml"), manifest).during("write the manifest")?;
        Ok(Self {
            first,
            dir,
            data: within.join("data"),
            state: within.join("state"),
            log: within.join("node.log"),
            kafka,
        })
    }

    /// Where its manifest lies.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the node and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn serve(&self) -> Result<(Node, Api), NotShown> {
        let mut command = Command::new(binaries::millrace());
        command.env("XDG_STATE_HOME", &self.state).env_remove("MILLRACE_NODE");
        command.arg("serve").arg("--app").arg(&self.dir).arg("--data").arg(&self.data);
        if let Some(brokers) = &self.kafka {
            command.arg("--kafka").arg(brokers);
        }
        // What it starts is known by this folder.
        command.current_dir(&self.dir);
        let mut node = Node::start(&mut command, &self.log)?;
        let api = Api::of(&self.state, &mut node, Duration::from_secs(60))?;
        Ok((node, api))
    }

    /// What holds the node's positions, on its own bus as a view.
    pub(super) fn sled(&self) -> PathBuf {
        self.data.join("sled")
    }

    /// Whatever runs in this folder is of the node.
    pub(super) fn folder(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_known_by_their_number_and_by_nothing_less() {
        for first in [First::Wasm, First::Python] {
            assert_eq!(first.number(&first.answer(123_456)), Some(123_456));
            let mut other = first.answer(7);
            other[10] ^= 1;
            assert_eq!(first.number(&other), None);
        }
        assert_eq!(First::Python.answer(3), b"{\"n\":3,\"mark\":3668339987}");
    }
}
