//! The committed offsets of the groups: what another owner starts from, and what lag tools read.
//! They follow the position log, at most a second behind, one request in flight. Before a group
//! is written it is read: a higher epoch in it fences this node's shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka_ffi::{AdminError, GroupOffset};

use super::Inner;
use super::health::Context;
use super::ledger::{Committed, Row};
use super::note::Note;
use super::topics::blocking;
use crate::{
    Epoch, Error, Offset, Position, PositionKey, ShardId, TopicPartition, metrics as names,
};

/// Offsets of a group without members expire seven days after their last commit; idle shards are
/// committed again this often.
const RENEW_EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Offsets of one request, with what is said beside them: a broker appends them as one batch, and its
/// topic takes a MiB by default.
const REQUEST_BYTES: usize = 512 << 10;

/// What an offset takes there beside its topic's name and its note.
const OFFSET_BYTES: usize = 128;

/// The topic of Kafka's own that holds the groups.
pub(super) const GROUPS: &str = "__consumer_offsets";

/// Which shards' groups are behind, and the turn of who writes one.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    moved: Mutex<BTreeSet<ShardId>>,
    /// One request in flight: a late answer never overtakes a newer offset.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Requests that wait for a broker are given up.
    give_up: Arc<AtomicBool>,
}

/// An offset to commit.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) partition: TopicPartition,
    pub(super) topic_id: u64,
    pub(super) position: Position,
}

impl Offsets {
    /// This shard's position moved.
    pub(super) fn follow(&self, shard: ShardId) {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
    }

    /// Gives up what waits for a broker: the bus is over.
    pub(super) fn give_up(&self) {
        self.give_up.store(true, Ordering::Release);
    }

    fn take(&self) -> BTreeSet<ShardId> {
        std::mem::take(&mut *self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Lets the groups follow until the bus is closed.
pub(super) async fn run(bus: Weak<Inner>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed_at = tokio::time::Instant::now();
    loop {
        ticks.tick().await;
        let Some(inner) = bus.upgrade() else { return };
        let is_renewed = RENEW_EVERY <= renewed_at.elapsed();
        if is_renewed {
            renewed_at = tokio::time::Instant::now();
            inner.ledger().shards().into_iter().for_each(|shard| inner.offsets.follow(shard));
        } else if inner.suspicion.is_shared() {
            // What an owner before this one was slow to say may have moved an offset back, and
            // somebody may own what this node thinks to own.
            inner.ledger().owned().into_iter().for_each(|shard| inner.offsets.follow(shard));
        }
        inner.follow_up(is_renewed).await;
        if inner.brokers.is_closed() {
            return;
        }
    }
}

impl Inner {
    /// Writes the groups of all shards that moved.
    pub(super) async fn follow_up(&self, is_renewed: bool) {
        let mut groups: BTreeMap<String, Vec<ShardId>> = BTreeMap::new();
        for shard in self.offsets.take() {
            groups.entry((self.brokers.config.group)(shard)).or_default().push(shard);
        }
        for (group, shards) in groups {
            if let Err(error) = self.write_group(&group, &shards, is_renewed).await {
                metrics::counter!(names::KAFKA_OFFSET_ERRORS).increment(1);
                if self.brokers.health.is_down() {
                    tracing::debug!(group, %error, "could not commit the offsets yet");
                } else {
                    tracing::warn!(group, %error, "could not commit the offsets: trying again");
                }
                shards.into_iter().for_each(|shard| self.offsets.follow(shard));
            }
        }
    }

    /// Offsets that stand there as they are expire all the same, unless they are `is_renewed`.
    async fn write_group(
        &self,
        group: &str,
        shards: &[ShardId],
        is_renewed: bool,
    ) -> Result<(), Error> {
        let _turn = self.offsets.turn.lock().await;
        self.write_group_in_turn(group, shards, is_renewed).await
    }

    /// As [`write_group`](Self::write_group), by who has the turn.
    pub(super) async fn write_group_in_turn(
        &self,
        group: &str,
        shards: &[ShardId],
        is_renewed: bool,
    ) -> Result<(), Error> {
        let committed = self.committed(group).await?;
        self.look(group, &committed, None);
        let mut marks = Vec::new();
        for shard in shards {
            let (epoch, rows) = {
                let ledger = self.ledger();
                (ledger.epoch(*shard), ledger.rows(*shard))
            };
            // What was fenced above is not ours to write; its rows stay as they were.
            let ours = rows.into_iter().filter(|(_, row)| row.anchored == Some(epoch));
            let is_news = |(partition, row): &(TopicPartition, Row)| {
                !committed.iter().any(|it| {
                    it.partition == *partition
                        && (it.note.shard, it.note.epoch) == (*shard, epoch)
                        && it.next == row.position.next
                        && it.note.completions == row.position.completions
                        && it.note.suspects == row.position.suspects
                })
            };
            let ours = ours.filter(|it| is_renewed || is_news(it));
            marks.extend(ours.map(|(partition, row)| {
                let mark = Mark { partition, topic_id: row.topic_id, position: row.position };
                (*shard, epoch, mark)
            }));
        }
        self.alter(group, marks).await
    }

    /// Takes in who owns what by a group's notes. What is owned by us from now on is no news.
    pub(super) fn look(&self, group: &str, committed: &[Committed], starts: Option<ShardId>) {
        for (shard, epoch) in self.ledger().saw(committed) {
            if starts != Some(shard) {
                tracing::info!(%shard, %epoch, group, "the shard has another owner");
            }
        }
    }

    /// Asks a group's coordinator, after a look that the brokers answer at all: what is on its
    /// way to one that is gone can only be waited for (see [`rdkafka_ffi`]'s `admin`). The client
    /// is one that has a group of its own: without one, librdkafka 2.12 follows a null pointer
    /// when a coordinator that was just started answers that it is not one yet.
    async fn ask_group<T: Send + 'static>(
        &self,
        action: &'static str,
        request: impl FnOnce(&BaseConsumer<Context>, &dyn Fn() -> bool) -> Result<T, AdminError>
        + Send
        + 'static,
    ) -> Result<Result<T, AdminError>, Error> {
        let (lane, timeout) = (self.brokers.lanes.asking()?, self.brokers.config.request_timeout);
        let give_up = Arc::clone(&self.offsets.give_up);
        let asked = blocking(move || {
            lane.consumer().fetch_metadata(Some(GROUPS), timeout)?;
            let answer = request(lane.consumer(), &|| give_up.load(Ordering::Acquire));
            if matches!(&answer, Err(error) if error.code == Code::InProgress) {
                // The client must not be destroyed any more; the process ends soon.
                std::mem::forget(lane);
            }
            Ok(answer)
        });
        asked.await?.map_err(|error| self.brokers.health.client_error(action, &error))
    }

    /// Commits offsets, in as many requests as brokers need that take what is said beside them.
    pub(super) async fn alter(
        &self,
        group: &str,
        marks: Vec<(ShardId, Epoch, Mark)>,
    ) -> Result<(), Error> {
        let mut list = TopicPartitionList::with_capacity(marks.len());
        let mut bytes = 0;
        for (shard, epoch, Mark { partition, topic_id, position }) in marks {
            // Of a topic that is gone nothing is committed.
            let Some(topic) = self.brokers.topics.get(&partition.topic) else { continue };
            if topic.id() != topic_id {
                continue;
            }
            let Position { next, completions, suspects, .. } = position;
            let note = Note { shard, epoch, topic_id, completions, suspects }.encode();
            let takes = note.len() + partition.topic.len() + OFFSET_BYTES;
            if REQUEST_BYTES < bytes + takes {
                self.alter_list(group, std::mem::take(&mut list)).await?;
                bytes = 0;
            }
            bytes += takes;
            let offset = rdkafka::Offset::Offset(next.0);
            let added = list.add_partition_offset(&partition.topic, partition.partition, offset);
            added.map_err(|error| self.brokers.health.client_error("commit offsets", &error))?;
            if let Some(mut one) = list.find_partition(&partition.topic, partition.partition) {
                one.set_metadata(note);
            }
        }
        self.alter_list(group, list).await
    }

    async fn alter_list(&self, group: &str, list: TopicPartitionList) -> Result<(), Error> {
        if list.count() == 0 {
            return Ok(());
        }
        let name = group.to_owned();
        let altered = self.ask_group("commit offsets", move |consumer, give_up| {
            rdkafka_ffi::alter_group_offsets(consumer, &name, &list, give_up)
        });
        match altered.await? {
            Ok(()) => {
                self.brokers.health.answered();
                Ok(())
            }
            Err(AdminError { code: Code::UnknownMemberId, .. }) => {
                let reason = format!("a consumer has subscribed in group {group}, which is ours");
                Err(Error::Kafka { action: "commit offsets", reason })
            }
            Err(error) => {
                if error.code == Code::UnknownTopicOrPartition {
                    // It was there a moment ago.
                    self.brokers.topics.look.notify_one();
                }
                Err(self.brokers.health.admin_error("commit offsets", error))
            }
        }
    }

    /// What a group holds, as far as it is ours.
    pub(super) async fn committed(&self, group: &str) -> Result<Vec<Committed>, Error> {
        let name = group.to_owned();
        let listed = self.ask_group("read committed offsets", move |consumer, give_up| {
            rdkafka_ffi::list_group_offsets(consumer, &name, give_up)
        });
        let listed = match listed.await? {
            Ok(listed) => listed,
            Err(error) if error.code == Code::GroupIdNotFound => Vec::new(),
            Err(error) => {
                return Err(self.brokers.health.admin_error("read committed offsets", error));
            }
        };
        self.brokers.health.answered();
        let ours = listed.into_iter().filter_map(|one| {
            let GroupOffset { topic, partition, offset, metadata } = one;
            let note = Note::decode(&metadata).filter(|_| 0 <= offset)?;
            let partition = TopicPartition::new(topic, partition);
            Some(Committed { partition, next: Offset(offset), note })
        });
        Ok(ours.collect())
    }

    /// What the groups of these shards hold of them: another owner starts from that.
    pub(super) async fn settled(
        &self,
        shards: &[ShardId],
    ) -> Result<Vec<(PositionKey, Position)>, Error> {
        let groups: BTreeSet<String> =
            shards.iter().map(|it| (self.brokers.config.group)(*it)).collect();
        let mut settled = Vec::new();
        for group in groups {
            for Committed { partition, next, note } in self.committed(&group).await? {
                let Note { shard, epoch, completions, topic_id, .. } = note;
                let there = self.brokers.topics.get(&partition.topic);
                let is_its = there.is_none_or(|topic| topic.id() == topic_id);
                if is_its && shards.contains(&shard) {
                    let position = Position { epoch, next, completions, suspects: None };
                    settled.push((PositionKey { shard, partition }, position));
                }
            }
        }
        Ok(settled)
    }

    /// Takes a shard's offsets out of its group.
    pub(super) async fn forget_group(&self, shard: ShardId) -> Result<(), Error> {
        let group = (self.brokers.config.group)(shard);
        let _turn = self.offsets.turn.lock().await;
        let mut list = TopicPartitionList::new();
        for Committed { partition, note, .. } in self.committed(&group).await? {
            if note.shard == shard {
                list.add_partition(&partition.topic, partition.partition);
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        let deleted = self.ask_group("forget committed offsets", move |consumer, give_up| {
            rdkafka_ffi::delete_group_offsets(consumer, &group, &list, give_up)
        });
        match deleted.await? {
            Ok(()) => Ok(()),
            // Gone already, with its topic or its last offset.
            Err(AdminError {
                code: Code::GroupIdNotFound | Code::UnknownTopicOrPartition, ..
            }) => Ok(()),
            Err(error) => Err(self.brokers.health.admin_error("forget committed offsets", error)),
        }
    }
}
