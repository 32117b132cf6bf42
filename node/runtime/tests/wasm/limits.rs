//! What leans on the node, runs into a limit by its name: loops, memory, answers, logs, reach.

use std::time::{Duration, Instant};

use millrace_runtime::{FailureKind, Fresh, Invoke, LoadError};

use crate::{call, call_within, component, outputs, world};

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
    assert!(failure.message.ends_with("the limit is 1048576"), "{failure}");
    call(&pool, &["log", "print"]).await.unwrap();
    let logs = world.logs.lock().unwrap();
    let lines: Vec<_> = logs.iter().map(|line| (line.level, line.message.as_str())).collect();
    assert_eq!(lines, [("warn", "logged by the\\nfunction"), ("info", "printed by the function")]);
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
async fn answers_made_record_by_record_have_the_same_limit() {
    let world = world();
    let value = "x".repeat(300);
    for (name, fresh) in [("map_upper", Fresh::Batch), ("identity", Fresh::Record)] {
        let pool = world.pool(name, |config| {
            config.fresh = fresh;
            config.answer_bytes_max = 1_000;
        });
        outputs(&call(&pool, &[&value]).await.unwrap(), 1);
        let failure = call(&pool, &[value.as_str(); 5]).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BrokenAnswer, "{name}: {failure}");
        assert!(failure.message.ends_with("the limit is 1000"), "{name}: {failure}");
    }
}

/// SEC-12: the trap comes within 50 ms of the deadline, whether the guest computes or waits. The
/// best of a few, because other tests compute at the same time.
#[tokio::test]
async fn a_deadline_is_met_in_guest_and_host() {
    let world = world();
    for (name, value) in [("spin", "spin"), ("probe", "sleep")] {
        let pool = world.pool(name, |_| {});
        let mut late = Duration::MAX;
        for _round in 0..5 {
            let started = Instant::now();
            let failure = call(&pool, &[value]).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Timeout, "{name}: {failure}");
            late = late.min(started.elapsed() - Duration::from_millis(300));
        }
        assert!(late < Duration::from_millis(50), "{name}: {late:?} late");
    }
}

/// A component whose instances run `body` when they start; inside, `$start` is itself.
fn starting_with(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (core module $m
                (memory (export "memory") 1)
                (func $start {body})
                (start $start)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
                (func (export "handle") (param i32 i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (alias core export $i "memory" (core memory $memory))
            (func (export "handle") (param "batch" (list u8)) (result (list u8))
                (canon lift (core func $i "handle") (memory $memory)
                    (realloc (core func $i "realloc")))))"#
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_start_that_goes_wrong_says_so_and_is_charged_to_nobody() {
    let world = world();
    for (name, body, message) in [
        ("endless", "(loop (br 0))", "the instance did not start within 50ms"),
        ("deep", "call $start", "call stack exhausted"),
        ("dead", "unreachable", "`unreachable` instruction executed"),
    ] {
        let pool = world.pool_of(&starting_with(body), name, |config| {
            config.start_max = Duration::from_millis(50);
        });
        let failure = call(&pool, &["a"]).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Start, "{name}: {failure}");
        assert!(failure.message.contains(message), "{name}: {failure}");
        assert_eq!(pool.stats().busy, 0, "{name}: the slot is free again");
    }
}

#[tokio::test]
async fn endless_recursion_and_an_exit_are_crashes() {
    let world = world();
    let pool = world.pool("probe", |config| config.fresh = Fresh::Never);
    let failure = call(&pool, &["recurse"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Crash, "{failure}");
    assert!(failure.message.contains("out of bounds"), "its own stack ends first: {failure}");
    let failure = call(&pool, &["exit"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Crash, "{failure}");
    assert!(failure.message.contains('3'), "{failure}");
    assert_eq!(outputs(&call(&pool, &["b"]).await.unwrap(), 1), ["b"]);
}

/// A growth that was denied and survived is not why a later batch crashes.
#[tokio::test]
async fn memory_is_blamed_only_for_the_call_that_was_denied_it() {
    let world = world();
    let pool = world.pool("probe", |config| config.fresh = Fresh::Never);
    assert_eq!(outputs(&call(&pool, &["hoard"]).await.unwrap(), 1), ["denied true"]);
    let failure = call(&pool, &["trap"]).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Crash, "{failure}");
    assert!(failure.message.contains("and \\u{1b}[31manother"), "{failure}");
    assert!(!failure.message.contains(char::is_control), "{failure}");
}

/// SEC-12 and the cap of 64 KiB an invocation.
#[tokio::test]
async fn endless_logs_are_cut_and_a_million_calls_cost_only_their_time() {
    let world = world();
    for fresh in [Fresh::Batch, Fresh::Record] {
        for value in ["calls", "noise"] {
            let pool = world.pool("probe", |config| config.fresh = fresh);
            let minute = Duration::from_secs(60);
            outputs(&call_within(minute, &pool, &[value, "a"]).await.unwrap(), 2);
            let lines = std::mem::take(&mut *world.logs.lock().unwrap());
            let bytes: usize = lines.iter().map(|line| line.message.len()).sum();
            assert!((60 << 10..66 << 10).contains(&bytes), "{value}: {bytes} bytes");
            let cut: Vec<_> = lines.iter().filter(|line| line.level == "warn").collect();
            assert_eq!(cut.len(), 1, "{value}: {cut:?}");
            assert_eq!(cut[0].message, "more than 64 KiB of log: the rest is left out");
        }
    }
}

#[tokio::test]
async fn an_instance_reaches_a_clock_and_nothing_else() {
    let world = world();
    let pool = world.pool("probe", |_| {});
    let answer = call(&pool, &["reach"]).await.unwrap();
    let nothing = "file false folder false socket false name false stdin false args 0 vars 0 \
                   clock true";
    assert_eq!(outputs(&answer, 1), [nothing]);
}

#[test]
fn a_component_is_compiled_once_and_native_code_is_never_taken() {
    let world = world();
    let bytes = component("identity");
    let cached = || {
        let files = std::fs::read_dir(world.cache.path()).unwrap();
        let names = files.map(|it| it.unwrap().path());
        names.filter(|it| it.extension().is_some_and(|it| it == "cwasm")).collect::<Vec<_>>()
    };
    let first = world.engine.load(&bytes).unwrap();
    let [file] = &cached()[..] else { panic!("{:?}", cached()) };
    let written = std::fs::metadata(file).unwrap().modified().unwrap();
    world.engine.load(&bytes).unwrap();
    drop(first);
    world.engine.load(&bytes).unwrap();
    assert_eq!(std::fs::metadata(file).unwrap().modified().unwrap(), written);

    let native = std::fs::read(file).unwrap().split_off(32);
    let refused = world.engine.load(&native).unwrap_err();
    assert!(refused.to_string().contains("precompiled"), "{refused}");

    let mut bad = std::fs::read(file).unwrap();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(file, &bad).unwrap();
    world.engine.load(&bytes).unwrap();
    assert_ne!(std::fs::read(file).unwrap(), bad, "compiled anew");

    let huge = world.engine.load(&vec![0; (64 << 20) + 1]).unwrap_err();
    assert!(huge.to_string().contains("the limit is 64 MiB"), "{huge}");
}
