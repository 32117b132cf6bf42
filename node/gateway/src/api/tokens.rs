//! Tokens of those who follow topics from outside.

use serde::{Deserialize, Serialize};

/// `POST /v1/tokens`: what a token is to be good for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriberTokenWish {
    /// What operators call it.
    #[serde(default)]
    pub name: String,
    /// Topics: names, or starts of names with `*` behind them.
    pub topics: Vec<String>,
    /// For how many seconds it is good.
    pub expires_s: u64,
}

/// Whether a token is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriberTokenState {
    /// It is.
    #[default]
    Good,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.
    Revoked,
    /// The CA that it names is trusted no more: who has it finds no node.
    Outdated,
}

/// What is known of a token; its secret is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberTokenInfo {
    /// It is revoked by this.
    pub id: String,
    /// What operators call it; may be empty.
    pub name: String,
    /// `subscriber`.
    pub role: String,
    /// As they were asked for.
    pub topics: Vec<String>,
    /// Whether it is good.
    pub state: SubscriberTokenState,
    /// RFC 3339, UTC.
    pub made: String,
    /// RFC 3339, UTC.
    pub expires: String,
}

/// The answer to `POST /v1/tokens`. The token is shown once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeSubscriberToken {
    /// [`API`](super::API).
    pub api: u32,
    /// The token.
    pub token: String,
    /// What is kept of it.
    pub about: SubscriberTokenInfo,
    /// Where this node lets subscribers in, if it does.
    pub address: Option<String>,
}

/// `GET /v1/tokens`: the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberTokenList {
    /// [`API`](super::API).
    pub api: u32,
    /// Those that are good, and for 30 days those that were.
    pub tokens: Vec<SubscriberTokenInfo>,
}
