//! The listener and its connections: bound on loopback only, few and small by limit, and closed
//! in order when the node drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bus::Bus;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backup::Backups;
use crate::codes;
use crate::door::Token;
use crate::invoke::Invocations;
use crate::others::{Others, Own};
use crate::routes::{self, App};
use crate::view::{Applications, Membership, NodeView, Operations};

/// How long a head may take, which is also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of a request.
const HEADERS_MAX: usize = 100;
/// Read buffer of a connection. Larger heads are refused; bodies pass through it in pieces.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long open requests may take once the node stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often histograms are folded.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What a gateway is bound with.
#[derive(Clone)]
pub struct GatewayConfig {
    /// A loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who knows it may do everything here. Only its hash is kept.
    pub token: String,
    /// Connections at a time; more wait to be accepted.
    pub connections_max: usize,
    /// The largest body of records. A connection that sends one holds it in memory.
    pub body_bytes_max: usize,
}

impl std::fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayConfig").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl GatewayConfig {
    /// The defaults: 256 connections, bodies of 16 MiB.
    pub fn new(listen: SocketAddr, token: impl Into<String>) -> Self {
        Self { listen, token: token.into(), connections_max: 256, body_bytes_max: 16 << 20 }
    }
}

/// Why a gateway does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{listen} is in use by another process")]
    InUse {
        /// The address asked for.
        listen: SocketAddr,
    },
    /// The control API has no TLS yet, so that it stays on this machine.
    #[error("{listen} is not a loopback address")]
    NotLoopback {
        /// The address asked for.
        listen: SocketAddr,
    },
    /// The token could be guessed.
    #[error("the token has {chars} characters, at least 32 are needed")]
    WeakToken {
        /// How many it has.
        chars: usize,
    },
    /// The operating system refused.
    #[error("listen on {listen}")]
    Io {
        /// The address asked for.
        listen: SocketAddr,
        /// Its account.
        #[source]
        source: std::io::Error,
    },
}

impl BindError {
    /// For `millrace explain`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InUse { .. } => codes::PORT_IN_USE,
            Self::NotLoopback { .. } | Self::WeakToken { .. } | Self::Io { .. } => codes::LISTEN,
        }
    }

    /// The next step.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::InUse { .. } => "choose another with --listen, or end the process that has it; \
                 `--listen 127.0.0.1:0` takes any free port"
                .to_owned(),
            Self::NotLoopback { listen } => {
                format!(
                    "use --listen 127.0.0.1:{}; reach it from elsewhere by an SSH tunnel",
                    listen.port()
                )
            }
            Self::WeakToken { .. } => "leave it out: the node makes one".to_owned(),
            Self::Io { .. } => "choose another address with --listen".to_owned(),
        }
    }
}

/// A bound listener with everything that answers on it.
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    connections: Arc<Semaphore>,
    app: Arc<App>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Takes the address. Nothing is answered before [`serve`](Self::serve).
    ///
    /// # Errors
    ///
    /// [`BindError`], by name.
    pub async fn bind(
        config: GatewayConfig,
        bus: Arc<dyn Bus>,
        node: Arc<dyn NodeView>,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, BindError> {
        let listen = config.listen;
        if !listen.ip().is_loopback() {
            return Err(BindError::NotLoopback { listen });
        }
        let chars = config.token.chars().count();
        if chars < 32 {
            return Err(BindError::WeakToken { chars });
        }
        let listener = TcpListener::bind(listen).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => BindError::InUse { listen },
            _ => BindError::Io { listen, source },
        })?;
        let address = listener.local_addr().map_err(|source| BindError::Io { listen, source })?;
        let app = App {
            bus,
            node,
            applications: None,
            operations: None,
            membership: None,
            others: None,
            backups: None,
            invocations: None,
            metrics,
            token: Token::new(&config.token),
            body_bytes_max: config.body_bytes_max,
            uploads: Semaphore::new(1),
            keyless: AtomicU32::new(0),
            stopping: CancellationToken::new(),
        };
        let connections = Arc::new(Semaphore::new(config.connections_max.max(1)));
        Ok(Self { listener, address, connections, app: Arc::new(app) })
    }

    /// The same, with applications that can be deployed.
    ///
    /// # Panics
    ///
    /// Once it serves.
    #[must_use]
    pub fn with_applications(mut self, applications: Arc<dyn Applications>) -> Self {
        let app = Arc::get_mut(&mut self.app).expect("nothing is served yet");
        app.applications = Some(applications);
        self
    }

    /// The same, with what an operator may do.
    ///
    /// # Panics
    ///
    /// Once it serves.
    #[must_use]
    pub fn with_operations(mut self, operations: Arc<dyn Operations>) -> Self {
        let app = Arc::get_mut(&mut self.app).expect("nothing is served yet");
        app.operations = Some(operations);
        self
    }

    /// The same, with functions that can be called.
    ///
    /// # Panics
    ///
    /// Once it serves.
    #[must_use]
    pub fn with_invocations(mut self, invocations: Arc<dyn Invocations>) -> Self {
        let app = Arc::get_mut(&mut self.app).expect("nothing is served yet");
        app.invocations = Some(invocations);
        self
    }

    /// The same, with what can be backed up and restored.
    ///
    /// # Panics
    ///
    /// Once it serves.
    #[must_use]
    pub fn with_backups(mut self, backups: Arc<dyn Backups>) -> Self {
        let app = Arc::get_mut(&mut self.app).expect("nothing is served yet");
        app.backups = Some(backups);
        self
    }

    /// The same, with the cluster that it belongs to.
    ///
    /// # Panics
    ///
    /// Once it serves.
    #[must_use]
    pub fn with_membership(mut self, membership: Arc<dyn Membership>) -> Self {
        let app = Arc::get_mut(&mut self.app).expect("nothing is served yet");
        app.membership = Some(membership);
        self
    }

    /// The same, with other nodes that it asks.
    ///
    /// # Panics
    ///
    /// Once it serves, or something has its [`own`](Self::own) answers.
    #[must_use]
    pub fn with_others(mut self, others: Arc<dyn Others>) -> Self {
        let app = Arc::get_mut(&mut self.app).expect("nothing is served yet");
        app.others = Some(others);
        self
    }

    /// What answers the other nodes, until it has served. The last thing to be asked of a gateway
    /// that is made.
    #[must_use]
    pub fn own(&self) -> Own {
        Own::of(&self.app)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://` and the address: what the node file holds.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers until `shutdown`, then lets open requests end, for at most a second.
    pub async fn serve(self, shutdown: CancellationToken) {
        let tracker = TaskTracker::new();
        let router = routes::router(Arc::clone(&self.app));
        let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
        loop {
            let permit = Arc::clone(&self.connections).acquire_owned();
            let accepted = async {
                let permit = permit.await.expect("the semaphore is never closed");
                (self.listener.accept().await, permit)
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _tick = upkeep.tick() => {
                    if let Some(metrics) = &self.app.metrics {
                        metrics.run_upkeep();
                    }
                }
                (accepted, permit) = accepted => match accepted {
                    Ok((stream, _peer)) => {
                        let connection =
                            connection(stream, router.clone(), self.app.stopping.clone());
                        tracker.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        // Out of descriptors, or the peer went away: the next one may do.
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        drop(self.listener);
        self.app.stopping.cancel();
        tracker.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, tracker.wait()).await.is_err() {
            tracing::debug!("connections were cut while their requests were open");
        }
    }
}

async fn connection(stream: TcpStream, router: axum::Router, stopping: CancellationToken) {
    // A peer that is gone already is found by the first read.
    drop(stream.set_nodelay(true));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
