//! A pure core: which dead letters of a partition are done with, because they were put back or
//! purged, as the position of whoever does that says it.
//!
//! - **RD-1** what is done stays done.
//! - **RD-2** the position passes no open dead letter.

use std::collections::BTreeMap;

use bus::{Completions, Epoch, Offset, Position};

/// Offsets that are done with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// All below it.
    next: i64,
    /// Beyond it, by start: disjoint, not touching.
    ranges: BTreeMap<i64, i64>,
}

impl Done {
    /// What a position says of a partition that starts at `start`: what is not there any more is
    /// done with.
    pub(super) fn of(position: Option<&Position>, start: Offset) -> Self {
        let mut done = Self::default();
        if let Some(position) = position {
            done.next = position.next.0;
            let ranges = position.completions.ranges().iter();
            done.ranges.extend(ranges.map(|(start, end)| (start.0, end.0)));
        }
        done.settle(0, start.0);
        done
    }

    /// The first that may be open.
    pub(super) const fn next(&self) -> i64 {
        self.next
    }

    pub(super) fn contains(&self, offset: i64) -> bool {
        offset < self.next
            || self.ranges.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    /// `start..end` is done with.
    pub(super) fn settle(&mut self, start: i64, end: i64) {
        let (mut start, mut end) = (start.max(self.next), end);
        if end <= start {
            return;
        }
        if let Some((&before, &last)) = self.ranges.range(..=start).next_back()
            && start <= last
        {
            (start, end) = (before, end.max(last));
        }
        while let Some((&at, &last)) = self.ranges.range(start..=end).next() {
            end = end.max(last);
            self.ranges.remove(&at);
        }
        if start == self.next {
            self.next = end;
        } else {
            self.ranges.insert(start, end);
        }
    }

    /// How many ranges a position of it has.
    pub(super) fn scattered(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn position(&self, epoch: Epoch) -> Position {
        let ranges = self.ranges.iter().map(|(start, end)| (Offset(*start), Offset(*end)));
        let completions = Completions::from_ranges(ranges);
        Position { epoch, next: Offset(self.next), completions, suspects: None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// RD-1, RD-2 against a set, over seeded ranges and restarts.
    #[test]
    fn any_ranges_in_any_order_are_what_a_set_says() {
        for seed in 1..=300_u64 {
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut draw = |below: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                (rng % below) as i64
            };
            let start = draw(5);
            let mut done = Done::of(None, Offset(start));
            let mut model: BTreeSet<i64> = (0..start).collect();
            for _step in 0..40 {
                let from = draw(60);
                let to = from + draw(6);
                done.settle(from, to);
                model.extend(from..to);
                let position = done.position(Epoch(3));
                let open = (0..).find(|it| !model.contains(it)).unwrap();
                assert_eq!(position.next.0, open, "seed {seed}: RD-2");
                for offset in 0..70 {
                    let is_done = model.contains(&offset);
                    assert_eq!(done.contains(offset), is_done, "seed {seed}: RD-1, {offset}");
                    let beyond = position.completions.contains(Offset(offset));
                    assert_eq!(open <= offset && is_done, beyond, "seed {seed}: {offset}");
                }
                assert_eq!(done.scattered(), position.completions.ranges().len());
                if draw(4) == 0 {
                    done = Done::of(Some(&position), Offset(start));
                }
            }
        }
    }
}
