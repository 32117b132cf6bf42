//! The bus on a Kafka that is there already: topics and records are the brokers', positions are
//! this node's and the groups'. At least once: an output is acknowledged before its position
//! moves, and after a crash some records run again.
//!
//! ```text
//! commit ─▶ produce ─▶ all acknowledged ─▶ position log ─▶ answered
//!           (idempotent, acks=all)        (sled, synced)  └─▶ the group's offset, within 1 s
//! ```
//!
//! A restart goes on from the position log, to the exact record, unless another owner was seen in
//! the group since: [`ledger`](self) decides that (KL-1) and says why it is safe. A node that is
//! alone gets a new epoch at every start; what counts is that nobody else got one between.
//!
//! What differs from the embedded bus: a commit's outputs are visible before its position is
//! durable, offsets of one append have holes where others append between, a header's name ends
//! at a zero byte, and a timestamp of 0 becomes the time of the append.

mod config;
mod handing;
mod health;
mod lanes;
mod ledger;
mod note;
mod offsets;
mod producers;
mod reader;
mod recorder;
mod suspicion;
mod together;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::TopicPartitionList;
use rdkafka::admin::AdminClient;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use config::{GroupName, KafkaConfig};

/// The pure cores behind the commits, for whoever plays them without a broker.
#[cfg(feature = "testing")]
pub mod cores {
    pub use super::ledger::{Committed, Ledger, Move, Row, agrees, epoch_row, log_row};
    pub use super::note::Note;
}

use crate::{
    Append, Appended, Bus, Commit, Epoch, Error, Handed, Offset, Position, PositionKey,
    PositionLog, Reader, Recovered, ShardId, Start, TopicInfo, TopicPartition, TopicSpec,
    Watermarks, limits, metrics as names,
};
use health::{Context, Health};
use lanes::{Lane, Lanes};
use ledger::{Ledger, Move, epoch_row, log_row};
use offsets::{Mark, Offsets};
use producers::Producers;
use recorder::Recorder;
use suspicion::Suspicion;
use together::Together;
use topics::{Topic, Topics, blocking};

/// How long the end of the bus waits for the last offsets to be committed.
const LAST_OFFSETS: Duration = Duration::from_secs(1);

/// How often the limits of topics are looked at without a cause; an answer has all settings of a
/// topic, which is a lot for hundreds of them.
const LIMITS_EVERY: Duration = Duration::from_secs(60);
/// How often a coordinator that is not ready is asked again.
const ASK_AGAIN_EVERY: Duration = Duration::from_millis(100);

/// How long a question may take while no broker answers.
const DOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The bus on Kafka. See the [module documentation](self).
#[derive(Debug)]
pub struct KafkaBus {
    inner: Arc<Inner>,
}

/// What readers need too: they may outlive the bus.
#[derive(Debug)]
struct Brokers {
    config: KafkaConfig,
    health: Arc<Health>,
    topics: Topics,
    lanes: Lanes,
    /// How far partitions reach at least, as their readers saw: spares a question per commit.
    ends: Mutex<BTreeMap<TopicPartition, Offset>>,
    opened_at: tokio::time::Instant,
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct Inner {
    brokers: Arc<Brokers>,
    producers: Producers,
    ledger: Mutex<Ledger>,
    log: Arc<dyn PositionLog>,
    recorder: Recorder,
    offsets: Offsets,
    together: Together,
    suspicion: Suspicion,
    /// One commit or recovery of a shard at a time.
    shards: Mutex<BTreeMap<ShardId, Arc<tokio::sync::Mutex<()>>>>,
    room: Arc<Semaphore>,
}

impl KafkaBus {
    /// Connects to the brokers and reads which topics there are. `log` holds the positions.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`], [`Error::Authentication`], [`Error::Unreachable`],
    /// [`Error::PositionLog`].
    pub async fn open(config: KafkaConfig, log: Arc<dyn PositionLog>) -> Result<Arc<Self>, Error> {
        config.check()?;
        let health = Arc::new(Health::default());
        let context = Context { health: Arc::clone(&health) };
        let admin = AdminClient::from_config_and_context(&config.admin(), context);
        let admin = admin.map_err(|error| match error {
            KafkaError::ClientConfig(_, reason, key, _) => Error::Setting { key, reason },
            other => health.client_error("make a client", &other),
        })?;
        let loading = Arc::clone(&log);
        let rows = blocking(move || loading.load().map_err(|error| error.to_string())).await?;
        let rows = rows.map_err(|reason| Error::PositionLog { reason })?;
        let topics = Topics::new(Arc::new(admin), Arc::clone(&health), config.request_timeout);
        let brokers = Arc::new(Brokers {
            lanes: Lanes::new(config.clone(), Arc::clone(&health)),
            ends: Mutex::default(),
            opened_at: tokio::time::Instant::now(),
            is_closed: AtomicBool::new(false),
            health: Arc::clone(&health),
            config: config.clone(),
            topics,
        });
        brokers.topics.refresh_all(brokers.list_topics().await?).await?;
        let producers = Producers::new(config.clone(), Arc::clone(&health));
        producers.begin()?;
        let inner = Arc::new(Inner {
            producers,
            ledger: Mutex::new(Ledger::load(rows)),
            room: Arc::new(Semaphore::new(config.in_flight_bytes_max)),
            offsets: Offsets::default(),
            together: Together::default(),
            suspicion: Suspicion::default(),
            shards: Mutex::default(),
            recorder: Recorder::start(Arc::clone(&log)),
            log,
            brokers,
        });
        let every = inner.brokers.config.offsets_every;
        drop(tokio::spawn(offsets::run(Arc::downgrade(&inner), every)));
        drop(tokio::spawn(watch(Arc::downgrade(&inner.brokers))));
        drop(tokio::spawn(suspicion::run(Arc::downgrade(&inner))));
        Ok(Arc::new(Self { inner }))
    }
}

/// Looks at the topics in use again and again, until the bus is closed.
async fn watch(bus: Weak<Brokers>) {
    let mut limits_at = tokio::time::Instant::now();
    loop {
        let Some(brokers) = bus.upgrade() else { return };
        if brokers.is_closed() {
            return;
        }
        let mut looked = brokers.topics.refresh_known().await;
        if looked.is_ok() && LIMITS_EVERY <= limits_at.elapsed() {
            limits_at = tokio::time::Instant::now();
            looked = brokers.topics.look_at_limits().await;
        }
        if let Err(error) = looked {
            tracing::debug!(%error, "could not look at the topics");
        }
        tokio::select! {
            () = brokers.topics.look.notified() => {}
            () = brokers.topics.changed.notified() => {}
            () = tokio::time::sleep(brokers.config.topics_every) => {}
        }
    }
}

impl Brokers {
    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// A partition reaches at least to `end`.
    fn saw(&self, place: &TopicPartition, end: Offset) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        match ends.get_mut(place) {
            Some(known) => *known = (*known).max(end),
            None => drop(ends.insert(place.clone(), end)),
        }
    }

    /// Whether a partition is known to reach to `end`.
    fn reaches(&self, place: &TopicPartition, end: Offset) -> bool {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.get(place).is_some_and(|known| end <= *known)
    }

    /// The names of all topics but Kafka's own. Brokers that are just starting are waited for;
    /// those that refuse us are not.
    async fn list_topics(&self) -> Result<BTreeSet<String>, Error> {
        let until = tokio::time::Instant::now() + self.config.request_timeout;
        let lane = self.lanes.asking()?;
        loop {
            let (asked, timeout) = (Arc::clone(&lane), self.config.request_timeout);
            let listed = blocking(move || asked.consumer().fetch_metadata(None, timeout)).await?;
            let error = match listed {
                Ok(listed) => {
                    self.health.answered();
                    let names = listed.topics().iter().map(|topic| topic.name().to_owned());
                    return Ok(names.filter(|name| !name.starts_with("__")).collect());
                }
                Err(error) => self.health.client_error("list the topics", &error),
            };
            let is_over = until <= tokio::time::Instant::now();
            if is_over || !matches!(error, Error::Unreachable { .. }) {
                return Err(error);
            }
            // By then the lane has said whether it was its credentials.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Whether a broker answers within so long.
    async fn answer_within(&self, within: Duration) -> bool {
        let Ok(lane) = self.lanes.asking() else { return false };
        let asked = blocking(move || lane.consumer().fetch_metadata(Some(offsets::GROUPS), within));
        let is_answered = matches!(asked.await, Ok(Ok(_)));
        if is_answered {
            self.health.answered();
        }
        is_answered
    }

    /// Asks a question about a partition. A client that does not know a new topic yet, or knows
    /// one that was made again as gone, is told to look and asked again.
    async fn ask<T: Send + 'static>(
        &self,
        action: &'static str,
        place: &TopicPartition,
        question: impl Fn(&Lane, &TopicPartition, Duration) -> KafkaResult<T> + Copy + Send + 'static,
    ) -> Result<T, Error> {
        // While all are known to be gone, who asks is told soon.
        let is_down = self.health.is_down();
        let timeout = if is_down { DOWN_TIMEOUT } else { self.config.request_timeout };
        let until = tokio::time::Instant::now() + timeout;
        let lane = self.lanes.asking()?;
        loop {
            let (lane, asked) = (Arc::clone(&lane), place.clone());
            let answer = blocking(move || {
                let answer = question(&lane, &asked, timeout);
                if answer.as_ref().is_err_and(is_stale) {
                    // What it finds shows in the next answer.
                    drop(lane.consumer().fetch_metadata(Some(&asked.topic), timeout));
                }
                answer
            });
            match answer.await? {
                Ok(answer) => {
                    self.health.answered();
                    return Ok(answer);
                }
                Err(error) if is_stale(&error) && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) if is_unknown(&error) => {
                    return Err(Error::UnknownPartition(place.clone()));
                }
                Err(error) => return Err(self.health.client_error(action, &error)),
            }
        }
    }

    async fn watermarks(&self, place: &TopicPartition) -> Result<Watermarks, Error> {
        let question = |lane: &Lane, place: &TopicPartition, timeout| {
            lane.consumer().fetch_watermarks(&place.topic, place.partition, timeout)
        };
        let (start, end) = self.ask("read a partition's ends", place, question).await?;
        // The brokers do not say how many bytes they hold, short of a look at their disks.
        Ok(Watermarks { start: Offset(start), end: Offset(end), bytes: 0 })
    }

    async fn first_since(&self, place: &TopicPartition, time: i64) -> Result<Offset, Error> {
        let question = move |lane: &Lane, place: &TopicPartition, timeout| {
            let mut times = TopicPartitionList::new();
            let time = rdkafka::Offset::Offset(time.max(0));
            times.add_partition_offset(&place.topic, place.partition, time)?;
            let found = lane.consumer().offsets_for_times(times, timeout)?;
            let one = found.find_partition(&place.topic, place.partition);
            one.map(|one| one.error().map(|()| one.offset())).transpose()
        };
        match self.ask("find an offset by time", place, question).await? {
            Some(rdkafka::Offset::Offset(offset)) => Ok(Offset(offset)),
            _ => Ok(self.watermarks(place).await?.end),
        }
    }
}

/// Whether a client knows of no such partition.
fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopicId
        )
    )
}

/// Whether a client may only not know yet what there is.
fn is_stale(error: &KafkaError) -> bool {
    let leaderless = [Code::LeaderNotAvailable, Code::NotLeaderForPartition];
    is_unknown(error) || error.rdkafka_error_code().is_some_and(|code| leaderless.contains(&code))
}

impl Inner {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of a shard's commits.
    fn gate(&self, shard: ShardId) -> Arc<tokio::sync::Mutex<()>> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shards.entry(shard).or_default())
    }

    /// Topics of appends, each within its limits.
    async fn check_appends(
        &self,
        appends: Vec<Append>,
    ) -> Result<Vec<(Append, Arc<Topic>)>, Error> {
        let mut checked = Vec::with_capacity(appends.len());
        for append in appends {
            let topic = self.brokers.topics.find(&append.to).await?;
            limits::check_sizes(&append.batch, &append.to, topic.record_bytes_max())?;
            limits::check_keys(&append.batch, &append.to, topic.cleanup())?;
            checked.push((append, topic));
        }
        Ok(checked)
    }

    /// Waits for room on the way to the brokers; a source does not wait for long.
    async fn enter(
        &self,
        appends: &[(Append, Arc<Topic>)],
        is_source: bool,
    ) -> Result<OwnedSemaphorePermit, Error> {
        let bytes: usize = appends.iter().map(|(it, _)| it.batch.as_bytes().len()).sum();
        let share = bytes.min(self.brokers.config.in_flight_bytes_max / 4);
        let permits = u32::try_from(share).unwrap_or(u32::MAX);
        let entered = Arc::clone(&self.room).acquire_many_owned(permits);
        if !is_source {
            return entered.await.map_err(|_closed| Error::Closed);
        }
        match tokio::time::timeout(self.brokers.config.busy_after, entered).await {
            Ok(entered) => entered.map_err(|_closed| Error::Closed),
            Err(_elapsed) => {
                metrics::counter!(names::BUSY).increment(1);
                Err(Error::Busy)
            }
        }
    }

    async fn send(
        &self,
        appends: Vec<(Append, Arc<Topic>)>,
        is_source: bool,
    ) -> Result<Vec<Appended>, Error> {
        if appends.is_empty() {
            return Ok(Vec::new());
        }
        let _room = self.enter(&appends, is_source).await?;
        let limit_of = |(_, topic): &(Append, Arc<Topic>)| topic.record_bytes_max();
        let before: Vec<usize> = appends.iter().map(limit_of).collect();
        let mut appended = self.producers.send(&appends).await;
        if let Err(Error::TooLarge { .. }) = &appended {
            self.brokers.topics.look_at_limits().await?;
            if appends.iter().map(limit_of).zip(before).any(|(now, before)| now < before) {
                // What is within the limits of now goes again, in batches that are, too.
                for (append, topic) in &appends {
                    limits::check_sizes(&append.batch, &append.to, topic.record_bytes_max())?;
                }
                appended = self.producers.send(&appends).await;
            }
        }
        if let Err(Error::UnknownTopic { .. } | Error::UnknownPartition(_)) = &appended {
            // It was there a moment ago.
            self.brokers.topics.look.notify_one();
        }
        let appended = appended?;
        let (mut records, mut bytes) = (0, 0);
        for ((append, _), Appended { base }) in appends.iter().zip(&appended) {
            records += append.batch.len() as u64;
            bytes += append.batch.as_bytes().len() as u64;
            // Whoever appended between them, the last of these lies so far at least.
            self.brokers.saw(&append.to, Offset(base.0 + append.batch.len() as i64));
        }
        metrics::counter!(names::APPENDED_RECORDS).increment(records);
        metrics::counter!(names::APPENDED_BYTES).increment(bytes);
        Ok(appended)
    }

    /// The positions of a commit with their topics, none back, none beyond its partition's end.
    async fn check_moves(&self, commit: &mut Commit) -> Result<Vec<Move>, Error> {
        let mut moves = Vec::with_capacity(commit.positions.len());
        for it in std::mem::take(&mut commit.positions) {
            let topic = self.brokers.topics.find(&it.partition).await?;
            let position = Position { epoch: commit.epoch, ..it.position };
            let reach = position.completions.ranges().last().map_or(position.next, |it| it.1);
            let reach = reach.max(position.next);
            if !self.brokers.reaches(&it.partition, reach) {
                let end = self.brokers.watermarks(&it.partition).await?.end;
                if end < reach {
                    let rows = self.ledger().rows(commit.shard);
                    let row = rows.into_iter().find(|(partition, _)| *partition == it.partition);
                    let from = row.map_or(Offset(0), |(_, row)| row.position.next);
                    let (partition, next) = (it.partition, position.next);
                    return Err(Error::Position { partition, next, from, end });
                }
                self.brokers.saw(&it.partition, end);
            }
            let it = Move { partition: it.partition, topic_id: topic.id(), position };
            self.ledger().check_move(commit.shard, commit.epoch, &it)?;
            moves.push(it);
        }
        Ok(moves)
    }

    async fn commit(&self, mut commit: Commit) -> Result<Vec<Appended>, Error> {
        let (shard, epoch) = (commit.shard, commit.epoch);
        let gate = self.gate(shard);
        let _turn = gate.lock().await;
        self.look_after_pause(shard).await?;
        self.check_epoch(shard, epoch)?;
        let appends = self.check_appends(std::mem::take(&mut commit.appends)).await?;
        let settles = self.check_appends(std::mem::take(&mut commit.settles)).await?;
        let moves = self.check_moves(&mut commit).await?;
        let appended = self.send(appends, false).await?;
        if !settles.is_empty() {
            // What settles them is out: now it may be said.
            self.check_epoch(shard, epoch)?;
            self.send(settles, false).await?;
        }
        // Somebody may have been seen meanwhile: the outputs are out, the position stays.
        self.look_after_pause(shard).await?;
        self.check_epoch(shard, epoch)?;
        let marks: Vec<Mark> = {
            let (ledger, is_shared) = (self.ledger(), self.suspicion.is_shared());
            let new = moves.iter().filter(|it| {
                ledger.wants_anchor(shard, epoch, &it.partition)
                    || (is_shared && ledger.changes_suspects(shard, it))
            });
            new.map(|Move { partition, topic_id, position }| Mark {
                partition: partition.clone(),
                topic_id: *topic_id,
                position: position.clone(),
            })
            .collect()
        };
        if !marks.is_empty() {
            self.anchor(shard, epoch, marks).await?;
        }
        let mut rows: Vec<_> = moves
            .iter()
            .map(|it| log_row(shard, &it.partition, it.topic_id, it.position.clone()))
            .collect();
        if self.ledger().owned_at(shard) < epoch {
            rows.push(epoch_row(shard, epoch));
        }
        self.recorder.record(rows).await?;
        self.ledger().moved(shard, epoch, moves);
        self.offsets.follow(shard);
        Ok(appended)
    }

    /// After a pause of this process somebody else may own what it commits: the group says so, for
    /// whoever owns a shard writes that there before anything else (KL-1).
    async fn look_after_pause(&self, shard: ShardId) -> Result<(), Error> {
        if let Some(pauses) = self.suspicion.unseen(shard) {
            let group = (self.brokers.config.group)(shard);
            let committed = self.patiently(|| self.committed(&group)).await?;
            self.look(&group, &committed, None);
            self.suspicion.saw(shard, pauses);
        }
        Ok(())
    }

    fn check_epoch(&self, shard: ShardId, epoch: Epoch) -> Result<(), Error> {
        let checked = self.ledger().check(shard, epoch);
        if checked.is_err() {
            metrics::counter!(names::FENCED).increment(1);
        }
        checked
    }

    /// Writes the position log anew: there is no other way to lose some of its rows.
    async fn rewrite_log(&self) -> Result<(), Error> {
        let (log, rows) = (Arc::clone(&self.log), self.ledger().log_rows());
        let rewritten = blocking(move || {
            log.clear()?;
            if rows.is_empty() { Ok(()) } else { log.record(&rows) }
        });
        rewritten.await?.map_err(|error| Error::PositionLog { reason: error.to_string() })
    }

    /// Asks again for as long as a request may take: a coordinator that has only just started
    /// says that it is not one yet.
    async fn patiently<T, A: Future<Output = Result<T, Error>>>(
        &self,
        ask: impl Fn() -> A,
    ) -> Result<T, Error> {
        let until = tokio::time::Instant::now() + self.brokers.config.request_timeout;
        loop {
            match ask().await {
                Err(error @ Error::Unreachable { .. }) => {
                    if until <= tokio::time::Instant::now() {
                        return Err(error);
                    }
                    self.brokers.check_open()?;
                    tokio::time::sleep(ASK_AGAIN_EVERY).await;
                }
                answer => return answer,
            }
        }
    }

    async fn recover(&self, shard: ShardId, epoch: Epoch) -> Result<Recovered, Error> {
        let gate = self.gate(shard);
        let _turn = gate.lock().await;
        self.check_epoch(shard, epoch)?;
        let group = (self.brokers.config.group)(shard);
        let committed = self.patiently(|| self.committed_together(&group)).await?;
        self.look(&group, &committed, Some(shard));
        self.ledger().recover(shard, epoch, committed.iter().cloned())?;
        let rows = self.ledger().rows(shard);
        let mut marks = Vec::new();
        for (partition, row) in &rows {
            let topic = match self.brokers.topics.find(partition).await {
                Ok(topic) => topic,
                // The reader says so, of the partition that it cannot read.
                Err(Error::UnknownTopic { .. } | Error::UnknownPartition(_)) => continue,
                Err(error) => return Err(error),
            };
            if topic.id() != row.topic_id {
                let topic = partition.topic.to_string();
                return Err(Error::TopicRecreated { topic, shard });
            }
            let (partition, position) = (partition.clone(), row.position.clone());
            marks.push(Mark { partition, topic_id: row.topic_id, position });
        }
        self.own(shard, epoch, marks).await?;
        let positions = rows.into_iter().map(|(place, row)| (place, row.position)).collect();
        Ok(Recovered { positions })
    }

    /// Writes that a shard is owned at this epoch: into the group before the log (KL-1).
    async fn own(&self, shard: ShardId, epoch: Epoch, marks: Vec<Mark>) -> Result<(), Error> {
        if !marks.is_empty() {
            self.patiently(|| self.anchor(shard, epoch, marks.clone())).await?;
        }
        let rows = self.ledger().rows(shard);
        let mut log: Vec<_> = rows
            .iter()
            .map(|(place, row)| log_row(shard, place, row.topic_id, row.position.clone()))
            .collect();
        log.push(epoch_row(shard, epoch));
        self.recorder.record(log).await?;
        if !marks.is_empty() {
            self.ledger().anchored(shard, epoch, marks.iter().map(|it| &it.partition));
        }
        Ok(())
    }

    /// Stops admitting; whether it did not before.
    fn shut(&self) -> bool {
        let was_open = !self.brokers.is_closed.swap(true, Ordering::AcqRel);
        if was_open {
            self.room.close();
            self.brokers.topics.changed.notify_waiters();
        }
        was_open
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn create_topic(&self, spec: TopicSpec) -> Result<TopicInfo, Error> {
        let name = Arc::clone(&spec.name);
        self.create_topics(vec![spec]).await.map_err(|(_, error)| error)?;
        let gone = || Error::UnknownTopic { topic: name.to_string() };
        self.topic(&name).ok_or_else(gone)
    }

    async fn create_topics(&self, specs: Vec<TopicSpec>) -> Result<(), (Arc<str>, Error)> {
        for TopicSpec { name, partitions, .. } in &specs {
            let refused = |error| (Arc::clone(name), error);
            limits::check_topic_name(name).map_err(refused)?;
            if !(1..=limits::PARTITIONS_MAX).contains(partitions) {
                let max = limits::PARTITIONS_MAX;
                return Err(refused(Error::Partitions { partitions: *partitions, max }));
            }
            self.inner.brokers.check_open().map_err(refused)?;
        }
        let topics = &self.inner.brokers.topics;
        topics.make(&specs).await?;
        for TopicSpec { name, partitions: asked, .. } in specs {
            let topic = name.to_string();
            match topics.get(&name).map(|it| it.info().spec.partitions) {
                None => return Err((name, Error::UnknownTopic { topic })),
                Some(partitions) if partitions != asked => {
                    return Err((name, Error::TopicExists { topic, partitions }));
                }
                Some(_as_asked) => {}
            }
        }
        Ok(())
    }

    async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        self.inner.brokers.check_open()?;
        self.inner.brokers.topics.delete(name).await?;
        self.inner.ledger().forget_topic(name);
        self.inner.rewrite_log().await
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>, Error> {
        self.inner.brokers.check_open()?;
        let brokers = &self.inner.brokers;
        brokers.topics.refresh_all(brokers.list_topics().await?).await
    }

    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.inner.brokers.topics.get(name).map(|topic| topic.info())
    }

    async fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks, Error> {
        self.inner.brokers.check_open()?;
        self.inner.brokers.topics.find(partition).await?;
        self.inner.brokers.watermarks(partition).await
    }

    async fn offset_for(&self, partition: &TopicPartition, start: Start) -> Result<Offset, Error> {
        match start {
            Start::Earliest => Ok(self.watermarks(partition).await?.start),
            Start::Latest => Ok(self.watermarks(partition).await?.end),
            Start::At(time) => {
                self.inner.brokers.check_open()?;
                self.inner.brokers.topics.find(partition).await?;
                self.inner.brokers.first_since(partition, time.0).await
            }
        }
    }

    async fn append(&self, appends: Vec<Append>) -> Result<Vec<Appended>, Error> {
        self.inner.brokers.check_open()?;
        let appends = self.inner.check_appends(appends).await?;
        self.inner.send(appends, true).await
    }

    async fn commit(&self, commit: Commit) -> Result<Vec<Appended>, Error> {
        self.inner.brokers.check_open()?;
        self.inner.commit(commit).await
    }

    async fn recover(&self, shard: ShardId, epoch: Epoch) -> Result<Recovered, Error> {
        self.inner.brokers.check_open()?;
        self.inner.recover(shard, epoch).await
    }

    async fn positions(&self) -> Result<Vec<(PositionKey, Position)>, Error> {
        let known = self.inner.ledger().positions();
        let there = known.into_iter().filter(|(key, id, _)| {
            let topic = self.inner.brokers.topics.get(&key.partition.topic);
            topic.is_none_or(|topic| topic.id() == *id)
        });
        Ok(there.map(|(key, _, position)| (key, position)).collect())
    }

    async fn settled(&self, shards: &[ShardId]) -> Result<Vec<(PositionKey, Position)>, Error> {
        self.inner.brokers.check_open()?;
        self.inner.settled(shards).await
    }

    async fn forget_shard(&self, shard: ShardId) -> Result<(), Error> {
        self.inner.brokers.check_open()?;
        let gate = self.inner.gate(shard);
        let _turn = gate.lock().await;
        self.inner.forget_group(shard).await?;
        self.inner.ledger().forget(shard);
        self.inner.rewrite_log().await
    }

    async fn answers(&self, within: Duration) -> bool {
        self.inner.brokers.answer_within(within).await
    }

    fn share(&self, is_shared: bool) {
        self.inner.suspicion.share(is_shared);
    }

    fn fence(&self, shard: ShardId, epoch: Epoch) {
        self.inner.ledger().fence(shard, epoch);
    }

    async fn release(&self, shards: &[ShardId]) -> Result<(), Error> {
        self.inner.brokers.check_open()?;
        self.inner.write_groups(shards).await
    }

    fn handed(&self, shard: ShardId, ends: Epoch) -> Option<Handed> {
        self.inner.ledger().handed(shard, ends)
    }

    async fn agrees(&self, shard: ShardId, handed: &Handed) -> Result<bool, Error> {
        self.inner.brokers.check_open()?;
        self.inner.agrees(shard, handed).await
    }

    async fn take_over(
        &self,
        shard: ShardId,
        epoch: Epoch,
        handed: &Handed,
    ) -> Result<Recovered, Error> {
        self.inner.brokers.check_open()?;
        self.inner.take_over(shard, epoch, handed).await
    }

    async fn reader(
        &self,
        assigned: Vec<(TopicPartition, Offset)>,
    ) -> Result<Box<dyn Reader>, Error> {
        self.inner.brokers.check_open()?;
        let reader = reader::KafkaReader::new(Arc::clone(&self.inner.brokers), assigned).await?;
        Ok(Box::new(reader))
    }

    fn trouble(&self) -> Option<Error> {
        self.inner.brokers.health.trouble()
    }

    async fn close(&self) {
        if !self.inner.shut() {
            return;
        }
        // What is not committed in time is committed by the next start, from the position log.
        drop(tokio::time::timeout(LAST_OFFSETS, self.inner.follow_up(false)).await);
        self.inner.offsets.give_up();
        let inner = Arc::clone(&self.inner);
        let ended = blocking(move || {
            inner.producers.end();
            inner.brokers.lanes.end();
        });
        if ended.await.is_err() {
            tracing::debug!("the clients end with the process");
        }
    }
}

impl Drop for KafkaBus {
    fn drop(&mut self) {
        self.inner.shut();
        self.inner.offsets.give_up();
    }
}
