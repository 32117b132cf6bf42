//! One shard and several owners on Kafka: which copy of its position is the truth, who is fenced,
//! and what becomes of positions in a topic that was deleted and made again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::kafka::{KafkaBus, KafkaConfig};
use bus::{
    Append, BatchBuilder, Bus as _, Commit, Completions, Epoch, Error, Headers, Offset, Position,
    PositionMove, ShardId, Timestamp, TopicPartition, TopicSpec,
};

use crate::demand;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::promise::{During, NotShown, Run, broken};

const SHARD: ShardId = ShardId(7);
/// Offsets of a group are at most so far behind, and a look takes its time on a loaded machine.
const BEHIND_MAX: Duration = Duration::from_secs(3);
/// A topic that was made again is seen after one look of five seconds.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// How many cases held.
pub(super) fn check(run: &Run, kafka: &Kafka, broker: &mut Broker) -> Result<u64, NotShown> {
    let runtime = tokio::runtime::Runtime::new().during("start a runtime")?;
    let dir = run.evidence.join("owners");
    runtime.block_on(async {
        let mut cases = 0;
        let one = open(broker, &dir.join("one")).await?;
        one.create_topic(TopicSpec::new("owned", 1)).await.during("make a topic")?;
        one.append(vec![records("owned", 20)]).await.during("append")?;
        let two = open(broker, &dir.join("two")).await?;
        new_owner_goes_on_from_the_group(&one, &two).await?;
        old_owner_is_fenced(&one).await?;
        cases += 2;
        let one = its_log_is_no_truth_any_more(broker, one, two, &dir).await?;
        let one = restart_goes_on_at_the_exact_record(broker, one, &dir).await?;
        cases += 2;
        topic_made_again_is_another(broker, one, &dir).await?;
        an_outage_is_a_wait(broker, &dir).await?;
        a_new_coordinator_is_waited_for(kafka, &dir).await?;
        Ok(cases + 3)
    })
}

async fn open(broker: &Broker, dir: &Path) -> Result<Arc<KafkaBus>, NotShown> {
    open_as(broker, "owners", dir).await
}

async fn open_as(broker: &Broker, cluster: &str, dir: &Path) -> Result<Arc<KafkaBus>, NotShown> {
    open_with(KafkaConfig::new(broker.address(), cluster), dir).await
}

async fn open_with(config: KafkaConfig, dir: &Path) -> Result<Arc<KafkaBus>, NotShown> {
    let dir = dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || ::conformance::positions(&dir)).await;
    let positions = opened.during("open the positions")?.map_err(broken)?;
    KafkaBus::open(config, positions).await.during("open the bus")
}

fn place() -> TopicPartition {
    TopicPartition::new("owned", 0)
}

fn records(topic: &str, count: usize) -> Append {
    let mut builder = BatchBuilder::default();
    for _record in 0..count {
        builder.push(Timestamp::now(), None, Some(b"v"), Headers::default());
    }
    let batch = builder.finish().expect("there are records");
    Append { to: TopicPartition::new(topic, 0), batch }
}

fn commit(epoch: u64, next: i64, settled: &[(i64, i64)]) -> Commit {
    let ranges = settled.iter().map(|(start, end)| (Offset(*start), Offset(*end)));
    let completions = Completions::from_ranges(ranges);
    let position =
        Position { epoch: Epoch(epoch), next: Offset(next), completions, suspects: None };
    let positions = vec![PositionMove { partition: place(), position }];
    Commit {
        shard: SHARD,
        epoch: Epoch(epoch),
        appends: Vec::new(),
        settles: Vec::new(),
        positions,
    }
}

/// Where the shard goes on under `epoch`.
async fn recover(bus: &KafkaBus, epoch: u64) -> Result<Position, NotShown> {
    let found = bus.recover(SHARD, Epoch(epoch)).await.during("recover")?;
    let [(partition, position)] = &found.positions[..] else {
        return Err(broken(format!("recovered {found:?}")));
    };
    demand!(*partition == place(), "recovered {partition}");
    Ok(position.clone())
}

async fn new_owner_goes_on_from_the_group(one: &KafkaBus, two: &KafkaBus) -> Result<(), NotShown> {
    let found = one.recover(SHARD, Epoch(1)).await.during("recover")?;
    demand!(found.positions.is_empty(), "a new shard has {found:?}");
    one.commit(commit(1, 3, &[])).await.during("commit")?;
    one.commit(commit(1, 5, &[(7, 9), (12, 13)])).await.during("commit")?;
    tokio::time::sleep(BEHIND_MAX).await;
    let position = recover(two, 2).await?;
    let expected = commit(1, 5, &[(7, 9), (12, 13)]).positions.remove(0).position;
    demand!(position == expected, "a new owner goes on at {position:?}");
    Ok(())
}

/// OWN-5: it stops once it has seen the higher epoch, which it looks for before it writes.
async fn old_owner_is_fenced(one: &KafkaBus) -> Result<(), NotShown> {
    let started_at = Instant::now();
    loop {
        match one.commit(commit(1, 6, &[])).await {
            Ok(_) => {
                let waited = started_at.elapsed();
                demand!(waited < BEHIND_MAX, "an old owner commits after {waited:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(Error::Fenced { current: Epoch(2), .. }) => return Ok(()),
            Err(other) => return Err(broken(format!("an old owner is told {other}"))),
        }
    }
}

async fn its_log_is_no_truth_any_more(
    broker: &Broker,
    one: Arc<KafkaBus>,
    two: Arc<KafkaBus>,
    dir: &Path,
) -> Result<Arc<KafkaBus>, NotShown> {
    two.commit(commit(2, 5, &[(7, 9)])).await.during("commit")?;
    two.close().await;
    drop(one);
    let one = open(broker, &dir.join("one")).await?;
    let position = recover(&one, 3).await?;
    let expected = commit(2, 5, &[(7, 9)]).positions.remove(0).position;
    demand!(
        position == expected,
        "the first owner goes on at {position:?}, not where the second was"
    );
    Ok(one)
}

/// Its group is behind when it dies; its own log is not.
async fn restart_goes_on_at_the_exact_record(
    broker: &Broker,
    one: Arc<KafkaBus>,
    dir: &Path,
) -> Result<Arc<KafkaBus>, NotShown> {
    for next in 6..=15 {
        one.commit(commit(3, next, &[])).await.during("commit")?;
    }
    drop(one);
    let one = open(broker, &dir.join("one")).await?;
    let position = recover(&one, 4).await?;
    demand!(position.next == Offset(15), "a restart goes on at {position:?}");
    Ok(one)
}

async fn topic_made_again_is_another(
    broker: &Broker,
    one: Arc<KafkaBus>,
    dir: &Path,
) -> Result<(), NotShown> {
    let assigned = vec![(place(), Offset(20))];
    let mut reader = one.reader(assigned).await.during("read")?;
    // This one's client asks the new topic only when there are records at its place.
    let mut slow = KafkaConfig::new(broker.address(), "owners");
    slow.settings.insert("fetch.error.backoff.ms".to_owned(), "2000".to_owned());
    let slow = open_with(slow, &dir.join("slow")).await?;
    let mut late = slow.reader(vec![(place(), Offset(20))]).await.during("read")?;
    let waiting = tokio::time::timeout(Duration::from_secs(1), late.fetch(1)).await;
    demand!(waiting.is_err(), "there is nothing at the end of a topic, but {waiting:?}");
    let other = open(broker, &dir.join("other")).await?;
    other.delete_topic("owned").await.during("delete a topic")?;
    other.create_topic(TopicSpec::new("owned", 1)).await.during("make a topic")?;
    other.append(vec![records("owned", 30)]).await.during("append")?;
    for reader in [&mut late, &mut reader] {
        let fetched = tokio::time::timeout(SEEN_WITHIN, reader.fetch(1)).await;
        let fetched = fetched.during("see that a topic was made again")?;
        let is_named =
            matches!(fetched, Err(Error::TopicReplaced { .. } | Error::UnknownTopic { .. }));
        demand!(is_named, "of a topic that was made again {fetched:?} was read");
    }
    drop(late);
    slow.close().await;
    let moved = one.commit(commit(4, 16, &[])).await;
    demand!(matches!(moved, Err(Error::TopicReplaced { .. })), "a commit there says {moved:?}");
    let recovered = one.recover(SHARD, Epoch(5)).await;
    let is_named = matches!(recovered, Err(Error::TopicRecreated { .. }));
    demand!(is_named, "a recovery there says {recovered:?}");
    one.forget_shard(SHARD).await.during("forget the shard")?;
    let found = one.recover(SHARD, Epoch(1)).await.during("recover")?;
    demand!(found.positions.is_empty(), "a forgotten shard has {found:?}");
    drop(reader);
    // The client that read the one before reads this one.
    let mut reader = one.reader(vec![(place(), Offset(0))]).await.during("read the new one")?;
    let mut read = 0;
    while read < 30 {
        let fetched = tokio::time::timeout(SEEN_WITHIN, reader.fetch(1 << 20)).await;
        let fetched = fetched.during(format!("read the new one after {read} records"))?;
        let fetched = fetched.during("read the new one")?;
        read += fetched.iter().map(|it| it.batch.len()).sum::<usize>();
    }
    drop(reader);
    one.close().await;
    other.close().await;
    Ok(())
}

/// Longer than any of its requests may take, and with a group's offsets on their way: nothing is
/// lost, nothing ends, and it goes on by itself.
async fn an_outage_is_a_wait(broker: &mut Broker, dir: &Path) -> Result<(), NotShown> {
    const OUTAGE: Duration = Duration::from_secs(8);
    let positions = ::conformance::positions(&dir.join("outage")).map_err(broken)?;
    let mut config = KafkaConfig::new(broker.address(), "outage");
    config.request_timeout = Duration::from_secs(2);
    let bus = KafkaBus::open(config, positions).await.during("open the bus")?;
    bus.create_topic(TopicSpec::new("outage", 1)).await.during("make a topic")?;
    bus.append(vec![records("outage", 20)]).await.during("append")?;
    bus.recover(SHARD, Epoch(1)).await.during("recover")?;
    let place = TopicPartition::new("outage", 0);
    let mut reader = bus.reader(vec![(place.clone(), Offset(20))]).await.during("read")?;
    let commit = |next| {
        let mut commit = commit(1, next, &[]);
        commit.appends = vec![records("outage", 1)];
        commit.positions[0].partition = place.clone();
        commit
    };
    for next in 1..=10 {
        bus.commit(commit(next)).await.during("commit")?;
    }
    // Many groups are behind when it dies: what asks for them meets a coordinator that has only
    // just started.
    for shard in 8..24 {
        for next in 1..=2 {
            let more = Commit { shard: ShardId(shard), appends: Vec::new(), ..commit(next) };
            bus.commit(more).await.during("commit")?;
        }
    }
    broker.kill()?;
    let waiting = bus.commit(commit(11));
    let outage = async {
        tokio::time::sleep(OUTAGE).await;
        broker.start_again()
    };
    let (waited, started) = tokio::join!(waiting, outage);
    started?;
    waited.during("commit over an outage")?;
    let started_at = Instant::now();
    let mut seen = 0;
    while seen < 11 {
        let fetched = tokio::time::timeout(SEEN_WITHIN, reader.fetch(1 << 20)).await;
        let fetched = fetched.during("read after an outage")?.during("read after an outage")?;
        seen += fetched.iter().map(|it| it.batch.len()).sum::<usize>();
    }
    demand!(seen == 11, "{seen} of 11 outputs after an outage");
    tokio::time::sleep(BEHIND_MAX).await;
    let other = open_as(broker, "outage", &dir.join("outage-other")).await?;
    let found = other.recover(SHARD, Epoch(2)).await.during("recover")?;
    demand!(found.positions[0].1.next == Offset(11), "the group holds {found:?}");
    demand!(started_at.elapsed() < SEEN_WITHIN, "it took {:?}", started_at.elapsed());
    drop(reader);
    bus.close().await;
    other.close().await;
    Ok(())
}

/// The first to ask for groups at all: there is no coordinator yet, and then one that says that it
/// is none.
async fn a_new_coordinator_is_waited_for(kafka: &Kafka, dir: &Path) -> Result<(), NotShown> {
    let mut broker = Broker::start(kafka, &dir.join("new-broker"), Listeners::Plain)?;
    let bus = open_as(&broker, "new", &dir.join("new")).await?;
    let mut recoveries = tokio::task::JoinSet::new();
    for shard in 0..16 {
        let bus = Arc::clone(&bus);
        recoveries.spawn(async move { bus.recover(ShardId(shard), Epoch(1)).await });
    }
    while let Some(recovered) = recoveries.join_next().await {
        recovered.during("join")?.during("recover by a new coordinator")?;
    }
    bus.close().await;
    broker.stop()
}
