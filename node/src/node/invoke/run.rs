//! A synchronous invocation on this node: the pool that it runs in, how many may wait there, and
//! the outputs that are durable before the answer is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::invoking::{Load, Said, WAITING_EACH};
use frame::{Context, RequestBuilder};
use function::{Decode, Event, FunctionSpec};
use runtime::{Answer, Calling, Failure, FailureKind, Invocation, Invoke as _, Named, Pool};
use tokio::sync::Semaphore;

use super::super::running::Apps;
use super::super::{Node, chain};
use super::outputs::{self, Made};
use super::wire::{Call, NotBegun, Outcome, Report};

/// The one batch of an instance's invocation has an id, which nobody else sees.
const BATCH: u64 = 1;

/// A function that can be called here.
#[derive(Debug)]
pub(super) struct Callable {
    pub(super) revision: Arc<str>,
    pub(super) pool: Arc<Pool>,
    pub(super) timeout: Duration,
    allowed: Vec<String>,
    calling: Calling,
    /// For those that run or wait.
    room: Arc<Semaphore>,
}

/// What can be called here, by app/name.
pub(super) type Table = BTreeMap<String, Arc<Callable>>;

impl Callable {
    fn new(spec: &FunctionSpec, revision: &Arc<str>, pool: &Arc<Pool>) -> Self {
        let each = 1 + WAITING_EACH as usize;
        Self {
            revision: Arc::clone(revision),
            pool: Arc::clone(pool),
            timeout: spec.timeout,
            allowed: spec.allow_produce.clone(),
            calling: calling(spec),
            room: Arc::new(Semaphore::new(spec.instances.max.max(1) as usize * each)),
        }
    }

    /// How its pool stands.
    pub(super) fn load(&self) -> Load {
        let stats = self.pool.stats();
        let (idle, busy, queued) = (stats.idle, stats.busy, stats.queued);
        Load { idle, busy, queued, max: stats.max, starts_fast: stats.starts_fast }
    }

    pub(super) fn said(&self) -> Said {
        Said { revision: self.revision.to_string(), load: self.load() }
    }

    /// What it says of an invocation that did not run.
    pub(super) fn not_begun(&self, why: NotBegun, message: impl Into<String>) -> Report {
        let outcome = Outcome::NotBegun(why, message.into());
        let (revision, load) = (self.revision.to_string(), self.load());
        Report { revision, load, cold: false, queue_us: 0, run_us: 0, outcome }
    }
}

/// The handler is given what its triggers give it: the input as it is, or parsed. To one that takes
/// Lambda's Kafka event the input is the event.
fn calling(spec: &FunctionSpec) -> Calling {
    let wants_bytes =
        |it: &function::TriggerSpec| it.decode == Decode::None && it.event != Event::Lambda;
    let is_plain = !spec.triggers.is_empty() && spec.triggers.iter().all(wants_bytes);
    let decode = if is_plain { runtime::Decode::None } else { runtime::Decode::Json };
    Calling { event: runtime::Event::Record, decode, has_output: true }
}

/// What can be called once these run; who waits goes on waiting where the pool is the same.
pub(super) fn table(apps: &Apps, before: &Table) -> Table {
    let mut table = Table::new();
    for (app, running) in apps {
        for (name, function) in &running.functions {
            let id = format!("{app}/{name}");
            let is_same = |it: &&Arc<Callable>| {
                Arc::ptr_eq(&it.pool, &function.pool)
                    && it.timeout == function.spec.timeout
                    && it.allowed == function.spec.allow_produce
                    && it.calling == calling(&function.spec)
            };
            let kept = before.get(&id).filter(is_same).cloned();
            let new = || Callable::new(&function.spec, &function.revision, &function.pool);
            table.insert(id, kept.unwrap_or_else(|| Arc::new(new())));
        }
    }
    table
}

impl Node {
    /// Runs a call here. Dropped, it leaves the queue, or ends the instance that it runs in.
    pub(super) async fn run_here(
        &self,
        callable: &Callable,
        call: &Call,
        deadline: Instant,
    ) -> Report {
        if self.inner.shutdown.is_cancelled() {
            return callable.not_begun(NotBegun::Ending, "the node ends");
        }
        let Ok(_room) = callable.room.try_acquire() else {
            let waiting = "too many calls wait for the function";
            return callable.not_begun(NotBegun::Busy, waiting);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = callable.timeout.min(left);
        let invocation = Invocation {
            frame: self.frame(callable, call, timeout).into(),
            batch_id: BATCH,
            records: 1,
            timeout,
            calling: callable.calling,
            is_risky: false,
            ends_with_caller: true,
            named: Named {
                invocation: call.invocation.as_str().into(),
                trace: call.trace.as_str().into(),
            },
        };
        match callable.pool.invoke(invocation).await {
            Ok(answer) => self.commit(callable, &answer).await,
            Err(failure) => not_answered(callable, failure),
        }
    }

    fn frame(&self, callable: &Callable, call: &Call, timeout: Duration) -> Vec<u8> {
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let now = bus::Timestamp::now().0;
        let name = call.function.rsplit('/').next().unwrap_or_default();
        let trigger = format!("{}:invoke", call.function);
        let context = Context {
            cluster: &self.inner.whole,
            function: name,
            revision: &callable.revision,
            trigger: &trigger,
            trace: &call.trace,
            deadline_ms: now.saturating_add(timeout_ms),
        };
        // A call lies in no topic; its own name is there, so that no two have one place.
        let table = [(call.invocation.as_str(), 0)];
        let mut frame = RequestBuilder::new(BATCH, frame::Order::None, &context, &table);
        frame.reserve(1, call.input.len());
        frame.push(0, 0, now, 1, None, Some(&call.input), &[], 0);
        frame.finish()
    }

    /// Makes the outputs durable; only then there is an answer.
    async fn commit(&self, callable: &Callable, answer: &Answer) -> Report {
        let bus = &*self.inner.bus;
        let outcome = match outputs::read(bus, &callable.allowed, &answer.frame, BATCH) {
            Err(failed) => failed,
            Ok(Made { value, appends }) if appends.is_empty() => Outcome::Answered(value),
            Ok(Made { value, appends }) => match bus.append(appends).await {
                Ok(_places) => Outcome::Answered(value),
                Err(error) => Outcome::InDoubt(format!("its outputs: {}", chain(&error))),
            },
        };
        Report {
            revision: callable.revision.to_string(),
            load: callable.load(),
            cold: answer.cold,
            queue_us: micros(answer.queue + answer.start),
            run_us: micros(answer.run),
            outcome,
        }
    }
}

fn not_answered(callable: &Callable, failure: Failure) -> Report {
    if failure.has_not_run() {
        let why = match failure.kind {
            FailureKind::Start => NotBegun::Start,
            _ => NotBegun::Busy,
        };
        return callable.not_begun(why, failure.message);
    }
    let outcome = match failure.kind {
        FailureKind::NoCapacity => Outcome::InDoubt(failure.message),
        kind => Outcome::Failed {
            code: failure.code().to_owned(),
            timed_out: kind == FailureKind::Timeout,
            message: failure.message,
        },
    };
    let (revision, load) = (callable.revision.to_string(), callable.load());
    Report { revision, load, cold: false, queue_us: 0, run_us: 0, outcome }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
