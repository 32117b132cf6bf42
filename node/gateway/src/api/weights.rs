//! What shards weigh.

use serde::{Deserialize, Serialize};

use super::{API, ShardStatus};

/// `GET /v1/weights`: what keeps this node busy, by its own measure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// [`API`].
    pub api: u32,
    /// How many cores it may use.
    pub cores: u32,
    /// Its shards, without those that are idle.
    pub shards: Vec<ShardWeight>,
}

/// One shard of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardWeight {
    /// Its id.
    pub shard: u64,
    /// `app/function/name`.
    pub trigger: String,
    /// What it reads.
    pub topic: String,
    /// Of that topic.
    pub partition: i32,
    /// Thousandths of an instance that it kept busy over some ten seconds.
    pub busy_permille: u64,
}

impl Weights {
    /// Of a node with these shards, on this machine.
    #[must_use]
    pub fn of(shards: &[ShardStatus]) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let busy = shards.iter().filter(|it| 0 < it.busy_permille);
        let shards = busy.map(|it| ShardWeight {
            shard: it.shard,
            trigger: it.trigger.clone(),
            topic: it.topic.clone(),
            partition: it.partition,
            busy_permille: it.busy_permille,
        });
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        Self { api: API, cores, shards: shards.collect() }
    }
}
