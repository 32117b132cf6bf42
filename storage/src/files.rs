//! The few file operations whose order decides what survives a power cut: syncing a file, a
//! directory, and moving a directory aside.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Error;
use crate::error::io_error;

/// How long a handle of this process, or a process that is just ending, may hold the lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Syncs a file or a directory: its content, and the names in it.
///
/// # Errors
///
/// [`Error::Sync`], which ends the process, also when it cannot be opened: what is on the disk is
/// unknown then too.
pub(crate) fn sync(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| Error::Sync { path: path.to_owned(), source: Arc::new(source) })
}

/// Makes the directory and its name durable, if it is missing.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Error> {
    match fs::create_dir(dir) {
        Ok(()) => sync(parent(dir)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io_error("make", dir, error)),
    }
}

/// Moves `dir` to `<dir>.quarantined-<n>`, the first that is free. Durable with the
/// [`make_dir`] that follows; after a power cut before it the damage is found once more.
pub(crate) fn quarantine(dir: &Path) -> Result<PathBuf, Error> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = (1_u32..)
        .map(|n| dir.with_file_name(format!("{name}.quarantined-{n}")))
        .find(|path| !path.exists())
        .expect("a directory cannot hold four billion others");
    fs::rename(dir, &aside).map_err(|error| io_error("move aside", dir, error))?;
    Ok(aside)
}

/// Removes whatever is at `path`.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Locks `<dir>/lock` for as long as the file is open.
pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| io_error("open", &path, error))?;
    let patience_ends_at = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(io_error("lock", path, error)),
            Err(TryLockError::WouldBlock) if patience_ends_at <= Instant::now() => {
                return Err(Error::InUse { dir: dir.to_owned() });
            }
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOOK_EVERY),
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
