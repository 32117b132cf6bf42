//! The application, and what each of its functions makes of a record.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::binaries;
use crate::harness::node::Node;
use crate::promise::{During, NotShown};

/// Attempts of a record.
const ATTEMPTS: u64 = 3;
/// How old a late record is.
const AGE_MS: i64 = 7_200_000;

/// A function, and how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Each,
    Whole,
    Wasm,
}

pub(super) const FUNCTIONS: [Function; 3] = [Function::Each, Function::Whole, Function::Wasm];

impl Function {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Whole => "whole",
            Self::Wasm => "wasm",
        }
    }

    /// Where successes and failures are told.
    pub(super) const fn told(self) -> &'static [&'static str] {
        match self {
            Self::Each => &["each.done", "each.failed"],
            Self::Whole => &["whole.done", "whole.failed"],
            Self::Wasm => &["wasm.told"],
        }
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fine,
    Fails,
    /// The first time.
    Once,
    /// It is old, and fails.
    Late,
    /// No attempt mends it.
    Final,
    /// No JSON.
    Odd,
    /// The filter keeps it back.
    Skip,
}

/// How a record has to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) condition: &'static str,
    /// The least attempts; a kill may make it one more.
    pub(super) attempts: u64,
    /// Whether the function answered.
    pub(super) answered: bool,
}

impl Kind {
    pub(super) const fn of(number: u64) -> Self {
        match number % 24 {
            3 => Self::Fails,
            7 => Self::Once,
            11 => Self::Late,
            15 => Self::Final,
            19 => Self::Odd,
            23 => Self::Skip,
            _ => Self::Fine,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Fine | Self::Skip | Self::Odd => "fine",
            Self::Fails => "fail",
            Self::Once => "fail-once",
            Self::Late => "fail-late",
            Self::Final => "fail-final",
        }
    }

    /// `None` for a record that nobody is told of.
    pub(super) const fn end(self, function: Function) -> Option<End> {
        let (condition, attempts, answered) = match (self, function) {
            (Self::Skip, _) => return None,
            (Self::Fine, _) => ("Success", 1, true),
            (Self::Once, Function::Each) => ("Success", 2, true),
            (Self::Odd, Function::Each) => ("RetryAttemptsExhausted", 0, false),
            (Self::Odd, _) => ("Success", 1, true),
            (Self::Late, _) => ("RecordAgeExceeded", 1, true),
            (Self::Final, Function::Each) => ("RetryAttemptsExhausted", 1, true),
            (Self::Fails | Self::Once | Self::Final, _) => {
                ("RetryAttemptsExhausted", ATTEMPTS, true)
            }
        };
        Some(End { condition, attempts, answered })
    }
}

const HANDLERS: &str = r#"
import base64
import time


def each(record, context):
    time.sleep(0.004)
    do = record["do"]
    if do == "fail-final":
        raise KeyError(do)
    if do in ("fail", "fail-late") or do == "fail-once" and context.attempt == 1:
        raise ValueError(do)
    return {"n": record["n"], "text": "ü\n\""}


def whole(event, context):
    failed, outputs = [], []
    for group in event["records"].values():
        for it in group:
            time.sleep(0.002)
            at = {"partition": f"{it['topic']}-{it['partition']}", "offset": it["offset"]}
            if b"fail" in base64.b64decode(it["value"]):
                failed.append({"itemIdentifier": at})
            else:
                outputs += [{"value": number, "source": at} for number in (1, 2)]
    return {"batchItemFailures": failed, "$outputs": outputs}
"#;

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 4
"#;

fn manifest() -> String {
    let mut text = MANIFEST.to_owned();
    for function in FUNCTIONS {
        let name = function.name();
        let (runtime, event) = match function {
            Function::Wasm => ("\"wasm\"\nhandler = \"misbehave.wasm\"".to_owned(), "record"),
            Function::Each => (format!("\"python3\"\nhandler = \"app.{name}\""), "record"),
            Function::Whole => (format!("\"python3\"\nhandler = \"app.{name}\""), "lambda"),
        };
        let told = function.told();
        let (done, failed) = (told[0], told.last().unwrap_or(&told[0]));
        text.push_str(&format!(
            "[function.{name}]\nruntime = {runtime}\npath = \"code\"\n\
             [[function.{name}.trigger]]\ntopics = [\"in\"]\nevent = \"{event}\"\n\
             filter = [{{ key = [{{ anything-but = {{ prefix = \"skip\" }} }}] }}, \
             {{ key = [{{ exists = false }}] }}]\n\
             batch = {{ records = 20 }}\n\
             retry = {{ attempts = {ATTEMPTS}, backoff = \"10ms..20ms\", max-age = \"1h\", \
             no-retry = [\"KeyError\"] }}\n\
             output = {{ topic = \"{name}.out\" }}\n\
             on-success = \"{done}\"\non-failure = \"{failed}\"\n"
        ));
    }
    text
}

/// Where everything of the run on one bus lies.
#[derive(Debug)]
pub(super) struct App {
    folder: PathBuf,
    pub(super) data: PathBuf,
    /// The node's file, where it is on Kafka.
    config: Option<PathBuf>,
}

impl App {
    pub(super) fn make(folder: &Path, brokers: Option<String>) -> Result<Self, NotShown> {
        let code = folder.join("app/code");
        std::fs::create_dir_all(&code).during("make the application")?;
        std::fs::write(code.join("app.py"), HANDLERS).during("write the handlers")?;
        let component = binaries::component("misbehave");
        std::fs::copy(component, code.join("misbehave.wasm")).during("copy a component")?;
        std::fs::write(folder.join("app/millrace.toml"), manifest())
            .during("write the manifest")?;
        let config = folder.join("node.toml");
        if let Some(brokers) = &brokers {
            let text = format!(
                "[kafka]\nbrokers = \"{brokers}\"\ncluster = \"mill\"\ncreate-topics = true\n"
            );
            std::fs::write(&config, text).during("write the node's file")?;
        }
        let (folder, data) = (folder.to_owned(), folder.join("data"));
        Ok(Self { folder, data, config: brokers.map(|_| config) })
    }

    pub(super) fn serve(&self) -> Result<(Node, Api), NotShown> {
        let app = self.folder.join("app");
        let config = self.config.as_ref().map(|it| it.display().to_string());
        let words: Vec<&str> = config.iter().flat_map(|it| ["--config", it.as_str()]).collect();
        Api::serve_with(&app, &self.folder, &words, Duration::from_secs(60))
    }
}

/// Brings these records.
pub(super) fn produce(api: &Api, records: Range<u64>) -> Result<(), NotShown> {
    let now = super::verdict::now_ms();
    let numbers: Vec<u64> = records.collect();
    for some in numbers.chunks(500) {
        let records: Vec<Value> = some.iter().map(|number| record(*number, now)).collect();
        api.post("/v1/topics/in/records", &json!({ "records": records }))?;
    }
    Ok(())
}

fn record(number: u64, now: i64) -> Value {
    let kind = Kind::of(number);
    let end = if kind == Kind::Odd { "" } else { "}" };
    let value = format!("{{\"n\":{number},\"do\":\"{}\"{end}", kind.word());
    let mut record = json!({ "value": value, "headers": [{ "name": "mark", "value": "ü" }] });
    match (kind, number % 10) {
        (Kind::Skip, _) => record["key"] = json!(format!("skip-{}", number % 7)),
        (_, 9) => {}
        _ => record["key"] = json!(format!("key-{}", number % 17)),
    }
    let age = if kind == Kind::Late { AGE_MS } else { number.cast_signed() % 5_000 };
    record["timestamp_ms"] = json!(now - age);
    record
}
