//! A pure core: the join tokens that were made, as hashes.
//!
//! - **RS-12** a token lets in one member, within its time; that it is used and that the member
//!   joins is one command.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Refused, Spent};

/// How long a token is remembered after its end, so that it is refused by its own name.
const REMEMBERED_SECONDS: u64 = 7 * 24 * 3_600;
/// Tokens kept at most, those that are over among them.
const KEPT: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    until: u64,
    is_used: bool,
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens(BTreeMap<[u8; 32], Entry>);

impl Tokens {
    /// How many may still be used at `now`.
    #[must_use]
    pub fn open(&self, now: u64) -> usize {
        self.0.values().filter(|it| !it.is_used && now < it.until).count()
    }

    /// Whether this one lets somebody in.
    ///
    /// # Errors
    ///
    /// [`Refused::UnknownToken`], [`Refused::UsedToken`], [`Refused::ExpiredToken`].
    pub fn check(&self, token: &Spent) -> Result<(), Refused> {
        let entry = self.0.get(&token.hash).ok_or(Refused::UnknownToken)?;
        match entry {
            Entry { is_used: true, .. } => Err(Refused::UsedToken),
            Entry { until, .. } if *until <= token.at => Err(Refused::ExpiredToken),
            Entry { .. } => Ok(()),
        }
    }

    pub(super) fn spend(&mut self, token: &Spent) {
        if let Some(entry) = self.0.get_mut(&token.hash) {
            entry.is_used = true;
        }
    }

    pub(super) fn mint(&mut self, hash: [u8; 32], at: u64, until: u64) -> Result<(), Refused> {
        let is_kept = |it: &Entry| at < it.until.saturating_add(REMEMBERED_SECONDS);
        if KEPT <= self.0.values().filter(|it| is_kept(it)).count() {
            return Err(Refused::ManyTokens);
        }
        self.0.retain(|_, it| is_kept(it));
        // A hash that is there already is of the same token, which stays what it is.
        self.0.entry(hash).or_insert(Entry { until, is_used: false });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, MemberChange, State};

    fn join(state: &mut State, member: u64, hash: [u8; 32], at: u64) -> Result<(), Refused> {
        let (name, address) = (member.to_string(), "a:1".to_owned());
        let token = Some(Spent { hash, at });
        let change = MemberChange::Join { name, address, key: [member as u8; 32], token };
        state.apply(&Command::Member { member, change }).map(drop)
    }

    #[test]
    fn a_token_lets_in_one_member_within_its_time() {
        let mut state = State::default();
        let mint = |hash| Command::Token { hash, at: 100, until: 200 };
        state.apply(&mint([1; 32])).unwrap();
        state.apply(&mint([2; 32])).unwrap();
        assert_eq!(state.tokens().open(150), 2);
        assert_eq!(join(&mut state, 1, [3; 32], 150), Err(Refused::UnknownToken));
        join(&mut state, 1, [1; 32], 199).unwrap();
        assert_eq!(join(&mut state, 2, [1; 32], 150), Err(Refused::UsedToken), "RS-12");
        state.apply(&mint([1; 32])).unwrap();
        assert_eq!(join(&mut state, 2, [1; 32], 150), Err(Refused::UsedToken), "RS-12");
        assert_eq!(join(&mut state, 2, [2; 32], 200), Err(Refused::ExpiredToken));
        // A join that is refused for another reason leaves its token.
        assert_eq!(join(&mut state, 1, [2; 32], 150), Err(Refused::UsedMember(1)));
        join(&mut state, 2, [2; 32], 150).unwrap();
        assert_eq!(state.tokens().open(150), 0);
    }

    #[test]
    fn old_tokens_go_and_there_are_never_too_many() {
        let mut state = State::default();
        for number in 0..KEPT {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            state.apply(&Command::Token { hash, at: 0, until: 10 }).unwrap();
        }
        let late = |at| Command::Token { hash: [9; 32], at, until: at + 10 };
        assert_eq!(state.apply(&late(5)), Err(Refused::ManyTokens));
        state.apply(&late(10 + REMEMBERED_SECONDS)).unwrap();
        assert_eq!(state.tokens().0.len(), 1);
    }
}
