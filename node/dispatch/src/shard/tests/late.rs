//! What is tried late waits in the park topic.

use super::*;

/// A long pause leaves nothing in memory, the position moves on, and the key keeps its order.
#[test]
fn a_record_that_is_tried_late_waits_in_the_park_topic() {
    let mut config = config(Order::Key);
    config.park = Some(crate::ParkLimits::default());
    config.retry.pauses = vec![endings::LATE];
    let mut bench = Bench::new(config);
    assert_eq!(bench.fetched(0, &["a", "-"]), [Invoke(0, vec![0, 1], 1)]);
    let failed_at = bench.now;
    let said = bench.outcome(0, ended(&[(0, fail("Test.No")), (1, fail("Test.No"))]));
    assert_eq!(said, [Park(1, 1), Commit(0, 1, 0, vec![(1, 2)]), Park(0, 1)]);
    assert_eq!(bench.committed(0), [Commit(1, 1, 2, vec![])]);
    assert_eq!(bench.committed(1), []);
    assert_eq!((bench.core.open_records(), bench.core.parked_records()), (0, 2));
    let said = bench.fetched(2, &["a", "b"]);
    assert!(said.contains(&Invoke(1, vec![3], 1)) && said.contains(&Park(2, 0)), "{said:?}");
    bench.outcome(1, Outcome::ok(0));
    let said = bench.wait();
    assert!(said == [Load(vec![0])] || said == [Load(vec![1])], "the first that is due: {said:?}");
    assert!(failed_at + endings::LATE <= bench.now, "no sooner");
}
