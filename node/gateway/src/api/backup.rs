//! What the control API says and takes of backups: applications as a cluster has them, and how far
//! their triggers are. Packages go apart from it, by their digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The newest form of a backup that this program writes and reads.
pub const BACKUP_FORMAT: u32 = 1;

/// `GET /v1/backup`: everything that a cluster needs to go on as another one, but for packages and
/// records. It holds no token, key or credential of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its form: [`BACKUP_FORMAT`].
    pub format: u32,
    /// The cluster, or the node where it is alone.
    pub cluster: String,
    /// The program that made it.
    pub version: String,
    /// When, RFC 3339.
    pub at: String,
    /// `kafka` or `embedded`.
    pub bus: String,
    /// By name.
    pub apps: Vec<AppBackup>,
}

impl Backup {
    /// The packages that it needs, each once.
    #[must_use]
    pub fn packages(&self) -> Vec<String> {
        let functions = self.apps.iter().flat_map(|app| &app.functions);
        let revisions = functions.flat_map(|it| &it.revisions);
        let mut all: Vec<String> = revisions.map(|it| it.package.clone()).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// An application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppBackup {
    /// Its name.
    pub name: String,
    /// The topics that it makes: name -> settings, as the cluster holds them.
    pub topics: BTreeMap<String, String>,
    /// By name.
    pub functions: Vec<FunctionBackup>,
    /// By id.
    pub triggers: Vec<TriggerBackup>,
}

/// A function, with the revisions that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionBackup {
    /// Its name.
    pub name: String,
    /// The revision that is in force.
    pub runs: String,
    /// By number.
    pub revisions: Vec<RevisionBackup>,
    /// Alias -> revision.
    pub aliases: BTreeMap<String, String>,
}

/// A revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionBackup {
    /// As people call it.
    pub number: u64,
    /// Its name.
    pub revision: String,
    /// The digest of its package.
    pub package: String,
    /// Its settings, as the cluster holds them.
    pub spec: String,
    /// When it was deployed, Unix milliseconds.
    pub at: i64,
    /// The revision before it.
    pub before: Option<String>,
}

/// A trigger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerBackup {
    /// `app/function/name`.
    pub id: String,
    /// Since when it is paused, Unix milliseconds.
    pub paused_since: Option<i64>,
    /// By topic and partition.
    pub partitions: Vec<PartitionBackup>,
}

/// How far a trigger is in a partition: every record before `next`, and of each range of `settled`,
/// was settled when the backup was made. Parked records count as open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionBackup {
    /// What it reads.
    pub topic: String,
    /// Of that topic.
    pub partition: u32,
    /// The next record; `None` = nothing was committed yet.
    pub next: Option<i64>,
    /// From, and up to but not with.
    pub settled: Vec<(i64, i64)>,
    /// Records that were parked: they are open here.
    pub parked: u64,
}

/// `POST /v1/backup:restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// What was backed up.
    pub backup: Backup,
    /// Whether applications that are there become those of the backup.
    pub replace: bool,
    /// Only looks whether it can be done.
    pub dry_run: bool,
}

/// What a restore did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// [`API`](super::API).
    pub api: u32,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Packages that the node does not have: send them before.
    pub missing: Vec<String>,
    /// By name.
    pub apps: Vec<RestoredApp>,
    /// Partitions that do not go on where the backup was.
    pub elsewhere: Vec<Elsewhere>,
}

/// An application that was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredApp {
    /// Its name.
    pub name: String,
    /// Whether one of that name was there.
    pub replaced: bool,
    /// How many functions it has.
    pub functions: usize,
    /// How many triggers.
    pub triggers: usize,
    /// Of those, how many are paused.
    pub paused: usize,
    /// Positions that were set.
    pub positions: usize,
}

/// A partition whose position could not be what it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Whose.
    pub trigger: String,
    /// What it reads.
    pub topic: String,
    /// Of that topic.
    pub partition: u32,
    /// Where it was.
    pub next: i64,
    /// Where it goes on.
    pub to: i64,
    /// Why, in words.
    pub why: String,
}
