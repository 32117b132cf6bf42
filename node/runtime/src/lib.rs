//! Worker pools: instances of a function's revision, started on demand, kept warm, bounded, and
//! ended when they misbehave. It runs frames of bytes and knows no partitions.
//!
//! The only place that names the wasm engine. [`Engine`] compiles and holds components; [`Pool`]
//! runs one revision of one function.

mod invocation;
mod metrics;
mod pool;
pub mod slots;
mod wasm;

pub use invocation::{Answer, Failure, FailureKind, Invocation, Invoke, PoolStats};
pub use pool::{Fresh, Pool, PoolConfig};
pub use wasm::{Engine, EngineConfig, EngineError, LoadError, LogLine, LogSink, Module};
