//! The rules of [`Bus`], each as a check that holds for every implementation. An implementation
//! brings a [`Stage`] that makes buses and ends their processes, and says in [`Capabilities`]
//! where it promises more or less than all do; [`check`] runs every rule.

use std::fmt::Debug;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Append, BatchBuilder, Bus, Cleanup, Commit, Completions, Epoch, Error, Headers, HeadersBuilder,
    Offset, Position, PositionKey, PositionMove, Reader, Record, RecordBatch, ShardId, Start,
    Timestamp, TopicPartition, TopicSpec,
};

/// What an implementation promises beyond the rules, or leaves out of them.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Nobody sees a commit's outputs before its position has moved.
    pub commits_are_atomic: bool,
    /// Stamps that come back as they were.
    pub timestamps: RangeInclusive<i64>,
    /// A header's name may hold a zero byte.
    pub zero_bytes_in_names: bool,
    /// Records are fetched ahead of their reader: those that are durable may not be at hand yet.
    pub fetches_ahead: bool,
}

/// Makes buses for the rules.
#[async_trait]
pub trait Stage: Send + Sync + Debug {
    /// Where its buses differ.
    fn capabilities(&self) -> Capabilities;

    /// A rule is about to be checked.
    fn begins(&self, rule: &str) {
        let _ = rule;
    }

    /// A bus without topics, apart from every other one.
    async fn empty(&self) -> Arc<dyn Bus>;

    /// Ends `bus` without closing it, as far as that can be done within the process, and gives
    /// what the next process finds. What can be compacted is, where that can be asked for: a broker
    /// does it when it likes.
    async fn reopen(&self, bus: Arc<dyn Bus>) -> Arc<dyn Bus>;
}

/// Runs every rule, and counts them.
///
/// # Panics
///
/// When the implementation breaks one.
pub async fn check(stage: &dyn Stage) -> u64 {
    let mut rules = 0;
    macro_rules! check {
        ($($rule:ident)+) => {
            $(
                stage.begins(stringify!($rule));
                $rule(stage).await;
                rules += 1;
            )+
        };
    }
    check! {
        records_come_back_byte_for_byte
        what_was_acknowledged_is_durable
        an_append_is_atomic
        a_commit_is_atomic
        what_is_settled_comes_behind_what_settles_it
        a_position_never_precedes_its_outputs
        an_older_epoch_is_fenced_and_writes_nothing
        a_fence_outlives_the_process
        a_position_never_goes_back_within_its_epoch
        a_position_never_passes_the_end
        recovery_gives_every_position
        a_forgotten_shard_has_no_positions
        a_reader_wakes_when_a_record_is_durable
        a_reader_starts_in_the_middle_of_a_batch
        a_dropped_fetch_loses_nothing
        a_reader_takes_turns_between_partitions
        two_readers_do_not_disturb_each_other
        an_offset_out_of_range_is_an_error
        topics_are_made_and_deleted_at_run_time
        topics_are_refused_by_name
        offsets_are_found_by_time
        a_record_over_the_limit_is_refused
        a_compacted_topic_keeps_the_newest_record_of_each_key
        a_record_without_a_key_is_refused_by_a_compacted_topic
        concurrent_appends_all_land_once
        a_closed_bus_says_so
    }
    rules
}

/// Longer than any wait of a sound implementation, however loaded the machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("{what} did not happen in {PATIENCE:?}"),
    }
}

fn place(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn batch<'a>(values: impl IntoIterator<Item = &'a str>) -> RecordBatch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(Timestamp(1), None, Some(value.as_bytes()), Headers::default());
    }
    builder.finish().expect("there are values")
}

fn to<'a>(topic: &str, partition: i32, values: impl IntoIterator<Item = &'a str>) -> Append {
    Append { to: place(topic, partition), batch: batch(values) }
}

fn position(next: i64, settled: &[(i64, i64)]) -> Position {
    let ranges = settled.iter().map(|(start, end)| (Offset(*start), Offset(*end)));
    let completions = Completions::from_ranges(ranges);
    Position { epoch: Epoch(0), next: Offset(next), completions, suspects: None }
}

fn moved(topic: &str, partition: i32, position: Position) -> PositionMove {
    PositionMove { partition: place(topic, partition), position }
}

fn commit(epoch: u64, appends: Vec<Append>, positions: Vec<PositionMove>) -> Commit {
    Commit { shard: ShardId(7), epoch: Epoch(epoch), appends, settles: Vec::new(), positions }
}

async fn with_topics(stage: &dyn Stage, topics: &[(&str, i32)]) -> Arc<dyn Bus> {
    let bus = stage.empty().await;
    for (name, partitions) in topics {
        bus.create_topic(TopicSpec::new(*name, *partitions)).await.expect("a new topic");
    }
    bus
}

async fn end(bus: &dyn Bus, topic: &str, partition: i32) -> i64 {
    bus.watermarks(&place(topic, partition)).await.expect("the partition exists").end.0
}

/// Reads `count` records, each with its place.
async fn read(reader: &mut dyn Reader, count: usize) -> Vec<(i32, Offset, Record)> {
    let mut records = Vec::new();
    while records.len() < count {
        for fetched in soon("a fetch", reader.fetch(1 << 20)).await.expect("there are records") {
            for record in fetched.batch.iter() {
                records.push((fetched.partition.partition, record.offset, record.to_record()));
            }
        }
    }
    records
}

/// Values of a partition from `from` on; its offsets must follow one another.
async fn values(bus: &dyn Bus, topic: &str, partition: i32, from: i64) -> Vec<String> {
    let count = end(bus, topic, partition).await - from;
    let assigned = vec![(place(topic, partition), Offset(from))];
    let mut reader = bus.reader(assigned).await.expect("the partition exists");
    let records = read(&mut *reader, usize::try_from(count).expect("from is below the end")).await;
    let numbered = records.into_iter().zip(from..).map(|((_, offset, record), expected)| {
        assert_eq!(offset, Offset(expected), "offsets follow one another");
        String::from_utf8(record.value.expect("a value").to_vec()).expect("a text")
    });
    numbered.collect()
}

async fn records_come_back_byte_for_byte(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 1)]).await;
    let Capabilities { timestamps, zero_bytes_in_names, .. } = stage.capabilities();
    let all: Vec<u8> = (0..=255).collect();
    let name = if zero_bytes_in_names { &all[..] } else { &all[1..] };
    let mut headers = HeadersBuilder::default();
    headers.push(b"twice", Some(&all));
    headers.push(b"twice", Some(b""));
    headers.push(b"twice", None);
    headers.push(name, Some(b"a name of any bytes"));
    let mut builder = BatchBuilder::default();
    let (first, last) = (Timestamp(*timestamps.start()), Timestamp(*timestamps.end()));
    builder.push(first, Some(&all), Some(&all), headers.headers());
    builder.push(last, None, None, Headers::default());
    builder.push(first, Some(b""), Some(b""), Headers::default());
    builder.push(Timestamp(3), Some(b"tombstone"), None, Headers::default());
    let sent = builder.finish().expect("there are records");
    let expected: Vec<Record> = sent.iter().map(|record| record.to_record()).collect();
    bus.append(vec![Append { to: place("t", 0), batch: sent }]).await.expect("room");
    for _process in 0..2 {
        let mut reader = bus.reader(vec![(place("t", 0), Offset(0))]).await.expect("it exists");
        let found = read(&mut *reader, expected.len()).await;
        let found: Vec<Record> = found.into_iter().map(|(_, _, record)| record).collect();
        assert_eq!(found, expected);
    }
    let bus = stage.reopen(bus).await;
    let mut reader = bus.reader(vec![(place("t", 0), Offset(0))]).await.expect("it is durable");
    let found = read(&mut *reader, expected.len()).await;
    let found: Vec<Record> = found.into_iter().map(|(_, _, record)| record).collect();
    assert_eq!(found, expected, "after a restart");
    bus.close().await;
}

async fn what_was_acknowledged_is_durable(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 2), ("out", 1)]).await;
    bus.append(vec![to("in", 0, ["a", "b"]), to("in", 1, ["c"])]).await.expect("room");
    bus.append(vec![to("in", 0, ["d"])]).await.expect("room");
    let moves = vec![moved("in", 0, position(1, &[(2, 3)]))];
    bus.commit(commit(3, vec![to("out", 0, ["A"])], moves)).await.expect("the newest epoch");
    let bus = stage.reopen(bus).await;
    assert_eq!(values(&*bus, "in", 0, 0).await, ["a", "b", "d"]);
    assert_eq!(values(&*bus, "in", 1, 0).await, ["c"]);
    assert_eq!(values(&*bus, "out", 0, 0).await, ["A"]);
    let found = bus.positions().await.expect("it is open");
    let key = PositionKey { shard: ShardId(7), partition: place("in", 0) };
    assert_eq!(found, [(key, Position { epoch: Epoch(3), ..position(1, &[(2, 3)]) })]);
    let appended = bus.append(vec![to("in", 0, ["e"])]).await.expect("room");
    assert_eq!(appended[0].base, Offset(3), "it goes on where it was");
    bus.close().await;
}

async fn an_append_is_atomic(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 1)]).await;
    let refused = bus.append(vec![to("t", 0, ["a"]), to("t", 9, ["b"])]).await;
    assert!(matches!(refused, Err(Error::UnknownPartition(_))), "{refused:?}");
    let refused = bus.append(vec![to("t", 0, ["a"]), to("other", 0, ["b"])]).await;
    assert!(matches!(refused, Err(Error::UnknownTopic { .. })), "{refused:?}");
    assert_eq!(end(&*bus, "t", 0).await, 0, "a refused append writes nothing");
    let several = vec![to("t", 0, ["a", "b"]), to("t", 0, ["c"])];
    let bases = bus.append(several).await.expect("room");
    assert_eq!(bases.iter().map(|it| it.base.0).collect::<Vec<_>>(), [0, 2], "in their order");
    assert_eq!(values(&*bus, "t", 0, 0).await, ["a", "b", "c"]);
    bus.close().await;
}

async fn a_commit_is_atomic(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 1), ("out", 1)]).await;
    bus.append(vec![to("in", 0, ["a", "b"])]).await.expect("room");
    let good = || vec![moved("in", 0, position(1, &[]))];
    let refused = bus.commit(commit(1, vec![to("out", 5, ["A"])], good())).await;
    assert!(matches!(refused, Err(Error::UnknownPartition(_))), "{refused:?}");
    let beyond = vec![moved("in", 0, position(1, &[])), moved("out", 0, position(9, &[]))];
    let refused = bus.commit(commit(1, vec![to("out", 0, ["A"])], beyond)).await;
    assert!(matches!(refused, Err(Error::Position { .. })), "{refused:?}");
    assert_eq!(end(&*bus, "out", 0).await, 0, "no output without its position");
    assert_eq!(bus.positions().await.expect("it is open"), [], "no position without its outputs");
    bus.commit(commit(1, vec![to("out", 0, ["A"])], good())).await.expect("all of it is right");
    assert_eq!(values(&*bus, "out", 0, 0).await, ["A"]);
    bus.close().await;
}

async fn what_is_settled_comes_behind_what_settles_it(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 1), ("out", 1)]).await;
    bus.append(vec![to("in", 0, ["a"])]).await.expect("room");
    let work = commit(1, vec![to("out", 0, ["A", "B"])], vec![moved("in", 0, position(1, &[]))]);
    let unknown = Commit { settles: vec![to("out", 3, ["done"])], ..work.clone() };
    let refused = bus.commit(unknown).await;
    assert!(matches!(refused, Err(Error::UnknownPartition(_))), "{refused:?}");
    assert_eq!(end(&*bus, "out", 0).await, 0, "all of it or nothing");
    let work = Commit { settles: vec![to("out", 0, ["done"])], ..work };
    let appended = bus.commit(work).await.expect("all of it is right");
    assert_eq!(appended[0].base, Offset(0));
    assert_eq!(values(&*bus, "out", 0, 0).await, ["A", "B", "done"]);
    bus.close().await;
}

async fn a_position_never_precedes_its_outputs(stage: &dyn Stage) {
    const COMMITS: i64 = 40;
    let bus = with_topics(stage, &[("in", 1), ("out", 1)]).await;
    bus.append(vec![to("in", 0, (0..COMMITS).map(|_| "a"))]).await.expect("room");
    bus.recover(ShardId(7), Epoch(1)).await.expect("the first");
    let working = Arc::clone(&bus);
    let work = tokio::spawn(async move {
        for next in 1..=COMMITS {
            let moves = vec![moved("in", 0, position(next, &[]))];
            let done = working.commit(commit(1, vec![to("out", 0, ["A"])], moves)).await;
            done.expect("the newest epoch");
        }
    });
    let next = |positions: Vec<Position>| positions.first().map_or(0, |it| it.next.0);
    let is_atomic = stage.capabilities().commits_are_atomic;
    let (mut looks, mut settled) = (0, 0);
    while settled < COMMITS {
        let positions = bus.positions().await.expect("it is open");
        settled = next(positions.into_iter().map(|(_, position)| position).collect());
        let outputs = end(&*bus, "out", 0).await;
        assert!(settled <= outputs, "position {settled} with {outputs} outputs");
        if is_atomic {
            let found = bus.recover(ShardId(7), Epoch(1)).await.expect("the same epoch again");
            let found = found.positions.into_iter().map(|(_, position)| position).collect();
            assert!(outputs <= next(found), "outputs without their position");
        }
        looks += 1;
        tokio::task::yield_now().await;
    }
    assert!(1 < looks, "it was looked at while it worked");
    work.await.expect("every commit is right");
    bus.close().await;
}

async fn an_older_epoch_is_fenced_and_writes_nothing(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 1), ("out", 1)]).await;
    bus.append(vec![to("in", 0, ["a", "b"])]).await.expect("room");
    bus.recover(ShardId(7), Epoch(5)).await.expect("the first");
    let work = |epoch, next| {
        commit(epoch, vec![to("out", 0, ["A"])], vec![moved("in", 0, position(next, &[]))])
    };
    let stale = bus.commit(work(4, 1)).await;
    assert!(matches!(stale, Err(Error::Fenced { current: Epoch(5), .. })), "{stale:?}");
    let stale = bus.recover(ShardId(7), Epoch(4)).await;
    assert!(matches!(stale, Err(Error::Fenced { current: Epoch(5), .. })), "{stale:?}");
    assert_eq!(end(&*bus, "out", 0).await, 0, "a fenced commit writes nothing");
    bus.commit(work(6, 1)).await.expect("a newer epoch than any");
    let stale = bus.commit(work(5, 2)).await;
    assert!(matches!(stale, Err(Error::Fenced { current: Epoch(6), .. })), "{stale:?}");
    let other = Commit { shard: ShardId(8), ..work(1, 1) };
    bus.commit(other).await.expect("another shard has its own epochs");
    assert_eq!(end(&*bus, "out", 0).await, 2);
    bus.close().await;
}

async fn a_fence_outlives_the_process(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 1)]).await;
    bus.recover(ShardId(7), Epoch(9)).await.expect("the first");
    let bus = stage.reopen(bus).await;
    let stale = bus.commit(commit(8, vec![to("in", 0, ["a"])], vec![])).await;
    assert!(matches!(stale, Err(Error::Fenced { current: Epoch(9), .. })), "{stale:?}");
    bus.recover(ShardId(7), Epoch(9)).await.expect("the same epoch may recover again");
    bus.close().await;
}

async fn a_position_never_goes_back_within_its_epoch(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 1)]).await;
    bus.append(vec![to("in", 0, ["a", "b", "c"])]).await.expect("room");
    let to_next = |epoch, next| commit(epoch, vec![], vec![moved("in", 0, position(next, &[]))]);
    bus.commit(to_next(1, 2)).await.expect("forward");
    let back = bus.commit(to_next(1, 1)).await;
    assert!(matches!(back, Err(Error::Position { from: Offset(2), .. })), "{back:?}");
    bus.commit(to_next(1, 2)).await.expect("the same again is no step back");
    bus.commit(to_next(2, 1)).await.expect("a new assignment may start earlier");
    bus.close().await;
}

async fn a_position_never_passes_the_end(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 1)]).await;
    bus.append(vec![to("in", 0, ["a", "b"])]).await.expect("room");
    let beyond = commit(1, vec![], vec![moved("in", 0, position(3, &[]))]);
    let refused = bus.commit(beyond).await;
    assert!(matches!(refused, Err(Error::Position { end: Offset(2), .. })), "{refused:?}");
    let map_beyond = commit(1, vec![], vec![moved("in", 0, position(0, &[(1, 3)]))]);
    let refused = bus.commit(map_beyond).await;
    assert!(matches!(refused, Err(Error::Position { .. })), "{refused:?}");
    let nowhere = commit(1, vec![], vec![moved("other", 0, position(0, &[]))]);
    let refused = bus.commit(nowhere).await;
    assert!(matches!(refused, Err(Error::UnknownTopic { .. })), "{refused:?}");
    let at_end = commit(1, vec![], vec![moved("in", 0, position(2, &[]))]);
    bus.commit(at_end).await.expect("the end itself is where an idle shard is");
    bus.close().await;
}

async fn recovery_gives_every_position(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 2)]).await;
    bus.append(vec![to("in", 0, ["a", "b"]), to("in", 1, ["c", "d", "e"])]).await.expect("room");
    let found = bus.recover(ShardId(7), Epoch(1)).await.expect("the first");
    assert_eq!(found.positions, [], "a shard that never committed has none");
    let first = vec![moved("in", 0, position(1, &[])), moved("in", 1, position(0, &[(1, 3)]))];
    bus.commit(commit(1, vec![], first)).await.expect("forward");
    bus.commit(commit(1, vec![], vec![moved("in", 0, position(2, &[]))])).await.expect("forward");
    let expected = [
        (place("in", 0), Position { epoch: Epoch(1), ..position(2, &[]) }),
        (place("in", 1), Position { epoch: Epoch(1), ..position(0, &[(1, 3)]) }),
    ];
    let found = bus.recover(ShardId(7), Epoch(2)).await.expect("a newer epoch");
    assert_eq!(found.positions, expected);
    let bus = stage.reopen(bus).await;
    let found = bus.recover(ShardId(7), Epoch(3)).await.expect("a newer epoch");
    assert_eq!(found.positions, expected, "after a restart");
    bus.close().await;
}

async fn a_forgotten_shard_has_no_positions(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("in", 1)]).await;
    bus.append(vec![to("in", 0, ["a"])]).await.expect("room");
    let settle = |shard| Commit {
        shard: ShardId(shard),
        ..commit(4, vec![], vec![moved("in", 0, position(1, &[]))])
    };
    bus.commit(settle(1)).await.expect("the first");
    bus.commit(settle(2)).await.expect("the first");
    bus.forget_shard(ShardId(1)).await.expect("it can be written");
    bus.forget_shard(ShardId(99)).await.expect("an unknown shard is forgotten already");
    let bus = stage.reopen(bus).await;
    let shards: Vec<_> = bus.positions().await.expect("it is open");
    assert_eq!(shards.iter().map(|(key, _)| key.shard).collect::<Vec<_>>(), [ShardId(2)]);
    let found = bus.recover(ShardId(1), Epoch(1)).await.expect("its epoch is forgotten too");
    assert_eq!(found.positions, []);
    bus.close().await;
}

async fn a_reader_wakes_when_a_record_is_durable(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 3)]).await;
    let assigned = (0..3).map(|partition| (place("t", partition), Offset(0))).collect();
    let mut reader = bus.reader(assigned).await.expect("it exists");
    let early = tokio::time::timeout(Duration::from_millis(20), reader.fetch(1 << 20)).await;
    assert!(early.is_err(), "a reader waits for records: {early:?}");
    for round in 0..3_i64 {
        for partition in [2, 0, 1] {
            let fetched = reader.fetch(1 << 20);
            let appended = bus.append(vec![to("t", partition, ["late"])]);
            let (fetched, appended) =
                soon("a wake", async { tokio::join!(fetched, appended) }).await;
            assert_eq!(appended.expect("room")[0].base, Offset(round));
            let fetched = fetched.expect("there is a record");
            assert_eq!(fetched[0].partition, place("t", partition));
            assert_eq!(fetched[0].batch.first_offset(), Offset(round));
        }
    }
    bus.close().await;
}

async fn a_reader_starts_in_the_middle_of_a_batch(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 1)]).await;
    bus.append(vec![to("t", 0, ["a", "b", "c", "d"])]).await.expect("room");
    assert_eq!(values(&*bus, "t", 0, 2).await, ["c", "d"]);
    let bus = stage.reopen(bus).await;
    assert_eq!(values(&*bus, "t", 0, 3).await, ["d"], "after a restart");
    let narrowed = batch(["x", "y", "z"]).from_offset(Offset(1)).expect("there are two more");
    let narrowed = Append { to: place("t", 0), batch: narrowed.truncated(1) };
    let appended = bus.append(vec![narrowed]).await.expect("room");
    assert_eq!(appended[0].base, Offset(4));
    assert_eq!(values(&*bus, "t", 0, 3).await, ["d", "y"], "only what the view shows is appended");
    bus.close().await;
}

async fn a_dropped_fetch_loses_nothing(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 2)]).await;
    let texts: Vec<String> = (0..40).map(|number: i32| number.to_string()).collect();
    for text in &texts {
        bus.append(vec![to("t", 0, [&**text]), to("t", 1, [&**text])]).await.expect("room");
    }
    let bus = stage.reopen(bus).await;
    let assigned = vec![(place("t", 0), Offset(0)), (place("t", 1), Offset(0))];
    let mut reader = bus.reader(assigned).await.expect("it exists");
    let mut found = [Vec::new(), Vec::new()];
    let mut dropped = 0;
    while found[0].len() + found[1].len() < 80 {
        // Polled once: whatever the call did until then must not be lost with it.
        let mut fetch = std::pin::pin!(reader.fetch(1));
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(fetch.as_mut().poll(cx))).await;
        let fetched = match once {
            std::task::Poll::Ready(fetched) => fetched,
            std::task::Poll::Pending if dropped % 2 == 0 => {
                dropped += 1;
                continue;
            }
            std::task::Poll::Pending => {
                dropped += 1;
                soon("a fetch", fetch).await
            }
        };
        for fetched in fetched.expect("there are records") {
            let values = &mut found[fetched.partition.partition as usize];
            for record in fetched.batch.iter() {
                assert_eq!(record.offset.0, values.len() as i64, "nothing lost, nothing twice");
                values.push(String::from_utf8_lossy(record.value.expect("a value")).into_owned());
            }
        }
    }
    assert_eq!(found, [texts.clone(), texts]);
    bus.close().await;
}

async fn a_reader_takes_turns_between_partitions(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 4)]).await;
    let long = "x".repeat(2000);
    for _batch in 0..10 {
        let all = (0..4).map(|partition| to("t", partition, [&*long, &*long]));
        bus.append(all.collect()).await.expect("room");
    }
    let assigned = (0..4).map(|partition| (place("t", partition), Offset(0))).collect();
    let mut reader = bus.reader(assigned).await.expect("it exists");
    if stage.capabilities().fetches_ahead {
        // Until what is durable is at hand, which partition comes first is the network's doing.
        let forever = std::future::pending::<()>();
        drop(tokio::time::timeout(Duration::from_secs(3), forever).await);
    }
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let fetched = soon("a fetch", reader.fetch(1)).await.expect("there are records");
        assert!(!fetched.is_empty(), "at least one batch");
        seen.extend(fetched.iter().map(|it| it.partition.partition));
    }
    let mut first: Vec<i32> = seen[..8].to_vec();
    first.sort_unstable();
    first.dedup();
    assert_eq!(first, [0, 1, 2, 3], "no partition waits for another to be read up: {seen:?}");
    bus.close().await;
}

async fn two_readers_do_not_disturb_each_other(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 1)]).await;
    bus.append(vec![to("t", 0, ["a", "b"])]).await.expect("room");
    let mut one = bus.reader(vec![(place("t", 0), Offset(0))]).await.expect("it exists");
    let mut two = bus.reader(vec![(place("t", 0), Offset(1))]).await.expect("it exists");
    assert_eq!(read(&mut *one, 2).await.len(), 2);
    assert_eq!(read(&mut *two, 1).await[0].1, Offset(1));
    let appended = bus.append(vec![to("t", 0, ["c"])]);
    let (one_saw, two_saw, appended) =
        tokio::join!(read(&mut *one, 1), read(&mut *two, 1), appended);
    appended.expect("room");
    assert_eq!((one_saw[0].1, two_saw[0].1), (Offset(2), Offset(2)), "each gets every record");
    drop(one);
    bus.append(vec![to("t", 0, ["d"])]).await.expect("room");
    assert_eq!(read(&mut *two, 1).await[0].1, Offset(3), "one's end is not the other's");
    bus.close().await;
}

async fn an_offset_out_of_range_is_an_error(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 1)]).await;
    bus.append(vec![to("t", 0, ["a"])]).await.expect("room");
    for _again in 0..2 {
        let mut reader = bus.reader(vec![(place("t", 0), Offset(5))]).await.expect("it exists");
        let beyond = soon("an error", reader.fetch(1)).await;
        let Err(Error::OffsetOutOfRange { end, .. }) = beyond else { panic!("{beyond:?}") };
        assert_eq!(end, Offset(1));
    }
    let mut negative = bus.reader(vec![(place("t", 0), Offset(-1))]).await.expect("it exists");
    let below = soon("an error", negative.fetch(1)).await;
    assert!(matches!(below, Err(Error::OffsetOutOfRange { .. })), "{below:?}");
    let unknown = bus.reader(vec![(place("other", 0), Offset(0))]).await;
    assert!(matches!(unknown, Err(Error::UnknownTopic { .. })), "{unknown:?}");
    let unknown = bus.reader(vec![(place("t", 1), Offset(0))]).await;
    assert!(matches!(unknown, Err(Error::UnknownPartition(_))), "{unknown:?}");
    bus.close().await;
}

async fn topics_are_made_and_deleted_at_run_time(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("a", 2)]).await;
    let made = bus.create_topic(TopicSpec::new("a", 2)).await.expect("it exists as asked");
    assert_eq!(bus.topic("a"), Some(made.clone()));
    let other = bus.create_topic(TopicSpec::new("a", 3)).await;
    assert!(matches!(other, Err(Error::TopicExists { partitions: 2, .. })), "{other:?}");
    let several = |names: &[(&str, i32)]| {
        names.iter().map(|(name, partitions)| TopicSpec::new(*name, *partitions)).collect()
    };
    bus.create_topics(several(&[("b", 1), ("a", 2), ("c", 3)])).await.expect("new, or as asked");
    let partitions = |name| bus.topic(name).map(|it| it.spec.partitions);
    assert_eq!(["a", "b", "c"].map(partitions), [Some(2), Some(1), Some(3)]);
    let other = bus.create_topics(several(&[("a", 2), ("b", 2)])).await;
    let is_named = matches!(&other, Err((name, Error::TopicExists { .. })) if &**name == "b");
    assert!(is_named, "{other:?}");
    for name in ["b", "c"] {
        bus.delete_topic(name).await.expect("it exists");
    }
    bus.append(vec![to("a", 1, ["x"])]).await.expect("room");
    bus.commit(commit(1, vec![], vec![moved("a", 1, position(1, &[]))])).await.expect("forward");
    let mut reader = bus.reader(vec![(place("a", 0), Offset(0))]).await.expect("it exists");
    let fetched = reader.fetch(1);
    let (fetched, deleted) =
        soon("the end of a topic", async { tokio::join!(fetched, bus.delete_topic("a")) }).await;
    deleted.expect("it exists");
    assert!(matches!(fetched, Err(Error::UnknownTopic { .. })), "{fetched:?}");
    assert_eq!(bus.topic("a"), None);
    let gone = bus.append(vec![to("a", 1, ["x"])]).await;
    assert!(matches!(gone, Err(Error::UnknownTopic { .. })), "{gone:?}");
    let gone = bus.delete_topic("a").await;
    assert!(matches!(gone, Err(Error::UnknownTopic { .. })), "{gone:?}");
    let again = bus.create_topic(TopicSpec::new("a", 2)).await.expect("its name is free");
    assert_ne!(again.id, made.id, "an id is never used again");
    assert_eq!(end(&*bus, "a", 1).await, 0, "it has nothing of the one before");
    assert_eq!(bus.positions().await.expect("it is open"), [], "nor its positions");
    let bus = stage.reopen(bus).await;
    assert_eq!(bus.topics().await.expect("it is open"), [again]);
    assert_eq!(end(&*bus, "a", 1).await, 0);
    bus.close().await;
}

async fn topics_are_refused_by_name(stage: &dyn Stage) {
    let bus = stage.empty().await;
    for name in ["", ".", "..", "a b", "a;b", "ä"] {
        let refused = bus.create_topic(TopicSpec::new(name, 1)).await;
        assert!(matches!(refused, Err(Error::TopicName { .. })), "{name:?}: {refused:?}");
    }
    for partitions in [0, -1] {
        let refused = bus.create_topic(TopicSpec::new("t", partitions)).await;
        assert!(matches!(refused, Err(Error::Partitions { .. })), "{refused:?}");
    }
    assert_eq!(bus.topics().await.expect("it is open"), []);
    bus.close().await;
}

async fn offsets_are_found_by_time(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 1)]).await;
    let place = place("t", 0);
    let latest = bus.offset_for(&place, Start::At(Timestamp(0))).await.expect("it exists");
    assert_eq!(latest, Offset(0), "an empty partition");
    for stamps in [[10, 30, 20], [15, 40, 50]] {
        let mut builder = BatchBuilder::default();
        for stamp in stamps {
            builder.push(Timestamp(stamp), None, Some(b"v"), Headers::default());
        }
        let batch = builder.finish().expect("there are records");
        bus.append(vec![Append { to: place.clone(), batch }]).await.expect("room");
    }
    let bus = stage.reopen(bus).await;
    for (time, expected) in [(0, 0), (10, 0), (11, 1), (30, 1), (31, 4), (50, 5), (51, 6)] {
        let found = bus.offset_for(&place, Start::At(Timestamp(time))).await.expect("it exists");
        assert_eq!(found, Offset(expected), "the first record at or after {time}");
    }
    let ends = [(Start::Earliest, 0), (Start::Latest, 6)];
    for (start, expected) in ends {
        assert_eq!(bus.offset_for(&place, start).await.expect("it exists"), Offset(expected));
    }
    bus.close().await;
}

async fn a_record_over_the_limit_is_refused(stage: &dyn Stage) {
    let bus = stage.empty().await;
    let mut spec = TopicSpec::new("t", 1);
    spec.record_bytes_max = 100;
    bus.create_topic(spec).await.expect("a new topic");
    let (fits, over) = ("x".repeat(100), "x".repeat(101));
    let refused = bus.append(vec![to("t", 0, ["a", &*over])]).await;
    assert!(matches!(refused, Err(Error::TooLarge { limit_bytes: 100, .. })), "{refused:?}");
    let refused = bus.commit(commit(1, vec![to("t", 0, [&*over])], vec![])).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    assert_eq!(end(&*bus, "t", 0).await, 0);
    bus.append(vec![to("t", 0, [&*fits, &*fits])]).await.expect("each record fits");
    bus.close().await;
}

fn keyed<'a>(topic: &str, records: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Append {
    let mut builder = BatchBuilder::default();
    for (key, value) in records {
        let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
        builder.push(Timestamp::now(), key, value, Headers::default());
    }
    Append { to: place(topic, 0), batch: builder.finish().expect("there are records") }
}

async fn a_compacted_topic_keeps_the_newest_record_of_each_key(stage: &dyn Stage) {
    let bus = stage.empty().await;
    let made = bus.create_topic(TopicSpec::new("t", 1).compacted()).await.expect("a new topic");
    assert_eq!(made.spec.cleanup, Cleanup::Compact);
    let old = [("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("c", Some("1"))];
    let new = [("b", None), ("a", Some("3")), ("d", Some("1"))];
    bus.append(vec![keyed("t", old)]).await.expect("room");
    let at = moved("t", 0, position(2, &[]));
    bus.commit(commit(1, vec![keyed("t", new)], vec![at])).await.expect("forward");
    let bus = stage.reopen(bus).await;
    assert_eq!(bus.topic("t").or(bus.topics().await.expect("it is open").pop()), Some(made));
    assert_eq!(end(&*bus, "t", 0).await, 7, "the end stays");
    let log: Vec<_> = old.iter().chain(&new).collect();
    // From the start, and from offsets that compaction may have taken.
    for from in [0, 2, 4] {
        let mut reader = bus.reader(vec![(place("t", 0), Offset(from))]).await.expect("it exists");
        let mut found = Vec::new();
        while found.last().is_none_or(|last| *last < 6) {
            for fetched in soon("a fetch", reader.fetch(1 << 20)).await.expect("it is there") {
                for record in fetched.batch.iter() {
                    let offset = record.offset.0;
                    let (key, value) = log[usize::try_from(offset).expect("from 0 on")];
                    assert_eq!(record.key, Some(key.as_bytes()), "{offset}");
                    assert_eq!(record.value, value.map(str::as_bytes), "{offset}");
                    assert!(from <= offset && found.last().is_none_or(|last| *last < offset));
                    found.push(offset);
                }
            }
        }
        for newest in [3, 4, 5, 6].into_iter().filter(|newest| from <= *newest) {
            assert!(found.contains(&newest), "from {from}: {newest} of {found:?}");
        }
    }
    let recovered = bus.recover(ShardId(7), Epoch(2)).await.expect("a newer epoch");
    assert_eq!(recovered.positions[0].1.next, Offset(2), "also where nothing lies any more");
    bus.close().await;
}

async fn a_record_without_a_key_is_refused_by_a_compacted_topic(stage: &dyn Stage) {
    let bus = stage.empty().await;
    bus.create_topic(TopicSpec::new("t", 1).compacted()).await.expect("a new topic");
    let refused = bus.append(vec![to("t", 0, ["a"])]).await;
    assert!(matches!(refused, Err(Error::NoKey(_))), "{refused:?}");
    bus.append(vec![keyed("t", [("k", Some("a"))])]).await.expect("room");
    assert_eq!(end(&*bus, "t", 0).await, 1, "nothing of it was written");
    bus.close().await;
}

async fn concurrent_appends_all_land_once(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 2)]).await;
    let appends = (0..200).map(|number: i32| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move {
            let text = number.to_string();
            let appended = bus.append(vec![to("t", number % 2, [&*text])]).await;
            (text, appended.expect("room")[0].base)
        })
    });
    let appends: Vec<_> = appends.collect();
    let mut told = [vec![String::new(); 100], vec![String::new(); 100]];
    for append in appends {
        let (text, base) = append.await.expect("no append panics");
        let number: i32 = text.parse().expect("a number");
        told[(number % 2) as usize][usize::try_from(base.0).expect("from zero")] = text;
    }
    let bus = stage.reopen(bus).await;
    for (partition, told) in told.into_iter().enumerate() {
        let found = values(&*bus, "t", partition as i32, 0).await;
        assert_eq!(found, told, "each record is where its append was told");
    }
    bus.close().await;
}

async fn a_closed_bus_says_so(stage: &dyn Stage) {
    let bus = with_topics(stage, &[("t", 1)]).await;
    let mut reader = bus.reader(vec![(place("t", 0), Offset(0))]).await.expect("it exists");
    let fetched = reader.fetch(1);
    let (fetched, ()) = soon("the end", async { tokio::join!(fetched, bus.close()) }).await;
    assert!(matches!(fetched, Err(Error::Closed)), "{fetched:?}");
    let refused = bus.append(vec![to("t", 0, ["a"])]).await;
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    bus.close().await;
}
