//! What a machine does around the raft core, as node/cluster/src/cluster/driver.rs does it: ticks,
//! messages, and each step in its order, with a crash before or after any of them.

use cluster::{
    Change, Command, Cut, ELECTION_TICKS, MemberChange, Message, ReadEnd, RequestId, Role, Step,
    carries_checkpoint,
};

use super::machine::{Mind, decode, decode_state, encode, encode_state};
use super::{Event, Fate, FleetEvent, TICK, World};
use crate::raft_sim::judge::number_of;
use crate::raft_sim::member::{Asked, AskedRead, Process};

/// Whether a step makes a checkpoint of another member durable.
fn installs(step: &Step) -> bool {
    matches!(step, Step::Persist(write) if matches!(write.cut, Cut::All(_)))
}

impl World {
    /// The member's process starts from its disk.
    pub(super) fn start_member(&mut self, home: usize) -> Result<(), String> {
        let (limits, seed) = (self.fleet.limits, self.plan.seed);
        let machine = &mut self.fleet.machines[home];
        machine.starts += 1;
        let state = decode_state(&machine.raft.disk.checkpoint.state)?;
        let ticked = self.now;
        machine.raft.start(limits, seed)?;
        machine.mind = Some(Mind { state, ticked, ..Mind::default() });
        let process = self.process(home);
        self.after(0, TICK, Event::Fleet(FleetEvent::Tick { home, process }));
        self.steps(home)
    }

    /// Gives the member an input, and carries out what follows from it.
    pub(super) fn input(
        &mut self,
        home: usize,
        give: impl FnOnce(&mut Process),
    ) -> Result<(), String> {
        match &mut self.fleet.machines[home].raft.process {
            Some(process) => give(process),
            None => return Ok(()),
        }
        self.steps(home)
    }

    pub(super) fn tick(&mut self, home: usize) -> Result<(), String> {
        let process = self.process(home);
        self.at(self.now + TICK, Event::Fleet(FleetEvent::Tick { home, process }));
        let Some(mind) = &mut self.fleet.machines[home].mind else { return Ok(()) };
        let due = 1 + (self.now - mind.ticked) / TICK;
        mind.ticked = self.now;
        // After a pause, one election timeout of ticks at the most.
        for _tick in 1..due.clamp(2, ELECTION_TICKS as u64 + 1) {
            self.input(home, |process| {
                process.ticks += 1;
                process.group.tick();
            })?;
            self.demand_reads_in_time(home)?;
        }
        if self.network_draw(400) == 0 || self.bug == Some(crate::sim::Bug::SentBeforeSync) {
            let fleet = &mut self.fleet;
            fleet.machines[home].raft.sync(&mut fleet.judge)?;
        }
        let Some(process) = &self.fleet.machines[home].raft.process else { return Ok(()) };
        if process.ticks.is_multiple_of(4) && process.group.leads() {
            self.look_at_members(home)?;
        }
        self.say_started(home)?;
        self.look_back(home)?;
        self.fetch_missing(home);
        self.place(home)
    }

    fn network_draw(&mut self, below: u64) -> u64 {
        self.fleet.network.draw(below)
    }

    /// CLU-5, by the clock of the member that was asked.
    fn demand_reads_in_time(&self, home: usize) -> Result<(), String> {
        let Some(process) = &self.fleet.machines[home].raft.process else { return Ok(()) };
        match process.reads.values().find(|it| it.until < process.ticks) {
            Some(late) => Err(format!("CLU-5: {late:?} has not ended at tick {}", process.ticks)),
            None => Ok(()),
        }
    }

    /// Who joined by the state becomes a learner of the group, and a voter when it has caught up.
    fn look_at_members(&mut self, home: usize) -> Result<(), String> {
        let machine = &mut self.fleet.machines[home];
        let (Some(process), Some(mind)) = (&mut machine.raft.process, &machine.mind) else {
            return Ok(());
        };
        let members = process.group.members();
        let joined = mind.state.roster().members().iter().find(|(id, it)| {
            it.role == Role::Learner && !members.contains(**id) && !members.is_former(**id)
        });
        let joined = joined.map(|(id, _)| Change::AddLearner(*id));
        let Some(change) = joined.or_else(|| process.group.promotion()) else { return Ok(()) };
        let (id, request) = (machine.raft.id, process.next_request(machine.raft.id));
        let begun = process.group.change(request, change).is_ok();
        if let (true, Change::Promote(learner)) = (begun, change)
            && let (Some(leader), Some(learner)) =
                (self.fleet.home_of(id), self.fleet.home_of(learner))
        {
            let fleet = &mut self.fleet;
            let (leader, disk) = (&fleet.machines[leader].raft.disk, &fleet.machines[learner].raft);
            fleet.judge.promoted(disk.id, leader, &disk.disk)?;
        }
        self.steps(home)
    }

    /// A process that has started says so until the state knows, and that it is ready when it has what
    /// it is to run.
    fn say_started(&mut self, home: usize) -> Result<(), String> {
        let machine = &self.fleet.machines[home];
        let (id, incarnation) = (machine.raft.id, machine.starts);
        let (Some(mind), Some(process)) = (&machine.mind, &machine.raft.process) else {
            return Ok(());
        };
        let known = mind.state.roster().members().get(&id).map(|it| it.incarnation);
        let is_news = known.is_some_and(|known| known < incarnation);
        if is_news && process.ticks.is_multiple_of(10) {
            let (address, version) = (String::new(), String::new());
            let change = MemberChange::Start { address, incarnation, version };
            self.propose(home, &Command::Member { member: id, change })?;
            return Ok(());
        }
        let has_all =
            mind.used.is_some() && (mind.state.apps().is_empty() || !machine.packages.is_empty());
        let is_late = mind.state.is_starting(id) && has_all && process.ticks.is_multiple_of(3);
        if is_late && known == Some(incarnation) {
            self.propose(home, &Command::Ready { member: id })?;
        }
        Ok(())
    }

    /// Asks the group to agree on a command, through whoever this member takes for the leader.
    pub(super) fn propose(
        &mut self,
        home: usize,
        command: &Command,
    ) -> Result<Option<RequestId>, String> {
        let machine = &mut self.fleet.machines[home];
        let id = machine.raft.id;
        let Some(process) = &mut machine.raft.process else { return Ok(None) };
        let Some(leader) = process.group.leader() else { return Ok(None) };
        self.fleet.numbers += 1;
        let number = self.fleet.numbers;
        let bytes = encode(number, command);
        let request = process.next_request(id);
        let before = self.fleet.judge.acknowledged().len();
        process.asked.insert(request, Asked { number, before });
        if leader == id {
            process.group.propose(request, bytes).ok();
            self.steps(home)?;
        } else if let Some(to) = self.fleet.home_of(leader)
            && self.carries(home, to)
        {
            let event = FleetEvent::Forward { home: to, request, command: bytes };
            self.after(200, 2_000, Event::Fleet(event));
        }
        Ok(Some(request))
    }

    /// A command of another member, unless a later process of that is known.
    pub(super) fn take_forwarded(
        &mut self,
        home: usize,
        request: RequestId,
        command: Vec<u8>,
    ) -> Result<(), String> {
        let Some(mind) = &self.fleet.machines[home].mind else { return Ok(()) };
        let known = mind.state.roster().members().get(&request.member);
        if known.is_some_and(|it| request.number >> 32 < it.incarnation) {
            return Ok(());
        }
        self.input(home, |process| {
            // Whoever asked asks again.
            process.group.propose(request, command).ok();
        })
    }

    /// Asks for a read by read index.
    pub(super) fn read(&mut self, home: usize, within: u64) -> Result<Option<RequestId>, String> {
        let (before, floor) = (self.fleet.judge.acknowledged().len(), self.fleet.judge.read_at());
        let machine = &mut self.fleet.machines[home];
        let id = machine.raft.id;
        let Some(process) = &mut machine.raft.process else { return Ok(None) };
        let request = process.next_request(id);
        let taken = process.group.read(request, within).is_ok();
        if taken {
            let until = process.ticks + within;
            process.reads.insert(request, AskedRead { before, floor, until });
        }
        self.steps(home)?;
        Ok(taken.then_some(request))
    }

    /// A process asks what one before it ran, until it is told.
    fn look_back(&mut self, home: usize) -> Result<(), String> {
        let machine = &self.fleet.machines[home];
        let (Some(mind), Some(process)) = (&machine.mind, &machine.raft.process) else {
            return Ok(());
        };
        let waits = mind.asks.is_some_and(|it| process.reads.contains_key(&it));
        if mind.used.is_some() || waits {
            return Ok(());
        }
        let asks = self.read(home, 10)?;
        if let Some(mind) = &mut self.fleet.machines[home].mind
            && asks.is_some()
        {
            mind.asks = asks;
        }
        Ok(())
    }

    /// Carries out what the member has to do, unless it crashes on the way.
    pub(super) fn steps(&mut self, home: usize) -> Result<(), String> {
        loop {
            let Some(process) = &mut self.fleet.machines[home].raft.process else { return Ok(()) };
            let Some(step) = process.group.step() else {
                if !process.group.is_checkpoint_due() {
                    break;
                }
                self.make_checkpoint(home);
                continue;
            };
            self.note_step(home, &step);
            let installs = installs(&step);
            if self.strikes(installs) {
                return self.crash_machine(home, true);
            }
            self.carry_out_step(home, step)?;
            if self.strikes(installs) {
                return self.crash_machine(home, true);
            }
        }
        let machine = &self.fleet.machines[home];
        let id = machine.raft.id;
        if let Some(process) = machine.raft.process.as_ref().filter(|it| it.group.leads()) {
            self.fleet.judge.leads(id, process.group.term(), process.group.image())?;
            if self.fleet.heir == Some(id) {
                self.fleet.heir = None;
                self.fleet.life.transfers += 1;
            }
        }
        Ok(())
    }

    fn make_checkpoint(&mut self, home: usize) {
        let machine = &mut self.fleet.machines[home];
        let (Some(process), Some(mind)) = (&mut machine.raft.process, &machine.mind) else {
            return;
        };
        let state = encode_state(&process.state, &mind.state);
        process.group.checkpoint(state);
    }

    /// Whether a crash strikes here; more often where a checkpoint is installed, which is rare.
    fn strikes(&mut self, installs: bool) -> bool {
        !self.healed && self.faults.draw(if installs { 12 } else { 6_000 }) == 0
    }

    fn note_step(&mut self, home: usize, step: &Step) {
        let text = match step {
            Step::Send(messages) => (0, messages.len() as u64),
            Step::Persist(write) => (1, write.entries.len() as u64),
            Step::Restore(checkpoint) => (2, checkpoint.place.index),
            Step::Apply(commands) => (3, commands.last().map_or(0, |it| it.place.index)),
            Step::Change(changed) => (4, changed.place.index),
            Step::Reads(ended) => (5, ended.len() as u64),
        };
        self.note(&(home, text));
    }

    fn carry_out_step(&mut self, home: usize, step: Step) -> Result<(), String> {
        match step {
            Step::Send(messages) => {
                messages.into_iter().for_each(|message| self.send(home, message));
            }
            Step::Persist(write) => {
                let (bug, fleet) = (self.bug.and_then(crate::sim::Bug::of_raft), &mut self.fleet);
                fleet.machines[home].raft.write(&write, bug, &mut fleet.judge)?;
            }
            Step::Restore(checkpoint) => {
                let fleet = &mut self.fleet;
                fleet.life.installs += 1;
                fleet.judge.restored(checkpoint.place.index, &checkpoint.state)?;
                let state = decode_state(&checkpoint.state)?;
                fleet.roll.restored(checkpoint.place.index, &state)?;
                let machine = &mut fleet.machines[home];
                let process = machine.raft.process.as_mut().expect("it takes a step");
                process.restore(&checkpoint.state);
                machine.mind.as_mut().expect("it takes a step").state = state;
                self.wake(home);
            }
            Step::Change(changed) => {
                let first = self.fleet.judge.changed(&changed)?;
                let mind = self.fleet.machines[home].mind.as_mut().expect("it takes a step");
                mind.state.change_members(changed.change);
                self.fleet.roll.changed(changed.place.index, &mind.state)?;
                if first {
                    self.on_changed(changed.change);
                }
                self.wake(home);
            }
            Step::Reads(ended) => self.end_reads(home, ended)?,
            Step::Apply(commands) => {
                for committed in commands {
                    self.fleet.judge.applied(&committed)?;
                    let command = decode(&committed.command)?;
                    let machine = &mut self.fleet.machines[home];
                    let process = machine.raft.process.as_mut().expect("it takes a step");
                    process.apply(&committed.command)?;
                    let asked = process.asked.remove(&committed.request);
                    let mind = machine.mind.as_mut().expect("it takes a step");
                    let applied = mind.state.apply_once(committed.request, &command);
                    let applied = applied.ok_or("RS-13: a request was applied before")?;
                    let (index, is_done) = (committed.place.index, applied.is_ok());
                    let first = self.fleet.roll.applied(index, &command, is_done, &mind.state)?;
                    if first {
                        self.on_agreed(home, &command);
                    }
                    if asked.is_some() {
                        self.fleet.judge.acknowledge(number_of(&committed.command));
                        self.on_acknowledged(&command, is_done)?;
                    }
                }
                self.wake(home);
            }
        }
        Ok(())
    }

    fn end_reads(&mut self, home: usize, ended: Vec<(RequestId, ReadEnd)>) -> Result<(), String> {
        for (request, end) in ended {
            let machine = &mut self.fleet.machines[home];
            let process = machine.raft.process.as_mut().expect("it takes a step");
            let asked = process.reads.remove(&request).ok_or("CLU-5: a read ended twice")?;
            if end != ReadEnd::Fresh {
                continue;
            }
            self.fleet.judge.answered(&asked, process.group.applied(), &process.numbers)?;
            self.fleet.life.reads += 1;
            let (id, mind) = (machine.raft.id, machine.mind.as_mut().expect("it takes a step"));
            if mind.asks == Some(request) && mind.used.is_none() {
                let shards = mind.state.shards().iter();
                let mine = shards.filter(|(_, it)| it.owner == Some(id));
                mind.used = Some(mine.map(|(shard, it)| (*shard, it.epoch)).collect());
                self.wake(home);
            }
        }
        Ok(())
    }

    /// A message goes to another machine, if there is one and the network has no other plans.
    fn send(&mut self, home: usize, message: Message) {
        let process = self.process(home);
        let to = message.to;
        let fate = if self.healed { 99 } else { self.network_draw(100) };
        let target = self.fleet.home_of(to).filter(|_| 2 <= fate);
        let slow = fate < 4;
        let delay = 200 + self.network_draw(if slow { 200_000 } else { 2_500 });
        let Some(target) = target else {
            let fate = match carries_checkpoint(&message) {
                true => Fate::Checkpoint { arrived: false },
                false => Fate::Unreachable,
            };
            let event = FleetEvent::Fate { home, process, to, fate };
            return self.at(self.now + 2_000, Event::Fleet(event));
        };
        if fate == 4 {
            let again = FleetEvent::Message { home: target, message: Box::new(message.clone()) };
            self.at(self.now + 3 * delay, Event::Fleet(again));
        }
        let event = FleetEvent::Message { home: target, message: Box::new(message) };
        self.at(self.now + delay, Event::Fleet(event));
    }

    pub(super) fn receive(&mut self, home: usize, message: Message) -> Result<(), String> {
        let sender = self.fleet.home_of(message.from);
        let arrives = sender.is_none_or(|sender| self.carries(sender, home))
            && self.fleet.machines[home].raft.id == message.to
            && self.fleet.machines[home].is_up();
        if let Some(sender) = sender {
            let fate = match (carries_checkpoint(&message), arrives) {
                (true, arrived) => Some(Fate::Checkpoint { arrived }),
                (false, false) => Some(Fate::Unreachable),
                (false, true) => None,
            };
            if let Some(fate) = fate {
                let (process, to) = (self.process(sender), message.to);
                let event = FleetEvent::Fate { home: sender, process, to, fate };
                self.at(self.now + 1_000, Event::Fleet(event));
            }
        }
        if !arrives {
            return Ok(());
        }
        let mut heard = Ok(());
        self.input(home, |process| heard = process.group.receive(message))?;
        let id = self.fleet.machines[home].raft.id;
        heard.map_err(|forgot| format!("CLU-6: {id}: {forgot}"))
    }

    /// The machine looks at what it should run, soon.
    pub(super) fn wake(&mut self, home: usize) {
        let process = self.process(home);
        let Some(mind) = &mut self.fleet.machines[home].mind else { return };
        if !std::mem::replace(&mut mind.wakes, true) {
            self.after(20, 300, Event::Fleet(FleetEvent::Converge { home, process }));
        }
    }
}
