//! A pure core: the tokens of subscribers, as hashes, with the topics that each lists.
//!
//! - **RS-16** a token is good from when it was made until its end or its revocation, whichever is
//!   first, and never again; its id means no other token as long as it is remembered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Applied, Refused};

/// How long a token is remembered after its end, so that it is refused by its own name.
const REMEMBERED_SECONDS: u64 = 30 * 24 * 3_600;
/// Tokens kept at most, those that are over among them.
const KEPT: usize = 1_024;

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberToken {
    /// What is kept of it.
    pub hash: [u8; 32],
    /// What operators call it.
    pub name: String,
    /// The topics that it lists, as patterns: opaque here.
    pub topics: Vec<String>,
    /// When it was made, Unix seconds.
    pub at: u64,
    /// When it is of no use any more.
    pub until: u64,
    /// When somebody revoked it.
    pub revoked: Option<u64>,
}

/// What becomes of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubscriberChange {
    /// It was made.
    Make(SubscriberToken),
    /// It is of no use from this second on.
    Revoke {
        /// When.
        at: u64,
    },
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribers(BTreeMap<u32, SubscriberToken>);

impl Subscribers {
    /// Every token that is remembered, by its id.
    #[must_use]
    pub const fn tokens(&self) -> &BTreeMap<u32, SubscriberToken> {
        &self.0
    }

    pub(super) fn apply(&mut self, id: u32, change: &SubscriberChange) -> Result<Applied, Refused> {
        match change {
            SubscriberChange::Make(token) => self.make(id, token)?,
            SubscriberChange::Revoke { at } => {
                let unknown = Refused::UnknownSubscriber(id);
                let token = self.0.get_mut(&id).ok_or(unknown)?;
                token.revoked.get_or_insert(*at);
            }
        }
        Ok(Applied::default())
    }

    fn make(&mut self, id: u32, token: &SubscriberToken) -> Result<(), Refused> {
        let is_kept = |it: &SubscriberToken| {
            let end = it.revoked.map_or(it.until, |revoked| revoked.min(it.until));
            token.at < end.saturating_add(REMEMBERED_SECONDS)
        };
        if self.0.get(&id).is_some_and(is_kept) {
            return Err(Refused::UsedSubscriber(id));
        }
        if KEPT <= self.0.values().filter(|it| is_kept(it)).count() {
            return Err(Refused::ManySubscribers);
        }
        self.0.retain(|_, it| is_kept(it));
        self.0.insert(id, token.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, State};

    fn make(id: u32, at: u64, until: u64) -> Command {
        let topics = vec!["alerts*".to_owned()];
        let (hash, name) = ([id as u8; 32], format!("t{id}"));
        let token = SubscriberToken { hash, name, topics, at, until, revoked: None };
        Command::Subscriber { id, change: SubscriberChange::Make(token) }
    }

    fn revoke(id: u32, at: u64) -> Command {
        Command::Subscriber { id, change: SubscriberChange::Revoke { at } }
    }

    #[test]
    fn a_token_is_revoked_once_and_its_id_is_not_used_again() {
        let mut state = State::default();
        state.apply(&make(1, 100, 200)).unwrap();
        assert_eq!(state.apply(&make(1, 101, 300)), Err(Refused::UsedSubscriber(1)), "RS-16");
        assert_eq!(state.apply(&revoke(2, 150)), Err(Refused::UnknownSubscriber(2)));
        state.apply(&revoke(1, 150)).unwrap();
        state.apply(&revoke(1, 160)).unwrap();
        assert_eq!(state.subscribers().tokens()[&1].revoked, Some(150), "RS-16");
        assert_eq!(state.apply(&make(1, 170, 300)), Err(Refused::UsedSubscriber(1)), "RS-16");
        state.apply(&make(1, 150 + REMEMBERED_SECONDS, u64::MAX)).unwrap();
        assert_eq!(state.subscribers().tokens()[&1].revoked, None);
    }

    #[test]
    fn old_tokens_go_and_there_are_never_too_many() {
        let mut state = State::default();
        for id in 0..KEPT as u32 {
            state.apply(&make(id, 0, 10)).unwrap();
        }
        let before = state.clone();
        assert_eq!(state.apply(&make(9_999, 5, 15)), Err(Refused::ManySubscribers));
        assert_eq!(state, before, "RS-4");
        state.apply(&make(9_999, 10 + REMEMBERED_SECONDS, u64::MAX)).unwrap();
        assert_eq!(state.subscribers().tokens().len(), 1);
    }
}
