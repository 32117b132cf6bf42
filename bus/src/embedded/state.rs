//! What the bus knows without its disk: topics, where partitions start and end, their newest
//! batches, who waits for more, and how far each shard is. The writer alone changes it, and only
//! by what is durable.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{Notify, Semaphore};

use super::store::{Loaded, LoadedPartition, Store, partition_uid};
use crate::{
    Cleanup, Epoch, Error, Offset, Position, PositionKey, RecordBatch, ShardId, TopicInfo,
    TopicPartition, Watermarks,
};

/// A backlog of a thousand partitions would else be read by as many threads at once, each with
/// memory of its own.
const COLD_READS_MAX: usize = 4;

/// A topic and its partitions.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) info: TopicInfo,
    pub(super) partitions: Vec<Arc<Partition>>,
}

impl Topic {
    pub(super) fn new(info: TopicInfo, found: &BTreeMap<u64, LoadedPartition>) -> Self {
        let partitions = (0..info.spec.partitions).map(|number| {
            let uid = partition_uid(info.id, number);
            let place = TopicPartition::new(Arc::clone(&info.spec.name), number);
            let LoadedPartition { start, end, bytes } =
                found.get(&uid).cloned().unwrap_or_default();
            let extent = Extent { start, end, bytes, ..Extent::default() };
            let is_compacted = info.spec.cleanup == Cleanup::Compact;
            Arc::new(Partition { uid, place, is_compacted, extent: Mutex::new(extent) })
        });
        Self { partitions: partitions.collect(), info }
    }
}

/// One partition.
pub(super) struct Partition {
    /// Its key in the journal.
    pub(super) uid: u64,
    pub(super) place: TopicPartition,
    /// Whether its offsets may have gaps.
    pub(super) is_compacted: bool,
    extent: Mutex<Extent>,
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Partition({}, {:?})", self.place, self.watermarks())
    }
}

#[derive(Debug, Default)]
struct Extent {
    start: Offset,
    end: Offset,
    bytes: u64,
    is_deleted: bool,
    /// The newest batches, without a gap, up to `end`.
    tail: VecDeque<RecordBatch>,
    subscriptions: Vec<Arc<Subscription>>,
}

/// What a reader finds at an offset.
#[derive(Debug)]
pub(super) enum Found {
    /// Batches, and whether there are more behind them.
    Batches(Vec<RecordBatch>, bool),
    /// The offset is the end.
    Nothing,
    /// Older than what is kept in memory; the partition ends here.
    Cold(Offset),
}

impl Partition {
    fn extent(&self) -> MutexGuard<'_, Extent> {
        self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watermarks(&self) -> Watermarks {
        let extent = self.extent();
        Watermarks { start: extent.start, end: extent.end, bytes: extent.bytes }
    }

    /// Batches from `next` on out of memory, at least one, about `bytes_max` of them.
    pub(super) fn find(&self, next: Offset, bytes_max: usize) -> Result<Found, Error> {
        let extent = self.extent();
        if extent.is_deleted {
            return Err(Error::UnknownTopic { topic: self.place.topic.to_string() });
        }
        if next < extent.start || extent.end < next {
            return Err(Error::OffsetOutOfRange {
                partition: self.place.clone(),
                offset: next,
                start: extent.start,
                end: extent.end,
            });
        }
        if next == extent.end {
            return Ok(Found::Nothing);
        }
        if extent.tail.front().is_none_or(|first| next < first.base()) {
            return Ok(Found::Cold(extent.end));
        }
        let from = extent.tail.partition_point(|batch| batch.base() <= next) - 1;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for batch in extent.tail.range(from..) {
            bytes += batch.as_bytes().len();
            if bytes_max < bytes && !found.is_empty() {
                break;
            }
            found.push(batch.clone());
        }
        let more = from + found.len() < extent.tail.len();
        drop(extent);
        if let Some(first) = found.first_mut() {
            *first = first.clone().from_offset(next).expect("the batch holds the offset");
        }
        Ok(Found::Batches(found, more))
    }

    /// Moves the end behind durable batches, keeps them for readers, and wakes those.
    pub(super) fn publish(&self, batches: impl IntoIterator<Item = RecordBatch>) {
        let mut extent = self.extent();
        for batch in batches {
            debug_assert_eq!(batch.base(), extent.end, "batches follow one another");
            extent.end = batch.last_offset().next();
            extent.bytes += batch.as_bytes().len() as u64;
            extent.tail.push_back(batch);
        }
        extent.subscriptions.iter().for_each(Subscription::wake);
    }

    /// Forgets the oldest batch in memory.
    pub(super) fn forget_oldest(&self) {
        self.extent().tail.pop_front();
    }

    /// Retention moved the start, which freed `bytes`.
    pub(super) fn trim(&self, start: Offset, bytes: u64) {
        let mut extent = self.extent();
        extent.start = start;
        extent.bytes = extent.bytes.saturating_sub(bytes);
        extent.subscriptions.iter().for_each(Subscription::wake);
    }

    /// Compaction put `kept` bytes in place of `gone`, and may have moved the start.
    pub(super) fn compacted(&self, start: Option<Offset>, gone: u64, kept: u64) {
        let mut extent = self.extent();
        extent.bytes = extent.bytes.saturating_sub(gone).saturating_add(kept);
        if let Some(start) = start {
            extent.start = start;
            extent.subscriptions.iter().for_each(Subscription::wake);
        }
    }

    fn delete(&self) {
        let mut extent = self.extent();
        extent.is_deleted = true;
        // The tail stays: the writer's account of what is in memory goes by its batches.
        extent.subscriptions.iter().for_each(Subscription::wake);
    }

    fn wake(&self) {
        self.extent().subscriptions.iter().for_each(Subscription::wake);
    }
}

/// The partitions of one reader that may have something new.
#[derive(Debug, Default)]
pub(super) struct Ready {
    queue: Mutex<VecDeque<usize>>,
    pub(super) notify: Notify,
}

impl Ready {
    fn push(&self, index: usize) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(index);
        self.notify.notify_one();
    }

    /// Takes what is ready, in the order in which it became so.
    pub(super) fn take(&self) -> VecDeque<usize> {
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One partition of one reader. Idle partitions are in no queue and cost nothing.
#[derive(Debug)]
pub(super) struct Subscription {
    index: usize,
    is_queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Subscription {
    /// Subscribes to `partition`, as number `index` of the reader that looks at `ready`.
    pub(super) fn new(partition: &Partition, index: usize, ready: &Arc<Ready>) -> Arc<Self> {
        let is_queued = AtomicBool::new(false);
        let subscription = Arc::new(Self { index, is_queued, ready: Arc::clone(ready) });
        partition.extent().subscriptions.push(Arc::clone(&subscription));
        subscription.wake();
        subscription
    }

    pub(super) fn wake(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.index);
        }
    }

    /// The reader is about to look: what comes from here on wakes it again.
    pub(super) fn taken(&self) {
        self.is_queued.store(false, Ordering::Release);
    }

    pub(super) fn end(self: &Arc<Self>, partition: &Partition) {
        partition.extent().subscriptions.retain(|it| !Arc::ptr_eq(it, self));
    }
}

/// One shard: its newest epoch, and its positions.
#[derive(Clone, Debug, Default)]
pub(super) struct Shard {
    pub(super) epoch: Epoch,
    pub(super) positions: BTreeMap<TopicPartition, (u64, Position)>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    /// Readers that may be at the journal at once.
    pub(super) cold_reads: Semaphore,
    is_closed: AtomicBool,
    topics: RwLock<BTreeMap<Arc<str>, Arc<Topic>>>,
    shards: Mutex<HashMap<ShardId, Shard>>,
}

impl Shared {
    /// # Errors
    ///
    /// [`Error::Corrupt`] when a position is of a partition that does not exist.
    pub(super) fn new(store: Store, loaded: Loaded) -> Result<Self, Error> {
        let topics: BTreeMap<_, _> = loaded
            .topics
            .into_iter()
            .map(|info| {
                let name = Arc::clone(&info.spec.name);
                (name, Arc::new(Topic::new(info, &loaded.partitions)))
            })
            .collect();
        let mut places = HashMap::new();
        for partition in topics.values().flat_map(|topic| &topic.partitions) {
            places.insert(partition.uid, partition.place.clone());
        }
        let mut shards: HashMap<ShardId, Shard> = HashMap::new();
        for (shard, epoch) in loaded.fences {
            shards.entry(shard).or_default().epoch = epoch;
        }
        for (shard, uid, position) in loaded.positions {
            let place = places.get(&uid).cloned().ok_or_else(|| {
                Error::Corrupt(format!("shard {shard} has a position in no partition ({uid:x})"))
            })?;
            shards.entry(shard).or_default().positions.insert(place, (uid, position));
        }
        Ok(Self {
            store,
            cold_reads: Semaphore::new(COLD_READS_MAX),
            is_closed: AtomicBool::new(false),
            topics: RwLock::new(topics),
            shards: Mutex::new(shards),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// From here on readers end.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        for topic in self.topics() {
            topic.partitions.iter().for_each(|partition| partition.wake());
        }
    }

    pub(super) fn topics(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.values().cloned().collect()
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    pub(super) fn partition(
        &self,
        place: &TopicPartition,
    ) -> Result<(Arc<Topic>, Arc<Partition>), Error> {
        let topic = self
            .topic(&place.topic)
            .ok_or_else(|| Error::UnknownTopic { topic: place.topic.to_string() })?;
        let partition = usize::try_from(place.partition)
            .ok()
            .and_then(|index| topic.partitions.get(index).cloned())
            .ok_or_else(|| Error::UnknownPartition(place.clone()))?;
        Ok((topic, partition))
    }

    pub(super) fn add_topic(&self, info: TopicInfo) {
        let topic = Arc::new(Topic::new(info, &BTreeMap::new()));
        let name = Arc::clone(&topic.info.spec.name);
        self.topics.write().unwrap_or_else(PoisonError::into_inner).insert(name, topic);
    }

    /// Takes a topic away, and every position in it.
    pub(super) fn remove_topic(&self, topic: &Topic) {
        let name = &topic.info.spec.name;
        self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        topic.partitions.iter().for_each(|partition| partition.delete());
        for shard in self.shards().values_mut() {
            shard.positions.retain(|place, _| place.topic != *name);
        }
    }

    pub(super) fn shards(&self) -> MutexGuard<'_, HashMap<ShardId, Shard>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every position, in order.
    pub(super) fn positions(&self) -> BTreeMap<PositionKey, Position> {
        let shards = self.shards();
        let rows = shards.iter().flat_map(|(shard, state)| {
            state.positions.iter().map(|(place, (_, position))| {
                (PositionKey { shard: *shard, partition: place.clone() }, position.clone())
            })
        });
        rows.collect()
    }

    /// By partition, the lowest committed position: what lies from there on is still needed.
    pub(super) fn needed(&self) -> HashMap<u64, Offset> {
        let mut needed: HashMap<u64, Offset> = HashMap::new();
        for (uid, position) in self.shards().values().flat_map(|it| it.positions.values()) {
            let lowest = needed.entry(*uid).or_insert(position.next);
            *lowest = position.next.min(*lowest);
        }
        needed
    }
}
