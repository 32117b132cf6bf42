//! The nodes of a cluster, and what they agree by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/members`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// [`API`](super::API).
    pub api: u32,
    /// The cluster.
    pub cluster: String,
    /// By id.
    pub members: Vec<MemberInfo>,
}

/// Whether a node is there, as the leader sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It answers.
    Up,
    /// It has not answered for two seconds or longer, or not yet.
    Unheard,
    /// Nobody leads who could say.
    #[default]
    Unknown,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Never used twice.
    pub id: u64,
    /// What operators call it.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// `voter`, or `learner` until it has caught up.
    pub role: String,
    /// Whether it is there.
    pub state: MemberState,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it gives away its shards and gets no others.
    pub draining: bool,
    /// Of Millrace, as of its last start; empty before the first.
    pub version: String,
    /// How it counts its starts.
    pub starts: u64,
    /// How many shards it owns.
    pub shards: u64,
    /// How long ago the leader heard of it; `None` of the leader itself, or without one.
    pub unheard_ms: Option<u64>,
}

/// `POST /v1/members:token`: lets in one node. It is shown once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// [`API`](super::API).
    pub api: u32,
    /// The token.
    pub token: String,
    /// When it is of no use any more; RFC 3339, UTC.
    pub expires: String,
    /// The cluster.
    pub cluster: String,
    /// Where this node is reached.
    pub address: String,
}

/// `GET /v1/raft`: how this node takes part in what the cluster agrees on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftStatus {
    /// [`API`](super::API).
    pub api: u32,
    /// The cluster.
    pub cluster: String,
    /// This node.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<String>,
    /// Who votes.
    pub voters: Vec<String>,
    /// Who gets the log and does not vote yet.
    pub learners: Vec<String>,
    /// The index of the first entry that it keeps.
    pub first: u64,
    /// The index of the last entry.
    pub last: u64,
    /// What is agreed on, as far as it knows.
    pub committed: u64,
    /// What is in its state.
    pub applied: u64,
    /// What is in its last checkpoint.
    pub checkpoint: u64,
    /// What other nodes sent and was dropped since the start, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// `POST /v1/raft:transfer`: who is to lead, and who does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadChoice {
    /// A name; without one, any other voter that is there.
    pub to: Option<String>,
}

/// `POST /v1/raft:snapshot`: a checkpoint of this node's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftCheckpoint {
    /// [`API`](super::API).
    pub api: u32,
    /// The index that it is of.
    pub index: u64,
}
