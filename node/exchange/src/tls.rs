//! TLS as both sides speak it: 1.3 with ring, nothing else; no 0-RTT, and no resumption either,
//! since a session that is taken up again would not ask the member table.

use std::fmt;
use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, spki_for_anchor};

use crate::credentials::Credentials;
use crate::gate::{Gate, Side, refusal_of};
use crate::identity::{Fingerprint, NodeId};
use crate::refusal::Refusal;
use crate::{ALPN_JOIN, ALPN_PEER};

/// The one provider.
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// What an endpoint answers with. Joiners have no certificate: what each protocol needs is checked
/// when the handshake has said which it is.
pub(crate) fn server(gate: &Arc<Gate>) -> Result<QuicServerConfig, Error> {
    let mut tls = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(FromPeers(Arc::clone(gate))))
        .with_cert_resolver(Arc::clone(&gate.credentials) as _);
    tls.alpn_protocols = vec![ALPN_PEER.to_vec(), ALPN_JOIN.to_vec()];
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    QuicServerConfig::try_from(tls).map_err(|error| Error::General(error.to_string()))
}

/// What the door for subscribers answers with: they show no certificate but a token, later.
pub(crate) fn subscribers(credentials: &Arc<Credentials>) -> Result<QuicServerConfig, Error> {
    let mut tls = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(credentials) as _);
    tls.alpn_protocols = vec![live::ALPN.to_vec()];
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    QuicServerConfig::try_from(tls).map_err(|error| Error::General(error.to_string()))
}

/// What a member dials another with; why the other was refused is left in `why`.
pub(crate) fn client(
    gate: &Arc<Gate>,
    wanted: NodeId,
    why: &Why,
) -> Result<QuicClientConfig, Error> {
    let verifier = ToPeer { gate: Arc::clone(gate), wanted, why: Arc::clone(why) };
    let tls = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(&gate.credentials) as _);
    finish(tls, ALPN_PEER)
}

/// What a joiner dials with: it shows nothing, and takes only a chain that ends in this CA.
pub(crate) fn joiner(ca: Fingerprint, why: &Why) -> Result<QuicClientConfig, Error> {
    let tls = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { ca, why: Arc::clone(why) }))
        .with_no_client_auth();
    finish(tls, ALPN_JOIN)
}

fn finish(mut tls: ClientConfig, protocol: &[u8]) -> Result<QuicClientConfig, Error> {
    tls.alpn_protocols = vec![protocol.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    QuicClientConfig::try_from(tls).map_err(|error| Error::General(error.to_string()))
}

/// Why a dial ended: the verifier knows, what quinn reports is an alert.
pub(crate) type Why = Arc<Mutex<Option<Refusal>>>;

/// The alert that goes out; the name stays here.
fn alert(refusal: Refusal) -> Error {
    Error::InvalidCertificate(match refusal {
        Refusal::Expired => CertificateError::Expired,
        Refusal::NotYetValid => CertificateError::NotValidYet,
        Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
        Refusal::RemovedMember => CertificateError::Revoked,
        Refusal::MalformedCertificate => CertificateError::BadEncoding,
        _ => CertificateError::ApplicationVerificationFailure,
    })
}

fn signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken".to_owned()))
}

/// The signature checks that all three share.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            no_tls12()
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            signature(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Judges who dials.
#[derive(Debug)]
struct FromPeers(Arc<Gate>);

impl ClientCertVerifier for FromPeers {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _behind: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.0.judge(certificate, Side::Client, now) {
            Ok(_name) => Ok(ClientCertVerified::assertion()),
            Err(refusal) => {
                self.0.refuse(refusal, certificate);
                Err(alert(refusal))
            }
        }
    }

    signatures!();
}

/// Judges who was dialled.
#[derive(Debug)]
struct ToPeer {
    gate: Arc<Gate>,
    wanted: NodeId,
    why: Why,
}

impl ServerCertVerifier for ToPeer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _behind: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.gate.judge(certificate, Side::Server, now);
        let refusal = match judged {
            Ok(name) if name.node == self.wanted => return Ok(ServerCertVerified::assertion()),
            Ok(_another) => Refusal::WrongNode,
            Err(refusal) => refusal,
        };
        self.gate.refuse(refusal, certificate);
        *self.why.lock().expect("nothing panics while it holds this") = Some(refusal);
        Err(alert(refusal))
    }

    signatures!();
}

/// Judges whom a joiner tells its secret.
struct Pinned {
    ca: Fingerprint,
    why: Why,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&self.ca).finish()
    }
}

impl Pinned {
    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        behind: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let pinned = behind.iter().filter_map(|it| anchor_from_trusted_cert(it).ok());
        let mut pinned = pinned.filter(|it| Fingerprint::of(&spki_for_anchor(it)) == self.ca);
        let anchor = pinned.next().ok_or(Refusal::WrongCa)?;
        let certificate =
            EndEntityCert::try_from(certificate).map_err(|_bad| Refusal::MalformedCertificate)?;
        let algorithms = provider().signature_verification_algorithms.all;
        let usage = KeyUsage::server_auth();
        let anchors = [anchor];
        // In a rotation the other CA made the certificate, and the one that is known vouches for it.
        let path =
            certificate.verify_for_usage(algorithms, &anchors, behind, now, usage, None, None);
        path.map(|_path| ()).map_err(|error| match refusal_of(&error) {
            Refusal::UnknownIssuer => Refusal::WrongCa,
            other => other,
        })
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
    ) -> Result<ServerCertVerified, Error> {
        self.judge(certificate, behind, now).map_err(|refusal| {
            *self.why.lock().expect("nothing panics while it holds this") = Some(refusal);
            alert(refusal)
        })?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
