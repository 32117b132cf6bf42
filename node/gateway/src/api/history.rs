//! What became of a record, and what an invocation was.

use serde::{Deserialize, Serialize};

/// `GET /v1/records/{topic}/{partition}/{offset}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAccount {
    /// [`API`](super::API).
    pub api: u32,
    /// Where it lies.
    pub topic: String,
    /// Of that topic.
    pub partition: i32,
    /// In that partition.
    pub offset: i64,
    /// Its own timestamp, RFC 3339, UTC; `None` = it is not there any more.
    pub timestamp: Option<String>,
    /// What it was made from, the nearest first: function by function, up to a record that no function
    /// made.
    pub origin: Vec<OriginStep>,
    /// Every trigger that reads its topic, by id.
    pub triggers: Vec<TriggerAccount>,
}

/// One step back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginStep {
    /// Where the source lies.
    pub topic: String,
    /// Of that topic.
    pub partition: i32,
    /// In that partition.
    pub offset: i64,
    /// Which of its outputs; `None` = it is its dead letter, or a message to a destination.
    pub index: Option<u32>,
    /// `on-success` or `on-failure`, for a message to that destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// What ran.
    pub revision: String,
    /// The number of the attempt.
    pub attempt: u32,
    /// Whose output it is; `None` = no history tells it any more.
    pub trigger: Option<String>,
    /// Which run made it, where the history tells it.
    pub invocation: Option<String>,
}

/// How a record stands with one trigger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// The function ended well with it, and its outputs are durable.
    Succeeded,
    /// The filter kept it from the function.
    Filtered,
    /// An invocation runs it.
    InFlight,
    /// It failed, and is tried again.
    Retrying,
    /// It waits behind another record of its key.
    Held,
    /// It waits in the park topic.
    Parked,
    /// It was given up.
    DeadLettered,
    /// It has not had its turn.
    Waiting,
    /// Nothing tells it; `note` says why.
    #[default]
    Unknown,
}

/// What became of a record at one trigger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerAccount {
    /// `app/function/name`.
    pub trigger: String,
    /// The node that owns its partition, in an answer of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How it stands.
    pub state: RecordState,
    /// Attempts that ended, or that runs.
    pub attempts: u32,
    /// The last invocation it was in.
    pub invocation: Option<String>,
    /// What ran then.
    pub revision: Option<String>,
    /// When it came to this state, by the node's clock; RFC 3339, UTC.
    pub at: Option<String>,
    /// When it is tried again; RFC 3339, UTC.
    pub next_try_at: Option<String>,
    /// Why it was given up, as the header `millrace-dead-cause` says it.
    pub cause: Option<String>,
    /// The last failure of one that has not succeeded: its name.
    pub error_type: Option<String>,
    /// Its account.
    pub error_message: Option<String>,
    /// Where its outputs lie.
    pub outputs: Vec<OutputPlace>,
    /// Where its dead letter lies.
    pub dead_letter: Option<OutputPlace>,
    /// Attempts that the history tells, oldest first.
    pub history: Vec<AttemptInfo>,
    /// What a person should know of this answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Where an output lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPlace {
    /// The topic.
    pub topic: String,
    /// Of that topic.
    pub partition: i32,
    /// In that partition.
    pub offset: i64,
    /// Which output of its record; `None` for a dead letter.
    pub index: Option<u32>,
}

/// One attempt of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptInfo {
    /// Its number.
    pub number: u32,
    /// The invocation.
    pub invocation: String,
    /// What ran.
    pub revision: String,
    /// When it ended; RFC 3339, UTC.
    pub at: String,
    /// Records in the invocation.
    pub records: u64,
    /// How long it ran.
    pub run_us: u64,
    /// Whether its outputs were kept.
    pub ok: bool,
    /// The failure's name; `None` beside `ok = false`: it was not run, or runs again for another.
    pub error_type: Option<String>,
    /// Its account.
    pub error_message: Option<String>,
}

/// `GET /v1/invocations/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvocationInfo {
    /// [`API`](super::API).
    pub api: u32,
    /// `SHARD-EPOCH-NUMBER`.
    pub invocation: String,
    /// `app/function/name`.
    pub trigger: String,
    /// What ran.
    pub revision: String,
    /// When it ended; RFC 3339, UTC.
    pub at: String,
    /// How long it ran.
    pub run_us: u64,
    /// How long its instance took to start; `None` = it was warm.
    pub start_us: Option<u64>,
    /// `ok`, `failed` or, where some records failed or were not run, `partial`.
    pub outcome: String,
    /// How many records.
    pub records: u64,
    /// Which, as `TOPIC[P]@FIRST..LAST`.
    pub ranges: Vec<String>,
    /// How many of them ended well.
    pub kept: u64,
    /// Records that failed, each as `TOPIC[P]@OFFSET`.
    pub failed: Vec<FailedRecord>,
    /// Failures, each once.
    pub errors: Vec<InvocationError>,
    /// Batches that the commit with its outputs appended, as `TOPIC[P]@FIRST..LAST`; other
    /// invocations may have outputs in them.
    pub appended: Vec<String>,
}

/// A record that failed in an invocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRecord {
    /// `TOPIC[P]@OFFSET`.
    pub record: String,
    /// The number of the attempt.
    pub attempt: u32,
    /// The failure's name.
    pub error_type: String,
}

/// A failure of an invocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvocationError {
    /// Its name.
    pub error_type: String,
    /// Its account.
    pub error_message: String,
}

/// The query of `GET /v1/tail`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TailQuestion {
    /// Only of this function: `NAME` or `APP/NAME`.
    pub function: Option<String>,
    /// `next` of the answer before; without it, from now on.
    pub from: Option<String>,
    /// How long to wait for a first line; at most 30,000.
    pub wait_ms: u64,
}

/// Invocations that ended since; go on from `next`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailLines {
    /// [`API`](super::API).
    pub api: u32,
    /// By time.
    pub lines: Vec<TailLine>,
    /// Where to go on: not to be taken apart.
    pub next: String,
}

/// An invocation that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailLine {
    /// When; RFC 3339, UTC.
    pub at: String,
    /// `app/function/name`.
    pub trigger: String,
    /// Its name.
    pub invocation: String,
    /// What ran.
    pub revision: String,
    /// `ok`, `fail` or, where some records failed or were not run, `part`.
    pub outcome: String,
    /// Its records, as `TOPIC[P]@FIRST..LAST`: from the first to the last, with what lies between.
    pub range: String,
    /// How many.
    pub records: u64,
    /// How many of them ended well.
    pub kept: u64,
    /// How long it ran.
    pub run_us: u64,
    /// Whether an instance was started for it.
    pub cold: bool,
    /// The number of the attempt, the highest of its records.
    pub attempt: u32,
    /// How many there may be; `None` = unknown.
    pub attempts_max: Option<u32>,
    /// When what failed first is tried again, where that is known; RFC 3339, UTC.
    pub next_try_at: Option<String>,
    /// The first failure's name.
    pub error_type: Option<String>,
    /// Its account.
    pub error_message: Option<String>,
}
