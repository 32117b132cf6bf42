//! What the journal of the stopped node says: how far a topic's reader is behind, and how long
//! records waited.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::journal_reader::Journal;
use crate::promise::{NotShown, broken};

/// What the records of a window saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) p99_ms: f64,
    /// Records that ran a second.
    pub(super) rate: f64,
    /// The same of those that were sent.
    pub(super) sent: f64,
}

/// How far behind whoever reads a topic is, as Kafka's tools count it: from the committed offset to the
/// end, whatever is settled in between.
///
/// # Errors
///
/// When the journal cannot be read.
pub(super) fn lag(data: &Path, topic: &str) -> Result<u64, NotShown> {
    let journal = Journal::open(data)?;
    let partitions = journal.topics.get(topic).map_or(0, |it| it.partitions);
    let mut ends: BTreeMap<i32, i64> = (0..partitions).map(|it| (it, 0)).collect();
    for (partition, end) in &mut ends {
        journal.records(topic, *partition, 0, |record| *end = record.offset + 1)?;
    }
    let mut left: i64 = ends.values().sum();
    for position in journal.positions()? {
        let Some((name, _)) = journal.partition(&position) else { continue };
        if name == topic {
            left -= position.next;
        }
    }
    u64::try_from(left).map_err(|_| broken(format!("more of {topic} is settled than is there")))
}

/// What the records of these windows saw, by their number.
///
/// # Errors
///
/// When the journal cannot be read, or an output is missing or there twice.
pub(super) fn seen(data: &Path, windows: [(u64, u64); 2]) -> Result<[Seen; 2], NotShown> {
    let journal = Journal::open(data)?;
    let mut ran = BTreeMap::new();
    let (mut inputs, mut twice) = (0, 0);
    for topic in ["in", "out"] {
        for partition in 0..journal.topics.get(topic).map_or(0, |it| it.partitions) {
            journal.records(topic, partition, 0, |record| {
                if topic == "in" {
                    inputs += 1;
                    return;
                }
                let value = record.value.and_then(|it| serde_json::from_slice::<Value>(it).ok());
                let of = |it: &Value| {
                    Some((it["n"].as_u64()?, (it["at"].as_f64()?, it["ran"].as_f64()?)))
                };
                if let Some((number, times)) = value.as_ref().and_then(of) {
                    twice += u64::from(ran.insert(number, times).is_some());
                }
            })?;
        }
    }
    if ran.len() != inputs || twice != 0 {
        return Err(broken(format!("{inputs} records, {} outputs, {twice} twice", ran.len())));
    }
    Ok(windows.map(|(from, to)| {
        let these: Vec<(f64, f64)> = ran.range(from..to).map(|it| *it.1).collect();
        let mut waits: Vec<f64> = these.iter().map(|(at, then)| then - at).collect();
        waits.sort_by(f64::total_cmp);
        let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or_default();
        let a_second = |times: &dyn Fn(&(f64, f64)) -> f64| {
            let first = these.iter().map(times).fold(f64::MAX, f64::min);
            let last = these.iter().map(times).fold(0.0, f64::max);
            these.len() as f64 / (last - first).max(0.001)
        };
        Seen { p99_ms: 1_000.0 * p99, rate: a_second(&|it| it.1), sent: a_second(&|it| it.0) }
    }))
}
