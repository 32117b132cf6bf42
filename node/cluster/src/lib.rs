//! What a cluster agrees on: applications, revisions, triggers, shards and their epochs.
//!
//! [`State`] is a pure core fed by commands. [`CommandLog`] has a raft group agree on them and
//! keeps them in a synced log: [`Group`] is a pure core around raft-rs that says what has to be
//! done in which order, [`Image`] what is durable, and raft_log.rs writes it. A node alone is a
//! group of one. The crate runs nothing, and its log never holds a record, a payload or a package.

mod group;
mod image;
mod log;
mod raft_log;
pub mod state;

pub use group::{
    Committed, ELECTION_TICKS, Group, Limits, NotProposed, RequestId, Step, carries_checkpoint,
};
pub use image::{Checkpoint, Cut, Image, Place, Write, place_of};
pub use log::{COMMAND_BYTES_MAX, CommandLog, Error, OnFatal};
/// What members send each other.
pub use raft::eraftpb::Message;
pub use state::{
    App, Applied, Command, Function, History, Kept, REVISIONS_MAX, Redriver, Refused, Shard, State,
    Trigger,
};
