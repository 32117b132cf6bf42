//! Process workers: any executable that speaks the Runtime API of AWS Lambda, and Python and
//! Node.js functions on bootstraps of our own that are given a whole batch in one call.

mod api;
mod backoff;
mod bootstrap;
mod environment;
mod events;
mod instance;
mod memory;
mod program;
mod spawner;
mod worker;
mod workers;

pub use events::kafka_event;
pub use instance::function_arn;
pub use program::{Language, Missing, Program};
pub use spawner::{Spawner, SpawnerListener, spawner_main};
pub use workers::{WorkerSpec, Workers, WorkersConfig, WorkersError};

pub(crate) use instance::Instance;
pub(crate) use memory::{guarded, resident_bytes};
pub(crate) use workers::Template;
