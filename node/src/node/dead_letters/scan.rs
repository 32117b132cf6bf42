//! Reading a topic of dead letters: which are meant, which are done with, and the edits that wait
//! for some of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bus::{
    Bus, Offset, Position, PositionKey, RecordView, ShardId, Timestamp, TopicInfo, TopicPartition,
    Watermarks,
};
use bytes::Bytes;
use dispatch::DeadHead;
use gateway::api::{DeadLetterCause, DeadLetterList};

use super::done::Done;
use crate::node::status::rfc3339;

/// What one look into the bus takes.
const LOOK_BYTES: usize = 1 << 20;
/// How long records that are there may take. Offsets may have gaps up to the end, so that an end
/// ahead is no promise.
const PRESENT_MAX: Duration = Duration::from_secs(5);
/// How many causes a list tells apart.
const CAUSES_MAX: usize = 1_000;
/// How many places a cause is shown with.
const SAMPLES: usize = 3;
/// How many keys are remembered to see which dead letters overtake others.
const KEYS_MAX: usize = 1 << 20;

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) trigger: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) since: Option<Timestamp>,
}

impl Choice {
    pub(super) fn takes(&self, head: &DeadHead<'_>) -> bool {
        self.trigger.as_ref().is_none_or(|it| head.trigger == it)
            && self.cause.as_ref().is_none_or(|it| head.error_type == it || head.cause == it)
            && self.since.is_none_or(|since| since <= head.at)
    }

    /// Whether every dead letter is meant.
    pub(super) const fn is_all(&self) -> bool {
        self.trigger.is_none() && self.cause.is_none() && self.since.is_none()
    }
}

/// New values of dead letters, by partition and offset.
pub(super) type Edits = BTreeMap<(i32, i64), Bytes>;

/// A topic of dead letters.
#[derive(Clone, Debug)]
pub(super) struct Letters {
    pub(super) info: TopicInfo,
    /// Which are done with: a position of each partition.
    pub(super) positions: BTreeMap<i32, Position>,
    pub(super) edits: Edits,
}

impl Letters {
    /// What is known of a topic. `redriver` is who put back letters of it before.
    pub(super) async fn look(
        bus: &dyn Bus,
        info: TopicInfo,
        redriver: Option<ShardId>,
    ) -> Result<Self, bus::Error> {
        let mut positions: BTreeMap<i32, Position> = BTreeMap::new();
        if let Some(redriver) = redriver {
            // Another node may have done it last; what this one did is known here a second sooner.
            let anybody = bus.settled(&[redriver]).await?;
            for (PositionKey { shard, partition }, position) in
                anybody.into_iter().chain(bus.positions().await?)
            {
                let known = positions.get(&partition.partition);
                let is_newer = known.is_none_or(|known| known.epoch <= position.epoch);
                if shard == redriver && partition.topic == info.spec.name && is_newer {
                    positions.insert(partition.partition, position);
                }
            }
        }
        let edits = edits(bus, &info).await?;
        Ok(Self { info, positions, edits })
    }

    pub(super) fn places(&self) -> impl Iterator<Item = TopicPartition> {
        let name = Arc::clone(&self.info.spec.name);
        (0..self.info.spec.partitions).map(move |it| TopicPartition::new(Arc::clone(&name), it))
    }

    pub(super) fn done(&self, partition: i32, marks: Watermarks) -> Done {
        Done::of(self.positions.get(&partition), marks.start)
    }

    /// The open ones that are meant, by cause.
    pub(super) async fn list(
        &self,
        bus: &dyn Bus,
        choice: &Choice,
    ) -> Result<DeadLetterList, bus::Error> {
        let mut list = DeadLetterList {
            api: gateway::api::API,
            topic: self.info.spec.name.to_string(),
            ..DeadLetterList::default()
        };
        let mut causes: BTreeMap<[String; 4], Group> = BTreeMap::new();
        for place in self.places() {
            let marks = bus.watermarks(&place).await?;
            let done = self.done(place.partition, marks);
            read(bus, &place, marks.start.0, marks.end.0, |record| {
                let Some((head, _)) = DeadHead::read(record.headers) else {
                    list.foreign += 1;
                    return;
                };
                if done.contains(record.offset.0) {
                    list.done += 1;
                    return;
                }
                if !choice.takes(&head) {
                    return;
                }
                list.open += 1;
                if self.edits.contains_key(&(place.partition, record.offset.0)) {
                    list.edited += 1;
                }
                let names = [head.error_type, head.cause, head.function, head.trigger];
                let key = names.map(str::to_owned);
                if causes.len() == CAUSES_MAX && !causes.contains_key(&key) {
                    list.truncated = true;
                    return;
                }
                let sample = || format!("{place}@{}", record.offset);
                causes.entry(key).or_default().add(&head, sample);
            })
            .await?;
        }
        list.causes = causes.into_iter().map(|(names, group)| group.told(names)).collect();
        list.causes.sort_by_key(|it| std::cmp::Reverse(it.count));
        Ok(list)
    }

    /// How many would be put back, and where to.
    pub(super) async fn count(
        &self,
        bus: &dyn Bus,
        choice: &Choice,
        limit: u64,
    ) -> Result<Counted, bus::Error> {
        let mut counted = Counted::default();
        let hasher = RandomState::new();
        for place in self.places() {
            let marks = bus.watermarks(&place).await?;
            let done = self.done(place.partition, marks);
            let mut left: HashSet<u64> = HashSet::new();
            read(bus, &place, done.next(), marks.end.0, |record| {
                if done.contains(record.offset.0) {
                    return;
                }
                let key = record.key.map(|key| hasher.hash_one(key));
                let head = DeadHead::read(record.headers).map(|(head, _)| head);
                let is_meant = head.is_some_and(|head| choice.takes(&head));
                if is_meant && counted.matched < limit {
                    counted.matched += 1;
                    counted.overtaking += u64::from(key.is_some_and(|key| left.contains(&key)));
                    if let Some(head) = head
                        && !counted.to.contains(head.topic)
                    {
                        counted.to.insert(head.topic.to_owned());
                    }
                    let place = (place.partition, record.offset.0);
                    counted.edited += u64::from(self.edits.contains_key(&place));
                } else if let Some(key) = key
                    && left.len() < KEYS_MAX
                {
                    left.insert(key);
                }
            })
            .await?;
        }
        Ok(counted)
    }
}

/// What a redrive would do.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) matched: u64,
    pub(super) overtaking: u64,
    pub(super) edited: u64,
    pub(super) to: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Group {
    count: u64,
    span: Option<(Timestamp, Timestamp)>,
    message: String,
    samples: Vec<String>,
}

impl Group {
    fn add(&mut self, head: &DeadHead<'_>, sample: impl Fn() -> String) {
        self.count += 1;
        let (first, last) = self.span.unwrap_or((head.at, head.at));
        if last <= head.at {
            head.error_message.clone_into(&mut self.message);
        }
        self.span = Some((first.min(head.at), last.max(head.at)));
        if self.samples.len() < SAMPLES {
            self.samples.push(sample());
        }
    }

    fn told(self, names: [String; 4]) -> DeadLetterCause {
        let [error_type, cause, function, trigger] = names;
        let (first, last) = self.span.unwrap_or_default();
        let (first, last) = (rfc3339(first), rfc3339(last));
        let Self { count, message, samples, .. } = self;
        DeadLetterCause {
            error_type,
            cause,
            function,
            trigger,
            count,
            first,
            last,
            message,
            samples,
        }
    }
}

/// Reads a partition from one offset up to another.
pub(super) async fn read(
    bus: &dyn Bus,
    place: &TopicPartition,
    from: i64,
    end: i64,
    mut take: impl FnMut(RecordView<'_>),
) -> Result<(), bus::Error> {
    if end <= from {
        return Ok(());
    }
    let mut reader = bus.reader(vec![(place.clone(), Offset(from))]).await?;
    let mut next = from;
    while next < end {
        let Ok(fetched) = tokio::time::timeout(PRESENT_MAX, reader.fetch(LOOK_BYTES)).await else {
            // Nothing but a gap is left.
            return Ok(());
        };
        for fetched in fetched? {
            for record in fetched.batch.iter() {
                next = record.offset.next().0;
                if end < next {
                    return Ok(());
                }
                take(record);
            }
        }
    }
    Ok(())
}

/// Where edits of a topic's dead letters lie.
pub(super) fn edits_topic(topic: &str) -> String {
    format!("{topic}.edits")
}

/// The key of an edit. A topic that is made again has another id, and none of the edits.
pub(super) fn edit_key(info: &TopicInfo, partition: i32, offset: i64) -> String {
    format!("{:x}/{partition}@{offset}", info.id)
}

/// The newest edit of each dead letter.
async fn edits(bus: &dyn Bus, info: &TopicInfo) -> Result<Edits, bus::Error> {
    let mut edits = Edits::new();
    let name = edits_topic(&info.spec.name);
    if bus.topic(&name).is_none() {
        return Ok(edits);
    }
    let place = TopicPartition::new(name, 0);
    let marks = bus.watermarks(&place).await?;
    let prefix = format!("{:x}/", info.id);
    read(bus, &place, marks.start.0, marks.end.0, |record| {
        let key = record.key.and_then(|key| std::str::from_utf8(key).ok());
        let key = key.and_then(|key| key.strip_prefix(&prefix)?.split_once('@'));
        let Some((partition, offset)) = key else { return };
        if let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse())
            && let Some(value) = record.value
        {
            edits.insert((partition, offset), Bytes::copy_from_slice(value));
        }
    })
    .await?;
    Ok(edits)
}
