//! What the bus knows without its disk: topics, where partitions end, the newest batches, who
//! waits, and the committed positions. Only the writer changes it, and only by what is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use tokio::sync::Notify;

use super::journal::{self, Journal, Loaded};
use crate::{
    Epoch, Error, Offset, Position, PositionKey, RecordBatch, ShardId, Timestamp, TopicInfo,
    TopicPartition, Watermarks,
};

/// A topic and its partitions.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) info: TopicInfo,
    pub(crate) partitions: Vec<Arc<Partition>>,
}

/// One partition's extent, newest batches and waiting readers.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) uid: u64,
    pub(crate) place: TopicPartition,
    pub(crate) deleted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    start: Offset,
    end: Offset,
    bytes: u64,
    /// The newest batches, without a gap, up to `end`.
    tail: VecDeque<RecordBatch>,
    waiting: Vec<(u64, Arc<Notify>)>,
}

impl Partition {
    fn new(uid: u64, place: TopicPartition, extent: journal::Extent) -> Self {
        let journal::Extent { start, end, bytes } = extent;
        let state = State { start, end, bytes, ..State::default() };
        Self { uid, place, deleted: AtomicBool::new(false), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        let state = self.state();
        Watermarks { start: state.start, end: state.end, bytes: state.bytes }
    }

    /// Batches from `offset` on, if the newest ones reach back that far.
    pub(crate) fn recent(&self, offset: Offset, bytes_max: usize) -> Option<Vec<RecordBatch>> {
        let state = self.state();
        if state.tail.front().is_none_or(|first| offset < first.first_offset()) {
            return None;
        }
        let from = state.tail.partition_point(|batch| batch.last_offset() < offset);
        let (mut found, mut bytes) = (Vec::new(), 0);
        for batch in state.tail.range(from..) {
            bytes += batch.as_bytes().len();
            found.extend(batch.clone().from_offset(offset));
            if bytes_max <= bytes {
                break;
            }
        }
        Some(found)
    }

    /// Moves the end behind a durable batch and keeps it for readers.
    pub(crate) fn publish(&self, batch: RecordBatch) {
        let mut state = self.state();
        state.end = batch.last_offset().next();
        state.bytes += batch.as_bytes().len() as u64;
        state.tail.push_back(batch);
        for (_, waiting) in &state.waiting {
            waiting.notify_one();
        }
    }

    /// Forgets the oldest of the newest batches; gives how many bytes that freed.
    pub(crate) fn forget_oldest(&self) -> usize {
        self.state().tail.pop_front().map_or(0, |batch| batch.as_bytes().len())
    }

    pub(crate) fn trim(&self, start: Offset, bytes: u64) {
        let mut state = self.state();
        state.start = start;
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    pub(crate) fn wait(&self, id: u64, notify: &Arc<Notify>) {
        self.state().waiting.push((id, Arc::clone(notify)));
    }

    pub(crate) fn leave(&self, id: u64) {
        self.state().waiting.retain(|(it, _)| *it != id);
    }

    fn wake(&self) {
        self.state().waiting.iter().for_each(|(_, notify)| notify.notify_one());
    }
}

/// All of it. See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) journal: Journal,
    pub(crate) closed: AtomicBool,
    pub(crate) cache_bytes: usize,
    topics: RwLock<BTreeMap<Arc<str>, Arc<Topic>>>,
    positions: Mutex<BTreeMap<PositionKey, Position>>,
    readers: AtomicU64,
}

impl Log {
    pub(crate) fn new(loaded: &Loaded, journal: Journal, cache_bytes: usize) -> Self {
        let topics = loaded.topics.iter().map(|info| {
            let extents = &loaded.extents;
            let extent = |uid| extents.get(&uid).copied().unwrap_or_default();
            (Arc::clone(&info.spec.name), Arc::new(topic(info.clone(), extent)))
        });
        Self {
            journal,
            closed: AtomicBool::new(false),
            cache_bytes,
            topics: RwLock::new(topics.collect()),
            positions: Mutex::new(loaded.positions.clone()),
            readers: AtomicU64::new(0),
        }
    }

    pub(crate) fn topics(&self) -> Vec<TopicInfo> {
        let topics = self.topics.read().expect("nothing panics while holding it");
        topics.values().map(|topic| topic.info.clone()).collect()
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().expect("nothing panics while holding it").get(name).cloned()
    }

    pub(crate) fn all_topics(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().expect("nothing panics while holding it");
        topics.values().cloned().collect()
    }

    pub(crate) fn partition(&self, place: &TopicPartition) -> Result<Arc<Partition>, Error> {
        let topic = self
            .topic(&place.topic)
            .ok_or_else(|| Error::UnknownTopic { topic: place.topic.to_string() })?;
        usize::try_from(place.partition)
            .ok()
            .and_then(|index| topic.partitions.get(index).cloned())
            .ok_or_else(|| Error::UnknownPartition(place.clone()))
    }

    pub(crate) fn add_topic(&self, info: TopicInfo) {
        let name = Arc::clone(&info.spec.name);
        let topic = Arc::new(topic(info, |_| journal::Extent::default()));
        self.topics.write().expect("nothing panics while holding it").insert(name, topic);
    }

    pub(crate) fn remove_topic(&self, name: &str) {
        let removed = self.topics.write().expect("nothing panics while holding it").remove(name);
        for partition in removed.iter().flat_map(|topic| &topic.partitions) {
            partition.deleted.store(true, Ordering::Release);
            partition.wake();
        }
    }

    pub(crate) fn wake_all(&self) {
        for topic in self.all_topics() {
            topic.partitions.iter().for_each(|partition| partition.wake());
        }
    }

    pub(crate) fn reader_id(&self) -> u64 {
        self.readers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn positions(&self) -> Vec<(PositionKey, Position)> {
        let positions = self.positions.lock().expect("nothing panics while holding it");
        positions.iter().map(|(key, position)| (key.clone(), position.clone())).collect()
    }

    pub(crate) fn position(&self, key: &PositionKey) -> Option<Position> {
        self.positions.lock().expect("nothing panics while holding it").get(key).cloned()
    }

    pub(crate) fn positions_of(&self, shard: ShardId) -> Vec<(TopicPartition, Position)> {
        let positions = self.positions.lock().expect("nothing panics while holding it");
        let of_shard = positions.iter().filter(|(key, _)| key.shard == shard);
        of_shard.map(|(key, position)| (key.partition.clone(), position.clone())).collect()
    }

    pub(crate) fn set_positions(&self, moved: &[(PositionKey, Position)]) {
        let mut positions = self.positions.lock().expect("nothing panics while holding it");
        positions.extend(moved.iter().cloned());
    }

    pub(crate) fn forget_positions(&self, forget: impl Fn(&PositionKey) -> bool) {
        let mut positions = self.positions.lock().expect("nothing panics while holding it");
        positions.retain(|key, _| !forget(key));
    }

    /// The oldest position of each partition that anything still reads from.
    pub(crate) fn oldest_positions(&self) -> BTreeMap<TopicPartition, Offset> {
        let mut oldest = BTreeMap::new();
        for (key, position) in self.positions() {
            let entry = oldest.entry(key.partition).or_insert(position.next);
            *entry = position.next.min(*entry);
        }
        oldest
    }

    /// The first record stamped at or after `time`. Reads the disk.
    pub(crate) fn first_at(
        &self,
        partition: &Partition,
        time: Timestamp,
    ) -> Result<Option<Offset>, Error> {
        let mut found = None;
        let start = partition.watermarks().start;
        self.journal.oldest(partition.uid, |batch| {
            if time <= batch.timestamp_max() {
                let first =
                    batch.iter().find(|record| time <= record.timestamp && start <= record.offset);
                found = first.map(|record| record.offset);
            }
            found.is_none()
        })?;
        Ok(found)
    }
}

fn topic(info: TopicInfo, extent: impl Fn(u64) -> journal::Extent) -> Topic {
    let partition = |number| {
        let uid = journal::uid(&info, number);
        let place = TopicPartition::new(Arc::clone(&info.spec.name), number);
        Arc::new(Partition::new(uid, place, extent(uid)))
    };
    let partitions = (0..info.spec.partitions).map(partition).collect();
    Topic { info, partitions }
}

/// Epochs by shard, as the writer keeps them.
pub(crate) type Fences = BTreeMap<ShardId, Epoch>;
