//! Reads assigned partitions: what is recent from memory, what is not from the journal on a
//! blocking thread, and sleeps until a partition of its own has something new.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;

use super::state::{Found, Partition, Ready, Shared, Subscription};
use super::store::Spanned;
use crate::{Error, Fetched, Offset, Reader, RecordBatch, TopicPartition, metrics as names};

/// A reader of the embedded bus.
#[derive(Debug)]
pub(super) struct EmbeddedReader {
    shared: Arc<Shared>,
    cursors: Vec<Cursor>,
    ready: Arc<Ready>,
    /// Cursors that may have something, in the order in which they get their turn.
    turns: VecDeque<usize>,
}

#[derive(Debug)]
struct Cursor {
    partition: Arc<Partition>,
    subscription: Arc<Subscription>,
    next: Offset,
    has_turn: bool,
}

impl EmbeddedReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        assigned: Vec<(TopicPartition, Offset)>,
    ) -> Result<Self, Error> {
        let found: Vec<_> = assigned
            .into_iter()
            .map(|(place, next)| Ok((shared.partition(&place)?.1, next)))
            .collect::<Result<_, Error>>()?;
        let ready = Arc::new(Ready::default());
        let cursors = found.into_iter().enumerate().map(|(index, (partition, next))| {
            let subscription = Subscription::new(&partition, index, &ready);
            Cursor { partition, subscription, next, has_turn: false }
        });
        Ok(Self { shared, cursors: cursors.collect(), ready, turns: VecDeque::new() })
    }

    /// What there is now. Only the first partition's turn may lead to an error or a cold read;
    /// the others then wait for theirs. Nothing moves before that await, so a dropped call loses
    /// nothing.
    async fn gather(&mut self, bytes_max: usize) -> Result<Vec<Fetched>, Error> {
        for index in self.ready.take() {
            self.enqueue(index);
        }
        let (mut fetched, mut bytes) = (Vec::new(), 0);
        while let Some(index) = self.turns.front().copied() {
            if !fetched.is_empty() && bytes_max <= bytes {
                break;
            }
            let cursor = &self.cursors[index];
            // Before the look: what is published after it wakes the reader again.
            cursor.subscription.taken();
            let left = bytes_max.saturating_sub(bytes);
            let next = cursor.next;
            let (batches, next, more) = match cursor.partition.find(next, left) {
                Ok(Found::Batches(batches, more)) => {
                    let next = batches.last().map_or(next, |it| it.last_offset().next());
                    (batches, next, more)
                }
                Ok(Found::Nothing) => (Vec::new(), next, false),
                Ok(Found::Cold(_)) | Err(_) if !fetched.is_empty() => break,
                Ok(Found::Cold(end)) => {
                    let (batches, next) = self.read_cold(index, end, left).await?;
                    (batches, next, true)
                }
                Err(error) => return Err(error),
            };
            self.turns.pop_front();
            let cursor = &mut self.cursors[index];
            cursor.has_turn = false;
            cursor.next = next;
            for batch in batches {
                bytes += batch.as_bytes().len();
                fetched.push(Fetched { partition: cursor.partition.place.clone(), batch });
            }
            if more {
                self.enqueue(index);
            }
        }
        Ok(fetched)
    }

    fn enqueue(&mut self, index: usize) {
        if !std::mem::replace(&mut self.cursors[index].has_turn, true) {
            self.turns.push_back(index);
        }
    }

    /// Batches that are no longer in memory, and where reading goes on behind them: of a compacted
    /// partition there may be none between two offsets.
    async fn read_cold(
        &self,
        index: usize,
        end: Offset,
        bytes_max: usize,
    ) -> Result<(Vec<RecordBatch>, Offset), Error> {
        let Cursor { partition, next, .. } = &self.cursors[index];
        let (shared, uid, next) = (Arc::clone(&self.shared), partition.uid, *next);
        metrics::counter!(names::COLD_READS).increment(1);
        let _turn = self.shared.cold_reads.acquire().await.map_err(|_closed| Error::Closed)?;
        let read = move || shared.store.read(uid, next, end, bytes_max);
        let read =
            tokio::task::spawn_blocking(read).await.map_err(|_cancelled| Error::Closed)??;
        let mut expected = next;
        let mut found = Vec::with_capacity(read.len());
        for Spanned { batch, end } in read {
            let batch = batch.from_offset(expected);
            if partition.is_compacted {
                found.extend(batch);
                expected = end.max(expected);
                continue;
            }
            let Some(batch) = batch.filter(|it| it.first_offset() == expected) else { break };
            expected = batch.last_offset().next();
            found.push(batch);
        }
        if expected == next {
            // Retention may have passed meanwhile, or the topic be gone; else records are missing.
            partition.find(next, 0)?;
            let what = format!("record {next} of {} is missing", partition.place);
            return Err(Error::Corrupt(what));
        }
        Ok((found, expected))
    }
}

#[async_trait]
impl Reader for EmbeddedReader {
    async fn fetch(&mut self, bytes_max: usize) -> Result<Vec<Fetched>, Error> {
        loop {
            if self.shared.is_closed() {
                return Err(Error::Closed);
            }
            let fetched = self.gather(bytes_max.max(1)).await?;
            if !fetched.is_empty() {
                let records: usize = fetched.iter().map(|it| it.batch.len()).sum();
                metrics::counter!(names::READ_RECORDS).increment(records as u64);
                return Ok(fetched);
            }
            self.ready.notify.notified().await;
        }
    }

    fn behind(&self) -> u64 {
        let behind = |cursor: &Cursor| {
            let end = cursor.partition.watermarks().end;
            u64::try_from(end.0 - cursor.next.0).unwrap_or(0)
        };
        self.cursors.iter().map(behind).sum()
    }
}

impl Drop for EmbeddedReader {
    fn drop(&mut self) {
        self.cursors.iter().for_each(|cursor| cursor.subscription.end(&cursor.partition));
    }
}
