//! What a node was told, with every default and without a secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /v1/config`: the settings of a node and its functions as they are in effect. Values of
/// environments and of the settings of Kafka's client are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Effective {
    /// [`API`](super::API).
    pub api: u32,
    /// Where it keeps everything.
    pub data_dir: String,
    /// What an operator says that it has.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The brokers, where the bus is not the node's own.
    pub kafka: Option<KafkaSettings>,
    /// Where spans go, where they do.
    pub traces: Option<TracesSettings>,
    /// By `app/name`: as in the manifest, with defaults.
    pub functions: BTreeMap<String, Value>,
    /// What is agreed on.
    pub cluster: ClusterSummary,
}

/// `[kafka]` of the node's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaSettings {
    /// `host:port`, several with commas.
    pub brokers: String,
    /// What groups are called after.
    pub cluster: Option<String>,
    /// Whether missing topics are made.
    pub create_topics: bool,
    /// Names of the client's settings; values are left out.
    pub settings: Vec<String>,
}

/// `[traces]` of the node's file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TracesSettings {
    /// The collector, without what may stand before an `@` or behind a `?`.
    pub url: String,
    /// How many of the traces that begin here are kept.
    pub ratio: f64,
}

/// The replicated state, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSummary {
    /// The version of each application.
    pub versions: BTreeMap<String, u64>,
    /// Shards that are assigned.
    pub shards: u64,
    /// The highest epoch of any.
    pub epoch_max: u64,
    /// Triggers that somebody paused.
    pub paused: u64,
    /// Topics of dead letters that somebody has begun to work on.
    pub redrivers: u64,
}
