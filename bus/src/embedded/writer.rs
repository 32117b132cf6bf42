//! The one thread that writes: gathers what waits, checks it in order, writes it as one group,
//! publishes it, answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::EmbeddedConfig;
use super::follower::Follower;
use super::journal::{Group, Loaded, WriteError};
use super::log::{Fences, Log, Partition};
use super::rows;
use crate::{
    Append, Appended, BatchBuilder, Commit, Epoch, Error, Offset, Position, PositionKey,
    RecordBatch, Recovered, ShardId, Timestamp, TopicInfo, TopicPartition, TopicSpec,
};

/// Batches below this are joined when they follow each other in a group: many small commits to
/// one partition then read like few large ones.
const SMALL_BYTES: usize = 32 << 10;
/// Pages that a group may touch beyond its records.
const GROUP_OVERHEAD_BYTES: u64 = 1 << 20;

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer is asked for.
#[derive(Debug)]
pub(crate) enum Op {
    Append { appends: Vec<Append>, reply: Reply<Vec<Appended>> },
    Commit { commit: Commit, reply: Reply<Vec<Appended>> },
    Recover { shard: ShardId, epoch: Epoch, reply: Reply<Recovered> },
    CreateTopic { spec: TopicSpec, reply: Reply<TopicInfo> },
    DeleteTopic { name: String, reply: Reply<()> },
    Forget { shard: ShardId, reply: Reply<()> },
    Close,
}

/// An answer that waits for its group to be durable.
enum Answer {
    Appended(Reply<Vec<Appended>>, Vec<Appended>),
    Recovered(Reply<Recovered>, Recovered),
    Topic(Reply<TopicInfo>, TopicInfo),
    Done(Reply<()>),
}

/// See the [module documentation](self).
pub(crate) struct Writer {
    config: EmbeddedConfig,
    log: Arc<Log>,
    follower: Option<Follower>,
    fences: Fences,
    group: u64,
    next_topic: u64,
    /// Batches in memory, oldest first, over all partitions.
    cached: VecDeque<(Arc<Partition>, usize)>,
    cached_bytes: usize,
    retention_at: Instant,
    held: BTreeMap<TopicPartition, Offset>,
    _lock: Option<std::fs::File>,
}

/// A group while it is put together.
#[derive(Default)]
struct Staged {
    write: Group,
    appended: Vec<(Arc<Partition>, RecordBatch)>,
    ends: BTreeMap<u64, Offset>,
    positions: BTreeMap<PositionKey, Position>,
    answers: Vec<Answer>,
    bytes: usize,
}

impl Writer {
    pub(crate) fn new(
        config: &EmbeddedConfig,
        log: Arc<Log>,
        loaded: Loaded,
        follower: Option<Follower>,
        lock: Option<std::fs::File>,
    ) -> Self {
        let highest = loaded.topics.iter().map(|info| info.id + 1).max().unwrap_or(1);
        Self {
            config: config.clone(),
            log,
            follower,
            fences: loaded.fences,
            group: loaded.group,
            next_topic: highest.max(loaded.next_topic),
            cached: VecDeque::new(),
            cached_bytes: 0,
            retention_at: Instant::now() + config.retention_every,
            held: BTreeMap::new(),
            _lock: lock,
        }
    }

    pub(crate) fn run(mut self, operations: &Receiver<Op>) {
        let mut open = true;
        while open {
            let patience = self.retention_at.saturating_duration_since(Instant::now());
            let mut next = match operations.recv_timeout(patience) {
                Ok(op) => Some(op),
                Err(RecvTimeoutError::Timeout) => {
                    self.retain();
                    self.retention_at = Instant::now() + self.config.retention_every;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut staged = Staged::default();
            while let Some(op) = next {
                if matches!(op, Op::Close) {
                    open = false;
                    break;
                }
                // A change of topics is a group of its own: what follows it is checked against it.
                let alone = matches!(
                    op,
                    Op::CreateTopic { .. } | Op::DeleteTopic { .. } | Op::Forget { .. }
                );
                if alone {
                    self.finish(std::mem::take(&mut staged));
                }
                self.stage(&mut staged, op);
                if alone || self.config.group_bytes_max <= staged.bytes {
                    self.finish(std::mem::take(&mut staged));
                }
                next = operations.try_recv().ok();
            }
            self.finish(staged);
        }
        self.follower = None;
        self.log.journal.close();
    }

    fn stage(&mut self, staged: &mut Staged, op: Op) {
        match op {
            Op::Append { appends, reply } => {
                let bytes = appends.iter().map(|it| it.batch.as_bytes().len()).sum();
                let checked =
                    self.room(staged, bytes, true).and_then(|()| self.place(staged, &appends));
                match checked {
                    Ok(placed) => self.keep(staged, placed, bytes, reply),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Op::Commit { commit, reply } => {
                let bytes = commit.appends.iter().map(|it| it.batch.as_bytes().len()).sum();
                let checked = self
                    .fence(commit.shard, commit.epoch)
                    .and_then(|()| self.room(staged, bytes, false))
                    .and_then(|()| self.place(staged, &commit.appends))
                    .and_then(|placed| {
                        let positions = self.positions(staged, &commit, &placed)?;
                        Ok((placed, positions))
                    });
                match checked {
                    Ok((placed, positions)) => {
                        self.raise(staged, commit.shard, commit.epoch);
                        staged.positions.extend(positions);
                        self.keep(staged, placed, bytes, reply);
                    }
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Op::Recover { shard, epoch, reply } => match self.fence(shard, epoch) {
                Ok(()) => {
                    self.raise(staged, shard, epoch);
                    let mut positions: BTreeMap<_, _> =
                        self.log.positions_of(shard).into_iter().collect();
                    for (key, position) in &staged.positions {
                        if key.shard == shard {
                            positions.insert(key.partition.clone(), position.clone());
                        }
                    }
                    let recovered = Recovered { positions: positions.into_iter().collect() };
                    staged.answers.push(Answer::Recovered(reply, recovered));
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Op::CreateTopic { spec, reply } => self.create_topic(staged, spec, reply),
            Op::DeleteTopic { name, reply } => match self.log.topic(&name) {
                Some(topic) => {
                    staged.write.topic_deleted = Some(topic.info.clone());
                    staged.answers.push(Answer::Done(reply));
                }
                None => drop(reply.send(Err(Error::UnknownTopic { topic: name }))),
            },
            Op::Forget { shard, reply } => {
                staged.write.shard_forgotten = Some(shard);
                staged.answers.push(Answer::Done(reply));
            }
            Op::Close => {}
        }
    }

    fn create_topic(&mut self, staged: &mut Staged, spec: TopicSpec, reply: Reply<TopicInfo>) {
        let answer = match self.log.topic(&spec.name) {
            Some(topic) if topic.info.spec.partitions == spec.partitions => Ok(topic.info.clone()),
            Some(topic) => Err(Error::TopicExists {
                topic: spec.name.to_string(),
                partitions: topic.info.spec.partitions,
            }),
            None => match self.room(staged, 0, true) {
                Ok(()) => {
                    let info = TopicInfo { spec, id: self.next_topic };
                    self.next_topic += 1;
                    staged.write.topics.push(info.clone());
                    staged.answers.push(Answer::Topic(reply, info));
                    return;
                }
                Err(error) => Err(error),
            },
        };
        drop(reply.send(answer));
    }

    /// Whether the disk takes `bytes` more: sources leave the reserve alone, commits may use it.
    fn room(&self, staged: &Staged, bytes: usize, source: bool) -> Result<(), Error> {
        let Some((reserve, left)) = self.config.room() else { return Ok(()) };
        // Copy on write: the new pages are there before the old ones are free.
        let needed = 2 * (staged.bytes + bytes) as u64 + GROUP_OVERHEAD_BYTES.min(reserve);
        let kept = if source { reserve } else { 0 };
        if needed + kept <= left {
            return Ok(());
        }
        Err(Error::DiskFull { available_bytes: left, reserve_bytes: reserve })
    }

    fn fence(&self, shard: ShardId, presented: Epoch) -> Result<(), Error> {
        let current = self.fences.get(&shard).copied().unwrap_or_default();
        if presented < current {
            return Err(Error::Fenced { shard, presented, current });
        }
        Ok(())
    }

    fn raise(&mut self, staged: &mut Staged, shard: ShardId, epoch: Epoch) {
        if self.fences.insert(shard, epoch) != Some(epoch) {
            staged.write.fences.push((shard, epoch));
        }
    }

    /// Gives every batch its place, changing nothing yet.
    fn place(
        &self,
        staged: &Staged,
        appends: &[Append],
    ) -> Result<Vec<(Arc<Partition>, RecordBatch)>, Error> {
        let mut placed: Vec<(Arc<Partition>, RecordBatch)> = Vec::with_capacity(appends.len());
        let mut ends: BTreeMap<u64, Offset> = BTreeMap::new();
        for Append { to, batch } in appends {
            let partition = self.log.partition(to)?;
            let limit_bytes = self
                .log
                .topic(&to.topic)
                .map_or(usize::MAX, |topic| topic.info.spec.record_bytes_max);
            check_sizes(batch, to, limit_bytes)?;
            let base = *ends.entry(partition.uid).or_insert_with(|| {
                let staged = staged.ends.get(&partition.uid).copied();
                staged.unwrap_or_else(|| partition.watermarks().end)
            });
            let batch = whole(batch).with_base(base);
            ends.insert(partition.uid, batch.last_offset().next());
            placed.push((partition, batch));
        }
        Ok(placed)
    }

    fn positions(
        &self,
        staged: &Staged,
        commit: &Commit,
        placed: &[(Arc<Partition>, RecordBatch)],
    ) -> Result<Vec<(PositionKey, Position)>, Error> {
        let mut moved = Vec::with_capacity(commit.positions.len());
        for it in &commit.positions {
            let partition = self.log.partition(&it.partition)?;
            let appended = placed.iter().rev().find(|(to, _)| to.uid == partition.uid);
            let end = match appended {
                Some((_, batch)) => batch.last_offset().next(),
                None => {
                    let staged = staged.ends.get(&partition.uid).copied();
                    staged.unwrap_or_else(|| partition.watermarks().end)
                }
            };
            let key = PositionKey { shard: commit.shard, partition: it.partition.clone() };
            let current = staged.positions.get(&key).cloned().or_else(|| self.log.position(&key));
            let from = current
                .filter(|position| position.epoch == commit.epoch)
                .map_or(Offset(0), |position| position.next);
            let next = it.position.next;
            let last = it.position.completions.ranges().last().map_or(next, |(_, end)| *end);
            if next < from || end < next.max(last) {
                let partition = it.partition.clone();
                return Err(Error::Position { partition, next, from, end });
            }
            let position = Position { epoch: commit.epoch, ..it.position.clone() };
            moved.push((key, position));
        }
        Ok(moved)
    }

    fn keep(
        &self,
        staged: &mut Staged,
        placed: Vec<(Arc<Partition>, RecordBatch)>,
        bytes: usize,
        reply: Reply<Vec<Appended>>,
    ) {
        let bases = placed.iter().map(|(_, batch)| Appended { base: batch.base() }).collect();
        for (partition, batch) in placed {
            staged.ends.insert(partition.uid, batch.last_offset().next());
            staged.appended.push((partition, batch));
        }
        staged.bytes += bytes;
        staged.answers.push(Answer::Appended(reply, bases));
    }

    /// Writes the group, publishes it and answers.
    fn finish(&mut self, mut staged: Staged) {
        if staged.answers.is_empty() {
            return;
        }
        let appended = join_small(std::mem::take(&mut staged.appended));
        let mut write = std::mem::take(&mut staged.write);
        write.batches = appended
            .iter()
            .map(|(partition, batch)| {
                (rows::batch_key(partition.uid, batch.base()), batch.as_bytes().clone())
            })
            .collect();
        write.positions = std::mem::take(&mut staged.positions).into_iter().collect();
        if let Err(reason) = self.write(&write) {
            self.undo(&write);
            for answer in staged.answers {
                answer.refuse(self.disk_full());
            }
            tracing::warn!(%reason, "could not write: the disk is full");
            return;
        }
        self.publish(write, appended);
        staged.answers.into_iter().for_each(Answer::give);
    }

    /// Writes a group; on a full disk opens the journal again and learns what was kept.
    fn write(&mut self, write: &Group) -> Result<(), String> {
        let number = self.group + 1;
        let started = Instant::now();
        let result = self.log.journal.write(number, write);
        crate::metrics::group(write.batches.len(), started.elapsed());
        match result {
            Ok(()) => {
                self.group = number;
                Ok(())
            }
            Err(WriteError::DiskFull(reason)) => {
                let patience = Duration::from_millis(200);
                loop {
                    match self.log.journal.reopen() {
                        Ok(kept) if kept == number => {
                            self.group = number;
                            return Ok(());
                        }
                        Ok(_) => return Err(reason),
                        Err(error) => {
                            tracing::warn!(%error, "could not reopen the journal: trying again");
                            std::thread::park_timeout(patience);
                        }
                    }
                }
            }
            Err(WriteError::Fatal(reason)) => {
                // What reached the disk is unknown: the next start reads what is there (L5).
                tracing::error!(%reason, "could not write the journal: the node ends here");
                std::process::abort();
            }
        }
    }

    /// Fences that the failed group would have raised stay raised in memory: that is stricter,
    /// never looser, and the next group that names the shard writes them.
    fn undo(&mut self, write: &Group) {
        for (shard, _) in &write.fences {
            self.fences.remove(shard);
        }
    }

    fn disk_full(&self) -> Error {
        let (reserve_bytes, available_bytes) = self.config.room().unwrap_or_default();
        Error::DiskFull { available_bytes, reserve_bytes }
    }

    fn publish(&mut self, write: Group, appended: Vec<(Arc<Partition>, RecordBatch)>) {
        for info in write.topics {
            self.log.add_topic(info);
        }
        if let Some(info) = write.topic_deleted {
            self.log.remove_topic(&info.spec.name);
        }
        if let Some(shard) = write.shard_forgotten {
            self.fences.remove(&shard);
            self.log.forget_positions(|key| key.shard == shard);
        }
        for (partition, batch) in appended {
            let bytes = batch.as_bytes().len();
            self.cached_bytes += bytes;
            partition.publish(batch);
            self.cached.push_back((partition, bytes));
        }
        while self.log.cache_bytes < self.cached_bytes {
            let Some((partition, _)) = self.cached.pop_front() else { break };
            self.cached_bytes -= partition.forget_oldest();
        }
        if !write.positions.is_empty() {
            self.log.set_positions(&write.positions);
            if let Some(follower) = &self.follower {
                follower.follow(write.positions);
            }
        }
    }

    /// Deletes what topics no longer keep, but nothing that a position still needs.
    fn retain(&mut self) {
        let needed = self.log.oldest_positions();
        let now = Timestamp::now();
        for topic in self.log.all_topics() {
            let retention = topic.info.spec.retention;
            if retention.age.is_none() && retention.bytes.is_none() {
                continue;
            }
            let oldest = retention
                .age
                .map(|age| Timestamp(now.0 - i64::try_from(age.as_millis()).unwrap_or(i64::MAX)));
            for partition in &topic.partitions {
                let hold = needed.get(&partition.place).copied();
                self.trim(partition, oldest, retention.bytes, hold);
            }
        }
    }

    fn trim(
        &mut self,
        partition: &Arc<Partition>,
        oldest: Option<Timestamp>,
        bytes_max: Option<u64>,
        hold: Option<Offset>,
    ) {
        let marks = partition.watermarks();
        let mut over = bytes_max.map_or(0, |limit| marks.bytes.saturating_sub(limit));
        let (mut keys, mut freed, mut start, mut held) = (Vec::new(), 0, marks.start, None);
        let looked = self.log.journal.oldest(partition.uid, |batch| {
            let bytes = batch.as_bytes().len() as u64;
            let old = oldest.is_some_and(|oldest| batch.timestamp_max() < oldest);
            if !(old || bytes <= over) || keys.len() == 10_000 {
                return false;
            }
            if hold.is_some_and(|hold| hold <= batch.last_offset()) {
                held = hold;
                return false;
            }
            keys.push(rows::batch_key(partition.uid, batch.base()));
            over = over.saturating_sub(bytes);
            freed += bytes;
            start = batch.last_offset().next();
            true
        });
        if let Err(error) = looked {
            tracing::error!(partition = %partition.place, %error, "could not read for retention");
            return;
        }
        self.say_held(partition, held);
        if keys.is_empty() {
            return;
        }
        let trimmed = vec![(partition.uid, start, marks.end, keys)];
        let write = Group { trimmed, ..Group::default() };
        match self.write(&write) {
            Ok(()) => partition.trim(start, freed),
            Err(reason) => tracing::warn!(%reason, "could not delete old records"),
        }
    }

    /// Says once per hold that retention waits for a position.
    fn say_held(&mut self, partition: &Partition, held: Option<Offset>) {
        match held {
            Some(offset) => {
                if self.held.insert(partition.place.clone(), offset).is_none() {
                    tracing::warn!(
                        partition = %partition.place, position = %offset,
                        "retention is held back: a trigger has not settled these records yet"
                    );
                }
            }
            None => drop(self.held.remove(&partition.place)),
        }
        crate::metrics::retention_held(self.held.len());
    }
}

impl Answer {
    fn give(self) {
        // Whoever asked may have gone away; what they asked for is done all the same.
        match self {
            Self::Appended(reply, bases) => drop(reply.send(Ok(bases))),
            Self::Recovered(reply, recovered) => drop(reply.send(Ok(recovered))),
            Self::Topic(reply, info) => drop(reply.send(Ok(info))),
            Self::Done(reply) => drop(reply.send(Ok(()))),
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Appended(reply, _) => drop(reply.send(Err(error))),
            Self::Recovered(reply, _) => drop(reply.send(Err(error))),
            Self::Topic(reply, _) => drop(reply.send(Err(error))),
            Self::Done(reply) => drop(reply.send(Err(error))),
        }
    }
}

fn check_sizes(batch: &RecordBatch, to: &TopicPartition, limit_bytes: usize) -> Result<(), Error> {
    if batch.as_bytes().len() <= limit_bytes {
        return Ok(());
    }
    for record in batch.iter() {
        let bytes = record.key.map_or(0, <[u8]>::len)
            + record.value.map_or(0, <[u8]>::len)
            + record.headers.as_bytes().len();
        if limit_bytes < bytes {
            return Err(Error::TooLarge { partition: to.clone(), bytes, limit_bytes });
        }
    }
    Ok(())
}

/// The batch itself if its view leaves nothing out and its offsets have no gap, else a copy.
fn whole(batch: &RecordBatch) -> RecordBatch {
    if batch.is_whole() {
        return batch.clone();
    }
    let mut builder = BatchBuilder::default();
    batch.iter().for_each(|record| builder.push_view(record));
    builder.finish().expect("a batch is never empty")
}

/// Joins runs of small batches of one partition; order and offsets stay.
fn join_small(appended: Vec<(Arc<Partition>, RecordBatch)>) -> Vec<(Arc<Partition>, RecordBatch)> {
    let mut runs: BTreeMap<u64, Vec<(Arc<Partition>, RecordBatch)>> = BTreeMap::new();
    for (partition, batch) in appended {
        runs.entry(partition.uid).or_default().push((partition, batch));
    }
    let mut joined = Vec::new();
    for batches in runs.into_values() {
        let mut small: Vec<(Arc<Partition>, RecordBatch)> = Vec::new();
        let mut bytes = 0;
        for (partition, batch) in batches {
            let size = batch.as_bytes().len();
            if SMALL_BYTES < bytes + size {
                joined.extend(join(std::mem::take(&mut small)));
                bytes = 0;
            }
            bytes += size;
            small.push((partition, batch));
        }
        joined.extend(join(small));
    }
    joined
}

fn join(mut batches: Vec<(Arc<Partition>, RecordBatch)>) -> Option<(Arc<Partition>, RecordBatch)> {
    if batches.len() < 2 {
        return batches.pop();
    }
    let (partition, base) = (Arc::clone(&batches[0].0), batches[0].1.base());
    let mut builder = BatchBuilder::default();
    for (_, batch) in &batches {
        batch.iter().for_each(|record| builder.push_view(record));
    }
    builder.finish().map(|batch| (partition, batch.with_base(base)))
}
