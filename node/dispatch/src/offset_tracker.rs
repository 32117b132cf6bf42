//! A pure core: decides where a partition's reading goes on after a crash.
//!
//! Invocations finish in any order; a partition has one position. The tracker gives every record
//! it lets in a sequence number, remembers which of them are settled, one bit each, and reports
//! the position: the oldest record that is not settled, and the completion map of what was
//! settled beyond it.
//!
//! ```text
//! offset       40   41   42   44   45      43 is a gap
//! sequence      0    1    2    3    4
//! settled      yes  yes  no   yes  no
//!                        ^    ^ completions: 44..45
//!                        next: the first record to read again
//! ```
//!
//! Offsets may have gaps (compaction, transaction markers), so the tracker relies on the order of
//! [`track`](OffsetTracker::track) calls and never on `offset + 1` being present.
//!
//! Invariants, checked by the model test and by the simulator:
//!
//! - **OT-1** `next` never moves backwards.
//! - **OT-2** every record below `next`, and every one in the completion map, is settled.
//! - **OT-3** at most `window` records lie between the oldest open one and the newest, not
//!   counting those it resumed with.
//! - **OT-4** what a position called settled is never handed out again.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use bus::{Completions, Offset, Position};

/// What to do with a fetched record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Hand it out, under this sequence number.
    Run(u64),
    /// It was seen before, or settled before a restart: drop it.
    Skip,
    /// The window is full: offer the record again after the next commit.
    Full,
}

/// Tracks the settled records of one partition, for one assignment of its shard.
///
/// Costs a bit for each record of the window, and 16 bytes for each gap in the offsets.
#[derive(Debug)]
pub struct OffsetTracker {
    /// Settled bits. Bit `n` of word `w` is sequence `first + 64 * w + n`.
    words: VecDeque<u64>,
    /// The sequence of the first bit; a multiple of 64.
    first: u64,
    /// The oldest sequence that is not settled; `high` when all are.
    low: u64,
    /// The next sequence to hand out.
    high: u64,
    /// Where offsets and sequences run in step, ascending; covers `low..high`.
    runs: VecDeque<Run>,
    /// The smallest offset that is new.
    newest: Offset,
    /// Completions of the position it resumed at that were not met again yet.
    resumed: VecDeque<(Offset, Offset)>,
    window: u64,
}

/// From `sequence` on, each record's offset is one above that of the record before it.
#[derive(Clone, Copy, Debug)]
struct Run {
    sequence: u64,
    offset: Offset,
}

impl Run {
    fn offset_of(self, sequence: u64) -> Offset {
        Offset(self.offset.0 + (sequence - self.sequence).cast_signed())
    }
}

impl OffsetTracker {
    /// Goes on at `position`, with room for `window` records from the oldest open one on.
    #[must_use]
    pub fn resume(position: &Position, window: NonZeroUsize) -> Self {
        let mut tracker = Self {
            words: VecDeque::new(),
            first: 0,
            low: 0,
            high: 0,
            runs: VecDeque::new(),
            newest: position.next,
            resumed: position.completions.ranges().iter().copied().collect(),
            window: window.get() as u64,
        };
        tracker.absorb_resumed();
        tracker
    }

    /// Takes the next record of the partition. Records come in the order of their offsets; one
    /// that comes again is a [`Skip`](Admission::Skip).
    pub fn track(&mut self, offset: Offset) -> Admission {
        if offset < self.newest {
            return Admission::Skip;
        }
        let resumed = !self.resumed.is_empty() && self.was_settled(offset);
        if !resumed && self.window <= self.high - self.low {
            return Admission::Full;
        }
        let sequence = self.push(offset, 1);
        if resumed {
            self.settle(sequence);
            return Admission::Skip;
        }
        Admission::Run(sequence)
    }

    /// Takes `count` records whose offsets follow one another from `first` on, as far as the
    /// window goes, and returns the sequences they were let in under, from the first record on.
    ///
    /// `None` when some may have to be skipped: ask [`track`](Self::track) record by record.
    #[must_use]
    pub fn track_run(&mut self, first: Offset, count: usize) -> Option<std::ops::Range<u64>> {
        if first < self.newest || !self.resumed.is_empty() {
            return None;
        }
        let count = (count as u64).min(self.window - (self.high - self.low).min(self.window));
        let sequence = self.high;
        if 0 < count {
            self.push(first, count);
        }
        Some(sequence..sequence + count)
    }

    /// Marks a record as settled. `false` when it was, or was never handed out.
    pub fn settle(&mut self, sequence: u64) -> bool {
        if sequence < self.low || self.high <= sequence {
            return false;
        }
        let at = sequence - self.first;
        let (word, bit) = (&mut self.words[(at / 64) as usize], 1 << (at % 64));
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        if sequence == self.low {
            self.advance();
        }
        true
    }

    /// Where reading goes on: everything before it is settled.
    #[must_use]
    pub fn next(&self) -> Offset {
        if self.low == self.high {
            return self.newest;
        }
        self.runs.front().expect("an open record lies in a run").offset_of(self.low)
    }

    /// One past the newest record that was let in or skipped.
    #[must_use]
    pub const fn newest(&self) -> Offset {
        self.newest
    }

    /// The position: [`next`](Self::next), and what is settled beyond it.
    #[must_use]
    pub fn position(&self) -> (Offset, Completions) {
        let resumed = self.resumed.iter().map(|&(start, end)| (start.max(self.newest), end));
        (self.next(), Completions::from_ranges(self.settled_runs().chain(resumed)))
    }

    /// How many records lie from the oldest open one to the newest.
    #[must_use]
    pub const fn span(&self) -> u64 {
        self.high - self.low
    }

    /// Whether a new record would be let in.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.high - self.low < self.window
    }

    /// Hands out `count` sequences for the offsets from `offset` on.
    fn push(&mut self, offset: Offset, count: u64) -> u64 {
        let sequence = self.high;
        if self.low == self.high {
            // Nothing is open, and `newest` may have passed completions since the last run.
            self.runs.clear();
        }
        let follows = self.runs.back().is_some_and(|run| run.offset_of(sequence) == offset);
        if !follows {
            self.runs.push_back(Run { sequence, offset });
        }
        self.high += count;
        let words = (self.high - self.first).div_ceil(64);
        while (self.words.len() as u64) < words {
            self.words.push_back(0);
        }
        self.newest = Offset(offset.0 + count.cast_signed());
        sequence
    }

    /// Whether the position it resumed at called `offset` settled. Offsets ascend, so ranges
    /// below it are of no more use.
    fn was_settled(&mut self, offset: Offset) -> bool {
        while self.resumed.front().is_some_and(|&(_, end)| end <= offset) {
            self.resumed.pop_front();
        }
        self.resumed.front().is_some_and(|&(start, _)| start <= offset)
    }

    /// Moves `low` past what is settled, and forgets it.
    fn advance(&mut self) {
        while self.low < self.high {
            let at = self.low - self.first;
            let ones = (self.words[(at / 64) as usize] >> (at % 64)).trailing_ones();
            self.low += u64::from(ones);
            if ones == 0 || !self.low.is_multiple_of(64) {
                break;
            }
        }
        while self.first + 64 <= self.low {
            self.words.pop_front();
            self.first += 64;
        }
        while self.runs.get(1).is_some_and(|run| run.sequence <= self.low) {
            self.runs.pop_front();
        }
        if self.low == self.high {
            self.absorb_resumed();
        }
    }

    /// With nothing open, completions that touch the position are part of it.
    fn absorb_resumed(&mut self) {
        while let Some(&(start, end)) = self.resumed.front() {
            if self.newest < start {
                return;
            }
            self.newest = self.newest.max(end);
            self.resumed.pop_front();
        }
    }

    /// Offsets of settled records beyond `low`, as ascending half-open ranges.
    fn settled_runs(&self) -> impl Iterator<Item = (Offset, Offset)> {
        let (mut from, mut run) = (self.low, 0);
        std::iter::from_fn(move || {
            let start = self.find(from, true);
            if self.high <= start {
                return None;
            }
            let end = self.find(start, false);
            from = end;
            let first = self.offset_at(start, &mut run);
            let last = self.offset_at(end - 1, &mut run);
            Some((first, last.next()))
        })
    }

    /// The first sequence from `from` on whose settled bit is `settled`, or `high`.
    fn find(&self, from: u64, settled: bool) -> u64 {
        let mut sequence = from;
        while sequence < self.high {
            let at = sequence - self.first;
            let word = self.words[(at / 64) as usize];
            let wanted = (if settled { word } else { !word }) >> (at % 64);
            if wanted != 0 {
                return (sequence + u64::from(wanted.trailing_zeros())).min(self.high);
            }
            sequence += 64 - at % 64;
        }
        self.high
    }

    /// The offset of a sequence; `run` is a cursor for ascending calls.
    fn offset_at(&self, sequence: u64, run: &mut usize) -> Offset {
        while self.runs.get(*run + 1).is_some_and(|next| next.sequence <= sequence) {
            *run += 1;
        }
        self.runs[*run].offset_of(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(next: i64, completions: &[(i64, i64)], window: usize) -> OffsetTracker {
        let ranges = completions.iter().map(|&(start, end)| (Offset(start), Offset(end)));
        let completions = Completions::from_ranges(ranges);
        let position = Position { next: Offset(next), completions, ..Position::default() };
        OffsetTracker::resume(&position, NonZeroUsize::new(window).unwrap())
    }

    fn ranges(tracker: &OffsetTracker) -> Vec<(i64, i64)> {
        let (_, completions) = tracker.position();
        completions.ranges().iter().map(|(start, end)| (start.0, end.0)).collect()
    }

    #[test]
    fn the_position_waits_for_the_oldest_record() {
        let mut tracker = tracker(40, &[], 8);
        for (sequence, offset) in [40, 41, 45].into_iter().enumerate() {
            assert_eq!(tracker.track(Offset(offset)), Admission::Run(sequence as u64));
        }
        assert_eq!(tracker.track(Offset(41)), Admission::Skip, "seen before");

        assert!(tracker.settle(2));
        assert_eq!((tracker.next(), ranges(&tracker)), (Offset(40), vec![(45, 46)]));
        assert!(tracker.settle(0));
        assert!(!tracker.settle(0), "settled twice");
        assert!(tracker.settle(1));
        assert_eq!(tracker.next(), Offset(46), "the gap holds nothing back");
        assert_eq!(ranges(&tracker), []);
        assert!(!tracker.settle(3), "never handed out");
    }

    #[test]
    fn a_restart_skips_what_was_settled_out_of_order() {
        let mut tracker = tracker(5, &[(7, 9), (12, 13)], 1);
        assert_eq!(tracker.track(Offset(5)), Admission::Run(0));
        assert_eq!(tracker.track(Offset(6)), Admission::Full);
        assert!(tracker.settle(0));
        assert_eq!(tracker.track(Offset(6)), Admission::Run(1));
        assert_eq!(tracker.track(Offset(7)), Admission::Skip, "even with a full window");
        assert_eq!((tracker.next(), ranges(&tracker)), (Offset(6), vec![(7, 9), (12, 13)]));
        assert!(tracker.settle(1));
        assert_eq!(tracker.next(), Offset(9), "also what was not met again yet");
        assert_eq!(tracker.track(Offset(8)), Admission::Skip);
        assert_eq!(tracker.track(Offset(11)), Admission::Run(3));
        assert_eq!(ranges(&tracker), [(12, 13)]);
        assert!(tracker.settle(3));
        assert_eq!(tracker.next(), Offset(13));
    }

    #[test]
    fn a_completion_that_retention_took_is_forgotten() {
        let mut tracker = tracker(5, &[(7, 9)], 4);
        assert_eq!(tracker.track(Offset(5)), Admission::Run(0));
        assert_eq!(tracker.track(Offset(20)), Admission::Run(1));
        assert_eq!(ranges(&tracker), []);
        assert!(tracker.settle(0));
        assert_eq!(tracker.next(), Offset(20));
    }

    #[test]
    fn a_run_is_let_in_as_far_as_the_window_goes() {
        let mut tracker = tracker(100, &[], 130);
        assert_eq!(tracker.track_run(Offset(100), 100), Some(0..100));
        assert_eq!(tracker.track_run(Offset(99), 5), None);
        assert_eq!(tracker.track_run(Offset(300), 100), Some(100..130));
        assert_eq!(tracker.track_run(Offset(330), 1), Some(130..130), "full");
        for sequence in 64..130 {
            assert!(tracker.settle(sequence));
        }
        assert_eq!(ranges(&tracker), [(164, 330)], "a gap inside a range counts as settled");
        assert!((0..64).all(|sequence| tracker.settle(sequence)));
        assert_eq!(tracker.position(), (Offset(330), Completions::default()));
    }

    /// Tracks, settles and restarts in a seeded random order over a partition with gaps, and
    /// checks OT-1 to OT-4 at every step against the simplest model: a list of flags.
    #[test]
    fn any_settle_order_agrees_with_a_list_of_flags() {
        for seed in 1..=500_u64 {
            Model::new(seed).play();
        }
    }

    const WINDOW: usize = 70;

    struct Model {
        seed: u64,
        rng: u64,
        offsets: Vec<i64>,
        settled: Vec<bool>,
        /// Records offered since the last restart, and the sequence of each that runs.
        offered: usize,
        open: Vec<(usize, u64)>,
    }

    impl Model {
        fn new(seed: u64) -> Self {
            let mut model = Self {
                seed,
                rng: seed,
                offsets: Vec::new(),
                settled: vec![false; 400],
                offered: 0,
                open: Vec::new(),
            };
            let mut offset = 0;
            for _record in 0..400 {
                model.offsets.push(offset);
                offset += if model.draw(8) == 0 { 1 + model.draw(5) as i64 } else { 1 };
            }
            model
        }

        fn draw(&mut self, below: usize) -> usize {
            self.rng ^= self.rng << 13;
            self.rng ^= self.rng >> 7;
            self.rng ^= self.rng << 17;
            usize::try_from(self.rng % below as u64).unwrap()
        }

        fn play(&mut self) {
            let window = NonZeroUsize::new(WINDOW).unwrap();
            let mut tracker = OffsetTracker::resume(&Position::default(), window);
            for _step in 0..700 {
                let before = tracker.next();
                match self.draw(40) {
                    0 => {
                        let (next, completions) = tracker.position();
                        let position = Position { next, completions, ..Position::default() };
                        tracker = OffsetTracker::resume(&position, window);
                        self.offered = self.offsets.partition_point(|&it| it < next.0);
                        self.open.clear();
                    }
                    1..=25 if self.offered < self.offsets.len() => self.offer(&mut tracker),
                    _ if !self.open.is_empty() => {
                        let at = self.draw(self.open.len());
                        let (index, sequence) = self.open.swap_remove(at);
                        assert!(tracker.settle(sequence), "seed {}", self.seed);
                        self.settled[index] = true;
                    }
                    _ => {}
                }
                self.check(&tracker, before);
            }
        }

        fn offer(&mut self, tracker: &mut OffsetTracker) {
            let index = self.offered;
            match tracker.track(Offset(self.offsets[index])) {
                Admission::Run(sequence) => {
                    assert!(!self.settled[index], "seed {}: OT-4", self.seed);
                    self.open.push((index, sequence));
                    self.offered += 1;
                }
                Admission::Skip => {
                    assert!(self.settled[index], "seed {}: skipped a new record", self.seed);
                    self.offered += 1;
                }
                Admission::Full => assert!(!self.open.is_empty(), "seed {}: stalled", self.seed),
            }
        }

        fn check(&self, tracker: &OffsetTracker, before: Offset) {
            let seed = self.seed;
            let (next, completions) = tracker.position();
            assert!(before <= next, "seed {seed}: OT-1");
            assert!(!completions.contains(next), "seed {seed}: {next} in {completions:?}");
            for (index, &offset) in self.offsets.iter().enumerate() {
                let told = offset < next.0 || completions.contains(Offset(offset));
                assert_eq!(told, self.settled[index], "seed {seed}: OT-2 at {offset}");
            }
            let resumed = self.settled.iter().filter(|it| **it).count() as u64;
            assert!(tracker.span() <= WINDOW as u64 + resumed, "seed {seed}: OT-3");
        }
    }
}
