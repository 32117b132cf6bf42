//! Records that failed alone and as a whole are tried among themselves, and one by one.

use super::*;

/// What failed alone as a whole is never tried beside what has not failed.
#[test]
fn a_risky_record_is_tried_again_without_new_records() {
    let mut config = config(Order::Key);
    config.retry.attempts_max = NonZeroU32::new(3).unwrap();
    let mut bench = Bench::new(config);
    assert_eq!(bench.fetched(0, &["a"]), [Invoke(0, vec![0], 1)]);
    assert_eq!(bench.outcome(0, failed(Blame::Batch)), []);
    assert_eq!(bench.fetched(1, &["-"]), [Invoke(1, vec![1], 1)]);
    assert_eq!(bench.fetched(2, &["-", "-"]), []);
    assert_eq!(bench.wait(), [], "it is due, and the one invocation runs");
    let said = bench.outcome(1, Outcome::ok(0));
    assert!(said.contains(&Invoke(2, vec![0], 2)), "alone: {said:?}");
    let said = bench.outcome(2, ended(&[(0, fail("Test.No"))]));
    assert!(said.contains(&Invoke(3, vec![2, 3], 1)), "{said:?}");
    bench.wait();
    bench.fetched(4, &["-"]);
    let said = bench.outcome(3, Outcome::ok(0));
    assert!(said.contains(&Invoke(4, vec![0, 4], 3)), "its last failure named it: {said:?}");
}

/// Halving a batch of bad ones costs each of them more than to run alone.
#[test]
fn risky_records_are_tried_one_by_one_until_that_goes_well() {
    let mut config = config(Order::Key);
    config.retry.attempts_max = NonZeroU32::new(3).unwrap();
    let mut bench = Bench::new(config);
    assert_eq!(bench.fetched(0, &["-", "-", "-", "-"]).len(), 1);
    for id in 0..=6 {
        bench.outcome(id, failed(Blame::Batch));
    }
    let tried = |said: &[Said], id| {
        let ran = said.iter().find(|it| matches!(it, Invoke(other, ..) if *other == id));
        ran.map(|it| matches!(it, Invoke(_, records, 2) if records.len() == 1))
    };
    let said = bench.wait();
    assert_eq!(tried(&said, 7), Some(true), "{said:?}");
    // The others are due, too.
    bench.now += Duration::from_secs(60);
    bench.core.on_timeout(bench.now);
    assert_eq!(bench.said(), []);
    let said = bench.outcome(7, failed(Blame::Batch));
    assert_eq!(tried(&said, 8), Some(true), "as it failed again: {said:?}");
    let said = bench.outcome(8, Outcome::ok(0));
    assert!(said.iter().any(|it| matches!(it, Invoke(9, records, _) if records.len() == 2)));
}
