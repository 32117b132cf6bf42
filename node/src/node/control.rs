//! What the control API asks for, carried out: plans, deploys from packages that were sent,
//! rollbacks, aliases and removals. A change runs in a task of its own: who asked may go away.

use std::collections::BTreeMap;
use std::future::Future;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::{Command, History};
use function::{Manifest, Name, Package, PackageDigest};
use gateway::api::{
    API, AliasInfo, AliasList, DeadLetterChoice, DeadLetterInfo, DeadLetterList,
    Deployed as Answer, Effective, Examination, FunctionError, FunctionInfo, FunctionList,
    FunctionOutcome, InstanceList, InvocationInfo, LogLines, LogQuestion, Outcome, Plan, Proposal,
    RecordAccount, Redrive, RedriveStatus, Replay, ReplayStatus, RevisionInfo, RevisionList,
    RevisionName, RolledBack, Seek, Sought, TailLines, TailQuestion, Target, Trial, Tried,
    TriggerInfo, TriggerList, UpgradeStatus,
};
use gateway::{Applications, Begin, Data, Operations, Refused};

use super::deploy::Deployed;
use super::plan::{self, There};
use super::prepare::{Named, Source, prepare};
use super::restore::as_kept;
use super::status::rfc3339;
use super::{Node, chain, topics};
use crate::commands::error::{CommandError, exit};

/// The fewest digits that name a revision.
const PREFIX_CHARS_MIN: usize = 4;
/// The digits of a whole one.
const REVISION_CHARS: usize = 12;

/// A proposal that was understood.
struct Proposed {
    manifest: Manifest,
    packages: BTreeMap<String, PackageDigest>,
}

impl Node {
    fn plan_of(&self, app: &str, proposal: &Proposal) -> Result<Plan, CommandError> {
        let proposed = understand(app, proposal)?;
        let needed = topics::needed(&proposed.manifest);
        let kafka = self.inner.kafka.as_ref();
        let there = |name: &str| match (self.inner.bus.topic(name), kafka) {
            (None, Some(kafka)) if kafka.create_topics != Some(true) => There::MustBeMadeElsewhere,
            (None, _) => There::Nothing,
            (Some(_), Some(_)) => There::Foreign,
            (Some(info), None) => There::Topic(topics::of_bus(&info.spec)),
        };
        let (version, before) =
            self.state(|state| (state.version(app), state.apps().get(app).cloned()));
        let before = before.as_ref();
        let missing = self.missing(&proposed.packages);
        Ok(Plan {
            api: API,
            app: app.to_owned(),
            version,
            functions: plan::functions(before, &proposed.manifest, &proposed.packages),
            topics: plan::topics(before, &needed, there),
            missing: missing.iter().map(ToString::to_string).collect(),
        })
    }

    fn missing(&self, packages: &BTreeMap<String, PackageDigest>) -> Vec<PackageDigest> {
        let missing = packages.values().filter(|digest| !self.inner.packages.has(**digest));
        let mut missing: Vec<PackageDigest> = missing.copied().collect();
        missing.sort();
        missing.dedup();
        missing
    }

    async fn take(
        &self,
        app: &str,
        proposal: &Proposal,
        expects: Option<u64>,
    ) -> Result<Answer, CommandError> {
        let Proposed { manifest, packages } = understand(app, proposal)?;
        if let Some(first) = self.missing(&packages).first() {
            let message = format!("package {first} is not on this node");
            return Err(CommandError::new(exit::CONFLICT, "E0524", message)
                .help("send it again: what no deploy names is not kept for long"));
        }
        let deployed = self.deploy_from(Source::Store(&packages), &manifest, expects).await?;
        log(app, &deployed);
        Ok(self.answer(app, deployed))
    }

    /// What became of each function, and what runs now.
    fn answer(&self, app: &str, deployed: Deployed) -> Answer {
        let mut functions = Vec::new();
        let mut add = |name: String, outcome, error| {
            let runs = self.state(|state| {
                let function = state.apps().get(app)?.functions.get(&name)?;
                Some(name_of(state.history(app, &name)?, &function.revision))
            });
            functions.push(FunctionOutcome { name, outcome, runs, error });
        };
        let is_refused = |name: &String| deployed.refused.iter().any(|it| it.function == *name);
        for (name, _) in deployed.changed.iter().filter(|(name, _)| !is_refused(name)) {
            add(name.clone(), Outcome::Deployed, None);
        }
        for (name, _) in &deployed.unchanged {
            add(name.clone(), Outcome::Unchanged, None);
        }
        for name in &deployed.removed {
            add(name.clone(), Outcome::Removed, None);
        }
        for it in &deployed.refused {
            let error = FunctionError { code: it.code.to_owned(), message: it.message.clone() };
            add(it.function.clone(), Outcome::Refused, Some(error));
        }
        for it in &mut functions {
            if deployed
                .refused
                .iter()
                .any(|refused| refused.function == it.name && !refused.older_runs)
            {
                it.runs = None;
            }
        }
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        let version = self.state(|state| state.version(app));
        Answer { api: API, app: app.to_owned(), version, functions }
    }

    async fn roll_back_to(
        &self,
        app: &str,
        function: &str,
        to: Option<&str>,
        expects: Option<u64>,
    ) -> Result<RolledBack, CommandError> {
        let _one = self.changing().await?;
        self.check_version(app, expects)?;
        let (history, runs) = self.history(app, function)?;
        let revision = match to {
            Some(to) => resolve(&history, function, to)?,
            None => {
                history.before(&runs).map(|it| it.function.revision.clone()).ok_or_else(|| {
                    let message = format!("nothing ran before the revision that {function} is now");
                    CommandError::new(exit::NOT_FOUND, "E0522", message).help(format!(
                    "`millrace functions {app}/{function}` lists what is kept: name one with --to"
                ))
                })?
            }
        };
        let (before, now) = (name_of(&history, &runs), name_of(&history, &revision));
        if revision != runs {
            self.roll_back_running(app, function, &revision, &history, expects).await?;
            self.sweep().await;
            tracing::info!(app, function, before = before.number, now = now.number, "rolled back");
        }
        let version = self.state(|state| state.version(app));
        let (app, function) = (app.to_owned(), function.to_owned());
        Ok(RolledBack { api: API, app, version, function, before, now })
    }

    async fn roll_back_running(
        &self,
        app: &str,
        function: &str,
        revision: &str,
        history: &History,
        expects: Option<u64>,
    ) -> Result<(), CommandError> {
        let kept = history.find(revision).ok_or_else(|| unknown(function, revision))?;
        let refused = |(code, message)| {
            CommandError::new(exit::UNUSABLE, code, format!("`{function}` cannot start: {message}"))
                .help("the revision that ran runs on")
        };
        let (spec, kept) = as_kept(&kept.function).map_err(refused)?;
        for topic in spec.triggers.iter().flat_map(topics::of_trigger) {
            if self.inner.bus.topic(topic).is_none() {
                let message = format!("there is no topic {topic}, which that revision needs");
                return Err(CommandError::new(exit::NOT_FOUND, "E0404", message)
                    .help("make it: `millrace topic create`"));
            }
        }
        let runs = self.pools_of(app).await;
        let ready = if self.inner.lacking(&spec).is_empty() {
            let ready = prepare(&self.inner, Source::Kept(&kept), &spec, runs.get(function)).await;
            Some(ready.map_err(refused)?)
        } else {
            let (spec, revision) = (spec.clone(), kept.revision);
            let named = Named { spec, revision, package: kept.package.to_string() };
            self.try_elsewhere(&named).await.map_err(refused)?;
            None
        };
        let command = Command::Rollback {
            name: app.to_owned(),
            function: function.to_owned(),
            revision: revision.to_owned(),
            triggers: self.triggers(app, &spec),
            expects,
        };
        let mut apps = self.inner.apps.lock().await;
        let loose = self.append_and_loosen(command).await?;
        apps.entry(app.to_owned()).or_default().refused.remove(function);
        if let Some(ready) = ready {
            self.inner.ownership().is_ready(app, function, ready);
        }
        self.settle(&mut apps, app, loose).await;
        Ok(())
    }

    async fn remove_app(&self, app: &str, expects: Option<u64>) -> Result<Answer, CommandError> {
        let _one = self.changing().await?;
        self.check_version(app, expects)?;
        let removed = self.functions_of(app);
        let mut apps = self.inner.apps.lock().await;
        let loose = self.append_and_loosen(Command::Remove { name: app.to_owned() }).await?;
        self.settle(&mut apps, app, loose).await;
        drop(apps);
        self.sweep().await;
        tracing::info!(app, "removed");
        Ok(self.answer(app, Deployed { removed, ..Deployed::default() }))
    }

    async fn alias(
        &self,
        app: &str,
        function: &str,
        alias: &str,
        change: AliasChange<'_>,
    ) -> Result<AliasList, CommandError> {
        let (history, runs) = self.history(app, function)?;
        let revision = match change {
            AliasChange::Delete => None,
            AliasChange::Set(to) => {
                check_alias(alias)?;
                let revision = to.map_or(Ok(runs), |to| resolve(&history, function, to))?;
                Some(revision)
            }
        };
        let (name, function_name) = (app.to_owned(), function.to_owned());
        let alias = alias.to_owned();
        let command = Command::Alias { name, function: function_name, alias, revision };
        self.append(command).await?;
        self.alias_list(app, function)
    }

    fn alias_list(&self, app: &str, function: &str) -> Result<AliasList, CommandError> {
        let (history, _) = self.history(app, function)?;
        let info = |(alias, revision): (&String, &String)| AliasInfo {
            alias: alias.clone(),
            names: name_of(&history, revision),
        };
        let aliases = history.aliases().iter().map(info).collect();
        let (app, function) = (app.to_owned(), function.to_owned());
        Ok(AliasList { api: API, app, function, aliases })
    }

    fn revision_list(&self, app: &str, function: &str) -> Result<RevisionList, CommandError> {
        let (history, runs) = self.history(app, function)?;
        let info = |it: &cluster::Kept| RevisionInfo {
            name: name_of(&history, &it.function.revision),
            package: it.function.package.clone(),
            deployed: rfc3339(it.at),
            runs: it.function.revision == runs,
            aliases: aliases_of(&history, &it.function.revision),
        };
        let revisions = history.kept().iter().rev().map(info).collect();
        let version = self.state(|state| state.version(app));
        let (app, function) = (app.to_owned(), function.to_owned());
        Ok(RevisionList { api: API, app, version, function, revisions })
    }

    /// What is kept of a function, and the revision that it is.
    fn history(&self, app: &str, function: &str) -> Result<(History, String), CommandError> {
        let found = self.state(|state| {
            let runs = state.apps().get(app)?.functions.get(function)?.revision.clone();
            Some((state.history(app, function)?.clone(), runs))
        });
        found.ok_or_else(|| {
            let message = format!("there is no function {app}/{function}");
            CommandError::new(exit::NOT_FOUND, "E0506", message)
                .help("`millrace functions` lists those there are")
        })
    }

    /// Carries a change out to its end, whether or not anybody waits.
    pub(super) async fn detached<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<T, Refused>
    where
        F: Future<Output = Result<T, CommandError>> + Send + 'static,
    {
        let done = tokio::spawn(work(self.clone())).await;
        done.map_err(|error| as_refused(super::deploy::failed(&error)))?.map_err(as_refused)
    }
}

/// What becomes of an alias.
enum AliasChange<'a> {
    /// It names this, or what runs.
    Set(Option<&'a str>),
    /// It goes.
    Delete,
}

fn understand(app: &str, proposal: &Proposal) -> Result<Proposed, CommandError> {
    let manifest = Manifest::parse(&proposal.manifest, function::FILE_NAME)?;
    if manifest.app != *app {
        let message = format!("the manifest is that of {}, not of {app}", manifest.app);
        return Err(CommandError::new(exit::USAGE, "E0513", message));
    }
    let mut packages = BTreeMap::new();
    for spec in &manifest.functions {
        let name = spec.name.as_str();
        let digest = proposal.packages.get(name).map(|digest| PackageDigest::parse(digest));
        let Some(Ok(digest)) = digest else {
            let message = format!("no digest of a package for function {name}");
            return Err(CommandError::new(exit::USAGE, "E0513", message));
        };
        packages.insert(name.to_owned(), digest);
    }
    Ok(Proposed { manifest, packages })
}

fn name_of(history: &History, revision: &str) -> RevisionName {
    let number = history.find(revision).map_or(0, |it| it.number);
    RevisionName { number, revision: revision.to_owned() }
}

fn aliases_of(history: &History, revision: &str) -> Vec<String> {
    let aliases = history.aliases().iter().filter(|(_, names)| *names == revision);
    aliases.map(|(alias, _)| alias.clone()).collect()
}

/// What somebody means: an alias, a number as `v3`, a revision or the start of one.
fn resolve(history: &History, function: &str, to: &str) -> Result<String, CommandError> {
    if let Some(revision) = history.aliases().get(to) {
        return Ok(revision.clone());
    }
    let number = to.strip_prefix('v').and_then(|digits| digits.parse::<u64>().ok());
    let is_meant = |it: &&cluster::Kept| {
        number == Some(it.number)
            || PREFIX_CHARS_MIN <= to.len() && it.function.revision.starts_with(to)
    };
    let meant: Vec<&cluster::Kept> = history.kept().iter().filter(is_meant).collect();
    match meant.as_slice() {
        [] => Err(unknown(function, to)),
        [one] => Ok(one.function.revision.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|it| it.function.revision.as_str()).collect();
            let message = format!("`{to}` is the start of several revisions: {}", names.join(", "));
            Err(CommandError::new(exit::USAGE, "E0507", message).help("write more of it"))
        }
    }
}

fn unknown(function: &str, to: &str) -> CommandError {
    let message = format!("{function} has no revision and no alias `{}`", to.escape_debug());
    CommandError::new(exit::NOT_FOUND, "E0522", message)
        .help("`millrace functions APP/FUNCTION` lists those that are kept")
}

/// An alias is a name, and none that could be taken for a revision.
///
/// # Errors
///
/// `E0527`.
pub fn check_alias(alias: &str) -> Result<(), CommandError> {
    let bad = |why: String| {
        let message = format!("`{}` cannot be an alias: {why}", alias.escape_debug());
        CommandError::new(exit::USAGE, "E0527", message).help("such as `stable` or `blue`")
    };
    Name::parse(alias).map_err(|error| bad(error.to_string()))?;
    let is_number = alias.strip_prefix('v').is_some_and(|rest| rest.parse::<u64>().is_ok());
    let is_revision =
        alias.len() == REVISION_CHARS && alias.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_number || is_revision {
        true => Err(bad("it looks like a revision".to_owned())),
        false => Ok(()),
    }
}

fn log(app: &str, deployed: &Deployed) {
    for (function, revision) in &deployed.changed {
        tracing::info!(app, function, revision, "deployed");
    }
    for it in &deployed.refused {
        let (function, code) = (&it.function, it.code);
        tracing::warn!(app, function, code, "refused a revision: {}", it.message);
    }
}

/// As the control API says it.
pub(super) fn as_refused(error: CommandError) -> Refused {
    let status = match error.exit {
        exit::USAGE => 400,
        exit::NOT_FOUND => 404,
        exit::CONFLICT => 409,
        exit::UNUSABLE => 422,
        exit::TIMED_OUT => 504,
        exit::UNREACHABLE => 503,
        _ => 500,
    };
    let detail = match &error.diagnostics {
        Some(diagnostics) => diagnostics.render(false),
        None => error.message,
    };
    let hints = error.help.into_iter().collect();
    Refused { status, code: error.code.unwrap_or("E0511"), detail, hints }
}

#[async_trait]
impl Applications for Node {
    fn functions(&self) -> FunctionList {
        let mut functions = Vec::new();
        self.state(|state| {
            for (app, it) in state.apps() {
                for (name, function) in &it.functions {
                    let history = state.history(app, name).cloned().unwrap_or_default();
                    let revision = &function.revision;
                    let at = history.find(revision).map_or(bus::Timestamp(0), |it| it.at);
                    functions.push(FunctionInfo {
                        app: app.clone(),
                        version: state.version(app),
                        name: name.clone(),
                        runs: name_of(&history, revision),
                        deployed: rfc3339(at),
                        revisions: history.kept().len() as u64,
                        aliases: aliases_of(&history, revision),
                    });
                }
            }
        });
        FunctionList { api: API, functions }
    }

    fn revisions(&self, app: &str, function: &str) -> Result<RevisionList, Refused> {
        self.revision_list(app, function).map_err(as_refused)
    }

    fn aliases(&self, app: &str, function: &str) -> Result<AliasList, Refused> {
        self.alias_list(app, function).map_err(as_refused)
    }

    async fn set_alias(
        &self,
        app: String,
        function: String,
        alias: String,
        target: Target,
    ) -> Result<AliasList, Refused> {
        let set = |node: Self| async move {
            let change = AliasChange::Set(target.to.as_deref());
            node.alias(&app, &function, &alias, change).await
        };
        self.detached(set).await
    }

    async fn delete_alias(
        &self,
        app: String,
        function: String,
        alias: String,
    ) -> Result<AliasList, Refused> {
        let delete = |node: Self| async move {
            let list = node.alias(&app, &function, &alias, AliasChange::Delete).await?;
            node.sweep().await;
            Ok(list)
        };
        self.detached(delete).await
    }

    async fn plan(&self, app: String, proposal: Proposal) -> Result<Plan, Refused> {
        if self.inner.kafka.is_some() {
            // What others made there since the last look.
            let looked = self.inner.bus.topics().await;
            looked.map_err(|error| as_refused(super::deploy::failed(&error)))?;
        }
        self.plan_of(&app, &proposal).map_err(as_refused)
    }

    fn package_bytes_max(&self) -> usize {
        function::ARCHIVE_BYTES_MAX
    }

    async fn receive(&self, digest: String, archive: Bytes) -> Result<(), Refused> {
        let receive = |node: Self| async move {
            let not_it = |message: String| CommandError::new(exit::USAGE, "E0523", message);
            let digest =
                PackageDigest::parse(&digest).map_err(|error| not_it(error.to_string()))?;
            let received = tokio::task::spawn_blocking(move || {
                let package = Package::from_archive(&archive);
                let package = package.map_err(|error| not_it(chain(&error)))?;
                if package.digest() != digest {
                    return Err(not_it(format!("it is {}, not {digest}", package.digest())));
                }
                node.inner
                    .packages
                    .receive(&package)
                    .map_err(|error| CommandError::new(exit::FAILED, error.code(), chain(&error)))
            });
            received.await.map_err(|error| super::deploy::failed(&error))?
        };
        self.detached(receive).await
    }

    async fn deploy(
        &self,
        app: String,
        proposal: Proposal,
        expects: Option<u64>,
    ) -> Result<Answer, Refused> {
        self.detached(move |node| async move { node.take(&app, &proposal, expects).await }).await
    }

    async fn roll_back(
        &self,
        app: String,
        function: String,
        target: Target,
        expects: Option<u64>,
    ) -> Result<RolledBack, Refused> {
        let roll_back = move |node: Self| async move {
            node.roll_back_to(&app, &function, target.to.as_deref(), expects).await
        };
        self.detached(roll_back).await
    }

    async fn try_here(&self, trial: Trial) -> Tried {
        self.try_for_another(&trial).await
    }

    async fn remove(&self, app: String, expects: Option<u64>) -> Result<Answer, Refused> {
        self.detached(move |node| async move { node.remove_app(&app, expects).await }).await
    }
}

#[async_trait]
impl Operations for Node {
    fn upgrade(&self) -> UpgradeStatus {
        self.upgrade_status()
    }

    async fn finish_upgrade(&self) -> Result<UpgradeStatus, Refused> {
        self.detached(|node| async move { Self::finish_upgrade(&node).await }).await
    }

    async fn logs(&self, asked: LogQuestion) -> Result<LogLines, Refused> {
        self.inner.logbook.read(&asked).await.map_err(as_refused)
    }

    async fn examine(&self) -> Examination {
        Self::examine(self).await
    }

    fn effective(&self) -> Effective {
        Self::effective(self)
    }

    async fn instances(&self) -> InstanceList {
        self.list_instances().await
    }

    fn triggers(&self) -> TriggerList {
        self.trigger_list()
    }

    async fn set_paused(&self, trigger: String, paused: bool) -> Result<TriggerInfo, Refused> {
        self.detached(move |node| async move { node.pause(&trigger, paused).await }).await
    }

    async fn seek(&self, trigger: String, to: Begin, asked: Seek) -> Result<Sought, Refused> {
        self.detached(move |node| async move { node.seek_trigger(&trigger, to, &asked).await })
            .await
    }

    async fn replay(
        &self,
        trigger: String,
        range: (Begin, Begin),
        asked: Replay,
    ) -> Result<ReplayStatus, Refused> {
        self.detached(move |node| async move { node.begin_replay(&trigger, range, &asked).await })
            .await
    }

    fn replay_status(&self, trigger: &str) -> Option<ReplayStatus> {
        self.replay_of(trigger)
    }

    fn stop_replay(&self, trigger: &str) {
        self.end_replay(trigger);
    }

    async fn dead_letters(
        &self,
        topic: String,
        asked: DeadLetterChoice,
    ) -> Result<DeadLetterList, Refused> {
        self.list_dead_letters(&topic, &asked).await.map_err(as_refused)
    }

    async fn dead_letter(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
    ) -> Result<DeadLetterInfo, Refused> {
        self.show_dead_letter(&topic, partition, offset).await.map_err(as_refused)
    }

    async fn edit_dead_letter(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
        value: Data,
    ) -> Result<DeadLetterInfo, Refused> {
        let edit = move |node: Self| async move {
            node.edit(&topic, partition, offset, value.as_bytes()).await
        };
        self.detached(edit).await
    }

    async fn redrive(
        &self,
        topic: String,
        asked: Redrive,
        purge: bool,
    ) -> Result<RedriveStatus, Refused> {
        let redrive =
            move |node: Self| async move { node.begin_redrive(&topic, &asked, purge).await };
        self.detached(redrive).await
    }

    fn redrive_status(&self, topic: &str) -> Option<RedriveStatus> {
        self.redrive_of(topic)
    }

    fn stop_redrive(&self, topic: &str) {
        self.end_redrive(topic);
    }

    async fn record(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
    ) -> Result<RecordAccount, Refused> {
        self.record_account(&topic, partition, offset).await.map_err(as_refused)
    }

    async fn invocation(&self, id: String) -> Result<InvocationInfo, Refused> {
        self.invocation_info(&id).await.map_err(as_refused)
    }

    async fn tail(&self, asked: TailQuestion) -> Result<TailLines, Refused> {
        self.tail_lines(&asked).await.map_err(as_refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut state = cluster::State::default();
        for revision in ["abcd01234567", "abcd98765432", "ffff01234567"] {
            let function = cluster::Function {
                revision: revision.to_owned(),
                package: String::new(),
                spec: String::new(),
            };
            let app = cluster::App {
                functions: [("f".to_owned(), function)].into(),
                ..cluster::App::default()
            };
            let at = bus::Timestamp(0);
            let deploy = Command::Deploy { name: "a".to_owned(), app, expects: None, at };
            state.apply(&deploy).unwrap();
        }
        let alias = Command::Alias {
            name: "a".to_owned(),
            function: "f".to_owned(),
            alias: "stable".to_owned(),
            revision: Some("abcd98765432".to_owned()),
        };
        state.apply(&alias).unwrap();
        state.history("a", "f").unwrap().clone()
    }

    #[test]
    fn a_revision_is_meant_by_its_alias_its_number_or_its_start() {
        let history = history();
        let meant = |to: &str| resolve(&history, "f", to);
        assert_eq!(meant("stable").unwrap(), "abcd98765432");
        assert_eq!(meant("v1").unwrap(), "abcd01234567");
        assert_eq!(meant("abcd0").unwrap(), "abcd01234567");
        assert_eq!(meant("ffff01234567").unwrap(), "ffff01234567");
        assert_eq!(meant("abcd").unwrap_err().code, Some("E0507"));
        for bad in ["v4", "v", "fff", "", "ffff012345678", "Stable"] {
            assert_eq!(meant(bad).unwrap_err().code, Some("E0522"), "{bad}");
        }
    }

    #[test]
    fn an_alias_is_never_taken_for_a_revision() {
        for good in ["stable", "v1-final", "blue", "version2", "abcd"] {
            check_alias(good).unwrap();
        }
        for bad in ["", "v3", "Stable", "a/b", "abcd01234567", "a:b", "3"] {
            assert_eq!(check_alias(bad).unwrap_err().code, Some("E0527"), "{bad}");
        }
    }
}
