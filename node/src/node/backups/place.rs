//! A pure core: positions as a backup holds them, and where a restored trigger goes on.
//!
//! - **BK-1** a position of a backup has no record settled that was not: parked records, which the
//!   cluster's position has behind it and its park topic owes, are open in it.
//! - **BK-2** a restored position never passes a record that the backup has open, as far as the
//!   topic holds it.

use std::collections::BTreeSet;

use bus::{Completions, Offset, Position, Watermarks};

/// Ranges that are kept of a position; those beyond cost repeats and nothing else.
const RANGES_MAX: usize = 1_000;

/// How far a trigger is in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) next: i64,
    pub(super) settled: Vec<(i64, i64)>,
}

/// A position without what is `parked` (BK-1), and how many of those it had settled.
pub(super) fn saved(position: &Position, parked: &BTreeSet<i64>) -> (Saved, u64) {
    let next = position.next.0;
    let counts = |offset: &i64| *offset < next || position.completions.contains(Offset(*offset));
    let owed: Vec<i64> = parked.iter().copied().filter(counts).collect();
    let lowest = owed.first().copied().filter(|it| *it < next);
    let beyond = position.completions.ranges().iter().map(|(start, end)| (start.0, end.0));
    let all = lowest.map(|lowest| (lowest, next)).into_iter().chain(beyond);
    let mut settled = Vec::new();
    let mut owing = owed.iter().copied().peekable();
    for (mut start, end) in all {
        while let Some(offset) = owing.next_if(|it| *it < end) {
            settled.push((start, offset));
            start = offset + 1;
        }
        settled.push((start, end));
    }
    settled.retain(|(start, end)| start < end);
    settled.truncate(RANGES_MAX);
    (Saved { next: lowest.unwrap_or(next), settled }, owed.len() as u64)
}

/// Where a trigger goes on, and why that is not where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Landing {
    pub(super) next: Offset,
    pub(super) completions: Completions,
    pub(super) why: Option<&'static str>,
}

/// Where a trigger goes on in a partition that has these records (BK-2).
pub(super) fn land(saved: &Saved, marks: Watermarks) -> Landing {
    let (start, end) = (marks.start.0, marks.end.0);
    if end < saved.next {
        // Another topic, or a copy that is behind: which of its records were settled nobody knows.
        let why = "the topic ends before that: all of it is read";
        let completions = Completions::default();
        return Landing { next: marks.start, completions, why: Some(why) };
    }
    let why = (saved.next < start).then_some("the records from there on are gone");
    let from = saved.next.max(start);
    let in_range = saved.settled.iter().find(|(a, b)| *a <= from && from < *b);
    let next = in_range.map_or(from, |(_, b)| *b).min(end);
    let beyond = saved.settled.iter().filter(|(a, b)| next < *a && *b <= end);
    let completions = Completions::from_ranges(beyond.map(|(a, b)| (Offset(*a), Offset(*b))));
    Landing { next: Offset(next), completions, why }
}

/// Whether ranges are such as [`saved`] gives.
pub(super) fn is_sound(saved: &Saved) -> bool {
    let mut last = saved.next;
    let ascends = |(start, end): &(i64, i64)| {
        // The first may not begin at `next`: that is open.
        let is_so = last < *start && start < end;
        last = *end;
        is_so
    };
    0 <= saved.next && saved.settled.iter().all(ascends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(next: i64, done: &[(i64, i64)]) -> Position {
        let done = done.iter().map(|(start, end)| (Offset(*start), Offset(*end)));
        let completions = Completions::from_ranges(done);
        Position { next: Offset(next), completions, ..Position::default() }
    }

    fn marks(start: i64, end: i64) -> Watermarks {
        Watermarks { start: Offset(start), end: Offset(end), bytes: 0 }
    }

    fn open(saved: &Saved, upto: i64) -> BTreeSet<i64> {
        let is_settled =
            |it: &i64| *it < saved.next || saved.settled.iter().any(|(a, b)| (*a..*b).contains(it));
        (0..upto).filter(|it| !is_settled(it)).collect()
    }

    #[test]
    fn what_is_parked_is_open_in_a_backup() {
        let position = at(20, &[(25, 30), (40, 41)]);
        let of = |parked: &[i64]| saved(&position, &parked.iter().copied().collect());
        let plain = (Saved { next: 20, settled: vec![(25, 30), (40, 41)] }, 0);
        assert_eq!(of(&[]), plain);
        assert_eq!(of(&[22, 99]), plain, "they are open as it is");
        let owed = of(&[7, 19, 27, 40]);
        assert_eq!(owed.0, Saved { next: 7, settled: vec![(8, 19), (25, 27), (28, 30)] });
        assert_eq!(owed.1, 4);
        assert!(is_sound(&owed.0));
    }

    /// BK-1, BK-2 over seeded positions.
    #[test]
    fn nothing_open_is_passed_and_nothing_settled_runs_again_without_need() {
        for seed in 1..=2_000_u64 {
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut draw = |below: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                rng % below
            };
            let settled: BTreeSet<i64> = (0..60).filter(|_| draw(3) != 0).collect();
            let next = (0..).find(|it| !settled.contains(it)).unwrap();
            let beyond = settled.iter().filter(|it| next < **it);
            let ranges = beyond.map(|it| (*it, *it + 1)).collect::<Vec<_>>();
            let position = at(next, &ranges);
            let parked: BTreeSet<i64> = (0..60).filter(|_| draw(6) == 0).collect();
            let (saved, _owed) = saved(&position, &parked);
            assert!(is_sound(&saved), "seed {seed}: {saved:?}");
            let truth: BTreeSet<i64> =
                (0..60).filter(|it| !settled.contains(it) || parked.contains(it)).collect();
            assert_eq!(open(&saved, 60), truth, "seed {seed}: BK-1");
            let marks = marks(draw(30).cast_signed(), 30 + draw(40).cast_signed());
            let landing = land(&saved, marks);
            let there = marks.start.0..marks.end.0;
            for offset in truth.iter().filter(|it| there.contains(it)) {
                let passed =
                    *offset < landing.next.0 || landing.completions.contains(Offset(*offset));
                assert!(!passed, "seed {seed}: BK-2: {offset} of {saved:?} by {landing:?}");
            }
            assert!(marks.start <= landing.next && landing.next <= marks.end, "seed {seed}");
        }
    }

    #[test]
    fn a_topic_that_ends_before_a_position_is_read_from_its_start() {
        let saved = Saved { next: 50, settled: vec![(60, 70)] };
        let landed = land(&saved, marks(0, 50));
        assert_eq!((landed.next, landed.why), (Offset(50), None));
        let landed = land(&saved, marks(3, 49));
        assert_eq!(landed.next, Offset(3));
        assert!(landed.why.is_some() && landed.completions.is_empty());
        let landed = land(&saved, marks(65, 90));
        assert_eq!(landed.next, Offset(70), "what was settled beyond stays so");
        assert!(landed.why.is_some());
    }

    #[test]
    fn ranges_that_no_backup_has_are_refused() {
        for (next, settled) in [
            (-1, vec![]),
            (5, vec![(5, 6)]),
            (5, vec![(7, 7)]),
            (5, vec![(9, 12), (11, 13)]),
            (5, vec![(9, 12), (12, 13)]),
        ] {
            assert!(!is_sound(&Saved { next, settled: settled.clone() }), "{next} {settled:?}");
        }
    }
}
