//! Brings an application up, or a running one to what its manifest says now: what did not change
//! is left alone, what changed runs on until the new revision is ready, positions stay.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bus::ShardId;
use cluster::{App, Command, Function, Trigger};
use function::{FunctionSpec, Manifest, PackageDigest, Topic, TriggerSpec};
use runtime::Pool;

use super::prepare::{Named, Ready, Refused, Source, named, prepare};
use super::restore::as_kept;
use super::running::RunningFunction;
use super::{Node, chain, topics};
use crate::commands::error::{CommandError, exit};

/// What a deploy did.
#[derive(Clone, Debug, Default)]
pub struct Deployed {
    /// Functions that run a new revision now, with its name.
    pub changed: Vec<(String, String)>,
    /// Functions that were what they are before, with the revision's name.
    pub unchanged: Vec<(String, String)>,
    /// Functions that are no more.
    pub removed: Vec<String>,
    /// Functions whose new revision was refused; an older one runs on where there is one.
    pub refused: Vec<Refusal>,
}

/// A function that could not be brought up.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Its name.
    pub function: String,
    /// For `millrace explain`.
    pub code: &'static str,
    /// What is wrong, and what was tried.
    pub message: String,
    /// Whether an older revision runs on.
    pub older_runs: bool,
}

/// Where a function can run.
enum Fit {
    Here(Ready),
    /// At nodes with its labels.
    Elsewhere(Named),
}

impl Node {
    /// Makes the topics of an application, and its functions run. Functions that cannot start are
    /// refused by name, the others run.
    ///
    /// # Errors
    ///
    /// When topics or the deploy itself are refused: then nothing changed.
    pub async fn deploy(&self, dir: &Path, manifest: &Manifest) -> Result<Deployed, CommandError> {
        self.deploy_from(Source::Folder(dir), manifest, None).await
    }

    /// The same with packages from anywhere, and only if the application is at the version that is
    /// expected. What is acknowledged is durable, packages and all.
    pub(super) async fn deploy_from(
        &self,
        source: Source<'_>,
        manifest: &Manifest,
        expects: Option<u64>,
    ) -> Result<Deployed, CommandError> {
        let _one = self.changing().await?;
        let name = manifest.app.to_string();
        self.check_version(&name, expects)?;
        let topics = topics::needed(manifest);
        self.make_topics(&name, &topics).await?;
        self.make_park_topics(&name, &manifest.functions).await?;
        self.make_history_topics(&name, &manifest.functions).await?;
        let ran = self.pools_of(&name).await;
        // Side by side: an interpreter that is slow to start holds up no other function.
        let prepared = manifest
            .functions
            .iter()
            .map(|spec| self.fit(source, &name, spec, ran.get(spec.name.as_str())));
        let prepared = futures::future::join_all(prepared).await;
        let (mut deployed, mut ready) = (Deployed::default(), BTreeMap::new());
        let mut fit = BTreeMap::new();
        let mut refused = BTreeMap::new();
        for (spec, prepared) in manifest.functions.iter().zip(prepared) {
            let function = spec.name.to_string();
            match prepared {
                Ok(Fit::Here(it)) => {
                    let is_new =
                        ran.get(&function).map(|(revision, _)| revision) != Some(&it.revision);
                    let list = if is_new { &mut deployed.changed } else { &mut deployed.unchanged };
                    list.push((function.clone(), it.revision.to_string()));
                    fit.insert(function.clone(), it.named());
                    ready.insert(function, it);
                }
                Ok(Fit::Elsewhere(it)) => {
                    let is_new = self.known(&name, &function) != Some(it.revision.to_string());
                    let list = if is_new { &mut deployed.changed } else { &mut deployed.unchanged };
                    list.push((function.clone(), it.revision.to_string()));
                    fit.insert(function, it);
                }
                Err((code, message)) => {
                    let mut older_runs = ran.contains_key(&function)
                        || !self.inner.lacking(spec).is_empty()
                            && self.known(&name, &function).is_some();
                    if !older_runs && let Some(older) = self.older(&name, &function).await {
                        fit.insert(function.clone(), older.named());
                        ready.insert(function.clone(), older);
                        older_runs = true;
                    }
                    let refusal = Refusal { function, code, message, older_runs };
                    deployed.refused.push(refusal.clone());
                    refused.insert(refusal.function.clone(), (refusal, spec.clone()));
                }
            }
        }
        let app = self.next_app(&name, &fit, |it| refused.contains_key(it), &topics);
        let at = bus::Timestamp::now();
        deployed.removed = self.functions_of(&name);
        deployed.removed.retain(|function| !app.functions.contains_key(function));
        let needed = fit.values().filter_map(|it| PackageDigest::parse(&it.package).ok());
        let needed: BTreeSet<PackageDigest> = needed.collect();
        let members = self.inner.cluster.vitals().members;
        if let Some(peers) = &self.inner.peers {
            peers.spread(needed.clone()).await?;
        }
        let command = Command::Deploy { name: name.clone(), app, expects, at };
        // Whoever follows the state waits until what is ready is taken over.
        let mut apps = self.inner.apps.lock().await;
        let loose = self.append_and_loosen(command).await?;
        // From here on it holds, whatever becomes of this process.
        apps.entry(name.clone()).or_default().refused = refused;
        self.inner.ownership().deployed(&name, ready);
        self.settle(&mut apps, &name, loose).await;
        drop(apps);
        if let Some(peers) = &self.inner.peers
            && members != self.inner.cluster.vitals().members
        {
            // A quorum of those who vote where the command is in the log has to have them (CLU-3).
            peers.spread(needed).await?;
        }
        if let Source::Store(packages) = source {
            self.inner.packages.expect_no_more(packages.values());
        }
        self.sweep().await;
        Ok(deployed)
    }

    /// Makes a function ready here, or has it tried where its labels are.
    async fn fit(
        &self,
        source: Source<'_>,
        app: &str,
        spec: &FunctionSpec,
        running: Option<&(Arc<str>, Arc<Pool>)>,
    ) -> Result<Fit, Refused> {
        let packages = match source {
            Source::Store(packages) if !self.inner.lacking(spec).is_empty() => packages,
            _ => return prepare(&self.inner, source, spec, running).await.map(Fit::Here),
        };
        let named = named(packages, spec)?;
        // What is deployed was tried when that was done.
        if self.known(app, spec.name.as_str()).as_deref() != Some(&*named.revision) {
            self.try_elsewhere(&named).await?;
        }
        Ok(Fit::Elsewhere(named))
    }

    /// The revision that a function is, wherever it runs.
    fn known(&self, app: &str, function: &str) -> Option<String> {
        self.state(|state| Some(state.apps().get(app)?.functions.get(function)?.revision.clone()))
    }

    /// One change at a time. A node that ends takes no more of them.
    pub(super) async fn changing(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, CommandError> {
        let one = self.inner.changes.lock().await;
        if self.inner.shutdown.is_cancelled() {
            return Err(draining());
        }
        Ok(one)
    }

    /// What runs of an application, by function: the revision and its pool.
    pub(super) async fn pools_of(&self, app: &str) -> BTreeMap<String, (Arc<str>, Arc<Pool>)> {
        let apps = self.inner.apps.lock().await;
        let functions = apps.get(app).into_iter().flat_map(|app| &app.functions);
        let of = |(name, it): (&String, &RunningFunction)| {
            (name.clone(), (Arc::clone(&it.revision), Arc::clone(&it.pool)))
        };
        functions.map(of).collect()
    }

    /// What the cluster's state says a function is, ready to run: where it does not run yet and what
    /// was to take its place is refused.
    async fn older(&self, app: &str, function: &str) -> Option<Ready> {
        let known = self.state(|state| state.apps().get(app)?.functions.get(function).cloned())?;
        let (spec, kept) = as_kept(&known).ok()?;
        prepare(&self.inner, Source::Kept(&kept), &spec, None).await.ok()
    }

    /// Refuses early what the command would be refused for: before anything is made or started.
    pub(super) fn check_version(
        &self,
        app: &str,
        expects: Option<u64>,
    ) -> Result<(), CommandError> {
        let found = self.state(|state| state.version(app));
        match expects {
            Some(expected) if expected != found => {
                Err(refused(&cluster::Refused::Version { expected, found }.into()))
            }
            _ => Ok(()),
        }
    }

    /// Looks at the cluster's state.
    pub(super) fn state<T>(&self, look: impl FnOnce(&cluster::State) -> T) -> T {
        look(&self.inner.cluster.state())
    }

    pub(super) fn functions_of(&self, app: &str) -> Vec<String> {
        self.state(|state| {
            state
                .apps()
                .get(app)
                .into_iter()
                .flat_map(|app| app.functions.keys().cloned())
                .collect()
        })
    }

    /// Has the cluster agree on a change.
    pub(super) async fn append(&self, command: Command) -> Result<(), CommandError> {
        let applied = self.inner.cluster.propose(command).await;
        applied.map(drop).map_err(|error| refused(&error))
    }

    /// The same; of the shards that are no more by it, those whose positions nobody else forgets:
    /// a node that runs one does so when it has ended.
    pub(super) async fn append_and_loosen(
        &self,
        command: Command,
    ) -> Result<Vec<ShardId>, CommandError> {
        let before = self.inner.cluster.state();
        let applied = self.inner.cluster.propose(command).await;
        let mut removed = applied.map_err(|error| refused(&error))?.removed;
        let me = self.inner.cluster.me();
        removed.retain(|id| {
            let owner = before.shards().get(id).and_then(|it| it.owner);
            owner.is_none_or(|owner| owner == me)
        });
        Ok(removed)
    }

    /// The application as it will be: what can run, and of the rest what is to `stay` as it is.
    pub(super) fn next_app(
        &self,
        name: &str,
        fit: &BTreeMap<String, Named>,
        stay: impl Fn(&str) -> bool,
        topics: &[Topic],
    ) -> App {
        let mut app = App { topics: topics::stored(topics), ..App::default() };
        self.state(|state| {
            let Some(before) = state.apps().get(name) else { return };
            for (function, it) in &before.functions {
                if stay(function) && !fit.contains_key(function) {
                    app.functions.insert(function.clone(), it.clone());
                }
            }
            for (id, trigger) in &before.triggers {
                if app.functions.contains_key(&trigger.function) {
                    app.triggers.insert(id.clone(), trigger.clone());
                }
            }
        });
        for (function, it) in fit {
            // A revision that is there stays as it was written, perhaps by another version.
            let known = self.state(|state| {
                let known = state.history(name, function)?.find(&it.revision)?;
                Some(known.function.clone())
            });
            let made = || {
                let spec = serde_json::to_string(&it.spec).expect("a spec is plain data");
                let (revision, package) = (it.revision.to_string(), it.package.clone());
                Function { revision, package, spec }
            };
            app.functions.insert(function.clone(), known.unwrap_or_else(made));
            app.triggers.extend(self.triggers(name, &it.spec));
        }
        app
    }

    /// The triggers of a function by id, with the partitions there are now.
    pub(super) fn triggers(&self, app: &str, spec: &FunctionSpec) -> BTreeMap<String, Trigger> {
        let trigger = |trigger: &TriggerSpec| {
            let id = format!("{app}/{}/{}", spec.name, trigger.name);
            let topics = trigger.topics.iter();
            let topics = topics.map(|topic| (topic.clone(), self.partitions_of(&id, topic)));
            let topics = topics.collect();
            (id, Trigger { function: spec.name.to_string(), topics })
        };
        spec.triggers.iter().map(trigger).collect()
    }

    /// Takes away packages that nothing names any more.
    pub(super) async fn sweep(&self) {
        let named = self.state(cluster::State::packages);
        let inner = Arc::clone(&self.inner);
        let swept = tokio::task::spawn_blocking(move || inner.packages.sweep(&named)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "could not take away packages that nothing needs any more");
        }
    }
}

/// What a node that ends says.
pub(super) fn draining() -> CommandError {
    let failed = CommandError::new(exit::UNREACHABLE, "E0512", "the node is draining");
    failed.help("send it again when the node is back")
}

/// What the cluster's log refused.
pub(super) fn refused(error: &cluster::Error) -> CommandError {
    use cluster::Refused as R;
    let cluster::Error::Refused(refused) = error else { return failed(error) };
    let (exit, code, help) = match refused {
        R::Version { .. } => (
            exit::CONFLICT,
            "E0520",
            "somebody else deployed it, rolled it back or removed it: look at `millrace plan` again",
        ),
        R::UnknownApp(_) | R::UnknownFunction(_) => {
            (exit::NOT_FOUND, "E0506", "`millrace functions` lists those there are")
        }
        R::UnknownTrigger(_) => {
            (exit::NOT_FOUND, "E0506", "`millrace trigger list` lists those there are")
        }
        R::UnknownRevision { .. } | R::UnknownAlias { .. } => {
            (exit::NOT_FOUND, "E0522", "`millrace functions APP/FUNCTION` lists those there are")
        }
        R::Shrunk { .. } => (
            exit::CONFLICT,
            "E0408",
            "a topic keeps its partitions: name that many in the manifest, or delete the topic first",
        ),
        // No deploy leads to another one.
        _ => return failed(error),
    };
    CommandError::new(exit, code, chain(error)).help(help)
}

/// What no deploy should lead to.
pub(super) fn failed(error: &dyn std::error::Error) -> CommandError {
    CommandError::new(exit::FAILED, "E0511", chain(error))
}
