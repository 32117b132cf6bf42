//! A pure core: the CAs of the cluster, and how one takes the place of another. Keys of CAs never
//! come here, and what a certificate says is not read here.
//!
//! ```text
//! one CA ─Begin─▶ trusting ─all trust both─▶ renewing ─all show the next─▶ waiting ─▶ one CA
//!          abort: ▶ the first                   abort: ▶ renewing, the other way round
//! ```
//!
//! - **RS-17** nobody is certified by the next CA before every member has said that it trusts it.
//! - **RS-18** a CA is trusted until every member has said that it shows a certificate of the other.
//! - **RS-19** what a member says counts for the stage that it was said of, and for no other.
//!
//! A step from one stage to the next is a command, which whoever leads gives when nobody is missing;
//! so a rotation goes on whoever is killed. A member that is gone for good holds it up until it is
//! removed: otherwise it would come back and find nobody that knows it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Applied, Refused, Role, Roster};

/// A CA, as far as everybody may know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ca {
    /// SHA-256 of its key.
    pub key: [u8; 32],
    /// Its certificate, which it signed itself.
    pub certificate: Vec<u8>,
    /// What the other CA of the rotation says of it: who knows the other alone is led here by it.
    pub bridge: Vec<u8>,
}

/// What every member has to have done before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Trust both, and who votes has both keys.
    Trusting,
    /// Show a certificate of the next one.
    Renewing,
    /// The same, and tokens that name the other one run out.
    Waiting {
        /// Since when, Unix seconds.
        since: u64,
    },
}

/// A rotation on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The CA that goes.
    pub from: Ca,
    /// The one that stays.
    pub to: Ca,
    /// How far it is.
    pub stage: Stage,
    /// Names the stage: above that of every one before.
    pub turn: u64,
    /// When it began, Unix seconds.
    pub began: u64,
    /// How long both are trusted when everybody has a certificate of the next one.
    pub window_s: u64,
    /// The members that did what the stage asks.
    done: BTreeSet<u64>,
}

impl Rotation {
    /// When both need not be trusted any more, once that is known: Unix seconds.
    #[must_use]
    pub const fn ends(&self) -> Option<u64> {
        match self.stage {
            Stage::Waiting { since } => Some(since.saturating_add(self.window_s)),
            Stage::Trusting | Stage::Renewing => None,
        }
    }

    /// Whether this member did what the stage asks.
    #[must_use]
    pub fn has_done(&self, member: u64) -> bool {
        self.done.contains(&member)
    }

    /// Who has not done what the stage asks.
    #[must_use]
    pub fn missing(&self, roster: &Roster) -> Vec<u64> {
        let present = roster.members().iter().filter(|(_, it)| it.role != Role::Removed);
        present.map(|(id, _)| *id).filter(|id| !self.done.contains(id)).collect()
    }
}

/// A change of the cluster's CAs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaChange {
    /// One is to take the place of the other.
    Begin {
        /// The one there is.
        from: Ca,
        /// The one that was made.
        to: Ca,
        /// When, Unix seconds.
        at: u64,
        /// How long both are trusted when everybody has a certificate of the next one.
        window_s: u64,
    },
    /// A member did what the stage of this turn asks.
    Done {
        /// Which.
        member: u64,
        /// What it was that it did.
        turn: u64,
    },
    /// Nobody is missing: the next stage.
    Step {
        /// Which stage is over.
        turn: u64,
        /// When, Unix seconds.
        at: u64,
        /// Whether somebody ends the window before its time.
        is_early: bool,
    },
    /// Back to the CA that was to go.
    Abort {
        /// The stage that was seen.
        turn: u64,
    },
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorities {
    /// The one there is, once there was a rotation: before, whoever is in the cluster knows it
    /// anyway.
    only: Option<Ca>,
    rotation: Option<Rotation>,
    /// The newest turn.
    turn: u64,
    /// Token of a subscriber -> the CA that it names; of those that were made before the first
    /// rotation, from then on.
    named: BTreeMap<u32, [u8; 32]>,
}

impl Authorities {
    /// The rotation that is on its way.
    #[must_use]
    pub const fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// Whom to trust; nobody before the first rotation: the CA that the cluster was founded with.
    #[must_use]
    pub fn trusted(&self) -> Vec<&Ca> {
        match &self.rotation {
            Some(rotation) => vec![&rotation.from, &rotation.to],
            None => self.only.iter().collect(),
        }
    }

    /// The CA that certifies and that new tokens name (RS-17); `None` as for
    /// [`trusted`](Self::trusted).
    #[must_use]
    pub fn issuing(&self) -> Option<[u8; 32]> {
        match &self.rotation {
            Some(Rotation { from, stage: Stage::Trusting, .. }) => Some(from.key),
            Some(Rotation { to, .. }) => Some(to.key),
            None => self.only.as_ref().map(|it| it.key),
        }
    }

    /// The CA that the token of a subscriber names, if that is another than the one that issues:
    /// it is of no use any more when that one is not trusted.
    #[must_use]
    pub fn outdated(&self, token: u32) -> Option<[u8; 32]> {
        let named = self.named.get(&token).copied()?;
        let stays = match &self.rotation {
            Some(rotation) => rotation.to.key,
            None => self.issuing()?,
        };
        (named != stays).then_some(named)
    }

    /// A token of a subscriber was made, of those that there are now.
    pub(super) fn note_token(&mut self, token: u32, is_kept: impl Fn(u32) -> bool) {
        self.named.retain(|id, _| is_kept(*id));
        if let Some(key) = self.issuing() {
            self.named.insert(token, key);
        }
    }

    pub(super) fn apply(
        &mut self,
        change: &CaChange,
        roster: &Roster,
        tokens: impl Iterator<Item = u32>,
    ) -> Result<Applied, Refused> {
        match change {
            CaChange::Begin { from, to, at, window_s } => {
                if self.rotation.is_some() {
                    return Err(Refused::Rotating);
                }
                let is_ours = self.only.as_ref().is_none_or(|only| only.key == from.key);
                if !is_ours || from.key == to.key {
                    return Err(Refused::ForeignCa);
                }
                for token in tokens {
                    self.named.entry(token).or_insert(from.key);
                }
                self.turn += 1;
                self.rotation = Some(Rotation {
                    from: from.clone(),
                    to: to.clone(),
                    stage: Stage::Trusting,
                    turn: self.turn,
                    began: *at,
                    window_s: *window_s,
                    done: BTreeSet::new(),
                });
            }
            CaChange::Done { member, turn } => {
                let present = roster.members().get(member).filter(|it| it.role != Role::Removed);
                present.ok_or(Refused::UnknownMember(*member))?;
                self.at(*turn)?.done.insert(*member);
            }
            CaChange::Step { turn, at, is_early } => self.step(*turn, *at, *is_early, roster)?,
            CaChange::Abort { turn } => {
                let next = self.turn + 1;
                let rotation = self.at(*turn)?;
                if rotation.stage == Stage::Trusting {
                    self.only = self.rotation.take().map(|it| it.from);
                    return Ok(Applied::default());
                }
                std::mem::swap(&mut rotation.from, &mut rotation.to);
                rotation.stage = Stage::Renewing;
                rotation.done.clear();
                (rotation.turn, self.turn) = (next, next);
            }
        }
        Ok(Applied::default())
    }

    /// The rotation, if this is its stage (RS-19).
    fn at(&mut self, turn: u64) -> Result<&mut Rotation, Refused> {
        let rotation = self.rotation.as_mut().ok_or(Refused::NotRotating)?;
        match rotation.turn == turn {
            true => Ok(rotation),
            false => Err(Refused::StaleTurn { turn, now: rotation.turn }),
        }
    }

    fn step(&mut self, turn: u64, at: u64, is_early: bool, roster: &Roster) -> Result<(), Refused> {
        let next = self.turn + 1;
        let rotation = self.at(turn)?;
        let missing = rotation.missing(roster);
        if !missing.is_empty() {
            return Err(Refused::Unrotated(missing));
        }
        match rotation.stage {
            Stage::Trusting => {
                rotation.stage = Stage::Renewing;
                rotation.done.clear();
            }
            Stage::Renewing => rotation.stage = Stage::Waiting { since: at },
            Stage::Waiting { .. } => {
                if !is_early && rotation.ends().is_some_and(|ends| at < ends) {
                    return Err(Refused::EarlyEnd);
                }
                self.only = self.rotation.take().map(|it| it.to);
                return Ok(());
            }
        }
        (rotation.turn, self.turn) = (next, next);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
