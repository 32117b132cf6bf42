//! Reads the journal of a stopped node with redb alone: what lies in which partition, and how far
//! each shard has settled. Shares no code with bus/, and leaves the file as it found it.

pub mod layout;

use std::collections::BTreeMap;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::checker::{Checker, Origin};
use crate::harness::overlay::Overlay;
use crate::promise::{During, NotShown, broken};
use layout::{Position, Record};

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

const BATCHES: Rows = TableDefinition::new("batches");
const TOPICS: Rows = TableDefinition::new("topics");
const POSITIONS: Rows = TableDefinition::new("positions");

/// The header that says where a record comes from.
pub const ORIGIN: &str = "millrace-origin";

/// A journal, opened where it lies.
#[derive(Debug)]
pub struct Journal {
    database: Database,
    /// Topics by name: id and number of partitions.
    pub topics: BTreeMap<String, (u64, i32)>,
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
        let mut topics = BTreeMap::new();
        let read = database.begin_read().during("read the journal")?;
        let table = read.open_table(TOPICS).during("read topics")?;
        for row in table.iter().during("read topics")? {
            let (name, row) = row.during("read topics")?;
            let topic = layout::topic(row.value()).ok_or_else(|| broken("a damaged topic row"))?;
            topics.insert(String::from_utf8_lossy(name.value()).into_owned(), topic);
        }
        drop((table, read));
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
        let Some((id, _)) = self.topics.get(topic) else { return Ok(from) };
        let (lowest, highest) = (key(*id, partition, from), key(*id, partition, i64::MAX));
        let read = self.database.begin_read().during("read the journal")?;
        let table = read.open_table(BATCHES).during("read batches")?;
        let mut next = from;
        for row in table.range(&lowest[..]..=&highest[..]).during("read batches")? {
            let (key, bytes) = row.during("read batches")?;
            let base = key.value().get(8..16).and_then(|it| it.try_into().ok());
            let base = i64::from_be_bytes(base.ok_or_else(|| broken("a short batch key"))?);
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

fn key(topic: u64, partition: i32, base: i64) -> [u8; 16] {
    let mut key = [0; 16];
    let uid = (topic << 16) | u64::from(partition.cast_unsigned());
    key[..8].copy_from_slice(&uid.to_be_bytes());
    key[8..].copy_from_slice(&base.to_be_bytes());
    key
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
            let partitions = journal.topics.get(topic).map_or(0, |(_, partitions)| *partitions);
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
            let source = self.roles.iter().find(|role| role.topic == position.topic);
            if let Some(stage) = source.and_then(|role| role.source_of) {
                let Position { partition, next, beyond, .. } = &position;
                checker.on_position(stage, *partition, *next, beyond);
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
    let id = {
        let read = database.begin_read().during("read the copy")?;
        let table = read.open_table(TOPICS).during("read topics")?;
        let row = table.get(topic.as_bytes()).during("read topics")?;
        let row = row.ok_or_else(|| broken(format!("no topic {topic} to plant a fault in")))?;
        layout::topic(row.value()).ok_or_else(|| broken("a damaged topic row"))?.0
    };
    let write = database.begin_write().during("write the copy")?;
    if fault == Fault::Advanced {
        let mut table = write.open_table(POSITIONS).during("write positions")?;
        let mut moved = None;
        for row in table.iter().during("read positions")? {
            let (key, row) = row.during("read positions")?;
            let position = layout::position(key.value(), row.value());
            if position.is_some_and(|it| it.topic == topic && it.partition == partition) {
                let row = layout::position_moved_on(row.value(), 1);
                moved = Some((key.value().to_vec(), row.ok_or_else(|| broken("no position"))?));
            }
        }
        let (key, row) = moved.ok_or_else(|| broken("no position to move"))?;
        table.insert(&key[..], &row[..]).during("write a position")?;
    } else {
        let mut table = write.open_table(BATCHES).during("write batches")?;
        let (lowest, highest) = (key(id, partition, 0), key(id, partition, i64::MAX));
        let last = {
            let mut range = table.range(&lowest[..]..=&highest[..]).during("read batches")?;
            let last = range.next_back().ok_or_else(|| broken("no batch to tamper with"))?;
            let (key, row) = last.during("read batches")?;
            (key.value().to_vec(), row.value().to_vec())
        };
        if fault == Fault::Removed {
            table.remove(&last.0[..]).during("remove a batch")?;
        } else {
            let base = last.0.get(8..16).and_then(|it| it.try_into().ok());
            let base = i64::from_be_bytes(base.ok_or_else(|| broken("a short batch key"))?);
            let count = layout::batch(&last.1, base).during("read the last batch")?.len();
            let next = base + i64::try_from(count).unwrap_or(0);
            table.insert(&key(id, partition, next)[..], &last.1[..]).during("repeat a batch")?;
        }
    }
    write.commit().during("commit the fault")
}
