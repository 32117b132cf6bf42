//! A pure core: who owns which shard, who gets it next, and which functions a member cannot run.
//!
//! - **RS-14** a shard is assigned only by who knew the epoch that this ends: of two that want it, the
//!   second changes nothing.
//! - **RS-15** a shard that somebody owns is to go to another member at most, until it is assigned.

use bus::{Epoch, ShardId};
use serde::{Deserialize, Serialize};

use super::State;

/// A shard gets an owner: another, or the one it has anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placing {
    /// Which.
    pub shard: ShardId,
    /// The epoch that this ends. A shard that has another is left alone.
    pub ends: Epoch,
    /// The member that gets it.
    pub to: u64,
}

impl State {
    pub(super) fn assign(&mut self, moves: &[Placing]) {
        for Placing { shard, ends, to } in moves {
            if let Some(shard) = self.shards.get_mut(shard).filter(|it| it.epoch == *ends) {
                shard.epoch = Epoch(ends.0 + 1);
                shard.owner = Some(*to);
                shard.target = None;
            }
        }
    }

    pub(super) fn hand(&mut self, moves: &[Placing]) {
        for Placing { shard, ends, to } in moves {
            let shard = self.shards.get_mut(shard);
            if let Some(shard) = shard.filter(|it| it.epoch == *ends && it.owner.is_some()) {
                shard.target = Some(*to).filter(|to| shard.owner != Some(*to));
            }
        }
    }

    pub(super) fn mark_unfit(&mut self, member: u64, function: &str, revision: Option<&str>) {
        let key = (member, function.to_owned());
        match revision {
            Some(revision) => drop(self.unfit.insert(key, revision.to_owned())),
            None => drop(self.unfit.remove(&key)),
        }
    }

    /// Forgets what was said of revisions that run no more.
    pub(super) fn forget_unfit(&mut self) {
        let apps = &self.apps;
        self.unfit.retain(|(_, name), revision| {
            let (app, function) = name.split_once('/').unwrap_or((name, ""));
            let runs = apps.get(app).and_then(|app| app.functions.get(function));
            runs.is_some_and(|it| it.revision == *revision)
        });
    }

    /// Whether a member has said that it cannot run this function, `app/function`, as it is now.
    #[must_use]
    pub fn is_unfit(&self, member: u64, function: &str) -> bool {
        self.unfit.contains_key(&(member, function.to_owned()))
    }

    /// Functions, as `app/function`, that some member cannot run.
    pub fn unfit(&self) -> impl Iterator<Item = (u64, &str)> {
        self.unfit.keys().map(|(member, function)| (*member, function.as_str()))
    }

    /// Whether a member's process is about to end, or does not reach the bus, and so gives away its
    /// shards.
    #[must_use]
    pub fn is_stopping(&self, member: u64) -> bool {
        self.stopping.contains(&member)
    }

    /// Whether a member's process has started and is not ready to run shards yet: it keeps what it
    /// has and gets nothing.
    #[must_use]
    pub fn is_starting(&self, member: u64) -> bool {
        self.starting.contains(&member)
    }
}
