//! What redb writes the journal through: the backend it is given, with one rule of ours added. A
//! failed sync is never retried and ends the process (L5), because nobody knows what it left.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{BackendError, StorageBackend};

use super::config::FatalHook;

/// Whether a sync ever failed, shared by the journal and its backends.
#[derive(Clone)]
pub(super) struct SyncGuard {
    failed: Arc<AtomicBool>,
    on_fatal: FatalHook,
}

impl SyncGuard {
    pub(super) fn new(on_fatal: FatalHook) -> Self {
        Self { failed: Arc::new(AtomicBool::new(false)), on_fatal }
    }

    /// Whether a sync failed, where `on_fatal` came back (in tests).
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Ends the process; where that is overridden, nothing is trusted from here on.
    pub(super) fn fail(&self, reason: &str) {
        self.failed.store(true, Ordering::Release);
        (self.on_fatal)(reason);
    }
}

impl fmt::Debug for SyncGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncGuard").field("failed", &self.has_failed()).finish_non_exhaustive()
    }
}

/// A backend whose failed sync is fatal.
#[derive(Debug)]
pub(super) struct GuardedBackend {
    inner: Box<dyn StorageBackend>,
    guard: SyncGuard,
}

impl GuardedBackend {
    pub(super) fn new(inner: Box<dyn StorageBackend>, guard: SyncGuard) -> Self {
        Self { inner, guard }
    }
}

impl StorageBackend for GuardedBackend {
    fn len(&self) -> Result<u64, io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.inner.sync_data().inspect_err(|error| {
            self.guard.fail(&format!("a sync of the journal failed: {error}"));
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if self.guard.has_failed() {
            return Err(io::Error::other("a sync failed before"));
        }
        self.inner.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
