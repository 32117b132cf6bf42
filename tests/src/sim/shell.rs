//! The shell of one simulated shard: carries out what the core decides, as the real driver does,
//! and leaves out what a planted bug says.

use std::collections::BTreeMap;
use std::rc::Rc;

use bus::{Offset, Position, RecordBatch, RecordView};
use dispatch::{Command, CommitId, InvocationId, ShardDispatch, Unwanted, Wanted};

use super::Bug;
use super::bus::{Place, SimCommit};
use super::checker::Checker;
use super::handler::{Answer, Given};
use super::plan::{DEAD, Origin, PARK, Parked, Plan, Rec, TOLD, is_unwanted};

/// Why a record is given up that was in flight, alone in the end, whenever a node ended.
const NODE_ENDED: &str = "Millrace.NodeEnded";

/// What a shell asks of the world.
#[derive(Debug)]
pub(super) enum Asks {
    Invoke(InvocationId, Vec<Given>),
    Commit(SimCommit),
    Load(Vec<Wanted>),
    Over,
}

/// One life of one shard.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) life: u64,
    pub(super) home: usize,
    pub(super) shard: usize,
    pub(super) trigger: usize,
    pub(super) partition: usize,
    pub(super) epoch: u64,
    pub(super) core: ShardDispatch,
    /// The next offset to fetch.
    pub(super) reader: i64,
    /// When the world wakes it, in microseconds.
    pub(super) wake: Option<u64>,
    pub(super) target: usize,
    pub(super) bug: Option<Bug>,
    filters: bool,
    running: BTreeMap<InvocationId, usize>,
    answers: BTreeMap<InvocationId, Rc<Answer>>,
    gathered: Vec<(usize, Rec)>,
    /// What the destinations get with the next commit.
    told: Vec<Rec>,
    settles: Vec<(usize, Rec)>,
    sent: Option<SimCommit>,
}

/// A position in the simulation's terms.
pub(super) fn place(position: &Position) -> Place {
    let completions = position.completions.ranges().iter().map(|(start, end)| (start.0, end.0));
    let suspects = position.suspects;
    Place { next: position.next.0, completions: completions.collect(), suspects }
}

impl Shell {
    pub(super) fn new(
        plan: &Plan,
        (life, home, shard, epoch): (u64, usize, usize, u64),
        (trigger, partition): (usize, usize),
        core: ShardDispatch,
        bug: Option<Bug>,
    ) -> Self {
        Self {
            life,
            home,
            shard,
            trigger,
            partition,
            epoch,
            reader: core.position(0).next.0,
            core,
            wake: None,
            target: plan.triggers[trigger].target,
            bug,
            filters: plan.filters,
            running: BTreeMap::new(),
            answers: BTreeMap::new(),
            gathered: Vec::new(),
            told: Vec::new(),
            settles: Vec::new(),
            sent: None,
        }
    }

    /// Takes an answer, whether it is waited for or not.
    pub(super) fn on_answer(
        &mut self,
        now: std::time::Instant,
        id: InvocationId,
        answer: &Rc<Answer>,
        checker: &mut Checker,
    ) -> Result<Vec<Asks>, String> {
        let mut id = id;
        let mut outcome = answer.outcome.clone();
        if self.bug == Some(Bug::AnswerOfAnother)
            && !self.running.contains_key(&id)
            && let Some((&newest, &records)) = self.running.iter().next_back()
        {
            id = newest;
            if let dispatch::Outcome::Ended { exceptions, .. } = &mut outcome {
                exceptions.retain(|it| (it.0 as usize) < records);
            }
        }
        if self.running.remove(&id).is_some() {
            checker.on_over(self.life, id.0);
        }
        self.answers.insert(id, Rc::clone(answer));
        self.core.on_outcome(now, id, outcome);
        let asks = self.follow(checker);
        self.answers.remove(&id);
        asks
    }

    /// Evaluates the trigger's filter.
    pub(super) fn unwanted(&self, batch: &RecordBatch) -> Option<Unwanted> {
        let mut of_last = false;
        Unwanted::of(batch, |view| {
            let is_unwanted = self.filters && is_unwanted(self.trigger, value_of(view));
            match self.bug {
                Some(Bug::FilterIgnored) => false,
                Some(Bug::FilterShifted) => std::mem::replace(&mut of_last, is_unwanted),
                _ => is_unwanted,
            }
        })
    }

    /// Takes the news that a commit is durable.
    pub(super) fn on_committed(
        &mut self,
        now: std::time::Instant,
        id: CommitId,
        parked_at: Option<i64>,
    ) {
        self.sent = None;
        self.core.on_committed(now, id, parked_at.map(Offset));
    }

    /// Carries out what the core decided.
    pub(super) fn follow(&mut self, checker: &mut Checker) -> Result<Vec<Asks>, String> {
        let mut asks = Vec::new();
        while let Some(command) = self.core.poll_command() {
            match command {
                Command::Invoke { id, records } => {
                    let given = self.given(id);
                    if given.len() != records as usize {
                        return Err(format!("SD-1: {records} records said, {} there", given.len()));
                    }
                    let seen = given.iter().map(|it| (it.offset, it.key, it.attempt));
                    checker.on_invoke(self.life, id.0, seen)?;
                    self.running.insert(id, given.len());
                    asks.push(Asks::Invoke(id, given));
                }
                Command::Gather { id, kept } => {
                    let answer = Rc::clone(self.answers.get(&id).ok_or("SD-2: an answer is over")?);
                    for index in (0..kept.records.len()).filter(|&index| kept.keeps(index)) {
                        self.gather(&answer, index);
                        self.tell(kept.records[index], true);
                    }
                }
                Command::DeadLetter(letter) => {
                    let Given { offset, key, value, .. } = self.read(letter.record);
                    if letter.code == NODE_ENDED {
                        checker.on_suspect(self.life, offset, letter.attempts)?;
                    }
                    let origin = Some(self.origin(offset, None));
                    if self.bug != Some(Bug::DeadLetterLeftOut) {
                        let rec = Rec { key, value, origin, park: None, told: None };
                        self.gathered.push((DEAD + self.trigger, rec));
                    }
                    self.tell(letter.record, false);
                }
                Command::Park(park) => {
                    let envelope = Parked::Envelope(park.attempts, park.due.0, park.ended);
                    let rec = self.parked(park.record, envelope);
                    if self.bug != Some(Bug::EnvelopeLeftOut) {
                        self.gathered.push((PARK + self.trigger, rec));
                    }
                }
                Command::Unpark(record) => {
                    let rec = self.parked(record, Parked::Tombstone);
                    if self.bug != Some(Bug::TombstoneLeftOut) {
                        self.settles.push((PARK + self.trigger, rec));
                    }
                }
                Command::Load(wanted) => asks.push(Asks::Load(wanted)),
                Command::Commit { id, records, positions } => {
                    let [(0, position)] = positions.as_slice() else {
                        return Err(format!("a shard of one partition commits {positions:?}"));
                    };
                    let place = place(position);
                    checker.on_commit(self.life, position.epoch.0, &place)?;
                    self.finish_told();
                    let commit = SimCommit {
                        life: self.life,
                        shard: self.shard,
                        epoch: self.epoch,
                        id,
                        records,
                        appends: std::mem::take(&mut self.gathered),
                        settles: std::mem::take(&mut self.settles),
                        place,
                    };
                    if self.sent.replace(commit.clone()).is_some() {
                        return Err("SD-4: two commits in flight".to_owned());
                    }
                    asks.push(Asks::Commit(commit));
                }
                Command::CommitAgain { id } => {
                    let commit = self.sent.clone().filter(|it| it.id == id);
                    asks.push(Asks::Commit(commit.ok_or("SD-4: no commit to try again")?));
                }
                Command::Drained | Command::Stop(_) => asks.push(Asks::Over),
            }
        }
        Ok(asks)
    }

    fn gather(&mut self, answer: &Answer, index: usize) {
        let (Some(outputs), Some(&offset)) = (answer.outputs.get(index), answer.offsets.get(index))
        else {
            return;
        };
        for (number, rec) in (0..).zip(outputs) {
            let origin = Some(self.origin(offset, Some(number)));
            self.gathered.push((self.target, Rec { origin, ..*rec }));
        }
    }

    /// A record has its end: a message for the trigger's destinations.
    fn tell(&mut self, record: dispatch::RecordId, succeeded: bool) {
        let Given { offset, key, value, .. } = self.read(record);
        let origin = Some(self.origin(offset, None));
        let rec = Rec { key, value, origin, park: None, told: Some(succeeded) };
        let times = match self.bug {
            Some(Bug::MessageLeftOut) => 0,
            Some(Bug::MessageTwice) => 2,
            _ => 1,
        };
        self.told.extend(std::iter::repeat_n(rec, times));
    }

    /// As the real shell does: behind all outputs, in the order of their records.
    fn finish_told(&mut self) {
        self.told.sort_by_key(|rec| rec.origin.map(|origin| origin.offset));
        let topic = TOLD + self.trigger;
        self.gathered.extend(self.told.drain(..).map(|rec| (topic, rec)));
    }

    fn parked(&self, record: dispatch::RecordId, park: Parked) -> Rec {
        let Given { offset, key, value, .. } = self.read(record);
        Rec { key, value, origin: Some(self.origin(offset, None)), park: Some(park), told: None }
    }

    const fn origin(&self, offset: i64, index: Option<u32>) -> Origin {
        let (trigger, partition, epoch) = (self.trigger, self.partition, self.epoch);
        Origin { trigger, partition, offset, index, epoch }
    }

    fn given(&self, id: InvocationId) -> Vec<Given> {
        self.core.records(id).iter().map(|&record| self.read(record)).collect()
    }

    fn read(&self, record: dispatch::RecordId) -> Given {
        let it = self.core.record(record);
        Given {
            offset: it.view.offset.0,
            attempt: it.attempt,
            key: it.view.key.map(|key| key[0]),
            value: value_of(&it.view),
        }
    }
}

fn value_of(view: &RecordView<'_>) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(view.value.expect("every record has a value"));
    u64::from_le_bytes(value)
}
