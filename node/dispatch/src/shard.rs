//! A pure core: turns the records of one shard into invocations, retries, dead letters and
//! commits.
//!
//! A [`ShardDispatch`] lives as long as one assignment of one shard. The shell feeds it inputs
//! with the current time and carries out the commands it gives back. Nothing here awaits, spawns,
//! logs or reads a clock, so a test or the simulator plays an hour of failures in a millisecond.
//!
//! ```text
//!   bus ── on_fetched ──▶ ┌───────────────┐ ─▶ Invoke       ── worker pool
//!  pool ── on_outcome ──▶ │ ShardDispatch │ ─▶ Gather       ┐
//!   bus ── on_committed ▶ │               │ ─▶ DeadLetter   ├─ bus: one commit
//! clock ── on_timeout ──▶ │               │ ─▶ Park, Unpark │
//!   bus ── on_loaded ───▶ └───────────────┘ ─▶ Commit       ┘
//!                                            ─▶ Load         ── bus: the park topic
//! ```
//!
//! # How to drive it
//!
//! 1. [`new`](ShardDispatch::new) with the positions that the bus recovered. A partition without
//!    one starts `fresh`: its first position is committed at once.
//! 2. After **every** input, [`poll_command`](ShardDispatch::poll_command) until `None`, and carry
//!    the commands out in order. The shell keeps one commit in the making: `Gather` adds the
//!    outputs of the kept records of that invocation's answer to it, `DeadLetter` adds a dead
//!    letter, `Commit` closes it and sends it off; whatever is gathered later belongs to the next
//!    one. `CommitAgain` sends the same commit once more.
//! 3. While [`fetch_bytes`](ShardDispatch::fetch_bytes) are wanted, fetch and give each batch to
//!    [`on_fetched`](ShardDispatch::on_fetched), partitions in any order, batches of a partition
//!    in theirs. A batch is never refused; what does not fit the window waits inside.
//! 4. Run each `Invoke` on the records of [`records`](ShardDispatch::records) (look at them with
//!    [`record`](ShardDispatch::record)) and report [`on_outcome`](ShardDispatch::on_outcome). An
//!    output that is refused makes its record [`End::Failed`](crate::End) before the report. The
//!    answer may be dropped once the commands that follow the report are carried out.
//!    Envelopes of parked records (`Park`) are gathered alike, and tombstones (`Unpark`) for behind
//!    all of them, each in the order in which they are given; `Load` reads records back.
//! 5. Report each `Commit` with [`on_committed`](ShardDispatch::on_committed) or
//!    [`on_commit_failed`](ShardDispatch::on_commit_failed), or
//!    [`on_outputs_refused`](ShardDispatch::on_outputs_refused) before it is sent again.
//! 6. Call [`on_timeout`](ShardDispatch::on_timeout) at [`next_timeout`](ShardDispatch::next_timeout),
//!    asked after every input.
//!
//! Late, early and doubled inputs are legal. A [`RecordId`] is valid from the `Invoke` or
//! `DeadLetter` that names it until the `Commit` that settles its record is reported durable.
//!
//! # What it decides
//!
//! **Order.** A record's token (hash of its key, or its partition) maps it to a strand; a strand
//! runs one batch at a time, a batch gathers from the idle strands with the oldest records. A
//! token with a failed record is held: its later records wait behind the failed one, the rest of
//! the strand goes on. So it does while a batch that failed runs in pieces: they claim the tokens of
//! their records, and no strand.
//!
//! **Failures.** A failed record backs off and is tried again until it is out of attempts or too
//! old; then it is a dead letter. A batch that fails as a whole is halved until the bad record
//! stands alone, and such a record is tried again without any that has not failed. What is nobody's fault (no capacity) is run again after a pause.
//!
//! **Filters.** What is unwanted in a batch is known when it comes: it is settled where it would
//! have been let in, takes no room, and goes with the next commit, or with one of its own when none
//! comes within a second.
//!
//! **Parking.** A token that holds too much ([`ParkLimits`](crate::ParkLimits)) is parked: envelopes
//! of its records go into the park topic by the commit that settles them in the position, and so do
//! its later records, until all of them are settled. They are read back when they are due, from the
//! front of the token, and their tombstones are in the commits that settle them.
//!
//! **Commits.** One is in flight, the next gathers meanwhile. The positions of a commit count the
//! records whose outputs and dead letters it carries, and no others.
//!
//! Invariants, checked by the model test and by the simulator:
//!
//! - **SD-1** a record that was let in is queued, in flight, held, parked, or in a commit: exactly
//!   one, but for a parked one in flight.
//! - **SD-2** a report of an invocation or commit that is over changes nothing.
//! - **SD-3** attempts of one record follow one another, and never exceed `attempts_max`.
//! - **SD-4** a record is settled by the commit that carries its outputs or its dead letter; the
//!   same commit is tried until it is durable, and none passes it. Only a dead letter may take the
//!   place of outputs that the bus refuses for good.
//! - **SD-5** outputs of a token are gathered in the order of its records, and no two invocations
//!   run records of one token.
//! - **SD-6** records, invocations and commits in flight stay within their limits; invocations also
//!   within the [`width`](ShardDispatch::on_width) that they have when one starts.
//! - **SD-7** neither halving a batch nor a failure that is nobody's costs an attempt.
//! - **SD-8** an unwanted record is never run; it is settled by one commit, and holds up nothing.
//!
//! Those of records that may have ended a node, NK-1 to NK-7, are in suspects.rs and shard/doubts.rs.
//!
//! What it leaves out: attempts of records that are not parked do not outlive the process, but for
//! those that the process did not outlive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bus::{Epoch, Offset, Position, RecordBatch, Timestamp};

use crate::circuit::Circuit;
use crate::command::{
    Blame, Command, CommitFailure, CommitId, Counters, DeadLetter, DispatchConfig, InvocationId,
    Outcome, StopReason, Wait,
};
use crate::commits::{Commits, Done};
use crate::hold::{Company, Holds, Retry};
use crate::offset_tracker::OffsetTracker;
use crate::records::{RecordId, RecordRef, Records};
use crate::retry::{Jitter, backoff_bound};
use crate::strands::{Gathered, Room, Strands};
use crate::suspects::{NODE_ENDED, Suspicions, Verdict};
use crate::token::{Order, Tokens};
use crate::unwanted::Unwanted;

mod admission;
mod circuits;
mod doubts;
mod endings;
mod filtered;
#[cfg(test)]
mod killers;
mod legacy;
#[cfg(test)]
mod model;
mod parked;
#[cfg(test)]
mod parked_killers;
mod pieces;
mod standing;
mod suspected;
#[cfg(test)]
mod tests;
mod width;

use doubts::Doubts;
pub use legacy::Legacy;
pub use standing::Standing;

/// Pauses after a commit that failed and after a want of capacity: first and longest bound.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The least and the most that one fetch asks for: a batch, and a handful.
const FETCH_BYTES_MIN: usize = 64 << 10;
const FETCH_BYTES_MAX: usize = 1 << 20;

/// Where a shard goes on in one of its partitions.
#[derive(Clone, Debug)]
pub struct PartitionStart {
    /// The position.
    pub position: Position,
    /// No position was ever committed: this one is, before anything else.
    pub fresh: bool,
    /// Where the log ended when the shard started.
    pub end: Offset,
}

/// What a shard is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Working, or ready to.
    Running,
    /// Held up, and trying again by itself.
    Waiting(Wait),
    /// Told to pause.
    Paused,
    /// Told to finish.
    Draining,
    /// Over.
    Stopped(StopReason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    Draining,
    Drained,
    Stopped(StopReason),
}

/// Records that run as one batch, and what they keep others of their tokens back by.
#[derive(Debug)]
struct Part {
    records: Vec<RecordId>,
    /// Strands that it keeps busy. None for a piece of a batch, which claims the tokens of its
    /// records: it may wait and run for long.
    strands: Vec<u16>,
    is_piece: bool,
    /// It may take its instance with it: part of what failed as a whole.
    is_risky: bool,
    /// Whether it may have records that a token is held for.
    retries: bool,
}

impl Part {
    /// Whether it was gathered from risky records that are tried again.
    const fn is_of_risky(&self) -> bool {
        self.is_risky && self.retries && !self.is_piece
    }
}

/// Parts of one failed batch that must run one after the other.
type Lineage = VecDeque<Part>;

/// A part that runs, and what must wait for it.
#[derive(Debug)]
struct Invocation {
    part: Part,
    rest: Lineage,
    started_at: Instant,
}

/// A fetched batch, admitted up to `cursor`.
#[derive(Debug)]
struct Backlog {
    partition: u16,
    chunk: u32,
    cursor: u32,
    unwanted: Option<Unwanted>,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct ShardDispatch {
    config: DispatchConfig,
    epoch: Epoch,
    tokens: Tokens,
    jitter: Jitter,
    /// One moment on both clocks: ages of records are told by the second.
    clock: (Instant, Timestamp),
    trackers: Vec<OffsetTracker>,
    records: Records,
    strands: Strands,
    /// Invocations at a time, for now.
    width: usize,
    holds: Holds,
    /// Parked records that are not in memory; less than none while a copy of one is.
    out: isize,
    /// Records with an envelope that does not count (PK-4): index of the partition, offset.
    untold: BTreeSet<(u32, Offset)>,
    backlog: VecDeque<Backlog>,
    /// What may have ended a node.
    suspicions: Suspicions,
    doubts: Doubts,
    /// What a fetch asks for.
    fetch_bytes: usize,
    /// Parts that wait for an invocation, to run before all else.
    lineages: VecDeque<Lineage>,
    running: BTreeMap<InvocationId, Invocation>,
    commits: Commits,
    /// Whether, and how many records, may be tried.
    circuit: Circuit,
    /// No invocation starts: the last ones found no capacity.
    wait: Option<Wait>,
    /// How often in a row.
    waits: u32,
    /// When a batch that could be fuller starts anyway.
    linger_until: Option<Instant>,
    /// How many risky records are tried together: one after such a batch failed as a whole, twice
    /// as many after each that did not. Among bad ones, halving costs more than the batch saves.
    risky_records_max: usize,
    /// When filtered records get a commit of their own.
    filtered_until: Option<Instant>,
    paused: bool,
    mode: Mode,
    invocations: u64,
    counters: Counters,
    commands: VecDeque<Command>,
}

impl ShardDispatch {
    /// Starts work on a shard that was just assigned at `epoch`. `seed` decides jitter and
    /// strands; `now` and `wall` are the same moment on two clocks.
    ///
    /// # Panics
    ///
    /// When there are 65,535 partitions or more.
    #[must_use]
    pub fn new(
        config: DispatchConfig,
        epoch: Epoch,
        partitions: &[PartitionStart],
        seed: u64,
        now: Instant,
        wall: Timestamp,
    ) -> Self {
        let tokens = Tokens::new(config.order, seed, partitions.len(), config.invocations_max);
        let trackers = partitions
            .iter()
            .map(|start| OffsetTracker::resume(&start.position, config.window.span))
            .collect();
        let mut shard = Self {
            epoch,
            tokens,
            jitter: Jitter::new(seed),
            clock: (now, wall),
            trackers,
            records: Records::default(),
            strands: Strands::new(tokens.strands()),
            width: config.invocations_max.get(),
            holds: Holds::new(config.order != Order::Partition, config.park),
            out: 0,
            untold: BTreeSet::new(),
            backlog: VecDeque::new(),
            suspicions: Suspicions::new(
                partitions,
                config.window.records.get(),
                config.retry.attempts_max.get(),
            ),
            doubts: Doubts::default(),
            fetch_bytes: FETCH_BYTES_MIN,
            lineages: VecDeque::new(),
            running: BTreeMap::new(),
            commits: Commits::default(),
            circuit: Circuit::new(config.circuit.clone()),
            wait: None,
            waits: 0,
            linger_until: None,
            risky_records_max: 1,
            filtered_until: None,
            paused: false,
            mode: Mode::Running,
            invocations: 0,
            counters: Counters::default(),
            commands: VecDeque::new(),
            config,
        };
        for (index, start) in (0..).zip(partitions) {
            if start.fresh {
                shard.commits.touch(index);
            }
        }
        shard.commit_next();
        shard
    }

    /// Whether there is room for records. Ask before every fetch.
    #[must_use]
    pub fn wants_records(&self) -> bool {
        let window = self.config.window;
        self.mode == Mode::Running
            && !self.paused
            && self.backlog.is_empty()
            && self.records.len() < window.records.get()
            && self.records.bytes() < window.bytes.get()
            && self.trackers.iter().all(OffsetTracker::has_room)
    }

    /// How many bytes to fetch next, where the node has memory for `room` more of them; 0 is none.
    /// A shard that holds little may always fetch a little, so that none waits for the
    /// others; the first fetches are small, because a node's shards start at the same moment.
    #[must_use]
    pub fn fetch_bytes(&self, room: usize) -> usize {
        if !self.wants_records() {
            return 0;
        }
        let least = if self.records.bytes() < FETCH_BYTES_MIN { FETCH_BYTES_MIN } else { 0 };
        room.min(self.fetch_bytes).max(least)
    }

    /// Bytes of the batches held.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.records.bytes()
    }

    /// Takes a batch of the partition with this index.
    pub fn on_fetched(&mut self, now: Instant, partition: u32, batch: RecordBatch) {
        self.on_filtered(now, partition, batch, None);
    }

    /// Takes the end of an invocation (SD-2: whoever waits for it).
    pub fn on_outcome(&mut self, now: Instant, id: InvocationId, outcome: Outcome) {
        if self.is_stopped() {
            return;
        }
        let Some(invocation) = self.running.remove(&id) else { return };
        let ran = !matches!(outcome, Outcome::Failed { blame: Blame::Nobody, .. });
        if ran {
            self.outlived(&invocation.part.records);
        }
        self.note_ends(now, id, &invocation.part, &outcome);
        match outcome {
            Outcome::Failed { blame: Blame::Nobody, code, message } => {
                self.replay(now, invocation, code, message);
            }
            Outcome::Failed { blame: Blame::Batch, code, message } => {
                self.waits = 0;
                self.whole_batch_failed(now, id, invocation, (code, message));
            }
            Outcome::Ended { exceptions, output_bytes } => {
                self.waits = 0;
                self.ended(now, id, invocation, exceptions, output_bytes);
            }
        }
        self.proceed(now);
    }

    /// Takes the news that a commit is durable, and where the first of its envelopes lies in
    /// the park topic, if it had any.
    pub fn on_committed(&mut self, now: Instant, id: CommitId, parked_at: Option<Offset>) {
        if self.is_stopped() {
            return;
        }
        let Some(Done { records, filtered, parked }) = self.commits.committed(id) else { return };
        self.suspicions.committed(now, id);
        self.counters.commits += 1;
        self.counters.settled += records.len() as u64 + filtered;
        self.are_parked(&parked, parked_at);
        for record in records {
            self.records.release(record);
        }
        self.proceed(now);
    }

    /// Takes the news that a commit is not durable. One that may succeed later is tried again
    /// until it does, and nothing passes it (SD-4).
    pub fn on_commit_failed(&mut self, now: Instant, id: CommitId, failure: CommitFailure) {
        if self.is_stopped() {
            return;
        }
        match failure {
            CommitFailure::Final(reason) if self.commits.is_in_flight(id) => self.stop(reason),
            CommitFailure::Final(_) => {}
            CommitFailure::Retryable { code, message } => {
                let jitter = &mut self.jitter;
                self.commits.failed(id, |attempt| {
                    let pause = pause(jitter, attempt);
                    Wait { code, message, until: now + pause }
                });
            }
        }
    }

    /// Takes the news that the bus refuses outputs of these records of the commit in flight (index
    /// of the partition, offset), and always will. The shell sends the commit again with a dead
    /// letter for each in place of its outputs; none when it is not the one in flight (SD-2), or
    /// has not all of these records.
    pub fn on_outputs_refused(
        &mut self,
        id: CommitId,
        sources: &BTreeSet<(u32, Offset)>,
        code: &str,
        message: &str,
    ) -> Vec<DeadLetter> {
        if self.is_stopped() {
            return Vec::new();
        }
        let is_meant = |record: &&RecordId| {
            let it = self.records.get(**record);
            sources.contains(&(it.partition, it.view.offset))
        };
        let refused: Vec<RecordId> =
            self.commits.records(id).iter().filter(is_meant).copied().collect();
        if refused.len() != sources.len() {
            return Vec::new();
        }
        let letter = |record| {
            let entry = self.records.entry_mut(record);
            entry.attempts += 1;
            let (code, message) = (code.to_owned(), message.to_owned());
            DeadLetter { record, attempts: entry.attempts, code, message }
        };
        let letters: Vec<DeadLetter> = refused.into_iter().map(letter).collect();
        self.counters.failed += letters.len() as u64;
        self.counters.dead_lettered += letters.len() as u64;
        letters
    }

    /// Does what is due. Calling it early, or twice, does nothing.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.is_stopped() {
            return;
        }
        self.holds.ripen(now);
        self.free_strands(now);
        self.suspicions.outlive(now);
        self.outlive_parked(now);
        if self.wait.as_ref().is_some_and(|wait| wait.until <= now) {
            self.wait = None;
        }
        if let Some(id) = self.commits.due(now) {
            self.commands.push_back(Command::CommitAgain { id });
        }
        self.proceed(now);
    }

    /// Admits nothing and starts nothing any more; [`Command::Drained`] follows when what is in
    /// flight has ended and is durable. What has not ended is charged to nobody.
    pub fn on_drain(&mut self, now: Instant) {
        if self.mode == Mode::Running {
            self.mode = Mode::Draining;
            self.proceed(now);
        }
    }

    /// Holds on: what is in flight ends and is committed, nothing new starts.
    pub fn on_pause(&mut self, now: Instant) {
        self.paused = true;
        self.proceed(now);
    }

    /// Goes on after a pause.
    pub fn on_resume(&mut self, now: Instant) {
        self.paused = false;
        self.proceed(now);
    }

    /// Stops for a reason that the shell learned of.
    pub fn on_stop(&mut self, reason: StopReason) {
        if !self.is_stopped() {
            self.stop(reason);
        }
    }

    /// The next command. Ask after every input, until there is none.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`on_timeout`](Self::on_timeout) has something to do next. Ask after every input.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let commit = self.commits.wait().map(|wait| wait.until).or(self.filtered_until);
        let work = match self.mode {
            Mode::Running if !self.paused => {
                let wait = self.wait.as_ref().map(|wait| wait.until);
                let circuit = self.circuit.next_due();
                [self.holds.next_due(), wait, self.linger_until, self.next_freed(), circuit]
            }
            _ => [None; 5],
        };
        let turns = [self.suspicions.turn_ends_at(), self.doubts.turn_ends_at()];
        work.into_iter().chain([commit]).chain(turns).flatten().min()
    }

    /// The records of an invocation, in the order they are run; empty when it is over.
    #[must_use]
    pub fn records(&self, id: InvocationId) -> &[RecordId] {
        self.running.get(&id).map_or(&[], |it| &it.part.records)
    }

    /// Whether an invocation may take its instance with it, because it is part of a batch that did.
    #[must_use]
    pub fn is_risky(&self, id: InvocationId) -> bool {
        self.running.get(&id).is_some_and(|it| it.part.is_risky)
    }

    /// A record that a command named.
    ///
    /// # Panics
    ///
    /// When its commit is durable already.
    #[must_use]
    pub fn record(&self, id: RecordId) -> RecordRef<'_> {
        self.records.get(id)
    }

    /// The position of the partition with this index, as the last `Commit` command said it, and
    /// past what was filtered since.
    #[must_use]
    pub fn position(&self, partition: u32) -> Position {
        let (next, completions) = self.trackers[partition as usize].position();
        let suspects = self.suspicions.told(partition as u16);
        Position { epoch: self.epoch, next, completions, suspects }
    }

    /// What the shard is doing.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.mode {
            Mode::Stopped(reason) => State::Stopped(reason.clone()),
            Mode::Draining | Mode::Drained => State::Draining,
            Mode::Running => match (self.commits.wait(), &self.wait) {
                (Some(wait), _) => State::Waiting(wait.clone()),
                (None, _) if self.paused => State::Paused,
                (None, Some(wait)) => State::Waiting(wait.clone()),
                (None, None) => match self.circuit.wait(self.clock.0) {
                    Some(wait) => State::Waiting(wait),
                    None => State::Running,
                },
            },
        }
    }

    /// What it did so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Records in memory: let in and not durably settled, or read back from the park topic.
    #[must_use]
    pub const fn open_records(&self) -> usize {
        self.records.len()
    }

    /// Invocations that run.
    #[must_use]
    pub fn running_invocations(&self) -> usize {
        self.running.len()
    }

    /// Records in invocations that run.
    #[must_use]
    pub fn running_records(&self) -> usize {
        self.running.values().map(|it| it.part.records.len()).sum()
    }

    const fn is_stopped(&self) -> bool {
        matches!(self.mode, Mode::Stopped(_))
    }

    fn stop(&mut self, reason: StopReason) {
        self.mode = Mode::Stopped(reason.clone());
        self.commands.clear();
        self.commands.push_back(Command::Stop(reason));
    }

    /// Does all that the last input made possible.
    fn proceed(&mut self, now: Instant) {
        if self.is_stopped() {
            return;
        }
        self.circuit.ripen(now);
        self.commit_passed(now);
        self.sweep_suspicions();
        self.commit_next();
        self.admit();
        self.commit_passed(now);
        self.linger_until = None;
        while self.start_next(now) {}
        self.park_crowded();
        self.load_next();
        self.commit_next();
        let idle = self.running.is_empty() && self.commits.is_idle();
        if self.mode == Mode::Draining && idle {
            self.mode = Mode::Drained;
            self.commands.push_back(Command::Drained);
        }
    }

    /// Commits what was gathered, unless a commit is in flight. Its records are settled in the
    /// positions that go with it, and so exactly when it is durable.
    fn commit_next(&mut self) {
        let Some(commit) = self.commits.start() else { return };
        let mut records = commit.filtered + u64::from(commit.newly_parked);
        for &record in commit.records {
            let entry = self.records.entry(record);
            if entry.is_parked() {
                continue;
            }
            records += 1;
            let settled = self.trackers[usize::from(entry.partition)].settle(entry.sequence);
            assert!(settled, "SD-1: a record is in one commit");
        }
        self.suspicions.commits(commit.id, &commit.partitions);
        let positions = commit.partitions.iter().map(|&partition| {
            let (next, completions) = self.trackers[usize::from(partition)].position();
            let suspects = self.suspicions.told(partition);
            (u32::from(partition), Position { epoch: self.epoch, next, completions, suspects })
        });
        self.commands.push_back(Command::Commit {
            id: commit.id,
            records,
            positions: positions.collect(),
        });
    }

    fn can_start(&self) -> bool {
        self.mode == Mode::Running
            && !self.paused
            && self.wait.is_none()
            && 0 < self.circuit.admits(1)
            && self.running.len() < self.width
            && self.suspicions.may_start()
            && self.commits.output_bytes() < self.config.window.output_bytes.get()
    }

    /// Starts one invocation if there is something to run and room for it (SD-6).
    fn start_next(&mut self, now: Instant) -> bool {
        if !self.can_start() {
            return false;
        }
        let next = self.next_part().or_else(|| self.gather(now).map(|it| (it, Lineage::new())));
        let Some((part, rest)) = next.map(|it| self.cut_to_probe(it)) else { return false };
        let id = InvocationId(self.invocations);
        self.invocations += 1;
        self.counters.invocations += 1;
        self.counters.attempts += part.records.len() as u64;
        let records = u32::try_from(part.records.len()).expect("the window bounds a batch");
        self.running.insert(id, Invocation { part, rest, started_at: now });
        self.circuit.on_started(id);
        self.commands.push_back(Command::Invoke { id, records });
        true
    }

    /// Gathers a batch: retries that are due, then new records.
    fn gather(&mut self, now: Instant) -> Option<Part> {
        let limits = self.config.batch;
        let mut records_max = self.circuit.admits(limits.records.get());
        let company = self.holds.ripe_company(self.may_risk());
        if company == Some(Company::Risky) && self.config.retry.bisect {
            records_max = records_max.min(self.risky_records_max);
        }
        if company.is_none() {
            self.linger_until = self.linger();
            if self.linger_until.is_some_and(|until| now < until) {
                return None;
            }
            self.linger_until = None;
        }
        let room = Room { records: records_max, bytes: limits.bytes, strands: self.strands_each() };
        let wanted = room.records.min(self.strands.ready_records() + 16);
        let mut batch = Gathered { records: Vec::with_capacity(wanted), ..Gathered::default() };
        if let Some(company) = company {
            while let Some(retry) = self.holds.first_ripe(company) {
                let record = self.holds.record(retry);
                if !batch.take(room, record, self.records.entry(record).bytes) {
                    break;
                }
                self.holds.pop_ripe(&self.records, company);
            }
        }
        let retried = batch.records.len();
        // What is kept back leaves its strand and nothing to run: then the next strands have a turn.
        while company != Some(Company::Risky) {
            self.strands.gather(&mut self.records, &mut self.holds, room, &mut batch);
            if !batch.records.is_empty() || self.strands.oldest().is_none() {
                break;
            }
        }
        let Gathered { mut records, strands, .. } = batch;
        if records.is_empty() {
            return None;
        }
        if retried != 0 || 1 < strands.len() {
            self.sort_by_arrival(&mut records);
        }
        let is_risky = company == Some(Company::Risky);
        Some(Part { records, strands, is_piece: false, is_risky, retries: retried != 0 })
    }

    /// Until when a batch waits to become fuller.
    fn linger(&mut self) -> Option<Instant> {
        let limits = self.config.batch;
        if limits.window.is_zero()
            || limits.records.get() <= self.strands.ready_records()
            || limits.bytes as u64 <= self.strands.ready_bytes()
        {
            return None;
        }
        let oldest = self.strands.oldest()?;
        Some(self.records.fetched_at(oldest) + limits.window)
    }

    /// Oldest first: outputs leave in the order in which records came, as far as batches do.
    fn sort_by_arrival(&self, records: &mut [RecordId]) {
        let key = |&record: &RecordId| (self.records.entry(record).arrival, record);
        let mut keyed: Vec<_> = records.iter().map(key).collect();
        keyed.sort_unstable();
        for (record, (_, sorted)) in records.iter_mut().zip(keyed) {
            *record = sorted;
        }
    }

    fn release(&mut self, strands: &[u16]) {
        for &strand in strands {
            self.strands.release(&self.records, strand);
        }
    }

    /// Runs the very same batch again after a pause: nobody is charged (SD-7).
    fn replay(&mut self, now: Instant, invocation: Invocation, code: String, message: String) {
        let Invocation { part, mut rest, .. } = invocation;
        self.counters.attempts -= part.records.len() as u64;
        rest.push_front(part);
        self.lineages.push_front(rest);
        self.waits = self.waits.saturating_add(1);
        let until = now + pause(&mut self.jitter, self.waits);
        self.wait = Some(Wait { code, message, until });
    }
}

/// A pause with half its length jittered, so that it is never nothing.
fn pause(jitter: &mut Jitter, attempt: u32) -> Duration {
    let half = backoff_bound(PAUSE.0, PAUSE.1, attempt) / 2;
    half + jitter.up_to(half)
}

impl Default for PartitionStart {
    fn default() -> Self {
        Self { position: Position::default(), fresh: true, end: Offset::default() }
    }
}
