//! The specs that `millrace.toml` is turned into: one struct per kind, checked and with defaults
//! filled in. Whoever holds one of these needs no further check; every field says what it costs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Diagnostics, Name, Runtime};

/// The file that a [`Manifest`] is read from, in the application's folder.
pub const FILE_NAME: &str = "millrace.toml";

/// The most partitions that a topic can be declared with.
pub const PARTITIONS_MAX: i32 = 4_096;

/// One application: everything that its `millrace.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The namespace of its functions: `[app] name`.
    pub app: Name,
    /// The topics it declares, in the order of the file. See [`Manifest::all_topics`].
    pub topics: Vec<Topic>,
    /// Its functions, in the order of the file.
    pub functions: Vec<FunctionSpec>,
    /// What `millrace dev` feeds into a topic, if anything: `[dev.feed]`.
    pub feed: Option<Feed>,
    /// What was accepted but may not be meant. Shown once, kept nowhere.
    #[serde(skip)]
    pub warnings: Diagnostics,
}

/// A topic that is made if it is missing: `[topic.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name, by Kafka's rules.
    pub name: String,
    /// How many partitions, 1 to [`PARTITIONS_MAX`]. Default 8. Each costs a reader of every
    /// trigger on the topic, and cannot be taken away again.
    pub partitions: i32,
    /// How long its records stay. Default: for ever, which costs disk without a bound.
    pub retention: Retention,
    /// `cleanup`: what becomes of older records. Default `delete`.
    #[serde(default)]
    pub cleanup: Cleanup,
    /// `record-bytes-max`: the largest record, key, value and headers together. Default 1 MiB, as
    /// on Kafka. Memory for batches grows with it.
    pub record_bytes_max: u64,
}

impl Topic {
    /// Partitions of a topic that does not say how many.
    pub const PARTITIONS: i32 = 8;
    /// Largest record of a topic that does not say.
    pub const RECORD_BYTES_MAX: u64 = 1 << 20;

    /// A topic with all defaults.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            partitions: Self::PARTITIONS,
            retention: Retention::default(),
            cleanup: Cleanup::Delete,
            record_bytes_max: Self::RECORD_BYTES_MAX,
        }
    }

    /// What the bus makes the topic with.
    #[must_use]
    pub fn to_bus(&self) -> bus::TopicSpec {
        bus::TopicSpec {
            name: self.name.as_str().into(),
            partitions: self.partitions,
            retention: bus::Retention { age: self.retention.age, bytes: self.retention.bytes },
            cleanup: match self.cleanup {
                Cleanup::Delete => bus::Cleanup::Delete,
                Cleanup::Compact => bus::Cleanup::Compact,
            },
            record_bytes_max: usize::try_from(self.record_bytes_max).unwrap_or(usize::MAX),
        }
    }
}

/// What becomes of a topic's older records: `cleanup = "compact"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleanup {
    /// They go by retention.
    #[default]
    Delete,
    /// The newest record of each key stays; one without a value takes its key away. Every record
    /// needs a key.
    Compact,
}

/// How long records stay: `retention = { age = "7d", bytes = "1GiB" }`. Absent = no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Records older than this may go.
    pub age: Option<Duration>,
    /// The oldest records may go while a partition holds more than this many bytes.
    pub bytes: Option<u64>,
}

/// One function: `[function.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// Its name within the application.
    pub name: Name,
    /// What runs it.
    pub runtime: Runtime,
    /// For wasm the file name of the component inside [`path`](Self::path), for Python and Node.js
    /// `module.function`; for a provided executable whatever that makes of it.
    pub handler: String,
    /// The function's folder, relative to the manifest's; never leaves it.
    pub path: String,
    /// `memory`: what one instance may use. Default 64 MiB, for processes 256 MiB; at most `max`
    /// instances hold it.
    pub memory_bytes: u64,
    /// How long one invocation (one batch) may take before it is ended. Default 10 s. A bad
    /// record can hold an instance that long before its batch is bisected.
    pub timeout: Duration,
    /// How many instances, and how long each lives.
    pub instances: Instances,
    /// `labels`: only nodes that have all of these run it. Default: none, any node does.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<Name>,
    /// Variables of the environment. A component has none.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `[function.NAME.allow] produce`: the topics that an output may choose by itself. A
    /// trigger's own `output` topic need not be in it. See [`FunctionSpec::may_produce`].
    pub allow_produce: Vec<String>,
    /// What it reads, in the order of the file.
    pub triggers: Vec<TriggerSpec>,
}

impl FunctionSpec {
    /// Memory of an instance where the manifest does not say.
    pub const MEMORY_BYTES: u64 = 64 << 20;
    /// The same for a process: an interpreter alone has 10 to 50 MiB.
    pub const PROCESS_MEMORY_BYTES: u64 = 256 << 20;
    /// Time for an invocation where the manifest does not say.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// Whether an output of this trigger may go to `topic`: it is the trigger's own `output`
    /// topic, or it stands in `allow.produce`. Nothing else is reachable.
    #[must_use]
    pub fn may_produce(&self, trigger: &TriggerSpec, topic: &str) -> bool {
        trigger.output_topic.as_deref() == Some(topic)
            || self.allow_produce.iter().any(|allowed| allowed == topic)
    }
}

/// How many instances of a function there are on a node, and in the cluster: `instances = { .. }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instances {
    /// Instances kept ready while nothing happens. Default 0: an idle function costs nothing, and
    /// the first record pays a cold start (microseconds for wasm). At most `max`.
    pub warm: u32,
    /// Instances at the same time. Default 8. Each may hold the function's `memory`.
    pub max: u32,
    /// `cluster-warm`: instances kept ready in the whole cluster, spread over its nodes. Default 0. At
    /// most `cluster-max`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cluster_warm: u32,
    /// `cluster-max`: instances at the same time in the whole cluster. Default: none but `max` on each
    /// node. Nodes have parts of it, by their shards of the function's triggers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_max: Option<u32>,
    /// How long an instance lives. Default [`Fresh::Batch`], for processes [`Fresh::Never`]: to
    /// start one costs tens of milliseconds.
    pub fresh: Fresh,
}

impl Default for Instances {
    fn default() -> Self {
        Self { warm: 0, max: 8, cluster_warm: 0, cluster_max: None, fresh: Fresh::Batch }
    }
}

/// Left out of what is kept: a revision that does not have it stays the one that it was.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it a reference")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// When an instance is thrown away: `fresh = "batch" | "record" | "never"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fresh {
    /// After each batch: nothing leaks from one batch to the next, for well under 0.1 us a record.
    #[default]
    Batch,
    /// After each record: nothing leaks at all, for some 10 us a record.
    Record,
    /// It is used again until it is recycled by age, count or memory. What the function keeps in
    /// its memory stays, for good and ill.
    Never,
}

/// Topics -> function, with policy and positions of its own: `[[function.NAME.trigger]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerSpec {
    /// Unique in its function. Defaults to the function's name while it is the only trigger.
    pub name: Name,
    /// What it reads, at least one topic, none twice.
    pub topics: Vec<String>,
    /// Where it starts where it has no position yet. Default [`Start::Earliest`].
    pub start: Start,
    /// Which records wait for which. Default [`Order::Key`].
    pub order: Order,
    /// What is promised when a node dies. Default [`Delivery::AtLeastOnce`].
    pub delivery: Delivery,
    /// What the handler is called with. Default [`Event::Record`].
    #[serde(default)]
    pub event: Event,
    /// What becomes of a value before the handler sees it. Default [`Decode::None`] for wasm and
    /// Lambda events, else [`Decode::Json`].
    #[serde(default)]
    pub decode: Decode,
    /// `filter`: event patterns, of which a record has to match one for the handler to see it; all
    /// others are counted and settled. Default: every record. Costs about half a microsecond a
    /// record, where an invocation costs more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<serde_json::Value>,
    /// How records are gathered into invocations.
    pub batch: Batch,
    /// What happens to a record that fails.
    pub retry: Retry,
    /// `circuit`: when nothing is tried any more but probes. Default: never, because only who knows the
    /// records can say which share of failures is more than bad records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<Circuit>,
    /// `dead-letter`: where a record goes that is given up on. Default `<app>.<function>.dead`;
    /// there is always one, so that nothing is dropped.
    pub dead_letter: String,
    /// `output = { topic }`: where a returned value goes, under the record's key. Without it a
    /// value that names no topic of its own fails its record.
    pub output_topic: Option<String>,
    /// `on-success`: where a message goes for every record that succeeded, under its key, with the
    /// record and its outputs in it. Default: nowhere. Costs some microseconds a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_success: Option<String>,
    /// `on-failure`: where a message goes for every record that is given up, beside its dead letter.
    /// Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<String>,
}

impl TriggerSpec {
    /// The topics that it tells what became of its records, each with its key.
    pub fn destinations(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("on-success", &self.on_success), ("on-failure", &self.on_failure)];
        all.into_iter().filter_map(|(key, topic)| Some((key, topic.as_deref()?)))
    }

    /// Every topic that it writes whatever its function does.
    pub fn writes(&self) -> impl Iterator<Item = &str> {
        let own = self.output_topic.iter().chain(std::iter::once(&self.dead_letter));
        own.map(String::as_str).chain(self.destinations().map(|it| it.1))
    }
}

/// Where a trigger starts in a partition it has no position in. Only at its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// `"earliest"`: the first record there is. Skips nothing; costs a run over all that is kept.
    #[default]
    Earliest,
    /// `"latest"`: what is appended once the trigger exists. Skips what came before.
    Latest,
    /// An RFC 3339 time: the first record stamped at or after it.
    At(Timestamp),
}

impl From<Start> for bus::Start {
    fn from(start: Start) -> Self {
        match start {
            Start::Earliest => Self::Earliest,
            Start::Latest => Self::Latest,
            Start::At(time) => Self::At(time),
        }
    }
}

/// Which records wait for which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// All of a partition: one batch of it runs at a time, and a failing record holds the rest.
    Partition,
    /// Those of one key; different keys run in parallel, and a record without a key has no order.
    #[default]
    Key,
    /// None: the most parallel.
    None,
}

/// What is promised when a node dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Outputs are acknowledged by the bus before the position moves: none lost, some perhaps
    /// twice. On the embedded bus the two are one write, so that none is doubled either.
    #[default]
    AtLeastOnce,
    /// Outputs, dead letters and position in one transaction. On the embedded bus it costs
    /// nothing more, because that is how it always commits.
    ExactlyOnce,
}

/// What a handler is called with: `event = "record" | "lambda"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// One record, with a context that says where it lies.
    #[default]
    Record,
    /// The event that AWS Lambda makes of a batch of a self-managed Kafka. Only for processes.
    Lambda,
}

/// What becomes of a value before a handler sees it: `decode = "json" | "none"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decode {
    /// Nothing: the handler sees the bytes.
    #[default]
    None,
    /// It is parsed. What does not parse is a dead letter at once, the handler never sees it.
    Json,
}

/// How records are gathered into one invocation: whichever bound is reached first ends a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Records at most, 1 to 10,000. Default 100. More of them share one call; a batch that
    /// crashes is bisected, in more steps the more there are.
    pub records: u32,
    /// Bytes at most, 1 KiB to 64 MiB. Default 1 MiB. Each batch in flight holds that much memory,
    /// outside the instance and once more inside. A larger record is a batch of its own.
    pub bytes: u64,
    /// How long a batch that is not full waits for more. Default 5 ms, 0 = not at all, at most
    /// 5 minutes. It is added to the latency of a record that comes alone.
    pub window: Duration,
}

impl Batch {
    /// The largest `records`.
    pub const RECORDS_MAX: u32 = 10_000;
    /// The smallest `bytes`.
    pub const BYTES_MIN: u64 = 1 << 10;
    /// The largest `bytes`.
    pub const BYTES_MAX: u64 = 64 << 20;
    /// The longest `window`.
    pub const WINDOW_MAX: Duration = Duration::from_secs(300);
}

impl Default for Batch {
    fn default() -> Self {
        Self { records: 100, bytes: 1 << 20, window: Duration::from_millis(5) }
    }
}

/// What happens to a record that fails: `retry = { .. }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all, the first one counted, 1 to 10,000. Default 3. Records of its key (with
    /// `order = "partition"`: of its partition) wait until they are used up.
    pub attempts: u32,
    /// `backoff = "1s..30s"`: the pause before the second attempt, before jitter; it doubles.
    pub backoff_min: Duration,
    /// The longest pause. Equal to `backoff_min` where one duration is given.
    pub backoff_max: Duration,
    /// `backoff = ["5m", "30m", "2h"]`: the pause after the first failure, the second, and so on, up to
    /// 7 days each; the last repeats, and a tenth is drawn on top. Each is used: without `attempts`
    /// there is one more than pauses. From 10 s on a record waits in the park topic. Empty where a
    /// range says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pauses: Vec<Duration>,
    /// `max-age`: a record older than this, by its timestamp, is not tried again. Default: none,
    /// so that old data can be worked through.
    pub age_max: Option<Duration>,
    /// Halve a batch that crashed, timed out or ran out of memory until the bad record is found.
    /// Default true; splitting costs no attempt. Without it the whole batch is tried again, and
    /// all of it is dead-lettered.
    pub bisect: bool,
    /// `no-retry`: names of failures that no further attempt can mend, such as `ValueError`; one
    /// that ends in `*` is how names begin. A record that fails so is dead-lettered at once.
    /// Default: none, every failure is tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_retry: Vec<String>,
}

impl Retry {
    /// The largest `attempts`.
    pub const ATTEMPTS_MAX: u32 = 10_000;
    /// The longest backoff.
    pub const BACKOFF_MAX: Duration = Duration::from_secs(3_600);
    /// The longest pause of a list.
    pub const PAUSE_MAX: Duration = Duration::from_secs(7 * 86_400);
    /// The most pauses of a list.
    pub const PAUSES_MAX: usize = 100;
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            pauses: Vec::new(),
            age_max: None,
            bisect: true,
            no_retry: Vec::new(),
        }
    }
}

/// When a trigger stops trying: `circuit = { .. }`. Each partition judges for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    /// `failures = "50%"`: it opens when so many of a hundred attempts of the window failed, 1 to
    /// 100. Default 50.
    pub failures_percent: u32,
    /// It never opens for fewer attempts than these, 1 to 10,000. Default 20.
    pub attempts: u32,
    /// Attempts older than this count no more, 1 s to 1 h. Default 30 s.
    pub window: Duration,
    /// `pause = "5s..5m"`: how long nothing is tried at first; it doubles with each probe that fails.
    pub pause_min: Duration,
    /// The longest pause, up to 1 h.
    pub pause_max: Duration,
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            failures_percent: 50,
            attempts: 20,
            window: Duration::from_secs(30),
            pause_min: Duration::from_secs(5),
            pause_max: Duration::from_secs(300),
        }
    }
}

/// What `millrace dev` plays into a topic: `[dev.feed]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// The file, relative to the manifest's folder.
    pub file: String,
    /// A declared topic.
    pub topic: String,
    /// The column (CSV) or field (JSON) whose value is the record's key. Absent: no key.
    pub key: Option<String>,
    /// Records a second, 1 to 1,000,000. Default 200.
    pub rate: u32,
    /// `loop`: start over at the end of the file. Default false.
    pub repeat: bool,
}

impl Feed {
    /// Records a second where the manifest does not say.
    pub const RATE: u32 = 200;
    /// The largest `rate`.
    pub const RATE_MAX: u32 = 1_000_000;
}

impl Manifest {
    /// The identity of a trigger, `app/function/name`: what its positions are kept under.
    #[must_use]
    pub fn trigger_id(&self, function: &FunctionSpec, trigger: &TriggerSpec) -> String {
        format!("{}/{}/{}", self.app, function.name, trigger.name)
    }

    /// The function of that name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&FunctionSpec> {
        self.functions.iter().find(|function| function.name == *name)
    }

    /// Every topic the application needs: those declared, then those that are only written
    /// (outputs, `allow.produce`, dead letters, destinations).
    ///
    /// A topic that is not declared gets the partitions of the first input topic of the first
    /// trigger that can write it, in the order of the file, and the defaults otherwise: a key
    /// then stays in the partition of the same number on its whole way.
    #[must_use]
    pub fn all_topics(&self) -> Vec<Topic> {
        let mut topics = self.topics.clone();
        // An undeclared topic may be read by the next function of a chain, so the partitions
        // travel along it: each round settles at least one topic, or is the last.
        loop {
            let before = topics.len();
            for (function, trigger) in self.triggers() {
                let input = trigger.topics.first();
                let Some(input) = topics.iter().find(|topic| Some(&topic.name) == input) else {
                    continue;
                };
                let partitions = input.partitions;
                for name in function.written_by(trigger) {
                    if !topics.iter().any(|topic| topic.name == name) {
                        topics.push(Topic { partitions, ..Topic::new(name) });
                    }
                }
            }
            if topics.len() == before {
                return topics;
            }
        }
    }

    /// Every trigger beside its function, in the order of the file.
    pub fn triggers(&self) -> impl Iterator<Item = (&FunctionSpec, &TriggerSpec)> {
        self.functions
            .iter()
            .flat_map(|function| function.triggers.iter().map(move |trigger| (function, trigger)))
    }
}

impl FunctionSpec {
    /// The topics that a trigger of this function can write.
    pub(crate) fn written_by<'a>(
        &'a self,
        trigger: &'a TriggerSpec,
    ) -> impl Iterator<Item = &'a str> {
        let output = trigger.output_topic.iter();
        let all = output.chain(&self.allow_produce).chain(std::iter::once(&trigger.dead_letter));
        all.map(String::as_str).chain(trigger.destinations().map(|it| it.1))
    }
}
