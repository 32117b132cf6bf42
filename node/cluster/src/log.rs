//! The commands in a synced log on redb, and the state they lead to.
//!
//! ```text
//! entries   index (u64) -> a checked command          meta "snapshot" -> index and state
//! ```
//!
//! An entry is checked, synced, then applied; nothing is acknowledged before. At the start the run
//! from the snapshot to the last index must be unbroken, and a small file beside the log, written
//! after each sync, must not be ahead of it: a log that lost its end refuses to start.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use storage::codec;

use crate::state::{Applied, Command, Refused, State};

const ENTRIES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("entries");
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
const SNAPSHOT: &str = "snapshot";
/// Entries between two snapshots.
const SNAPSHOT_EVERY: u64 = 1_000;

/// The log could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state refuses the command; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// What is on disk is not what was written. The node must not start from it.
    #[error("the cluster log {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It could not be written; what reached the disk is unknown, and the process must end.
    #[error("write the cluster log {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The log, and the state it leads to. Calls block on the disk.
#[derive(Debug)]
pub struct CommandLog {
    database: Database,
    path: PathBuf,
    state: State,
    last: u64,
}

impl CommandLog {
    /// Opens the log, making it if there is none, and applies all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Write`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let read = || -> Result<(Database, State, u64), String> {
            let database = Database::create(path).map_err(|error| error.to_string())?;
            make_tables(&database).map_err(|error| error.to_string())?;
            let (state, last) = replay(&database)?;
            Ok((database, state, last))
        };
        let damaged = |reason| Error::Damaged { path: path.to_owned(), reason };
        let (database, state, last) = std::panic::catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_panic| Err("its pages contradict each other".to_owned()))
            .map_err(damaged)?;
        let this = Self { database, path: path.to_owned(), state, last };
        let noted = this.noted().unwrap_or(0);
        if last < noted {
            return Err(damaged(format!("it ends at entry {last}, but entry {noted} was synced")));
        }
        Ok(this)
    }

    /// What the commands so far lead to.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Checks a command, makes it durable, then applies it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] writes nothing. After [`Error::Write`] the process must end.
    pub fn append(&mut self, command: &Command) -> Result<Applied, Error> {
        let mut next = self.state.clone();
        let applied = next.apply(command)?;
        let index = self.last + 1;
        let write = || -> Result<(), String> {
            let bytes = codec::encode_large(command).map_err(|error| error.to_string())?;
            let snapshot = index
                .is_multiple_of(SNAPSHOT_EVERY)
                .then(|| codec::encode_large(&(index, &next)))
                .transpose()
                .map_err(|error| error.to_string())?;
            write_entry(&self.database, index, &bytes, snapshot.as_deref())
                .map_err(|error| error.to_string())
        };
        write().map_err(|reason| Error::Write { path: self.path.clone(), reason })?;
        self.note(index);
        self.state = next;
        self.last = index;
        Ok(applied)
    }

    fn note_path(&self) -> PathBuf {
        self.path.with_extension("last")
    }

    fn noted(&self) -> Option<u64> {
        std::fs::read_to_string(self.note_path()).ok()?.trim().parse().ok()
    }

    /// Lazily: a note that is missing or old says nothing, one that is ahead says that the log
    /// lost its end.
    fn note(&self, index: u64) {
        drop(std::fs::write(self.note_path(), format!("{index}\n")));
    }
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    write.set_quick_repair(true);
    write.open_table(ENTRIES)?;
    write.open_table(META)?;
    write.commit()?;
    Ok(())
}

fn write_entry(
    database: &Database,
    index: u64,
    bytes: &[u8],
    snapshot: Option<&[u8]>,
) -> Result<(), redb::Error> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    write.set_quick_repair(true);
    {
        let mut entries = write.open_table(ENTRIES)?;
        entries.insert(index, bytes)?;
        if let Some(snapshot) = snapshot {
            write.open_table(META)?.insert(SNAPSHOT, snapshot)?;
            entries.retain(|kept, _| index < kept)?;
        }
    }
    write.commit()?;
    Ok(())
}

fn replay(database: &Database) -> Result<(State, u64), String> {
    let text = |error: redb::Error| error.to_string();
    let read = database.begin_read().map_err(|error| text(error.into()))?;
    let meta = read.open_table(META).map_err(|error| text(error.into()))?;
    let (mut last, mut state) = match meta.get(SNAPSHOT).map_err(|error| text(error.into()))? {
        Some(row) => codec::decode_large::<(u64, State)>(row.value())
            .map_err(|error| format!("the snapshot: {error}"))?,
        None => (0, State::default()),
    };
    let entries = read.open_table(ENTRIES).map_err(|error| text(error.into()))?;
    for row in entries.iter().map_err(|error| text(error.into()))? {
        let (index, row) = row.map_err(|error| text(error.into()))?;
        let index = index.value();
        if index != last + 1 {
            return Err(format!("entry {index} follows entry {last}"));
        }
        let command: Command =
            codec::decode_large(row.value()).map_err(|error| format!("entry {index}: {error}"))?;
        state.apply(&command).map_err(|error| format!("entry {index}: {error}"))?;
        last = index;
    }
    Ok((state, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{App, Function, Trigger};

    fn deploy(revision: u64) -> Command {
        let function = Function {
            revision: revision.to_string(),
            package: revision.to_string(),
            spec: "{}".to_owned(),
        };
        let topics = [("in".to_owned(), 2)].into();
        let trigger = Trigger { function: "f".to_owned(), topics };
        let app = App {
            functions: [("f".to_owned(), function)].into(),
            triggers: [("a/f/f".to_owned(), trigger)].into(),
        };
        Command::Deploy { name: "a".to_owned(), app }
    }

    #[test]
    fn what_was_acknowledged_is_there_after_a_restart_also_past_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.redb");
        let mut log = CommandLog::open(&path).unwrap();
        for revision in 0..SNAPSHOT_EVERY + 3 {
            log.append(&deploy(revision)).unwrap();
        }
        let state = log.state().clone();
        drop(log);
        let mut log = CommandLog::open(&path).unwrap();
        assert_eq!(*log.state(), state);
        let remove = Command::Remove { name: "b".into() };
        assert!(matches!(log.append(&remove), Err(Error::Refused(_))));
    }

    #[test]
    fn a_log_that_lost_its_end_or_is_garbage_refuses_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.redb");
        let mut log = CommandLog::open(&path).unwrap();
        log.append(&deploy(1)).unwrap();
        drop(log);
        std::fs::write(path.with_extension("last"), "2\n").unwrap();
        let opened = CommandLog::open(&path);
        assert!(matches!(opened, Err(Error::Damaged { .. })), "{opened:?}");
        std::fs::remove_file(path.with_extension("last")).unwrap();
        assert!(CommandLog::open(&path).is_ok());
        std::fs::write(&path, vec![0x5a; 40_000]).unwrap();
        assert!(matches!(CommandLog::open(&path), Err(Error::Damaged { .. })));
    }
}
