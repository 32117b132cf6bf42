//! Makes pools of worker processes: what they are started with, where, and how often a revision
//! that cannot start is tried.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::api::random;
use super::backoff::Backoff;
use super::bootstrap;
use super::environment::{Facts, environment};
use super::instance::Instance;
use super::memory::Groups;
use super::program::{Language, Missing, Program};
use super::spawner::{Order, Spawner};
use super::worker::Setup;
use crate::logs::{LogSink, Logs, Output};
use crate::pool::Pools;
use crate::{Failure, FailureKind, Pool, PoolConfig};

/// How often pools expire what is idle.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Descriptors that a worker may have open: as many as on Lambda.
const FILES_MAX: u64 = 1_024;

/// Settings of all process workers of a node.
#[derive(Clone)]
pub struct WorkersConfig {
    /// Where bootstraps and scratch folders are kept; of this node alone.
    pub dir: PathBuf,
    /// Where interpreters are looked for, as PATH has it.
    pub path: Option<OsString>,
    /// What Kafka events name as their brokers.
    pub brokers: String,
    /// Whether control groups are used where they can be. Without them the node itself looks at
    /// what is resident, every 50 ms while something runs.
    pub control_groups: bool,
    /// Takes the log lines of functions.
    pub logs: Option<LogSink>,
}

impl std::fmt::Debug for WorkersConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkersConfig").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Process workers cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("prepare {} for process workers", dir.display())]
pub struct WorkersError {
    /// The folder.
    pub dir: PathBuf,
    source: io::Error,
}

/// What a revision's workers run.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// The executable.
    pub program: Program,
    /// What of the package is called; for [`Language::Provided`] the executable may read it.
    pub handler: String,
    /// The package's folder.
    pub package: PathBuf,
    /// Variables of the manifest.
    pub env: BTreeMap<String, String>,
    /// The revision's name.
    pub revision: String,
    /// How long one invocation may run: a second start may take as long.
    pub timeout: Duration,
}

/// Starts worker processes.
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    pools: Pools,
    programs: Mutex<HashMap<Language, Program>>,
    path: Option<OsString>,
    handle: tokio::runtime::Handle,
    housekeeping: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    spawner: Spawner,
    /// Where bootstraps are.
    runtime_dir: PathBuf,
    scratch_dir: PathBuf,
    /// Held by every worker until it is buried.
    living: Arc<()>,
    groups: Groups,
    brokers: String,
    logs: Option<Logs>,
}

/// What instances of one pool are made from.
#[derive(Debug)]
pub(crate) struct Template {
    shared: Arc<Shared>,
    pub(crate) spec: WorkerSpec,
    pub(crate) function: Arc<str>,
    pub(crate) memory_bytes_max: u64,
    start_max: Duration,
    backoff: Mutex<(Backoff, Option<Failure>)>,
}

impl Workers {
    /// Whether the kernel keeps workers to their memory; else the node does.
    #[must_use]
    pub fn limits_memory(&self) -> bool {
        self.shared.groups != Groups::None
    }

    /// Makes ready what workers need. Call it within the runtime that is to serve them.
    ///
    /// # Errors
    ///
    /// When the folder cannot be used.
    pub fn new(spawner: Spawner, config: WorkersConfig) -> Result<Arc<Self>, WorkersError> {
        let failed = |source| WorkersError { dir: config.dir.clone(), source };
        let scratch_dir = config.dir.join("scratch");
        // What a node that was killed has left behind.
        match std::fs::remove_dir_all(&scratch_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        std::fs::create_dir_all(&scratch_dir).map_err(failed)?;
        let runtime_dir = bootstrap::install(&config.dir).map_err(failed)?;
        let scratch_dir = scratch_dir.canonicalize().map_err(failed)?;
        let groups = if config.control_groups { Groups::probe() } else { Groups::None };
        groups.sweep();
        tracing::debug!(?groups, "memory limits of process workers");
        let logs = config.logs.map(Logs);
        let brokers = config.brokers;
        let living = Arc::default();
        let shared = Shared { spawner, runtime_dir, scratch_dir, living, groups, brokers, logs };
        let pools = Pools::default();
        let told = pools.clone();
        let housekeeping = tokio::spawn(async move {
            let mut interval = tokio::time::interval(HOUSEKEEPING);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                told.on_time(Instant::now());
            }
        });
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            pools,
            programs: Mutex::default(),
            path: config.path,
            handle: tokio::runtime::Handle::current(),
            housekeeping,
        }))
    }

    /// The executable for a language; looked for the first time, remembered once it is found.
    ///
    /// # Errors
    ///
    /// [`Missing`].
    pub async fn program(&self, language: Language) -> Result<Program, Missing> {
        let programs = || self.programs.lock().expect("nothing panics while holding it");
        let known = programs().get(&language).cloned();
        if let Some(program) =
            known.filter(|it| it.path.as_os_str().is_empty() || it.path.is_file())
        {
            return Ok(program);
        }
        let path = self.path.clone();
        let found = tokio::task::spawn_blocking(move || language.find(path.as_deref())).await;
        let found = found.unwrap_or_else(|error| {
            let reason = format!("the search ended: {error}");
            Err(Missing { language, reason })
        })?;
        programs().insert(language, found.clone());
        Ok(found)
    }

    /// A pool of processes.
    #[must_use]
    pub fn pool(&self, spec: WorkerSpec, config: PoolConfig) -> Arc<Pool> {
        let template = Template {
            shared: Arc::clone(&self.shared),
            spec,
            function: config.name.as_str().into(),
            memory_bytes_max: config.memory_bytes_max as u64,
            start_max: config.start_max,
            backoff: Mutex::default(),
        };
        let template = crate::kind::Template::Process(Box::new(template));
        let pool = Arc::new(Pool::new(template, config, self.handle.clone()));
        self.pools.add(&pool);
        pool
    }

    /// Waits until no worker process is left, at most so long. Drop their pools before.
    pub async fn wait_gone(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while 1 < Arc::strong_count(&self.shared.living) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The spawner's process id.
    #[must_use]
    pub fn spawner_pid(&self) -> u32 {
        self.shared.spawner.pid()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.housekeeping.abort();
    }
}

impl Template {
    /// Starts a process and waits until it asks for its first event. One that takes too long is
    /// given a second chance, as long as an invocation may take.
    pub(crate) async fn start(&self) -> Result<Instance, Failure> {
        if let Some(failure) = self.left_alone(Instant::now()) {
            return Err(failure);
        }
        let mut started = Instance::start(self, self.start_max).await;
        if matches!(&started, Err(failure) if failure.kind == FailureKind::Timeout) {
            started = Instance::start(self, self.start_max.max(self.spec.timeout)).await;
        }
        let mut backoff = self.backoff.lock().expect("nothing panics while holding it");
        match started {
            Ok(instance) => {
                backoff.0.on_started();
                Ok(instance)
            }
            Err(failure) => {
                // The name stays, but nobody is charged: no batch was seen.
                let name = failure.code().to_owned();
                let failure = Failure::new(FailureKind::Start, failure.message).named(name);
                backoff.0.on_failed(Instant::now());
                backoff.1 = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// The last failure to start, while it is too early to try again.
    fn left_alone(&self, now: Instant) -> Option<Failure> {
        let backoff = self.backoff.lock().expect("nothing panics while holding it");
        let pause = backoff.0.pause(now)?;
        let mut failure = backoff.1.clone()?;
        failure.message = format!("{} (tried again in {} s)", failure.message, pause.as_secs() + 1);
        Some(failure)
    }

    pub(crate) fn spawner(&self) -> &Spawner {
        &self.shared.spawner
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.shared.brokers
    }

    /// What one process is started with.
    pub(crate) fn setup(&self) -> io::Result<Setup> {
        let spec = &self.spec;
        let scratch = tempfile::Builder::new().prefix("w").tempdir_in(&self.shared.scratch_dir)?;
        let env = environment(&Facts {
            function: &self.function,
            revision: &spec.revision,
            handler: &spec.handler,
            memory_bytes: self.memory_bytes_max,
            package: &spec.package,
            runtime: &self.shared.runtime_dir,
            scratch: scratch.path(),
            program: &spec.program,
            own: &spec.env,
            instance: random(),
        });
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let command = bootstrap::command(&spec.program, &self.shared.runtime_dir, &spec.package);
        let order = Order {
            command,
            env,
            dir: text(&spec.package),
            files_max: FILES_MAX,
            by_port: spec.program.language == Language::Provided,
            groups: Vec::new(),
        };
        let group = match &self.shared.groups {
            Groups::None => None,
            groups => Some(groups.make(self.memory_bytes_max)?),
        };
        let out = Output::new(&self.function, self.shared.logs.as_ref());
        let living = Arc::clone(&self.shared.living);
        Ok(Setup { order, scratch, group, out, living })
    }
}
