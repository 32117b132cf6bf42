//! The producers: one per size class of the output topics' limits, all idempotent and with
//! `acks=all`. A batch of records is handed over in one go and is done when the brokers have
//! acknowledged its last record; a record costs a decrement, not a future.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::producer::{
    BaseProducer, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
};
use rdkafka_ffi::{Outgoing, ProducerTopic};
use tokio::sync::oneshot;

use super::KafkaConfig;
use super::health::{Context, Health};
use super::topics::{Topic, batch_bytes_max};
use crate::{Append, Appended, Error, Offset, TopicPartition};

/// The limit of records that brokers have, and that we make topics with, where nobody says another.
const USUAL_BYTES_MAX: usize = 1 << 20;
/// How often a full queue is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(5);
/// How often a producer's thread looks whether it should end.
const POLL: Duration = Duration::from_millis(100);

/// Why records were not acknowledged: the first of their errors.
type Refusal = (Code, String);
type Outcome = Result<Offset, Refusal>;

/// Batches that wait for acknowledgements. A record's number is its batch's place here, doubled,
/// and one more for the first of the batch, whose offset is the batch's base.
#[derive(Debug, Default)]
struct Pending {
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    batches: Vec<Option<Waiting>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Waiting {
    left: usize,
    base: Offset,
    refused: Option<Refusal>,
    done: oneshot::Sender<Outcome>,
}

impl Pending {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, records: usize) -> (usize, oneshot::Receiver<Outcome>) {
        let (done, outcome) = oneshot::channel();
        let waiting = Waiting { left: records, base: Offset(0), refused: None, done };
        let mut slots = self.slots();
        let slot = match slots.free.pop() {
            Some(slot) => {
                slots.batches[slot] = Some(waiting);
                slot
            }
            None => {
                slots.batches.push(Some(waiting));
                slots.batches.len() - 1
            }
        };
        (slot, outcome)
    }

    /// `records` of a batch are settled: acknowledged, refused, or never handed over.
    fn settle(&self, slot: usize, records: usize, base: Option<Offset>, refused: Option<Refusal>) {
        let mut slots = self.slots();
        let Some(waiting) = slots.batches.get_mut(slot).and_then(Option::as_mut) else {
            tracing::error!(slot, "an acknowledgement of no batch");
            return;
        };
        waiting.left = waiting.left.saturating_sub(records);
        if let Some(base) = base {
            waiting.base = base;
        }
        if let Some(refused) = refused {
            waiting.refused.get_or_insert(refused);
        }
        if waiting.left == 0 {
            let waiting = slots.batches[slot].take();
            slots.free.push(slot);
            drop(slots);
            if let Some(Waiting { base, refused, done, .. }) = waiting {
                // Nobody waits any more when the caller was dropped.
                drop(done.send(refused.map_or(Ok(base), Err)));
            }
        }
    }
}

/// The context of a producer: takes the acknowledgements.
#[derive(Debug)]
struct Acks {
    context: Context,
    pending: Arc<Pending>,
}

impl ClientContext for Acks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Acks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let (slot, is_first) = (number / 2, number % 2 == 1);
        match result {
            Ok(message) => {
                let base = is_first.then(|| Offset(message.offset()));
                self.pending.settle(slot, 1, base, None);
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                self.pending.settle(slot, 1, None, Some((code, code.to_string())));
            }
        }
    }
}

/// One producer, for topics whose limit is at least that of its class.
struct Producer {
    client: Arc<BaseProducer<Acks>>,
    pending: Arc<Pending>,
    topics: Mutex<BTreeMap<Arc<str>, Arc<ProducerTopic<Acks>>>>,
    /// Held while a batch is handed over: its records follow one another.
    order: Mutex<()>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Producer {
    fn start(config: &KafkaConfig, health: &Arc<Health>, limit: usize) -> Result<Self, Error> {
        let pending = Arc::new(Pending::default());
        let context = Context { health: Arc::clone(health) };
        let acks = Acks { context, pending: Arc::clone(&pending) };
        let client = BaseProducer::from_config_and_context(&config.producer(limit), acks);
        let client = client.map_err(|error| health.client_error("make a producer", &error))?;
        let client = Arc::new(client);
        let stop = Arc::new(AtomicBool::new(false));
        let (polled, stopped) = (Arc::clone(&client), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("millrace-acks".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    polled.poll(POLL);
                }
            })
            .map_err(|source| Error::Io { action: "start a producer's thread".into(), source })?;
        let thread = Mutex::new(Some(thread));
        let (topics, order) = (Mutex::default(), Mutex::default());
        Ok(Self { client, pending, topics, order, stop, thread })
    }

    fn topic(&self, name: &Arc<str>) -> Result<Arc<ProducerTopic<Acks>>, Refusal> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(name) {
            return Ok(Arc::clone(topic));
        }
        let topic = ProducerTopic::new(Arc::clone(&self.client), name);
        let topic = Arc::new(topic.map_err(|code| (code, code.to_string()))?);
        topics.insert(Arc::clone(name), Arc::clone(&topic));
        Ok(topic)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// All producers.
#[derive(Debug)]
pub(super) struct Producers {
    config: KafkaConfig,
    health: Arc<Health>,
    by_class: Mutex<BTreeMap<u32, Arc<Producer>>>,
}

/// Records of a batch that were not handed over: settled when it is dropped, so that a caller
/// that gives up in between leaves nothing behind.
struct Unsent<'a> {
    pending: &'a Pending,
    slot: usize,
    left: usize,
    refused: Option<Refusal>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if 0 < self.left {
            let refused = self.refused.take();
            let refused = refused.or_else(|| Some((Code::PurgeQueue, "given up".to_owned())));
            self.pending.settle(self.slot, self.left, None, refused);
        }
    }
}

impl Producers {
    pub(super) fn new(config: KafkaConfig, health: Arc<Health>) -> Self {
        Self { config, health, by_class: Mutex::default() }
    }

    /// Makes the producer that most topics need before there is anything for it: librdkafka asks for
    /// a producer's id half a second after it was made, and the first batch waits for that.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.of(USUAL_BYTES_MAX).map(drop)
    }

    /// The producer whose batches fit a topic of this limit: that of the largest power of two
    /// below it, so that there are few however the topics differ.
    fn of(&self, record_bytes_max: usize) -> Result<Arc<Producer>, Error> {
        let class = batch_bytes_max(record_bytes_max).ilog2();
        let mut by_class = self.by_class.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = by_class.get(&class) {
            return Ok(Arc::clone(producer));
        }
        // 1 GB is librdkafka's own limit, and half of it for a single record's sake.
        let limit = 1_usize << class.min(28);
        let producer = Arc::new(Producer::start(&self.config, &self.health, limit)?);
        by_class.insert(class, Arc::clone(&producer));
        Ok(producer)
    }

    /// Hands batches over, in order, and waits until all are acknowledged.
    pub(super) async fn send(
        &self,
        appends: &[(Append, Arc<Topic>)],
    ) -> Result<Vec<Appended>, Error> {
        let mut outcomes = Vec::with_capacity(appends.len());
        for (append, topic) in appends {
            let producer = self.of(topic.record_bytes_max())?;
            outcomes.push(self.hand_over(&producer, append).await);
        }
        let mut appended = Vec::with_capacity(appends.len());
        let mut failed = None;
        for (outcome, (append, topic)) in outcomes.into_iter().zip(appends) {
            match outcome.await {
                Ok(Ok(base)) => appended.push(Appended { base }),
                Ok(Err(refused)) => {
                    let error = self.error(refused, &append.to, topic);
                    failed.get_or_insert(error);
                }
                Err(_ended) => drop(failed.get_or_insert(Error::Closed)),
            }
        }
        if !appended.is_empty() {
            self.health.answered();
        }
        failed.map_or(Ok(appended), Err)
    }

    async fn hand_over(&self, producer: &Producer, append: &Append) -> oneshot::Receiver<Outcome> {
        let Append { to, batch } = append;
        let (slot, outcome) = producer.pending.add(batch.len());
        let (pending, left) = (&*producer.pending, batch.len());
        let mut unsent = Unsent { pending, slot, left, refused: None };
        let topic = match producer.topic(&to.topic) {
            Ok(topic) => topic,
            Err(refused) => {
                unsent.refused = Some(refused);
                return outcome;
            }
        };
        let mut records = batch.iter().enumerate().peekable();
        loop {
            let order = producer.order.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((index, record)) = records.peek() {
                let outgoing = Outgoing {
                    partition: to.partition,
                    timestamp: record.timestamp.0,
                    key: record.key,
                    value: record.value,
                    header_count: record.headers.len() as usize,
                    headers: record.headers.iter(),
                };
                match topic.produce(outgoing, 2 * slot + usize::from(*index == 0)) {
                    Ok(()) => {
                        unsent.left -= 1;
                        records.next();
                    }
                    // Backpressure: the brokers are slower, or away.
                    Err(Code::QueueFull) => break,
                    Err(code) => {
                        unsent.refused = Some((code, code.to_string()));
                        return outcome;
                    }
                }
            }
            drop(order);
            if unsent.left == 0 {
                return outcome;
            }
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }

    fn error(&self, (code, reason): Refusal, to: &TopicPartition, topic: &Topic) -> Error {
        match code {
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownTopicId => {
                Error::UnknownTopic { topic: to.topic.to_string() }
            }
            Code::UnknownPartition => Error::UnknownPartition(to.clone()),
            Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => {
                let limit_bytes = topic.record_bytes_max();
                Error::TooLarge { partition: to.clone(), bytes: limit_bytes, limit_bytes }
            }
            code => self.health.error("append records", code, reason),
        }
    }

    /// Gives up what was not acknowledged, and ends the producers' threads. Blocks.
    pub(super) fn end(&self) {
        let by_class =
            std::mem::take(&mut *self.by_class.lock().unwrap_or_else(PoisonError::into_inner));
        for producer in by_class.values() {
            producer.client.purge(PurgeConfig::default().queue().inflight());
            if let Err(error) = producer.client.flush(Duration::from_secs(1)) {
                tracing::debug!(%error, "could not give up what was on its way");
            }
            producer.stop.store(true, Ordering::Relaxed);
        }
        for producer in by_class.into_values() {
            let thread = producer.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread {
                // It panics never; if it did, that was said.
                drop(thread.join());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_done_with_its_last_record() {
        let pending = Pending::default();
        let (first, mut first_done) = pending.add(3);
        let (second, mut second_done) = pending.add(1);
        pending.settle(first, 1, Some(Offset(40)), None);
        pending.settle(first, 1, None, None);
        first_done.try_recv().unwrap_err();
        pending.settle(second, 1, None, Some((Code::MessageTimedOut, "late".to_owned())));
        let refused = second_done.try_recv().unwrap();
        assert_eq!(refused, Err((Code::MessageTimedOut, "late".to_owned())));
        pending.settle(first, 1, None, None);
        assert_eq!(first_done.try_recv().unwrap(), Ok(Offset(40)));
        assert_eq!(pending.add(1).0, first, "places are used again");
    }

    #[test]
    fn what_was_never_handed_over_is_settled_too() {
        let pending = Pending::default();
        let (slot, mut done) = pending.add(5);
        let unsent = Unsent { pending: &pending, slot, left: 3, refused: None };
        pending.settle(slot, 1, Some(Offset(7)), None);
        drop(unsent);
        done.try_recv().unwrap_err();
        pending.settle(slot, 1, None, None);
        assert!(matches!(done.try_recv().unwrap(), Err((Code::PurgeQueue, _))));
    }
}
