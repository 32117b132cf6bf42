//! A pure core: tokens that parts of a batch claim, because the batch failed and is run in pieces.
//!
//! A batch that runs for the first time keeps its strands busy, which costs no table of tokens. Its
//! pieces may take as many runs as it has halvings, and what shares no token with them must not wait
//! so long: a piece claims the tokens of its records, one claim for each, and its strands go on. What
//! a batch would take of a claimed token waits here until the last claim is over.

use std::collections::BTreeMap;

use crate::records::{Queue, RecordId, Records};

/// A token that is claimed.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Records of parts, running or waiting to.
    count: usize,
    pub(crate) strand: u16,
    /// Later records of the token, in order.
    pub(crate) followers: Queue,
    pub(crate) follower_bytes: u64,
}

/// The claimed tokens of a shard.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    tokens: BTreeMap<u64, Claim>,
}

impl Claims {
    #[inline]
    pub(crate) fn has(&self, token: u64) -> bool {
        !self.tokens.is_empty() && self.tokens.contains_key(&token)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Claims a token for one record more.
    pub(crate) fn claim(&mut self, token: u64, strand: u16) {
        let (followers, follower_bytes) = (Queue::default(), 0);
        let claim = Claim { count: 0, strand, followers, follower_bytes };
        self.tokens.entry(token).or_insert(claim).count += 1;
    }

    /// Ends the claim of one record; what waited, if it was the last.
    pub(crate) fn end(&mut self, token: u64) -> Option<Claim> {
        let claim = self.tokens.get_mut(&token).expect("SD-5: a piece has claimed its tokens");
        claim.count -= 1;
        if claim.count == 0 { self.tokens.remove(&token) } else { None }
    }

    /// Puts a record behind the claimed ones of its token.
    pub(crate) fn follow(&mut self, records: &mut Records, record: RecordId) {
        let entry = records.entry(record);
        let (token, bytes) = (entry.token, u64::from(entry.bytes));
        let claim = self.tokens.get_mut(&token).expect("only a claimed token is followed");
        claim.followers.push_back(records, record);
        claim.follower_bytes += bytes;
    }
}
