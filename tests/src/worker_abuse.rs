//! The promise about processes that misbehave: each abuse is a named error at its own record or no
//! error at all, the shard goes on, a function beside it keeps its rate, and after thousands of
//! them the node has what it had before: descriptors, threads, processes, scratch folders.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::node::Node;
use crate::harness::rng::Rng;
use crate::harness::{binaries, processes, wait};
use crate::promise::{During, Figures, NotShown, Run, broken, rounded};

/// What records do to a Python process, and the name of the dead letter that it must lead to; the
/// empty name is no failure.
const PYTHON: &[(&str, &str)] = &[
    ("good", ""),
    ("segv", "Runtime.ExitError"),
    ("exit", "Runtime.ExitError"),
    ("hang", "Sandbox.Timedout"),
    ("fork", ""),
    ("eat", "Runtime.OutOfMemory"),
    ("shout", ""),
    ("lines", ""),
    ("raise", "ValueError"),
    ("close", "Runtime.ExitError"),
];
/// The same for a client that speaks the Runtime API itself.
const CLIENT: &[(&str, &str)] = &[
    ("good", ""),
    ("half", "Runtime.TruncatedResponse"),
    ("twice", ""),
    ("late", ""),
    ("wrong", ""),
    ("large", "Function.ResponseSizeTooLarge"),
    ("slow", "Sandbox.Timedout"),
    ("exit after", ""),
];

/// How long a round of abuses may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Abuses of a round, for each of the two functions.
const ROUND: u64 = 25;
/// Records a second for the function beside them.
const STEADY_PER_SECOND: u64 = 400;
/// What of its rate that function keeps at least.
const STEADY_MIN: f64 = 0.9;

const MANIFEST: &str = r#"[app]
name = "abuse"

[topic."steady.in"]
partitions = 2

[topic."python.in"]
partitions = 1

[topic."client.in"]
partitions = 1

[function.steady]
runtime = "wasm"
path    = "steady"
handler = "handler.wasm"

[[function.steady.trigger]]
topics = ["steady.in"]
output = { topic = "steady.out" }

[function.python]
runtime   = "python3"
path      = "python"
handler   = "app.handler"
memory    = "64MiB"
timeout   = "700ms"
instances = { max = 1 }

[[function.python.trigger]]
topics      = ["python.in"]
order       = "none"
batch       = { records = 4 }
output      = { topic = "python.out" }
retry       = { attempts = 1 }
dead-letter = "python.dead"

[function.client]
runtime   = "provided"
path      = "client"
timeout   = "700ms"
instances = { max = 1 }

[[function.client.trigger]]
topics      = ["client.in"]
order       = "none"
output      = { topic = "client.out" }
retry       = { attempts = 1 }
dead-letter = "client.dead"

[function.import]
runtime = "python3"
path    = "import"
handler = "app.handler"

[[function.import.trigger]]
topics = ["steady.in"]
output = { topic = "import.out" }
"#;

const PYTHON_CODE: &str = r#"
import os, signal, subprocess, sys, time

def handler(record, context):
    abuse = record["abuse"]
    if abuse == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif abuse == "exit":
        os._exit(0)
    elif abuse == "hang":
        time.sleep(600)
    elif abuse == "fork":
        subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; sleep 600; true"], start_new_session=True)
    elif abuse == "eat":
        hoard = []
        while True:
            hoard.append(b"x" * (4 << 20))
    elif abuse == "shout":
        os.write(1, b"y" * (1 << 20))
    elif abuse == "lines":
        for number in range(20000):
            print(number)
    elif abuse == "raise":
        raise ValueError("as asked")
    elif abuse == "close":
        os.close(3)
    return record["id"]
"#;

const CLIENT_CODE: &str = r#"#!/usr/bin/env python3
import http.client, json, os, socket, time

host = os.environ["AWS_LAMBDA_RUNTIME_API"]
base = "/2018-06-01/runtime/invocation/"
connection = http.client.HTTPConnection(host)

def ask(method, path, body=None):
    connection.request(method, base + path, body)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()

last = "none"
while True:
    _, headers, body = ask("GET", "next")
    request, record = headers["Lambda-Runtime-Aws-Request-Id"], json.loads(body)
    abuse, answer = record["abuse"], json.dumps(record["id"])
    if abuse == "half":
        raw = socket.create_connection(host.split(":"))
        raw.sendall(f"POST {base}{request}/response HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n1".encode())
        raw.close()
        time.sleep(600)
    if abuse == "large":
        ask("POST", request + "/response", b"x" * (7 << 20))
        continue
    if abuse == "slow":
        raw = socket.create_connection(host.split(":"))
        while True:
            raw.sendall(b"P")
            time.sleep(0.05)
    if abuse == "wrong":
        assert ask("POST", "00000000-0000-4000-a000-000000000000/response", "1")[0] == 400
    if abuse == "late":
        assert ask("POST", last + "/response", "1")[0] == 400
    ask("POST", request + "/response", answer)
    if abuse == "twice":
        assert ask("POST", request + "/response", answer)[0] == 403
    if abuse == "exit after":
        os._exit(1)
    last = request
"#;

/// What a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holds {
    descriptors: usize,
    threads: usize,
    processes: usize,
    scratch: usize,
}

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without `python3`.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    if Command::new("python3").arg("-c").arg("").status().is_ok_and(|it| it.success()) {
        shown(run)
    } else {
        Err(NotShown::Unchecked("there is no python3 on PATH".to_owned()))
    }
}

fn shown(run: &Run) -> Result<Figures, NotShown> {
    let abuses = run.count("abuses", 200, 10_000);
    let (app, state) = (run.evidence.join("app"), run.evidence.join("state"));
    write_application(&app).during("write the application")?;
    let data = run.evidence.join("data");
    let mut serve = Command::new(binaries::millrace());
    serve.arg("serve").arg("--app").arg(&app).arg("--data").arg(&data);
    serve.env("XDG_STATE_HOME", &state).env_remove("MILLRACE_NODE").env("NO_COLOR", "1");
    let mut node = Node::start(&mut serve, &run.evidence.join("node.log"))?;
    let api = Api::of(&state, &mut node, PATIENCE)?;
    node.line("refusal of what raises at import", PATIENCE, |line| {
        line.text.contains("E0315") && line.text.contains("ZeroDivisionError")
    })?;

    let mut expected = Expected::default();
    let mut rng = Rng::new(run.seed, 7);
    run.note("every abuse once");
    let once = |kinds: &[(&'static str, &'static str)]| kinds.iter().map(|it| it.0).collect();
    // With the load beside it, whose connection to the node is a descriptor too.
    let steady = Steady::start(&api);
    round(&api, &mut expected, once(PYTHON), once(CLIENT))?;
    steady.end(&api)?;
    let before = rest(&node, &data, None)?;

    let steady = Steady::start(&api);
    let (mut done, started_at) = (0, Instant::now());
    while done < abuses {
        run.note(format!("{done} of {abuses} abuses"));
        let mut draw = |kinds: &[(&'static str, &'static str)]| {
            let count = ROUND.min((abuses - done).div_ceil(2));
            (0..count).map(|_| kinds[rng.draw(kinds.len() as u64) as usize].0).collect::<Vec<_>>()
        };
        let (python, client) = (draw(PYTHON), draw(CLIENT));
        done += (python.len() + client.len()) as u64;
        round(&api, &mut expected, python, client)?;
    }
    let took = started_at.elapsed();
    let kept = steady.end(&api)?;
    let after = rest(&node, &data, Some(before))?;
    let failures = expected.judge(&api)?;
    let (status, _) = node.stop(Signal::TERM, PATIENCE)?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    let is_steady = STEADY_MIN <= kept;
    demand!(is_steady, "the function beside them kept {kept:.2} of its rate");
    Ok(Figures::default()
        .with("abuses", done)
        .with("named_failures", failures)
        .with("steady_kept", rounded(kept, 3))
        .with("descriptors", format!("{} then {}", before.descriptors, after.descriptors))
        .with("threads", format!("{} then {}", before.threads, after.threads))
        .with("processes", format!("{} then {}", before.processes, after.processes))
        .with("scratch", format!("{} then {}", before.scratch, after.scratch))
        .with("took_s", rounded(took.as_secs_f64(), 1)))
}

fn write_application(app: &Path) -> std::io::Result<()> {
    for folder in ["steady", "python", "client", "import"] {
        std::fs::create_dir_all(app.join(folder))?;
    }
    std::fs::copy(binaries::component("identity"), app.join("steady/handler.wasm"))?;
    std::fs::write(app.join("python/app.py"), PYTHON_CODE)?;
    std::fs::write(app.join("import/app.py"), "1 / 0\n")?;
    let bootstrap = app.join("client/bootstrap");
    std::fs::write(&bootstrap, CLIENT_CODE)?;
    std::fs::set_permissions(&bootstrap, std::fs::Permissions::from_mode(0o755))?;
    std::fs::write(app.join("millrace.toml"), MANIFEST)
}

/// What every record must have become, by function and id.
#[derive(Default)]
struct Expected {
    next: u64,
    records: BTreeMap<(&'static str, u64), (&'static str, &'static str)>,
}

impl Expected {
    /// Records of these abuses, with ids of their own.
    fn records(&mut self, function: &'static str, abuses: &[&'static str]) -> Vec<ToProduce> {
        let kinds = if function == "python" { PYTHON } else { CLIENT };
        let record = |abuse: &&'static str| {
            self.next += 1;
            let (abuse, code) = *kinds.iter().find(|it| it.0 == *abuse).expect("it is of the list");
            self.records.insert((function, self.next), (abuse, code));
            let value = format!("{{\"id\":{},\"abuse\":\"{abuse}\"}}", self.next).into_bytes();
            ToProduce { key: self.next.to_string().into_bytes(), value }
        };
        abuses.iter().map(record).collect()
    }

    fn of(&self, function: &str, failed: bool) -> usize {
        let all = self.records.iter().filter(|((of, _), _)| *of == function);
        all.filter(|(_, (_, code))| code.is_empty() != failed).count()
    }

    /// Holds what came out against what had to; gives the number of failures.
    fn judge(&self, api: &Api) -> Result<usize, NotShown> {
        let mut failures = 0;
        for function in ["python", "client"] {
            let mut left: BTreeMap<u64, (&str, &str)> = BTreeMap::new();
            for ((of, id), it) in &self.records {
                if *of == function {
                    left.insert(*id, *it);
                }
            }
            for record in api.records(&format!("{function}.out"), 10_000)? {
                let id = record["value"].as_str().and_then(|it| it.parse::<u64>().ok());
                let known = id.and_then(|id| left.remove(&id));
                let is_good = known.is_some_and(|(_, code)| code.is_empty());
                demand!(is_good, "{function} gave {record}, which is {known:?}");
            }
            for record in api.records(&format!("{function}.dead"), 10_000)? {
                let value: Value =
                    serde_json::from_str(record["value"].as_str().unwrap_or_default())
                        .unwrap_or_default();
                let known = value["id"].as_u64().and_then(|id| left.remove(&id));
                let headers = record["headers"].as_array().into_iter().flatten();
                let mut codes = headers.filter(|it| it["name"] == "millrace-dead-error-type");
                let code = codes.next().and_then(|it| it["value"].as_str()).unwrap_or_default();
                demand!(
                    known.is_some_and(|(_, expected)| expected == code),
                    "{function} has a dead letter {code:?} of {value}, which is {known:?}"
                );
                failures += 1;
            }
            demand!(left.is_empty(), "{function}: nothing became of {left:?}");
        }
        Ok(failures)
    }
}

/// Abuses both functions; then ends their processes, with what those have forked, and gives each a
/// good record, so that a fresh process is what each of them is left with. Each waits for the one
/// before: what is halved with others may run after them.
fn round(
    api: &Api,
    expected: &mut Expected,
    python: Vec<&'static str>,
    client: Vec<&'static str>,
) -> Result<(), NotShown> {
    let last = [(vec!["exit"], vec!["exit after"]), (vec!["good"], vec!["good"])];
    for (python, client) in std::iter::once((python, client)).chain(last) {
        for (function, abuses) in [("python", python), ("client", client)] {
            let records = expected.records(function, &abuses);
            api.produce(&format!("{function}.in"), &records)?;
        }
        all_came(api, expected)?;
    }
    Ok(())
}

/// Waits until each record has its output or its dead letter.
fn all_came(api: &Api, expected: &Expected) -> Result<(), NotShown> {
    let came = |topic: &str, count: usize| {
        let end = api.end_of(topic).ok();
        end.is_some_and(|end| count as i64 <= end)
    };
    let all = wait::until(PATIENCE, || {
        let functions = ["python", "client"];
        let done = functions.iter().all(|function| {
            came(&format!("{function}.out"), expected.of(function, false))
                && came(&format!("{function}.dead"), expected.of(function, true))
        });
        if done {
            return Some(());
        }
        wait::pause(Duration::from_millis(20));
        None
    });
    all.ok_or_else(|| broken(format!("not all came within {PATIENCE:?}: {:?}", api.status())))
}

/// What the node holds when nothing happens; with `wanted`, once it is no more than that.
fn rest(node: &Node, data: &Path, wanted: Option<Holds>) -> Result<Holds, NotShown> {
    let patience = Duration::from_secs(30);
    let holds = || Holds {
        descriptors: entries(&PathBuf::from(format!("/proc/{}/fd", node.pid()))),
        threads: entries(&PathBuf::from(format!("/proc/{}/task", node.pid()))),
        processes: processes::below(node.pid()).len(),
        scratch: entries(&data.join("workers/scratch")),
    };
    if let Some(wanted) = wanted {
        let fits = |it: Holds| {
            it.descriptors <= wanted.descriptors
                && it.threads <= wanted.threads
                && it.processes <= wanted.processes
                && it.scratch <= wanted.scratch
        };
        let found = wait::until(patience, || Some(holds()).filter(|it| fits(*it)));
        return found.ok_or_else(|| broken(format!("it held {wanted:?}, now {:?}", holds())));
    }
    // At rest means the same for some seconds. Threads for what blocks come and go every few: the most
    // of them in that time is what there is.
    let mut last = (holds(), Instant::now());
    let calm = wait::until(patience, || {
        let now = holds();
        let threads = now.threads.max(last.0.threads);
        if (Holds { threads, ..now }) == (Holds { threads, ..last.0 }) {
            last.0.threads = threads;
        } else {
            last = (now, Instant::now());
        }
        (Duration::from_secs(11) <= last.1.elapsed()).then_some(last.0)
    });
    calm.ok_or_else(|| broken(format!("it does not come to rest: {:?}", holds())))
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// A load at an even rate on the function beside the abused ones.
struct Steady {
    stop: Arc<AtomicBool>,
    produced: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Result<(), String>>,
}

impl Steady {
    fn start(api: &Api) -> Self {
        let (stop, produced) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (api, stopped, count) = (api.clone(), Arc::clone(&stop), Arc::clone(&produced));
        let thread = std::thread::spawn(move || {
            let started_at = Instant::now();
            while !stopped.load(Ordering::Acquire) {
                let due = started_at.elapsed().as_millis() as u64 * STEADY_PER_SECOND / 1_000;
                let missing = due.saturating_sub(count.load(Ordering::Acquire));
                let record = |it: u64| ToProduce {
                    key: format!("key-{}", it % 50).into_bytes(),
                    value: it.to_string().into_bytes(),
                };
                let records: Vec<ToProduce> = (0..missing.min(1_000)).map(record).collect();
                if !records.is_empty() {
                    api.produce("steady.in", &records).map_err(|error| error.to_string())?;
                }
                count.fetch_add(records.len() as u64, Ordering::AcqRel);
                wait::pause(Duration::from_millis(25));
            }
            Ok(())
        });
        Self { stop, produced, thread }
    }

    /// What of the records that were produced up to a second ago has come out already.
    fn end(self, api: &Api) -> Result<f64, NotShown> {
        let before = self.produced.load(Ordering::Acquire);
        wait::pause(Duration::from_secs(1));
        let out = u64::try_from(api.end_of("steady.out")?).unwrap_or(0);
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.join().map_err(|_panic| broken("the load panicked"))?;
        ended.map_err(|error| broken(format!("the load: {error}")))?;
        demand!(0 < before, "there was no load");
        Ok((out as f64 / before as f64).min(1.0))
    }
}
