//! A peer that shares no code with the crate under test but the CA's: quinn and rustls as anybody
//! can use them. It believes whatever it is shown, and sends whatever bytes it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exchange::{Authority, Fingerprint, Life, NodeName, PublicKey};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use crate::promise::{During, NotShown};

/// A key, and what a CA says of it.
pub(crate) struct Shown {
    key: KeyPair,
    certificate: Vec<u8>,
    pub(crate) fingerprint: Fingerprint,
}

impl Shown {
    /// Has a CA certify a new key under this name.
    pub(crate) fn by(ca: &Authority, name: &NodeName, life: Life) -> Result<Self, NotShown> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).during("make a key")?;
        let public = PublicKey::new(key.public_key_raw()).during("read a key")?;
        let certificate = ca.issue(name, &public, life).during("issue a certificate")?.der;
        Ok(Self { key, certificate, fingerprint: public.fingerprint() })
    }
}

/// A node's identity as it lies on its disk.
#[derive(serde::Deserialize)]
struct Stored {
    key: String,
    certificate: String,
}

impl Shown {
    /// What a node shows: copied from its disk.
    pub(crate) fn of_file(path: &std::path::Path) -> Result<Self, NotShown> {
        let text = std::fs::read(path).during("read an identity")?;
        let stored: Stored = serde_json::from_slice(&text).during("read an identity")?;
        let bytes = |text: &str| STANDARD.decode(text).during("read an identity");
        let key = PrivatePkcs8KeyDer::from(bytes(&stored.key)?);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256);
        let key = key.during("read a key")?;
        let public = PublicKey::new(key.public_key_raw()).during("read a key")?;
        let certificate = bytes(&stored.certificate)?;
        Ok(Self { key, certificate, fingerprint: public.fingerprint() })
    }
}

/// Dials with this protocol, and a certificate or none.
pub(crate) async fn dial(
    address: SocketAddr,
    protocol: &[u8],
    shown: Option<&Shown>,
) -> Result<(Endpoint, Result<Connection, String>), NotShown> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .during("set up TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut tls = match shown {
        None => tls.with_no_client_auth(),
        Some(shown) => {
            let key = PrivatePkcs8KeyDer::from(shown.key.serialize_der());
            let chain = vec![CertificateDer::from(shown.certificate.clone())];
            tls.with_client_auth_cert(chain, key.into()).during("show a certificate")?
        }
    };
    tls.alpn_protocols = vec![protocol.to_vec()];
    let tls = QuicClientConfig::try_from(tls).during("set up QUIC")?;
    let quic = Endpoint::client(([127, 0, 0, 1], 0).into()).during("bind a socket")?;
    let config = ClientConfig::new(Arc::new(tls));
    let dialling = quic.connect_with(config, address, "anybody").during("dial")?;
    let connection = dialling.await.map_err(|error| error.to_string());
    Ok((quic, connection))
}

/// Sends bytes on a stream of their own and reads what comes back, or why nothing does.
pub(crate) async fn send(connection: &Connection, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|it| it.to_string())?;
    // What the other side does not want to read it stops, and says why.
    send.write_all(bytes).await.ok();
    send.finish().ok();
    let read = tokio::time::timeout(Duration::from_secs(5), receive.read_to_end(1 << 20));
    let read = read.await.map_err(|_| "nothing in 5 s".to_owned())?;
    read.map_err(|error| error.to_string())
}

/// A request as the layout says, written by hand.
pub(crate) fn request(version: u8, kind: u16, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![version, 1];
    bytes.extend(kind.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(7_u64.to_le_bytes());
    bytes.extend(5_000_u64.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// The first request of a connection.
pub(crate) fn hello() -> Vec<u8> {
    let payload = [1_u64.to_le_bytes(), 4_711_u64.to_le_bytes()].concat();
    request(1, 1, 16, &payload)
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _behind: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
