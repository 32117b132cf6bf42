//! A pure core: one member of a raft group, and what has to be done next, in the order that makes
//! it safe.
//!
//! ```text
//! inputs    tick | receive | propose | change | read | transfer | campaign
//!           | checkpoint | checkpoint_sent | unreachable
//! steps     Send -> Persist -> Send -> Restore | Apply | Change -> Send -> Apply ... -> Reads
//! ```
//!
//! The caller carries out each [`Step`] before it asks for the next, and gives no input before
//! there is none left; then it may give several at once, whose entries are one write. [`Step::Persist`] is carried out when it is synced: votes and answers leave
//! after it, commands are applied after it (Raft, figure 2; a process that answers first can vote
//! twice in one term after a power cut).
//!
//! A change of the members takes effect where it is applied, and once: what a checkpoint holds of it
//! came into that in the same write (CLU-7). A disk that lost what its member acknowledged is found
//! by what the others still know of it ([`Forgot`], CLU-6).

mod membership;

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole};

use crate::image::{Checkpoint, Cut, Image, Place, Write, from_snapshot, place_of};
use crate::members::{Change, Members};
use crate::reads::{ReadEnd, Reads};

/// Ticks without a leader before an election: the least; the most is twice that. A tick is 50 ms.
pub const ELECTION_TICKS: usize = 10;

/// Whether the sender has to be told what became of a message.
#[must_use]
pub fn carries_checkpoint(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgSnapshot
}

/// Whether a message shows that its sender hears this member, too: one that asks for votes because
/// it hears nobody is as good as gone.
fn is_answer(message: &Message) -> bool {
    let kind = message.get_msg_type();
    matches!(kind, MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse)
}

/// Whether an entry changes who belongs to the group.
#[must_use]
pub fn changes_members(entry: &Entry) -> bool {
    entry.get_entry_type() == EntryType::EntryConfChange
}

/// When a group makes a checkpoint, and what it keeps behind it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands since the last one.
    pub entries: u64,
    /// Bytes of commands since the last one.
    pub bytes: u64,
    /// Entries kept behind a checkpoint, for members that are a little behind.
    pub trailing: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 64 << 20, trailing: 5_000 }
    }
}

/// Who asked for something: a member, and its count of requests. What was asked before a crash can
/// be answered after it, so a process begins above what every one before it may have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    /// The member.
    pub member: u64,
    /// Unique for this member, for ever.
    pub number: u64,
}

impl RequestId {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [self.member.to_le_bytes(), self.number.to_le_bytes()].concat()
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (member, number) = bytes.split_first_chunk::<8>()?;
        let number = number.try_into().ok()?;
        Some(Self { member: u64::from_le_bytes(*member), number: u64::from_le_bytes(number) })
    }
}

/// A command that the group has agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it is in the log.
    pub place: Place,
    /// Whose it is.
    pub request: RequestId,
    /// The command, as it was proposed.
    pub command: Vec<u8>,
}

/// A change of the members that the group has agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where it is in the log.
    pub place: Place,
    /// Whose it is.
    pub request: RequestId,
    /// What it was.
    pub change: Change,
    /// Who belongs to the group from now on.
    pub members: Members,
}

/// What has to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send these. What gets lost is sent again.
    Send(Vec<Message>),
    /// Make this durable, whole, before anything else.
    Persist(Write),
    /// The state is this checkpoint's from now on.
    Restore(Checkpoint),
    /// Apply these, in order.
    Apply(Vec<Committed>),
    /// The members are others from now on.
    Change(Changed),
    /// These reads have ended.
    Reads(Vec<(RequestId, ReadEnd)>),
}

/// This disk lacks what its member acknowledged, so it is another disk, or what it held was lost:
/// the member must stop, and may join again under a new id (CLU-6). Going on, it could vote twice
/// in a term, or let the group lose what was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this member acknowledged more than its disk holds; it has to join under a new id")]
pub struct Forgot;

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// This member does not lead, or has too much in flight: try again.
    #[error("this node does not lead the group, or has too many changes in flight")]
    Dropped,
}

#[derive(Debug)]
enum Stage {
    /// Inputs are taken.
    Idle,
    /// A write is out; the rest of its `Ready` follows.
    Persisting(Box<Ready>, Write),
    /// What was committed before the write is being applied.
    Applying(Box<Ready>),
    /// What the write has committed is being applied.
    Finishing,
    /// A checkpoint of our own is being written.
    Checkpointing(Write),
}

/// See the [module documentation](self).
pub struct Group {
    raw: RawNode<Image>,
    stage: Stage,
    steps: VecDeque<Step>,
    limits: Limits,
    /// Of commands since the last checkpoint.
    bytes: u64,
    draws: u64,
    /// As of the entry that was handed out last.
    members: Members,
    /// The index of that entry: none is handed out twice.
    handed: u64,
    reads: Reads,
    ticks: u64,
    /// At which tick each member has answered last.
    heard: BTreeMap<u64, u64>,
    /// Who led last, other than this member, and at which tick it was heard of as the leader.
    led: Option<(u64, u64)>,
    /// What was committed when a blank disk was first told so.
    found: Option<u64>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raft = &self.raw.raft;
        f.debug_struct("Group")
            .field("member", &raft.id)
            .field("term", &raft.term)
            .field("role", &raft.state)
            .finish_non_exhaustive()
    }
}

impl Group {
    /// A member that starts from what its disk holds; its first steps apply what is known to be
    /// committed. `seed` decides its election timeouts.
    ///
    /// # Errors
    ///
    /// What contradicts itself in the image.
    pub fn new(member: u64, image: Image, limits: Limits, seed: u64) -> Result<Self, String> {
        image.check()?;
        let config = Config {
            id: member,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: 1,
            applied: image.checkpoint.place.index,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 8 << 20,
            ..Config::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let (members, handed) = (image.checkpoint.members.clone(), image.checkpoint.place.index);
        let raw = RawNode::new(&config, image, &silent).map_err(|error| error.to_string())?;
        Ok(Self {
            raw,
            stage: Stage::Idle,
            steps: VecDeque::new(),
            limits,
            bytes: 0,
            draws: seed,
            members,
            handed,
            reads: Reads::default(),
            ticks: 0,
            heard: BTreeMap::new(),
            led: None,
            found: None,
        })
    }

    /// Who belongs to the group, as of [`Group::applied`].
    #[must_use]
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|id| *id != raft::INVALID_ID)
    }

    /// Whether this member leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The term it is in.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// What its disk holds, as far as writes were carried out.
    #[must_use]
    pub fn image(&self) -> &Image {
        self.raw.store()
    }

    /// What is known to be agreed on, up to which index.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// How often [`Group::tick`] was called.
    #[must_use]
    pub const fn ticks(&self) -> u64 {
        self.ticks
    }

    /// For how many ticks each other member has not answered, counted from tick `from` at the
    /// earliest: before it led, nobody had to answer it. Of who led before it, it has heard all the
    /// same.
    #[must_use]
    pub fn unheard(&self, from: u64) -> BTreeMap<u64, u64> {
        let others = self.members.voters().iter().chain(self.members.learners());
        let others = others.filter(|id| **id != self.raw.raft.id);
        let led = |id: &u64| self.led.filter(|led| led.0 == *id).map(|led| led.1);
        let since = |id: &u64| {
            let heard = self.heard.get(id).copied().unwrap_or_default();
            heard.max(led(id).unwrap_or(from))
        };
        others.map(|id| (*id, self.ticks.saturating_sub(since(id)))).collect()
    }

    /// The index of the last command that was applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.raw.raft.raft_log.applied
    }

    /// 50 ms have passed.
    ///
    /// # Panics
    ///
    /// As every input: when a step has not been carried out yet.
    pub fn tick(&mut self) {
        self.demand_idle();
        if self.raw.raft.election_elapsed == 0 {
            let spread = self.draw() % ELECTION_TICKS as u64;
            let spread = usize::try_from(spread).unwrap_or_default();
            self.raw.raft.set_randomized_election_timeout(ELECTION_TICKS + spread);
        }
        self.raw.tick();
        self.ticks += 1;
        let ended = self.reads.on_tick(self.ticks);
        self.end_reads(ended);
    }

    /// A message of another member. What it cannot use it ignores, as raft wants it, and all that
    /// comes from a former member. Who has a higher id than any member so far may have been added
    /// where this log does not reach yet, and is heard where raft demands that: as a leader or a
    /// candidate (Ongaro, section 4.1).
    ///
    /// # Errors
    ///
    /// [`Forgot`]: the member must stop.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn receive(&mut self, message: Message) -> Result<(), Forgot> {
        self.demand_idle();
        let id = self.raw.raft.id;
        if message.to != id || self.members.is_former(message.from) {
            return Ok(());
        }
        self.find(&message);
        if self.has_forgotten(&message) {
            return Err(Forgot);
        }
        if carries_checkpoint(&message) && from_snapshot(message.get_snapshot()).is_none() {
            return Ok(());
        }
        let from = message.from;
        if is_answer(&message) {
            self.heard.insert(from, self.ticks);
        }
        // Errors are of senders it does not know and of messages that only a member itself makes.
        drop(self.raw.step(message));
        if self.leader() == Some(from) {
            self.led = Some((from, self.ticks));
        }
        Ok(())
    }

    /// What became of a message that [carries a checkpoint](carries_checkpoint), always: until
    /// then its receiver is sent nothing else.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn checkpoint_sent(&mut self, to: u64, arrived: bool) {
        self.demand_idle();
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
    }

    /// A message to this member was lost on the way, as far as anybody knows.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn unreachable(&mut self, to: u64) {
        self.demand_idle();
        self.raw.report_unreachable(to);
    }

    /// Stands for election now, without waiting for its timeout.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn campaign(&mut self) {
        self.demand_idle();
        // A member that may not stand stays what it is.
        drop(self.raw.campaign());
    }

    /// Asks the group to agree on a command.
    ///
    /// # Errors
    ///
    /// [`NotProposed::Dropped`]. That it was taken says nothing: only [`Step::Apply`] does.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn propose(&mut self, request: RequestId, command: Vec<u8>) -> Result<(), NotProposed> {
        self.demand_idle();
        if !self.leads() {
            // A follower would forward it, and could not tell its fate.
            return Err(NotProposed::Dropped);
        }
        let proposed = self.raw.propose(request.to_bytes(), command);
        proposed.map_err(|_dropped| NotProposed::Dropped)
    }

    /// Whether it is time for a checkpoint: there is much behind the last one, or a member has
    /// joined that the last one does not know and therefore cannot begin with.
    #[must_use]
    pub fn is_checkpoint_due(&self) -> bool {
        let last = &self.image().checkpoint;
        let entries = self.applied() - last.place.index;
        let mut learners = self.members.learners().iter().filter(|_| self.leads());
        self.limits.entries <= entries
            || self.limits.bytes <= self.bytes
            || learners.any(|id| !last.members.contains(*id))
    }

    /// Takes the state as it is after [`Group::applied`], to be written as a checkpoint.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn checkpoint(&mut self, state: Vec<u8>) {
        self.demand_idle();
        // What is not written yet must not be in what is written now (CLU-7).
        assert!(!self.raw.has_ready(), "a checkpoint before what came last was carried out");
        let index = self.applied();
        let raft = &self.raw.raft;
        let term = raft.raft_log.term(index).expect("what was applied last is in the log");
        let base = index.saturating_sub(self.limits.trailing).max(self.image().base.index);
        let base_term = raft.raft_log.term(base).expect("a base at or above the old one");
        let write = Write {
            checkpoint: Some(Checkpoint {
                place: Place { term, index },
                members: self.members.clone(),
                state,
            }),
            cut: Cut::Through(Place { term: base_term, index: base }),
            entries: Vec::new(),
            // The commit that raft reports after a write is not written before the next one, and
            // a checkpoint ahead of it would break CLU-7.
            hard: Some(raft.hard_state()),
        };
        self.bytes = 0;
        self.steps.push_back(Step::Persist(write.clone()));
        self.stage = Stage::Checkpointing(write);
    }

    /// What has to be done next; whatever was asked for before has been done. `None`: it waits for
    /// an input.
    pub fn step(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            match std::mem::replace(&mut self.stage, Stage::Idle) {
                Stage::Idle => {
                    if !self.raw.has_ready() {
                        return None;
                    }
                    self.begin();
                }
                Stage::Persisting(ready, write) => self.persisted(ready, &write),
                Stage::Applying(ready) => {
                    let mut light = self.raw.advance_append(*ready);
                    self.send(light.take_messages());
                    self.apply(light.take_committed_entries());
                    self.stage = Stage::Finishing;
                }
                Stage::Finishing => {
                    self.raw.advance_apply();
                    let ended = self.reads.on_applied(self.applied());
                    self.end_reads(ended);
                }
                Stage::Checkpointing(write) => self.raw.mut_store().carry_out(&write),
            }
        }
    }

    fn begin(&mut self) {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages());
        for read in ready.take_read_states() {
            if let Some(request) = RequestId::of_bytes(&read.request_ctx) {
                self.reads.on_index(request, read.index);
            }
        }
        let ended = self.reads.on_leader((self.raw.raft.term, self.raw.raft.leader_id));
        self.end_reads(ended);
        let snapshot = ready.snapshot();
        let checkpoint = (!snapshot.is_empty())
            .then(|| from_snapshot(snapshot).expect("what is not ours was not received"));
        let cut = checkpoint.as_ref().map_or(Cut::Nothing, |it| Cut::All(it.place));
        let hard = ready.hs().cloned();
        let write = Write { checkpoint, cut, entries: ready.take_entries(), hard };
        if !write.is_empty() {
            self.steps.push_back(Step::Persist(write.clone()));
        }
        self.stage = Stage::Persisting(Box::new(ready), write);
    }

    fn persisted(&mut self, mut ready: Box<Ready>, write: &Write) {
        self.raw.mut_store().carry_out(write);
        self.send(ready.take_persisted_messages());
        if let Some(checkpoint) = &write.checkpoint {
            self.bytes = 0;
            self.members.clone_from(&checkpoint.members);
            self.handed = checkpoint.place.index;
            self.steps.push_back(Step::Restore(checkpoint.clone()));
        }
        self.apply(ready.take_committed_entries());
        self.stage = Stage::Applying(ready);
    }

    fn send(&mut self, messages: Vec<Message>) {
        if !messages.is_empty() {
            self.steps.push_back(Step::Send(messages));
        }
    }

    fn end_reads(&mut self, ended: Vec<(RequestId, ReadEnd)>) {
        if !ended.is_empty() {
            self.steps.push_back(Step::Reads(ended));
        }
    }

    /// Hands out what was committed, each entry once. Leaders begin with one that has no command;
    /// it is nobody's.
    fn apply(&mut self, entries: Vec<Entry>) {
        let mut commands = Vec::new();
        for entry in entries {
            if entry.index <= self.handed {
                continue;
            }
            self.handed = entry.index;
            let Some(request) = RequestId::of_bytes(&entry.context) else { continue };
            if changes_members(&entry) {
                self.hand_out(std::mem::take(&mut commands));
                self.apply_change(&entry, request);
            } else {
                let command = entry.data.to_vec();
                commands.push(Committed { place: place_of(&entry), request, command });
            }
        }
        self.hand_out(commands);
    }

    fn hand_out(&mut self, commands: Vec<Committed>) {
        self.bytes += commands.iter().map(|it| it.command.len() as u64).sum::<u64>();
        if !commands.is_empty() {
            self.steps.push_back(Step::Apply(commands));
        }
    }

    fn demand_idle(&self) {
        let idle = self.steps.is_empty() && matches!(self.stage, Stage::Idle);
        assert!(idle, "an input before every step was carried out");
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    const fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.draws;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests;
