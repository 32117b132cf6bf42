//! How much of what it fetched a shard may keep in memory: an equal part of the node's, with the
//! shards that keep something. An idle shard takes nothing from the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of fetched batches that a node's shards hold together, beside the one batch that each may
/// always have.
const BYTES_MAX: usize = 128 << 20;

/// One for all shards of a node.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// Shards that hold something.
    holders: AtomicUsize,
}

/// One shard's part; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    all: Arc<ReadAhead>,
    is_holder: bool,
}

impl Share {
    pub(crate) const fn new(all: Arc<ReadAhead>) -> Self {
        Self { all, is_holder: false }
    }

    /// The shard holds so many bytes now; how many more it may fetch.
    pub(crate) fn hold(&mut self, bytes: usize) -> usize {
        let holds = 0 < bytes;
        match (self.is_holder, holds) {
            (false, true) => drop(self.all.holders.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.all.holders.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.is_holder = holds;
        let holders = self.all.holders.load(Ordering::Relaxed) + usize::from(!holds);
        (BYTES_MAX / holders.max(1)).saturating_sub(bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_something_shares_and_who_is_idle_does_not_count() {
        let all = Arc::new(ReadAhead::default());
        let mut shares: Vec<_> = (0..8).map(|_| Share::new(Arc::clone(&all))).collect();
        assert_eq!(shares[0].hold(0), BYTES_MAX);
        assert_eq!(shares[0].hold(1000), BYTES_MAX - 1000);
        assert_eq!(shares[1].hold(10), BYTES_MAX / 2 - 10);
        assert_eq!(shares[0].hold(BYTES_MAX), 0);
        assert_eq!(shares[2].hold(0), BYTES_MAX / 3);
        drop(shares.remove(1));
        assert_eq!(shares[0].hold(1000), BYTES_MAX - 1000);
    }
}
