//! Endpoints of the crate under test, with a member table and a handler that a run writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use exchange::{
    Answer, Authority, Blob, Config, Exchange, Handler, Handling, Identity, JoinAnswer,
    JoinRequest, Kind, Life, Member, Members, NodeId, NodeKey, NodeName, Refusal, Request, Timing,
    TokenBook, Trust,
};
use rustls::pki_types::UnixTime;
use sha2::{Digest, Sha256};

use crate::promise::{During, NotShown};

pub(super) const HOUR: u64 = 3_600;

pub(super) fn now() -> u64 {
    UnixTime::now().as_secs()
}

pub(super) fn lasting() -> Life {
    Life::new(now() - HOUR, 100 * HOUR)
}

pub(super) fn name(cluster: &str, node: u64) -> NodeName {
    NodeName { cluster: cluster.to_owned(), node: NodeId(node), incarnation: 1 }
}

pub(super) fn authority(cluster: &str) -> Result<Authority, NotShown> {
    Authority::create(cluster, Life::new(now() - HOUR, 1_000 * HOUR)).during("make a CA")
}

pub(super) fn identity(ca: &Authority, node: u64) -> Result<Identity, NotShown> {
    let (key, name) = (NodeKey::generate().during("make a key")?, name(ca.cluster(), node));
    let issued = ca.issue(&name, &key.public(), lasting()).during("issue a certificate")?;
    Ok(Identity::new(name, key, issued, ca.certificate().clone()))
}

/// The same node under a certificate that this CA makes now.
pub(super) fn renewed(ca: &Authority, identity: &Identity) -> Result<Identity, NotShown> {
    let issued = ca.issue(identity.name(), &identity.public_key(), lasting());
    let renewed = identity.renewed(issued.during("renew")?, ca.certificate().clone());
    renewed.during("renew")
}

/// The member table of all endpoints of a run.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<BTreeMap<NodeId, Member>>);

impl Table {
    pub(super) fn set(&self, node: u64, member: Member) {
        self.0.lock().expect("nothing panics with it").insert(NodeId(node), member);
    }

    pub(super) fn admit(&self, identity: &Identity) {
        let keys = vec![identity.public_key().fingerprint()];
        let member = Member::Is { incarnation: identity.name().incarnation, keys };
        self.set(identity.name().node.0, member);
    }
}

impl Members for Table {
    fn member(&self, node: NodeId) -> Member {
        let table = self.0.lock().expect("nothing panics with it");
        table.get(&node).cloned().unwrap_or(Member::Unknown)
    }
}

/// Answers calls, and knows which of them ran.
pub(super) struct Desk {
    ca: Authority,
    trust: Trust,
    pub(super) book: Mutex<TokenBook>,
    pub(super) ran: Mutex<BTreeSet<u64>>,
    /// Joiners that told their secret.
    pub(super) told: Mutex<u64>,
}

impl Desk {
    pub(super) fn new(ca: Authority, trust: Trust) -> Self {
        let (book, ran) = (Mutex::default(), Mutex::default());
        Self { ca, trust, book, ran, told: Mutex::default() }
    }

    fn let_in(&self, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        *self.told.lock().expect("nothing panics with it") += 1;
        let join = JoinRequest::decode(payload)?;
        let mut book = self.book.lock().expect("nothing panics with it");
        book.redeem(&join.token, &self.trust, now())?;
        let name = name(self.ca.cluster(), 20);
        let issued = self.ca.issue(&name, &join.key, lasting());
        let issued = issued.map_err(|_unusable| Refusal::BadFrame)?;
        let (ca, trust) = (self.ca.certificate().clone(), self.trust.clone());
        let about = String::new();
        Ok(JoinAnswer { name, issued, ca, trust, about }.encode())
    }
}

/// What a call with this number has to be answered with.
pub(super) fn answer(number: u64) -> Bytes {
    Bytes::copy_from_slice(&(number ^ 0x5a5a_5a5a).to_be_bytes())
}

impl Handler for Desk {
    fn handle(&self, request: Request) -> Handling<'_> {
        Box::pin(async move {
            match request.kind {
                Kind::JOIN => match self.let_in(&request.payload) {
                    Ok(answer) => Answer::Bytes(answer.into()),
                    Err(refusal) => Answer::Refused(refusal),
                },
                Kind::BLOB => {
                    let bytes = Bytes::from(vec![0x6d; 4 << 20]);
                    let digest = Sha256::digest(&bytes).into();
                    Answer::Blob(Blob::of(bytes, digest))
                }
                _ => {
                    // Long enough that a cut meets some on their way.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    let Ok(number) = <[u8; 8]>::try_from(&request.payload[..]) else {
                        return Answer::Failed("not a number".to_owned());
                    };
                    let number = u64::from_le_bytes(number);
                    self.ran.lock().expect("nothing panics with it").insert(number);
                    Answer::Bytes(answer(number))
                }
            }
        })
    }
}

/// An endpoint that runs.
pub(super) struct Node {
    pub(super) exchange: Arc<Exchange>,
    pub(super) address: SocketAddr,
    pub(super) identity: Identity,
}

pub(super) fn start(
    identity: Identity,
    trust: &Trust,
    table: &Arc<Table>,
    desk: &Arc<Desk>,
) -> Result<Node, NotShown> {
    let timing = Timing {
        handshake: Duration::from_secs(3),
        pause_first: Duration::from_millis(5),
        pause_longest: Duration::from_millis(50),
        grace: Duration::from_millis(200),
        ..Timing::default()
    };
    let config = Config { bind: ([127, 0, 0, 1], 0).into(), timing };
    let (members, handler) = (Arc::clone(table) as _, Arc::clone(desk) as _);
    let exchange = Exchange::start(config, (&identity, trust), members, handler);
    let exchange = exchange.during("start an endpoint")?;
    let address = exchange.local_address().during("read an address")?;
    Ok(Node { exchange: Arc::new(exchange), address, identity })
}
