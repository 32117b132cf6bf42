//! Exact commands for exact inputs. The model test is beside it.

use std::num::{NonZeroU32, NonZeroUsize};

use bus::{BatchBuilder, Completions, Headers, Offset};

use super::pieces::STRANDS_FOR;
use super::*;
use crate::command::{BatchLimits, End, WindowLimits};
use crate::retry::RetryPolicy;

mod late;
mod risky;

/// A shard in virtual time.
struct Bench {
    core: ShardDispatch,
    now: Instant,
}

/// What a command says, with offsets for records.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    /// Id, offsets, and the attempt of the first record.
    Invoke(u64, Vec<i64>, u32),
    /// Id and offsets kept.
    Gather(u64, Vec<i64>),
    /// Offset, attempts, code.
    Dead(i64, u32, String),
    /// Id, records, next, completions.
    Commit(u64, u64, i64, Vec<(i64, i64)>),
    Again(u64),
    /// Offset, attempts.
    Park(i64, u32),
    Unpark(i64),
    /// Offsets.
    Load(Vec<i64>),
    Drained,
    Stop(StopReason),
}
use Said::{Again, Commit, Dead, Drained, Gather, Invoke, Load, Park, Stop, Unpark};

fn count(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

/// Batches of 4, one at a time, two attempts.
fn config(order: Order) -> DispatchConfig {
    DispatchConfig {
        order,
        batch: BatchLimits { records: count(4), bytes: 1 << 20, window: Duration::ZERO },
        invocations_max: count(1),
        circuit: None,
        retry: RetryPolicy {
            attempts_max: NonZeroU32::new(2).unwrap(),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
            pauses: Vec::new(),
            age_max: None,
            bisect: true,
            no_retry: vec!["Final".to_owned(), "Never.*".to_owned()],
        },
        window: WindowLimits {
            records: count(100),
            bytes: count(1 << 20),
            span: count(1000),
            output_bytes: count(1000),
        },
        park: None,
    }
}

/// Records with these keys, `-` for none, from `base` on.
fn batch(base: i64, keys: &[&str]) -> RecordBatch {
    let mut builder = BatchBuilder::default();
    for key in keys {
        let key = (*key != "-").then_some(key.as_bytes());
        builder.push(Timestamp(1_000_000), key, Some(b"value"), Headers::default());
    }
    builder.finish().unwrap().with_base(Offset(base))
}

fn fail(code: &str) -> End {
    End::Failed { code: code.to_owned(), message: "said the function".to_owned() }
}

fn ended(exceptions: &[(u32, End)]) -> Outcome {
    Outcome::Ended { exceptions: exceptions.to_vec(), output_bytes: 10 }
}

fn failed(blame: Blame) -> Outcome {
    Outcome::Failed { blame, code: "Test.Crash".to_owned(), message: "it crashed".to_owned() }
}

fn full() -> CommitFailure {
    CommitFailure::Retryable { code: "Millrace.DiskFull".to_owned(), message: "full".to_owned() }
}

impl Bench {
    fn new(config: DispatchConfig) -> Self {
        let start = PartitionStart { fresh: false, ..PartitionStart::default() };
        Self::starting(config, &[start])
    }

    fn starting(config: DispatchConfig, starts: &[PartitionStart]) -> Self {
        let now = Instant::now();
        let wall = Timestamp(1_000_000);
        Self { core: ShardDispatch::new(config, Epoch(7), starts, 1, now, wall), now }
    }

    fn fetched(&mut self, base: i64, keys: &[&str]) -> Vec<Said> {
        self.core.on_fetched(self.now, 0, batch(base, keys));
        self.said()
    }

    /// The same, of which those with the key `x` are unwanted.
    fn filtered(&mut self, base: i64, keys: &[&str]) -> Vec<Said> {
        let batch = batch(base, keys);
        let unwanted = Unwanted::of(&batch, |it| it.key == Some(b"x"));
        self.core.on_filtered(self.now, 0, batch, unwanted);
        self.said()
    }

    fn outcome(&mut self, id: u64, outcome: Outcome) -> Vec<Said> {
        self.core.on_outcome(self.now, InvocationId(id), outcome);
        self.said()
    }

    fn committed(&mut self, id: u64) -> Vec<Said> {
        self.core.on_committed(self.now, CommitId(id), None);
        self.said()
    }

    /// Goes to the next timeout.
    fn wait(&mut self) -> Vec<Said> {
        let next = self.core.next_timeout().expect("something is due");
        if self.now < next {
            self.core.on_timeout(self.now);
            assert_eq!(self.core.poll_command(), None, "early calls do nothing");
        }
        self.now = self.now.max(next);
        self.core.on_timeout(self.now);
        self.said()
    }

    fn said(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        while let Some(command) = self.core.poll_command() {
            let offset = |record: RecordId| self.core.record(record).view.offset.0;
            said.push(match command {
                Command::Invoke { id, records } => {
                    let run = self.core.records(id);
                    assert_eq!(run.len(), records as usize);
                    let offsets = run.iter().copied().map(offset).collect();
                    Invoke(id.0, offsets, self.core.record(run[0]).attempt)
                }
                Command::Gather { id, kept } => {
                    let kept_ones = (0..kept.records.len()).filter(|index| kept.keeps(*index));
                    Gather(id.0, kept_ones.map(|index| offset(kept.records[index])).collect())
                }
                Command::DeadLetter(dead) => Dead(offset(dead.record), dead.attempts, dead.code),
                Command::Commit { id, records, positions } => {
                    assert_eq!(positions.len(), 1);
                    let (0, Position { epoch: Epoch(7), next, completions, suspects: None }) =
                        &positions[0]
                    else {
                        panic!("{positions:?}");
                    };
                    let ranges = completions.ranges().iter();
                    Commit(id.0, records, next.0, ranges.map(|(a, b)| (a.0, b.0)).collect())
                }
                Command::Park(park) => Park(offset(park.record), park.attempts),
                Command::Unpark(record) => Unpark(offset(record)),
                Command::Load(wanted) => Load(wanted.iter().map(|it| it.offset.0).collect()),
                Command::CommitAgain { id } => Again(id.0),
                Command::Drained => Drained,
                Command::Stop(reason) => Stop(reason),
            });
        }
        said
    }
}

#[test]
fn a_batch_runs_and_its_commit_settles_it() {
    let mut bench = Bench::new(config(Order::None));
    assert_eq!(bench.fetched(0, &["a", "b", "c", "d", "e"]), [Invoke(0, vec![0, 1, 2, 3], 1)]);
    assert_eq!(
        bench.outcome(0, Outcome::ok(10)),
        [Gather(0, vec![0, 1, 2, 3]), Commit(0, 4, 4, vec![]), Invoke(1, vec![4], 1)]
    );
    assert_eq!(bench.outcome(0, Outcome::ok(10)), [], "SD-2: it is over");
    assert_eq!(bench.outcome(1, Outcome::ok(10)), [Gather(1, vec![4])], "one commit in flight");
    assert_eq!(bench.core.open_records(), 5, "SD-4: nothing is durable yet");
    assert_eq!(bench.committed(0), [Commit(1, 1, 5, vec![])]);
    assert_eq!(bench.committed(0), [], "SD-2: it is over");
    assert_eq!(bench.committed(1), []);
    assert_eq!((bench.core.open_records(), bench.core.counters().settled), (0, 5));
    assert_eq!((bench.core.records.bytes(), bench.core.next_timeout()), (0, None));
}

#[test]
fn a_fresh_position_is_committed_before_anything_else() {
    let position = Position { next: Offset(40), ..Position::default() };
    let mut bench = Bench::starting(
        config(Order::Key),
        &[PartitionStart { position, ..PartitionStart::default() }],
    );
    assert_eq!(bench.said(), [Commit(0, 0, 40, vec![])]);
    assert_eq!(bench.fetched(40, &["a"]), [], "NK-1: a node that ends now has to be known later");
    assert_eq!(bench.committed(0), [Invoke(0, vec![40], 1)]);
    assert_eq!(bench.outcome(0, Outcome::ok(0)), [Gather(0, vec![40]), Commit(1, 1, 41, vec![])]);
}

#[test]
fn a_restart_runs_only_what_the_position_left_open() {
    let completions = Completions::from_ranges([(Offset(2), Offset(4))]);
    let position = Position { next: Offset(1), completions, ..Position::default() };
    let mut bench = Bench::starting(
        config(Order::Key),
        &[PartitionStart { position, fresh: false, end: Offset(0) }],
    );
    assert_eq!(bench.fetched(0, &["a", "b", "c", "d", "e"]), [Invoke(0, vec![1, 4], 1)]);
    assert_eq!(bench.core.counters().skipped, 3);
    assert_eq!(
        bench.outcome(0, ended(&[(1, fail("Test.No"))])),
        [Gather(0, vec![1]), Commit(0, 1, 4, vec![])]
    );
}

/// The key of a failing record waits; all others go on. When it is given up, what waited follows
/// in order.
#[test]
fn a_failing_record_holds_its_key_and_nothing_else() {
    let mut bench = Bench::new(config(Order::Key));
    assert_eq!(bench.fetched(0, &["a", "b", "a", "b"]), [Invoke(0, vec![0, 1, 2, 3], 1)]);
    let skipped = ended(&[(0, fail("Test.No")), (2, End::NotRun)]);
    assert_eq!(
        bench.outcome(0, skipped),
        [Gather(0, vec![1, 3]), Commit(0, 2, 0, vec![(1, 2), (3, 4)])]
    );
    assert_eq!(bench.fetched(4, &["a", "b"]), [Invoke(1, vec![5], 1)], "a waits behind itself");
    assert_eq!(bench.outcome(1, Outcome::ok(0)), [Gather(1, vec![5])]);
    assert_eq!(bench.committed(0), [Commit(1, 1, 0, vec![(1, 2), (3, 4), (5, 6)])]);
    assert_eq!(bench.wait(), [Invoke(2, vec![0], 2)]);
    assert_eq!(
        bench.outcome(2, ended(&[(0, fail("Test.Still"))])),
        [Dead(0, 2, "Test.Still".into()), Invoke(3, vec![2, 4], 1)]
    );
    assert_eq!(bench.outcome(3, Outcome::ok(0)), [Gather(3, vec![2, 4])]);
    assert_eq!(bench.committed(1), [Commit(2, 3, 6, vec![])]);
    assert_eq!(bench.core.holds.next_due(), None);
}

#[test]
fn a_record_that_ran_ahead_of_a_failed_one_of_its_key_runs_again() {
    let mut bench = Bench::new(config(Order::Key));
    assert_eq!(bench.fetched(0, &["a", "a", "-", "-"]), [Invoke(0, vec![0, 1, 2, 3], 1)]);
    assert_eq!(
        bench.outcome(0, ended(&[(0, fail("Test.No")), (2, fail("Test.No"))])),
        [Gather(0, vec![3]), Commit(0, 1, 0, vec![(3, 4)])],
        "SD-5: 1 waits; a record without a key holds nothing"
    );
    let mut retried = Vec::new();
    while retried.len() < 2 {
        for said in bench.wait() {
            let Invoke(id, offsets, 2) = said else { panic!("{said:?}") };
            retried.extend(offsets);
            let then = bench.outcome(id, Outcome::ok(0));
            if let Some(Invoke(id, offsets, 1)) = then.last() {
                assert_eq!(offsets, &[1], "once 0 is settled");
                bench.outcome(*id, Outcome::ok(0));
            }
        }
    }
    assert_eq!(bench.committed(0), [Commit(1, 3, 4, vec![])]);
}

#[test]
fn records_not_run_come_first_next_time() {
    let mut bench = Bench::new(config(Order::Key));
    bench.fetched(0, &["a", "b", "c", "d", "e", "-"]);
    let said = bench.outcome(0, ended(&[(1, End::NotRun), (3, End::NotRun)]));
    assert_eq!(said[0], Gather(0, vec![0, 2]));
    assert_eq!(said[2], Invoke(1, vec![1, 3, 4, 5], 1));
}

#[test]
fn an_answer_without_progress_is_a_broken_one() {
    let mut bench = Bench::new(config(Order::Key));
    bench.fetched(0, &["a", "a"]);
    let idle = ended(&[(0, End::NotRun)]);
    assert_eq!(bench.outcome(0, idle), [Invoke(1, vec![0], 1)], "halved: 1 alone is no progress");
    let idle = ended(&[(0, End::NotRun)]);
    assert_eq!(bench.outcome(1, idle), [], "alone, it is charged");
    assert_eq!(bench.core.counters().failed, 1);
    bench.wait();
    let said = bench.outcome(2, ended(&[(0, End::NotRun)]));
    assert_eq!(said[0], Dead(0, 2, "Millrace.BrokenAnswer".into()));
}

#[test]
fn with_order_by_partition_everything_waits_for_the_failed_record() {
    let mut bench =
        Bench::new(DispatchConfig { invocations_max: count(3), ..config(Order::Partition) });
    assert_eq!(bench.fetched(0, &["a", "b", "c"]), [Invoke(0, vec![0, 1, 2], 1)]);
    assert_eq!(bench.fetched(3, &["d"]), [], "one batch of a partition at a time");
    let stopped = ended(&[(1, fail("Test.No")), (2, End::NotRun)]);
    assert_eq!(bench.outcome(0, stopped), [Gather(0, vec![0]), Commit(0, 1, 1, vec![])]);
    assert_eq!(bench.wait(), [Invoke(1, vec![1], 2)]);
    assert_eq!(bench.outcome(1, Outcome::ok(0)), [Gather(1, vec![1]), Invoke(2, vec![2, 3], 1)]);
}

#[test]
fn keys_run_in_parallel_and_no_key_twice() {
    let config = DispatchConfig { invocations_max: count(3), ..config(Order::Key) };
    let mut bench = Bench::new(config);
    let keys: Vec<String> = (0..40).map(|key| format!("key-{}", key % 20)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let said = bench.fetched(0, &keys);
    let mut running = BTreeSet::new();
    assert_eq!(said.len(), 3, "as many as may run");
    for invocation in said {
        let Invoke(_, offsets, 1) = invocation else { panic!("{invocation:?}") };
        assert_eq!(offsets.len(), 4);
        let keys: BTreeSet<i64> = offsets.iter().map(|it| it % 20).collect();
        assert!(keys.iter().all(|key| running.insert(*key)), "SD-5");
    }
}

/// One bad record among 64: at most two invocations for each halving, and only it is charged.
#[test]
fn a_crash_is_bisected_to_its_record() {
    for bad in 0..64 {
        let mut bench = Bench::new(DispatchConfig {
            batch: BatchLimits { records: count(64), bytes: 1 << 20, window: Duration::ZERO },
            ..config(Order::Key)
        });
        let keys: Vec<String> = (0..64).map(|key| format!("key-{}", key % 7)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut said: VecDeque<Said> = bench.fetched(0, &keys).into();
        let (mut gathered, mut invocations) = (Vec::new(), 0);
        loop {
            match said.pop_front() {
                Some(Invoke(id, offsets, attempt)) => {
                    invocations += 1;
                    assert!(attempt == 1 || offsets[0] == bad, "SD-7");
                    let crashed = offsets.contains(&bad);
                    let outcome = if crashed { failed(Blame::Batch) } else { Outcome::ok(0) };
                    said.extend(bench.outcome(id, outcome));
                }
                Some(Gather(_, offsets)) => gathered.extend(offsets),
                Some(Dead(offset, 2, code)) => {
                    assert_eq!((offset, &*code), (bad, "Test.Crash"));
                    gathered.push(offset);
                }
                Some(Commit(id, ..)) => said.extend(bench.committed(id)),
                Some(other) => panic!("{other:?}"),
                None if bench.core.next_timeout().is_some() => said.extend(bench.wait()),
                None => break,
            }
        }
        for key in 0..7 {
            let of_key: Vec<i64> = gathered.iter().copied().filter(|it| it % 7 == key).collect();
            assert!(of_key.is_sorted(), "SD-5: {of_key:?}");
        }
        gathered.sort_unstable();
        assert_eq!(gathered, (0..64).collect::<Vec<_>>());
        // The whole batch, two for each of six halvings, the retry, and what waited for it.
        assert!(invocations <= 1 + 2 * 6 + 1 + 1, "{invocations} for {bad}");
        assert_eq!(bench.core.counters().failed, 2, "SD-7");
    }
}

/// The simulation's seed 109807: the second half of a halved batch ran ahead of records that had
/// waited behind a failed one of the first half.
#[test]
fn a_hold_that_ends_before_the_second_half_runs_keeps_the_order() {
    let batch = BatchLimits { records: count(6), bytes: 1 << 20, window: Duration::ZERO };
    let mut bench =
        Bench::new(DispatchConfig { batch, invocations_max: count(2), ..config(Order::Key) });
    bench.fetched(0, &["-", "a", "a", "a", "a", "a"]);
    let said = bench.outcome(0, failed(Blame::Batch));
    assert_eq!(said, [Invoke(1, vec![0, 1, 2], 1)], "the second half waits for the first");
    let said = bench.outcome(1, ended(&[(0, End::NotRun), (1, fail("A")), (2, End::NotRun)]));
    assert_eq!(said, [Invoke(2, vec![0], 1)]);
    assert_eq!(bench.wait(), [Invoke(3, vec![1], 2)]);
    let said = bench.outcome(3, Outcome::ok(0));
    let next = Invoke(4, vec![2, 3, 4, 5], 1);
    assert_eq!(said, [Gather(3, vec![1]), Commit(0, 1, 0, vec![(1, 2)]), next], "SD-5");
    assert_eq!(bench.outcome(2, Outcome::ok(0)), [Gather(2, vec![0])], "nobody waited for it");
}

/// Two of a kind that share a strand and no key.
#[test]
fn pieces_of_a_batch_keep_back_their_keys_and_nothing_else() {
    let mut bench = Bench::new(DispatchConfig { invocations_max: count(4), ..config(Order::Key) });
    let (first, other) = sharing_a_strand(&bench.core);
    let (first, other) = (first.as_str(), other.as_str());
    assert_eq!(bench.fetched(0, &[first, "-"]), [Invoke(0, vec![0, 1], 1)]);
    assert_eq!(bench.fetched(2, &[first, other]), [], "the strand is busy");
    let said = bench.outcome(0, failed(Blame::Batch));
    let pieces = [Invoke(1, vec![1], 1), Invoke(2, vec![0], 1)];
    assert_eq!(said, [&pieces[..], &[Invoke(3, vec![3], 1)]].concat(), "another key goes on");
    assert!(bench.core.is_risky(InvocationId(2)) && !bench.core.is_risky(InvocationId(3)));
    bench.outcome(3, Outcome::ok(0));
    let said = bench.outcome(2, Outcome::ok(0));
    assert!(said.contains(&Invoke(4, vec![2], 1)), "and then the key: {said:?}");
}

/// A batch that runs for long holds up nobody who merely shares a strand with it.
#[test]
fn a_batch_that_runs_for_long_gives_its_strands_back() {
    let mut bench = Bench::new(DispatchConfig { invocations_max: count(2), ..config(Order::Key) });
    let (first, other) = sharing_a_strand(&bench.core);
    let (first, other) = (first.as_str(), other.as_str());
    assert_eq!(bench.fetched(0, &[first]), [Invoke(0, vec![0], 1)]);
    assert_eq!(bench.fetched(1, &[first, other]), []);
    assert_eq!(bench.wait(), [Invoke(1, vec![2], 1)]);
    assert_eq!(bench.core.next_timeout(), Some(bench.now + STRANDS_FOR), "the next one, too");
    bench.outcome(1, Outcome::ok(0));
    let said = bench.outcome(0, Outcome::ok(0));
    assert!(said.contains(&Invoke(2, vec![1], 1)), "and then the key: {said:?}");
}

fn sharing_a_strand(core: &ShardDispatch) -> (String, String) {
    let strand = |key: &str| core.tokens.of(0, Some(key.as_bytes())).0;
    let mut others = (0..).map(|n| format!("key-{n}"));
    let other = others.find(|key| strand(key) == strand("first")).unwrap();
    ("first".to_owned(), other)
}

#[test]
fn without_bisection_every_record_is_charged() {
    let mut config = config(Order::Key);
    config.retry.bisect = false;
    let mut bench = Bench::new(config);
    bench.fetched(0, &["a", "a", "-"]);
    assert_eq!(bench.outcome(0, failed(Blame::Batch)), []);
    assert_eq!(bench.core.counters().failed, 3);
    let mut dead = Vec::new();
    while dead.len() < 3 {
        let mut said: VecDeque<Said> = bench.wait().into();
        while let Some(said_one) = said.pop_front() {
            match said_one {
                Invoke(id, _, 2) => said.extend(bench.outcome(id, failed(Blame::Batch))),
                Dead(offset, 2, _) => dead.push(offset),
                Commit(id, ..) => said.extend(bench.committed(id)),
                other => panic!("{other:?}"),
            }
        }
    }
    dead.sort_unstable();
    assert_eq!(dead, [0, 1, 2]);
}

#[test]
fn a_want_of_capacity_is_charged_to_nobody() {
    let mut bench = Bench::new(config(Order::Key));
    bench.fetched(0, &["a", "b"]);
    for id in 0..20 {
        assert_eq!(bench.outcome(id, failed(Blame::Nobody)), [], "after a pause");
        assert!(
            matches!(bench.core.state(), State::Waiting(Wait { code, .. }) if code == "Test.Crash")
        );
        assert_eq!(bench.fetched(2 + id.cast_signed(), &["c"]), []);
        assert_eq!(bench.wait(), [Invoke(id + 1, vec![0, 1], 1)], "SD-7: the same, uncharged");
        assert_eq!(bench.core.state(), State::Running);
    }
    assert_eq!(bench.core.counters().failed, 0);
}

#[test]
fn an_undecodable_record_is_given_up_without_an_attempt() {
    let mut bench = Bench::new(config(Order::Key));
    bench.fetched(0, &["a", "a"]);
    let (code, message) = ("Millrace.Decode".to_owned(), "no JSON".to_owned());
    assert_eq!(
        bench.outcome(0, ended(&[(0, End::Undecodable { code, message })])),
        [Dead(0, 0, "Millrace.Decode".into()), Gather(0, vec![1]), Commit(0, 2, 2, vec![])]
    );
}

#[test]
fn a_record_too_old_is_not_tried_again() {
    let mut config = config(Order::Key);
    config.retry.attempts_max = NonZeroU32::MAX;
    config.retry.age_max = Some(Duration::from_secs(60));
    let mut bench = Bench::new(config);
    bench.fetched(0, &["a"]);
    let (started, mut id) = (bench.now, 0);
    let dead = loop {
        let said = bench.outcome(id, ended(&[(0, fail("Test.No"))]));
        if let Some(Dead(0, attempts, _)) = said.first() {
            break *attempts;
        }
        assert_eq!(bench.wait().len(), 1);
        id += 1;
    };
    let age = bench.now - started;
    assert!((59..=60).contains(&age.as_secs()), "given up after {age:?}");
    assert!(60 < dead, "backoff is a second at most, half on average: {dead} attempts");
}

/// A dead letter that cannot be written holds the shard back and is never dropped.
#[test]
fn a_commit_that_fails_is_tried_until_it_is_durable() {
    let mut bench = Bench::new(config(Order::None));
    bench.fetched(0, &["a"]);
    bench.outcome(
        0,
        ended(&[(0, End::Undecodable { code: String::new(), message: String::new() })]),
    );
    bench.fetched(1, &["b"]);
    assert_eq!(bench.outcome(1, Outcome::ok(0)), [Gather(1, vec![1])]);
    for _try in 0..50 {
        bench.core.on_commit_failed(bench.now, CommitId(0), full());
        bench.core.on_commit_failed(bench.now, CommitId(0), full());
        assert!(
            matches!(bench.core.state(), State::Waiting(Wait { code, .. }) if code == "Millrace.DiskFull")
        );
        assert_eq!(bench.wait(), [Again(0)], "the same, and only it");
    }
    assert_eq!(bench.core.open_records(), 2);
    assert_eq!(bench.committed(0), [Commit(1, 1, 2, vec![])]);
    assert_eq!(bench.core.state(), State::Running);
}

#[test]
fn outputs_that_the_bus_refuses_cost_their_own_records_and_the_commit_goes_on() {
    let mut bench = Bench::new(config(Order::None));
    bench.fetched(40, &["a", "b", "c"]);
    bench.outcome(0, Outcome::ok(0));
    let sources = BTreeSet::from([(0, Offset(41))]);
    let refused = |bench: &mut Bench, id, sources: &BTreeSet<(u32, Offset)>| {
        let letters = bench.core.on_outputs_refused(CommitId(id), sources, "Test.Large", "large");
        let letter = |it: &DeadLetter| {
            (bench.core.record(it.record).view.offset.0, it.attempts, it.code.clone())
        };
        letters.iter().map(letter).collect::<Vec<_>>()
    };
    assert_eq!(refused(&mut bench, 9, &sources), [], "SD-2: no such commit");
    let foreign = BTreeSet::from([(0, Offset(41)), (0, Offset(99))]);
    assert_eq!(refused(&mut bench, 0, &foreign), [], "a record that is not in it");
    assert_eq!(bench.core.counters().dead_lettered, 0);
    assert_eq!(refused(&mut bench, 0, &sources), [(41, 1, "Test.Large".to_owned())]);
    assert_eq!(bench.said(), [], "it is in flight as before");
    bench.committed(0);
    let counters = *bench.core.counters();
    assert_eq!((counters.settled, counters.dead_lettered, counters.failed), (3, 1, 1));
}

#[test]
fn a_fenced_shard_does_nothing_more() {
    let mut bench = Bench::new(config(Order::None));
    bench.fetched(0, &["a"]);
    bench.outcome(0, Outcome::ok(0));
    bench.fetched(1, &["b"]);
    let fenced = CommitFailure::Final(StopReason::Fenced);
    bench.core.on_commit_failed(bench.now, CommitId(9), fenced.clone());
    assert_eq!(bench.said(), [], "SD-2: no such commit");
    bench.core.on_commit_failed(bench.now, CommitId(0), fenced);
    assert_eq!(bench.said(), [Stop(StopReason::Fenced)]);
    assert_eq!(bench.outcome(1, Outcome::ok(0)), [], "late results are dropped");
    assert_eq!(bench.committed(0), []);
    assert_eq!(bench.fetched(2, &["c"]), []);
    assert!(!bench.core.wants_records());
    assert_eq!(bench.core.next_timeout(), None);
    assert_eq!(bench.core.state(), State::Stopped(StopReason::Fenced));
}

#[test]
fn a_batch_waits_for_its_window_but_no_longer() {
    let mut config = config(Order::Key);
    config.batch.window = Duration::from_millis(20);
    let mut bench = Bench::new(config);
    let started = bench.now;
    assert_eq!(bench.fetched(0, &["a"]), []);
    bench.now += Duration::from_millis(5);
    assert_eq!(bench.fetched(1, &["b"]), []);
    assert_eq!(bench.wait(), [Invoke(0, vec![0, 1], 1)]);
    assert_eq!(bench.now - started, Duration::from_millis(20));
    bench.outcome(0, Outcome::ok(0));
    assert_eq!(bench.fetched(2, &["a", "b", "c", "d"]), [Invoke(1, vec![2, 3, 4, 5], 1)], "full");
}

#[test]
fn a_batch_keeps_to_its_bytes() {
    let mut config = config(Order::None);
    config.batch.bytes = 13;
    let mut bench = Bench::new(config);
    // Six bytes each with a key of one, five without.
    assert_eq!(bench.fetched(0, &["a", "b", "c"]), [Invoke(0, vec![0, 1], 1)]);
    assert_eq!(bench.outcome(0, Outcome::ok(0))[2], Invoke(1, vec![2], 1));
    bench.outcome(1, Outcome::ok(0));
    let large = "k".repeat(100);
    assert_eq!(bench.fetched(3, &[&large, "a"]), [Invoke(2, vec![3], 1)], "one may be more");
}

#[test]
fn the_window_bounds_what_is_let_in() {
    let mut config = config(Order::None);
    config.window.records = count(6);
    config.window.span = count(8);
    let mut bench = Bench::new(config);
    assert_eq!(bench.fetched(0, &["-"; 9]), [Invoke(0, vec![0, 1, 2, 3], 1)]);
    assert_eq!(bench.core.open_records(), 6, "SD-6");
    assert!(!bench.core.wants_records());
    assert_eq!(
        bench.outcome(0, ended(&[(0, fail("Test.No"))])),
        [Gather(0, vec![1, 2, 3]), Commit(0, 3, 0, vec![(1, 4)]), Invoke(1, vec![4, 5], 1)]
    );
    assert_eq!(bench.core.open_records(), 6, "SD-4: not before it is durable");
    assert_eq!(bench.committed(0), []);
    assert_eq!(bench.core.open_records(), 5, "the span ends 8 beyond the open record");
    assert_eq!(bench.outcome(1, Outcome::ok(0))[2], Invoke(2, vec![6, 7], 1));
}

#[test]
fn outputs_that_wait_for_their_commit_hold_invocations_back() {
    let mut bench = Bench::new(config(Order::None));
    bench.fetched(0, &["-"; 12]);
    bench.outcome(0, Outcome::ok(600));
    assert_eq!(bench.outcome(1, Outcome::ok(600)), [Gather(1, vec![4, 5, 6, 7])], "SD-6");
    assert_eq!(bench.committed(0), [Commit(1, 4, 8, vec![]), Invoke(2, vec![8, 9, 10, 11], 1)]);
}

#[test]
fn a_drain_ends_what_runs_and_starts_nothing() {
    let mut bench = Bench::new(config(Order::Key));
    bench.fetched(0, &["a", "b", "c", "d", "e"]);
    bench.core.on_drain(bench.now);
    assert_eq!(bench.said(), []);
    assert!(!bench.core.wants_records());
    assert_eq!(
        bench.outcome(0, ended(&[(0, fail("Test.No"))])),
        [Gather(0, vec![1, 2, 3]), Commit(0, 3, 0, vec![(1, 4)])]
    );
    assert_eq!(bench.core.next_timeout(), None, "the retry is for the next start");
    assert_eq!(bench.committed(0), [Drained]);
    bench.core.on_drain(bench.now);
    assert_eq!(bench.said(), []);
}

#[test]
fn an_idle_shard_drains_at_once() {
    let mut bench = Bench::new(config(Order::Key));
    bench.core.on_drain(bench.now);
    assert_eq!(bench.said(), [Drained]);
}

#[test]
fn a_pause_starts_nothing_and_a_resume_goes_on() {
    let mut bench = Bench::new(config(Order::Key));
    bench.core.on_pause(bench.now);
    assert!(!bench.core.wants_records());
    assert_eq!(bench.fetched(0, &["a"]), []);
    assert_eq!(bench.core.state(), State::Paused);
    bench.core.on_resume(bench.now);
    assert_eq!(bench.said(), [Invoke(0, vec![0], 1)]);
}

#[test]
fn filtered_records_go_with_the_next_commit() {
    let mut bench = Bench::new(config(Order::Key));
    assert_eq!(bench.filtered(0, &["x", "a", "x", "x"]), [Invoke(0, vec![1], 1)]);
    assert_eq!(bench.core.open_records(), 1, "SD-8: they take no room");
    assert_eq!(bench.filtered(4, &["x"]), []);
    assert_eq!(bench.outcome(0, Outcome::ok(10)), [Gather(0, vec![1]), Commit(0, 5, 5, vec![])]);
    assert_eq!(bench.core.filtered_records(), 4, "nothing is durable yet");
    assert_eq!(bench.filtered(5, &["x"]), [], "one commit in flight");
    assert_eq!(bench.committed(0), [], "and the next can wait");
    let counters = *bench.core.counters();
    assert_eq!((counters.admitted, counters.filtered, counters.settled), (6, 5, 5));
    assert_eq!(bench.wait(), [Commit(1, 1, 6, vec![])]);
    assert_eq!(bench.committed(1), []);
    assert_eq!((bench.core.filtered_records(), bench.core.next_timeout()), (0, None));
    assert_eq!(bench.core.records.bytes(), 0);
}

#[test]
fn filtered_records_alone_are_committed_once_a_second() {
    let mut bench = Bench::new(config(Order::Partition));
    let started_at = bench.now;
    for base in 0..900 {
        assert_eq!(bench.filtered(base, &["x"]), []);
        bench.now += Duration::from_millis(1);
    }
    assert_eq!(bench.wait(), [Commit(0, 900, 900, vec![])]);
    assert_eq!(bench.now - started_at, Duration::from_secs(1));
    assert_eq!(bench.committed(0), []);
    // Far more than the window, which they do not fill.
    assert_eq!(bench.filtered(900, &["x"; 5_000]), []);
    assert!(bench.core.wants_records());
    assert_eq!(bench.wait(), [Commit(1, 5_000, 5_900, vec![])]);
    assert_eq!(bench.core.counters().admitted, 5_900);
}

#[test]
fn filtered_records_pass_one_that_waits() {
    let mut bench = Bench::new(config(Order::Key));
    assert_eq!(bench.filtered(0, &["a"]), [Invoke(0, vec![0], 1)]);
    assert_eq!(bench.outcome(0, ended(&[(0, fail("Test.No"))])), []);
    assert_eq!(bench.filtered(1, &["x", "x"]), []);
    bench.core.on_drain(bench.now);
    assert_eq!(bench.said(), [Commit(0, 2, 0, vec![(1, 3)])], "a drain does not wait");
    assert_eq!(bench.committed(0), [Drained]);
}

#[test]
fn a_failure_that_is_not_tried_again_is_a_dead_letter_at_once() {
    for (code, is_final) in [("Final", true), ("Never.x", true), ("Finally", false)] {
        let mut bench = Bench::new(config(Order::Key));
        assert_eq!(bench.fetched(0, &["a"]), [Invoke(0, vec![0], 1)]);
        let said = bench.outcome(0, ended(&[(0, fail(code))]));
        let dead = [Dead(0, 1, code.to_owned()), Commit(0, 1, 1, vec![])];
        assert_eq!(said, if is_final { dead.to_vec() } else { Vec::new() }, "{code}");
        assert_eq!(bench.core.counters().retried, u64::from(!is_final));
    }
    // One of a batch is found first: the others are not to blame.
    let mut bench = Bench::new(config(Order::None));
    assert_eq!(bench.fetched(0, &["a", "b"]), [Invoke(0, vec![0, 1], 1)]);
    let failed = || Outcome::Failed {
        blame: Blame::Batch,
        code: "Final".to_owned(),
        message: "it crashed".to_owned(),
    };
    assert_eq!(bench.outcome(0, failed()), [Invoke(1, vec![0], 1)]);
    let said = bench.outcome(1, failed());
    assert_eq!(said[..1], [Dead(0, 1, "Final".to_owned())]);
    assert!(said.contains(&Invoke(2, vec![1], 1)), "{said:?}");
}

#[test]
fn without_bisection_a_batch_is_tried_again_as_a_batch() {
    let mut config = config(Order::None);
    config.retry.bisect = false;
    let mut bench = Bench::new(config);
    assert_eq!(bench.fetched(0, &["a", "b", "-", "c"]), [Invoke(0, vec![0, 1, 2, 3], 1)]);
    assert_eq!(bench.outcome(0, failed(Blame::Batch)), []);
    assert_eq!(bench.wait(), [Invoke(1, vec![0, 1, 2, 3], 2)]);
}

#[test]
fn whoever_asks_is_told_how_a_record_stands() {
    let mut bench = Bench::new(config(Order::Key));
    assert_eq!(bench.fetched(0, &["a", "a", "b"]), [Invoke(0, vec![0, 1, 2], 1)]);
    let of = |bench: &Bench, offset| bench.core.standing(0, Offset(offset));
    let running = |id, attempt| Standing::Running { id: InvocationId(id), attempt };
    assert_eq!((of(&bench, 1), of(&bench, 3)), (running(0, 1), Standing::NotRead));
    bench.outcome(0, ended(&[(0, fail("E")), (1, End::NotRun)]));
    let failure = Some(("E".to_owned(), "said the function".to_owned()));
    let Standing::Retrying { attempts: 1, due_at: Some(_), failure: told } = of(&bench, 0) else {
        panic!("{:?}", of(&bench, 0));
    };
    assert_eq!((told, of(&bench, 1)), (failure, Standing::Held { attempts: 0 }));
    assert_eq!(of(&bench, 2), Standing::Settled, "by the commit in flight");
    bench.committed(0);
    assert_eq!(of(&bench, 2), Standing::Settled, "and after it");
    bench.wait();
    assert_eq!(of(&bench, 0), running(1, 2));
    bench.outcome(1, Outcome::ok(0));
    bench.committed(1);
    assert_eq!(of(&bench, 0), Standing::Settled);
}
