//! Keys on disk: files that only their owner can read, replaced whole, and refused when others can
//! read them too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Why a key, a certificate or a file of them is not usable.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system said no.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The step.
        doing: &'static str,
        /// Of which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others than the owner could read a key.
    #[error("{} has mode {mode:04o}, it must be 0600", path.display())]
    Mode {
        /// Of which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is not what was written.
    #[error("{} is not a key file: {why}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Text that should be bytes in base64.
    #[error("not base64")]
    Base64,
    /// Bytes that are no key of P-256.
    #[error("not a key of P-256")]
    Key,
    /// Bytes that are no certificate of a CA.
    #[error("not a certificate of a CA")]
    Certificate,
    /// A name that is none: `millrace://CLUSTER/node/ID/INCARNATION`.
    #[error("not the name of a node or a cluster")]
    Name,
    /// More CAs than the window of a rotation has, or none.
    #[error("{0} CAs are trusted, it must be one or two")]
    Cas(usize),
    /// What makes keys and certificates said no.
    #[error("make a key or certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// A CA as it lies on disk.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredAuthority {
    pub(crate) cluster: String,
    pub(crate) key: String,
    pub(crate) certificate: String,
    pub(crate) from: u64,
    pub(crate) until: u64,
}

/// A node's identity as it lies on disk.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredIdentity {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) certificate: String,
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) ca: String,
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn decode(text: &str) -> Result<Vec<u8>, KeyError> {
    STANDARD.decode(text).map_err(|_bad| KeyError::Base64)
}

/// Writes beside it, syncs, renames, syncs the folder: a kill leaves the old one or the new one.
pub(crate) fn write(path: &Path, what: &impl Serialize) -> Result<(), KeyError> {
    let io = |doing: &'static str| {
        move |source: io::Error| KeyError::Io { doing, path: path.to_owned(), source }
    };
    let text = serde_json::to_vec_pretty(what)
        .map_err(|error| KeyError::File { path: path.to_owned(), why: error.to_string() })?;
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io("replace")(error)),
        _ => {}
    }
    // `create_new`: never into a file that somebody else has open, or through a link.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    let file = file.as_mut().map_err(|error| io("create")(error.kind().into()))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(io("write"))?;
    fs::rename(&beside, path).map_err(io("rename"))?;
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or_else(|| Path::new(".")));
    folder.and_then(|folder| folder.sync_all()).map_err(io("sync the folder of"))
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, KeyError> {
    let io = |source: io::Error| KeyError::Io { doing: "read", path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.to_owned(), mode });
    }
    let text = fs::read(path).map_err(io)?;
    // The parser's own message could quote the key.
    serde_json::from_slice(&text).map_err(|error| KeyError::File {
        path: path.to_owned(),
        why: format!("line {}, column {}", error.line(), error.column()),
    })
}
