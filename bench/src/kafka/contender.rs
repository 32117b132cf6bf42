//! Who is measured: the passthrough with either malloc, and a node with a component, each reading
//! the same records and running the same function.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failed;

use super::service::Service;
use super::{INPUT, Plan};

const IDENTITY: &[u8] = include_bytes!("../../../tests/components/identity.wasm");
const IOT: &[u8] = include_bytes!("../../../tests/components/iot.wasm");

/// What is done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Identity,
    Iot,
}

impl Function {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Iot => "iot",
        }
    }

    const fn component(self) -> &'static [u8] {
        match self {
            Self::Identity => IDENTITY,
            Self::Iot => IOT,
        }
    }
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// The passthrough with the system's malloc.
    Peer,
    /// The passthrough with the node's malloc.
    PeerMimalloc,
    /// A node, with the function as a component, a fresh instance for each batch of 500.
    Node,
    /// A node of another build.
    NodeBefore,
}

/// One of those that are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    pub(crate) function: Function,
}

impl Contender {
    pub(crate) const fn new(name: &'static str, program: Program, function: Function) -> Self {
        Self { name, program, function }
    }

    /// Starts it on the input topic, in a new folder, under names that nobody had before.
    pub(crate) fn start(&self, plan: &Plan, dir: &Path, output: &str) -> Result<Service, Failed> {
        std::fs::create_dir_all(dir)?;
        let function = self.function.name();
        let manifest = || manifest(function, output, &plan.order);
        let program = match self.program {
            Program::Peer => "kafka-peer",
            Program::PeerMimalloc => "kafka-peer-mimalloc",
            Program::Node => {
                let app = App { manifest: manifest(), function: self.function };
                return app.start(self.name, plan, dir, &beside("millrace"));
            }
            Program::NodeBefore => {
                let app = App { manifest: manifest(), function: self.function };
                let program = plan.before.as_deref().ok_or("--before names no program")?;
                return app.start(self.name, plan, dir, program);
            }
        };
        let mut command = Command::new(beside(program));
        command.args([&plan.brokers, &format!("bench-{output}"), INPUT, output, function]);
        Service::start(self.name, &mut command, &dir.join("log"))
    }
}

/// A program that was built together with this one.
pub(crate) fn beside(program: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().unwrap_or_else(|| Path::new(".")).join(program)
}

fn manifest(function: &str, output: &str, order: &str) -> String {
    format!(
        "[app]\nname = \"bench\"\n\
         [topic.{INPUT}]\npartitions = 8\n\
         [topic.{output}]\npartitions = 8\n\
         [function.{function}]\nruntime = \"wasm\"\npath = \"function\"\n\
         handler = \"{function}.wasm\"\ninstances = {{ fresh = \"batch\" }}\n\
         [[function.{function}.trigger]]\ntopics = [\"{INPUT}\"]\nstart = \"earliest\"\n\
         order = \"{order}\"\nbatch = {{ records = 500 }}\noutput = {{ topic = \"{output}\" }}\n"
    )
}

/// An application of one component.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) manifest: String,
    pub(crate) function: Function,
}

impl App {
    /// Starts a node with it, in a new folder, whose name nobody has had on this broker.
    pub(crate) fn start(
        &self,
        name: &str,
        plan: &Plan,
        dir: &Path,
        program: &Path,
    ) -> Result<Service, Failed> {
        let (app, function) = (dir.join("app"), self.function.name());
        std::fs::create_dir_all(app.join("function"))?;
        let component = app.join("function").join(format!("{function}.wasm"));
        std::fs::write(component, self.function.component())?;
        std::fs::write(app.join("millrace.toml"), &self.manifest)?;
        let config = dir.join("node.toml");
        let cluster = dir.file_name().unwrap_or_default().to_string_lossy();
        let brokers = &plan.brokers;
        std::fs::write(
            &config,
            format!(
                "[kafka]\nbrokers = \"{brokers}\"\ncluster = \"{cluster}\"\ncreate-topics = true\n"
            ),
        )?;
        let mut command = Command::new(program);
        command.env("XDG_STATE_HOME", dir.join("state")).arg("serve");
        command.arg("--app").arg(app).arg("--data").arg(dir.join("data"));
        command.arg("--config").arg(config).args(["--name", &cluster]);
        Service::start(name, &mut command, &dir.join("log"))
    }
}
