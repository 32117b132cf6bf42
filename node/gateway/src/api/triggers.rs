//! Triggers, as an operator pauses, resumes and seeks them.

use serde::{Deserialize, Serialize};

use super::{HeldUp, ShardState, Unheard};

/// `GET /v1/triggers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerList {
    /// [`API`](super::API).
    pub api: u32,
    /// By id.
    pub triggers: Vec<TriggerInfo>,
    /// Nodes that did not answer; what they know is missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<Unheard>,
}

/// A trigger: `POST /v1/triggers/{a}/{f}/{t}:pause` and `:resume` give it too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerInfo {
    /// `app/function/name`.
    pub trigger: String,
    /// `app/name`.
    pub function: String,
    /// What it reads, sorted.
    pub topics: Vec<String>,
    /// Where outputs go that choose no topic.
    pub output: Option<String>,
    /// Where records go that are given up; `None` where the settings cannot be read.
    pub dead_letter: Option<String>,
    /// Where a message goes for each record that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_success: Option<String>,
    /// Where a message goes for each record that was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<String>,
    /// How many partitions it reads.
    pub partitions: u32,
    /// The state of its partitions, the worst of them where they differ.
    pub state: ShardState,
    /// Since when it takes no records, because somebody paused it; RFC 3339, UTC.
    pub paused_since: Option<String>,
    /// Why it does not go on, by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_up: Vec<HeldUp>,
    /// Records before it; `None` = unknown. The gateway fills it in.
    pub lag: Option<u64>,
}

/// `POST /v1/triggers/{a}/{f}/{t}:seek`: moves positions, or says what that would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seek {
    /// `earliest`, `latest`, an offset or an RFC 3339 time.
    pub to: String,
    /// Only in this topic.
    #[serde(default)]
    pub topic: Option<String>,
    /// Only in partitions of this number.
    #[serde(default)]
    pub partition: Option<i32>,
    /// Change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Only partitions that the node which is asked owns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
}

/// What a seek did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sought {
    /// [`API`](super::API).
    pub api: u32,
    /// `app/function/name`.
    pub trigger: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// By topic and number.
    pub partitions: Vec<SoughtPartition>,
    /// Of all partitions.
    pub skipped: u64,
    /// Of all partitions.
    pub repeated: u64,
}

/// One partition of a seek. Counts are offsets, of which a compacted topic has fewer records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoughtPartition {
    /// The topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The first offset that is there.
    pub start: i64,
    /// One past the last record.
    pub end: i64,
    /// The next record to read before; `None` = there was no position.
    pub from: Option<i64>,
    /// The next record to read after it.
    pub to: i64,
    /// Records that will never be run.
    pub skipped: u64,
    /// Records that were settled and will run again.
    pub repeated: u64,
}
