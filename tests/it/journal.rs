//! The promises' own reader of journals against what the embedded bus writes: two decoders of one
//! documented layout, and neither knows the other.

use bus::embedded::{Embedded, EmbeddedConfig};
use bus::{
    Append, BatchBuilder, Bus, Commit, Completions, Epoch, HeadersBuilder, Offset, Position,
    PositionMove, ShardId, Timestamp, TopicPartition, TopicSpec,
};
use millrace_tests::checker::{Checker, DUPLICATE, GAP, Outputs, POSITION, Stage};
use millrace_tests::journal_reader::{Fault, Follower, Journal, ORIGIN, Role, plant};

const RECORDS: i64 = 500;

fn batch(records: std::ops::Range<i64>, from: Option<i64>) -> bus::RecordBatch {
    let mut builder = BatchBuilder::default();
    for number in records {
        let mut headers = HeadersBuilder::default();
        if from.is_some() {
            let origin = format!("1;in;0;{number};0;r1;1;3");
            headers.push(ORIGIN.as_bytes(), Some(origin.as_bytes()));
        }
        let (key, value) = (format!("key-{}", number % 7), format!("value {number}"));
        let value = Some(value.as_bytes());
        builder.push(Timestamp(number), Some(key.as_bytes()), value, headers.headers());
    }
    builder.finish().unwrap()
}

/// A journal with 500 inputs, the first 300 settled and 310..320 settled beyond, copied while
/// the bus still has it open: as a kill leaves it.
async fn killed(dir: &std::path::Path) -> std::path::PathBuf {
    let bus = Embedded::open(EmbeddedConfig::new(dir.join("live")), None).unwrap();
    for topic in ["in", "out"] {
        bus.create_topic(TopicSpec::new(topic, 2)).await.unwrap();
    }
    let (input, output) = (TopicPartition::new("in", 0), TopicPartition::new("out", 1));
    for start in (0..RECORDS).step_by(100) {
        let batch = batch(start..start + 100, None);
        bus.append(vec![Append { to: input.clone(), batch }]).await.unwrap();
    }
    let (shard, epoch) = (ShardId(9), Epoch(3));
    bus.recover(shard, epoch).await.unwrap();
    let commit = async |outputs, next, beyond: &[(i64, i64)]| {
        let ranges = beyond.iter().map(|(start, end)| (Offset(*start), Offset(*end)));
        let completions = Completions::from_ranges(ranges);
        let position = Position { epoch, next: Offset(next), completions, suspects: None };
        let appends = vec![Append { to: output.clone(), batch: batch(outputs, Some(0)) }];
        let positions = vec![PositionMove { partition: input.clone(), position }];
        bus.commit(Commit { shard, epoch, appends, settles: Vec::new(), positions }).await.unwrap();
    };
    commit(0..300, 300, &[]).await;
    commit(310..320, 300, &[(310, 320)]).await;
    let copy = dir.join("killed");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(dir.join("live/journal.redb"), copy.join("journal.redb")).unwrap();
    bus.close().await;
    copy
}

fn checked(data: &std::path::Path) -> Checker {
    let stage = Stage { source: "in".into(), partitions: 2, outputs: Outputs::One };
    let mut checker = Checker::new(vec![stage]);
    let roles = vec![Role::topic("in").source_of(0), Role::topic("out").outputs_of(0)];
    let journal = Journal::open(data).unwrap();
    let see =
        |topic: &str, _partition, record: &millrace_tests::journal_reader::layout::Record<'_>| {
            if topic == "in" {
                let value = format!("value {}", record.offset);
                assert_eq!(record.value, Some(value.as_bytes()));
            }
        };
    Follower::new(roles).follow(&journal, &mut checker, see).unwrap();
    checker
}

#[tokio::test]
async fn the_reader_finds_what_the_bus_wrote_and_every_planted_fault() {
    let dir = tempfile::tempdir().unwrap();
    let data = killed(dir.path()).await;
    let before = std::fs::read(data.join("journal.redb")).unwrap();
    let checker = checked(&data);
    assert!(checker.findings().is_empty(), "{}", checker.findings().text());
    assert_eq!((checker.sources(0), checker.outputs(0), checker.open(0)), (500, 310, 200));
    let after = std::fs::read(data.join("journal.redb")).unwrap();
    assert!(before == after, "reading leaves the journal alone");
    let positions = Journal::open(&data).unwrap().positions().unwrap();
    assert_eq!((positions[0].shard, positions[0].epoch), (9, 3));
    assert_eq!((positions[0].next, &positions[0].beyond[..]), (300, &[(310, 320)][..]));

    for (fault, topic, partition, kind) in [
        (Fault::Removed, "out", 1, GAP),
        (Fault::Repeated, "out", 1, DUPLICATE),
        (Fault::Advanced, "in", 0, GAP),
    ] {
        std::fs::write(data.join("journal.redb"), &before).unwrap();
        plant(&data, fault, topic, partition).unwrap();
        let checker = checked(&data);
        let findings = checker.findings();
        assert!(findings.count(kind) > 0, "{fault:?}: {}", findings.text());
    }
    std::fs::write(data.join("journal.redb"), &before).unwrap();
    (0..201).for_each(|_| plant(&data, Fault::Advanced, "in", 0).unwrap());
    assert!(checked(&data).findings().count(POSITION) > 0, "a position beyond the end");
}
