//! Kafka's Java client as another process: records go in and out as lines.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use bus::{Header, Record, Timestamp};

use crate::harness::kafka::{Broker, Kafka};
use crate::harness::{binaries, command};
use crate::promise::{During, NotShown, broken};

const PATIENCE: Duration = Duration::from_secs(120);

/// A record for the Java client.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) topic: String,
    /// `None`: it chooses.
    pub(super) partition: Option<i32>,
    pub(super) record: Record,
}

/// Sends records with this codec; the partition and offset of each.
pub(super) fn produce(
    kafka: &Kafka,
    broker: &Broker,
    codec: &str,
    records: &[Sent],
) -> Result<Vec<(i32, i64)>, NotShown> {
    let mut lines = String::new();
    for Sent { topic, partition, record } in records {
        let partition = partition.map_or_else(|| "-".to_owned(), |it| it.to_string());
        let headers: Vec<String> = record
            .headers
            .iter()
            .map(|it| format!("{}:{}", hex(Some(&it.name)), hex(it.value.as_deref())))
            .collect();
        let (key, value) = (hex(record.key.as_deref()), hex(record.value.as_deref()));
        let (time, headers) = (record.timestamp, headers.join(","));
        writeln!(lines, "{topic}\t{partition}\t{time}\t{key}\t{value}\t{headers}")
            .during("write a line")?;
    }
    let said = client(kafka, &["produce", &broker.address(), codec], &lines)?;
    let places = said.lines().map(|line| {
        let (partition, offset) = line.split_once('\t')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    });
    let places: Option<Vec<_>> = places.collect();
    places.ok_or_else(|| broken(format!("the Java client said {said:?}")))
}

/// The first `count` records of a topic's partition 0.
pub(super) fn consume(
    kafka: &Kafka,
    broker: &Broker,
    topic: &str,
    count: usize,
) -> Result<Vec<Record>, NotShown> {
    let count = count.to_string();
    let said = client(kafka, &["consume", &broker.address(), topic, &count], "")?;
    let records: Option<Vec<Record>> = said.lines().map(record_of).collect();
    records.ok_or_else(|| broken(format!("the Java client said {said:?}")))
}

fn record_of(line: &str) -> Option<Record> {
    let parts: Vec<&str> = line.split('\t').collect();
    let [_topic, _partition, time, key, value, headers] = parts[..] else { return None };
    let headers = headers.split(',').filter(|it| !it.is_empty()).map(|header| {
        let (name, value) = header.split_once(':')?;
        let name = unhex(name)??.into();
        Some(Header { name, value: unhex(value)?.map(Into::into) })
    });
    Some(Record {
        key: unhex(key)?.map(Into::into),
        value: unhex(value)?.map(Into::into),
        headers: headers.collect::<Option<Vec<_>>>()?,
        timestamp: Timestamp(time.parse().ok()?),
    })
}

fn client(kafka: &Kafka, arguments: &[&str], input: &str) -> Result<String, NotShown> {
    let mut java = kafka.java();
    java.arg(binaries::root().join("tests/kafka/Client.java")).args(arguments);
    let file = tempfile::NamedTempFile::new().during("make a file")?;
    std::fs::write(file.path(), input).during("write the input")?;
    let input = std::fs::File::open(file.path()).during("open the input")?;
    let said = command::run_with(&mut java, Stdio::from(input), PATIENCE)?;
    if said.status == Some(0) { Ok(said.stdout) } else { Err(broken(said.all())) }
}

fn hex(bytes: Option<&[u8]>) -> String {
    match bytes {
        Some(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        None => "~".to_owned(),
    }
}

/// Bytes or null; `None` when it is neither.
fn unhex(text: &str) -> Option<Option<Vec<u8>>> {
    if text == "~" {
        return Some(None);
    }
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect::<Option<Vec<u8>>>().map(Some)
}
