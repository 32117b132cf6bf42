//! What a cluster agrees on: applications, revisions, triggers, shards and their epochs.
//!
//! [`State`] is a pure core fed by commands; [`CommandLog`] keeps the commands in a synced log. A
//! node alone is a group of one; raft will be put beneath the log, commands and state unchanged.
//! The crate runs nothing, and its log never holds a record, a payload or a package.

mod log;
pub mod state;

pub use log::{CommandLog, Error};
pub use state::{App, Applied, Command, Function, Refused, Shard, State, Trigger};
