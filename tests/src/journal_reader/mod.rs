//! Reads the journal of a stopped node with redb alone: what lies in which partition, and how far
//! each shard has settled. Shares no code with bus/, and leaves the file as it found it.

pub mod layout;

use std::collections::BTreeMap;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::checker::{Checker, Origin};
use crate::harness::overlay::Overlay;
use crate::promise::{During, NotShown, broken};
use layout::{Position, Record, Topic};

/// (journal write, number in it) -> record batch.
const BATCHES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("batches");
/// (partition uid, base offset) -> where the batch is.
const INDEX: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("index");
/// Topic id -> topic.
const TOPICS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("topics");
/// (shard, partition uid) -> position.
const POSITIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("positions");

/// The header that says where a record comes from.
pub const ORIGIN: &str = "millrace-origin";

/// A journal, opened where it lies.
#[derive(Debug)]
pub struct Journal {
    database: Database,
    /// Topics by name.
    pub topics: BTreeMap<String, Topic>,
}

impl Journal {
    /// Opens `journal.redb` of a stopped node's data directory.
    ///
    /// # Errors
    ///
    /// When it is not there or damaged.
    pub fn open(data: &Path) -> Result<Self, NotShown> {
        let path = data.join("journal.redb");
        let overlay = Overlay::open(&path).during(format!("open {}", path.display()))?;
        let database = Database::builder().create_with_backend(overlay).during("open journal")?;
        let topics = topics(&database)?;
        Ok(Self { database, topics })
    }

    /// Tells `each` the records of a partition from offset `from` on, which must be where a batch
    /// starts; returns where it ends. A hole between batches is a broken journal.
    ///
    /// # Errors
    ///
    /// What does not fit the layout.
    pub fn records(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        mut each: impl FnMut(&Record<'_>),
    ) -> Result<i64, NotShown> {
        let Some(found) = self.topics.get(topic) else { return Ok(from) };
        let (lowest, highest) = keys(found, partition, from);
        let read = self.database.begin_read().during("read the journal")?;
        let index = read.open_table(INDEX).during("read the index")?;
        let batches = read.open_table(BATCHES).during("read batches")?;
        let mut next = from;
        for row in index.range::<&[u8; 16]>(&lowest..=&highest).during("read the index")? {
            let (key, row) = row.during("read the index")?;
            let base = base_of(key.value());
            let place = layout::index(key.value(), row.value());
            let (_count, place) = place.ok_or_else(|| broken("a damaged index row"))?;
            let bytes = batches.get(&place).during("read a batch")?;
            let bytes = bytes.ok_or_else(|| broken("the index names a batch that is not there"))?;
            if base != next {
                return Err(broken(format!(
                    "{topic}[{partition}] goes on at {base} instead of {next}"
                )));
            }
            let records = layout::batch(bytes.value(), base)
                .during(format!("the batch at {topic}[{partition}]@{base}"))?;
            for record in &records {
                each(record);
                next = record.offset + 1;
            }
        }
        Ok(next)
    }

    /// The topic and the partition that a position lies in.
    #[must_use]
    pub fn partition(&self, position: &Position) -> Option<(&str, i32)> {
        let uid = position.partition_uid;
        let topic = self.topics.values().find(|topic| topic.id == uid >> 32)?;
        Some((&topic.name, i32::try_from(uid & u64::from(u32::MAX)).ok()?))
    }

    /// Every committed position.
    ///
    /// # Errors
    ///
    /// When a row is damaged.
    pub fn positions(&self) -> Result<Vec<Position>, NotShown> {
        let read = self.database.begin_read().during("read the journal")?;
        let table = read.open_table(POSITIONS).during("read positions")?;
        let mut positions = Vec::new();
        for row in table.iter().during("read positions")? {
            let (key, row) = row.during("read positions")?;
            let position = layout::position(key.value(), row.value());
            positions.push(position.ok_or_else(|| broken("a damaged position row"))?);
        }
        Ok(positions)
    }
}

fn topics(database: &Database) -> Result<BTreeMap<String, Topic>, NotShown> {
    let read = database.begin_read().during("read the journal")?;
    let table = read.open_table(TOPICS).during("read topics")?;
    let mut topics = BTreeMap::new();
    for row in table.iter().during("read topics")? {
        let (id, row) = row.during("read topics")?;
        let topic = layout::topic(id.value(), row.value());
        let topic = topic.ok_or_else(|| broken("a damaged topic row"))?;
        topics.insert(topic.name.clone(), topic);
    }
    Ok(topics)
}

/// The index keys of a partition's batches from `from` on.
fn keys(topic: &Topic, partition: i32, from: i64) -> ([u8; 16], [u8; 16]) {
    let uid = layout::partition_uid(topic.id, partition);
    (layout::pair_key(uid, from.unsigned_abs()), layout::pair_key(uid, u64::MAX))
}

fn base_of(key: &[u8; 16]) -> i64 {
    i64::try_from(layout::split_key(key).1).unwrap_or(i64::MAX)
}

/// What a topic of an application is to the checker.
#[derive(Clone, Debug)]
pub struct Role {
    /// The topic's name.
    pub topic: String,
    /// The stage that reads it.
    pub source_of: Option<usize>,
    /// The stage whose outputs it takes.
    pub outputs_of: Option<usize>,
    /// The stage whose dead letters it takes.
    pub dead_of: Option<usize>,
}

impl Role {
    /// A topic of this name with no role yet.
    #[must_use]
    pub fn topic(name: &str) -> Self {
        Self { topic: name.to_owned(), source_of: None, outputs_of: None, dead_of: None }
    }
    /// It is read by this stage.
    #[must_use]
    pub const fn source_of(mut self, stage: usize) -> Self {
        self.source_of = Some(stage);
        self
    }
    /// It takes this stage's outputs.
    #[must_use]
    pub const fn outputs_of(mut self, stage: usize) -> Self {
        self.outputs_of = Some(stage);
        self
    }
    /// It takes this stage's dead letters.
    #[must_use]
    pub const fn dead_of(mut self, stage: usize) -> Self {
        self.dead_of = Some(stage);
        self
    }
}

/// Feeds a checker what was added to a journal since it last looked.
#[derive(Debug)]
pub struct Follower {
    roles: Vec<Role>,
    next: BTreeMap<(String, i32), i64>,
}

impl Follower {
    /// A follower of these topics, in the order records pass them: sources before results.
    #[must_use]
    pub const fn new(roles: Vec<Role>) -> Self {
        Self { roles, next: BTreeMap::new() }
    }

    /// Reads on, and then the positions of this moment. `seen` is told every record of a topic
    /// that has a role, with the topic and its partition.
    ///
    /// # Errors
    ///
    /// When the journal does not fit its layout, or a result says nothing of its origin.
    pub fn follow(
        &mut self,
        journal: &Journal,
        checker: &mut Checker,
        mut seen: impl FnMut(&str, i32, &Record<'_>),
    ) -> Result<(), NotShown> {
        for role in &self.roles {
            let topic = role.topic.as_str();
            let partitions = journal.topics.get(topic).map_or(0, |topic| topic.partitions);
            for partition in 0..partitions {
                let next = self.next.entry((topic.to_owned(), partition)).or_default();
                let mut strange = None;
                *next = journal.records(topic, partition, *next, |record| {
                    seen(topic, partition, record);
                    if let Some(stage) = role.outputs_of.or(role.dead_of) {
                        let origin = record.header(ORIGIN).and_then(Origin::parse);
                        match origin {
                            None => strange = Some(record.offset),
                            Some(origin) => {
                                let is_output = role.outputs_of.is_some();
                                if origin.index.is_some() == is_output {
                                    checker.on_result(stage, &origin, record.key);
                                } else {
                                    strange = Some(record.offset);
                                }
                            }
                        }
                    }
                    if let Some(stage) = role.source_of {
                        checker.on_source(stage, partition, record.offset);
                    }
                })?;
                if let Some(offset) = strange {
                    return Err(broken(format!(
                        "{topic}[{partition}]@{offset} has no {ORIGIN} that fits its topic"
                    )));
                }
            }
        }
        for position in journal.positions()? {
            let Some((topic, partition)) = journal.partition(&position) else { continue };
            let source = self.roles.iter().find(|role| role.topic == topic);
            if let Some(stage) = source.and_then(|role| role.source_of) {
                checker.on_position(stage, partition, position.next, &position.beyond);
            }
        }
        Ok(())
    }
}

/// A fault to plant in a copy of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The last batch of a partition is gone.
    Removed,
    /// The last batch of a partition is there again.
    Repeated,
    /// A position went past a record that has no result.
    Advanced,
}

/// Plants `fault` in the journal of `data`, a copy: in partition `partition` of `topic`.
///
/// # Errors
///
/// When there is nothing to plant it in.
pub fn plant(data: &Path, fault: Fault, topic: &str, partition: i32) -> Result<(), NotShown> {
    let database = Database::open(data.join("journal.redb")).during("open the copy")?;
    let topics = topics(&database)?;
    let topic =
        topics.get(topic).ok_or_else(|| broken(format!("no topic {topic} to plant a fault in")))?;
    let write = database.begin_write().during("write the copy")?;
    if fault == Fault::Advanced {
        let mut table = write.open_table(POSITIONS).during("write positions")?;
        let mut moved = None;
        for row in table.iter().during("read positions")? {
            let (key, row) = row.during("read positions")?;
            let position = layout::position(key.value(), row.value());
            let mut position = position.ok_or_else(|| broken("a damaged position row"))?;
            if position.partition_uid == layout::partition_uid(topic.id, partition) {
                position.next += 1;
                moved = Some((*key.value(), layout::position_row(key.value(), &position)));
            }
        }
        let (key, row) = moved.ok_or_else(|| broken("no position to move"))?;
        table.insert(&key, &row[..]).during("write a position")?;
    } else {
        let mut table = write.open_table(INDEX).during("write the index")?;
        let (lowest, highest) = keys(topic, partition, 0);
        let last = {
            let mut range =
                table.range::<&[u8; 16]>(&lowest..=&highest).during("read the index")?;
            let last = range.next_back().ok_or_else(|| broken("no batch to tamper with"))?;
            let (key, row) = last.during("read the index")?;
            (*key.value(), row.value().to_vec())
        };
        if fault == Fault::Removed {
            table.remove(&last.0).during("remove a batch")?;
        } else {
            let found = layout::index(&last.0, &last.1);
            let (count, _place) = found.ok_or_else(|| broken("a damaged index row"))?;
            let (uid, base) = layout::split_key(&last.0);
            let key = layout::pair_key(uid, base + count);
            let row = layout::index_row(&key, &last.1);
            table.insert(&key, &row[..]).during("repeat it")?;
        }
    }
    write.commit().during("commit the fault")
}
