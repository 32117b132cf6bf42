//! A pure core: a set of offsets as ascending runs, written as gaps and lengths: a byte or two for a
//! run, however many records are in it.

use serde::{Deserialize, Serialize};

/// Offsets, ascending and disjoint. See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spans {
    /// The first offset.
    first: i64,
    /// By run: how many offsets lie between it and the one before, and how many it has; both are
    /// one less, but for the first gap, which is 0.
    runs: Vec<(u64, u64)>,
}

impl Spans {
    /// Of offsets in any order; doubled ones count once.
    pub fn of(offsets: &mut [i64]) -> Self {
        if !offsets.is_sorted() {
            offsets.sort_unstable();
        }
        let mut spans = Self::default();
        let mut last = None;
        for &offset in offsets.iter() {
            match (last, spans.runs.last_mut()) {
                (Some(last), _) if last == offset => continue,
                (Some(last), Some((_, more))) if last + 1 == offset => *more += 1,
                (Some(last), _) => spans.runs.push((offset.abs_diff(last) - 2, 0)),
                (None, _) => {
                    spans.first = offset;
                    spans.runs.push((0, 0));
                }
            }
            last = Some(offset);
        }
        spans
    }

    /// First and last offset of each run, ascending.
    pub fn runs(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        let mut next = self.first;
        self.runs.iter().enumerate().map(move |(at, (gap, more))| {
            if 0 < at {
                next = next.saturating_add_unsigned(gap.saturating_add(1));
            }
            let first = next;
            let last = first.saturating_add_unsigned(*more);
            next = last.saturating_add(1);
            (first, last)
        })
    }

    /// Whether `offset` is one of them.
    #[must_use]
    pub fn contains(&self, offset: i64) -> bool {
        self.first <= offset && self.runs().any(|(first, last)| (first..=last).contains(&offset))
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(_, more)| more.saturating_add(1)).fold(0, u64::saturating_add)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_one_entry_whatever_its_length() {
        let spans = Spans::of(&mut (7..1_000_000).collect::<Vec<_>>());
        assert_eq!(spans.runs().collect::<Vec<_>>(), [(7, 999_999)]);
        assert!(postcard::to_allocvec(&spans).unwrap().len() < 8);
        assert_eq!(spans.count(), 999_993);
    }

    #[test]
    fn any_set_of_offsets_is_what_a_plain_set_says() {
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for round in 0..2_000 {
            let (count, width) = (draw(60), 1 + draw(120));
            let base = if round % 3 == 0 { 0 } else { draw(1 << 40) };
            let mut offsets: Vec<i64> =
                (0..count).map(|_| (base + draw(width)).cast_signed()).collect();
            let plain: std::collections::BTreeSet<i64> = offsets.iter().copied().collect();
            let spans = Spans::of(&mut offsets);
            let told: Vec<i64> = spans.runs().flat_map(|(first, last)| first..=last).collect();
            assert_eq!(told, plain.iter().copied().collect::<Vec<_>>(), "round {round}");
            assert_eq!((spans.count(), spans.is_empty()), (plain.len() as u64, plain.is_empty()));
            for offset in base.cast_signed() - 2..=(base + width).cast_signed() + 2 {
                assert_eq!(spans.contains(offset), plain.contains(&offset), "round {round}");
            }
            let written = postcard::to_allocvec(&spans).unwrap();
            assert_eq!(postcard::from_bytes::<Spans>(&written).unwrap(), spans);
        }
    }

    #[test]
    fn bytes_that_lie_end_in_no_panic() {
        let spans = Spans { first: i64::MAX - 1, runs: vec![(0, u64::MAX), (u64::MAX, u64::MAX)] };
        assert!(spans.contains(i64::MAX));
        assert_eq!(spans.count(), u64::MAX);
    }
}
