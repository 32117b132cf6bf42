//! A machine of a fleet: the member's disk, its packages, and what its process knows.

use std::collections::{BTreeMap, BTreeSet};

use bus::{Epoch, Handed, ShardId};
use cluster::placing::Planner;
use cluster::{Command, RequestId, State};
use storage::codec;

use crate::raft_sim::judge::{pack, unpack};
use crate::raft_sim::member::Member;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Machine {
    /// The real core over a simulated disk. Its id is 0 where there is no machine.
    pub(super) raft: Member,
    /// Packages that it keeps, durable.
    pub(super) packages: BTreeSet<u64>,
    pub(super) mind: Option<Mind>,
    /// How often its process began.
    pub(super) starts: u64,
}

/// What ends with the process.
#[derive(Debug, Default)]
pub(super) struct Mind {
    pub(super) state: State,
    /// Whether it is about to look at what it should run.
    pub(super) wakes: bool,
    pub(super) ticked: u64,
    /// When it looks again whether shards were assigned anew: once for all of them.
    pub(super) looks_again: u64,
    /// The read that says what a process before this one ran.
    pub(super) asks: Option<RequestId>,
    /// The newest epoch at which this machine ran each shard; `None` until that is known.
    pub(super) used: Option<BTreeMap<ShardId, Epoch>>,
    pub(super) present: BTreeMap<ShardId, Epoch>,
    /// Shards that are handed over.
    pub(super) leaving: BTreeMap<ShardId, Leaving>,
    /// What owners before have said of shards that come here.
    pub(super) handed: BTreeMap<ShardId, Handed>,
    /// Shards whose end is waited for before anything else is done.
    pub(super) ending: BTreeSet<ShardId>,
    /// Shards whose first word from the bus is waited for likewise.
    pub(super) starting: BTreeSet<ShardId>,
    pub(super) seat: Option<Seat>,
    /// Since when this process is to end, as soon as its shards are others'.
    pub(super) retires: Option<u64>,
}

/// A shard on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) ends: Epoch,
    /// Whether what was in flight has ended, and whether the next owner knows where to go on.
    pub(super) drained: bool,
    pub(super) released: bool,
}

/// The planner of the term that this member leads.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) term: u64,
    pub(super) since: u64,
    pub(super) tick: u64,
    pub(super) planner: Planner,
    /// What it has proposed last, and when.
    pub(super) asked: Option<(RequestId, u64)>,
}

impl Machine {
    pub(super) const fn new(raft: Member) -> Self {
        Self { raft, packages: BTreeSet::new(), mind: None, starts: 0 }
    }

    /// Whether this machine runs a process that belongs to it.
    pub(super) const fn is_up(&self) -> bool {
        self.mind.is_some() && self.raft.process.is_some()
    }

    pub(super) fn leads(&self) -> bool {
        self.raft.process.as_ref().is_some_and(|it| it.group.leads())
    }
}

/// A command as the group carries it: a number of its own, then the real one.
pub(super) fn encode(number: u64, command: &Command) -> Vec<u8> {
    let command = codec::encode_large(command).expect("a command is encodable");
    [&number.to_le_bytes()[..], &command].concat()
}

pub(super) fn decode(command: &[u8]) -> Result<Command, String> {
    let (_, command) = command.split_at(8);
    codec::decode_large(command).map_err(|error| format!("CLU-1: a command: {error}"))
}

/// A checkpoint: the numbers of all commands, and the real state.
pub(super) fn encode_state(numbers: &[u8], state: &State) -> Vec<u8> {
    pack(numbers, &codec::encode_snapshot(state).expect("a state is encodable"))
}

pub(super) fn decode_state(checkpoint: &[u8]) -> Result<State, String> {
    match unpack(checkpoint).1 {
        [] => Ok(State::default()),
        state => {
            codec::decode_snapshot(state).map_err(|error| format!("CLU-7: a checkpoint: {error}"))
        }
    }
}
