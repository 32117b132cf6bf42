//! A pure core: how long a revision that could not start is left alone.

use std::time::{Duration, Instant};

/// The pause after the first failure; it doubles with each that follows.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Failures to start, in a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// How long to leave it alone yet; `None` when it may be tried.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        self.until?.checked_duration_since(now).filter(|it| !it.is_zero())
    }

    /// It could not start.
    pub(crate) fn on_failed(&mut self, now: Instant) {
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// It started.
    pub(crate) fn on_started(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_end_with_a_start() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.pause(now), None);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            backoff.on_failed(now);
            assert_eq!(backoff.pause(now), Some(Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
            assert_eq!(backoff.pause(now), None);
        }
        backoff.on_started();
        backoff.on_failed(now);
        assert_eq!(backoff.pause(now), Some(Duration::from_secs(1)));
    }
}
