//! Putting dead letters back, or purging them. What goes back and the position that says so are one
//! commit, so that on the node's own bus no kill loses or repeats any. Who comes later has a higher
//! epoch, and what came before lands nowhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus::{
    Append, BatchBuilder, Bus, Commit, Epoch, HeadersBuilder, Offset, PositionMove, RecordView,
    ShardId, TopicPartition,
};
use dispatch::DeadHead;
use gateway::api::{FunctionError, RedriveState, RedriveStatus};
use tokio_util::sync::CancellationToken;

use super::done::Done;
use super::scan::{Choice, Letters};
use crate::commands::error::CommandError;
use crate::node::triggers::of_bus;

/// Records of one commit, and their bytes.
const COMMIT_RECORDS: u64 = 1_000;
const COMMIT_BYTES: usize = 1 << 20;
/// Commits a second, where a rate is kept.
const COMMITS_PER_S: u64 = 10;
/// Ranges of a position: what a row of the position store has room for, twice over.
const SCATTERED_MAX: usize = 2_000;
/// Between attempts at a commit that the bus does not take now.
const AGAIN: Duration = Duration::from_millis(500);
/// What one look into the bus takes.
const LOOK_BYTES: usize = 1 << 20;
/// As for a scan.
const PRESENT_MAX: Duration = Duration::from_secs(5);

/// How far a job is, for whoever asks.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<RedriveStatus>>);

impl Progress {
    pub(super) fn new(status: RedriveStatus) -> Self {
        Self(Arc::new(Mutex::new(status)))
    }

    pub(super) fn now(&self) -> RedriveStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut RedriveStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Whether nothing more comes of it.
pub(super) const fn is_over(status: &RedriveStatus) -> bool {
    !matches!(status.state, RedriveState::Running | RedriveState::Waiting)
}

/// One redrive or purge.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    pub(super) letters: Letters,
    pub(super) choice: Choice,
    pub(super) purge: bool,
    pub(super) limit: u64,
    pub(super) rate: Option<u64>,
    pub(super) progress: Progress,
    pub(super) cancel: CancellationToken,
    /// When the first commit was made, and how many records were committed since.
    pub(super) pace: Option<(Instant, u64)>,
}

/// Why a job ends before its end.
enum Ended {
    Stopped,
    Failed(CommandError),
}

impl From<bus::Error> for Ended {
    fn from(error: bus::Error) -> Self {
        match error {
            bus::Error::Closed => Self::Stopped,
            error => Self::Failed(of_bus(&error)),
        }
    }
}

/// What the next commit carries.
#[derive(Default)]
struct Outgoing {
    batches: BTreeMap<TopicPartition, BatchBuilder>,
    records: u64,
    bytes: usize,
    edited: u64,
}

impl Job {
    /// Works to the end, and says how it was.
    pub(super) async fn run(mut self) {
        let outcome = self.work().await;
        let topic = self.letters.info.spec.name.to_string();
        let done = self.progress.now().done;
        self.progress.change(|status| match &outcome {
            Ok(()) => status.state = RedriveState::Done,
            Err(Ended::Stopped) => status.state = RedriveState::Stopped,
            Err(Ended::Failed(error)) => {
                status.state = RedriveState::Failed;
                let code = error.code.unwrap_or("E0511").to_owned();
                status.error = Some(FunctionError { code, message: error.message.clone() });
            }
        });
        match outcome {
            Ok(()) => tracing::info!(topic, done, purge = self.purge, "dead letters are done"),
            Err(Ended::Stopped) => tracing::info!(topic, done, "a redrive was stopped"),
            Err(Ended::Failed(error)) => {
                tracing::error!(topic, done, code = error.code, "a redrive failed: {error}");
            }
        }
    }

    async fn work(&mut self) -> Result<(), Ended> {
        let recovered = match self.bus.recover(self.shard, self.epoch).await {
            // The letters of the topic that was are gone, and so is what was done with them.
            Err(bus::Error::TopicRecreated { .. }) => {
                self.bus.forget_shard(self.shard).await?;
                self.bus.recover(self.shard, self.epoch).await?
            }
            recovered => recovered?,
        };
        let mine = recovered.positions.into_iter();
        let mine = mine.filter(|(place, _)| place.topic == self.letters.info.spec.name);
        self.letters.positions = mine.map(|(place, it)| (place.partition, it)).collect();
        for place in self.letters.places().collect::<Vec<_>>() {
            self.work_on(&place).await?;
        }
        Ok(())
    }

    async fn work_on(&mut self, place: &TopicPartition) -> Result<(), Ended> {
        let marks = self.bus.watermarks(place).await?;
        let mut done = self.letters.done(place.partition, marks);
        let (mut next, end) = (done.next(), marks.end.0);
        if end <= next || self.is_enough(0) {
            return Ok(());
        }
        let mut out = Outgoing::default();
        let mut reader = self.bus.reader(vec![(place.clone(), Offset(next))]).await?;
        'all: while next < end {
            let fetched = tokio::select! {
                fetched = reader.fetch(LOOK_BYTES) => fetched?,
                () = self.cancel.cancelled() => return Err(Ended::Stopped),
                // Nothing but a gap is left.
                () = tokio::time::sleep(PRESENT_MAX) => break 'all,
            };
            for record in fetched.iter().flat_map(|it| it.batch.iter()) {
                let offset = record.offset.0;
                if end <= offset {
                    break 'all;
                }
                // There is nothing between the last one and this.
                done.settle(next, offset);
                next = offset + 1;
                if done.contains(offset) || !self.add(place, record, &mut out) {
                    continue;
                }
                done.settle(offset, next);
                if SCATTERED_MAX < done.scattered() {
                    self.commit(place, &done, &mut out).await?;
                    return Err(Ended::Failed(scattered(place)));
                }
                if self.is_full(&out) {
                    self.commit(place, &done, &mut out).await?;
                }
                if self.is_enough(out.records) {
                    break 'all;
                }
            }
        }
        self.commit(place, &done, &mut out).await
    }

    fn is_enough(&self, records: u64) -> bool {
        self.limit <= self.progress.now().done + records
    }

    fn is_full(&self, out: &Outgoing) -> bool {
        let records = self
            .rate
            .map_or(COMMIT_RECORDS, |rate| rate.div_ceil(COMMITS_PER_S).clamp(1, COMMIT_RECORDS));
        records <= out.records || COMMIT_BYTES <= out.bytes
    }

    /// Takes a record into the next commit, if it is meant.
    fn add(&self, place: &TopicPartition, record: RecordView<'_>, out: &mut Outgoing) -> bool {
        let Some((head, own)) = DeadHead::read(record.headers) else {
            // Who purges everything is done with what is no dead letter, too.
            let is_meant = self.purge && self.choice.is_all();
            out.records += u64::from(is_meant);
            return is_meant;
        };
        if !self.choice.takes(&head) {
            return false;
        }
        out.records += 1;
        if self.purge {
            return true;
        }
        let edited = self.letters.edits.get(&(place.partition, record.offset.0));
        out.edited += u64::from(edited.is_some());
        let value = edited.map(|it| &it[..]).or(record.value);
        out.bytes += put_back(&*self.bus, &mut out.batches, &head, &own, record.key, value);
        true
    }

    /// What goes back and that it went back, as one.
    async fn commit(
        &mut self,
        place: &TopicPartition,
        done: &Done,
        out: &mut Outgoing,
    ) -> Result<(), Ended> {
        let Outgoing { batches, records, edited, .. } = std::mem::take(out);
        if records == 0 {
            return Ok(());
        }
        self.keep_pace(records).await?;
        let appends = batches.into_iter().filter_map(|(to, mut batch)| {
            let batch = batch.finish()?;
            Some(Append { to, batch })
        });
        let position = done.position(self.epoch);
        let commit = Commit {
            shard: self.shard,
            epoch: self.epoch,
            appends: appends.collect(),
            settles: Vec::new(),
            positions: vec![PositionMove { partition: place.clone(), position }],
        };
        loop {
            match self.bus.commit(commit.clone()).await {
                Ok(_) => break,
                Err(error) if error.is_retryable() => {
                    let error = of_bus(&error);
                    let code = error.code.unwrap_or("E0421").to_owned();
                    self.progress.change(|status| {
                        status.state = RedriveState::Waiting;
                        status.error = Some(FunctionError { code, message: error.message });
                    });
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        () = self.cancel.cancelled() => return Err(Ended::Stopped),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.progress.change(|status| {
            (status.state, status.error) = (RedriveState::Running, None);
            status.done += records;
            status.edited += edited;
        });
        match self.cancel.is_cancelled() {
            true => Err(Ended::Stopped),
            false => Ok(()),
        }
    }

    /// Waits until so many more may go.
    async fn keep_pace(&mut self, records: u64) -> Result<(), Ended> {
        let Some(rate) = self.rate else { return Ok(()) };
        let (began, gone) = self.pace.unwrap_or_else(|| (Instant::now(), 0));
        let due_at = began + Duration::from_secs_f64(gone as f64 / rate as f64);
        self.pace = Some((began, gone + records));
        tokio::select! {
            () = tokio::time::sleep_until(due_at.into()) => Ok(()),
            () = self.cancel.cancelled() => Err(Ended::Stopped),
        }
    }
}

/// A record under its key, in the partition that it came from: those of a key stay together
/// whatever chose their partition. Where the topic has no such partition any more, it goes where
/// its key belongs. Gives the bytes that it takes.
fn put_back(
    bus: &dyn Bus,
    batches: &mut BTreeMap<TopicPartition, BatchBuilder>,
    head: &DeadHead<'_>,
    own: &HeadersBuilder,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> usize {
    let there = bus.topic(head.topic).map_or(i32::MAX, |info| info.spec.partitions);
    let partition = match key {
        _ if head.partition < there => head.partition,
        Some(key) => bus::partition_for_key(key, there),
        None => head.partition % there,
    };
    let batch = batches.entry(TopicPartition::new(head.topic, partition)).or_default();
    batch.push(head.timestamp, key, value, own.headers());
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + own.headers().as_bytes().len()
}

fn scattered(place: &TopicPartition) -> CommandError {
    let message = format!(
        "what is done of {place} lies in more than {SCATTERED_MAX} pieces between what is open"
    );
    CommandError::new(crate::commands::error::exit::FAILED, "E0542", message)
}
