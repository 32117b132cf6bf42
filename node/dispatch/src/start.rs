//! Brings a shard up, and is what holds it from then on. A shard that cannot start is one that has
//! stopped, with its reason, or, where the bus may answer later, one that tries again by itself:
//! the others of its node are none of its business.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bus::{Bus, Handed, Offset, Position, Reader, ShardId, Suspects, Timestamp, TopicPartition};
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::{Driver, Question, Revision, ShardConfig};
use crate::envelope::Beginning;
use crate::metrics::SHARD_STARTS;
use crate::park_topic;
use crate::scaling::{self, Scaled};
use crate::stats::{ShardStats, StatsKeeper};
use crate::{Legacy, Order, PartitionStart, ShardDispatch, Standing, State, StopReason, Wait};

/// Pauses between attempts to start: the first, and the longest. Brokers that are back are met by
/// a shard that waited for them within seconds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Questions that wait for a shard.
const QUESTIONS_MAX: usize = 16;

/// The shard could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bus refused.
    #[error("start shard {shard}")]
    Bus {
        /// Which.
        shard: ShardId,
        /// The bus's account.
        source: bus::Error,
    },
}

/// A shard, running, waiting to or stopped. Dropping it ends the shard without finishing.
#[derive(Debug)]
pub struct ShardHandle {
    stats: Arc<Mutex<StatsKeeper>>,
    revision: watch::Sender<Revision>,
    drain: watch::Sender<bool>,
    pause: watch::Sender<bool>,
    width: watch::Sender<NonZeroUsize>,
    /// Invocations that it can use at once.
    most: u32,
    ask: mpsc::Sender<Question>,
    legacy: Arc<OnceLock<Legacy>>,
    task: tokio::task::JoinHandle<()>,
}

/// What a shard begins with that its owner before has handed over.
#[derive(Debug)]
pub struct HandedStart {
    /// Where it stood.
    pub handed: Handed,
    /// What it knew of the park topic; without, the topic is read.
    pub legacy: Option<Legacy>,
    /// Reads from there on.
    pub reader: Box<dyn Reader>,
}

impl ShardHandle {
    /// How a record stands; `None` while the shard does not run.
    pub async fn standing(&self, partition: TopicPartition, offset: Offset) -> Option<Standing> {
        let (answer, answered) = oneshot::channel();
        let question = Question { partition, offset, answer };
        self.ask.send(question).await.ok()?;
        answered.await.ok()?
    }

    /// Runs what starts from now on with this revision; what runs ends on the one it started on.
    pub fn set_revision(&self, revision: Revision) {
        self.revision.send_replace(revision);
    }

    /// Lets what is in flight end and starts nothing more, or goes on.
    pub fn set_paused(&self, paused: bool) {
        self.pause.send_if_modified(|is| std::mem::replace(is, paused) != paused);
    }

    /// So many invocations may run at once from now on, within what it can use.
    pub fn set_width(&self, width: u32) {
        let width = width_of(width);
        self.width.send_if_modified(|is| std::mem::replace(is, width) != width);
    }

    /// What scaling looks at.
    #[must_use]
    pub fn scaled(&self) -> Scaled {
        let load = self.stats.lock().expect("nothing panics while holding it").load();
        Scaled { load, most: self.most }
    }

    /// What it did and does.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        self.stats.lock().expect("nothing panics while holding it").stats()
    }

    /// What it left of its park topic, when it has ended in order.
    #[must_use]
    pub fn legacy(&self) -> Option<Legacy> {
        self.legacy.get().cloned()
    }

    /// Starts nothing more, and waits until what is in flight is durable, at most `patience`.
    /// What has not ended then runs again after the next start.
    pub async fn drain(&self, patience: Duration) {
        self.drain.send_replace(true);
        // The driver holds the other end until it is over.
        if tokio::time::timeout(patience, self.drain.closed()).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for ShardHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a shard: fences older assignments, finds out where to go on, and works from there.
///
/// # Errors
///
/// [`StartError`].
pub async fn start(
    bus: Arc<dyn Bus>,
    config: ShardConfig,
    revision: Revision,
) -> Result<ShardHandle, StartError> {
    let shard = config.shard;
    let (starting, ends) = Starting::new(bus, config, revision);
    let begun = starting.begin().await;
    let begun = begun.map_err(|source| StartError::Bus { shard, source })?;
    Ok(starting.spawn(Ok(begun), ends))
}

/// As [`start`], but it always comes back with a shard: one that cannot start has stopped for the
/// bus's reason, and one whose bus does not answer goes on trying until it is drained. It asks the
/// bus for nothing where what was `handed` over is enough.
pub async fn start_or_wait(
    bus: Arc<dyn Bus>,
    config: ShardConfig,
    revision: Revision,
    handed: Option<HandedStart>,
) -> ShardHandle {
    let (starting, ends) = Starting::new(bus, config, revision);
    let (asked_at, is_handed) = (Instant::now(), handed.is_some());
    let begun = match handed {
        Some(handed) => starting.begin_handed(handed).await,
        None => starting.begin().await,
    };
    let (shard, epoch, took) = (starting.config.shard, starting.config.epoch, asked_at.elapsed());
    tracing::debug!(%shard, %epoch, is_handed, ?took, "the shard begins");
    if let Err(error) = &begun {
        starting.note(error, Instant::now() + PAUSE.0);
    }
    starting.spawn(begun, ends)
}

/// A shard that does not even try to start.
#[must_use]
pub fn stopped(config: ShardConfig, revision: Revision, reason: StopReason) -> ShardHandle {
    let (stats, (revision, _)) = (StatsKeeper::new(&config), watch::channel(revision));
    let ((drain, _), (pause, _)) = (watch::channel(false), watch::channel(config.paused));
    let stats = Arc::new(Mutex::new(stats));
    stop(&config, &mut stats.lock().expect("nothing panics while holding it"), reason);
    let ((width, _), (ask, _)) = (watch::channel(width_of(scaling::BASE)), mpsc::channel(1));
    let (most, task) = (most_of(&config), tokio::spawn(async {}));
    let legacy = Arc::default();
    ShardHandle { stats, revision, drain, pause, width, most, ask, legacy, task }
}

fn width_of(width: u32) -> NonZeroUsize {
    NonZeroUsize::new(width as usize).unwrap_or(NonZeroUsize::MIN)
}

/// How many invocations a shard can use at once.
fn most_of(config: &ShardConfig) -> u32 {
    let most = config.dispatch.invocations_max.get();
    let most = match config.dispatch.order {
        Order::Partition => most.min(config.partitions.len()),
        Order::Key | Order::None => most,
    };
    u32::try_from(most).unwrap_or(u32::MAX)
}

/// Says why a shard has stopped before it ran.
fn stop(config: &ShardConfig, stats: &mut StatsKeeper, reason: StopReason) {
    let ShardConfig { shard, trigger, .. } = config;
    tracing::error!(%shard, %trigger, code = reason.code(), %reason, "the shard cannot start");
    stats.failed(reason.code().to_owned(), reason.to_string());
    stats.set_state(State::Stopped(reason));
}

/// What a handle keeps of its shard.
struct Ends {
    revision: watch::Sender<Revision>,
    drain: watch::Sender<bool>,
    pause: watch::Sender<bool>,
    width: watch::Sender<NonZeroUsize>,
    ask: mpsc::Sender<Question>,
    told: Told,
}

/// What a shard is told while it runs.
pub(crate) struct Told {
    pub(crate) draining: watch::Receiver<bool>,
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) width: watch::Receiver<NonZeroUsize>,
    pub(crate) asked: mpsc::Receiver<Question>,
}

/// A shard that does not run yet.
struct Starting {
    bus: Arc<dyn Bus>,
    config: ShardConfig,
    revisions: watch::Receiver<Revision>,
    stats: Arc<Mutex<StatsKeeper>>,
}

/// Where a shard goes on, and who reads there.
struct Begun {
    starts: Vec<PartitionStart>,
    /// The park topic's partition, and what is in it.
    parked: Option<(TopicPartition, Parked)>,
    reader: Box<dyn Reader>,
}

/// What is in a park topic.
enum Parked {
    /// As it was read there.
    Read(Beginning),
    /// As the owner before has said.
    Left(Legacy),
}

impl Starting {
    fn new(bus: Arc<dyn Bus>, config: ShardConfig, revision: Revision) -> (Self, Ends) {
        let (revision, revisions) = watch::channel(revision);
        let (drain, draining) = watch::channel(false);
        let (pause, paused) = watch::channel(config.paused);
        let stats = Arc::new(Mutex::new(StatsKeeper::new(&config)));
        let (width, widths) = watch::channel(width_of(scaling::BASE));
        let (ask, asked) = mpsc::channel(QUESTIONS_MAX);
        let told = Told { draining, paused, width: widths, asked };
        let ends = Ends { revision, drain, pause, width, ask, told };
        (Self { bus, config, revisions, stats }, ends)
    }

    fn spawn(self, begun: Result<Begun, bus::Error>, ends: Ends) -> ShardHandle {
        let stats = Arc::clone(&self.stats);
        if let Ok(begun) = &begun {
            self.keeper().starts_at(&self.config, &begun.starts);
        }
        let Ends { revision, drain, pause, width, ask, told } = ends;
        let (most, legacy) = (most_of(&self.config), Arc::default());
        let task = tokio::spawn(self.run(begun, told, Arc::clone(&legacy)));
        ShardHandle { stats, revision, drain, pause, width, most, ask, legacy, task }
    }

    fn keeper(&self) -> std::sync::MutexGuard<'_, StatsKeeper> {
        self.stats.lock().expect("nothing panics while holding it")
    }

    /// Asks the bus for all that a start needs.
    async fn begin(&self) -> Result<Begun, bus::Error> {
        let Self { bus, config, .. } = self;
        let recovered = bus.recover(config.shard, config.epoch).await?;
        let mut starts = Vec::with_capacity(config.partitions.len());
        for partition in &config.partitions {
            let known = recovered.positions.iter().find(|(it, _)| it == partition);
            starts.push(match known {
                Some((_, position)) => {
                    let end = bus.watermarks(partition).await?.end;
                    PartitionStart { position: position.clone(), fresh: false, end }
                }
                None => {
                    let next = bus.offset_for(partition, config.start).await?;
                    let position = Position { next, ..Position::default() };
                    PartitionStart { position, fresh: true, end: next }
                }
            });
        }
        for (partition, start) in config.partitions.iter().zip(&starts) {
            if let Some(Suspects { from, until, attempt }) = start.position.suspects {
                let (shard, epoch) = (config.shard, config.epoch);
                let (from, until) = (from.0, until.0);
                tracing::info!(
                    %shard, %epoch, %partition, from, until, attempt,
                    "a node ended while these records may have been running"
                );
            }
        }
        let parked = self.read_parked(&starts).await?;
        let assigned: Vec<(TopicPartition, Offset)> = config
            .partitions
            .iter()
            .zip(&starts)
            .map(|(partition, start)| (partition.clone(), start.position.next))
            .collect();
        let reader = bus.reader(assigned).await?;
        metrics::counter!(SHARD_STARTS, "from" => "bus").increment(1);
        Ok(Begun { starts, parked, reader })
    }

    /// What is in the park topic: read to its end, before the main one.
    async fn read_parked(
        &self,
        starts: &[PartitionStart],
    ) -> Result<Option<(TopicPartition, Parked)>, bus::Error> {
        let Self { bus, config, .. } = self;
        let Some(place) = park_topic::place(bus.as_ref(), config)? else { return Ok(None) };
        let positions: Vec<_> = starts.iter().map(|it| it.position.clone()).collect();
        let found = park_topic::begin(bus.as_ref(), config, &place, &positions).await?;
        Ok(Some((place, Parked::Read(found))))
    }

    /// Begins where the owner before has ended. Nothing that it left can have ended its node.
    async fn begin_handed(&self, given: HandedStart) -> Result<Begun, bus::Error> {
        let Self { bus, config, .. } = self;
        let HandedStart { handed, legacy, reader } = given;
        let rows = &handed.rows;
        if !rows.iter().map(|it| &it.partition).eq(&config.partitions) {
            // Two may not read one partition for one shard.
            drop(reader);
            return self.begin().await;
        }
        if let Err(error) = bus.take_over(config.shard, config.epoch, &handed).await {
            tracing::debug!(shard = %config.shard, %error, "what was handed over is not used");
            drop(reader);
            return self.begin().await;
        }
        let start = |position: &Position| PartitionStart {
            position: position.clone(),
            fresh: false,
            end: position.next,
        };
        let starts: Vec<_> = rows.iter().map(|it| start(&it.position)).collect();
        let parked = match legacy {
            Some(left) if left.fits(&config.dispatch, starts.len()) => {
                let place = park_topic::place(bus.as_ref(), config)?;
                place.map(|place| (place, Parked::Left(left)))
            }
            _ => self.read_parked(&starts).await?,
        };
        metrics::counter!(SHARD_STARTS, "from" => "owner").increment(1);
        Ok(Begun { starts, parked, reader })
    }

    /// Tries until it runs, and runs it, unless the bus refuses for good or it is drained.
    async fn run(
        self,
        mut begun: Result<Begun, bus::Error>,
        mut told: Told,
        legacy: Arc<OnceLock<Legacy>>,
    ) {
        let mut pause = PAUSE.0;
        loop {
            match begun {
                Ok(begun) => {
                    self.keeper().starts_at(&self.config, &begun.starts);
                    return self.drive(begun, told, legacy).await;
                }
                Err(error) if !error.is_retryable() => return,
                Err(_) => {}
            }
            let again = async {
                tokio::time::sleep(pause).await;
                self.begin().await
            };
            begun = tokio::select! {
                again = again => again,
                _drained = told.draining.changed() => return,
            };
            pause = PAUSE.1.min(2 * pause);
            if let Err(error) = &begun {
                self.note(error, Instant::now() + pause);
            }
        }
    }

    /// Says what keeps the shard from starting: why it waits, or has stopped.
    fn note(&self, error: &bus::Error, until: Instant) {
        let mut stats = self.keeper();
        let reason = StopReason::of(error);
        if !error.is_retryable() {
            return stop(&self.config, &mut stats, reason);
        }
        let (code, message) = (reason.code().to_owned(), reason.to_string());
        if matches!(stats.state(), State::Running) {
            let ShardConfig { shard, trigger, .. } = &self.config;
            tracing::warn!(%shard, %trigger, code, message, "the shard waits to start");
        }
        stats.set_state(State::Waiting(Wait { code, message, until }));
    }

    async fn drive(self, begun: Begun, told: Told, legacy: Arc<OnceLock<Legacy>>) {
        let Self { bus, config, revisions, stats } = self;
        let Begun { starts, parked, reader } = begun;
        let mut dispatch = config.dispatch.clone();
        if parked.is_none() {
            dispatch.park = None;
        }
        let (now, wall) = (Instant::now(), Timestamp::now());
        let seed = match &parked {
            Some((_, Parked::Left(left))) => left.seed(),
            _ => rand::random(),
        };
        let mut core = ShardDispatch::new(dispatch, config.epoch, &starts, seed, now, wall);
        let place = parked.map(|(place, parked)| {
            match parked {
                Parked::Read(Beginning { resumed, untold }) => core.resume_parked(resumed, untold),
                Parked::Left(left) => core.resume(left),
            }
            place
        });
        let driver = Driver::new(bus, config, core, place, revisions, stats);
        driver.run(legacy, reader, told).await;
    }
}
