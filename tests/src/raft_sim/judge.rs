//! What must hold of a raft group, judged from what members wrote, applied and answered; it shares
//! no code with the core.
//!
//! - **CLU-1** one leader in a term; an entry of one place is the same everywhere, with the same
//!   before it; a leader has every command that was committed in a term before its own; one command
//!   at one index, and one set of members.
//! - **CLU-2** what was acknowledged is in every later read through the log.
//! - **CLU-4** it is in every later read by read index, and no read goes back behind an earlier one.
//! - **CLU-5** a read ends by its deadline.
//! - **CLU-6** an id is used once, and votes only when its disk has what was committed.
//! - **CLU-7** on every disk, applied <= commit <= last, in an unbroken run, and the members of a
//!   checkpoint are those of its place.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Change, Changed, Committed, Image, Write};

use super::member::AskedRead;

/// Reads go through the log like commands; their numbers have this bit.
pub(crate) const READ: u64 = 1 << 63;

/// Who belongs to the group, by an account of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) voters: BTreeSet<u64>,
    pub(crate) learners: BTreeSet<u64>,
}

impl Group {
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    fn is(&self, members: &cluster::Members) -> bool {
        self.voters == *members.voters() && self.learners == *members.learners()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Judge {
    leaders: BTreeMap<u64, u64>,
    /// By index and term: the term before, and the data.
    entries: BTreeMap<(u64, u64), (u64, Vec<u8>)>,
    /// By index: term and number of what was applied.
    agreed: BTreeMap<u64, (u64, u64)>,
    /// By index: the newest term that anybody had led when somebody applied what lies there first.
    committed_by: BTreeMap<u64, u64>,
    acknowledged: Vec<u64>,
    /// By the index of the change: its term, what it was, and who belongs to the group from then.
    changes: BTreeMap<u64, (u64, Option<Change>, Group)>,
    used: BTreeSet<u64>,
    /// The highest index at which a read by read index was answered.
    read_at: u64,
    pub(crate) checks: u64,
}

/// The number that a command begins with. What follows it is nothing to the group.
pub(crate) fn number_of(command: &[u8]) -> u64 {
    u64::from_le_bytes(*command.first_chunk().expect("a command begins with a number"))
}

/// A state as members encode it: the numbers of its commands, and what else they make of them.
pub(crate) fn pack(numbers: &[u8], rest: &[u8]) -> Vec<u8> {
    [&(numbers.len() as u64).to_le_bytes(), numbers, rest].concat()
}

/// The numbers, and the rest. A group begins with neither.
pub(crate) fn unpack(state: &[u8]) -> (&[u8], &[u8]) {
    match state.split_first_chunk() {
        Some((length, state)) => state.split_at(u64::from_le_bytes(*length) as usize),
        None => (&[], &[]),
    }
}

impl Judge {
    pub(crate) fn new(founders: &[u64]) -> Self {
        let group = Group { voters: founders.iter().copied().collect(), learners: BTreeSet::new() };
        let (changes, used) = ([(0, (0, None, group.clone()))].into(), group.voters);
        Self { changes, used, ..Self::default() }
    }

    /// Who belongs to the group now, and since which index.
    pub(crate) fn group(&self) -> (u64, &Group) {
        let (index, (_, _, group)) = self.changes.last_key_value().expect("the founders are there");
        (*index, group)
    }

    /// Whether this id ever belonged to the group.
    pub(crate) fn was_used(&self, id: u64) -> bool {
        self.used.contains(&id)
    }

    pub(crate) const fn read_at(&self) -> u64 {
        self.read_at
    }

    /// A member applies a change of the members. Whether it is the first that does.
    pub(crate) fn changed(&mut self, changed: &Changed) -> Result<bool, String> {
        self.checks += 1;
        let (index, change) = (changed.place.index, changed.change);
        let (newest, group) = self.group();
        let first = newest < index;
        if first {
            let mut group = group.clone();
            match change {
                Change::AddLearner(id) => {
                    group.learners.insert(id);
                    if !self.used.insert(id) {
                        return Err(format!("CLU-6: {id} is used again"));
                    }
                }
                Change::Promote(id) => {
                    group.voters.insert(id);
                    if !group.learners.remove(&id) {
                        return Err(format!("CLU-6: {id} votes and never learned"));
                    }
                }
                Change::Remove(id) => {
                    group.voters.remove(&id);
                    group.learners.remove(&id);
                }
            }
            self.changes.insert(index, (changed.place.term, Some(change), group));
            self.is_committed(index);
        }
        let is = |(term, what, group): &(u64, Option<Change>, Group)| {
            (*term, *what) == (changed.place.term, Some(change)) && group.is(&changed.members)
        };
        match self.changes.get(&index).is_some_and(is) {
            true => Ok(first),
            false => Err(format!("CLU-1: {change:?} at {index} is not what others applied there")),
        }
    }

    /// A leader proposes to let a learner vote: what it knows to be committed, and the learner's
    /// disk.
    pub(crate) fn promoted(&mut self, id: u64, leader: &Image, disk: &Image) -> Result<(), String> {
        self.checks += 1;
        let (committed, last) = (leader.hard.commit, disk.last().index);
        match committed <= last {
            true => Ok(()),
            false => Err(format!("CLU-6: {id} has {last} of {committed} entries, and may vote")),
        }
    }

    /// A read by read index is answered from the state at an index.
    pub(crate) fn answered(
        &mut self,
        asked: &AskedRead,
        index: u64,
        state: &BTreeSet<u64>,
    ) -> Result<(), String> {
        self.checks += 1;
        let mut before = self.acknowledged[..asked.before].iter();
        if let Some(number) = before.find(|number| !state.contains(number)) {
            return Err(format!("CLU-4: a read lacks {number}, which was acknowledged"));
        }
        if index < asked.floor {
            return Err(format!("CLU-4: a read at {index} after one at {}", asked.floor));
        }
        self.read_at = self.read_at.max(index);
        Ok(())
    }

    pub(crate) fn terms_led(&self) -> u64 {
        self.leaders.len() as u64
    }

    pub(crate) fn acknowledged(&self) -> &[u64] {
        &self.acknowledged
    }

    pub(crate) fn acknowledge(&mut self, number: u64) {
        if number & READ == 0 {
            self.acknowledged.push(number);
        }
    }

    /// A member leads, with this on its disk.
    pub(crate) fn leads(&mut self, member: u64, term: u64, image: &Image) -> Result<(), String> {
        self.checks += 1;
        if let Some(&other) = self.leaders.get(&term) {
            return if other == member {
                Ok(())
            } else {
                Err(format!("CLU-1: {other} and {member} lead term {term}"))
            };
        }
        self.leaders.insert(term, member);
        let begins = image.checkpoint.place.index;
        let held: BTreeMap<u64, u64> =
            image.entries.iter().map(|entry| (entry.index, entry.term)).collect();
        // Who is elected late, behind a leader of a later term, need not know what that one committed.
        let demanded = |index: &u64| self.committed_by.get(index).is_none_or(|by| *by < term);
        for (index, (of, number)) in self.agreed.range(begins + 1..) {
            if demanded(index) && held.get(index) != Some(of) {
                return Err(format!("CLU-1: the leader of term {term} lacks {number} at {index}"));
            }
        }
        for (index, (of, change, _)) in self.changes.range(begins + 1..) {
            if demanded(index) && held.get(index) != Some(of) {
                return Err(format!(
                    "CLU-1: the leader of term {term} lacks {change:?} at {index}"
                ));
            }
        }
        Ok(())
    }

    /// Somebody is the first to apply what lies at an index.
    fn is_committed(&mut self, index: u64) {
        let newest = self.leaders.last_key_value().map_or(0, |(term, _)| *term);
        self.committed_by.entry(index).or_insert(newest);
    }

    /// A disk after a write.
    pub(crate) fn disk(&mut self, disk: &Image, write: &Write) -> Result<(), String> {
        self.checks += 1;
        let (mut index, mut term) = (disk.base.index, disk.base.term);
        let mut at_checkpoint = (index == disk.checkpoint.place.index).then_some(term);
        let written = write.entries.first().map_or(u64::MAX, |entry| entry.index);
        for entry in &disk.entries {
            if entry.index != index + 1 || entry.term < term {
                let (to, of) = (entry.index, entry.term);
                return Err(format!("CLU-1: {to} of term {of} follows {index} of term {term}"));
            }
            if written <= entry.index {
                let data = (term, entry.data.to_vec());
                let key = (entry.index, entry.term);
                let known = self.entries.entry(key).or_insert_with(|| data.clone());
                if *known != data {
                    return Err(format!("CLU-1: two entries at {key:?}"));
                }
            }
            (index, term) = (entry.index, entry.term);
            if index == disk.checkpoint.place.index {
                at_checkpoint = Some(term);
            }
        }
        let (applied, commit) = (disk.checkpoint.place.index, disk.hard.commit);
        if commit < applied || index < commit || at_checkpoint != Some(disk.checkpoint.place.term) {
            return Err(format!("CLU-7: applied {applied}, commit {commit}, last {index}"));
        }
        if disk.hard.term < term {
            return Err(format!("CLU-7: an entry of term {term} in term {}", disk.hard.term));
        }
        if write.checkpoint.is_some() {
            self.restored(applied, &disk.checkpoint.state)?;
            let mut until = self.changes.range(..=applied);
            let group = until.next_back().map(|(_, (_, _, group))| group);
            if !group.is_some_and(|group| group.is(&disk.checkpoint.members)) {
                return Err(format!(
                    "CLU-7: the members of the checkpoint at {applied} are others"
                ));
            }
        }
        Ok(())
    }

    /// A member applies a command.
    pub(crate) fn applied(&mut self, committed: &Committed) -> Result<(), String> {
        self.checks += 1;
        let (index, number) = (committed.place.index, number_of(&committed.command));
        let this = (committed.place.term, number);
        let first = *self.agreed.entry(index).or_insert(this);
        self.is_committed(index);
        if first == this {
            return Ok(());
        }
        // What was promised to somebody is worse to lose than what was only agreed on.
        let id = if self.acknowledged.contains(&first.1) { "CLU-2" } else { "CLU-1" };
        Err(format!("{id}: {number} is applied at {index}, where {} was", first.1))
    }

    /// A state stands for everything up to an index.
    pub(crate) fn restored(&mut self, index: u64, state: &[u8]) -> Result<(), String> {
        self.checks += 1;
        let is = unpack(state).0.chunks(8).map(number_of);
        let wanted = self.agreed.range(..=index).map(|(_, (_, number))| *number);
        if is.eq(wanted.filter(|number| number & READ == 0)) {
            return Ok(());
        }
        Err(format!("CLU-1: a checkpoint at {index} is not what was agreed on up to there"))
    }

    /// A read that began when this many were acknowledged.
    pub(crate) fn read(&mut self, before: usize, state: &BTreeSet<u64>) -> Result<(), String> {
        self.checks += 1;
        let lacking = self.acknowledged[..before].iter().find(|number| !state.contains(number));
        match lacking {
            None => Ok(()),
            Some(number) => Err(format!("CLU-2: a read lacks {number}, which was acknowledged")),
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster::{Place, RequestId};

    use super::*;

    /// A disk with entries of these terms, from index 2 on.
    fn image(terms: &[u64]) -> Image {
        let mut image = Image::default();
        image.carry_out(&Image::founding(vec![1, 2, 3], Vec::new()));
        for (index, term) in (2..).zip(terms) {
            let entry = cluster::Entry { index, term: *term, ..cluster::Entry::default() };
            image.entries.push(entry);
        }
        image
    }

    fn applied(index: u64, term: u64) -> Committed {
        let request = RequestId { member: 1, number: index };
        let command = index.to_le_bytes().to_vec();
        Committed { place: Place { term, index }, request, command }
    }

    #[test]
    fn a_leader_has_what_was_committed_before_its_term() {
        let judge = || {
            let mut judge = Judge::new(&[1, 2, 3]);
            judge.leads(1, 2, &image(&[2])).unwrap();
            judge.applied(&applied(2, 2)).unwrap();
            // What was written in term 2 as well, and committed by the leader of term 4.
            judge.leads(3, 4, &image(&[2, 2, 4])).unwrap();
            judge.applied(&applied(3, 2)).unwrap();
            judge.applied(&applied(4, 4)).unwrap();
            judge
        };
        judge().leads(2, 3, &image(&[2])).expect("elected late, it knows nothing of term 4");
        let lacks = |term, terms: &[u64]| judge().leads(2, term, &image(terms)).unwrap_err();
        assert!(lacks(3, &[]).starts_with("CLU-1"), "what term 2 committed");
        assert!(lacks(5, &[2, 2]).starts_with("CLU-1"), "what term 4 committed");
        assert!(lacks(5, &[2, 3, 4]).starts_with("CLU-1"), "or had from before");
    }
}
