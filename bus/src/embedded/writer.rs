//! The one thread that writes: takes what waits, plans it, writes it as one group, publishes it,
//! answers. Between groups it deletes what retention lets go and what deleted topics left.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EmbeddedConfig;
use super::backend::SyncGuard;
use super::compaction::Compaction;
use super::disk::Room;
use super::follower::Follower;
use super::mark::Mark;
use super::plan::Plan;
use super::queue::{Op, Outcome, Pending, Queue, Taken};
use super::state::{Partition, Shared, Topic};
use super::store::WriteSet;
use crate::{Cleanup, Error, ShardId, Timestamp, TopicInfo, TopicSpec, metrics as names};

/// The mark is synced at most this often: it may lag.
const MARK_SYNC_EVERY: Duration = Duration::from_secs(5);
/// What a batch that is kept for readers costs in memory beyond its bytes, about: the batch, the count
/// of who shares its bytes, its place in two queues, and what the allocator rounds up.
const CACHED_OVERHEAD: usize = 160;
/// How long a journal that failed is given to open again.
const REOPEN_PATIENCE: Duration = Duration::from_secs(10);

type Answer = tokio::sync::oneshot::Sender<Result<Outcome, Error>>;

/// Why a group was not written; nothing of it was kept.
#[derive(Debug)]
pub(super) enum Refused {
    /// There was no room.
    DiskFull,
    /// The store's account.
    Journal(String),
    /// The journal cannot be trusted any more.
    Dead,
}

/// See the [module documentation](self).
pub(super) struct Writer {
    pub(super) config: EmbeddedConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) guard: SyncGuard,
    pub(super) follower: Option<Follower>,
    pub(super) mark: Option<Mark>,
    /// The journal's file, whose blocks tell how much room lies free inside it.
    pub(super) path: Option<PathBuf>,
    pub(super) commit: u64,
    pub(super) newest_topic: u64,
    /// Partitions of deleted topics whose batches are still there.
    pub(super) garbage: VecDeque<u64>,
    /// Partitions whose retention waits for a position, which was said.
    pub(super) held: HashSet<u64>,
    pub(super) compaction: Compaction,
    cached: VecDeque<(Arc<Partition>, usize)>,
    cached_bytes: usize,
    mark_synced_at: Instant,
    pub(super) retention_at: Instant,
    has_bounds: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("commit", &self.commit).finish_non_exhaustive()
    }
}

/// What a [`Writer`] starts with.
pub(super) struct Parts {
    pub(super) config: EmbeddedConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) guard: SyncGuard,
    pub(super) follower: Option<Follower>,
    pub(super) mark: Option<Mark>,
    pub(super) path: Option<PathBuf>,
    pub(super) commit: u64,
    pub(super) newest_topic: u64,
    pub(super) garbage: Vec<u64>,
}

impl Writer {
    pub(super) fn new(parts: Parts) -> Self {
        let now = Instant::now();
        let mut writer = Self {
            has_bounds: false,
            retention_at: now + parts.config.retention_every,
            config: parts.config,
            shared: parts.shared,
            queue: parts.queue,
            guard: parts.guard,
            follower: parts.follower,
            mark: parts.mark,
            path: parts.path,
            commit: parts.commit,
            newest_topic: parts.newest_topic,
            garbage: parts.garbage.into(),
            held: HashSet::new(),
            compaction: Compaction::default(),
            cached: VecDeque::new(),
            cached_bytes: 0,
            mark_synced_at: now,
        };
        writer.find_bounds();
        writer
    }

    /// Works until the queue is closed and empty, then lets go of the files.
    pub(super) fn run(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            self.guard.fail("the journal's thread panicked");
        }
        self.queue.close();
        // Nobody is left waiting: what was admitted and not done is not done.
        while let Taken::Group(group) = self.queue.take(usize::MAX, None) {
            drop(group);
        }
        self.shared.close();
        self.follower = None;
        if self.guard.has_failed() {
            return;
        }
        self.sync_mark();
        if let Err(error) = self.shared.store.close() {
            tracing::warn!(%error, "could not close the journal cleanly: the next start checks it");
        }
    }

    fn work(&mut self) {
        while !self.guard.has_failed() {
            match self.queue.take(self.config.group_bytes_max, self.patience()) {
                Taken::Group(group) => self.group(group),
                Taken::Nothing => self.tidy(),
                Taken::Closed => return,
            }
            // Under a load that never pauses, tidying still gets its turn.
            if self.retention_at <= Instant::now() {
                self.tidy();
            }
        }
    }

    /// How long to sleep if nothing comes.
    fn patience(&self) -> Option<Duration> {
        if !self.garbage.is_empty() {
            return Some(Duration::ZERO);
        }
        self.has_bounds.then(|| self.retention_at.saturating_duration_since(Instant::now()))
    }

    /// Looks whether retention has anything to look at.
    fn find_bounds(&mut self) {
        self.has_bounds = self.shared.topics().iter().any(|topic| {
            let spec = &topic.info.spec;
            let has_bound = spec.retention.age.is_some() || spec.retention.bytes.is_some();
            has_bound || spec.cleanup == Cleanup::Compact
        });
    }

    fn tidy(&mut self) {
        self.remove_garbage();
        if self.retention_at <= Instant::now() {
            let now = Timestamp::now();
            let more = self.retain(now) | self.compact(now);
            let pause = if more { Duration::ZERO } else { self.config.retention_every };
            self.retention_at = Instant::now() + pause;
        }
    }

    fn group(&mut self, mut group: Vec<Pending>) {
        metrics::counter!(names::JOURNAL_OPERATIONS).increment(group.len() as u64);
        if group.len() == 1 && !group[0].op.is_shared() {
            let pending = group.remove(0);
            let outcome = match pending.op {
                Op::CreateTopic(spec) => self.create_topic(spec),
                Op::DeleteTopic(name) => self.delete_topic(&name),
                Op::Forget(shard) => self.forget(shard),
                Op::Retain(now) => {
                    self.compaction.start_over();
                    while self.retain(now) || self.remove_garbage() || self.compact(now) {}
                    Ok(Outcome::Done)
                }
                Op::Append(_) | Op::Commit(_) | Op::Recover(..) => unreachable!("these share"),
            };
            give(pending.answer, outcome);
            return;
        }
        self.shared_group(group);
    }

    fn shared_group(&mut self, group: Vec<Pending>) {
        let mut room = self.room(group.iter().map(|it| it.bytes).sum());
        let mut plan = Plan::default();
        let mut rooms_held = Vec::with_capacity(group.len());
        let mut answers: Vec<(Answer, Result<Outcome, Error>)> = Vec::with_capacity(group.len());
        for Pending { op, bytes, answer, _room } in group {
            let is_source = matches!(op, Op::Append(_));
            let shared = &*self.shared;
            let outcome = room.take(bytes, is_source).and_then(|()| match op {
                Op::Append(appends) => plan.append(shared, appends),
                Op::Commit(commit) => plan.commit(shared, commit),
                Op::Recover(shard, epoch) => plan.recover(shared, shard, epoch),
                _ => unreachable!("the others do not share"),
            });
            count_refusal(&outcome);
            rooms_held.push(_room);
            answers.push((answer, outcome));
        }
        if !plan.is_empty() {
            let set = plan.finish();
            match self.write(&set) {
                Ok(()) => self.publish(plan),
                Err(refused) => {
                    for (_, outcome) in answers.iter_mut().filter(|(_, outcome)| outcome.is_ok()) {
                        *outcome = Err(self.error_of(&refused));
                    }
                }
            }
        }
        answers.into_iter().for_each(|(answer, outcome)| give(answer, outcome));
    }

    /// Makes a group durable, or makes sure that nothing of it is.
    pub(super) fn write(&mut self, set: &WriteSet) -> Result<(), Refused> {
        let number = self.commit + 1;
        let started = Instant::now();
        let written = self.shared.store.commit(set, number);
        metrics::histogram!(names::JOURNAL_COMMIT_SECONDS).record(started.elapsed());
        metrics::counter!(names::JOURNAL_COMMITS).increment(1);
        let error = match written {
            Ok(()) => {
                self.wrote(number);
                return Ok(());
            }
            Err(error) => error,
        };
        if self.guard.has_failed() {
            return Err(Refused::Dead);
        }
        tracing::warn!(%error, "could not write the journal: opening it again");
        metrics::counter!(names::JOURNAL_REOPENS).increment(1);
        match self.reopen() {
            Some(kept) if kept == number => {
                self.wrote(number);
                Ok(())
            }
            Some(kept) if kept + 1 == number => Err(refused(&error)),
            Some(kept) => {
                let reason = format!("the journal is at write {kept} after write {number}");
                self.guard.fail(&reason);
                Err(Refused::Dead)
            }
            None => Err(Refused::Dead),
        }
    }

    fn wrote(&mut self, number: u64) {
        self.commit = number;
        let Some(mark) = &self.mark else { return };
        if let Err(error) = mark.note(number) {
            tracing::debug!(%error, "could not note the newest commit");
        }
        if MARK_SYNC_EVERY <= self.mark_synced_at.elapsed() {
            self.sync_mark();
        }
    }

    fn sync_mark(&mut self) {
        self.mark_synced_at = Instant::now();
        if let Some(Err(error)) = self.mark.as_ref().map(Mark::sync) {
            // It only lags: what it protects is in the journal.
            tracing::debug!(%error, "could not sync the mark of the newest commit");
        }
    }

    /// Opens the failed journal again; gives the newest write it holds. `None` ended the process.
    fn reopen(&self) -> Option<u64> {
        let until = Instant::now() + REOPEN_PATIENCE;
        loop {
            match self.shared.store.reopen() {
                Ok(kept) => return Some(kept),
                Err(_) if self.guard.has_failed() => return None,
                Err(error) if until <= Instant::now() => {
                    self.guard.fail(&format!("could not open the journal again: {error}"));
                    return None;
                }
                Err(error) => {
                    tracing::warn!(%error, "could not open the journal again: trying once more");
                    std::thread::park_timeout(Duration::from_millis(200));
                }
            }
        }
    }

    pub(super) fn error_of(&self, refused: &Refused) -> Error {
        match refused {
            Refused::DiskFull => self.room(0).refusal(),
            Refused::Journal(reason) => {
                Error::Journal { action: "write the journal", reason: reason.clone() }
            }
            Refused::Dead => Error::Closed,
        }
    }

    /// The room on the disk. Only where it is short is the file asked for room inside it.
    fn room(&self, bytes: usize) -> Room {
        let space = (self.config.space)();
        let room = Room::new(space, self.config.reserve_bytes, 0);
        if !room.is_short(bytes) {
            return room;
        }
        Room::new(space, self.config.reserve_bytes, self.reusable_bytes())
    }

    /// What deleted batches left free in the file, carefully: redb rounds pages up to powers of
    /// two, so live bytes count twice.
    fn reusable_bytes(&self) -> u64 {
        let topics = self.shared.topics();
        let partitions = topics.iter().flat_map(|topic| &topic.partitions);
        let live: u64 = partitions.map(|partition| partition.watermarks().bytes).sum();
        let stat = self.path.as_ref().and_then(|path| rustix::fs::stat(path).ok());
        let blocks = stat.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0));
        blocks.saturating_mul(512).saturating_sub(live.saturating_mul(2)).saturating_sub(4 << 20)
    }

    fn publish(&mut self, mut plan: Plan) {
        metrics::counter!(names::APPENDED_RECORDS).increment(plan.records);
        metrics::counter!(names::APPENDED_BYTES).increment(plan.bytes);
        for appends in std::mem::take(&mut plan.appends).into_values() {
            for batch in &appends.batches {
                let bytes = batch.as_bytes().len() + CACHED_OVERHEAD;
                self.cached_bytes += bytes;
                self.cached.push_back((Arc::clone(&appends.partition), bytes));
            }
            appends.partition.publish(appends.batches);
        }
        while self.config.cache_bytes < self.cached_bytes {
            let Some((partition, bytes)) = self.cached.pop_front() else { break };
            partition.forget_oldest();
            self.cached_bytes -= bytes;
        }
        let moved = plan.publish_shards(&self.shared);
        if let Some(follower) = self.follower.as_ref().filter(|_| !moved.is_empty()) {
            follower.follow(moved);
        }
    }

    fn create_topic(&mut self, spec: TopicSpec) -> Result<Outcome, Error> {
        if let Some(topic) = self.shared.topic(&spec.name) {
            let partitions = topic.info.spec.partitions;
            if partitions != spec.partitions {
                return Err(Error::TopicExists { topic: spec.name.to_string(), partitions });
            }
            return Ok(Outcome::Topic(topic.info.clone()));
        }
        self.room(1024).take(1024, true)?;
        let info = TopicInfo { spec, id: self.newest_topic + 1 };
        let set = WriteSet { topics_made: vec![info.clone()], ..WriteSet::default() };
        self.write(&set).map_err(|refused| self.error_of(&refused))?;
        self.newest_topic = info.id;
        self.shared.add_topic(info.clone());
        self.find_bounds();
        Ok(Outcome::Topic(info))
    }

    /// Takes the topic away at once; its batches go piece by piece afterwards.
    fn delete_topic(&mut self, name: &str) -> Result<Outcome, Error> {
        let topic: Arc<Topic> = self
            .shared
            .topic(name)
            .ok_or_else(|| Error::UnknownTopic { topic: name.to_owned() })?;
        let uids: HashSet<u64> = topic.partitions.iter().map(|partition| partition.uid).collect();
        let mut set = WriteSet { topics_deleted: vec![topic.info.id], ..WriteSet::default() };
        set.starts = uids.iter().map(|uid| (*uid, None)).collect();
        for (shard, state) in &*self.shared.shards() {
            let rows = state.positions.values().filter(|(uid, _)| uids.contains(uid));
            set.positions.extend(rows.map(|(uid, _)| (*shard, *uid, None)));
        }
        self.write(&set).map_err(|refused| self.error_of(&refused))?;
        self.shared.remove_topic(&topic);
        self.find_bounds();
        self.garbage.extend(topic.partitions.iter().map(|partition| partition.uid));
        self.held.retain(|uid| !uids.contains(uid));
        self.compaction.forget(&uids);
        if let Some(follower) = self.follower.as_ref().filter(|_| !set.positions.is_empty()) {
            follower.rebuild();
        }
        Ok(Outcome::Done)
    }

    fn forget(&mut self, shard: ShardId) -> Result<Outcome, Error> {
        let Some(state) = self.shared.shards().get(&shard).cloned() else {
            return Ok(Outcome::Done);
        };
        let rows = state.positions.values().map(|(uid, _)| (shard, *uid, None));
        let set = WriteSet {
            positions: rows.collect(),
            fences: vec![(shard, None)],
            ..WriteSet::default()
        };
        self.write(&set).map_err(|refused| self.error_of(&refused))?;
        self.shared.shards().remove(&shard);
        if let Some(follower) = &self.follower {
            follower.rebuild();
        }
        Ok(Outcome::Done)
    }

    /// By partition, the lowest offset that a committed position still needs.
    pub(super) fn needed(&self) -> HashMap<u64, crate::Offset> {
        self.shared.needed()
    }
}

fn give(answer: Answer, outcome: Result<Outcome, Error>) {
    // Whoever asked may have gone away; what they asked for is done all the same.
    drop(answer.send(outcome));
}

fn count_refusal(outcome: &Result<Outcome, Error>) {
    match outcome {
        Err(Error::Fenced { .. }) => metrics::counter!(names::FENCED).increment(1),
        Err(Error::DiskFull { .. }) => metrics::counter!(names::DISK_FULL).increment(1),
        _ => {}
    }
}

fn refused(error: &Error) -> Refused {
    match error {
        Error::Io { source, .. }
            if matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
            ) =>
        {
            Refused::DiskFull
        }
        other => Refused::Journal(other.to_string()),
    }
}
