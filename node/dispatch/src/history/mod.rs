//! What became of each record of a shard, as the shard notes it and as it is read again.
//!
//! Every commit carries one entry into the trigger's history topic, in the same atomic call: what a
//! commit settled and how is as durable as the commit itself, and a kill leaves no record settled
//! without its entry. An entry holds ranges of offsets for each invocation, and exceptions (failed
//! attempts, parked records, dead letters): never something for each record. Where the batches that a
//! commit appended lie is known after it only, and stands in a later entry; where that was lost the
//! outputs are found by their origin.
//!
//! - **HI-1** what a position settles is told by the entry of the same commit, filtered records by
//!   that or an earlier one.
//! - **HI-2** of several accounts of one record the last holds.
//! - **HI-3** what an entry takes grows with the runs of offsets in it and with the exceptions, not
//!   with the records.
//! - **HI-4** what is not told is unknown, never guessed.

mod book;
mod entry;
mod id;
#[cfg(test)]
mod model;
mod scribe;
mod spans;

pub use book::{Account, Attempt, Book, Ending, Found, Invoked};
pub use entry::{Appends, Dead, Entry, Failed, Kept, Parked, Placed, Run};
pub use id::InvocationName;
pub(crate) use scribe::{Noted, Scribe};
pub use spans::Spans;
