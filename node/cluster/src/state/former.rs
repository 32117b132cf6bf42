//! The state in the forms that earlier versions stored it in. The first ones had nodes that were
//! alone, and named the owner of a shard: that node is member 1 of a group of one.

use std::collections::{BTreeMap, BTreeSet};

use bus::{Epoch, ShardId, Timestamp};
use serde::Deserialize;

use super::{
    Answered, App, Authorities, History, Redriver, Roster, Shard, State, Subscribers, Tokens,
};

/// The member of a group of one.
pub(super) const ALONE: u64 = 1;

#[derive(Debug, Deserialize)]
struct NamedShard {
    trigger: String,
    topic: String,
    partition: u32,
    grown: bool,
    epoch: Epoch,
    owner: Option<String>,
}

impl From<NamedShard> for Shard {
    fn from(named: NamedShard) -> Self {
        let NamedShard { trigger, topic, partition, grown, epoch, owner } = named;
        let owner = owner.map(|_name| ALONE);
        Self { trigger, topic, partition, grown, epoch, owner, target: None }
    }
}

/// Before triggers could be paused.
#[derive(Debug, Deserialize)]
pub(crate) struct Former {
    apps: BTreeMap<String, App>,
    versions: BTreeMap<String, u64>,
    version: u64,
    histories: BTreeMap<(String, String), History>,
    shards: BTreeMap<ShardId, NamedShard>,
    next_shard: u64,
}

/// Before there was a roster.
#[derive(Debug, Deserialize)]
pub(crate) struct Alone {
    former: Former,
    paused: BTreeMap<String, Timestamp>,
    redrivers: BTreeMap<String, Redriver>,
}

/// With a roster, in which there was never anybody.
#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    alone: Alone,
    _roster: BTreeMap<u64, ()>,
}

/// Before there were subscribers.
#[derive(Debug, Deserialize)]
pub(crate) struct Unfollowed {
    apps: BTreeMap<String, App>,
    versions: BTreeMap<String, u64>,
    version: u64,
    histories: BTreeMap<(String, String), History>,
    shards: BTreeMap<ShardId, Shard>,
    next_shard: u64,
    paused: BTreeMap<String, Timestamp>,
    redrivers: BTreeMap<String, Redriver>,
    roster: Roster,
    tokens: Tokens,
    answered: Answered,
    unfit: BTreeMap<(u64, String), String>,
    stopping: BTreeSet<u64>,
    starting: BTreeSet<u64>,
}

/// Before a CA could take another's place.
#[derive(Debug, Deserialize)]
pub(crate) struct Unrotated {
    former: Unfollowed,
    subscribers: Subscribers,
}

/// Before there were formats.
#[derive(Debug, Deserialize)]
pub(crate) struct Unversioned {
    former: Unrotated,
    authorities: Authorities,
}

impl From<Unversioned> for State {
    fn from(former: Unversioned) -> Self {
        Self { authorities: former.authorities, ..former.former.into() }
    }
}

impl From<Unrotated> for State {
    fn from(former: Unrotated) -> Self {
        Self { subscribers: former.subscribers, ..former.former.into() }
    }
}

impl From<Unfollowed> for State {
    fn from(former: Unfollowed) -> Self {
        let Unfollowed { apps, versions, version, histories, shards, next_shard, .. } = former;
        let Unfollowed { paused, redrivers, roster, tokens, answered, .. } = former;
        let Unfollowed { unfit, stopping, starting, .. } = former;
        Self {
            apps,
            versions,
            version,
            histories,
            shards,
            next_shard,
            paused,
            redrivers,
            roster,
            tokens,
            answered,
            unfit,
            stopping,
            starting,
            ..Self::default()
        }
    }
}

impl From<Former> for State {
    fn from(former: Former) -> Self {
        let Former { apps, versions, version, histories, shards, next_shard } = former;
        let shards = shards.into_iter().map(|(id, it)| (id, it.into())).collect();
        Self { apps, versions, version, histories, shards, next_shard, ..Self::default() }
    }
}

impl From<Alone> for State {
    fn from(alone: Alone) -> Self {
        let Alone { former, paused, redrivers } = alone;
        Self { paused, redrivers, ..former.into() }
    }
}

impl From<Named> for State {
    fn from(named: Named) -> Self {
        named.alone.into()
    }
}
