//! The embedded bus as its callers see it.

use std::sync::atomic::Ordering;

use super::*;
use crate::{BatchBuilder, Headers, PositionMove, RecordBatch, Timestamp};

fn batch(values: &[&str]) -> RecordBatch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(Timestamp(5), None, Some(value.as_bytes()), Headers::default());
    }
    builder.finish().unwrap()
}

fn to(topic: &str, partition: i32, values: &[&str]) -> Append {
    Append { to: TopicPartition::new(topic, partition), batch: batch(values) }
}

fn at(next: i64) -> Position {
    Position { next: Offset(next), ..Position::default() }
}

fn commit(epoch: u64, appends: Vec<Append>, next: i64) -> Commit {
    let partition = TopicPartition::new("in", 0);
    let positions = vec![PositionMove { partition, position: at(next) }];
    Commit { shard: ShardId(1), epoch: Epoch(epoch), appends, settles: Vec::new(), positions }
}

async fn values(bus: &Embedded, topic: &str, from: i64, count: usize) -> Vec<String> {
    let assigned = vec![(TopicPartition::new(topic, 0), Offset(from))];
    let mut reader = bus.reader(assigned).await.unwrap();
    let mut values = Vec::new();
    while values.len() < count {
        for fetched in reader.fetch(1 << 20).await.unwrap() {
            for record in fetched.batch.iter() {
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
        }
    }
    values
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    bus.create_topic(TopicSpec::new("in", 2)).await.unwrap();
    bus.create_topic(TopicSpec::new("out", 1)).await.unwrap();
    bus.append(vec![to("in", 0, &["a", "b"]), to("in", 1, &["c"])]).await.unwrap();
    bus.append(vec![to("in", 0, &["d"])]).await.unwrap();
    bus.recover(ShardId(1), Epoch(3)).await.unwrap();
    bus.commit(commit(3, vec![to("out", 0, &["A"])], 1)).await.unwrap();
    bus.close().await;
    drop(bus);

    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    assert_eq!(values(&bus, "in", 0, 3).await, ["a", "b", "d"]);
    assert_eq!(values(&bus, "in", 1, 2).await, ["b", "d"], "from the middle of a batch");
    assert_eq!(values(&bus, "out", 0, 1).await, ["A"]);
    let recovered = bus.recover(ShardId(1), Epoch(4)).await.unwrap();
    assert_eq!(recovered.positions[0].1.next, Offset(1));
    let stale = bus.commit(commit(3, vec![to("out", 0, &["B"])], 2)).await;
    assert!(matches!(stale, Err(Error::Fenced { current: Epoch(4), .. })), "{stale:?}");
    assert_eq!(bus.watermarks(&TopicPartition::new("out", 0)).await.unwrap().end, Offset(1));
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    let second = Embedded::open(EmbeddedConfig::new(dir.path()), None);
    let Err(Error::InUse { pid, .. }) = second else { panic!("{second:?}") };
    assert_eq!(pid, std::process::id().to_string());
}

#[tokio::test]
async fn sources_leave_the_reserve_to_commits() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = EmbeddedConfig::new(dir.path());
    let left = Arc::new(std::sync::atomic::AtomicU64::new(1 << 40));
    let probed = Arc::clone(&left);
    config.space = Arc::new(move || {
        Some(Space { total_bytes: 1 << 40, available_bytes: probed.load(Ordering::Relaxed) })
    });
    let bus = Embedded::open(config, None).unwrap();
    bus.create_topic(TopicSpec::new("in", 1)).await.unwrap();
    bus.append(vec![to("in", 0, &["a"])]).await.unwrap();
    left.store(100 << 20, Ordering::Relaxed);
    let refused = bus.append(vec![to("in", 0, &["b"])]).await;
    assert!(matches!(refused, Err(Error::DiskFull { .. })), "{refused:?}");
    bus.commit(commit(1, vec![to("in", 0, &["dead"])], 1)).await.unwrap();
    left.store(1 << 40, Ordering::Relaxed);
    bus.append(vec![to("in", 0, &["c"])]).await.unwrap();
    assert_eq!(values(&bus, "in", 0, 3).await, ["a", "dead", "c"]);
}

#[tokio::test]
async fn garbage_is_named_and_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("journal.redb"), vec![0x5a; 70_000]).unwrap();
    let opened = Embedded::open(EmbeddedConfig::new(dir.path()), None);
    assert!(matches!(opened, Err(Error::Corrupt(_))), "{opened:?}");
}

/// A compacted topic of one partition.
pub(super) fn compacted(name: &str) -> TopicSpec {
    TopicSpec::new(name, 1).compacted()
}

/// Records with keys for it.
pub(super) fn keyed(topic: &str, at: Timestamp, records: &[(u64, Option<String>)]) -> Append {
    let mut builder = BatchBuilder::default();
    for (key, value) in records {
        let value = value.as_ref().map(String::as_bytes);
        builder.push(at, Some(&key.to_le_bytes()), value, Headers::default());
    }
    Append { to: TopicPartition::new(topic, 0), batch: builder.finish().unwrap() }
}

/// What there is of it from an offset on: offset, key, value.
pub(super) async fn read_keyed(
    bus: &Embedded,
    topic: &str,
    from: i64,
    end: i64,
) -> Vec<(i64, u64, Option<String>)> {
    let mut reader = bus.reader(vec![(TopicPartition::new(topic, 0), Offset(from))]).await.unwrap();
    let mut found = Vec::new();
    loop {
        // A record that nobody superseded ends it: one may be missing at the very end.
        let fetch = reader.fetch(64 << 10);
        let Ok(fetched) = tokio::time::timeout(std::time::Duration::from_millis(50), fetch).await
        else {
            return found;
        };
        for record in fetched.unwrap().iter().flat_map(|it| it.batch.iter()) {
            let key = u64::from_le_bytes(record.key.unwrap().try_into().unwrap());
            let value = record.value.map(|it| String::from_utf8(it.to_vec()).unwrap());
            found.push((record.offset.0, key, value));
        }
        if found.last().is_some_and(|last| last.0 + 1 == end) {
            return found;
        }
    }
}

mod durability;
mod followers;
