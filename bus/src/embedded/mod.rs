//! The bus of one node: partitioned topics in a durable journal, without a broker.
//!
//! ```text
//! append, commit ─▶ writer thread ─▶ one synced write ─▶ ends move ─▶ readers wake
//!                   (group commit)    (journal.redb)        └─▶ position log follows
//! ```
//!
//! One thread writes. It takes everything that waits, checks it against what is durable and what
//! goes before it, writes it in one transaction, and only then moves the partitions' ends and
//! answers. A reader sees nothing that a power cut could take back.

mod backend;
mod compaction;
mod config;
#[cfg(any(test, feature = "testing"))]
mod crash_model;
#[cfg(any(test, feature = "testing"))]
mod crash_points;
mod disk;
mod follower;
mod lock;
mod mark;
mod plan;
mod queue;
mod reader;
mod retention;
mod rows;
#[cfg(any(test, feature = "testing"))]
mod sim_disk;
mod state;
mod store;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use redb::StorageBackend;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use config::{EmbeddedConfig, FatalHook, Space, SpaceProbe};
#[cfg(any(test, feature = "testing"))]
pub use crash_points::{Broken, Report, crash_points_journal};
#[cfg(any(test, feature = "testing"))]
pub use sim_disk::{SimDisk, SyncKind};

use crate::{
    Append, Appended, Bus, Commit, Epoch, Error, Offset, Position, PositionKey, PositionLog,
    Reader, Recovered, ShardId, Start, Timestamp, TopicInfo, TopicPartition, TopicSpec, Watermarks,
    limits, metrics as names,
};
use backend::SyncGuard;
use follower::Follower;
use mark::Mark;
use queue::{Op, Outcome, Pending, Queue};
use state::{Partition, Shared};
use store::{BackendFn, Store};
use writer::{Parts, Writer};

/// The embedded bus. See the [module documentation](self).
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    config: EmbeddedConfig,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the bus in `config.dir`, making it if there is none. `positions` follows what is
    /// committed, and is rebuilt if it is behind, damaged or impossible. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`], [`Error::Corrupt`], [`Error::Io`].
    pub fn open(
        config: EmbeddedConfig,
        positions: Option<Arc<dyn PositionLog>>,
    ) -> Result<Arc<Self>, Error> {
        std::fs::create_dir_all(&config.dir).map_err(|source| Error::Io {
            action: format!("make {}", config.dir.display()),
            source,
        })?;
        let lock = lock::take(&config.dir)?;
        let path = config.dir.join("journal.redb");
        let (mark, newest) = Mark::open(&config.dir.join("journal.mark"))?;
        if !path.exists() {
            if let Some(newest) = newest {
                let lost = format!("journal.redb is missing, which held {newest} writes");
                return Err(Error::Corrupt(lost));
            }
            make_journal(&config, &path)?;
        }
        let opened = path.clone();
        let files = Files { lock: Some(lock), mark: Some(mark), path: Some(path) };
        Self::start(config, Box::new(move || file_backend(&opened)), positions, files, newest)
    }

    /// Opens the bus over storage that `backend` gives, at the start and again after an I/O
    /// error: for simulated disks.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`], [`Error::Io`].
    #[cfg(any(test, feature = "testing"))]
    pub fn open_on(
        config: EmbeddedConfig,
        backend: impl Fn() -> Box<dyn StorageBackend> + Send + Sync + 'static,
        positions: Option<Arc<dyn PositionLog>>,
    ) -> Result<Arc<Self>, Error> {
        let files = Files { lock: None, mark: None, path: None };
        Self::start(config, Box::new(move || Ok(backend())), positions, files, None)
    }

    fn start(
        config: EmbeddedConfig,
        backend: BackendFn,
        positions: Option<Arc<dyn PositionLog>>,
        files: Files,
        newest: Option<u64>,
    ) -> Result<Arc<Self>, Error> {
        let guard = SyncGuard::new(Arc::clone(&config.on_fatal));
        let store = Store::open(backend, guard.clone(), config.page_cache_bytes)?;
        let mut loaded = store.load()?;
        if let Some(newest) = newest.filter(|newest| loaded.commit < *newest) {
            return Err(Error::Corrupt(format!(
                "it ends at write {}, but write {newest} was synced: {} writes are missing",
                loaded.commit,
                newest - loaded.commit
            )));
        }
        let (commit, newest_topic) = (loaded.commit, loaded.newest_topic);
        let garbage = std::mem::take(&mut loaded.garbage);
        let shared = Arc::new(Shared::new(store, loaded)?);
        let follow = |log| Follower::start(log, Arc::clone(&shared), config.position_log_every);
        let follower = positions.map(follow).transpose()?;
        let queue = Arc::new(Queue::default());
        let writer = Writer::new(Parts {
            config: config.clone(),
            shared: Arc::clone(&shared),
            queue: Arc::clone(&queue),
            guard,
            follower,
            mark: files.mark,
            path: files.path,
            commit,
            newest_topic,
            garbage,
        });
        let lock = files.lock;
        let thread = std::thread::Builder::new()
            .name("millrace-journal".into())
            .spawn(move || {
                writer.run();
                // Only now may another process have the directory.
                drop(lock);
            })
            .map_err(|source| Error::Io { action: "start the journal's thread".into(), source })?;
        let room = Arc::new(Semaphore::new(config.queue_bytes_max));
        Ok(Arc::new(Self { shared, queue, room, config, writer: Mutex::new(Some(thread)) }))
    }

    /// Hands an operation to the writer and waits for what became of it.
    async fn ask(&self, op: Op) -> Result<Outcome, Error> {
        let bytes = op.bytes();
        let room = self.enter(bytes, matches!(op, Op::Append(_))).await?;
        let (answer, outcome) = oneshot::channel();
        self.queue.push([Pending { op, bytes, answer, _room: Some(room) }])?;
        outcome.await.map_err(|_closed| Error::Closed)?
    }

    /// Waits for room in the queue; a source does not wait for long.
    async fn enter(&self, bytes: usize, is_source: bool) -> Result<OwnedSemaphorePermit, Error> {
        let permits = u32::try_from(bytes.min(self.config.queue_bytes_max)).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(permits) {
            return Ok(room);
        }
        let entered = Arc::clone(&self.room).acquire_many_owned(permits);
        if !is_source {
            return entered.await.map_err(|_closed| Error::Closed);
        }
        match tokio::time::timeout(self.config.busy_after, entered).await {
            Ok(entered) => entered.map_err(|_closed| Error::Closed),
            Err(_elapsed) => {
                metrics::counter!(names::BUSY).increment(1);
                Err(Error::Busy)
            }
        }
    }

    fn check_appends(&self, appends: &[Append]) -> Result<(), Error> {
        for Append { to, batch } in appends {
            let (topic, _) = self.shared.partition(to)?;
            limits::check_sizes(batch, to, topic.info.spec.record_bytes_max)?;
            limits::check_keys(batch, to, topic.info.spec.cleanup)?;
        }
        Ok(())
    }

    /// Hands operations over together, so that those that can share a write do.
    #[cfg(any(test, feature = "testing"))]
    async fn ask_together(&self, ops: Vec<Op>) -> Vec<Result<Outcome, Error>> {
        let (mut pending, mut outcomes) = (Vec::new(), Vec::new());
        for op in ops {
            let (answer, outcome) = oneshot::channel();
            pending.push(Pending { bytes: op.bytes(), op, answer, _room: None });
            outcomes.push(outcome);
        }
        let mut results = Vec::new();
        let pushed = self.queue.push(pending);
        for outcome in outcomes {
            results.push(match &pushed {
                Ok(()) => outcome.await.unwrap_or(Err(Error::Closed)),
                Err(_) => Err(Error::Closed),
            });
        }
        results
    }

    fn finish(&self) -> Option<JoinHandle<()>> {
        self.room.close();
        self.shared.close();
        self.queue.close();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Deletes what retention lets go at `now`, without waiting for its turn.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub async fn apply_retention(&self, now: Timestamp) -> Result<(), Error> {
        self.ask(Op::Retain(now)).await.map(drop)
    }

    /// The first record of `partition` stamped at or after `time`. Reads the disk.
    fn first_since(
        shared: &Shared,
        partition: &Partition,
        time: Timestamp,
    ) -> Result<Option<Offset>, Error> {
        let mut base = None;
        shared.store.scan(partition.uid, |at, row| {
            base = (time.0 <= row.timestamp_max).then_some(at);
            base.is_none()
        })?;
        let Some(base) = base else { return Ok(None) };
        let found = shared.store.read(partition.uid, base, Offset(i64::MAX), 1)?;
        let mut records = found.iter().flat_map(|it| it.batch.iter());
        let first = records.find(|it| time <= it.timestamp);
        Ok(first.map(|record| record.offset))
    }
}

/// What belongs to a bus in a directory.
struct Files {
    lock: Option<File>,
    mark: Option<Mark>,
    path: Option<PathBuf>,
}

/// Makes the journal beside its place and moves it there whole: a journal under its name is
/// complete, whenever the power went.
fn make_journal(config: &EmbeddedConfig, path: &Path) -> Result<(), Error> {
    let new = path.with_extension("redb.new");
    let failed =
        |action: &str, source| Error::Io { action: format!("{action} {}", path.display()), source };
    match std::fs::remove_file(&new) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed("make", source)),
    }
    let made = new.clone();
    let guard = SyncGuard::new(Arc::clone(&config.on_fatal));
    let backend = Box::new(move || open_file(&made, true));
    Store::open(backend, guard, config.page_cache_bytes)?.close()?;
    std::fs::rename(&new, path).map_err(|source| failed("make", source))?;
    let synced = File::open(&config.dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| failed("sync the directory of", source))
}

fn file_backend(path: &Path) -> Result<Box<dyn StorageBackend>, Error> {
    let backend = open_file(path, false)?;
    let length = backend
        .len()
        .map_err(|source| Error::Io { action: format!("measure {}", path.display()), source })?;
    if length == 0 {
        return Err(Error::Corrupt(format!("{} is empty", path.display())));
    }
    Ok(backend)
}

fn open_file(path: &Path, create: bool) -> Result<Box<dyn StorageBackend>, Error> {
    let failed = |source| Error::Io { action: format!("open {}", path.display()), source };
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(create).open(path).map_err(failed)?;
    let backend = redb::backends::FileBackend::new(file)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    Ok(Box::new(backend))
}

#[async_trait]
impl Bus for Embedded {
    async fn create_topic(&self, spec: TopicSpec) -> Result<TopicInfo, Error> {
        limits::check_topic_name(&spec.name)?;
        if !(1..=limits::PARTITIONS_MAX).contains(&spec.partitions) {
            let max = limits::PARTITIONS_MAX;
            return Err(Error::Partitions { partitions: spec.partitions, max });
        }
        match self.ask(Op::CreateTopic(spec)).await? {
            Outcome::Topic(info) => Ok(info),
            other => unreachable!("a topic was asked for, not {other:?}"),
        }
    }

    async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        self.ask(Op::DeleteTopic(name.to_owned())).await.map(drop)
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>, Error> {
        Ok(self.shared.topics().iter().map(|topic| topic.info.clone()).collect())
    }

    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.shared.topic(name).map(|topic| topic.info.clone())
    }

    async fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks, Error> {
        Ok(self.shared.partition(partition)?.1.watermarks())
    }

    async fn offset_for(&self, partition: &TopicPartition, start: Start) -> Result<Offset, Error> {
        let (_, found) = self.shared.partition(partition)?;
        let marks = found.watermarks();
        match start {
            Start::Earliest => Ok(marks.start),
            Start::Latest => Ok(marks.end),
            Start::At(time) => {
                let shared = Arc::clone(&self.shared);
                let search = move || Self::first_since(&shared, &found, time);
                let first = tokio::task::spawn_blocking(search).await;
                Ok(first.map_err(|_cancelled| Error::Closed)??.unwrap_or(marks.end))
            }
        }
    }

    async fn append(&self, appends: Vec<Append>) -> Result<Vec<Appended>, Error> {
        self.check_appends(&appends)?;
        match self.ask(Op::Append(appends)).await? {
            Outcome::Appended(bases) => Ok(bases),
            other => unreachable!("appends were asked for, not {other:?}"),
        }
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Appended>, Error> {
        self.check_appends(&commit.appends)?;
        self.check_appends(&commit.settles)?;
        match self.ask(Op::Commit(commit)).await? {
            Outcome::Appended(bases) => Ok(bases),
            other => unreachable!("a commit was asked for, not {other:?}"),
        }
    }

    async fn recover(&self, shard: ShardId, epoch: Epoch) -> Result<Recovered, Error> {
        match self.ask(Op::Recover(shard, epoch)).await? {
            Outcome::Recovered(recovered) => Ok(recovered),
            other => unreachable!("a recovery was asked for, not {other:?}"),
        }
    }

    async fn positions(&self) -> Result<Vec<(PositionKey, Position)>, Error> {
        Ok(self.shared.positions().into_iter().collect())
    }

    async fn forget_shard(&self, shard: ShardId) -> Result<(), Error> {
        self.ask(Op::Forget(shard)).await.map(drop)
    }

    async fn reader(
        &self,
        assigned: Vec<(TopicPartition, Offset)>,
    ) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(reader::EmbeddedReader::new(Arc::clone(&self.shared), assigned)?))
    }

    async fn close(&self) {
        if let Some(thread) = self.finish() {
            // A panic of the writer was said and ended the process, or a test said otherwise.
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(thread) = self.finish() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests;
