//! A backup that is restored: checked whole before anything is changed, then application by
//! application: it comes with all its triggers paused, gets its positions, and goes on.

use std::collections::{BTreeMap, BTreeSet};

use bus::{Commit, Epoch, Position, PositionMove, ShardId, Timestamp, TopicPartition};
use cluster::{App, Command, Function, History, Kept, Placing};
use function::{FunctionSpec, PackageDigest, Topic};
use gateway::api::{
    API, AppBackup, BACKUP_FORMAT, Elsewhere, FunctionBackup, Restore, Restored, RestoredApp,
};

use super::place::{self, Landing, Saved};
use crate::commands::error::{CommandError, exit};
use crate::node::converge::take;
use crate::node::restore::as_kept;
use crate::node::triggers::of_bus;
use crate::node::{DRAIN_PATIENCE, Node, topics, without_kafka};

/// Positions that are set at a time.
const AT_ONCE: usize = 16;
/// How often a shard that somebody else got meanwhile is taken again.
const TRIES: usize = 8;

/// An application of a backup that was understood.
struct Checked {
    name: String,
    functions: BTreeMap<String, Function>,
    histories: BTreeMap<String, History>,
    specs: Vec<FunctionSpec>,
    topics: Vec<Topic>,
    /// Since when each trigger is paused, if it is.
    triggers: BTreeMap<String, Option<Timestamp>>,
    /// By trigger and place.
    saved: Vec<(String, TopicPartition, Saved)>,
    /// The version that it had here; 0 = it was not there.
    version: u64,
}

/// A position that is to be set.
struct Target {
    shard: ShardId,
    trigger: String,
    place: TopicPartition,
    was: i64,
    landing: Landing,
}

impl Node {
    pub(super) async fn put_backup(&self, asked: Restore) -> Result<Restored, CommandError> {
        let _one = self.changing().await?;
        let backup = &asked.backup;
        if BACKUP_FORMAT < backup.format {
            let message = format!(
                "the backup has form {}, this node reads up to {BACKUP_FORMAT}",
                backup.format
            );
            return Err(CommandError::new(exit::CONFLICT, "E0582", message)
                .help("restore it with a newer node"));
        }
        if self.inner.shares_no_bus() {
            return Err(without_kafka());
        }
        let mut checked = Vec::new();
        for app in &backup.apps {
            checked.push(self.check_app(app)?);
        }
        let there: Vec<&str> =
            checked.iter().filter(|it| it.version != 0).map(|it| it.name.as_str()).collect();
        if !there.is_empty() && !asked.replace {
            let message = format!("there is an application {} already", there.join(", "));
            return Err(CommandError::new(exit::CONFLICT, "E0583", message)
                .help("`--replace` makes it what it was; or restore into another cluster"));
        }
        let mut missing = backup.packages();
        missing.retain(|it| {
            PackageDigest::parse(it).is_ok_and(|digest| !self.inner.packages.has(digest))
        });
        if asked.dry_run {
            let apps = checked.iter().map(summed).collect();
            return Ok(Restored { api: API, dry_run: true, missing, apps, elsewhere: Vec::new() });
        }
        if let Some(first) = missing.first() {
            let message = format!("package {first} is not on this node");
            return Err(CommandError::new(exit::CONFLICT, "E0524", message)
                .help("send it again: what no deploy names is not kept for long"));
        }
        self.make_ready(&checked, &backup.packages()).await?;
        let (mut apps, mut elsewhere) = (Vec::new(), Vec::new());
        for app in &checked {
            let one = self.put_app(app).await;
            elsewhere.extend(one.map_err(|error| after(error, &apps))?);
            apps.push(summed(app));
        }
        self.inner.packages.expect_no_more(digests(&backup.packages()).iter());
        self.sweep().await;
        Ok(Restored { api: API, dry_run: false, missing: Vec::new(), apps, elsewhere })
    }

    fn check_app(&self, app: &AppBackup) -> Result<Checked, CommandError> {
        let mut checked = Checked {
            name: app.name.clone(),
            functions: BTreeMap::new(),
            histories: BTreeMap::new(),
            specs: Vec::new(),
            topics: topics::restored(&app.topics),
            triggers: BTreeMap::new(),
            saved: Vec::new(),
            version: self.state(|state| state.version(&app.name)),
        };
        if checked.topics.len() != app.topics.len() {
            return Err(unsound(&app.name, "its topics are those of another version"));
        }
        let mut expected = BTreeSet::new();
        for function in &app.functions {
            let (history, runs) = history_of(&app.name, function)?;
            let (spec, _) = as_kept(&runs).map_err(|(code, message)| {
                CommandError::new(exit::CONFLICT, code, format!("{}: {message}", function.name))
            })?;
            if spec.name.as_str() != function.name {
                return Err(unsound(&app.name, "a function has the settings of another"));
            }
            let triggers = spec.triggers.iter();
            expected.extend(triggers.map(|it| format!("{}/{}/{}", app.name, spec.name, it.name)));
            checked.functions.insert(function.name.clone(), runs);
            checked.histories.insert(function.name.clone(), history);
            checked.specs.push(spec);
        }
        for trigger in &app.triggers {
            let since = trigger.paused_since.map(Timestamp);
            checked.triggers.insert(trigger.id.clone(), since);
            for it in &trigger.partitions {
                let Some(next) = it.next else { continue };
                let saved = Saved { next, settled: it.settled.clone() };
                if !place::is_sound(&saved) {
                    return Err(unsound(&app.name, "a position contradicts itself"));
                }
                let at = TopicPartition::new(it.topic.as_str(), it.partition.cast_signed());
                checked.saved.push((trigger.id.clone(), at, saved));
            }
        }
        if !checked.triggers.keys().eq(expected.iter()) {
            return Err(unsound(&app.name, "its triggers are not those of its functions"));
        }
        let made: BTreeSet<&str> = checked.topics.iter().map(|it| it.name.as_str()).collect();
        let read = checked.specs.iter().flat_map(|it| &it.triggers).flat_map(|it| &it.topics);
        for topic in read {
            if !made.contains(topic.as_str()) && self.inner.bus.topic(topic).is_none() {
                let message = format!("there is no topic {topic}, which {} reads", app.name);
                return Err(CommandError::new(exit::NOT_FOUND, "E0404", message)
                    .help("make it: `millrace topic create`"));
            }
        }
        Ok(checked)
    }

    /// Topics and packages: all that can fail before anything is agreed on.
    async fn make_ready(&self, all: &[Checked], packages: &[String]) -> Result<(), CommandError> {
        for app in all {
            self.make_topics(&app.name, &app.topics).await?;
            self.make_park_topics(&app.name, &app.specs).await?;
            self.make_history_topics(&app.name, &app.specs).await?;
        }
        if let Some(peers) = &self.inner.peers {
            peers.spread(digests(packages)).await?;
        }
        Ok(())
    }

    /// Where partitions go on that do not go on where they were.
    async fn put_app(&self, app: &Checked) -> Result<Vec<Elsewhere>, CommandError> {
        let put = self.put_paused(app).await;
        let Err(error) = put else { return put };
        if app.version != 0 {
            let message = format!("{}; the triggers of {} are paused", error.message, app.name);
            let help = "restore it again with --replace, or resume them: `millrace trigger list`";
            return Err(CommandError { message, ..error }.help(help));
        }
        let removed = self.append(Command::Remove { name: app.name.clone() }).await;
        self.converge(&mut *self.inner.apps.lock().await).await;
        let left = match removed {
            Ok(()) => "was taken out again",
            Err(_) => "is there, and its triggers are paused",
        };
        Err(CommandError { message: format!("{}; {} {left}", error.message, app.name), ..error })
    }

    async fn put_paused(&self, app: &Checked) -> Result<Vec<Elsewhere>, CommandError> {
        let now = Timestamp::now();
        let triggers = app.specs.iter().flat_map(|spec| self.triggers(&app.name, spec)).collect();
        let paused = app.triggers.iter().map(|(id, since)| (id.clone(), since.unwrap_or(now)));
        let command = Command::Restore {
            name: app.name.clone(),
            app: App {
                functions: app.functions.clone(),
                triggers,
                topics: topics::stored(&app.topics),
            },
            histories: app.histories.clone(),
            paused: paused.collect(),
            expects: Some(app.version),
        };
        let mut apps = self.inner.apps.lock().await;
        let loose = self.append_and_loosen(command).await?;
        self.settle(&mut apps, &app.name, loose).await;
        let targets = self.landings(app).await?;
        // Nobody starts them again meanwhile.
        let ran = targets.iter().filter_map(|target| take(&mut apps, target.shard));
        let drains: Vec<_> = ran.map(|it| it.drain(DRAIN_PATIENCE)).collect();
        futures::future::join_all(drains).await;
        self.inner.groups.learn_all(&self.inner.cluster.state());
        self.set_positions(&targets).await?;
        for (trigger, _) in app.triggers.iter().filter(|(_, since)| since.is_none()) {
            self.append(Command::Resume { trigger: trigger.clone() }).await?;
        }
        self.converge(&mut apps).await;
        tracing::info!(app = app.name, positions = targets.len(), "restored from a backup");
        let moved = targets.into_iter().filter_map(|it| {
            Some(Elsewhere {
                trigger: it.trigger,
                topic: it.place.topic.to_string(),
                partition: it.place.partition.cast_unsigned(),
                next: it.was,
                to: it.landing.next.0,
                why: it.landing.why?.to_owned(),
            })
        });
        Ok(moved.collect())
    }

    /// Where each partition goes on that has a position.
    async fn landings(&self, app: &Checked) -> Result<Vec<Target>, CommandError> {
        let state = self.inner.cluster.state();
        let mut targets = Vec::new();
        for (trigger, place, saved) in &app.saved {
            let is_it = |it: &cluster::Shard| {
                it.trigger == *trigger
                    && *it.topic == *place.topic
                    && it.partition.cast_signed() == place.partition
            };
            // A topic of fewer partitions than there were: what lay there is not here.
            let Some((shard, _)) = state.shards().iter().find(|(_, it)| is_it(it)) else {
                continue;
            };
            let marks = self.inner.bus.watermarks(place).await.map_err(|error| of_bus(&error))?;
            targets.push(Target {
                shard: *shard,
                trigger: trigger.clone(),
                place: place.clone(),
                was: saved.next,
                landing: place::land(saved, marks),
            });
        }
        Ok(targets)
    }

    /// Takes the shards, and commits their positions for whoever owns them next. The planner may
    /// give one away meanwhile: it is taken again.
    async fn set_positions(&self, targets: &[Target]) -> Result<(), CommandError> {
        let mut left: Vec<&Target> = targets.iter().collect();
        let mut failed = None;
        for _try in 0..TRIES {
            if left.is_empty() {
                break;
            }
            let (state, to) = (self.inner.cluster.state(), self.inner.cluster.me());
            let moves = left.iter().filter_map(|it| {
                let ends = state.shards().get(&it.shard)?.epoch;
                Some(Placing { shard: it.shard, ends, to })
            });
            self.append(Command::Assign { moves: moves.collect() }).await?;
            let state = self.inner.cluster.state();
            let mut again = Vec::new();
            for some in left.chunks(AT_ONCE) {
                let mut setting = Vec::new();
                for target in some {
                    let shard = state.shards().get(&target.shard);
                    let mine = shard.filter(|shard| shard.owner == Some(to));
                    setting.push(self.set_position(target, mine.map(|it| it.epoch)));
                }
                let set = futures::future::join_all(setting).await;
                for (target, set) in some.iter().zip(set) {
                    match set {
                        Ok(()) => {}
                        Err(error @ bus::Error::Fenced { .. }) => {
                            failed = Some(error);
                            again.push(*target);
                        }
                        Err(error) => return Err(of_bus(&error)),
                    }
                }
            }
            left = again;
        }
        match failed.filter(|_| !left.is_empty()) {
            Some(error) => Err(of_bus(&error)),
            None => {
                let shards: Vec<ShardId> = targets.iter().map(|it| it.shard).collect();
                self.inner.bus.release(&shards).await.map_err(|error| of_bus(&error))
            }
        }
    }

    async fn set_position(&self, target: &Target, epoch: Option<Epoch>) -> Result<(), bus::Error> {
        let (bus, shard) = (&self.inner.bus, target.shard);
        let Some(epoch) = epoch else {
            let newest = self.state(|state| state.shards().get(&shard).map(|it| it.epoch));
            let newest = newest.unwrap_or_default();
            return Err(bus::Error::Fenced { shard, presented: newest, current: newest });
        };
        match bus.recover(shard, epoch).await {
            // The position is one of a topic that is gone: that is what the backup decides.
            Err(bus::Error::TopicRecreated { .. }) => {
                bus.forget_shard(shard).await?;
                bus.recover(shard, epoch).await?;
            }
            recovered => drop(recovered?),
        }
        let Landing { next, completions, .. } = target.landing.clone();
        let position = Position { epoch, next, completions, suspects: None };
        let positions = vec![PositionMove { partition: target.place.clone(), position }];
        let (appends, settles) = (Vec::new(), Vec::new());
        bus.commit(Commit { shard, epoch, appends, settles, positions }).await.map(drop)
    }
}

fn history_of(app: &str, it: &FunctionBackup) -> Result<(History, Function), CommandError> {
    let kept = it.revisions.iter().map(|of| Kept {
        number: of.number,
        function: Function {
            revision: of.revision.clone(),
            package: of.package.clone(),
            spec: of.spec.clone(),
        },
        at: Timestamp(of.at),
        before: of.before.clone(),
    });
    if it.revisions.iter().any(|it| PackageDigest::parse(&it.package).is_err()) {
        return Err(unsound(app, "a package has no digest"));
    }
    let history = History::restored(kept.collect(), it.aliases.clone());
    let history = history.ok_or_else(|| unsound(app, "its revisions contradict each other"))?;
    let runs = history.find(&it.runs).map(|it| it.function.clone());
    let runs = runs.ok_or_else(|| unsound(app, "the revision in force is not in it"))?;
    Ok((history, runs))
}

fn digests(packages: &[String]) -> BTreeSet<PackageDigest> {
    packages.iter().filter_map(|it| PackageDigest::parse(it).ok()).collect()
}

fn summed(app: &Checked) -> RestoredApp {
    RestoredApp {
        name: app.name.clone(),
        replaced: app.version != 0,
        functions: app.functions.len(),
        triggers: app.triggers.len(),
        paused: app.triggers.values().filter(|it| it.is_some()).count(),
        positions: app.saved.len(),
    }
}

fn unsound(app: &str, why: &str) -> CommandError {
    let message = format!("the backup of {app} cannot be used: {why}");
    CommandError::new(exit::CONFLICT, "E0581", message)
        .help("take another backup; nothing was changed")
}

/// What was done before it failed.
fn after(error: CommandError, done: &[RestoredApp]) -> CommandError {
    if done.is_empty() {
        return error;
    }
    let names: Vec<&str> = done.iter().map(|it| it.name.as_str()).collect();
    let message = format!("{}; restored before it: {}", error.message, names.join(", "));
    CommandError { message, ..error }
}
