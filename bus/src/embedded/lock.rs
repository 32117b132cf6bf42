//! One process per data directory: an advisory lock on a file that names its holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use crate::Error;

/// Takes the lock of `dir`; it lasts as long as the file is open, and no longer than the process.
pub(crate) fn take(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let io = |source| Error::Io { action: format!("lock {}", path.display()), source };
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let pid = if known { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(Error::InUse { dir: dir.display().to_string(), pid });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    let named = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = named {
        // Only people read it: a full disk is no reason not to start.
        tracing::debug!(%error, "could not write the process id into the lock file");
    }
    Ok(file)
}
