//! The calls against librdkafka's own mock of a broker: what is produced is consumed byte for
//! byte, a queue wakes who waits for it, and a group's offsets carry their metadata.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Sends the number and offset of each delivery.
struct Deliveries(mpsc::Sender<(usize, i64)>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let message = result.as_ref().unwrap();
        self.0.send((number, message.offset())).unwrap();
    }
}

type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;
/// Key, value, headers.
type Sent<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, &'a [(&'a [u8], Option<&'a [u8]>)]);
type Seen = (i64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Headers);

fn config(cluster: &MockCluster<'_, impl ClientContext>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers());
    config
}

fn consumer(cluster: &MockCluster<'_, impl ClientContext>) -> Arc<BaseConsumer> {
    let mut config = config(cluster);
    config.set("group.id", "lane").set("auto.offset.reset", "error");
    Arc::new(config.create().unwrap())
}

fn assign(consumer: &BaseConsumer, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("t", 0, Offset::Offset(offset)).unwrap();
    consumer.incremental_assign(&list).unwrap();
}

fn seen(queue: &PartitionQueue<DefaultConsumerContext>, at_most: usize) -> Vec<Seen> {
    let mut all = Vec::new();
    queue.take(at_most, |message| {
        assert_eq!(message.error(), None);
        let mut headers = Vec::new();
        message.headers(|name, value| headers.push((name.to_vec(), value.map(<[u8]>::to_vec))));
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let (key, value) = (owned(message.key()), owned(message.value()));
        all.push((message.offset(), message.timestamp(), key, value, headers));
    });
    all
}

#[test]
fn what_is_produced_is_consumed_byte_for_byte_and_the_queue_wakes() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let consumer = consumer(&cluster);
    let (woken, wakes) = mpsc::channel();
    let wake = Box::new(move || woken.send(()).unwrap());
    let queue = PartitionQueue::split(Arc::clone(&consumer), "t", 0, wake).unwrap();
    assign(&consumer, 0);

    let (sender, deliveries) = mpsc::channel();
    let producer: BaseProducer<Deliveries> =
        config(&cluster).create_with_context(Deliveries(sender)).unwrap();
    let producer = Arc::new(producer);
    let topic = ProducerTopic::new(Arc::clone(&producer), "t").unwrap();
    let every_byte: Vec<u8> = (0..=255).collect();
    let names: [(&[u8], Option<&[u8]>); 4] =
        [(b"twice", Some(&every_byte)), (b"twice", Some(b"")), (b"twice", None), (b"\xff", None)];
    let records: [Sent<'_>; 3] = [
        (Some(&every_byte), Some(&every_byte), &names),
        (None, None, &[]),
        (Some(b""), Some(b""), &[]),
    ];
    for (number, (key, value, headers)) in records.into_iter().enumerate() {
        let record = Outgoing {
            partition: 0,
            timestamp: 1_000 + number as i64,
            key,
            value,
            header_count: headers.len(),
            headers: headers.iter().copied(),
        };
        topic.produce(record, 70 + number).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
    let numbers: Vec<_> = deliveries.try_iter().collect();
    assert_eq!(numbers, [(70, 0), (71, 1), (72, 2)]);

    let mut all = Vec::new();
    while all.len() < records.len() {
        let found = seen(&queue, 2);
        if found.len() < 2 && all.len() + found.len() < records.len() {
            // It was empty: the next record must wake us.
            wakes.recv_timeout(PATIENCE).unwrap();
        }
        all.extend(found);
    }
    for (number, ((key, value, headers), seen)) in records.into_iter().zip(all).enumerate() {
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let headers: Headers =
            headers.iter().map(|(name, value)| (name.to_vec(), owned(*value))).collect();
        let time = Some(1_000 + number as i64);
        assert_eq!(seen, (number as i64, time, owned(key), owned(value), headers));
    }
}

#[test]
fn a_record_over_the_limit_is_refused_and_its_headers_are_let_go() {
    let cluster = MockCluster::new(1).unwrap();
    let mut config = config(&cluster);
    config.set("message.max.bytes", "1000");
    let (sender, _deliveries) = mpsc::channel();
    let producer: BaseProducer<Deliveries> =
        config.create_with_context(Deliveries(sender)).unwrap();
    let topic = ProducerTopic::new(Arc::new(producer), "t").unwrap();
    let value = vec![0; 2_000];
    let headers: [(&[u8], Option<&[u8]>); 1] = [(b"a", Some(b"b"))];
    let record = Outgoing {
        partition: 0,
        timestamp: 0,
        key: None,
        value: Some(&value),
        header_count: 1,
        headers,
    };
    assert_eq!(topic.produce(record, 0), Err(RDKafkaErrorCode::MessageSizeTooLarge));
}

#[test]
fn an_offset_out_of_range_is_a_message_with_an_error() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let consumer = consumer(&cluster);
    let (woken, wakes) = mpsc::channel();
    let wake = Box::new(move || woken.send(()).unwrap());
    let queue = PartitionQueue::split(Arc::clone(&consumer), "t", 0, wake).unwrap();
    assign(&consumer, 900);
    let started_at = Instant::now();
    let mut found = None;
    while found.is_none() && started_at.elapsed() < PATIENCE {
        wakes.recv_timeout(PATIENCE).unwrap();
        queue.take(10, |message| found = message.error());
    }
    assert_eq!(found.unwrap().0, RDKafkaErrorCode::AutoOffsetReset);
}

/// The mock answers neither for all partitions of a group nor as a controller: listing, deleting
/// and describing are shown against a real broker, by the promise `conformance`.
#[test]
fn a_groups_offsets_carry_their_metadata() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let consumer = consumer(&cluster);
    let metadata = "1;7;3;ff;10-12".repeat(200);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("t", 1, Offset::Offset(5)).unwrap();
    list.find_partition("t", 1).unwrap().set_metadata(&metadata);
    alter_group_offsets(&consumer, "lane", &list, &|| false).unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition("t", 1);
    let found = consumer.committed_offsets(asked, PATIENCE).unwrap();
    let found = found.find_partition("t", 1).unwrap();
    assert_eq!((found.offset(), found.metadata()), (Offset::Offset(5), &*metadata));
}

#[test]
fn a_name_with_a_zero_byte_is_no_name() {
    let cluster = MockCluster::new(1).unwrap();
    let consumer = consumer(&cluster);
    let zero = describe_topics(consumer.client(), &["a\0b"], PATIENCE);
    assert_eq!(zero.unwrap_err().code, RDKafkaErrorCode::InvalidArgument);
    assert!(PartitionQueue::split(consumer, "a\0b", 0, Box::new(|| {})).is_none());
}

#[test]
fn what_a_client_says_is_in_its_log_before_its_records_are_there() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    let mut config = config(&cluster);
    config.set("group.id", "lane").set("debug", "metadata");
    config.set_log_level(rdkafka::config::RDKafkaLogLevel::Debug);
    let consumer: Arc<BaseConsumer> = Arc::new(config.create().unwrap());
    let log = LogQueue::of(Arc::clone(&consumer)).unwrap();
    let (woken, wait) = mpsc::channel();
    let wake = Box::new(move || woken.send(()).unwrap_or_default());
    let queue = PartitionQueue::split(Arc::clone(&consumer), "t", 0, wake).unwrap();
    let producer: BaseProducer = self::config(&cluster).create().unwrap();
    producer.send(rdkafka::producer::BaseRecord::<(), _>::to("t").payload("v")).ok().unwrap();
    producer.flush(PATIENCE).unwrap();
    assign(&consumer, 0);
    let mut taken = 0;
    while taken == 0 {
        wait.recv_timeout(PATIENCE).unwrap();
        taken = queue.take(1, |message| assert_eq!(message.error(), None));
    }
    let mut lines = Vec::new();
    log.take(|level, facility, text| lines.push((level, facility.to_owned(), text.to_owned())));
    let leader = |(level, facility, text): &(i32, String, String)| {
        *level == 7 && facility == "METADATA" && text.contains("Topic t [0] Leader 1")
    };
    assert!(lines.iter().any(leader), "{lines:?}");
    log.take(|_, _, text| panic!("{text} was there before"));
}
