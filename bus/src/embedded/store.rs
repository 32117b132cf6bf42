//! The journal's tables on redb: one write transaction per group, synced before it returns, and
//! short reads. Whatever redb makes of a damaged file (an error, a panic) becomes an error here.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    TableDefinition,
};

use super::backend::{GuardedBackend, SyncGuard};
use super::rows::{self, IndexRow, Place, pair_key, split_key};
use crate::{Epoch, Error, Offset, Position, RecordBatch, ShardId, TopicInfo};

/// `"commit"` -> the counter of journal writes; `"topics"` -> the newest topic id.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Topic id -> topic.
const TOPICS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("topics");
/// (journal write, number in it) -> record batch. Not by partition: redb keeps values in its leaves,
/// and a batch that is put between others rewrites its neighbour, which it may have to read first.
const BATCHES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("batches");
/// (partition uid, base offset) -> count, bytes, newest timestamp, and where the batch is.
const INDEX: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("index");
/// Partition uid -> first offset, where retention moved it.
const STARTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("starts");
/// Shard -> newest epoch.
const FENCES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("fences");
/// (shard, partition uid) -> position.
const POSITIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("positions");

const COMMIT: &str = "commit";
const NEWEST_TOPIC: &str = "topics";

/// A partition's key in the journal: no two partitions ever share one.
pub(super) fn partition_uid(topic_id: u64, partition: i32) -> u64 {
    topic_id << 32 | u64::from(partition.unsigned_abs())
}

/// A batch as the journal has it, and where its offsets end: a compacted one may lack the last.
#[derive(Clone, Debug)]
pub(super) struct Spanned {
    pub(super) batch: RecordBatch,
    pub(super) end: Offset,
}

/// What one journal write changes.
#[derive(Debug, Default)]
pub(super) struct WriteSet {
    pub(super) topics_made: Vec<TopicInfo>,
    pub(super) topics_deleted: Vec<u64>,
    /// Partition uid and batch, whose base is set.
    pub(super) batches: Vec<(u64, RecordBatch)>,
    /// Partition uid and base.
    pub(super) batches_deleted: Vec<(u64, Offset)>,
    /// What compaction keeps of deleted ones: partition uid, batch, how many offsets it takes.
    pub(super) batches_kept: Vec<(u64, RecordBatch, u32)>,
    /// Batches that take more offsets: partition uid, base, how many.
    pub(super) spans: Vec<(u64, Offset, u32)>,
    /// `None` forgets the row.
    pub(super) starts: Vec<(u64, Option<Offset>)>,
    pub(super) fences: Vec<(ShardId, Option<Epoch>)>,
    pub(super) positions: Vec<(ShardId, u64, Option<Position>)>,
}

impl WriteSet {
    pub(super) fn is_empty(&self) -> bool {
        self.topics_made.is_empty()
            && self.topics_deleted.is_empty()
            && self.batches.is_empty()
            && self.batches_deleted.is_empty()
            && self.batches_kept.is_empty()
            && self.spans.is_empty()
            && self.starts.is_empty()
            && self.fences.is_empty()
            && self.positions.is_empty()
    }
}

/// A partition as the journal has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LoadedPartition {
    pub(super) start: Offset,
    pub(super) end: Offset,
    pub(super) bytes: u64,
}

/// All of the journal but its batches.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) commit: u64,
    pub(super) newest_topic: u64,
    pub(super) topics: Vec<TopicInfo>,
    pub(super) partitions: BTreeMap<u64, LoadedPartition>,
    pub(super) fences: Vec<(ShardId, Epoch)>,
    pub(super) positions: Vec<(ShardId, u64, Position)>,
    /// Partitions of deleted topics whose batches are still to be removed.
    pub(super) garbage: Vec<u64>,
}

/// Gives the backend of the journal, at the start and again after an I/O error.
pub(super) type BackendFn = Box<dyn Fn() -> Result<Box<dyn StorageBackend>, Error> + Send + Sync>;

/// The journal's store.
pub(super) struct Store {
    /// `None` once closed. Written only to open again, so readers wait for nothing else.
    db: RwLock<Option<Database>>,
    backend: BackendFn,
    guard: SyncGuard,
    cache_bytes: usize,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the journal, or makes it where the backend is empty.
    pub(super) fn open(
        backend: BackendFn,
        guard: SyncGuard,
        cache_bytes: usize,
    ) -> Result<Self, Error> {
        let store = Self { db: RwLock::new(None), backend, guard, cache_bytes };
        let db = store.open_database()?;
        *store.db.write().unwrap_or_else(PoisonError::into_inner) = Some(db);
        Ok(store)
    }

    fn open_database(&self) -> Result<Database, Error> {
        let inner = (self.backend)()?;
        let fresh = inner.len().map_err(|source| io_error("measure the journal", source))? == 0;
        let backend = GuardedBackend::new(inner, self.guard.clone());
        let db = undamaged(|| {
            redb::Builder::new()
                .set_cache_size(self.cache_bytes)
                .create_with_backend(backend)
                .map_err(open_error)
        })?;
        if fresh {
            let make = || write(&db, &WriteSet::default(), 0);
            if let Err(error) = undamaged(|| make().map_err(journal_error("make the journal"))) {
                close(db)?;
                return Err(error);
            }
        }
        Ok(db)
    }

    /// Closes the database that failed and opens it again; gives the newest durable commit.
    pub(super) fn reopen(&self) -> Result<u64, Error> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        // A failed database closes with an error that is already known.
        if let Some(Err(error)) = db.take().map(close) {
            tracing::debug!(%error, "could not close the failed journal");
        }
        let opened = self.open_database()?;
        let read = journal_error("read the journal's counter");
        let commit = undamaged(|| newest_commit(&opened).map_err(read));
        *db = Some(opened);
        commit
    }

    /// Lets go of the file, after which every call gives [`Error::Closed`].
    pub(super) fn close(&self) -> Result<(), Error> {
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        db.map_or(Ok(()), close)
    }

    fn with<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(Error::Closed)?;
        undamaged(|| work(db).map_err(journal_error(action)))
    }

    /// Reads everything but the batches, and checks that it hangs together: every row's checksum,
    /// every partition an unbroken run, its last batch whole.
    pub(super) fn load(&self) -> Result<Loaded, Error> {
        self.with("read the journal", load)
    }

    /// Writes `set` as journal write `commit`: durable when it returns.
    ///
    /// # Errors
    ///
    /// Whatever it is, the database may be unusable and the outcome unknown:
    /// [`reopen`](Self::reopen) tells.
    pub(super) fn commit(&self, set: &WriteSet, commit: u64) -> Result<(), Error> {
        self.with("write the journal", |db| write(db, set, commit))
    }

    /// Batches of a partition from the one that holds `from`, about `bytes_max` of them, at least
    /// one if there is one below `end`.
    pub(super) fn read(
        &self,
        uid: u64,
        from: Offset,
        end: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Spanned>, Error> {
        self.with("read the journal", |db| read(db, uid, from, end, bytes_max))
    }

    /// Shows a partition's index rows to `visit`, from the first on, until it says `false`.
    pub(super) fn scan(
        &self,
        uid: u64,
        visit: impl FnMut(Offset, IndexRow) -> bool,
    ) -> Result<(), Error> {
        self.with("read the journal", |db| scan(db, uid, visit))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A damaged database may panic as it closes; that it is damaged was said already.
        if let Err(error) = self.close() {
            tracing::debug!(%error, "could not close the journal");
        }
    }
}

/// Runs `work`; a panic inside redb is damage that it did not expect.
fn undamaged<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::Corrupt(format!("the store panicked: {}", panic_text(&*panic))))
    })
}

fn close(db: Database) -> Result<(), Error> {
    undamaged(|| db.close().map_err(open_error))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".to_owned())
}

fn io_error(action: &str, source: std::io::Error) -> Error {
    Error::Io { action: action.to_owned(), source }
}

/// What redb says when it opens, as damage or as a refusal of the system.
fn open_error(error: redb::DatabaseError) -> Error {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(source))
            if !matches!(source.kind(), InvalidData | UnexpectedEof) =>
        {
            io_error("open the journal", source)
        }
        redb::DatabaseError::DatabaseAlreadyOpen => {
            Error::InUse { dir: "the journal".to_owned(), pid: "unknown".to_owned() }
        }
        other => Error::Corrupt(other.to_string()),
    }
}

/// What redb says at work: damage, a refusal of the system, or a refusal of its own.
fn journal_error(action: &'static str) -> impl Fn(redb::Error) -> Error {
    move |error| match error {
        redb::Error::Io(source) => io_error(action, source),
        redb::Error::Corrupted(reason) => Error::Corrupt(reason),
        // Every table was made with the journal, as it is opened.
        error @ (redb::Error::TableDoesNotExist(_)
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }) => Error::Corrupt(error.to_string()),
        other => Error::Journal { action, reason: other.to_string() },
    }
}

fn damaged(what: impl fmt::Display, damage: &str) -> redb::Error {
    redb::Error::Corrupted(format!("{what}: {damage}"))
}

fn newest_commit(db: &Database) -> Result<u64, redb::Error> {
    let meta = db.begin_read()?.open_table(META)?;
    let row = meta.get(COMMIT)?;
    let row = row.ok_or_else(|| damaged("the journal's counter", "it is not there"))?;
    rows::decode_number(COMMIT.as_bytes(), row.value())
        .map_err(|damage| damaged("the journal's counter", damage))
}

fn write(db: &Database, set: &WriteSet, commit: u64) -> Result<(), redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    {
        let mut meta = txn.open_table(META)?;
        meta.insert(COMMIT, &*rows::encode_number(COMMIT.as_bytes(), commit))?;
        if let Some(newest) = set.topics_made.iter().map(|topic| topic.id).max() {
            let row = rows::encode_number(NEWEST_TOPIC.as_bytes(), newest);
            meta.insert(NEWEST_TOPIC, &*row)?;
        }
    }
    let all = commit == 0;
    if all || !set.batches.is_empty() || !set.batches_deleted.is_empty() {
        let mut batches = txn.open_table(BATCHES)?;
        let mut index = txn.open_table(INDEX)?;
        for (uid, base) in &set.batches_deleted {
            let key = pair_key(*uid, rows::offset_key(*base));
            let Some(row) = index.remove(&key)? else { continue };
            let row = index_row(&key, row.value())?;
            batches.remove(&row.place.key())?;
        }
        let new = set.batches.iter().map(|(uid, batch)| (uid, batch, batch.len() as u32));
        let kept = set.batches_kept.iter().map(|(uid, batch, span)| (uid, batch, *span));
        for (ordinal, (uid, batch, count)) in (0..).zip(new.chain(kept)) {
            let key = pair_key(*uid, rows::offset_key(batch.base()));
            let row = IndexRow {
                count,
                bytes: batch.as_bytes().len() as u32,
                timestamp_max: batch.timestamp_max().0,
                place: Place { commit, ordinal },
            };
            batches.insert(&row.place.key(), &**batch.as_bytes())?;
            index.insert(&key, &rows::encode_index(&key, row)[..])?;
        }
        for (uid, base, count) in &set.spans {
            let key = pair_key(*uid, rows::offset_key(*base));
            let Some(row) = index.get(&key)?.map(|row| index_row(&key, row.value())) else {
                continue;
            };
            let row = IndexRow { count: *count, ..row? };
            index.insert(&key, &rows::encode_index(&key, row)[..])?;
        }
    }
    if all || !set.positions.is_empty() {
        let mut positions = txn.open_table(POSITIONS)?;
        for (shard, uid, position) in &set.positions {
            let key = pair_key(shard.0, *uid);
            match position {
                Some(position) => {
                    positions.insert(&key, &*rows::encode_position(&key, position))?;
                }
                None => drop(positions.remove(&key)?),
            }
        }
    }
    if all || !set.fences.is_empty() {
        let mut fences = txn.open_table(FENCES)?;
        for (shard, epoch) in &set.fences {
            match epoch {
                Some(epoch) => {
                    let row = rows::encode_number(&shard.0.to_be_bytes(), epoch.0);
                    fences.insert(shard.0, &*row)?;
                }
                None => drop(fences.remove(shard.0)?),
            }
        }
    }
    if all || !set.starts.is_empty() {
        let mut starts = txn.open_table(STARTS)?;
        for (uid, start) in &set.starts {
            match start {
                Some(start) => {
                    let row = rows::encode_number(&uid.to_be_bytes(), rows::offset_key(*start));
                    starts.insert(*uid, &*row)?;
                }
                None => drop(starts.remove(*uid)?),
            }
        }
    }
    if all || !set.topics_made.is_empty() || !set.topics_deleted.is_empty() {
        let mut topics = txn.open_table(TOPICS)?;
        for topic in &set.topics_made {
            topics.insert(topic.id, &*rows::encode_topic(&topic.id.to_be_bytes(), topic))?;
        }
        for id in &set.topics_deleted {
            topics.remove(*id)?;
        }
    }
    txn.commit()?;
    Ok(())
}

fn load(db: &Database) -> Result<Loaded, redb::Error> {
    let mut loaded = Loaded { commit: newest_commit(db)?, ..Loaded::default() };
    let txn = db.begin_read()?;
    let meta = txn.open_table(META)?;
    if let Some(row) = meta.get(NEWEST_TOPIC)? {
        loaded.newest_topic = rows::decode_number(NEWEST_TOPIC.as_bytes(), row.value())
            .map_err(|damage| damaged("the newest topic id", damage))?;
    }
    let topics = txn.open_table(TOPICS)?;
    each(&topics, "the table of topics", |id, row| {
        let info = rows::decode_topic(&id.to_be_bytes(), id, row)
            .map_err(|damage| damaged(format_args!("topic {id}"), damage))?;
        for partition in 0..info.spec.partitions {
            loaded.partitions.insert(partition_uid(id, partition), LoadedPartition::default());
        }
        loaded.topics.push(info);
        Ok(())
    })?;
    let starts = txn.open_table(STARTS)?;
    each(&starts, "the table of starts", |uid, row| {
        let start = rows::decode_number(&uid.to_be_bytes(), row).and_then(rows::offset_of);
        let start = start.map_err(|damage| damaged(format_args!("start of {uid:x}"), damage))?;
        if let Some(partition) = loaded.partitions.get_mut(&uid) {
            (partition.start, partition.end) = (start, start);
        }
        Ok(())
    })?;
    let index = txn.open_table(INDEX)?;
    let batches = txn.open_table(BATCHES)?;
    load_index(&mut loaded, &index, &batches)?;
    let fences = txn.open_table(FENCES)?;
    each(&fences, "the table of fences", |shard, row| {
        let epoch = rows::decode_number(&shard.to_be_bytes(), row)
            .map_err(|damage| damaged(format_args!("fence of shard {shard}"), damage))?;
        loaded.fences.push((ShardId(shard), Epoch(epoch)));
        Ok(())
    })?;
    let positions = txn.open_table(POSITIONS)?;
    each_pair(&positions, "the table of positions", |key, row| {
        let (shard, uid) = split_key(key);
        let position = rows::decode_position(key, row)
            .map_err(|damage| damaged(format_args!("position of shard {shard}"), damage))?;
        loaded.positions.push((ShardId(shard), uid, position));
        Ok(())
    })?;
    Ok(loaded)
}

type PairTable = redb::ReadOnlyTable<&'static [u8; 16], &'static [u8]>;

/// Demands that each partition's batches follow one another without a gap, and that its last one
/// is whole; the others are checked when they are read.
fn load_index(
    loaded: &mut Loaded,
    index: &PairTable,
    batches: &PairTable,
) -> Result<(), redb::Error> {
    if index.len()? != batches.len()? {
        return Err(damaged(
            "the index of batches",
            "it has not as many rows as there are batches",
        ));
    }
    let mut last: BTreeMap<u64, ([u8; 16], IndexRow)> = BTreeMap::new();
    each_pair(index, "the index of batches", |key, row| {
        let (uid, base) = split_key(key);
        let row = index_row(key, row)?;
        let Some(partition) = loaded.partitions.get_mut(&uid) else {
            if loaded.garbage.last() != Some(&uid) {
                loaded.garbage.push(uid);
            }
            return Ok(());
        };
        if rows::offset_key(partition.end) != base {
            let what = format!("partition {uid:x}");
            let gap = format!("records {}..{base} are missing", partition.end);
            return Err(damaged(what, &gap));
        }
        partition.end = Offset(partition.end.0.saturating_add(row.count.into()));
        partition.bytes += u64::from(row.bytes);
        last.insert(uid, (*key, row));
        Ok(())
    })?;
    for (uid, (key, row)) in last {
        let what = || format!("the last batch of {uid:x}");
        batch_of(batches, &key, row).map_err(|error| damaged(what(), &error.to_string()))?;
    }
    Ok(())
}

fn index_row(key: &[u8; 16], row: &[u8]) -> Result<IndexRow, redb::Error> {
    rows::decode_index(key, row).map_err(|damage| {
        let (uid, base) = split_key(key);
        damaged(format_args!("batch {base} of {uid:x}"), damage)
    })
}

/// The batch that an index row speaks of.
fn batch_of(
    batches: &PairTable,
    key: &[u8; 16],
    row: IndexRow,
) -> Result<RecordBatch, redb::Error> {
    let (uid, base) = split_key(key);
    let damage = |damage| damaged(format_args!("batch {base} of {uid:x}"), damage);
    let found = batches.get(&row.place.key())?.ok_or_else(|| damage("it is not there"))?;
    let base = rows::offset_of(base).map_err(damage)?;
    let batch = RecordBatch::decode(Bytes::copy_from_slice(found.value()), base).map_err(damage)?;
    let span = batch.last_offset().0 - base.0 + 1;
    if i64::from(row.count) < span || batch.as_bytes().len() != row.bytes as usize {
        return Err(damage("it is not the batch that the index says"));
    }
    Ok(batch)
}

fn each(
    table: &redb::ReadOnlyTable<u64, &'static [u8]>,
    what: &'static str,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let mut seen = 0;
    for entry in table.iter()? {
        let (key, value) = entry?;
        visit(key.value(), value.value())?;
        seen += 1;
    }
    whole(what, seen, table.len()?)
}

fn each_pair(
    table: &PairTable,
    what: &'static str,
    mut visit: impl FnMut(&[u8; 16], &[u8]) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let mut seen = 0;
    for entry in table.iter()? {
        let (key, value) = entry?;
        visit(key.value(), value.value())?;
        seen += 1;
    }
    whole(what, seen, table.len()?)
}

/// A branch page that rots can hide rows without an error; the count in the root cannot.
fn whole(what: &str, seen: u64, counted: u64) -> Result<(), redb::Error> {
    if seen == counted {
        return Ok(());
    }
    Err(damaged(what, &format!("{seen} rows, where there should be {counted}")))
}

fn read(
    db: &Database,
    uid: u64,
    from: Offset,
    end: Offset,
    bytes_max: usize,
) -> Result<Vec<Spanned>, redb::Error> {
    let txn = db.begin_read()?;
    let (index, batches) = (txn.open_table(INDEX)?, txn.open_table(BATCHES)?);
    let (lowest, wanted) = (pair_key(uid, 0), pair_key(uid, rows::offset_key(from)));
    let mut below = index.range::<&[u8; 16]>(&lowest..=&wanted)?;
    let first = match below.next_back() {
        Some(entry) => *entry?.0.value(),
        None => wanted,
    };
    let highest = pair_key(uid, rows::offset_key(end));
    let (mut found, mut bytes) = (Vec::new(), 0);
    for entry in index.range::<&[u8; 16]>(&first..&highest)? {
        let (key, row) = entry?;
        let row = index_row(key.value(), row.value())?;
        if !found.is_empty() && bytes + row.bytes as usize > bytes_max {
            break;
        }
        bytes += row.bytes as usize;
        let batch = batch_of(&batches, key.value(), row)?;
        let end = Offset(batch.base().0.saturating_add(row.count.into()));
        found.push(Spanned { batch, end });
    }
    Ok(found)
}

fn scan(
    db: &Database,
    uid: u64,
    mut visit: impl FnMut(Offset, IndexRow) -> bool,
) -> Result<(), redb::Error> {
    let txn = db.begin_read()?;
    let table = txn.open_table(INDEX)?;
    let (lowest, highest) = (pair_key(uid, 0), pair_key(uid, u64::MAX));
    for entry in table.range::<&[u8; 16]>(&lowest..=&highest)? {
        let (key, value) = entry?;
        let row = index_row(key.value(), value.value())?;
        let base = rows::offset_of(split_key(key.value()).1)
            .map_err(|damage| damaged(format_args!("the index of {uid:x}"), damage))?;
        if !visit(base, row) {
            break;
        }
    }
    Ok(())
}
