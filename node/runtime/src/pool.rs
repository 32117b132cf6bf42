//! The pool of one revision: carries out what [`slots`](crate::slots) decides, on the runtime of
//! its kind of instance, and measures queue, start and run.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};

use crate::invocation::CUT_OFF;
use crate::kind::{Called, Instance, Template};
use crate::metrics::PoolMetrics;
use crate::process::{guarded, resident_bytes};
use crate::slots::{Command, InstanceState, RequestId, SlotId, Slots, SlotsConfig};
use crate::{Answer, Failure, FailureKind, Invocation, Invoke, PoolStats};

/// How long a process may take, at least, from its answer to its question for more.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// When an instance is replaced by a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fresh {
    /// After every batch: nothing leaks from one batch to the next. Costs microseconds a batch.
    #[default]
    Batch,
    /// After every record. Costs microseconds a record.
    Record,
    /// Never, but for age, count and crashes.
    Never,
}

/// Settings of one pool.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The function's name, for metrics and log lines.
    pub name: String,
    /// What one instance may use, bytes.
    pub memory_bytes_max: usize,
    /// Instances kept ready.
    pub warm: u32,
    /// Instances at the same time.
    pub max: u32,
    /// How long an instance may take to start; what it does before its first record runs in it.
    pub start_max: Duration,
    /// How long an instance waits for work before it goes.
    pub idle_expiry: Duration,
    /// Batches that an instance runs before it is replaced.
    pub invocations_max: u64,
    /// How old an instance gets.
    pub age_max: Duration,
    /// When an instance is replaced.
    pub fresh: Fresh,
    /// The longest answer, bytes.
    pub answer_bytes_max: usize,
    /// Invocations that may wait for an instance.
    pub queue_max: usize,
    /// How long an invocation waits for an instance that runs, where those usually end sooner, before
    /// it starts another.
    pub patience: Duration,
}

impl PoolConfig {
    /// The defaults for a function of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            memory_bytes_max: 64 << 20,
            warm: 0,
            max: 8,
            start_max: Duration::from_secs(10),
            idle_expiry: Duration::from_secs(60),
            invocations_max: 100_000,
            age_max: Duration::from_secs(3_600),
            fresh: Fresh::Batch,
            answer_bytes_max: 16 << 20,
            queue_max: 100_000,
            patience: Duration::ZERO,
        }
    }
}

/// What is known of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceFigures {
    /// Its place, never reused within its pool.
    pub slot: SlotId,
    /// How it is.
    pub state: InstanceState,
    /// Since it was begun.
    pub age: Duration,
    /// Batches that it has run to their end.
    pub invocations: u64,
    /// Its process, where it has one.
    pub pid: Option<u32>,
    /// What that and all it started have in memory.
    pub memory_bytes: Option<u64>,
}

impl InstanceFigures {
    /// How people call it.
    #[must_use]
    pub fn name(&self) -> String {
        instance_name(self.slot.0)
    }
}

/// How people call the instance of this slot.
#[must_use]
pub fn instance_name(slot: u64) -> String {
    format!("i-{slot}")
}

/// A pool. Cheap when idle: no thread, no task, no timer of its own.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    template: Template,
    config: PoolConfig,
    metrics: PoolMetrics,
    inner: Mutex<Inner>,
    quiet: Notify,
    started: AtomicU64,
    ended: AtomicU64,
    guests: tokio::runtime::Handle,
}

#[derive(Debug)]
struct Inner {
    slots: Slots,
    instances: HashMap<SlotId, Instance>,
    /// Of those that are processes, busy ones too.
    guardians: HashMap<SlotId, Arc<OnceLock<u32>>>,
    waiting: HashMap<RequestId, Request>,
    next_request: u64,
}

/// An invocation that waits for an instance, or runs in one.
#[derive(Debug)]
struct Request {
    invocation: Invocation,
    asked_at: Instant,
    reply: Reply,
}

/// Where its answer goes. Whoever waits there hears of it whatever happens.
#[derive(Debug)]
struct Reply(Option<oneshot::Sender<Result<Answer, Failure>>>);

impl Reply {
    /// Whoever asked may have gone.
    fn send(mut self, result: Result<Answer, Failure>) {
        drop(self.0.take().map(|reply| reply.send(result)));
    }

    /// Comes back when nobody waits for it any more.
    async fn unwanted(&mut self) {
        match &mut self.0 {
            Some(reply) => reply.closed().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Some(reply) = self.0.take() else { return };
        // Cancelled: the engine was dropped, which is no fault of the batch.
        let is_crash = std::thread::panicking();
        let kind = if is_crash { FailureKind::Crash } else { FailureKind::NoCapacity };
        let failure = Failure::new(kind, "the invocation's task ended");
        drop(reply.send(Err(if is_crash { failure } else { failure.named(CUT_OFF) })));
    }
}

/// A slot to run in; given back when it is dropped, whatever happened.
#[derive(Debug)]
struct Granted {
    shared: Arc<Shared>,
    slot: SlotId,
    instance: Option<Instance>,
    cold: bool,
    keep: bool,
    /// Given back already.
    done: bool,
}

impl Granted {
    /// Gives the slot back; what its task is to run next, if something waits: a task less to wake
    /// on the way from one invocation to the next.
    fn give_back(&mut self) -> Option<(Self, Request)> {
        self.done = true;
        // What is not kept ends before others wait for the lock.
        let instance = self.instance.take().filter(|_| self.keep);
        let keep = instance.is_some();
        let mut inner = self.shared.inner();
        inner.instances.extend(instance.map(|it| (self.slot, it)));
        inner.slots.on_finished(Instant::now(), self.slot, keep);
        let next = self.shared.carry_out_but_one(inner);
        self.shared.ended.fetch_add(1, Ordering::Relaxed);
        self.shared.quiet.notify_waiters();
        next
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if !std::thread::panicking() {
            // Its task was cancelled: the engine is gone, and nothing that waits can run.
            self.shared.inner().slots.on_drain(Instant::now());
        }
        // Else it ended here alone, and what waits goes on in a task of its own.
        if let Some((granted, request)) = self.give_back() {
            self.shared.spawn(granted, request);
        }
    }
}

/// A place in the queue; left when whoever asked goes before it is called.
struct Place<'a> {
    shared: &'a Shared,
    request: RequestId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = self.shared.inner();
        if inner.waiting.remove(&self.request).is_some() {
            inner.slots.on_cancelled(self.request);
        }
    }
}

impl Pool {
    pub(crate) fn new(
        template: Template,
        config: PoolConfig,
        guests: tokio::runtime::Handle,
    ) -> Self {
        let invocations_max = match config.fresh {
            Fresh::Batch | Fresh::Record => 1,
            Fresh::Never => config.invocations_max,
        };
        let slots = Slots::new(SlotsConfig {
            warm: config.warm,
            max: config.max,
            queue_max: config.queue_max,
            idle_expiry: config.idle_expiry,
            invocations_max,
            age_max: config.age_max,
            // Nobody can wait for an instance that ends with its run.
            patience: if invocations_max == 1 { Duration::ZERO } else { config.patience },
        });
        let (instances, guardians) = (HashMap::new(), HashMap::new());
        let inner = Inner { slots, instances, guardians, waiting: HashMap::new(), next_request: 0 };
        let shared = Arc::new(Shared {
            metrics: PoolMetrics::new(&config.name),
            template,
            config,
            inner: Mutex::new(inner),
            quiet: Notify::new(),
            started: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            guests,
        });
        shared.on_time(Instant::now());
        Self { shared }
    }

    /// Starts one instance and keeps it ready for the first invocation: whether the revision can
    /// start at all.
    ///
    /// # Errors
    ///
    /// What the start ended with.
    pub async fn try_start(&self) -> Result<(), Failure> {
        let shared = &self.shared;
        let Some(slot) = shared.inner().slots.on_try(Instant::now()) else { return Ok(()) };
        let started = shared.start().await;
        shared.prepared(slot, started)
    }

    /// The instances that there are now, the oldest first. Reads `/proc` for each process.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceFigures> {
        let now = Instant::now();
        let taken: Vec<_> = {
            let inner = self.shared.inner();
            let guardian = |slot: &SlotId| inner.guardians.get(slot)?.get().copied();
            inner.slots.taken().map(|it| (it, guardian(&it.0))).collect()
        };
        let figures = |((slot, state, since, invocations), guardian): (_, Option<u32>)| {
            let age = now.saturating_duration_since(since);
            let (pid, memory_bytes) =
                (guardian.and_then(guarded), guardian.and_then(resident_bytes));
            InstanceFigures { slot, state, age, invocations, pid, memory_bytes }
        };
        taken.into_iter().map(figures).collect()
    }

    /// There is work for so many instances, as whoever knows what waits outside of the pool says, and
    /// what comes just now keeps `needed` of them busy.
    pub fn want(&self, instances: u32, needed: u32) {
        let mut inner = self.shared.inner();
        inner.slots.on_wanted(Instant::now(), instances, needed);
        self.shared.carry_out(inner);
    }

    /// From now on it keeps so many instances ready, and may have so many: what is over goes, the idle
    /// ones at once.
    pub fn limit(&self, warm: u32, max: u32) {
        let mut inner = self.shared.inner();
        inner.slots.on_limits(Instant::now(), warm, max);
        self.shared.carry_out(inner);
    }

    /// Takes no more invocations, lets those that run end, and ends idle instances.
    pub async fn drain(&self) {
        loop {
            let quiet = self.shared.quiet.notified();
            tokio::pin!(quiet);
            quiet.as_mut().enable();
            {
                let mut inner = self.shared.inner();
                inner.slots.on_drain(Instant::now());
                let is_quiet = inner.slots.is_quiet();
                self.shared.carry_out(inner);
                if is_quiet {
                    return;
                }
            }
            quiet.await;
        }
    }
}

#[async_trait]
impl Invoke for Pool {
    async fn invoke(&self, invocation: Invocation) -> Result<Answer, Failure> {
        let (reply, mut answer) = oneshot::channel();
        let place = {
            let asked_at = Instant::now();
            let mut inner = self.shared.inner();
            let request = RequestId(inner.next_request);
            inner.next_request += 1;
            let is_risky = invocation.is_risky;
            let waiting = Request { invocation, asked_at, reply: Reply(Some(reply)) };
            inner.waiting.insert(request, waiting);
            if is_risky {
                inner.slots.on_risky(asked_at, request);
            } else {
                inner.slots.on_request(asked_at, request);
            }
            self.shared.carry_out(inner);
            Place { shared: &self.shared, request }
        };
        let patience = self.shared.config.patience;
        let early = match patience {
            Duration::ZERO => None,
            _ => tokio::time::timeout(patience, &mut answer).await.ok(),
        };
        let answer = match early {
            Some(answer) => answer,
            None => {
                if !patience.is_zero() {
                    self.shared.on_time(Instant::now());
                }
                answer.await
            }
        };
        // It has left the queue, one way or the other.
        std::mem::forget(place);
        answer.unwrap_or_else(|_gone| unreachable!("a reply is sent, at the latest when it goes"))
    }

    fn stats(&self) -> PoolStats {
        let ((idle, busy, queued), max) = {
            let inner = self.shared.inner();
            (inner.slots.counts(), inner.slots.max())
        };
        let started = self.shared.started.load(Ordering::Relaxed);
        let ended = self.shared.ended.load(Ordering::Relaxed);
        let starts_fast = matches!(self.shared.template, Template::Wasm(_));
        PoolStats { idle, busy, queued, started, ended, max, starts_fast }
    }
}

/// An answer that is not told yet; told at the latest when it is dropped.
struct Untold(Option<(Reply, Result<Answer, Failure>)>);

impl Untold {
    fn tell(&mut self) {
        if let Some((reply, result)) = self.0.take() {
            reply.send(result);
        }
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Runs invocations on the guests' runtime, one after the other while some wait.
async fn run(mut granted: Granted, mut request: Request) {
    let mut before = Untold(None);
    loop {
        let Request { invocation, asked_at, mut reply } = request;
        let (result, instance) = {
            let mut called = pin!(call(&mut granted, &invocation, asked_at.elapsed()));
            let mut early = None;
            if before.0.is_some() {
                // The process gets its event first. Whoever hears of the answer before it works in
                // the time in which the process does, on this thread, which has nothing to do.
                early = poll_once(called.as_mut()).await;
                tokio::task::yield_now().await;
                before.tell();
            }
            match early {
                Some(early) => early,
                None if invocation.ends_with_caller => tokio::select! {
                    biased;
                    called = called.as_mut() => called,
                    // The instance goes with the call: nobody knows what it is in the middle of.
                    () = reply.unwanted() => {
                        let failure = Failure::new(FailureKind::NoCapacity, "nobody waits for it");
                        (Err(failure.named(CUT_OFF)), None)
                    }
                },
                None => called.await,
            }
        };
        let next = match instance {
            Some(mut instance) if granted.keep && !instance.is_free() => {
                let run = result.as_ref().map_or(Duration::ZERO, |answer| answer.run);
                let patience = invocation.timeout.saturating_sub(run).max(PATIENCE_MIN);
                // The caller has its answer; the slot waits until the process asks for more.
                reply.send(result);
                granted.keep = instance.freed(patience).await;
                granted.instance = Some(instance);
                granted.give_back()
            }
            instance => {
                let runs_elsewhere = matches!(instance, Some(Instance::Process(_)));
                granted.instance = instance;
                let next = granted.give_back();
                before = Untold(Some((reply, result)));
                if next.is_none() || !runs_elsewhere {
                    before.tell();
                }
                next
            }
        };
        match next {
            Some(next) => (granted, request) = next,
            None => return,
        }
    }
}

/// What a future comes to at once, if anything; it is polled again where it is awaited.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Runs one invocation to its end, and says whether its instance is of use; it comes back unless
/// it could not be started.
async fn call(
    granted: &mut Granted,
    invocation: &Invocation,
    queue: Duration,
) -> (Result<Answer, Failure>, Option<Instance>) {
    let shared = Arc::clone(&granted.shared);
    let (mut cold, mut start) = (granted.cold, Duration::ZERO);
    // An idle process may have ended by itself: nobody is charged for it.
    let mut instance = granted.instance.take().filter(Instance::is_alive);
    let (run_at, called, instance) = loop {
        let mut ready = match instance.take() {
            Some(instance) => instance,
            None => {
                let started_at = Instant::now();
                let instance = match shared.start().await {
                    Ok(instance) => instance,
                    Err(failure) => return (Err(failure), None),
                };
                shared.watch(granted.slot, &instance);
                (cold, start) = (true, started_at.elapsed());
                shared.metrics.cold_starts.increment(1);
                shared.metrics.start_seconds.record(start.as_secs_f64());
                instance
            }
        };
        let run_at = Instant::now();
        match ready.call(&shared.template, invocation, &shared.config).await {
            Called::Gone if !cold => {}
            called => break (run_at, called, ready),
        }
    };
    let run = run_at.elapsed();
    shared.metrics.queue_seconds.record(queue.as_secs_f64());
    shared.metrics.run_seconds.record(run.as_secs_f64());
    let (result, usable) = match called {
        Called::Ended { result, usable } => (result, usable),
        Called::Gone => {
            let message = "the process ended before it took its first invocation";
            (Err(Failure::new(FailureKind::Start, message)), false)
        }
    };
    granted.keep = usable && shared.config.fresh == Fresh::Never;
    let at = granted.slot.0;
    (result.map(|frame| Answer { frame, cold, queue, start, run, slot: at }), Some(instance))
}

/// Pools that are told the time: expiry and warm instances are nobody else's business.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pools {
    all: Arc<Mutex<Vec<Weak<Shared>>>>,
}

impl Pools {
    pub(crate) fn add(&self, pool: &Pool) {
        let mut all = self.all.lock().expect("nothing panics while holding it");
        all.retain(|pool| 0 < pool.strong_count());
        all.push(Arc::downgrade(&pool.shared));
    }

    pub(crate) fn on_time(&self, now: Instant) {
        let all = self.all.lock().expect("nothing panics while holding it").clone();
        all.iter().filter_map(Weak::upgrade).for_each(|pool| pool.on_time(now));
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while holding it")
    }

    async fn start(&self) -> Result<Instance, Failure> {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.template.start().await
    }

    /// Remembers which process an instance is.
    fn watch(&self, slot: SlotId, instance: &Instance) {
        if let Some(guardian) = instance.guardian() {
            self.inner().guardians.insert(slot, guardian);
        }
    }

    /// An instance that was started ahead of need is there, or is not.
    fn prepared(
        self: &Arc<Self>,
        slot: SlotId,
        started: Result<Instance, Failure>,
    ) -> Result<(), Failure> {
        if let Ok(instance) = &started {
            self.watch(slot, instance);
        }
        let mut inner = self.inner();
        let (instance, result) = match started {
            Ok(instance) => (Some(instance), Ok(())),
            Err(failure) => (None, Err(failure)),
        };
        inner.instances.extend(instance.map(|it| (slot, it)));
        inner.slots.on_prepared(Instant::now(), slot, result.is_ok());
        self.carry_out(inner);
        self.quiet.notify_waiters();
        result
    }

    /// Expires and prepares; the engine calls it now and then.
    pub(crate) fn on_time(self: &Arc<Self>, now: Instant) {
        let mut inner = self.inner();
        inner.slots.on_timeout(now);
        self.carry_out(inner);
    }

    fn spawn(&self, granted: Granted, request: Request) {
        drop(self.guests.spawn(run(granted, request)));
    }

    fn carry_out(self: &Arc<Self>, inner: MutexGuard<'_, Inner>) {
        if let Some((granted, request)) = self.carry_out_but_one(inner) {
            self.spawn(granted, request);
        }
    }

    /// Carries out what is decided, but for the first invocation that is to run.
    fn carry_out_but_one(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
    ) -> Option<(Granted, Request)> {
        let (mut first, mut others) = (None, Vec::new());
        while let Some(command) = inner.slots.poll_command() {
            match command {
                Command::Run { slot, request, cold } => {
                    let request = inner.waiting.remove(&request);
                    let request = request.expect("who goes takes its place in the queue along");
                    let instance = inner.instances.remove(&slot);
                    let shared = Arc::clone(self);
                    let granted = Granted { shared, slot, instance, cold, keep: true, done: false };
                    match first {
                        None => first = Some((granted, request)),
                        Some(_) => others.push((granted, request)),
                    }
                }
                Command::Prepare(slot) => {
                    let shared = Arc::clone(self);
                    drop(self.guests.spawn(async move {
                        let started = shared.start().await;
                        if let Err(failure) = shared.prepared(slot, started) {
                            let function = &shared.config.name;
                            tracing::warn!(%function, %failure, "could not start a warm instance");
                        }
                    }));
                }
                Command::Retire(slot) => {
                    inner.guardians.remove(&slot);
                    drop(inner.instances.remove(&slot));
                }
                Command::Refuse(request) => {
                    if let Some(request) = inner.waiting.remove(&request) {
                        let message = "every instance is busy and the queue is full";
                        let failure = Failure::new(FailureKind::NoCapacity, message);
                        request.reply.send(Err(failure));
                    }
                }
            }
        }
        drop(inner);
        // A runtime that has shut down drops a task at once, and with it what it was granted.
        for (granted, request) in others {
            self.spawn(granted, request);
        }
        first
    }
}
