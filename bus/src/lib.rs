//! Topics, partitions and records, and the one commit that ties outputs to positions.
//!
//! The [`Bus`] trait is what the rest of Millrace sees; [`embedded`] is the bus of one node, a
//! durable journal of record batches, and [`kafka`] a cluster of brokers that is there already.
//! The crate does not know what a function is.

mod api;
mod batch;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod embedded;
mod error;
mod handed;
pub mod kafka;
mod limits;
mod metrics;
mod partitioner;
mod position;
mod types;

pub use api::{
    Append, Appended, Bus, Cleanup, Commit, Fetched, PositionLog, PositionMove, Reader, Recovered,
    Retention, Start, TopicInfo, TopicSpec, Watermarks,
};
pub use batch::{BatchBuilder, Header, Headers, HeadersBuilder, Record, RecordBatch, RecordView};
pub use error::Error;
pub use handed::{Handed, HandedRow};
pub use metrics::describe_metrics;
pub use partitioner::{murmur2, partition_for_key};
pub use position::{Completions, Position, PositionKey, Suspects};
pub use types::{Epoch, Offset, ShardId, Timestamp, TopicPartition};
