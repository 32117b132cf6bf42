//! What the embedded bus does when disks fail, fill and lie, and that it keeps the rules of the
//! trait on a real directory and on a simulated disk.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use super::*;
use crate::conformance::{self, Capabilities, Stage};

/// The journal keeps whatever it is given.
const CAPABILITIES: Capabilities = Capabilities {
    commits_are_atomic: true,
    timestamps: i64::MIN..=i64::MAX,
    zero_bytes_in_names: true,
    fetches_ahead: false,
};

/// Directories of one test, each with its bus.
#[derive(Debug, Default)]
struct Directories {
    dirs: Mutex<VecDeque<tempfile::TempDir>>,
}

fn small(dir: &Path) -> EmbeddedConfig {
    let mut config = EmbeddedConfig::new(dir);
    // So small that most reads are cold.
    config.cache_bytes = 4 << 10;
    config
}

#[async_trait]
impl Stage for Directories {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn empty(&self) -> Arc<dyn Bus> {
        let dir = tempfile::tempdir().unwrap();
        let bus = Embedded::open(small(dir.path()), None).unwrap();
        self.dirs.lock().unwrap().push_back(dir);
        bus
    }

    async fn reopen(&self, bus: Arc<dyn Bus>) -> Arc<dyn Bus> {
        drop(bus);
        let config = small(self.dirs.lock().unwrap().back().unwrap().path());
        let bus = Embedded::open(config, None).unwrap();
        bus.apply_retention(Timestamp::now()).await.unwrap();
        bus
    }
}

#[tokio::test]
async fn the_embedded_bus_keeps_the_rules() {
    assert!(20 < conformance::check(&Directories::default()).await);
}

/// A simulated disk whose process ends without a word.
#[derive(Debug, Default)]
struct Disks {
    newest: Mutex<SimDisk>,
}

fn on(disk: &SimDisk) -> Arc<Embedded> {
    let (mut config, disk) = (EmbeddedConfig::new("/simulated"), disk.clone());
    config.space = Arc::new(|| None);
    Embedded::open_on(config, move || Box::new(disk.clone()), None).unwrap()
}

#[async_trait]
impl Stage for Disks {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn empty(&self) -> Arc<dyn Bus> {
        let disk = SimDisk::default();
        *self.newest.lock().unwrap() = disk.clone();
        on(&disk)
    }

    async fn reopen(&self, bus: Arc<dyn Bus>) -> Arc<dyn Bus> {
        // The image of a killed process: what it wrote, without the words of a clean end.
        let killed = SimDisk::with_image(self.newest.lock().unwrap().image());
        drop(bus);
        *self.newest.lock().unwrap() = killed.clone();
        on(&killed)
    }
}

#[tokio::test]
async fn it_keeps_the_rules_when_its_process_is_killed() {
    assert!(20 < conformance::check(&Disks::default()).await);
}

#[derive(Debug, Default)]
struct Faults {
    /// Writes that still succeed; then they find no room.
    writes_left: AtomicUsize,
    is_full: AtomicBool,
    fails_sync: AtomicBool,
}

/// A disk that fills and fails when told to.
#[derive(Clone, Debug)]
struct FaultyDisk {
    disk: SimDisk,
    faults: Arc<Faults>,
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.faults.fails_sync.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.faults.is_full.load(Ordering::Relaxed) {
            let took = |left: usize| left.checked_sub(1);
            let left = &self.faults.writes_left;
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, took).is_err() {
                // The header is in a block of its own, which is there already.
                if offset != 0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
        }
        self.disk.write(offset, data)
    }
}

fn faulty() -> (Arc<Embedded>, Arc<Faults>, Arc<AtomicU64>) {
    let faults = Arc::new(Faults::default());
    let disk = FaultyDisk { disk: SimDisk::default(), faults: Arc::clone(&faults) };
    let fatal = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&fatal);
    let mut config = EmbeddedConfig::new("/simulated");
    config.space = Arc::new(|| None);
    config.on_fatal = Arc::new(move |_reason| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let bus = Embedded::open_on(config, move || Box::new(disk.clone()), None).unwrap();
    (bus, faults, fatal)
}

#[tokio::test]
async fn a_write_that_finds_no_room_is_refused_whole_and_the_bus_goes_on() {
    for writes_left in 0..12 {
        let (bus, faults, fatal) = faulty();
        bus.create_topic(TopicSpec::new("in", 1)).await.unwrap();
        bus.append(vec![to("in", 0, &["a"])]).await.unwrap();
        bus.recover(ShardId(1), Epoch(1)).await.unwrap();
        faults.writes_left.store(writes_left, Ordering::Relaxed);
        faults.is_full.store(true, Ordering::Relaxed);
        let first = bus.commit(commit(2, vec![to("in", 0, &["b"])], 1)).await;
        faults.is_full.store(false, Ordering::Relaxed);
        let end = bus.watermarks(&TopicPartition::new("in", 0)).await.unwrap().end;
        match first {
            Ok(_) => assert_eq!(end, Offset(2)),
            Err(Error::DiskFull { .. }) => {
                assert_eq!(end, Offset(1));
                // The fence of the refused commit is not in force either.
                bus.commit(commit(1, vec![to("in", 0, &["b"])], 1)).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(values(&bus, "in", 0, 2).await, ["a", "b"]);
        assert_eq!(fatal.load(Ordering::Relaxed), 0);
        bus.close().await;
    }
}

#[tokio::test]
async fn a_failed_sync_ends_the_process_even_when_it_says_that_the_disk_is_full() {
    let (bus, faults, fatal) = faulty();
    bus.create_topic(TopicSpec::new("in", 1)).await.unwrap();
    faults.fails_sync.store(true, Ordering::Relaxed);
    let refused = bus.append(vec![to("in", 0, &["a"])]).await;
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    faults.fails_sync.store(false, Ordering::Relaxed);
    let refused = bus.append(vec![to("in", 0, &["a"])]).await;
    assert!(matches!(refused, Err(Error::Closed)), "no sync is tried again: {refused:?}");
    assert_eq!(fatal.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_journal_that_lost_its_newest_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, kept) = (dir.path().join("journal.redb"), dir.path().join("kept"));
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    bus.create_topic(TopicSpec::new("in", 1)).await.unwrap();
    bus.close().await;
    std::fs::copy(&journal, &kept).unwrap();
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    bus.append(vec![to("in", 0, &["a"])]).await.unwrap();
    bus.append(vec![to("in", 0, &["b"])]).await.unwrap();
    bus.close().await;
    std::fs::rename(&kept, &journal).unwrap();
    let opened = Embedded::open(EmbeddedConfig::new(dir.path()), None);
    let Err(Error::Corrupt(reason)) = opened else { panic!("{opened:?}") };
    assert!(reason.contains("2 writes are missing"), "{reason}");
    std::fs::remove_file(&journal).unwrap();
    let opened = Embedded::open(EmbeddedConfig::new(dir.path()), None);
    assert!(matches!(&opened, Err(Error::Corrupt(_))), "a journal that is gone: {opened:?}");
}

#[tokio::test]
async fn a_truncated_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    bus.create_topic(TopicSpec::new("in", 1)).await.unwrap();
    for _batch in 0..20 {
        bus.append(vec![to("in", 0, &[&"x".repeat(50_000)])]).await.unwrap();
    }
    bus.close().await;
    let journal = dir.path().join("journal.redb");
    let whole = std::fs::read(&journal).unwrap();
    for length in [0, 1, 320, 4096, whole.len() / 2, whole.len() - 4096] {
        std::fs::write(&journal, &whole[..length]).unwrap();
        let opened = Embedded::open(EmbeddedConfig::new(dir.path()), None);
        assert!(matches!(&opened, Err(Error::Corrupt(_))), "{length} bytes: {opened:?}");
    }
    std::fs::write(&journal, &whole).unwrap();
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    assert_eq!(values(&bus, "in", 0, 20).await.len(), 20);
}

/// Whatever byte rots: the journal is refused, or the read is, or nothing of what it says is
/// wrong. Never a wrong record, never a panic.
#[tokio::test]
async fn no_flipped_byte_is_served() {
    let disk = SimDisk::default();
    let bus = on(&disk);
    bus.create_topic(TopicSpec::new("in", 2)).await.unwrap();
    let texts: Vec<String> = (0..30).map(|number: u32| number.to_string().repeat(60)).collect();
    for text in &texts {
        bus.append(vec![to("in", 0, &[text])]).await.unwrap();
    }
    bus.recover(ShardId(1), Epoch(3)).await.unwrap();
    bus.commit(commit(3, vec![], 7)).await.unwrap();
    bus.close().await;
    drop(bus);
    let whole = disk.image();
    let (mut refused, mut unread, mut harmless) = (0, 0, 0);
    for at in (0..whole.len()).step_by(whole.len() / 600) {
        if whole[at..].iter().take(64).all(|byte| *byte == 0) {
            continue;
        }
        let mut image = whole.clone();
        image[at] ^= 0x10;
        let (mut config, flipped) = (EmbeddedConfig::new("/simulated"), SimDisk::with_image(image));
        config.space = Arc::new(|| None);
        let bus = match Embedded::open_on(config, move || Box::new(flipped.clone()), None) {
            Ok(bus) => bus,
            Err(Error::Corrupt(_)) => {
                refused += 1;
                continue;
            }
            Err(other) => panic!("byte {at}: {other:?}"),
        };
        let marks = bus.watermarks(&TopicPartition::new("in", 0)).await.unwrap();
        assert_eq!((marks.start, marks.end), (Offset(0), Offset(30)), "byte {at}");
        let position = &bus.recover(ShardId(1), Epoch(3)).await.unwrap().positions[0].1;
        assert_eq!((position.epoch, position.next), (Epoch(3), Offset(7)), "byte {at}");
        let assigned = vec![(TopicPartition::new("in", 0), Offset(0))];
        let mut reader = bus.reader(assigned).await.unwrap();
        let mut found = Vec::new();
        while found.len() < texts.len() {
            match reader.fetch(1 << 20).await {
                Ok(fetched) => {
                    for record in fetched.iter().flat_map(|it| it.batch.iter()) {
                        found.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                    }
                }
                Err(Error::Corrupt(_)) => break,
                Err(other) => panic!("byte {at}: {other:?}"),
            }
        }
        assert_eq!(found[..], texts[..found.len()], "byte {at}");
        if found.len() < texts.len() {
            unread += 1
        } else {
            harmless += 1
        }
        drop(bus);
    }
    assert!(0 < refused && 0 < unread, "{refused} refused, {unread} unread, {harmless} harmless");
}

#[tokio::test]
async fn retention_waits_for_the_position_that_needs_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    let mut spec = TopicSpec::new("in", 1);
    spec.retention.bytes = Some(1000);
    bus.create_topic(spec).await.unwrap();
    for number in 0..20 {
        bus.append(vec![to("in", 0, &[&number.to_string().repeat(150)])]).await.unwrap();
    }
    let place = TopicPartition::new("in", 0);
    bus.commit(commit(1, vec![], 4)).await.unwrap();
    bus.apply_retention(Timestamp(0)).await.unwrap();
    assert_eq!(bus.watermarks(&place).await.unwrap().start, Offset(4), "held back");
    bus.commit(commit(1, vec![], 20)).await.unwrap();
    bus.apply_retention(Timestamp(0)).await.unwrap();
    let marks = bus.watermarks(&place).await.unwrap();
    assert!(Offset(4) < marks.start && 1000 <= marks.bytes && marks.bytes < 1500, "{marks:?}");
    let mut late = bus.reader(vec![(place.clone(), Offset(3))]).await.unwrap();
    let expired = late.fetch(1).await;
    assert!(matches!(expired, Err(Error::OffsetOutOfRange { .. })), "{expired:?}");
    bus.close().await;
    drop(bus);
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    assert_eq!(bus.watermarks(&place).await.unwrap(), marks, "after a restart");
    assert_eq!(bus.append(vec![to("in", 0, &["z"])]).await.unwrap()[0].base, Offset(20));
}

#[tokio::test]
async fn the_end_stays_when_retention_took_everything() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    let mut spec = TopicSpec::new("in", 1);
    spec.retention.age = Some(std::time::Duration::from_millis(10));
    bus.create_topic(spec).await.unwrap();
    bus.append(vec![to("in", 0, &["a", "b"])]).await.unwrap();
    bus.apply_retention(Timestamp(1000)).await.unwrap();
    let place = TopicPartition::new("in", 0);
    let empty = Watermarks { start: Offset(2), end: Offset(2), bytes: 0 };
    assert_eq!(bus.watermarks(&place).await.unwrap(), empty);
    bus.close().await;
    drop(bus);
    let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
    assert_eq!(bus.watermarks(&place).await.unwrap(), empty);
    bus.append(vec![to("in", 0, &["c"])]).await.unwrap();
    assert_eq!(values(&bus, "in", 2, 1).await, ["c"]);
}

#[tokio::test]
async fn a_queue_that_stays_full_makes_sources_busy() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = EmbeddedConfig::new(dir.path());
    config.queue_bytes_max = 4096;
    config.busy_after = std::time::Duration::from_millis(10);
    let bus = Embedded::open(config, None).unwrap();
    bus.create_topic(TopicSpec::new("in", 1)).await.unwrap();
    let held = Arc::clone(&bus.room).acquire_many_owned(4096).await.unwrap();
    let busy = bus.append(vec![to("in", 0, &["a"])]).await;
    assert!(matches!(busy, Err(Error::Busy)), "{busy:?}");
    drop(held);
    bus.append(vec![to("in", 0, &["a"])]).await.unwrap();
    let large = "x".repeat(10_000);
    bus.append(vec![to("in", 0, &[&large])]).await.expect("larger than the queue, alone in it");
}
