//! A shard with its real neighbours: the embedded bus, the wasm runtime, components that fail.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::embedded::{Embedded, EmbeddedConfig};
use bus::{
    Append, BatchBuilder, Bus, Epoch, Headers, Offset, ShardId, Start, Timestamp, TopicPartition,
    TopicSpec,
};
use millrace_dispatch::{
    BatchLimits, Destinations, DispatchConfig, ORIGIN, Order, ParkLimits, RetryPolicy, Revision,
    ShardConfig, ShardHandle, State, dead_letter, start, start_or_wait,
};
use runtime::{Calling, Engine, EngineConfig, PoolConfig};

struct World {
    bus: Arc<Embedded>,
    engine: Arc<Engine>,
    epoch: u64,
    dir: tempfile::TempDir,
}

/// A record as it came out: key, value, headers.
type Out = (String, String, BTreeMap<String, String>);

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EngineConfig::new(dir.path().join("cache"));
        config.instances_max = 50;
        let engine = Engine::new(config).unwrap();
        let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
        for topic in ["in", "out", "dead"] {
            bus.create_topic(TopicSpec::new(topic, 1)).await.unwrap();
        }
        Self { bus, engine, epoch: 0, dir }
    }

    async fn produce(&self, values: &[(&str, &str)]) {
        let mut builder = BatchBuilder::default();
        for (key, value) in values {
            let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
            builder.push(Timestamp(1), key, value, Headers::default());
        }
        let to = TopicPartition::new("in", 0);
        self.bus.append(vec![Append { to, batch: builder.finish().unwrap() }]).await.unwrap();
    }

    fn revision(&self, component: &str) -> Revision {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/components");
        let bytes = std::fs::read(folder.join(format!("{component}.wasm"))).unwrap();
        let module = self.engine.load(&bytes).unwrap();
        let mut config = PoolConfig::new(component);
        config.memory_bytes_max = 16 << 20;
        Revision::new(component, self.engine.pool(&module, config), 8)
    }

    async fn start(&mut self, component: &str) -> ShardHandle {
        let (config, revision) = (self.config(component), self.revision(component));
        let bus = Arc::clone(&self.bus) as Arc<dyn Bus>;
        start(bus, config, revision).await.unwrap()
    }

    /// A shard of the next epoch.
    fn config(&mut self, component: &str) -> ShardConfig {
        self.epoch += 1;
        let count = |count| NonZeroUsize::new(count).unwrap();
        ShardConfig {
            shard: ShardId(1),
            epoch: Epoch(self.epoch),
            cluster: "test".into(),
            function: component.into(),
            trigger: format!("app/{component}/{component}").into(),
            partitions: vec![TopicPartition::new("in", 0)],
            start: Start::Earliest,
            dispatch: DispatchConfig {
                order: Order::Key,
                batch: BatchLimits { records: count(100), bytes: 1 << 20, window: Duration::ZERO },
                retry: RetryPolicy {
                    attempts_max: NonZeroU32::new(2).unwrap(),
                    backoff_min: Duration::from_millis(5),
                    backoff_max: Duration::from_millis(10),
                    pauses: Vec::new(),
                    ..RetryPolicy::default()
                },
                ..DispatchConfig::default()
            },
            filter: None,
            output_topic: Some("out".into()),
            allow_produce: Vec::new(),
            dead_letter: "dead".into(),
            destinations: Destinations::default(),
            park_topic: None,
            history_topic: None,
            timeout: Duration::from_millis(300),
            read_ahead: Arc::default(),
            turns: Arc::new(tokio::sync::Semaphore::new(millrace_dispatch::TURNS)),
            calling: Calling::default(),
            paused: false,
            replay: None,
            traces: None,
        }
    }

    async fn settled(&self, next: i64) {
        let patience_ends_at = Instant::now() + Duration::from_secs(20);
        loop {
            let positions = self.bus.positions().await.unwrap();
            let is_there = positions.iter().any(|(_, position)| position.next == Offset(next));
            if is_there {
                return;
            }
            assert!(Instant::now() < patience_ends_at, "{positions:?} instead of {next}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn read(&self, topic: &str) -> Vec<Out> {
        let partition = TopicPartition::new(topic, 0);
        let end = self.bus.watermarks(&partition).await.unwrap().end;
        let mut records = Vec::new();
        if end == Offset(0) {
            return records;
        }
        let mut reader = self.bus.reader(vec![(partition, Offset(0))]).await.unwrap();
        while (records.len() as i64) < end.0 {
            for fetched in reader.fetch(1 << 20).await.unwrap() {
                for record in fetched.batch.iter() {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let headers = record.headers.iter();
                    let headers =
                        headers.map(|(name, value)| (text(name), text(value.unwrap_or_default())));
                    let (key, value) = (record.key.unwrap(), record.value.unwrap());
                    records.push((text(key), text(value), headers.collect()));
                }
            }
        }
        records
    }
}

fn values(records: &[Out]) -> Vec<&str> {
    let mut values: Vec<&str> = records.iter().map(|(_, value, _)| value.as_str()).collect();
    values.sort_unstable();
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_at_the_exact_record() {
    let mut world = World::new().await;
    world.produce(&[("a", "1"), ("b", "2")]).await;
    let shard = world.start("identity").await;
    world.settled(2).await;
    shard.drain(Duration::from_secs(5)).await;
    world.produce(&[("a", "3")]).await;
    let shard = world.start("identity").await;
    world.settled(3).await;
    shard.drain(Duration::from_secs(5)).await;
    let out = world.read("out").await;
    assert_eq!(values(&out), ["1", "2", "3"], "once each");
    let origins: Vec<&str> = out.iter().map(|(.., headers)| &*headers[ORIGIN]).collect();
    assert!(origins.contains(&"1;in;0;2;0;identity;1;2"), "{origins:?}");

    world.bus.close().await;
    let again = Embedded::open(EmbeddedConfig::new(world.dir.path()), None).unwrap();
    let recovered = again.recover(ShardId(1), Epoch(9)).await.unwrap();
    assert_eq!(recovered.positions[0].1.next, Offset(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_crashes_its_batch_is_found_and_alone_is_given_up() {
    let mut world = World::new().await;
    let numbered: Vec<(String, String)> = (0..64)
        .map(|n| (format!("k{n}"), if n == 37 { "trap".into() } else { n.to_string() }))
        .collect();
    let records: Vec<(&str, &str)> = numbered.iter().map(|(k, v)| (&**k, &**v)).collect();
    world.produce(&records).await;
    let shard = world.start("trap").await;
    world.settled(64).await;
    let dead = world.read("dead").await;
    assert_eq!(values(&dead), ["trap"]);
    assert_eq!(dead[0].0, "k37");
    assert_eq!(dead[0].2[dead_letter::ERROR_TYPE], "Runtime.ExitError");
    assert_eq!(dead[0].2[dead_letter::ATTEMPTS], "2");
    assert_eq!(dead[0].2[ORIGIN], "1;in;0;37;d;trap;2;1");
    assert_eq!(world.read("out").await.len(), 63, "the others, once each");
    let counters = shard.stats().counters;
    assert!(counters.invocations <= 2 * 6 + 1 + 2 + 2, "{counters:?}");
    shard.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_key_waits_alone_and_keeps_its_order() {
    let mut world = World::new().await;
    let records = [("a", "fail"), ("a", "after"), ("b", "other"), ("c", "topic"), ("d", "large")];
    world.produce(&records).await;
    let shard = world.start("misbehave").await;
    world.settled(5).await;
    let out = world.read("out").await;
    assert_eq!(values(&out), ["after", "other"]);
    let dead = world.read("dead").await;
    let mut codes: Vec<&str> =
        dead.iter().map(|(.., headers)| &*headers[dead_letter::ERROR_TYPE]).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["Millrace.OutputTooLarge", "Millrace.OutputTopic", "Test.Failed"]);
    shard.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_hear_once_of_every_record_in_the_order_of_keys() {
    let mut world = World::new().await;
    let mut config = world.config("misbehave");
    config.dispatch.retry.attempts_max = NonZeroU32::MIN;
    let both = Some("told".into());
    let brokers = "b:9092".into();
    config.destinations = Destinations { on_success: both.clone(), on_failure: both, brokers };
    world.produce(&[("a", "one"), ("a", "fail"), ("b", "two"), ("a", "{}")]).await;
    let bus = Arc::clone(&world.bus) as Arc<dyn Bus>;
    // Nobody made the topic yet: nothing is left out, and nothing is repeated.
    let shard = start(bus, config, world.revision("misbehave")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(shard.stats().counters.settled, 0);
    let spec = TopicSpec { record_bytes_max: 1_500, ..TopicSpec::new("told", 1) };
    world.bus.create_topic(spec).await.unwrap();
    world.settled(4).await;
    let long = "x".repeat(1_000);
    world.produce(&[("c", &long)]).await;
    world.settled(5).await;
    let said = |(key, value, headers): &Out| {
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        let origin = headers[ORIGIN].split(';').nth(4).unwrap().to_owned();
        let condition = value["requestContext"]["condition"].as_str().unwrap().to_owned();
        let offset = value["KafkaBatchInfo"]["recordInfo"]["offset"].as_str().unwrap().to_owned();
        (key.clone(), offset, origin, condition, value["responsePayload"].to_string())
    };
    let told: Vec<_> = world.read("told").await.iter().map(said).collect();
    let row = |key: &str, offset: &str, origin: &str, condition: &str, payload: &str| {
        (key.into(), offset.into(), origin.into(), condition.into(), payload.into())
    };
    let bytes = |text: &str| format!("[{{\"topic\":\"out\",\"value\":{{\"$bytes\":\"{text}\"}}}}]");
    let mut expected: [(String, String, String, String, String); 5] = [
        row("a", "0", "s", "Success", &bytes("b25l")),
        row("a", "1", "f", "RetryAttemptsExhausted", "null"),
        row("b", "2", "s", "Success", &bytes("dHdv")),
        row("a", "3", "s", "Success", "[{\"topic\":\"out\",\"value\":{}}]"),
        // DS-3: its topic does not take it whole.
        row("c", "4", "s", "Success", "null"),
    ];
    let of_a = told.iter().filter(|it| it.0 == "a").map(|it| &*it.1);
    assert_eq!(of_a.collect::<Vec<_>>(), ["0", "1", "3"], "DS-2");
    let mut sorted = told.clone();
    sorted.sort_by(|one, other| one.1.cmp(&other.1));
    expected.sort_by(|one, other| one.1.cmp(&other.1));
    assert_eq!(sorted, expected, "DS-1");
    shard.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_keeps_failing_waits_in_the_park_topic_and_comes_out_in_order() {
    const RECORDS: i64 = 3_000;
    let mut world = World::new().await;
    world.bus.create_topic(TopicSpec::new("park", 1).compacted()).await.unwrap();
    let parking = |world: &mut World| {
        let mut config = world.config("misbehave");
        config.park_topic = Some("park".into());
        config.dispatch.retry.attempts_max = NonZeroU32::new(1_000_000).unwrap();
        config.dispatch.park = Some(ParkLimits::default());
        config
    };
    let numbered: Vec<(String, String)> = (0..RECORDS)
        .map(|n| match n % 3 {
            0 => (format!("other-{}", n % 7), format!("{n}")),
            _ => ("stubborn".to_owned(), format!("fail {n:05}")),
        })
        .collect();
    let records: Vec<(&str, &str)> = numbered.iter().map(|(k, v)| (&**k, &**v)).collect();
    let (config, revision) = (parking(&mut world), world.revision("misbehave"));
    let bus = || Arc::clone(&world.bus) as Arc<dyn Bus>;
    let shard = start(bus(), config, revision).await.unwrap();
    for records in records.chunks(500) {
        world.produce(records).await;
    }
    // Twice as many of its records as the window holds are behind it, and the rest is through.
    world.settled(RECORDS).await;
    assert_eq!(world.read("out").await.len(), 1_000);
    // The bus knows of a commit before the shard does.
    let patience_ends_at = Instant::now() + Duration::from_secs(30);
    while (shard.stats().parked_records, shard.stats().open_records) != (2_000, 1) {
        assert!(Instant::now() < patience_ends_at, "{:?}", shard.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(shard.stats().counters.dead_lettered, 0);

    // Another life begins with them, and no journal write gets lost in compaction.
    drop(shard);
    world.bus.apply_retention(Timestamp::now()).await.unwrap();
    let config = parking(&mut world);
    let revision = world.revision("identity");
    let bus = Arc::clone(&world.bus) as Arc<dyn Bus>;
    let shard = start(bus, config, revision).await.unwrap();
    let patience_ends_at = Instant::now() + Duration::from_secs(30);
    while shard.stats().counters.settled < 2_000 {
        assert!(Instant::now() < patience_ends_at, "{:?}", shard.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.produce(&[("stubborn", "fail 99999")]).await;
    world.settled(RECORDS + 1).await;
    let out = world.read("out").await;
    let stubborn: Vec<&str> =
        out.iter().filter(|it| it.0 == "stubborn").map(|it| it.1.as_str()).collect();
    assert_eq!(stubborn.len(), 2_001, "all of them, once each");
    assert!(stubborn.is_sorted(), "in order");
    let stats = shard.stats();
    assert_eq!((stats.parked_records, stats.open_records), (0, 0), "{stats:?}");
    assert_eq!((stats.counters.resumed, stats.counters.skipped), (2_000, 0));
    shard.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_assignment_is_fenced_and_stops() {
    let mut world = World::new().await;
    let old = world.start("identity").await;
    let new = world.start("identity").await;
    world.produce(&[("a", "1")]).await;
    world.settled(1).await;
    assert_eq!(values(&world.read("out").await), ["1"], "the older one's output is refused");
    new.drain(Duration::from_secs(5)).await;
    old.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_cannot_start_has_stopped_and_says_why() {
    let mut world = World::new().await;
    let (mut config, revision) = (world.config("identity"), world.revision("identity"));
    config.partitions = vec![TopicPartition::new("gone", 0)];
    let bus = Arc::clone(&world.bus) as Arc<dyn Bus>;
    let shard = start_or_wait(bus, config, revision, None).await;
    let stats = shard.stats();
    assert!(matches!(&stats.state, State::Stopped(it) if it.code() == "E0419"), "{stats:?}");
    let (code, message, _) = stats.last_error.unwrap();
    assert_eq!((code.as_str(), message.as_str()), ("E0419", "unknown topic gone"));
    let asked_at = Instant::now();
    shard.drain(Duration::from_secs(5)).await;
    assert!(asked_at.elapsed() < Duration::from_secs(1), "there is nothing to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_waits_for_its_output_topic_and_charges_no_record() {
    let mut world = World::new().await;
    let (mut config, revision) = (world.config("identity"), world.revision("identity"));
    config.output_topic = Some("later".into());
    let bus = Arc::clone(&world.bus) as Arc<dyn Bus>;
    let shard = start_or_wait(bus, config, revision, None).await;
    world.produce(&[("a", "1"), ("b", "2")]).await;
    let patience_ends_at = Instant::now() + Duration::from_secs(20);
    while !matches!(shard.stats().state, State::Waiting(wait) if wait.code == "E0419") {
        assert!(Instant::now() < patience_ends_at, "{:?}", shard.stats());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.bus.create_topic(TopicSpec::new("later", 1)).await.unwrap();
    world.settled(2).await;
    assert_eq!(values(&world.read("later").await), ["1", "2"]);
    let counters = shard.stats().counters;
    assert_eq!((counters.failed, counters.dead_lettered), (0, 0), "{counters:?}");
    shard.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_keeps_records_from_the_function_and_settles_them() {
    let mut world = World::new().await;
    let (mut config, revision) = (world.config("identity"), world.revision("identity"));
    let pattern = serde_json::json!({"key": ["a"], "value": {"c": [{"numeric": [">", 30]}]}});
    config.filter = Some(Arc::new(filter::Filter::compile(&[pattern]).unwrap()));
    let bus = Arc::clone(&world.bus) as Arc<dyn Bus>;
    let shard = start(bus, config, revision).await.unwrap();
    let (hot, cold) = (r#"{"c":34.2}"#, r#"{"c":3}"#);
    world.produce(&[("a", cold), ("b", hot), ("a", hot), ("a", "no JSON")]).await;
    world.settled(4).await;
    assert_eq!(values(&world.read("out").await), [hot]);
    world.produce(&[("b", hot), ("a", cold)]).await;
    world.settled(6).await;
    let counters = shard.stats().counters;
    assert_eq!((counters.admitted, counters.filtered, counters.attempts), (6, 5, 1));
    shard.drain(Duration::from_secs(5)).await;
    assert!(world.read("dead").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_takes_over_without_a_gap() {
    let mut world = World::new().await;
    let shard = world.start("trap").await;
    world.produce(&[("a", "1")]).await;
    world.settled(1).await;
    shard.set_revision(world.revision("identity"));
    world.produce(&[("a", "trap")]).await;
    world.settled(2).await;
    let out = world.read("out").await;
    assert_eq!(values(&out), ["1", "trap"]);
    assert!(out[1].2[ORIGIN].contains(";identity;"), "{:?}", out[1]);
    shard.drain(Duration::from_secs(5)).await;
}
