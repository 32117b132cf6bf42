//! A node that lets subscribers in, founded as an operator does it, killed and started again at the
//! same places; and somebody who produces numbers all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use super::verdict::key_of;
use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::command::Said;
use crate::harness::node::Node;
use crate::harness::{binaries, command, ports, wait};
use crate::promise::{During, NotShown, broken};

const PATIENCE: Duration = Duration::from_secs(60);
/// Between two appends.
const EVERY: Duration = Duration::from_millis(20);

/// The node, and where its things are.
pub(super) struct Stage {
    folder: PathBuf,
    pub(super) door: SocketAddr,
    kafka: Option<String>,
    node: Option<Node>,
    /// Of the process that runs, for who produces.
    pub(super) api: Arc<Mutex<Option<Api>>>,
}

impl Stage {
    pub(super) fn open(folder: &Path, kafka: Option<String>) -> Result<Self, NotShown> {
        std::fs::create_dir_all(folder).during("make a folder")?;
        let (folder, api) = (folder.to_owned(), Arc::default());
        let mut stage = Self { folder, door: free_port()?, kafka, node: None, api };
        let peers = free_port()?.to_string();
        stage.run(&["init", "--data", "data", "--name", "edge-1", "--peers-listen", &peers])?;
        stage.start()?;
        Ok(stage)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binaries::millrace());
        command.args(words).current_dir(&self.folder).env("NO_COLOR", "1");
        command.env("XDG_STATE_HOME", self.folder.join("state")).env_remove("MILLRACE_NODE");
        command
    }

    pub(super) fn start(&mut self) -> Result<(), NotShown> {
        let door = self.door.to_string();
        let mut words = vec!["serve", "--data", "data", "--subscribers-listen", &door];
        if let Some(kafka) = &self.kafka {
            words.extend(["--kafka", kafka]);
        }
        let mut serve = self.command(&words);
        let mut node = Node::start(&mut serve, &self.folder.join("node.log"))?;
        let api = Api::of(&self.folder.join("state"), &mut node, PATIENCE)?;
        *self.api.lock().during("keep the API")? = Some(api);
        self.node = Some(node);
        Ok(())
    }

    /// SIGKILL, confirmed, and a start.
    pub(super) fn kill_and_start(&mut self) -> Result<(), NotShown> {
        *self.api.lock().during("forget the API")? = None;
        let was_killed = self.node.as_mut().is_some_and(|node| node.kill().unwrap_or(false));
        demand!(was_killed, "the node was gone before SIGKILL");
        self.start()
    }

    /// A command of the operator's, whatever it ends with.
    pub(super) fn say(&self, words: &[&str]) -> Result<Said, NotShown> {
        command::run(&mut self.command(words), PATIENCE)
    }

    /// The same, which has to succeed; what it printed.
    pub(super) fn run(&self, words: &[&str]) -> Result<String, NotShown> {
        let said = self.say(words)?;
        demand!(said.status == Some(0), "millrace {words:?}: {}", said.all());
        Ok(said.stdout.trim().to_owned())
    }

    pub(super) fn topic(&self, about: &Value) -> Result<(), NotShown> {
        Ok(self.api()?.post("/v1/topics", about).map(drop)?)
    }

    pub(super) fn api(&self) -> Result<Api, NotShown> {
        let api = self.api.lock().during("read the API")?;
        api.clone().ok_or_else(|| broken("the node is down"))
    }

    /// A token for these topics, as text, and its id.
    pub(super) fn token(&self, topics: &str, expires: &str) -> Result<(String, String), NotShown> {
        let words = ["token", "create", "--topic", topics, "--expires", expires, "-o", "json"];
        let made: Value = serde_json::from_str(&self.run(&words)?).during("read a token")?;
        let text = |it: &Value| it.as_str().map(str::to_owned).ok_or_else(|| broken("no token"));
        Ok((text(&made["token"])?, text(&made["about"]["id"])?))
    }

    /// How often each reason was counted; metrics come in any order.
    pub(super) fn refusals(&self) -> Result<BTreeMap<String, u64>, NotShown> {
        let metrics = self.api()?.get("/metrics")?;
        let lines = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix("millrace_subscribers_refused_total{reason=\"")?;
            let (reason, count) = rest.split_once("\"} ")?;
            Some((reason.to_owned(), count.parse().ok()?))
        });
        Ok(lines.collect())
    }

    pub(super) fn log(&self) -> String {
        self.node.as_ref().map(Node::text).unwrap_or_default()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

fn free_port() -> Result<SocketAddr, NotShown> {
    let [port] = ports::free()?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

/// Produces numbers until it is stopped.
pub(super) struct Producer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(BTreeSet<u64>, u64)>,
}

impl Producer {
    pub(super) fn start(api: Arc<Mutex<Option<Api>>>, topic: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut acknowledged, mut last) = (BTreeSet::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let now = api.lock().ok().and_then(|api| api.clone());
                if let Some(api) = now {
                    let numbers: Vec<u64> = (last + 1..=last + 3).collect();
                    last += 3;
                    let record = |number: &u64| ToProduce {
                        key: key_of(*number).into_bytes(),
                        value: number.to_string().into_bytes(),
                    };
                    let records: Vec<ToProduce> = numbers.iter().map(record).collect();
                    if api.produce(topic, &records).is_ok() {
                        acknowledged.extend(numbers);
                    }
                }
                wait::pause(EVERY);
            }
            (acknowledged, last)
        });
        Self { stop, thread }
    }

    /// What was acknowledged, and the last number that was tried.
    pub(super) fn end(self) -> Result<(BTreeSet<u64>, u64), NotShown> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_panic| broken("who produces has panicked"))
    }
}

/// A topic with so many partitions.
pub(super) fn topic(name: &str, partitions: u32) -> Value {
    json!({ "name": name, "partitions": partitions })
}
