//! What functions say, as a node remembers it.

use serde::{Deserialize, Serialize};

use super::Unheard;

/// The query of `GET /v1/logs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuestion {
    /// Only of this function, by its name without the application's.
    pub function: Option<String>,
    /// Only of this invocation, `SHARD-EPOCH-NUMBER`.
    pub invocation: Option<String>,
    /// Only of this level or worse: trace, debug, info, warn or error.
    pub level: Option<String>,
    /// Only lines with this number or a higher one.
    pub from: Option<u64>,
    /// Of several nodes: only what came after this, as the answer before gave it.
    pub after: Option<String>,
    /// Only the newest so many; 1,000 by default, at most 10,000.
    pub max: Option<usize>,
    /// How long to wait for a first line; at most 30,000. A new one ends the wait at once.
    pub wait_ms: u64,
}

/// The answer: go on from `next`, or from `after` where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    /// [`API`](super::API).
    pub api: u32,
    /// In the order in which they were said.
    pub lines: Vec<LogEntry>,
    /// The number to ask from next.
    pub next: u64,
    /// Where to go on, in an answer of several nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Nodes that did not answer; what they know is missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<Unheard>,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Higher than that of any line before it at this node, also before it was started again.
    pub number: u64,
    /// Where it was said, in an answer of several nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When; RFC 3339, UTC.
    pub at: String,
    /// Who, without the application's name.
    pub function: String,
    /// In which invocation: `SHARD-EPOCH-NUMBER`; `None` = in none, while it started.
    #[serde(default)]
    pub invocation: Option<String>,
    /// trace, debug, info, warn or error; stdout is info, stderr is warn.
    pub level: String,
    /// The trace that it belongs to, 32 digits; empty unless it is traced.
    #[serde(default)]
    pub trace_id: String,
    /// One line.
    pub message: String,
}
