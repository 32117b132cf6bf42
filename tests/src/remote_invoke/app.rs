//! The functions that are called, and who listens to what they say: each run tells over a socket that
//! it begins, on which node, and that it ends; a process that is ended tells by its socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::harness::{binaries, wait};
use crate::promise::{During, NotShown, broken};

const MANIFEST: &str = r#"
[app]
name = "calls"

[topic.seen]
partitions = 1

[function.work]
runtime   = "python3"
path      = "work"
handler   = "app.work"
timeout   = "60s"
instances = { max = 2 }
allow     = { produce = ["seen"] }
env       = { LISTENER = "ADDRESS" }

[function.null]
runtime   = "wasm"
path      = "null"
handler   = "identity.wasm"

[function.narrow]
runtime   = "python3"
path      = "work"
handler   = "app.work"
timeout   = "60s"
instances = { max = 1 }
env       = { LISTENER = "ADDRESS" }
"#;

/// The package lies in the data folder of its node, which has the node's name.
const CODE: &str = r#"
import os, socket, time

NODE = next(it for it in __file__.split("/") if it.startswith("edge-"))


def say(line, text):
    line.sendall((text + "\n").encode())
    assert line.recv(1) == b"!"


def work(event, context):
    host, port = os.environ["LISTENER"].rsplit(":", 1)
    with socket.create_connection((host, int(port))) as line:
        say(line, f"begin {event['id']} {NODE} {context.trace or '-'}")
        time.sleep(event.get("sleep", 0))
        if "fail" in event:
            raise ValueError(event["fail"])
        say(line, f"end {event['id']}")
    answer = {"id": event["id"], "pad": event.get("pad", "")}
    if "to" in event:
        return {"$outputs": [{"topic": event["to"], "value": event["id"]}, {"value": answer}]}
    return answer
"#;

/// What a run said, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) at: Instant,
    pub(super) call: u64,
    pub(super) said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// On this node, with this trace.
    Begin { node: String, trace: String },
    /// It is done, and answers.
    End,
    /// Its process, or its handler, is gone.
    Gone,
}

/// Hears what runs say.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<Line>>>,
}

impl Listener {
    pub(super) fn start() -> Result<Self, NotShown> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).during("listen to functions")?;
        let address = listener.local_addr().during("listen to functions")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || hear(stream, &heard));
            }
        });
        Ok(Self { address, lines })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().expect("nothing panics while it holds this")
    }

    /// All that was said so far.
    pub(super) fn lines(&self) -> Vec<Line> {
        self.lock().clone()
    }

    /// Waits until a call has begun; on which node.
    pub(super) fn begun(&self, call: u64, within: Duration) -> Result<(Instant, String), NotShown> {
        let begun = wait::until(within, || {
            self.lock().iter().find_map(|line| match &line.said {
                Said::Begin { node, .. } if line.call == call => Some((line.at, node.clone())),
                _ => None,
            })
        });
        begun.ok_or_else(|| broken(format!("call {call} did not begin")))
    }

    /// Waits until the process of a call is gone; when that was.
    pub(super) fn gone(&self, call: u64, within: Duration) -> Result<Instant, NotShown> {
        let gone = wait::until(within, || {
            let lines = self.lock();
            let gone = lines.iter().find(|it| it.call == call && it.said == Said::Gone);
            gone.map(|line| line.at)
        });
        gone.ok_or_else(|| broken(format!("what ran call {call} is still there")))
    }

    /// The application, written into a folder.
    pub(super) fn write(&self, folder: &Path) -> Result<PathBuf, NotShown> {
        let app = folder.join("app");
        std::fs::create_dir_all(app.join("work")).during("make the application")?;
        let manifest = MANIFEST.replace("ADDRESS", &self.address.to_string());
        std::fs::write(app.join("millrace.toml"), manifest).during("write the manifest")?;
        std::fs::write(app.join("work/app.py"), CODE).during("write the function")?;
        std::fs::create_dir_all(app.join("null")).during("make the application")?;
        let identity = binaries::component("identity");
        std::fs::copy(identity, app.join("null/identity.wasm")).during("copy a component")?;
        Ok(app)
    }
}

fn hear(stream: TcpStream, heard: &Mutex<Vec<Line>>) {
    let Ok(mut answer) = stream.try_clone() else { return };
    let mut call = None;
    let note = |call, said| {
        let line = Line { at: Instant::now(), call, said };
        heard.lock().expect("nothing panics while it holds this").push(line);
    };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["begin", id, node, trace] => {
                let Ok(id) = id.parse() else { break };
                call = Some(id);
                note(id, Said::Begin { node: (*node).to_owned(), trace: (*trace).to_owned() });
            }
            ["end", id] => {
                let Ok(id) = id.parse() else { break };
                note(id, Said::End);
            }
            _ => break,
        }
        if answer.write_all(b"!").is_err() {
            break;
        }
    }
    if let Some(call) = call {
        note(call, Said::Gone);
    }
}
