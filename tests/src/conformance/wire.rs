//! What goes over the wire is what Kafka's own client makes of it: keys land in the same
//! partitions, and records with every peculiarity come through every codec, both ways.

use std::path::Path;
use std::sync::Arc;

use bus::kafka::{KafkaBus, KafkaConfig};
use bus::{
    Append, BatchBuilder, Bus as _, Header, Offset, Record, Timestamp, TopicPartition, TopicSpec,
    partition_for_key,
};

use super::java::{self, Sent};
use crate::demand;
use crate::harness::kafka::{Broker, Kafka};
use crate::harness::rng::Rng;
use crate::promise::{During, Figures, NotShown, Run, broken};

/// By the number that a batch's attributes have for them.
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Not a power of two: a wrong sign or a wrong hash shows.
const PARTITIONS: i32 = 7;
/// Enough of the same for a codec to be worth its while.
const REPEATS: usize = 40;

pub(super) fn check(
    run: &Run,
    kafka: &Kafka,
    broker: &Broker,
    keys: u64,
    figures: &mut Figures,
) -> Result<(), NotShown> {
    let runtime = tokio::runtime::Runtime::new().during("start a runtime")?;
    let dir = run.evidence.join("wire");
    let bus = runtime.block_on(open(broker, "none", &dir.join("keys")))?;
    runtime.block_on(make(&bus, "keys", PARTITIONS))?;
    same_partitions(kafka, broker, keys, run.seed)?;
    figures.set("keys", keys);
    let mut codecs = 0;
    for (number, codec) in (0_u8..).zip(CODECS) {
        run.note(format!("the codec {codec}"));
        let (theirs, ours) = (format!("{codec}-theirs"), format!("{codec}-ours"));
        let records = peculiar();

        runtime.block_on(make(&bus, &theirs, 1))?;
        let sent = records.iter().map(|record| Sent {
            topic: theirs.clone(),
            partition: Some(0),
            record: record.clone(),
        });
        java::produce(kafka, broker, codec, &sent.collect::<Vec<_>>())?;
        let read = runtime.block_on(read(&bus, &theirs, records.len()))?;
        demand!(read == records, "{codec}, from Java to us: {read:?} instead of {records:?}");
        has_codec(broker, &theirs, number)?;

        let compressing = runtime.block_on(open(broker, codec, &dir.join(codec)))?;
        runtime.block_on(make(&compressing, &ours, 1))?;
        runtime.block_on(append(&compressing, &ours, &records))?;
        let read = java::consume(kafka, broker, &ours, records.len())?;
        demand!(read == records, "{codec}, from us to Java: {read:?} instead of {records:?}");
        has_codec(broker, &ours, number)?;
        runtime.block_on(compressing.close());
        codecs += 1;
    }
    runtime.block_on(bus.close());
    figures.set("codecs", codecs);
    Ok(())
}

async fn open(broker: &Broker, codec: &str, dir: &Path) -> Result<Arc<KafkaBus>, NotShown> {
    let positions = ::conformance::positions(dir).map_err(broken)?;
    let mut config = KafkaConfig::new(broker.address(), "wire");
    config.settings.insert("compression.type".to_owned(), codec.to_owned());
    KafkaBus::open(config, positions).await.during("open the bus")
}

async fn make(bus: &KafkaBus, name: &str, partitions: i32) -> Result<(), NotShown> {
    bus.create_topic(TopicSpec::new(name, partitions)).await.during("make a topic").map(drop)
}

async fn append(bus: &KafkaBus, topic: &str, records: &[Record]) -> Result<(), NotShown> {
    let mut builder = BatchBuilder::default();
    records.iter().for_each(|record| builder.push_record(record));
    let batch = builder.finish().ok_or_else(|| broken("there are no records"))?;
    let to = TopicPartition::new(topic, 0);
    bus.append(vec![Append { to, batch }]).await.during("append").map(drop)
}

async fn read(bus: &KafkaBus, topic: &str, count: usize) -> Result<Vec<Record>, NotShown> {
    let assigned = vec![(TopicPartition::new(topic, 0), Offset(0))];
    let mut reader = bus.reader(assigned).await.during("read a topic")?;
    let mut records = Vec::new();
    while records.len() < count {
        for fetched in reader.fetch(1 << 20).await.during("read a topic")? {
            records.extend(fetched.batch.iter().map(|record| record.to_record()));
        }
    }
    Ok(records)
}

/// Kafka's own producer chooses a partition for each key, and so do we.
fn same_partitions(kafka: &Kafka, broker: &Broker, keys: u64, seed: u64) -> Result<(), NotShown> {
    let mut rng = Rng::new(seed, 7);
    let mut key = || -> Vec<u8> {
        let length = rng.draw(40);
        (0..length).map(|_| rng.draw(256) as u8).collect()
    };
    let keys: Vec<Vec<u8>> = (0..keys).map(|_| key()).collect();
    let sent = keys.iter().map(|key| Sent {
        topic: "keys".to_owned(),
        partition: None,
        record: Record { key: Some(key.clone().into()), ..record(Some(b"v")) },
    });
    let places = java::produce(kafka, broker, "none", &sent.collect::<Vec<_>>())?;
    demand!(places.len() == keys.len(), "{} of {} keys were sent", places.len(), keys.len());
    for (key, (partition, _)) in keys.iter().zip(places) {
        let ours = partition_for_key(key, PARTITIONS);
        demand!(ours == partition, "{key:02x?} is in {partition}, we say {ours}");
    }
    Ok(())
}

fn record(value: Option<&[u8]>) -> Record {
    let value = value.map(|value| value.to_vec().into());
    Record { value, timestamp: Timestamp::now(), ..Record::default() }
}

/// Duplicate headers, null and empty keys and values, bytes above 127, and much of the same.
fn peculiar() -> Vec<Record> {
    let every_byte: Vec<u8> = (0..=255).collect();
    let header = |name: &str, value: Option<&[u8]>| Header {
        name: name.as_bytes().to_vec().into(),
        value: value.map(|value| value.to_vec().into()),
    };
    let headers = vec![
        header("twice", Some(&every_byte)),
        header("twice", Some(b"")),
        header("twice", None),
        header("grün", Some(b"\xff")),
    ];
    let mut all = vec![
        Record {
            key: Some(every_byte.clone().into()),
            headers: headers.clone(),
            ..record(Some(&every_byte))
        },
        Record { key: Some(b"tombstone".to_vec().into()), headers, ..record(None) },
        record(None),
        Record { key: Some(Vec::new().into()), ..record(Some(b"")) },
    ];
    all.extend((0..REPEATS).map(|_| record(Some(&every_byte))));
    all
}

/// That the topic's first batch is compressed with this codec: bits 0-2 of its attributes, which
/// are the bytes 21 and 22 (Kafka's message format, version 2).
fn has_codec(broker: &Broker, topic: &str, number: u8) -> Result<(), NotShown> {
    let path = broker.segment(topic, 0);
    let bytes = std::fs::read(&path).during(format!("read {}", path.display()))?;
    let attributes = bytes.get(22).ok_or_else(|| broken("a segment without a batch"))?;
    demand!(attributes & 7 == number, "{topic} has the codec {}", attributes & 7);
    Ok(())
}
