//! The raft thread: gives the group its inputs, carries out its steps, and answers who asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::inbox::{Forwarded, Input, Inputs, Letter, Reply, Transport};
use super::{Ended, Leadership, Shared, TICK, UNPOISONED, Vitals};
use crate::format::{
    FORMATS, Logged, decode_command, decode_state, encode_state, unread_checkpoint,
};
use crate::group::{Changed, Committed, ELECTION_TICKS, Group, RequestId, Step};
use crate::image::Place;
use crate::log::Error;
use crate::members::Change;
use crate::proposals::{End, Proposals};
use crate::raft_log::RaftLog;
use crate::reads::ReadEnd;
use crate::state::{Applied, Refused, Role, State};
use crate::wire::{self, Proposal};

/// Proposals of this member on their way: fewer than the state knows one by one (RS-13).
const PROPOSALS_MAX: usize = 256;
/// Inputs that are taken in before their steps are carried out: one write for all of them.
const BATCH: usize = 256;
/// Ticks between two looks at whether the group is what the state says it should be.
const LOOK_TICKS: u64 = 4;

/// How much later than the next tick a member alone looks at the clock: no tick is left out.
const LULL: Duration = TICK.saturating_mul(ELECTION_TICKS as u32 - 1);

/// Why the loop ends.
enum Stop {
    Closed,
    Ended(Ended),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match error {
            Error::Unread { format } => Self::Ended(Ended::Unread(format)),
            error => Self::Failed(error),
        }
    }
}

pub(super) struct Driver {
    group: Group,
    log: RaftLog,
    path: PathBuf,
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    state: Arc<State>,
    proposals: Proposals,
    replies: BTreeMap<u64, Reply>,
    reads: BTreeMap<u64, oneshot::Sender<bool>>,
    changes: BTreeMap<u64, oneshot::Sender<Result<(), Error>>>,
    /// Answers that wait until the state that they are about is shown.
    answers: Vec<(u64, Result<Applied, Refused>)>,
    requests: u64,
    /// The newest incarnation of each other member.
    incarnations: BTreeMap<u64, u64>,
    /// At which tick this member began to lead.
    led_since: Option<u64>,
    /// Whether proposals may be given to the leader now.
    may_give: bool,
}

impl Driver {
    pub(super) fn new(
        group: Group,
        (log, path): (RaftLog, PathBuf),
        shared: Arc<Shared>,
        transport: Arc<dyn Transport>,
    ) -> Self {
        let state = Arc::clone(&shared.state.read().expect(UNPOISONED));
        let requests = shared.sender.incarnation << 32;
        Self {
            group,
            log,
            path,
            shared,
            transport,
            state,
            proposals: Proposals::default(),
            replies: BTreeMap::new(),
            reads: BTreeMap::new(),
            changes: BTreeMap::new(),
            answers: Vec::new(),
            requests,
            incarnations: BTreeMap::new(),
            led_since: None,
            may_give: false,
        }
    }

    /// Applies what is known to be agreed on; a member alone leads then, and all of its log is.
    pub(super) fn begin(&mut self, last: Place) -> Result<(), Error> {
        self.settle()?;
        let me = self.shared.me;
        if self.group.members().voters().iter().eq([&me]) {
            self.group.campaign();
            self.settle()?;
            if self.group.applied() <= last.index {
                return Err(self.damaged(format!("entry {} could not be applied", last.index)));
            }
        }
        self.show();
        Ok(())
    }

    /// Runs until the member is closed or ends.
    ///
    /// # Errors
    ///
    /// When the log cannot be trusted any more.
    pub(super) fn run(&mut self, inputs: &Inputs) -> Result<(), Error> {
        let stop = loop {
            if let Err(stop) = self.turn(inputs) {
                break stop;
            }
        };
        self.fail_all();
        match stop {
            Stop::Closed => Ok(()),
            Stop::Failed(error) => Err(error),
            Stop::Ended(ended) => {
                self.shared.ended.send_replace(Some(ended));
                Ok(())
            }
        }
    }

    fn turn(&mut self, inputs: &Inputs) -> Result<(), Stop> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let is_alone = self.is_alone();
            let mut input = inputs.next(if is_alone { next_tick + LULL } else { next_tick });
            if is_alone {
                // What is asked now is not older than it is.
                self.pass(&mut next_tick)?;
            }
            for _more in 0..BATCH {
                let Some(taken) = input else { break };
                self.take(taken)?;
                input = inputs.ready();
            }
            self.settle()?;
            self.pass(&mut next_tick)?;
            self.give()?;
            self.show();
        }
    }

    /// Ticks for the time that has passed.
    fn pass(&mut self, next_tick: &mut Instant) -> Result<(), Error> {
        let Some(late) = Instant::now().checked_duration_since(*next_tick) else { return Ok(()) };
        let due = 1 + late.as_nanos() / TICK.as_nanos();
        *next_tick += TICK * u32::try_from(due).unwrap_or(u32::MAX);
        // After a pause, one election timeout of ticks at the most.
        for _tick in 0..due.min(ELECTION_TICKS as u128) {
            self.tick()?;
        }
        Ok(())
    }

    /// Whether time is nobody's business: this member leads itself, nobody is about to join, and
    /// nobody waits for anything.
    fn is_alone(&self) -> bool {
        let members = self.group.members();
        let mut others = self.state.roster().members().iter();
        let others = others.any(|(id, it)| *id != self.shared.me && it.role != Role::Removed);
        self.group.leads()
            && members.voters().len() + members.learners().len() == 1
            && !others
            && self.replies.is_empty()
            && self.reads.is_empty()
            && self.changes.is_empty()
    }

    fn take(&mut self, input: Input) -> Result<(), Stop> {
        match input {
            Input::Close => return Err(Stop::Closed),
            Input::Message { message, incarnation, .. } => {
                if self.may_hear(message.from, incarnation) {
                    let heard = self.group.receive(*message);
                    heard.map_err(|_forgot| Stop::Ended(Ended::Forgot))?;
                }
            }
            Input::Unreachable(to) => self.group.unreachable(to),
            Input::CheckpointSent { to, arrived } => self.group.checkpoint_sent(to, arrived),
            Input::Propose { command, until, reply } => self.propose(command, until, reply),
            Input::Foreign { proposal, incarnation, reply } => {
                let Proposal { request, command } = proposal;
                let is_heard = self.may_hear(request.member, incarnation);
                // What is in the state already is as good as in the log.
                let is_known = self.group.leads() && self.state.answered().contains(request);
                let is_taken =
                    is_heard && (is_known || self.group.propose(request, command).is_ok());
                // Whoever asked may have gone.
                reply.send(is_taken).ok();
            }
            Input::Forwarded { request, leader, how } => match how {
                Forwarded::Taken => {}
                Forwarded::NotTaken => self.proposals.on_refused(request.number, leader),
                Forwarded::Unknown => self.proposals.on_lost(request.number, leader),
            },
            Input::Read { within, reply } => {
                let request = self.next_request();
                match self.group.read(request, ticks(within)) {
                    Ok(()) => drop(self.reads.insert(request.number, reply)),
                    Err(_unavailable) => drop(reply.send(false).ok()),
                }
            }
            Input::Change { change, reply } => {
                let request = self.next_request();
                match self.group.change(request, change) {
                    Ok(()) => drop(self.changes.insert(request.number, reply)),
                    Err(error) => drop(reply.send(Err(error.into()))),
                }
            }
            Input::Transfer { to, reply } => drop(reply.send(self.group.transfer(to))),
            Input::Checkpoint { reply } => {
                self.settle()?;
                self.checkpoint()?;
                reply.send(self.group.image().checkpoint.place.index).ok();
            }
        }
        Ok(())
    }

    /// Whether what this process says counts; an older one's is dropped and counted.
    fn may_hear(&mut self, member: u64, incarnation: u64) -> bool {
        if self.group.members().is_former(member) {
            self.shared.drop_for("removed-member");
            return false;
        }
        let known = self.state.roster().members().get(&member).map_or(0, |it| it.incarnation);
        let newest = self.incarnations.entry(member).or_default();
        *newest = known.max(*newest).max(incarnation);
        let is_newest = *newest == incarnation;
        if !is_newest {
            self.shared.drop_for("stale-incarnation");
        }
        is_newest
    }

    fn propose(&mut self, command: Vec<u8>, until: Instant, reply: Reply) {
        if PROPOSALS_MAX <= self.proposals.len() {
            return reply(Err(Error::Busy));
        }
        let number = self.next_request().number;
        let within = ticks(until.saturating_duration_since(Instant::now()));
        self.proposals.add(number, command, self.group.ticks() + within);
        self.replies.insert(number, reply);
        self.may_give = true;
        // With the others of its batch it is one write.
        if self.group.leads() {
            self.give_to_self();
        }
    }

    fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId { member: self.shared.me, number: self.requests }
    }

    fn tick(&mut self) -> Result<(), Error> {
        self.group.tick();
        self.settle()?;
        for (number, end) in self.proposals.on_tick(self.group.ticks()) {
            let error = match end {
                End::Unavailable => Error::Unavailable,
                End::Unknown => Error::Unknown,
            };
            self.reply(number, Err(error));
        }
        self.may_give = true;
        if self.group.ticks().is_multiple_of(LOOK_TICKS) && self.group.leads() {
            self.look_at_members()?;
        }
        Ok(())
    }

    /// Who joined by the state becomes a learner of the group, and a voter when it has caught up.
    fn look_at_members(&mut self) -> Result<(), Error> {
        let members = self.group.members();
        let joined = self.state.roster().members().iter().find(|(id, it)| {
            it.role == Role::Learner && !members.contains(**id) && !members.is_former(**id)
        });
        let joined = joined.map(|(id, _)| Change::AddLearner(*id));
        if let Some(change) = joined.or_else(|| self.group.promotion()) {
            let request = self.next_request();
            match self.group.change(request, change) {
                Ok(()) => tracing::info!(?change, "changing the members"),
                Err(error) => tracing::debug!(?change, %error, "cannot change the members yet"),
            }
            self.settle()?;
        }
        Ok(())
    }

    /// Gives proposals to whoever leads, if that is somebody else than before.
    fn give(&mut self) -> Result<(), Error> {
        let leadership = self.leadership();
        let is_new = *self.shared.leadership.borrow() != leadership;
        if !(self.may_give || is_new) {
            return Ok(());
        }
        self.may_give = false;
        let Some(leader) = leadership.leader else { return Ok(()) };
        if leader == self.shared.me {
            self.give_to_self();
            return self.settle();
        }
        let at = (leadership.term, leader);
        for (number, command) in self.proposals.to_give(at) {
            self.proposals.on_given(number, at);
            let request = RequestId { member: self.shared.me, number };
            self.transport.forward(at, Proposal { request, command });
        }
        Ok(())
    }

    fn give_to_self(&mut self) {
        let at = (self.group.term(), self.shared.me);
        for (number, command) in self.proposals.to_give(at) {
            let request = RequestId { member: self.shared.me, number };
            if self.group.propose(request, command).is_ok() {
                self.proposals.on_given(number, at);
            }
        }
    }

    /// Carries out steps until there are none, and a checkpoint if it is time for one.
    fn settle(&mut self) -> Result<(), Error> {
        loop {
            while let Some(step) = self.group.step() {
                self.carry_out(step)?;
            }
            if !self.group.is_checkpoint_due() {
                return Ok(());
            }
            self.group.checkpoint(encode_state(&self.state)?);
        }
    }

    fn checkpoint(&mut self) -> Result<(), Error> {
        if self.group.image().checkpoint.place.index < self.group.applied() {
            self.group.checkpoint(encode_state(&self.state)?);
        }
        self.settle()
    }

    fn carry_out(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Send(messages) => {
                for mut message in messages {
                    let state = wire::take_state(&mut message);
                    let (to, message) = (message.to, wire::encode(&message));
                    self.transport.send(Letter { to, message, state });
                }
            }
            Step::Persist(write) => {
                self.log.write(&write, self.group.image().last_after(&write))?
            }
            Step::Restore(checkpoint) => {
                if let Some(format) = unread_checkpoint(&checkpoint.state) {
                    return Err(Error::Unread { format });
                }
                let state = decode_state(&checkpoint.state)
                    .map_err(|error| self.damaged(format!("a checkpoint: {error}")))?;
                let member = self.shared.me;
                let is_in = |number| state.answered().contains(RequestId { member, number });
                for number in self.proposals.on_restored(is_in) {
                    self.reply(number, Err(Error::Unknown));
                }
                self.state = Arc::new(state);
            }
            Step::Apply(commands) => {
                for committed in commands {
                    self.apply(&committed)?;
                }
            }
            Step::Change(changed) => self.changed(&changed),
            Step::Reads(ended) => {
                // A read sees what was applied in the steps before this one.
                self.show();
                for (request, how) in ended {
                    if let Some(reply) = self.reads.remove(&request.number) {
                        reply.send(how == ReadEnd::Fresh).ok();
                    }
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, committed: &Committed) -> Result<(), Error> {
        let logged = decode_command(&committed.command, self.state.format())
            .map_err(|error| self.damaged(format!("entry {}: {error}", committed.place.index)))?;
        if let Logged::Early(format) = logged {
            self.shared.drop_for("early-format");
            let (member, index) = (committed.request.member, committed.place.index);
            tracing::warn!(format, member, index, "an entry of a format that is not active");
        }
        let request = committed.request;
        let state = Arc::make_mut(&mut self.state);
        let applied = state.apply_logged(request, &logged);
        if !FORMATS.reads(state.format()) {
            return Err(Error::Unread { format: state.format() });
        }
        if request.member == self.shared.me
            && let Some(applied) = applied
        {
            self.proposals.on_applied(request.number);
            self.answers.push((request.number, applied));
        }
        Ok(())
    }

    fn changed(&mut self, changed: &Changed) {
        let Changed { change, request, members, .. } = changed;
        Arc::make_mut(&mut self.state).change_members(*change);
        tracing::info!(?change, ?members, "the members are others");
        if request.member == self.shared.me
            && let Some(reply) = self.changes.remove(&request.number)
        {
            self.show();
            drop(reply.send(Ok(())));
        }
    }

    /// Shows what is so now, and then answers who waits for it.
    fn show(&mut self) {
        let is_new = !Arc::ptr_eq(&self.state, &self.shared.state.read().expect(UNPOISONED));
        if is_new {
            *self.shared.state.write().expect(UNPOISONED) = Arc::clone(&self.state);
        }
        let applied = self.group.applied();
        self.shared.applied.send_if_modified(|shown| std::mem::replace(shown, applied) != applied);
        self.show_leadership();
        self.show_vitals();
        for (number, applied) in std::mem::take(&mut self.answers) {
            self.reply(number, applied.map_err(Error::from));
        }
        let me = self.shared.me;
        if self.group.members().is_former(me) && self.shared.ended.borrow().is_none() {
            self.shared.ended.send_replace(Some(Ended::Removed));
        }
    }

    fn leadership(&self) -> Leadership {
        Leadership { term: self.group.term(), leader: self.group.leader() }
    }

    fn show_leadership(&mut self) {
        let leadership = self.leadership();
        let shown = &self.shared.leadership;
        shown.send_if_modified(|shown| std::mem::replace(shown, leadership) != leadership);
        self.led_since = match (self.group.leads(), self.led_since) {
            (false, _) => {
                for (_, reply) in std::mem::take(&mut self.changes) {
                    drop(reply.send(Err(Error::Unknown)));
                }
                None
            }
            (true, None) => Some(self.group.ticks()),
            (true, since) => since,
        };
        let unheard = self.led_since.map(|since| self.group.unheard(since)).unwrap_or_default();
        let time = |ticks: u64| TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
        let unheard = unheard.into_iter().map(|(id, ticks)| (id, time(ticks))).collect();
        *self.shared.unheard.lock().expect(UNPOISONED) = unheard;
    }

    fn show_vitals(&self) {
        let image = self.group.image();
        let Leadership { term, leader } = self.leadership();
        *self.shared.vitals.lock().expect(UNPOISONED) = Vitals {
            members: self.group.members().clone(),
            term,
            leader,
            first: image.base.index + 1,
            last: image.last().index,
            committed: self.group.committed(),
            applied: self.group.applied(),
            checkpoint: image.checkpoint.place.index,
            dropped: BTreeMap::new(),
        };
    }

    fn reply(&mut self, number: u64, ended: Result<Applied, Error>) {
        if let Some(reply) = self.replies.remove(&number) {
            reply(ended);
        }
    }

    /// Nobody is told anything any more by this member.
    fn fail_all(&mut self) {
        self.show();
        for (number, end) in self.proposals.on_tick(u64::MAX) {
            let error = if end == End::Unknown { Error::Unknown } else { Error::Closed };
            self.reply(number, Err(error));
        }
        self.reads.clear();
        self.changes.clear();
    }

    fn damaged(&self, reason: String) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }
}

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX >> 1)
}
