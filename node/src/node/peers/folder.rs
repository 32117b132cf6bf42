//! What a node keeps of its cluster beside the log: who it is, its key, and whom it met there.
//!
//! ```text
//! cluster/node.json       the cluster, this node, whom to dial at first; written last
//! cluster/identity.json   its key and certificate
//! cluster/ca.json         the cluster's CA, on nodes that vote
//! cluster/ca-next.json    the other one while it is replaced
//! ```
//!
//! Only the owner can read any of it. A folder without node.json is that of a node alone.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exchange::{Authority, CaCertificate, Fingerprint, Identity, KeyError, Trust};
use serde::{Deserialize, Serialize};

use crate::commands::error::{CommandError, exit};

/// What a node knows of itself and the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Card {
    /// The cluster: its name and a random part, so that no two are called the same.
    pub(crate) cluster: String,
    /// This node.
    pub(crate) id: u64,
    /// What operators call it.
    pub(crate) name: String,
    /// Where it listens for the others.
    pub(crate) listen: SocketAddr,
    /// Where the others reach it.
    pub(crate) advertise: String,
    /// The CAs that are trusted, X.509 in base64.
    pub(crate) trust: Vec<String>,
    /// The others, as far as they were known at last.
    pub(crate) peers: Vec<Known>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Which.
    pub(crate) id: u64,
    /// Where it is reached.
    pub(crate) address: String,
    /// SHA-256 of its keys.
    pub(crate) keys: Vec<[u8; 32]>,
}

impl Card {
    pub(crate) fn trust(&self) -> Result<Trust, KeyError> {
        let ca = |text: &String| {
            CaCertificate::new(STANDARD.decode(text).map_err(|_bad| KeyError::Base64)?)
        };
        Trust::new(self.trust.iter().map(ca).collect::<Result<_, _>>()?)
    }
}

/// CAs as a [`Card`] holds them.
pub(crate) fn trusted(trust: &Trust) -> Vec<String> {
    trust.cas().iter().map(|ca| STANDARD.encode(ca.der())).collect()
}

/// Fingerprints as the state holds them.
pub(crate) fn fingerprints(keys: &[[u8; 32]]) -> Vec<Fingerprint> {
    keys.iter().copied().map(Fingerprint).collect()
}

/// See the [module documentation](self).
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Of this data directory.
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("cluster"))
    }

    /// Whether the node belongs to a cluster.
    pub(crate) fn is_there(&self) -> bool {
        self.card_path().exists()
    }

    /// Makes it.
    pub(crate) fn create(&self) -> Result<(), CommandError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|error| unusable(format!("cannot make {}: {error}", self.0.display())))
    }

    pub(crate) fn load(&self) -> Result<Card, CommandError> {
        let path = self.card_path();
        let read = || -> Result<Card, Box<dyn std::error::Error>> {
            Ok(serde_json::from_slice(&std::fs::read(&path)?)?)
        };
        read().map_err(|error| unusable(format!("cannot use {}: {error}", path.display())))
    }

    /// Writes it whole; durable when it returns.
    pub(crate) fn save(&self, card: &Card) -> Result<(), CommandError> {
        let path = self.card_path();
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
            file.write_all(&serde_json::to_vec_pretty(card)?)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            std::fs::File::open(&self.0)?.sync_all()
        };
        write().map_err(|error| unusable(format!("cannot write {}: {error}", path.display())))
    }

    pub(crate) fn identity(&self) -> Result<Identity, CommandError> {
        Identity::load(&self.identity_path()).map_err(|error| unusable(error.to_string()))
    }

    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<(), CommandError> {
        identity.save(&self.identity_path()).map_err(|error| unusable(error.to_string()))
    }

    /// The CAs whose keys this node has, each once.
    pub(crate) fn authorities(&self) -> Result<Vec<Arc<Authority>>, CommandError> {
        let mut held: Vec<Arc<Authority>> = Vec::new();
        for path in self.authority_paths().iter().filter(|it| it.exists()) {
            let found = Authority::load(path).map_err(|error| unusable(error.to_string()))?;
            // A kill between two steps of `save_authorities` leaves one twice.
            if held.iter().all(|it| it.certificate() != found.certificate()) {
                held.push(Arc::new(found));
            }
        }
        Ok(held)
    }

    /// Keeps these, one or two, and no other.
    pub(crate) fn save_authorities(&self, held: &[Arc<Authority>]) -> Result<(), CommandError> {
        let [first, second] = self.authority_paths();
        let save = |authority: &Authority, path: &Path| {
            authority.save(path).map_err(|error| unusable(error.to_string()))
        };
        match held {
            [only] => {
                save(only, &first)?;
                match std::fs::remove_file(&second) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(unusable(format!("cannot remove {}: {error}", second.display())))
                    }
                    _ => Ok(()),
                }
            }
            [one, other] => save(one, &first).and_then(|()| save(other, &second)),
            held => Err(unusable(format!("{} CAs at a time, it must be one or two", held.len()))),
        }
    }

    fn card_path(&self) -> PathBuf {
        self.0.join("node.json")
    }

    fn identity_path(&self) -> PathBuf {
        self.0.join("identity.json")
    }

    fn authority_paths(&self) -> [PathBuf; 2] {
        ["ca.json", "ca-next.json"].map(|name| self.0.join(name))
    }
}

/// What a node shows of itself cannot be used.
pub(crate) fn unusable(message: String) -> CommandError {
    CommandError::new(exit::UNUSABLE, "E0425", message).help(
        "restore the folder, or join the cluster again under a new id: `millrace node token`, \
         then `millrace join`",
    )
}
