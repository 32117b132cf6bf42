//! The wasm runtime with real components: good answers, and every way to misbehave.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use frame::{Context, End, Order, RequestBuilder, Response};
use millrace_runtime::{
    Answer, Engine, EngineConfig, Failure, FailureKind, Fresh, Invocation, Invoke, LoadError,
    LogLine, Pool, PoolConfig,
};

fn component(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/components");
    std::fs::read(folder.join(format!("{name}.wasm"))).unwrap()
}

struct World {
    engine: Arc<Engine>,
    logs: Arc<Mutex<Vec<LogLine>>>,
    _cache: tempfile::TempDir,
}

fn world() -> World {
    let cache = tempfile::tempdir().unwrap();
    let logs: Arc<Mutex<Vec<LogLine>>> = Arc::default();
    let mut config = EngineConfig::new(cache.path());
    config.instances_max = 50;
    let sink = Arc::clone(&logs);
    config.logs = Some(Arc::new(move |line| sink.lock().unwrap().push(line)));
    World { engine: Engine::new(config).unwrap(), logs, _cache: cache }
}

impl World {
    fn pool(&self, name: &str, change: impl FnOnce(&mut PoolConfig)) -> Arc<Pool> {
        let module = self.engine.load(&component(name)).unwrap();
        let mut config = PoolConfig::new(name);
        change(&mut config);
        self.engine.pool(&module, config)
    }
}

async fn call(pool: &Pool, values: &[&str]) -> Result<Answer, Failure> {
    let context = Context::default();
    let mut builder = RequestBuilder::new(7, Order::Key, &context, &[("in", 0)]);
    for (offset, value) in values.iter().enumerate() {
        builder.push(0, offset as i64, 0, 1, Some(b"k"), Some(value.as_bytes()), &[], 0);
    }
    let records = values.len() as u32;
    let frame = builder.finish().into();
    let timeout = Duration::from_millis(300);
    pool.invoke(Invocation { frame, batch_id: 7, records, timeout }).await
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
async fn a_crash_says_what_the_guest_said_and_the_next_batch_runs() {
    let world = world();
    let pool = world.pool("trap", |config| config.fresh = Fresh::Never);
    let failure = call(&pool, &["a", "a trap"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Crash);
    assert!(failure.message.contains("trapped at 1"), "{}", failure.message);
    assert_eq!(outputs(&call(&pool, &["b"]).await.unwrap(), 1), ["b"]);
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_deadline_and_starves_nobody() {
    let world = world();
    let pool = world.pool("spin", |config| config.max = 8);
    let other = world.pool("identity", |_| {});
    let loops = futures_join((0..6).map(|_| call(&pool, &["spin"])));
    let looping = async {
        let started = Instant::now();
        let failures = loops.await;
        (failures, started.elapsed())
    };
    let working = async {
        let started = Instant::now();
        outputs(&call(&other, &["a"]).await.unwrap(), 1);
        started.elapsed()
    };
    let ((failures, took), waited) = tokio::join!(looping, working);
    for failure in failures {
        let failure = failure.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert_eq!(failure.message, "Task timed out after 0.30 seconds");
    }
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(waited < Duration::from_millis(300), "another function waited {waited:?}");
}

async fn futures_join<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = calls.map(Box::pin).collect();
    let mut ended: Vec<Option<T>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (call, ended) in pinned.iter_mut().zip(&mut ended) {
            if ended.is_none()
                && let std::task::Poll::Ready(value) = call.as_mut().poll(context)
            {
                *ended = Some(value);
            }
        }
        if ended.iter().all(Option::is_some) {
            return std::task::Poll::Ready(ended.iter_mut().filter_map(Option::take).collect());
        }
        std::task::Poll::Pending
    })
    .await
}

#[tokio::test]
async fn a_memory_bomb_meets_its_limit() {
    let world = world();
    let pool = world.pool("bomb", |config| config.memory_bytes_max = 16 << 20);
    let failure = call(&pool, &["bomb"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::OutOfMemory, "{failure}");
    assert_eq!(outputs(&call(&pool, &["b"]).await.unwrap(), 1), ["b"]);
}

#[tokio::test]
async fn answers_over_the_limit_are_broken_and_logs_arrive_as_one_line() {
    let world = world();
    let pool = world.pool("misbehave", |config| config.answer_bytes_max = 1 << 20);
    let failure = call(&pool, &["large"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BrokenAnswer, "{failure}");
    call(&pool, &["log", "print"]).await.unwrap();
    let logs = world.logs.lock().unwrap();
    let lines: Vec<_> = logs.iter().map(|line| (line.level, line.message.as_str())).collect();
    assert_eq!(
        lines,
        [("warn", "logged by the\u{fffd}function"), ("info", "printed by the function")]
    );
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let world = world();
    let missing = world.engine.load(&component("wants_more")).unwrap_err();
    let LoadError::MissingImport { import, .. } = &missing else { panic!("{missing}") };
    assert!(import.contains("test:wants-more/database"), "{missing}");
    let module = wat::parse_str("(module)").unwrap();
    assert!(matches!(world.engine.load(&module), Err(LoadError::NotAComponent(_))));
    let empty = wat::parse_str("(component)").unwrap();
    assert!(matches!(world.engine.load(&empty), Err(LoadError::World(_))));
    assert!(matches!(world.engine.load(b"garbage"), Err(LoadError::NotAComponent(_))));
    let cut = &component("identity")[..5_000];
    assert!(matches!(world.engine.load(cut), Err(LoadError::Invalid(_))));
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
