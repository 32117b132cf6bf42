//! A pure core: which proposals were applied, so that one that is proposed again, because nobody
//! could say what became of it, is applied once.
//!
//! - **RS-13** a request is applied at most once, on whichever leader it ends up.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::group::RequestId;

/// How many of a member's newest requests are known one by one. Older ones are never applied: a
/// member has fewer on their way.
const KEPT: usize = 1_024;

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered(BTreeMap<u64, BTreeSet<u64>>);

impl Answered {
    /// Whether this request is known to be applied, or too old to be applied ever.
    #[must_use]
    pub fn contains(&self, request: RequestId) -> bool {
        self.0.get(&request.member).is_some_and(|known| {
            let is_old = known.first().is_some_and(|first| request.number < *first);
            known.contains(&request.number) || (KEPT <= known.len() && is_old)
        })
    }

    /// Takes note of a request that is applied now; false if it must not be.
    pub(super) fn note(&mut self, request: RequestId) -> bool {
        if self.contains(request) {
            return false;
        }
        let known = self.0.entry(request.member).or_default();
        known.insert(request.number);
        while KEPT < known.len() {
            known.pop_first();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_applied_once_in_any_order_and_never_when_it_is_too_old() {
        let request = |number| RequestId { member: 3, number };
        let mut answered = Answered::default();
        for number in [7, 5, 6] {
            assert!(answered.note(request(number)));
            assert!(!answered.note(request(number)), "RS-13");
        }
        assert!(answered.note(RequestId { member: 4, number: 5 }), "another member's");
        for number in 100..100 + KEPT as u64 {
            assert!(answered.note(request(number)));
        }
        assert!(!answered.note(request(8)), "RS-13: it may have been applied long ago");
        assert!(!answered.contains(request(9_999)));
    }
}
