//! Notices that this process stood still: a task that looks at the clock ten times a second finds
//! out, and so does whoever commits before that task has run again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Inner;
use crate::ShardId;

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often a node alone looks whether the bus is closed.
const IDLE_LOOK: Duration = Duration::from_secs(5);

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
    /// Notified when somebody else may own a shard from now on.
    shared: Arc<Notify>,
}

impl Default for Suspicion {
    fn default() -> Self {
        Self {
            is_shared: AtomicBool::new(false),
            pauses: AtomicU64::new(0),
            looked_at: Mutex::new(Instant::now()),
            seen: Mutex::default(),
            shared: Arc::default(),
        }
    }
}

fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Suspicion {
    pub(super) fn share(&self, is_shared: bool) {
        if is_shared && !self.is_shared() {
            // Alone nobody looked: that was no pause.
            *hold(&self.looked_at) = Instant::now();
        }
        self.is_shared.store(is_shared, Ordering::Release);
        if is_shared {
            self.shared.notify_one();
        }
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

/// Looks at the clock until the bus is closed, while others may own shards.
pub(super) async fn run(bus: Weak<Inner>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let alone = {
            let Some(inner) = bus.upgrade() else { return };
            if inner.brokers.is_closed() {
                return;
            }
            let suspicion = &inner.suspicion;
            if suspicion.is_shared() {
                suspicion.look(Instant::now());
                None
            } else {
                Some(Arc::clone(&suspicion.shared))
            }
        };
        match alone {
            Some(shared) => {
                // The bus may have been closed meanwhile.
                drop(tokio::time::timeout(IDLE_LOOK, shared.notified()).await);
                ticks.reset();
            }
            None => drop(ticks.tick().await),
        }
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
