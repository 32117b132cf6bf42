//! The few calls of librdkafka that the `rdkafka` crate lacks, behind a safe interface: consuming
//! a partition's queue by the batch, producing with a cached topic handle, a client's log in a queue
//! of its own, and the admin calls for topic ids and for the offsets of any group.
//!
//! All `unsafe` of the Kafka bus is in this crate. Three rules make it sound, and each block
//! says which of them it leans on:
//!
//! - **Alive**: a native object is used only while an `Arc` of the client it came from is held
//!   beside it, and is destroyed before that `Arc` is dropped.
//! - **Threads**: librdkafka's client, queue and topic objects may be used from any thread at
//!   once (rdkafka.h, "thread-safe"); messages, events and lists have one owner.
//! - **Copied**: bytes and strings given to a call are copied by it, or the call has returned
//!   before they are let go.
#![expect(unsafe_code, reason = "this crate is the border to C")]

mod admin;
mod log;
mod produce;
mod queue;

pub use admin::{
    AdminError, Described, Description, GroupOffset, alter_group_offsets, delete_group_offsets,
    describe_topics, list_group_offsets,
};
pub use log::LogQueue;
pub use produce::{Outgoing, ProducerTopic};
pub use queue::{Message, PartitionQueue, Wake};

#[cfg(test)]
mod tests;
