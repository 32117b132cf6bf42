//! The simplest bus there is: maps in memory. It knows nothing of the journal, and says what the
//! real one must find after a crash.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Embedded;
use super::queue::{Op, Outcome};
use crate::{
    Append, Appended, Bus, Commit, Epoch, Error, Offset, Position, Recovered, ShardId, Timestamp,
    TopicInfo, TopicPartition,
};

/// A record, as its reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelRecord {
    timestamp: Timestamp,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<u8>,
}

/// A partition's start and its records from there on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelPartition {
    start: i64,
    records: VecDeque<Arc<ModelRecord>>,
}

impl ModelPartition {
    fn end(&self) -> i64 {
        self.start + self.records.len() as i64
    }

    fn trim(&mut self, start: i64) {
        while self.start < start && self.records.pop_front().is_some() {
            self.start += 1;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelTopic {
    pub(super) info: TopicInfo,
    pub(super) partitions: Vec<ModelPartition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelShard {
    epoch: Epoch,
    positions: BTreeMap<TopicPartition, Position>,
}

/// Where retention was seen to have moved the starts. Which batches go is its own matter; that
/// no position loses a record is checked here.
#[derive(Clone, Debug, Default)]
pub(super) struct Trimmed(pub(super) BTreeMap<TopicPartition, i64>);

/// The whole bus.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) topics: BTreeMap<Arc<str>, ModelTopic>,
    shards: BTreeMap<ShardId, ModelShard>,
    newest_topic: u64,
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        // The newest topic id shows only in what is made next.
        self.topics == other.topics && self.shards == other.shards
    }
}

impl Model {
    /// What `bus` shows to its callers.
    pub(super) async fn of(bus: &Embedded) -> Result<Self, Error> {
        let mut model = Self::default();
        let (mut assigned, mut missing) = (Vec::new(), 0);
        for info in bus.topics().await? {
            let mut partitions = Vec::new();
            for number in 0..info.spec.partitions {
                let place = TopicPartition::new(Arc::clone(&info.spec.name), number);
                let marks = bus.watermarks(&place).await?;
                missing += marks.end.0 - marks.start.0;
                assigned.push((place, marks.start));
                partitions.push(ModelPartition { start: marks.start.0, ..Default::default() });
            }
            let topic = ModelTopic { partitions, info };
            model.topics.insert(Arc::clone(&topic.info.spec.name), topic);
        }
        let mut reader = bus.reader(assigned).await?;
        while 0 < missing {
            for fetched in reader.fetch(1 << 20).await? {
                let topic = model.topics.get_mut(&fetched.partition.topic);
                let topic = topic.expect("an assigned topic was listed");
                let partition = &mut topic.partitions[fetched.partition.partition as usize];
                for record in fetched.batch.iter() {
                    if record.offset.0 != partition.end() {
                        let (found, end) = (record.offset, partition.end());
                        return Err(Error::Corrupt(format!("record {found} where {end} was next")));
                    }
                    partition.records.push_back(Arc::new(ModelRecord {
                        timestamp: record.timestamp,
                        key: record.key.map(<[u8]>::to_vec),
                        value: record.value.map(<[u8]>::to_vec),
                        headers: record.headers.as_bytes().to_vec(),
                    }));
                    missing -= 1;
                }
            }
        }
        for (shard, state) in &*bus.shared.shards() {
            let positions = state.positions.iter();
            let positions =
                positions.map(|(place, (_, position))| (place.clone(), position.clone()));
            let shard_state = ModelShard { epoch: state.epoch, positions: positions.collect() };
            model.shards.insert(*shard, shard_state);
        }
        Ok(model)
    }

    /// The end of a partition, if there is one.
    pub(super) fn end(&self, place: &TopicPartition) -> Option<i64> {
        self.partition(place).ok().map(ModelPartition::end)
    }

    fn partition(&self, place: &TopicPartition) -> Result<&ModelPartition, Error> {
        let unknown = || Error::UnknownTopic { topic: place.topic.to_string() };
        let topic = self.topics.get(&place.topic).ok_or_else(unknown)?;
        let partition = topic.partitions.get(place.partition as usize);
        partition.ok_or_else(|| Error::UnknownPartition(place.clone()))
    }

    fn partition_mut(&mut self, place: &TopicPartition) -> &mut ModelPartition {
        let topic = self.topics.get_mut(&place.topic).expect("it was checked");
        &mut topic.partitions[place.partition as usize]
    }

    /// Does what `op` asks for, by the rules of the trait.
    pub(super) fn apply(&mut self, op: &Op, trimmed: &Trimmed) -> Result<Outcome, Error> {
        match op {
            Op::CreateTopic(spec) => {
                if let Some(topic) = self.topics.get(&spec.name) {
                    return Ok(Outcome::Topic(topic.info.clone()));
                }
                self.newest_topic += 1;
                let info = TopicInfo { spec: spec.clone(), id: self.newest_topic };
                let partitions = vec![ModelPartition::default(); spec.partitions as usize];
                let topic = ModelTopic { info: info.clone(), partitions };
                self.topics.insert(Arc::clone(&spec.name), topic);
                Ok(Outcome::Topic(info))
            }
            Op::DeleteTopic(name) => {
                let removed = self.topics.remove(name.as_str());
                removed.ok_or_else(|| Error::UnknownTopic { topic: name.clone() })?;
                for shard in self.shards.values_mut() {
                    shard.positions.retain(|place, _| *place.topic != **name);
                }
                Ok(Outcome::Done)
            }
            Op::Forget(shard) => {
                self.shards.remove(shard);
                Ok(Outcome::Done)
            }
            Op::Retain(_) => {
                self.retain(trimmed);
                Ok(Outcome::Done)
            }
            Op::Recover(shard, epoch) => {
                self.check_fence(*shard, *epoch)?;
                let state = self.shards.entry(*shard).or_default();
                state.epoch = *epoch;
                let positions = state.positions.clone().into_iter().collect();
                Ok(Outcome::Recovered(Recovered { positions }))
            }
            Op::Append(appends) => {
                self.check_places(appends)?;
                Ok(Outcome::Appended(self.append(appends)))
            }
            Op::Commit(commit) => self.commit(commit),
        }
    }

    fn retain(&mut self, trimmed: &Trimmed) {
        for (place, start) in &trimmed.0 {
            let Ok(partition) = self.partition(place) else { continue };
            assert!(partition.start <= *start && *start <= partition.end(), "{place} at {start}");
            let needed = self.shards.values().filter_map(|shard| shard.positions.get(place));
            if let Some(needed) = needed.map(|position| position.next.0).min() {
                assert!(*start <= needed.max(partition.start), "{place}: {needed} is still needed");
            }
            self.partition_mut(place).trim(*start);
        }
    }

    fn check_fence(&self, shard: ShardId, presented: Epoch) -> Result<(), Error> {
        let current = self.shards.get(&shard).map_or(Epoch(0), |state| state.epoch);
        if presented < current {
            return Err(Error::Fenced { shard, presented, current });
        }
        Ok(())
    }

    fn check_places(&self, appends: &[Append]) -> Result<(), Error> {
        appends.iter().try_for_each(|append| self.partition(&append.to).map(drop))
    }

    fn append(&mut self, appends: &[Append]) -> Vec<Appended> {
        let bases = appends.iter().map(|append| {
            let partition = self.partition_mut(&append.to);
            let base = Offset(partition.end());
            partition.records.extend(append.batch.iter().map(|record| {
                Arc::new(ModelRecord {
                    timestamp: record.timestamp,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: record.headers.as_bytes().to_vec(),
                })
            }));
            Appended { base }
        });
        bases.collect()
    }

    fn commit(&mut self, commit: &Commit) -> Result<Outcome, Error> {
        self.check_fence(commit.shard, commit.epoch)?;
        self.check_places(&commit.appends)?;
        for it in &commit.positions {
            let appended = commit.appends.iter().filter(|append| append.to == it.partition);
            let appended: usize = appended.map(|append| append.batch.len()).sum();
            let end = Offset(self.partition(&it.partition)?.end() + appended as i64);
            let state = self.shards.get(&commit.shard);
            let current = state.and_then(|state| state.positions.get(&it.partition));
            let from =
                current.filter(|it| it.epoch == commit.epoch).map_or(Offset(0), |it| it.next);
            let next = it.position.next;
            if next < from || end < next {
                let partition = it.partition.clone();
                return Err(Error::Position { partition, next, from, end });
            }
        }
        let bases = self.append(&commit.appends);
        let state = self.shards.entry(commit.shard).or_default();
        state.epoch = commit.epoch;
        for it in &commit.positions {
            let position = Position { epoch: commit.epoch, ..it.position.clone() };
            state.positions.insert(it.partition.clone(), position);
        }
        Ok(Outcome::Appended(bases))
    }

    /// Whether this lies between two states that differ by what retention deleted: each
    /// partition is as in the one or as in the other, and all else is as in `before` or `after`.
    pub(super) fn is_between(&self, before: &Self, after: &Self) -> bool {
        let only_trimmed = before.shards == after.shards
            && before.topics.keys().eq(after.topics.keys())
            && before.topics.iter().all(|(name, topic)| {
                let other = &after.topics[name].partitions;
                topic.partitions.iter().zip(other).all(|(it, other)| it.end() == other.end())
            });
        only_trimmed
            && self.shards == after.shards
            && self.topics.keys().eq(after.topics.keys())
            && self.topics.iter().all(|(name, topic)| {
                let sides =
                    before.topics[name].partitions.iter().zip(&after.topics[name].partitions);
                topic.partitions.iter().zip(sides).all(|(it, (old, new))| it == old || it == new)
            })
    }

    /// The first thing in which this is not `other`, for people.
    pub(super) fn difference(&self, other: &Self) -> String {
        for (name, topic) in &other.topics {
            let Some(found) = self.topics.get(name) else { return format!("{name} is missing") };
            if found.info != topic.info {
                return format!("{name} is {:?}, not {:?}", found.info, topic.info);
            }
            for (number, partition) in topic.partitions.iter().enumerate() {
                let found = &found.partitions[number];
                if (found.start, found.end()) != (partition.start, partition.end()) {
                    let (found, wanted) =
                        (found.start..found.end(), partition.start..partition.end());
                    return format!("{name}[{number}] is {found:?}, not {wanted:?}");
                }
                if found != partition {
                    return format!("{name}[{number}] has other records");
                }
            }
        }
        if let Some(name) = self.topics.keys().find(|name| !other.topics.contains_key(*name)) {
            return format!("{name} is there");
        }
        format!("the shards are {:?}, not {:?}", self.shards, other.shards)
    }
}
