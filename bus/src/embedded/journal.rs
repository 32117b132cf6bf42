//! The journal's file: opens it, reads it, and writes one group at a time. The only place that
//! names redb.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::EmbeddedConfig;
use super::rows;
use crate::{Epoch, Error, Offset, Position, PositionKey, RecordBatch, ShardId, TopicInfo};

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

const BATCHES: Rows = TableDefinition::new("batches");
const TOPICS: Rows = TableDefinition::new("topics");
const STARTS: Rows = TableDefinition::new("starts");
const POSITIONS: Rows = TableDefinition::new("positions");
const FENCES: Rows = TableDefinition::new("fences");
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

const GROUP: &str = "group";
const TOPIC: &str = "topic";

/// What one write changes: all of it, or nothing.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) batches: Vec<([u8; 16], Bytes)>,
    pub(crate) positions: Vec<(PositionKey, Position)>,
    pub(crate) fences: Vec<(ShardId, Epoch)>,
    pub(crate) topics: Vec<TopicInfo>,
    pub(crate) topic_deleted: Option<TopicInfo>,
    pub(crate) shard_forgotten: Option<ShardId>,
    /// Partition uid, its new start, its end, and the keys that go.
    pub(crate) trimmed: Vec<(u64, Offset, Offset, Vec<[u8; 16]>)>,
}

/// A partition as it was found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
}

/// Everything but the records.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) topics: Vec<TopicInfo>,
    pub(crate) extents: BTreeMap<u64, Extent>,
    pub(crate) positions: BTreeMap<PositionKey, Position>,
    pub(crate) fences: BTreeMap<ShardId, Epoch>,
    pub(crate) group: u64,
    pub(crate) next_topic: u64,
}

/// The open file. Reading takes the lock shared; only a reopening after a full disk takes it
/// whole.
#[derive(Debug)]
pub(crate) struct Journal {
    database: RwLock<Option<Arc<Database>>>,
    path: Option<PathBuf>,
    page_cache_bytes: usize,
}

/// Why a group was not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// No room. What was kept of it is not known until the journal is reopened.
    DiskFull(String),
    /// Anything else: the process must end, and its next start reads what is there.
    Fatal(String),
}

pub(crate) fn uid(info: &TopicInfo, partition: i32) -> u64 {
    (info.id << 16) | u64::from(partition.cast_unsigned())
}

impl Journal {
    pub(crate) fn open(config: &EmbeddedConfig) -> Result<Self, Error> {
        let path = config.dir.join("journal.redb");
        let cache = config.page_cache_bytes;
        let database = guarded(|| create(&path, cache))?;
        let journal = Self::with(database, cache, Some(path));
        journal.make_tables()?;
        Ok(journal)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn open_on(
        config: &EmbeddedConfig,
        backend: impl redb::StorageBackend,
    ) -> Result<Self, Error> {
        let cache = config.page_cache_bytes;
        let open = || {
            let mut builder = Database::builder();
            builder.set_cache_size(cache).create_with_backend(backend)
        };
        let journal = Self::with(guarded(open)?, cache, None);
        journal.make_tables()?;
        Ok(journal)
    }

    fn with(database: Database, page_cache_bytes: usize, path: Option<PathBuf>) -> Self {
        Self { database: RwLock::new(Some(Arc::new(database))), path, page_cache_bytes }
    }

    fn database(&self) -> Result<Arc<Database>, Error> {
        let database = self.database.read().map_err(|_poisoned| Error::Closed)?;
        database.clone().ok_or(Error::Closed)
    }

    /// Lets go of the file.
    pub(crate) fn close(&self) {
        if let Ok(mut database) = self.database.write() {
            *database = None;
        }
    }

    /// Opens the file again after a write that found no room, and says how many groups it holds.
    pub(crate) fn reopen(&self) -> Result<u64, Error> {
        let Some(path) = &self.path else { return Err(Error::Closed) };
        let mut database = self.database.write().map_err(|_poisoned| Error::Closed)?;
        *database = None;
        let opened = guarded(|| create(path, self.page_cache_bytes))?;
        *database = Some(Arc::new(opened));
        drop(database);
        self.group()
    }

    fn group(&self) -> Result<u64, Error> {
        let read = self.database()?.begin_read().map_err(damaged)?;
        let meta = read.open_table(META).map_err(damaged)?;
        Ok(meta.get(GROUP).map_err(damaged)?.map_or(0, |row| row.value()))
    }

    fn make_tables(&self) -> Result<(), Error> {
        let database = self.database()?;
        let make = || -> Result<(), redb::Error> {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.set_quick_repair(true);
            for table in [BATCHES, TOPICS, STARTS, POSITIONS, FENCES] {
                write.open_table(table)?;
            }
            write.open_table(META)?;
            write.commit()?;
            Ok(())
        };
        guarded(make)
    }

    /// Reads everything but the records, and checks the last batch of every partition.
    pub(crate) fn load(&self) -> Result<Loaded, Error> {
        let database = self.database()?;
        let loaded = guarded(|| load(&database))?;
        let torn = |partition: u64| Error::Corrupt(format!("last batch of partition {partition}"));
        for (uid, extent) in &loaded.extents {
            if extent.start < extent.end {
                let last = self.batch_with(*uid, Offset(extent.end.0 - 1))?;
                let last = last.ok_or_else(|| torn(*uid))?;
                if last.last_offset().next() != extent.end {
                    return Err(torn(*uid));
                }
            }
        }
        Ok(loaded)
    }

    /// The batch that holds `offset`, or the next one after it.
    pub(crate) fn batch_with(
        &self,
        uid: u64,
        offset: Offset,
    ) -> Result<Option<RecordBatch>, Error> {
        let mut found = self.batches(uid, offset, 1)?;
        Ok(found.pop())
    }

    /// Batches from the one that holds `offset` on, until they have `bytes_max` bytes; at least
    /// one if there is one.
    pub(crate) fn batches(
        &self,
        uid: u64,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<Vec<RecordBatch>, Error> {
        let database = self.database()?;
        let read = || -> Result<Vec<(Offset, Bytes)>, redb::Error> {
            let read = database.begin_read()?;
            let table = read.open_table(BATCHES)?;
            let (lowest, target) = (rows::batch_key(uid, Offset(0)), rows::batch_key(uid, offset));
            let highest = rows::batch_key(uid, Offset(i64::MAX));
            // The batch that holds an offset is the last one whose base is not above it.
            let holder = table.range(&lowest[..]..=&target[..])?.next_back().transpose()?;
            let from = holder.map_or(target, |(key, _)| key.value().try_into().unwrap_or(target));
            let range = (Bound::Included(&from[..]), Bound::Included(&highest[..]));
            let (mut found, mut bytes) = (Vec::new(), 0);
            for row in table.range::<&[u8]>(range)? {
                let (key, value) = row?;
                let base = rows::batch_base(key.value()).unwrap_or_default();
                let value = Bytes::copy_from_slice(value.value());
                bytes += value.len();
                found.push((base, value));
                if bytes_max <= bytes {
                    break;
                }
            }
            Ok(found)
        };
        let mut batches = Vec::new();
        for (base, bytes) in guarded(read)? {
            let batch = RecordBatch::decode(bytes, base)
                .map_err(|reason| Error::Corrupt(format!("batch at {base}: {reason}")))?;
            if let Some(batch) = batch.from_offset(offset) {
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    /// Keys, first offsets, newest timestamps and lengths of a partition's oldest batches, as
    /// long as `more` says so.
    pub(crate) fn oldest(
        &self,
        uid: u64,
        mut more: impl FnMut(&RecordBatch) -> bool,
    ) -> Result<(), Error> {
        let mut from = Offset(0);
        loop {
            let Some(batch) = self.batch_with(uid, from)? else { return Ok(()) };
            if !more(&batch) {
                return Ok(());
            }
            from = batch.last_offset().next();
        }
    }

    /// Writes a group, as the `number`th, and returns when it is durable.
    pub(crate) fn write(&self, number: u64, group: &Group) -> Result<(), WriteError> {
        let database = self.database().map_err(|error| WriteError::Fatal(error.to_string()))?;
        let write = || write_group(&database, number, group);
        match std::panic::catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(redb::Error::Io(error)))
                if error.kind() == std::io::ErrorKind::StorageFull
                    || error.kind() == std::io::ErrorKind::QuotaExceeded =>
            {
                Err(WriteError::DiskFull(error.to_string()))
            }
            Ok(Err(error)) => Err(WriteError::Fatal(error.to_string())),
            Err(_panic) => Err(WriteError::Fatal("the journal's store panicked".into())),
        }
    }
}

fn create(path: &std::path::Path, cache_bytes: usize) -> Result<Database, redb::DatabaseError> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes).create(path)
}

fn write_group(database: &Database, number: u64, group: &Group) -> Result<(), redb::Error> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    write.set_quick_repair(true);
    {
        let mut batches = write.open_table(BATCHES)?;
        for (key, bytes) in &group.batches {
            batches.insert(&key[..], &bytes[..])?;
        }
        for (_, _, _, keys) in &group.trimmed {
            for key in keys {
                batches.remove(&key[..])?;
            }
        }
        if let Some(info) = &group.topic_deleted {
            let (first, last) = (uid(info, 0), uid(info, info.spec.partitions));
            let from = rows::batch_key(first, Offset(0));
            let to = rows::batch_key(last, Offset(0));
            batches.retain_in(&from[..]..&to[..], |_, _| false)?;
        }
    }
    if !group.trimmed.is_empty() {
        let mut starts = write.open_table(STARTS)?;
        for (uid, start, end, _) in &group.trimmed {
            let mut row = start.0.to_le_bytes().to_vec();
            row.extend_from_slice(&end.0.to_le_bytes());
            starts.insert(&uid.to_be_bytes()[..], &row[..])?;
        }
    }
    if !group.positions.is_empty() || group.shard_forgotten.is_some() {
        let mut positions = write.open_table(POSITIONS)?;
        for (key, position) in &group.positions {
            let (key, row) = (rows::position_key(key), rows::encode_position(position));
            positions.insert(&key[..], &row[..])?;
        }
        if let Some(shard) = group.shard_forgotten {
            let (from, to) = (shard.0.to_be_bytes(), (shard.0 + 1).to_be_bytes());
            positions.retain_in(&from[..]..&to[..], |_, _| false)?;
        }
    }
    if !group.fences.is_empty() || group.shard_forgotten.is_some() {
        let mut fences = write.open_table(FENCES)?;
        for (shard, epoch) in &group.fences {
            fences.insert(&shard.0.to_be_bytes()[..], &epoch.0.to_le_bytes()[..])?;
        }
        if let Some(shard) = group.shard_forgotten {
            fences.remove(&shard.0.to_be_bytes()[..])?;
        }
    }
    if !group.topics.is_empty() || group.topic_deleted.is_some() {
        let mut topics = write.open_table(TOPICS)?;
        let mut meta = write.open_table(META)?;
        for info in &group.topics {
            topics.insert(info.spec.name.as_bytes(), &rows::encode_topic(info)[..])?;
            meta.insert(TOPIC, info.id + 1)?;
        }
        if let Some(info) = &group.topic_deleted {
            topics.remove(info.spec.name.as_bytes())?;
            let mut starts = write.open_table(STARTS)?;
            for partition in 0..info.spec.partitions {
                starts.remove(&uid(info, partition).to_be_bytes()[..])?;
            }
        }
    }
    write.open_table(META)?.insert(GROUP, number)?;
    write.commit()?;
    Ok(())
}

fn load(database: &Database) -> Result<Loaded, redb::Error> {
    let mut loaded = Loaded::default();
    let corrupt = |what: &str| redb::Error::Corrupted(what.to_owned());
    let read = database.begin_read()?;
    let meta = read.open_table(META)?;
    loaded.group = meta.get(GROUP)?.map_or(0, |row| row.value());
    loaded.next_topic = meta.get(TOPIC)?.map_or(1, |row| row.value());
    for row in read.open_table(TOPICS)?.iter()? {
        let (name, row) = row?;
        let name = std::str::from_utf8(name.value()).map_err(|_| corrupt("a topic's name"))?;
        let info = rows::decode_topic(name, row.value()).ok_or_else(|| corrupt("a topic"))?;
        loaded.topics.push(info);
    }
    for row in read.open_table(STARTS)?.iter()? {
        let (key, row) = row?;
        let number = |bytes: Option<&[u8]>| bytes.and_then(|it| <[u8; 8]>::try_from(it).ok());
        let uid = number(Some(key.value())).map(u64::from_be_bytes);
        let start = number(row.value().get(..8)).map(i64::from_le_bytes);
        let end = number(row.value().get(8..16)).map(i64::from_le_bytes);
        let (Some(uid), Some(start), Some(end)) = (uid, start, end) else {
            return Err(corrupt("a partition's start"));
        };
        let extent = Extent { start: Offset(start), end: Offset(end), bytes: 0 };
        loaded.extents.insert(uid, extent);
    }
    for row in read.open_table(POSITIONS)?.iter()? {
        let (key, row) = row?;
        let key = rows::parse_position_key(key.value()).ok_or_else(|| corrupt("a position"))?;
        let row = rows::decode_position(row.value()).ok_or_else(|| corrupt("a position"))?;
        loaded.positions.insert(key, row);
    }
    for row in read.open_table(FENCES)?.iter()? {
        let (key, row) = row?;
        let pair = (key.value().try_into(), row.value().try_into());
        let (Ok(shard), Ok(epoch)) = pair else { return Err(corrupt("a fence")) };
        let (shard, epoch) = (u64::from_be_bytes(shard), u64::from_le_bytes(epoch));
        loaded.fences.insert(ShardId(shard), Epoch(epoch));
    }
    for row in read.open_table(BATCHES)?.iter()? {
        let (key, value) = row?;
        let (key, value) = (key.value(), value.value());
        let uid = key.get(..8).and_then(|it| it.try_into().ok()).map(u64::from_be_bytes);
        let count = value.get(8..12).and_then(|it| it.try_into().ok()).map(u32::from_le_bytes);
        let (Some(uid), Some(base), Some(count)) = (uid, rows::batch_base(key), count) else {
            return Err(corrupt("a batch's key"));
        };
        let extent =
            loaded.extents.entry(uid).or_insert(Extent { start: base, end: base, bytes: 0 });
        if extent.bytes != 0 && base < extent.end {
            return Err(corrupt("batches that overlap"));
        }
        extent.end = Offset(base.0 + i64::from(count));
        extent.bytes += value.len() as u64;
    }
    Ok(loaded)
}

/// Runs what reads the file, and takes errors and panics alike as damage.
fn guarded<T, E: std::fmt::Display>(read: impl FnOnce() -> Result<T, E>) -> Result<T, Error> {
    match std::panic::catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(damaged),
        Err(_panic) => Err(Error::Corrupt("its pages contradict each other".into())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn damaged<E: std::fmt::Display>(error: E) -> Error {
    Error::Corrupt(error.to_string())
}
