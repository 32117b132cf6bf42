//! What can go wrong between a caller and the disk. A caller asks [`Error::is_fatal`] whether the
//! process has to end, and [`Error::is_retryable`] whether the same call may succeed later.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bus::PositionKey;

use crate::codec::CodecError;

/// A storage operation that did not happen, or of which nobody knows whether it did.
///
/// Commits share one sync, and each of them is told how it went: so errors can be cloned.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's account.
        source: Arc<io::Error>,
    },

    /// sled could not read or write. The next call starts from a new directory.
    #[error("{action} the sled directory {}", path.display())]
    Sled {
        /// What was tried, as a verb.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// sled's own account.
        source: sled::Error,
    },

    /// sled panicked. The next call starts from a new directory.
    #[error("{action} the sled directory {}: {message}", path.display())]
    Panicked {
        /// What was tried, as a verb.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the panic said.
        message: String,
    },

    /// The disk did not confirm a write, and what reached it is unknown. The process must end;
    /// its next start reads what is there. A sync is never tried again.
    #[error("sync {}", path.display())]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// The system's account.
        source: Arc<io::Error>,
    },

    /// A sync failed before, and nothing more is written.
    #[error("the position store has failed: {reason}")]
    Failed {
        /// What failed.
        reason: String,
    },

    /// A position cannot be stored. Trying again cannot help.
    #[error("encode the position of {key}")]
    Position {
        /// Whose.
        key: PositionKey,
        /// The codec's own account.
        source: Arc<CodecError>,
    },

    /// A stored row is not what this version wrote.
    #[error("damaged row: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },

    /// Another process, or another handle of this one, has the directory.
    #[error("{} is in use", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
}

impl Error {
    /// Whether the process must end: what is on the disk is unknown, and only a new start can
    /// tell.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::Failed { .. })
    }

    /// Whether the same call may succeed later without the caller changing it.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Io { .. } | Self::Sled { .. } | Self::Panicked { .. } | Self::InUse { .. }
        )
    }

    /// Whether what is stored cannot be read, now or later.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Panicked { .. } => true,
            Self::Sled { source: sled::Error::Io(error), .. } => {
                matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
            }
            Self::Sled { .. } => true,
            _ => false,
        }
    }
}

/// Whether an error that came back through `bus::PositionLog` means that the process must end.
#[must_use]
pub fn is_fatal(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut link = Some(error);
    while let Some(error) = link {
        if error.downcast_ref::<Error>().is_some_and(Error::is_fatal) {
            return true;
        }
        link = error.source();
    }
    false
}

pub(crate) fn io_error(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
    Error::Io { action, path: path.into(), source: Arc::new(source) }
}
