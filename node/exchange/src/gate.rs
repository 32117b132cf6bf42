//! Who may come in. The chain shows that a CA of this cluster made the certificate once; whether
//! its holder is a member now, the member table says.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

use crate::certificate::named;
use crate::credentials::Credentials;
use crate::identity::{Fingerprint, NodeId, NodeName};
use crate::refusal::{Refusal, Refusals};

/// What the member table says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// There never was such a node.
    Unknown,
    /// It was, and may not come back.
    Removed,
    /// It is a member.
    Is {
        /// The life of its data directory that counts.
        incarnation: u64,
        /// Its key; two while it is being replaced.
        keys: Vec<Fingerprint>,
    },
}

/// The member table, asked at each handshake. It must answer at once.
pub trait Members: Send + Sync + 'static {
    /// What it says of a node now.
    fn member(&self, node: NodeId) -> Member;
}

/// Which half of a handshake the other side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It dialled.
    Client,
    /// It was dialled.
    Server,
}

/// All that decides about a peer.
pub(crate) struct Gate {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) members: Arc<dyn Members>,
    pub(crate) refusals: Refusals,
}

impl Gate {
    /// Whose certificate it is, if it may come in at `now`.
    pub(crate) fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        side: Side,
        now: UnixTime,
    ) -> Result<NodeName, Refusal> {
        let certificate =
            EndEntityCert::try_from(certificate).map_err(|_bad| Refusal::MalformedCertificate)?;
        let claimed = named(&certificate);
        let own = self.credentials.name();
        if let Err(refusal) = chain(&certificate, &self.credentials, side, now) {
            // Whose it claims to be is worth a name of its own, although nothing vouches for it.
            let is_foreign = claimed.is_some_and(|(name, _)| name.cluster != own.cluster);
            return Err(match refusal {
                Refusal::UnknownIssuer if is_foreign => Refusal::ForeignCluster,
                other => other,
            });
        }
        let (name, key) = claimed.ok_or(Refusal::MalformedCertificate)?;
        if name.cluster != own.cluster {
            return Err(Refusal::ForeignCluster);
        }
        match self.members.member(name.node) {
            Member::Unknown => Err(Refusal::UnknownMember),
            Member::Removed => Err(Refusal::RemovedMember),
            Member::Is { incarnation, .. } if incarnation != name.incarnation => {
                Err(Refusal::StaleIncarnation)
            }
            Member::Is { keys, .. } if !keys.contains(&key) => Err(Refusal::ForeignKey),
            Member::Is { .. } => Ok(name),
        }
    }

    /// Counts and logs a refusal under the name that the certificate claims.
    pub(crate) fn refuse(&self, refusal: Refusal, certificate: &CertificateDer<'_>) {
        let claimed = EndEntityCert::try_from(certificate).ok();
        let claimed = claimed.and_then(|certificate| named(&certificate));
        match claimed {
            Some((name, _)) => self.refusals.note(refusal, &name),
            None => self.refusals.note(refusal, &"no name that can be read"),
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.credentials).finish()
    }
}

fn chain(
    certificate: &EndEntityCert<'_>,
    credentials: &Credentials,
    side: Side,
    now: UnixTime,
) -> Result<(), Refusal> {
    let algorithms = crate::tls::provider().signature_verification_algorithms.all;
    let usage = match side {
        Side::Client => KeyUsage::client_auth(),
        Side::Server => KeyUsage::server_auth(),
    };
    let anchors = credentials.trusted();
    // No intermediates: a CA issues to nodes and to nobody else.
    let path = certificate.verify_for_usage(algorithms, &anchors, &[], now, usage, None, None);
    path.map(|_path| ()).map_err(|error| refusal_of(&error))
}

/// The name of what is wrong with a chain.
pub(crate) fn refusal_of(error: &Error) -> Refusal {
    match error {
        Error::CertExpired { .. } => Refusal::Expired,
        Error::CertNotValidYet { .. } => Refusal::NotYetValid,
        Error::UnknownIssuer => Refusal::UnknownIssuer,
        _ => Refusal::MalformedCertificate,
    }
}
