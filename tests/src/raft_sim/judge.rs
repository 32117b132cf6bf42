//! What must hold of a raft group, judged from what members wrote, applied and answered; it shares
//! no code with the core.
//!
//! - **CLU-1** one leader in a term; an entry of one place is the same everywhere, with the same
//!   before it; a leader has every command that was ever applied; one command at one index.
//! - **CLU-2** what was acknowledged is in every later read.
//! - **CLU-7** on every disk, applied <= commit <= last, in an unbroken run.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Committed, Image, Write};

/// Reads go through the log like commands; their numbers have this bit.
pub(super) const READ: u64 = 1 << 63;

#[derive(Debug, Default)]
pub(super) struct Judge {
    leaders: BTreeMap<u64, u64>,
    /// By index and term: the term before, and the data.
    entries: BTreeMap<(u64, u64), (u64, Vec<u8>)>,
    /// By index: term and number of what was applied.
    agreed: BTreeMap<u64, (u64, u64)>,
    acknowledged: Vec<u64>,
    pub(super) checks: u64,
}

/// The number in a command.
pub(super) fn number_of(command: &[u8]) -> u64 {
    u64::from_le_bytes(command.try_into().expect("commands are eight bytes"))
}

impl Judge {
    pub(super) fn terms_led(&self) -> u64 {
        self.leaders.len() as u64
    }

    pub(super) fn acknowledged(&self) -> &[u64] {
        &self.acknowledged
    }

    pub(super) fn acknowledge(&mut self, number: u64) {
        if number & READ == 0 {
            self.acknowledged.push(number);
        }
    }

    /// A member leads, with this on its disk.
    pub(super) fn leads(&mut self, member: u64, term: u64, image: &Image) -> Result<(), String> {
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
        for (index, (of, number)) in self.agreed.range(begins + 1..) {
            if held.get(index) != Some(of) {
                return Err(format!("CLU-1: the leader of term {term} lacks {number} at {index}"));
            }
        }
        Ok(())
    }

    /// A disk after a write.
    pub(super) fn disk(&mut self, disk: &Image, write: &Write) -> Result<(), String> {
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
        }
        Ok(())
    }

    /// A member applies a command.
    pub(super) fn applied(&mut self, committed: &Committed) -> Result<(), String> {
        self.checks += 1;
        let (index, number) = (committed.place.index, number_of(&committed.command));
        let this = (committed.place.term, number);
        let first = *self.agreed.entry(index).or_insert(this);
        if first == this {
            return Ok(());
        }
        // What was promised to somebody is worse to lose than what was only agreed on.
        let id = if self.acknowledged.contains(&first.1) { "CLU-2" } else { "CLU-1" };
        Err(format!("{id}: {number} is applied at {index}, where {} was", first.1))
    }

    /// A state stands for everything up to an index.
    pub(super) fn restored(&mut self, index: u64, state: &[u8]) -> Result<(), String> {
        self.checks += 1;
        let is = state.chunks(8).map(number_of);
        let wanted = self.agreed.range(..=index).map(|(_, (_, number))| *number);
        if is.eq(wanted.filter(|number| number & READ == 0)) {
            return Ok(());
        }
        Err(format!("CLU-1: a checkpoint at {index} is not what was agreed on up to there"))
    }

    /// A read that began when this many were acknowledged.
    pub(super) fn read(&mut self, before: usize, state: &BTreeSet<u64>) -> Result<(), String> {
        self.checks += 1;
        let lacking = self.acknowledged[..before].iter().find(|number| !state.contains(number));
        match lacking {
            None => Ok(()),
            Some(number) => Err(format!("CLU-2: a read lacks {number}, which was acknowledged")),
        }
    }
}
