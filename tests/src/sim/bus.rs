//! The simulated bus and its disk: one write holds a commit's outputs and positions, a crash loses
//! what was not synced, an older epoch is refused.

use std::collections::{BTreeMap, VecDeque};

use bus::{BatchBuilder, Headers, Offset, RecordBatch, Suspects, Timestamp};
use dispatch::CommitId;

use super::Bug;
use super::checker::Checker;
use super::plan::{Origin, PARK, Parked, Plan, Rec, partition_of};
use crate::harness::rng::Rng;

/// A position, in the simulation's own terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) next: i64,
    pub(super) completions: Vec<(i64, i64)>,
    pub(super) suspects: Option<Suspects>,
}

impl Place {
    /// Whether it says of this offset that it is settled.
    pub(super) fn tells(&self, offset: i64) -> bool {
        offset < self.next || self.completions.iter().any(|it| it.0 <= offset && offset < it.1)
    }
}

/// A commit on its way to the bus.
#[derive(Clone, Debug)]
pub(super) struct SimCommit {
    /// Which life of which shard sent it.
    pub(super) life: u64,
    pub(super) shard: usize,
    pub(super) epoch: u64,
    pub(super) id: CommitId,
    /// Records it settles.
    pub(super) records: u64,
    pub(super) appends: Vec<(usize, Rec)>,
    /// Behind all of them.
    pub(super) settles: Vec<(usize, Rec)>,
    pub(super) place: Place,
}

/// Who hears of a write that is durable.
#[derive(Clone, Debug)]
pub(super) enum Ack {
    Produced(Vec<u64>),
    Committed(u64, CommitId),
}

/// What one write does to a shard's position.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) shard: usize,
    pub(super) epoch: u64,
    pub(super) records: u64,
    pub(super) place: Place,
}

/// One atomic write of the journal.
#[derive(Clone, Debug, Default)]
pub(super) struct Write {
    pub(super) appends: Vec<(usize, Rec)>,
    pub(super) moved: Option<Move>,
    pub(super) ack: Option<Ack>,
}

/// Why a commit was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Fenced,
    Retry,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct SimBus {
    bug: Option<Bug>,
    rng: Rng,
    partitions: Vec<usize>,
    /// Durable records by topic and partition, with their offsets.
    logs: Vec<Vec<Vec<(i64, Rec)>>>,
    places: BTreeMap<usize, Place>,
    fences: BTreeMap<usize, u64>,
    /// Where the envelopes of a life's commit lie, or before them.
    pub(super) parked_at: BTreeMap<(u64, CommitId), i64>,
    /// Written and not synced.
    pending: VecDeque<Write>,
    /// Writes that crashes took, and commits that were fenced.
    pub(super) lost: u64,
    pub(super) fenced: u64,
}

impl SimBus {
    pub(super) fn new(plan: &Plan, bug: Option<Bug>) -> Self {
        Self {
            bug,
            rng: Rng::new(plan.seed, 2),
            partitions: plan.partitions.to_vec(),
            logs: plan.partitions.iter().map(|&count| vec![Vec::new(); count]).collect(),
            places: BTreeMap::new(),
            fences: BTreeMap::new(),
            parked_at: BTreeMap::new(),
            pending: VecDeque::new(),
            lost: 0,
            fenced: 0,
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes a write; what is acknowledged at once is nothing, unless a bug was planted.
    pub(super) fn write(&mut self, mut write: Write) -> Option<Ack> {
        let early = (self.bug == Some(Bug::AckBeforeSync)).then(|| write.ack.take()).flatten();
        self.pending.push_back(write);
        early
    }

    /// Takes a commit, as one write.
    pub(super) fn commit(
        &mut self,
        commit: &SimCommit,
        faults: bool,
    ) -> Result<Option<Ack>, Refused> {
        let fence = self.fences.get(&commit.shard).copied().unwrap_or(0);
        if commit.epoch < fence && self.bug != Some(Bug::NoEpochCheck) {
            self.fenced += 1;
            return Err(Refused::Fenced);
        }
        if faults && self.rng.draw(40) == 0 {
            return Err(Refused::Retry);
        }
        let ack = Some(Ack::Committed(commit.life, commit.id));
        let moved = Some(Move {
            shard: commit.shard,
            epoch: commit.epoch,
            records: commit.records,
            place: commit.place.clone(),
        });
        let appends = [&commit.appends[..], &commit.settles].concat();
        match self.bug {
            Some(Bug::PositionFirst) => {
                self.pending.push_back(Write { moved, ..Write::default() });
                Ok(self.write(Write { appends, moved: None, ack }))
            }
            Some(Bug::OutputsFirst) => {
                self.pending.push_back(Write { appends, ..Write::default() });
                Ok(self.write(Write { appends: Vec::new(), moved, ack }))
            }
            _ => Ok(self.write(Write { appends, moved, ack })),
        }
    }

    /// Makes durable what was written, and says who hears of it.
    pub(super) fn sync(&mut self, checker: &mut Checker) -> Result<Vec<Ack>, String> {
        let mut acks = Vec::new();
        while let Some(write) = self.pending.pop_front() {
            acks.extend(self.apply(write, checker)?);
        }
        Ok(acks)
    }

    /// The machine dies: the disk had got to some of the writes in any case.
    pub(super) fn crash(&mut self, rng: &mut Rng, checker: &mut Checker) -> Result<(), String> {
        let kept = rng.draw(self.pending.len() as u64 + 1);
        for _write in 0..kept {
            let write = self.pending.pop_front().expect("no more than there are");
            self.apply(write, checker)?;
        }
        self.lost += self.pending.len() as u64;
        self.pending.clear();
        checker.after_crash()
    }

    /// Fences older assignments, and says where the shard goes on. `None`: it never began.
    pub(super) fn recover(
        &mut self,
        shard: usize,
        epoch: u64,
        checker: &mut Checker,
    ) -> Result<(Option<Place>, Vec<Ack>), String> {
        let acks = self.sync(checker)?;
        self.fences.insert(shard, epoch);
        let mut place = self.places.get(&shard).cloned();
        if let Some(place) = &mut place
            && self.bug == Some(Bug::CompletionsDropped)
        {
            place.completions.clear();
        }
        Ok((place, acks))
    }

    fn apply(&mut self, write: Write, checker: &mut Checker) -> Result<Option<Ack>, String> {
        let parks = write.appends.iter().find(|(topic, _)| PARK <= *topic);
        if let (Some(Ack::Committed(life, id)), Some((topic, rec))) = (&write.ack, parks) {
            let end = self.end(*topic, partition_of(rec, self.partitions[*topic]));
            self.parked_at.insert((*life, *id), end);
        }
        self.append(&write.appends, checker)?;
        if let Some(moved) = &write.moved {
            checker.on_move(moved)?;
            self.places.insert(moved.shard, moved.place.clone());
        }
        Ok(write.ack)
    }

    /// What is parked of a partition by the records of a park topic, with where they lie: the newest
    /// of each offset.
    pub(super) fn parked(&self, topic: usize, partition: usize) -> BTreeMap<i64, (i64, Rec)> {
        let mut parked = BTreeMap::new();
        for &(place, rec) in &self.logs[topic][partition] {
            let Some(Origin { offset, .. }) = rec.origin else { continue };
            match rec.park {
                Some(Parked::Envelope(..)) => drop(parked.insert(offset, (place, rec))),
                _ => drop(parked.remove(&offset)),
            }
        }
        parked
    }

    /// The envelope of a record that lies at a place of a park topic or behind it.
    pub(super) fn envelope(
        &self,
        topic: usize,
        partition: usize,
        place: i64,
        offset: i64,
    ) -> Option<Rec> {
        let log = &self.logs[topic][partition];
        let from = log.partition_point(|it| it.0 < place);
        let is_it = |rec: &Rec| {
            matches!(rec.park, Some(Parked::Envelope(..)))
                && rec.origin.is_some_and(|it| it.offset == offset)
        };
        log[from..].iter().map(|it| it.1).find(is_it)
    }

    /// Where the next record of a partition will lie, or before it.
    pub(super) fn end(&self, topic: usize, partition: usize) -> i64 {
        self.logs[topic][partition].last().map_or(0, |it| it.0 + 1)
    }

    /// Durable records.
    pub(super) fn append(
        &mut self,
        appends: &[(usize, Rec)],
        checker: &mut Checker,
    ) -> Result<(), String> {
        // A gap now and then, as transaction markers leave them: never inside a write.
        let gap = if self.rng.draw(6) == 0 { 1 + self.rng.draw(3) as i64 } else { 0 };
        for &(topic, rec) in appends {
            let partition = partition_of(&rec, self.partitions[topic]);
            let log = &mut self.logs[topic][partition];
            let offset = log.last().map_or(0, |it| it.0 + 1);
            let first = appends.first().is_some_and(|it| it.1 == rec);
            let offset = if first { offset + gap } else { offset };
            log.push((offset, rec));
            checker.on_append(topic, partition, offset, &rec)?;
        }
        Ok(())
    }

    /// Records of a partition from an offset on that follow one another, as one batch.
    pub(super) fn fetch(
        &mut self,
        topic: usize,
        partition: usize,
        from: i64,
    ) -> Option<RecordBatch> {
        let most = 1 + self.rng.draw(64) as usize;
        let log = &self.logs[topic][partition];
        let at = log.partition_point(|it| it.0 < from);
        let base = log.get(at)?.0;
        let mut builder = BatchBuilder::default();
        let in_step =
            (base..).zip(&log[at..]).take(most).take_while(|(offset, it)| *offset == it.0);
        for (_, (_, rec)) in in_step {
            let key = rec.key.map(|key| [key]);
            let value = rec.value.to_le_bytes();
            let key = key.as_ref().map(<[u8; 1]>::as_slice);
            builder.push(Timestamp(1_000), key, Some(&value), Headers::default());
        }
        Some(builder.finish()?.with_base(Offset(base)))
    }
}
