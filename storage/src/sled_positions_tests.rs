//! Tests of the store on sled: the suite, what is done about damage, and the rewrite.

use std::fs;
use std::time::Instant;

use bus::{Completions, Epoch, Offset, ShardId, TopicPartition};

use super::*;
use crate::conformance;

fn open(dir: &Path) -> SledPositions {
    let opened = SledPositions::open(dir).unwrap();
    assert!(opened.quarantined.is_none(), "{:?}", opened.damage);
    opened.store
}

fn key(shard: u64) -> PositionKey {
    PositionKey { shard: ShardId(shard), partition: TopicPartition::new("orders", 0) }
}

fn at(epoch: u64, next: i64) -> Position {
    Position { epoch: Epoch(epoch), next: Offset(next), ..Position::default() }
}

fn rows(count: u64) -> Vec<(PositionKey, Position)> {
    (0..count).map(|shard| (key(shard), at(1, 7))).collect()
}

/// The log of the one generation that is there.
fn log_of(dir: &Path) -> PathBuf {
    let (complete, _) = generation::newest(dir).unwrap();
    dir.join(format!("g-{}", complete.unwrap())).join("db")
}

#[test]
fn sled_keeps_every_rule_of_the_trait() {
    conformance::position_log(
        || tempfile::tempdir().unwrap(),
        |dir| open(&dir.path().join("sled")),
    );
}

#[test]
fn the_model_keeps_every_rule_of_the_trait() {
    let place = conformance::MemoryPositions::default;
    conformance::position_log(place, conformance::MemoryPositions::clone);
}

#[test]
fn a_log_that_is_not_one_is_moved_aside_and_the_caller_told() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("sled");
    for n in 1..4 {
        let store = open(&dir);
        store.record(&rows(100)).unwrap();
        drop(store);
        let log = log_of(&dir);
        let garbage = vec![0xa5; usize::try_from(fs::metadata(&log).unwrap().len()).unwrap()];
        fs::write(&log, garbage).unwrap();
        fs::write(log.with_file_name("conf"), b"garbage").unwrap();

        let opened = SledPositions::open(&dir).unwrap();
        let aside = place.path().join(format!("sled.quarantined-{n}"));
        assert_eq!(opened.quarantined.as_deref(), Some(aside.as_path()));
        assert!(opened.damage.is_some_and(|damage| damage.is_damage()));
        assert!(aside.join("lock").exists());
        assert_eq!(opened.store.load().unwrap(), []);
        opened.store.record(&rows(3)).unwrap();
        drop(opened.store);
        assert_eq!(open(&dir).load().unwrap(), rows(3));
    }
}

/// STA-3: a flipped byte anywhere, or a file cut short, is found or harmless: each row is one
/// that was written, or the directory is moved aside. It never panics and never hangs.
#[test]
fn damage_is_found_or_harmless() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("sled");
    let store = open(&dir);
    for next in 1..40 {
        let moves: Vec<_> = (0..20).map(|shard| (key(shard), at(1, next))).collect();
        store.record(&moves).unwrap();
    }
    drop(store);
    let (log, conf) = (log_of(&dir), log_of(&dir).with_file_name("conf"));
    let (log_bytes, conf_bytes) = (fs::read(&log).unwrap(), fs::read(&conf).unwrap());
    let mut quarantined = 0;
    for step in 0..60 {
        // A copy of the whole, so that each step starts from the same generation.
        let there = place.path().join(format!("step-{step}"));
        let generation = there.join("g-1");
        fs::create_dir_all(&generation).unwrap();
        fs::write(generation.join("complete"), b"").unwrap();
        let (mut db, mut settings) = (log_bytes.clone(), conf_bytes.clone());
        let at = step * 7_919 * 31 % db.len();
        match step % 4 {
            0 => db.truncate(at),
            1 => settings[step % conf_bytes.len()] ^= 0x10,
            2 => db[at..].iter_mut().take(512).for_each(|byte| *byte = 0),
            _ => db[at] ^= 1 << (step % 8),
        }
        fs::write(generation.join("db"), db).unwrap();
        fs::write(generation.join("conf"), settings).unwrap();

        let opened = SledPositions::open(&there).unwrap();
        quarantined += u32::from(opened.quarantined.is_some());
        for (key, position) in opened.store.load().unwrap() {
            assert!(key.shard.0 < 20 && position.epoch == Epoch(1), "{key}: {position:?}");
            assert!((1..40).contains(&position.next.0), "{key}: {position:?}");
        }
    }
    assert!(quarantined > 0, "no step did damage");
}

#[test]
fn what_a_crash_left_behind_is_removed_at_open() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("sled");
    let store = open(&dir);
    store.record(&rows(10)).unwrap();
    drop(store);
    let whole = log_of(&dir);
    // A generation without its mark, a copy, and a torn snapshot in the whole one.
    let torn = dir.join("g-77");
    fs::create_dir(&torn).unwrap();
    fs::write(torn.join("db"), b"half").unwrap();
    fs::create_dir(dir.join("copy-77")).unwrap();
    fs::write(whole.with_file_name("snap.0000000000000400.generating"), b"torn").unwrap();

    assert_eq!(open(&dir).load().unwrap(), rows(10));
    let mut names: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["g-78", "lock"]);
}

#[test]
fn a_long_log_is_rewritten_and_stays_within_bounds() {
    let place = tempfile::tempdir().unwrap();
    let store = open(&place.path().join("sled"));
    let started_at = Instant::now();
    let mut longest = 0;
    let (mut last, mut rewrites) = (0, 0);
    for next in 0..400 {
        let ranges = (0..300).map(|i| (Offset(next + 10 + 2 * i), Offset(next + 11 + 2 * i)));
        let completions = Completions::from_ranges(ranges);
        let position =
            Position { epoch: Epoch(1), next: Offset(next), completions, suspects: None };
        let moves: Vec<_> = (0..16).map(|shard| (key(shard), position.clone())).collect();
        store.record(&moves).unwrap();
        rewrites += u32::from(store.log_bytes() < last);
        last = store.log_bytes();
        longest = longest.max(last);
    }
    assert!(rewrites >= 2, "{rewrites} rewrites, longest {longest}, {:?}", started_at.elapsed());
    assert!(longest < 2 * LOG_BYTES_KEPT, "{longest}");
    drop(store);
    let store = open(&place.path().join("sled"));
    assert!(store.load().unwrap().iter().all(|(_, position)| position.next == Offset(399)));
    assert_eq!(store.load().unwrap().len(), 16);
}

#[test]
fn a_store_that_broke_heals_from_memory() {
    let place = tempfile::tempdir().unwrap();
    let store = open(&place.path().join("sled"));
    store.record(&rows(10)).unwrap();
    locked(&store.store).is_broken = true;
    store.record(&[(key(3), at(1, 9))]).unwrap();
    let expected: Vec<_> =
        (0..10).map(|shard| (key(shard), at(1, if shard == 3 { 9 } else { 7 }))).collect();
    assert_eq!(store.load().unwrap(), expected);
    drop(store);
    assert_eq!(open(&place.path().join("sled")).load().unwrap(), expected);
}

#[test]
fn a_failed_sync_is_fatal_and_nothing_is_written_after_it() {
    let place = tempfile::tempdir().unwrap();
    let store = open(&place.path().join("sled"));
    let source = Arc::new(std::io::Error::other("no disk"));
    locked(&store.store).note(&Error::Sync { path: place.path().to_owned(), source });
    let error = PositionLog::record(&store, &rows(1)).unwrap_err();
    assert!(crate::is_fatal(&*error), "{error}");
    assert!(store.clear().is_err_and(|error| error.is_fatal()));
    assert_eq!(store.load().unwrap(), []);
}

#[test]
fn a_second_handle_waits_for_the_first() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("sled");
    let first = open(&dir);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| open(&dir).load().unwrap());
        first.record(&rows(5)).unwrap();
        drop(first);
        assert_eq!(second.join().unwrap(), rows(5));
    });
}
