//! What lies in the topics in the end: of the embedded bus by a decoder of its own, of Kafka by a client
//! that is not ours.

use std::path::Path;

use serde_json::Value;

use super::app::FUNCTIONS;
use crate::journal_reader::{Journal, ORIGIN};
use crate::promise::{NotShown, broken};

/// A record of a topic.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) partition: i64,
    pub(super) offset: i64,
    pub(super) timestamp: i64,
    pub(super) key: Option<String>,
    pub(super) value: String,
    pub(super) headers: Vec<(&'static str, String)>,
}

/// The headers that matter.
const HEADERS: [&str; 5] = [
    ORIGIN,
    "mark",
    "millrace-dead-attempts",
    "millrace-dead-invocation",
    "millrace-dead-revision",
];

impl Row {
    pub(super) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|it| it.0 == name);
        found.map_or("", |it| it.1.as_str())
    }
}

/// All of it, each partition in its order; by function what it made.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) sources: Vec<Row>,
    pub(super) outputs: [Vec<Row>; 3],
    pub(super) dead: [Vec<Row>; 3],
    pub(super) told: [Vec<Row>; 3],
}

impl Seen {
    fn read(mut topic: impl FnMut(&str) -> Result<Vec<Row>, NotShown>) -> Result<Self, NotShown> {
        let none = || [Vec::new(), Vec::new(), Vec::new()];
        let mut seen = Self { sources: topic("in")?, outputs: none(), dead: none(), told: none() };
        for (at, function) in FUNCTIONS.into_iter().enumerate() {
            let name = function.name();
            seen.outputs[at] = topic(&format!("{name}.out"))?;
            seen.dead[at] = topic(&format!("mill.{name}.dead"))?;
            for told in function.told() {
                seen.told[at].extend(topic(told)?);
            }
        }
        Ok(seen)
    }

    /// Reads the journal of a node that has ended.
    pub(super) fn in_journal(data: &Path) -> Result<Self, NotShown> {
        let journal = Journal::open(data)?;
        Self::read(|topic| {
            let mut rows = Vec::new();
            for partition in 0..journal.topics.get(topic).map_or(0, |it| it.partitions) {
                journal.records(topic, partition, 0, |record| {
                    let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
                    let header = |name| Some((name, text(record.header(name)?)));
                    rows.push(Row {
                        partition: partition.into(),
                        offset: record.offset,
                        timestamp: record.timestamp,
                        key: record.key.map(text),
                        value: record.value.map(text).unwrap_or_default(),
                        headers: HEADERS.into_iter().filter_map(header).collect(),
                    });
                })?;
            }
            Ok(rows)
        })
    }

    /// Reads topics of Kafka, as a client that is not ours tells them.
    pub(super) fn in_kafka(
        mut dump: impl FnMut(&str) -> Result<Value, NotShown>,
    ) -> Result<Self, NotShown> {
        Self::read(|topic| {
            let said = dump(topic)?;
            let row = |it: &Value| {
                let header = |name| Some((name, it[3][name].as_str()?.to_owned()));
                Some(Row {
                    partition: it[0].as_i64()?,
                    offset: it[4].as_i64()?,
                    timestamp: it[5].as_i64()?,
                    key: it[1].as_str().map(str::to_owned),
                    value: it[2].as_str()?.to_owned(),
                    headers: HEADERS.into_iter().filter_map(header).collect(),
                })
            };
            let rows = said["records"].as_array().into_iter().flatten().map(row);
            let rows: Option<Vec<Row>> = rows.collect();
            rows.ok_or_else(|| broken(format!("an odd record of {topic}")))
        })
    }
}
