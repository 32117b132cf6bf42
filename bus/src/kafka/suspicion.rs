//! Notices that this process stood still: a task that looks at the clock ten times a second finds
//! out, and so does whoever commits before that task has run again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Inner;
use crate::ShardId;

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Between two looks: more is a pause, in which a shard can have been given to another node.
const PAUSE: Duration = Duration::from_millis(500);

/// The pauses of this process, and which shards were looked after since.
#[derive(Debug)]
pub(super) struct Suspicion {
    /// Whether anybody else may own a shard.
    is_shared: AtomicBool,
    pauses: AtomicU64,
    looked_at: Mutex<Instant>,
    /// Of each shard, after how many pauses its group was looked at.
    seen: Mutex<BTreeMap<ShardId, u64>>,
}

impl Default for Suspicion {
    fn default() -> Self {
        Self {
            is_shared: AtomicBool::new(false),
            pauses: AtomicU64::new(0),
            looked_at: Mutex::new(Instant::now()),
            seen: Mutex::default(),
        }
    }
}

fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Suspicion {
    pub(super) fn share(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Ordering::Release);
    }

    pub(super) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Acquire)
    }

    /// The clock says this.
    fn look(&self, now: Instant) {
        let mut looked_at = hold(&self.looked_at);
        if PAUSE < now.saturating_duration_since(*looked_at) {
            self.pauses.fetch_add(1, Ordering::AcqRel);
        }
        *looked_at = now;
    }

    /// How many pauses there were, if there was one since this shard's group was looked at.
    pub(super) fn unseen(&self, shard: ShardId) -> Option<u64> {
        if !self.is_shared() {
            return None;
        }
        self.look(Instant::now());
        let pauses = self.pauses.load(Ordering::Acquire);
        let seen = hold(&self.seen).get(&shard).copied().unwrap_or(0);
        (seen < pauses).then_some(pauses)
    }

    /// The shard's group was looked at after so many pauses.
    pub(super) fn saw(&self, shard: ShardId, pauses: u64) {
        hold(&self.seen).insert(shard, pauses);
    }
}

/// Looks at the clock until the bus is closed.
pub(super) async fn run(bus: Weak<Inner>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = bus.upgrade() else { return };
        if inner.brokers.is_closed() {
            return;
        }
        inner.suspicion.look(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_pause_every_shard_is_looked_after_once_and_alone_none_is() {
        let (one, two) = (ShardId(1), ShardId(2));
        let suspicion = Suspicion::default();
        let since = |ago: Duration| *hold(&suspicion.looked_at) = Instant::now() - ago;
        since(2 * PAUSE);
        assert_eq!(suspicion.unseen(one), None, "a node alone");
        suspicion.share(true);
        // Who commits may be there before the task that looks.
        since(2 * PAUSE);
        assert_eq!(suspicion.unseen(one), Some(1));
        assert_eq!(suspicion.unseen(one), Some(1), "until its group was looked at");
        suspicion.saw(one, 1);
        assert_eq!((suspicion.unseen(one), suspicion.unseen(two)), (None, Some(1)));
        suspicion.saw(two, 1);
        since(PAUSE / 2);
        suspicion.look(Instant::now());
        assert_eq!(suspicion.unseen(one), None, "no pause");
    }
}
