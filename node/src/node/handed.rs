//! What the owners before say of shards that come to this node: taken from who owns a shard and is to
//! hand it over here, compared with the bus, and kept until the cluster says that the shard is this
//! node's. By then a reader has fetched from where it goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Bus, Epoch, Handed, Reader, ShardId};
use cluster::{Cluster, Shard};
use dispatch::{HandedStart, Legacy};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The version of what crosses.
const VERSION: u32 = 1;
/// Bytes of one message; a shard that takes more by itself is told of without its parked records.
const MESSAGE_BYTES: usize = 4 << 20;
/// Shards that are prepared at the same time.
const PREPARED_MAX: usize = 64;
/// How long the cluster's state may take to say what the sender knows already.
const STATE_WITHIN: Duration = Duration::from_millis(200);
/// What is not used by then is of an assignment that did not happen.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How long a shard that could start waits for what was handed over to be ready.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// What an owner says of one shard that has ended there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) shard: ShardId,
    pub(super) handed: Handed,
    pub(super) legacy: Option<Legacy>,
}

#[derive(Debug, Deserialize)]
struct Message {
    version: u32,
    shards: Vec<Told>,
}

/// As messages of [`MESSAGE_BYTES`] at most.
pub(super) fn encode(all: Vec<Told>) -> Vec<Vec<u8>> {
    let text = |it: &Told| serde_json::to_string(it).expect("numbers and texts can be written");
    let finish =
        |shards: &str| format!("{{\"version\":{VERSION},\"shards\":[{shards}]}}").into_bytes();
    let (mut messages, mut shards) = (Vec::new(), String::new());
    for mut told in all {
        let mut one = text(&told);
        if MESSAGE_BYTES < one.len() {
            told.legacy = None;
            one = text(&told);
        }
        if MESSAGE_BYTES < shards.len() + one.len() && !shards.is_empty() {
            messages.push(finish(&shards));
            shards.clear();
        }
        if !shards.is_empty() {
            shards.push(',');
        }
        shards.push_str(&one);
    }
    if !shards.is_empty() {
        messages.push(finish(&shards));
    }
    messages
}

/// What a message says; `None` when it is of another version, or none.
fn decode(message: &[u8]) -> Option<Vec<Told>> {
    let Message { version, shards } = serde_json::from_slice(message).ok()?;
    (version == VERSION).then_some(shards)
}

/// Whether the state says that the sender owns this and is to hand it over to us; `None` when it
/// does not say so yet.
fn is_expected(shard: Option<&Shard>, told: &Told, from: u64, me: u64) -> Option<bool> {
    let shard = shard?;
    let ends = told.handed.ends;
    if ends < shard.epoch {
        return Some(false);
    }
    let is_so = shard.epoch == ends && (shard.owner, shard.target) == (Some(from), Some(me));
    is_so.then_some(true)
}

/// A reader that is where the shard goes on, if the bus agrees with what was said.
type Prepared = Option<Box<dyn Reader>>;

#[derive(Debug)]
struct Kept {
    told: Told,
    since: Instant,
    reader: JoinHandle<Prepared>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Inheritance {
    bus: Arc<dyn Bus>,
    cluster: Cluster,
    kept: Mutex<BTreeMap<ShardId, Kept>>,
    room: Arc<Semaphore>,
}

impl Inheritance {
    pub(super) fn new(bus: Arc<dyn Bus>, cluster: Cluster) -> Self {
        let room = Arc::new(Semaphore::new(PREPARED_MAX));
        Self { bus, cluster, kept: Mutex::default(), room }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<ShardId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a member says; `None` when that is not understood, else how many shards of it are
    /// to come here.
    pub(super) async fn receive(&self, from: u64, message: &[u8]) -> Option<usize> {
        let mut waiting = decode(message)?;
        let me = self.cluster.me();
        let mut changes = self.cluster.changes();
        let (until, mut taken) = (Instant::now() + STATE_WITHIN, 0);
        loop {
            changes.borrow_and_update();
            let state = self.cluster.state();
            for told in std::mem::take(&mut waiting) {
                match is_expected(state.shards().get(&told.shard), &told, from, me) {
                    Some(true) => {
                        self.keep(told);
                        taken += 1;
                    }
                    Some(false) => {}
                    None => waiting.push(told),
                }
            }
            let changed = async { waiting.is_empty() || changes.changed().await.is_err() };
            if tokio::time::timeout_at(until, changed).await.unwrap_or(true) {
                return Some(taken);
            }
        }
    }

    fn keep(&self, told: Told) {
        let reader =
            tokio::spawn(prepare(Arc::clone(&self.bus), told.clone(), Arc::clone(&self.room)));
        let since = Instant::now();
        self.kept().insert(told.shard, Kept { told, since, reader });
    }

    /// What was handed over of a shard that begins at this epoch.
    pub(super) async fn take(&self, shard: ShardId, epoch: Epoch) -> Option<HandedStart> {
        let mut kept = self.kept().remove(&shard)?;
        if Epoch(kept.told.handed.ends.0 + 1) != epoch {
            return None;
        }
        let prepared = tokio::time::timeout(READY_WITHIN, &mut kept.reader).await;
        let reader = prepared.ok()?.ok()??;
        let Told { handed, legacy, .. } = kept.told.clone();
        Some(HandedStart { handed, legacy, reader })
    }

    /// Lets go of what will not be used.
    pub(super) fn sweep(&self) {
        let (state, me) = (self.cluster.state(), self.cluster.me());
        self.kept().retain(|id, kept| {
            let ends = kept.told.handed.ends;
            let may_come = state.shards().get(id).is_some_and(|shard| {
                shard.epoch <= ends || (shard.epoch.0 == ends.0 + 1 && shard.owner == Some(me))
            });
            may_come && kept.since.elapsed() < KEPT_FOR
        });
    }
}

/// Compares what was said with the bus, and begins to read there.
async fn prepare(bus: Arc<dyn Bus>, told: Told, room: Arc<Semaphore>) -> Prepared {
    let _room = room.acquire_owned().await.expect("it is never closed");
    let rows = told.handed.rows.iter();
    let assigned = rows.map(|it| (it.partition.clone(), it.position.next)).collect();
    let (agrees, reader) = tokio::join!(bus.agrees(told.shard, &told.handed), bus.reader(assigned));
    match agrees {
        Ok(true) => reader.ok(),
        Ok(false) => {
            tracing::warn!(shard = %told.shard, "the bus knows better than the owner before");
            None
        }
        Err(error) => {
            tracing::debug!(shard = %told.shard, %error, "could not ask the bus");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use bus::{HandedRow, Position, TopicPartition};

    use super::*;

    fn told(shard: u64, ends: u64, topic: &str) -> Told {
        let partition = TopicPartition::new(topic, 3);
        let row = HandedRow { partition, topic_id: u64::MAX, position: Position::default() };
        let handed = Handed { ends: Epoch(ends), rows: vec![row] };
        Told { shard: ShardId(shard), handed, legacy: None }
    }

    #[test]
    fn what_is_told_crosses_in_messages_that_are_not_too_large() {
        assert!(encode(Vec::new()).is_empty());
        let all: Vec<Told> = (0..40).map(|it| told(it, 4, &"x".repeat(200 << 10))).collect();
        let messages = encode(all.clone());
        assert_eq!(messages.len(), 2);
        assert!(messages.iter().all(|it| it.len() < MESSAGE_BYTES + 1_000));
        let arrived: Vec<Told> = messages.iter().flat_map(|it| decode(it).unwrap()).collect();
        assert_eq!(arrived, all);
    }

    #[test]
    fn what_is_of_another_version_or_broken_is_not_understood() {
        let good = encode(vec![told(1, 4, "in")]).remove(0);
        let other = String::from_utf8(good.clone()).unwrap().replacen("1", "2", 1);
        assert!(other.starts_with("{\"version\":2"), "{other}");
        assert_eq!(decode(other.as_bytes()), None);
        for cut in 0..good.len() {
            assert_eq!(decode(&good[..cut]), None);
        }
    }

    #[test]
    fn only_who_owns_a_shard_may_hand_it_over_and_only_to_whom_it_is_to_go() {
        let shard = |epoch, owner, target| Shard {
            trigger: "a/f/t".to_owned(),
            topic: "in".to_owned(),
            partition: 3,
            grown: false,
            epoch: Epoch(epoch),
            owner,
            target,
        };
        let told = told(1, 4, "in");
        let is_expected = |shard: &Shard| is_expected(Some(shard), &told, 2, 1);
        assert_eq!(is_expected(&shard(4, Some(2), Some(1))), Some(true));
        assert_eq!(is_expected(&shard(4, Some(3), Some(1))), None, "of another");
        assert_eq!(is_expected(&shard(4, Some(2), Some(3))), None, "for another");
        assert_eq!(is_expected(&shard(4, Some(2), None)), None, "not yet to be handed over");
        assert_eq!(is_expected(&shard(3, Some(3), None)), None, "this state is behind");
        assert_eq!(is_expected(&shard(5, Some(1), None)), Some(false), "it is over");
        assert_eq!(super::is_expected(None, &told, 2, 1), None);
    }
}
