//! What the embedded bus is opened with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Says how many bytes a directory's file system has in all, and left.
pub(crate) type SpaceProbe = Arc<dyn Fn() -> Option<(u64, u64)> + Send + Sync>;

/// Settings of the embedded bus.
#[derive(Clone)]
pub struct EmbeddedConfig {
    /// Where the journal lies.
    pub dir: PathBuf,
    /// What sources leave free on the disk, for outputs and dead letters. On a file system of
    /// less than eight times this, an eighth of it.
    pub reserve_bytes: u64,
    /// Recent batches kept in memory for readers that keep up.
    pub cache_bytes: usize,
    /// Memory for pages of the journal.
    pub page_cache_bytes: usize,
    /// The most that one write gathers.
    pub group_bytes_max: usize,
    /// How often retention looks.
    pub retention_every: Duration,
    /// How much room there is; asks the file system unless a test says otherwise.
    pub(crate) space: SpaceProbe,
}

impl std::fmt::Debug for EmbeddedConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedConfig").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl EmbeddedConfig {
    /// The defaults for a journal in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let probed = dir.clone();
        let space = move || {
            let stat = rustix::fs::statvfs(&probed).ok()?;
            Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
        };
        Self {
            dir,
            reserve_bytes: 256 << 20,
            cache_bytes: 64 << 20,
            page_cache_bytes: 64 << 20,
            group_bytes_max: 8 << 20,
            retention_every: Duration::from_secs(10),
            space: Arc::new(space),
        }
    }

    /// The reserve in force, and what is left.
    pub(crate) fn room(&self) -> Option<(u64, u64)> {
        let (all, left) = (self.space)()?;
        Some((self.reserve_bytes.min(all / 8), left))
    }
}
