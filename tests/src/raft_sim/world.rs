//! One life of a group: members with clocks of their own, a network that delays, reorders, repeats
//! and loses, crashes before and after every step, power cuts of all; then everything heals, and
//! the group has to agree again.

use std::collections::BTreeSet;

use cluster::{Cut, Limits, Message, NotProposed, RequestId, Step, carries_checkpoint};

use super::Bug;
use super::judge::{Judge, READ, number_of};
use super::member::{Asked, Member};
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
    pub(super) checks: u64,
    /// Of all that happened, in order.
    pub(super) trace: u64,
}

pub(super) struct World {
    seed: u64,
    rng: Rng,
    bug: Option<Bug>,
    limits: Limits,
    members: Vec<Member>,
    wire: Vec<Message>,
    /// What became of checkpoints, for their senders: from, to, arrived.
    fates: Vec<(u64, u64, bool)>,
    /// Pairs that do not hear each other, until a round.
    apart: (BTreeSet<(u64, u64)>, u64),
    heals: bool,
    round: u64,
    numbers: u64,
    judge: Judge,
    life: Life,
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
        let trailing = rng.draw(12);
        let limits = Limits { entries: 8 + rng.draw(30), trailing, ..Limits::default() };
        Self {
            seed,
            rng,
            bug,
            limits,
            members: voters.iter().map(|id| Member::new(*id, &voters)).collect(),
            wire: Vec::new(),
            fates: Vec::new(),
            apart: (BTreeSet::new(), 0),
            heals: false,
            round: 0,
            numbers: 0,
            judge: Judge::default(),
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
        for member in &self.members {
            let process = member.process.as_ref().expect("all run: they agree");
            self.judge.read(self.judge.acknowledged().len(), &process.numbers)?;
        }
        self.life.terms = self.judge.terms_led();
        self.life.checks = self.judge.checks;
        Ok(self.life)
    }

    /// Whether all run, nothing waits, and all have the same state with something new in it.
    fn agrees(&self) -> bool {
        let mut states = self.members.iter().map(|it| it.process.as_ref().map(|it| &it.state));
        let first = states.next().flatten();
        let led = self.members.iter().filter_map(|it| it.process.as_ref());
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
        self.input(place, |process| process.group.tick())?;
        let id = self.members[place].id;
        let (mine, others) = self.fates.drain(..).partition(|(from, ..)| *from == id);
        self.fates = others;
        for (_, to, arrived) in mine {
            self.input(place, |process| process.group.checkpoint_sent(to, arrived))?;
        }
        for message in self.arriving(place) {
            self.input(place, |process| process.group.receive(message))?;
        }
        let asks = if self.heals { self.round.is_multiple_of(40) } else { self.rng.draw(3) == 0 };
        if asks {
            self.ask(place)?;
        }
        let due = |process: &super::member::Process| process.group.is_checkpoint_due();
        if self.members[place].process.as_ref().is_some_and(due) {
            self.life.checkpoints += 1;
            self.input(place, |process| process.group.checkpoint(process.state.clone()))?;
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
        process.proposals += 1;
        let request = RequestId { member: id, number: process.proposals };
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

    fn input(
        &mut self,
        place: usize,
        give: impl FnOnce(&mut super::member::Process),
    ) -> Result<(), String> {
        match &mut self.members[place].process {
            Some(process) => give(process),
            None => return Ok(()),
        }
        self.steps(place)
    }

    /// Carries out what the member has to do, unless it crashes on the way.
    fn steps(&mut self, place: usize) -> Result<(), String> {
        while let Some(process) = &mut self.members[place].process {
            let Some(step) = process.group.step() else { break };
            self.note(&step);
            if self.strikes(installs(&step)) {
                let count = match &step {
                    Step::Persist(_) => &mut self.life.before_persist,
                    Step::Send(_) => &mut self.life.before_send,
                    Step::Apply(_) | Step::Restore(_) => &mut self.life.before_apply,
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
                self.fates.push((message.from, message.to, !is_lost));
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
        let size = self.members.len() as u64;
        let one = 1 + self.rng.draw(size);
        let one_way = self.rng.draw(3) == 0;
        for other in (1..=size).filter(|other| *other != one) {
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

    fn crash(&mut self, place: usize) {
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
        };
        self.life.trace = (self.life.trace ^ text).wrapping_mul(0x0100_0000_01b3);
    }
}
