//! The instances of a node's functions: started runtimes, components and processes.

use serde::{Deserialize, Serialize};

use super::Unheard;

/// `GET /v1/instances`: every instance that there is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceList {
    /// [`API`](super::API).
    pub api: u32,
    /// By function, then in the order in which they were begun.
    pub instances: Vec<InstanceInfo>,
    /// Nodes that did not answer; what they know is missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<Unheard>,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// Where it is, in an answer of several nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `app/name`.
    pub function: String,
    /// The revision that it runs.
    pub revision: String,
    /// As in the manifest.
    pub runtime: String,
    /// Unique among those of the revision since it was deployed or the node started.
    pub instance: String,
    /// The worker process; `None` where there is none of its own.
    pub pid: Option<u32>,
    /// In one word.
    pub state: InstanceState,
    /// Since it was begun.
    pub age_ms: u64,
    /// Batches that it has run to their end.
    pub invocations: u64,
    /// What its process and what that started have in memory; `None` = unknown, or no process.
    pub memory_bytes: Option<u64>,
}

/// How an instance is, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Is being started ahead of need.
    #[default]
    Starting,
    /// Waits for work.
    Warm,
    /// Runs a batch.
    Busy,
}
