//! The promise `remote-invoke`: a synchronous call at any of three nodes runs once, where an instance
//! is warm, and whatever becomes of its caller, its time or its node, nobody runs it again.
//!
//! ```text
//! caller ──HTTP──▶ edge-1 ──QUIC──▶ edge-2 ──▶ work ──socket──▶ listener
//!    └────────────── told ────────────┐                          │ said
//!                                     └────────▶ verdict ◀───────┘
//! ```
//!
//! Instances are made cold by calls that are given no time: whoever runs too long loses its instance.

mod app;
mod cost;
mod verdict;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::demand;
use crate::harness::api::{Api, Reply};
use crate::harness::fleet::Fleet;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken};
use app::Listener;
use verdict::{Called, Seen, Told};

const NODES: usize = 3;
const FUNCTIONS: usize = 3;
/// What any single step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any call here lasts.
const LONG_S: u64 = 50;
/// How long a node is told of what ran in another.
const NEWS: Duration = Duration::from_millis(1_200);
/// More calls at once than three nodes take.
const CROWD: usize = 60;
/// A trace, as a caller names it.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let rounds = run.count("rounds", 2, 20);
    let mut stage = Stage::start(run)?;
    let cost = cost::measure(&stage, run)?;
    for round in 0..rounds {
        run.note(format!("round {} of {rounds}: where it is warm", round + 1));
        stage.warm_elsewhere()?;
        stage.warm_here()?;
        stage.spread()?;
        run.note(format!("round {} of {rounds}: deadlines, callers that hang up", round + 1));
        stage.late()?;
        stage.hung_up()?;
        stage.failed()?;
        run.note(format!("round {} of {rounds}: too many", round + 1));
        stage.too_many()?;
        stage.drained()?;
        run.note(format!("round {} of {rounds}: nodes that stop and die", round + 1));
        stage.lost(Signal::STOP)?;
        stage.lost(Signal::KILL)?;
    }
    stage.large()?;
    stage.outputs()?;
    Ok(stage.finish()?.with_all(cost))
}

/// Three nodes, the callers and who listens.
struct Stage {
    fleet: Fleet,
    listener: Listener,
    calls: Mutex<BTreeMap<u64, Called>>,
    next: AtomicU64,
    figures: BTreeMap<&'static str, u64>,
    _broker: Broker,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, Default)]
struct Wish<'a> {
    function: &'a str,
    sleep_ms: u64,
    timeout_ms: Option<u64>,
    at: Option<&'a str>,
    trace: Option<&'a str>,
    fail: Option<&'a str>,
    pad: Option<&'a str>,
    /// A topic that an output goes to.
    to: Option<&'a str>,
}

const WORK: Wish<'static> = Wish {
    function: "work",
    sleep_ms: 0,
    timeout_ms: None,
    at: None,
    trace: None,
    fail: None,
    pad: None,
    to: None,
};

impl Wish<'_> {
    fn path(&self) -> String {
        let query = [
            self.timeout_ms.map(|it| format!("timeout_ms={it}")),
            self.at.map(|it| format!("node={it}")),
        ];
        let query: Vec<String> = query.into_iter().flatten().collect();
        format!("/v1/functions/calls/{}:invoke?{}", self.function, query.join("&"))
    }

    fn body(&self, id: u64) -> Vec<u8> {
        let mut event = json!({"id": id, "sleep": self.sleep_ms as f64 / 1_000.0});
        if let Some(fail) = self.fail {
            event["fail"] = fail.into();
        }
        if let Some(pad) = self.pad {
            event["pad"] = pad.into();
        }
        if let Some(to) = self.to {
            event["to"] = to.into();
        }
        event.to_string().into_bytes()
    }
}

impl Stage {
    fn start(run: &Run) -> Result<Self, NotShown> {
        run.note("fetch Kafka");
        let kafka = Kafka::fetch()?;
        let broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::Plain)?;
        run.note("three nodes");
        let fleet = Fleet::form(&run.evidence, &broker.address(), NODES)?;
        let listener = Listener::start()?;
        let app = listener.write(&run.evidence)?;
        fleet.slots[0].run(&["topic", "create", "seen", "--partitions", "1"])?;
        fleet.slots[0].run(&["deploy", "--yes", &app.display().to_string()])?;
        let stage = Self {
            fleet,
            listener,
            calls: Mutex::default(),
            next: AtomicU64::new(1),
            figures: BTreeMap::new(),
            _broker: broker,
        };
        for slot in 0..NODES {
            stage.until_runs(slot)?;
        }
        Ok(stage)
    }

    fn name(&self, slot: usize) -> &str {
        &self.fleet.slots[slot].name
    }

    fn api(&self, slot: usize) -> Result<&Api, NotShown> {
        self.fleet.slots[slot].api()
    }

    /// Waits until a node runs the function itself.
    fn until_runs(&self, slot: usize) -> Result<(), NotShown> {
        let ready = wait::until(PATIENCE, || {
            let status = self.api(slot).ok()?.get(&format!("/v1/status?node={}", self.name(slot)));
            let status: Value = serde_json::from_str(&status.ok()?).ok()?;
            let functions = status["functions"].as_array()?;
            let runs =
                functions.iter().filter(|it| !it["revision"].as_str().unwrap_or("").is_empty());
            (runs.count() == FUNCTIONS).then_some(())
        });
        ready.ok_or_else(|| broken(format!("{} does not run the functions", self.name(slot))))
    }

    /// Calls at a node and notes what was told.
    fn call(&self, slot: usize, wish: Wish<'_>) -> Result<(u64, Reply), NotShown> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let headers: Vec<(&str, &str)> = wish.trace.iter().map(|it| ("traceparent", *it)).collect();
        let reply = self.api(slot)?.send(&wish.path(), &headers, &wish.body(id), PATIENCE)?;
        let at = Instant::now();
        let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or_default();
        let told = match (reply.status, code) {
            (200, _) => {
                let node = reply.headers.get("millrace-node").cloned().unwrap_or_default();
                Told::Answered { node }
            }
            (502, "E0550") => Told::Failed,
            (429, "E0552") | (503, "E0554") => Told::Refused,
            (504, "E0551") => {
                let given = Duration::from_millis(wish.timeout_ms.unwrap_or_default());
                let took = at.saturating_duration_since(sent);
                demand!(given <= took, "call {id} ended before its time: {took:?}");
                Told::Late { over: took - given }
            }
            // Whoever ends the node notes when that was.
            (502, "E0553") => Told::MayHaveRun { after: Duration::ZERO },
            (status, _) => return Err(broken(format!("call {id}: {status} {problem}"))),
        };
        let trace = wish.trace.map(str::to_owned);
        self.note(id, Called { at, told, trace });
        Ok((id, reply))
    }

    fn note(&self, id: u64, called: Called) {
        self.calls.lock().expect("nothing panics while it holds this").insert(id, called);
    }

    fn count(&mut self, what: &'static str) {
        *self.figures.entry(what).or_default() += 1;
    }

    /// Has a node lose its instances, but keep the function.
    fn cool(&self, slot: usize, function: &str, instances: usize) -> Result<(), NotShown> {
        let wish = Wish {
            function,
            sleep_ms: LONG_S * 1_000,
            timeout_ms: Some(1_000),
            at: Some(self.name(slot)),
            ..WORK
        };
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                (0..instances).map(|_| scope.spawn(|| self.call(slot, wish).map(drop))).collect();
            calls.into_iter().try_for_each(|it| it.join().expect("it does not panic"))
        })
    }

    /// Has a node have a warm instance, and the others none; the news of it is known after that.
    fn warm_only(&self, slots: &[usize]) -> Result<(), NotShown> {
        std::thread::scope(|scope| {
            let cool = |slot: usize| scope.spawn(move || self.cool(slot, "work", 2));
            let cooled: Vec<_> = (0..NODES).map(cool).collect();
            cooled.into_iter().try_for_each(|it| it.join().expect("it does not panic"))
        })?;
        for slot in slots {
            self.call(*slot, Wish { at: Some(self.name(*slot)), ..WORK })?;
        }
        wait::pause(NEWS);
        Ok(())
    }

    fn ran_at(reply: &Reply) -> (&str, bool) {
        let header = |name: &str| reply.headers.get(name).map_or("", String::as_str);
        (header("millrace-node"), header("millrace-cold") == "true")
    }

    fn warm_elsewhere(&mut self) -> Result<(), NotShown> {
        self.warm_only(&[1])?;
        for slot in [0, 2] {
            for _ in 0..10 {
                let (id, reply) = self.call(slot, Wish { trace: Some(TRACE), ..WORK })?;
                let (node, cold) = Self::ran_at(&reply);
                let from = self.name(slot);
                demand!(node == self.name(1), "call {id} from {from} ran at {node}");
                demand!(!cold, "call {id} from {from} was a cold start at {node}");
                self.count("remote");
            }
        }
        Ok(())
    }

    fn warm_here(&mut self) -> Result<(), NotShown> {
        self.warm_only(&[0, 1])?;
        for _ in 0..10 {
            let (id, reply) = self.call(0, WORK)?;
            let (node, cold) = Self::ran_at(&reply);
            demand!(node == self.name(0) && !cold, "call {id} ran at {node}, cold {cold}");
            self.count("local");
        }
        Ok(())
    }

    /// Four calls at once, and two nodes with an instance each: none has to run them all.
    fn spread(&mut self) -> Result<(), NotShown> {
        self.warm_only(&[1, 2])?;
        let wish = Wish { sleep_ms: 400, ..WORK };
        let ran: Result<Vec<String>, NotShown> = std::thread::scope(|scope| {
            let call = |index: u64| {
                wait::pause(Duration::from_millis(40 * index));
                let (_, reply) = self.call(0, wish)?;
                Ok(Self::ran_at(&reply).0.to_owned())
            };
            let calls: Vec<_> = (0..4).map(|it| scope.spawn(move || call(it))).collect();
            calls.into_iter().map(|it| it.join().expect("it does not panic")).collect()
        });
        let ran = ran?;
        for slot in [1, 2] {
            let name = self.name(slot);
            demand!(ran.iter().any(|it| it == name), "{name} ran none of four: {ran:?}");
        }
        self.count("spread");
        Ok(())
    }

    fn late(&mut self) -> Result<(), NotShown> {
        self.warm_only(&[1])?;
        let wish = Wish { sleep_ms: LONG_S * 1_000, timeout_ms: Some(700), ..WORK };
        let (id, reply) = self.call(0, wish)?;
        demand!(reply.status == 504, "call {id} was not late: {}", reply.status);
        let (_, node) = self.listener.begun(id, PATIENCE)?;
        demand!(node == self.name(1), "call {id} ran at {node}");
        self.listener.gone(id, PATIENCE)?;
        self.count("late");
        Ok(())
    }

    /// Once with the run at another node, once at the caller's own.
    fn hung_up(&mut self) -> Result<(), NotShown> {
        for slot in [1, 0] {
            self.warm_only(&[slot])?;
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            let wish = Wish { sleep_ms: LONG_S * 1_000, ..WORK };
            let (place, token) = self.api(0)?.place();
            let mut line = TcpStream::connect(place).during("call by hand")?;
            let body = wish.body(id);
            let head = format!(
                "POST {} HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer {token}\r\n\
                 Content-Length: {}\r\n\r\n",
                wish.path(),
                body.len()
            );
            line.write_all(&[head.as_bytes(), &body].concat()).during("call by hand")?;
            // Noted before it happens: a call that runs has to be known.
            let called = Called { at: Instant::now(), told: Told::HungUp, trace: None };
            self.note(id, called.clone());
            let (_, node) = self.listener.begun(id, PATIENCE)?;
            demand!(node == self.name(slot), "call {id} ran at {node}");
            line.set_nonblocking(true).during("look for an answer")?;
            let answer = line.read(&mut [0; 1]);
            demand!(answer.is_err(), "call {id} was answered: {answer:?}");
            drop(line);
            self.note(id, Called { at: Instant::now(), ..called });
            self.listener.gone(id, PATIENCE)?;
            self.count("hung_up");
        }
        Ok(())
    }

    /// The same answer whether it ran here or there.
    fn failed(&mut self) -> Result<(), NotShown> {
        let fail = Some("no such bed");
        let mut said = Vec::new();
        for slot in [0, 1] {
            let wish = Wish { fail, at: Some(self.name(slot)), ..WORK };
            let (_, reply) = self.call(0, wish)?;
            let text = String::from_utf8_lossy(&reply.body).replace(self.name(slot), "NODE");
            demand!(text.contains("ValueError: no such bed"), "it does not say why: {text}");
            said.push((reply.status, text));
            self.count("failed");
        }
        demand!(said[0] == said[1], "here {:?}, there {:?}", said[0], said[1]);
        Ok(())
    }

    /// More calls than three instances and their queues take.
    fn too_many(&mut self) -> Result<(), NotShown> {
        let wish = Wish { function: "narrow", sleep_ms: 600, ..WORK };
        let replies: Result<Vec<Reply>, NotShown> = std::thread::scope(|scope| {
            let call = || self.call(0, wish).map(|(_, reply)| reply);
            let calls: Vec<_> = (0..CROWD).map(|_| scope.spawn(call)).collect();
            calls.into_iter().map(|it| it.join().expect("it does not panic")).collect()
        });
        let replies = replies?;
        let refused = replies.iter().filter(|it| it.status == 429);
        let (refused, answered) =
            (refused.clone().count(), replies.iter().filter(|it| it.status == 200).count());
        for reply in replies.iter().filter(|it| it.status == 429) {
            demand!(reply.headers.contains_key("retry-after"), "it does not say when again");
        }
        demand!(answered + refused == CROWD, "{answered} answered, {refused} refused");
        demand!(0 < refused, "{CROWD} calls found room");
        // An instance and eight that wait are what one node takes at once.
        let took = [1, 2]
            .into_iter()
            .filter(|slot| replies.iter().any(|reply| Self::ran_at(reply).0 == self.name(*slot)));
        demand!(took.count() == 2, "of {CROWD} calls another node got none");
        *self.figures.entry("refused").or_default() += refused as u64;
        Ok(())
    }

    /// A node that is drained gets no calls from others, warm as it is.
    fn drained(&mut self) -> Result<(), NotShown> {
        self.warm_only(&[1])?;
        let name = self.name(1).to_owned();
        self.fleet.slots[0].run(&["node", "drain", &name])?;
        let until_said = |wanted: bool| {
            let said = wait::until(PATIENCE, || {
                let members = self.fleet.slots[0].members().ok()?;
                let member = members.iter().find(|it| it["name"] == name.as_str())?;
                (member["draining"] == wanted).then_some(())
            });
            said.ok_or_else(|| broken(format!("{name} does not drain, or go on: {wanted}")))
        };
        until_said(true)?;
        let (id, reply) = self.call(0, WORK)?;
        let (node, _) = Self::ran_at(&reply);
        demand!(node != name, "call {id} ran at {node}, which is drained");
        self.fleet.slots[0].run(&["node", "undrain", &name])?;
        until_said(false)?;
        self.count("drained");
        Ok(())
    }

    /// The node that runs a call stops, or dies, in the middle of it.
    fn lost(&mut self, signal: Signal) -> Result<(), NotShown> {
        self.warm_only(&[1])?;
        let ended = Mutex::new(None);
        let wish = Wish { sleep_ms: 6_000, ..WORK };
        let expected = self.next.load(Ordering::Relaxed);
        let pid = self.fleet.slots[1].node()?.pid();
        let told = std::thread::scope(|scope| {
            let caller = scope.spawn(|| self.call(0, wish));
            let (_, node) = self.listener.begun(expected, PATIENCE)?;
            demand!(node == self.name(1), "call {expected} ran at {node}");
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("it is no zero");
            rustix::process::kill_process(pid, signal).during("end a node")?;
            *ended.lock().expect("nothing panics while it holds this") = Some(Instant::now());
            caller.join().expect("it does not panic")
        });
        let (id, reply) = told?;
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        demand!(id == expected && reply.status == 502, "call {id}: {} {body}", reply.status);
        demand!(body.contains("it may have run"), "it does not say that it may have run: {body}");
        let ended = ended.into_inner().expect("nothing panics while it holds this");
        {
            let mut calls = self.calls.lock().expect("nothing panics while it holds this");
            let called = calls.get_mut(&id).expect("it was noted");
            let after = called.at.saturating_duration_since(ended.expect("it was ended"));
            called.told = Told::MayHaveRun { after };
            let longest = self.figures.entry("lost_heard_ms_max").or_default();
            *longest = (*longest).max(after.as_millis() as u64);
        }
        // The others go on meanwhile.
        let (_, reply) = self.call(0, WORK)?;
        demand!(Self::ran_at(&reply).0 != self.name(1), "a call went to a node that is gone");
        self.count(if signal == Signal::KILL { "killed" } else { "stopped" });
        if signal == Signal::KILL {
            self.fleet.slots[1].kill()?;
            self.fleet.slots[1].start()?;
        } else {
            self.fleet.slots[1].node()?.signal(Signal::CONT)?;
        }
        self.until_runs(1)?;
        self.until_heard(1)
    }

    /// Waits until the first node can call another one again.
    fn until_heard(&self, slot: usize) -> Result<(), NotShown> {
        let heard = wait::until(PATIENCE, || {
            let wish = Wish { at: Some(self.name(slot)), ..WORK };
            let (_, reply) = self.call(0, wish).ok()?;
            (reply.status == 200).then_some(())
        });
        heard.ok_or_else(|| broken(format!("{} is not heard of again", self.name(slot))))
    }

    /// 5 MiB there and back are the same; what is over the limit is refused.
    fn large(&mut self) -> Result<(), NotShown> {
        let pad = "p".repeat(5 << 20);
        let wish = Wish { at: Some(self.name(1)), pad: Some(&pad), ..WORK };
        let (id, reply) = self.call(0, wish)?;
        let answer: Value = serde_json::from_slice(&reply.body).during("read a large answer")?;
        demand!(answer["pad"].as_str() == Some(&pad), "call {id} came back as something else");
        let pad = "p".repeat(7 << 20);
        let wish = Wish { pad: Some(&pad), ..WORK };
        let reply = self.api(0)?.send(&wish.path(), &[], &wish.body(0), PATIENCE)?;
        demand!(reply.status == 413, "7 MiB were answered with {}", reply.status);
        self.count("large");
        Ok(())
    }

    /// What a call gave to a topic is there when it has answered; to another topic it may give
    /// nothing, and then nothing of it is there.
    fn outputs(&mut self) -> Result<(), NotShown> {
        let mut wanted = Vec::new();
        for slot in [0, 1] {
            let wish = Wish { at: Some(self.name(slot)), to: Some("seen"), ..WORK };
            let (id, reply) = self.call(0, wish)?;
            demand!(reply.status == 200, "call {id}: {}", reply.status);
            wanted.push(id.to_string());
            let end = self.api(0)?.end_of("seen")?;
            demand!(end == wanted.len() as i64, "call {id} answered, and its topic ends at {end}");
            let there = wait::until(PATIENCE, || {
                let records = self.api(0).ok()?.records("seen", 100).ok()?;
                let values = records.iter().map(|it| it["value"].as_str().unwrap_or_default());
                values.eq(wanted.iter().map(String::as_str)).then_some(())
            });
            demand!(there.is_some(), "call {id}: its topic does not have {wanted:?}");
            let (id, reply) = self.call(0, Wish { to: Some("elsewhere"), ..wish })?;
            let text = String::from_utf8_lossy(&reply.body);
            let is_named = text.contains("Millrace.OutputTopic");
            demand!(reply.status == 502 && is_named, "call {id}: {} {text}", reply.status);
            self.count("outputs");
        }
        Ok(())
    }

    fn finish(self) -> Result<Figures, NotShown> {
        // What runs tell goes over sockets: the last of it may be on its way.
        wait::pause(NEWS);
        let calls = self.calls.into_inner().expect("nothing panics while it holds this");
        let seen = Seen { calls, lines: self.listener.lines() };
        seen.judge().map_err(broken)?;
        let mut red = 0_u64;
        for (what, planted) in seen.planted() {
            demand!(planted.judge().is_err(), "the verdict does not notice: {what}");
            red += 1;
        }
        let served = self.fleet.slots[0].api()?.get("/metrics").during("read the metrics")?;
        let sent = served.lines().filter(|it| {
            it.starts_with("millrace_invocations_remote_total{") && it.contains("side=\"sent\"")
        });
        demand!(sent.count() != 0, "calls that crossed are not counted");
        let mut figures = Figures::default().with("calls", seen.calls.len() as u64);
        for (what, count) in self.figures {
            figures.set(what, count);
        }
        Ok(figures.with("red_controls", red))
    }
}
