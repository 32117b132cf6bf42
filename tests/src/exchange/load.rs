//! Calls all the time between the nodes of a cluster, each with a number of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use exchange::{Exchange, Kind, NodeId};
use tokio::task::JoinHandle;

use super::Cluster;
use super::nodes::Desk;
use super::verdict::Load;
use crate::demand;
use crate::promise::{During, NotShown};

const WITHIN: Duration = Duration::from_secs(5);
/// Tries of one call, where it may be asked again.
const TRIES: u32 = 50;

/// Tasks that call until they are stopped.
pub(super) struct Callers {
    tasks: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    desk: Arc<Desk>,
}

struct Shared {
    stop: AtomicBool,
    next: AtomicU64,
    lost: AtomicU64,
    blobs: AtomicU64,
    /// Why a blob did not come whole.
    torn: Mutex<Option<String>>,
    calls: Mutex<BTreeMap<u64, Result<Vec<u8>, String>>>,
    may_repeat: bool,
}

impl Callers {
    /// Starts so many; whether a call whose outcome is unknown is asked again.
    pub(super) fn start(cluster: &Cluster, count: u64, may_repeat: bool) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            next: AtomicU64::new(1),
            lost: AtomicU64::new(0),
            blobs: AtomicU64::new(0),
            torn: Mutex::default(),
            calls: Mutex::default(),
            may_repeat,
        });
        cluster.desk.ran.lock().expect("nothing panics with it").clear();
        let pairs: Vec<(Arc<Exchange>, NodeId)> =
            cluster.pairs().map(|(node, other)| (Arc::clone(&node.exchange), other)).collect();
        let tasks = (0..count).map(|index| {
            let shared = Arc::clone(&shared);
            let at = usize::try_from(index).unwrap_or(0);
            let (exchange, other) = pairs[at % pairs.len()].clone();
            // One of them carries blobs.
            tokio::spawn(async move {
                match index == 0 && !shared.may_repeat {
                    true => shared.fetch(&exchange, other).await,
                    false => shared.call(&exchange, other).await,
                }
            })
        });
        Self {
            tasks: tasks.collect(),
            shared: Arc::clone(&shared),
            desk: Arc::clone(&cluster.desk),
        }
    }

    /// Calls that were asked again so far.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Lets what is on its way end; what came of all, and how many blobs were whole.
    pub(super) async fn stop(self) -> Result<(Load, u64), NotShown> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.during("call")?;
        }
        let torn = self.shared.torn.lock().during("read the blobs")?.clone();
        demand!(torn.is_none(), "a blob was not whole: {torn:?}");
        let calls = std::mem::take(&mut *self.shared.calls.lock().during("read the calls")?);
        let ran = self.desk.ran.lock().during("read what ran")?.clone();
        let last = self.shared.next.load(Ordering::Relaxed) - 1;
        Ok((Load { calls, ran, last }, self.shared.blobs.load(Ordering::Relaxed)))
    }
}

impl Shared {
    async fn call(&self, exchange: &Exchange, other: NodeId) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let payload = Bytes::copy_from_slice(&number.to_le_bytes());
            let mut tries = 0;
            let ended = loop {
                tries += 1;
                match exchange.call(other, Kind::INVOKE, payload.clone(), WITHIN).await {
                    Err(error) if self.may_repeat && error.is_retryable() && tries < TRIES => {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                    }
                    ended => break ended,
                }
            };
            let ended = ended.map(|it| it.to_vec()).map_err(|error| error.to_string());
            self.calls.lock().expect("nothing panics with it").insert(number, ended);
        }
    }

    async fn fetch(&self, exchange: &Exchange, other: NodeId) {
        while !self.stop.load(Ordering::Relaxed) {
            let whole = async {
                let nothing = Bytes::new();
                let within = 4 * WITHIN;
                let fetched = exchange.fetch(other, Kind::BLOB, nothing, within, 4 << 20).await;
                let mut reader = fetched?;
                while reader.next().await?.is_some() {}
                Ok::<_, exchange::CallError>(())
            };
            match whole.await {
                Ok(()) => drop(self.blobs.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    let mut torn = self.torn.lock().expect("nothing panics with it");
                    *torn = Some(error.to_string());
                }
            }
        }
    }
}
