//! The whole crate on real sockets, and its decoder on a million inputs.

mod calls;
mod fuzz;
mod gates;
mod joins;
mod keys;
mod pairs;
mod rotations;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::UnixTime;
use sha2::{Digest, Sha256};

use crate::{
    Answer, Authority, Blob, Config, Exchange, Handler, Handling, Identity, Kind, Life, Member,
    Members, NodeId, NodeKey, NodeName, Request, Timing, Trust,
};

const HOUR: u64 = 3_600;
const SOON: Duration = Duration::from_secs(120);

fn now() -> u64 {
    UnixTime::now().as_secs()
}

fn authority(cluster: &str) -> Authority {
    Authority::create(cluster, Life::new(now() - HOUR, 1_000 * HOUR)).unwrap()
}

fn name(cluster: &str, node: u64) -> NodeName {
    NodeName { cluster: cluster.to_owned(), node: NodeId(node), incarnation: 1 }
}

fn identity(ca: &Authority, name: NodeName, life: Life) -> Identity {
    let key = NodeKey::generate().unwrap();
    let issued = ca.issue(&name, &key.public(), life).unwrap();
    Identity::new(name, key, issued, ca.certificate().clone())
}

fn lasting() -> Life {
    Life::new(now() - HOUR, 100 * HOUR)
}

fn trust(cas: &[&Authority]) -> Trust {
    Trust::new(cas.iter().map(|ca| ca.certificate().clone()).collect()).unwrap()
}

/// A member table that a test writes.
#[derive(Debug, Default)]
struct Table(Mutex<BTreeMap<NodeId, Member>>);

impl Table {
    fn set(&self, node: u64, member: Member) {
        self.0.lock().unwrap().insert(NodeId(node), member);
    }

    fn admit(&self, identity: &Identity) {
        let name = identity.name();
        let keys = vec![identity.public_key().fingerprint()];
        self.set(name.node.0, Member::Is { incarnation: name.incarnation, keys });
    }
}

impl Members for Table {
    fn member(&self, node: NodeId) -> Member {
        self.0.lock().unwrap().get(&node).cloned().unwrap_or(Member::Unknown)
    }
}

/// Echoes pings, fails hand-overs, holds invocations for ever, sends blobs of a given length.
#[derive(Debug, Default)]
struct Echo {
    started: AtomicU64,
    dropped: Arc<AtomicU64>,
}

/// Counts when it goes.
struct Dropped(Arc<AtomicU64>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Handler for Echo {
    fn handle(&self, request: Request) -> Handling<'_> {
        Box::pin(async move {
            match request.kind {
                Kind::INVOKE => {
                    let _dropped = Dropped(Arc::clone(&self.dropped));
                    self.started.fetch_add(1, Ordering::SeqCst);
                    std::future::pending().await
                }
                Kind::HAND_OVER => Answer::Failed("no hand is free".to_owned()),
                Kind::BLOB => Answer::Blob(blob(&request.payload)),
                _ => Answer::Bytes(request.payload),
            }
        })
    }
}

/// A blob as the request says: its length, and what is wrong with it.
fn blob(asked: &Bytes) -> Blob {
    let asked = String::from_utf8(asked.to_vec()).unwrap();
    let (length, fault) = asked.split_once(' ').unwrap();
    let bytes = Bytes::from(pattern(length.parse().unwrap()));
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    match fault {
        "right" => Blob::of(bytes, digest),
        "digest" => Blob::of(bytes, [0; 32]),
        fault => {
            let length = bytes.len() as u64;
            let length = if fault == "short" { length + 1 } else { length - 1 };
            let (sender, chunks) = tokio::sync::mpsc::channel(1);
            sender.try_send(bytes).unwrap();
            Blob::new(length, digest, chunks)
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

/// Times for tests: quick to notice, patient with a busy machine.
fn timing() -> Timing {
    Timing {
        pause_first: Duration::from_millis(10),
        pause_longest: Duration::from_millis(100),
        grace: Duration::from_millis(200),
        idle: SOON,
        handshake: SOON,
        ..Timing::default()
    }
}

struct Node {
    exchange: Exchange,
    table: Arc<Table>,
    echo: Arc<Echo>,
    address: SocketAddr,
}

fn start(identity: &Identity, trust: &Trust) -> Node {
    let (table, echo) = (Arc::new(Table::default()), Arc::new(Echo::default()));
    table.admit(identity);
    let config = Config { bind: ([127, 0, 0, 1], 0).into(), timing: timing() };
    let members: Arc<dyn Members> = Arc::clone(&table) as _;
    let handler: Arc<dyn Handler> = Arc::clone(&echo) as _;
    let exchange = Exchange::start(config, (identity, trust), members, handler).unwrap();
    let address = exchange.local_address().unwrap();
    Node { exchange, table, echo, address }
}

/// Two nodes of a cluster that know each other; nobody has dialled.
fn pair() -> (Authority, [Identity; 2], [Node; 2]) {
    let ca = authority("mill");
    let trust = trust(&[&ca]);
    let identities = [1, 2].map(|node| identity(&ca, name("mill", node), lasting()));
    let nodes = [start(&identities[0], &trust), start(&identities[1], &trust)];
    for node in &nodes {
        identities.iter().for_each(|identity| node.table.admit(identity));
    }
    (ca, identities, nodes)
}

/// Waits until it is so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let patience = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(SOON, patience).await;
    assert!(waited.is_ok(), "not in {SOON:?}: {what}");
}
