//! Reaches a node and has it show who it is, before it is told anything.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use live::{CaDigest, Reason};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime,
    TransportConfig, VarInt,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, spki_for_anchor};

use crate::{Error, Timing};

/// What a node may have on its way to us.
const WINDOW: VarInt = VarInt::from_u32(1 << 20);
/// What TLS is told; certificates of nodes name nodes, not hosts.
const SERVER_NAME: &str = "millrace";

/// A connection with the socket that it goes over.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    /// Dropped with the connection: a new one has a new socket.
    _quic: Endpoint,
}

/// Dials a node that has to show this CA.
pub(crate) async fn dial(address: &str, ca: CaDigest, timing: &Timing) -> Result<Dialled, Error> {
    let unreachable = |why: &dyn std::fmt::Display| Error::Unreachable {
        address: address.to_owned(),
        why: why.to_string(),
    };
    let found = tokio::net::lookup_host(address).await.map_err(|error| unreachable(&error))?;
    let mut last = unreachable(&"no address of this name");
    for resolved in found {
        match dial_one(resolved, ca, timing).await {
            Ok(dialled) => return Ok(dialled),
            Err(Failed::Untrusted) => {
                return Err(Error::Untrusted { address: address.to_owned() });
            }
            Err(Failed::Other(why)) => last = unreachable(&why),
        }
    }
    Err(last)
}

enum Failed {
    Untrusted,
    Other(String),
}

async fn dial_one(to: SocketAddr, ca: CaDigest, timing: &Timing) -> Result<Dialled, Failed> {
    let other = |error: &dyn std::fmt::Display| Failed::Other(error.to_string());
    let was_other = Arc::new(AtomicBool::new(false));
    let config = config(ca, timing, Arc::clone(&was_other)).map_err(|error| other(&error))?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).map_err(|error| other(&error))?;
    let runtime = Arc::new(TokioRuntime);
    let quic = Endpoint::new(EndpointConfig::default(), None, socket, runtime);
    let quic = quic.map_err(|error| other(&error))?;
    let dialling = quic.connect_with(config, to, SERVER_NAME).map_err(|error| other(&error))?;
    match tokio::time::timeout(timing.dial, dialling).await {
        Ok(Ok(connection)) => Ok(Dialled { connection, _quic: quic }),
        Ok(Err(_)) if was_other.load(Ordering::Relaxed) => Err(Failed::Untrusted),
        Ok(Err(error)) => Err(other(&error)),
        Err(_late) => Err(other(&"no answer in time")),
    }
}

fn config(
    ca: CaDigest,
    timing: &Timing,
    was_other: Arc<AtomicBool>,
) -> Result<ClientConfig, rustls::Error> {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { ca, was_other }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![live::ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let tls = QuicClientConfig::try_from(tls)
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(timing.idle).unwrap_or_else(|_| VarInt::MAX.into());
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(WINDOW)
        .receive_window(WINDOW)
        .keep_alive_interval(Some(timing.idle / 4))
        .max_idle_timeout(Some(idle));
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Why a connection ended, as far as the node said it.
pub(crate) fn said(error: &ConnectionError) -> Option<(Reason, String)> {
    let ConnectionError::ApplicationClosed(closed) = error else { return None };
    let reason = Reason::of_code(closed.error_code.into_inner())?;
    Some((reason, String::from_utf8_lossy(&closed.reason).into_owned()))
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// Takes a chain that ends in this CA, and no other.
#[derive(Debug)]
struct Pinned {
    ca: CaDigest,
    was_other: Arc<AtomicBool>,
}

impl Pinned {
    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        behind: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<()> {
        let anchors = behind.iter().filter_map(|it| anchor_from_trusted_cert(it).ok());
        let mut anchors = anchors.filter(|it| live::digest(&spki_for_anchor(it)) == self.ca);
        let anchor = [anchors.next()?];
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let algorithms = provider().signature_verification_algorithms.all;
        let usage = KeyUsage::server_auth();
        // In a rotation the other CA made the certificate, and the one that is known vouches for it.
        let path =
            certificate.verify_for_usage(algorithms, &anchor, behind, now, usage, None, None);
        path.is_ok().then_some(())
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        behind: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.judge(certificate, behind, now).is_some() {
            return Ok(ServerCertVerified::assertion());
        }
        self.was_other.store(true, Ordering::Relaxed);
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
