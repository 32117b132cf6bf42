//! The application that is killed: two functions in a chain over an embedded bus, in a folder of
//! its own, and the node that serves it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::api::Api;
use crate::harness::binaries;
use crate::harness::node::Node;
use crate::promise::{During, NotShown};

/// How many partitions each topic has.
pub(super) const PARTITIONS: usize = 8;
/// How many keys the records have.
pub(super) const KEYS: u64 = 10_000;

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
runtime = "wasm"
path    = "functions/first"
handler = "identity.wasm"

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

/// Where everything of the run lies.
#[derive(Clone, Debug)]
pub(super) struct App {
    /// The manifest's folder.
    pub(super) dir: PathBuf,
    /// The node's data directory.
    pub(super) data: PathBuf,
    state: PathBuf,
    log: PathBuf,
}

impl App {
    /// Writes the application into `within`.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn make(within: &Path) -> Result<Self, NotShown> {
        let dir = within.join("app");
        for (function, component) in [("first", "identity"), ("second", "work")] {
            let folder = dir.join("functions").join(function);
            std::fs::create_dir_all(&folder).during("make the application")?;
            let to = folder.join(format!("{component}.wasm"));
            std::fs::copy(binaries::component(component), to).during("copy a component")?;
        }
        std::fs::write(dir.join("millrace.toml"), MANIFEST).during("write the manifest")?;
        Ok(Self {
            dir,
            data: within.join("data"),
            state: within.join("state"),
            log: within.join("node.log"),
        })
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
        let mut node = Node::start(&mut command, &self.log)?;
        let api = Api::of(&self.state, &mut node, Duration::from_secs(60))?;
        Ok((node, api))
    }
}
