//! A pure core: what this member has proposed and what is known of each, until it is applied here
//! or its time is over.
//!
//! A proposal goes to whoever leads. When the lead changes it goes to the next one, under the same
//! request id: the state applies it once (RS-13), so that nobody has to know what became of it at
//! the last one.
//!
//! - **PR-1** each ends once, and by its deadline.
//! - **PR-2** one that was certainly never in a log ends as [`End::Unavailable`], any other that is
//!   not applied as [`End::Unknown`].

use std::collections::BTreeMap;

/// How a proposal ended that was not applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was never in a log.
    Unavailable,
    /// It may be applied, or may be later.
    Unknown,
}

#[derive(Debug)]
struct Waiting {
    command: Vec<u8>,
    /// The last tick at which it may end well.
    until: u64,
    /// Term and leader that it was given to last, as far as that has not said no.
    given_to: Option<(u64, u64)>,
    /// Whether somebody before may have put it into a log.
    is_doubtful: bool,
}

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub(crate) struct Proposals(BTreeMap<u64, Waiting>);

impl Proposals {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A new one; it ends before the tick after `until`.
    pub(crate) fn add(&mut self, number: u64, command: Vec<u8>, until: u64) {
        let new = Waiting { command, until, given_to: None, is_doubtful: false };
        self.0.insert(number, new);
    }

    /// Those that this leader has not been given yet, in order.
    pub(crate) fn to_give(&self, leader: (u64, u64)) -> Vec<(u64, Vec<u8>)> {
        let ungiven = self.0.iter().filter(|(_, it)| it.given_to != Some(leader));
        ungiven.map(|(number, it)| (*number, it.command.clone())).collect()
    }

    /// It is on its way to this leader.
    pub(crate) fn on_given(&mut self, number: u64, leader: (u64, u64)) {
        if let Some(it) = self.0.get_mut(&number) {
            it.is_doubtful |= it.given_to.is_some();
            it.given_to = Some(leader);
        }
    }

    /// Whom it was given to has certainly not taken it.
    pub(crate) fn on_refused(&mut self, number: u64, leader: (u64, u64)) {
        if let Some(it) = self.0.get_mut(&number).filter(|it| it.given_to == Some(leader)) {
            it.given_to = None;
        }
    }

    /// Nobody can say whether it was taken: it may be given again.
    pub(crate) fn on_lost(&mut self, number: u64, leader: (u64, u64)) {
        if let Some(it) = self.0.get_mut(&number).filter(|it| it.given_to == Some(leader)) {
            it.given_to = None;
            it.is_doubtful = true;
        }
    }

    /// It is applied here.
    pub(crate) fn on_applied(&mut self, number: u64) {
        self.0.remove(&number);
    }

    /// Ends those that a checkpoint has in it: nobody says any more with which result.
    pub(crate) fn on_restored(&mut self, is_applied: impl Fn(u64) -> bool) -> Vec<u64> {
        self.0.extract_if(.., |number, _| is_applied(*number)).map(|(number, _)| number).collect()
    }

    /// Ends those whose deadline has passed.
    pub(crate) fn on_tick(&mut self, tick: u64) -> Vec<(u64, End)> {
        let over = self.0.extract_if(.., |_, it| it.until < tick);
        let end = |it: &Waiting| match it.is_doubtful || it.given_to.is_some() {
            true => End::Unknown,
            false => End::Unavailable,
        };
        over.map(|(number, it)| (number, end(&it))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: (u64, u64) = (5, 2);
    const SECOND: (u64, u64) = (6, 3);

    fn numbers(proposals: &Proposals, leader: (u64, u64)) -> Vec<u64> {
        proposals.to_give(leader).into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn each_leader_is_given_it_once_until_it_is_applied() {
        let mut proposals = Proposals::default();
        proposals.add(1, vec![1], 10);
        proposals.add(2, vec![2], 10);
        assert_eq!(numbers(&proposals, FIRST), [1, 2]);
        proposals.on_given(1, FIRST);
        proposals.on_given(2, FIRST);
        assert!(numbers(&proposals, FIRST).is_empty());
        proposals.on_refused(2, FIRST);
        assert_eq!(numbers(&proposals, FIRST), [2]);
        assert_eq!(numbers(&proposals, SECOND), [1, 2]);
        // What an earlier one says late is not about the newest.
        proposals.on_given(1, SECOND);
        proposals.on_refused(1, FIRST);
        assert_eq!(numbers(&proposals, SECOND), [2]);
        proposals.on_applied(1);
        proposals.on_applied(1);
        assert_eq!(proposals.len(), 1);
    }

    #[test]
    fn what_may_be_in_a_log_is_never_said_to_be_undone() {
        let mut proposals = Proposals::default();
        for number in 1..=5 {
            proposals.add(number, Vec::new(), 10);
        }
        // 1 was never given, 2 refused, 3 taken, 4 lost then refused, 5 taken by one then refused.
        for number in 2..=5 {
            proposals.on_given(number, FIRST);
        }
        proposals.on_refused(2, FIRST);
        proposals.on_lost(4, FIRST);
        for number in 4..=5 {
            proposals.on_given(number, SECOND);
            proposals.on_refused(number, SECOND);
        }
        assert!(proposals.on_tick(10).is_empty(), "PR-1");
        let ends = proposals.on_tick(11);
        let (no, unknown) = (End::Unavailable, End::Unknown);
        assert_eq!(ends, [(1, no), (2, no), (3, unknown), (4, unknown), (5, unknown)], "PR-2");
        assert!(proposals.on_tick(99).is_empty(), "PR-1");
    }

    #[test]
    fn a_checkpoint_ends_what_is_in_it() {
        let mut proposals = Proposals::default();
        proposals.add(1, Vec::new(), 10);
        proposals.add(2, Vec::new(), 10);
        assert_eq!(proposals.on_restored(|number| number == 1), [1]);
        assert_eq!(proposals.len(), 1);
    }
}
