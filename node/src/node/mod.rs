//! A node: the bus, the wasm engine, the cluster's state and the shards of this process, wired
//! together. Applications are deployed into it, now and while it runs.

mod backups;
mod control;
mod converge;
mod dead_letters;
mod deploy;
mod doctor;
mod effective;
mod feed;
mod figures;
mod growth;
mod handed;
mod handing;
mod history;
mod invoke;
mod kafka;
mod labels;
mod logbook;
mod packages;
pub(crate) mod peers;
mod plan;
mod planner;
mod prepare;
mod relief;
mod replays;
mod restore;
mod retire;
mod running;
mod scaling;
mod settings;
mod shares;
mod site;
mod status;
mod subscribers;
mod topics;
mod traces;
mod triggers;
mod trust;
mod upgrade;
mod weighing;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus::Bus;
use bus::embedded::{Embedded, EmbeddedConfig};
use cluster::Cluster;
use function::Name;
use runtime::{Engine, EngineConfig, LogSink, Spawner, Workers, WorkersConfig};
use storage::SledPositions;
use tokio_util::sync::CancellationToken;

pub use control::check_alias;
pub use deploy::{Deployed, Refusal};
pub use doctor::examine_machine;
pub use feed::FeedProgress;
pub use history::History;
pub(crate) use invoke::describe_metrics as describe_call_metrics;
pub use kafka::Kafka;
pub use peers::PeerSettings;
pub use settings::{NodeFlags, Settings, TraceSettings};
pub use site::Site;
pub use subscribers::SubscriberSettings;
pub(crate) use traces::describe_metrics as describe_trace_metrics;

use crate::commands::error::{CommandError, exit};
use kafka::Groups;
use packages::PackageStore;
use peers::{Folder, Peers};

/// How long what is in flight may take to end when a shard leaves while the node goes on.
pub const DRAIN_PATIENCE: Duration = Duration::from_millis(1_500);

/// How long it waits until its worker processes, which have nothing to do any more, are gone.
const WORKERS_PATIENCE: Duration = Duration::from_secs(1);

/// How long it waits until the last spans are with their collector.
const TRACES_PATIENCE: Duration = Duration::from_millis(500);

/// What Kafka events, and messages about them, name as their brokers.
fn brokers_of(kafka: Option<&Kafka>) -> &str {
    kafka.map_or("embedded.millrace:9092", |kafka| &kafka.brokers)
}

/// A running node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    /// The cluster's name; alone the node's own.
    whole: String,
    data_dir: PathBuf,
    started_at: Instant,
    started: bus::Timestamp,
    bus: Arc<dyn Bus>,
    /// The brokers, if the bus is not the node's own.
    kafka: Option<Kafka>,
    groups: Groups,
    /// Takes spans to a collector, if batches are traced.
    exporter: Option<Arc<traces::Exporter>>,
    trace_settings: Option<TraceSettings>,
    /// What the shards are told of that.
    traces: Option<dispatch::Traces>,
    /// How the names of park topics begin: two installations on one Kafka have two.
    park_prefix: String,
    /// And those of history topics.
    history_prefix: String,
    history: History,
    engine: Arc<Engine>,
    workers: Arc<Workers>,
    packages: Arc<PackageStore>,
    cluster: Cluster,
    /// What an operator says that it has.
    labels: BTreeSet<Name>,
    /// The other nodes, if the node belongs to a cluster.
    peers: Option<Arc<Peers>>,
    /// One for all shards.
    read_ahead: Arc<dispatch::ReadAhead>,
    /// For shards that run what may have ended the node.
    turns: Arc<tokio::sync::Semaphore>,
    /// Held by whoever changes applications, triggers or positions, from its first look to its end.
    changes: tokio::sync::Mutex<()>,
    /// What runs. Held while that changes: nothing that may take long is waited for.
    apps: tokio::sync::Mutex<running::Apps>,
    ownership: Mutex<converge::Ownership>,
    /// What owners before have said of shards that come here.
    inheritance: Arc<handed::Inheritance>,
    preparing: Mutex<restore::Preparing>,
    /// Wakes who follows the state when something else has changed.
    wake: tokio::sync::Notify,
    seat: tokio::sync::Mutex<planner::Seat>,
    /// What status shows, kept apart so that it never waits for a deploy.
    shown: Mutex<status::Shown>,
    feed: Mutex<Option<FeedProgress>>,
    logbook: Arc<logbook::Logbook>,
    calls: invoke::Calls,
    redrives: Mutex<dead_letters::Redrives>,
    replays: Mutex<replays::Replays>,
    /// Histories that somebody asked for of late.
    books: Mutex<history::Books>,
    /// Held while a redrive begins, and while an edit is written.
    redriving: tokio::sync::Mutex<()>,
    /// How long what is in flight may take to end with the node.
    drain: Duration,
    shutdown: CancellationToken,
    /// Cancelled when what runs here ends for good.
    over: CancellationToken,
    warnings: Vec<String>,
}

impl Node {
    /// Opens the data directory and everything in it. Nothing runs yet.
    ///
    /// # Errors
    ///
    /// With the code of what is wrong, and what to do about it.
    pub async fn open(
        data_dir: &Path,
        name: &str,
        spawner: Spawner,
        logs: Option<LogSink>,
        settings: Settings,
    ) -> Result<Self, CommandError> {
        let Settings { site, kafka, history, traces, cluster: place, subscribers } = settings;
        std::fs::create_dir_all(data_dir).map_err(|error| {
            let message = format!("cannot make {}: {error}", data_dir.display());
            CommandError::new(exit::FAILED, "E0410", message)
                .help("choose another folder with --data")
        })?;
        check_lock(data_dir)?;
        let mut warnings = Vec::new();
        let opened = SledPositions::open(&data_dir.join("sled")).map_err(|error| {
            let message = format!("cannot open the positions: {}", chain(&error));
            CommandError::new(exit::FAILED, "E0410", message)
        })?;
        if let Some(aside) = opened.quarantined {
            let text = format!(
                "the positions were damaged and are read again from the bus; the old ones are {}",
                aside.display()
            );
            tracing::warn!("{text}");
            warnings.push(text);
        }
        let packages = PackageStore::open(data_dir).map_err(|error| {
            let message = format!("cannot open the packages in {}: {error}", data_dir.display());
            CommandError::new(exit::FAILED, "E0410", message)
        })?;
        let packages = Arc::new(packages);
        let (cluster, peers) = open_cluster(data_dir, &place, kafka.is_some(), &packages)?;
        let name = peers.as_ref().map_or(name, |peers| peers.name());
        // What all of its nodes are called together.
        let whole = peers.as_ref().map_or(name, |peers| peers.cluster_name());
        let groups = Groups::default();
        groups.learn_all(&cluster.state());
        let bus = match &kafka {
            Some(kafka) => {
                let neighbours = match &peers {
                    Some(_) => kafka::Neighbours::Some,
                    None => kafka::Neighbours::None,
                };
                kafka::open(kafka, data_dir, whole, &groups, opened.store, neighbours).await?
            }
            None => open_embedded(data_dir, opened.store)?,
        };
        match &peers {
            Some(peers) => peers.open_door(&subscribers, Arc::clone(&bus))?,
            None if subscribers.listen.is_some() => return Err(without_identity()),
            None => {}
        }
        let inheritance = handed::Inheritance::new(Arc::clone(&bus), cluster.clone());
        let inheritance = Arc::new(inheritance);
        if let Some(peers) = &peers {
            peers.inherit_with(Arc::clone(&inheritance));
        }
        let logbook = Arc::new(logbook::Logbook::begun(bus::Timestamp::now()));
        let logs = Some(noted(Arc::clone(&logbook), logs));
        let mut engine = EngineConfig::new(data_dir.join("cache"));
        engine.logs.clone_from(&logs);
        let engine = Engine::new(engine).map_err(|error| {
            let message = format!("cannot start the wasm engine: {}", chain(&error));
            CommandError::new(exit::FAILED, "E0312", message)
        })?;
        let workers = WorkersConfig {
            dir: data_dir.join("workers"),
            path: std::env::var_os("PATH"),
            brokers: brokers_of(kafka.as_ref()).to_owned(),
            control_groups: true,
            logs,
        };
        let workers = Workers::new(spawner, workers).map_err(|error| {
            CommandError::new(exit::FAILED, "E0410", chain(&error))
                .help("look at the folder, or choose another with --data")
        })?;
        let prefix = match &kafka {
            Some(kafka) => format!("millrace.{}", kafka::cluster_of(kafka, data_dir, whole)?),
            None => "millrace".to_owned(),
        };
        let system = if kafka.is_some() { "kafka" } else { "millrace" };
        let start = |it: &TraceSettings| traces::Exporter::start(it, name, system);
        let exporter = traces.as_ref().map(start).transpose()?;
        let trace_settings = traces.clone();
        let traces = traces.zip(exporter.clone()).map(|(settings, spans)| {
            let ratio = settings.ratio;
            dispatch::Traces { ratio, spans }
        });
        let inner = Inner {
            name: name.to_owned(),
            whole: whole.to_owned(),
            data_dir: data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned()),
            started_at: Instant::now(),
            started: bus::Timestamp::now(),
            bus,
            kafka,
            groups,
            exporter,
            trace_settings,
            traces,
            park_prefix: format!("{prefix}.park"),
            history_prefix: format!("{prefix}.history"),
            history,
            books: Mutex::default(),
            engine,
            read_ahead: Arc::default(),
            turns: Arc::new(tokio::sync::Semaphore::new(dispatch::TURNS)),
            workers,
            packages,
            cluster,
            peers: peers.clone(),
            changes: tokio::sync::Mutex::default(),
            apps: tokio::sync::Mutex::default(),
            ownership: Mutex::default(),
            inheritance,
            preparing: Mutex::default(),
            wake: tokio::sync::Notify::new(),
            seat: tokio::sync::Mutex::default(),
            shown: Mutex::default(),
            feed: Mutex::default(),
            logbook,
            calls: invoke::Calls::default(),
            redrives: Mutex::default(),
            replays: Mutex::default(),
            labels: site.labels,
            drain: site.drain,
            redriving: tokio::sync::Mutex::default(),
            shutdown: CancellationToken::new(),
            over: CancellationToken::new(),
            warnings,
        };
        let node = Self { inner: Arc::new(inner) };
        if let Some(peers) = &node.inner.peers {
            peers.run_with(&node.inner);
            drop(tokio::spawn(node.clone().follow_calls()));
        }
        drop(tokio::spawn(node.clone().watch_topics()));
        drop(tokio::spawn(node.clone().follow()));
        drop(tokio::spawn(node.clone().plan_places()));
        drop(tokio::spawn(node.clone().watch_bus()));
        drop(tokio::spawn(node.clone().scale()));
        drop(tokio::spawn(node.clone().weigh_shards()));
        drop(tokio::spawn(node.clone().watch_books()));
        Ok(node)
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.inner.bus)
    }

    /// The other nodes, if it belongs to a cluster.
    #[must_use]
    pub(crate) fn peers(&self) -> Option<Arc<Peers>> {
        self.inner.peers.clone()
    }

    /// How commands address it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Why the node has to end although nobody asked it to, once it has to.
    pub async fn lost_membership(&self) -> CommandError {
        match &self.inner.peers {
            Some(peers) => peers.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Cancelled when somebody asked the node to end.
    #[must_use]
    pub fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }

    /// Gives away what other members can run, finishes what is in flight, for at most as long as
    /// `drain` of its settings, and closes the files.
    pub async fn end(&self) {
        self.inner.shutdown.cancel();
        self.retire().await;
        self.inner.calls.quiet(self.inner.drain).await;
        self.inner.over.cancel();
        let apps = std::mem::take(&mut *self.inner.apps.lock().await);
        let (mut drains, mut pools) = (Vec::new(), Vec::new());
        for function in apps.into_values().flat_map(|app| app.functions.into_values()) {
            pools.push(function.pool);
            let shards = function.shards.into_iter();
            drains.extend(shards.map(|shard| tokio::spawn(shard.drain(self.inner.drain))));
        }
        for drain in drains {
            // A task that panicked has nothing more to finish.
            drop(drain.await);
        }
        let idle = async {
            for pool in pools {
                pool.drain().await;
            }
        };
        // What still runs is killed with the node.
        drop(tokio::time::timeout(WORKERS_PATIENCE, idle).await);
        self.inner.workers.wait_gone(WORKERS_PATIENCE).await;
        if let Some(peers) = &self.inner.peers {
            peers.close_door().await;
        }
        self.inner.bus.close().await;
        if let Some(peers) = &self.inner.peers {
            peers.close().await;
        }
        self.inner.cluster.close().await;
        if let Some(exporter) = self.inner.exporter.clone() {
            let end = move || exporter.end(TRACES_PATIENCE);
            // It ends by its own clock, and has nothing to say.
            drop(tokio::task::spawn_blocking(end).await);
        }
    }
}

/// Takes every line into the book, and on to whoever else wants it.
fn noted(book: Arc<logbook::Logbook>, shown: Option<LogSink>) -> LogSink {
    Arc::new(move |line| {
        if let Some(shown) = &shown {
            shown(line.clone());
        }
        book.note(line);
    })
}

/// A log that cannot be written ends the process: what reached the disk is unknown, and the next
/// start finds out.
fn open_cluster(
    data_dir: &Path,
    place: &PeerSettings,
    has_kafka: bool,
    packages: &Arc<PackageStore>,
) -> Result<(Cluster, Option<Arc<Peers>>), CommandError> {
    let on_fatal: cluster::OnFatal = Arc::new(|reason| {
        tracing::error!(reason, "the cluster's log cannot be trusted any more: ending");
        std::process::abort();
    });
    let open =
        |config| Cluster::open(data_dir, config, on_fatal).map_err(|error| cluster_failed(&error));
    if !Folder::of(data_dir).is_there() {
        return Ok((open(cluster::Config::alone())?, None));
    }
    let peers = Arc::new(Peers::open(data_dir, place, has_kafka, Arc::clone(packages), open)?);
    Ok((peers.cluster().clone(), Some(peers)))
}

/// Why the cluster's log cannot be opened.
pub(crate) fn cluster_failed(error: &cluster::Error) -> CommandError {
    let (code, help) = match error {
        cluster::Error::Former(_) => {
            ("E0418", "choose another folder with --data, or move this one away")
        }
        cluster::Error::Unread { format } => return upgrade::unread(*format),
        cluster::Error::Damaged { .. } => ("E0403", "restore the folder from a backup"),
        _ => ("E0412", "look at the disk, then start again"),
    };
    CommandError::new(exit::FAILED, code, chain(error)).help(help)
}

fn open_embedded(data_dir: &Path, positions: SledPositions) -> Result<Arc<dyn Bus>, CommandError> {
    let opened = Embedded::open(EmbeddedConfig::new(data_dir), Some(Arc::new(positions)));
    let bus = opened.map_err(|error| {
        let (code, help) = match &error {
            bus::Error::InUse { .. } => {
                ("E0402", "end that process first, or choose another folder with --data")
            }
            bus::Error::Corrupt(_) => {
                ("E0403", "restore the folder from a backup; nothing of a damaged journal is read")
            }
            bus::Error::DiskFull { .. } => ("E0401", "make room, then start again"),
            _ => ("E0410", "look at the folder, or choose another with --data"),
        };
        let message = format!("cannot open {}: {}", data_dir.display(), chain(&error));
        CommandError::new(exit::FAILED, code, message).help(help)
    })?;
    Ok(bus)
}

/// Several nodes share no embedded bus.
fn without_kafka() -> CommandError {
    let message = "the bus of a node is its own: a member of several needs a Kafka";
    CommandError::new(exit::UNUSABLE, "E0577", message)
        .help("start every node with --kafka HOST:PORT, or `brokers` in [kafka] of its file")
}

/// What a subscriber knows a node by is the CA of its cluster.
fn without_identity() -> CommandError {
    let message = "subscribers know a node by its cluster's CA, and this node is in no cluster";
    CommandError::new(exit::UNUSABLE, "E0426", message).help(
        "`millrace init --data DIR --peers-listen 127.0.0.1:7400` makes it the first node of one; \
         what it has stays",
    )
}

/// Who has the directory, before anything in it is touched. The bus takes the lock itself.
pub(crate) fn check_lock(data_dir: &Path) -> Result<(), CommandError> {
    let Ok(file) = std::fs::File::open(data_dir.join("lock")) else { return Ok(()) };
    if !matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)) {
        return Ok(());
    }
    let pid = std::fs::read_to_string(data_dir.join("lock")).unwrap_or_default();
    let message = format!("{} is in use by process {}", data_dir.display(), pid.trim());
    Err(CommandError::new(exit::FAILED, "E0402", message)
        .help("end that process first, or choose another folder with --data"))
}

/// An error and what it came from, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
