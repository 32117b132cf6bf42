//! Replays: records that a trigger has read before run again, and what comes of them goes where
//! nobody but the operator looks.

use serde::{Deserialize, Serialize};

use super::FunctionError;

/// `POST /v1/triggers/{a}/{f}/{t}:replay`: runs a range of records again, or says what that would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// `earliest`, an offset or an RFC 3339 time: the first record of each partition.
    pub from: String,
    /// `latest`, an offset or an RFC 3339 time: one past the last of each.
    pub to: String,
    /// Only in this topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Only in partitions of this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// The topic for outputs and dead letters; one of its own without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub into: Option<String>,
    /// Change nothing.
    pub dry_run: bool,
}

/// The answer, and that of `GET /v1/triggers/{a}/{f}/{t}/replay`: how far the node is. It goes on
/// whether or not anybody asks, and ends with the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayStatus {
    /// [`API`](super::API).
    pub api: u32,
    /// `app/function/name`.
    pub trigger: String,
    /// The node that does it, in an answer of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// In one word.
    pub state: ReplayState,
    /// The function's revision that runs.
    pub revision: String,
    /// Where outputs and dead letters go.
    pub into: String,
    /// Offsets in the ranges, of which a compacted topic has fewer records.
    pub records: u64,
    /// Of these, how many are done with.
    pub done: u64,
    /// Outputs so far.
    pub outputs: u64,
    /// Records that were given up so far.
    pub dead_letters: u64,
    /// Records that the trigger's filter kept from the function so far.
    pub filtered: u64,
    /// By topic and number.
    pub partitions: Vec<ReplayedPartition>,
    /// RFC 3339, UTC.
    pub started: String,
    /// Why it failed, or what holds it up.
    pub error: Option<FunctionError>,
}

/// One partition of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedPartition {
    /// The topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// One past the last.
    pub to: i64,
}

/// How a replay is, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayState {
    /// Nothing was changed: it was asked for what it would do.
    #[default]
    Preview,
    /// It works.
    Running,
    /// All records are done with.
    Done,
    /// Somebody stopped it, or deployed the function anew; outputs so far stay.
    Stopped,
    /// It cannot go on; outputs so far stay.
    Failed,
}
