//! The door for those who follow topics: a socket and a protocol of their own, the node's
//! certificate, nobody else's. It lets requests in one by one, and sends what it is given as fast as
//! the other side takes it; what a request may have is not known here.
//!
//! - **XS-1** who has not shown a request in time, or has shown bytes that are none, is refused by
//!   name, counted and logged, and so is everybody whom the handler refuses.
//! - **XS-2** a subscriber holds [`SEND_WINDOW`] of memory here at most beside the frame that waits
//!   for it, however slowly it reads.

use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use live::{Decoder, Frame, FrameError, REQUEST_MAX, Reason, Subscribe};
use quinn::{
    Connection, ConnectionError, Incoming, SendStream, ServerConfig, TransportErrorCode, VarInt,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use crate::endpoint::{Exchange, PENDING_MAX, StartError, Timing, endpoint_config, transport};
use crate::metrics;
use crate::peers::NO_APPLICATION_PROTOCOL;
use crate::tls;
use crate::udp::Quiet;

/// What a subscriber may have on its way: enough for 100 Mbit/s at 80 ms.
const SEND_WINDOW: u64 = 1 << 20;
/// What one may send us: a request.
const RECEIVE_WINDOW: VarInt = VarInt::from_u32(64 << 10);
/// The longest account of a reason: it has to fit into a packet.
const SAID_MAX: usize = 800;
/// How long the last word to all may take when the door is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Where the door is, and how wide.
#[derive(Clone, Copy, Debug)]
pub struct DoorConfig {
    /// The address of its socket; port 0 takes any.
    pub bind: SocketAddr,
    /// Subscribers at a time.
    pub subscribers_max: usize,
    /// Its times.
    pub timing: Timing,
}

/// Why a subscription ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// In a word.
    pub reason: Reason,
    /// In a sentence; the subscriber is told it.
    pub said: String,
}

impl Ended {
    /// For this reason.
    pub fn new(reason: Reason, said: impl Into<String>) -> Self {
        Self { reason, said: said.into() }
    }
}

/// The subscriber is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscriber is gone")]
pub struct Gone;

/// A subscription on its way.
pub type Following<'a> = Pin<Box<dyn Future<Output = Result<Ended, Gone>> + Send + 'a>>;

/// Who knows what a subscriber may have, and gives it.
pub trait Subscriptions: Send + Sync + 'static {
    /// Carries a subscription out until it ends. Dropped at any await when the subscriber is gone or
    /// the door closes.
    fn follow<'a>(&'a self, asked: Subscribe, outlet: &'a mut Outlet) -> Following<'a>;
}

/// The way to a subscriber.
#[derive(Debug)]
pub struct Outlet(SendStream);

impl Outlet {
    /// Sends a frame; returns when there is room for the next one.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub async fn send(&mut self, frame: &[u8], records: u64) -> Result<(), Gone> {
        self.0.write_all(frame).await.map_err(|_lost| Gone)?;
        metrics::sent(records, frame.len());
        Ok(())
    }
}

/// See the [module documentation](self). Dropping it ends all subscriptions.
pub struct Door {
    inner: Arc<Inner>,
}

struct Inner {
    quic: quinn::Endpoint,
    handler: Arc<dyn Subscriptions>,
    timing: Timing,
    /// Handshakes and requests on their way.
    pending: Arc<Semaphore>,
    places: Arc<Semaphore>,
    closing: watch::Sender<bool>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("at", &self.inner.quic.local_addr().ok()).finish()
    }
}

impl Exchange {
    /// Opens a door for subscribers; it shows the certificate that the node shows the others, also
    /// after a renewal.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open_door(
        &self,
        config: DoorConfig,
        handler: Arc<dyn Subscriptions>,
    ) -> Result<Door, StartError> {
        let tls = tls::subscribers(&self.inner.gate.credentials)?;
        let mut server = ServerConfig::with_crypto(Arc::new(tls));
        let mut way = transport(&config.timing, 1);
        way.send_window(SEND_WINDOW).receive_window(RECEIVE_WINDOW);
        way.stream_receive_window(RECEIVE_WINDOW);
        server.transport_config(Arc::new(way));
        server.max_incoming(PENDING_MAX as usize);
        let bound = |source| StartError::Bind { address: config.bind, source };
        let socket = UdpSocket::bind(config.bind).map_err(bound)?;
        let runtime = Arc::new(Quiet);
        let quic = quinn::Endpoint::new(endpoint_config(), Some(server), socket, runtime);
        let inner = Arc::new(Inner {
            quic: quic.map_err(bound)?,
            handler,
            timing: config.timing,
            pending: Arc::new(Semaphore::new(PENDING_MAX as usize)),
            places: Arc::new(Semaphore::new(config.subscribers_max)),
            closing: watch::Sender::new(false),
        });
        tokio::spawn(accept(Arc::clone(&inner)));
        Ok(Door { inner })
    }
}

impl Door {
    /// Where it is.
    ///
    /// # Errors
    ///
    /// What the socket says.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.inner.quic.local_addr()
    }

    /// Tells every subscriber that the node ends, and closes.
    pub async fn close(&self) {
        self.inner.closing.send_replace(true);
        self.inner.quic.close(VarInt::from_u32(Reason::Closing.code()), b"the node ends");
        drop(timeout(CLOSE_PATIENCE, self.inner.quic.wait_idle()).await);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.inner.closing.send_replace(true);
        self.inner.quic.close(VarInt::from_u32(Reason::Closing.code()), b"the node ends");
    }
}

async fn accept(inner: Arc<Inner>) {
    while let Some(incoming) = inner.quic.accept().await {
        let Ok(pending) = Arc::clone(&inner.pending).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let free = inner.pending.available_permits() as u64;
        if free < PENDING_MAX / 4 * 3 && incoming.may_retry() {
            // Cannot fail: it may be retried.
            incoming.retry().ok();
            continue;
        }
        tokio::spawn(admit(Arc::clone(&inner), incoming, pending));
    }
}

/// Lets somebody in, as far as the request; what the rest of it is told goes with the connection.
async fn admit(inner: Arc<Inner>, incoming: Incoming, pending: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let accepted = async { incoming.accept()?.await };
    let connection = match timeout(inner.timing.handshake, accepted).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(ConnectionError::TransportError(error)))
            if error.code == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL) =>
        {
            return note(Reason::UnknownProtocol, &address, "no protocol that both speak");
        }
        // Whoever does not believe the certificate says so to its own side.
        Ok(Err(_)) | Err(_) => return,
    };
    let read = timeout(inner.timing.handshake, read_request(&connection)).await;
    let (asked, mut outlet) = match read {
        Ok(Some(Ok(read))) => read,
        Ok(Some(Err(error))) => {
            let reason = match error {
                FrameError::Version(_) => Reason::UnknownVersion,
                FrameError::Resume(_) => Reason::DamagedResume,
                _ => Reason::BadFrame,
            };
            return end(&connection, address, &Ended::new(reason, error.to_string()));
        }
        // It is gone.
        Ok(None) => return,
        Err(_late) => {
            return end(&connection, address, &Ended::new(Reason::NoRequest, "no request in time"));
        }
    };
    let Ok(place) = Arc::clone(&inner.places).try_acquire_owned() else {
        let said = "the node has as many subscribers as it takes";
        return end(&connection, address, &Ended::new(Reason::TooMany, said));
    };
    drop(pending);
    let _here = metrics::Subscribed::new();
    let mut closing = inner.closing.subscribe();
    let ended = tokio::select! {
        biased;
        // The one who closes tells all.
        _closing = closing.wait_for(|closing| *closing) => Err(Gone),
        _gone = connection.closed() => Err(Gone),
        ended = inner.handler.follow(asked, &mut outlet) => ended,
    };
    drop(place);
    if let Ok(ended) = ended {
        end(&connection, address, &ended);
    }
}

/// The one request of a connection; `None` when whoever dialled is gone.
async fn read_request(connection: &Connection) -> Option<Result<(Subscribe, Outlet), FrameError>> {
    let (send, mut receive) = connection.accept_bi().await.ok()?;
    let mut decoder = Decoder::new(REQUEST_MAX);
    loop {
        match decoder.poll_frame() {
            Ok(Some(Frame::Subscribe(asked))) => return Some(Ok((asked, Outlet(send)))),
            // What a node says has no business here.
            Ok(Some(_)) => return Some(Err(FrameError::Kind(0))),
            Ok(None) => {}
            Err(error) => return Some(Err(error)),
        }
        let chunk = receive.read_chunk(16 << 10, true).await.ok()??;
        decoder.on_bytes(&chunk.bytes);
    }
}

/// Tells a subscriber why it ends.
fn end(connection: &Connection, address: SocketAddr, ended: &Ended) {
    let Ended { reason, said } = ended;
    if *reason != Reason::Closing {
        note(*reason, &address, said);
    }
    let mut cut = said.len().min(SAID_MAX);
    while !said.is_char_boundary(cut) {
        cut -= 1;
    }
    connection.close(VarInt::from_u32(reason.code()), &said.as_bytes()[..cut]);
}

/// Counts and logs a refusal.
fn note(reason: Reason, who: &dyn fmt::Display, said: &str) {
    metrics::subscriber_refused(reason);
    tracing::warn!(reason = reason.name(), who = %who, said, "refused a subscriber");
}
