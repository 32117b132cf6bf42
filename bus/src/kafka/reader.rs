//! Reads assigned partitions: takes what librdkafka has fetched ahead straight from each
//! partition's queue into a batch, and sleeps until a queue of its own is no longer empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka_ffi::{Message, Wake};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Brokers;
use super::lanes::Seat;
use super::topics::{Topic, blocking};
use crate::{
    BatchBuilder, Error, Fetched, HeadersBuilder, Offset, Reader, RecordBatch, Timestamp,
    TopicPartition, metrics as names,
};

/// Records of one batch at most: what dispatch takes at once.
const RECORDS_MAX: usize = 512;
/// What a record is taken for before it is seen, so that a small fetch stays small.
const RECORD_BYTES: usize = 256;
/// A queue that does not wake its reader would stop a shard for ever: it is looked at this often
/// without being asked, and counted when that found something.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// When all readers look next: at the same time, so that hundreds of them wake the node once.
fn look_at(opened_at: Instant) -> Instant {
    let looks = opened_at.elapsed().as_millis() / LOOK_EVERY.as_millis() + 1;
    opened_at + LOOK_EVERY * u32::try_from(looks).unwrap_or(u32::MAX)
}

/// Which partitions of a reader may have something.
#[derive(Debug, Default)]
struct Ready {
    woken: Mutex<Vec<usize>>,
    notify: Notify,
}

impl Ready {
    fn wake(&self, index: usize) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(index);
        self.notify.notify_one();
    }

    fn wake_of(ready: &Arc<Self>, index: usize) -> Wake {
        let ready = Arc::clone(ready);
        Box::new(move || ready.wake(index))
    }

    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A reader of Kafka partitions.
#[derive(Debug)]
pub(super) struct KafkaReader {
    brokers: Arc<Brokers>,
    cursors: Vec<Cursor>,
    ready: Arc<Ready>,
    /// Cursors that may have something, in the order in which they get their turn.
    turns: VecDeque<usize>,
    /// What a partition said instead of a record, until it is understood.
    trouble: Option<Trouble>,
    builder: BatchBuilder,
    headers: HeadersBuilder,
}

#[derive(Debug)]
struct Cursor {
    seat: Seat,
    topic: Arc<Topic>,
    next: Offset,
    has_turn: bool,
}

#[derive(Clone, Debug)]
enum Trouble {
    /// An error of its partition.
    Said { cursor: usize, code: Code, reason: String },
    /// What was taken may be of another topic of this name.
    OtherTopic { cursor: usize },
}

impl KafkaReader {
    pub(super) async fn new(
        brokers: Arc<Brokers>,
        assigned: Vec<(TopicPartition, Offset)>,
    ) -> Result<Self, Error> {
        let mut topics = Vec::with_capacity(assigned.len());
        for (place, _) in &assigned {
            topics.push(brokers.topics.find(place).await?);
        }
        let ready = Arc::new(Ready::default());
        let (shared, woken) = (Arc::clone(&brokers), Arc::clone(&ready));
        let cursors = blocking(move || {
            let mut cursors = Vec::with_capacity(assigned.len());
            for (index, ((place, next), topic)) in assigned.into_iter().zip(topics).enumerate() {
                // A negative offset would mean "the end" to librdkafka; -1 is out of range here.
                let from = Offset(next.0.max(0));
                let wake = Ready::wake_of(&woken, index);
                let seat = shared.lanes.sit(place, &shared.topics, topic.id(), from, wake)?;
                cursors.push(Cursor { seat, topic, next, has_turn: false });
            }
            Ok::<_, Error>(cursors)
        });
        let cursors = cursors.await??;
        let below = cursors.iter().position(|cursor| cursor.next < Offset(0));
        let trouble = below.map(|cursor| Trouble::Said {
            cursor,
            code: Code::OffsetOutOfRange,
            reason: "an offset below zero".to_owned(),
        });
        let (builder, headers) = (BatchBuilder::default(), HeadersBuilder::default());
        let turns = VecDeque::new();
        let mut reader = Self { brokers, cursors, ready, turns, trouble, builder, headers };
        // What a reader before left behind does not wake this one.
        reader.enqueue_all();
        Ok(reader)
    }

    fn enqueue(&mut self, index: usize) {
        if !std::mem::replace(&mut self.cursors[index].has_turn, true) {
            self.turns.push_back(index);
        }
    }

    fn enqueue_all(&mut self) {
        (0..self.cursors.len()).for_each(|index| self.enqueue(index));
    }

    /// What there is now, each partition in its turn.
    fn gather(&mut self, bytes_max: usize) -> Vec<Fetched> {
        for index in self.ready.take() {
            self.enqueue(index);
        }
        let (mut fetched, mut bytes) = (Vec::new(), 0);
        while self.trouble.is_none() && (fetched.is_empty() || bytes < bytes_max) {
            let Some(index) = self.turns.pop_front() else { break };
            let at_most = (bytes_max.saturating_sub(bytes) / RECORD_BYTES).clamp(1, RECORDS_MAX);
            self.cursors[index].has_turn = false;
            let (batches, taken) = self.take(index, at_most);
            for batch in batches {
                bytes += batch.as_bytes().len();
                let partition = self.cursors[index].seat.place.clone();
                fetched.push(Fetched { partition, batch });
            }
            if taken == at_most {
                self.enqueue(index);
            }
        }
        fetched
    }

    /// Up to `at_most` messages of a partition as batches: one, unless its offsets have a hole
    /// wider than a batch can say.
    fn take(&mut self, index: usize, at_most: usize) -> (Vec<RecordBatch>, usize) {
        let Self { cursors, builder, headers, trouble, .. } = self;
        let cursor = &mut cursors[index];
        let (mut batches, mut base) = (Vec::new(), Offset(0));
        let before = cursor.next;
        let next = &mut cursor.next;
        let taken = cursor.seat.queue().take(at_most, |message| {
            if let Some((code, reason)) = message.error() {
                *trouble = Some(Trouble::Said { cursor: index, code, reason });
                return;
            }
            let offset = Offset(message.offset());
            if offset < *next {
                // A message can come again after an assignment; nothing is seen twice.
                return;
            }
            if builder.is_empty() {
                base = offset;
            }
            let mut delta = u32::try_from(offset.0 - base.0).ok().filter(|it| *it < u32::MAX);
            if delta.is_none() {
                batches.extend(builder.finish().map(|batch| batch.with_base(base)));
                (base, delta) = (offset, Some(0));
            }
            builder.skip_to(delta.unwrap_or_default());
            push(builder, headers, message);
            *next = offset.next();
        });
        batches.extend(builder.finish().map(|batch| batch.with_base(base)));
        if 0 < taken && !cursor.seat.reads(cursor.topic.id()) {
            batches.clear();
            cursor.next = before;
            *trouble = Some(Trouble::OtherTopic { cursor: index });
        }
        if !batches.is_empty() {
            self.brokers.saw(&cursor.seat.place, cursor.next);
        }
        (batches, taken)
    }

    /// What is behind a message that is no record: an error, or nothing that lasts.
    async fn understand(&mut self, trouble: Trouble) -> Result<(), Error> {
        let (index, code, reason) = match trouble {
            Trouble::Said { cursor, code, reason } => (cursor, code, reason),
            Trouble::OtherTopic { cursor } => return self.sit_anew(cursor).await,
        };
        let cursor = &self.cursors[index];
        let place = cursor.seat.place.clone();
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset => {
                // Also what is first said of a topic that was deleted and made again.
                self.brokers.topics.refresh(&[&place.topic]).await?;
                cursor.topic.check()?;
                let marks = self.brokers.watermarks(&place).await?;
                Err(Error::OffsetOutOfRange {
                    partition: place,
                    offset: cursor.next,
                    start: marks.start,
                    end: marks.end,
                })
            }
            Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicId => {
                self.brokers.topics.refresh(&[&place.topic]).await?;
                cursor.topic.check()?;
                self.trouble = None;
                Ok(())
            }
            Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed => {
                Err(Error::Kafka { action: "read a partition", reason })
            }
            _ => {
                tracing::warn!(partition = %place, ?code, reason, "could not fetch: trying again");
                self.trouble = None;
                Ok(())
            }
        }
    }
}

impl KafkaReader {
    /// What was taken is not of the topic that is read: that one is gone, or the lane has not learned
    /// yet that it is there, and another lane has to do.
    async fn sit_anew(&mut self, index: usize) -> Result<(), Error> {
        let cursor = &self.cursors[index];
        let place = cursor.seat.place.clone();
        self.brokers.topics.refresh(&[&place.topic]).await?;
        cursor.topic.check()?;
        tracing::warn!(partition = %place, "a client reads another topic of this name: asking anew");
        let (id, next) = (cursor.topic.id(), cursor.next);
        let (shared, wake) = (Arc::clone(&self.brokers), Ready::wake_of(&self.ready, index));
        let sit = move || shared.lanes.sit(place, &shared.topics, id, next, wake);
        self.cursors[index].seat = blocking(sit).await??;
        self.enqueue(index);
        self.trouble = None;
        Ok(())
    }
}

fn push(builder: &mut BatchBuilder, headers: &mut HeadersBuilder, message: &Message<'_>) {
    headers.clear();
    message.headers(|name, value| headers.push(name, value));
    let time = Timestamp(message.timestamp().unwrap_or(-1));
    builder.push(time, message.key(), message.value(), headers.headers());
}

#[async_trait]
impl Reader for KafkaReader {
    async fn fetch(&mut self, bytes_max: usize) -> Result<Vec<Fetched>, Error> {
        let mut looked = false;
        loop {
            // Before the look: what changes after it wakes us.
            let brokers = Arc::clone(&self.brokers);
            let mut changed = std::pin::pin!(brokers.topics.changed.notified());
            changed.as_mut().enable();
            self.brokers.check_open()?;
            for cursor in &self.cursors {
                cursor.topic.check()?;
            }
            let fetched = self.gather(bytes_max.max(1));
            if !fetched.is_empty() {
                let records: usize = fetched.iter().map(|it| it.batch.len()).sum();
                metrics::counter!(names::READ_RECORDS).increment(records as u64);
                if looked {
                    metrics::counter!(names::KAFKA_LATE_WAKES).increment(1);
                }
                return Ok(fetched);
            }
            if let Some(trouble) = self.trouble.clone() {
                match self.understand(trouble).await {
                    Ok(()) => continue,
                    // The brokers are away: what it was about is asked again when they are back.
                    Err(error) if error.is_retryable() => {
                        tokio::time::sleep(LOOK_EVERY).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            looked = false;
            tokio::select! {
                () = self.ready.notify.notified() => {}
                () = changed => {}
                () = tokio::time::sleep_until(look_at(self.brokers.opened_at)) => {
                    looked = true;
                    self.enqueue_all();
                }
            }
        }
    }

    fn behind(&self) -> u64 {
        let behind = |cursor: &Cursor| {
            let end = cursor.seat.queue().end_known().unwrap_or_default();
            u64::try_from(end - cursor.next.0).unwrap_or(0)
        };
        self.cursors.iter().map(behind).sum()
    }
}
