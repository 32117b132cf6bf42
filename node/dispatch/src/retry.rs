//! A pure core: whether a failed record is tried again, and when.
//!
//! Pauses grow exponentially and are drawn with full jitter (AWS Architecture Blog, "Exponential
//! Backoff And Jitter"): evenly from nothing to the bound, so that records that failed together
//! do not come back together. The random numbers are seeded by the caller.
//!
//! A list of pauses is another matter: who asks for five minutes wants no less. A tenth is drawn on
//! top of each.

use std::num::NonZeroU32;
use std::time::Duration;

/// How often, and how far apart, a record is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts_max: NonZeroU32,
    /// The bound of the pause after the first failure; it doubles after each further one.
    pub backoff_min: Duration,
    /// The largest bound of a pause.
    pub backoff_max: Duration,
    /// The pause after the first failure, the second, and so on; the last repeats. Empty where the
    /// bounds above say it.
    pub pauses: Vec<Duration>,
    /// A record that would be older than this at its next attempt, by its timestamp, is given up.
    pub age_max: Option<Duration>,
    /// Whether a batch that failed as a whole is halved until the bad record is found. Otherwise
    /// each of its records is charged an attempt.
    pub bisect: bool,
    /// Failures that no further attempt can mend, by name; one that ends in `*` is how names begin.
    pub no_retry: Vec<String>,
}

impl RetryPolicy {
    /// The pause after the `attempt`-th failure.
    pub(crate) fn pause(&self, attempt: u32, share: Share) -> Duration {
        let at = attempt.saturating_sub(1) as usize;
        match self.pauses.get(at).or_else(|| self.pauses.last()) {
            Some(pause) => *pause + share.of(*pause / 10),
            None => share.of(backoff_bound(self.backoff_min, self.backoff_max, attempt)),
        }
    }

    /// Whether a record with this failure is given up at once.
    #[must_use]
    pub fn is_final(&self, code: &str) -> bool {
        self.no_retry.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => code.starts_with(start),
            None => code == name,
        })
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: NonZeroU32::new(5).expect("not zero"),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            pauses: Vec::new(),
            age_max: None,
            bisect: true,
            no_retry: Vec::new(),
        }
    }
}

/// The largest pause after the `attempt`-th failure in a row.
#[must_use]
pub(crate) fn backoff_bound(min: Duration, max: Duration, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    min.saturating_mul(1 << doublings).min(max)
}

/// A part of whatever bound, drawn evenly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share(u64);

impl Share {
    pub(crate) fn of(self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        let drawn = (u128::from(self.0) * (u128::from(nanos) + 1)) >> 64;
        Duration::from_nanos(drawn as u64)
    }
}

/// A seeded source of jitter: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly from zero to `bound`.
    pub(crate) fn up_to(&mut self, bound: Duration) -> Duration {
        self.draw().of(bound)
    }

    /// A part of a bound, for all who wait together.
    pub(crate) fn draw(&mut self) -> Share {
        Share(self.next())
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_largest() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let bounds: Vec<_> =
            (1..=6).map(|attempt| backoff_bound(min, max, attempt).as_millis()).collect();
        assert_eq!(bounds, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff_bound(min, max, u32::MAX), max);
    }

    #[test]
    fn a_list_of_pauses_is_kept_and_its_last_repeats() {
        let seconds = |seconds: &[u64]| seconds.iter().map(|it| Duration::from_secs(*it)).collect();
        let policy = RetryPolicy { pauses: seconds(&[300, 1800, 7200]), ..RetryPolicy::default() };
        let mut jitter = Jitter::new(3);
        for (attempt, least) in [(1, 300), (2, 1800), (3, 7200), (4, 7200), (u32::MAX, 7200)] {
            for _draw in 0..100 {
                let pause = policy.pause(attempt, jitter.draw()).as_secs_f64();
                let least = f64::from(least);
                assert!((least..=1.1 * least).contains(&pause), "{pause} after {attempt}");
            }
        }
    }

    #[test]
    fn jitter_fills_the_whole_range_and_follows_its_seed() {
        let bound = Duration::from_millis(100);
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            (0..1000).map(|_| jitter.up_to(bound)).collect::<Vec<_>>()
        };
        let drawn = draw(1);
        assert_eq!(drawn, draw(1));
        assert_ne!(drawn, draw(2));
        assert!(drawn.iter().all(|it| *it <= bound));
        assert!(drawn.iter().any(|it| *it < Duration::from_millis(5)));
        assert!(drawn.iter().any(|it| Duration::from_millis(95) < *it));
        assert_eq!(Jitter::new(1).up_to(Duration::ZERO), Duration::ZERO);
    }
}
