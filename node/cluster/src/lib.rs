//! What a cluster agrees on: applications, revisions, triggers, shards and their epochs.
//!
//! [`State`] is a pure core fed by commands. [`CommandLog`] has a raft group agree on them and
//! keeps them in a synced log: [`Group`] is a pure core around raft-rs that says what has to be
//! done in which order, [`Members`] who belongs to it, [`Image`] what is durable, and raft_log.rs
//! writes it. A node alone is a group of one; no network carries a larger one yet. The crate runs
//! nothing, and its log never holds a record, a payload or a package.

mod group;
mod image;
mod log;
mod members;
pub mod placement;
mod raft_log;
mod reads;
pub mod state;

pub use group::{
    Changed, Committed, ELECTION_TICKS, Forgot, Group, Limits, NotProposed, RequestId, Step,
    carries_checkpoint, changes_members,
};
pub use image::{Checkpoint, Cut, Image, Place, Write, place_of};
pub use log::{COMMAND_BYTES_MAX, CommandLog, Error, OnFatal};
pub use members::{Change, Members, NotChanged};
/// What members send each other, and what their logs hold.
pub use raft::eraftpb::{Entry, Message};
pub use reads::{ReadEnd, Unavailable};
pub use state::{
    App, Applied, Command, Function, History, Kept, Member, MemberChange, REVISIONS_MAX, Redriver,
    Refused, Role, Roster, Shard, State, Trigger,
};
