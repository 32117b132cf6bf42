//! This node among the others: opens its part of the cluster, talks to the other nodes, and keeps
//! up with who they are.

mod authorities;
mod calls;
mod courier;
mod desk;
mod folder;
mod members;
mod others;
mod packages;
mod rotation;
mod tokens;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bus::Bus;
use cluster::{Cluster, Command, Ended, FORMATS, MemberChange, Role};
use exchange::{Door, DoorConfig, Exchange, Fingerprint, Identity, Kind, NodeId};
use gateway::api::{
    CaStatus, JoinToken, MadeSubscriberToken, MemberList, RaftStatus, RotationWish,
    SubscriberTokenList, SubscriberTokenWish,
};
use gateway::{Membership, Refused};
use serde::Deserialize;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use authorities::CA_S;
pub(crate) use desk::{About, certificate_life, is_name, name_of, now};
pub(crate) use folder::{Card, Folder, Known, trusted, unusable};
pub(crate) use members::of_cluster;

use super::control::as_refused;
use super::packages::PackageStore;
use super::subscribers::{self, SubscriberSettings};
use super::upgrade::unread;
use crate::commands::error::{CommandError, exit};
use authorities::CaOrder;
use courier::Courier;
use desk::{Desk, Renewal};

/// How often a node looks around without being told that something changed.
const LOOK: Duration = Duration::from_secs(1);
/// How long another node may take to say something small.
const ASK: Duration = Duration::from_secs(2);

/// `[cluster]` of the node's file: what it says goes before what `init` or `join` was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct PeerSettings {
    /// Where to listen for the other nodes.
    pub listen: Option<SocketAddr>,
    /// Where the others reach it: host:port.
    pub advertise: Option<String>,
}

/// See the [module documentation](self). Dropping it ends all connections.
#[derive(Debug)]
pub(crate) struct Peers {
    exchange: Arc<Exchange>,
    desk: Arc<Desk>,
    name: String,
    /// The cluster's name.
    whole: String,
    /// Whether others could run what this node runs: the embedded bus is one node's alone.
    has_kafka: bool,
    advertise: String,
    /// Where subscribers are let in, if they are.
    door: OnceLock<Door>,
    keeping: AbortHandle,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Peers {
    /// Opens the node's part of the cluster that its folder names, and answers the others.
    ///
    /// # Errors
    ///
    /// `E0425` when its identity or its address cannot be used, and what [`Cluster::open`] says.
    pub(super) fn open(
        data_dir: &Path,
        settings: &PeerSettings,
        has_kafka: bool,
        packages: Arc<PackageStore>,
        open: impl FnOnce(cluster::Config) -> Result<Cluster, CommandError>,
    ) -> Result<Self, CommandError> {
        let folder = Folder::of(data_dir);
        let mut card = folder.load()?;
        card.listen = settings.listen.unwrap_or(card.listen);
        card.advertise = settings.advertise.clone().unwrap_or(card.advertise);
        let identity = folder.identity()?;
        let trust = card.trust().map_err(|error| unusable(error.to_string()))?;
        let authorities = folder.authorities()?;
        let courier = Arc::new(Courier::new());
        let cluster = open(cluster::Config {
            member: card.id,
            cluster: card.cluster.clone(),
            founds: false,
            limits: cluster::Limits::default(),
            transport: Arc::clone(&courier) as Arc<dyn cluster::Transport>,
        })?;
        let hints = card.peers.iter().map(|it| (it.id, it.clone())).collect();
        let desk = Arc::new(Desk {
            cluster,
            courier,
            packages,
            trust: Mutex::new(trust.clone()),
            folder: folder.clone(),
            exchange: OnceLock::new(),
            own: OnceLock::new(),
            inheritance: OnceLock::new(),
            node: OnceLock::new(),
            authorities: Mutex::new(authorities),
            drafting: tokio::sync::Mutex::new(()),
            tries: Mutex::default(),
            since: std::time::Instant::now(),
            hints: Mutex::new(hints),
        });
        let config = exchange::Config { bind: card.listen, timing: exchange::Timing::default() };
        let started = Exchange::start(
            config,
            (&identity, &trust),
            Arc::clone(&desk) as Arc<dyn exchange::Members>,
            Arc::clone(&desk) as Arc<dyn exchange::Handler>,
        );
        let exchange = Arc::new(started.map_err(|error| {
            let help = "another [cluster] listen of the node's file may be free";
            unusable(format!("cannot talk to the other nodes: {error}")).help(help)
        })?);
        exchange.speak(desk.cluster.state().format());
        // Each is called once.
        drop(desk.exchange.set(Arc::downgrade(&exchange)));
        desk.courier.connect(&exchange);
        let keeper = Keeper {
            exchange: Arc::clone(&exchange),
            desk: Arc::clone(&desk),
            folder,
            card: card.clone(),
            dialled: BTreeMap::new(),
            identity,
        };
        let keeping = tokio::spawn(keeper.keep()).abort_handle();
        Ok(Self {
            exchange,
            desk,
            name: card.name,
            whole: card.cluster,
            has_kafka,
            advertise: card.advertise,
            door: OnceLock::new(),
            keeping,
        })
    }

    /// The node's part of the cluster.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.desk.cluster
    }

    /// Lets subscribers in, where the settings name an address; once.
    ///
    /// # Errors
    ///
    /// `E0426` when the address cannot be used.
    pub(super) fn open_door(
        &self,
        settings: &SubscriberSettings,
        bus: Arc<dyn Bus>,
    ) -> Result<(), CommandError> {
        let Some(bind) = settings.listen else { return Ok(()) };
        let (subscribers_max, timing) = (settings.max, exchange::Timing::default());
        let config = DoorConfig { bind, subscribers_max, timing };
        let handler = subscribers::Desk { cluster: self.desk.cluster.clone(), bus };
        let door = self.exchange.open_door(config, Arc::new(handler)).map_err(|error| {
            let message = format!("cannot let subscribers in: {error}");
            CommandError::new(exit::UNUSABLE, "E0426", message)
                .help("another [subscribers] listen of the node's file may be free")
        })?;
        // It is called once.
        drop(self.door.set(door));
        Ok(())
    }

    /// Where subscribers are let in.
    pub(super) fn subscribers_at(&self) -> Option<SocketAddr> {
        self.door.get().and_then(|door| door.local_address().ok())
    }

    /// Tells subscribers that the node ends.
    pub(super) async fn close_door(&self) {
        if let Some(door) = self.door.get() {
            door.close().await;
        }
    }

    /// What operators call this node.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What operators call the cluster.
    pub(crate) fn cluster_name(&self) -> &str {
        &self.whole
    }

    /// Why the node has to end, once it has to.
    pub(crate) async fn ended(&self) -> CommandError {
        let ended = tokio::select! {
            ended = self.desk.cluster.ended() => ended,
            // Who is removed is sent no log any more that would say so.
            () = self.exchange.removed() => Ended::Removed,
            // Who missed that the format rose hears of it from the others.
            format = self.unread() => Ended::Unread(format),
        };
        match ended {
            Ended::Forgot => CommandError::new(
                exit::UNUSABLE,
                "E0423",
                "this node's folder lacks what the node acknowledged to its cluster",
            )
            .help("it has to join the cluster again, under a new id and with a new folder"),
            Ended::Removed => {
                CommandError::new(exit::UNUSABLE, "E0424", "this node was removed from its cluster")
                    .help("it may join again, under a new id and with a new folder")
            }
            Ended::Unread(format) => unread(format),
        }
    }

    /// Waits until more than half of the others have refused this node for the format that they
    /// write: one alone may be wrong.
    async fn unread(&self) -> u8 {
        let mut by = self.exchange.unread();
        loop {
            let found = by.borrow_and_update().clone();
            let state = self.desk.cluster.state();
            let others = state
                .roster()
                .members()
                .iter()
                .filter(|(id, it)| it.role != Role::Removed && **id != self.desk.cluster.me());
            let others: Vec<u64> = others.map(|(id, _)| *id).collect();
            let said = others.iter().filter(|id| found.contains_key(&NodeId(**id))).count();
            if let Some(format) = found.into_values().max()
                && others.len() < 2 * said
            {
                return format;
            }
            if by.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Tells the others that it goes, and closes the log.
    pub(crate) async fn close(&self) {
        self.keeping.abort();
        if self.desk.cluster.leads() {
            // Whoever leads next need not wait for an election timeout; alone there is nobody.
            drop(timeout(ASK, self.order(members::Order::Transfer(None))).await);
        }
        self.desk.cluster.close().await;
        self.exchange.close().await;
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Keeps up with the other nodes.
struct Keeper {
    exchange: Arc<Exchange>,
    desk: Arc<Desk>,
    folder: Folder,
    card: Card,
    /// Where each other node is dialled.
    dialled: BTreeMap<u64, (String, SocketAddr)>,
    identity: Identity,
}

impl Keeper {
    async fn keep(mut self) {
        let mut changes = self.desk.cluster.changes();
        let mut led_at = Instant::now();
        loop {
            if self.desk.cluster.leadership().leader.is_some() {
                led_at = Instant::now();
            }
            self.exchange.speak(self.desk.cluster.state().format());
            self.dial_all().await;
            if LOOK < led_at.elapsed() {
                self.ask_who_there_is().await;
            }
            if let Err(error) = self.follow_ca().await {
                tracing::warn!(
                    message = error.message,
                    "could not follow a rotation of the CA yet"
                );
            }
            self.announce().await;
            self.fetch_packages().await;
            if let Err(error) = self.renew().await {
                tracing::warn!(message = error.message, "could not renew the certificate yet");
            }
            // The sender lives as long as the cluster, and this ends with it.
            drop(timeout(LOOK, changes.changed()).await);
            changes.mark_unchanged();
            // One look for what comes together.
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn others(&self) -> Vec<Known> {
        let state = self.desk.cluster.state();
        let mut known = desk::known(&state);
        known.extend(self.desk.hints(&state));
        known.retain(|it| it.id != self.card.id);
        known
    }

    /// Dials everybody at the address that counts now, and nobody else.
    async fn dial_all(&mut self) {
        let others = self.others();
        for Known { id, address, .. } in &others {
            if self.dialled.get(id).is_some_and(|(at, _)| at == address) {
                continue;
            }
            let found = tokio::net::lookup_host(address.as_str()).await;
            match found.map(|mut it| it.next()) {
                Ok(Some(resolved)) => {
                    self.exchange.set_peer(NodeId(*id), resolved);
                    self.dialled.insert(*id, (address.clone(), resolved));
                }
                Ok(None) => tracing::warn!(node = id, address, "no address of this name"),
                Err(error) => tracing::warn!(node = id, address, %error, "cannot find the address"),
            }
        }
        let gone: Vec<u64> = self
            .dialled
            .keys()
            .filter(|id| !others.iter().any(|it| it.id == **id))
            .copied()
            .collect();
        for id in &gone {
            self.dialled.remove(id);
            self.exchange.forget_peer(NodeId(*id));
        }
        if self.card.peers != others {
            self.exchange.recheck();
            self.card.peers = others;
            // It is for the next start only, which may also find them in the log.
            if let Err(error) = self.folder.save(&self.card) {
                tracing::warn!(message = error.message, "could not note the other nodes");
            }
        }
    }

    /// Without a leader: one may lead whom this log does not know yet, and whom nobody lets in here
    /// before it is known.
    async fn ask_who_there_is(&self) {
        for other in self.others() {
            let asked = self.exchange.call(NodeId(other.id), Kind::ROSTER, "".into(), ASK);
            let Ok(answer) = asked.await else { continue };
            let Ok(known) = serde_json::from_slice::<Vec<Known>>(&answer) else { continue };
            let mut hints = self.desk.hints.lock().expect("nothing panics while it holds this");
            for it in known {
                hints.insert(it.id, it);
            }
        }
    }

    /// What the state names comes to every node, so that any may run it next.
    async fn fetch_packages(&self) {
        for digest in self.desk.lacking() {
            if let Err(error) = self.desk.fetch_from_any(&self.exchange, digest).await {
                tracing::warn!(%digest, message = error.message, "lacks a package");
            }
        }
    }

    /// A newer certificate at two thirds of the life of the old one, by the same CA.
    async fn renew(&mut self) -> Result<(), CommandError> {
        if now() < self.identity.life().renew_at() {
            return Ok(());
        }
        self.certify(self.identity.ca().fingerprint()).await
    }

    /// Gets a certificate by this CA; connections are replaced without a restart.
    async fn certify(&mut self, ca: Fingerprint) -> Result<(), CommandError> {
        let key = self.identity.public_key();
        let failed = |error: &dyn std::error::Error| unusable(error.to_string());
        let renewal = match self.desk.issue(self.card.id, &key, ca) {
            Some(renewal) => renewal.map_err(|error| failed(&error))?,
            None => self.ask_for_renewal(key.as_bytes(), ca).await?,
        };
        let identity = renewal.of(&self.identity).map_err(|error| failed(&error))?;
        self.folder.save_identity(&identity)?;
        let left = self.exchange.renew(&identity).await.map_err(|error| failed(&error))?;
        tracing::info!(until = identity.life().until, left, "the certificate was renewed");
        self.identity = identity;
        Ok(())
    }

    async fn ask_for_renewal(&self, key: &[u8], ca: Fingerprint) -> Result<Renewal, CommandError> {
        // Nodes of earlier versions know one CA, and no way to name it.
        let was_rotated = self.desk.cluster.state().authorities().issuing().is_some();
        let named: &[u8] = if was_rotated { &ca.0 } else { &[] };
        let asked = [key, named].concat();
        for other in self.others() {
            let asked = asked.clone().into();
            let asked = self.exchange.call(NodeId(other.id), Kind::RENEW, asked, ASK);
            let Ok(answer) = asked.await else { continue };
            let Ok(renewal) = serde_json::from_slice::<Renewal>(&answer) else { continue };
            if renewal.ca() == Some(ca) {
                return Ok(renewal);
            }
        }
        Err(unusable("no node that votes issued one".to_owned()))
    }

    /// Says that this process has started, where it is reached, and which formats its build reads.
    async fn announce(&self) {
        let cluster = &self.desk.cluster;
        let incarnation = cluster.incarnation();
        let (state, member) = (cluster.state(), self.card.id);
        let Some(own) = state.roster().members().get(&member) else { return };
        if cluster.leadership().leader.is_none() {
            return;
        }
        let command = if own.incarnation < incarnation {
            let address = self.card.advertise.clone();
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let change = MemberChange::Start { address, incarnation, version };
            Command::Member { member, change }
        } else if own.incarnation == incarnation && state.reads().get(&member) != Some(&FORMATS) {
            Command::Reads { member, formats: FORMATS }
        } else {
            match noted(&state, member, incarnation) {
                Some(command) => command,
                None => return,
            }
        };
        match cluster.propose(command).await {
            Ok(_) => tracing::info!(incarnation, "this node has said how it started"),
            Err(error) => tracing::debug!(%error, "could not say that this node has started"),
        }
    }
}

/// What the format of the build after this one has a place for, and is owed still.
#[cfg(feature = "next-version")]
fn noted(state: &cluster::State, member: u64, incarnation: u64) -> Option<Command> {
    (state.notes().get(&member) != Some(&incarnation))
        .then_some(Command::Note { member, incarnation })
}

#[cfg(not(feature = "next-version"))]
const fn noted(_state: &cluster::State, _member: u64, _incarnation: u64) -> Option<Command> {
    None
}

#[async_trait::async_trait]
impl Membership for Peers {
    fn subscriber_tokens(&self) -> SubscriberTokenList {
        self.list_tokens()
    }

    async fn make_subscriber_token(
        &self,
        wish: SubscriberTokenWish,
    ) -> Result<MadeSubscriberToken, Refused> {
        self.make_live_token(wish).await.map_err(as_refused)
    }

    async fn revoke_subscriber_token(&self, id: String) -> Result<(), Refused> {
        self.revoke_token(&id).await.map_err(as_refused)
    }

    async fn members(&self) -> MemberList {
        self.list_members().await
    }

    async fn join_token(&self) -> Result<JoinToken, Refused> {
        self.make_token().await.map_err(as_refused)
    }

    async fn set_draining(&self, member: String, drains: bool) -> Result<(), Refused> {
        self.drain_member(&member, drains).await.map_err(as_refused)
    }

    async fn remove(&self, member: String) -> Result<(), Refused> {
        self.remove_member(&member).await.map_err(as_refused)
    }

    fn raft(&self) -> RaftStatus {
        self.raft_status()
    }

    fn authorities(&self) -> CaStatus {
        self.desk.ca_status()
    }

    async fn rotate(&self, wish: RotationWish) -> Result<CaStatus, Refused> {
        self.change_ca(CaOrder::Rotate(wish.window_s)).await.map_err(as_refused)
    }

    async fn finish_rotation(&self) -> Result<CaStatus, Refused> {
        self.change_ca(CaOrder::Finish).await.map_err(as_refused)
    }

    async fn abort_rotation(&self) -> Result<CaStatus, Refused> {
        self.change_ca(CaOrder::Abort).await.map_err(as_refused)
    }

    async fn transfer(&self, to: Option<String>) -> Result<String, Refused> {
        self.transfer_lead(to).await.map_err(as_refused)
    }

    async fn checkpoint(&self) -> Result<u64, Refused> {
        self.make_checkpoint().await.map_err(as_refused)
    }
}
