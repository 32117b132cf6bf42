//! A pure core: the active format, and which ones each member reads.
//!
//! - **RS-20** the active format never decreases, and rises only to one that every member that
//!   belongs to the cluster has said it reads since it started (FM-1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Applied, Refused, Role, State};
use crate::format::{FORMATS, Formats};
use crate::group::RequestId;

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Upgrade {
    /// What is written.
    format: u8,
    /// By member; who has started and not said so yet has none.
    reads: BTreeMap<u64, Formats>,
}

impl Default for Upgrade {
    /// Of a cluster of before there were formats.
    fn default() -> Self {
        Self { format: 1, reads: BTreeMap::new() }
    }
}

impl Upgrade {
    pub(super) fn forget(&mut self, member: u64) {
        self.reads.remove(&member);
    }

    pub(super) fn keep_only(&mut self, member: u64) {
        self.reads.retain(|id, _| *id == member);
    }
}

impl State {
    /// Of a cluster that this build founds.
    #[must_use]
    pub(crate) fn founding() -> Self {
        let upgrade = Upgrade { format: FORMATS.newest, ..Upgrade::default() };
        Self { upgrade, ..Self::default() }
    }

    /// The active format: what is written is of it.
    #[must_use]
    pub const fn format(&self) -> u8 {
        self.upgrade.format
    }

    /// What each member reads, as it said after its last start.
    #[must_use]
    pub const fn reads(&self) -> &BTreeMap<u64, Formats> {
        &self.upgrade.reads
    }

    /// Members of which nobody knows that they read this format, by id.
    #[must_use]
    pub fn unready(&self, format: u8) -> Vec<u64> {
        let present = self.roster.members().iter().filter(|(_, it)| it.role != Role::Removed);
        let reads = |id: &u64| self.upgrade.reads.get(id).is_some_and(|it| it.reads(format));
        present.map(|(id, _)| *id).filter(|id| !reads(id)).collect()
    }

    pub(super) fn note_reads(&mut self, member: u64, formats: Formats) -> Result<Applied, Refused> {
        let known = self.roster.members().get(&member);
        if !known.is_some_and(|it| it.role != Role::Removed) {
            return Err(Refused::UnknownMember(member));
        }
        self.upgrade.reads.insert(member, formats);
        Ok(Applied::default())
    }

    /// Nobody reads it any more who does not read this format.
    pub(super) fn raise_format(&mut self, format: u8) -> Result<Applied, Refused> {
        let active = self.upgrade.format;
        if format <= active {
            return Err(Refused::NoLater { format, active });
        }
        if let Some(id) = self.unready(format).first() {
            let member = self.roster.members()[id].name.clone();
            return Err(Refused::Unread { member, format });
        }
        self.upgrade.format = format;
        Ok(Applied::default())
    }

    /// An entry of a format that is not active yet: it counts as answered and changes nothing
    /// (FM-2).
    pub(crate) fn pass_over(
        &mut self,
        request: RequestId,
        format: u8,
    ) -> Option<Result<Applied, Refused>> {
        let is_new = request.number >> 32 == 0 || self.answered.note(request);
        is_new.then_some(Err(Refused::Early { format, active: self.upgrade.format }))
    }
}

/// What members of the build after this one note. It is made for the upgrade promise: a command and
/// a field of the state that the format before has no place for.
#[cfg(feature = "next-version")]
pub type Notes = BTreeMap<u64, u64>;

#[cfg(feature = "next-version")]
impl State {
    /// By member: the start that it noted last.
    #[must_use]
    pub const fn notes(&self) -> &Notes {
        &self.notes
    }

    pub(crate) fn with_notes(self, notes: Notes) -> Self {
        Self { notes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, MemberChange};

    const BOTH: Formats = Formats { oldest: 1, newest: 2 };
    const OLD: Formats = Formats { oldest: 1, newest: 1 };

    fn change(state: &mut State, member: u64, change: MemberChange) {
        state.apply(&Command::Member { member, change }).unwrap();
    }

    fn reads(state: &mut State, member: u64, formats: Formats) {
        state.apply(&Command::Reads { member, formats }).unwrap();
    }

    fn raise(state: &mut State, format: u8) -> Result<(), Refused> {
        state.apply(&Command::Raise { format }).map(drop)
    }

    fn members(names: &[&str]) -> State {
        let mut state = State::default();
        for (id, name) in (1..).zip(names) {
            let (name, address) = ((*name).to_owned(), "a:1".to_owned());
            let join = MemberChange::Join { name, address, key: [7; 32], token: None };
            change(&mut state, id, join);
        }
        state
    }

    fn unread(member: &str) -> Result<(), Refused> {
        Err(Refused::Unread { member: member.to_owned(), format: 2 })
    }

    #[test]
    fn a_format_is_active_once_everybody_reads_it_and_stays() {
        let mut state = members(&["a", "b", "c"]);
        assert_eq!(state.format(), 1);
        reads(&mut state, 1, BOTH);
        reads(&mut state, 2, OLD);
        assert_eq!(raise(&mut state, 2), unread("b"), "RS-20: it reads 1 alone");
        reads(&mut state, 2, BOTH);
        assert_eq!(raise(&mut state, 2), unread("c"), "RS-20: it has not said");
        reads(&mut state, 3, BOTH);
        // It started again, as whatever build: what it said counts no more.
        let start =
            MemberChange::Start { address: "a:1".into(), incarnation: 2, version: "1".into() };
        change(&mut state, 1, start);
        assert_eq!((raise(&mut state, 2), state.format()), (unread("a"), 1), "RS-20");
        reads(&mut state, 1, BOTH);
        assert_eq!((raise(&mut state, 2), state.format()), (Ok(()), 2));
        for format in [1, 2] {
            let later = Err(Refused::NoLater { format, active: 2 });
            assert_eq!(raise(&mut state, format), later, "RS-20");
        }
    }

    #[test]
    fn who_was_removed_is_not_waited_for_and_says_nothing() {
        let mut state = members(&["a", "b"]);
        reads(&mut state, 1, BOTH);
        change(&mut state, 2, MemberChange::Remove);
        let said = state.apply(&Command::Reads { member: 2, formats: BOTH });
        assert_eq!(said, Err(Refused::UnknownMember(2)));
        assert_eq!(raise(&mut state, 2), Ok(()));
    }

    #[test]
    fn an_early_entry_is_answered_and_changes_nothing() {
        let mut state = members(&["a"]);
        let request = RequestId { member: 1, number: (1 << 32) + 1 };
        let mut after = state.clone();
        let early = Err(Refused::Early { format: 2, active: 1 });
        assert_eq!(after.pass_over(request, 2), Some(early), "FM-2");
        assert_eq!(after.pass_over(request, 2), None, "RS-13");
        state.answered.note(request);
        assert_eq!(after, state, "FM-2");
    }
}
