//! A pure core: how long to wait before the next dial. Pauses double, and each is drawn between
//! half and all of its length, so that nodes that lost a peer together do not come back together.

use std::time::Duration;

/// Pauses between attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The pause after one more failure; `random` is any number.
    pub(crate) fn on_failure(&mut self, random: u64) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        let span = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_nanos(random % span)
    }

    pub(crate) const fn on_success(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1_000));
        for whole in [100, 200, 400, 800, 1_000, 1_000] {
            let mut other = backoff;
            let (least, most) = (backoff.on_failure(0), other.on_failure(u64::MAX));
            assert_eq!(least, ms(whole) / 2);
            assert!(least <= most && most < ms(whole), "{most:?} of {whole} ms");
        }
        backoff.on_success();
        assert_eq!(backoff.on_failure(0), ms(50));
    }
}
