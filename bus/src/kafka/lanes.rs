//! Lanes: few reading clients for many readers. A partition joins the first lane that does not
//! read it yet, so that there are as many lanes as readers of one partition at most, not as
//! readers. librdkafka costs 4 threads and 8 descriptors per client.
//!
//! A lane's own queue carries errors and the log only: each partition has its queue to itself,
//! and its reader takes from it directly. A reader that takes nothing leaves its queue full,
//! which is backpressure; `pause` would throw the prefetch away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{ClientContext as _, TopicPartitionList};
use rdkafka_ffi::{LogQueue, PartitionQueue, Wake};

use super::KafkaConfig;
use super::health::{Context, Health};
use super::topics::{Topics, folded};
use crate::{Error, Offset, TopicPartition};

/// How often a lane's thread looks whether it should end.
const POLL: Duration = Duration::from_millis(200);

/// One reading client.
pub(super) struct Lane {
    consumer: Arc<BaseConsumer<Context>>,
    said: Arc<Said>,
    /// The topics whose metadata it has, with the ids they had.
    known: Mutex<BTreeSet<(Arc<str>, u64)>>,
    taken: Mutex<BTreeSet<TopicPartition>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("taken", &self.taken().len()).finish_non_exhaustive()
    }
}

impl Lane {
    fn start(config: &KafkaConfig, health: &Arc<Health>, name: &str) -> Result<Self, Error> {
        let context = Context { health: Arc::clone(health) };
        let made = BaseConsumer::from_config_and_context(&config.lane(name), context);
        let consumer =
            made.map_err(|error| health.client_error("make a reading client", &error))?;
        let consumer = Arc::new(consumer);
        let no_log = || Error::Kafka { action: "read a client's log", reason: name.to_owned() };
        let said = Arc::new(Said::of(&consumer).ok_or_else(no_log)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (polled, stopped) = (Arc::clone(&consumer), Arc::clone(&stop));
        let heard = Arc::clone(&said);
        let thread = std::thread::Builder::new()
            .name(format!("millrace-{name}"))
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    // Errors of the client went to its context.
                    if let Some(Ok(_)) = polled.poll(POLL) {
                        tracing::error!("a record came to a lane instead of its partition");
                    }
                    drop(heard.listen());
                }
            })
            .map_err(|source| Error::Io { action: "start a lane's thread".into(), source })?;
        let thread = Mutex::new(Some(thread));
        let known = Mutex::default();
        Ok(Self { consumer, said, known, taken: Mutex::default(), stop, thread })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<TopicPartition>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<(Arc<str>, u64)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for all metadata. Only a lane that fetches nothing yet is answered at once: brokers
    /// answer a connection's requests one after another, and a fetch may wait for half a second.
    fn learn_all(&self, topics: &Topics, timeout: Duration) -> KafkaResult<()> {
        // Seen before it asks: what is made again after that has another id.
        let ids = topics.ids();
        let listed = self.consumer.fetch_metadata(None, timeout)?;
        let names: BTreeSet<&str> = listed.topics().iter().map(|topic| topic.name()).collect();
        let listed = ids.into_iter().filter(|(name, _)| names.contains(&**name));
        self.known().extend(listed);
        Ok(())
    }

    /// Sees to it that the client knows where a topic's partitions are: else the first record of
    /// an assignment waits for a tick of up to a second.
    fn learn(&self, topic: &Arc<str>, id: u64, timeout: Duration) -> KafkaResult<()> {
        let key = (Arc::clone(topic), id);
        let is_known = self.known().contains(&key);
        if !is_known {
            self.consumer.fetch_metadata(Some(topic), timeout)?;
            self.known().insert(key);
        }
        Ok(())
    }

    pub(super) const fn consumer(&self) -> &Arc<BaseConsumer<Context>> {
        &self.consumer
    }
}

/// What a lane said so far.
///
/// librdkafka goes on in a topic that is made again, at the offset where it was in the one before, and
/// says so in its log alone, before it asks for a record of the new one.
struct Said {
    log: LogQueue<Context>,
    context: Arc<Context>,
    /// By topic the id under which it is read.
    reads: Mutex<BTreeMap<String, u64>>,
}

impl Said {
    fn of(consumer: &Arc<BaseConsumer<Context>>) -> Option<Self> {
        let context = Arc::clone(consumer.context());
        Some(Self { log: LogQueue::of(Arc::clone(consumer))?, context, reads: Mutex::default() })
    }

    /// All that it said until now, and no less for whoever comes while another listens.
    fn listen(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        self.log.take(|level, facility, text| match changed_id(text) {
            Some((topic, id)) => drop(reads.insert(topic.to_owned(), id)),
            None => self.context.log(level_of(level), facility, text),
        });
        reads
    }
}

/// `Topic NAME changed id from ID to ID`, as librdkafka 2.12 says it (rdkafka_topic.c): the name, and
/// what [`Topics`] makes of the new id.
fn changed_id(text: &str) -> Option<(&str, u64)> {
    let (said, id) = text.rsplit_once(" to ")?;
    let topic = said.rsplit_once(" changed id from ")?.0.rsplit(' ').next()?;
    let bytes: [u8; 16] = STANDARD_NO_PAD.decode(id).ok()?.try_into().ok()?;
    Some((topic, folded(u128::from_be_bytes(bytes))))
}

/// As syslog counts them.
const fn level_of(level: i32) -> RDKafkaLogLevel {
    match level {
        ..=0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        7.. => RDKafkaLogLevel::Debug,
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    config: KafkaConfig,
    health: Arc<Health>,
    lanes: Mutex<Vec<Arc<Lane>>>,
    asking: Mutex<Option<Arc<Lane>>>,
}

impl Lanes {
    pub(super) fn new(config: KafkaConfig, health: Arc<Health>) -> Self {
        Self { config, health, lanes: Mutex::default(), asking: Mutex::default() }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client for questions. It never fetches, so that its answers never wait for a fetch.
    pub(super) fn asking(&self) -> Result<Arc<Lane>, Error> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = &*asking {
            return Ok(Arc::clone(lane));
        }
        let lane = Arc::new(Lane::start(&self.config, &self.health, "questions")?);
        Ok(Arc::clone(asking.insert(lane)))
    }

    /// The first lane that does not read `place` yet.
    fn claim(&self, place: &TopicPartition, topics: &Topics) -> Result<Arc<Lane>, Error> {
        let mut lanes = self.lanes();
        for lane in &*lanes {
            if lane.taken().insert(place.clone()) {
                return Ok(Arc::clone(lane));
            }
        }
        let name = format!("lane-{}", lanes.len());
        let lane = Arc::new(Lane::start(&self.config, &self.health, &name)?);
        let learned = lane.learn_all(topics, self.config.request_timeout);
        learned.map_err(|error| self.health.client_error("list the topics", &error))?;
        lane.taken().insert(place.clone());
        lanes.push(Arc::clone(&lane));
        Ok(lane)
    }

    /// Reads `place` from `next` on, in a lane of its choice. Blocks on the brokers.
    pub(super) fn sit(
        &self,
        place: TopicPartition,
        topics: &Topics,
        topic_id: u64,
        next: Offset,
        wake: Wake,
    ) -> Result<Seat, Error> {
        let lane = self.claim(&place, topics)?;
        let mut seat = Seat { lane, place, queue: None };
        let timeout = self.config.request_timeout;
        let known = seat.lane.learn(&seat.place.topic, topic_id, timeout);
        known.map_err(|error| self.health.client_error("read a topic's metadata", &error))?;
        let (topic, partition) = (&seat.place.topic, seat.place.partition);
        let consumer = Arc::clone(&seat.lane.consumer);
        let queue = PartitionQueue::split(consumer, topic, partition, wake);
        let unknown = || Error::TopicName { topic: topic.to_string() };
        seat.queue = Some(queue.ok_or_else(unknown)?);
        let list = list_of(&seat.place, rdkafka::Offset::Offset(next.0));
        let assigned = seat.lane.consumer.incremental_assign(&list);
        assigned.map_err(|error| self.health.client_error("assign a partition", &error))?;
        Ok(seat)
    }

    /// Ends every lane. Blocks until their threads are gone.
    pub(super) fn end(&self) {
        let mut lanes = std::mem::take(&mut *self.lanes());
        lanes.extend(self.asking.lock().unwrap_or_else(PoisonError::into_inner).take());
        for lane in &lanes {
            lane.stop.store(true, Ordering::Relaxed);
        }
        for lane in lanes {
            let thread = lane.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                // It panics never; if it did, that was said.
                drop(thread.join());
            }
        }
    }
}

fn list_of(place: &TopicPartition, offset: rdkafka::Offset) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(1);
    let added = list.add_partition_offset(&place.topic, place.partition, offset);
    added.expect("an offset from zero on can be represented");
    list
}

/// One partition that is read in a lane. Dropping it ends the reading.
#[derive(Debug)]
pub(super) struct Seat {
    lane: Arc<Lane>,
    pub(super) place: TopicPartition,
    queue: Option<PartitionQueue<Context>>,
}

impl Seat {
    /// Whether what was taken so far can be of the topic with this id.
    pub(super) fn reads(&self, topic_id: u64) -> bool {
        self.lane.said.listen().get(&*self.place.topic).is_none_or(|id| *id == topic_id)
    }

    pub(super) fn queue(&self) -> &PartitionQueue<Context> {
        self.queue.as_ref().expect("a seat that was given has its queue")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            let list = list_of(&self.place, rdkafka::Offset::Invalid);
            if let Err(error) = self.lane.consumer.incremental_unassign(&list) {
                tracing::debug!(%error, partition = %self.place, "could not unassign");
            }
            // What was fetched ahead is of no use to the next reader, and would stay in memory.
            while queue.take(1_000, |_| {}) == 1_000 {}
        }
        self.lane.taken().remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_id_of_a_topic_is_read_as_it_is_written() {
        let line = "[thrd:main]: Topic owned changed id from AAAAAAAAAAAAAAAAAAAAAA to \
                    AAAAAAAAAAEAAAAAAAAAAg";
        assert_eq!(changed_id(line), Some(("owned", 1 ^ 2)));
        assert_eq!(changed_id("[thrd:main]: Topic owned [0] Leader 1 Epoch 0"), None);
        assert_eq!(changed_id("Topic owned changed id from a to b"), None);
    }
}
