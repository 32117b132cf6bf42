//! The cluster's CAs, and a rotation of them.

use serde::{Deserialize, Serialize};

/// `GET /v1/ca`, and the answer to `POST /v1/ca:rotate`, `:finish` and `:abort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// [`API`](super::API).
    pub api: u32,
    /// The cluster.
    pub cluster: String,
    /// Whom it trusts: one, or two while it is replaced.
    pub cas: Vec<CaInfo>,
    /// The rotation that is on its way.
    pub rotation: Option<RotationInfo>,
    /// Good tokens of subscribers that name a CA which goes, or is gone.
    pub outdated_tokens: Vec<OutdatedToken>,
}

/// What a CA is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaRole {
    /// It certifies nodes.
    #[default]
    Issues,
    /// It will, when all nodes trust it.
    Next,
    /// It is trusted until all nodes have a certificate of the other.
    Goes,
}

/// A CA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaInfo {
    /// SHA-256 of its key, in hexadecimal: tokens begin with it.
    pub fingerprint: String,
    /// What it is for.
    pub role: CaRole,
    /// RFC 3339, UTC.
    pub expires: Option<String>,
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationStage {
    /// Nodes learn to trust the next CA, and fetch its key where they vote.
    #[default]
    Trusting,
    /// Nodes get a certificate of the next CA.
    Renewing,
    /// All have one; the other CA is trusted until the window is over.
    Waiting,
}

/// A rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationInfo {
    /// How far it is.
    pub stage: RotationStage,
    /// RFC 3339, UTC.
    pub began: String,
    /// How long both are trusted once all nodes have a certificate of the next one.
    pub window_s: u64,
    /// When that is over; RFC 3339, UTC; `None` before it begins.
    pub ends: Option<String>,
    /// The nodes that have not done their part of this stage.
    pub waits_for: Vec<String>,
}

/// A token of a subscriber that is of no use once the CA that it names is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutdatedToken {
    /// Its id.
    pub id: String,
    /// What operators call it.
    pub name: String,
    /// Whether the CA that it names is still trusted.
    pub works: bool,
}

/// `POST /v1/ca:rotate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationWish {
    /// How long both are trusted once all nodes have a certificate of the next one.
    pub window_s: u64,
}
