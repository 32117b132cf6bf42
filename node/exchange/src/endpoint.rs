//! The endpoint of a node: one UDP socket, on which it dials and is dialled.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    VarInt,
};

use tokio::sync::watch;

use crate::certificate::Trust;
use crate::credentials::Credentials;
use crate::frame::{FIRST, FORMATS};
use crate::gate::{Gate, Members};
use crate::identity::{Identity, Life, NodeId};
use crate::keyfile::KeyError;
use crate::link::code;
use crate::peers::{self, Peers};
use crate::refusal::{Refusal, Refusals};
use crate::serve::Handler;
use crate::tls;
use crate::udp::Quiet;

/// Handshakes on their way at most; from a quarter of it on, an address has to show that it is
/// its own (RFC 9000 section 8.1.2).
pub(crate) const PENDING_MAX: u64 = 64;
/// Requests at a time that a member may have with us.
pub(crate) const STREAMS_MAX: VarInt = VarInt::from_u32(1_024);
/// The largest UDP payload: a jumbo frame of 9,000 bytes less IP and UDP. Found by probing.
const UDP_PAYLOAD_MAX: u16 = 8_972;
/// What a stream may have on its way: 2 MiB, and a connection 16 MiB.
const STREAM_WINDOW: VarInt = VarInt::from_u32(2 << 20);
const WINDOW: VarInt = VarInt::from_u32(16 << 20);

/// Times, all of them the operator's network and none of them a function's.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A connection that is silent says so this often.
    pub keep_alive: Duration,
    /// One that was silent for so long is over.
    pub idle: Duration,
    /// A handshake, and the first request of a connection, may take this long.
    pub handshake: Duration,
    /// Reading a request may take this long: 8 MiB at 2.3 Mbit/s.
    pub read: Duration,
    /// The first pause between two dials, which doubles.
    pub pause_first: Duration,
    /// The longest one.
    pub pause_longest: Duration,
    /// A connection that was replaced stays at least this long, so that both know.
    pub grace: Duration,
    /// And at most this long while something is on its way over it.
    pub drain: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(1),
            idle: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            read: Duration::from_secs(30),
            pause_first: Duration::from_millis(50),
            pause_longest: Duration::from_secs(2),
            grace: Duration::from_secs(1),
            drain: Duration::from_secs(30),
        }
    }
}

/// Where an endpoint listens, and its times.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The address of its socket; port 0 takes any.
    pub bind: SocketAddr,
    /// Its times.
    pub timing: Timing,
}

/// Why an endpoint did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket said no.
    #[error("bind {address}: {source}")]
    Bind {
        /// Where to.
        address: SocketAddr,
        /// What it said.
        source: io::Error,
    },
    /// The identity is not usable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// TLS cannot be set up.
    #[error("set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// An endpoint. Dropping it ends all its connections.
pub struct Exchange {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) quic: quinn::Endpoint,
    pub(crate) gate: Arc<Gate>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) timing: Timing,
    pub(crate) node: NodeId,
    /// A number of this process, so that others see a restart.
    pub(crate) boot: u64,
    pub(crate) peers: Peers,
    pub(crate) pending: AtomicU64,
    /// Whether a member has said that this node is none any more.
    pub(crate) removed: watch::Sender<bool>,
    /// Members that have refused this node for a format that is not read here.
    pub(crate) unread: watch::Sender<BTreeMap<NodeId, u8>>,
    /// The active one.
    format: AtomicU8,
    requests: AtomicU64,
}

impl Inner {
    pub(crate) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// The active format.
    pub(crate) fn format(&self) -> u8 {
        self.format.load(Ordering::Relaxed)
    }

    /// What requests are written in: that, but for the fault that `cargo prove upgrade` plants.
    pub(crate) fn writes(&self) -> u8 {
        let plants = || std::env::var("MILLRACE_NEXT_WRITES_EARLY").is_ok_and(|it| it == "frames");
        if cfg!(feature = "next-version") && plants() { FORMATS.newest } else { self.format() }
    }

    pub(crate) fn client(&self, tls: QuicClientConfig) -> ClientConfig {
        let mut config = ClientConfig::new(Arc::new(tls));
        // Whoever was dialled may ask nothing before it has been let in.
        config.transport_config(Arc::new(transport(&self.timing, 0)));
        config
    }
}

impl Exchange {
    /// Starts an endpoint: it answers from here on.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(
        config: Config,
        (identity, trust): (&Identity, &Trust),
        members: Arc<dyn Members>,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, StartError> {
        let credentials = Arc::new(Credentials::new(identity, trust)?);
        let gate = Arc::new(Gate { credentials, members, refusals: Refusals::default() });
        let mut server = ServerConfig::with_crypto(Arc::new(tls::server(&gate)?));
        // One stream, for the request that says who dials; more when it has been let in.
        server.transport_config(Arc::new(transport(&config.timing, 1)));
        server.max_incoming(PENDING_MAX as usize);
        let bound = |source| StartError::Bind { address: config.bind, source };
        let socket = UdpSocket::bind(config.bind).map_err(bound)?;
        let runtime = Arc::new(Quiet);
        let quic = quinn::Endpoint::new(endpoint_config(), Some(server), socket, runtime);
        let inner = Arc::new(Inner {
            quic: quic.map_err(bound)?,
            gate,
            handler,
            timing: config.timing,
            node: identity.name().node,
            boot: rand::random(),
            peers: Peers::default(),
            pending: AtomicU64::new(0),
            removed: watch::Sender::new(false),
            unread: watch::Sender::default(),
            format: AtomicU8::new(FIRST),
            requests: AtomicU64::new(1),
        });
        tokio::spawn(peers::accept(Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What the socket says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.inner.quic.local_addr()
    }

    /// How often others were refused for this reason.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.inner.gate.refusals.count(refusal)
    }

    /// Trusts these CAs from the next handshake on. Connections stay until
    /// [`recheck`](Self::recheck).
    pub fn trust(&self, trust: &Trust) {
        self.inner.gate.credentials.trust(trust);
    }

    /// Shows another certificate from the next handshake on, and replaces each connection by one
    /// that shows it; what is on its way over the old ones is answered there. How many could not
    /// be replaced: these stay, and are replaced when they are made anew.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when the identity is not usable; nothing changes then.
    pub async fn renew(&self, identity: &Identity) -> Result<usize, KeyError> {
        self.inner.gate.credentials.show(identity)?;
        Ok(self.redial().await)
    }

    /// Replaces each connection by one that shows what both sides show now, as a renewal does; how
    /// many could not be replaced.
    pub async fn redial(&self) -> usize {
        peers::redial(&self.inner).await
    }

    /// How long the certificate holds that is shown now.
    #[must_use]
    pub fn certificate_life(&self) -> Life {
        self.inner.gate.credentials.life()
    }

    /// Ends every connection to who may not come in any more: call it when the member table or
    /// the trusted CAs have changed.
    pub fn recheck(&self) {
        peers::recheck(&self.inner);
    }

    /// Writes requests in this format from now on, and ends every connection to a node that does
    /// not read it (XC-6).
    pub fn speak(&self, format: u8) {
        self.inner.format.store(format, Ordering::Relaxed);
        peers::recheck_formats(&self.inner);
    }

    /// Members that have refused this node because it does not read the active format, and which
    /// one they write.
    #[must_use]
    pub fn unread(&self) -> watch::Receiver<BTreeMap<NodeId, u8>> {
        self.inner.unread.subscribe()
    }

    /// Waits until a member has refused this node because it was removed.
    pub async fn removed(&self) {
        let mut removed = self.inner.removed.subscribe();
        // The sender lives as long as the endpoint.
        drop(removed.wait_for(|removed| *removed).await);
    }

    /// Ends all connections and waits until the others have been told.
    pub async fn close(&self) {
        self.inner.peers.close();
        self.inner.quic.close(code::CLOSED, b"closed");
        self.inner.quic.wait_idle().await;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.inner.peers.close();
        self.inner.quic.close(code::CLOSED, b"closed");
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(UDP_PAYLOAD_MAX).expect("1,200 to 65,527 may be");
    config
}

pub(crate) fn transport(timing: &Timing, streams: u32) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_MAX);
    let idle = IdleTimeout::try_from(timing.idle).unwrap_or_else(|_| VarInt::MAX.into());
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW)
        .receive_window(WINDOW)
        .send_window(u64::from(WINDOW))
        .mtu_discovery_config(Some(mtu))
        .keep_alive_interval(Some(timing.keep_alive))
        .max_idle_timeout(Some(idle));
    transport
}
