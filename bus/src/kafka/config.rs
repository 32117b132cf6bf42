//! How the Kafka bus is set up, and the settings of its clients, each with its reason. What our
//! promises rest on cannot be set otherwise; everything else of librdkafka can.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::{Error, ShardId};

/// Names the consumer group that a shard's offsets are committed in.
pub type GroupName = Arc<dyn Fn(ShardId) -> String + Send + Sync>;

/// How a [`KafkaBus`](super::KafkaBus) is set up.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Where the cluster is asked for first: `host:port`, several with commas.
    pub brokers: String,
    /// The name under which this installation's groups and clients are known to the brokers:
    /// `millrace.<cluster>.`... Two installations on one Kafka need two names.
    pub cluster: String,
    /// Settings of librdkafka beyond ours, for all clients.
    pub settings: BTreeMap<String, String>,
    /// The group of a shard. A trigger's shards share one, so that lag tools show the trigger.
    pub group: GroupName,
    /// What librdkafka fetches ahead of a partition's reader, in KiB. A partition whose reader
    /// waits costs so much memory, and up to a fetch (1 MiB) more.
    pub prefetch_kib: u32,
    /// Bytes of records on their way to the brokers at once; more waits. A commit counts as at
    /// most a quarter, so that one dead topic leaves room for the others.
    pub in_flight_bytes_max: usize,
    /// How long a source waits for such room until it is told that the bus is busy.
    pub busy_after: Duration,
    /// How far the committed offsets of the groups may be behind.
    pub offsets_every: Duration,
    /// How often topics in use are looked at for what nobody reports: deleted, made again, more
    /// partitions.
    pub topics_every: Duration,
    /// How long an admin request may take.
    pub request_timeout: Duration,
    /// How long a lane waits where nothing comes, which is how long a partition that joins it may
    /// wait for its first record. Every wait is a request that names all of its partitions, for
    /// each of which librdkafka looks through all of its topics.
    pub lane_wait: Duration,
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        let settings: Vec<&String> = self.settings.keys().collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("cluster", &self.cluster)
            .field("settings", &settings)
            .finish_non_exhaustive()
    }
}

impl KafkaConfig {
    /// The defaults. Each shard has a group of its own until somebody knows better names.
    pub fn new(brokers: impl Into<String>, cluster: impl Into<String>) -> Self {
        let cluster = cluster.into();
        let prefix = format!("millrace.{cluster}.shard-");
        Self {
            brokers: brokers.into(),
            cluster,
            settings: BTreeMap::new(),
            group: Arc::new(move |shard| format!("{prefix}{shard}")),
            prefetch_kib: 4_096,
            in_flight_bytes_max: 64 << 20,
            busy_after: Duration::from_secs(1),
            offsets_every: Duration::from_millis(500),
            topics_every: Duration::from_secs(5),
            request_timeout: Duration::from_secs(15),
            lane_wait: Duration::from_millis(100),
        }
    }

    /// Refuses settings that cannot be used, before anything is connected.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`].
    pub fn check(&self) -> Result<(), Error> {
        for (key, value) in &self.settings {
            let refused =
                |reason: &str| Err(Error::Setting { key: key.clone(), reason: reason.to_owned() });
            if let Some((_, reason)) = REFUSED.iter().find(|(it, _)| it == key) {
                return refused(reason);
            }
            if needs_tls(key, value) && !HAS_TLS {
                return refused(NEEDS_TLS);
            }
            if key.starts_with("sasl.kerberos") || (is_mechanism(key) && value == "GSSAPI") {
                return refused("no build has Kerberos; use SCRAM or PLAIN over TLS");
            }
        }
        Ok(())
    }

    /// What all clients have in common.
    fn client(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", format!("millrace.{}.{role}", self.cluster))
            // A broker that is back is found again in half a second at most, not in ten.
            .set("reconnect.backoff.max.ms", "500")
            // A topic that is gone is an error at once, not silence for half a minute.
            .set("topic.metadata.propagation.max.ms", "1000")
            // A mistyped name must not become a topic.
            .set("allow.auto.create.topics", "false");
        for (key, value) in &self.settings {
            config.set(key, value);
        }
        config
    }

    /// A lane: reads many partitions from explicit offsets.
    pub(super) fn lane(&self, name: &str) -> ClientConfig {
        let mut config = self.client(name);
        let ours = |config: &ClientConfig, key: &str| config.get(key).is_none();
        // A full prefetch is looked at again after 10 ms; by default a fast reader stalls for 1 s.
        if ours(&config, "fetch.queue.backoff.ms") {
            config.set("fetch.queue.backoff.ms", "10");
        }
        // A partition that joins a lane waits until the broker has answered what was asked before;
        // half a second by default.
        if ours(&config, "fetch.wait.max.ms") {
            config.set("fetch.wait.max.ms", self.lane_wait.as_millis().to_string());
        }
        // The memory of a partition that nobody takes from.
        if ours(&config, "queued.max.messages.kbytes") {
            config.set("queued.max.messages.kbytes", self.prefetch_kib.to_string());
        }
        // What it says of the ids of topics is read: lanes.rs.
        let debug = config.get("debug").map(|it| format!("{it},metadata"));
        config.set("debug", debug.as_deref().unwrap_or("metadata"));
        config.set_log_level(RDKafkaLogLevel::Debug);
        config
            // `assign` asks for a group. Nothing is committed in it and nobody joins it.
            .set("group.id", format!("millrace.{}.lanes", self.cluster))
            // We decide where to go on, and what is committed.
            .set("auto.offset.reset", "error")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Nothing of an aborted transaction is read.
            .set("isolation.level", "read_committed");
        config
    }

    /// The producer for topics that take batches of at least `limit_bytes`.
    pub(super) fn producer(&self, limit_bytes: usize) -> ClientConfig {
        let mut config = self.client(&format!("out-{limit_bytes}"));
        // The other name of the same setting.
        if let Some(timeout) = config.get("delivery.timeout.ms").map(str::to_owned) {
            config.remove("delivery.timeout.ms").set("message.timeout.ms", timeout);
        }
        let defaults = [
            // An outage shorter than this is a wait; a longer one is an error that is tried again.
            ("message.timeout.ms", "120000"),
            // The bound that is felt is ours, in bytes; these are behind it.
            ("queue.buffering.max.messages", "2000000"),
            ("queue.buffering.max.kbytes", "1048576"),
        ];
        for (key, value) in defaults {
            if config.get(key).is_none() {
                config.set(key, value);
            }
        }
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // A batch over its topic's limit fails as a whole, and librdkafka does not split it.
            // A single record is let through up to twice that: the topic decides.
            .set("batch.size", limit_bytes.to_string())
            .set("message.max.bytes", limit_bytes.saturating_mul(2).max(1_000).to_string())
            // For records without an explicit partition, of which we make none: as Java does.
            .set("partitioner", "murmur2_random");
        config
    }

    /// Requests about topics and groups.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut config = self.client("admin");
        // Nobody takes this client's log from its queue, where it would pile up; what matters of
        // it the lanes say too.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        config
    }
}

/// Whether this build speaks TLS and SCRAM.
const HAS_TLS: bool = cfg!(any(feature = "tls", feature = "tls-system"));

const NEEDS_TLS: &str = "this build has neither TLS nor SCRAM; a build with the feature `tls` has \
                         both (`cargo build --release --features tls`, or `tls-system` for the \
                         system's OpenSSL)";

fn is_mechanism(key: &str) -> bool {
    key == "sasl.mechanism" || key == "sasl.mechanisms"
}

fn needs_tls(key: &str, value: &str) -> bool {
    let value = value.to_ascii_uppercase();
    key.starts_with("ssl.")
        || key.starts_with("sasl.oauthbearer.")
        || (key == "security.protocol" && value.contains("SSL"))
        || (is_mechanism(key) && (value.starts_with("SCRAM") || value == "OAUTHBEARER"))
}

/// Settings that our promises rest on.
const REFUSED: &[(&str, &str)] = &[
    ("bootstrap.servers", "the brokers are `kafka.brokers`"),
    ("metadata.broker.list", "the brokers are `kafka.brokers`"),
    ("acks", ACKNOWLEDGED),
    ("request.required.acks", ACKNOWLEDGED),
    ("enable.idempotence", "without it a retry repeats records and swaps their order"),
    ("max.in.flight", IN_FLIGHT),
    ("max.in.flight.requests.per.connection", IN_FLIGHT),
    ("retries", "a record is sent again until its time is over; `message.timeout.ms` sets that"),
    ("message.send.max.retries", "a record is sent again until `message.timeout.ms` is over"),
    ("enable.gapless.guarantee", "an error that is fatal to the client would stop every trigger"),
    ("delivery.report.only.error", "a position waits for the acknowledgement of its outputs"),
    ("queuing.strategy", "records leave in the order of their partition"),
    ("transactional.id", "transactions belong to the delivery mode of a trigger"),
    ("transaction.timeout.ms", "transactions belong to the delivery mode of a trigger"),
    ("isolation.level", "records of aborted transactions are never read"),
    ("partitioner", "partitions are chosen as Kafka's Java client does"),
    ("batch.size", LIMIT),
    ("message.max.bytes", LIMIT),
    ("enable.auto.commit", POSITIONS),
    ("auto.commit.enable", POSITIONS),
    ("auto.commit.interval.ms", POSITIONS),
    ("enable.auto.offset.store", POSITIONS),
    ("auto.offset.reset", "a position that is gone is an error, never silently another one"),
    ("group.id", GROUPS),
    ("group.instance.id", GROUPS),
    ("group.protocol", GROUPS),
    ("enable.partition.eof", "the end of a partition is not an event here"),
    ("allow.auto.create.topics", "a mistyped name must not become a topic"),
    ("plugin.library.paths", "no foreign code is loaded into the node"),
];

const ACKNOWLEDGED: &str = "an output is durable on all replicas in sync before its position moves";
const IN_FLIGHT: &str = "more than five break the order of a partition after a retry";
const POSITIONS: &str = "positions are committed after their outputs, by the node itself";
const GROUPS: &str = "a trigger's group is named after it, and nobody joins it";
const LIMIT: &str = "it is read from each output topic; set `max.message.bytes` there";

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> Result<(), Error> {
        let mut config = KafkaConfig::new("127.0.0.1:9092", "test");
        config.settings.insert(key.to_owned(), value.to_owned());
        config.check()
    }

    #[test]
    fn what_promises_rest_on_is_refused_with_its_reason() {
        for (key, reason) in REFUSED {
            let refused = with(key, "1").unwrap_err();
            assert_eq!(refused.to_string(), format!("setting {key}: {reason}"));
        }
    }

    #[test]
    fn everything_else_is_handed_on() {
        for (key, value) in [("linger.ms", "20"), ("compression.type", "lz4")] {
            with(key, value).unwrap();
            let mut config = KafkaConfig::new("127.0.0.1:9092", "test");
            config.settings.insert(key.to_owned(), value.to_owned());
            assert_eq!(config.producer(1_000).get(key), Some(value));
        }
        let mut config = KafkaConfig::new("127.0.0.1:9092", "test");
        config.settings.insert("fetch.queue.backoff.ms".to_owned(), "50".to_owned());
        assert_eq!(config.lane("lane-0").get("fetch.queue.backoff.ms"), Some("50"));
    }

    #[test]
    fn tls_and_scram_are_refused_by_a_build_without_them() {
        let cases = [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "ca.pem"),
            ("sasl.mechanisms", "SCRAM-SHA-512"),
        ];
        for (key, value) in cases {
            let checked = with(key, value);
            assert_eq!(checked.is_ok(), HAS_TLS, "{key}: {checked:?}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("feature `tls`"), "{error}");
            }
        }
        with("sasl.mechanisms", "GSSAPI").unwrap_err();
        with("security.protocol", "sasl_plaintext").unwrap();
        with("sasl.mechanism", "PLAIN").unwrap();
    }
}
