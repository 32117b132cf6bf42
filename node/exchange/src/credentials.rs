//! What an endpoint shows and whom it trusts, as it is at this moment: handshakes look here, so a
//! renewal or a rotation takes no restart and ends no connection.

use std::fmt;
use std::sync::{Arc, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::TrustAnchor;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Trust;
use crate::identity::{Identity, NodeName};
use crate::keyfile::KeyError;

/// Both, each replaced as a whole.
pub(crate) struct Credentials {
    shown: RwLock<(Arc<NodeName>, Arc<CertifiedKey>)>,
    trusted: RwLock<Arc<[TrustAnchor<'static>]>>,
}

impl Credentials {
    pub(crate) fn new(identity: &Identity, trust: &Trust) -> Result<Self, KeyError> {
        let shown = (Arc::new(identity.name().clone()), Arc::new(identity.certified()?));
        Ok(Self { shown: RwLock::new(shown), trusted: RwLock::new(anchors(trust)) })
    }

    pub(crate) fn name(&self) -> Arc<NodeName> {
        Arc::clone(&self.shown.read().expect(UNPOISONED).0)
    }

    pub(crate) fn trusted(&self) -> Arc<[TrustAnchor<'static>]> {
        Arc::clone(&self.trusted.read().expect(UNPOISONED))
    }

    pub(crate) fn show(&self, identity: &Identity) -> Result<(), KeyError> {
        let shown = (Arc::new(identity.name().clone()), Arc::new(identity.certified()?));
        *self.shown.write().expect(UNPOISONED) = shown;
        Ok(())
    }

    pub(crate) fn trust(&self, trust: &Trust) {
        *self.trusted.write().expect(UNPOISONED) = anchors(trust);
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.shown.read().expect(UNPOISONED).1)
    }
}

const UNPOISONED: &str = "nothing panics while it holds this";

fn anchors(trust: &Trust) -> Arc<[TrustAnchor<'static>]> {
    trust.cas().iter().map(crate::certificate::CaCertificate::anchor).collect()
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
