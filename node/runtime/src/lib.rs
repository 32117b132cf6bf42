//! Worker pools: instances of a function's revision, started on demand, kept warm, bounded, and
//! ended when they misbehave. It runs frames of bytes and knows no partitions.
//!
//! The only place that names the wasm engine. [`Engine`] compiles and holds components, [`Workers`]
//! starts processes; [`Pool`] runs one revision of one function on either.

mod held;
mod invocation;
mod kind;
mod logs;
mod metrics;
mod pool;
mod process;
pub mod slots;
mod wasm;

pub use invocation::{
    Answer, Calling, Decode, Event, Failure, FailureKind, Invocation, Invoke, Named, PoolStats,
};
pub use logs::{LogLine, LogSink};
pub use metrics::describe_metrics;
pub use pool::{Fresh, InstanceFigures, Pool, PoolConfig, instance_name};
pub use process::{
    Language, Missing, Program, Spawner, SpawnerListener, WorkerSpec, Workers, WorkersConfig,
    WorkersError, function_arn, kafka_event, spawner_main,
};
pub use slots::InstanceState;
pub use wasm::{Engine, EngineConfig, EngineError, LoadError, Module};
