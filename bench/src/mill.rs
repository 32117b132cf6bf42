//! One node's way of a record in one process, wired as the binary does it: the embedded bus with
//! its position view, the wasm engine, and a shard per partition. The load comes from here too.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::embedded::{Embedded, EmbeddedConfig};
use bus::{
    Append, BatchBuilder, Bus, Epoch, Headers, Offset, RecordBatch, Retention, ShardId, Start,
    Timestamp, TopicPartition, TopicSpec,
};
use dispatch::{DispatchConfig, Order, ReadAhead, Revision, ShardConfig, ShardHandle};
use runtime::{Calling, Engine, EngineConfig, Module, PoolConfig};
use storage::SledPositions;

use crate::Failed;
use crate::environment::{Meter, Seen, resident_mib};
use crate::figures::Sorted;

/// The function that is run: every record comes out as it went in.
pub(crate) const COMPONENT: &[u8] = include_bytes!("../../tests/components/identity.wasm");
/// Records in a batch, of the load and of the trigger.
pub(crate) const BATCH: usize = 500;
/// With the key of 10 bytes a record has 200.
pub(crate) const VALUE_BYTES: usize = 190;
/// Appends that the load keeps on their way, so that they share syncs.
const APPENDS_IN_FLIGHT: usize = 4;
/// Without an output for so long, a run failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bounds of a history that a node has where nothing else is said.
const HISTORY: Retention = Retention { age: None, bytes: Some(64 << 20) };

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) records: u64,
    pub(crate) partitions: i32,
    /// Functions deployed; all but one read topics that stay empty.
    pub(crate) functions: u64,
    /// Records per second by intended send time; `None` is as fast as they are taken.
    pub(crate) rate: Option<u64>,
    /// Whether the load is there before the function starts.
    pub(crate) backlog: bool,
    /// Whether shards tell what became of records, as a node's do.
    pub(crate) history: bool,
}

/// What one run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seen: Seen,
    pub(crate) records: u64,
    pub(crate) batch: f64,
    pub(crate) resident_mib: u64,
    /// What the history takes.
    pub(crate) history_bytes: u64,
    /// From intended send time to the output read, one record a batch, milliseconds.
    pub(crate) latency_ms: Sorted,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.records as f64 / self.seen.took.as_secs_f64()
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.seen.cpu.as_secs_f64() * 1e6 / self.records as f64
    }
}

/// Runs a plan in a new data directory under `dir`. A run that lost a record failed.
pub(crate) async fn run(dir: &Path, plan: Plan) -> Result<Outcome, Failed> {
    let data = tempfile::tempdir_in(dir)?;
    let positions = SledPositions::open(&data.path().join("sled"))?.store;
    let config = EmbeddedConfig::new(data.path());
    let bus: Arc<dyn Bus> = Embedded::open(config, Some(Arc::new(positions)))?;
    for topic in ["in", "out"] {
        bus.create_topic(TopicSpec::new(topic, plan.partitions)).await?;
    }
    bus.create_topic(TopicSpec::new("dead", 1)).await?;
    let history = TopicSpec { retention: HISTORY, ..TopicSpec::new("history", 1) };
    bus.create_topic(history).await?;
    let engine = Engine::new(EngineConfig::new(dir.join("cache")))?;
    let module = engine.load(COMPONENT)?;

    let read_ahead = Arc::new(ReadAhead::default());
    let mut idle = Vec::new();
    for function in 1..plan.functions {
        let topic = format!("idle-{function}");
        bus.create_topic(TopicSpec::new(topic.as_str(), 1)).await?;
        let revision = revision(&engine, &module, &topic);
        let id = ShardId(1_000_000 + function);
        idle.push(shard(&bus, id, &topic, 0, (&revision, &read_ahead), plan));
    }
    let idle = all(idle).await?;
    let load = Load::new(plan);
    if plan.backlog {
        load.send(&bus, Instant::now()).await?;
    }

    let revision = revision(&engine, &module, "identity");
    let with = (&revision, &read_ahead);
    let meter = Meter::start();
    let started_at = Instant::now();
    let shards = (0..plan.partitions)
        .map(|partition| shard(&bus, ShardId(partition as u64 + 1), "in", partition, with, plan));
    let shards = all(shards.collect()).await?;
    let counting = tokio::spawn(count(Arc::clone(&bus), plan, started_at));
    if !plan.backlog {
        load.send(&bus, started_at).await?;
    }
    let latency_ms = counting.await??;
    let seen = meter.stop();

    let resident_mib = resident_mib("VmRSS");
    let (mut attempts, mut invocations) = (0, 0);
    for shard in &shards {
        let counters = shard.stats().counters;
        attempts += counters.attempts;
        invocations += counters.invocations;
    }
    let history = bus.watermarks(&TopicPartition::new("history", 0)).await?;
    drop((shards, idle));
    bus.close().await;
    let batch = attempts as f64 / invocations.max(1) as f64;
    Ok(Outcome {
        seen,
        records: plan.records,
        batch,
        resident_mib,
        history_bytes: history.bytes,
        latency_ms,
    })
}

/// Starts shards together: they share the syncs of their epochs, as those of a node do.
async fn all<F>(starts: Vec<F>) -> Result<Vec<ShardHandle>, Failed>
where
    F: Future<Output = Result<ShardHandle, dispatch::StartError>> + Send + 'static,
{
    let tasks: Vec<_> = starts.into_iter().map(tokio::spawn).collect();
    let mut handles = Vec::with_capacity(tasks.len());
    for task in tasks {
        handles.push(task.await??);
    }
    Ok(handles)
}

fn revision(engine: &Engine, module: &Module, name: &str) -> Revision {
    let config = PoolConfig::new(name);
    let instances = config.max as usize;
    Revision::new("00000000", engine.pool(module, config), instances)
}

fn shard(
    bus: &Arc<dyn Bus>,
    id: ShardId,
    topic: &str,
    partition: i32,
    (revision, read_ahead): (&Revision, &Arc<ReadAhead>),
    plan: Plan,
) -> impl Future<Output = Result<ShardHandle, dispatch::StartError>> + Send + 'static {
    let config = ShardConfig {
        shard: id,
        epoch: Epoch(1),
        cluster: "bench".into(),
        function: "identity".into(),
        trigger: "bench/identity/identity".into(),
        partitions: vec![TopicPartition::new(topic, partition)],
        start: Start::Earliest,
        dispatch: dispatch_config(plan),
        filter: None,
        output_topic: Some("out".into()),
        allow_produce: Vec::new(),
        dead_letter: "dead".into(),
        destinations: dispatch::Destinations::default(),
        park_topic: None,
        history_topic: plan.history.then(|| "history".into()),
        timeout: Duration::from_secs(30),
        read_ahead: Arc::clone(read_ahead),
        turns: Arc::new(tokio::sync::Semaphore::new(dispatch::TURNS)),
        calling: Calling::default(),
        paused: false,
        replay: None,
        traces: None,
    };
    dispatch::start(Arc::clone(bus), config, revision.clone())
}

/// The defaults; for a backlog those that make every batch a whole one, whatever the partitions:
/// by key a batch leaves strands to the next one, and a window that is no multiple of a batch cuts
/// the last one short.
fn dispatch_config(plan: Plan) -> DispatchConfig {
    let mut config = DispatchConfig::default();
    if plan.backlog {
        config.order = Order::None;
        config.window.records = NonZeroUsize::new(8 * BATCH).expect("not zero");
    }
    config
}

/// Reads every output there should be.
async fn count(bus: Arc<dyn Bus>, plan: Plan, started_at: Instant) -> Result<Sorted, Failed> {
    let assigned = (0..plan.partitions).map(|it| (TopicPartition::new("out", it), Offset(0)));
    let mut reader = bus.reader(assigned.collect()).await?;
    let (mut outputs, mut latency_ms) = (0, Vec::new());
    while outputs < plan.records {
        let fetched = tokio::time::timeout(PATIENCE, reader.fetch(4 << 20)).await;
        let Ok(fetched) = fetched else {
            return Err(format!("{outputs} outputs of {} inputs", plan.records).into());
        };
        let now = started_at.elapsed();
        for it in fetched? {
            outputs += it.batch.len() as u64;
            let sent = it.batch.get(0).value.and_then(|value| value.first_chunk::<8>());
            let sent = Duration::from_nanos(sent.map_or(0, |it| u64::from_le_bytes(*it)));
            latency_ms.push(now.saturating_sub(sent).as_secs_f64() * 1e3);
        }
    }
    if outputs != plan.records {
        return Err(format!("{outputs} outputs of {} inputs", plan.records).into());
    }
    Ok(Sorted::new(latency_ms))
}

/// Batches in the order in which they are sent, round the partitions.
#[derive(Debug)]
struct Load {
    plan: Plan,
    /// Keys by partition.
    keys: Vec<Vec<String>>,
}

impl Load {
    fn new(plan: Plan) -> Self {
        let partitions = plan.partitions.max(1);
        let mut keys = vec![Vec::new(); partitions.cast_unsigned() as usize];
        let wanted = 10_000.max(128 * keys.len());
        for index in 0..wanted {
            let key = format!("key-{index:06}");
            let partition = bus::partition_for_key(key.as_bytes(), partitions);
            keys[partition.cast_unsigned() as usize].push(key);
        }
        Self { plan, keys }
    }

    /// Sends all of it; each record says when it was meant to be sent.
    async fn send(&self, bus: &Arc<dyn Bus>, started_at: Instant) -> Result<(), Failed> {
        let mut sends = tokio::task::JoinSet::new();
        let (mut sent, mut turn) = (0, 0);
        while sent < self.plan.records {
            // Up to eight batches in one append.
            let due = self.plan.rate.map_or_else(
                || started_at.elapsed(),
                |rate| Duration::from_secs_f64(sent as f64 / rate as f64),
            );
            tokio::time::sleep_until((started_at + due).into()).await;
            let mut appends = Vec::new();
            while appends.len() < 8 && sent < self.plan.records {
                let partition = turn % self.keys.len();
                let records = (BATCH as u64).min(self.plan.records - sent);
                let batch = self.batch(partition, turn / self.keys.len(), records, due);
                let to = TopicPartition::new("in", partition as i32);
                appends.push(Append { to, batch });
                (sent, turn) = (sent + records, turn + 1);
            }
            // With a rate nothing waits for an answer: what queues up shows in the latency.
            if self.plan.rate.is_none() && APPENDS_IN_FLIGHT <= sends.len() {
                sends.join_next().await.transpose()?.transpose()?;
            }
            let bus = Arc::clone(bus);
            sends.spawn(async move { bus.append(appends).await });
        }
        while let Some(done) = sends.join_next().await {
            done??;
        }
        Ok(())
    }

    fn batch(&self, partition: usize, turn: usize, records: u64, due: Duration) -> RecordBatch {
        let mut builder = BatchBuilder::default();
        let mut value = [b'v'; VALUE_BYTES];
        let due = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        value[..8].copy_from_slice(&due.to_le_bytes());
        let (keys, now) = (&self.keys[partition], Timestamp::now());
        let first = turn * BATCH;
        for index in first..first + records as usize {
            let key = keys[index % keys.len()].as_bytes();
            builder.push(now, Some(key), Some(&value), Headers::default());
        }
        builder.finish().expect("a batch has records")
    }
}
