//! What an endpoint shows and whom it trusts, as it is at this moment: handshakes look here, so a
//! renewal or a rotation takes no restart and ends no connection.

use std::fmt;
use std::sync::{Arc, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};

use crate::certificate::{CaCertificate, Issued, Trust};
use crate::identity::{Identity, Life, NodeName};
use crate::keyfile::KeyError;
use crate::metrics;

/// Both, each replaced as a whole.
pub(crate) struct Credentials(RwLock<Held>);

struct Held {
    name: Arc<NodeName>,
    issued: Issued,
    ca: CaCertificate,
    key: Arc<dyn SigningKey>,
    trust: Trust,
    /// What follows from these.
    shown: Arc<CertifiedKey>,
    trusted: Arc<[TrustAnchor<'static>]>,
}

impl Held {
    /// What TLS shows: the certificate with its CA behind it, which a joiner looks for.
    fn certified(&self) -> Arc<CertifiedKey> {
        let chain = std::iter::once(self.issued.der.clone()).chain(self.trust.behind(&self.ca));
        let chain = chain.map(CertificateDer::from).collect();
        Arc::new(CertifiedKey::new(chain, Arc::clone(&self.key)))
    }

    fn note(&self) {
        let cas = self.trust.cas().iter().filter_map(|ca| ca.life());
        metrics::expire(self.issued.life.until, cas.map(|life| life.until).min());
    }
}

impl Credentials {
    pub(crate) fn new(identity: &Identity, trust: &Trust) -> Result<Self, KeyError> {
        let key = identity.signing_key()?;
        let mut held = Held {
            name: Arc::new(identity.name().clone()),
            issued: identity.issued().clone(),
            ca: identity.ca().clone(),
            shown: Arc::new(CertifiedKey::new(Vec::new(), Arc::clone(&key))),
            key,
            trust: trust.clone(),
            trusted: anchors(trust),
        };
        held.shown = held.certified();
        held.note();
        Ok(Self(RwLock::new(held)))
    }

    pub(crate) fn name(&self) -> Arc<NodeName> {
        Arc::clone(&self.0.read().expect(UNPOISONED).name)
    }

    pub(crate) fn life(&self) -> Life {
        self.0.read().expect(UNPOISONED).issued.life
    }

    pub(crate) fn trusted(&self) -> Arc<[TrustAnchor<'static>]> {
        Arc::clone(&self.0.read().expect(UNPOISONED).trusted)
    }

    pub(crate) fn show(&self, identity: &Identity) -> Result<(), KeyError> {
        let key = identity.signing_key()?;
        let mut held = self.0.write().expect(UNPOISONED);
        held.name = Arc::new(identity.name().clone());
        (held.issued, held.ca) = (identity.issued().clone(), identity.ca().clone());
        held.key = key;
        held.shown = held.certified();
        held.note();
        drop(held);
        Ok(())
    }

    pub(crate) fn trust(&self, trust: &Trust) {
        let mut held = self.0.write().expect(UNPOISONED);
        held.trust = trust.clone();
        held.trusted = anchors(trust);
        held.shown = held.certified();
        held.note();
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().expect(UNPOISONED).shown)
    }
}

const UNPOISONED: &str = "nothing panics while it holds this";

fn anchors(trust: &Trust) -> Arc<[TrustAnchor<'static>]> {
    trust.cas().iter().map(CaCertificate::anchor).collect()
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.name()).finish()
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _cas: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
