//! The application whose records are asked after: functions that succeed, fail for a while and for
//! good, and one that does not end; and the records of each kind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::api::{Api, ToProduce};
use crate::harness::binaries;
use crate::harness::node::Node;
use crate::promise::{During, NotShown};

/// What is asked after.
pub(super) const TOPICS: [&str; 6] = ["in", "sick", "late", "soon", "slow", "mid"];
/// Who reads them, in the same order.
pub(super) const FUNCTIONS: [&str; 6] = ["read", "heals", "stuck", "shaky", "sleeps", "again"];
/// The bound of each history, as the node's file has it.
pub(super) const BYTES_MAX: u64 = 8 << 20;
/// All of them together.
pub(super) const HISTORY_BYTES_MAX: u64 = 6 * BYTES_MAX;
/// Records of a request.
const BATCH: u64 = 250;
/// Records of the key that parks and heals, of the one that stays parked, and of those that are held in
/// memory, by phase.
const SICK: u64 = 100;
const STUCK: u64 = 120;
const HELD: u64 = 4;
/// Keys that are held in memory.
const HELD_KEYS: u64 = 32;

const NODE: &str = "[history]\nmax-bytes = \"8MiB\"\nmax-age = \"1d\"\n";

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 4
[topic.mid]
partitions = 3
[topic.sick]
partitions = 2
[topic.late]
partitions = 2
[topic.soon]
partitions = 2
[topic.slow]
partitions = 1

[function.read]
runtime = "python3"
path    = "read"
handler = "app.read"
[[function.read.trigger]]
topics = ["in"]
start  = "earliest"
batch  = { records = 100 }
filter = { key = [{ "anything-but" = { prefix = "skip" } }] }
retry  = { attempts = 3, backoff = "20ms..50ms" }
output = { topic = "mid" }

[function.heals]
runtime = "python3"
path    = "read"
handler = "app.heals"
env     = { HEALED = "FOLDER/healed" }
[[function.heals.trigger]]
topics = ["sick"]
start  = "earliest"
retry  = { attempts = 1000, backoff = "50ms..100ms" }
output = { topic = "out" }

[function.stuck]
runtime = "python3"
path    = "read"
handler = "app.stuck"
[[function.stuck.trigger]]
topics = ["late"]
start  = "earliest"
retry  = { attempts = 5, backoff = "1h..1h" }
output = { topic = "out" }

[function.shaky]
runtime = "python3"
path    = "read"
handler = "app.stuck"
[[function.shaky.trigger]]
topics = ["soon"]
start  = "earliest"
retry  = { attempts = 1000, backoff = "8s..9s" }
output = { topic = "out" }

[function.sleeps]
runtime = "python3"
path    = "read"
handler = "app.sleeps"
timeout = "15m"
[[function.sleeps.trigger]]
topics = ["slow"]
start  = "earliest"
output = { topic = "out" }

[function.again]
runtime = "python3"
path    = "read"
handler = "app.again"
[[function.again.trigger]]
topics = ["mid"]
start  = "earliest"
batch  = { records = 50 }
output = { topic = "out" }
"#;

/// An output says which event it was made in, so that who shared an invocation can be told from the
/// outputs alone.
const HANDLERS: &str = r#"
import os, time

def made(value, context):
    return {"n": value["n"], "event": str(os.getpid()) + "/" + context.aws_request_id}

def read(value, context):
    kind, number = value["kind"], value["n"]
    if kind == "bad" or kind == "flaky" and context.attempt == 1:
        raise ValueError(f"number {number}")
    if kind == "none":
        return None
    if kind == "two":
        return {"$outputs": [{"value": made(value, context)}, {"value": made(value, context)}]}
    return made(value, context)

def heals(value, context):
    if value["kind"] == "sick" and not os.path.exists(os.environ["HEALED"]):
        raise KeyError("sick")
    return made(value, context)

def stuck(value, context):
    if value["kind"] == "stuck":
        raise KeyError("stuck")
    return made(value, context)

def sleeps(value, context):
    if value["kind"] == "slow":
        time.sleep(3600)
    return made(value, context)

def again(value, context):
    return made(value, context)
"#;

/// What is to become of a record, in the word that its value says.
pub(super) fn kind(topic: &str, number: u64) -> &'static str {
    match (topic, number % 50) {
        ("in", 7) => "bad",
        ("in", 11) => "flaky",
        ("in", 13) => "odd",
        ("in", 17) => "none",
        ("in", 21) => "two",
        ("in", it) if it % 10 == 3 => "skip",
        ("in", _) => "ok",
        _ => "fine",
    }
}

/// The application and its node's folders.
pub(super) struct Mill {
    folder: PathBuf,
    app: PathBuf,
}

impl Mill {
    pub(super) fn make(folder: &Path) -> Result<Self, NotShown> {
        let app = folder.join("app");
        std::fs::create_dir_all(app.join("read")).during("make the application")?;
        let manifest = MANIFEST.replace("FOLDER", &folder.to_string_lossy());
        std::fs::write(app.join("millrace.toml"), manifest).during("write the manifest")?;
        std::fs::write(app.join("read/app.py"), HANDLERS).during("write the functions")?;
        std::fs::write(folder.join("node.toml"), NODE).during("write the node's file")?;
        Ok(Self { folder: folder.to_owned(), app })
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn serve(&self, within: Duration) -> Result<(Node, Api), NotShown> {
        let mut serve = self.command(&["serve", "--app"]);
        serve.arg(&self.app).arg("--data").arg(self.data());
        serve.arg("--config").arg(self.folder.join("node.toml"));
        let mut node = Node::start(&mut serve, &self.folder.join("node.log"))?;
        let api = Api::of(&self.folder.join("state"), &mut node, within)?;
        Ok((node, api))
    }

    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binaries::millrace());
        command.args(words).env("XDG_STATE_HOME", self.folder.join("state"));
        command.env_remove("MILLRACE_NODE").env("NO_COLOR", "1");
        command
    }

    /// From now on the sick key's records end well.
    pub(super) fn heal(&self) -> Result<(), NotShown> {
        std::fs::write(self.folder.join("healed"), "").during("heal")
    }

    /// Records of a phase, `count` of them for the first function.
    pub(super) fn produce(&self, api: &Api, phase: u64, count: u64) -> Result<(), NotShown> {
        let record = |key: String, value: String| ToProduce {
            key: key.into_bytes(),
            value: value.into_bytes(),
        };
        let valued = |number: u64, kind: &str| format!("{{\"n\":{number},\"kind\":\"{kind}\"}}");
        let few = |topic: &str, key: &str, kind: &str, count: u64| {
            let numbers = (0..count).map(|it| phase * 1_000 + it);
            let records: Vec<_> =
                numbers.map(|it| record(key.to_owned(), valued(it, kind))).collect();
            api.produce(topic, &records)
        };
        few("late", "stuck-a", "stuck", STUCK)?;
        few("sick", "sick", "sick", SICK)?;
        if phase == 0 {
            for key in 0..HELD_KEYS {
                few("soon", &format!("stuck-b{key}"), "stuck", HELD)?;
            }
        }
        for number in 0..20 {
            few("late", &format!("fine-{number}"), "fine", 4)?;
            few("sick", &format!("fine-{number}"), "fine", 4)?;
        }
        if phase == 2 {
            few("slow", "fine", "fine", 3)?;
            few("slow", "slow", "slow", 1)?;
            few("slow", "slow", "fine", 2)?;
        }
        let (from, to) = (phase * count, (phase + 1) * count);
        for start in (from..to).step_by(BATCH as usize) {
            let numbers = start..(start + BATCH).min(to);
            let records: Vec<_> = numbers
                .map(|number| match kind("in", number) {
                    "skip" => record(format!("skip-{}", number % 7), valued(number, "skip")),
                    "odd" => record(format!("key-{}", number % 97), format!("odd {number}")),
                    kind => record(format!("key-{}", number % 97), valued(number, kind)),
                })
                .collect();
            api.produce("in", &records)?;
        }
        Ok(())
    }
}
