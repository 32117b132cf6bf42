//! The embedded bus with a window: tests see when it is asked, and have it refuse.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bus::embedded::Embedded;
use bus::{
    Append, Appended, Bus, Commit, Epoch, Error, Offset, Position, PositionKey, Reader, Recovered,
    ShardId, Start, TopicInfo, TopicPartition, TopicSpec, Watermarks,
};

/// The embedded bus, watched.
#[derive(Debug)]
pub(crate) struct Watched {
    bus: Arc<Embedded>,
    refusal: Mutex<Option<Error>>,
    readers: AtomicUsize,
}

impl Watched {
    pub(crate) fn new(bus: Arc<Embedded>) -> Self {
        Self { bus, refusal: Mutex::new(None), readers: AtomicUsize::new(0) }
    }

    /// The next append is refused.
    pub(crate) fn refuses_with(&self, error: Error) {
        *self.refusal.lock().unwrap() = Some(error);
    }

    /// How many readers were made.
    pub(crate) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Bus for Watched {
    async fn append(&self, appends: Vec<Append>) -> Result<Vec<Appended>, Error> {
        let refusal = self.refusal.lock().unwrap().take();
        match refusal {
            Some(error) => Err(error),
            None => self.bus.append(appends).await,
        }
    }

    async fn create_topic(&self, spec: TopicSpec) -> Result<TopicInfo, Error> {
        self.bus.create_topic(spec).await
    }

    async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        self.bus.delete_topic(name).await
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>, Error> {
        self.bus.topics().await
    }

    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.bus.topic(name)
    }

    async fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks, Error> {
        self.bus.watermarks(partition).await
    }

    async fn offset_for(&self, partition: &TopicPartition, start: Start) -> Result<Offset, Error> {
        self.bus.offset_for(partition, start).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Appended>, Error> {
        self.bus.commit(commit).await
    }

    async fn recover(&self, shard: ShardId, epoch: Epoch) -> Result<Recovered, Error> {
        self.bus.recover(shard, epoch).await
    }

    async fn positions(&self) -> Result<Vec<(PositionKey, Position)>, Error> {
        self.bus.positions().await
    }

    async fn forget_shard(&self, shard: ShardId) -> Result<(), Error> {
        self.bus.forget_shard(shard).await
    }

    async fn reader(
        &self,
        assigned: Vec<(TopicPartition, Offset)>,
    ) -> Result<Box<dyn Reader>, Error> {
        let reader = self.bus.reader(assigned).await;
        self.readers.fetch_add(1, Ordering::Relaxed);
        reader
    }

    async fn close(&self) {
        self.bus.close().await;
    }
}
