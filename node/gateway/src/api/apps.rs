//! What the control API says and is asked about applications: what there is, what a deploy would
//! change and did change, revisions and aliases.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `POST /v1/apps/{app}:plan` and `:deploy`: an application as it lies on somebody's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// The text of its `millrace.toml`. The node checks it again: it may be of another version.
    pub manifest: String,
    /// The digest of each function's package, by the function's name.
    pub packages: BTreeMap<String, String>,
}

/// What a deploy would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`API`](super::API).
    pub api: u32,
    /// The application.
    pub app: String,
    /// What it was compared with; a deploy that names it in `If-Match` is refused when somebody
    /// else came between. 0 = the application is not there yet.
    pub version: u64,
    /// Every function that there is or will be, by name.
    pub functions: Vec<FunctionPlan>,
    /// Topics that are made, or about which something is to be said, by name.
    pub topics: Vec<TopicPlan>,
    /// Digests of packages that the node does not have: send them before the deploy.
    pub missing: Vec<String>,
}

impl Plan {
    /// Whether a deploy would change anything.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        let is_made = |topic: &TopicPlan| topic.change == TopicChange::Added;
        self.functions.iter().any(|it| it.change != Change::Unchanged)
            || self.topics.iter().any(is_made)
    }
}

/// What becomes of a function or a trigger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added,
    /// It changes.
    Changed,
    /// It stays as it is.
    #[default]
    Unchanged,
    /// It goes, and positions with it.
    Removed,
}

/// What becomes of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionPlan {
    /// Its name.
    pub name: String,
    /// In one word.
    pub change: Change,
    /// As in the manifest; of what goes, as it was.
    pub runtime: String,
    /// The revision that is there.
    pub revision_before: Option<String>,
    /// The revision that will be.
    pub revision: Option<String>,
    /// The digest of its package, where that changes.
    pub package: Option<SettingPlan>,
    /// Settings that differ, in the words of the manifest; of a new function all of them.
    pub settings: Vec<SettingPlan>,
    /// Triggers that differ.
    pub triggers: Vec<TriggerPlan>,
}

/// A setting that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingPlan {
    /// As in the manifest, tables with dots: `retry.attempts`.
    pub key: String,
    /// `None` = it is not there.
    pub before: Option<String>,
    /// `None` = it goes.
    pub after: Option<String>,
}

/// What becomes of a trigger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerPlan {
    /// Its name.
    pub name: String,
    /// In one word.
    pub change: Change,
    /// Settings that differ; of a new trigger all of them.
    pub settings: Vec<SettingPlan>,
}

/// What becomes of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// In one word.
    pub change: TopicChange,
    /// Settings that differ from those it has; of a new topic all of them.
    pub settings: Vec<SettingPlan>,
}

/// What becomes of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicChange {
    /// It is made.
    #[default]
    Added,
    /// It is there with other settings, and keeps those.
    Kept,
    /// The application needs it no more; it stays, with its records.
    Unused,
    /// It cannot be what the manifest says: the deploy will be refused.
    Refused,
}

/// The answer to a deploy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// [`API`](super::API).
    pub api: u32,
    /// The application.
    pub app: String,
    /// Its version now; 0 = it is not there any more.
    pub version: u64,
    /// What became of each function, by name.
    pub functions: Vec<FunctionOutcome>,
}

/// What became of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionOutcome {
    /// Its name.
    pub name: String,
    /// In one word.
    pub outcome: Outcome,
    /// What runs now, if anything does.
    pub runs: Option<RevisionName>,
    /// Why it was refused.
    pub error: Option<FunctionError>,
}

/// What became of a function, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was that already.
    #[default]
    Unchanged,
    /// A new revision runs.
    Deployed,
    /// It is no more.
    Removed,
    /// The new revision cannot start; what ran before, if anything did, runs on.
    Refused,
}

/// A revision, as people and programs name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionName {
    /// Counted by the deploys of the function: `v3` is number 3.
    pub number: u64,
    /// By content.
    pub revision: String,
}

/// Why a revision was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionError {
    /// `millrace explain CODE`.
    pub code: String,
    /// What is wrong, and what was tried.
    pub message: String,
}

/// `POST /v1/node:try`: a function whose labels the node that deploys it lacks. Only nodes ask this of
/// each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Its settings, as the cluster keeps them.
    pub spec: String,
    /// The revision that it will be.
    pub revision: String,
    /// The digest of its package, which the node that asks has.
    pub package: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// [`API`](super::API).
    pub api: u32,
    /// Labels that this node lacks as well: then it was not tried.
    pub lacks: Vec<String>,
    /// Why it cannot start.
    pub error: Option<FunctionError>,
}

/// `GET /v1/functions`: what is deployed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionList {
    /// [`API`](super::API).
    pub api: u32,
    /// By application and name.
    pub functions: Vec<FunctionInfo>,
}

/// A function that is deployed, whether it runs or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionInfo {
    /// Its application.
    pub app: String,
    /// That application's version.
    pub version: u64,
    /// Its name.
    pub name: String,
    /// The revision that it is.
    pub runs: RevisionName,
    /// When that was deployed; RFC 3339, UTC.
    pub deployed: String,
    /// How many revisions are kept.
    pub revisions: u64,
    /// The aliases of that revision, sorted.
    pub aliases: Vec<String>,
}

/// `GET /v1/functions/{app}/{function}/revisions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionList {
    /// [`API`](super::API).
    pub api: u32,
    /// The application.
    pub app: String,
    /// Its version.
    pub version: u64,
    /// The function.
    pub function: String,
    /// Those that are kept, the newest first.
    pub revisions: Vec<RevisionInfo>,
}

/// A revision that can run again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionInfo {
    /// How it is named.
    #[serde(flatten)]
    pub name: RevisionName,
    /// The digest of its package.
    pub package: String,
    /// When it was deployed last; RFC 3339, UTC.
    pub deployed: String,
    /// Whether the function is this one now.
    pub runs: bool,
    /// Its aliases, sorted.
    pub aliases: Vec<String>,
}

/// `GET /v1/functions/{app}/{function}/aliases`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasList {
    /// [`API`](super::API).
    pub api: u32,
    /// The application.
    pub app: String,
    /// The function.
    pub function: String,
    /// By name.
    pub aliases: Vec<AliasInfo>,
}

/// An alias, and what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasInfo {
    /// The alias.
    pub alias: String,
    /// The revision.
    #[serde(flatten)]
    pub names: RevisionName,
}

/// `PUT /v1/functions/{app}/{function}/aliases/{alias}`, and `POST ...:rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// A revision or the start of one, its number as `v3`, or an alias. Without it an alias names
    /// what runs, and a rollback leads to what ran before.
    #[serde(default)]
    pub to: Option<String>,
}

/// The answer to a rollback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// [`API`](super::API).
    pub api: u32,
    /// The application.
    pub app: String,
    /// Its version now.
    pub version: u64,
    /// The function.
    pub function: String,
    /// What ran.
    pub before: RevisionName,
    /// What runs now.
    pub now: RevisionName,
}
