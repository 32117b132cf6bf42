//! One life of a group: members with clocks of their own, a network that delays, reorders, repeats
//! and loses, crashes before and after every step, power cuts of all, and an operator
//! ([`super::operator`]); then everything heals, and the group has to agree again.

use std::collections::BTreeSet;

use cluster::{
    Change, Cut, Image, Limits, Message, NotProposed, ReadEnd, RequestId, Step, carries_checkpoint,
};

use super::Bug;
use super::judge::{Judge, READ, number_of, pack};
use super::member::{Asked, AskedRead, Member, Process};
use crate::harness::rng::Rng;

const ROUNDS: u64 = 300;
/// Rounds of at least one election and what follows it, many times over.
const HEALING_ROUNDS: u64 = 600;

/// What a life came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) commands: u64,
    pub(super) terms: u64,
    pub(super) installs: u64,
    pub(super) checkpoints: u64,
    pub(super) crashes: u64,
    pub(super) before_persist: u64,
    pub(super) after_persist: u64,
    pub(super) at_install: u64,
    pub(super) before_send: u64,
    pub(super) before_apply: u64,
    pub(super) power_cuts: u64,
    pub(super) lost: u64,
    pub(super) disks_lost: u64,
    pub(super) joined: u64,
    pub(super) promoted: u64,
    pub(super) removed: u64,
    /// Changes that the core did not begin.
    pub(super) refused: u64,
    /// The lead, to whom it was sent.
    pub(super) transfers: u64,
    pub(super) reads: u64,
    pub(super) reads_failed: u64,
    pub(super) checks: u64,
    /// Of all that happened, in order.
    pub(super) trace: u64,
}

/// What the sender of a message learns of it.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Checkpoint { arrived: bool },
    Unreachable,
}

pub(super) struct World {
    seed: u64,
    pub(super) rng: Rng,
    pub(super) bug: Option<Bug>,
    limits: Limits,
    /// Those whose disk is there; some belong to the group no more, or not yet.
    pub(super) members: Vec<Member>,
    /// Ids whose disk is lost.
    pub(super) dead: BTreeSet<u64>,
    /// The highest id that was given to anybody.
    pub(super) newest: u64,
    /// To whom the lead was sent last.
    pub(super) heir: Option<u64>,
    pub(super) wire: Vec<Message>,
    /// From, to, and what became of it.
    fates: Vec<(u64, u64, Fate)>,
    /// Pairs that do not hear each other, until a round.
    apart: (BTreeSet<(u64, u64)>, u64),
    pub(super) heals: bool,
    round: u64,
    numbers: u64,
    pub(super) judge: Judge,
    pub(super) life: Life,
}

/// Whether a step makes a checkpoint of another member durable.
fn installs(step: &Step) -> bool {
    matches!(step, Step::Persist(write) if matches!(write.cut, Cut::All(_)))
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = Rng::new(seed, 0x4a);
        let size = [1, 3, 3, 3, 5][rng.draw(5) as usize];
        let voters: Vec<u64> = (1..=size).collect();
        let founding = Image::founding(voters.clone(), Vec::new());
        let trailing = rng.draw(12);
        let limits = Limits { entries: 8 + rng.draw(30), trailing, ..Limits::default() };
        Self {
            seed,
            rng,
            bug,
            limits,
            members: voters.iter().map(|id| Member::new(*id, &founding)).collect(),
            dead: BTreeSet::new(),
            newest: size,
            heir: None,
            wire: Vec::new(),
            fates: Vec::new(),
            apart: (BTreeSet::new(), 0),
            heals: false,
            round: 0,
            numbers: 0,
            judge: Judge::new(&voters),
            life: Life::default(),
        }
    }

    pub(super) fn play(mut self) -> Result<Life, String> {
        while self.round < ROUNDS {
            self.play_round()?;
        }
        self.heals = true;
        self.apart = (BTreeSet::new(), 0);
        let healed = loop {
            if ROUNDS + HEALING_ROUNDS <= self.round {
                break false;
            }
            self.play_round()?;
            if self.agrees() {
                break true;
            }
        };
        if !healed {
            return Err(format!("OWN-4: no agreement {HEALING_ROUNDS} rounds after it healed"));
        }
        let (_, group) = self.judge.group();
        let group = group.clone();
        for member in self.members.iter().filter(|it| group.contains(it.id)) {
            let process = member.process.as_ref().expect("all run: they agree");
            self.judge.read(self.judge.acknowledged().len(), &process.numbers)?;
        }
        self.life.terms = self.judge.terms_led();
        self.life.checks = self.judge.checks;
        Ok(self.life)
    }

    /// Whether all who are there belong to the group, vote, run, and have the same state with
    /// something new in it; and nobody belongs to it who is gone.
    fn agrees(&self) -> bool {
        let (_, group) = self.judge.group();
        let is_former = |it: &&Member| self.judge.was_used(it.id) && !group.contains(it.id);
        let there: Vec<&Member> = self.members.iter().filter(|it| !is_former(it)).collect();
        if !there.iter().map(|it| it.id).eq(group.voters.iter().copied()) {
            return false;
        }
        let mut states = there.iter().map(|it| it.process.as_ref().map(|it| &it.state));
        let first = states.next().flatten();
        let led = there.iter().filter_map(|it| it.process.as_ref());
        let answered = self.judge.acknowledged().last() == Some(&self.numbers);
        let one_leads = led.filter(|it| it.group.leads()).count() == 1;
        answered && one_leads && first.is_some() && states.all(|state| state == first)
    }

    fn play_round(&mut self) -> Result<(), String> {
        self.round += 1;
        if self.apart.1 <= self.round && !self.heals {
            self.apart.0.clear();
            if self.rng.draw(40) == 0 {
                self.separate();
            }
        }
        if !self.heals && self.rng.draw(150) == 0 {
            self.life.power_cuts += 1;
            for place in 0..self.members.len() {
                self.crash(place);
            }
        }
        self.change_machines();
        let first = self.rng.draw(self.members.len() as u64) as usize;
        for turn in 0..self.members.len() {
            let place = (first + turn) % self.members.len();
            if self.members[place].process.is_none() {
                if self.heals || self.rng.draw(10) == 0 {
                    self.members[place].start(self.limits, self.seed)?;
                    self.steps(place)?;
                }
            } else if self.heals || self.rng.draw(8) != 0 {
                self.live(place)?;
            }
        }
        Ok(())
    }

    /// One tick of a member, the messages that reach it, and what it asks for.
    fn live(&mut self, place: usize) -> Result<(), String> {
        self.input(place, |process| {
            process.ticks += 1;
            process.group.tick();
        })?;
        let id = self.members[place].id;
        self.demand_reads_in_time(place)?;
        let (mine, others) = self.fates.drain(..).partition(|(from, ..)| *from == id);
        self.fates = others;
        for (_, to, fate) in mine {
            self.input(place, |process| match fate {
                Fate::Checkpoint { arrived } => process.group.checkpoint_sent(to, arrived),
                Fate::Unreachable => process.group.unreachable(to),
            })?;
        }
        for message in self.arriving(place) {
            let mut heard = Ok(());
            self.input(place, |process| heard = process.group.receive(message))?;
            heard.map_err(|forgot| format!("CLU-6: {id}: {forgot}"))?;
        }
        self.operate(place)?;
        let asks = if self.heals { self.round.is_multiple_of(40) } else { self.rng.draw(3) == 0 };
        if asks {
            self.ask(place)?;
        }
        if !self.heals && self.rng.draw(12) == 0 {
            self.read(place)?;
        }
        let due = |process: &Process| process.group.is_checkpoint_due();
        if self.members[place].process.as_ref().is_some_and(due) {
            self.life.checkpoints += 1;
            self.input(place, |process| process.group.checkpoint(pack(&process.state, &[])))?;
        }
        if self.rng.draw(12) == 0 || self.bug == Some(Bug::SentBeforeSync) {
            self.members[place].sync(&mut self.judge)?;
        }
        Ok(())
    }

    fn ask(&mut self, place: usize) -> Result<(), String> {
        let before = self.judge.acknowledged().len();
        let is_read = self.rng.draw(4) == 0 && !self.heals;
        let number = if is_read { READ | self.numbers } else { self.numbers + 1 };
        let id = self.members[place].id;
        let Some(process) = &mut self.members[place].process else { return Ok(()) };
        if !process.group.leads() {
            return Ok(());
        }
        let request = process.next_request(id);
        match process.group.propose(request, number.to_le_bytes().to_vec()) {
            Err(NotProposed::Dropped) => return Ok(()),
            Ok(()) => drop(process.asked.insert(request, Asked { number, before })),
        }
        if !is_read {
            self.numbers = number;
            self.life.commands += 1;
            if self.bug == Some(Bug::AnsweredEarly) {
                self.judge.acknowledge(number);
            }
        }
        self.steps(place)
    }

    /// Asks for a read by read index, of any member.
    fn read(&mut self, place: usize) -> Result<(), String> {
        let (before, floor) = (self.judge.acknowledged().len(), self.judge.read_at());
        let id = self.members[place].id;
        let within = 3 + self.rng.draw(30);
        let Some(process) = &mut self.members[place].process else { return Ok(()) };
        let asked = AskedRead { before, floor, until: process.ticks + within };
        if self.bug == Some(Bug::StaleRead) {
            return self.judge.answered(&asked, process.group.applied(), &process.numbers);
        }
        let request = process.next_request(id);
        if process.group.read(request, within).is_ok() {
            process.reads.insert(request, asked);
        }
        self.steps(place)
    }

    /// CLU-5, by the clock of the member that was asked.
    fn demand_reads_in_time(&self, place: usize) -> Result<(), String> {
        let Some(process) = &self.members[place].process else { return Ok(()) };
        match process.reads.values().find(|it| it.until < process.ticks) {
            Some(late) => Err(format!("CLU-5: {late:?} has not ended at tick {}", process.ticks)),
            None => Ok(()),
        }
    }

    fn end_reads(&mut self, place: usize, ended: Vec<(RequestId, ReadEnd)>) -> Result<(), String> {
        let process = self.members[place].process.as_mut().expect("it takes a step");
        for (request, end) in ended {
            if end == ReadEnd::Fresh {
                let asked = process.reads.remove(&request).ok_or("CLU-5: a read ended twice")?;
                self.life.reads += 1;
                let applied = process.group.applied();
                self.judge.answered(&asked, applied, &process.numbers)?;
            } else if self.bug != Some(Bug::ReadForgotten) {
                process.reads.remove(&request).ok_or("CLU-5: a read ended twice")?;
                self.life.reads_failed += 1;
            }
        }
        Ok(())
    }

    pub(super) fn input(
        &mut self,
        place: usize,
        give: impl FnOnce(&mut Process),
    ) -> Result<(), String> {
        match &mut self.members[place].process {
            Some(process) => give(process),
            None => return Ok(()),
        }
        self.steps(place)
    }

    /// Carries out what the member has to do, unless it crashes on the way.
    pub(super) fn steps(&mut self, place: usize) -> Result<(), String> {
        while let Some(process) = &mut self.members[place].process {
            let Some(step) = process.group.step() else { break };
            self.note(&step);
            if self.strikes(installs(&step)) {
                let count = match &step {
                    Step::Persist(_) => &mut self.life.before_persist,
                    Step::Send(_) => &mut self.life.before_send,
                    Step::Apply(_) | Step::Change(_) | Step::Restore(_) | Step::Reads(_) => {
                        &mut self.life.before_apply
                    }
                };
                *count += 1;
                self.life.at_install += u64::from(installs(&step));
                self.crash(place);
                return Ok(());
            }
            self.carry_out(place, step)?;
        }
        let member = &self.members[place];
        if let Some(process) = member.process.as_ref().filter(|it| it.group.leads()) {
            let (term, image) = (process.group.term(), process.group.image());
            self.judge.leads(member.id, term, image)?;
            if self.heir == Some(member.id) {
                self.heir = None;
                self.life.transfers += 1;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, place: usize, step: Step) -> Result<(), String> {
        let member = &mut self.members[place];
        let installs = installs(&step);
        match step {
            Step::Send(messages) => self.wire.extend(messages),
            Step::Persist(write) => {
                member.write(&write, self.bug, &mut self.judge)?;
                if self.strikes(installs) {
                    self.life.after_persist += 1;
                    self.life.at_install += u64::from(installs);
                    self.crash(place);
                }
            }
            Step::Restore(checkpoint) => {
                self.life.installs += 1;
                self.judge.restored(checkpoint.place.index, &checkpoint.state)?;
                let process = member.process.as_mut().expect("it takes a step");
                process.restore(&checkpoint.state);
            }
            Step::Change(changed) => {
                let first = self.judge.changed(&changed)?;
                let count = match changed.change {
                    Change::AddLearner(_) => &mut self.life.joined,
                    Change::Promote(_) => &mut self.life.promoted,
                    Change::Remove(_) => &mut self.life.removed,
                };
                *count += u64::from(first);
            }
            Step::Reads(ended) => self.end_reads(place, ended)?,
            Step::Apply(commands) => {
                let process = member.process.as_mut().expect("it takes a step");
                for committed in commands {
                    self.judge.applied(&committed)?;
                    process.apply(&committed.command)?;
                    let Some(asked) = process.asked.remove(&committed.request) else { continue };
                    debug_assert_eq!(asked.number, number_of(&committed.command));
                    if asked.number & READ == 0 {
                        self.judge.acknowledge(asked.number);
                    } else {
                        self.judge.read(asked.before, &process.numbers)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the messages that reach a member now off the wire.
    fn arriving(&mut self, place: usize) -> Vec<Message> {
        let id = self.members[place].id;
        let mut arriving = Vec::new();
        for message in std::mem::take(&mut self.wire) {
            let apart = self.apart.0.contains(&(message.from, message.to));
            if message.to != id {
                self.wire.push(message);
                continue;
            }
            let fate = if self.heals { 99 } else { self.rng.draw(40) };
            let is_lost = apart || fate < 2;
            if carries_checkpoint(&message) && (is_lost || !(2..8).contains(&fate)) {
                let fate = Fate::Checkpoint { arrived: !is_lost };
                self.fates.push((message.from, message.to, fate));
            } else if is_lost && fate & 1 == 0 {
                self.fates.push((message.from, message.to, Fate::Unreachable));
            }
            match fate {
                _ if is_lost => {}
                2..=7 => self.wire.push(message),
                8 => {
                    self.wire.push(message.clone());
                    arriving.push(message);
                }
                _ => arriving.push(message),
            }
        }
        if 1 < arriving.len() && !self.heals && self.rng.draw(3) == 0 {
            let with = self.rng.draw(arriving.len() as u64) as usize;
            arriving.swap(0, with);
        }
        arriving
    }

    /// Some do not hear some others for a while: one alone, or one direction only.
    fn separate(&mut self) {
        let ids: Vec<u64> = self.members.iter().map(|it| it.id).collect();
        let one = ids[self.rng.draw(ids.len() as u64) as usize];
        let one_way = self.rng.draw(3) == 0;
        for other in ids.into_iter().filter(|other| *other != one) {
            self.apart.0.insert((one, other));
            if !one_way {
                self.apart.0.insert((other, one));
            }
        }
        self.apart.1 = self.round + 5 + self.rng.draw(60);
    }

    /// Whether a crash strikes here; more often where a checkpoint is installed, which is rare.
    fn strikes(&mut self, installs: bool) -> bool {
        !self.heals && self.rng.draw(if installs { 8 } else { 250 }) == 0
    }

    pub(super) fn crash(&mut self, place: usize) {
        if self.members[place].process.is_some() {
            self.life.crashes += 1;
            self.life.lost += self.members[place].crash() as u64;
        }
    }

    /// FNV-1a over what happens.
    fn note(&mut self, step: &Step) {
        let text = match step {
            Step::Send(messages) => messages.len() as u64,
            Step::Persist(write) => (1 << 32) + write.entries.len() as u64,
            Step::Restore(checkpoint) => (2 << 32) + checkpoint.place.index,
            Step::Apply(commands) => (3 << 32) + commands.last().map_or(0, |it| it.place.index),
            Step::Change(changed) => (4 << 32) + changed.place.index,
            Step::Reads(ended) => (5 << 32) + ended.len() as u64,
        };
        self.life.trace = (self.life.trace ^ text).wrapping_mul(0x0100_0000_01b3);
    }
}
