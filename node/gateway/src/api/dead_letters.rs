//! Dead letters, as an operator looks at them, mends them and puts them back.

use serde::{Deserialize, Serialize};

use super::RecordData;
use crate::data::Data;

/// Which dead letters of a topic are meant: those for which all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLetterChoice {
    /// Given up by this trigger: `app/function/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// For this error type, or this cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Given up at or after this time; RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// `GET /v1/dead-letters/{topic}`, with a [`DeadLetterChoice`] as its query: the open ones, by
/// cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterList {
    /// [`API`](super::API).
    pub api: u32,
    /// The topic.
    pub topic: String,
    /// Those that are meant and were neither put back nor purged.
    pub open: u64,
    /// Those of the topic that were put back or purged and are still in it.
    pub done: u64,
    /// Records of the topic that are no dead letters.
    pub foreign: u64,
    /// Edits that wait for their dead letter to be put back.
    pub edited: u64,
    /// The most frequent first.
    pub causes: Vec<DeadLetterCause>,
    /// Whether there are more causes than are listed.
    pub truncated: bool,
}

/// Open dead letters with one cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterCause {
    /// The name of the failure.
    pub error_type: String,
    /// Why the record was given up: `RetryAttemptsExhausted`, `RecordAgeExceeded`, `NotRetried`,
    /// `Undecodable`, `MaximumPayloadSizeExceeded` or `OutputRefused`.
    pub cause: String,
    /// The function's name.
    pub function: String,
    /// `app/function/name`.
    pub trigger: String,
    /// How many.
    pub count: u64,
    /// When the first was given up; RFC 3339, UTC.
    pub first: String,
    /// When the last was given up; RFC 3339, UTC.
    pub last: String,
    /// What the last failure said.
    pub message: String,
    /// Where some of them lie, as `readings.dead[2]@18`.
    pub samples: Vec<String>,
}

/// `GET /v1/dead-letters/{topic}/{partition}/{offset}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterInfo {
    /// [`API`](super::API).
    pub api: u32,
    /// Whether it was put back or purged.
    pub done: bool,
    /// The record as it would be put back, but for an edit: its own headers only.
    pub record: RecordData,
    /// What it will be put back with instead of its value.
    pub edited: Option<Data>,
    /// Why it was given up.
    pub cause: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// Where it lay, and goes back to.
    pub topic: String,
    /// Of that topic.
    pub partition: i32,
    /// In that partition.
    pub offset: i64,
    /// `app/function/name`.
    pub trigger: String,
    /// The function's name.
    pub function: String,
    /// What ran.
    pub revision: String,
    /// The last invocation it was in, where it says one.
    #[serde(default)]
    pub invocation: Option<String>,
    /// The name of the failure.
    pub error_type: String,
    /// Its account.
    pub error_message: String,
    /// When it was given up; RFC 3339, UTC.
    pub at: String,
}

/// `PUT /v1/dead-letters/{topic}/{partition}/{offset}`: the value that it is put back with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterEdit {
    /// Instead of its own.
    pub value: Data,
}

/// `POST /v1/dead-letters/{topic}:redrive`, which puts dead letters back to where they came from,
/// and `:purge`, which lets them be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redrive {
    /// As of [`DeadLetterChoice`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// As of [`DeadLetterChoice`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// As of [`DeadLetterChoice`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// At most this many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// At most this many a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
}

/// The answer, and that of `GET /v1/dead-letters/{topic}/redrive`: how far the node is. It goes on
/// whether or not anybody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveStatus {
    /// [`API`](super::API).
    pub api: u32,
    /// The topic of dead letters.
    pub topic: String,
    /// The node that does it, in an answer of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether they are purged instead of put back.
    pub purge: bool,
    /// In one word.
    pub state: RedriveState,
    /// How many there were when it began.
    pub matched: u64,
    /// How many are put back, or purged, durably.
    pub done: u64,
    /// How many of the former carry an edit.
    pub edited: u64,
    /// How many have an earlier dead letter of their key that is not meant: they overtake it.
    pub overtaking: u64,
    /// Where they go, sorted.
    pub to: Vec<String>,
    /// RFC 3339, UTC.
    pub started: String,
    /// Why it failed, or what it waits for: code and account.
    pub error: Option<super::FunctionError>,
}

/// How a redrive is, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedriveState {
    /// Nothing was changed: it was asked for what it would do.
    #[default]
    Preview,
    /// It works.
    Running,
    /// The bus takes nothing now; it tries again.
    Waiting,
    /// All that matched is done.
    Done,
    /// Somebody stopped it, or the node ended; what is done stays done.
    Stopped,
    /// It gave up; what is done stays done.
    Failed,
}
