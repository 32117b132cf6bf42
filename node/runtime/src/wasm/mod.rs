//! WebAssembly components: compiled once, instantiated per batch, run as tasks of a runtime of
//! their own so that an endless loop starves nobody.
//!
//! A guest yields every [`TICK`]; a deadline is met within two of them. It is given an empty WASI
//! 0.2 (no files, sockets, arguments, environment; clocks and random numbers work), a log, and
//! nothing else.

mod cache;
mod engine;
mod host;
mod instance;
mod ticks;

pub use engine::{Engine, EngineConfig, EngineError, LoadError, Module};

pub(crate) use engine::Template;
pub(crate) use instance::Instance;

/// How long a guest runs before it lets others run.
pub(crate) const TICK: std::time::Duration = std::time::Duration::from_millis(10);
