//! The answers and questions of the control API, as the gateway writes and the command line reads
//! them. Field names are snake_case and stay: a field may be added, none changes its meaning
//! within `api` 1.

mod apps;
mod authorities;
mod backup;
mod config;
mod dead_letters;
mod doctor;
mod history;
mod instances;
mod logs;
mod members;
mod nodes;
mod replays;
mod tokens;
mod triggers;
mod upgrade;
mod weights;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::Data;

pub use apps::{
    AliasInfo, AliasList, Change, Deployed, FunctionError, FunctionInfo, FunctionList,
    FunctionOutcome, FunctionPlan, Outcome, Plan, Proposal, RevisionInfo, RevisionList,
    RevisionName, RolledBack, SettingPlan, Target, TopicChange, TopicPlan, Trial, Tried,
    TriggerPlan,
};
pub use authorities::{
    CaInfo, CaRole, CaStatus, OutdatedToken, RotationInfo, RotationStage, RotationWish,
};
pub use backup::{
    AppBackup, BACKUP_FORMAT, Backup, Elsewhere, FunctionBackup, PartitionBackup, Restore,
    Restored, RestoredApp, RevisionBackup, TriggerBackup,
};
pub use config::{ClusterSummary, Effective, KafkaSettings, TracesSettings};
pub use dead_letters::{
    DeadLetterCause, DeadLetterChoice, DeadLetterEdit, DeadLetterInfo, DeadLetterList, Redrive,
    RedriveState, RedriveStatus,
};
pub use doctor::{Examination, Finding, Verdict};
pub use history::{
    AttemptInfo, FailedRecord, InvocationError, InvocationInfo, OriginStep, OutputPlace,
    RecordAccount, RecordState, TailLine, TailLines, TailQuestion, TriggerAccount,
};
pub use instances::{InstanceInfo, InstanceList, InstanceState};
pub use logs::{LogEntry, LogLines, LogQuestion};
pub use members::{
    JoinToken, LeadChoice, MemberInfo, MemberList, MemberState, RaftCheckpoint, RaftStatus,
};
pub use nodes::{NodeStatus, Unheard};
pub use replays::{Replay, ReplayState, ReplayStatus, ReplayedPartition};
pub use tokens::{
    MadeSubscriberToken, SubscriberTokenInfo, SubscriberTokenList, SubscriberTokenState,
    SubscriberTokenWish,
};
pub use triggers::{Seek, Sought, SoughtPartition, TriggerInfo, TriggerList};
pub use upgrade::{UpgradeMember, UpgradeStatus};
pub use weights::{ShardWeight, Weights};

/// The version of every answer here.
pub const API: u32 = 1;

/// The media type of raw record batches, in the layout of bus/src/batch.rs.
pub const RECORDS_MEDIA_TYPE: &str = "application/vnd.millrace.records.v1";

/// `GET /v1/status`: what a node is and does. At a member of a cluster of several: what they do
/// together, with sums of what those did that answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`API`].
    pub api: u32,
    /// The process that was asked.
    pub node: NodeInfo,
    /// What the nodes are called together, in an answer of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Those that answered, by name, in an answer of several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
    /// Nodes that did not answer; what they know is missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<Unheard>,
    /// Its applications, by name.
    pub apps: Vec<String>,
    /// In one word.
    pub health: Health,
    /// By application and name.
    pub functions: Vec<FunctionStatus>,
    /// How many shards there are, by state.
    pub shards: ShardCounts,
    /// What `[dev.feed]` does, where there is one.
    pub feed: Option<FeedStatus>,
    /// Triggers that do not go on, and why; each needs a person, or somebody elsewhere who brings
    /// back what it waits for.
    #[serde(default)]
    pub held_up: Vec<HeldUp>,
    /// Triggers that take no records, because somebody paused them.
    #[serde(default)]
    pub paused: Vec<PausedTrigger>,
    /// What a person should know, in sentences; may be empty.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The process of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// How commands address it.
    pub name: String,
    /// Of Millrace.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Absolute.
    pub data_dir: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// Since then.
    pub uptime_ms: u64,
}

/// A trigger that does not go on in partitions of a topic, for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUp {
    /// `app/function/name`.
    pub trigger: String,
    /// `app/name`.
    pub function: String,
    /// What it reads.
    pub topic: String,
    /// Of that topic; sorted.
    pub partitions: Vec<i32>,
    /// The node that runs them, in an answer of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Stopped, or waiting to go on by itself.
    pub state: ShardState,
    /// For `millrace explain`.
    pub code: String,
    /// One line.
    pub message: String,
}

/// A trigger that somebody paused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedTrigger {
    /// `app/function/name`.
    pub trigger: String,
    /// RFC 3339, UTC.
    pub since: String,
}

/// How a node is, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not yet ready.
    #[default]
    Starting,
    /// Everything runs.
    Healthy,
    /// Something needs a person; the rest runs.
    Degraded,
    /// Finishes what is in flight.
    Draining,
}

/// How a function is, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionState {
    /// Compiles, or its shards are not assigned yet.
    #[default]
    Starting,
    /// Takes records.
    Running,
    /// Takes records, and some fail.
    Failing,
    /// A newer revision was refused; the one before runs on.
    Stale,
    /// Takes no records: somebody paused all its triggers.
    Paused,
    /// Takes no records: it cannot start, or its shards stopped.
    Stopped,
    /// Finishes what is in flight.
    Draining,
}

/// One function.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// Its application.
    pub app: String,
    /// Its name.
    pub name: String,
    /// As in the manifest.
    pub runtime: String,
    /// How people tell revisions apart: short.
    pub revision: String,
    /// Since when this revision runs; RFC 3339, UTC.
    pub revision_since: String,
    /// In one word.
    pub state: FunctionState,
    /// Topics its triggers read, sorted.
    pub reads: Vec<String>,
    /// Topics it may write: outputs, then dead letters; without doubles.
    pub writes: Vec<String>,
    /// Records settled a second, of late.
    pub rate_per_s: f64,
    /// Run time of a batch, of late, where one ran; of several nodes that of the slowest.
    pub p50_ms: Option<f64>,
    /// As above.
    pub p99_ms: Option<f64>,
    /// Failed records of those that ended of late, 0 to 1; `None` when none ended.
    pub error_ratio: Option<f64>,
    /// Records in flight now.
    pub in_flight: u64,
    /// Records settled since the node started.
    pub settled: u64,
    /// Those of them that a filter kept from the function.
    #[serde(default)]
    pub filtered: u64,
    /// Attempts that ended since the node started.
    #[serde(default)]
    pub attempts: u64,
    /// Failed attempts since the node started.
    pub failed: u64,
    /// Dead letters written since the node started.
    pub dead_lettered: u64,
    /// Partitions that the node runs it for.
    #[serde(default)]
    pub shards: u32,
    /// Records of keys that fail, which wait in the park topics of its triggers.
    #[serde(default)]
    pub parked: u64,
    /// Records between its positions and the ends of its topics; `None` = unknown. The gateway
    /// fills it in.
    pub lag: Option<u64>,
    /// Its worker pool.
    pub instances: InstanceCounts,
    /// The newest failure.
    pub last_error: Option<LastError>,
}

/// A worker pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceCounts {
    /// At work.
    pub busy: u32,
    /// Started and idle.
    pub warm: u32,
    /// The most there may be.
    pub max: u32,
    /// Invocations that wait for an instance.
    #[serde(default)]
    pub queued: u32,
    /// Instances that there is work for, by what waits and how it grows.
    #[serde(default)]
    pub wanted: u32,
}

/// A failure, as status shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// As in the dead letter: `Sandbox.Timedout`, or the function's own.
    pub code: String,
    /// One line.
    pub message: String,
    /// When; RFC 3339, UTC.
    pub at: String,
    /// The record, as `readings[2]@18`, where it was one.
    pub record: Option<String>,
    /// How many failed of late.
    pub recent: u64,
    /// Of how many that ended of late.
    pub recent_of: u64,
    /// Where given-up records of this trigger go.
    pub dead_letter: Option<String>,
}

/// How many shards there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardCounts {
    /// All.
    pub total: u32,
    /// Take records.
    pub running: u32,
    /// Recover, or wait to.
    pub starting: u32,
    /// Ended with an error.
    pub stopped: u32,
    /// Nobody who answered runs them, in an answer of several nodes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unheard: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a feed does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FeedStatus {
    /// As in the manifest.
    pub file: String,
    /// Where it goes.
    pub topic: String,
    /// Records a second, by the manifest.
    pub rate_per_s: f64,
    /// Records of the file.
    pub rows: u64,
    /// The next record of the file, from 0.
    pub next_row: u64,
    /// How often the file was played to its end.
    pub rounds: u64,
    /// Records appended since the node started.
    pub appended: u64,
    /// `running`, `done`, `paused`, or why it stopped.
    pub state: String,
}

/// A shard, as the node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its id.
    pub shard: u64,
    /// Its assignment.
    pub epoch: u64,
    /// The trigger's id: `app/function/name`.
    pub trigger: String,
    /// The function, as `app/name`.
    pub function: String,
    /// Its input.
    pub topic: String,
    /// Of that topic.
    pub partition: i32,
    /// In one word.
    pub state: ShardState,
    /// Where it would go on if it has committed nothing yet; the gateway prefers what is
    /// committed.
    pub next: Option<i64>,
    /// Thousandths of an instance that it kept busy of late: what it weighs.
    #[serde(default)]
    pub busy_permille: u64,
}

/// How a shard is, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// Recovers, or waits to.
    #[default]
    Starting,
    /// Takes records.
    Running,
    /// Waits: the bus takes nothing now.
    Waiting,
    /// Takes nothing new: somebody paused its trigger.
    Paused,
    /// Finishes what is in flight.
    Draining,
    /// Ended with an error.
    Stopped,
    /// No node that answered runs it.
    Unknown,
}

/// `GET /v1/lag`: how far every trigger is behind, whichever node runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// [`API`].
    pub api: u32,
    /// Of all triggers; `None` when one is unknown: unknown is not zero.
    pub total: Option<u64>,
    /// By trigger id.
    pub triggers: Vec<TriggerLag>,
    /// Nodes that did not answer; what they know is missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<Unheard>,
}

/// One trigger, and one topic it reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerLag {
    /// `app/function/name`.
    pub trigger: String,
    /// `app/name`.
    pub function: String,
    /// Of all its partitions; `None` when one is unknown.
    pub lag: Option<u64>,
    /// By topic and number.
    pub partitions: Vec<PartitionLag>,
}

/// One partition, as one trigger reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionLag {
    /// The topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Who reads.
    pub shard: u64,
    /// The node that owns it, in an answer of several; without one, nobody does just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The assignment.
    pub epoch: u64,
    /// In one word.
    pub state: ShardState,
    /// The first offset that is there.
    pub start: i64,
    /// One past the last record.
    pub end: i64,
    /// The next record to read; `None` = unknown.
    pub next: Option<i64>,
    /// Settled beyond it.
    pub ahead: u64,
    /// `end` less `next`.
    pub lag: Option<u64>,
}

/// `GET /v1/topics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicList {
    /// [`API`].
    pub api: u32,
    /// By name.
    pub topics: Vec<Topic>,
}

/// A topic. `GET /v1/topics/{t}` gives its partitions and readers too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// [`API`].
    pub api: u32,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// Offsets between the starts and the ends.
    pub records: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Records older than this may go.
    pub retention_ms: Option<u64>,
    /// The oldest may go while a partition holds more.
    pub retention_bytes: Option<u64>,
    /// The largest record.
    pub record_bytes_max: u64,
    /// By number; only for one topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watermarks: Vec<PartitionMarks>,
    /// Ids of the triggers that read it; only for one topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<String>,
}

/// Where a partition starts and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionMarks {
    /// Its number.
    pub partition: i32,
    /// The first offset that is there.
    pub start: i64,
    /// One past the last record.
    pub end: i64,
    /// Bytes held.
    pub bytes: u64,
}

/// `POST /v1/topics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTopic {
    /// Its name, by Kafka's rules.
    pub name: String,
    /// 1 to 10,000.
    #[serde(default = "one")]
    pub partitions: i32,
    /// Records older than this may go.
    #[serde(default)]
    pub retention_ms: Option<u64>,
    /// The oldest may go while a partition holds more.
    #[serde(default)]
    pub retention_bytes: Option<u64>,
    /// The largest record; 1 MiB by default.
    #[serde(default)]
    pub record_bytes_max: Option<u64>,
}

const fn one() -> i32 {
    1
}

/// `POST /v1/topics/{t}/records` as JSON: all of them are appended, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Produce {
    /// In this order per partition.
    pub records: Vec<ProduceRecord>,
}

/// A record to append.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProduceRecord {
    /// Decides the partition, as Kafka would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Data>,
    /// `null` is a tombstone.
    #[serde(default)]
    pub value: Option<Data>,
    /// In order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderData>,
    /// Instead of the key's. Records with neither go to one partition per call, in turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// When it happened, Unix ms; now by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_ms: Option<i64>,
}

/// One header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderData {
    /// Its name; names may repeat.
    pub name: Data,
    /// Its value.
    #[serde(default)]
    pub value: Option<Data>,
}

/// The answer: durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Produced {
    /// [`API`].
    pub api: u32,
    /// Where each record landed, in the order they were given; for raw batches empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Landed>,
    /// Where each batch landed.
    pub batches: Vec<LandedBatch>,
}

/// Where a record landed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

/// Where a batch landed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandedBatch {
    /// The partition.
    pub partition: i32,
    /// The offset of its first record; the others follow without gaps.
    pub base: i64,
    /// How many records.
    pub records: u32,
}

/// A record as it is read: a line of `GET /v1/topics/{t}/records`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordData {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// When it happened; RFC 3339, UTC, to the millisecond; `null` beyond the year 9999.
    pub timestamp: Option<String>,
    /// The same in Unix ms.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Data>,
    /// Its value; `null` is a tombstone.
    pub value: Option<Data>,
    /// In order, doubles kept.
    pub headers: Vec<HeaderData>,
}

/// `POST /v1/topics/{t}:fetch`: reads on from positions, and waits for records if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// The next offset by partition. Only these partitions are read; all when it is empty.
    #[serde(default)]
    pub positions: BTreeMap<i32, i64>,
    /// Where partitions start when `positions` is empty: `earliest`, `latest`, an offset or an
    /// RFC 3339 time.
    #[serde(default)]
    pub from: Option<String>,
    /// Only this partition, when `positions` is empty.
    #[serde(default)]
    pub partition: Option<i32>,
    /// At most this many records; 1,000 by default, at most 10,000.
    #[serde(default)]
    pub max: Option<usize>,
    /// How long to wait for a first record; at most 30,000. A new record ends the wait at once.
    #[serde(default)]
    pub wait_ms: u64,
}

/// The answer: go on from `next`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedRecords {
    /// [`API`].
    pub api: u32,
    /// Each partition's in offset order.
    pub records: Vec<RecordData>,
    /// The positions to ask for next.
    pub next: BTreeMap<i32, i64>,
    /// Records that had expired before they could be read, by partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expired: BTreeMap<i32, u64>,
    /// Whether every partition was read to its end.
    pub at_end: bool,
}

/// RFC 9457, `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable: `urn:millrace:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time.
    #[serde(default)]
    pub detail: String,
    /// `millrace explain CODE`.
    #[serde(default)]
    pub code: String,
    /// What to do next.
    #[serde(default)]
    pub hints: Vec<String>,
}
