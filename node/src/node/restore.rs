//! Makes ready what the cluster's state says, out of the node's own store: at its start, and when
//! another node deployed. What cannot start is shown, and tried again; the rest runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::{Command, State};
use function::{FunctionSpec, Manifest, PackageDigest};

use super::deploy::{Deployed, Refusal, draining};
use super::labels::LACKS;
use super::prepare::{Kept, Ready, Refused, Source, prepare};
use super::running::Apps;
use super::{Inner, Node, topics};
use crate::commands::error::CommandError;

/// How long after a failed start a function is tried again, at first; it doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// At most.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long the cluster is asked at a time what this node ran before.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// How soon it is asked again.
const READ_AGAIN: Duration = Duration::from_millis(200);

/// What is being made ready, and what could not be, by application and function.
#[derive(Debug, Default)]
pub(super) struct Preparing {
    now: BTreeSet<(String, String)>,
    failed: BTreeMap<(String, String), Attempt>,
}

/// A revision that could not be made ready.
#[derive(Debug)]
struct Attempt {
    revision: String,
    next_at: Instant,
    pause: Duration,
}

impl Preparing {
    /// When something is tried again.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let idle = self.failed.iter().filter(|(key, _)| !self.now.contains(*key));
        idle.map(|(_, it)| it.next_at).min()
    }

    /// Whether it is this one's turn; if so it is under way from here on.
    fn begin(&mut self, key: &(String, String), revision: &str) -> bool {
        let waits = self
            .failed
            .get(key)
            .is_some_and(|it| it.revision == revision && Instant::now() < it.next_at);
        !waits && self.now.insert(key.clone())
    }

    fn end(&mut self, key: &(String, String), revision: &str, is_ready: bool) {
        self.now.remove(key);
        let before = self.failed.remove(key).filter(|it| it.revision == revision);
        if !is_ready {
            let pause = before.map_or(RETRY_MIN, |it| (it.pause * 2).min(RETRY_MAX));
            let (revision, next_at) = (revision.to_owned(), Instant::now() + pause);
            self.failed.insert(key.clone(), Attempt { revision, next_at, pause });
        }
    }

    /// Nobody tries again what the state does not want any more.
    fn forget_all_but(&mut self, wanted: impl Fn(&(String, String)) -> bool) {
        self.failed.retain(|key, _| wanted(key));
    }
}

impl Inner {
    pub(super) fn preparing(&self) -> MutexGuard<'_, Preparing> {
        self.preparing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Brings up every application but those whose folder is deployed next, each as it was deployed
    /// or rolled back last; says what became of each. Called once, before anything is deployed.
    ///
    /// # Errors
    ///
    /// When the node ends before the cluster has said what is this node's.
    pub async fn restore(
        &self,
        folders: &[&Manifest],
    ) -> Result<Vec<(String, Deployed)>, CommandError> {
        let state = self.caught_up().await?;
        if self.inner.shares_no_bus() && !state.apps().is_empty() {
            return Err(super::without_kafka());
        }
        self.inner.bus.share(self.has_others());
        let mut restored = Vec::new();
        let mut all_refused = Vec::new();
        for (name, app) in state.apps() {
            if folders.iter().any(|folder| folder.app == **name) {
                continue;
            }
            let (deployed, refused) = self.restore_app(name, app).await;
            restored.push((name.clone(), deployed));
            all_refused.push((name.clone(), refused));
        }
        let mut apps = self.inner.apps.lock().await;
        // A process before this one may have run all that is this node's now, and none of what
        // becomes so: whatever it did was agreed on before this one asked.
        let me = self.inner.cluster.me();
        let mine = state.shards().iter().filter(|(_, shard)| shard.owner == Some(me));
        let used = mine.map(|(id, shard)| (*id, shard.epoch)).collect();
        let held = folders.iter().map(|folder| folder.app.to_string()).collect();
        self.inner.ownership().begin(used, held);
        for (name, refused) in all_refused {
            apps.entry(name).or_default().refused = refused;
        }
        self.place().await;
        self.converge(&mut apps).await;
        for (name, app) in apps.iter_mut() {
            for (function, it) in &mut app.functions {
                let at = state.history(name, function).and_then(|known| known.find(&it.revision));
                it.since = at.map_or(it.since, |known| known.at);
            }
        }
        self.show(&apps);
        drop(apps);
        self.sweep().await;
        Ok(restored)
    }

    /// The state with all that was agreed on before this process asked.
    async fn caught_up(&self) -> Result<std::sync::Arc<State>, CommandError> {
        loop {
            match self.inner.cluster.read(READ_PATIENCE).await {
                Ok(state) => return Ok(state),
                Err(error) => {
                    tracing::warn!(%error, "the cluster has not said yet what is this node's");
                }
            }
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return Err(draining()),
                () = tokio::time::sleep(READ_AGAIN) => {}
            }
        }
    }

    /// What is ready is taken over when what runs converges next.
    async fn restore_app(
        &self,
        name: &str,
        app: &cluster::App,
    ) -> (Deployed, BTreeMap<String, (Refusal, FunctionSpec)>) {
        let (mut deployed, mut refused) = (Deployed::default(), BTreeMap::new());
        let mut kept = Vec::new();
        for (function, it) in &app.functions {
            match as_kept(it) {
                Ok(it) => kept.push(it),
                Err((code, message)) => deployed.refused.push(refusal(function, code, message)),
            }
        }
        let specs: Vec<FunctionSpec> = kept.iter().map(|(spec, _)| spec.clone()).collect();
        let made = self.make_again(name, app, &specs).await;
        let prepared = kept.iter().map(|(spec, kept)| async {
            match &made {
                Ok(()) => prepare(&self.inner, Source::Kept(kept), spec, None).await,
                Err(error) => Err((error.code.unwrap_or("E0412"), error.message.clone())),
            }
        });
        let prepared = futures::future::join_all(prepared).await;
        for ((spec, kept), prepared) in kept.iter().zip(prepared) {
            let function = spec.name.to_string();
            let key = (name.to_owned(), function.clone());
            self.inner.preparing().end(&key, &kept.revision, prepared.is_ok());
            match prepared {
                Ok(it) => {
                    deployed.changed.push((function.clone(), it.revision.to_string()));
                    self.inner.ownership().is_ready(name, &function, it);
                }
                Err((LACKS, message)) => tracing::info!(app = name, function, "{message}"),
                Err((code, message)) => {
                    let refusal = refusal(&function, code, message);
                    deployed.refused.push(refusal.clone());
                    refused.insert(function, (refusal, spec.clone()));
                }
            }
        }
        (deployed, refused)
    }

    /// The topics of an application that was deployed, made where they are missing.
    async fn make_again(
        &self,
        name: &str,
        app: &cluster::App,
        functions: &[FunctionSpec],
    ) -> Result<(), CommandError> {
        self.make_topics(name, &topics::restored(&app.topics)).await?;
        self.make_park_topics(name, functions).await?;
        self.make_history_topics(name, functions).await
    }

    /// Begins to make ready what the state has and does not run here: what another node deployed,
    /// and, from time to time, what could not start. A machine that has just started may be busy,
    /// and an interpreter may be installed meanwhile.
    pub(super) fn prepare_missing(&self, apps: &Apps) {
        let state = self.inner.cluster.state();
        let is_wanted = |app: &str, function: &str, it: &cluster::Function| {
            let running = apps.get(app).and_then(|app| app.functions.get(function));
            running.is_none_or(|running| *running.revision != *it.revision)
        };
        let mut wanted = BTreeMap::new();
        for (name, app) in state.apps() {
            if self.inner.ownership().is_held(name) {
                continue;
            }
            for (function, it) in &app.functions {
                if is_wanted(name, function, it) {
                    wanted.insert((name.clone(), function.clone()), it.clone());
                }
            }
        }
        self.inner.preparing().forget_all_but(|key| wanted.contains_key(key));
        for (key, it) in wanted {
            if self.inner.preparing().begin(&key, &it.revision) {
                drop(tokio::spawn(self.clone().prepare_one(key, it)));
            }
        }
    }

    async fn prepare_one(self, key: (String, String), known: cluster::Function) {
        let (app, function) = &key;
        let prepared = self.prepare_known(app, &known).await;
        let is_ready = prepared.is_ok();
        self.inner.preparing().end(&key, &known.revision, is_ready);
        match prepared {
            Ok(ready) => {
                tracing::info!(app, function, revision = known.revision, "the function is ready");
                if let Some(app) = self.inner.apps.lock().await.get_mut(app) {
                    app.refused.remove(function);
                }
                self.inner.ownership().is_ready(app, function, ready);
            }
            Err((LACKS, message)) => tracing::debug!(app, function, "{message}"),
            Err((code, message)) => self.refuse(app, function, &known, code, message).await,
        }
        let revision = (!is_ready).then(|| known.revision.clone());
        self.say_unfit(&format!("{app}/{function}"), revision).await;
        self.inner.wake.notify_one();
    }

    async fn prepare_known(&self, name: &str, known: &cluster::Function) -> Result<Ready, Refused> {
        let (spec, kept) = as_kept(known)?;
        self.inner.check_labels(&spec)?;
        let app = self.state(|state| state.apps().get(name).cloned()).unwrap_or_default();
        let made = self.make_again(name, &app, std::slice::from_ref(&spec)).await;
        made.map_err(|error| (error.code.unwrap_or("E0412"), error.message))?;
        prepare(&self.inner, Source::Kept(&kept), &spec, None).await
    }

    /// Shows that a function cannot start here.
    async fn refuse(
        &self,
        app: &str,
        function: &str,
        known: &cluster::Function,
        code: &'static str,
        message: String,
    ) {
        let Ok((spec, _)) = as_kept(known) else { return };
        let mut apps = self.inner.apps.lock().await;
        let running = apps.entry(app.to_owned()).or_default();
        if !running.refused.contains_key(function) {
            tracing::error!(app, function, code, "the function cannot start here: {message}");
        }
        let older_runs = running.functions.contains_key(function);
        let refusal = Refusal { older_runs, ..refusal(function, code, message) };
        running.refused.insert(function.to_owned(), (refusal, spec));
        self.show(&apps);
    }

    /// Has the leader place shards of a function elsewhere, or here again.
    async fn say_unfit(&self, function: &str, revision: Option<String>) {
        let member = self.inner.cluster.me();
        let is_said = self.state(|state| state.is_unfit(member, function));
        // A node that ends cannot start anything, and is given nothing either.
        let is_ending = self.inner.shutdown.is_cancelled();
        if is_said == revision.is_some() || !self.has_others() || is_ending {
            return;
        }
        let function = function.to_owned();
        if let Err(error) = self.append(Command::Unfit { member, function, revision }).await {
            tracing::warn!(error = error.message, "could not say what this node cannot run");
        }
    }
}

/// A revision that the cluster's state holds, as something that can be prepared.
pub(super) fn as_kept(it: &cluster::Function) -> Result<(FunctionSpec, Kept), Refused> {
    let other = || ("E0526", "its settings are those of another version".to_owned());
    let spec = serde_json::from_str(&it.spec).map_err(|_| other())?;
    let package = PackageDigest::parse(&it.package).map_err(|_| other())?;
    Ok((spec, Kept { revision: it.revision.as_str().into(), package }))
}

fn refusal(function: &str, code: &'static str, message: String) -> Refusal {
    Refusal { function: function.to_owned(), code, message, older_runs: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_tried_again_later_each_time_and_another_revision_at_once() {
        let (mut preparing, key) = (Preparing::default(), ("a".to_owned(), "f".to_owned()));
        assert!(preparing.begin(&key, "1"));
        assert!(!preparing.begin(&key, "1"), "it is under way");
        preparing.end(&key, "1", false);
        let first = preparing.next_at().unwrap();
        assert!(!preparing.begin(&key, "1"), "not yet");
        preparing.end(&key, "1", false);
        assert!(first + RETRY_MIN / 2 < preparing.next_at().unwrap(), "later than before");
        assert!(preparing.begin(&key, "2"), "another revision");
        preparing.end(&key, "2", true);
        assert_eq!(preparing.next_at(), None);
        assert!(preparing.begin(&key, "1"));
        preparing.end(&key, "1", false);
        preparing.forget_all_but(|_| false);
        assert_eq!(preparing.next_at(), None);
    }
}
