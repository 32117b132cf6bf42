//! What the gateway asks of the node that it belongs to. The binary implements it; every call is
//! answered from memory, at once.

use std::fmt::Debug;

use crate::api::{ShardStatus, Status};

/// Whether a node takes work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not, and why.
    NotReady(String),
}

/// The node, as the control API sees it.
pub trait NodeView: Send + Sync + Debug {
    /// A snapshot. `lag` of the functions is left to the gateway, which asks the bus.
    fn status(&self) -> Status;

    /// Every shard this node owns.
    fn shards(&self) -> Vec<ShardStatus>;

    /// For `/readyz`.
    fn readiness(&self) -> Readiness;

    /// Asks the node to drain and end. Returns at once.
    fn request_shutdown(&self);
}
