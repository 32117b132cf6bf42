//! A pure core: the AWS event for self-managed Kafka, written straight from a frame.

use std::fmt::Write as _;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frame::{Request, RequestRecord};

/// What one event may have, bytes.
pub(crate) const EVENT_BYTES_MAX: usize = 6 << 20;

/// Some records of a batch as one event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// These records.
    Event { range: Range<usize>, body: String },
    /// A record that no event can hold.
    TooLarge { index: usize, bytes: usize },
}

/// The events of a batch: one, unless that would be larger than an event may be.
pub(crate) fn kafka_events(request: &Request<'_>, brokers: &str) -> Vec<Part> {
    let head = head(brokers);
    let mut parts = Vec::new();
    let mut event = Gathered::new(0);
    for (index, record) in request.iter().enumerate() {
        let text = record_text(&record);
        let bytes = head.len() + text.len() + record.topic.len() + 32;
        if EVENT_BYTES_MAX < bytes {
            event.end(index, &head, &mut parts);
            parts.push(Part::TooLarge { index, bytes });
            event = Gathered::new(index + 1);
            continue;
        }
        if EVENT_BYTES_MAX < event.bytes + bytes {
            event.end(index, &head, &mut parts);
            event = Gathered::new(index);
        }
        event.add((record.topic, record.partition), &text);
    }
    event.end(request.len(), &head, &mut parts);
    parts
}

/// The event of one record alone, however large.
#[must_use]
pub fn kafka_event(record: &RequestRecord<'_>, brokers: &str) -> String {
    let mut body = head(brokers);
    write_group(&mut body, (record.topic, record.partition), &record_text(record));
    body.push_str("}}");
    body
}

fn head(brokers: &str) -> String {
    format!(
        "{{\"eventSource\":\"SelfManagedKafka\",\"bootstrapServers\":{},\"records\":{{",
        quoted(brokers)
    )
}

fn write_group(body: &mut String, (topic, partition): (&str, i32), texts: &str) {
    let name = quoted(&format!("{topic}-{partition}"));
    body.extend([&name, ":[", texts, "]"]);
}

struct Gathered<'a> {
    start: usize,
    bytes: usize,
    /// The records' texts, by topic and partition in the order in which they came.
    groups: Vec<((&'a str, i32), String)>,
}

impl<'a> Gathered<'a> {
    const fn new(start: usize) -> Self {
        Self { start, bytes: 0, groups: Vec::new() }
    }

    fn add(&mut self, of: (&'a str, i32), text: &str) {
        self.bytes += text.len() + 1;
        if let Some((_, group)) = self.groups.iter_mut().find(|(it, _)| *it == of) {
            group.push(',');
            group.push_str(text);
        } else {
            self.bytes += of.0.len() + 32;
            self.groups.push((of, text.to_owned()));
        }
    }

    fn end(&self, end: usize, head: &str, parts: &mut Vec<Part>) {
        if self.groups.is_empty() {
            return;
        }
        let mut body = String::with_capacity(head.len() + self.bytes + 2);
        body.push_str(head);
        for (number, (of, text)) in self.groups.iter().enumerate() {
            if 0 < number {
                body.push(',');
            }
            write_group(&mut body, *of, text);
        }
        body.push_str("}}");
        parts.push(Part::Event { range: self.start..end, body });
    }
}

fn record_text(record: &RequestRecord<'_>) -> String {
    let bytes = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
    let mut text = String::with_capacity(200 + bytes / 3 * 4 + 8 * record.headers.as_bytes().len());
    let (topic, partition, offset) = (quoted(record.topic), record.partition, record.offset);
    let timestamp = record.timestamp;
    // Writing to a string cannot fail.
    write!(
        text,
        "{{\"topic\":{topic},\"partition\":{partition},\"offset\":{offset},\
         \"timestamp\":{timestamp},\"timestampType\":\"CREATE_TIME\""
    )
    .expect("writing to a string does not fail");
    for (name, value) in [("key", record.key), ("value", record.value)] {
        if let Some(value) = value {
            write!(text, ",\"{name}\":\"").expect("writing to a string does not fail");
            STANDARD.encode_string(value, &mut text);
            text.push('"');
        }
    }
    text.push_str(",\"headers\":[");
    for (number, (name, value)) in record.headers.iter().enumerate() {
        if 0 < number {
            text.push(',');
        }
        write!(text, "{{{}:", quoted(&String::from_utf8_lossy(name)))
            .expect("writing to a string does not fail");
        match value {
            None => text.push_str("null"),
            Some(value) => {
                text.push('[');
                for (at, byte) in value.iter().enumerate() {
                    // Signed, as a JVM has them: clients read 200 as -56.
                    let comma = if at == 0 { "" } else { "," };
                    write!(text, "{comma}{}", byte.cast_signed())
                        .expect("writing to a string does not fail");
                }
                text.push(']');
            }
        }
        text.push('}');
    }
    text.push_str("]}");
    text
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use frame::{Context, HeadersBuilder, Order, RequestBuilder};

    use super::*;

    fn events(values: &[Option<&[u8]>]) -> Vec<Part> {
        let table = [("my-topic", 0), ("my-topic", 1)];
        let mut builder = RequestBuilder::new(1, Order::Key, &Context::default(), &table);
        let mut headers = HeadersBuilder::default();
        headers.push(b"trace", Some(&[118, 220, 0]));
        headers.push(b"trace", None);
        let headers = headers.headers();
        for (index, value) in values.iter().enumerate() {
            let (partition, offset) = (index as u32 % 2, 15 + index as i64);
            let bytes = headers.as_bytes();
            let key = Some(&b"abc"[..]);
            builder.push(
                partition,
                offset,
                1_545_084_650_987,
                1,
                key,
                *value,
                bytes,
                headers.len(),
            );
        }
        let frame = builder.finish();
        kafka_events(&Request::parse(&frame).unwrap(), "b-1:9092,b-2:9092")
    }

    #[test]
    fn an_event_is_what_aws_documents() {
        let parts = events(&[Some(b"Hello"), None]);
        let [Part::Event { range, body }] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!(range, &(0..2));
        let found: serde_json::Value = serde_json::from_str(body).unwrap();
        let record = |partition: u32, offset: u32| {
            serde_json::json!({
                "topic": "my-topic", "partition": partition, "offset": offset,
                "timestamp": 1_545_084_650_987_i64, "timestampType": "CREATE_TIME",
                "key": "YWJj", "headers": [{"trace": [118, -36, 0]}, {"trace": null}],
            })
        };
        let mut first = record(0, 15);
        first["value"] = "SGVsbG8=".into();
        let expected = serde_json::json!({
            "eventSource": "SelfManagedKafka",
            "bootstrapServers": "b-1:9092,b-2:9092",
            "records": {"my-topic-0": [first], "my-topic-1": [record(1, 16)]},
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn an_event_of_one_record_is_the_same() {
        let table = [("my-topic", 3)];
        let mut builder = RequestBuilder::new(1, Order::Key, &Context::default(), &table);
        builder.push(0, 15, 7, 1, None, Some(b"Hello"), &[], 0);
        let frame = builder.finish();
        let request = Request::parse(&frame).unwrap();
        let [Part::Event { body, .. }] = &kafka_events(&request, "b-1:9092")[..] else { panic!() };
        assert_eq!(*body, kafka_event(&request.get(0), "b-1:9092"));
    }

    #[test]
    fn what_is_too_much_for_an_event_is_split_and_what_is_too_large_is_named() {
        let (large, huge) = (vec![1; 2 << 20], vec![1; 5 << 20]);
        let parts = events(&[Some(&large), Some(&large), Some(&huge), Some(b"x"), Some(&large)]);
        let ranges: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Event { range, body } => {
                    assert!(body.len() <= EVENT_BYTES_MAX, "{}", body.len());
                    serde_json::from_str::<serde::de::IgnoredAny>(body).unwrap();
                    (range.clone(), true)
                }
                Part::TooLarge { index, .. } => (*index..*index + 1, false),
            })
            .collect();
        assert_eq!(ranges, [(0..2, true), (2..3, false), (3..5, true)]);
    }
}
