//! What the embedded bus is opened with, and what each choice costs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How much room a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// How large it is.
    pub total_bytes: u64,
    /// What an ordinary user may still write.
    pub available_bytes: u64,
}

/// Asks a directory's file system how much room it has; `None` when it does not say.
pub type SpaceProbe = Arc<dyn Fn() -> Option<Space> + Send + Sync>;

/// Called with the reason when the journal can no longer be trusted: a sync failed, or its thread
/// panicked. Not expected to come back.
pub type FatalHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Settings of the embedded bus.
#[derive(Clone)]
pub struct EmbeddedConfig {
    /// Where `journal.redb`, `journal.mark` and `lock` lie. Made if it does not exist.
    pub dir: PathBuf,
    /// What sources leave free on the disk, for outputs and dead letters. On a file system of
    /// less than eight times this, an eighth of it.
    pub reserve_bytes: u64,
    /// Recent batches kept in memory for readers that keep up.
    pub cache_bytes: usize,
    /// Memory for pages of the journal; half of it may be pages of the write that is going on.
    pub page_cache_bytes: usize,
    /// Memory for what waits to be written; past it, callers wait.
    pub queue_bytes_max: usize,
    /// The most that one write gathers.
    pub group_bytes_max: usize,
    /// A source that waited this long for room in the queue is told that the bus is busy.
    pub busy_after: Duration,
    /// How often retention looks. Costs nothing while no topic has a bound.
    pub retention_every: Duration,
    /// The position log is written at most once in this time.
    pub position_log_every: Duration,
    /// Ends the process when a sync failed; aborts unless a test says otherwise.
    pub on_fatal: FatalHook,
    /// How much room there is; asks the file system unless a test says otherwise.
    pub space: SpaceProbe,
}

impl std::fmt::Debug for EmbeddedConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedConfig")
            .field("dir", &self.dir)
            .field("reserve_bytes", &self.reserve_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .field("page_cache_bytes", &self.page_cache_bytes)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("group_bytes_max", &self.group_bytes_max)
            .field("retention_every", &self.retention_every)
            .finish_non_exhaustive()
    }
}

impl EmbeddedConfig {
    /// The defaults for a journal in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let probed = dir.clone();
        let space = move || {
            let stat = rustix::fs::statvfs(&probed).ok()?;
            Some(Space {
                total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
                available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            })
        };
        Self {
            dir,
            reserve_bytes: 256 << 20,
            cache_bytes: 48 << 20,
            page_cache_bytes: 64 << 20,
            queue_bytes_max: 64 << 20,
            group_bytes_max: 8 << 20,
            busy_after: Duration::from_secs(5),
            retention_every: Duration::from_secs(10),
            position_log_every: Duration::from_millis(50),
            on_fatal: Arc::new(|reason| {
                tracing::error!(reason, "the journal cannot be trusted any more: ending");
                std::process::abort();
            }),
            space: Arc::new(space),
        }
    }
}
