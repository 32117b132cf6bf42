//! Numbers that follow from a seed alone (xorshift64*), so that a run can be repeated.

use std::time::Duration;

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for each `seed` and `salt`: more draws in one leave the others alone.
    #[must_use]
    pub const fn new(seed: u64, salt: u64) -> Self {
        // Any odd constant spreads small seeds; zero is the one state xorshift cannot leave.
        Self((seed ^ (salt << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `below`, which must not be zero.
    pub const fn draw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % below
    }

    /// A time between these two, to the microsecond.
    pub fn time(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX);
        from + Duration::from_micros(self.draw(span.max(1)))
    }
}
