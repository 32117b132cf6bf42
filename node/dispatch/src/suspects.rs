//! A pure core: finds the record that ends the node which runs it.
//!
//! A node that is gone tells nobody which record it was. What may have run are the open records of
//! the window, below where the log ended: the next assignment commits them as [`Suspects`], a range
//! and the number of an attempt, before it runs them. One that starts and finds suspects in its
//! position knows that they may have been running when a node ended again.
//!
//! ```text
//! attempt 2       all suspects run as records always do
//! attempt 3, ...  in pieces, one after the other and alone on the node, each of them the suspects
//!                 for as long as it runs; so small that one record is left two attempts before
//!                 the last
//! the last two    that record alone, before anything else of its shard
//! then            it is a dead letter, and is not run
//! ```
//!
//! Nodes end for other reasons too, and somebody who kills one again and again always kills it in
//! some piece. But a piece is over in milliseconds: nobody else ends two nodes more just while the one
//! record runs that was left.
//!
//! A suspect that was in an invocation that ended is none any more, however that ended; nor is one
//! that the node has outlived for [`TURN`], so that a function that takes its time, or hangs, holds
//! up nobody else's. What runs under attempt 2 waits while another shard of the node runs a piece, so
//! that none is taken for the other ([`Turn`]); a shard that waits leaves its position as it found
//! it.
//!
//! - **NK-1** No suspect is in an invocation before the commit that names it is durable, and no
//!   record before the first position of its shard is: without one the next start knows of nothing.
//! - **NK-2** A record is given up after `attempts_max` attempts that no node outlived, and at least
//!   seven, of which it was alone in the last three.
//! - **NK-3** One that ends every node is given up after no more attempts than that. (Of several it
//!   may take more: what one does is taken for another's.)
//! - **NK-4** With nothing in flight after a drain no suspects are left but those of which one has
//!   ended a node, in pieces that have not run since: whoever gets the shard next goes on with them.
//! - **NK-5** A turn ends, at the latest so long after what has it was named durably.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use bus::{Offset, Position, Suspects};

use crate::command::CommitId;
use crate::records::RecordId;
use crate::shard::PartitionStart;

/// The failure of a record that ended the node.
pub(crate) const NODE_ENDED: &str = "Millrace.NodeEnded";

/// What runs for so long has not ended its node. A record that takes longer to do so is not found.
pub(crate) const TURN: Duration = Duration::from_secs(10);
/// The first attempt that is made piece by piece.
const PIECEWISE: u32 = 3;
/// Attempts of one record alone before it is given up, behind the one that found it.
const CONFIRMED: u32 = 2;
/// How many attempts it takes at least: three in pieces, of 16 records and more each.
pub(crate) const ATTEMPTS_MIN: u32 = PIECEWISE + 2 + CONFIRMED;

/// The suspects of a shard, by the index of the partition.
#[derive(Debug, Default)]
pub(crate) struct Suspicions {
    partitions: Vec<Option<Suspicion>>,
    /// How many partitions have some.
    count: usize,
    /// Whether all partitions have a durable position.
    is_placed: bool,
    /// When the turn is over, once what has it is named durably.
    turn_until: Option<Instant>,
}

#[derive(Debug)]
struct Suspicion {
    /// All of them, and the attempt that is made now.
    all: Suspects,
    /// What is still to run piece by piece, under the attempt before. `None`: they run as they come.
    rest: Option<Suspects>,
    /// Records of a piece.
    piece: usize,
    guilty: Option<Offset>,
    /// Let in, and in no invocation that ended.
    open: BTreeSet<RecordId>,
    /// Where these lie.
    lies: Range<Offset>,
    /// What every position says.
    told: Option<Suspects>,
    /// Whether that names what is open, and since which commit.
    named: Named,
    has_turn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    No,
    Soon,
    With(CommitId),
    Durably,
}

/// How what may have ended a node runs beside the node's other shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Beside others that found nothing of the kind in their positions.
    Shared,
    /// Beside none that runs such records.
    Alone,
}

/// What becomes of a record that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs, in its turn.
    Run,
    /// It has ended its last node: after so many attempts.
    Guilty(u32),
}

impl Suspicions {
    /// What the positions of a start say, where the window has room for `window` records.
    pub(crate) fn new(starts: &[PartitionStart], window: usize, attempts_max: u32) -> Self {
        let of = |it: &PartitionStart| Suspicion::new(it, window, attempts_max);
        let partitions: Vec<_> = starts.iter().map(of).collect();
        let count = partitions.iter().flatten().count();
        let is_placed = !starts.iter().any(|it| it.fresh);
        Self { partitions, count, is_placed, turn_until: None }
    }

    /// Whether there are none (any more).
    #[inline]
    pub(crate) const fn is_over(&self) -> bool {
        self.count == 0
    }

    /// Whether one was let in that has not run yet.
    pub(crate) fn has_open(&self) -> bool {
        self.count != 0 && self.partitions.iter().flatten().any(|it| !it.open.is_empty())
    }

    fn of(&mut self, partition: u16) -> Option<&mut Suspicion> {
        self.partitions.get_mut(usize::from(partition))?.as_mut()
    }

    /// How many records of the partition may be let in from `offset` on.
    pub(crate) fn room(&mut self, partition: u16, offset: Offset) -> usize {
        let Some(it) = self.of(partition) else { return usize::MAX };
        if it.rest.is_none() {
            return usize::MAX;
        }
        if it.all.until <= offset {
            // The piece that there is comes first.
            return if it.open.is_empty() { usize::MAX } else { 0 };
        }
        if it.named != Named::No {
            return 0;
        }
        let left = usize::try_from(it.all.until.0 - offset.0).unwrap_or(usize::MAX);
        left.min(it.piece.saturating_sub(it.open.len()))
    }

    /// A record was let in.
    pub(crate) fn admitted(&mut self, partition: u16, record: RecordId, offset: Offset) -> Verdict {
        let Some(it) = self.of(partition) else { return Verdict::Run };
        if it.guilty == Some(offset) {
            return Verdict::Guilty(it.all.attempt - 1);
        }
        if (it.all.from..it.all.until).contains(&offset) {
            if it.open.is_empty() {
                it.lies.start = offset;
            }
            it.open.insert(record);
            it.lies.end = offset.next();
        }
        Verdict::Run
    }

    /// What somebody waits for, until [`on_turn`](Self::on_turn).
    pub(crate) fn wants_turn(&self) -> Option<Turn> {
        let waits = |it: &&Suspicion| !it.open.is_empty() && !it.has_turn;
        let mut waiting = self.partitions.iter().flatten().filter(waits).peekable();
        waiting.peek()?;
        let is_piece = waiting.any(|it| it.rest.is_some());
        Some(if is_piece { Turn::Alone } else { Turn::Shared })
    }

    /// Whether somebody has a turn.
    pub(crate) fn has_turn(&self) -> bool {
        self.count != 0 && self.partitions.iter().flatten().any(|it| it.has_turn)
    }

    /// Whoever waits for it has the turn: the partitions whose positions have to be committed.
    pub(crate) fn on_turn(&mut self) -> Vec<u16> {
        let mut named = Vec::new();
        for (index, it) in (0..).zip(&mut self.partitions) {
            let Some(it) = it.as_mut().filter(|it| !it.open.is_empty() && !it.has_turn) else {
                continue;
            };
            it.has_turn = true;
            it.named = Named::Soon;
            let Range { start: from, end: until } = it.lies.clone();
            it.told =
                Some(if it.rest.is_some() { Suspects { from, until, ..it.all } } else { it.all });
            named.push(index);
        }
        named
    }

    /// Whether an invocation may start: NK-1.
    pub(crate) fn may_start(&self) -> bool {
        let is_named = |it: &Suspicion| it.open.is_empty() || it.named == Named::Durably;
        self.is_placed && (self.count == 0 || self.partitions.iter().flatten().all(is_named))
    }

    /// What a position of the partition says.
    pub(crate) fn told(&self, partition: u16) -> Option<Suspects> {
        self.partitions.get(usize::from(partition))?.as_ref()?.told
    }

    /// A commit with positions of these partitions is on its way.
    pub(crate) fn commits(&mut self, id: CommitId, partitions: &[u16]) {
        for &partition in partitions {
            if let Some(it) = self.of(partition)
                && it.named == Named::Soon
            {
                it.named = Named::With(id);
            }
        }
    }

    /// A commit is durable. The first one has all positions that are fresh.
    pub(crate) fn committed(&mut self, now: Instant, id: CommitId) {
        self.is_placed = true;
        for it in self.partitions.iter_mut().flatten() {
            if it.named == Named::With(id) {
                it.named = Named::Durably;
                self.turn_until = Some(now + TURN);
            }
        }
    }

    /// When the turn that somebody has is over, if it does not end before.
    pub(crate) fn turn_ends_at(&self) -> Option<Instant> {
        self.turn_until.filter(|_| self.has_turn())
    }

    /// Takes note of the time: what was named and has had its turn is outlived (NK-5).
    pub(crate) fn outlive(&mut self, now: Instant) {
        if self.turn_ends_at().is_none_or(|at| now < at) {
            return;
        }
        self.turn_until = None;
        let is_named = |it: &&mut Suspicion| it.has_turn && it.named == Named::Durably;
        for it in self.partitions.iter_mut().flatten().filter(is_named) {
            it.open.clear();
            if it.rest.is_none() {
                // What is let in later waits for a turn of its own; of a piece the sweep sees to it.
                (it.named, it.has_turn) = (Named::No, false);
            }
        }
    }

    /// These records were in an invocation that ended, or leave the memory without having run.
    pub(crate) fn clear(&mut self, records: &[RecordId]) {
        for it in self.partitions.iter_mut().flatten() {
            for record in records {
                it.open.remove(record);
            }
        }
    }

    /// Drops what is no longer suspected: partitions whose position has to say so. `newest` is one
    /// past what was let in of each.
    pub(crate) fn sweep(&mut self, newest: impl Fn(u16) -> Offset) -> Vec<u16> {
        let mut changed = Vec::new();
        for (index, slot) in (0..).zip(&mut self.partitions) {
            let Some(it) = slot.as_mut().filter(|it| it.open.is_empty()) else { continue };
            let is_over = it.all.until <= newest(index);
            let before = it.told;
            if is_over {
                it.told = None;
            } else if it.named != Named::No
                && let Some(rest) = &mut it.rest
            {
                // The next piece waits for a turn of its own.
                rest.from = it.lies.end;
                it.told = Some(*rest);
                (it.named, it.has_turn) = (Named::No, false);
            }
            if before != it.told {
                changed.push(index);
            }
            if is_over {
                *slot = None;
                self.count -= 1;
            }
        }
        changed
    }

    /// Nothing is in flight, and nothing will be: the partitions whose position has to say so (NK-4).
    /// `newest` is one past what was let in of each.
    pub(crate) fn end(&mut self, newest: impl Fn(u16) -> Offset) -> Vec<u16> {
        let mut changed = Vec::new();
        for (index, slot) in (0..).zip(&mut self.partitions) {
            let Some(it) = slot.as_mut() else { continue };
            let ran = it.open.is_empty() && it.all.until <= newest(index);
            let left = it.rest.filter(|_| !ran);
            if it.told != left {
                it.told = left;
                changed.push(index);
            }
            if left.is_none() {
                *slot = None;
                self.count -= 1;
            }
        }
        changed
    }
}

impl Suspicion {
    fn new(start: &PartitionStart, window: usize, attempts_max: u32) -> Option<Self> {
        let PartitionStart { position, fresh, end } = start;
        if *fresh {
            return None;
        }
        let open_in = |it: &Suspects| open_of(position, it.from..it.until);
        let before = position.suspects.filter(|it| 0 < open_in(it));
        let rest = before.map(|it| Suspects { from: it.from.max(position.next), ..it });
        let (mut piece, mut guilty) = (usize::MAX, None);
        let all = match rest {
            None => {
                let until = window_end(position, window).min(*end);
                Suspects { from: position.next, until, attempt: PIECEWISE - 1 }
            }
            Some(it) => {
                let open = open_in(&it);
                let last = attempts_max.max(ATTEMPTS_MIN);
                let is_last = last <= it.attempt;
                guilty = (is_last && open == 1).then(|| first_open(position, it.from));
                piece = piece_of(open, (last - CONFIRMED).saturating_sub(it.attempt).max(1));
                Suspects { attempt: it.attempt.saturating_add(1), ..it }
            }
        };
        (0 < open_in(&all)).then(|| Self {
            all,
            rest,
            piece,
            guilty,
            open: BTreeSet::new(),
            lies: all.from..all.from,
            told: rest,
            named: Named::No,
            has_turn: false,
        })
    }
}

/// Records of a piece, so that `attempts` attempts leave one of `open`.
fn piece_of(open: u64, attempts: u32) -> usize {
    let is_enough = |pieces: &u64| open <= pieces.saturating_pow(attempts);
    let pieces = (1..).find(is_enough).expect("every number is a power of itself or below one");
    usize::try_from(open.div_ceil(pieces)).unwrap_or(usize::MAX).max(1)
}

/// What a position has not settled, as ascending ranges; the last has no end.
fn open_ranges(position: &Position) -> impl Iterator<Item = Range<Offset>> {
    let settled = position.completions.ranges();
    let starts = std::iter::once(position.next).chain(settled.iter().map(|it| it.1));
    let ends = settled.iter().map(|it| it.0).chain(std::iter::once(Offset(i64::MAX)));
    starts.zip(ends).map(|(start, end)| start..end)
}

/// How many offsets of a range are open.
fn open_of(position: &Position, range: Range<Offset>) -> u64 {
    let within = |it: Range<Offset>| (it.start.max(range.start), it.end.min(range.end));
    let within = open_ranges(position).map(within);
    within.filter(|(start, end)| start < end).map(|(start, end)| end.0.abs_diff(start.0)).sum()
}

fn first_open(position: &Position, from: Offset) -> Offset {
    let after = open_ranges(position).find(|it| from < it.end);
    after.map_or(from, |it| it.start.max(from))
}

/// One past the last offset that a window of `records` open ones reaches.
fn window_end(position: &Position, records: usize) -> Offset {
    let mut left = records as u64;
    for it in open_ranges(position) {
        let open = it.end.0.abs_diff(it.start.0);
        if left <= open {
            return Offset(it.start.0.saturating_add_unsigned(left));
        }
        left -= open;
    }
    Offset(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bus::Completions;

    use super::*;

    fn at(next: i64, settled: &[(i64, i64)], suspects: Option<(i64, i64, u32)>) -> Position {
        let ranges = settled.iter().map(|&(start, end)| (Offset(start), Offset(end)));
        let suspects = suspects.map(|(from, until, attempt)| Suspects {
            from: Offset(from),
            until: Offset(until),
            attempt,
        });
        let completions = Completions::from_ranges(ranges);
        Position { next: Offset(next), completions, suspects, ..Position::default() }
    }

    /// From, until, attempt, records of a piece, the guilty one.
    type Plan = (i64, i64, u32, Option<usize>, Option<i64>);

    fn plan(position: Position, end: i64) -> Option<Plan> {
        let start = PartitionStart { position, fresh: false, end: Offset(end) };
        let it = Suspicion::new(&start, 100, 5)?;
        let guilty = it.guilty.map(|it| it.0);
        let piece = it.rest.map(|_| it.piece);
        Some((it.all.from.0, it.all.until.0, it.all.attempt, piece, guilty))
    }

    #[test]
    fn what_a_window_may_have_held_is_suspected_first() {
        assert_eq!(plan(at(40, &[], None), 40), None, "there was nothing to run");
        assert_eq!(plan(at(40, &[], None), 50), Some((40, 50, 2, None, None)));
        assert_eq!(plan(at(40, &[], None), 900), Some((40, 140, 2, None, None)));
        let scattered = at(40, &[(45, 500)], None);
        assert_eq!(plan(scattered, 900), Some((40, 595, 2, None, None)));
    }

    #[test]
    fn suspects_that_nobody_outlived_run_in_ever_smaller_pieces() {
        // 4^3 = 64, 3^3 = 27.
        assert_eq!(plan(at(0, &[], Some((0, 64, 2))), 900), Some((0, 64, 3, Some(16), None)));
        assert_eq!(plan(at(0, &[], Some((0, 16, 3))), 900), Some((0, 16, 4, Some(4), None)));
        assert_eq!(plan(at(0, &[], Some((0, 4, 4))), 900), Some((0, 4, 5, Some(1), None)));
        assert_eq!(plan(at(0, &[], Some((2, 3, 5))), 900), Some((2, 3, 6, Some(1), None)));
        assert_eq!(plan(at(0, &[], Some((2, 3, 6))), 900), Some((2, 3, 7, Some(1), None)));
        assert_eq!(plan(at(0, &[], Some((2, 3, 7))), 900), Some((2, 3, 8, Some(1), Some(2))));
        // Several are left after the last attempt: there were gaps.
        assert_eq!(plan(at(0, &[], Some((2, 4, 7))), 900), Some((2, 4, 8, Some(1), None)));
    }

    #[test]
    fn who_waits_for_a_turn_leaves_the_position_as_it_was() {
        let before = Suspects { from: Offset(0), until: Offset(64), attempt: 2 };
        let position = Position { suspects: Some(before), ..Position::default() };
        let start = PartitionStart { position, fresh: false, end: Offset(900) };
        let mut them = Suspicions::new(&[start], 100, 5);
        assert_eq!((them.told(0), them.wants_turn()), (Some(before), None));
        assert_eq!(them.room(0, Offset(0)), 16);
        for offset in 0..16 {
            them.admitted(0, RecordId(offset), Offset(offset.into()));
        }
        assert_eq!((them.told(0), them.wants_turn()), (Some(before), Some(Turn::Alone)));
        assert_eq!(them.on_turn(), [0]);
        let piece = Suspects { until: Offset(16), attempt: 3, ..before };
        assert_eq!((them.told(0), them.may_start()), (Some(piece), false), "NK-1");
        them.commits(CommitId(7), &[0]);
        them.committed(Instant::now(), CommitId(7));
        assert!(them.may_start());
        them.clear(&(0..16).map(RecordId).collect::<Vec<_>>());
        assert_eq!(them.sweep(|_| Offset(16)), [0]);
        let rest = Suspects { from: Offset(16), ..before };
        assert_eq!((them.told(0), them.has_turn()), (Some(rest), false), "the next piece waits");
    }

    #[test]
    fn what_takes_its_time_is_outlived_and_lets_others_go_on() {
        let now = Instant::now();
        for before in [None, Some((0, 64, 2))] {
            let start =
                PartitionStart { position: at(0, &[], before), fresh: false, end: Offset(64) };
            let mut them = Suspicions::new(&[start], 100, 5);
            for it in 0..16 {
                them.admitted(0, RecordId(it), Offset(it.into()));
            }
            them.on_turn();
            them.commits(CommitId(7), &[0]);
            assert_eq!(them.turn_ends_at(), None, "it is not named yet");
            them.committed(now, CommitId(7));
            let ends_at = them.turn_ends_at().unwrap();
            them.outlive(ends_at - Duration::from_millis(1));
            assert!(them.sweep(|_| Offset(16)).is_empty() && them.has_turn());
            them.outlive(ends_at);
            them.sweep(|_| Offset(16));
            assert_eq!((them.has_turn(), them.turn_ends_at()), (false, None), "NK-5");
            assert_eq!(them.wants_turn(), None, "what runs still is no suspect");
            them.admitted(0, RecordId(16), Offset(16));
            assert!(them.wants_turn().is_some() && !them.may_start(), "NK-1 of those behind it");
        }
    }

    #[test]
    fn what_was_settled_since_is_not_suspected() {
        let settled = at(10, &[(12, 30)], Some((5, 30, 7)));
        assert_eq!(plan(settled, 900), Some((10, 30, 8, Some(1), None)));
        let one = at(10, &[(11, 40)], Some((5, 30, 7)));
        assert_eq!(plan(one, 900), Some((10, 30, 8, Some(1), Some(10))));
        let all = at(10, &[(11, 40)], Some((5, 10, 7)));
        assert_eq!(
            plan(all, 50),
            Some((10, 50, 2, None, None)),
            "and what runs now is another matter"
        );
    }
}
