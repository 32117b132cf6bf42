//! Backups of what a cluster agrees on and of how far its triggers are, and their way back.

mod place;
mod put;
mod take;

use async_trait::async_trait;
use bytes::Bytes;
use function::PackageDigest;
use gateway::api::{Backup, Restore, Restored};
use gateway::{Backups, Refused};

use super::control::as_refused;
use super::{Node, chain};
use crate::commands::error::{CommandError, exit};

#[async_trait]
impl Backups for Node {
    async fn backup(&self) -> Result<Backup, Refused> {
        self.take_backup().await.map_err(as_refused)
    }

    async fn package(&self, digest: String) -> Result<Bytes, Refused> {
        let inner = std::sync::Arc::clone(&self.inner);
        let read = tokio::task::spawn_blocking(move || {
            let digest = PackageDigest::parse(&digest)
                .map_err(|error| CommandError::new(exit::USAGE, "E0513", chain(&error)))?;
            let package = inner.packages.read(digest).map_err(|error| {
                CommandError::new(exit::NOT_FOUND, error.code(), chain(&error))
                    .help("another node may have it: `--node NAME`")
            })?;
            Ok(package.archive().into())
        });
        let read = read.await.map_err(|error| as_refused(super::deploy::failed(&error)))?;
        read.map_err(as_refused)
    }

    async fn restore(&self, asked: Restore) -> Result<Restored, Refused> {
        self.detached(move |node| async move { node.put_backup(asked).await }).await
    }
}
