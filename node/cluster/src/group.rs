//! A pure core: one member of a raft group, and what has to be done next, in the order that makes
//! it safe.
//!
//! ```text
//! inputs    tick | receive | propose | campaign | checkpoint | checkpoint_sent
//! steps     Send -> Persist -> Send -> Restore | Apply -> Send -> Apply -> ...
//! ```
//!
//! The caller carries out each [`Step`] before it asks for the next, and gives no input before
//! there is none left. [`Step::Persist`] is carried out when it is synced: votes and answers leave
//! after it, commands are applied after it (Raft, figure 2; a process that answers first can vote
//! twice in one term after a power cut).

use std::collections::VecDeque;

use raft::eraftpb::{EntryType, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole};

use crate::image::{Checkpoint, Cut, Image, Place, Write, from_snapshot, place_of};

/// Ticks without a leader before an election: the least; the most is twice that. A tick is 50 ms.
pub const ELECTION_TICKS: usize = 10;

/// Whether the sender has to be told what became of a message.
#[must_use]
pub fn carries_checkpoint(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgSnapshot
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

/// Who proposed a command: a member, and its count of proposals since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId {
    /// The member.
    pub member: u64,
    /// Unique within the life of the member's process.
    pub number: u64,
}

impl RequestId {
    fn to_bytes(self) -> Vec<u8> {
        [self.member.to_le_bytes(), self.number.to_le_bytes()].concat()
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
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
}

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
        let raw = RawNode::new(&config, image, &silent).map_err(|error| error.to_string())?;
        let (stage, steps) = (Stage::Idle, VecDeque::new());
        Ok(Self { raw, stage, steps, limits, bytes: 0, draws: seed })
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
    }

    /// A message of another member. What it cannot use it ignores, as raft wants it.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn receive(&mut self, message: Message) {
        self.demand_idle();
        // Errors are of senders it does not know and of messages that only a member itself makes.
        drop(self.raw.step(message));
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

    /// Whether it is time for a checkpoint.
    #[must_use]
    pub fn is_checkpoint_due(&self) -> bool {
        let entries = self.applied() - self.image().checkpoint.place.index;
        self.limits.entries <= entries || self.limits.bytes <= self.bytes
    }

    /// Takes the state as it is after [`Group::applied`], to be written as a checkpoint.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn checkpoint(&mut self, state: Vec<u8>) {
        self.demand_idle();
        let index = self.applied();
        let raft = &self.raw.raft;
        let term = raft.raft_log.term(index).expect("what was applied last is in the log");
        let mut voters: Vec<u64> = raft.prs().conf().voters().ids().iter().collect();
        voters.sort_unstable();
        let base = index.saturating_sub(self.limits.trailing).max(self.image().base.index);
        let base_term = raft.raft_log.term(base).expect("a base at or above the old one");
        let write = Write {
            checkpoint: Some(Checkpoint { place: Place { term, index }, voters, state }),
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
                Stage::Finishing => self.raw.advance_apply(),
                Stage::Checkpointing(write) => self.raw.mut_store().carry_out(&write),
            }
        }
    }

    fn begin(&mut self) {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages());
        let snapshot = ready.snapshot();
        let checkpoint = (!snapshot.is_empty()).then(|| from_snapshot(snapshot));
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

    /// Leaders begin with an entry that has no command; it is nobody's.
    fn apply(&mut self, entries: Vec<raft::eraftpb::Entry>) {
        let committed: Vec<Committed> = entries
            .into_iter()
            .filter(|entry| entry.get_entry_type() == EntryType::EntryNormal)
            .filter_map(|entry| {
                let request = RequestId::of_bytes(&entry.context)?;
                Some(Committed { place: place_of(&entry), request, command: entry.data.to_vec() })
            })
            .collect();
        self.bytes += committed.iter().map(|it| it.command.len() as u64).sum::<u64>();
        if !committed.is_empty() {
            self.steps.push_back(Step::Apply(committed));
        }
    }

    fn demand_idle(&self) {
        let idle = self.steps.is_empty() && matches!(self.stage, Stage::Idle);
        assert!(idle && !self.raw.has_ready(), "an input before every step was carried out");
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
