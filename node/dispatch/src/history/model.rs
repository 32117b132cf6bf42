//! A history against the simplest model of one: whatever a shard does in whichever order, the book
//! says of each record what the model says, and what was let go of is unknown and never wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus::{Offset, Timestamp, TopicPartition};
use bytes::Bytes;

use super::scribe::Scribe;
use super::{Book, Dead, Ending, Entry, Kept, Noted, Parked, Run};
use crate::{CommitId, InvocationId};

/// How the model has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Succeeded,
    Filtered,
    Parked(u32),
    Dead(u32),
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn fate(ending: &Ending) -> Fate {
    match ending {
        Ending::Succeeded { .. } => Fate::Succeeded,
        Ending::Filtered { .. } => Fate::Filtered,
        Ending::Parked { attempts, .. } => Fate::Parked(*attempts),
        Ending::DeadLettered { attempts, .. } => Fate::Dead(*attempts),
    }
}

/// What a shard that was played came to.
struct Played {
    /// In the order in which they were written.
    values: Vec<Vec<u8>>,
    /// What became of each record, durably.
    model: BTreeMap<i64, Fate>,
    /// Attempts that failed.
    attempts: BTreeMap<i64, u32>,
}

fn play(seed: u64) -> Played {
    let (mut draw, now, at) = (Draw(seed), Instant::now(), Timestamp(1_000));
    let mut scribe = Scribe::new(4, 2, &[TopicPartition::new("in", 3)]);
    let (mut values, mut durable, mut pending) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut attempts: BTreeMap<i64, u32> = BTreeMap::new();
    let (mut open, mut next) = (Vec::new(), 0_i64);
    let (mut run, mut commit) = (0, 0);
    for _step in 0..60 {
        match draw.below(8) {
            0..4 => {
                for _record in 0..draw.below(30) {
                    open.push(next);
                    next += 1 + draw.below(2).cast_signed();
                }
                let mut batch = Vec::new();
                for _record in 0..draw.below(40).min(open.len() as u64) {
                    batch.push(open.swap_remove(draw.below(open.len() as u64) as usize));
                }
                let id = InvocationId(run);
                run += 1;
                let tried = |it: &i64| attempts.get(it).copied().unwrap_or(0) + 1;
                scribe.starts(id, Noted::of(batch.iter().map(|it| (*it, tried(it)))));
                if draw.below(10) == 0 {
                    scribe.did_not_run(id);
                    open.append(&mut batch);
                    continue;
                }
                scribe.ended((now, at), id, "abc", (Duration::ZERO, None));
                let mut kept = Vec::new();
                let (mut failed, is_whole) = (Vec::new(), draw.below(12) == 0);
                for offset in batch {
                    match draw.below(6) {
                        0 => failed.push(offset),
                        _ if is_whole => failed.push(offset),
                        _ => kept.push(offset),
                    }
                }
                if is_whole {
                    scribe.failed(None, "Crash", "it ended");
                }
                for offset in &failed {
                    *attempts.entry(*offset).or_default() += 1;
                    if !is_whole {
                        scribe.failed(Some((0, Offset(*offset))), "E", "no");
                    }
                }
                if failed.is_empty() && !kept.is_empty() {
                    scribe.kept(None);
                } else if !kept.is_empty() {
                    scribe.kept(Some(kept.iter().map(|it| (0, *it)).collect()));
                }
                pending.extend(kept.into_iter().map(|it| (it, Fate::Succeeded)));
                for offset in failed {
                    let tried = attempts[&offset];
                    match draw.below(3) {
                        0 => {
                            let error = ("E".to_owned(), "no".to_owned());
                            let (run, cause) = (Some(id.0), "too often".to_owned());
                            let (partition, attempts) = (0, tried);
                            let dead = Dead { partition, offset, attempts, run, cause, error };
                            scribe.dead(now, dead);
                            pending.insert(offset, Fate::Dead(tried));
                        }
                        1 => {
                            let (partition, attempts) = (0, tried);
                            let (due, is_behind) = (5, false);
                            scribe.parked(
                                now,
                                Parked { partition, offset, attempts, due, is_behind },
                            );
                            pending.insert(offset, Fate::Parked(tried));
                            // It is read back at once.
                            open.push(offset);
                        }
                        _ => open.push(offset),
                    }
                }
                scribe.carried_out();
            }
            4 => {
                let offsets: Vec<i64> = (next..next + draw.below(9).cast_signed()).collect();
                next += offsets.len() as i64;
                pending.extend(offsets.iter().map(|it| (*it, Fate::Filtered)));
                if !offsets.is_empty() {
                    scribe.filtered(now, 0, offsets.into_iter());
                }
            }
            5 if scribe.due_at().is_some() => values.extend(scribe.flush(at)),
            _ => {
                values.extend(scribe.commit(at, CommitId(commit), std::iter::empty()));
                durable.append(&mut pending);
                scribe.committed(now, CommitId(commit), std::iter::empty());
                commit += 1;
            }
        }
    }
    Played { values, model: durable, attempts }
}

#[test]
fn a_book_says_what_the_simplest_model_says_and_nothing_of_what_it_let_go_of() {
    for seed in 0..12 {
        let Played { values, model, attempts } = play(seed);
        let mut book = Book::default();
        for (place, value) in (0..).zip(&values) {
            book.push(Offset(place), Bytes::copy_from_slice(value));
        }
        assert_eq!(book.bytes(), values.iter().map(Vec::len).sum::<usize>());
        let last = model.keys().chain(attempts.keys()).max().copied().unwrap_or(0);
        for offset in -1..last + 3 {
            let account = book.record("in", 3, Offset(offset));
            let told = account.ending.as_ref().map(fate);
            assert_eq!(told, model.get(&offset).copied(), "seed {seed}: HI-2, {offset}");
            let failed = account.attempts.iter().filter(|it| it.failure.is_some());
            let tried = attempts.get(&offset).copied().unwrap_or(0) as usize;
            // What ended after the last commit is not told yet.
            assert!(failed.clone().count() <= tried, "seed {seed}: {offset}");
            if offset % 7 != 0 {
                continue;
            }
            for attempt in &account.attempts {
                let invoked = book.invocation(attempt.invocation).expect("it is told");
                let mut spans = invoked.run.records.iter();
                assert!(spans.any(|(_, it)| it.contains(offset)), "seed {seed}: {offset}");
            }
            let elsewhere =
                (book.record("in", 2, Offset(offset)), book.record("out", 3, Offset(offset)));
            assert_eq!(elsewhere, Default::default(), "another partition's records are not these");
        }
        let start = Offset(values.len() as i64 / 2);
        book.forget_before(start);
        assert_eq!(book.bytes(), values.iter().skip(start.0 as usize).map(Vec::len).sum::<usize>());
        for offset in 0..=last {
            let told = book.record("in", 3, Offset(offset)).ending.as_ref().map(fate);
            assert!(
                told.is_none() || told == model.get(&offset).copied(),
                "seed {seed}: HI-4, {offset}"
            );
        }
    }
}

/// An entry of one record: its outputs were kept, or it was given up.
fn entry(epoch: u64, offset: i64, is_dead: bool) -> Bytes {
    let run = Run {
        records: vec![(0, std::iter::once(offset).collect())],
        kept: Kept::All,
        ..Run::default()
    };
    let dead = Dead { offset, attempts: 1, ..Dead::default() };
    let entry = Entry {
        shard: 1,
        epoch,
        commit: Some(0),
        places: vec![("in".to_owned(), 0)],
        runs: if is_dead { Vec::new() } else { vec![run] },
        dead: if is_dead { vec![dead] } else { Vec::new() },
        ..Entry::default()
    };
    entry.encode().into()
}

#[test]
fn an_older_owners_late_word_does_not_count_and_dead_letters_take_the_place_of_outputs() {
    let mut book = Book::default();
    book.push(Offset(0), entry(2, 7, false));
    book.push(Offset(1), entry(1, 7, true));
    let of = |book: &Book, offset| book.record("in", 0, Offset(offset)).ending.as_ref().map(fate);
    assert_eq!(of(&book, 7), Some(Fate::Succeeded), "HI-2: an older owner's word came late");
    book.push(Offset(2), entry(2, 7, true));
    assert_eq!(of(&book, 7), Some(Fate::Dead(1)), "HI-2: its own last word");
    let bytes = book.bytes();
    book.push(Offset(2), entry(9, 8, false));
    book.push(Offset(3), Bytes::from_static(b"\x01nothing"));
    assert_eq!((book.next(), book.bytes()), (Offset(4), bytes), "read once, and entries only");
}
