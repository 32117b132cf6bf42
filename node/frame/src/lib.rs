//! A pure core: the batch frame, one format for all that a batch crosses: wasm guests, our own
//! bootstraps, and the inside of the node. It decides how records and their results look as
//! bytes, and refuses every frame that is not exactly that.
//!
//! All integers are little endian; positions ("at") count from the frame's first byte, starts of
//! keys, values, headers and texts count from the arena; a length of `u32::MAX` means absent. A
//! reader skips what it does not know of a longer head or entry by the lengths in the head.
//!
//! ```text
//! request                                    response
//!   0  u8   version, 1                         0  u8   version, 1
//!   1  u8   kind, 1                            1  u8   kind, 2
//!   2  u8   order: 0 none, 1 key, 2 partition  2  u16  length of a failure entry, 24
//!   3  u8   0                                  4  u16  length of the head, 48
//!   4  u16  length of the head, 48             6  u16  length of an output entry, 48
//!   6  u16  length of a record entry, 56       8  u64  batch id, echoed
//!   8  u64  batch id                          16  u32  records, echoed
//!  16  u32  records                           20  u32  outputs
//!  20  u32  partitions                        24  u32  failures
//!  24  u32  context at                        28  u32  ends at
//!  28  u32  partition table at                32  u32  outputs at
//!  32  u32  record entries at                 36  u32  failures at
//!  36  u32  arena at                          40  u32  arena at
//!  40  u32  length of the frame               44  u32  length of the frame
//!  44  u32  0
//!
//! context: i64 deadline (Unix ms), then cluster, function, revision, trigger, trace,
//!          each u32 length + UTF-8
//! partition table: per entry i32 partition, u32 length of the topic, topic (UTF-8)
//!
//! record entry                               output entry
//!   0  i64  offset                             0  u32  source: index of a record
//!   8  i64  timestamp, Unix ms                 4  i32  partition, -1 = by the key
//!  16  u32  index in the partition table       8  u32  topic start, length (absent = default)
//!  20  u32  attempt, from 1                   16  u32  key start, length (absent = no key,
//!  24  u32  key start, length                          u32::MAX - 1 = the source's key)
//!  32  u32  value start, length               24  u32  value start, length
//!  40  u32  headers start, length, count      32  u32  headers start, length, count
//!  52  u32  0                                 44  u32  0
//!
//! ends: one byte a record: 0 not run, 1 ok, 2 failed
//! failure entry: u32 record, u32 code start, length, u32 message start, length, u32 0
//! headers: per header u32 length of the name, name, u32 length of the value, value
//! ```
//!
//! Invariants, held by the decoders and checked by the tests:
//!
//! - **FC-1** what an encoder wrote decodes to the same values.
//! - **FC-2** no bytes make a decoder panic, read outside the frame, or reserve memory that the
//!   frame does not itself occupy.
//! - **FC-3** a response is accepted only if it echoes batch id and count, says of every record
//!   how it ended, and has a failure entry for exactly the failed ones.
//! - **FC-4** outputs ascend by source, and belong to records that ended ok.
//! - **FC-5** the entries of a response claim no byte of the arena twice over: their lengths add
//!   up to no more than it has, so that a small answer never turns into a large one.
//!
//! Readers of a screen each, in Python and JavaScript: `readers/` beside this crate's sources.

mod request;
mod response;
mod wire;

pub use request::{Context, Order, Request, RequestBuilder, RequestRecord};
pub use response::{End, Output, OutputKey, Response, ResponseBuilder};
pub use wire::{FrameError, Headers, HeadersBuilder};

#[cfg(test)]
mod tests;
