//! What every [`PositionLog`] must pass. One private function per rule; each starts from an empty
//! place and may close the log and open it again there. The last rule compares any sequence of
//! calls with the simplest model, [`MemoryPositions`].

#![expect(clippy::unwrap_used, reason = "a failed rule is a failed test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bus::{
    Completions, Epoch, Offset, Position, PositionKey, PositionLog, ShardId, TopicPartition,
};

/// Positions in memory: the model of every other implementation. Clones share the rows.
#[derive(Clone, Debug, Default)]
pub struct MemoryPositions(Arc<Mutex<BTreeMap<PositionKey, Position>>>);

impl PositionLog for MemoryPositions {
    fn record(
        &self,
        moves: &[(PositionKey, Position)],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut rows = self.0.lock().unwrap();
        for (key, position) in moves {
            let moves_back = rows
                .get(key)
                .is_some_and(|row| (position.epoch, position.next) < (row.epoch, row.next));
            if !moves_back {
                rows.insert(key.clone(), position.clone());
            }
        }
        Ok(())
    }

    fn load(
        &self,
    ) -> Result<Vec<(PositionKey, Position)>, Box<dyn std::error::Error + Send + Sync>> {
        let rows = self.0.lock().unwrap();
        Ok(rows.iter().map(|(key, position)| (key.clone(), position.clone())).collect())
    }

    fn clear(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.lock().unwrap().clear();
        Ok(())
    }
}

/// Checks the rules written on [`PositionLog`].
///
/// `place` makes an empty place (a directory, a simulated disk); `open` opens a log there.
///
/// # Panics
///
/// On the first rule that does not hold.
pub fn position_log<P, L: PositionLog>(place: impl Fn() -> P, open: impl Fn(&P) -> L) {
    an_empty_place_has_no_rows(&open(&place()));
    a_call_is_there_after_a_restart(&place(), &open);
    a_row_never_moves_back_within_its_epoch(&open(&place()));
    a_new_epoch_may_start_earlier_and_an_old_one_changes_nothing(&open(&place()));
    of_one_call_the_last_row_that_moves_on_counts(&open(&place()));
    shards_topics_and_partitions_are_rows_of_their_own(&place(), &open);
    completion_maps_grow_and_shrink(&place(), &open);
    clear_drops_every_row_for_good(&place(), &open);
    calls_from_many_threads_all_count(&place(), &open);
    any_sequence_agrees_with_the_model(&place(), &open);
}

fn an_empty_place_has_no_rows(log: &impl PositionLog) {
    assert_eq!(log.load().unwrap(), []);
    log.record(&[]).unwrap();
    assert_eq!(log.load().unwrap(), []);
}

fn a_call_is_there_after_a_restart<P, L: PositionLog>(place: &P, open: &impl Fn(&P) -> L) {
    let log = open(place);
    log.record(&[(orders(0), at(1, 10)), (orders(1), at(1, 3))]).unwrap();
    assert_eq!(sorted(&log), [(orders(0), at(1, 10)), (orders(1), at(1, 3))]);
    drop(log);
    let log = open(place);
    assert_eq!(sorted(&log), [(orders(0), at(1, 10)), (orders(1), at(1, 3))]);
    log.record(&[(orders(1), at(1, 4))]).unwrap();
    drop(log);
    assert_eq!(sorted(&open(place)), [(orders(0), at(1, 10)), (orders(1), at(1, 4))]);
}

fn a_row_never_moves_back_within_its_epoch(log: &impl PositionLog) {
    log.record(&[(orders(0), at(1, 10))]).unwrap();
    log.record(&[(orders(0), at(1, 7)), (orders(1), at(1, 2))]).unwrap();
    assert_eq!(sorted(log), [(orders(0), at(1, 10)), (orders(1), at(1, 2))], "only the row stays");
}

fn a_new_epoch_may_start_earlier_and_an_old_one_changes_nothing(log: &impl PositionLog) {
    log.record(&[(orders(0), at(5, 10))]).unwrap();
    log.record(&[(orders(0), at(6, 7))]).unwrap();
    assert_eq!(sorted(log), [(orders(0), at(6, 7))], "a replay starts earlier");
    log.record(&[(orders(0), at(5, 11))]).unwrap();
    assert_eq!(sorted(log), [(orders(0), at(6, 7))], "an epoch never decreases");
}

fn of_one_call_the_last_row_that_moves_on_counts(log: &impl PositionLog) {
    log.record(&[(orders(0), at(1, 3)), (orders(0), at(1, 9)), (orders(0), at(1, 4))]).unwrap();
    assert_eq!(sorted(log), [(orders(0), at(1, 9))]);
}

fn shards_topics_and_partitions_are_rows_of_their_own<P, L: PositionLog>(
    place: &P,
    open: &impl Fn(&P) -> L,
) {
    let mut rows: Vec<(PositionKey, Position)> = Vec::new();
    for (shard, topic, partition) in
        [(1, "a", 0), (1, "a", 1), (1, "ab", 0), (2, "a", 0), (1, "b", 1024), (u64::MAX, "a.b", 7)]
    {
        let partition = TopicPartition::new(topic, partition);
        let key = PositionKey { shard: ShardId(shard), partition };
        rows.push((key, at(1, i64::try_from(rows.len()).unwrap())));
    }
    let log = open(place);
    log.record(&rows).unwrap();
    drop(log);
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(sorted(&open(place)), rows);
}

fn completion_maps_grow_and_shrink<P, L: PositionLog>(place: &P, open: &impl Fn(&P) -> L) {
    for (next, count) in [(0, 20_000), (1, 3), (2, 6_000), (3, 2_000), (4, 0)] {
        let ranges = (0..count).map(|i| (Offset(100 + 2 * i), Offset(101 + 2 * i)));
        let completions = Completions::from_ranges(ranges);
        let position =
            Position { epoch: Epoch(1), next: Offset(next), completions, suspects: None };
        let log = open(place);
        log.record(&[(orders(0), position.clone()), (orders(1), at(1, next))]).unwrap();
        drop(log);
        let rows = [(orders(0), position), (orders(1), at(1, next))];
        assert!(sorted(&open(place)) == rows, "{count} ranges");
    }
}

fn clear_drops_every_row_for_good<P, L: PositionLog>(place: &P, open: &impl Fn(&P) -> L) {
    let log = open(place);
    log.record(&[(orders(0), at(3, 10)), (orders(1), at(3, 10))]).unwrap();
    log.clear().unwrap();
    assert_eq!(log.load().unwrap(), []);
    log.record(&[(orders(1), at(1, 1))]).unwrap();
    drop(log);
    assert_eq!(sorted(&open(place)), [(orders(1), at(1, 1))], "nor does it remember epochs");
}

fn calls_from_many_threads_all_count<P, L: PositionLog>(place: &P, open: &impl Fn(&P) -> L) {
    let log = open(place);
    std::thread::scope(|scope| {
        for partition in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for next in 1..=20 {
                    log.record(&[(orders(partition), at(1, next))]).unwrap();
                }
            });
        }
    });
    drop(log);
    let rows: Vec<_> = (0..8).map(|partition| (orders(partition), at(1, 20))).collect();
    assert_eq!(sorted(&open(place)), rows);
}

fn any_sequence_agrees_with_the_model<P, L: PositionLog>(place: &P, open: &impl Fn(&P) -> L) {
    let model = MemoryPositions::default();
    let mut log = open(place);
    let mut numbers = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        numbers ^= numbers << 13;
        numbers ^= numbers >> 7;
        numbers ^= numbers << 17;
        numbers % below
    };
    for step in 0..200 {
        match draw(40) {
            0 => {
                log.clear().unwrap();
                model.clear().unwrap();
            }
            1 | 2 => {
                drop(log);
                log = open(place);
            }
            _ => {
                let moves: Vec<_> = (0..draw(6))
                    .map(|_| {
                        let key = orders(i32::try_from(draw(5)).unwrap());
                        let next = i64::try_from(draw(1_000)).unwrap();
                        (key, at(draw(4), next))
                    })
                    .collect();
                log.record(&moves).unwrap();
                model.record(&moves).unwrap();
            }
        }
        assert_eq!(sorted(&log), model.load().unwrap(), "step {step}");
    }
}

fn sorted(log: &impl PositionLog) -> Vec<(PositionKey, Position)> {
    let mut rows = log.load().unwrap();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn orders(partition: i32) -> PositionKey {
    PositionKey { shard: ShardId(1), partition: TopicPartition::new("orders", partition) }
}

fn at(epoch: u64, next: i64) -> Position {
    let completions = Completions::from_ranges([(Offset(next + 2), Offset(next + 5))]);
    Position { epoch: Epoch(epoch), next: Offset(next), completions, suspects: None }
}
