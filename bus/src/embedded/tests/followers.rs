//! That the position log follows the journal, and never leads it nor stops it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;

/// A position log in memory, which fails when told to.
#[derive(Debug, Default)]
struct MemoryLog {
    rows: Mutex<BTreeMap<PositionKey, Position>>,
    fails: AtomicBool,
    writes: AtomicU64,
    clears: AtomicU64,
}

use std::sync::atomic::AtomicU64;

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl MemoryLog {
    fn check(&self) -> Result<(), Failure> {
        if self.fails.load(Ordering::Relaxed) { Err("told to fail".into()) } else { Ok(()) }
    }

    fn next(&self, partition: i32) -> Option<i64> {
        let key =
            PositionKey { shard: ShardId(1), partition: TopicPartition::new("in", partition) };
        self.rows.lock().unwrap().get(&key).map(|position| position.next.0)
    }
}

impl PositionLog for MemoryLog {
    fn record(&self, moves: &[(PositionKey, Position)]) -> Result<(), Failure> {
        self.check()?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.rows.lock().unwrap().extend(moves.iter().cloned());
        Ok(())
    }

    fn load(&self) -> Result<Vec<(PositionKey, Position)>, Failure> {
        self.check()?;
        Ok(self.rows.lock().unwrap().clone().into_iter().collect())
    }

    fn clear(&self) -> Result<(), Failure> {
        self.clears.fetch_add(1, Ordering::Relaxed);
        self.rows.lock().unwrap().clear();
        Ok(())
    }
}

fn open(dir: &Path, log: &Arc<MemoryLog>) -> Arc<Embedded> {
    let mut config = EmbeddedConfig::new(dir);
    config.position_log_every = Duration::from_millis(5);
    Embedded::open(config, Some(Arc::clone(log) as Arc<dyn PositionLog>)).unwrap()
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn with_records(bus: &Embedded) {
    bus.create_topic(TopicSpec::new("in", 2)).await.unwrap();
    bus.append(vec![to("in", 0, &["a"; 100])]).await.unwrap();
}

#[tokio::test]
async fn the_log_follows_and_takes_many_moves_in_one_write() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let bus = open(dir.path(), &log);
    with_records(&bus).await;
    for next in 1..=100 {
        bus.commit(commit(1, vec![], next)).await.unwrap();
    }
    eventually("the log follows", || log.next(0) == Some(100)).await;
    bus.close().await;
    assert!(log.writes.load(Ordering::Relaxed) <= 100);
}

#[tokio::test]
async fn an_empty_log_is_rebuilt_and_one_that_leads_is_replaced() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let bus = open(dir.path(), &log);
    with_records(&bus).await;
    bus.commit(commit(2, vec![], 40)).await.unwrap();
    bus.close().await;
    drop(bus);
    assert_eq!(log.next(0), Some(40), "closing writes what is left");

    log.rows.lock().unwrap().clear();
    open(dir.path(), &log).close().await;
    assert_eq!(log.next(0), Some(40), "an empty log is filled");

    let key = PositionKey { shard: ShardId(1), partition: TopicPartition::new("in", 0) };
    let ahead = Position { epoch: Epoch(2), ..at(41) };
    log.rows.lock().unwrap().insert(key, ahead);
    open(dir.path(), &log).close().await;
    assert_eq!((log.next(0), log.clears.load(Ordering::Relaxed)), (Some(40), 1));

    let stranger = PositionKey { shard: ShardId(9), partition: TopicPartition::new("gone", 0) };
    log.rows.lock().unwrap().insert(stranger.clone(), at(1));
    open(dir.path(), &log).close().await;
    assert!(!log.rows.lock().unwrap().contains_key(&stranger));
}

#[tokio::test]
async fn a_failing_log_never_stops_the_bus_and_catches_up_later() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    log.fails.store(true, Ordering::Relaxed);
    let bus = open(dir.path(), &log);
    with_records(&bus).await;
    bus.commit(commit(1, vec![], 10)).await.unwrap();
    bus.commit(commit(1, vec![], 20)).await.unwrap();
    assert_eq!(log.next(0), None);
    log.fails.store(false, Ordering::Relaxed);
    bus.commit(commit(1, vec![], 30)).await.unwrap();
    eventually("the log catches up", || log.next(0) == Some(30)).await;
    let recovered = bus.recover(ShardId(1), Epoch(2)).await.unwrap();
    assert_eq!(recovered.positions[0].1.next, Offset(30));
    bus.close().await;
}

#[tokio::test]
async fn a_forgotten_shard_leaves_the_log() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::default()));
    let bus = open(dir.path(), &log);
    with_records(&bus).await;
    bus.commit(commit(1, vec![], 10)).await.unwrap();
    eventually("the log follows", || log.next(0) == Some(10)).await;
    bus.forget_shard(ShardId(1)).await.unwrap();
    eventually("the log forgets", || log.next(0).is_none()).await;
    bus.close().await;
}
