//! What the cluster writes, and which builds read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/upgrade`, and what `POST /v1/upgrade:finish` leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// [`API`](super::API).
    pub api: u32,
    /// The cluster; of a node alone its own name.
    pub cluster: String,
    /// What its nodes write.
    pub format: u8,
    /// The lowest format that the build of the node that answers reads.
    pub oldest: u8,
    /// The highest one, which `finish` leads to.
    pub newest: u8,
    /// Its nodes by id; of a node alone nothing.
    pub members: Vec<UpgradeMember>,
    /// Those that are not known to read the newest format.
    pub held_up_by: Vec<String>,
    /// What only the build that is made for the upgrade promise has: by member, the start that it
    /// noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<u64, u64>,
}

/// What the build of a node reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeMember {
    /// Never used twice.
    pub id: u64,
    /// What operators call it.
    pub name: String,
    /// Of Millrace, as of its last start; empty before the first.
    pub version: String,
    /// The lowest format; `None` when it has not said yet.
    pub oldest: Option<u8>,
    /// The highest one.
    pub newest: Option<u8>,
}
