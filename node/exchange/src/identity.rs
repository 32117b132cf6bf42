//! Who a node is: its name, its key, the certificate that ties them together, and how long that
//! holds. Times are Unix seconds and are given, never read.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use sha2::{Digest, Sha256};

use crate::certificate::{CaCertificate, Issued};
use crate::keyfile::{self, KeyError, StoredIdentity};

/// The number of a node, never used twice in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a certificate says of its holder: `millrace://CLUSTER/node/ID/INCARNATION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// `^[a-z][a-z0-9-]{0,62}$`.
    pub cluster: String,
    /// Which node.
    pub node: NodeId,
    /// Which life of its data directory.
    pub incarnation: u64,
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "millrace://{}/node/{}/{}", self.cluster, self.node, self.incarnation)
    }
}

impl FromStr for NodeName {
    type Err = KeyError;

    /// Takes exactly what [`Display`](fmt::Display) gives.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let parse = || {
            let (cluster, rest) = text.strip_prefix("millrace://")?.split_once("/node/")?;
            let (node, incarnation) = rest.split_once('/')?;
            let (node, incarnation) = (node.parse().ok()?, incarnation.parse().ok()?);
            Some(Self { cluster: cluster.to_owned(), node: NodeId(node), incarnation })
        };
        // Written again it must be the same: no sign, no leading zero, no second way to say it.
        parse()
            .filter(|it| is_cluster_name(&it.cluster) && it.to_string() == text)
            .ok_or(KeyError::Name)
    }
}

/// Whether this can be the name of a cluster.
pub(crate) fn is_cluster_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|it| it.is_ascii_lowercase())
        && name.len() <= 63
        && bytes.all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-')
}

/// SHA-256 of a public key (RFC 5280 section 4.1, SubjectPublicKeyInfo in DER).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a SubjectPublicKeyInfo.
    pub(crate) fn of(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// From when to when something holds, Unix seconds; the end does not belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its first second.
    pub from: u64,
    /// The second after its last.
    pub until: u64,
}

impl Life {
    /// A life of `seconds` that begins at `from`.
    #[must_use]
    pub const fn new(from: u64, seconds: u64) -> Self {
        Self { from, until: from.saturating_add(seconds) }
    }

    /// When it is time to renew: at two thirds.
    #[must_use]
    pub const fn renew_at(&self) -> u64 {
        let whole = self.until.saturating_sub(self.from);
        self.from + (whole - whole.div_ceil(3))
    }
}

/// The public half of a node's key: a point of P-256, uncompressed (SEC 1 section 2.3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Takes the 65 bytes of a point.
    ///
    /// # Errors
    ///
    /// [`KeyError::Key`] when these are not 65 bytes that begin with 4.
    pub fn new(point: &[u8]) -> Result<Self, KeyError> {
        match point {
            [4, rest @ ..] if rest.len() == 64 => Ok(Self(point.to_vec())),
            _ => Err(KeyError::Key),
        }
    }

    /// The 65 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether who signed this has the other half.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        webpki::ring::ECDSA_P256_SHA256.verify_signature(&self.0, message, signature).is_ok()
    }

    /// What the member table knows it by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.subject_public_key_info())
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A node's key, both halves. Its debug form shows the public one only.
pub struct NodeKey(pub(crate) KeyPair);

impl NodeKey {
    /// A new one.
    ///
    /// # Errors
    ///
    /// [`KeyError::Crypto`] when the system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// Takes PKCS #8 in DER.
    pub(crate) fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = PrivatePkcs8KeyDer::from(bytes);
        Ok(Self(KeyPair::from_pkcs8_der_and_sign_algo(&bytes, &PKCS_ECDSA_P256_SHA256)?))
    }

    /// Signs: what only who has the key can do.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.0.sign(message)?)
    }

    /// The half that may be shown.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key_raw().to_vec())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeKey").field(&self.public().fingerprint()).finish()
    }
}

/// All that a node shows of itself: its key, the certificate, and the CA that made it.
#[derive(Debug)]
pub struct Identity {
    name: NodeName,
    key: NodeKey,
    issued: Issued,
    ca: CaCertificate,
}

impl Identity {
    /// Puts the parts together.
    #[must_use]
    pub const fn new(name: NodeName, key: NodeKey, issued: Issued, ca: CaCertificate) -> Self {
        Self { name, key, issued, ca }
    }

    /// Who this is.
    #[must_use]
    pub const fn name(&self) -> &NodeName {
        &self.name
    }

    /// How long the certificate holds.
    #[must_use]
    pub const fn life(&self) -> Life {
        self.issued.life
    }

    /// The CA that made the certificate.
    #[must_use]
    pub const fn ca(&self) -> &CaCertificate {
        &self.ca
    }

    /// The public half of the key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// The same node and key under a newer certificate.
    ///
    /// # Errors
    ///
    /// [`KeyError::Crypto`] when the key cannot be read again.
    pub fn renewed(&self, issued: Issued, ca: CaCertificate) -> Result<Self, KeyError> {
        let key = NodeKey::from_pkcs8(self.key.0.serialized_der())?;
        Ok(Self { name: self.name.clone(), key, issued, ca })
    }

    /// Writes all of it into a file that only its owner can read; synced when this returns.
    ///
    /// # Errors
    ///
    /// [`KeyError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let stored = StoredIdentity {
            name: self.name.to_string(),
            key: keyfile::encode(self.key.0.serialized_der()),
            certificate: keyfile::encode(&self.issued.der),
            from: self.issued.life.from,
            until: self.issued.life.until,
            ca: keyfile::encode(self.ca.der()),
        };
        keyfile::write(path, &stored)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when it cannot be read, others can read it too, or it is not whole.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let stored: StoredIdentity = keyfile::read(path)?;
        let life = Life { from: stored.from, until: stored.until };
        Ok(Self {
            name: stored.name.parse()?,
            key: NodeKey::from_pkcs8(&keyfile::decode(&stored.key)?)?,
            issued: Issued { der: keyfile::decode(&stored.certificate)?, life },
            ca: CaCertificate::new(keyfile::decode(&stored.ca)?)?,
        })
    }

    /// The certificate.
    pub(crate) const fn issued(&self) -> &Issued {
        &self.issued
    }

    /// The key as TLS signs with it.
    pub(crate) fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        let key = PrivatePkcs8KeyDer::from(self.key.0.serialized_der().to_vec());
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(key));
        key.map_err(|_unusable| KeyError::Key)
    }
}
