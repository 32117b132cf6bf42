//! A pure core: the entries of a history as they were read back, and what they say of a record or of
//! an invocation. It keeps their bytes, and takes an entry apart only where that may have an answer.

use std::collections::VecDeque;

use bus::{Epoch, Offset, ShardId};
use bytes::Bytes;

use super::{Appends, Entry, InvocationName, Kept, Run, Spans};
use crate::InvocationId;

/// Attempts of a record that are told.
const ATTEMPTS_MAX: usize = 100;
/// How many later entries of the shard are looked at for where a commit's batches lie.
const PLACED_WITHIN: usize = 256;

/// What a history says of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Its last attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// What became of it last (HI-2).
    pub ending: Option<Ending>,
}

/// One attempt of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The invocation that it was.
    pub invocation: InvocationName,
    /// What ran.
    pub revision: String,
    /// When it ended, Unix ms.
    pub at: i64,
    /// Which attempt.
    pub number: u32,
    /// Records of the invocation.
    pub records: u64,
    /// How long it ran, in microseconds.
    pub run_us: u64,
    /// The name of the failure and its account; `None` = the record ended well, or was not run.
    pub failure: Option<(String, String)>,
    /// Its outputs were kept.
    pub is_kept: bool,
}

/// How a record ended, or where it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The last attempt ended well.
    Succeeded {
        /// When, Unix ms.
        at: i64,
        /// Batches of its commit, its outputs somewhere among them.
        appends: Vec<Found>,
    },
    /// The filter kept it from the function.
    Filtered {
        /// When, Unix ms.
        at: i64,
    },
    /// It waits in the park topic.
    Parked {
        /// Since when, Unix ms.
        at: i64,
        /// Attempts that were made.
        attempts: u32,
        /// When it may be tried, Unix ms.
        due: i64,
        /// It waits for another record of its key.
        is_behind: bool,
    },
    /// It was given up.
    DeadLettered {
        /// When, Unix ms.
        at: i64,
        /// Attempts that were made.
        attempts: u32,
        /// The last invocation it was in.
        invocation: Option<InvocationName>,
        /// As the header `millrace-dead-cause` says it.
        cause: String,
        /// The last failure's name and account.
        error: (String, String),
        /// Batches of its commit, the dead letter somewhere among them.
        appends: Vec<Found>,
    },
}

/// A batch that a commit appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where, and how many records.
    pub batch: Appends,
    /// The offset of its first record, where that is known.
    pub base: Option<Offset>,
}

/// An invocation as its history has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoked {
    /// What was told of it.
    pub run: Run,
    /// The topics and partitions that its indexes mean.
    pub places: Vec<(String, i32)>,
    /// What the commit with its outputs appended.
    pub appends: Vec<Found>,
}

#[derive(Debug)]
struct Filed {
    place: Offset,
    shard: u64,
    epoch: u64,
    /// Of all offsets in it.
    span: (i64, i64),
    bytes: Bytes,
}

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub struct Book {
    entries: VecDeque<Filed>,
    bytes: usize,
    next: Offset,
    oldest: Option<i64>,
}

impl Book {
    /// Takes an entry from its place in the history topic; places ascend. What is no entry is left
    /// out.
    pub fn push(&mut self, place: Offset, bytes: Bytes) {
        if place < self.next {
            return;
        }
        self.next = place.next();
        let Some(entry) = Entry::decode(&bytes) else { return };
        let (shard, epoch, span) = (entry.shard, entry.epoch, span(&entry));
        if self.entries.is_empty() {
            self.oldest = Some(entry.at);
        }
        self.bytes += bytes.len();
        self.entries.push_back(Filed { place, shard, epoch, span, bytes });
    }

    /// What lies before `start` is not there any more.
    pub fn forget_before(&mut self, start: Offset) {
        let mut was_first = false;
        while self.entries.front().is_some_and(|it| it.place < start) {
            let gone = self.entries.pop_front().map_or(0, |it| it.bytes.len());
            self.bytes -= gone;
            was_first = true;
        }
        if was_first {
            let first = self.entries.front().and_then(|it| Entry::decode(&it.bytes));
            self.oldest = first.map(|it| it.at);
        }
        self.next = self.next.max(start);
    }

    /// The next place to read.
    #[must_use]
    pub const fn next(&self) -> Offset {
        self.next
    }

    /// Bytes of the entries.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest entry was written, Unix ms.
    #[must_use]
    pub const fn oldest(&self) -> Option<i64> {
        self.oldest
    }

    /// All that is told of a record, by its topic, partition and offset.
    #[must_use]
    pub fn record(&self, topic: &str, partition: i32, offset: Offset) -> Account {
        let mut account = Account::default();
        let mut ended_at = (0, 0);
        for (at, kept) in self.entries.iter().enumerate() {
            if !(kept.span.0..=kept.span.1).contains(&offset.0) {
                continue;
            }
            let Some(entry) = Entry::decode(&kept.bytes) else { continue };
            let is_it = |(name, number): &(String, i32)| name == topic && *number == partition;
            let Some(index) = entry.places.iter().position(is_it) else { continue };
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            account.attempts.extend(entry.runs.iter().filter_map(|run| {
                let name = name(&entry, run.number);
                attempt(name, run, index, offset.0)
            }));
            // An older owner's word that came late is none (HI-2).
            if (entry.epoch, at) < ended_at {
                continue;
            }
            if let Some(ending) = self.ending(at, &entry, index, offset.0) {
                (account.ending, ended_at) = (Some(ending), (entry.epoch, at));
            }
        }
        account.attempts.sort_by_key(|it| (it.invocation.epoch, it.invocation.number));
        let more = account.attempts.len().saturating_sub(ATTEMPTS_MAX);
        account.attempts.drain(..more);
        account
    }

    fn ending(&self, at: usize, entry: &Entry, index: u32, offset: i64) -> Option<Ending> {
        let has = |spans: &[(u32, Spans)]| {
            spans.iter().any(|(it, spans)| *it == index && spans.contains(offset))
        };
        // Within one entry: what was given up or parked ran before.
        if let Some(dead) =
            entry.dead.iter().rev().find(|it| (it.partition, it.offset) == (index, offset))
        {
            return Some(Ending::DeadLettered {
                at: entry.at,
                attempts: dead.attempts,
                invocation: dead.run.map(|number| name(entry, number)),
                cause: dead.cause.clone(),
                error: dead.error.clone(),
                appends: self.appends(at, entry),
            });
        }
        let is_kept = |run: &Run| match &run.kept {
            Kept::Nothing => false,
            Kept::All => has(&run.records),
            Kept::Some(kept) => has(kept),
        };
        if entry.runs.iter().any(is_kept) && entry.commit.is_some() {
            return Some(Ending::Succeeded { at: entry.at, appends: self.appends(at, entry) });
        }
        let parked =
            entry.parked.iter().rev().find(|it| (it.partition, it.offset) == (index, offset));
        if let Some(it) = parked {
            let (attempts, due, is_behind) = (it.attempts, it.due, it.is_behind);
            return Some(Ending::Parked { at: entry.at, attempts, due, is_behind });
        }
        has(&entry.filtered).then_some(Ending::Filtered { at: entry.at })
    }

    /// What the commit of an entry appended, and where.
    fn appends(&self, at: usize, entry: &Entry) -> Vec<Found> {
        let (Some(commit), mut appends) = (entry.commit, entry.appends.clone()) else {
            return Vec::new();
        };
        let mine = |it: &&Filed| (it.shard, it.epoch) == (entry.shard, entry.epoch);
        let later: Vec<Entry> = self
            .entries
            .iter()
            .skip(at + 1)
            .filter(mine)
            .take(PLACED_WITHIN)
            .map_while(|it| Entry::decode(&it.bytes))
            .take_while_inclusive(|it| !it.placed.iter().any(|placed| commit <= placed.commit))
            .collect();
        // Dead letters may have taken the place of outputs: what was told last was sent.
        for it in later.iter().filter(|it| it.commit == Some(commit)) {
            appends.clone_from(&it.appends);
        }
        let placed = later.iter().flat_map(|it| &it.placed).filter(|it| it.commit == commit);
        let bases: Vec<(u32, i64)> = placed.map(|it| (it.index, it.base)).collect();
        let base = |index: u32| bases.iter().find(|(it, _)| *it == index).map(|it| Offset(it.1));
        (0..).zip(appends).map(|(index, batch)| Found { batch, base: base(index) }).collect()
    }

    /// What is told of an invocation.
    #[must_use]
    pub fn invocation(&self, wanted: InvocationName) -> Option<Invoked> {
        let InvocationName { shard, epoch, number } = wanted;
        self.entries.iter().enumerate().rev().find_map(|(at, kept)| {
            if (kept.shard, kept.epoch) != (shard.0, epoch.0) {
                return None;
            }
            let entry = Entry::decode(&kept.bytes)?;
            let run = entry.runs.iter().find(|run| run.number == number.0)?.clone();
            let appends = self.appends(at, &entry);
            Some(Invoked { run, places: entry.places, appends })
        })
    }
}

fn name(entry: &Entry, number: u64) -> InvocationName {
    let (shard, epoch) = (ShardId(entry.shard), Epoch(entry.epoch));
    InvocationName { shard, epoch, number: InvocationId(number) }
}

fn attempt(invocation: InvocationName, run: &Run, index: u32, offset: i64) -> Option<Attempt> {
    let has = |spans: &[(u32, Spans)]| {
        spans.iter().any(|(it, spans)| *it == index && spans.contains(offset))
    };
    if !has(&run.records) {
        return None;
    }
    let number = run.attempts.iter().find(|it| (it.0, it.1) == (index, offset));
    let failed = run.failed.iter().find(|it| (it.partition, it.offset) == (index, offset));
    let error = failed.map(|it| it.error as usize).or_else(|| run.is_whole.then_some(0));
    let is_kept = match &run.kept {
        Kept::Nothing => false,
        Kept::All => true,
        Kept::Some(kept) => has(kept),
    };
    Some(Attempt {
        invocation,
        revision: run.revision.clone(),
        at: run.at,
        number: number.map_or(1, |it| it.2),
        records: run.records.iter().map(|(_, spans)| spans.count()).sum(),
        run_us: run.run_us,
        failure: error.and_then(|at| run.errors.get(at)).cloned(),
        is_kept,
    })
}

/// The least and the greatest offset that an entry speaks of.
fn span(entry: &Entry) -> (i64, i64) {
    let runs = entry.runs.iter().flat_map(|run| &run.records);
    let spans = runs.chain(&entry.filtered).flat_map(|(_, spans)| spans.runs());
    let dead = entry.dead.iter().map(|it| (it.offset, it.offset));
    let parked = entry.parked.iter().map(|it| (it.offset, it.offset));
    let all = spans.chain(dead).chain(parked);
    all.fold((i64::MAX, i64::MIN), |(low, high), (first, last)| (low.min(first), high.max(last)))
}

/// `take_while`, with the one that ends it.
trait TakeWhileInclusive: Iterator + Sized {
    fn take_while_inclusive(
        self,
        mut goes_on: impl FnMut(&Self::Item) -> bool,
    ) -> impl Iterator<Item = Self::Item> {
        let mut is_over = false;
        self.map_while(move |item| {
            let was_over = is_over;
            is_over |= !goes_on(&item);
            (!was_over).then_some(item)
        })
    }
}

impl<I: Iterator> TakeWhileInclusive for I {}
