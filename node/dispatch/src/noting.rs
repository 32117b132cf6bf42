//! The shell of a shard's history: gives what the driver sees to the [`Scribe`], puts what that has to
//! tell into commits, and writes the rest by itself. It does nothing where the shard has no history
//! topic, and a history that cannot be written never holds a record up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{
    Append, Appended, BatchBuilder, Bus, Commit, Headers, RecordBatch, Timestamp, TopicPartition,
};
use runtime::{Answer, Failure};

use crate::destination::Destinations;
use crate::driver::ShardConfig;
use crate::gather::Gathering;
use crate::history::{Dead, Noted, Parked, Scribe};
use crate::{
    CommitId, DeadLetter, InvocationId, InvocationName, Kept, Outcome, Park, ShardDispatch,
    Unwanted,
};

/// How long a shard that ends waits until its last words are written.
const PATIENCE: Duration = Duration::from_millis(500);

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Noting {
    bus: Arc<dyn Bus>,
    name: InvocationName,
    scribe: Scribe,
    /// Where entries go; `None` tells nothing.
    place: Option<TopicPartition>,
    /// What the shard appends to that is nobody's output.
    apart: Vec<Arc<str>>,
}

impl Noting {
    pub(crate) fn new(bus: Arc<dyn Bus>, config: &ShardConfig) -> Self {
        let (shard, epoch) = (config.shard, config.epoch);
        let Destinations { on_success, on_failure, .. } = config.destinations.clone();
        let apart = [config.park_topic.clone(), on_success, on_failure];
        let apart = apart.into_iter().flatten().collect();
        let topic = config.history_topic.as_ref().and_then(|topic| bus.topic(topic));
        Self {
            bus,
            name: InvocationName { shard, epoch, number: InvocationId(0) },
            scribe: Scribe::new(shard.0, epoch.0, &config.partitions),
            place: topic.map(|it| TopicPartition::new(it.spec.name, 0)),
            apart,
        }
    }

    /// As the invocation is called everywhere else.
    pub(crate) fn named(&self, number: InvocationId) -> String {
        InvocationName { number, ..self.name }.to_string()
    }

    /// A topic that somebody deleted gets nothing more: a commit must not wait for it.
    fn look(&mut self) {
        if self.place.as_ref().is_some_and(|place| self.bus.topic(&place.topic).is_none()) {
            self.place = None;
        }
    }

    /// Where an invocation's records are noted, if they are.
    pub(crate) fn blank(&self) -> Option<Noted> {
        self.place.as_ref().map(|_| Noted::default())
    }

    pub(crate) fn starts(&mut self, id: InvocationId, records: Option<Noted>) {
        if let Some(records) = records {
            self.scribe.starts(id, records);
        }
    }

    pub(crate) fn ended(
        &mut self,
        now: Instant,
        id: InvocationId,
        revision: &str,
        result: &Result<Answer, Failure>,
        took: Duration,
    ) {
        let times = match result {
            Ok(answer) => (answer.run, answer.cold.then_some(answer.start)),
            Err(failure) if failure.kind.is_charged() => (took, None),
            Err(_) => return self.scribe.did_not_run(id),
        };
        self.scribe.ended((now, Timestamp::now()), id, revision, times);
    }

    pub(crate) fn outcome(&mut self, core: &ShardDispatch, id: InvocationId, outcome: &Outcome) {
        match outcome {
            Outcome::Failed { code, message, .. } => self.scribe.failed(None, code, message),
            Outcome::Ended { exceptions, .. } => {
                let records = core.records(id);
                for (index, end) in exceptions {
                    let Some((code, message)) = end.failure() else { continue };
                    let record = core.record(records[*index as usize]);
                    let place = (record.partition, record.view.offset);
                    self.scribe.failed(Some(place), code, message);
                }
            }
        }
    }

    pub(crate) fn carried_out(&mut self) {
        self.scribe.carried_out();
        if self.place.is_none() {
            drop(self.scribe.flush(Timestamp(0)));
        }
    }

    pub(crate) fn kept(&mut self, core: &ShardDispatch, kept: &Kept) {
        let only = kept.only.as_ref().map(|_| {
            let indexes = (0..kept.records.len()).filter(|it| kept.keeps(*it));
            let records = indexes.map(|it| core.record(kept.records[it]));
            records.map(|it| (it.partition, it.view.offset.0)).collect()
        });
        self.scribe.kept(only);
    }

    pub(crate) fn filtered(
        &mut self,
        now: Instant,
        partition: u32,
        batch: &RecordBatch,
        unwanted: Option<&Unwanted>,
    ) {
        let (Some(unwanted), true) = (unwanted, self.place.is_some()) else { return };
        let records = (0..).zip(batch.iter()).filter(|(index, _)| unwanted.contains(*index));
        let offsets = records.map(|(_, record)| record.offset.0);
        self.scribe.filtered(now, partition, offsets);
    }

    pub(crate) fn parked(&mut self, core: &ShardDispatch, park: &Park) {
        let record = core.record(park.record);
        let parked = Parked {
            partition: record.partition,
            offset: record.view.offset.0,
            attempts: park.attempts,
            due: park.due.0,
            is_behind: park.failure.0.is_empty(),
        };
        self.scribe.parked(Instant::now(), parked);
    }

    /// The name of the invocation that a record is given up after.
    pub(crate) fn dead(
        &mut self,
        core: &ShardDispatch,
        gathering: &Gathering,
        letter: &DeadLetter,
    ) -> Option<String> {
        let run = self.scribe.current();
        let dead = dead(core, gathering, letter, run);
        self.scribe.dead(Instant::now(), dead);
        run.map(|run| self.named(run))
    }

    /// The name of the invocation that made outputs of the commit in flight.
    pub(crate) fn sent_by(&self, core: &ShardDispatch, letter: &DeadLetter) -> Option<String> {
        let record = core.record(letter.record);
        let found = self.scribe.sent_by(record.partition, record.view.offset);
        found.map(|number| self.named(number))
    }

    /// Dead letters took the place of outputs in a commit.
    pub(crate) fn replaced(
        &mut self,
        id: CommitId,
        core: &ShardDispatch,
        gathering: &Gathering,
        letters: &[(DeadLetter, Option<String>)],
        commit: &mut Commit,
    ) {
        let dead = letters.iter().map(|(letter, _)| {
            let record = core.record(letter.record);
            let run = self.scribe.sent_by(record.partition, record.view.offset);
            dead(core, gathering, letter, run)
        });
        let (dead, at) = (dead.collect(), Timestamp::now());
        let Some(place) = &self.place else { return };
        let told = self.told(&commit.appends);
        let value = self.scribe.replaced(at, id, dead, told.into_iter());
        commit.appends.extend(batch(place, at, vec![value]));
    }

    /// Adds what there is to tell to a commit.
    pub(crate) fn commit(&mut self, id: CommitId, commit: &mut Commit) {
        self.look();
        let at = Timestamp::now();
        let Some(place) = self.place.clone() else { return drop(self.scribe.flush(at)) };
        let told = self.told_indexes(&commit.appends);
        let values = self.scribe.commit(at, id, told.into_iter().map(|it| &commit.appends[it]));
        commit.appends.extend(batch(&place, at, values));
    }

    /// A commit is sent again; without what is for a topic that is gone.
    pub(crate) fn again(&mut self, commit: &mut Commit) {
        let before = self.place.clone();
        self.look();
        if let (Some(gone), None) = (before, &self.place) {
            commit.appends.retain(|it| it.to != gone);
        }
    }

    pub(crate) fn committed(
        &mut self,
        now: Instant,
        id: CommitId,
        sent: &[Append],
        appended: &[Appended],
    ) {
        if self.place.is_some() {
            let told = self.told_indexes(sent).into_iter();
            self.scribe.committed(now, id, told.filter_map(|at| Some(appended.get(at)?.base)));
        }
    }

    /// Which batches of a commit are outputs or dead letters.
    fn told_indexes(&self, appends: &[Append]) -> Vec<usize> {
        let own = self.place.as_ref().map(|it| &it.topic);
        let is_told = |at: &usize| {
            let topic = &appends[*at].to.topic;
            Some(topic) != own && !self.apart.contains(topic)
        };
        (0..appends.len()).filter(is_told).collect()
    }

    fn told<'a>(&self, appends: &'a [Append]) -> Vec<&'a Append> {
        self.told_indexes(appends).into_iter().map(|it| &appends[it]).collect()
    }

    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.place.as_ref().and_then(|_| self.scribe.due_at())
    }

    /// Writes what waits for no commit.
    pub(crate) fn flush(&mut self) {
        let Some(written) = self.write() else { return };
        drop(tokio::spawn(async move {
            if let Err(error) = written.await {
                tracing::debug!(%error, "could not write what became of records");
            }
        }));
    }

    /// The shard ends.
    pub(crate) async fn end(&mut self) {
        if let Some(written) = self.write() {
            // What is lost is where the last outputs lie, and they can be found without it.
            drop(tokio::time::timeout(PATIENCE, written).await);
        }
    }

    fn write(&mut self) -> Option<impl Future<Output = Result<Vec<Appended>, bus::Error>> + use<>> {
        self.look();
        let at = Timestamp::now();
        let values = self.scribe.flush(at);
        let appends = batch(self.place.as_ref()?, at, values).into_iter().collect::<Vec<_>>();
        let bus = Arc::clone(&self.bus);
        (!appends.is_empty()).then_some(async move { bus.append(appends).await })
    }
}

fn batch(place: &TopicPartition, at: Timestamp, values: Vec<Vec<u8>>) -> Option<Append> {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(at, None, Some(&value), Headers::default());
    }
    builder.finish().map(|batch| Append { to: place.clone(), batch })
}

fn dead(
    core: &ShardDispatch,
    gathering: &Gathering,
    letter: &DeadLetter,
    run: Option<InvocationId>,
) -> Dead {
    let record = core.record(letter.record);
    Dead {
        partition: record.partition,
        offset: record.view.offset.0,
        attempts: letter.attempts,
        run: run.map(|run| run.0),
        cause: gathering.cause(letter).as_str().to_owned(),
        error: (letter.code.clone(), letter.message.clone()),
    }
}
