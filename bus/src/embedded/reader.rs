//! Reads assigned partitions: what is recent from memory, what is not from the journal, and
//! sleeps without polling when there is nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::log::{Log, Partition};
use crate::{Error, Fetched, Offset, Reader, TopicPartition};

/// A reader of the embedded bus.
#[derive(Debug)]
pub(crate) struct EmbeddedReader {
    log: Arc<Log>,
    id: u64,
    assigned: Vec<(Arc<Partition>, Offset)>,
    /// Where the next fetch starts, so that no partition starves the others.
    turn: usize,
    notify: Arc<Notify>,
}

impl EmbeddedReader {
    pub(crate) fn new(
        log: Arc<Log>,
        assigned: Vec<(TopicPartition, Offset)>,
    ) -> Result<Self, Error> {
        let assigned: Vec<_> = assigned
            .into_iter()
            .map(|(place, offset)| Ok((log.partition(&place)?, offset)))
            .collect::<Result<_, Error>>()?;
        let (id, notify) = (log.reader_id(), Arc::new(Notify::new()));
        assigned.iter().for_each(|(partition, _)| partition.wait(id, &notify));
        Ok(Self { log, id, assigned, turn: 0, notify })
    }

    /// What there is now, without waiting for records.
    async fn ready(&mut self, bytes_max: usize) -> Result<Vec<Fetched>, Error> {
        let (mut fetched, mut left) = (Vec::new(), bytes_max);
        let partitions = self.assigned.len();
        for step in 0..partitions {
            let index = (self.turn + step) % partitions;
            let (partition, next) = (Arc::clone(&self.assigned[index].0), self.assigned[index].1);
            let batches = self.batches(&partition, next, left).await?;
            for batch in batches {
                left = left.saturating_sub(batch.as_bytes().len());
                self.assigned[index].1 = batch.last_offset().next();
                fetched.push(Fetched { partition: partition.place.clone(), batch });
            }
            if left == 0 {
                self.turn = (index + 1) % partitions;
                break;
            }
        }
        Ok(fetched)
    }

    async fn batches(
        &self,
        partition: &Arc<Partition>,
        next: Offset,
        bytes_max: usize,
    ) -> Result<Vec<crate::RecordBatch>, Error> {
        if partition.deleted.load(Ordering::Acquire) {
            return Err(Error::UnknownTopic { topic: partition.place.topic.to_string() });
        }
        let marks = partition.watermarks();
        if next < marks.start || marks.end < next {
            return Err(Error::OffsetOutOfRange {
                partition: partition.place.clone(),
                offset: next,
                start: marks.start,
                end: marks.end,
            });
        }
        if next == marks.end {
            return Ok(Vec::new());
        }
        if let Some(batches) = partition.recent(next, bytes_max) {
            return Ok(batches);
        }
        let (log, uid) = (Arc::clone(&self.log), partition.uid);
        let read = move || log.journal.batches(uid, next, bytes_max);
        let read = tokio::task::spawn_blocking(read).await.map_err(|_cancelled| Error::Closed)?;
        // A group that is not published yet may be durable: a reader waits for its end to move.
        Ok(read?.into_iter().filter(|batch| batch.last_offset() < marks.end).collect())
    }
}

#[async_trait]
impl Reader for EmbeddedReader {
    async fn fetch(&mut self, bytes_max: usize) -> Result<Vec<Fetched>, Error> {
        loop {
            if self.log.closed.load(Ordering::Acquire) {
                return Err(Error::Closed);
            }
            let fetched = self.ready(bytes_max.max(1)).await?;
            if !fetched.is_empty() {
                return Ok(fetched);
            }
            self.notify.notified().await;
        }
    }
}

impl Drop for EmbeddedReader {
    fn drop(&mut self) {
        self.assigned.iter().for_each(|(partition, _)| partition.leave(self.id));
    }
}
