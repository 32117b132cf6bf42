//! Packages on several nodes: each is on a quorum of those that vote before a deploy may name it,
//! and comes to every other node by itself, so that whoever runs a function next has it.
//!
//! - **CLU-3** a deploy is acknowledged when a quorum holds its packages durably.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exchange::{CallError, Exchange, Kind, NodeId};
use function::{ARCHIVE_BYTES_MAX, Package, PackageDigest};
use tokio::sync::mpsc;

use super::Peers;
use super::desk::Desk;
use super::members::of_cluster;
use crate::commands::error::{CommandError, exit};
use crate::node::chain;
use crate::node::packages::PackageStore;

/// Before the digest of a blob: that of a package.
pub(super) const PACKAGE: u8 = b'p';
/// How long a package may take to cross and to be written.
const WITHIN: Duration = Duration::from_secs(120);
/// How long a node may take to answer at all.
const THERE: Duration = Duration::from_secs(3);

impl Peers {
    /// Has other nodes fetch these packages from this one; returns when a quorum of those that vote
    /// holds each of them durably, this node among them (CLU-3). The rest go on.
    ///
    /// # Errors
    ///
    /// `E0570` when too few could.
    pub(crate) async fn spread(
        &self,
        digests: impl IntoIterator<Item = PackageDigest>,
    ) -> Result<(), CommandError> {
        for digest in digests {
            let cluster = &self.desk.cluster;
            let members = cluster.vitals().members;
            let mut missing = members.quorum();
            missing -= usize::from(members.voters().contains(&cluster.me()));
            let others = members.voters().iter().chain(members.learners());
            let (told, mut stored) =
                mpsc::channel(members.voters().len() + members.learners().len());
            for id in others.filter(|id| **id != cluster.me()) {
                let votes = members.voters().contains(id);
                tokio::spawn(store_at(
                    Arc::clone(&self.exchange),
                    *id,
                    votes,
                    digest,
                    told.clone(),
                ));
            }
            drop(told);
            while missing != 0 {
                match stored.recv().await {
                    Some(votes) => missing -= usize::from(votes),
                    None => return Err(of_cluster(&cluster::Error::Unavailable)),
                }
            }
        }
        Ok(())
    }

    /// Gets a package from whichever node has it; durable here when it returns.
    ///
    /// # Errors
    ///
    /// `E0524` when no node that answers has it.
    pub(crate) async fn fetch(&self, digest: PackageDigest) -> Result<(), CommandError> {
        self.desk.fetch_from_any(&self.exchange, digest).await
    }
}

/// Asks one node to keep a package; tells whether it votes, once it has it.
async fn store_at(
    exchange: Arc<Exchange>,
    node: u64,
    votes: bool,
    digest: PackageDigest,
    told: mpsc::Sender<bool>,
) {
    // Who is not there says so sooner than a package could cross.
    if let Err(error) = exchange.call(NodeId(node), Kind::PING, Bytes::new(), THERE).await {
        tracing::warn!(node, %digest, %error, "a node is not there to keep a package");
        return;
    }
    let asked = Bytes::from(digest.to_string());
    match exchange.call(NodeId(node), Kind::STORE, asked, WITHIN).await {
        // Whoever waited may have enough of them already.
        Ok(_) => drop(told.send(votes).await),
        Err(error) => tracing::warn!(node, %digest, %error, "a node did not keep a package"),
    }
}

impl Desk {
    /// Keeps a package that `from` has; durable when it returns.
    pub(super) async fn store(&self, from: u64, asked: &[u8]) -> Result<(), String> {
        let digest = digest_of(asked).ok_or("not the digest of a package")?;
        if self.has(digest).await {
            return Ok(());
        }
        let exchange = self.exchange().ok_or("the node ends")?;
        self.fetch_from(&exchange, from, digest).await
    }

    pub(super) async fn fetch_from_any(
        &self,
        exchange: &Exchange,
        digest: PackageDigest,
    ) -> Result<(), CommandError> {
        if self.has(digest).await {
            return Ok(());
        }
        let state = self.cluster.state();
        let mut why = String::new();
        for other in super::desk::known(&state) {
            if other.id == self.cluster.me() {
                continue;
            }
            match self.fetch_from(exchange, other.id, digest).await {
                Ok(()) => return Ok(()),
                Err(error) => why = format!("{why}; node {}: {error}", other.id),
            }
        }
        let message = format!("package {digest} is on no node that answers{why}");
        Err(CommandError::new(exit::FAILED, "E0524", message))
    }

    async fn fetch_from(
        &self,
        exchange: &Exchange,
        node: u64,
        digest: PackageDigest,
    ) -> Result<(), String> {
        let asked = [&[PACKAGE], digest.to_string().as_bytes()].concat();
        let fetched = async {
            let (node, most) = (NodeId(node), ARCHIVE_BYTES_MAX as u64);
            let mut blob = exchange.fetch(node, Kind::BLOB, asked.into(), WITHIN, most).await?;
            let mut archive = Vec::new();
            while let Some(bytes) = blob.next().await? {
                archive.extend_from_slice(&bytes);
            }
            Ok::<_, CallError>(archive)
        };
        let archive = fetched.await.map_err(|error| error.to_string())?;
        let packages = Arc::clone(&self.packages);
        on_disk(move || keep(&packages, digest, &archive)).await
    }

    /// The archive of a package that is whole here.
    pub(super) async fn package(&self, asked: &[u8]) -> Option<Bytes> {
        let digest = digest_of(asked)?;
        let packages = Arc::clone(&self.packages);
        let read = move || packages.read(digest).map_err(|error| chain(&error));
        let package = on_disk(read).await.ok()?;
        Some(package.archive().into())
    }

    /// Whether a package is whole here: read, not only there.
    async fn has(&self, digest: PackageDigest) -> bool {
        let packages = Arc::clone(&self.packages);
        on_disk(move || packages.read(digest).map_err(|error| chain(&error))).await.is_ok()
    }

    /// Packages that the state names and this node lacks.
    pub(super) fn lacking(&self) -> BTreeSet<PackageDigest> {
        let named = self.cluster.state().packages();
        let digests = named.iter().filter_map(|it| PackageDigest::parse(it).ok());
        digests.filter(|it| !self.packages.has(*it)).collect()
    }
}

fn digest_of(asked: &[u8]) -> Option<PackageDigest> {
    PackageDigest::parse(std::str::from_utf8(asked).ok()?).ok()
}

/// Until a deploy names it, it is kept as one that was sent for it.
fn keep(packages: &PackageStore, digest: PackageDigest, archive: &[u8]) -> Result<(), String> {
    let package = Package::from_archive(archive).map_err(|error| chain(&error))?;
    if package.digest() != digest {
        return Err(format!("it sent {} instead of {digest}", package.digest()));
    }
    packages.receive(&package).map_err(|error| chain(&error))
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(error.to_string()))
}
