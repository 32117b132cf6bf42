//! The cluster's CA and what it issues. A CA is made once; a rotation makes a second one, and for
//! a while both are trusted.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::{EndEntityCert, anchor_from_trusted_cert, spki_for_anchor};

use crate::identity::{Fingerprint, Life, NodeKey, NodeName, PublicKey, is_cluster_name};
use crate::keyfile::{self, KeyError, StoredAuthority};
use crate::validity;

/// The certificate of a CA, in DER, known to be one.
#[derive(Clone, PartialEq, Eq)]
pub struct CaCertificate {
    der: Vec<u8>,
    fingerprint: Fingerprint,
}

impl CaCertificate {
    /// Takes DER.
    ///
    /// # Errors
    ///
    /// [`KeyError::Certificate`] when it is no certificate.
    pub fn new(der: Vec<u8>) -> Result<Self, KeyError> {
        let certificate = CertificateDer::from(der.as_slice());
        let anchor =
            anchor_from_trusted_cert(&certificate).map_err(|_bad| KeyError::Certificate)?;
        let fingerprint = Fingerprint::of(&spki_for_anchor(&anchor));
        Ok(Self { der, fingerprint })
    }

    /// The DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of its key: what a join token carries.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// How long it holds; `None` where it is written in a way that is not read here.
    #[must_use]
    pub fn life(&self) -> Option<Life> {
        validity::life(&self.der)
    }

    /// What chains are checked against.
    pub(crate) fn anchor(&self) -> TrustAnchor<'static> {
        let certificate = CertificateDer::from(self.der.as_slice());
        let anchor = anchor_from_trusted_cert(&certificate).expect("it was read in `new`");
        anchor.to_owned()
    }
}

impl fmt::Debug for CaCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CaCertificate").field(&self.fingerprint).finish()
    }
}

/// What one CA of a rotation says of the other: who knows the first alone is led to the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// SHA-256 of the key that it is about.
    pub of: Fingerprint,
    /// X.509 in DER.
    pub der: Vec<u8>,
}

/// Whom a cluster trusts: one CA, or two in the window of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    cas: Vec<CaCertificate>,
    bridges: Vec<Bridge>,
}

impl Trust {
    /// Trusts these.
    ///
    /// # Errors
    ///
    /// [`KeyError::Cas`] unless they are one or two.
    pub fn new(cas: Vec<CaCertificate>) -> Result<Self, KeyError> {
        match cas.len() {
            1 | 2 => Ok(Self { cas, bridges: Vec::new() }),
            count => Err(KeyError::Cas(count)),
        }
    }

    /// With what two CAs say of each other, for those who know one of them alone: joiners and
    /// subscribers, by their tokens. Members do not look at it.
    #[must_use]
    pub fn with_bridges(self, bridges: Vec<Bridge>) -> Self {
        Self { bridges, ..self }
    }

    /// The CAs.
    #[must_use]
    pub fn cas(&self) -> &[CaCertificate] {
        &self.cas
    }

    /// What is shown behind a certificate of `ca`: that CA, and the way to it from the other one.
    pub(crate) fn behind(&self, ca: &CaCertificate) -> Vec<Vec<u8>> {
        let mut chain = vec![ca.der.clone()];
        if let Some(bridge) = self.bridges.iter().find(|it| it.of == ca.fingerprint) {
            chain.push(bridge.der.clone());
            let others = self.cas.iter().filter(|it| it.fingerprint != ca.fingerprint);
            chain.extend(others.map(|it| it.der.clone()));
        }
        chain
    }

    /// Their fingerprints.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.cas.iter().map(CaCertificate::fingerprint).collect()
    }
}

/// A node certificate and how long it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// X.509 in DER.
    pub der: Vec<u8>,
    /// What the certificate says of its life.
    pub life: Life,
}

/// A CA with its key. Its debug form shows the certificate's fingerprint only.
pub struct Authority {
    cluster: String,
    key: NodeKey,
    certificate: CaCertificate,
    life: Life,
}

impl Authority {
    /// Makes the CA of a cluster: a new key, and a certificate that it signs itself.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`] for a name that no cluster can have, [`KeyError::Crypto`].
    pub fn create(cluster: &str, life: Life) -> Result<Self, KeyError> {
        if !is_cluster_name(cluster) {
            return Err(KeyError::Name);
        }
        let key = NodeKey::generate()?;
        let certificate = parameters(cluster, &key, life).self_signed(&key.0)?;
        let certificate = CaCertificate::new(certificate.der().to_vec())?;
        Ok(Self { cluster: cluster.to_owned(), key, certificate, life })
    }

    /// What others need to trust it.
    #[must_use]
    pub const fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// The cluster it is of.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Certifies that `key` is the key of `name`, a node of this cluster, for as long as `life`
    /// and not beyond the CA's own.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`] for a node of another cluster, [`KeyError::Crypto`].
    pub fn issue(&self, name: &NodeName, key: &PublicKey, life: Life) -> Result<Issued, KeyError> {
        if name.cluster != self.cluster {
            return Err(KeyError::Name);
        }
        let life = Life { until: life.until.min(self.life.until), ..life };
        let mut wanted = CertificateParams::default();
        wanted.distinguished_name.remove(DnType::CommonName);
        wanted.distinguished_name.push(DnType::CommonName, format!("node {}", name.node));
        let uri = name.to_string().try_into().map_err(|_bad| KeyError::Name)?;
        wanted.subject_alt_names = vec![SanType::URI(uri)];
        wanted.is_ca = IsCa::ExplicitNoCa;
        wanted.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        wanted.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        set_life(&mut wanted, life);
        Ok(Issued { der: self.sign(wanted, key)?, life })
    }

    /// Certifies another CA of the cluster, for as long as both hold.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`] for a CA of another cluster, [`KeyError::Crypto`].
    pub fn vouch_for(&self, other: &Self) -> Result<Bridge, KeyError> {
        if other.cluster != self.cluster {
            return Err(KeyError::Name);
        }
        let life = Life { until: other.life.until.min(self.life.until), ..other.life };
        let wanted = parameters(&other.cluster, &other.key, life);
        let der = self.sign(wanted, &other.key.public())?;
        Ok(Bridge { of: other.certificate.fingerprint, der })
    }

    fn sign(&self, mut wanted: CertificateParams, key: &PublicKey) -> Result<Vec<u8>, KeyError> {
        // The same key is certified again and again: a serial of its own for each.
        let mut serial: [u8; 16] = rand::random();
        serial[0] &= 0x7f;
        wanted.serial_number = Some(SerialNumber::from_slice(&serial));
        let own = parameters(&self.cluster, &self.key, self.life);
        let certificate = wanted.signed_by(key, &Issuer::from_params(&own, &self.key.0))?;
        Ok(certificate.der().to_vec())
    }

    /// Writes key and certificate into a file of mode 0600; synced when this returns.
    ///
    /// # Errors
    ///
    /// [`KeyError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        keyfile::write(path, &self.stored())
    }

    /// Key and certificate for another node that may have them: secret.
    #[must_use]
    pub fn to_secret(&self) -> Vec<u8> {
        serde_json::to_vec(&self.stored()).expect("texts and numbers can be written")
    }

    /// Reads what [`to_secret`](Self::to_secret) gave.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when it is not that.
    pub fn from_secret(bytes: &[u8]) -> Result<Self, KeyError> {
        // The parser's own message could quote the key.
        Self::of(serde_json::from_slice(bytes).map_err(|_bad| KeyError::Key)?)
    }

    fn stored(&self) -> StoredAuthority {
        StoredAuthority {
            cluster: self.cluster.clone(),
            key: keyfile::encode(self.key.0.serialized_der()),
            certificate: keyfile::encode(self.certificate.der()),
            from: self.life.from,
            until: self.life.until,
        }
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when it cannot be read, others can read it too, or it is not whole.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Self::of(keyfile::read(path)?)
    }

    fn of(stored: StoredAuthority) -> Result<Self, KeyError> {
        let key = NodeKey::from_pkcs8(&keyfile::decode(&stored.key)?)?;
        let certificate = CaCertificate::new(keyfile::decode(&stored.certificate)?)?;
        if key.public().fingerprint() != certificate.fingerprint() {
            return Err(KeyError::Key);
        }
        let life = Life { from: stored.from, until: stored.until };
        Ok(Self { cluster: stored.cluster, key, certificate, life })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authority").field(&self.certificate).finish()
    }
}

/// What a CA says of itself. Its name has a part of its key, so that two of one cluster differ.
fn parameters(cluster: &str, key: &NodeKey, life: Life) -> CertificateParams {
    let fingerprint = key.public().fingerprint().to_string();
    let mut ca = CertificateParams::default();
    ca.distinguished_name.remove(DnType::CommonName);
    let name = format!("millrace {cluster} {}", &fingerprint[..16]);
    ca.distinguished_name.push(DnType::CommonName, name);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    set_life(&mut ca, life);
    ca
}

fn set_life(certificate: &mut CertificateParams, life: Life) {
    let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    certificate.not_before = at(life.from);
    // X.509's end belongs to it.
    certificate.not_after = at(life.until.saturating_sub(1));
}

/// The name in a certificate and the fingerprint of its key, whoever made it.
pub(crate) fn named(certificate: &EndEntityCert<'_>) -> Option<(NodeName, Fingerprint)> {
    let mut names = certificate.valid_uri_names();
    let (name, None) = (names.next()?, names.next()) else { return None };
    let key = Fingerprint::of(&certificate.subject_public_key_info());
    Some((name.parse().ok()?, key))
}
