//! Makes a revision ready to run: takes its package from a folder or from the node's store, keeps
//! it, compiles it or finds its interpreter, and makes its pool. What cannot run is refused here,
//! before it gets a record.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use function::{Fresh, FunctionSpec, Package, PackageDigest};
use runtime::{Language, LoadError, Pool, PoolConfig, WorkerSpec};

use super::{Inner, chain};

/// Invocations after which a process is replaced.
const PROCESS_INVOCATIONS_MAX: u64 = 10_000;
/// How long an invocation waits for a process that is busy before it starts another, where runs take a
/// quarter of it at most, which is about what a start takes. By then scaling has looked at the queues.
const PATIENCE: Duration = Duration::from_millis(250);

/// A revision that can run.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) spec: FunctionSpec,
    pub(super) revision: Arc<str>,
    pub(super) package: String,
    pub(super) pool: Arc<Pool>,
}

/// A revision by its name, and what it is made of.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) spec: FunctionSpec,
    pub(super) revision: Arc<str>,
    pub(super) package: String,
}

impl Ready {
    pub(super) fn named(&self) -> Named {
        let (spec, revision) = (self.spec.clone(), Arc::clone(&self.revision));
        Named { spec, revision, package: self.package.clone() }
    }
}

/// Where packages come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// An application's folder: what lies there now.
    Folder(&'a Path),
    /// The node's store, by the name of the function.
    Store(&'a BTreeMap<String, PackageDigest>),
    /// The node's store: a revision that was deployed before.
    Kept(&'a Kept),
}

/// A revision that was deployed before. Its name stays, whatever a version of this program would
/// make of its settings.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) revision: Arc<str>,
    pub(super) package: PackageDigest,
}

/// What keeps a function from running: a code and its account.
pub(super) type Refused = (&'static str, String);

/// Reads, checks and starts a function, far enough to know that it can run. Its package is
/// durable then.
pub(super) async fn prepare(
    inner: &Arc<Inner>,
    source: Source<'_>,
    spec: &FunctionSpec,
    running: Option<&(Arc<str>, Arc<Pool>)>,
) -> Result<Ready, Refused> {
    if inner.shares_no_bus() {
        return Err(refused(super::without_kafka()));
    }
    for trigger in spec.triggers.iter().filter(|it| !it.filter.is_empty()) {
        let compiled = filter::Filter::compile(&trigger.filter);
        compiled
            .map_err(|error| (error.code, format!("the filter of {}: {error}", trigger.name)))?;
    }
    inner.check_labels(spec)?;
    let (digest, revision, read) = match source {
        Source::Folder(dir) => {
            let package = read_folder(dir, spec).await?;
            (package.digest(), revision_of(spec, package.digest()), Some(package))
        }
        Source::Store(packages) => {
            let digest = digest_of(packages, spec)?;
            (digest, revision_of(spec, digest), None)
        }
        Source::Kept(kept) => (kept.package, Arc::clone(&kept.revision), None),
    };
    if let Some((_, pool)) = running.filter(|(it, _)| *it == revision) {
        let pool = Arc::clone(pool);
        let package = digest.to_string();
        return Ok(Ready { spec: spec.clone(), revision, package, pool });
    }
    let package = match read {
        Some(package) => {
            let keep = move |inner: &Inner| inner.packages.keep(&package).map(|()| package);
            with_store(inner, keep).await?
        }
        None => fetch(inner, digest).await?,
    };
    let pool = match spec.runtime.is_process() {
        true => start_process(inner, spec, &revision, package).await?,
        false => compile(inner, spec, &package).await?,
    };
    Ok(Ready { spec: spec.clone(), revision, package: digest.to_string(), pool })
}

/// What a function would be whose package is in the store.
pub(super) fn named(
    packages: &BTreeMap<String, PackageDigest>,
    spec: &FunctionSpec,
) -> Result<Named, Refused> {
    let digest = digest_of(packages, spec)?;
    let (spec, revision) = (spec.clone(), revision_of(spec, digest));
    Ok(Named { spec, revision, package: digest.to_string() })
}

fn digest_of(
    packages: &BTreeMap<String, PackageDigest>,
    spec: &FunctionSpec,
) -> Result<PackageDigest, Refused> {
    let known = packages.get(spec.name.as_str()).copied();
    known.ok_or_else(|| ("E0524", "no package was named for it".to_owned()))
}

fn revision_of(spec: &FunctionSpec, digest: PackageDigest) -> Arc<str> {
    function::Revision::of(spec, digest).as_str().into()
}

fn refused(error: crate::commands::error::CommandError) -> Refused {
    (error.code.unwrap_or_default(), error.message)
}

/// What a function's folder says its package is: all of it for processes, else one file.
async fn read_folder(dir: &Path, spec: &FunctionSpec) -> Result<Package, Refused> {
    let (dir, spec) = (dir.to_owned(), spec.clone());
    let read = tokio::task::spawn_blocking(move || Package::of(&dir, &spec)).await;
    let read = read.map_err(|error| ("E0312", error.to_string()))?;
    read.map_err(|error| (error.code(), chain(&error)))
}

/// A package that was deployed, from this node's store, into which it comes from another node's
/// where it has to.
async fn fetch(inner: &Arc<Inner>, digest: PackageDigest) -> Result<Package, Refused> {
    if let Some(peers) = inner.peers.as_ref().filter(|_| !inner.packages.has(digest)) {
        peers.fetch(digest).await.map_err(refused)?;
    }
    with_store(inner, move |inner| inner.packages.read(digest)).await
}

async fn with_store<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> Result<T, super::packages::StoreError> + Send + 'static,
) -> Result<T, Refused> {
    let inner = Arc::clone(inner);
    let done = tokio::task::spawn_blocking(move || work(&inner)).await;
    let done = done.map_err(|error| ("E0312", error.to_string()))?;
    done.map_err(|error| (error.code(), error.to_string()))
}

async fn compile(
    inner: &Arc<Inner>,
    spec: &FunctionSpec,
    package: &Package,
) -> Result<Arc<Pool>, Refused> {
    let bytes = package.files().next().map(|(_, bytes)| Arc::clone(bytes));
    let bytes = bytes.ok_or_else(|| ("E0301", "the package is empty".to_owned()))?;
    let engine = Arc::clone(&inner.engine);
    let load = tokio::task::spawn_blocking(move || engine.load(&bytes)).await;
    let module = load
        .map_err(|error| ("E0312", error.to_string()))?
        .map_err(|error| (load_code(&error), chain(&error)))?;
    Ok(inner.engine.pool(&module, pool_config(spec)))
}

/// A function whose workers are processes: one of them must start.
async fn start_process(
    inner: &Arc<Inner>,
    spec: &FunctionSpec,
    revision: &str,
    package: Package,
) -> Result<Arc<Pool>, Refused> {
    let language = language_of(spec.runtime);
    let program = inner.workers.program(language).await;
    let program = program.map_err(|error| ("E0316", error.to_string()))?;
    let folder = with_store(inner, move |inner| inner.packages.unpack(&package)).await?;
    let worker = WorkerSpec {
        program,
        handler: spec.handler.clone(),
        package: folder,
        env: spec.env.clone(),
        revision: revision.to_owned(),
        timeout: spec.timeout,
    };
    let config = PoolConfig {
        invocations_max: PROCESS_INVOCATIONS_MAX,
        patience: PATIENCE,
        ..pool_config(spec)
    };
    let pool = inner.workers.pool(worker, config);
    pool.try_start().await.map_err(|failure| ("E0315", failure.to_string()))?;
    Ok(pool)
}

/// What runs a process function.
pub(super) const fn language_of(runtime: function::Runtime) -> Language {
    match runtime {
        function::Runtime::Python(minor) => Language::Python(minor),
        function::Runtime::Node(major) => Language::Node(major),
        function::Runtime::Provided | function::Runtime::Wasm => Language::Provided,
    }
}

fn pool_config(spec: &FunctionSpec) -> PoolConfig {
    // A node that has no share of a maximum for the whole cluster may see whether it starts.
    let is_shared = spec.instances.cluster_max.is_some();
    let (warm, max) = if is_shared { (0, 1) } else { (spec.instances.warm, spec.instances.max) };
    PoolConfig {
        memory_bytes_max: usize::try_from(spec.memory_bytes).unwrap_or(usize::MAX),
        warm,
        max,
        fresh: match spec.instances.fresh {
            Fresh::Batch => runtime::Fresh::Batch,
            Fresh::Record => runtime::Fresh::Record,
            Fresh::Never => runtime::Fresh::Never,
        },
        ..PoolConfig::new(spec.name.as_str())
    }
}

const fn load_code(error: &LoadError) -> &'static str {
    match error {
        LoadError::NotAComponent(_) | LoadError::Invalid(_) => "E0301",
        LoadError::MissingImport { .. } => "E0302",
        LoadError::World(_) => "E0303",
    }
}
