//! Brings up what the cluster's state says, out of the node's own store: a node that starts needs
//! no folder for what was deployed into it. What cannot start is shown, the rest runs.

use std::collections::BTreeMap;
use std::time::Duration;

use function::{FunctionSpec, Manifest, PackageDigest};

use super::deploy::{Deployed, Refusal, RunningApp};
use super::prepare::{Kept, Refused, Source, prepare};
use super::{Node, topics};
use crate::commands::error::CommandError;

impl Node {
    /// Brings up every application but those whose folder is deployed next, each as it was deployed
    /// or rolled back last; says what became of each. Called once, before anything is deployed.
    ///
    /// # Errors
    ///
    /// When another node works in this one's place.
    pub async fn restore(
        &self,
        folders: &[&Manifest],
    ) -> Result<Vec<(String, Deployed)>, CommandError> {
        let mut names: Vec<String> = self.state(|state| state.apps().keys().cloned().collect());
        names.retain(|name| folders.iter().all(|folder| folder.app != **name));
        let mut restored = Vec::new();
        let mut apps = self.inner.apps.lock().await;
        for name in names {
            let mut app = RunningApp::default();
            let outcome = self.restore_app(&name, &mut app).await;
            apps.insert(name.clone(), app);
            restored.push((name, outcome?));
        }
        self.show(&apps);
        self.sweep().await;
        Ok(restored)
    }

    async fn restore_app(
        &self,
        name: &str,
        running: &mut RunningApp,
    ) -> Result<Deployed, CommandError> {
        let app = self.state(|state| state.apps()[name].clone());
        let mut made = self.make_topics(name, &topics::restored(&app.topics)).await;
        let (mut deployed, mut ready) = (Deployed::default(), BTreeMap::new());
        let mut kept = Vec::new();
        for (function, it) in &app.functions {
            match as_kept(it) {
                Ok(it) => kept.push(it),
                Err((code, message)) => deployed.refused.push(refusal(function, code, message)),
            }
        }
        if made.is_ok() {
            let specs: Vec<FunctionSpec> = kept.iter().map(|(spec, _)| spec.clone()).collect();
            made = self.make_park_topics(name, &specs).await;
            if made.is_ok() {
                made = self.make_history_topics(name, &specs).await;
            }
        }
        let prepared = kept.iter().map(|(spec, kept)| async {
            match &made {
                Ok(()) => prepare(&self.inner, Source::Kept(kept), spec, None).await,
                Err(error) => Err((error.code.unwrap_or("E0412"), error.message.clone())),
            }
        });
        let prepared = futures::future::join_all(prepared).await;
        for ((spec, _), prepared) in kept.iter().zip(prepared) {
            let function = spec.name.to_string();
            match prepared {
                Ok(it) => {
                    deployed.changed.push((function.clone(), it.revision.to_string()));
                    ready.insert(function, it);
                }
                Err((code, message)) => {
                    let refusal = refusal(&function, code, message);
                    deployed.refused.push(refusal.clone());
                    running.refused.insert(function, (refusal, spec.clone()));
                }
            }
        }
        self.become_app(name, running, ready, Vec::new()).await?;
        for (function, it) in &mut running.functions {
            let at =
                self.state(|state| Some(state.history(name, function)?.find(&it.revision)?.at));
            it.since = at.unwrap_or(it.since);
        }
        Ok(deployed)
    }
}

/// How long after a failed start a function is tried again, at first; it doubles.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// At most.
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Node {
    /// Tries again and again to bring up what is deployed and does not run, until the node ends: a
    /// machine that has just started may be busy, and an interpreter may be installed meanwhile.
    pub(super) async fn watch_stopped(self) {
        let mut pause = RETRY_MIN;
        loop {
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let stopped = self.stopped().await;
            pause = if stopped.is_empty() { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
            for (app, function) in stopped {
                if self.try_again(&app, &function).await {
                    tracing::info!(app, function, "the function runs at last");
                    pause = RETRY_MIN;
                }
            }
        }
    }

    /// Functions that the cluster's state has and that do not run here.
    async fn stopped(&self) -> Vec<(String, String)> {
        let apps = self.inner.apps.lock().await;
        let is_stopped = |app: &str, function: &str| {
            let running = apps.get(app);
            running.is_some_and(|it| {
                it.refused.contains_key(function) && !it.functions.contains_key(function)
            })
        };
        self.state(|state| {
            let all = state.apps().iter().flat_map(|(app, it)| {
                it.functions.keys().map(move |function| (app.clone(), function.clone()))
            });
            all.filter(|(app, function)| is_stopped(app, function)).collect()
        })
    }

    /// Whether it runs now.
    async fn try_again(&self, app: &str, function: &str) -> bool {
        let known = || self.state(|state| state.apps().get(app)?.functions.get(function).cloned());
        let Some(known_before) = known() else { return false };
        let Ok((spec, kept)) = as_kept(&known_before) else { return false };
        // Deploys go on meanwhile.
        let Ok(ready) = prepare(&self.inner, Source::Kept(&kept), &spec, None).await else {
            return false;
        };
        let Ok(mut apps) = self.changing().await else { return false };
        let Some(mut running) = apps.remove(app) else { return false };
        let is_wanted =
            known().as_ref() == Some(&known_before) && !running.functions.contains_key(function);
        let mut outcome = Ok(());
        if is_wanted {
            let ready = [(function.to_owned(), ready)].into();
            outcome = self.bring_up_all(app, &mut running, ready, Vec::new()).await;
            if outcome.is_ok() {
                running.refused.remove(function);
            }
        }
        apps.insert(app.to_owned(), running);
        self.show(&apps);
        is_wanted && outcome.is_ok()
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
