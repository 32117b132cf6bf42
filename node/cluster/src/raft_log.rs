//! The raft log on redb: one write transaction for each [`Write`], synced before it returns.
//!
//! ```text
//! entries   index (u64) -> a checked row
//! meta      "checkpoint", "members", "base", "hard", "starts" -> a checked row
//! ```
//!
//! "starts" counts the processes that opened the log: what this one asks for is above what every
//! one before it can have asked for.
//!
//! "members" is written with each checkpoint and says what that row has no place for; logs of before
//! there were learners lack it.
//!
//! A small file beside it, written after each sync, holds the last place: redb goes back by one
//! commit when the pages of the newest are damaged, and a log that ends before what was synced
//! must not be started from.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use raft::eraftpb::{Entry, EntryType, HardState};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage::codec;

use crate::image::{Checkpoint, Cut, Image, Place, Write};
use crate::log::Error;
use crate::members::Members;

const ENTRIES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("entries");
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
const CHECKPOINT: &str = "checkpoint";
const MEMBERS: &str = "members";
const BASE: &str = "base";
const HARD: &str = "hard";
const STARTS: &str = "starts";

#[derive(Serialize, Deserialize)]
struct EntryRow {
    term: u64,
    /// As raft numbers its entry types.
    kind: i32,
    context: Vec<u8>,
    data: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct CheckpointRow {
    term: u64,
    index: u64,
    voters: Vec<u64>,
    state: Vec<u8>,
}

#[derive(Default, Serialize, Deserialize)]
struct MembersRow {
    learners: Vec<u64>,
    newest: u64,
}

#[derive(Serialize, Deserialize)]
struct HardRow {
    term: u64,
    vote: u64,
    commit: u64,
}

/// The file. Calls block on the disk.
#[derive(Debug)]
pub(crate) struct RaftLog {
    database: Database,
    path: PathBuf,
}

impl RaftLog {
    /// Opens the log and reads all of it; a new one holds `founding`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Write`].
    pub(crate) fn open(path: &Path, founding: &Write) -> Result<(Self, Image), Error> {
        let damaged = |reason| Error::Damaged { path: path.to_owned(), reason };
        let open = || -> Result<(Database, Option<Image>), String> {
            let database = Database::create(path).map_err(|error| error.to_string())?;
            let image = read(&database)?;
            Ok((database, image))
        };
        let (database, image) = std::panic::catch_unwind(AssertUnwindSafe(open))
            .unwrap_or_else(|_panic| Err("its pages contradict each other".to_owned()))
            .map_err(damaged)?;
        let this = Self { database, path: path.to_owned() };
        let noted = this.noted().unwrap_or_default();
        let image = match image {
            Some(image) => image,
            None if noted == Place::default() => {
                let mut image = Image::default();
                image.carry_out(founding);
                this.write(founding, image.last())?;
                image
            }
            None => return Err(damaged("it is empty, but was not".to_owned())),
        };
        image.check().map_err(damaged)?;
        if image.last() < noted {
            let (last, noted) = (image.last().index, noted.index);
            return Err(damaged(format!("it ends at entry {last}, but entry {noted} was synced")));
        }
        Ok((this, image))
    }

    /// Makes a write durable; `last` is the last place of the log after it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], when nothing was written; [`Error::Write`], after which the process
    /// must end.
    pub(crate) fn write(&self, write: &Write, last: Place) -> Result<(), Error> {
        let rows = Rows::of(write)?;
        rows.write(&self.database).map_err(|error| self.failed(&error))?;
        self.note(last);
        Ok(())
    }

    /// Counts this process, durably, before it does anything; the first one gets 1.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Write`].
    pub(crate) fn count_start(&self) -> Result<u64, Error> {
        let count = || -> Result<u64, redb::Error> {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.set_quick_repair(true);
            let starts = {
                let mut meta = write.open_table(META)?;
                let before = meta.get(STARTS)?.map(|row| codec::decode::<u64>(row.value()));
                let Some(Ok(before)) = before.or(Some(Ok(0))) else { return Ok(0) };
                let row = codec::encode(&(before + 1)).expect("a number fits into a row");
                meta.insert(STARTS, row.as_slice())?;
                before + 1
            };
            write.commit()?;
            Ok(starts)
        };
        match count().map_err(|error| self.failed(&error))? {
            0 => {
                let reason = "its count of starts cannot be read".to_owned();
                Err(Error::Damaged { path: self.path.clone(), reason })
            }
            starts => Ok(starts),
        }
    }

    fn failed(&self, error: &redb::Error) -> Error {
        Error::Write { path: self.path.clone(), reason: error.to_string() }
    }

    fn note_path(&self) -> PathBuf {
        self.path.with_extension("last")
    }

    fn noted(&self) -> Option<Place> {
        let (term, index) = codec::decode(&std::fs::read(self.note_path()).ok()?).ok()?;
        Some(Place { term, index })
    }

    /// Lazily: a note that is missing, torn or old says nothing, one that is ahead says that the
    /// log lost its end.
    fn note(&self, last: Place) {
        if let Ok(bytes) = codec::encode(&(last.term, last.index)) {
            drop(std::fs::write(self.note_path(), bytes));
        }
    }
}

/// A write as rows.
struct Rows {
    meta: Vec<(&'static str, Vec<u8>)>,
    cut: Cut,
    first: Option<u64>,
    entries: Vec<(u64, Vec<u8>)>,
}

impl Rows {
    fn of(write: &Write) -> Result<Self, Error> {
        let mut meta = Vec::new();
        if let Some(checkpoint) = &write.checkpoint {
            let Checkpoint { place, members, state } = checkpoint.clone();
            let voters = members.voters().iter().copied().collect();
            let row = CheckpointRow { term: place.term, index: place.index, voters, state };
            meta.push((CHECKPOINT, codec::encode_snapshot(&row)?));
            let learners = members.learners().iter().copied().collect();
            let row = MembersRow { learners, newest: members.newest() };
            meta.push((MEMBERS, codec::encode(&row)?));
        }
        if let Cut::Through(base) | Cut::All(base) = write.cut {
            meta.push((BASE, codec::encode(&(base.term, base.index))?));
        }
        if let Some(hard) = &write.hard {
            let row = HardRow { term: hard.term, vote: hard.vote, commit: hard.commit };
            meta.push((HARD, codec::encode(&row)?));
        }
        let rows = write.entries.iter().map(|entry| {
            let row = EntryRow {
                term: entry.term,
                kind: entry.get_entry_type() as i32,
                context: entry.context.to_vec(),
                data: entry.data.to_vec(),
            };
            Ok((entry.index, codec::encode_large(&row)?))
        });
        let entries = rows.collect::<Result<_, Error>>()?;
        Ok(Self { meta, cut: write.cut, first: write.entries.first().map(|it| it.index), entries })
    }

    fn write(&self, database: &Database) -> Result<(), redb::Error> {
        let mut write = database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        write.set_quick_repair(true);
        {
            let mut entries = write.open_table(ENTRIES)?;
            let mut meta = write.open_table(META)?;
            match self.cut {
                Cut::Nothing => {}
                Cut::Through(base) => entries.retain(|index, _| base.index < index)?,
                Cut::All(_) => entries.retain(|_, _| false)?,
            }
            if let Some(first) = self.first {
                entries.retain_in(first.., |_, _| false)?;
            }
            for (index, row) in &self.entries {
                entries.insert(index, row.as_slice())?;
            }
            for (key, row) in &self.meta {
                meta.insert(*key, row.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

/// All that a log holds; `None` when nothing was ever written to it.
fn read(database: &Database) -> Result<Option<Image>, String> {
    let read = database.begin_read().map_err(|error| error.to_string())?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let checkpoint: CheckpointRow = row(&meta, CHECKPOINT, codec::decode_snapshot)?;
    let has_members = meta.get(MEMBERS).map_err(|error| error.to_string())?.is_some();
    let more: MembersRow =
        if has_members { row(&meta, MEMBERS, codec::decode)? } else { MembersRow::default() };
    let (term, index) = row(&meta, BASE, codec::decode)?;
    let hard: HardRow = row(&meta, HARD, codec::decode)?;
    let table = read.open_table(ENTRIES).map_err(|error| error.to_string())?;
    let mut entries = Vec::new();
    for found in table.iter().map_err(|error| error.to_string())? {
        let (index, bytes) = found.map_err(|error| error.to_string())?;
        entries.push(entry(index.value(), bytes.value())?);
    }
    let place = Place { term: checkpoint.term, index: checkpoint.index };
    let members = Members::new(checkpoint.voters, more.learners, more.newest);
    Ok(Some(Image {
        hard: HardState {
            term: hard.term,
            vote: hard.vote,
            commit: hard.commit,
            ..HardState::default()
        },
        checkpoint: Checkpoint { place, members, state: checkpoint.state },
        base: Place { term, index },
        entries,
    }))
}

fn row<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
    decode: fn(&[u8]) -> Result<T, codec::CodecError>,
) -> Result<T, String> {
    let found = meta.get(key).map_err(|error| error.to_string())?;
    let found = found.ok_or_else(|| format!("it has no {key}"))?;
    decode(found.value()).map_err(|error| format!("its {key}: {error}"))
}

fn entry(index: u64, bytes: &[u8]) -> Result<Entry, String> {
    let row: EntryRow =
        codec::decode_large(bytes).map_err(|error| format!("entry {index}: {error}"))?;
    let kinds = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
    let kind = kinds.into_iter().find(|kind| *kind as i32 == row.kind);
    let kind = kind.ok_or_else(|| format!("entry {index}: of kind {}", row.kind))?;
    let mut entry = Entry {
        term: row.term,
        index,
        context: row.context.into(),
        data: row.data.into(),
        ..Entry::default()
    };
    entry.set_entry_type(kind);
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(term: u64, index: u64, data: &str) -> Entry {
        Entry { term, index, data: data.to_owned().into_bytes().into(), ..Entry::default() }
    }

    /// Applies writes to an image and to the file, and compares them after each.
    fn follow(path: &Path, writes: &[Write]) {
        let (log, mut image) = RaftLog::open(path, &Image::founding(vec![1], Vec::new())).unwrap();
        drop(log);
        for write in writes {
            image.carry_out(write);
            let (log, _before) = RaftLog::open(path, &Write::default()).unwrap();
            log.write(write, image.last()).unwrap();
            drop(log);
            let (log, read) = RaftLog::open(path, &Write::default()).unwrap();
            drop(log);
            assert_eq!(read, image);
        }
    }

    #[test]
    fn the_file_holds_what_the_image_says() {
        let dir = tempfile::tempdir().unwrap();
        let hard = |term, commit| Some(HardState { term, vote: 1, commit, ..HardState::default() });
        let at = |term, index| Place { term, index };
        let checkpoint = |term, index| {
            let members = Members::new([1, 2], [7], 9);
            Some(Checkpoint { place: at(term, index), members, state: vec![7; 100] })
        };
        follow(
            &dir.path().join("raft.redb"),
            &[
                Write {
                    entries: vec![normal(1, 2, "a"), normal(1, 3, "b"), normal(1, 4, "c")],
                    ..Write::default()
                },
                // A conflicting suffix goes, and the log is shorter than before.
                Write { entries: vec![normal(2, 3, "d")], hard: hard(2, 3), ..Write::default() },
                Write {
                    checkpoint: checkpoint(2, 3),
                    cut: Cut::Through(at(1, 2)),
                    hard: hard(2, 3),
                    ..Write::default()
                },
                Write {
                    checkpoint: checkpoint(3, 90),
                    cut: Cut::All(at(3, 90)),
                    entries: vec![normal(3, 91, "e")],
                    hard: hard(3, 90),
                },
            ],
        );
    }

    #[test]
    fn a_log_of_before_there_were_learners_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let founding = Image::founding(vec![1, 3], vec![7]);
        let (log, image) = RaftLog::open(&path, &founding).unwrap();
        let write = log.database.begin_write().unwrap();
        assert!(write.open_table(META).unwrap().remove(MEMBERS).unwrap().is_some());
        write.commit().unwrap();
        drop(log);
        let (_log, read) = RaftLog::open(&path, &founding).unwrap();
        assert_eq!((read.checkpoint.members.newest(), &read), (3, &image));
    }

    #[test]
    fn a_new_member_begins_with_nothing_and_starts_again_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let (log, blank) = RaftLog::open(&path, &Image::joining()).unwrap();
        assert!(blank.is_blank());
        // A term that it heard of comes before its first checkpoint.
        let hard = Some(HardState { term: 5, ..HardState::default() });
        log.write(&Write { hard, ..Write::default() }, blank.last()).unwrap();
        drop(log);
        let (_log, read) = RaftLog::open(&path, &Image::joining()).unwrap();
        assert_eq!((read.is_blank(), read.hard.term), (true, 5));
    }

    #[test]
    fn a_log_that_lost_its_end_or_is_garbage_refuses_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let founding = Image::founding(vec![1], Vec::new());
        let (log, image) = RaftLog::open(&path, &founding).unwrap();
        let more = Write { entries: vec![normal(1, 2, "a")], ..Write::default() };
        log.write(&more, Place { term: 1, index: 2 }).unwrap();
        drop(log);
        let note = path.with_extension("last");
        let ahead = codec::encode(&(1_u64, 3_u64)).unwrap();
        std::fs::write(&note, ahead).unwrap();
        let opened = RaftLog::open(&path, &founding);
        assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
        // A torn note says nothing.
        std::fs::write(&note, b"1").unwrap();
        let (log, now) = RaftLog::open(&path, &founding).unwrap();
        assert_eq!(now.entries.len(), image.entries.len() + 1);
        log.write(&Write::default(), now.last()).unwrap();
        drop(log);
        std::fs::write(&path, vec![0x5a; 40_000]).unwrap();
        assert!(matches!(RaftLog::open(&path, &founding), Err(Error::Damaged { .. })));
        // A file that is gone is no new log.
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(RaftLog::open(&path, &founding), Err(Error::Damaged { .. })));
    }
}
