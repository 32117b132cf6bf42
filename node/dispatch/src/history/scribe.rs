//! A pure core: notes what a shard does until a commit carries it, and then where the commit's batches
//! lie. It takes what the driver sees anyway, a batch at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus::{Append, Offset, Timestamp, TopicPartition};

use super::spans::Gathered;
use super::{Appends, Dead, Entry, Failed, Kept, Parked, Placed, Run, Spans};
use crate::{CommitId, InvocationId};

/// What was told and waits for no commit is written by itself after this time; so is where batches
/// lie, which can be found without it, after the longer one.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// An entry that is larger is closed, and another begun.
const WEIGHT_MAX: usize = 128 << 10;
/// Different failures of one invocation that are told apart, and what is kept of an account.
const ERRORS_MAX: usize = 64;
const MESSAGE_BYTES_MAX: usize = 256;

/// The records of an invocation.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// By index of the partition.
    records: Vec<Gathered>,
    /// Those that are not tried for the first time: index of the partition, offset, attempt.
    attempts: Vec<(u32, i64, u32)>,
}

impl Noted {
    #[inline]
    pub(crate) fn push(&mut self, partition: u32, offset: i64, attempt: u32) {
        let at = partition as usize;
        if self.records.len() <= at {
            self.records.resize(at + 1, Gathered::default());
        }
        self.records[at].push(offset);
        if attempt != 1 {
            self.attempts.push((partition, offset, attempt));
        }
    }

    /// Of the first partition: offset and attempt.
    #[cfg(test)]
    pub(crate) fn of(records: impl Iterator<Item = (i64, u32)>) -> Self {
        let mut noted = Self::default();
        records.for_each(|(offset, attempt)| noted.push(0, offset, attempt));
        noted
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Scribe {
    shard: u64,
    epoch: u64,
    places: Vec<(String, i32)>,
    /// Entries that are full, and the one that grows.
    full: Vec<Entry>,
    open: Entry,
    weight: usize,
    /// Since when something waits: told, placed.
    since: (Option<Instant>, Option<Instant>),
    /// Something waits that a commit will carry, and only a commit may (HI-1).
    is_owed: bool,
    running: BTreeMap<InvocationId, Noted>,
    /// The invocation whose end is being carried out.
    current: Option<InvocationId>,
    /// Of the commit in flight: who ran what.
    sent: Vec<(u64, Vec<(u32, Spans)>)>,
}

impl Scribe {
    pub(crate) fn new(shard: u64, epoch: u64, partitions: &[TopicPartition]) -> Self {
        let places = partitions.iter().map(|it| (it.topic.to_string(), it.partition)).collect();
        Self {
            shard,
            epoch,
            places,
            full: Vec::new(),
            open: Entry::default(),
            weight: 0,
            since: (None, None),
            is_owed: false,
            running: BTreeMap::new(),
            current: None,
            sent: Vec::new(),
        }
    }

    /// An invocation of these records starts.
    pub(crate) fn starts(&mut self, id: InvocationId, records: Noted) {
        self.running.insert(id, records);
    }

    /// It ended without having run: nothing is told.
    pub(crate) fn did_not_run(&mut self, id: InvocationId) {
        self.running.remove(&id);
    }

    /// It ran. What [`failed`](Self::failed), [`kept`](Self::kept) and [`dead`](Self::dead) say next
    /// is of it.
    pub(crate) fn ended(
        &mut self,
        (now, at): (Instant, Timestamp),
        id: InvocationId,
        revision: &str,
        (run, start): (Duration, Option<Duration>),
    ) {
        let Some(Noted { records, attempts }) = self.running.remove(&id) else {
            // Nothing is told, but a dead letter still names it.
            self.current = Some(id);
            return;
        };
        let us = |it: Duration| u64::try_from(it.as_micros()).unwrap_or(u64::MAX);
        let records = spans(records);
        self.weighs(now, 64 + 12 * attempts.len() + weight(&records));
        self.open.runs.push(Run {
            number: id.0,
            revision: revision.to_owned(),
            at: at.0,
            run_us: us(run),
            start_us: start.map(us),
            records,
            attempts,
            ..Run::default()
        });
        self.current = Some(id);
    }

    /// The invocation whose end is being carried out.
    pub(crate) fn current(&self) -> Option<InvocationId> {
        self.current
    }

    /// Everything that follows from the end of an invocation was told.
    pub(crate) fn carried_out(&mut self) {
        self.current = None;
    }

    fn run(&mut self) -> Option<&mut Run> {
        let current = self.current?;
        self.open.runs.last_mut().filter(|run| run.number == current.0)
    }

    /// A record of it failed; without one, all of it did.
    pub(crate) fn failed(&mut self, record: Option<(u32, Offset)>, code: &str, message: &str) {
        let mut grown = 0;
        let Some(run) = self.run() else { return };
        let message = &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)];
        let known =
            run.errors.iter().position(|(a, b)| (a.as_str(), b.as_str()) == (code, message));
        let error = known.unwrap_or_else(|| {
            if run.errors.len() < ERRORS_MAX {
                run.errors.push((code.to_owned(), message.to_owned()));
                grown += code.len() + message.len();
            }
            run.errors.len() - 1
        });
        match record {
            None => run.is_whole = true,
            Some((partition, offset)) => {
                let error = u32::try_from(error).unwrap_or(u32::MAX);
                run.failed.push(Failed { partition, offset: offset.0, error });
                grown += 10;
            }
        }
        self.weight += grown;
    }

    /// Outputs of it go with the next commit: of all its records, or of these.
    pub(crate) fn kept(&mut self, only: Option<Vec<(u32, i64)>>) {
        let kept = match only {
            None => Kept::All,
            Some(only) if only.is_empty() => Kept::Nothing,
            Some(only) => {
                let mut noted = Noted::default();
                only.into_iter().for_each(|(partition, offset)| noted.push(partition, offset, 1));
                Kept::Some(spans(noted.records))
            }
        };
        let grown = if let Kept::Some(spans) = &kept { weight(spans) } else { 0 };
        let is_owed = kept != Kept::Nothing;
        let Some(run) = self.run() else { return };
        run.kept = kept;
        self.is_owed |= is_owed;
        self.weight += grown;
    }

    /// The filter keeps these from the function.
    pub(crate) fn filtered(
        &mut self,
        now: Instant,
        partition: u32,
        offsets: impl Iterator<Item = i64>,
    ) {
        let spans = vec![(partition, offsets.collect())];
        self.weighs(now, weight(&spans));
        self.open.filtered.extend(spans);
        self.is_owed = true;
    }

    pub(crate) fn parked(&mut self, now: Instant, parked: Parked) {
        self.weighs(now, 24);
        self.open.parked.push(parked);
        self.is_owed = true;
    }

    /// A record is given up.
    pub(crate) fn dead(&mut self, now: Instant, mut dead: Dead) {
        let message = &mut dead.error.1;
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        self.weighs(now, 40 + dead.error.0.len() + dead.error.1.len());
        self.open.dead.push(dead);
        self.is_owed = true;
    }

    /// Who ran a record whose outputs the commit in flight carries.
    pub(crate) fn sent_by(&self, partition: u32, offset: Offset) -> Option<InvocationId> {
        let is_it = |(at, spans): &(u32, Spans)| *at == partition && spans.contains(offset.0);
        let found = self.sent.iter().rev().find(|(_, records)| records.iter().any(is_it));
        found.map(|(number, _)| InvocationId(*number))
    }

    /// Room for something of this weight.
    fn weighs(&mut self, now: Instant, weight: usize) {
        self.since.0.get_or_insert(now);
        if WEIGHT_MAX < self.weight + weight && self.current.is_none() {
            self.full.push(std::mem::take(&mut self.open));
            self.weight = 0;
        }
        self.weight += weight;
    }

    /// All that was told, for this commit: the values of its records. The commit appends these
    /// batches besides.
    pub(crate) fn commit<'a>(
        &mut self,
        at: Timestamp,
        id: CommitId,
        appends: impl Iterator<Item = &'a Append>,
    ) -> Vec<Vec<u8>> {
        let appends: Vec<Appends> = appends.map(named).collect();
        let mut entries = self.take();
        self.sent.clear();
        for entry in &mut entries {
            entry.commit = Some(id.0);
            entry.appends.clone_from(&appends);
            for run in entry.runs.iter().filter(|run| run.kept != Kept::Nothing) {
                self.sent.push((run.number, run.records.clone()));
            }
        }
        self.finish(at, entries)
    }

    /// The commit in flight carries these dead letters in place of outputs, and appends these batches
    /// now: one more value for it.
    pub(crate) fn replaced<'a>(
        &mut self,
        at: Timestamp,
        id: CommitId,
        dead: Vec<Dead>,
        appends: impl Iterator<Item = &'a Append>,
    ) -> Vec<u8> {
        let appends = appends.map(named).collect();
        let entry = Entry { commit: Some(id.0), dead, appends, ..Entry::default() };
        self.finish(at, vec![entry]).remove(0)
    }

    /// The commit is durable, and its batches begin here, in the order in which they were named.
    pub(crate) fn committed(
        &mut self,
        now: Instant,
        id: CommitId,
        bases: impl Iterator<Item = Offset>,
    ) {
        for (index, base) in (0..).zip(bases) {
            self.since.1.get_or_insert(now);
            self.open.placed.push(Placed { commit: id.0, index, base: base.0 });
            self.weight += 8;
        }
    }

    /// When what waits is to be written without a commit.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        if self.is_owed {
            return None;
        }
        let told = self.since.0.map(|since| since + WAIT.0);
        let placed = self.since.1.map(|since| since + WAIT.1);
        told.into_iter().chain(placed).min()
    }

    /// All that waits, to be written by itself; may be nothing.
    pub(crate) fn flush(&mut self, at: Timestamp) -> Vec<Vec<u8>> {
        let entries = self.take();
        self.finish(at, entries)
    }

    fn take(&mut self) -> Vec<Entry> {
        let mut entries = std::mem::take(&mut self.full);
        let open = std::mem::take(&mut self.open);
        if self.since != (None, None) {
            entries.push(open);
        }
        (self.weight, self.since, self.is_owed) = (0, (None, None), false);
        entries
    }

    fn finish(&self, at: Timestamp, entries: Vec<Entry>) -> Vec<Vec<u8>> {
        let finished = entries.into_iter().map(|entry| {
            let (shard, epoch, places) = (self.shard, self.epoch, self.places.clone());
            Entry { at: at.0, shard, epoch, places, ..entry }.encode()
        });
        finished.collect()
    }
}

fn named(append: &Append) -> Appends {
    let (topic, partition) = (append.to.topic.to_string(), append.to.partition);
    Appends { topic, partition, count: u32::try_from(append.batch.len()).unwrap_or(u32::MAX) }
}

/// About how many bytes they are written in.
fn weight(records: &[(u32, Spans)]) -> usize {
    records.iter().map(|(_, spans)| 8 + 3 * spans.runs().count()).sum()
}

/// By partition, those that have any.
fn spans(records: Vec<Gathered>) -> Vec<(u32, Spans)> {
    let spans = (0..).zip(records).map(|(partition, it)| (partition, it.spans()));
    spans.filter(|(_, it)| !it.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp(1_000);

    fn scribe() -> Scribe {
        Scribe::new(4, 2, &[TopicPartition::new("in", 3)])
    }

    fn decoded(values: &[Vec<u8>]) -> Vec<Entry> {
        values.iter().map(|value| Entry::decode(value).unwrap()).collect()
    }

    #[test]
    fn a_commit_tells_who_ran_what_and_the_next_one_where_its_outputs_lie() {
        let (mut scribe, now) = (scribe(), Instant::now());
        scribe.starts(InvocationId(0), Noted::of((10..20).map(|offset| (offset, 1))));
        scribe.ended((now, AT), InvocationId(0), "abc", (Duration::from_micros(5), None));
        assert_eq!(scribe.due_at(), Some(now + WAIT.0));
        scribe.kept(None);
        scribe.carried_out();
        assert_eq!(scribe.due_at(), None, "HI-1: only the commit may tell it");
        let entry = decoded(&scribe.commit(AT, CommitId(0), std::iter::empty())).remove(0);
        assert_eq!((entry.shard, entry.epoch, entry.commit), (4, 2, Some(0)));
        assert_eq!(entry.places, [("in".to_owned(), 3)]);
        assert_eq!(entry.runs[0].records[0].1.runs().collect::<Vec<_>>(), [(10, 19)]);
        assert_eq!(scribe.sent_by(0, Offset(19)), Some(InvocationId(0)));
        assert_eq!((scribe.sent_by(0, Offset(20)), scribe.due_at()), (None, None));
        assert_eq!(scribe.commit(AT, CommitId(1), std::iter::empty()), Vec::<Vec<u8>>::new());
        scribe.committed(now, CommitId(0), [Offset(7), Offset(9)].into_iter());
        assert_eq!(scribe.due_at(), Some(now + WAIT.1));
        let entry = decoded(&scribe.flush(AT)).remove(0);
        let placed = |index, base| Placed { commit: 0, index, base };
        assert_eq!((entry.commit, entry.placed), (None, vec![placed(0, 7), placed(1, 9)]));
        assert_eq!(scribe.due_at(), None);
    }

    #[test]
    fn failures_are_told_once_each_and_cut() {
        let (mut scribe, now) = (scribe(), Instant::now());
        scribe.starts(InvocationId(7), Noted::of((0..1_000).map(|offset| (offset, 2))));
        scribe.ended((now, AT), InvocationId(7), "abc", (Duration::ZERO, Some(Duration::ZERO)));
        for offset in 0..1_000 {
            scribe.failed(Some((0, Offset(offset))), "E", &format!("{:>600}", offset % 100));
        }
        scribe.kept(Some(Vec::new()));
        let run = decoded(&scribe.flush(AT)).remove(0).runs.remove(0);
        assert_eq!((run.errors.len(), run.failed.len(), run.attempts.len()), (1, 1_000, 1_000));
        assert_eq!((run.errors[0].1.len(), run.kept), (MESSAGE_BYTES_MAX, Kept::Nothing));
    }

    #[test]
    fn what_grows_too_large_is_more_than_one_entry_and_none_is_larger_than_a_record_may_be() {
        let (mut scribe, now) = (scribe(), Instant::now());
        for number in 0..50_i64 {
            let records = Noted::of((0..10_000).map(|at| (3 * at + number, 1)));
            let id = InvocationId(number.unsigned_abs());
            scribe.starts(id, records);
            scribe.ended((now, AT), id, "abc", (Duration::ZERO, None));
            scribe.kept(None);
            scribe.carried_out();
        }
        let values = scribe.commit(AT, CommitId(3), std::iter::empty());
        assert!(values.iter().all(|value| value.len() < 512 << 10), "{}", values.len());
        let entries = decoded(&values);
        assert!(3 < entries.len() && entries.iter().all(|entry| entry.commit == Some(3)));
        assert_eq!(entries.iter().map(|entry| entry.runs.len()).sum::<usize>(), 50);
        assert_eq!(scribe.sent_by(0, Offset(4)).map(|it| it.0 % 3), Some(1));
    }
}
