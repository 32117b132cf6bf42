//! Connections to the other nodes: dialled, accepted, kept one per pair, made anew when they end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Incoming, TransportErrorCode};
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use webpki::EndEntityCert;

use crate::backoff::Backoff;
use crate::call::{self, CallError};
use crate::certificate::named;
use crate::endpoint::{Exchange, Inner, PENDING_MAX, STREAMS_MAX};
use crate::frame::{FIRST, FORMATS, Formats, Frame, Head, Kind, Status};
use crate::gate::Side;
use crate::identity::{NodeId, NodeName};
use crate::link::{Claim, Link, Stream, code, read_frame};
use crate::refusal::Refusal;
use crate::{ALPN_PEER, metrics, serve, tls};

/// TLS's alert for no common protocol (RFC 7301 section 3.2).
pub(crate) const NO_APPLICATION_PROTOCOL: u8 = 120;
/// TLS's alert for a certificate that counts no more (RFC 8446 section 6.2): of a removed member.
const CERTIFICATE_REVOKED: u8 = 44;
/// What is dialled, for TLS: who answers is told by the certificate, not by a name of DNS.
pub(crate) const SERVER_NAME: &str = "node.millrace";

/// A connection, as others may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Who is at the other end.
    pub peer: NodeName,
    /// Who dialled.
    pub dialer: NodeId,
    /// The how manieth of the pair.
    pub generation: u64,
    /// SHA-256 of the certificate that the other side showed.
    pub certificate: [u8; 32],
}

/// What is known of each other node.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<BTreeMap<NodeId, Known>>);

#[derive(Debug)]
struct Known {
    address: Option<SocketAddr>,
    link: watch::Sender<Option<Arc<Link>>>,
    /// The newest generation that was seen.
    generation: u64,
    dialer: Option<AbortHandle>,
}

impl Default for Known {
    fn default() -> Self {
        Self { address: None, link: watch::Sender::new(None), generation: 0, dialer: None }
    }
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Known>> {
        self.0.lock().expect("nothing panics while it holds this")
    }

    pub(crate) fn close(&self) {
        for known in self.lock().values_mut() {
            known.dialer.take().inspect(AbortHandle::abort);
        }
    }

    fn links(&self) -> Vec<(NodeId, Arc<Link>, Option<SocketAddr>)> {
        let peers = self.lock();
        let links = peers.iter().filter_map(|(node, known)| {
            let link = known.link.borrow().clone()?;
            Some((*node, link, known.address))
        });
        links.collect()
    }

    fn generation(&self, node: NodeId) -> u64 {
        self.lock().get(&node).map_or(0, |known| known.generation)
    }

    fn saw(&self, node: NodeId, generation: u64) {
        let mut peers = self.lock();
        let known = peers.entry(node).or_default();
        known.generation = known.generation.max(generation);
    }
}

impl Exchange {
    /// Keeps a connection to a node at this address: dials until there is one, again when it ends.
    pub fn set_peer(&self, node: NodeId, address: SocketAddr) {
        let mut peers = self.inner.peers.lock();
        let known = peers.entry(node).or_default();
        known.address = Some(address);
        known.dialer.take().inspect(AbortHandle::abort);
        let keeping = keep(Arc::clone(&self.inner), node, address, known.link.subscribe());
        known.dialer = Some(tokio::spawn(keeping).abort_handle());
    }

    /// Ends the connection to a node and dials it no more.
    pub fn forget_peer(&self, node: NodeId) {
        let known = self.inner.peers.lock().remove(&node);
        if let Some(mut known) = known {
            known.dialer.take().inspect(AbortHandle::abort);
            if let Some(link) = known.link.borrow().as_ref() {
                link.close(code::CLOSED, "forgotten");
            }
        }
    }

    /// The connection to a node, if there is one.
    #[must_use]
    pub fn link(&self, node: NodeId) -> Option<LinkInfo> {
        let peers = self.inner.peers.lock();
        let link = peers.get(&node)?.link.borrow().clone().filter(|link| link.is_live())?;
        Some(LinkInfo {
            peer: link.name.clone(),
            dialer: link.claim.dialer,
            generation: link.claim.generation,
            certificate: Sha256::digest(&link.certificate).into(),
        })
    }

    /// Cuts the connection to a node, as a network would; it is dialled again.
    pub fn cut(&self, node: NodeId) {
        let peers = self.inner.peers.lock();
        if let Some(link) = peers.get(&node).and_then(|known| known.link.borrow().clone()) {
            link.close(code::ABANDONED, "cut");
        }
    }
}

impl Inner {
    /// A connection to a node, as soon as there is one.
    pub(crate) async fn wait_link(&self, node: NodeId) -> Result<Arc<Link>, CallError> {
        let mut link = {
            let peers = self.peers.lock();
            peers.get(&node).ok_or(CallError::UnknownNode(node))?.link.subscribe()
        };
        loop {
            if let Some(link) = link.borrow_and_update().clone().filter(|link| link.is_live()) {
                return Ok(link);
            }
            link.changed().await.map_err(|_forgotten| CallError::UnknownNode(node))?;
        }
    }

    /// The connection to a node, if there is one now.
    pub(crate) fn live_link(&self, node: NodeId) -> Option<Arc<Link>> {
        let peers = self.peers.lock();
        peers.get(&node)?.link.borrow().clone().filter(|link| link.is_live())
    }

    /// Takes a link out of the table if it has ended.
    pub(crate) fn forget_if_over(&self, link: &Arc<Link>) {
        if !link.is_live() {
            self.forget(link);
        }
    }

    /// How a connection to this node ended may say that this one was removed, or reads too little.
    fn heed(&self, node: NodeId, reason: &ConnectionError) {
        let is_removed = match reason {
            ConnectionError::ApplicationClosed(closed) => {
                closed.error_code == code::REFUSED
                    && closed.reason == Refusal::RemovedMember.name().as_bytes()
            }
            ConnectionError::TransportError(error) => {
                error.code == TransportErrorCode::crypto(CERTIFICATE_REVOKED)
            }
            ConnectionError::ConnectionClosed(closed) => {
                closed.error_code == TransportErrorCode::crypto(CERTIFICATE_REVOKED)
            }
            _ => false,
        };
        if is_removed {
            self.removed.send_replace(true);
        }
        if let Some(format) = unread_of(reason) {
            self.unread.send_if_modified(|by| by.insert(node, format) != Some(format));
        }
    }

    /// Counts a node that does not read the active format (XC-6), and what it is told then.
    fn judge_reads(&self, name: &NodeName, reads: Formats) -> Option<String> {
        let format = self.format();
        (!reads.reads(format)).then(|| {
            let refusal = Refusal::UnreadFormat;
            self.gate.refusals.note(refusal, &format_args!("{name} reads {reads}, not {format}"));
            format!("{refusal} {format}")
        })
    }

    /// Refuses a connection that was just made to a node that does not read the active format;
    /// whether it did. Quinn holds back the frame that closes it while its congestion window is
    /// full, as it is of probes for the path's MTU at first, and then hears of no acknowledgement
    /// any more: the other side would not be told.
    async fn refuse_unread(&self, to: &Connection, name: &NodeName, reads: Formats) -> bool {
        let Some(said) = self.judge_reads(name, reads) else { return false };
        sleep(self.timing.grace).await;
        to.close(code::REFUSED, said.as_bytes());
        true
    }

    /// Takes a link that is over out of the table.
    pub(crate) fn forget(&self, link: &Arc<Link>) {
        if let Some(reason) = link.connection.close_reason() {
            self.heed(link.name.node, &reason);
        }
        let peers = self.peers.lock();
        let Some(known) = peers.get(&link.name.node) else { return };
        known.link.send_if_modified(|held| {
            let is_it = held.as_ref().is_some_and(|held| Arc::ptr_eq(held, link));
            if is_it {
                *held = None;
            }
            is_it
        });
    }

    /// Whether this one would be kept.
    fn would_keep(&self, node: NodeId, claim: Claim) -> bool {
        let peers = self.peers.lock();
        let held = peers.get(&node).and_then(|known| known.link.borrow().clone());
        held.is_none_or(|held| !held.is_live() || claim.replaces(held.claim))
    }

    /// Makes a link the one of its pair, unless one that ranks above it came in between.
    fn install(self: &Arc<Self>, link: &Arc<Link>) -> bool {
        let before = {
            let mut peers = self.peers.lock();
            let known = peers.entry(link.name.node).or_default();
            let held = known.link.borrow().clone().filter(|held| held.is_live());
            if held.is_some_and(|held| !link.claim.replaces(held.claim)) {
                return false;
            }
            known.generation = known.generation.max(link.claim.generation);
            known.link.send_replace(Some(Arc::clone(link)))
        };
        link.connection.set_max_concurrent_bi_streams(STREAMS_MAX);
        tokio::spawn(serve::serve_link(Arc::clone(self), Arc::clone(link)));
        if let Some(before) = before {
            tokio::spawn(drain(Arc::clone(self), before));
        }
        // Who was removed since the handshake is not in the table that `recheck` looks through.
        look_again(self, link);
        true
    }
}

/// The format that a peer writes and this node was refused for.
fn unread_of(reason: &ConnectionError) -> Option<u8> {
    let ConnectionError::ApplicationClosed(closed) = reason else { return None };
    let text = std::str::from_utf8(&closed.reason).ok()?;
    let format = text.strip_prefix(Refusal::UnreadFormat.name())?.trim_start().parse().ok()?;
    (closed.error_code == code::REFUSED && !FORMATS.reads(format)).then_some(format)
}

/// Ends every link to a node that does not read the active format.
pub(crate) fn recheck_formats(inner: &Inner) {
    for (_, link, _) in inner.peers.links() {
        if let Some(said) = inner.judge_reads(&link.name, link.reads) {
            link.close(code::REFUSED, &said);
        }
    }
}

/// Lets a replaced link finish what is on its way.
async fn drain(inner: Arc<Inner>, link: Arc<Link>) {
    let until = Instant::now() + inner.timing.drain;
    sleep(inner.timing.grace).await;
    while link.is_live() && link.is_busy() && Instant::now() < until {
        sleep(inner.timing.grace / 20).await;
    }
    link.close(code::REPLACED, "replaced");
}

/// Ends every link whose holder may not come in any more.
pub(crate) fn recheck(inner: &Inner) {
    for (_, link, _) in inner.peers.links() {
        look_again(inner, &link);
    }
}

fn look_again(inner: &Inner, link: &Link) {
    if let Err(refusal) = inner.gate.judge(&link.certificate, link.side, UnixTime::now()) {
        inner.gate.refuse(refusal, &link.certificate);
        link.close(code::REFUSED, refusal.name());
    }
}

/// Replaces each link by a new one; how many could not be.
pub(crate) async fn redial(inner: &Arc<Inner>) -> usize {
    let mut dials = Vec::new();
    for (node, link, address) in inner.peers.links() {
        let (inner, before) = (Arc::clone(inner), link.claim.generation);
        let address = address.unwrap_or_else(|| link.connection.remote_address());
        dials.push(tokio::spawn(async move {
            let dialled = dial(&inner, node, address).await;
            // The other side may have renewed at the same time, and its connection be the one.
            dialled.is_ok() || before < inner.peers.generation(node)
        }));
    }
    let mut left = 0;
    for dial in dials {
        left += usize::from(!dial.await.unwrap_or(false));
    }
    left
}

/// Keeps a connection to a node.
async fn keep(
    inner: Arc<Inner>,
    node: NodeId,
    address: SocketAddr,
    mut link: watch::Receiver<Option<Arc<Link>>>,
) {
    let mut pauses = Backoff::new(inner.timing.pause_first, inner.timing.pause_longest);
    loop {
        let held = link.borrow_and_update().clone().filter(|link| link.is_live());
        if let Some(held) = held {
            pauses.on_success();
            tokio::select! {
                _ended = held.connection.closed() => inner.forget(&held),
                changed = link.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let Err(error) = dial(&inner, node, address).await else { continue };
        let pause = pauses.on_failure(rand::random());
        tracing::debug!(node = node.0, %address, %error, ?pause, "could not dial");
        // The other side may be quicker.
        if let Ok(Err(_forgotten)) = timeout(pause, link.changed()).await {
            return;
        }
    }
}

/// Why a dial made no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("another connection of the pair is kept")]
    Duplicate,
    #[error("no answer in time")]
    Silent,
    #[error("{0}")]
    Lost(String),
}

async fn dial(inner: &Arc<Inner>, node: NodeId, address: SocketAddr) -> Result<(), DialError> {
    let lost = |error: &dyn std::fmt::Display| DialError::Lost(error.to_string());
    let why = tls::Why::default();
    let config = tls::client(&inner.gate, node, &why).map_err(|error| lost(&error))?;
    let config = inner.client(config);
    let deadline = Instant::now() + inner.timing.handshake;
    let dialling = inner.quic.connect_with(config, address, SERVER_NAME);
    let dialling = dialling.map_err(|error| lost(&error))?;
    let connection = match timeout_at(deadline, dialling).await {
        Err(_) => return Err(DialError::Silent),
        Ok(Err(error)) => {
            inner.heed(node, &error);
            let refusal = *why.lock().expect("nothing panics while it holds this");
            return Err(refusal.map_or_else(|| lost(&error), DialError::Refused));
        }
        Ok(Ok(connection)) => connection,
    };
    let shown = shown(&connection).ok_or(DialError::Refused(Refusal::NoCertificate))?;
    let generation = inner.peers.generation(node) + 1;
    let greeted = timeout_at(deadline, greet(inner, &connection, generation, deadline)).await;
    let (boot, reads) = match greeted {
        Err(_) => return Err(DialError::Silent),
        Ok(Ok(Greeted::Kept { boot, reads })) => (boot, reads),
        Ok(Ok(Greeted::Duplicate { generation })) => {
            connection.close(code::REPLACED, b"duplicate");
            inner.peers.saw(node, generation);
            return Err(DialError::Duplicate);
        }
        // The reason of a connection that was closed says more than its stream does.
        Ok(Err(error)) => {
            let reason = connection.close_reason();
            reason.iter().for_each(|reason| inner.heed(node, reason));
            return Err(reason.map_or_else(|| lost(&error), |reason| lost(&reason)));
        }
    };
    if inner.refuse_unread(&connection, &shown.0, reads).await {
        return Err(DialError::Refused(Refusal::UnreadFormat));
    }
    metrics::connected("dialled");
    let claim = Claim { generation, dialer: inner.node, boot };
    let link = Link::new(connection, shown, Side::Server, (claim, reads));
    if !inner.install(&link) {
        link.close(code::REPLACED, "duplicate");
        return Err(DialError::Duplicate);
    }
    Ok(())
}

enum Greeted {
    Kept { boot: u64, reads: Formats },
    Duplicate { generation: u64 },
}

/// The longest `HELLO` and answer to it: what later builds say behind is theirs.
const HELLO_MAX: usize = 64;

/// What a build says that it reads, behind what else it says first; those that say nothing read the
/// first format alone.
fn reads_of(said: &[u8]) -> Formats {
    match said {
        [oldest, newest, ..] => Formats { oldest: *oldest, newest: *newest },
        _ => Formats { oldest: FIRST, newest: FIRST },
    }
}

const READS: [u8; 2] = [FORMATS.oldest, FORMATS.newest];

/// Says who dials: generation, boot number and what it reads; and reads the other's.
async fn greet(
    inner: &Inner,
    connection: &Connection,
    generation: u64,
    deadline: Instant,
) -> Result<Greeted, CallError> {
    let opened = connection.open_bi().await.map_err(|_lost| CallError::Lost)?;
    let mut stream = Stream::new(opened, code::CANCELLED);
    let numbers = [generation.to_le_bytes(), inner.boot.to_le_bytes()].concat();
    let payload = [numbers.as_slice(), &READS].concat();
    let sent = call::send(&mut stream, (FIRST, Kind::HELLO), 0, payload.into(), deadline).await;
    sent.map_err(|_lost| CallError::Lost)?;
    let frame = read_frame(&mut stream.recv, HELLO_MAX).await.map_err(|_bad| CallError::Lost)?;
    stream.done();
    let said = frame.payload.split_first_chunk::<8>();
    let said = said.map(|(number, rest)| (u64::from_le_bytes(*number), reads_of(rest)));
    match (frame.head, said) {
        (Head::Answer { status: Status::OK, .. }, Some((boot, reads))) => {
            Ok(Greeted::Kept { boot, reads })
        }
        (Head::Answer { status: Status::DUPLICATE, .. }, Some((generation, _))) => {
            Ok(Greeted::Duplicate { generation })
        }
        _ => Err(CallError::Answer),
    }
}

/// The certificate of the other side, and the name in it.
fn shown(connection: &Connection) -> Option<(NodeName, CertificateDer<'static>)> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let certificate = chain.first()?.clone();
    let (name, _key) = named(&EndEntityCert::try_from(&certificate).ok()?)?;
    Some((name, certificate))
}

/// Takes in whoever dials.
pub(crate) async fn accept(inner: Arc<Inner>) {
    while let Some(incoming) = inner.quic.accept().await {
        let pending = Pending::new(&inner);
        if PENDING_MAX < pending.number {
            incoming.refuse();
        } else if PENDING_MAX / 4 < pending.number && incoming.may_retry() {
            // Cannot fail: it may be retried.
            incoming.retry().ok();
        } else {
            tokio::spawn(admit(Arc::clone(&inner), incoming, pending));
        }
    }
}

/// A handshake on its way.
struct Pending {
    inner: Arc<Inner>,
    number: u64,
}

impl Pending {
    fn new(inner: &Arc<Inner>) -> Self {
        let number = inner.pending.fetch_add(1, Ordering::Relaxed) + 1;
        Self { inner: Arc::clone(inner), number }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.inner.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn admit(inner: Arc<Inner>, incoming: Incoming, pending: Pending) {
    let address = incoming.remote_address();
    let accepted = async { incoming.accept()?.await };
    let connection = match timeout(inner.timing.handshake, accepted).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(ConnectionError::TransportError(error)))
            if error.code == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL) =>
        {
            return inner.gate.refusals.note(Refusal::UnknownProtocol, &address);
        }
        // Who is refused for its certificate has been counted where it was judged.
        Ok(Err(_)) | Err(_) => return,
    };
    let agreed = connection.handshake_data();
    let agreed = agreed.and_then(|it| it.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    let is_peer = agreed.is_some_and(|it| it.protocol.as_deref() == Some(ALPN_PEER));
    if !is_peer {
        return admit_joiner(&inner, &connection, address).await;
    }
    let Some(shown) = shown(&connection) else {
        inner.gate.refusals.note(Refusal::NoCertificate, &address);
        connection.close(code::REFUSED, Refusal::NoCertificate.name().as_bytes());
        return;
    };
    let hello = timeout(inner.timing.handshake, read_hello(&connection)).await;
    let Ok(Some(Hello { mut stream, id, generation, boot, reads })) = hello else {
        inner.gate.refusals.note(Refusal::NoHello, &shown.0);
        connection.close(code::REFUSED, Refusal::NoHello.name().as_bytes());
        return;
    };
    if inner.refuse_unread(&connection, &shown.0, reads).await {
        return;
    }
    let node = shown.0.node;
    let claim = Claim { generation, dialer: node, boot };
    let link = Link::new(connection, shown, Side::Client, (claim, reads));
    let is_kept = inner.would_keep(node, claim) && inner.install(&link);
    let (status, number) = match is_kept {
        true => (Status::OK, inner.boot),
        false => (Status::DUPLICATE, inner.peers.generation(node)),
    };
    let said = Bytes::from([number.to_le_bytes().as_slice(), &READS].concat());
    let replied = serve::reply(&mut stream, (FIRST, id), status, said).await;
    drop(pending);
    if is_kept && replied.is_ok() {
        metrics::connected("accepted");
    } else if !is_kept {
        // The other side closes it when it has read this.
        timeout(inner.timing.handshake, link.connection.closed()).await.ok();
        link.close(code::REPLACED, "duplicate");
    }
}

/// The first request of a connection.
struct Hello {
    stream: Stream,
    id: u64,
    /// The generation and the boot number of who dialled.
    generation: u64,
    boot: u64,
    /// What it reads.
    reads: Formats,
}

/// The first request of a connection, which has to be `HELLO`.
async fn read_hello(connection: &Connection) -> Option<Hello> {
    let opened = connection.accept_bi().await.ok()?;
    let mut stream = Stream::new(opened, code::ABANDONED);
    let Frame { head, payload, .. } = read_frame(&mut stream.recv, HELLO_MAX).await.ok()?;
    let Head::Request { kind: Kind::HELLO, id, .. } = head else { return None };
    let (generation, rest) = payload.split_first_chunk::<8>()?;
    let (boot, said) = rest.split_first_chunk::<8>()?;
    let (generation, boot) = (u64::from_le_bytes(*generation), u64::from_le_bytes(*boot));
    Some(Hello { stream, id, generation, boot, reads: reads_of(said) })
}

/// One request of somebody who shows no certificate, and no more.
async fn admit_joiner(inner: &Inner, connection: &Connection, address: SocketAddr) {
    let Ok(Ok(opened)) = timeout(inner.timing.handshake, connection.accept_bi()).await else {
        inner.gate.refusals.note(Refusal::NoHello, &address);
        return connection.close(code::REFUSED, Refusal::NoHello.name().as_bytes());
    };
    let mut stream = Stream::new(opened, code::ABANDONED);
    serve::serve(inner, serve::Peer::Joiner(address), &mut stream).await;
    // The other side closes it when it has read the answer.
    timeout(inner.timing.handshake, connection.closed()).await.ok();
    connection.close(code::CLOSED, b"answered");
}
