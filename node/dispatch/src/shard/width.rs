//! A pure core: how many invocations of a shard run at once. The most is fixed when the shard starts,
//! because it decides how keys are spread; within that, whoever knows the other shards of the node
//! says how many (see [`scaling`](crate::scaling)).

use std::num::NonZeroUsize;
use std::time::Instant;

use super::ShardDispatch;

impl ShardDispatch {
    /// So many invocations may run at once from now on, at most what the configuration allows.
    /// Those that run beyond that end as they would have.
    pub fn on_width(&mut self, now: Instant, width: NonZeroUsize) {
        self.width = width.min(self.config.invocations_max).get();
        self.proceed(now);
    }

    /// Invocations that may run at once now.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Ordered strands that one batch may make busy, so that each invocation finds some.
    pub(super) fn strands_each(&self) -> usize {
        (self.tokens.strands() - 1).max(1).div_ceil(self.width)
    }
}
