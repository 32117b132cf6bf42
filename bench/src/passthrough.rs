//! The peer of a node on Kafka: a service that reads a topic, calls a function per record, and
//! writes what it gives to another topic, with rdkafka's safe `BaseConsumer` and `BaseProducer`,
//! one thread, and the settings of ours that matter to speed.
//!
//! It is at-least-once as a node is: an offset is committed, once a second, after everything that
//! was read before it has been acknowledged. Each output carries the same header as a node's.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

/// Records between two looks at acknowledgements and the clock.
const TURN: u64 = 500;
const COMMIT_EVERY: Duration = Duration::from_secs(1);
const FLUSH_PATIENCE: Duration = Duration::from_secs(30);

/// Why it ended.
type Failed = Box<dyn std::error::Error>;

/// Settings of both clients beside addresses and topics; printed with the figures.
pub const CONSUMER: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("auto.offset.reset", "earliest"),
    ("fetch.queue.backoff.ms", "10"),
];
/// See [`CONSUMER`].
pub const PRODUCER: &[(&str, &str)] =
    &[("acks", "all"), ("enable.idempotence", "true"), ("partitioner", "murmur2_random")];

/// Counts deliveries that failed.
#[derive(Default)]
struct Deliveries {
    failed: AtomicU64,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is done with a record's value: what comes out, if anything does.
type Function = for<'a> fn(&'a [u8], &'a mut Vec<u8>) -> Result<Option<&'a [u8]>, Failed>;

fn identity<'a>(value: &'a [u8], _scratch: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>, Failed> {
    Ok(Some(value))
}

fn iot<'a>(value: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Option<&'a [u8]>, Failed> {
    let is_kept = iot::enrich(value, scratch)?;
    Ok(is_kept.then_some(&**scratch))
}

/// Runs until it is ended: `kafka-peer BROKERS GROUP IN OUT identity|iot`.
#[expect(clippy::print_stderr, reason = "a program says why it ended")]
pub fn main(malloc: &str) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, group, input, output, function] = &arguments[..] else {
        eprintln!("usage: kafka-peer BROKERS GROUP IN OUT identity|iot");
        return ExitCode::from(2);
    };
    let function: Function = match function.as_str() {
        "identity" => identity,
        "iot" => iot,
        other => {
            eprintln!("there is no function {other:?}");
            return ExitCode::from(2);
        }
    };
    let (_, version) = rdkafka::util::get_rdkafka_version();
    eprintln!("librdkafka {version}, malloc {malloc}");
    match run(brokers, group, (input, output), function) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    brokers: &str,
    group: &str,
    (input, output): (&str, &str),
    function: Function,
) -> Result<(), Failed> {
    let client = |settings: &[(&str, &str)]| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        for (key, value) in settings {
            config.set(*key, *value);
        }
        config
    };
    let consumer: BaseConsumer = client(CONSUMER).set("group.id", group).create()?;
    let producer: BaseProducer<Deliveries> =
        client(PRODUCER).create_with_context(Deliveries::default())?;
    consumer.subscribe(&[input])?;
    let (mut origin, mut scratch) = (Vec::new(), Vec::new());
    let (mut since_turn, mut is_behind, mut committed_at) = (0, false, Instant::now());
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(message) => {
                let message = message?;
                if let Some(value) = function(message.payload().unwrap_or_default(), &mut scratch)?
                {
                    origin_of(&message, &mut origin);
                    send(&producer, output, &message, value, &origin)?;
                }
                (since_turn, is_behind) = (since_turn + 1, true);
                if since_turn < TURN {
                    continue;
                }
                producer.poll(Duration::ZERO);
            }
            None => producer.poll(Duration::ZERO),
        }
        since_turn = 0;
        if is_behind && COMMIT_EVERY <= committed_at.elapsed() {
            producer.flush(FLUSH_PATIENCE)?;
            let failed = producer.context().failed.load(Ordering::Relaxed);
            if 0 < failed {
                return Err(format!("{failed} outputs were not acknowledged").into());
            }
            consumer.commit_consumer_state(CommitMode::Sync)?;
            (is_behind, committed_at) = (false, Instant::now());
        }
    }
}

/// `1;topic;partition;offset;output;revision;attempt;epoch`, as a node writes it.
fn origin_of(message: &BorrowedMessage<'_>, origin: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    origin.clear();
    origin.extend_from_slice(b"1;");
    origin.extend_from_slice(message.topic().as_bytes());
    origin.push(b';');
    origin.extend_from_slice(number.format(message.partition()).as_bytes());
    origin.push(b';');
    origin.extend_from_slice(number.format(message.offset()).as_bytes());
    origin.extend_from_slice(b";0;000000000000;1;1");
}

fn send(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    message: &BorrowedMessage<'_>,
    value: &[u8],
    origin: &[u8],
) -> Result<(), KafkaError> {
    let header = Header { key: dispatch::ORIGIN, value: Some(origin) };
    let mut record = BaseRecord::<[u8], [u8]>::to(topic)
        .payload(value)
        .headers(OwnedHeaders::new_with_capacity(1).insert(header));
    record.key = message.key();
    record.timestamp = message.timestamp().to_millis();
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => return Err(error),
        }
    }
}
