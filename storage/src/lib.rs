//! What a node keeps beside the bus: the positions of its shards, in sled, and the codec that
//! turns values into checked bytes. Nothing here knows what a topic's records mean.

pub mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod error;
mod files;
mod generation;
mod rows;
mod sled_positions;

pub use error::{Error, is_fatal};
pub use sled_positions::{Opened, SledPositions};
