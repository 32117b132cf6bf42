//! A pure core: what of the log is durable, as raft reads it, and what one write makes of it.
//!
//! ```text
//! checkpoint  the state at one index, with its members      base <= checkpoint <= commit <= last
//! base        the place before the first entry kept; entries between it and the checkpoint are
//!             for members that are a little behind
//! entries     an unbroken run from base to last
//! hard        term, vote, commit
//! ```
//!
//! Invariant, checked at every start: **CLU-7** applied <= commit <= last on every disk at every
//! moment. What is applied is durable as the checkpoint only; the rest is applied again. Members are
//! part of it: a change that is in the checkpoint is not applied again, one behind it is.

use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::members::Members;

/// A place in the log. A log whose last place is the greater one is the more complete one
/// (Raft, section 5.4.1), hence the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// In which it was written.
    pub term: u64,
    /// Counted from 1, where every group begins.
    pub index: u64,
}

/// The state at one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Of the last command in it.
    pub place: Place,
    /// Who belongs to the group at that place.
    pub members: Members,
    /// The state, as its owner encodes it.
    pub state: Vec<u8>,
}

/// What goes of the log before entries are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    #[default]
    Nothing,
    /// Entries up to this place, which is the base from now on.
    Through(Place),
    /// All of it: a checkpoint of another node, at this place, takes its place.
    All(Place),
}

/// One durable write: all of it is on the disk, or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Write {
    /// Replaces the one before.
    pub checkpoint: Option<Checkpoint>,
    /// What goes first.
    pub cut: Cut,
    /// Entries, in order; those at the same or a higher index go.
    pub entries: Vec<Entry>,
    /// Term, vote and commit, where they changed.
    pub hard: Option<HardState>,
}

impl Write {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Term, vote, commit.
    pub hard: HardState,
    /// The state to begin with.
    pub checkpoint: Checkpoint,
    /// Before the first entry.
    pub base: Place,
    /// From `base.index + 1`.
    pub entries: Vec<Entry>,
}

impl Image {
    /// The write that founds a group: an empty state at index 1, so that whoever joins with nothing
    /// has to begin with a checkpoint.
    #[must_use]
    pub fn founding(voters: Vec<u64>, state: Vec<u8>) -> Write {
        let members = Members::founders(voters);
        let place = Place { term: 1, index: 1 };
        let hard = HardState { term: place.term, commit: place.index, ..HardState::default() };
        Write {
            checkpoint: Some(Checkpoint { place, members, state }),
            cut: Cut::All(place),
            entries: Vec::new(),
            hard: Some(hard),
        }
    }

    /// The write that a new member begins with: nothing, until the leader sends it a checkpoint.
    #[must_use]
    pub fn joining() -> Write {
        Write {
            checkpoint: Some(Checkpoint::default()),
            cut: Cut::All(Place::default()),
            entries: Vec::new(),
            hard: Some(HardState::default()),
        }
    }

    /// Whether nothing of the group has reached this disk yet. It belongs to no voter.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.checkpoint.place == Place::default()
    }

    /// The place of the last entry, or the base.
    #[must_use]
    pub fn last(&self) -> Place {
        self.entries.last().map_or(self.base, place_of)
    }

    /// [`Image::last`] after this write.
    #[must_use]
    pub fn last_after(&self, write: &Write) -> Place {
        match (write.entries.last(), write.cut) {
            (Some(entry), _) => place_of(entry),
            (None, Cut::All(place)) => place,
            (None, Cut::Nothing | Cut::Through(_)) => self.last(),
        }
    }

    /// What contradicts itself, if anything does.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        let mut before = self.base;
        for entry in &self.entries {
            let place = place_of(entry);
            if place.index != before.index + 1 || place.term < before.term {
                return Err(format!("entry {place:?} follows {before:?}"));
            }
            before = place;
        }
        let (applied, commit, last) = (self.checkpoint.place, self.hard.commit, before);
        if applied.index < self.base.index {
            return Err(format!("the log begins at {:?}, behind its checkpoint", self.base));
        }
        if commit < applied.index || last.index < commit {
            return Err(format!(
                "CLU-7: applied {}, commit {commit}, last {}",
                applied.index, last.index
            ));
        }
        if self.hard.term < last.term {
            return Err(format!("an entry of term {} in term {}", last.term, self.hard.term));
        }
        if self.term_at(applied.index) != Some(applied.term) {
            return Err(format!("the checkpoint at {applied:?} is of another log"));
        }
        if self.is_blank() && last != Place::default() {
            return Err(format!("entries up to {}, and no checkpoint before them", last.index));
        }
        if self.checkpoint.members.voters().is_empty() != self.is_blank() {
            return Err("nobody votes".to_owned());
        }
        Ok(())
    }

    /// Carries out a write that has become durable.
    pub fn carry_out(&mut self, write: &Write) {
        match write.cut {
            Cut::Nothing => {}
            Cut::Through(place) => {
                self.entries.retain(|entry| place.index < entry.index);
                self.base = place;
            }
            Cut::All(place) => {
                self.entries.clear();
                self.base = place;
            }
        }
        if let Some(checkpoint) = &write.checkpoint {
            self.checkpoint.clone_from(checkpoint);
        }
        if let Some(first) = write.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend_from_slice(&write.entries);
        }
        if let Some(hard) = &write.hard {
            self.hard.clone_from(hard);
        }
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.at(index).map(|entry| entry.term)
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        let position = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(position).ok()?)
    }
}

/// Where an entry is.
#[must_use]
pub const fn place_of(entry: &Entry) -> Place {
    Place { term: entry.term, index: entry.index }
}

impl Storage for Image {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.checkpoint.members.to_conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(StorageError::Compacted.into());
        }
        let range = (low..high).map_while(|index| self.at(index).cloned());
        let mut entries: Vec<Entry> = range.collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    /// A member that the checkpoint does not know would refuse it: it waits for the next one.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let checkpoint = &self.checkpoint;
        if checkpoint.place.index < request_index || !checkpoint.members.contains(to) {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(to_snapshot(&self.checkpoint))
    }
}

/// raft's own form has no place for the newest id: it goes in front of the state.
fn to_snapshot(checkpoint: &Checkpoint) -> Snapshot {
    let newest = checkpoint.members.newest().to_le_bytes();
    let data = [newest.as_slice(), &checkpoint.state].concat();
    let mut snapshot = Snapshot { data: data.into(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    metadata.index = checkpoint.place.index;
    metadata.term = checkpoint.place.term;
    metadata.set_conf_state(checkpoint.members.to_conf_state());
    snapshot
}

/// What another node sent; `None` when it is none of ours.
pub(crate) fn from_snapshot(snapshot: &Snapshot) -> Option<Checkpoint> {
    let metadata = snapshot.get_metadata();
    let (newest, state) = snapshot.data.split_first_chunk::<8>()?;
    let conf = metadata.get_conf_state();
    let (voters, learners) = (conf.voters.iter().copied(), conf.learners.iter().copied());
    Some(Checkpoint {
        place: Place { term: metadata.term, index: metadata.index },
        members: Members::new(voters, learners, u64::from_le_bytes(*newest)),
        state: state.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry { term, index, ..Entry::default() }
    }

    fn founded() -> Image {
        let mut image = Image::default();
        image.carry_out(&Image::founding(vec![1], Vec::new()));
        image
    }

    #[test]
    fn a_conflicting_suffix_goes_and_a_cut_moves_the_base() {
        let mut image = founded();
        let first = Write { entries: vec![entry(1, 2), entry(1, 3)], ..Write::default() };
        image.carry_out(&first);
        let hard = HardState { term: 2, commit: 3, ..HardState::default() };
        let second =
            Write { entries: vec![entry(2, 3), entry(2, 4)], hard: Some(hard), ..Write::default() };
        image.carry_out(&second);
        assert_eq!(image.check(), Ok(()));
        assert_eq!(image.last(), Place { term: 2, index: 4 });
        assert_eq!(image.term(3).unwrap(), 2);
        let place = Place { term: 2, index: 3 };
        let checkpoint = Checkpoint { place, ..image.checkpoint.clone() };
        let through = Cut::Through(Place { term: 1, index: 2 });
        image.carry_out(&Write { checkpoint: Some(checkpoint), cut: through, ..Write::default() });
        assert_eq!((image.check(), image.first_index().unwrap()), (Ok(()), 3));
        assert!(image.term(1).is_err());
    }

    #[test]
    fn what_breaks_clu_7_is_found() {
        let mut ahead = founded();
        ahead.hard.commit = 2;
        assert!(ahead.check().unwrap_err().contains("CLU-7"));
        let mut behind = founded();
        behind.carry_out(&Write { entries: vec![entry(1, 2)], ..Write::default() });
        behind.checkpoint.place.index = 2;
        assert!(behind.check().unwrap_err().contains("CLU-7"));
        let mut gap = founded();
        gap.entries.push(entry(1, 3));
        assert!(gap.check().is_err());
        let mut other = founded();
        other.checkpoint.place.term = 2;
        assert!(other.check().is_err());
    }

    #[test]
    fn a_disk_that_waits_for_its_first_checkpoint_has_neither_voters_nor_entries() {
        let mut blank = Image::default();
        blank.carry_out(&Image::joining());
        assert_eq!((blank.check(), blank.is_blank()), (Ok(()), true));
        let mut with_entries = blank.clone();
        with_entries.entries.push(entry(1, 1));
        assert!(with_entries.check().is_err());
        blank.checkpoint.members = Members::founders([1]);
        assert!(blank.check().is_err());
        let mut nobody = founded();
        nobody.checkpoint.members = Members::default();
        assert!(nobody.check().is_err());
    }

    #[test]
    fn a_checkpoint_is_sent_whole_and_only_to_those_it_knows() {
        let mut image = founded();
        image.checkpoint.members = Members::new([1, 3], [4], 9);
        image.checkpoint.state = vec![7; 3];
        let sent = image.snapshot(0, 4).unwrap();
        assert_eq!(from_snapshot(&sent), Some(image.checkpoint.clone()));
        assert!(image.snapshot(0, 2).is_err());
        assert_eq!(from_snapshot(&Snapshot::default()), None);
    }
}
