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

mod config;
mod follower;
mod journal;
mod lock;
mod log;
mod reader;
mod rows;
mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

pub use config::EmbeddedConfig;

use crate::{
    Append, Appended, Bus, Commit, Epoch, Error, Offset, Position, PositionKey, PositionLog,
    Reader, Recovered, ShardId, Start, TopicInfo, TopicPartition, TopicSpec, Watermarks,
};
use journal::Journal;
use log::Log;
use writer::{Op, Writer};

/// Bytes that may wait for the writer; more makes callers wait.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What an operation counts for beyond its bytes.
const OPERATION_BYTES: usize = 256;

/// The embedded bus. See the [module documentation](self).
#[derive(Debug)]
pub struct Embedded {
    log: Arc<Log>,
    operations: std::sync::mpsc::Sender<Op>,
    room: Arc<Semaphore>,
    writer: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
    record_bytes_default: usize,
}

impl Embedded {
    /// Opens the bus in `config.dir`, making it if there is none. `positions` follows what is
    /// committed, and is rebuilt if it is behind, damaged or impossible.
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
        let journal = Journal::open(&config)?;
        Self::start(config, journal, positions, Some(lock))
    }

    /// Opens the bus over any storage: for simulated disks.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`].
    #[cfg(any(test, feature = "testing"))]
    pub fn open_on(
        config: EmbeddedConfig,
        backend: impl redb::StorageBackend,
    ) -> Result<Arc<Self>, Error> {
        let journal = Journal::open_on(&config, backend)?;
        Self::start(config, journal, None, None)
    }

    fn start(
        config: EmbeddedConfig,
        journal: Journal,
        positions: Option<Arc<dyn PositionLog>>,
        lock: Option<std::fs::File>,
    ) -> Result<Arc<Self>, Error> {
        let loaded = journal.load()?;
        let follower = positions.map(|log| follower::start(log, &loaded.positions)).transpose()?;
        let log = Arc::new(Log::new(&loaded, journal, config.cache_bytes));
        let (operations, receiver) = std::sync::mpsc::channel();
        let writer = Writer::new(&config, Arc::clone(&log), loaded, follower, lock);
        let thread = std::thread::Builder::new()
            .name("millrace-journal".into())
            .spawn(move || writer.run(&receiver))
            .map_err(|source| Error::Io { action: "start the journal's thread".into(), source })?;
        Ok(Arc::new(Self {
            log,
            operations,
            room: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
            writer: std::sync::Mutex::new(Some(thread)),
            record_bytes_default: 1 << 20,
        }))
    }

    /// Hands an operation to the writer and waits for what became of it.
    async fn ask<T: Send>(
        &self,
        bytes: usize,
        op: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Op + Send,
    ) -> Result<T, Error> {
        let permits = u32::try_from((bytes + OPERATION_BYTES).min(WAITING_BYTES_MAX))
            .expect("the bound fits");
        let _room = self.room.acquire_many(permits).await.map_err(|_closed| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.operations.send(op(reply)).map_err(|_closed| Error::Closed)?;
        answer.await.map_err(|_closed| Error::Closed)?
    }
}

#[async_trait]
impl Bus for Embedded {
    async fn create_topic(&self, spec: TopicSpec) -> Result<TopicInfo, Error> {
        rows::check_topic_name(&spec.name)?;
        if spec.partitions < 1 {
            return Err(Error::UnknownPartition(TopicPartition::new(spec.name, 0)));
        }
        let mut spec = spec;
        if spec.record_bytes_max == 0 {
            spec.record_bytes_max = self.record_bytes_default;
        }
        self.ask(0, |reply| Op::CreateTopic { spec, reply }).await
    }

    async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        self.ask(0, |reply| Op::DeleteTopic { name, reply }).await
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>, Error> {
        Ok(self.log.topics())
    }

    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.log.topic(name).map(|topic| topic.info.clone())
    }

    async fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks, Error> {
        Ok(self.log.partition(partition)?.watermarks())
    }

    async fn offset_for(&self, partition: &TopicPartition, start: Start) -> Result<Offset, Error> {
        let found = self.log.partition(partition)?;
        let marks = found.watermarks();
        match start {
            Start::Earliest => Ok(marks.start),
            Start::Latest => Ok(marks.end),
            Start::At(time) => {
                let log = Arc::clone(&self.log);
                let search = move || log.first_at(&found, time);
                let first = tokio::task::spawn_blocking(search).await;
                Ok(first.map_err(|_cancelled| Error::Closed)??.unwrap_or(marks.end))
            }
        }
    }

    async fn append(&self, appends: Vec<Append>) -> Result<Vec<Appended>, Error> {
        let bytes = appends.iter().map(|append| append.batch.as_bytes().len()).sum();
        self.ask(bytes, |reply| Op::Append { appends, reply }).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Appended>, Error> {
        let bytes = commit.appends.iter().map(|append| append.batch.as_bytes().len()).sum();
        self.ask(bytes, |reply| Op::Commit { commit, reply }).await
    }

    async fn recover(&self, shard: ShardId, epoch: Epoch) -> Result<Recovered, Error> {
        self.ask(0, |reply| Op::Recover { shard, epoch, reply }).await
    }

    async fn positions(&self) -> Result<Vec<(PositionKey, Position)>, Error> {
        Ok(self.log.positions())
    }

    async fn forget_shard(&self, shard: ShardId) -> Result<(), Error> {
        self.ask(0, |reply| Op::Forget { shard, reply }).await
    }

    async fn reader(
        &self,
        assigned: Vec<(TopicPartition, Offset)>,
    ) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(reader::EmbeddedReader::new(Arc::clone(&self.log), assigned)?))
    }

    async fn close(&self) {
        self.room.close();
        self.log.closed.store(true, Ordering::Release);
        self.log.wake_all();
        // The writer ends after what it was given: an error means that it has ended already.
        drop(self.operations.send(Op::Close));
        let thread = self.writer.lock().expect("nothing panics while holding it").take();
        if let Some(thread) = thread {
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.log.closed.store(true, Ordering::Release);
        drop(self.operations.send(Op::Close));
        if let Ok(Some(thread)) = self.writer.get_mut().map(Option::take) {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests;
