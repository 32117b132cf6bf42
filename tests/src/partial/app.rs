//! The application that fails in every way a batch can: one Python function for each case and each
//! order, which writes down what it was given and what it said.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::node::Node;
use crate::promise::{During, NotShown, broken};

/// Records of each case, keys among them, and how often one is tried where nothing else is said.
pub(super) const RECORDS: u64 = 12;
pub(super) const KEYS: u64 = 4;
pub(super) const ATTEMPTS: u64 = 3;

/// Which records wait for which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    None,
    Key,
    Partition,
}

impl Order {
    pub(super) const ALL: [Self; 3] = [Self::None, Self::Key, Self::Partition];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Key => "key",
            Self::Partition => "partition",
        }
    }
}

/// What the handler does, and the trigger's retry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) retry: &'static str,
    /// The handler's body, which has `batch` (numbers), `tried` (how often each was given before)
    /// and `say` (writes down what is said, and gives it back).
    handler: &'static str,
}

const RETRY: &str = "attempts = 3, backoff = \"20ms\"";

pub(super) const CASES: [Case; 14] = [
    Case {
        name: "success",
        retry: RETRY,
        handler: "return say('ok', FORMS[sum(batch) % len(FORMS)])",
    },
    Case {
        name: "reported",
        retry: RETRY,
        // One is bad for good, one is better the second time.
        handler: "bad = [n for n in batch if n == 5 or n == 2 and tried[n] == 0]\n    \
                  return say('reported', {'batchItemFailures': [identifier(n) for n in bad]}, bad)",
    },
    Case {
        name: "unreadable",
        retry: "attempts = 1, backoff = \"20ms\"",
        // Only a record that is alone is answered in a way that can be read.
        handler: "if len(batch) == 1:\n        return say('ok', None)\n    \
                  return say('unreadable', {'batchItemFailures': ODD[sum(batch) % len(ODD)]})",
    },
    Case {
        name: "no-json",
        retry: "attempts = 1, backoff = \"20ms\"",
        handler: "if len(batch) == 1:\n        return say('ok', None)\n    \
                  return say('unreadable', object())",
    },
    Case {
        name: "raises",
        retry: RETRY,
        handler: "if 5 in batch:\n        say('failed')\n        raise ValueError('five')\n    \
                  return say('ok', None)",
    },
    Case {
        name: "whole",
        retry: "attempts = 2, backoff = \"20ms\", bisect = false",
        handler: "if 5 in batch:\n        say('failed')\n        raise ValueError('five')\n    \
                  return say('ok', None)",
    },
    Case {
        name: "sleeps",
        retry: "attempts = 2, backoff = \"20ms\"",
        handler: "if 5 in batch:\n        say('failed')\n        time.sleep(60)\n    \
                  return say('ok', None)",
    },
    Case {
        name: "ends",
        retry: "attempts = 2, backoff = \"20ms\"",
        handler: "if 5 in batch:\n        say('failed')\n        os._exit(3)\n    \
                  return say('ok', None)",
    },
    Case {
        name: "too-old",
        retry: "attempts = 3, backoff = \"20ms\", max-age = \"1m\"",
        handler: "bad = [n for n in batch if n == 5]\n    \
                  return say('reported', {'batchItemFailures': [identifier(n) for n in bad]}, bad)",
    },
    Case {
        name: "not-retried",
        retry: "attempts = 3, backoff = \"20ms\", no-retry = [\"Value*\"]",
        handler: "if 5 in batch:\n        say('failed')\n        raise ValueError('five')\n    \
                  return say('ok', None)",
    },
    Case {
        name: "waits",
        retry: "attempts = 6, backoff = \"400ms\"",
        handler: "bad = [n for n in batch if n == 0]\n    \
                  return say('reported', {'batchItemFailures': [identifier(n) for n in bad]}, bad)",
    },
    Case {
        name: "killed",
        retry: "attempts = 1, backoff = \"20ms\"",
        // The node is killed while it sleeps: that is nobody's attempt.
        handler: "if not any(tried.values()):\n        say('sleeps')\n        time.sleep(20)\n    \
                  return say('ok', None)",
    },
    Case { name: "large", retry: RETRY, handler: "return say('ok', None)" },
    Case {
        name: "parts",
        retry: RETRY,
        // Of a batch that takes several events, one record fails in the first.
        handler: "bad = [n for n in batch if n == 2 and tried[n] == 0]\n    \
                  return say('reported', {'batchItemFailures': [identifier(n) for n in bad]}, bad)",
    },
];

/// A record for which no event is large enough, and how long those of that case are.
pub(super) const TOO_LARGE: u64 = 7;
const LARGE_BYTES: usize = 1 << 20;

const HANDLER: &str = r#"import base64, json, os, time

FORMS = [None, {}, {"batchItemFailures": []}, {"batchItemFailures": None}]
ODD = [
    [{"itemIdentifier": {"partition": "nowhere-0", "offset": 0}}],
    [{"itemIdentifier": None}],
    [{"itemIdentifier": ""}],
    [{"identifier": {"partition": "x-0", "offset": 0}}],
    {"itemIdentifier": "x"},
]
LOG = os.environ["LOG"]

def handler(event, context):
    records = [it for group in event["records"].values() for it in group]
    number = lambda it: json.loads(base64.b64decode(it["value"]))["n"]
    places = {number(it): {"partition": f"{it['topic']}-{it['partition']}",
                           "offset": it["offset"]} for it in records}
    batch = [number(it) for it in records]
    seen = [json.loads(line) for line in open(LOG)] if os.path.exists(LOG) else []
    tried = {n: sum(n in it["batch"] for it in seen) for n in batch}
    identifier = lambda n: {"itemIdentifier": places[n]}
    def say(word, answer=None, bad=()):
        line = {"batch": batch, "said": word, "bad": list(bad),
                "bytes": len(json.dumps(event))}
        with open(LOG, "a") as log:
            log.write(json.dumps(line) + "\n")
        return answer
    BODY
"#;

/// Where everything lies.
#[derive(Debug)]
pub(super) struct App {
    pub(super) dir: PathBuf,
}

/// One invocation, as the function wrote it down.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) batch: Vec<u64>,
    pub(super) said: String,
    /// What it reported.
    pub(super) bad: Vec<u64>,
    pub(super) bytes: u64,
}

pub(super) fn function(case: &Case, order: Order) -> String {
    format!("{}-{}", case.name, order.name())
}

impl App {
    /// Writes it.
    pub(super) fn make(within: &Path) -> Result<Self, NotShown> {
        let dir = within.join("app");
        std::fs::create_dir_all(&dir).during("make the application's folder")?;
        let mut manifest = "[app]\nname = \"partial\"\n".to_owned();
        for case in &CASES {
            let folder = dir.join(case.name);
            std::fs::create_dir_all(&folder).during("make a function's folder")?;
            let handler = HANDLER.replace("BODY", case.handler);
            std::fs::write(folder.join("app.py"), handler).during("write a handler")?;
            for order in Order::ALL {
                let name = function(case, order);
                let log = Self::log_in(&dir, &name);
                let timeout = if case.name == "sleeps" { "500ms" } else { "30s" };
                let text = format!(
                    "[topic.{name}]\npartitions = 1\nrecord-bytes-max = \"8MiB\"\n\
                     [function.{name}]\nruntime = \"python3\"\nhandler = \"app.handler\"\n\
                     path = \"{}\"\ntimeout = \"{timeout}\"\nenv = {{ LOG = {log:?} }}\n\
                     [[function.{name}.trigger]]\ntopics = [\"{name}\"]\nevent = \"lambda\"\n\
                     order = \"{}\"\nbatch = {{ bytes = \"32MiB\", window = \"50ms\" }}\n\
                     retry = {{ {} }}\ndead-letter = \"{name}.dead\"\n\
                     [topic.\"{name}.dead\"]\npartitions = 1\nrecord-bytes-max = \"9MiB\"\n",
                    case.name,
                    order.name(),
                    case.retry,
                );
                manifest.push_str(&text);
            }
        }
        std::fs::write(dir.join("millrace.toml"), manifest).during("write the manifest")?;
        Ok(Self { dir })
    }

    fn log_in(dir: &Path, function: &str) -> PathBuf {
        dir.with_file_name(format!("{function}.log"))
    }

    /// A node with it; what was there before is gone on with.
    pub(super) fn serve(&self, folder: &Path) -> Result<(Node, Api), NotShown> {
        Api::serve(&self.dir, folder, Duration::from_secs(120))
    }

    /// What a function wrote down.
    pub(super) fn runs(&self, function: &str) -> Result<Vec<Run>, NotShown> {
        let log = Self::log_in(&self.dir, function);
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.lines().map(|line| read(line).ok_or_else(|| broken(format!("{line:?}")))).collect()
    }
}

fn read(line: &str) -> Option<Run> {
    let line: Value = serde_json::from_str(line).ok()?;
    let numbers = |it: &Value| it.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>();
    Some(Run {
        batch: numbers(&line["batch"])?,
        said: line["said"].as_str()?.to_owned(),
        bad: numbers(&line["bad"])?,
        bytes: line["bytes"].as_u64()?,
    })
}

fn is_large(case: &Case) -> bool {
    ["large", "parts"].contains(&case.name)
}

/// Appends the records of a case in one call, where they are not too large for that.
pub(super) fn produce(api: &Api, case: &Case, order: Order) -> Result<(), NotShown> {
    let record = |n: u64| {
        let mut value = format!("{{\"n\":{n}");
        if is_large(case) {
            let too_large = case.name == "large" && n == TOO_LARGE;
            let bytes = if too_large { 5 * LARGE_BYTES } else { LARGE_BYTES };
            value.push_str(&format!(",\"pad\":\"{}\"", "x".repeat(bytes)));
        }
        value.push('}');
        let mut record = json!({ "key": format!("k{}", n % KEYS), "value": value });
        if case.name == "too-old" {
            record["timestamp_ms"] = json!(bus::Timestamp::now().0 - 3_600_000);
        }
        record
    };
    let path = format!("/v1/topics/{}/records", function(case, order));
    // A request has a limit of its own.
    let numbers: Vec<u64> = (0..RECORDS).collect();
    let at_once = if case.name == "large" { 4 } else { numbers.len() };
    for numbers in numbers.chunks(at_once) {
        let records: Vec<Value> = numbers.iter().map(|n| record(*n)).collect();
        api.post(&path, &json!({ "records": records }))?;
    }
    Ok(())
}
