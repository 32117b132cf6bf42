//! The shell of a shard: fetches, runs, gathers and commits what [`ShardDispatch`] decides, one
//! task per shard. Batches cross every border; nothing here is done per record but copying it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bus::{
    Appended, Bus, Epoch, Fetched, Offset, Reader, ShardId, Start, Timestamp, TopicPartition,
};
use bytes::Bytes;
use filter::Filter;
use frame::{Context, RequestBuilder};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use runtime::{Answer, Calling, Failure, Invocation, Invoke, Named};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::sleep_until;

use crate::destination::Destinations;
use crate::gather::{Gathering, OUTPUT_TOO_LARGE, Routes, Unusable};
use crate::history::Noted;
use crate::metrics::ShardMetrics;
use crate::noting::Noting;
use crate::park_topic::{Loader, Parker};
use crate::read_ahead::{ReadAhead, Share};
use crate::start::Told;
use crate::stats::StatsKeeper;
use crate::tracer::{Tracer, Traces};
use crate::{
    Blame, Command, CommitFailure, CommitId, DispatchConfig, InvocationId, Legacy, Loaded, Order,
    Outcome, ShardDispatch, Standing, StopReason, Turn, Unwanted, Wanted,
};

/// Who a shard is, and what it does with records.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Its identity at the bus.
    pub shard: ShardId,
    /// The assignment.
    pub epoch: Epoch,
    /// For the function's context.
    pub cluster: Arc<str>,
    /// The function's name.
    pub function: Arc<str>,
    /// The trigger: app/function/name.
    pub trigger: Arc<str>,
    /// What it reads.
    pub partitions: Vec<TopicPartition>,
    /// Where it starts in a partition without a position.
    pub start: Start,
    /// Order, batches, retry, window.
    pub dispatch: DispatchConfig,
    /// What a record has to be for the function to get it; all of them without.
    pub filter: Option<Arc<Filter>>,
    /// Where outputs go that choose no topic.
    pub output_topic: Option<Arc<str>>,
    /// Topics that an output may choose.
    pub allow_produce: Vec<Arc<str>>,
    /// Where records go that are given up.
    pub dead_letter: Arc<str>,
    /// Where it tells what became of records that have their end.
    pub destinations: Destinations,
    /// Where records wait that are parked, if they are: a compacted topic of the trigger's own.
    pub park_topic: Option<Arc<str>>,
    /// Where it tells what became of records, if it does: see [`history`](crate::history).
    pub history_topic: Option<Arc<str>>,
    /// How long one invocation may run.
    pub timeout: Duration,
    /// What it shares with the other shards of the node.
    pub read_ahead: Arc<ReadAhead>,
    /// Shared by all shards of the node: whoever runs what may have ended one takes a permit, or all.
    pub turns: Arc<Semaphore>,
    /// How the handler is called.
    pub calling: Calling,
    /// Whether it starts paused.
    pub paused: bool,
    /// Set where records that ran before run again, to be looked at.
    pub replay: Option<Replay>,
    /// Whether its batches are traced, and where their spans go.
    pub traces: Option<Traces>,
}

/// What a shard is held to that repeats what was.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Where all outputs go, whatever topic they choose.
    pub into: Arc<str>,
    /// By partition, one past the last record that runs.
    pub until: Vec<Offset>,
}

/// A revision of the function, ready to run.
#[derive(Clone, Debug)]
pub struct Revision {
    name: Arc<str>,
    invoke: Arc<dyn Invoke>,
    /// Frames that may exist at once, of all shards.
    frames: Arc<Semaphore>,
}

impl Revision {
    /// A revision by its name, as outputs carry it, and its worker pool of `instances_max`. A batch
    /// gets its frame when its turn is near: as many frames again as there are instances may
    /// wait, whatever the number of shards.
    pub fn new(name: impl Into<Arc<str>>, invoke: Arc<dyn Invoke>, instances_max: usize) -> Self {
        let frames = Arc::new(Semaphore::new(2 * instances_max.max(1)));
        Self { name: name.into(), invoke, frames }
    }
}

/// What comes back to the driver. At most one per invocation and commit in flight, and the core
/// bounds those.
enum Report {
    /// There is room for the frame of an invocation.
    Turn(InvocationId, Revision, OwnedSemaphorePermit),
    /// With how long it took.
    Ended(InvocationId, Arc<str>, Result<Answer, Failure>, Duration),
    /// With where the commit's batches lie.
    Committed(CommitId, Result<Vec<Appended>, bus::Error>),
    Loaded(Loader, Result<Vec<Loaded>, bus::Error>),
}

/// How does this record stand?
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) partition: TopicPartition,
    pub(crate) offset: Offset,
    pub(crate) answer: oneshot::Sender<Option<Standing>>,
}

/// An answer until its records are gathered.
struct Held {
    frame: Bytes,
    records: usize,
    revision: Arc<str>,
}

/// How often a shard at work looks how far it is behind.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a message says beside its record and outputs, about.
const MESSAGE_BYTES: usize = 1_024;

/// As many shards as may run what may have ended a node, unless one does so alone.
pub const TURNS: usize = 1 << 16;

/// Waits for a turn.
async fn turn(turns: &Arc<Semaphore>, wanted: Option<Turn>) -> Option<OwnedSemaphorePermit> {
    let permits = match wanted? {
        Turn::Shared => 1,
        Turn::Alone => TURNS as u32,
    };
    Arc::clone(turns).acquire_many_owned(permits).await.ok()
}

pub(crate) struct Driver {
    config: ShardConfig,
    bus: Arc<dyn Bus>,
    core: ShardDispatch,
    revisions: watch::Receiver<Revision>,
    routes: Routes,
    gathering: Gathering,
    answers: BTreeMap<InvocationId, Held>,
    /// The commit in flight, for when it must be tried again.
    sent: Option<bus::Commit>,
    /// Invocations that wait or run, in this task: a task of their own would be woken, and wake
    /// this one, for every answer.
    invoked: FuturesUnordered<BoxFuture<'static, Report>>,
    reports: mpsc::UnboundedSender<Report>,
    reported: mpsc::UnboundedReceiver<Report>,
    stats: Arc<Mutex<StatsKeeper>>,
    metrics: ShardMetrics,
    share: Share,
    turn: Option<OwnedSemaphorePermit>,
    tracer: Tracer,
    park_place: Option<TopicPartition>,
    noting: Noting,
    /// Reads parked records back; away while it does.
    loader: Option<Loader>,
    /// Drained or stopped.
    over: bool,
}

impl Driver {
    pub(crate) fn new(
        bus: Arc<dyn Bus>,
        config: ShardConfig,
        core: ShardDispatch,
        park_place: Option<TopicPartition>,
        revisions: watch::Receiver<Revision>,
        stats: Arc<Mutex<StatsKeeper>>,
    ) -> Self {
        let loader = park_place.clone();
        let loader = loader.map(|place| Loader::new(Arc::clone(&bus), place, &config));
        let parker = park_place.clone().map(|place| Parker::new(&config, place));
        let (reports, reported) = mpsc::unbounded_channel();
        Self {
            metrics: ShardMetrics::new(&config.function, &config.trigger),
            routes: Routes::new(&config),
            gathering: Gathering::new(&config).with_parker(parker),
            noting: Noting::new(Arc::clone(&bus), &config),
            park_place,
            loader,
            share: Share::new(Arc::clone(&config.read_ahead)),
            turn: None,
            tracer: Tracer::new(&config),
            config,
            bus,
            core,
            revisions,
            answers: BTreeMap::new(),
            sent: None,
            invoked: FuturesUnordered::new(),
            reports,
            reported,
            stats,
            over: false,
        }
    }

    /// Works until the shard is drained or stops, and tells what it leaves where it has ended in order.
    pub(crate) async fn run(
        mut self,
        legacy: Arc<OnceLock<Legacy>>,
        mut reader: Box<dyn Reader>,
        told: Told,
    ) {
        let Told { mut draining, mut paused, width: mut widths, mut asked } = told;
        self.core.on_width(Instant::now(), *widths.borrow_and_update());
        if *paused.borrow_and_update() {
            self.core.on_pause(Instant::now());
        }
        let (mut look_at, mut behind) = (Instant::now(), 0);
        loop {
            let over = self.over | self.follow();
            self.note();
            if over {
                let left = self.park_place.as_ref().and_then(|_| self.core.legacy());
                // It ends once.
                left.map(|left| legacy.set(left));
                return self.noting.end().await;
            }
            if !self.core.has_turn() {
                self.turn = None;
            }
            let wants_turn = self.core.wants_turn();
            if self.turn.is_some() && wants_turn.is_some() {
                self.core.on_turn(Instant::now());
                continue;
            }
            let due_at = self.core.next_timeout();
            let note_at = self.noting.due_at();
            let room = self.share.hold(self.core.held_bytes());
            let wanted = self.core.fetch_bytes(room);
            if look_at <= Instant::now() {
                look_at = Instant::now() + LOOK_EVERY;
                behind = reader.behind();
                self.keeper(|stats| stats.set_behind(behind));
            }
            // Nothing that is fetched wakes this task, or what was last seen is not so any more.
            let is_full = wanted == 0 && 0 < self.core.open_records();
            let looks = (is_full || 0 < behind) && !*paused.borrow();
            tokio::select! {
                biased;
                Some(report) = self.reported.recv() => self.on_reports(report),
                Some(report) = self.invoked.next(), if !self.invoked.is_empty() => {
                    self.on_reports(report);
                }
                _changed = draining.changed() => self.core.on_drain(Instant::now()),
                Ok(()) = paused.changed() => {
                    let (is_paused, now) = (*paused.borrow_and_update(), Instant::now());
                    if is_paused { self.core.on_pause(now) } else { self.core.on_resume(now) }
                }
                permit = turn(&self.config.turns, wants_turn), if wants_turn.is_some() => {
                    if wants_turn == Some(Turn::Alone) {
                        let (trigger, shard) = (&self.config.trigger, self.config.shard);
                        tracing::warn!(
                            %trigger,
                            %shard,
                            "runs records alone that may have ended the node"
                        );
                    }
                    self.turn = permit;
                    self.core.on_turn(Instant::now());
                }
                () = sleep_until(due_at.unwrap_or_else(Instant::now).into()), if due_at.is_some() => {
                    self.core.on_timeout(Instant::now());
                }
                Ok(()) = widths.changed() => {
                    self.core.on_width(Instant::now(), *widths.borrow_and_update());
                }
                Some(question) = asked.recv() => self.answer(question),
                () = sleep_until(look_at.into()), if looks => {}
                () = sleep_until(note_at.unwrap_or_else(Instant::now).into()), if note_at.is_some() => {
                    self.noting.flush();
                }
                fetched = reader.fetch(wanted), if 0 < wanted => self.on_fetched(fetched),
            }
        }
    }

    fn on_fetched(&mut self, fetched: Result<Vec<Fetched>, bus::Error>) {
        match fetched {
            Ok(batches) => {
                let now = Instant::now();
                for Fetched { partition, batch } in batches {
                    let index = self.config.partitions.iter().position(|it| *it == partition);
                    let index = index.expect("a reader gives what was assigned");
                    let until = self.config.replay.as_ref().map(|it| it.until[index]);
                    if until.is_some_and(|until| until <= batch.first_offset()) {
                        continue;
                    }
                    let filter = self.config.filter.as_deref();
                    let unwanted = Unwanted::by(filter, until, &partition, &batch);
                    self.noting.filtered(now, index as u32, &batch, unwanted.as_ref());
                    self.core.on_filtered(now, index as u32, batch, unwanted);
                }
            }
            Err(error) => self.core.on_stop(StopReason::of(&error)),
        }
    }

    /// What came meanwhile goes into the same commit.
    fn on_reports(&mut self, first: Report) {
        let mut next = Some(first);
        while let Some(report) = next {
            self.on_report(report);
            next = match self.reported.try_recv() {
                Ok(report) => Some(report),
                Err(_none_yet) => self.invoked.next().now_or_never().flatten(),
            };
        }
    }

    fn on_report(&mut self, report: Report) {
        let now = Instant::now();
        match report {
            Report::Turn(id, revision, room) => self.run_batch(id, revision, room),
            Report::Ended(id, revision, result, took) => {
                self.noting.ended(now, id, &revision, &result, took);
                self.tracer.answered(id, result.as_ref().ok());
                let outcome = self.outcome(id, Arc::clone(&revision), result);
                self.noting.outcome(&self.core, id, &outcome);
                self.tracer.end(id, &revision, &outcome);
                self.core.on_outcome(now, id, outcome);
                self.over |= self.follow();
                self.noting.carried_out();
                self.answers.remove(&id);
                self.tracer.forget(id);
            }
            Report::Committed(id, Ok(appended)) => {
                let sent = self.sent.take().map_or_else(Vec::new, |sent| sent.appends);
                self.gathering.committed(&sent);
                let parked = sent.iter().rposition(|it| self.park_place.as_ref() == Some(&it.to));
                let parked_at = parked.and_then(|at| appended.get(at)).map(|it| it.base);
                self.noting.committed(now, id, &sent, &appended);
                self.core.on_committed(now, id, parked_at);
                self.over |= self.follow();
            }
            Report::Loaded(loader, Ok(loaded)) => {
                self.loader = Some(loader);
                self.core.on_loaded(now, loaded);
            }
            Report::Loaded(_, Err(error)) => self.core.on_stop(StopReason::of(&error)),
            Report::Committed(id, Err(error)) => self.on_commit_failed(now, id, &error),
        }
    }

    fn on_commit_failed(&mut self, now: Instant, id: CommitId, error: &bus::Error) {
        if self.give_up_outputs(id, error) {
            return;
        }
        // An output topic that is gone may be made again, and nothing of it was read: what is to
        // go there waits. An input topic is another matter.
        let is_output = |topic: &str| !self.config.partitions.iter().any(|it| *it.topic == *topic);
        let waits = match error {
            bus::Error::UnknownTopic { topic } => is_output(topic),
            // Said of a topic that is just going, too; one that has fewer is no use to wait for.
            bus::Error::UnknownPartition(place) => {
                let there = self.bus.topic(&place.topic).map(|info| info.spec.partitions);
                is_output(&place.topic) && there.is_none_or(|there| place.partition < there)
            }
            error => error.is_retryable(),
        };
        let reason = StopReason::of(error);
        let failure = if waits {
            let (code, message) = (reason.code().to_owned(), reason.to_string());
            CommitFailure::Retryable { code, message }
        } else {
            CommitFailure::Final(reason)
        };
        self.core.on_commit_failed(now, id, failure);
    }

    /// Outputs that were within their topic's limit when the function gave them, and are over the
    /// one it has now: each costs its own record, which becomes a dead letter, and the rest of the
    /// commit is sent again. `false` when that is not what the commit failed for.
    fn give_up_outputs(&mut self, id: CommitId, error: &bus::Error) -> bool {
        let bus::Error::TooLarge { partition, bytes, limit_bytes } = error else { return false };
        let Some(commit) = &self.sent else { return false };
        if let Some(commit) = self.gathering.shortened(commit, partition, *limit_bytes) {
            self.sent = Some(commit.clone());
            self.send(id, commit);
            return true;
        }
        let sources = self.gathering.over_limit(commit, partition, *limit_bytes);
        let topic = &partition.topic;
        let message = format!("an output of {bytes} bytes; {topic} takes {limit_bytes}");
        let letters = self.core.on_outputs_refused(id, &sources, OUTPUT_TOO_LARGE, &message);
        if letters.is_empty() {
            return false;
        }
        let revision = Arc::clone(&self.revisions.borrow().name);
        let (bus, core) = (self.bus.as_ref(), &self.core);
        let named = letters.into_iter().map(|it| (self.noting.sent_by(core, &it), it));
        let letters: Vec<_> = named.map(|(by, it)| (it, by)).collect();
        let mut commit = self.gathering.replace(bus, core, commit, &sources, &letters, &revision);
        self.noting.replaced(id, core, &self.gathering, &letters, &mut commit);
        self.keeper(|stats| stats.failed(OUTPUT_TOO_LARGE.to_owned(), message));
        self.sent = Some(commit.clone());
        self.send(id, commit);
        true
    }

    /// Reads an answer: how every record ended, and which outputs are refused.
    fn outcome(
        &mut self,
        id: InvocationId,
        revision: Arc<str>,
        result: Result<Answer, Failure>,
    ) -> Outcome {
        let records = self.core.records(id).len();
        let answer = match result {
            Ok(answer) => answer,
            Err(failure) => {
                let blame = if failure.kind.is_charged() { Blame::Batch } else { Blame::Nobody };
                let code = failure.code().to_owned();
                return self.failed(blame, code, failure.message);
            }
        };
        self.keeper(|stats| stats.ran(answer.run, records, answer.cold));
        let has_key = |index: usize| {
            let record = self.core.records(id).get(index);
            record.is_some_and(|record| self.core.record(*record).view.key.is_some())
        };
        let bus = self.bus.as_ref();
        let read = self.routes.exceptions(bus, &answer.frame, id, records, has_key);
        match read {
            Ok(exceptions) => {
                if let Some((code, message)) = exceptions.iter().find_map(|(_, end)| end.failure())
                {
                    let (code, message) = (code.to_owned(), message.to_owned());
                    self.keeper(|stats| stats.failed(code, message));
                }
                let output_bytes = answer.frame.len() + self.told_bytes(id, answer.frame.len());
                self.answers.insert(id, Held { frame: answer.frame, records, revision });
                Outcome::Ended { exceptions, output_bytes }
            }
            Err(Unusable::Broken(reason)) => {
                let code = runtime::FailureKind::BrokenAnswer.code().to_owned();
                self.failed(Blame::Batch, code, reason.to_string())
            }
            Err(Unusable::TopicGone(reason)) => {
                self.failed(Blame::Nobody, reason.code().to_owned(), reason.to_string())
            }
        }
    }

    /// About how much the messages about an answer take until they are committed.
    fn told_bytes(&self, id: InvocationId, answer: usize) -> usize {
        if !self.gathering.tells_successes() {
            return 0;
        }
        let records = self.core.records(id).iter();
        let bytes = records.map(|it| MESSAGE_BYTES + self.core.record(*it).view.payload_bytes());
        // In base64.
        (answer + bytes.sum::<usize>()) / 3 * 4
    }

    fn failed(&self, blame: Blame, code: String, message: String) -> Outcome {
        self.keeper(|stats| stats.failed(code.clone(), message.clone()));
        Outcome::Failed { blame, code, message }
    }

    /// Carries out what the core decided; true when the shard is over.
    fn follow(&mut self) -> bool {
        while let Some(command) = self.core.poll_command() {
            match command {
                Command::Invoke { id, .. } => self.invoke(id),
                Command::Gather { id, kept } => {
                    let held = self.answers.get(&id).expect("an answer is held until it is read");
                    let (frame, revision) = (held.frame.clone(), Arc::clone(&held.revision));
                    let answer = frame::Response::parse_again(&frame, id.0, held.records)
                        .expect("it was checked when it came");
                    let (bus, core) = (self.bus.as_ref(), &self.core);
                    let carried = self.tracer.carried(id);
                    self.gathering.outputs(bus, core, &answer, &kept, &revision, carried);
                    if self.gathering.tells_successes() {
                        let by = self.noting.named(id);
                        let by = (&*revision, &*by);
                        self.gathering.successes(bus, core, &answer, &kept, by, carried);
                    }
                    self.noting.kept(core, &kept);
                }
                Command::DeadLetter(letter) => {
                    let revision = Arc::clone(&self.revisions.borrow().name);
                    let by = self.noting.dead(&self.core, &self.gathering, &letter);
                    let (bus, by) = (self.bus.as_ref(), (&*revision, by.as_deref()));
                    self.gathering.dead_letter(bus, &self.core, &letter, by);
                }
                Command::Park(park) => {
                    // That it is about to run is no news of it.
                    if park.ended == 0 {
                        self.noting.parked(&self.core, &park);
                    }
                    self.gathering.park(&self.core, &park);
                }
                Command::Unpark(record) => self.gathering.unpark(&self.core, record),
                Command::Load(wanted) => self.load(wanted),
                Command::Commit { id, positions, .. } => {
                    let mut commit = self.gathering.commit(positions);
                    self.noting.commit(id, &mut commit);
                    self.sent = Some(commit.clone());
                    self.send(id, commit);
                }
                Command::CommitAgain { id } => {
                    let sent = self.sent.as_mut().expect("the commit in flight is kept");
                    self.noting.again(sent);
                    let commit = sent.clone();
                    self.send(id, commit);
                }
                Command::Drained => return true,
                Command::Stop(reason) => {
                    tracing::error!(
                        shard = %self.config.shard, trigger = %self.config.trigger,
                        code = reason.code(), %reason, "the shard stopped"
                    );
                    self.keeper(|stats| stats.failed(reason.code().to_owned(), reason.to_string()));
                    return true;
                }
            }
        }
        matches!(self.core.state(), crate::State::Stopped(_))
    }

    fn send(&self, id: CommitId, commit: bus::Commit) {
        let (bus, reports) = (Arc::clone(&self.bus), self.reports.clone());
        let (seconds, sent_at) = (self.metrics.commit_seconds.clone(), Instant::now());
        drop(tokio::spawn(async move {
            let result = bus.commit(commit).await;
            seconds.record(sent_at.elapsed());
            // A driver that is gone needs no report.
            drop(reports.send(Report::Committed(id, result)));
        }));
    }

    fn load(&mut self, wanted: Vec<Wanted>) {
        let mut loader = self.loader.take().expect("one is in flight at a time");
        let reports = self.reports.clone();
        drop(tokio::spawn(async move {
            let loaded = tokio::select! {
                loaded = loader.load(&wanted) => loaded,
                () = reports.closed() => return,
            };
            drop(reports.send(Report::Loaded(loader, loaded)));
        }));
    }

    fn invoke(&mut self, id: InvocationId) {
        let revision = self.revisions.borrow().clone();
        let frames = Arc::clone(&revision.frames);
        if let Ok(room) = Arc::clone(&frames).try_acquire_owned() {
            return self.run_batch(id, revision, room);
        }
        let reports = self.reports.clone();
        drop(tokio::spawn(async move {
            let room = frames.acquire_owned().await.expect("it is never closed");
            drop(reports.send(Report::Turn(id, revision, room)));
        }));
    }

    fn run_batch(&mut self, id: InvocationId, revision: Revision, room: OwnedSemaphorePermit) {
        self.tracer.begin(&self.core, id);
        let (frame, noted) = self.encode(id, &revision.name);
        self.noting.starts(id, noted);
        let records = self.core.records(id).len() as u32;
        let (timeout, calling) = (self.config.timeout, self.config.calling);
        let frame = frame.into();
        let is_risky = self.core.is_risky(id);
        let trace = self.tracer.text(id).into();
        let named = Named { invocation: self.noting.named(id).into(), trace };
        let batch_id = id.0;
        let ends_with_caller = false;
        let invocation = Invocation {
            frame,
            batch_id,
            records,
            timeout,
            calling,
            is_risky,
            ends_with_caller,
            named,
        };
        self.invoked.push(Box::pin(async move {
            let begun = Instant::now();
            let result = revision.invoke.invoke(invocation).await;
            drop(room);
            Report::Ended(id, revision.name, result, begun.elapsed())
        }));
    }

    /// The frame of a batch, and its records as the history notes them.
    fn encode(&self, id: InvocationId, revision: &str) -> (Vec<u8>, Option<Noted>) {
        let config = &self.config;
        let timeout_ms = i64::try_from(config.timeout.as_millis()).unwrap_or(i64::MAX);
        let context = Context {
            cluster: &config.cluster,
            function: &config.function,
            revision,
            trigger: &config.trigger,
            trace: self.tracer.text(id),
            deadline_ms: Timestamp::now().0.saturating_add(timeout_ms),
        };
        let order = match config.dispatch.order {
            Order::None => frame::Order::None,
            Order::Key => frame::Order::Key,
            Order::Partition => frame::Order::Partition,
        };
        let table: Vec<(&str, i32)> =
            config.partitions.iter().map(|it| (&*it.topic, it.partition)).collect();
        let mut builder = RequestBuilder::new(id.0, order, &context, &table);
        let records = self.core.records(id);
        builder.reserve(records.len(), 256 * records.len());
        let mut noted = self.noting.blank();
        for record in records {
            let record = self.core.record(*record);
            if let Some(noted) = &mut noted {
                noted.push(record.partition, record.view.offset.0, record.attempt);
            }
            builder.push(
                record.partition,
                record.view.offset.0,
                record.view.timestamp.0,
                record.attempt,
                record.view.key,
                record.view.value,
                record.view.headers.as_bytes(),
                record.view.headers.len(),
            );
        }
        (builder.finish(), noted)
    }

    fn answer(&self, question: Question) {
        let index = self.config.partitions.iter().position(|it| *it == question.partition);
        let standing = index.map(|it| self.core.standing(it as u32, question.offset));
        // Who does not wait any more needs no answer.
        drop(question.answer.send(standing));
    }

    fn keeper(&self, change: impl FnOnce(&mut StatsKeeper)) {
        change(&mut self.stats.lock().expect("nothing panics while holding it"));
    }

    /// Brings stats and metrics up to date, once per turn.
    fn note(&mut self) {
        let counters = *self.core.counters();
        let (outputs, told) = (self.gathering.outputs_total(), self.gathering.delivered_total());
        self.metrics.note(&counters, (outputs, told), self.core.parked_records());
        self.metrics.note_circuit(self.core.is_circuit_open());
        let core = &self.core;
        let mut stats = self.stats.lock().expect("nothing panics while holding it");
        stats.note(core, counters, outputs);
    }
}
