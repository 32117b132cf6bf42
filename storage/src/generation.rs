//! One sled directory out of a row of them: `<dir>/g-<n>`. A generation is written, synced and
//! only then marked complete; from then on it is appended to, and never opened in place again.
//!
//! sled recovers by writing: it cuts the tail, zeroes segments that the new snapshot no longer
//! needs and puts the snapshot into the directory without syncing it. A power cut between those
//! can lose what was durable before (zeroed segments, and no snapshot that knows of it). So a
//! generation is **read from a copy**, its rows go into the next one, and it is removed once that
//! one is marked. A crash anywhere leaves either generation whole.
//!
//! The log of a generation normally fits its first segment, so sled neither reuses segments nor
//! shortens the file while it is live: all it does is append, and every append is covered by the
//! `fdatasync` that follows.
//!
//! Our syncs, in order: `db` and `conf`, the generation's directory (their names), `<dir>` (the
//! generation's name); then the mark, and the generation's directory once more (its name).

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::io_error;
use crate::files;
use crate::rows::{self, PIECE_BYTES_MAX, Rows};
use crate::{Error, codec};

/// V2: position and completion map of every shard change in one tree, a call at a time.
const TREE: &str = "positions";

/// sled's unit of reuse. It puts pages over a quarter of it into files that it never syncs: 2 MiB
/// here, and the largest page is 17 pieces = 544 KiB.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// Below this a log is left alone however little of it is live; three quarters of a segment, so
/// that a commit past it (1 MiB and more at once is possible) seldom needs a second one.
pub(crate) const LOG_BYTES_KEPT: u64 = 6 * 1024 * 1024;

/// sled's page cache: positions are few, and are answered from memory anyway.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;

/// Rows of one batch while a generation is filled.
const FILL_BYTES: usize = 256 * 1024;

const MARK: &str = "complete";
/// The first row of every generation. sled takes a log that is garbage for one that ends early:
/// a generation without this row is not empty, it is damaged.
const FIRST: &[u8] = b"generation";

const _: () =
    assert!(17 * PIECE_BYTES_MAX < SEGMENT_BYTES / 4 && PIECE_BYTES_MAX < codec::VALUE_BYTES_MAX);

/// A generation that is open for writing.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    path: PathBuf,
    db: sled::Db,
    tree: sled::Tree,
    log: File,
}

impl Generation {
    /// Makes generation `number` in `dir` with these rows, durable and marked when it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Sync`] ends the process. After any other nothing is marked.
    pub(crate) fn create(dir: &Path, number: u64, rows: &Rows) -> Result<Self, Error> {
        let path = path_of(dir, number);
        files::remove(&path)?;
        fs::create_dir(&path).map_err(|error| io_error("make", &path, error))?;
        let (db, tree) = guarded("create", &path, || open(&path, false))?;
        let file = File::open(path.join("db"));
        let log = file.map_err(|error| io_error("open the log of", &path, error))?;
        let generation = Self { number, path, db, tree, log };
        generation.fill(rows)?;
        for name in ["db", "conf"] {
            files::sync(&generation.path.join(name))?;
        }
        files::sync(&generation.path)?;
        files::sync(dir)?;
        let mark = generation.path.join(MARK);
        File::create_new(&mark).map_err(|error| io_error("make", &mark, error))?;
        files::sync(&generation.path)?;
        Ok(generation)
    }

    fn fill(&self, rows: &Rows) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        batch.insert(FIRST, &self.number.to_be_bytes());
        let mut batch_bytes = 0;
        for (key, row) in rows {
            for (piece, bytes) in row.pieces().enumerate() {
                batch.insert(rows::piece_key(key, piece), bytes);
                batch_bytes += bytes.len();
            }
            if FILL_BYTES < batch_bytes {
                self.apply(std::mem::take(&mut batch))?;
                batch_bytes = 0;
            }
        }
        self.apply(batch)?;
        self.flush()
    }

    /// Writes a batch, which is atomic. It is durable after the next [`sync`](Self::sync).
    pub(crate) fn apply(&self, batch: sled::Batch) -> Result<(), Error> {
        guarded("write", &self.path, || self.tree.apply_batch(batch))
    }

    /// Makes every batch durable: sled's flush ends in `sync_file_range`, which a power cut does
    /// not respect, so our own `fdatasync` follows.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.flush()?;
        self.log
            .sync_data()
            .map_err(|source| Error::Sync { path: self.path.join("db"), source: Arc::new(source) })
    }

    fn flush(&self) -> Result<(), Error> {
        guarded("flush", &self.path, || self.db.flush().map(drop))
    }

    /// How long the log is.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |metadata| metadata.len())
    }
}

/// The newest generation that is marked complete, and the newest number in use.
pub(crate) fn newest(dir: &Path) -> Result<(Option<u64>, u64), Error> {
    let (mut complete, mut used) = (None, 0);
    for number in numbers(dir)? {
        used = used.max(number);
        if complete < Some(number) && path_of(dir, number).join(MARK).exists() {
            complete = Some(number);
        }
    }
    Ok((complete, used))
}

/// The rows of a generation, read from a copy that sled may write to.
///
/// # Errors
///
/// Those that [`Error::is_damage`] tells apart mean that the generation cannot be read.
pub(crate) fn read(dir: &Path, number: u64) -> Result<Rows, Error> {
    let copy = dir.join(format!("copy-{number}"));
    files::remove(&copy)?;
    copy_files(&path_of(dir, number), &copy)?;
    let rows = guarded_rows(&copy);
    // sled removes it too, when its threads have let go of it.
    files::remove(&copy)?;
    rows
}

fn guarded_rows(copy: &Path) -> Result<Rows, Error> {
    let mut pairs = guarded("read", copy, || {
        let (_db, tree) = open(copy, true)?;
        let pairs = tree.iter().map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
        pairs.collect::<Result<Vec<_>, sled::Error>>()
    })?;
    let found = pairs.len();
    pairs.retain(|(key, _)| key != FIRST);
    if pairs.len() == found {
        let reason = "the log does not begin with its first row".to_owned();
        return Err(Error::Damaged { reason });
    }
    rows::join(pairs.into_iter().map(Ok))
}

/// Removes every generation but `keep`, and copies that were left behind.
pub(crate) fn remove_others(dir: &Path, keep: u64) -> Result<(), Error> {
    for number in numbers(dir)? {
        if number != keep {
            files::remove(&path_of(dir, number))?;
        }
        files::remove(&dir.join(format!("copy-{number}")))?;
    }
    Ok(())
}

fn numbers(dir: &Path) -> Result<Vec<u64>, Error> {
    let entries = fs::read_dir(dir).map_err(|error| io_error("list", dir, error))?;
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| io_error("list", dir, error))?.file_name();
        numbers.extend(name.to_str().and_then(|it| it.strip_prefix("g-")?.parse::<u64>().ok()));
    }
    Ok(numbers)
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("g-{number}"))
}

/// Copies what sled needs. A torn snapshot would block opening; whole ones do not exist, for a
/// generation is never recovered in place.
fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir(to).map_err(|error| io_error("make", to, error))?;
    let entries = fs::read_dir(from).map_err(|error| io_error("list", from, error))?;
    for entry in entries {
        let path = entry.map_err(|error| io_error("list", from, error))?.path();
        let name = path.file_name().unwrap_or_default();
        let is_snapshot = name.as_encoded_bytes().starts_with(b"snap.");
        if name == MARK || is_snapshot || !path.is_file() {
            continue;
        }
        fs::copy(&path, to.join(name)).map_err(|error| io_error("copy", &path, error))?;
    }
    Ok(())
}

/// Opens sled. A temporary one is not synced, and removed by sled when it is dropped.
fn open(path: &Path, temporary: bool) -> Result<(sled::Db, sled::Tree), sled::Error> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None)
        .temporary(temporary);
    let db = config.open()?;
    let tree = db.open_tree(TREE)?;
    Ok((db, tree))
}

/// Calls sled, and turns a panic inside it into an error.
fn guarded<T>(
    action: &'static str,
    path: &Path,
    call: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(Error::Sled { action, path: path.to_owned(), source }),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let message = text.unwrap_or_else(|| "panicked".to_owned());
            Err(Error::Panicked { action, path: path.to_owned(), message })
        }
    }
}
