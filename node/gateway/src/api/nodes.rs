//! What an answer that is of several nodes says of them.

use serde::{Deserialize, Serialize};

use super::{Health, ShardCounts};

/// A node of the cluster that did not answer, or not in time: what it knows is missing in an
/// answer, and counts as unknown there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unheard {
    /// Its name.
    pub node: String,
    /// What became of the question.
    pub why: String,
}

/// A node of the cluster that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Of Millrace.
    pub version: String,
    /// Its process id, on its own machine.
    pub pid: u32,
    /// RFC 3339, UTC.
    pub started: String,
    /// Since then.
    pub uptime_ms: u64,
    /// In one word.
    pub health: Health,
    /// Those that it runs.
    pub shards: ShardCounts,
}
