//! A pure core: who belongs to a raft group, and which change of that may come next.
//!
//! ```text
//! (nobody) --AddLearner--> learner --Promote--> voter
//!                             |                   |
//!                             +------Remove-------+--> (former: its id is never used again)
//! ```
//!
//! Invariant **CLU-6**: an id belongs to one disk. Whoever lost its disk joins under a new id, and
//! every id up to the newest is used up, whether it still belongs to the group or not. One change
//! goes from one set of voters to another that differs by one, so that two majorities always share
//! a member (Ongaro, "Consensus: Bridging Theory and Practice", section 4.1).

use std::collections::BTreeSet;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState, Entry};

/// One change of who belongs to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A member that gets the log and has no vote; its id was never used before.
    AddLearner(u64),
    /// A learner that is caught up votes from now on.
    Promote(u64),
    /// A member that belongs to the group no more.
    Remove(u64),
}

/// Why a change, or a transfer of the lead, was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    /// This member does not lead, or has too much in flight: try again.
    #[error("this node does not lead the group, or has too many changes in flight")]
    Dropped,
    /// Another change, a transfer of the lead, or the first entry of this leader is on its way: try
    /// again.
    #[error("another change of the members is on its way")]
    Pending,
    /// The id was used before, and never will be again (CLU-6).
    #[error("the id {0} was used before; a node that lost its disk joins under a new one")]
    Used(u64),
    /// Nobody of this id, or nobody who could become that.
    #[error("{0} is no member that this can be done with")]
    Unknown(u64),
    /// A learner whose log is not whole yet, or who has not been heard of lately: try again.
    #[error("{0} has not caught up with the log yet")]
    Behind(u64),
    /// The leader itself: transfer the lead first.
    #[error("{0} leads the group; transfer that first")]
    Leads(u64),
    /// Nobody who votes would be left.
    #[error("{0} is the last member that votes")]
    Last(u64),
    /// Too few of those who would vote then have been heard of lately.
    #[error("only {live} of the members that would vote are there, and {quorum} have to be")]
    Quorum {
        /// Of those who would vote: heard of within an election timeout.
        live: usize,
        /// How many it takes.
        quorum: usize,
    },
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    /// The highest id that was ever used; 0 = none.
    newest: u64,
}

impl Members {
    /// Those who found a group.
    #[must_use]
    pub fn founders(voters: impl IntoIterator<Item = u64>) -> Self {
        Self::new(voters, [], 0)
    }

    /// `newest` counts where it is above all of them.
    pub(crate) fn new(
        voters: impl IntoIterator<Item = u64>,
        learners: impl IntoIterator<Item = u64>,
        newest: u64,
    ) -> Self {
        let voters: BTreeSet<u64> = voters.into_iter().collect();
        let learners: BTreeSet<u64> = learners.into_iter().collect();
        let highest = voters.iter().chain(&learners).max().copied();
        Self { newest: newest.max(highest.unwrap_or_default()), voters, learners }
    }

    /// Who votes, by id.
    #[must_use]
    pub const fn voters(&self) -> &BTreeSet<u64> {
        &self.voters
    }

    /// Who gets the log and does not vote, by id.
    #[must_use]
    pub const fn learners(&self) -> &BTreeSet<u64> {
        &self.learners
    }

    /// The highest id that was ever used: the next member gets a higher one.
    #[must_use]
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether this member votes or learns.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether this id is used up and belongs to nobody. A higher one than the newest may belong to
    /// a member that was added where this log does not reach yet.
    #[must_use]
    pub fn is_former(&self, id: u64) -> bool {
        id <= self.newest && !self.contains(id)
    }

    /// How many of the voters it takes to decide.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// The members after a change: the same answer wherever the same log is applied.
    ///
    /// # Errors
    ///
    /// [`NotChanged::Used`], [`NotChanged::Unknown`], [`NotChanged::Last`].
    pub fn after(&self, change: Change) -> Result<Self, NotChanged> {
        let mut after = self.clone();
        match change {
            Change::AddLearner(id) if id <= self.newest => return Err(NotChanged::Used(id)),
            Change::AddLearner(id) => {
                after.learners.insert(id);
                after.newest = id;
            }
            Change::Promote(id) if !self.learners.contains(&id) => {
                return Err(NotChanged::Unknown(id));
            }
            Change::Promote(id) => {
                after.learners.remove(&id);
                after.voters.insert(id);
            }
            Change::Remove(id) => {
                if !after.voters.remove(&id) && !after.learners.remove(&id) {
                    return Err(NotChanged::Unknown(id));
                }
                if after.voters.is_empty() {
                    return Err(NotChanged::Last(id));
                }
            }
        }
        Ok(after)
    }

    pub(crate) fn to_conf_state(&self) -> ConfState {
        let voters: Vec<u64> = self.voters.iter().copied().collect();
        let learners: Vec<u64> = self.learners.iter().copied().collect();
        ConfState::from((voters, learners))
    }
}

impl Change {
    pub(crate) fn to_conf_change(self) -> ConfChange {
        let (kind, id) = match self {
            Self::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
            Self::Promote(id) => (ConfChangeType::AddNode, id),
            Self::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        let mut change = ConfChange { node_id: id, ..ConfChange::default() };
        change.set_change_type(kind);
        change
    }

    /// The change that an entry of the log holds.
    pub(crate) fn of_entry(entry: &Entry) -> Option<Self> {
        let change = ConfChange::parse_from_bytes(&entry.data).ok()?;
        Some(Self::of_conf_change(&change))
    }

    fn of_conf_change(change: &ConfChange) -> Self {
        match change.get_change_type() {
            ConfChangeType::AddLearnerNode => Self::AddLearner(change.node_id),
            ConfChangeType::AddNode => Self::Promote(change.node_id),
            ConfChangeType::RemoveNode => Self::Remove(change.node_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_learns_before_it_votes_and_its_id_is_used_once() {
        let members = Members::founders([1, 2, 3]);
        assert_eq!(members.after(Change::AddLearner(3)), Err(NotChanged::Used(3)));
        assert_eq!(members.after(Change::Promote(4)), Err(NotChanged::Unknown(4)));
        // Ids that were passed over are used up, too.
        let members = members.after(Change::AddLearner(5)).unwrap();
        assert_eq!(members.after(Change::AddLearner(4)), Err(NotChanged::Used(4)));
        assert!(members.is_former(4) && !members.is_former(5) && !members.is_former(6));
        let members = members.after(Change::Promote(5)).unwrap();
        assert_eq!(members.voters().len(), 4);
        assert_eq!(members.after(Change::Promote(5)), Err(NotChanged::Unknown(5)));
        let members = members.after(Change::Remove(5)).unwrap();
        assert!(members.is_former(5));
        assert_eq!(members.after(Change::AddLearner(5)), Err(NotChanged::Used(5)));
        assert_eq!(members.after(Change::Remove(5)), Err(NotChanged::Unknown(5)));
    }

    #[test]
    fn the_last_voter_stays() {
        let members = Members::founders([1]).after(Change::AddLearner(2)).unwrap();
        assert_eq!(members.after(Change::Remove(1)), Err(NotChanged::Last(1)));
        assert_eq!(members.after(Change::Remove(2)), Ok(Members::new([1], [], 2)));
    }

    #[test]
    fn a_change_is_what_was_proposed() {
        for change in [Change::AddLearner(7), Change::Promote(8), Change::Remove(9)] {
            assert_eq!(Change::of_conf_change(&change.to_conf_change()), change);
        }
    }
}
