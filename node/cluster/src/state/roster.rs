//! A pure core: the nodes that a cluster has and had, by id.
//!
//! - **RS-10** an id is given once: above all before it, and who was removed stays so.
//! - **RS-11** a member's incarnation grows with each of its starts, so that what an earlier process
//!   sent is told from what this one sends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Refused;

/// What a member is to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It gets the log and does not vote.
    Learner,
    /// It votes.
    Voter,
    /// It was one of them, and its id is used up.
    Removed,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What operators call it; no two members have one name.
    pub name: String,
    /// SHA-256 of the keys that it may show: one, or two while it is replaced.
    pub keys: Vec<[u8; 32]>,
    /// Of the program that it runs, as it said at its last start.
    pub version: String,
    /// Where the others reach it.
    pub address: String,
    /// What it is to the group.
    pub role: Role,
    /// Whether it gives away its shards and gets no others.
    pub is_draining: bool,
    /// How it counts its starts; 0 = it has not started yet.
    pub incarnation: u64,
}

/// A change of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// It is new, and learns.
    Join {
        /// What operators call it.
        name: String,
        /// Where the others reach it.
        address: String,
        /// SHA-256 of its key.
        key: [u8; 32],
        /// The token that lets it in; who founds a cluster has none.
        token: Option<Spent>,
    },
    /// Its process has started.
    Start {
        /// Where the others reach it from now on.
        address: String,
        /// Above the one before.
        incarnation: u64,
        /// Of the program that it runs.
        version: String,
    },
    /// It votes from now on.
    Promote,
    /// It gives away its shards.
    Drain,
    /// It may own shards again.
    Undrain,
    /// It belongs to the cluster no more.
    Remove,
}

/// A join token that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// What is kept of it.
    pub hash: [u8; 32],
    /// When it was shown, Unix seconds.
    pub at: u64,
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster(BTreeMap<u64, Member>);

impl Roster {
    /// All that there are and were, by id.
    #[must_use]
    pub const fn members(&self) -> &BTreeMap<u64, Member> {
        &self.0
    }

    /// The lowest id that the next member can have.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.0.last_key_value().map_or(1, |(id, _)| id + 1)
    }

    /// The member of this name that belongs to the cluster, with its id.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<(u64, &Member)> {
        let mut present = self.0.iter().filter(|(_, it)| it.role != Role::Removed);
        present.find(|(_, it)| it.name == name).map(|(id, it)| (*id, it))
    }

    /// Those but one that belong to the cluster.
    pub(super) fn others(&self, me: u64) -> Vec<u64> {
        let present = self.0.iter().filter(|(_, it)| it.role != Role::Removed);
        present.map(|(id, _)| *id).filter(|id| *id != me).collect()
    }

    /// Every id up to this one is used up, whoever had it (RS-10).
    pub(super) fn pass_over(&mut self, newest: u64) {
        if self.next_id() <= newest {
            let nobody = Member {
                name: String::new(),
                keys: Vec::new(),
                version: String::new(),
                address: String::new(),
                role: Role::Removed,
                is_draining: false,
                incarnation: 0,
            };
            self.0.insert(newest, nobody);
        }
    }

    pub(super) fn apply(&mut self, id: u64, change: &MemberChange) -> Result<(), Refused> {
        match change {
            MemberChange::Join { .. } if id < self.next_id() => {
                return Err(Refused::UsedMember(id));
            }
            MemberChange::Join { name, address, key, token: _ } => {
                if self.named(name).is_some() {
                    return Err(Refused::UsedName(name.clone()));
                }
                let member = Member {
                    name: name.clone(),
                    keys: vec![*key],
                    version: String::new(),
                    address: address.clone(),
                    role: Role::Learner,
                    is_draining: false,
                    incarnation: 0,
                };
                self.0.insert(id, member);
            }
            MemberChange::Start { address, incarnation, version } => {
                let member = self.find(id)?;
                if *incarnation <= member.incarnation {
                    let (incarnation, newest) = (*incarnation, member.incarnation);
                    return Err(Refused::StaleStart { member: id, incarnation, newest });
                }
                member.address.clone_from(address);
                member.version.clone_from(version);
                member.incarnation = *incarnation;
            }
            MemberChange::Promote => self.find(id)?.role = Role::Voter,
            MemberChange::Drain => self.find(id)?.is_draining = true,
            MemberChange::Undrain => self.find(id)?.is_draining = false,
            MemberChange::Remove => self.find(id)?.role = Role::Removed,
        }
        Ok(())
    }

    /// A member that belongs to the cluster.
    fn find(&mut self, id: u64) -> Result<&mut Member, Refused> {
        let member = self.0.get_mut(&id).filter(|it| it.role != Role::Removed);
        member.ok_or(Refused::UnknownMember(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, State};

    fn apply(state: &mut State, member: u64, change: MemberChange) -> Result<(), Refused> {
        state.apply(&Command::Member { member, change }).map(drop)
    }

    fn join_as(name: &str) -> MemberChange {
        let (name, address) = (name.to_owned(), "a:1".to_owned());
        MemberChange::Join { name, address, key: [7; 32], token: None }
    }

    fn join() -> MemberChange {
        join_as("edge-1")
    }

    fn start(incarnation: u64) -> MemberChange {
        MemberChange::Start { address: "b:2".into(), incarnation, version: "1".into() }
    }

    #[test]
    fn a_member_joins_starts_votes_drains_and_goes_for_good() {
        let mut state = State::default();
        assert_eq!(state.roster().next_id(), 1);
        let unknown = Err(Refused::UnknownMember(1));
        assert_eq!(apply(&mut state, 1, MemberChange::Promote), unknown);
        apply(&mut state, 1, join()).unwrap();
        assert_eq!(apply(&mut state, 1, join()), Err(Refused::UsedMember(1)), "RS-10");
        apply(&mut state, 1, start(2)).unwrap();
        let stale = Err(Refused::StaleStart { member: 1, incarnation: 2, newest: 2 });
        assert_eq!(apply(&mut state, 1, start(2)), stale, "RS-11");
        apply(&mut state, 1, MemberChange::Promote).unwrap();
        apply(&mut state, 1, MemberChange::Drain).unwrap();
        let is = Member {
            name: "edge-1".into(),
            keys: vec![[7; 32]],
            version: "1".into(),
            address: "b:2".into(),
            role: Role::Voter,
            is_draining: true,
            incarnation: 2,
        };
        assert_eq!(state.roster().members()[&1], is);
        let taken = Err(Refused::UsedName("edge-1".into()));
        assert_eq!(apply(&mut state, 2, join()), taken, "two of one name");
        apply(&mut state, 1, MemberChange::Undrain).unwrap();
        assert!(!state.roster().members()[&1].is_draining);
        apply(&mut state, 1, MemberChange::Remove).unwrap();
        for change in [start(3), MemberChange::Promote, MemberChange::Remove] {
            assert_eq!(apply(&mut state, 1, change), unknown, "RS-10");
        }
        assert_eq!(apply(&mut state, 1, join()), Err(Refused::UsedMember(1)), "RS-10");
        assert_eq!(state.roster().next_id(), 2);
    }

    /// RS-4, RS-10, RS-11 over seeded changes.
    #[test]
    fn any_changes_keep_the_invariants() {
        for seed in 1..=100_u64 {
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut draw = |below: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                rng % below
            };
            let mut state = State::default();
            for _step in 0..80 {
                let before = state.clone();
                let id = 1 + draw(9);
                let change = match draw(7) {
                    0 | 1 => join_as(&draw(4).to_string()),
                    2 => start(draw(20)),
                    3 => MemberChange::Promote,
                    4 => MemberChange::Drain,
                    5 => MemberChange::Undrain,
                    _ => MemberChange::Remove,
                };
                let done = apply(&mut state, id, change.clone());
                let (was, is) = (before.roster().members(), state.roster().members());
                if done.is_err() {
                    assert_eq!(state, before, "seed {seed}: RS-4");
                    continue;
                }
                if let MemberChange::Join { .. } = change {
                    assert!(was.keys().all(|other| *other < id), "seed {seed}: RS-10");
                } else {
                    assert_ne!(was[&id].role, Role::Removed, "seed {seed}: RS-10");
                }
                if let MemberChange::Start { incarnation, .. } = change {
                    assert!(was[&id].incarnation < incarnation, "seed {seed}: RS-11");
                    assert_eq!(is[&id].incarnation, incarnation, "seed {seed}: RS-11");
                }
                let others = |of: &BTreeMap<u64, Member>| {
                    let mut of = of.clone();
                    of.remove(&id);
                    of
                };
                assert_eq!(others(was), others(is), "seed {seed}: one changes, the others stay");
            }
        }
    }
}
