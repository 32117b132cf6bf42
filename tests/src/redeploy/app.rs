//! The application that is deployed again and again: a chain of three functions, each of which adds
//! the mark that its code has, and the commands that deploy it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::api::Api;
use crate::harness::node::Node;
use crate::harness::{binaries, command};
use crate::promise::{During, NotShown, broken};

/// How many partitions each topic has.
pub(super) const PARTITIONS: usize = 4;
/// Of every mark.
pub(super) const MARK_BYTES: usize = 10;
/// How long a command may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 4

[function.py]
runtime   = "python3"
path      = "py"
handler   = "app.stamp"
instances = { max = 2 }

[[function.py.trigger]]
topics = ["in"]
decode = "none"
batch  = { records = 500 }
output = { topic = "a" }

[function.js]
runtime   = "node"
path      = "js"
handler   = "index.stamp"
instances = { max = 2 }

[[function.js.trigger]]
topics = ["a"]
decode = "none"
batch  = { records = 500 }
output = { topic = "b" }

[function.wasm]
runtime = "wasm"
path    = "wasm"
handler = "stamp.wasm"

[[function.wasm.trigger]]
topics = ["b"]
batch  = { records = 500 }
output = { topic = "out" }
"#;

/// One of the three functions, in the order of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// `in` -> `a`.
    Python,
    /// `a` -> `b`.
    Node,
    /// `b` -> `out`.
    Wasm,
}

/// All of them.
pub(super) const PARTS: [Part; 3] = [Part::Python, Part::Node, Part::Wasm];

/// How a revision is broken, and what the refusal has to say of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damage {
    /// The code.
    pub(super) code: &'static str,
    /// Part of the message.
    pub(super) says: &'static str,
}

impl Part {
    /// Its name in the manifest.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Python => "py",
            Self::Node => "js",
            Self::Wasm => "wasm",
        }
    }

    /// The topic that it writes.
    pub(super) const fn output(self) -> &'static str {
        match self {
            Self::Python => "a",
            Self::Node => "b",
            Self::Wasm => "out",
        }
    }

    /// The mark of this number, as its code has it.
    pub(super) fn mark(self, number: u64) -> String {
        let letter = self.name().chars().next().unwrap_or_default();
        format!(" {letter}-{number:07}")
    }

    /// What breaks it in the way that the promise speaks of.
    pub(super) const fn damage(self) -> Damage {
        match self {
            Self::Python => Damage { code: "E0315", says: "Runtime.UserCodeSyntaxError" },
            Self::Node => Damage { code: "E0315", says: "Runtime.ImportModuleError" },
            Self::Wasm => Damage { code: "E0302", says: "test:wants-more/database" },
        }
    }
}

/// Where everything of the run lies.
#[derive(Clone, Debug)]
pub(super) struct App {
    /// The manifest's folder.
    dir: PathBuf,
    /// The node's data directory.
    pub(super) data: PathBuf,
    state: PathBuf,
    log: PathBuf,
}

impl App {
    /// Writes the application into `within`, each function with mark 0.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn make(within: &Path) -> Result<Self, NotShown> {
        let this = Self {
            dir: within.join("app"),
            data: within.join("data"),
            state: within.join("state"),
            log: within.join("node.log"),
        };
        for part in PARTS {
            std::fs::create_dir_all(this.dir.join(part.name())).during("make the application")?;
            this.write(part, 0)?;
        }
        std::fs::write(this.dir.join("millrace.toml"), MANIFEST).during("write the manifest")?;
        Ok(this)
    }

    fn source(&self, part: Part) -> PathBuf {
        self.dir.join(match part {
            Part::Python => "py/app.py",
            Part::Node => "js/index.mjs",
            Part::Wasm => "wasm/stamp.wasm",
        })
    }

    /// Gives a function the code that adds this mark.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn write(&self, part: Part, number: u64) -> Result<(), NotShown> {
        let mark = part.mark(number);
        let code = match part {
            Part::Python => {
                format!("def stamp(value, context):\n    return value + b\"{mark}\"\n").into_bytes()
            }
            Part::Node => format!(
                "const mark = Buffer.from(\"{mark}\");\n\
                 export const stamp = (value) => Buffer.concat([value, mark]);\n"
            )
            .into_bytes(),
            Part::Wasm => stamped(&mark)?,
        };
        std::fs::write(self.source(part), code).during("write a function")
    }

    /// Gives a function code that cannot start.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn damage(&self, part: Part) -> Result<(), NotShown> {
        let code = match part {
            Part::Python => b"def stamp(value, context:\n    return value\n".to_vec(),
            Part::Node => {
                b"import nowhere from \"nowhere\";\nexport const stamp = nowhere;\n".to_vec()
            }
            Part::Wasm => {
                std::fs::read(binaries::component("wants_more")).during("read a component")?
            }
        };
        std::fs::write(self.source(part), code).during("write a function")
    }

    /// Starts a node that knows no folder, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn serve(&self) -> Result<(Node, Api), NotShown> {
        let mut command = self.command(&["serve", "--name", "mill", "--data"]);
        let mut node = Node::start(command.arg(&self.data), &self.log)?;
        let api = Api::of(&self.state, &mut node, Duration::from_secs(60))?;
        Ok((node, api))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binaries::millrace());
        command.args(words).env("XDG_STATE_HOME", &self.state).env_remove("MILLRACE_NODE");
        command
    }

    /// `millrace deploy`, to its end: its exit status, and what it says of each function.
    ///
    /// # Errors
    ///
    /// When it says nothing.
    pub(super) fn deploy(&self) -> Result<(Option<i32>, Value), NotShown> {
        let said = command::run(self.command(&["deploy", "-o", "json"]).arg(&self.dir), PATIENCE)?;
        let answer = serde_json::from_str(&said.stdout)
            .map_err(|error| broken(format!("deploy said {:?}: {error}", said.all())))?;
        Ok((said.status, answer))
    }

    /// The revisions that a deploy would lead to, as `millrace plan` says.
    ///
    /// # Errors
    ///
    /// When it says nothing.
    pub(super) fn planned(&self) -> Result<Revisions, NotShown> {
        let said = command::run(self.command(&["plan", "-o", "json"]).arg(&self.dir), PATIENCE)?;
        let plan: Value = serde_json::from_str(&said.stdout)
            .map_err(|error| broken(format!("plan said {:?}: {error}", said.all())))?;
        revisions_of(&plan["functions"], |function| &function["revision"])
    }

    /// `millrace deploy`, started: it shows its plan, then sends and deploys.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(super) fn start_deploy(&self) -> Result<Child, NotShown> {
        let mut command = self.command(&["deploy"]);
        command.arg(&self.dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().during("start a deploy")
    }
}

/// The component with another mark in place of its own.
fn stamped(mark: &str) -> Result<Vec<u8>, NotShown> {
    let mut bytes = std::fs::read(binaries::component("stamp")).during("read a component")?;
    let own = Part::Wasm.mark(0);
    let mut places = bytes.windows(MARK_BYTES).enumerate().filter(|(_, it)| *it == own.as_bytes());
    let (Some((place, _)), None) = (places.next(), places.next()) else {
        return Err(broken(format!("the component does not hold {own:?} once")));
    };
    bytes[place..place + MARK_BYTES].copy_from_slice(mark.as_bytes());
    Ok(bytes)
}

/// The revision of each function, in the order of the chain.
pub(super) type Revisions = [String; 3];

/// Finds the revision of each function in a list of functions.
///
/// # Errors
///
/// When one is missing.
pub(super) fn revisions_of(
    functions: &Value,
    revision: impl Fn(&Value) -> &Value,
) -> Result<Revisions, NotShown> {
    let find = |part: Part| {
        let mut all = functions.as_array().into_iter().flatten();
        let one = all.find(|it| it["name"] == part.name());
        let found = one.and_then(|it| revision(it).as_str()).map(str::to_owned);
        found.ok_or_else(|| broken(format!("no revision of {} in {functions}", part.name())))
    };
    Ok([find(Part::Python)?, find(Part::Node)?, find(Part::Wasm)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_makes_another_component_of_the_same_size() {
        let (one, other) = (stamped(" w-0000001").unwrap(), stamped(" w-0000002").unwrap());
        assert_eq!(one.len(), other.len());
        assert_ne!(one, other);
        for part in PARTS {
            assert_eq!(part.mark(7).len(), MARK_BYTES);
        }
    }
}
