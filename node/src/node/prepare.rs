//! Makes a revision ready to run: reads its package, compiles it or finds its interpreter, keeps a
//! copy of it, and makes its pool. What cannot run is refused here, before it gets a record.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use function::{Fresh, FunctionSpec, Package};
use runtime::{Language, LoadError, Pool, PoolConfig, WorkerSpec};

use super::deploy::RunningFunction;
use super::{Inner, chain};

/// Invocations after which a process is replaced.
const PROCESS_INVOCATIONS_MAX: u64 = 10_000;

/// A revision that can run.
pub(super) struct Ready {
    pub(super) spec: FunctionSpec,
    pub(super) revision: Arc<str>,
    pub(super) package: String,
    pub(super) pool: Arc<Pool>,
}

/// What keeps a function from running: a code and its account.
type Refused = (&'static str, String);

/// Reads, checks and starts a function, far enough to know that it can run.
pub(super) async fn prepare(
    inner: &Arc<Inner>,
    dir: &Path,
    spec: &FunctionSpec,
    running: Option<&RunningFunction>,
) -> Result<Ready, Refused> {
    if spec.runtime.is_process() {
        return prepare_process(inner, dir, spec, running).await;
    }
    let path = dir.join(&spec.path).join(&spec.handler);
    let package = Package::from_file(&path).map_err(|error| (error.code(), chain(&error)))?;
    let revision: Arc<str> = function::Revision::of(spec, package.digest()).as_str().into();
    let digest = package.digest().to_string();
    if let Some(running) = running.filter(|it| it.revision == revision) {
        let pool = Arc::clone(&running.pool);
        return Ok(Ready { spec: spec.clone(), revision, package: digest, pool });
    }
    let bytes = package
        .files()
        .next()
        .map(|(_, bytes)| Arc::clone(bytes))
        .ok_or_else(|| ("E0301", "the package is empty".to_owned()))?;
    keep_package(&inner.data_dir, &digest, &bytes).map_err(|error| ("E0410", error.to_string()))?;
    let engine = Arc::clone(&inner.engine);
    let load = tokio::task::spawn_blocking(move || engine.load(&bytes)).await;
    let module = load
        .map_err(|error| ("E0312", error.to_string()))?
        .map_err(|error| (load_code(&error), chain(&error)))?;
    let pool = inner.engine.pool(&module, pool_config(spec));
    Ok(Ready { spec: spec.clone(), revision, package: digest, pool })
}

/// A function whose workers are processes: its package is its folder, and one of them must start.
async fn prepare_process(
    inner: &Arc<Inner>,
    dir: &Path,
    spec: &FunctionSpec,
    running: Option<&RunningFunction>,
) -> Result<Ready, Refused> {
    let path = dir.join(&spec.path);
    let package = tokio::task::spawn_blocking(move || Package::from_dir(&path)).await;
    let package = package
        .map_err(|error| ("E0312", error.to_string()))?
        .map_err(|error| (error.code(), chain(&error)))?;
    let revision: Arc<str> = function::Revision::of(spec, package.digest()).as_str().into();
    let digest = package.digest().to_string();
    if let Some(running) = running.filter(|it| it.revision == revision) {
        let pool = Arc::clone(&running.pool);
        return Ok(Ready { spec: spec.clone(), revision, package: digest, pool });
    }
    let language = match spec.runtime {
        function::Runtime::Python(minor) => Language::Python(minor),
        function::Runtime::Node(major) => Language::Node(major),
        function::Runtime::Provided | function::Runtime::Wasm => Language::Provided,
    };
    let program = inner.workers.program(language).await;
    let program = program.map_err(|error| ("E0316", error.to_string()))?;
    let data_dir = inner.data_dir.clone();
    let folder = tokio::task::spawn_blocking(move || unpack(&data_dir, &package)).await;
    let folder = folder
        .map_err(|error| ("E0312", error.to_string()))?
        .map_err(|error| ("E0410", format!("cannot keep the package: {error}")))?;
    let worker = WorkerSpec {
        program,
        handler: spec.handler.clone(),
        package: folder,
        env: spec.env.clone(),
        revision: revision.to_string(),
        timeout: spec.timeout,
    };
    let config = PoolConfig { invocations_max: PROCESS_INVOCATIONS_MAX, ..pool_config(spec) };
    let pool = inner.workers.pool(worker, config);
    pool.try_start().await.map_err(|failure| ("E0315", failure.to_string()))?;
    Ok(Ready { spec: spec.clone(), revision, package: digest, pool })
}

fn pool_config(spec: &FunctionSpec) -> PoolConfig {
    PoolConfig {
        memory_bytes_max: usize::try_from(spec.memory_bytes).unwrap_or(usize::MAX),
        warm: spec.instances.warm,
        max: spec.instances.max,
        fresh: match spec.instances.fresh {
            Fresh::Batch => runtime::Fresh::Batch,
            Fresh::Record => runtime::Fresh::Record,
            Fresh::Never => runtime::Fresh::Never,
        },
        ..PoolConfig::new(spec.name.as_str())
    }
}

/// Puts a package's files below their digest, unless they are there; gives the folder. A revision
/// stays what it was, whatever becomes of the files it was made from.
fn unpack(data_dir: &Path, package: &Package) -> std::io::Result<PathBuf> {
    let parent = data_dir.join("packages");
    let folder = parent.join(format!("{}.d", package.digest()));
    if folder.is_dir() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&parent)?;
    let draft = tempfile::tempdir_in(&parent)?;
    for (name, bytes) in package.files() {
        let path = draft.path().join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, bytes)?;
        // A package keeps no modes: what can only be run is made so.
        let runs = bytes.starts_with(b"#!") || bytes.starts_with(b"\x7fELF");
        let mode = PermissionsExt::from_mode(if runs { 0o755 } else { 0o644 });
        std::fs::set_permissions(&path, mode)?;
    }
    let mode = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(draft.path(), mode)?;
    // Once for all of them: packages with thousands of files are common.
    let parent = std::fs::File::open(&parent)?;
    rustix::fs::syncfs(&parent)?;
    if let Err(error) = std::fs::rename(draft.path(), &folder) {
        // Another function of the same package may have been quicker.
        return if folder.is_dir() { Ok(folder) } else { Err(error) };
    }
    // It lies elsewhere now: there is nothing to take away.
    drop(draft.keep());
    parent.sync_all()?;
    Ok(folder)
}

/// Keeps the package under its digest: a revision stays what it was, whatever becomes of the file.
fn keep_package(data_dir: &Path, digest: &str, bytes: &[u8]) -> std::io::Result<()> {
    let dir = data_dir.join("packages");
    let path = dir.join(digest);
    if path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(&dir)?;
    let mut file = tempfile::NamedTempFile::new_in(&dir)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    std::fs::File::open(&dir)?.sync_all()
}

const fn load_code(error: &LoadError) -> &'static str {
    match error {
        LoadError::NotAComponent(_) | LoadError::Invalid(_) => "E0301",
        LoadError::MissingImport { .. } => "E0302",
        LoadError::World(_) => "E0303",
    }
}
