//! The promise that no record, however strange, ends a node or is lost: `fuzz`.
//!
//! ```text
//! random bytes, broken and odd JSON, ─▶ in[4] ─┬─▶ python   ─▶ out.python, dead.python
//! headers that pretend to be ours              ├─▶ js       ─▶ out.js, dead.js
//!                                              ├─▶ wasm     ─▶ out.wasm, dead.wasm
//!                                              └─▶ picky    ─▶ a filter over value and headers before it
//! ```
//!
//! (`null` becomes 0 in them: nothing is no output.)
//! Each record has one end at each of the first three, and at most one at the last, under its own key
//! and with its own bytes where it was given up; every failure has a name. The verdict is made of the
//! journal of the stopped node.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::demand;
use crate::harness::api::Api;
use crate::harness::rng::Rng;
use crate::harness::{binaries, wait};
use crate::journal_reader::Journal;
use crate::promise::{During, Figures, NotShown, Run, broken};

/// Records of a request.
const BATCH: u64 = 200;
const PARTITIONS: i32 = 4;
/// The functions that get every record.
const ALL: [&str; 3] = ["python", "js", "wasm"];

const MANIFEST: &str = r#"
[app]
name = "fuzz"

[topic.in]
partitions = 4

[function.python]
runtime = "python3"
path    = "python"
handler = "app.echo"
instances = { max = 2 }
[[function.python.trigger]]
topics      = ["in"]
retry       = { attempts = 1 }
output      = { topic = "out.python" }
dead-letter = "dead.python"

[function.js]
runtime = "node"
path    = "js"
handler = "app.echo"
instances = { max = 2 }
[[function.js.trigger]]
topics      = ["in"]
retry       = { attempts = 1 }
output      = { topic = "out.js" }
dead-letter = "dead.js"

[function.wasm]
runtime = "wasm"
path    = "wasm"
handler = "identity.wasm"
[[function.wasm.trigger]]
topics      = ["in"]
retry       = { attempts = 1 }
output      = { topic = "out.wasm" }
dead-letter = "dead.wasm"

[function.picky]
runtime = "python3"
path    = "python"
handler = "app.echo"
instances = { max = 2 }
[[function.picky.trigger]]
topics      = ["in"]
filter      = [
  { value = { a = [{ numeric = [">", 0] }], b = { c = [{ exists = true }] } } },
  { headers = { traceparent = [{ prefix = "00-" }] }, key = [{ wildcard = "*7*" }] },
]
retry       = { attempts = 1 }
output      = { topic = "out.picky" }
dead-letter = "dead.picky"
"#;

const PYTHON: &str = "def echo(value, context):\n    return 0 if value is None else value\n";
const JS: &str = "exports.echo = async (value, context) => value ?? 0;\n";

/// Names of headers that mean something to a node, or to what it calls.
const HEADERS: [&str; 9] = [
    "millrace-origin",
    "millrace-dead-cause",
    "millrace-dead-at",
    "millrace-replayed-topic",
    "traceparent",
    "tracestate",
    "content-type",
    "",
    "\u{202e}x",
];

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python or Node.js.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    for program in ["python3", "node"] {
        if !Command::new(program).arg("--version").output().is_ok_and(|it| it.status.success()) {
            return Err(NotShown::Unchecked(format!("there is no {program} on PATH")));
        }
    }
    let records = run.count("records", 20_000, 1_000_000).next_multiple_of(BATCH);
    let app = run.evidence.join("app");
    for (folder, file, text) in [("python", "app.py", PYTHON), ("js", "app.js", JS)] {
        std::fs::create_dir_all(app.join(folder)).during("make the application")?;
        std::fs::write(app.join(folder).join(file), text).during("write a function")?;
    }
    std::fs::create_dir_all(app.join("wasm")).during("make the application")?;
    std::fs::copy(binaries::component("identity"), app.join("wasm/identity.wasm"))
        .during("copy a component")?;
    std::fs::write(app.join("millrace.toml"), MANIFEST).during("write the manifest")?;
    let (mut node, api) = Api::serve(&app, &run.evidence, Duration::from_secs(60))?;

    run.note(format!("{records} records of nonsense"));
    let mut rng = Rng::new(run.seed, 41);
    let mut sent = BTreeMap::new();
    for start in (0..records).step_by(BATCH as usize) {
        let batch: Vec<Value> = (start..start + BATCH)
            .map(|number| {
                let (key, value) = (format!("{number}"), value(&mut rng));
                let record = json!({
                    "key": key,
                    "value": { "$bytes": STANDARD.encode(&value) },
                    "headers": headers(&mut rng),
                });
                sent.insert(key, value);
                record
            })
            .collect();
        api.post("/v1/topics/in/records", &json!({ "records": batch }))?;
    }
    let within = Duration::from_secs(60 + records / 2_000);
    let settled = wait::until(within, || {
        wait::pause(Duration::from_millis(100));
        (api.lag().ok()? == 0).then_some(())
    });
    demand!(settled.is_some(), "lag {:?} in the end: {}", api.lag(), node.tail());
    let (status, _) = node.stop(Signal::TERM, Duration::from_secs(60))?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());

    run.note("the final read");
    let journal = Journal::open(&run.evidence.join("data"))?;
    let mut figures = Figures::default().with("records", records);
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for function in ALL.into_iter().chain(["picky"]) {
        let found = read(&journal, function, &sent)?;
        judge(function, &found, records).map_err(broken)?;
        if ALL.contains(&function) {
            for (name, plant) in FAULTS {
                let mut other = found.clone();
                plant(&mut other);
                let judged = judge(function, &other, records);
                demand!(judged.is_err(), "{function}: a planted fault is not seen: {name}");
            }
        }
        let dead = found.iter().filter(|it| it.is_dead);
        dead.clone().for_each(|it| *kinds.entry(it.kind.clone()).or_default() += 1);
        figures.set(&format!("{function}_dead"), dead.count());
        figures.set(&format!("{function}_ends"), found.len());
    }
    demand!(1 < kinds.len(), "failures have but these names: {kinds:?}");
    Ok(figures.with("kinds_of_failure", json!(kinds)).with("red_controls", FAULTS.len()))
}

/// What came of a record at one function.
#[derive(Clone, Debug)]
struct Found {
    is_dead: bool,
    key: String,
    /// Whether the value is the one that was sent.
    is_own: bool,
    /// The failure's name.
    kind: String,
}

/// Spoils what was found.
type Plant = fn(&mut Vec<Found>);

/// Faults that the verdict has to see.
const FAULTS: [(&str, Plant); 4] = [
    ("a lost end", |found| drop(found.pop())),
    ("a second end", |found| found.extend(found.first().cloned())),
    ("an end of nothing that was sent", |found| {
        found.iter_mut().take(1).for_each(|it| it.key = "nothing".to_owned());
    }),
    ("a changed dead letter without a name", |found| {
        found.iter_mut().take(1).for_each(|it| {
            (it.is_dead, it.is_own) = (true, false);
            it.kind.clear();
        });
    }),
];

fn read(
    journal: &Journal,
    function: &str,
    sent: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<Found>, NotShown> {
    let mut found = Vec::new();
    for topic in [format!("out.{function}"), format!("dead.{function}")] {
        let is_dead = topic.starts_with("dead");
        for partition in 0..PARTITIONS {
            journal.records(&topic, partition, 0, |record| {
                let text = |bytes: Option<&[u8]>| {
                    bytes.map(|it| String::from_utf8_lossy(it).into_owned()).unwrap_or_default()
                };
                let key = text(record.key);
                let is_own = sent.get(&key).is_some_and(|it| Some(&it[..]) == record.value);
                let kind = text(record.header("millrace-dead-error-type"));
                found.push(Found { is_dead, key, is_own, kind });
            })?;
        }
    }
    Ok(found)
}

/// Whether every record has one end, and the right one.
fn judge(function: &str, found: &[Found], records: u64) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for it in found {
        let number: Option<u64> = it.key.parse().ok().filter(|number| *number < records);
        if number.is_none_or(|number| !seen.insert(number)) {
            return Err(format!("{function}: an end of record {:?} that is none", it.key));
        }
        if it.is_dead && (!it.is_own || it.kind.is_empty()) {
            return Err(format!("{function}: record {} changed, or fails without a name", it.key));
        }
        if function == "wasm" && !it.is_own {
            return Err(format!("{function}: the value of record {} changed", it.key));
        }
    }
    if ALL.contains(&function) == (seen.len() as u64 == records) {
        return Ok(());
    }
    Err(format!("{function}: {} of {records} records have an end", seen.len()))
}

fn bytes(rng: &mut Rng, most: u64) -> Vec<u8> {
    (0..rng.draw(most)).map(|_| rng.draw(256) as u8).collect()
}

/// A value: bytes, JSON that is whole, odd, or broken somewhere.
fn value(rng: &mut Rng) -> Vec<u8> {
    let odd: [&[u8]; 12] = [
        b"",
        b"null",
        b"1e999",
        b"-0",
        b"NaN",
        b"\"\\ud800\"",
        b"{\"a\":1,\"a\":2}",
        b"\xef\xbb\xbf{}",
        b"[1,]",
        b"{\"__proto__\":{\"x\":1}}",
        b"123456789012345678901234567890",
        b"{\"$outputs\":[{\"value\":1,\"topic\":\"in\"}]}",
    ];
    match rng.draw(12) {
        0 | 1 => bytes(rng, 64),
        2 => bytes(rng, 20_000),
        3 => odd[rng.draw(odd.len() as u64) as usize].to_vec(),
        4 => {
            let depth = [3, 60, 120, 5_000][rng.draw(4) as usize];
            let open = if rng.draw(2) == 0 { "[" } else { "{\"a\":" };
            open.repeat(depth).into_bytes()
        }
        5 => {
            let depth = [60, 120, 5_000][rng.draw(3) as usize];
            format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).into_bytes()
        }
        kind => {
            let whole = json!({
                "a": rng.draw(100).cast_signed() - 50,
                "b": { "c": String::from_utf8_lossy(&bytes(rng, 30)) },
                "list": (0..rng.draw(5)).collect::<Vec<_>>(),
            });
            let mut whole = whole.to_string().into_bytes();
            match kind {
                6 => whole.truncate(rng.draw(whole.len() as u64) as usize),
                7 => {
                    let at = rng.draw(whole.len() as u64) as usize;
                    whole[at] ^= 1 << rng.draw(8);
                }
                _ => {}
            }
            whole
        }
    }
}

fn headers(rng: &mut Rng) -> Vec<Value> {
    let header = |rng: &mut Rng| {
        let name = match rng.draw(3) {
            0 => json!({ "$bytes": STANDARD.encode(bytes(rng, 12)) }),
            _ => json!(HEADERS[rng.draw(HEADERS.len() as u64) as usize]),
        };
        let value = match rng.draw(4) {
            0 => Value::Null,
            1 => json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            2 => json!("1;in;0;0;0;abc;1;1"),
            _ => json!({ "$bytes": STANDARD.encode(bytes(rng, 200)) }),
        };
        json!({ "name": name, "value": value })
    };
    (0..rng.draw(5)).map(|_| header(rng)).collect()
}
