//! A backup of what the cluster has, from any of its nodes. Positions are read before the park
//! topics: what is parked after that is open by its position, and what is settled meanwhile is so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::{Append, BatchBuilder, Bus, Headers, Offset, ShardId, Timestamp, TopicPartition};
use cluster::State;
use gateway::api::{
    AppBackup, BACKUP_FORMAT, Backup, FunctionBackup, PartitionBackup, RevisionBackup,
    TriggerBackup,
};

use super::place;
use crate::commands::error::{CommandError, exit};
use crate::node::peers::of_cluster;
use crate::node::status::rfc3339;
use crate::node::triggers::of_bus;
use crate::node::{Node, topics};

/// How long a quorum may take to say what the state is.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// How long a partition of a park topic may take between two answers.
const FETCH_PATIENCE: Duration = Duration::from_secs(30);
/// What one fetch asks for.
const FETCH_BYTES: usize = 1 << 20;
/// The key by which reading a partition of a park topic knows its end: that of no record.
const MARK: &str = "mark;backup;0;";

/// Parked records by the partition they lie in.
type Parked = BTreeMap<TopicPartition, BTreeSet<i64>>;

impl Node {
    pub(super) async fn take_backup(&self) -> Result<Backup, CommandError> {
        let read = self.inner.cluster.read(READ_PATIENCE).await;
        let state = read.map_err(|error| of_cluster(&error))?;
        let me = self.inner.cluster.me();
        let bus = &*self.inner.bus;
        let mine: Vec<ShardId> = state
            .shards()
            .iter()
            .filter(|(_, it)| it.owner == Some(me))
            .map(|(id, _)| *id)
            .collect();
        // What is only in this node's own log yet would be repeated without need.
        bus.release(&mine).await.map_err(|error| of_bus(&error))?;
        let all: Vec<ShardId> = state.shards().keys().copied().collect();
        let positions = bus.settled(&all).await.map_err(|error| of_bus(&error))?;
        let mut positions: BTreeMap<_, _> = positions
            .into_iter()
            .map(|(key, position)| ((key.shard, key.partition), position))
            .collect();
        let mut apps: Vec<AppBackup> =
            state.apps().iter().map(|(name, app)| app_of(&state, name, app)).collect();
        for trigger in apps.iter_mut().flat_map(|app| &mut app.triggers) {
            let parked = self.parked(&trigger.id).await?;
            let none = BTreeSet::new();
            for (id, shard) in state.shards().iter().filter(|(_, it)| it.trigger == trigger.id) {
                let at = TopicPartition::new(shard.topic.as_str(), shard.partition.cast_signed());
                let owed = parked.get(&at).unwrap_or(&none);
                let found = positions.remove(&(*id, at)).map(|it| place::saved(&it, owed));
                let (saved, parked) = found.map_or((None, 0), |(saved, it)| (Some(saved), it));
                trigger.partitions.push(PartitionBackup {
                    topic: shard.topic.clone(),
                    partition: shard.partition,
                    next: saved.as_ref().map(|it| it.next),
                    settled: saved.map(|it| it.settled).unwrap_or_default(),
                    parked,
                });
            }
            trigger
                .partitions
                .sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        }
        Ok(Backup {
            format: BACKUP_FORMAT,
            cluster: self.inner.whole.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: rfc3339(Timestamp::now()),
            bus: if self.inner.kafka.is_some() { "kafka" } else { "embedded" }.to_owned(),
            apps,
        })
    }

    /// Records that a trigger has parked.
    async fn parked(&self, trigger: &str) -> Result<Parked, CommandError> {
        let mut parked = Parked::new();
        let name = topics::park_name(&self.inner, trigger);
        let Some(info) = self.inner.bus.topic(&name) else { return Ok(parked) };
        for partition in 0..info.spec.partitions {
            let place = TopicPartition::new(info.spec.name.clone(), partition);
            read_parked(&*self.inner.bus, &place, &mut parked).await?;
        }
        Ok(parked)
    }
}

/// Reads a partition of a park topic up to a mark that is put at its end: offsets there may hold no
/// record, so that an end alone is no promise, and what is not read would be lost (BK-1).
async fn read_parked(
    bus: &dyn Bus,
    place: &TopicPartition,
    parked: &mut Parked,
) -> Result<(), CommandError> {
    let failed = |error: bus::Error| of_bus(&error);
    let marks = bus.watermarks(place).await.map_err(failed)?;
    if marks.end <= marks.start {
        return Ok(());
    }
    let mut mark = BatchBuilder::default();
    mark.push(Timestamp::now(), Some(MARK.as_bytes()), Some(b"1"), Headers::default());
    let batch = mark.finish().expect("a record was pushed");
    let append = Append { to: place.clone(), batch };
    let appended = bus.append(vec![append]).await.map_err(failed)?;
    let last = appended.first().map_or(marks.end, |it| it.base);
    let mut reader = bus.reader(vec![(place.clone(), marks.start)]).await.map_err(failed)?;
    let mut next = marks.start;
    while next <= last {
        let fetched = tokio::time::timeout(FETCH_PATIENCE, reader.fetch(FETCH_BYTES)).await;
        let fetched = fetched.map_err(|_late| {
            CommandError::new(exit::TIMED_OUT, "E0508", format!("{place} could not be read"))
                .help("try again when the bus is well: `millrace doctor`")
        })?;
        for fetched in fetched.map_err(failed)? {
            for record in fetched.batch.iter() {
                next = record.offset.next();
                let Some((topic, partition, offset)) = record.key.and_then(dispatch::parked_at)
                else {
                    continue;
                };
                let of = parked.entry(TopicPartition::new(topic, partition)).or_default();
                let Offset(offset) = offset;
                match record.value {
                    Some(_) => of.insert(offset),
                    None => of.remove(&offset),
                };
            }
        }
    }
    Ok(())
}

fn app_of(state: &State, name: &str, app: &cluster::App) -> AppBackup {
    let functions = app.functions.iter().map(|(function, it)| {
        let history = state.history(name, function);
        let kept = history.map_or(&[][..], |it| it.kept());
        let revision = |it: &cluster::Kept| RevisionBackup {
            number: it.number,
            revision: it.function.revision.clone(),
            package: it.function.package.clone(),
            spec: it.function.spec.clone(),
            at: it.at.0,
            before: it.before.clone(),
        };
        FunctionBackup {
            name: function.clone(),
            runs: it.revision.clone(),
            revisions: kept.iter().map(revision).collect(),
            aliases: history.map(|it| it.aliases().clone()).unwrap_or_default(),
        }
    });
    let triggers = app.triggers.keys().map(|id| TriggerBackup {
        id: id.clone(),
        paused_since: state.paused().get(id).map(|it| it.0),
        partitions: Vec::new(),
    });
    AppBackup {
        name: name.to_owned(),
        topics: app.topics.clone(),
        functions: functions.collect(),
        triggers: triggers.collect(),
    }
}
