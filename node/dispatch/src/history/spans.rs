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

/// Offsets as they come: those in a row are one run from the start, so that a batch costs little more
/// than a comparison a record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered(Vec<(i64, i64)>);

impl Gathered {
    /// Adds an offset; one that is there counts once.
    #[inline]
    pub(crate) fn push(&mut self, offset: i64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == offset => *last = offset,
            _ => self.0.push((offset, offset)),
        }
    }

    /// The set of them.
    pub(crate) fn spans(mut self) -> Spans {
        if !self.0.is_sorted() {
            // What comes from a few strands is a few ascending sequences.
            self.0.sort();
        }
        let mut spans = Spans { first: self.0.first().map_or(0, |it| it.0), runs: Vec::new() };
        spans.runs.reserve_exact(self.0.len());
        let mut end = None;
        for (first, last) in self.0 {
            match (end, spans.runs.last_mut()) {
                (Some(end), _) if last <= end => continue,
                (Some(end), Some((_, more))) if first <= end + 1 => *more += last.abs_diff(end),
                (Some(end), _) => {
                    spans.runs.push((first.abs_diff(end) - 2, last.abs_diff(first)));
                }
                (None, _) => spans.runs.push((0, last.abs_diff(first))),
            }
            end = Some(last);
        }
        spans
    }
}

impl FromIterator<i64> for Spans {
    /// Of offsets in any order; doubled ones count once.
    fn from_iter<T: IntoIterator<Item = i64>>(offsets: T) -> Self {
        let mut gathered = Gathered::default();
        offsets.into_iter().for_each(|offset| gathered.push(offset));
        gathered.spans()
    }
}

impl Spans {
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
        let spans: Spans = (7..1_000_000).collect();
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
            let offsets: Vec<i64> =
                (0..count).map(|_| (base + draw(width)).cast_signed()).collect();
            let plain: std::collections::BTreeSet<i64> = offsets.iter().copied().collect();
            let spans: Spans = offsets.into_iter().collect();
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
