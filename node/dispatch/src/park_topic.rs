//! The shell of a shard's park topic: what a commit puts there, what is read back of it, and what is
//! in it when the shard starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{
    Append, BatchBuilder, Bus, Commit, Error, Headers, Offset, Position, Reader, RecordBatch,
    Timestamp, TopicPartition,
};

use crate::command::{Loaded, Park, Wanted};
use crate::driver::ShardConfig;
use crate::envelope::{self, Beginning, View};
use crate::records::RecordRef;

/// What one fetch asks for.
const FETCH_BYTES: usize = 1 << 20;
/// What is read in search of records before those that were found are given back.
const SEARCH_BYTES: usize = 8 << 20;
/// A reader goes on where it is if what is wanted lies no farther ahead.
const SKIP_OFFSETS: i64 = 10_000;
/// Between attempts to read while the bus does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The partition of its park topic that a shard writes; `None` without such a topic.
///
/// # Errors
///
/// [`Error::UnknownTopic`]: what is parked there is owed.
pub(crate) fn place(bus: &dyn Bus, config: &ShardConfig) -> Result<Option<TopicPartition>, Error> {
    let Some(topic) = config.park_topic.as_deref() else { return Ok(None) };
    let unknown = || Error::UnknownTopic { topic: topic.to_owned() };
    let spec = bus.topic(topic).ok_or_else(unknown)?.spec;
    let first = config.partitions.first().map_or(0, |it| it.partition);
    Ok(Some(TopicPartition::new(spec.name, first % spec.partitions.max(1))))
}

/// What a shard finds there when it starts: read to the end before anything else.
///
/// # Errors
///
/// The bus's own, and [`Error::Corrupt`] for an envelope that cannot be read.
pub(crate) async fn begin(
    bus: &dyn Bus,
    config: &ShardConfig,
    place: &TopicPartition,
    positions: &[Position],
) -> Result<Beginning, Error> {
    let marks = bus.watermarks(place).await?;
    let mut view = View::new(&config.partitions, marks.start);
    if marks.start < marks.end {
        // What lies there may end with offsets that hold no record: a mark of our own ends it.
        let mut mark = BatchBuilder::default();
        let key = envelope::mark_key(&config.partitions[0]);
        mark.push(Timestamp::now(), Some(key.as_bytes()), Some(b"1"), Headers::default());
        let batch = mark.finish().expect("a record was pushed");
        let appends = vec![Append { to: place.clone(), batch }];
        let (shard, epoch) = (config.shard, config.epoch);
        let (settles, positions) = (Vec::new(), Vec::new());
        let mark = Commit { shard, epoch, appends, settles, positions };
        let appended = bus.commit(mark).await?;
        let last = appended.first().map_or(marks.end, |it| it.base);
        let mut reader = bus.reader(vec![(place.clone(), marks.start)]).await?;
        while view.end <= last {
            for fetched in reader.fetch(FETCH_BYTES).await? {
                view.read(&fetched.batch);
            }
        }
    }
    if let Some(key) = &view.broken {
        return Err(Error::Corrupt(format!("the envelope of {key} in {place}")));
    }
    Ok(view.finish(positions))
}

/// The envelopes and tombstones of a commit in the making.
#[derive(Debug)]
pub(crate) struct Parker {
    place: TopicPartition,
    partitions: Vec<TopicPartition>,
    envelopes: BatchBuilder,
    tombstones: BatchBuilder,
}

impl Parker {
    pub(crate) fn new(config: &ShardConfig, place: TopicPartition) -> Self {
        let partitions = config.partitions.clone();
        let (envelopes, tombstones) = (BatchBuilder::default(), BatchBuilder::default());
        Self { place, partitions, envelopes, tombstones }
    }

    pub(crate) fn park(&mut self, park: &Park, record: RecordRef<'_>) {
        let key = self.key(record);
        let value = envelope::encode(park, record.view);
        let now = Timestamp::now();
        let headers = envelope::headers(park);
        self.envelopes.push(now, Some(key.as_bytes()), Some(&value), headers.headers());
    }

    pub(crate) fn unpark(&mut self, record: RecordRef<'_>) {
        let key = self.key(record);
        self.tombstones.push(Timestamp::now(), Some(key.as_bytes()), None, Headers::default());
    }

    fn key(&self, record: RecordRef<'_>) -> String {
        envelope::key(&self.partitions[record.partition as usize], record.view.offset)
    }

    /// Adds the envelopes that were gathered to what a commit appends, and gives the tombstones.
    pub(crate) fn finish(&mut self, appends: &mut Vec<Append>) -> Vec<Append> {
        let to = |batch| Append { to: self.place.clone(), batch };
        appends.extend(self.envelopes.finish().map(to));
        self.tombstones.finish().map(to).into_iter().collect()
    }
}

/// Reads parked records back.
#[derive(Debug)]
pub(crate) struct Loader {
    bus: Arc<dyn Bus>,
    place: TopicPartition,
    partitions: Vec<TopicPartition>,
    open: Option<Open>,
}

/// A reader, and what it gave that was not looked at.
#[derive(Debug)]
struct Open {
    reader: Box<dyn Reader>,
    rest: Vec<RecordBatch>,
    next: Offset,
}

impl Loader {
    pub(crate) fn new(bus: Arc<dyn Bus>, place: TopicPartition, config: &ShardConfig) -> Self {
        Self { bus, place, partitions: config.partitions.clone(), open: None }
    }

    /// Reads as many of these as lie close together, the first among them. Waits for a bus that does
    /// not answer.
    ///
    /// # Errors
    ///
    /// What will not get better, and [`Error::Corrupt`] when the first is not there.
    pub(crate) async fn load(&mut self, wanted: &[Wanted]) -> Result<Vec<Loaded>, Error> {
        loop {
            match self.try_load(wanted).await {
                Err(error) if error.is_retryable() => {
                    self.open = None;
                    tokio::time::sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }

    async fn try_load(&mut self, wanted: &[Wanted]) -> Result<Vec<Loaded>, Error> {
        let Some(first) = wanted.first() else { return Ok(Vec::new()) };
        let mut missing: BTreeMap<(u32, Offset), Offset> =
            wanted.iter().map(|it| ((it.partition, it.offset), it.place)).collect();
        let marks = self.bus.watermarks(&self.place).await?;
        let from = first.place.max(marks.start);
        let mut open = match self.open.take() {
            Some(open) if open.next <= from && from.0 - open.next.0 < SKIP_OFFSETS => open,
            _ => {
                let reader = self.bus.reader(vec![(self.place.clone(), from)]).await?;
                Open { reader, rest: Vec::new(), next: from }
            }
        };
        let (mut loaded, mut searched) = (Vec::new(), 0);
        while !missing.is_empty() && open.next < marks.end {
            if SEARCH_BYTES < searched && !loaded.is_empty() {
                break;
            }
            if open.rest.is_empty() {
                let fetched = tokio::time::timeout(PAUSE, open.reader.fetch(FETCH_BYTES)).await;
                // What is left may be offsets that hold no record.
                let Ok(fetched) = fetched else { break };
                open.rest.extend(fetched?.into_iter().rev().map(|it| it.batch));
            }
            let Some(batch) = open.rest.pop() else { continue };
            searched += batch.as_bytes().len();
            for record in batch.iter() {
                open.next = record.offset.next();
                let Some(it) = envelope::open(&batch, &record, &self.partitions)
                    .filter(|_| record.offset >= from)
                else {
                    continue;
                };
                if missing.remove(&(it.partition, it.batch.base())).is_some() {
                    loaded.push(it);
                }
                if missing.is_empty() {
                    break;
                }
            }
            open.rest.extend(batch.from_offset(open.next));
        }
        let is_there = !missing.contains_key(&(first.partition, first.offset));
        if !is_there && loaded.is_empty() {
            tracing::warn!(place = %self.place, offset = from.0, "a parked record is not there yet");
        }
        if !is_there && marks.end <= open.next {
            let key = envelope::key(&self.partitions[first.partition as usize], first.offset);
            return Err(Error::Corrupt(format!("the envelope of {key} is not in {}", self.place)));
        }
        if open.next < marks.end {
            self.open = Some(open);
        }
        Ok(loaded)
    }
}
