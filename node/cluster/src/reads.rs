//! A pure core: reads that wait until this member's state has all that was acknowledged before they
//! were asked. Each ends once, by its deadline, whatever becomes of the leader (CLU-5).
//!
//! A read ends without an answer when its deadline has passed, or when another term or leader is
//! seen before the leader has told its index: that leader may have forgotten it.

use std::collections::BTreeMap;

use crate::group::RequestId;

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// The state, with all steps so far, has what was acknowledged before the read was asked.
    Fresh,
    /// Nobody could say by the deadline, or the leader changed: try again.
    Unavailable,
}

/// A read that was not even asked: this member knows no leader, or is one whose first entry is not
/// committed yet. Try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no leader can confirm a read at the moment")]
pub struct Unavailable;

#[derive(Debug)]
struct Waiting {
    /// The last tick at which it may end well.
    until: u64,
    /// Term and leader that it was asked of.
    asked_of: (u64, u64),
    /// What the state must have applied, once the leader has said so.
    index: Option<u64>,
}

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: BTreeMap<RequestId, Waiting>,
}

impl Reads {
    /// A read was asked of this leader in this term; it ends before the tick after `until`.
    pub(crate) fn on_asked(&mut self, request: RequestId, asked_of: (u64, u64), until: u64) {
        self.waiting.insert(request, Waiting { until, asked_of, index: None });
    }

    /// The leader has said what the state must have applied; of a read that has ended, nothing.
    pub(crate) fn on_index(&mut self, request: RequestId, index: u64) {
        if let Some(waiting) = self.waiting.get_mut(&request) {
            waiting.index = Some(index);
        }
    }

    /// Ends those that were asked of somebody else and have no index yet.
    pub(crate) fn on_leader(&mut self, now: (u64, u64)) -> Vec<(RequestId, ReadEnd)> {
        self.end(ReadEnd::Unavailable, |it| it.index.is_none() && it.asked_of != now)
    }

    /// Ends those whose deadline has passed.
    pub(crate) fn on_tick(&mut self, tick: u64) -> Vec<(RequestId, ReadEnd)> {
        self.end(ReadEnd::Unavailable, |it| it.until < tick)
    }

    /// Ends those that may read the state as it is.
    pub(crate) fn on_applied(&mut self, applied: u64) -> Vec<(RequestId, ReadEnd)> {
        self.end(ReadEnd::Fresh, |it| it.index.is_some_and(|index| index <= applied))
    }

    fn end(&mut self, how: ReadEnd, which: impl Fn(&Waiting) -> bool) -> Vec<(RequestId, ReadEnd)> {
        let ended = self.waiting.extract_if(.., |_, it| which(it));
        ended.map(|(request, _)| (request, how)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64) -> RequestId {
        RequestId { member: 1, number }
    }

    #[test]
    fn a_read_ends_once_when_its_index_is_applied() {
        let mut reads = Reads::default();
        reads.on_asked(request(1), (5, 2), 10);
        assert!(reads.on_applied(100).is_empty(), "no index yet");
        reads.on_index(request(1), 7);
        assert!(reads.on_applied(6).is_empty());
        assert_eq!(reads.on_applied(7), [(request(1), ReadEnd::Fresh)]);
        reads.on_index(request(1), 7);
        assert!(reads.on_applied(7).is_empty() && reads.on_tick(99).is_empty());
    }

    #[test]
    fn a_read_fails_by_its_deadline_and_with_its_leader() {
        let mut reads = Reads::default();
        reads.on_asked(request(1), (5, 2), 10);
        reads.on_asked(request(2), (5, 2), 20);
        reads.on_index(request(2), 7);
        assert!(reads.on_leader((5, 2)).is_empty() && reads.on_tick(10).is_empty());
        // What has its index needs no leader any more.
        assert_eq!(reads.on_leader((6, 3)), [(request(1), ReadEnd::Unavailable)]);
        assert_eq!(reads.on_tick(21), [(request(2), ReadEnd::Unavailable)]);
    }
}
