//! A simulated node in front of Kafka: what bus/src/kafka does around its ledger, step by step, and
//! after each of them the node may die or stand still. The ledger and the notes are the real ones.
//!
//! ```text
//! commit   check ─▶ produce ─▶ acknowledged, check ─▶ (anchor) ─▶ position log ─▶ answered
//! recover  check ─▶ read the group, look ─▶ decide ─▶ anchor ─▶ position log ─▶ start
//! handed   check ─▶ decide ─▶ start, and ─▶ anchor ─▶ position log ─▶ what it commits
//! follow   read the group, look ─▶ commit the offsets
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bus::kafka::cores::{Committed, Ledger, Move, Note, epoch_row, log_row};
use bus::{Completions, Epoch, Handed, Offset, Position, ShardId, TopicPartition};

use super::Bug;
use super::bus::{Place, Refused, SimCommit};
use super::checker::Wrote;
use super::disk::{Batch, Disk};
use super::groups::Mark;
use super::plan::Rec;
use super::shell::place;

/// Every topic has one id: none is made again.
const TOPIC_ID: u64 = 0xab;

/// A shard as Kafka knows it.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) id: ShardId,
    /// Its group is the trigger's.
    pub(super) trigger: usize,
    pub(super) partition: TopicPartition,
}

/// What is done for a shard, one at a time.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Commit(SimCommit),
    Recover(u64),
    /// As it was handed over by the owner before.
    TakeOver(u64, Handed),
}

impl Work {
    const fn epoch(&self) -> u64 {
        match self {
            Self::Commit(commit) => commit.epoch,
            Self::Recover(epoch) | Self::TakeOver(epoch, _) => *epoch,
        }
    }
}

/// Who has the turn to write groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A shard's epoch goes into its group.
    Anchor(usize),
    /// The offsets of a trigger's shards follow.
    Follow(usize),
    /// That of a shard does, which is about to be somebody else's.
    Release(usize),
}

/// Who reads a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Recover(usize),
    Follow(usize),
    Release(usize),
}

/// What a home asks of the world.
#[derive(Debug)]
pub(super) enum HomeAsks {
    Produce { shard: usize, epoch: u64, appends: Vec<(usize, Rec)> },
    Read { reading: Reading, trigger: usize, recovers: Option<(usize, u64)> },
    Alter { turn: Turn, marks: Vec<Mark> },
    Write { shard: usize, epoch: u64 },
    Report { commit: SimCommit, result: Result<(), Refused> },
    Started { shard: usize, epoch: u64, place: Option<Place> },
    NotStarted { shard: usize, epoch: u64 },
    Released { shard: usize },
    Tick,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Home {
    /// Which process of this home runs: what is for an older one is nobody's.
    pub(super) process: u64,
    pub(super) disk: Disk,
    pub(super) asks: Vec<HomeAsks>,
    names: Rc<[Name]>,
    bug: Option<Bug>,
    ledger: Ledger,
    /// What the node itself was told of, by shard: whoever recovers one of an older epoch gives up.
    fences: BTreeMap<usize, u64>,
    /// By shard; the first of each is being done.
    works: BTreeMap<usize, VecDeque<Work>>,
    /// The first has the turn, or is next.
    turns: VecDeque<Turn>,
    has_turn: bool,
    moved: BTreeSet<usize>,
    /// Triggers whose groups this round has still to write, and their shards.
    round: VecDeque<(usize, BTreeSet<usize>)>,
}

impl Home {
    pub(super) fn new(names: Rc<[Name]>, bug: Option<Bug>) -> Self {
        Self {
            process: 0,
            disk: Disk::default(),
            asks: Vec::new(),
            names,
            bug,
            ledger: Ledger::default(),
            fences: BTreeMap::new(),
            works: BTreeMap::new(),
            turns: VecDeque::new(),
            has_turn: false,
            moved: BTreeSet::new(),
            round: VecDeque::new(),
        }
    }

    /// The process starts, with what the disk holds.
    pub(super) fn start(&mut self) {
        self.ledger = Ledger::load(self.disk.rows());
        self.asks.push(HomeAsks::Tick);
    }

    /// The process is gone with all that it was doing.
    pub(super) fn die(&mut self) {
        self.process += 1;
        self.ledger = Ledger::default();
        self.asks.clear();
        self.fences.clear();
        self.works.clear();
        self.turns.clear();
        self.has_turn = false;
        self.moved.clear();
        self.round.clear();
    }

    /// Whether something is being done for a shard.
    pub(super) fn is_busy(&self) -> bool {
        self.works.values().any(|it| !it.is_empty())
    }

    /// Somebody else owns the shard at this epoch, or is about to.
    pub(super) fn fence(&mut self, shard: usize, epoch: u64) {
        if self.bug != Some(Bug::EpochsIgnored) {
            self.ledger.fence(self.names[shard].id, Epoch(epoch));
            self.fences.insert(shard, epoch);
        }
    }

    /// Where a shard has ended here, for its next owner.
    pub(super) fn handed(&self, shard: usize, ends: Epoch) -> Option<Handed> {
        self.ledger.handed(self.names[shard].id, ends)
    }

    /// Writes a shard's group at once: somebody else goes on from there.
    pub(super) fn release(&mut self, shard: usize) -> Result<(), String> {
        self.turns.push_back(Turn::Release(shard));
        self.next_turn()
    }

    /// Does this when what comes before it is done.
    pub(super) fn submit(&mut self, shard: usize, work: Work) -> Result<(), String> {
        let works = self.works.entry(shard).or_default();
        works.push_back(work);
        if works.len() == 1 { self.begin(shard) } else { Ok(()) }
    }

    fn current(&self, shard: usize) -> Option<Work> {
        self.works.get(&shard).and_then(|it| it.front()).cloned()
    }

    /// Whether no higher epoch is known than that of what is being done.
    fn is_ours(&self, shard: usize) -> bool {
        let id = self.names[shard].id;
        let is_over = |epoch| self.fences.get(&shard).is_some_and(|fence| epoch < *fence);
        let ours =
            |it: Work| !is_over(it.epoch()) && self.ledger.check(id, Epoch(it.epoch())).is_ok();
        self.bug == Some(Bug::EpochsIgnored) || self.current(shard).is_some_and(ours)
    }

    fn begin(&mut self, shard: usize) -> Result<(), String> {
        let Some(work) = self.current(shard) else { return Ok(()) };
        if !self.is_ours(shard) {
            return self.give_up(shard, Refused::Fenced);
        }
        match work {
            Work::Commit(commit) => {
                let (id, epoch) = (self.names[shard].id, Epoch(commit.epoch));
                let moved = self.ledger.check_move(id, epoch, &self.to_move(&commit));
                moved.map_err(|error| format!("KL-4: {error}"))?;
                if self.bug == Some(Bug::PositionBeforeOutputs) {
                    let row = self.to_move(&commit);
                    let rows = vec![log_row(id, &row.partition, TOPIC_ID, row.position)];
                    let (epoch, wrote) = (commit.epoch, Wrote::Early);
                    self.disk.write(Batch { shard, epoch, rows, wrote });
                }
                let (epoch, mut appends) = (commit.epoch, commit.appends);
                if self.bug == Some(Bug::TombstoneFirst) && !commit.settles.is_empty() {
                    appends = self.take_settles(shard);
                }
                if appends.is_empty() {
                    return self.on_produced(shard, true);
                }
                self.asks.push(HomeAsks::Produce { shard, epoch, appends });
            }
            Work::TakeOver(epoch, handed) => {
                let id = self.names[shard].id;
                if self.ledger.take_over(id, Epoch(epoch), &handed).is_err() {
                    let work = self.works.get_mut(&shard).and_then(VecDeque::front_mut);
                    *work.expect("it is being done") = Work::Recover(epoch);
                    return self.begin(shard);
                }
                let row = self.ledger.rows(id).pop();
                let place = row.map(|(_, row)| place(&row.position));
                self.asks.push(HomeAsks::Started { shard, epoch, place });
                self.turns.push_back(Turn::Anchor(shard));
                return self.next_turn();
            }
            Work::Recover(epoch) => {
                let (reading, trigger) = (Reading::Recover(shard), self.names[shard].trigger);
                let recovers = Some((shard, epoch));
                self.asks.push(HomeAsks::Read { reading, trigger, recovers });
            }
        }
        Ok(())
    }

    /// The tombstones of the commit that is being done, unless they were produced already.
    fn take_settles(&mut self, shard: usize) -> Vec<(usize, Rec)> {
        match self.works.get_mut(&shard).and_then(VecDeque::front_mut) {
            Some(Work::Commit(commit)) if self.bug == Some(Bug::TombstoneFirst) => {
                std::mem::swap(&mut commit.settles, &mut commit.appends);
                std::mem::take(&mut commit.appends)
            }
            Some(Work::Commit(commit)) => std::mem::take(&mut commit.settles),
            _ => Vec::new(),
        }
    }

    /// What is done first for the shard is over.
    fn over(&mut self, shard: usize) -> Result<(), String> {
        self.works.entry(shard).or_default().pop_front();
        self.begin(shard)
    }

    /// What is being done does not work out.
    fn give_up(&mut self, shard: usize, why: Refused) -> Result<(), String> {
        match self.current(shard) {
            Some(Work::Commit(commit)) => {
                self.asks.push(HomeAsks::Report { commit, result: Err(why) });
            }
            Some(Work::Recover(epoch)) => self.asks.push(HomeAsks::NotStarted { shard, epoch }),
            // A commit tells the group.
            Some(Work::TakeOver(..)) | None => {}
        }
        self.over(shard)
    }

    /// The outputs of the commit that is being done are acknowledged, or nobody knows.
    pub(super) fn on_produced(&mut self, shard: usize, ok: bool) -> Result<(), String> {
        let Some(Work::Commit(commit)) = self.current(shard) else { return Ok(()) };
        if !ok {
            return self.give_up(shard, Refused::Retry);
        }
        if !self.is_ours(shard) {
            return self.give_up(shard, Refused::Fenced);
        }
        let appends = self.take_settles(shard);
        if !appends.is_empty() {
            // What settles them is out: now they may follow.
            self.asks.push(HomeAsks::Produce { shard, epoch: commit.epoch, appends });
            return Ok(());
        }
        let Name { id, partition, .. } = &self.names[shard];
        if self.ledger.wants_anchor(*id, Epoch(commit.epoch), partition) {
            self.turns.push_back(Turn::Anchor(shard));
            return self.next_turn();
        }
        self.write(shard);
        Ok(())
    }

    /// A group was read.
    pub(super) fn on_read(&mut self, reading: Reading, held: &[Mark]) -> Result<(), String> {
        let committed: Vec<Committed> = held.iter().filter_map(|it| self.committed(it)).collect();
        if self.bug != Some(Bug::EpochsIgnored) {
            self.ledger.saw(&committed);
        }
        match reading {
            Reading::Recover(shard) => {
                let Some(Work::Recover(epoch)) = self.current(shard) else { return Ok(()) };
                if !self.is_ours(shard) {
                    return self.give_up(shard, Refused::Fenced);
                }
                let id = self.names[shard].id;
                if self.ledger.recover(id, Epoch(epoch), committed).is_err() {
                    return self.give_up(shard, Refused::Fenced);
                }
                if self.ledger.rows(id).is_empty() {
                    self.write(shard);
                    return Ok(());
                }
                self.turns.push_back(Turn::Anchor(shard));
                self.next_turn()
            }
            Reading::Follow(trigger) => {
                let shards = self.round.front().map(|it| it.1.clone()).unwrap_or_default();
                let marks: Vec<Mark> = shards.iter().filter_map(|&it| self.mark(it)).collect();
                if marks.is_empty() {
                    // Of what is not ours, nothing is said.
                    return self.on_altered(Turn::Follow(trigger), true);
                }
                self.asks.push(HomeAsks::Alter { turn: Turn::Follow(trigger), marks });
                Ok(())
            }
            Reading::Release(shard) => {
                let turn = Turn::Release(shard);
                let Some(mark) = self.mark(shard) else { return self.on_altered(turn, true) };
                self.asks.push(HomeAsks::Alter { turn, marks: vec![mark] });
                Ok(())
            }
        }
    }

    fn committed(&self, held: &Mark) -> Option<Committed> {
        let partition = self.names[held.shard].partition.clone();
        let note = Note::decode(&held.text)?;
        Some(Committed { partition, next: Offset(held.offset), note })
    }

    /// Where the shard's group has to go, if it is ours to say.
    fn mark(&self, shard: usize) -> Option<Mark> {
        let id = self.names[shard].id;
        let epoch = self.ledger.epoch(id);
        let (_, row) = self.ledger.rows(id).pop()?;
        let ours = row.anchored == Some(epoch) || self.bug == Some(Bug::EpochsIgnored);
        ours.then(|| self.mark_at(shard, epoch.0, &row.position))
    }

    fn mark_at(&self, shard: usize, epoch: u64, position: &Position) -> Mark {
        let note = Note {
            shard: self.names[shard].id,
            epoch: Epoch(epoch),
            topic_id: TOPIC_ID,
            completions: position.completions.clone(),
            suspects: position.suspects,
        };
        let (offset, text) = (position.next.0, note.encode());
        Mark { shard, epoch, offset, text, place: place(position) }
    }

    fn turn_over(&mut self) {
        self.turns.pop_front();
        self.has_turn = false;
    }

    /// Gives the turn to whoever has waited longest.
    fn next_turn(&mut self) -> Result<(), String> {
        while !self.has_turn
            && let Some(&turn) = self.turns.front()
        {
            self.has_turn = true;
            match turn {
                Turn::Follow(trigger) => {
                    let reading = Reading::Follow(trigger);
                    self.asks.push(HomeAsks::Read { reading, trigger, recovers: None });
                }
                Turn::Anchor(shard) => self.anchor(shard)?,
                Turn::Release(shard) => {
                    let (reading, trigger) = (Reading::Release(shard), self.names[shard].trigger);
                    self.asks.push(HomeAsks::Read { reading, trigger, recovers: None });
                }
            }
        }
        Ok(())
    }

    fn anchor(&mut self, shard: usize) -> Result<(), String> {
        if !self.is_ours(shard) {
            self.turn_over();
            return self.give_up(shard, Refused::Fenced);
        }
        let mark = match self.current(shard) {
            Some(Work::Commit(commit)) => {
                let position = self.to_move(&commit).position;
                self.mark_at(shard, commit.epoch, &position)
            }
            Some(Work::Recover(epoch) | Work::TakeOver(epoch, _)) => {
                let (_, row) = self.ledger.rows(self.names[shard].id).pop().expect("it has a row");
                self.mark_at(shard, epoch, &row.position)
            }
            None => return Err("the turn of nobody".to_owned()),
        };
        self.asks.push(HomeAsks::Alter { turn: Turn::Anchor(shard), marks: vec![mark] });
        Ok(())
    }

    /// A group was written, or it refused for now.
    pub(super) fn on_altered(&mut self, turn: Turn, ok: bool) -> Result<(), String> {
        self.turn_over();
        match turn {
            Turn::Follow(_) => {
                let (_, shards) = self.round.pop_front().unwrap_or_default();
                if !ok {
                    self.moved.extend(shards);
                }
                self.next_group();
            }
            Turn::Release(shard) => self.asks.push(HomeAsks::Released { shard }),
            Turn::Anchor(shard) if !ok => self.give_up(shard, Refused::Retry)?,
            Turn::Anchor(shard) if !self.is_ours(shard) => self.give_up(shard, Refused::Fenced)?,
            Turn::Anchor(shard) => self.write(shard),
        }
        self.next_turn()
    }

    /// It is time for the groups to follow.
    pub(super) fn on_tick(&mut self) -> Result<(), String> {
        let mut groups: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for shard in std::mem::take(&mut self.moved) {
            groups.entry(self.names[shard].trigger).or_default().insert(shard);
        }
        self.round = groups.into_iter().collect();
        self.next_group();
        self.next_turn()
    }

    fn next_group(&mut self) {
        match self.round.front() {
            Some(&(trigger, _)) => self.turns.push_back(Turn::Follow(trigger)),
            None => self.asks.push(HomeAsks::Tick),
        }
    }

    /// Gives the position log what the work of the shard comes to.
    fn write(&mut self, shard: usize) {
        let id = self.names[shard].id;
        let (epoch, mut rows, wrote) = match self.current(shard) {
            Some(Work::Commit(commit)) => {
                let it = self.to_move(&commit);
                let row = log_row(id, &it.partition, TOPIC_ID, it.position);
                if self.bug == Some(Bug::MapApart)
                    && let Some((_, before)) = self.ledger.rows(id).pop()
                {
                    // BUG-11: the map in a batch of its own, then the position with it.
                    let mut part = row.clone();
                    part.1.next = before.position.next;
                    let (epoch, wrote, rows) = (commit.epoch, Wrote::Part, vec![part]);
                    self.disk.write(Batch { shard, epoch, rows, wrote });
                }
                (commit.epoch, vec![row], Wrote::Commit(commit.records))
            }
            Some(Work::Recover(epoch) | Work::TakeOver(epoch, _)) => {
                let rows = self
                    .ledger
                    .rows(id)
                    .into_iter()
                    .map(|(partition, row)| log_row(id, &partition, TOPIC_ID, row.position));
                (epoch, rows.collect(), Wrote::Taken)
            }
            None => return,
        };
        if wrote == Wrote::Taken || self.ledger.owned_at(id) < Epoch(epoch) {
            rows.push(epoch_row(id, Epoch(epoch)));
        }
        self.disk.write(Batch { shard, epoch, rows, wrote });
        self.asks.push(HomeAsks::Write { shard, epoch });
    }

    /// What was written for these shards is durable, or none of it was written.
    pub(super) fn on_written(&mut self, shards: &[usize], ok: bool) -> Result<(), String> {
        for &shard in shards {
            match self.current(shard) {
                None => {}
                Some(_) if !ok => self.give_up(shard, Refused::Retry)?,
                Some(Work::Commit(commit)) => {
                    let (id, it) = (self.names[shard].id, self.to_move(&commit));
                    self.ledger.moved(id, Epoch(commit.epoch), vec![it]);
                    self.moved.insert(shard);
                    self.asks.push(HomeAsks::Report { commit, result: Ok(()) });
                    self.over(shard)?;
                }
                Some(Work::TakeOver(epoch, _)) => {
                    self.anchored(shard, epoch);
                    self.over(shard)?;
                }
                Some(Work::Recover(epoch)) => {
                    self.anchored(shard, epoch);
                    let row = self.ledger.rows(self.names[shard].id).pop();
                    let place = row.map(|(_, row)| place(&row.position));
                    self.asks.push(HomeAsks::Started { shard, epoch, place });
                    self.over(shard)?;
                }
            }
        }
        self.next_turn()
    }

    /// The group knows the owner, and so does the log.
    fn anchored(&mut self, shard: usize, epoch: u64) {
        let Name { id, partition, .. } = &self.names[shard];
        self.ledger.anchored(*id, Epoch(epoch), [partition]);
    }

    fn to_move(&self, commit: &SimCommit) -> Move {
        let Place { next, completions, suspects } = &commit.place;
        let ranges = completions.iter().map(|&(start, end)| (Offset(start), Offset(end)));
        let completions = Completions::from_ranges(ranges);
        Move {
            partition: self.names[commit.shard].partition.clone(),
            topic_id: TOPIC_ID,
            position: Position {
                epoch: Epoch(commit.epoch),
                next: Offset(*next),
                completions,
                suspects: *suspects,
            },
        }
    }
}
