//! What this node answers the others, and whom it lets in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::{Cluster, Command, Error, Formats, MemberChange, Refused, Role, Spent, State};
use exchange::{
    Answer, Authority, Blob, CaCertificate, Exchange, Fingerprint, Handler, Handling, Identity,
    Issued, JoinAnswer, JoinRequest, KeyError, Kind, Life, Member, Members, NodeId, NodeName, Peer,
    PublicKey, Refusal, Request, Tries, Trust,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::authorities::trust_of;
use super::courier::{Courier, TAKEN};
use super::folder::{Folder, Known, fingerprints};
use super::members::{Order, carry_out};
use super::packages::PACKAGE;
use crate::node::Inner;
use crate::node::handed::Inheritance;
use crate::node::packages::PackageStore;

/// The largest checkpoint.
const CHECKPOINT_MAX: u64 = 256 << 20;
/// How long a certificate holds: 30 days.
const CERTIFICATE_S: u64 = 30 * 24 * 3_600;
/// Clocks may differ by this much.
const SKEW_S: u64 = 300;
/// How often a joiner's id is drawn again when somebody else got it.
const DRAWS: u32 = 16;
/// How long a joiner waits for a quorum.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// Before the digest of a blob: which kind of blob it is of.
pub(super) const STATE: u8 = b's';

/// What a joiner says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) name: String,
    pub(crate) address: String,
    /// The formats that its build reads, lowest and highest; those that say nothing read the first.
    #[serde(default = "first")]
    pub(crate) reads: (u8, u8),
}

const fn first() -> (u8, u8) {
    (1, 1)
}

/// A newer certificate, as it crosses.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Renewal {
    certificate: Vec<u8>,
    from: u64,
    until: u64,
    ca: Vec<u8>,
}

impl Renewal {
    pub(super) fn new(issued: Issued, ca: &CaCertificate) -> Self {
        let (from, until) = (issued.life.from, issued.life.until);
        Self { certificate: issued.der, from, until, ca: ca.der().to_vec() }
    }

    /// The CA that made it.
    pub(super) fn ca(&self) -> Option<Fingerprint> {
        CaCertificate::new(self.ca.clone()).ok().map(|ca| ca.fingerprint())
    }

    /// The node with it.
    pub(super) fn of(self, identity: &Identity) -> Result<Identity, KeyError> {
        let life = Life { from: self.from, until: self.until };
        let issued = Issued { der: self.certificate, life };
        identity.renewed(issued, CaCertificate::new(self.ca)?)
    }
}

/// See the [module documentation](self).
pub(super) struct Desk {
    pub(super) cluster: Cluster,
    pub(super) courier: Arc<Courier>,
    pub(super) packages: Arc<PackageStore>,
    /// Whom this node trusts, as its folder says.
    pub(super) trust: Mutex<Trust>,
    pub(super) folder: Folder,
    pub(super) exchange: OnceLock<Weak<Exchange>>,
    /// What this node's control API answers, once there is one.
    pub(super) own: OnceLock<gateway::Own>,
    /// Takes what owners of shards hand over to this node, once it can.
    pub(super) inheritance: OnceLock<Arc<Inheritance>>,
    /// What runs calls.
    pub(super) node: OnceLock<Weak<Inner>>,
    /// The CAs whose keys this node has.
    pub(super) authorities: Mutex<Vec<Arc<Authority>>>,
    /// Held while a CA is made that nobody has agreed on yet.
    pub(super) drafting: tokio::sync::Mutex<()>,
    /// How often joiners were refused of late, in time since `since`.
    pub(super) tries: Mutex<Tries>,
    pub(super) since: Instant,
    /// Nodes that others told of, which this log does not reach yet.
    pub(super) hints: Mutex<BTreeMap<u64, Known>>,
}

pub(super) const UNPOISONED: &str = "nothing panics while it holds this";

impl Desk {
    pub(super) fn exchange(&self) -> Option<Arc<Exchange>> {
        self.exchange.get()?.upgrade()
    }

    /// Nodes that the state does not know yet: their ids are above all of those it knows.
    pub(super) fn hints(&self, state: &State) -> Vec<Known> {
        let hints = self.hints.lock().expect(UNPOISONED);
        hints.range(state.roster().next_id()..).map(|(_, it)| it.clone()).collect()
    }

    async fn answer(&self, request: Request) -> Answer {
        if request.kind == Kind::INVOKE && matches!(request.peer, Peer::Member(_)) {
            return self.answer_call(request).await;
        }
        let Request { peer, kind, payload, .. } = request;
        let from = match peer {
            Peer::Member(NodeName { node: NodeId(from), .. }) => from,
            Peer::Joiner(address) => return self.answer_joiner(address.ip(), &payload).await,
        };
        match kind {
            Kind::PING => Answer::Bytes(payload),
            Kind::RAFT => {
                self.courier.inbox().receive(from, &payload);
                Answer::Bytes(Bytes::new())
            }
            Kind::CHECKPOINT => self.take_checkpoint(from, &payload).await,
            Kind::PROPOSE => {
                let is_taken = self.courier.inbox().take(from, &payload).await;
                Answer::Bytes(if is_taken { TAKEN.into() } else { Bytes::new() })
            }
            Kind::BLOB => self.give_blob(from, &payload).await,
            Kind::ROSTER => Answer::Bytes(to_json(&known(&self.cluster.state()))),
            Kind::ORDER => match serde_json::from_slice::<Order>(&payload) {
                Ok(order) => Answer::Bytes(to_json(&carry_out(self, order).await)),
                Err(_other_version) => Answer::Refused(Refusal::BadFrame),
            },
            Kind::AUTHORITY => self.give_authority(from, &payload),
            Kind::STORE => match self.store(from, &payload).await {
                Ok(()) => Answer::Bytes(Bytes::new()),
                Err(why) => Answer::Failed(why),
            },
            Kind::CONTROL => self.answer_about_itself(&payload).await,
            Kind::RENEW => self.renew(from, &payload),
            Kind::HAND_OVER => match self.inheritance.get() {
                Some(inheritance) => match inheritance.receive(from, &payload).await {
                    Some(_shards) => Answer::Bytes(Bytes::new()),
                    None => Answer::Refused(Refusal::BadFrame),
                },
                None => Answer::Failed("it is starting".to_owned()),
            },
            _ => Answer::Refused(Refusal::UnknownKind),
        }
    }

    /// Fetches the state that the message goes with from who sent it, and hands over both.
    async fn take_checkpoint(&self, from: u64, sealed: &[u8]) -> Answer {
        let Some(want) = self.courier.inbox().wanted(from, sealed) else {
            return Answer::Refused(Refusal::BadFrame);
        };
        let Some(exchange) = self.exchange() else { return Answer::Failed("it ends".to_owned()) };
        let asked = [&[STATE], want.digest.as_slice()].concat();
        let fetched = async {
            let within = Duration::from_secs(600);
            let node = NodeId(from);
            let mut blob =
                exchange.fetch(node, Kind::BLOB, asked.into(), within, CHECKPOINT_MAX).await?;
            let mut state = Vec::new();
            while let Some(bytes) = blob.next().await? {
                state.extend_from_slice(&bytes);
            }
            Ok::<_, exchange::CallError>(state)
        };
        match fetched.await {
            Ok(state) => match self.courier.inbox().restore(from, sealed, state) {
                true => Answer::Bytes(Bytes::new()),
                false => Answer::Failed("the checkpoint was not taken".to_owned()),
            },
            Err(error) => Answer::Failed(format!("fetch the checkpoint: {error}")),
        }
    }

    async fn give_blob(&self, from: u64, asked: &[u8]) -> Answer {
        let bytes = match asked.split_first() {
            Some((&STATE, digest)) => {
                let digest = <[u8; 32]>::try_from(digest).ok();
                digest.and_then(|digest| self.courier.state_for(from, digest))
            }
            Some((&PACKAGE, digest)) => self.package(digest).await,
            _ => return Answer::Refused(Refusal::BadFrame),
        };
        match bytes {
            Some(bytes) => {
                let digest = Sha256::digest(&bytes).into();
                Answer::Blob(Blob::of(bytes, digest))
            }
            None => Answer::Failed("it is not here".to_owned()),
        }
    }

    /// A newer certificate for the key that the state knows of this node, by the CA that it names.
    fn renew(&self, from: u64, asked: &[u8]) -> Answer {
        let state = self.cluster.state();
        let (key, ca) = match asked.split_last_chunk::<32>() {
            Some((key, ca)) if PublicKey::new(key).is_ok() => (key, Fingerprint(*ca)),
            // There was no rotation yet, as far as it knows.
            _ => (asked, self.issuer(&state)),
        };
        let Ok(key) = PublicKey::new(key) else { return Answer::Refused(Refusal::BadFrame) };
        let member = state.roster().members().get(&from);
        if !member.is_some_and(|it| it.keys.contains(&key.fingerprint().0)) {
            return Answer::Refused(Refusal::ForeignKey);
        }
        match self.issue(from, &key, ca) {
            Some(Ok(renewal)) => Answer::Bytes(to_json(&renewal)),
            Some(Err(error)) => Answer::Failed(error.to_string()),
            None => Answer::Failed("this node does not have the CA".to_owned()),
        }
    }

    /// Who guesses is not looked at for a while.
    async fn answer_joiner(&self, source: IpAddr, payload: &[u8]) -> Answer {
        let now = || self.since.elapsed();
        if !self.tries.lock().expect(UNPOISONED).may(source, now()) {
            return Answer::Refused(Refusal::TooManyTries);
        }
        let answer = self.let_in(payload).await;
        if let Answer::Refused(_) = answer {
            self.tries.lock().expect(UNPOISONED).on_refused(source, now());
        }
        answer
    }

    async fn let_in(&self, payload: &[u8]) -> Answer {
        let asked = JoinRequest::decode(payload).and_then(|join| {
            let about = serde_json::from_str(&join.about).map_err(|_bad| Refusal::BadFrame)?;
            Ok((join, about))
        });
        let (join, about): (JoinRequest, About) = match asked {
            Ok(asked) => asked,
            Err(refusal) => return Answer::Refused(refusal),
        };
        let (oldest, newest) = about.reads;
        let format = self.cluster.state().format();
        if !(Formats { oldest, newest }).reads(format) {
            return Answer::Refused(Refusal::UnreadFormat);
        }
        if !self.trust().fingerprints().contains(&join.token.ca()) {
            return Answer::Refused(Refusal::ForeignToken);
        }
        if self.authority(self.issuer(&self.cluster.state())).is_none() {
            return Answer::Failed("this node lets nobody in: ask one that votes".to_owned());
        }
        if !is_name(&about.name) {
            return Answer::Failed(format!("{:?} cannot be the name of a node", about.name));
        }
        match self.enrol(&join, &about).await {
            Ok(id) => {
                tracing::info!(id, name = about.name, address = about.address, "a node joins");
                self.certify(id, &join)
            }
            Err(error) => match refusal_of(&error) {
                Some(refusal) => Answer::Refused(refusal),
                None => Answer::Failed(super::super::chain(&error)),
            },
        }
    }

    /// Takes the joiner into the state, and its token out of it, in one command.
    async fn enrol(&self, join: &JoinRequest, about: &About) -> Result<u64, Error> {
        let spent = Spent { hash: join.token.hash(), at: now() };
        // Who guesses costs the cluster no entry.
        self.cluster.read(JOIN_PATIENCE).await?.tokens().check(&spent)?;
        let mut draws = 0;
        loop {
            let id = self.cluster.state().roster().next_id();
            let change = MemberChange::Join {
                name: about.name.clone(),
                address: about.address.clone(),
                key: join.key.fingerprint().0,
                token: Some(spent),
            };
            draws += 1;
            match self.cluster.propose(Command::Member { member: id, change }).await {
                Ok(_) => return Ok(id),
                Err(Error::Refused(Refused::UsedMember(_))) if draws < DRAWS => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// By the CA that issues now that the joiner is a member: a rotation may have gone on meanwhile.
    fn certify(&self, id: u64, join: &JoinRequest) -> Answer {
        let state = self.cluster.state();
        let trust = trust_of(&state).unwrap_or_else(|| Ok(self.trust()));
        let Some(authority) = self.authority(self.issuer(&state)) else {
            return Answer::Failed("this node does not have the key of the next CA yet".to_owned());
        };
        let name = name_of(self.cluster.name().to_owned(), id);
        match (authority.issue(&name, &join.key, certificate_life(now())), trust) {
            (Ok(issued), Ok(trust)) => {
                let ca = authority.certificate().clone();
                let about = serde_json::to_string(&known(&state))
                    .expect("texts and numbers can be written");
                let answer = JoinAnswer { name, issued, ca, trust, about };
                Answer::Bytes(answer.encode().into())
            }
            (Err(error), _) | (_, Err(error)) => Answer::Failed(error.to_string()),
        }
    }
}

impl Handler for Desk {
    fn handle(&self, request: Request) -> Handling<'_> {
        Box::pin(self.answer(request))
    }
}

impl Members for Desk {
    fn member(&self, node: NodeId) -> Member {
        let state = self.cluster.state();
        // An id belongs to one disk (CLU-6): a data directory has one life.
        let is = |keys: &[[u8; 32]]| Member::Is { incarnation: 1, keys: fingerprints(keys) };
        match state.roster().members().get(&node.0) {
            Some(member) if member.role == Role::Removed => Member::Removed,
            Some(member) => is(&member.keys),
            None if node.0 < state.roster().next_id() => Member::Unknown,
            None => {
                let hints = self.hints.lock().expect(UNPOISONED);
                hints.get(&node.0).map_or(Member::Unknown, |it| is(&it.keys))
            }
        }
    }
}

/// Everybody who belongs to the cluster.
pub(super) fn known(state: &State) -> Vec<Known> {
    let members = state.roster().members().iter().filter(|(_, it)| it.role != Role::Removed);
    let known = |(id, it): (&u64, &cluster::Member)| Known {
        id: *id,
        address: it.address.clone(),
        keys: it.keys.clone(),
    };
    members.map(known).collect()
}

/// What a certificate says of a node.
pub(crate) const fn name_of(cluster: String, id: u64) -> NodeName {
    NodeName { cluster, node: NodeId(id), incarnation: 1 }
}

/// From when to when a certificate holds that is made now.
pub(crate) const fn certificate_life(now: u64) -> Life {
    Life::new(now.saturating_sub(SKEW_S), CERTIFICATE_S)
}

/// Whether a node may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|it| it.is_ascii_lowercase())
        && name.len() <= 63
        && bytes.all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-')
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    u64::try_from(bus::Timestamp::now().0 / 1_000).unwrap_or_default()
}

fn refusal_of(error: &Error) -> Option<Refusal> {
    match error {
        Error::Refused(Refused::UnknownToken) => Some(Refusal::UnknownToken),
        Error::Refused(Refused::UsedToken) => Some(Refusal::UsedToken),
        Error::Refused(Refused::ExpiredToken) => Some(Refusal::ExpiredToken),
        _ => None,
    }
}

fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("texts and numbers can be written").into()
}
