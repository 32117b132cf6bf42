//! What a cluster agrees on: applications, revisions, triggers, shards and their epochs.
//!
//! [`State`] is a pure core fed by commands. A raft group agrees on them: [`Group`] is a pure core
//! around raft-rs that says what has to be done in which order, [`Members`] who belongs to it,
//! [`Image`] what is durable, and raft_log.rs writes it. [`Cluster`] is one member of it that runs:
//! a thread carries out the steps, a [`Transport`] carries what members say to each other. A node
//! alone is a group of one, by the same steps. The crate runs no function, and its log never holds
//! a record, a payload or a package.

mod cluster;
mod format;
mod group;
mod image;
pub mod invoking;
mod log;
mod members;
pub mod placement;
pub mod placing;
mod proposals;
mod raft_log;
mod reads;
pub mod reconcile;
mod recovery;
pub mod shares;
pub mod state;
pub mod weighing;
mod wire;

pub use cluster::{
    Cluster, Config, Ended, Forwarded, Inbox, Leadership, Letter, NoTransport, Survivor, Transport,
    Vitals, describe_metrics,
};
pub use format::{FORMATS, Formats};
pub use group::{
    Changed, Committed, ELECTION_TICKS, Forgot, Group, Limits, NotProposed, RequestId, Step,
    carries_checkpoint, changes_members,
};
pub use image::{Checkpoint, Cut, Image, Place, Write, place_of};
pub use log::{COMMAND_BYTES_MAX, Error, OnFatal};
pub use members::{Change, Members, NotChanged};
/// What members send each other, and what their logs hold.
pub use raft::eraftpb::{Entry, Message};
pub use reads::{ReadEnd, Unavailable};
pub use recovery::{Doubtful, IDS_PASSED, NotRecovered, PASSED, Recovery};
pub use state::{
    Answered, App, Applied, Authorities, Ca, CaChange, Command, Function, History, Kept, Member,
    MemberChange, Placing, REVISIONS_MAX, Redriver, Refused, Role, Roster, Rotation, Shard, Spent,
    Stage, State, SubscriberChange, SubscriberToken, Subscribers, Tokens, Trigger,
};
pub use wire::{Proposal, Want};
