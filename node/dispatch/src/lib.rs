//! Records of one shard become invocations, outputs and commits.
//!
//! [`ShardDispatch`] decides, a pure core with no clock and no I/O; [`start`] runs it.

mod bisect;
mod circuit;
mod claims;
mod command;
mod commits;
pub mod dead_letter;
mod destination;
mod driver;
mod envelope;
mod gather;
pub mod history;
mod hold;
mod metrics;
mod noting;
pub mod offset_tracker;
mod park_topic;
mod parking;
mod read_ahead;
mod records;
mod retry;
pub mod scaling;
pub mod shard;
mod start;
mod stats;
mod strands;
mod suspects;
mod token;
mod trace;
mod tracer;
mod unwanted;

pub use circuit::CircuitPolicy;
pub use command::{
    BatchLimits, Blame, Command, CommitFailure, CommitId, Counters, DeadLetter, DispatchConfig,
    End, InvocationId, Kept, Loaded, Outcome, Park, ParkLimits, Resumed, StopReason, Wait, Wanted,
    WindowLimits,
};
pub use dead_letter::{DeadHead, ORIGIN, REPLAYED_TOPIC};
pub use destination::Destinations;
pub use driver::{Replay, Revision, ShardConfig, TURNS};
pub use envelope::parked_at;
pub use history::InvocationName;
pub use metrics::describe_metrics;
pub use offset_tracker::{Admission, OffsetTracker};
pub use read_ahead::ReadAhead;
pub use records::{RecordId, RecordRef};
pub use retry::RetryPolicy;
pub use shard::{Legacy, PartitionStart, ShardDispatch, Standing, State};
pub use start::{HandedStart, ShardHandle, StartError, start, start_or_wait, stopped};
pub use stats::ShardStats;
pub use suspects::Turn;
pub use token::Order;
pub use trace::{BatchTrace, LINKS_MAX, Link, Ratio, TRACEPARENT, TRACESTATE, TraceContext};
pub use tracer::{BatchSpan, TakeSpans, Times, Traces};
pub use unwanted::Unwanted;
