//! Synchronous invocations: a call that comes to this node runs here where an instance is ready,
//! else at the member that the core chooses (cluster::invoking). It is never begun twice: once a
//! member has it, whatever goes wrong is told, and nobody else is asked.
//!
//! ```text
//! gateway ─▶ choose ─┬─▶ run.rs: pool ─▶ outputs durable ─▶ answer
//!    ▲               └─▶ elsewhere.rs ─▶ member ─▶ its run.rs
//!    └─ not begun there: another one is chosen, while time is left
//! ```

mod elsewhere;
mod outputs;
mod run;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cluster::Role;
use cluster::invoking::{Bulletin, Choice, Load, choose};
use dispatch::TraceContext;
use function::FunctionSpec;
use gateway::{Called, Invocations, NotCalled, Why};
use metrics::{counter, describe_counter};
use tokio::sync::Notify;
use tokio::time::timeout_at;
use tokio_util::task::TaskTracker;

use super::Node;
use super::restore::as_kept;
use super::running::Apps;
use elsewhere::Unheard;
use run::{Callable, Table};
use wire::{Call, NotBegun, Outcome, Report};

/// How long a call waits beyond the function's timeout if its caller does not say: for a start.
const START: Duration = Duration::from_secs(15);

/// What a node keeps for calls.
pub(super) struct Calls {
    table: Mutex<Arc<Table>>,
    bulletin: Mutex<Bulletin>,
    /// Functions that were called of late and may run elsewhere, and when.
    wanted: Mutex<BTreeMap<String, Instant>>,
    /// Members that are asked for news now.
    asking: Mutex<BTreeSet<u64>>,
    wake: Notify,
    running: TaskTracker,
    /// In the names of calls, which count from there.
    boot: u64,
    next: AtomicU64,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            bulletin: Mutex::default(),
            wanted: Mutex::default(),
            asking: Mutex::default(),
            wake: Notify::new(),
            running: TaskTracker::new(),
            boot: rand::random(),
            next: AtomicU64::new(0),
        }
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Calls {
    /// Takes over what runs.
    pub(super) fn take_over(&self, apps: &Apps) {
        let mut table = lock(&self.table);
        *table = Arc::new(run::table(apps, &table));
    }

    /// Waits until no call runs, for as long as that.
    pub(super) async fn quiet(&self, patience: Duration) {
        self.running.close();
        drop(tokio::time::timeout(patience, self.running.wait()).await);
    }

    fn callable(&self, function: &str) -> Option<Arc<Callable>> {
        lock(&self.table).get(function).cloned()
    }

    /// No other call has this name: the first half is this process's.
    fn name(&self) -> String {
        format!("call-{:016x}-{}", self.boot, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Where a call was refused before it began.
#[derive(Default)]
struct Tried {
    /// What was called here. A deploy may have put another in its place.
    here: Option<Arc<Callable>>,
    members: BTreeSet<u64>,
    /// Some had no room.
    is_busy: bool,
    /// What was said last.
    said: String,
}

impl Node {
    async fn call(&self, function: String, asked: gateway::Call) -> Result<Called, NotCalled> {
        let _running = self.inner.calls.running.token();
        let (revision, timeout) = self.wanted(&function)?;
        let within = asked.within.unwrap_or(timeout + START);
        let deadline = Instant::now() + within;
        let trace = asked.trace.as_deref().and_then(|it| TraceContext::parse(it.as_bytes()));
        let call = Call {
            function,
            revision,
            invocation: self.inner.calls.name(),
            trace: trace.map_or_else(String::new, |it| it.to_string()),
            input: asked.input,
        };
        let placed = self.place_call(&call, asked.only.as_deref(), deadline);
        // Dropping it ends the call, wherever it runs.
        timeout_at(deadline.into(), placed).await.unwrap_or_else(|_late| Err(late()))
    }

    /// The revision that a function is, and how long it may take.
    fn wanted(&self, id: &str) -> Result<(String, Duration), NotCalled> {
        let state = self.inner.cluster.state();
        let (app, name) = id.split_once('/').unwrap_or_default();
        let function = state.apps().get(app).and_then(|it| it.functions.get(name));
        let Some(function) = function else {
            let detail = format!("there is no function {id}");
            return Err(NotCalled { why: Why::Unknown, detail });
        };
        let timeout = self.inner.calls.callable(id).map(|it| it.timeout).or_else(|| {
            let (spec, _) = as_kept(function).ok()?;
            Some(spec.timeout)
        });
        Ok((function.revision.clone(), timeout.unwrap_or(FunctionSpec::TIMEOUT)))
    }

    /// Hands a call to whom the core chooses, until somebody has begun it.
    async fn place_call(
        &self,
        call: &Call,
        only: Option<&str>,
        deadline: Instant,
    ) -> Result<Called, NotCalled> {
        let mut tried = Tried::default();
        loop {
            let (member, report) = match self.choose(call, only, &tried).await? {
                Choice::Here => {
                    let me = self.inner.cluster.me();
                    let Some(callable) = self.inner.calls.callable(&call.function) else {
                        continue;
                    };
                    let report = self.run_here(&callable, call, deadline).await;
                    tried.here = Some(callable);
                    (me, report)
                }
                Choice::There(member) => {
                    tried.members.insert(member);
                    match self.run_there(member, call, deadline).await {
                        Ok(report) => (member, report),
                        Err(Unheard::NotSent(why)) => {
                            tried.said = format!("{}: {why}", self.name_of(member));
                            continue;
                        }
                        Err(Unheard::Late) => return Err(late()),
                        Err(Unheard::Lost(why)) => {
                            let node = self.name_of(member);
                            let detail = format!(
                                "{node} had the call, and its answer did not \
                                                  come: {why}; it may have run"
                            );
                            return Err(NotCalled { why: Why::MayHaveRun, detail });
                        }
                    }
                }
                Choice::Busy => return Err(busy(&call.function)),
                Choice::Nowhere if tried.is_busy => return Err(busy(&call.function)),
                Choice::Nowhere => return Err(nowhere(&call.function, &tried.said)),
            };
            let node = self.name_of(member);
            match report.outcome {
                Outcome::NotBegun(why, message) => {
                    tried.is_busy |= why == NotBegun::Busy;
                    tried.said = format!("{node}: {message}");
                }
                _ => return told(call, node, report),
            }
        }
    }

    /// Who runs it next.
    async fn choose(
        &self,
        call: &Call,
        only: Option<&str>,
        tried: &Tried,
    ) -> Result<Choice, NotCalled> {
        let calls = &self.inner.calls;
        let here = calls.callable(&call.function).filter(|it| {
            let was_tried = tried.here.as_ref().is_some_and(|before| Arc::ptr_eq(before, it));
            !was_tried && !self.inner.shutdown.is_cancelled()
        });
        if let Some(name) = only {
            return self.only_at(name, here.is_some(), tried);
        }
        let here = here.map(|it| it.load());
        let state = self.inner.cluster.state();
        let members = state.roster().members();
        let me = self.inner.cluster.me();
        let drains = members.get(&me).is_some_and(|it| it.is_draining);
        if !drains && here.is_some_and(Load::is_ready) {
            return Ok(Choice::Here);
        }
        let others = members.iter().filter(|(id, it)| {
            **id != me && it.role != Role::Removed && !it.is_draining && self.is_linked(**id)
        });
        let others: BTreeSet<u64> =
            others.map(|(id, _)| *id).filter(|id| !tried.members.contains(id)).collect();
        if others.is_empty() {
            return Ok(choose(here, &[], [0, 0]));
        }
        self.ask_for_news(&others, &call.function).await;
        let candidates = {
            let now = Instant::now();
            let bulletin = lock(&calls.bulletin);
            bulletin.candidates(now, &others, &call.function, &call.revision)
        };
        let draws = [rand::random(), rand::random()];
        let choice = choose(here.filter(|_| !drains), &candidates, draws);
        Ok(match choice {
            // Who is drained runs what nobody else can.
            Choice::Nowhere | Choice::Busy if drains => choose(here, &[], draws),
            choice => choice,
        })
    }

    /// The one node that the caller means.
    fn only_at(&self, name: &str, is_here: bool, tried: &Tried) -> Result<Choice, NotCalled> {
        if name == self.inner.name {
            return Ok(if is_here { Choice::Here } else { Choice::Nowhere });
        }
        let id = self.state(|state| state.roster().named(name).map(|(id, _)| id));
        let Some(id) = id else {
            let detail = format!("no node {}", name.escape_debug());
            return Err(NotCalled { why: Why::UnknownNode, detail });
        };
        let was_tried = tried.members.contains(&id);
        Ok(if was_tried { Choice::Nowhere } else { Choice::There(id) })
    }

    fn name_of(&self, member: u64) -> String {
        if member == self.inner.cluster.me() {
            return self.inner.name.clone();
        }
        let name =
            |state: &cluster::State| Some(state.roster().members().get(&member)?.name.clone());
        self.state(name).unwrap_or_else(|| format!("node {member}"))
    }
}

/// What the caller is told of a call that was begun.
fn told(call: &Call, node: String, report: Report) -> Result<Called, NotCalled> {
    let Report { revision, cold, queue_us, run_us, outcome, .. } = report;
    let invocation = call.invocation.clone();
    match outcome {
        Outcome::Answered(value) => {
            Ok(Called { value, node, revision, invocation, cold, queue_us, run_us })
        }
        Outcome::Failed { code, message, timed_out } => {
            let why = if timed_out { Why::Late } else { Why::Failed };
            let detail = format!("{code}: {message} (on {node})");
            Err(NotCalled { why, detail })
        }
        Outcome::InDoubt(message) => {
            let detail = format!("{message} (on {node})");
            Err(NotCalled { why: Why::MayHaveRun, detail })
        }
        Outcome::NotBegun(_, message) => Err(nowhere(&call.function, &message)),
    }
}

fn late() -> NotCalled {
    let detail = "no answer in the time that was given; the call was ended".to_owned();
    NotCalled { why: Why::Late, detail }
}

fn busy(function: &str) -> NotCalled {
    let detail = format!("all instances of {function} are busy, and enough calls wait");
    NotCalled { why: Why::Busy, detail }
}

fn nowhere(function: &str, said: &str) -> NotCalled {
    let because = if said.is_empty() { String::new() } else { format!(": {said}") };
    let detail = format!("{function} runs on no node that can be reached{because}");
    NotCalled { why: Why::Nowhere, detail }
}

#[async_trait]
impl Invocations for Node {
    async fn invoke(
        &self,
        app: String,
        function: String,
        call: gateway::Call,
    ) -> Result<Called, NotCalled> {
        let mut counted = Counted { side: None, outcome: "cancelled" };
        let called = self.call(format!("{app}/{function}"), call).await;
        counted.outcome = called.as_ref().map_or_else(|not| not.why.name(), |_| "answered");
        called
    }
}

/// Counts a call when it is over, also one that nobody waits for any more.
struct Counted {
    /// `sent` or `served`, of one that crosses.
    side: Option<&'static str>,
    outcome: &'static str,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let outcome = self.outcome;
        match self.side {
            None => counter!("millrace_invocations_sync_total", "outcome" => outcome).increment(1),
            Some(side) => {
                counter!(
                    "millrace_invocations_remote_total", "side" => side, "outcome" => outcome
                )
                .increment(1);
            }
        }
    }
}

/// Tells the recorder what each of these is.
pub(crate) fn describe_metrics() {
    describe_counter!(
        "millrace_invocations_sync_total",
        "Synchronous invocations that came to this node, by how they ended."
    );
    describe_counter!(
        "millrace_invocations_remote_total",
        "Synchronous invocations that crossed between nodes, by side and by how they ended."
    );
}
