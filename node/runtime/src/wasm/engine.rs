//! Compiles components, or takes them from the cache, and makes pools of them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, Type, WasmStr};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::Instance;
use super::cache::{CodeCache, CodeId};
use super::host::{Host, Level};
use super::ticks::{Clock, Guests};
use crate::logs::{LogSink, Logs};
use crate::pool::Pools;
use crate::{Pool, PoolConfig};

/// Cached code of the engine's own format begins like this (ELF).
const PRECOMPILED: &[u8] = b"\x7fELF";
/// The largest component that is compiled, bytes.
const COMPONENT_BYTES_MAX: usize = 64 << 20;

/// Settings of the engine.
#[derive(Clone)]
pub struct EngineConfig {
    /// Where compiled code is kept.
    pub cache_dir: PathBuf,
    /// Threads that run guests.
    pub threads: usize,
    /// Instances of all functions at the same time.
    pub instances_max: u32,
    /// Takes the log lines of functions.
    pub logs: Option<LogSink>,
}

impl EngineConfig {
    /// The defaults, with compiled code in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self { cache_dir: cache_dir.into(), threads, instances_max: 1_000, logs: None }
    }
}

impl std::fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConfig").field("cache_dir", &self.cache_dir).finish_non_exhaustive()
    }
}

/// The engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The cache's folder is not usable.
    #[error("open the code cache {}", dir.display())]
    Cache {
        /// Which.
        dir: PathBuf,
        /// The system's account.
        source: std::io::Error,
    },
    /// The engine refused its settings.
    #[error("make the wasm engine: {0}")]
    Engine(String),
    /// No threads.
    #[error("start the guests' threads")]
    Threads(#[source] std::io::Error),
}

/// A component that cannot be run here, with the reason for its author.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not a component at all.
    #[error("{0}")]
    NotAComponent(String),
    /// It does not compile.
    #[error("the component does not compile: {0}")]
    Invalid(String),
    /// It imports what no function is given.
    #[error("the component imports `{import}`, which no function is given: {reason}")]
    MissingImport {
        /// The first such import.
        import: String,
        /// The engine's account.
        reason: String,
    },
    /// It exports neither world's `handle`.
    #[error("{0}")]
    World(String),
}

/// Which world a component exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    Batch,
    Map,
}

/// A component, ready to be instantiated. Cheap to clone; the same component loaded twice is
/// there once.
#[derive(Clone)]
pub struct Module {
    compiled: Arc<Compiled>,
}

struct Compiled {
    pre: InstancePre<Host>,
    handle: ComponentExportIndex,
    world: World,
    engine: wasmtime::Engine,
    running: Arc<Guests>,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Module({:?})", self.compiled.world)
    }
}

/// What instances of one pool are made from.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) module: Module,
    pub(crate) function: Arc<str>,
    pub(crate) memory_bytes_max: usize,
    pub(crate) start_max: Duration,
    pub(crate) logs: Option<Logs>,
}

impl Template {
    /// Makes an instance.
    pub(crate) async fn start(&self) -> Result<Instance, crate::Failure> {
        Instance::start(self).await
    }
}

impl Module {
    pub(crate) fn pre(&self) -> &InstancePre<Host> {
        &self.compiled.pre
    }

    pub(crate) fn handle(&self) -> &ComponentExportIndex {
        &self.compiled.handle
    }

    pub(crate) fn world(&self) -> World {
        self.compiled.world
    }

    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        &self.compiled.engine
    }

    /// Where its instances say that they run.
    pub(crate) fn running(&self) -> &Arc<Guests> {
        &self.compiled.running
    }
}

/// Compiles and runs components. Dropping it ends its threads.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<Host>,
    cache: CodeCache,
    /// Compatibility of compiled code: version and settings of the engine, and the processor.
    fingerprint: Vec<u8>,
    modules: Mutex<HashMap<CodeId, Weak<Compiled>>>,
    logs: Option<LogSink>,
    guests: Option<tokio::runtime::Runtime>,
    pools: Pools,
    running: Arc<Guests>,
    clock: Option<Clock>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    /// Makes an engine and its threads.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub fn new(config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        let cache = CodeCache::open(&config.cache_dir)
            .map_err(|source| EngineError::Cache { dir: config.cache_dir.clone(), source })?;
        let failed = |error: wasmtime::Error| EngineError::Engine(format!("{error:#}"));
        let engine = wasmtime::Engine::new(&settings(config.instances_max)).map_err(failed)?;
        let linker = linker(&engine).map_err(failed)?;
        let guests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("millrace-guest")
            .enable_time()
            // Guests that compute keep their threads busy: look at new arrivals and timers at
            // every turn, or they wait for dozens of turns of 10 ms.
            .global_queue_interval(1)
            .event_interval(1)
            .build()
            .map_err(EngineError::Threads)?;
        let (pools, running) = (Pools::default(), Arc::<Guests>::default());
        let clock = Clock::start(engine.clone(), &running, pools.clone());
        let clock = Some(clock.map_err(EngineError::Threads)?);
        let (logs, guests) = (config.logs, Some(guests));
        let mut fingerprint = Fingerprint(Vec::new());
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut fingerprint);
        Ok(Arc::new(Self {
            engine,
            linker,
            cache,
            fingerprint: fingerprint.0,
            modules: Mutex::default(),
            logs,
            guests,
            pools,
            running,
            clock,
        }))
    }

    /// Compiles a component, or takes its code from the cache, and checks that it can be run.
    /// Takes tens of milliseconds the first time: call it where that may be.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    pub fn load(&self, bytes: &[u8]) -> Result<Module, LoadError> {
        check_kind(bytes)?;
        let id = CodeId::new(bytes, &self.fingerprint);
        if let Some(compiled) = self.modules().get(&id).and_then(Weak::upgrade) {
            return Ok(Module { compiled });
        }
        let component = match self.cache.load(&id).and_then(|code| self.deserialize(&code)) {
            Some(component) => component,
            None => {
                let invalid = |error: wasmtime::Error| LoadError::Invalid(format!("{error:#}"));
                let code = self.engine.precompile_component(bytes).map_err(invalid)?;
                self.cache.store(&id, &code);
                self.deserialize(&code).ok_or_else(|| {
                    LoadError::Invalid("the engine does not take its own code".to_owned())
                })?
            }
        };
        let (handle, world) = self.world(&component)?;
        let pre = self.linker.instantiate_pre(&component).map_err(|error| missing(&error))?;
        let (engine, running) = (self.engine.clone(), Arc::clone(&self.running));
        let compiled = Arc::new(Compiled { pre, handle, world, engine, running });
        let mut modules = self.modules();
        modules.retain(|_, compiled| 0 < compiled.strong_count());
        modules.insert(id, Arc::downgrade(&compiled));
        Ok(Module { compiled })
    }

    fn modules(&self) -> MutexGuard<'_, HashMap<CodeId, Weak<Compiled>>> {
        self.modules.lock().expect("nothing panics while holding it")
    }

    /// A pool of instances of `module`.
    #[must_use]
    pub fn pool(&self, module: &Module, config: PoolConfig) -> Arc<Pool> {
        let template = Template {
            module: module.clone(),
            function: config.name.as_str().into(),
            memory_bytes_max: config.memory_bytes_max,
            start_max: config.start_max,
            logs: self.logs.clone().map(Logs),
        };
        let guests = self.guests.as_ref().expect("it is there until the engine is dropped");
        let template = crate::kind::Template::Wasm(template);
        let pool = Arc::new(Pool::new(template, config, guests.handle().clone()));
        self.pools.add(&pool);
        pool
    }

    #[expect(unsafe_code, reason = "loads native code")]
    fn deserialize(&self, code: &[u8]) -> Option<Component> {
        // SAFETY: the bytes are what `precompile_component` of this engine's version and settings
        // gave, unchanged: they come from that call itself, or from a file whose MAC, made with
        // this node's key over exactly these bytes and that identity, was checked by `CodeCache`.
        let component = unsafe { Component::deserialize(&self.engine, code) };
        component.inspect_err(|error| tracing::warn!(%error, "compiled code was refused")).ok()
    }

    fn world(&self, component: &Component) -> Result<(ComponentExportIndex, World), LoadError> {
        let none = || {
            let text = "the component exports no `handle` of the worlds `batch` or `map` of \
                        millrace:function@0.1.0";
            LoadError::World(text.to_owned())
        };
        let (item, handle) = component.get_export(None, "handle").ok_or_else(none)?;
        let ComponentItem::ComponentFunc(function) = item else { return Err(none()) };
        let bytes = |ty: &Type| matches!(ty, Type::List(list) if list.ty() == Type::U8);
        let takes_bytes = function.params().len() == 1
            && function.params().next().is_some_and(|(_, ty)| bytes(&ty));
        let mut results = function.results();
        let world = match (results.next(), results.next()) {
            (Some(ty), None) if bytes(&ty) => World::Batch,
            (Some(Type::Result(ty)), None) => {
                let ok = ty.ok();
                let option = matches!(&ok, Some(Type::Option(it)) if bytes(&it.ty()));
                if !option || ty.err() != Some(Type::String) {
                    return Err(none());
                }
                World::Map
            }
            _ => return Err(none()),
        };
        if takes_bytes { Ok((handle, world)) } else { Err(none()) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.clock.take());
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}

fn settings(instances_max: u32) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances_max)
        .total_core_instances(instances_max * 4)
        .total_memories(instances_max)
        .total_tables(instances_max * 4)
        .total_stacks(instances_max)
        .max_unused_warm_slots(instances_max / 4)
        .linear_memory_keep_resident(512 << 10)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .wasm_component_model(true)
        .concurrency_support(false)
        .wasm_threads(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_relaxed_simd(false)
        .wasm_function_references(false)
        .wasm_gc(false)
        .wasm_tail_call(false)
        .wasm_exceptions(false)
        .wasm_stack_switching(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .max_wasm_stack(512 << 10)
        .async_stack_size(1 << 20);
    config
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::<Host>::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    linker.instance("millrace:function/logging@0.1.0")?.func_wrap(
        "log",
        |store: wasmtime::StoreContextMut<'_, Host>, (level, message): (Level, WasmStr)| {
            // Read in place: a guest may hand over all of its memory, of which little is kept.
            let message = message.to_str(&store)?;
            store.data().out.log(level.as_str(), &message);
            Ok(())
        },
    )?;
    Ok(linker)
}

/// Names what was uploaded instead of a component.
fn check_kind(bytes: &[u8]) -> Result<(), LoadError> {
    let other = |what: &str| Err(LoadError::NotAComponent(what.to_owned()));
    match bytes {
        _ if COMPONENT_BYTES_MAX < bytes.len() => {
            let (size, limit) = (bytes.len(), COMPONENT_BYTES_MAX >> 20);
            Err(LoadError::Invalid(format!("it has {size} bytes; the limit is {limit} MiB")))
        }
        [0x00, b'a', b's', b'm', 0x0d, 0x00, 0x01, 0x00, ..] => Ok(()),
        [0x00, b'a', b's', b'm', 0x01, ..] => {
            other("this is a core wasm module, not a component: build it for wasm32-wasip2")
        }
        _ if bytes.starts_with(PRECOMPILED) => {
            other("this is native code: precompiled components are not taken, upload the component")
        }
        _ => other("this is not a WebAssembly component"),
    }
}

fn missing(error: &wasmtime::Error) -> LoadError {
    let reason = format!("{error:#}");
    let import = reason.split('`').nth(1).unwrap_or("?").to_owned();
    LoadError::MissingImport { import, reason }
}

/// Keeps what is hashed, so that a stronger hash can be made of it.
struct Fingerprint(Vec<u8>);

impl std::hash::Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}
