//! Has shards run more invocations at once, or fewer, as their own lag and its slope say, within the
//! node's share of a function's instances: asks [`dispatch::scaling`] four times a second, so that a
//! step of the load is followed within one.

use std::time::{Duration, Instant};

use dispatch::scaling::Scaling;

use super::Node;

/// How often the node looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What shards may run beyond what each may anyway, for each core: enough for functions that wait
/// for others, and few enough that one of them does not take the node from the rest.
const ROOM_PER_CORE: usize = 8;

impl Node {
    /// Looks until the node ends.
    pub(super) async fn scale(self) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let room = u32::try_from(ROOM_PER_CORE * cores).unwrap_or(u32::MAX);
        let (mut scaling, begun_at) = (Scaling::default(), Instant::now());
        let mut before = None;
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.over.cancelled() => return,
                _tick = ticks.tick() => {}
            }
            let (me, state) = (self.inner.cluster.me(), self.inner.cluster.state());
            let mut shown = self.inner.shown.lock().expect("nothing panics while holding it");
            shown.take_shares(begun_at.elapsed(), &state, me);
            let now = shown.moved();
            if before.replace(now) == Some(now) && scaling.is_at_rest() {
                // Hundreds of shards may wait for records.
                scaling.rest(begun_at.elapsed());
                continue;
            }
            let wanted = scaling.look(begun_at.elapsed(), &shown.loads(), room);
            shown.scale(&wanted);
        }
    }
}
