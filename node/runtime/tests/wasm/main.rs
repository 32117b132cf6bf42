//! The wasm runtime with real components: good answers here, every way to misbehave in the parts.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod limits;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use frame::{Context, End, Order, RequestBuilder, Response};
use millrace_runtime::{
    Answer, Calling, Engine, EngineConfig, Failure, FailureKind, Fresh, Invocation, Invoke,
    LogLine, Named, Pool, PoolConfig,
};

fn component(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/components");
    std::fs::read(folder.join(format!("{name}.wasm"))).unwrap()
}

struct World {
    engine: Arc<Engine>,
    logs: Arc<Mutex<Vec<LogLine>>>,
    cache: tempfile::TempDir,
}

fn world() -> World {
    let cache = tempfile::tempdir().unwrap();
    let logs: Arc<Mutex<Vec<LogLine>>> = Arc::default();
    let mut config = EngineConfig::new(cache.path());
    config.instances_max = 50;
    let sink = Arc::clone(&logs);
    config.logs = Some(Arc::new(move |line| sink.lock().unwrap().push(line)));
    World { engine: Engine::new(config).unwrap(), logs, cache }
}

impl World {
    fn pool(&self, name: &str, change: impl FnOnce(&mut PoolConfig)) -> Arc<Pool> {
        self.pool_of(&component(name), name, change)
    }

    fn pool_of(
        &self,
        component: &[u8],
        name: &str,
        change: impl FnOnce(&mut PoolConfig),
    ) -> Arc<Pool> {
        let module = self.engine.load(component).unwrap();
        let mut config = PoolConfig::new(name);
        change(&mut config);
        self.engine.pool(&module, config)
    }
}

async fn call(pool: &Pool, values: &[&str]) -> Result<Answer, Failure> {
    call_within(Duration::from_millis(300), pool, values).await
}

async fn call_within(timeout: Duration, pool: &Pool, values: &[&str]) -> Result<Answer, Failure> {
    call_for(false, timeout, pool, values).await
}

async fn call_for(
    ends_with_caller: bool,
    timeout: Duration,
    pool: &Pool,
    values: &[&str],
) -> Result<Answer, Failure> {
    let context = Context::default();
    let mut builder = RequestBuilder::new(7, Order::Key, &context, &[("in", 0)]);
    for (offset, value) in values.iter().enumerate() {
        builder.push(0, offset as i64, 0, 1, Some(b"k"), Some(value.as_bytes()), &[], 0);
    }
    let records = values.len() as u32;
    let frame = builder.finish().into();
    let (calling, named) = (Calling::default(), Named::default());
    pool.invoke(Invocation {
        frame,
        batch_id: 7,
        records,
        timeout,
        calling,
        is_risky: false,
        ends_with_caller,
        named,
    })
    .await
}

fn outputs(answer: &Answer, records: usize) -> Vec<String> {
    let response = Response::parse(&answer.frame, 7, records).unwrap();
    response
        .outputs()
        .map(|output| String::from_utf8(output.value.unwrap().to_vec()).unwrap())
        .collect()
}

#[tokio::test]
async fn every_record_gets_its_answer_in_both_worlds() {
    let world = world();
    for fresh in [Fresh::Batch, Fresh::Record, Fresh::Never] {
        let pool = world.pool("identity", |config| config.fresh = fresh);
        for round in 0..3 {
            let answer = call(&pool, &["a", "b", "c"]).await.unwrap();
            assert_eq!(outputs(&answer, 3), ["a", "b", "c"]);
            assert_eq!(answer.cold, fresh != Fresh::Never || round == 0, "{fresh:?} {round}");
        }
    }
    let map = world.pool("map_upper", |_| {});
    let answer = call(&map, &["a", "", "fail", "b"]).await.unwrap();
    let response = Response::parse(&answer.frame, 7, 4).unwrap();
    assert_eq!(outputs(&answer, 4), ["A"]);
    assert!(matches!(response.end(2), End::Failed { message: "it was told to", .. }));
    assert_eq!(response.end(3), End::NotRun, "the key's next record is left alone");
}

#[tokio::test]
async fn a_drained_pool_takes_nothing_more() {
    let world = world();
    let pool = world.pool("identity", |config| config.warm = 1);
    call(&pool, &["a"]).await.unwrap();
    pool.drain().await;
    let refused = call(&pool, &["a"]).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::NoCapacity);
}

#[tokio::test]
async fn an_answer_is_taken_before_the_guest_frees_it() {
    let world = world();
    let pool = world.pool("probe", |config| config.fresh = Fresh::Never);
    for _round in 0..20 {
        let answer = call(&pool, &["holes"]).await.unwrap();
        assert_eq!(outputs(&answer, 1), ["holes"]);
    }
}

/// A counter in the guest's memory tells a new instance from one that was there before.
#[tokio::test]
async fn an_instance_lives_as_long_as_its_pool_says() {
    let world = world();
    let counts = async |fresh, invocations_max| {
        let pool = world.pool("probe", |config| {
            config.fresh = fresh;
            config.invocations_max = invocations_max;
        });
        let mut counts = Vec::new();
        for _batch in 0..3 {
            counts.push(outputs(&call(&pool, &["count", "count"]).await.unwrap(), 2).join(""));
        }
        let stats = pool.stats();
        (counts, stats.started, stats.ended)
    };
    let lives = |counts: [&str; 3]| counts.map(str::to_owned).to_vec();
    assert_eq!(counts(Fresh::Batch, 9).await, (lives(["01", "01", "01"]), 3, 3));
    assert_eq!(counts(Fresh::Record, 9).await, (lives(["00", "00", "00"]), 3, 3));
    assert_eq!(counts(Fresh::Never, 9).await, (lives(["01", "23", "45"]), 1, 3));
    assert_eq!(counts(Fresh::Never, 2).await, (lives(["01", "23", "01"]), 2, 3));
}

#[tokio::test]
async fn a_caller_that_goes_ends_its_instance_if_it_says_so() {
    let world = world();
    let pool = world.pool("probe", |config| config.max = 1);
    for ends in [true, false] {
        let ended = pool.stats().ended;
        let long = Duration::from_secs(20);
        let gone = call_for(ends, long, &pool, &["sleep"]);
        assert!(tokio::time::timeout(Duration::from_millis(100), gone).await.is_err());
        if ends {
            eventually(|| (pool.stats().busy, pool.stats().ended) == (0, ended + 1)).await;
            assert_eq!(outputs(&call(&pool, &["b"]).await.unwrap(), 1), ["b"]);
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(pool.stats().busy, 1, "what runs for a shard goes on");
        }
    }
}

#[tokio::test]
async fn a_caller_that_goes_leaves_the_queue() {
    let world = world();
    let pool = world.pool("probe", |config| (config.max, config.queue_max) = (1, 1));
    let busy = call(&pool, &["sleep"]);
    let waits = async {
        eventually(|| pool.stats().busy == 1).await;
        {
            let gone = call(&pool, &["a"]);
            let timeout = tokio::time::timeout(Duration::from_millis(1), gone).await;
            assert!(timeout.is_err(), "it waits for the only instance");
        }
        assert_eq!(pool.stats().queued, 0, "its place is free again");
        outputs(&call(&pool, &["b"]).await.unwrap(), 1)
    };
    let (busy, answer) = tokio::join!(busy, waits);
    assert_eq!(busy.unwrap_err().kind, FailureKind::Timeout);
    assert_eq!(answer, ["b"]);
}

#[tokio::test]
async fn a_full_queue_and_a_full_node_are_charged_to_nobody() {
    let cache = tempfile::tempdir().unwrap();
    let mut config = EngineConfig::new(cache.path());
    config.instances_max = 1;
    let engine = Engine::new(config).unwrap();
    let module = engine.load(&component("probe")).unwrap();
    let mut config = PoolConfig::new("probe");
    (config.max, config.queue_max, config.fresh) = (1, 1, Fresh::Never);
    let pool = engine.pool(&module, config);
    let other = engine.pool(&module, PoolConfig::new("other"));
    // Its instance is there and stays: no other pool can be quicker to the only place.
    call(&pool, &["first"]).await.unwrap();
    let refused = async {
        eventually(|| pool.stats().busy == 1).await;
        let queued = call(&pool, &["a"]);
        let refused = async {
            eventually(|| pool.stats().queued == 1).await;
            (call(&pool, &["b"]).await.unwrap_err(), call(&other, &["c"]).await.unwrap_err())
        };
        tokio::join!(queued, refused)
    };
    // Asleep for as long as the others may take on a loud machine.
    let asleep = call_within(Duration::from_secs(3), &pool, &["sleep"]);
    let (_busy, (queued, (full, elsewhere))) = tokio::join!(asleep, refused);
    assert_eq!(outputs(&queued.unwrap(), 1), ["a"]);
    assert_eq!(full.kind, FailureKind::NoCapacity, "{full}");
    assert_eq!(elsewhere.kind, FailureKind::NoCapacity, "{elsewhere}");
    assert!(elsewhere.message.contains("as many instances as it may"), "{elsewhere}");
}

/// Polls until `holds`; the deadline is far beyond what it takes.
async fn eventually(holds: impl Fn() -> bool) {
    let patience = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), patience).await.unwrap();
}

#[tokio::test]
async fn whatever_waits_when_the_engine_goes_is_charged_to_nobody() {
    let World { engine, .. } = world();
    let module = engine.load(&component("probe")).unwrap();
    let mut config = PoolConfig::new("probe");
    config.max = 1;
    let pool = engine.pool(&module, config);
    let asleep = (0..5_000).map(|_| {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { call_within(Duration::from_secs(60), &pool, &["sleep"]).await })
    });
    let asleep: Vec<_> = asleep.collect();
    eventually(|| (pool.stats().busy, pool.stats().queued) == (1, 4_999)).await;
    drop(engine);
    for call in asleep {
        let failure = call.await.unwrap().unwrap_err();
        assert_eq!(failure.kind, FailureKind::NoCapacity, "{failure}");
    }
    let late = call(&pool, &["late"]).await.unwrap_err();
    assert_eq!(late.kind, FailureKind::NoCapacity, "{late}");
}
