//! [`bus::PositionLog`] on sled: a call is one atomic batch, calls that wait together share one
//! sync, and the log is rewritten into a new directory when little of it is live.
//!
//! Every row is held in memory as it was last made durable. That decides whether a row moves
//! back, answers [`load`](bus::PositionLog::load), and is what a new directory is written from
//! when the old one has grown, has failed (a full disk), or was cleared.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::{Position, PositionKey, PositionLog};

use crate::Error;
use crate::files;
use crate::generation::{self, Generation, LOG_BYTES_KEPT};
use crate::rows::{self, Row, Rows};

/// V7: a log longer than so many times its live bytes is rewritten.
const LOG_TO_LIVE_MAX: u64 = 3;

/// What [`SledPositions::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The store. Empty if the old one could not be read.
    pub store: SledPositions,
    /// Where the old directory is, if it could not be read. Somebody should be told: the
    /// positions are rebuilt from the bus, and the damage has a cause.
    pub quarantined: Option<PathBuf>,
    /// Why it could not be read.
    pub damage: Option<Error>,
}

/// Positions in sled, in `<dir>/g-<n>`. One handle at a time has the directory.
#[derive(Debug)]
pub struct SledPositions {
    waiting: Mutex<Vec<Arc<Call>>>,
    store: Mutex<Store>,
}

/// One call of [`PositionLog::record`] on its way to the disk.
#[derive(Debug)]
struct Call {
    rows: Vec<(Vec<u8>, Row)>,
    outcome: Mutex<Option<Result<(), Error>>>,
}

#[derive(Debug)]
struct Store {
    dir: PathBuf,
    rows: Rows,
    live_bytes: u64,
    generation: Generation,
    next_number: u64,
    /// sled refused or panicked: what its log holds beyond `rows` is unknown.
    is_broken: bool,
    /// A sync failed: nothing is written any more.
    failed: Option<String>,
    /// The log length at which a rewrite is tried next, after one that did not work out.
    rewrite_bytes_min: u64,
    /// Last, so that it is let go last.
    _lock: File,
}

impl SledPositions {
    /// Opens the store in `dir`, creating it if needed. What cannot be read is moved aside to
    /// `<dir>.quarantined-<n>`, and an empty store takes its place. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] when somebody keeps the directory for 5 s, [`Error::Io`] and
    /// [`Error::Sled`] when the system refuses, [`Error::Sync`].
    pub fn open(dir: &Path) -> Result<Opened, Error> {
        files::make_dir(dir)?;
        let lock = files::lock(dir)?;
        match Store::open(dir, lock) {
            Ok(store) => Ok(Opened { store: Self::new(store), quarantined: None, damage: None }),
            Err(damage) if damage.is_damage() => {
                let quarantined = Some(files::quarantine(dir)?);
                files::make_dir(dir)?;
                let store = Store::open(dir, files::lock(dir)?)?;
                Ok(Opened { store: Self::new(store), quarantined, damage: Some(damage) })
            }
            Err(error) => Err(error),
        }
    }

    fn new(store: Store) -> Self {
        Self { waiting: Mutex::new(Vec::new()), store: Mutex::new(store) }
    }

    /// Writes these positions as one atomic batch, durable when it returns. A row that would move
    /// back stays. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`Error::Position`] when one is too large: then nothing is written. After
    /// [`Error::Sync`] the process must end. Any other leaves the outcome unknown, and the same
    /// call may be made again.
    pub fn record(&self, moves: &[(PositionKey, Position)]) -> Result<(), Error> {
        let rows = moves
            .iter()
            .map(|(key, position)| Ok((rows::key_bytes(key), Row::encode(key, position)?)));
        let rows = rows.collect::<Result<Vec<_>, Error>>()?;
        let call = Arc::new(Call { rows, outcome: Mutex::new(None) });
        locked(&self.waiting).push(call.clone());

        // Whoever gets the store takes along all that wait; the others find themselves done.
        let mut store = locked(&self.store);
        if locked(&call.outcome).is_none() {
            let calls = std::mem::take(&mut *locked(&self.waiting));
            store.commit(&calls);
        }
        drop(store);
        let outcome = locked(&call.outcome).take();
        outcome.unwrap_or_else(|| {
            Err(Error::Failed { reason: "a commit ended without an outcome".to_owned() })
        })
    }

    /// Every row, ascending by key.
    ///
    /// # Errors
    ///
    /// None today: rows were checked when they were read or written.
    pub fn load(&self) -> Result<Vec<(PositionKey, Position)>, Error> {
        let store = locked(&self.store);
        let rows = store.rows.iter();
        rows.map(|(key, row)| Ok((rows::parse_key(key)?, row.position()?))).collect()
    }

    /// Drops every row.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record): the rows are there or gone, never some of them.
    pub fn clear(&self) -> Result<(), Error> {
        let mut store = locked(&self.store);
        store.ready()?;
        store.rewrite(Rows::new())
    }

    /// Rewrites the log into a new directory now, whatever its length.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record); the rows stay as they are.
    pub fn rewrite(&self) -> Result<(), Error> {
        let mut store = locked(&self.store);
        store.ready()?;
        let rows = store.rows.clone();
        store.rewrite(rows)
    }

    /// How long sled's log is now.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        locked(&self.store).generation.log_bytes()
    }
}

impl PositionLog for SledPositions {
    fn record(&self, moves: &[(PositionKey, Position)]) -> Result<(), BoxedError> {
        Ok(Self::record(self, moves)?)
    }

    fn load(&self) -> Result<Vec<(PositionKey, Position)>, BoxedError> {
        Ok(Self::load(self)?)
    }

    fn clear(&self) -> Result<(), BoxedError> {
        Ok(Self::clear(self)?)
    }
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl Store {
    /// Reads the newest generation, and writes the next.
    fn open(dir: &Path, lock: File) -> Result<Self, Error> {
        let (newest, used) = generation::newest(dir)?;
        let rows =
            newest.map_or_else(|| Ok(Rows::new()), |number| generation::read(dir, number))?;
        let generation = Generation::create(dir, used + 1, &rows)?;
        generation::remove_others(dir, generation.number)?;
        Ok(Self {
            dir: dir.to_owned(),
            live_bytes: live_bytes(&rows),
            rows,
            next_number: generation.number + 1,
            generation,
            is_broken: false,
            failed: None,
            rewrite_bytes_min: 0,
            _lock: lock,
        })
    }

    /// Whether anything may be written.
    fn ready(&self) -> Result<(), Error> {
        match &self.failed {
            Some(reason) => Err(Error::Failed { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Writes these calls, a batch each, with one sync, and gives each its outcome.
    fn commit(&mut self, calls: &[Arc<Call>]) {
        let outcome = self.try_commit(calls);
        if let Err(error) = &outcome {
            self.note(error);
        }
        for call in calls {
            *locked(&call.outcome) = Some(outcome.clone());
        }
        if outcome.is_ok() {
            self.rewrite_if_long();
        }
    }

    fn try_commit(&mut self, calls: &[Arc<Call>]) -> Result<(), Error> {
        self.ready()?;
        if self.is_broken {
            self.rewrite(self.rows.clone())?;
        }
        let mut moved: BTreeMap<&[u8], &Row> = BTreeMap::new();
        for call in calls {
            let mut batch = sled::Batch::default();
            let mut moves = false;
            for (key, row) in &call.rows {
                let current = moved.get(key.as_slice()).copied().or_else(|| self.rows.get(key));
                if current.is_some_and(|current| !row.follows(current)) {
                    continue;
                }
                put(&mut batch, key, row, current.map_or(0, Row::piece_count));
                moved.insert(key, row);
                moves = true;
            }
            if moves {
                self.generation.apply(batch)?;
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        self.generation.sync()?;
        for (key, row) in moved {
            self.live_bytes += row_bytes(key, row);
            if let Some(old) = self.rows.insert(key.to_vec(), row.clone()) {
                self.live_bytes -= row_bytes(key, &old);
            }
        }
        Ok(())
    }

    fn note(&mut self, error: &Error) {
        if error.is_fatal() {
            self.failed.get_or_insert_with(|| error.to_string());
        } else {
            self.is_broken = true;
        }
    }

    /// V7. A rewrite that does not work out (a full disk) leaves the old log in use.
    fn rewrite_if_long(&mut self) {
        let log_bytes = self.generation.log_bytes();
        let kept = LOG_BYTES_KEPT.max(LOG_TO_LIVE_MAX * self.live_bytes);
        if kept.max(self.rewrite_bytes_min) < log_bytes && self.rewrite(self.rows.clone()).is_err()
        {
            self.rewrite_bytes_min = log_bytes * 2;
        }
    }

    /// Puts `rows` into a new generation and goes on with that one.
    fn rewrite(&mut self, rows: Rows) -> Result<(), Error> {
        let number = self.next_number;
        self.next_number += 1;
        let generation = match Generation::create(&self.dir, number, &rows) {
            Ok(generation) => generation,
            Err(error) if error.is_fatal() => {
                self.failed.get_or_insert_with(|| error.to_string());
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        drop(std::mem::replace(&mut self.generation, generation));
        self.live_bytes = live_bytes(&rows);
        self.rows = rows;
        self.is_broken = false;
        self.rewrite_bytes_min = 0;
        // What is left behind costs room, and the next rewrite or start removes it.
        drop(generation::remove_others(&self.dir, number));
        Ok(())
    }
}

/// Adds a row to a batch, and takes away the pieces it no longer has.
fn put(batch: &mut sled::Batch, key: &[u8], row: &Row, pieces_before: usize) {
    for (piece, bytes) in row.pieces().enumerate() {
        batch.insert(rows::piece_key(key, piece), bytes);
    }
    for piece in row.piece_count()..pieces_before {
        batch.remove(rows::piece_key(key, piece));
    }
}

fn live_bytes(rows: &Rows) -> u64 {
    rows.iter().map(|(key, row)| row_bytes(key, row)).sum()
}

fn row_bytes(key: &[u8], row: &Row) -> u64 {
    key.len() as u64 + row.size_bytes()
}

/// No call leaves a lock's content half changed: a panic elsewhere changes nothing about it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "sled_positions_tests.rs"]
mod tests;
