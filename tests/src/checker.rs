//! A pure core: decides from what was read in a journal whether every record was delivered as
//! promised. It knows topics, offsets and origins, and nothing of how they were read.
//!
//! - **DEL-1** at the end every source record is settled, and has its output or its dead letter.
//! - **DEL-2** an output (source partition, offset, output index) is there once.
//! - **DEL-4** an output's source exists.
//! - **DEL-6** first occurrences of a key's outputs are in source order.
//! - **DEL-7** every record below a position, and in its completion map, has its output or its
//!   dead letter, at every moment that was looked at; positions do not go back, nor pass the end.
//!
//! One [`Stage`] is one trigger: a source topic, an output topic, a dead-letter topic. What was
//! read is fed in any number of portions, each partition in offset order; positions of a moment
//! come after the records of that moment.

use std::collections::BTreeMap;

/// What `millrace-origin` says of an output or a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The source topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The source record's offset.
    pub offset: i64,
    /// Which of the record's outputs; `None` marks a dead letter.
    pub index: Option<u32>,
    /// The revision that ran.
    pub revision: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The epoch that committed it.
    pub epoch: u64,
}

impl Origin {
    /// Reads `1;<topic>;<partition>;<offset>;<output index>;<revision>;<attempt>;<epoch>`.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let fields: Vec<&str> = std::str::from_utf8(value).ok()?.split(';').collect();
        let [version, topic, partition, offset, index, revision, attempt, epoch] = fields[..]
        else {
            return None;
        };
        let index = match index {
            "d" => None,
            index => Some(index.parse().ok()?),
        };
        (version == "1").then_some(())?;
        Some(Self {
            topic: topic.to_owned(),
            partition: partition.parse().ok()?,
            offset: offset.parse().ok()?,
            index,
            revision: revision.to_owned(),
            attempt: attempt.parse().ok()?,
            epoch: epoch.parse().ok()?,
        })
    }
}

/// How many outputs a source record of a stage has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// One, or a dead letter.
    One,
    /// None or one: the function filters. Whether one is missing cannot be seen from here.
    AtMostOne,
}

/// One trigger: what it reads and what it writes.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The topic it reads.
    pub source: String,
    /// How many partitions that has.
    pub partitions: usize,
    /// How many outputs each record has.
    pub outputs: Outputs,
}

/// What was found wrong, by kind, with the first accounts of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    counts: BTreeMap<&'static str, u64>,
    first: Vec<String>,
}

/// Kept of what was found; more would not be read.
const ACCOUNTS_MAX: usize = 20;

impl Findings {
    fn add(&mut self, kind: &'static str, account: impl FnOnce() -> String) {
        *self.counts.entry(kind).or_default() += 1;
        if self.first.len() < ACCOUNTS_MAX {
            self.first.push(format!("{kind}: {}", account()));
        }
    }

    /// How often this kind was found.
    #[must_use]
    pub fn count(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or(0)
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Counts and first accounts, as text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:?}: {}", self.counts, self.first.join("; "))
    }
}

/// An output was there before.
pub const DUPLICATE: &str = "duplicate (DEL-2)";
/// A source record that is settled has neither output nor dead letter.
pub const GAP: &str = "gap (DEL-1, DEL-7)";
/// An output without a source.
pub const PHANTOM: &str = "phantom (DEL-4)";
/// Outputs of a key out of source order.
pub const DISORDER: &str = "disorder (DEL-6)";
/// A position that went back or passed the end.
pub const POSITION: &str = "position (DEL-7)";
/// A source record that is not settled at the end.
pub const UNSETTLED: &str = "unsettled (DEL-1)";

/// The verdict in the making.
#[derive(Debug)]
pub struct Checker {
    stages: Vec<Watched>,
    findings: Findings,
}

#[derive(Debug)]
struct Watched {
    stage: Stage,
    shards: Vec<Shard>,
    /// Per key: the newest source of its outputs. A key has one source partition.
    newest: BTreeMap<Vec<u8>, (i32, i64, u32)>,
    outputs: u64,
    dead_letters: u64,
}

/// One source partition of a stage.
#[derive(Debug, Default)]
struct Shard {
    /// Per source offset: what there is of it.
    records: Vec<u8>,
    /// One past the last source record read.
    end: i64,
    next: i64,
    /// Beyond `next`: settled out of order, and checked.
    beyond: Vec<(i64, i64)>,
}

const EXISTS: u8 = 1;
const OUTPUT: u8 = 2;
const DEAD: u8 = 4;

impl Shard {
    fn flags(&mut self, offset: i64) -> &mut u8 {
        let index = usize::try_from(offset).unwrap_or(0);
        if self.records.len() <= index {
            self.records.resize(index + 1, 0);
        }
        &mut self.records[index]
    }
}

impl Checker {
    /// A checker of these stages.
    #[must_use]
    pub fn new(stages: Vec<Stage>) -> Self {
        let watch = |stage: Stage| Watched {
            shards: (0..stage.partitions).map(|_| Shard::default()).collect(),
            stage,
            newest: BTreeMap::new(),
            outputs: 0,
            dead_letters: 0,
        };
        Self { stages: stages.into_iter().map(watch).collect(), findings: Findings::default() }
    }

    /// A record of a stage's source topic is there.
    pub fn on_source(&mut self, stage: usize, partition: i32, offset: i64) {
        let shard = &mut self.stages[stage].shards[usize::try_from(partition).unwrap_or(0)];
        *shard.flags(offset) |= EXISTS;
        shard.end = shard.end.max(offset + 1);
    }

    /// An output or a dead letter of a stage is there. Outputs of one key are told in the order
    /// they lie in their partition.
    pub fn on_result(&mut self, stage: usize, origin: &Origin, key: Option<&[u8]>) {
        let Watched { stage, shards, newest, outputs, dead_letters } = &mut self.stages[stage];
        let Origin { topic, partition, offset, index, .. } = origin;
        let (partition, offset) = (*partition, *offset);
        let shard = usize::try_from(partition).ok().and_then(|it| shards.get_mut(it));
        let Some(shard) = shard.filter(|_| *topic == stage.source && 0 <= offset) else {
            self.findings.add(PHANTOM, || format!("{origin:?} in a result of {}", stage.source));
            return;
        };
        let exists = offset < shard.end;
        let flags = shard.flags(offset);
        if !exists || *flags & EXISTS == 0 {
            self.findings.add(PHANTOM, || format!("no source for {origin:?}"));
        }
        let (flag, other) = if index.is_some() { (OUTPUT, DEAD) } else { (DEAD, OUTPUT) };
        if *flags & flag != 0 || index.is_some_and(|index| index != 0) {
            self.findings.add(DUPLICATE, || format!("{origin:?}"));
        } else if *flags & other != 0 {
            self.findings.add(DUPLICATE, || format!("output and dead letter: {origin:?}"));
        }
        let is_first = *flags & flag == 0;
        *flags |= flag;
        *if index.is_some() { outputs } else { dead_letters } += 1;
        if let (Some(key), Some(index), true) = (key, *index, is_first) {
            let this = (partition, offset, index);
            match newest.get_mut(key) {
                None => {
                    newest.insert(key.to_vec(), this);
                }
                Some(last) => {
                    if last.0 != partition || this <= *last {
                        let last = *last;
                        let key = String::from_utf8_lossy(key).into_owned();
                        self.findings
                            .add(DISORDER, || format!("key {key}: {this:?} after {last:?}"));
                    }
                    *last = this;
                }
            }
        }
    }

    /// A stage's position in one partition of its source: `next`, and the ranges settled beyond.
    pub fn on_position(&mut self, stage: usize, partition: i32, next: i64, beyond: &[(i64, i64)]) {
        let one = self.stages[stage].stage.outputs == Outputs::One;
        let name = format!("{}[{partition}]", self.stages[stage].stage.source);
        let shards = &mut self.stages[stage].shards;
        let Some(shard) = usize::try_from(partition).ok().and_then(|it| shards.get_mut(it)) else {
            self.findings.add(POSITION, || format!("{name} is no partition"));
            return;
        };
        let last = beyond.last().map_or(next, |(_, end)| *end).max(next);
        if next < shard.next {
            self.findings
                .add(POSITION, || format!("{name} went back from {} to {next}", shard.next));
        }
        if shard.end < last {
            self.findings
                .add(POSITION, || format!("{name} at {last} passes the end {}", shard.end));
        }
        // An offset that was settled stays settled.
        for (start, end) in &shard.beyond {
            for offset in (*start).max(next)..*end {
                if !beyond.iter().any(|(start, end)| (*start..*end).contains(&offset)) {
                    self.findings
                        .add(POSITION, || format!("{name} forgot that {offset} is settled"));
                }
            }
        }
        let (from, shard_end) = (shard.next, shard.end);
        let passed = std::iter::once((from, next)).chain(beyond.iter().copied());
        for offset in passed.flat_map(|(start, end)| start..end.min(shard_end)) {
            let flags = *shard.flags(offset);
            if one && flags & EXISTS != 0 && flags & (OUTPUT | DEAD) == 0 {
                self.findings.add(GAP, || format!("{name}@{offset} is settled without a result"));
            }
        }
        shard.next = shard.next.max(next);
        shard.beyond = beyond.to_vec();
    }

    /// The end: everything has to be settled now.
    pub fn on_end(&mut self) {
        for Watched { stage, shards, .. } in &mut self.stages {
            for (partition, shard) in shards.iter_mut().enumerate() {
                let (next, end) = (shard.next, shard.end);
                if next < end {
                    let name = format!("{}[{partition}]", stage.source);
                    self.findings.add(UNSETTLED, || format!("{name} at {next}, its end is {end}"));
                }
                if stage.outputs == Outputs::One {
                    for offset in 0..end {
                        if *shard.flags(offset) & (OUTPUT | DEAD) == 0 {
                            let name = format!("{}[{partition}]@{offset}", stage.source);
                            self.findings.add(GAP, || format!("{name} has no result at the end"));
                        }
                    }
                }
            }
        }
    }

    /// What was found wrong so far.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.findings
    }

    /// How many source records of a stage were read.
    #[must_use]
    pub fn sources(&self, stage: usize) -> u64 {
        let shards = &self.stages[stage].shards;
        shards
            .iter()
            .map(|shard| shard.records.iter().filter(|it| **it & EXISTS != 0).count() as u64)
            .sum()
    }

    /// How many outputs of a stage were read.
    #[must_use]
    pub fn outputs(&self, stage: usize) -> u64 {
        self.stages[stage].outputs
    }

    /// How many dead letters of a stage were read.
    #[must_use]
    pub fn dead_letters(&self, stage: usize) -> u64 {
        self.stages[stage].dead_letters
    }

    /// How many source records of a stage lie beyond its positions, settled out of order or not.
    #[must_use]
    pub fn open(&self, stage: usize) -> u64 {
        let shards = &self.stages[stage].shards;
        shards.iter().map(|shard| u64::try_from(shard.end - shard.next).unwrap_or(0)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(offset: i64, index: Option<u32>) -> Origin {
        let (topic, revision) = ("in".to_owned(), "r1".to_owned());
        Origin { topic, partition: 0, offset, index, revision, attempt: 1, epoch: 1 }
    }

    /// Ten records of two keys; record 4 is a dead letter.
    fn checked(results: &[(i64, Option<u32>)], next: i64, beyond: &[(i64, i64)]) -> Findings {
        let stage = Stage { source: "in".to_owned(), partitions: 1, outputs: Outputs::One };
        let mut checker = Checker::new(vec![stage]);
        (0..10).for_each(|offset| checker.on_source(0, 0, offset));
        for (offset, index) in results {
            let key = [u8::try_from(offset % 2).unwrap()];
            checker.on_result(0, &origin(*offset, *index), Some(&key));
        }
        checker.on_position(0, 0, next, beyond);
        checker.findings().clone()
    }

    fn all() -> Vec<(i64, Option<u32>)> {
        (0..10).map(|offset| (offset, (offset != 4).then_some(0))).collect()
    }

    #[test]
    fn a_right_journal_passes() {
        assert!(checked(&all(), 10, &[]).is_empty());
        // Keys interleave as they like.
        let mut swapped = all();
        swapped.swap(0, 1);
        assert!(checked(&swapped, 10, &[]).is_empty());
        assert!(checked(&all()[..3], 2, &[(2, 3)]).is_empty());
    }

    #[test]
    fn each_planted_fault_is_found() {
        let mut removed = all();
        removed.remove(7);
        assert_eq!(checked(&removed, 10, &[]).count(GAP), 1);
        assert!(checked(&removed, 7, &[(8, 10)]).is_empty());
        let mut repeated = all();
        repeated.push((9, Some(0)));
        assert_eq!(checked(&repeated, 10, &[]).count(DUPLICATE), 1);
        let mut both = all();
        both.push((4, Some(0)));
        assert!(checked(&both, 10, &[]).count(DUPLICATE) == 1);
        let mut swapped = all();
        swapped.swap(0, 2);
        assert_eq!(checked(&swapped, 10, &[]).count(DISORDER), 1);
        assert_eq!(checked(&all()[..5], 6, &[]).count(GAP), 1);
        assert_eq!(checked(&all()[..5], 5, &[(8, 9)]).count(GAP), 1);
        assert_eq!(checked(&all(), 11, &[]).count(POSITION), 1);
        let mut phantom = all();
        phantom.push((12, Some(0)));
        assert_eq!(checked(&phantom, 10, &[]).count(PHANTOM), 1);
    }

    #[test]
    fn positions_do_not_go_back_and_completions_are_not_forgotten() {
        let stage = Stage { source: "in".to_owned(), partitions: 1, outputs: Outputs::One };
        let mut checker = Checker::new(vec![stage]);
        for offset in 0..10 {
            checker.on_source(0, 0, offset);
            checker.on_result(0, &origin(offset, Some(0)), None);
        }
        checker.on_position(0, 0, 3, &[(5, 7)]);
        checker.on_position(0, 0, 4, &[(5, 7)]);
        checker.on_position(0, 0, 6, &[(6, 7)]);
        assert!(checker.findings().is_empty(), "{}", checker.findings().text());
        checker.on_position(0, 0, 6, &[]);
        assert_eq!(checker.findings().count(POSITION), 1);
        checker.on_position(0, 0, 5, &[]);
        assert_eq!(checker.findings().count(POSITION), 2);
        checker.on_end();
        assert_eq!(checker.findings().count(UNSETTLED), 1);
    }

    #[test]
    fn origins_parse_or_do_not() {
        let read = Origin::parse(b"1;in;0;7;0;r1;1;1");
        assert_eq!(read, Some(origin(7, Some(0))));
        assert_eq!(Origin::parse(b"1;in;0;7;d;r1;1;1"), Some(origin(7, None)));
        for bad in ["", "1;in;0;7;0;r1;1", "2;in;0;7;0;r1;1;1", "1;in;x;7;0;r1;1;1"] {
            assert_eq!(Origin::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
