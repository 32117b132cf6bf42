//! A pure core: what must hold of the agreed state at each applied index, and of who acts on it. Of
//! assignments it keeps an account of its own.
//!
//! - **CLU-1** at one index the state is the same everywhere.
//! - **OWN-1** a shard's epoch grows by one with each assignment, and only then.
//! - **OWN-3** at each index a shard has the owner that the last assignment gave it, and that is or
//!   was a member; only that one ever starts it at that epoch, and once.

use std::collections::BTreeMap;

use bus::{Epoch, ShardId};
use cluster::{Command, State};
use storage::codec;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Roll {
    /// Of the state at each index.
    hashes: BTreeMap<u64, u64>,
    newest: u64,
    /// Epoch and owner of each shard that was ever assigned.
    owners: BTreeMap<ShardId, (u64, u64)>,
    /// Whom each epoch was given to, and whether that one has started.
    given: BTreeMap<(ShardId, u64), (u64, bool)>,
    pub(super) assigned: u64,
    pub(super) checks: u64,
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Roll {
    /// A member has applied a command. Whether it is the first that has.
    pub(super) fn applied(
        &mut self,
        index: u64,
        command: &Command,
        is_done: bool,
        state: &State,
    ) -> Result<bool, String> {
        let first = self.newest < index;
        if first {
            self.newest = index;
            if let (true, Command::Assign { moves }) = (is_done, command) {
                for it in moves {
                    let epoch = self.owners.get(&it.shard).map_or(0, |it| it.0);
                    if epoch == it.ends.0 {
                        self.owners.insert(it.shard, (epoch + 1, it.to));
                        self.given.insert((it.shard, epoch + 1), (it.to, false));
                        self.assigned += 1;
                    }
                }
            }
            self.judge_owners(index, state)?;
        }
        self.same(index, state)?;
        Ok(first)
    }

    fn judge_owners(&mut self, index: u64, state: &State) -> Result<(), String> {
        for (id, shard) in state.shards() {
            self.checks += 1;
            let (epoch, owner) = self.owners.get(id).copied().unzip();
            if epoch.unwrap_or(0) != shard.epoch.0 {
                return Err(format!("OWN-1: {id} is at {:?} and not {epoch:?}", shard.epoch));
            }
            let is_member = owner.is_none_or(|it| state.roster().members().contains_key(&it));
            if owner != shard.owner || !is_member {
                let is = shard.owner;
                return Err(format!("OWN-3: {id} is {is:?}'s and not {owner:?}'s at {index}"));
            }
        }
        Ok(())
    }

    /// A member has changed who belongs to the group.
    pub(super) fn changed(&mut self, index: u64, state: &State) -> Result<(), String> {
        self.newest = self.newest.max(index);
        self.same(index, state)
    }

    /// A member goes on from a checkpoint: of the last command before it, which somebody has applied.
    pub(super) fn restored(&mut self, index: u64, state: &State) -> Result<(), String> {
        let known = self.hashes.range(..=index).next_back().map(|(_, hash)| *hash);
        self.compare(index, known, state).map(drop)
    }

    fn same(&mut self, index: u64, state: &State) -> Result<(), String> {
        let known = self.hashes.get(&index).copied();
        let is = self.compare(index, known, state)?;
        self.hashes.insert(index, is);
        Ok(())
    }

    fn compare(&mut self, index: u64, known: Option<u64>, state: &State) -> Result<u64, String> {
        self.checks += 1;
        let is = hash(&codec::encode_snapshot(state).map_err(|error| error.to_string())?);
        match known.is_none_or(|known| known == is) {
            true => Ok(is),
            false => Err(format!("CLU-1: two states at {index}")),
        }
    }

    /// A machine starts a shard.
    pub(super) fn started(&mut self, me: u64, id: ShardId, epoch: Epoch) -> Result<(), String> {
        self.checks += 1;
        match self.given.get_mut(&(id, epoch.0)) {
            Some((owner, has_started)) if *owner == me && !*has_started => {
                *has_started = true;
                Ok(())
            }
            found => Err(format!("OWN-3: {me} starts {id} at {epoch}, which is {found:?}'s")),
        }
    }
}
