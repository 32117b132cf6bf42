//! A pure core: halves a batch that failed as a whole, so that the bad record is found.
//!
//! Splitting costs no attempt, and one bad record in a batch of n costs at most 2 * ceil(log2 n)
//! invocations more: each level runs two halves, of which one is good.

use crate::records::{RecordId, Records};
use crate::token::UNORDERED;

/// Two halves of a batch.
#[derive(Debug)]
pub(crate) struct Halves {
    pub(crate) first: Vec<RecordId>,
    pub(crate) second: Vec<RecordId>,
    /// Whether the second half must wait for the first: a token has records in both.
    pub(crate) in_turn: bool,
}

/// Puts the records of a strand and of a token side by side, each token's in their order. Whatever is
/// cut from the end of a batch then shares a token with what is right before the cut, or with nothing:
/// a part may leave those behind it, but for the last.
pub(crate) fn put_side_by_side(records: &Records, batch: &mut [RecordId]) {
    batch.sort_by_key(|&record| {
        let entry = records.entry(record);
        (entry.strand, entry.token)
    });
}

/// Cuts `batch` in the middle, after putting the records of a strand and of a token side by side,
/// so that at most one token has records in both halves. The order inside a token stays.
pub(crate) fn halve(records: &Records, mut batch: Vec<RecordId>) -> Halves {
    put_side_by_side(records, &mut batch);
    let second = batch.split_off(batch.len().div_ceil(2));
    let in_turn = match (batch.last(), second.first()) {
        (Some(&last), Some(&first)) => {
            let (last, first) = (records.entry(last), records.entry(first));
            last.strand != UNORDERED && (last.strand, last.token) == (first.strand, first.token)
        }
        _ => false,
    };
    Halves { first: batch, second, in_turn }
}
