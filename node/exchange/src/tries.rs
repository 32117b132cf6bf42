//! A pure core: how often one may guess. A source whose tokens were refused may try again only as
//! fast as a person would; who is let in pays nothing.
//!
//! - **TR-1** a source has at most [`Tries::BURST`] refusals at once, and one more every
//!   [`Tries::EACH`].
//! - **TR-2** at most [`Tries::SOURCES`] sources are remembered. Those that come when all of them
//!   are still paying share one account, so that many addresses are no more than one.
//!
//! A source is an address of IPv4, and a network of 64 bits of IPv6, which is one owner's.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::time::Duration;

/// See the [module documentation](self). Times are those of one process, from any start.
#[derive(Debug, Default)]
pub struct Tries {
    /// Source -> when its account is even again; never of those that are.
    owing: BTreeMap<u128, Duration>,
    /// The same, of all that are not remembered one by one.
    crowd: Duration,
}

impl Tries {
    /// Refusals at once.
    pub const BURST: u32 = 10;
    /// The time that pays for one.
    pub const EACH: Duration = Duration::from_secs(6);
    /// Sources at a time.
    pub const SOURCES: usize = 1_024;

    /// Whether this source may try at `now`.
    #[must_use]
    pub fn may(&self, source: IpAddr, now: Duration) -> bool {
        let even = match self.owing.get(&of(source)) {
            Some(even) => *even,
            None if self.is_full(now) => self.crowd,
            None => Duration::ZERO,
        };
        even.saturating_sub(now) <= Self::EACH * (Self::BURST - 1)
    }

    /// It tried, and was refused.
    pub fn on_refused(&mut self, source: IpAddr, now: Duration) {
        let source = of(source);
        let is_known = self.owing.contains_key(&source);
        if !is_known && Self::SOURCES <= self.owing.len() {
            self.owing.retain(|_, even| now < *even);
        }
        let even = match !is_known && Self::SOURCES <= self.owing.len() {
            true => &mut self.crowd,
            false => self.owing.entry(source).or_default(),
        };
        *even = (*even).max(now) + Self::EACH;
    }

    fn is_full(&self, now: Duration) -> bool {
        Self::SOURCES <= self.owing.values().filter(|even| now < **even).count()
    }
}

/// What counts as one source.
fn of(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    /// How many of a thousand tries at one time are looked at.
    fn looked_at(tries: &mut Tries, sources: impl Fn(u32) -> IpAddr, now: Duration) -> u32 {
        let mut all = 0;
        for number in 0..1_000 {
            if tries.may(sources(number), now) {
                tries.on_refused(sources(number), now);
                all += 1;
            }
        }
        all
    }

    #[test]
    fn a_source_guesses_ten_times_and_then_once_in_six_seconds() {
        let mut tries = Tries::default();
        assert_eq!(looked_at(&mut tries, |_| v4(7), at(100)), 10, "TR-1");
        assert_eq!(looked_at(&mut tries, |_| v4(7), at(105)), 0, "TR-1");
        assert_eq!(looked_at(&mut tries, |_| v4(7), at(106)), 1, "TR-1");
        assert!(tries.may(v4(8), at(106)), "another one pays nothing for it");
        assert_eq!(looked_at(&mut tries, |_| v4(7), at(1_000)), 10, "it is forgotten");
    }

    #[test]
    fn one_network_of_ipv6_is_one_source_and_mapped_addresses_are_of_ipv4() {
        let mut tries = Tries::default();
        let v6 = |number: u32| IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(number)).into());
        assert_eq!(looked_at(&mut tries, v6, at(1)), 10, "TR-1");
        let mapped = |_| "::ffff:10.0.0.7".parse().unwrap();
        assert_eq!(looked_at(&mut tries, mapped, at(1)), 10);
        assert!(!tries.may("10.0.0.7".parse().unwrap(), at(1)));
        assert!(
            tries.may("::10.0.0.7".parse().unwrap(), at(1)),
            "another protocol, another source"
        );
    }

    #[test]
    fn many_sources_are_one_and_memory_stays_bounded() {
        let mut tries = Tries::default();
        for number in 0..100_000 {
            if tries.may(v4(number), at(1)) {
                tries.on_refused(v4(number), at(1));
            }
            assert!(tries.owing.len() <= Tries::SOURCES, "TR-2");
        }
        assert!(!tries.may(v4(200_000), at(1)), "TR-2");
        assert!(tries.may(v4(3), at(1)), "who is remembered has an account of its own");
        assert!(tries.may(v4(200_000), at(100)), "all is paid");
        tries.on_refused(v4(200_000), at(100));
        assert_eq!(tries.owing.len(), 1);
    }
}
