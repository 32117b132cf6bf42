//! Brings what runs on this node to what the cluster's state says, whenever that changes: who
//! deploys, pauses or moves a shard changes the state, here or at another node, and this follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bus::{Epoch, ShardId, Timestamp};
use cluster::reconcile::{self, Action, Scene};
use cluster::{Command, Placing, State};
use tokio::sync::Semaphore;

use super::prepare::Ready;
use super::restore::as_kept;
use super::running::{Apps, RunningApp, RunningFunction, RunningShard};
use super::{DRAIN_PATIENCE, Inner, Node};

/// Shards that start at the same time, of those that ask the bus where to begin.
const STARTS_MAX: usize = 64;

/// Rounds in which a change is carried out: what ends is assigned anew, what is assigned starts.
const ROUNDS_MAX: usize = 8;

/// How soon what failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long whoever deploys waits until somebody owns its shards.
const PLACED_WITHIN: Duration = Duration::from_secs(3);

/// What this node knows of what it is to run, beside the state.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    /// The newest epoch at which it ran each shard, in this process or one before; `None` until
    /// that is known.
    used: Option<BTreeMap<ShardId, Epoch>>,
    /// Applications that wait for the deploy of their folder.
    held: BTreeSet<String>,
    /// By application and function: what is ready to take over.
    ready: BTreeMap<(String, String), Ready>,
    /// Shards that are handed over.
    leaving: BTreeSet<ShardId>,
    /// When something is tried again.
    again_at: Option<Instant>,
}

impl Ownership {
    /// From here on the node runs what is its own: `used` says what it ran before. Applications
    /// that are `held` are left out until they are deployed.
    pub(super) fn begin(&mut self, used: BTreeMap<ShardId, Epoch>, held: BTreeSet<String>) {
        (self.used, self.held) = (Some(used), held);
    }

    pub(super) const fn has_begun(&self) -> bool {
        self.used.is_some()
    }

    pub(super) fn is_held(&self, app: &str) -> bool {
        self.held.contains(app)
    }

    pub(super) fn deployed(&mut self, app: &str, ready: BTreeMap<String, Ready>) {
        self.held.remove(app);
        for (function, ready) in ready {
            self.is_ready(app, &function, ready);
        }
    }

    pub(super) fn is_ready(&mut self, app: &str, function: &str, ready: Ready) {
        self.ready.insert((app.to_owned(), function.to_owned()), ready);
    }

    /// Something failed that may work later.
    fn again(&mut self) {
        self.again_at = Some(Instant::now() + AGAIN_AFTER);
    }

    pub(super) fn has_left(&mut self, shards: &[ShardId]) {
        for shard in shards {
            self.leaving.remove(shard);
        }
    }
}

impl Inner {
    pub(super) fn ownership(&self) -> MutexGuard<'_, Ownership> {
        self.ownership.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Follows the cluster's state until the node ends.
    pub(super) async fn follow(self) {
        let mut changes = self.inner.cluster.changes();
        let mut named = BTreeSet::new();
        loop {
            let again_at = {
                let retry_at = self.inner.preparing().next_at();
                self.inner.ownership().again_at.into_iter().chain(retry_at).min()
            };
            let again = tokio::time::sleep_until(again_at.unwrap_or_else(Instant::now).into());
            tokio::select! {
                () = self.inner.over.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = self.inner.wake.notified() => {}
                () = again, if again_at.is_some() => {}
            }
            if !self.inner.ownership().has_begun() {
                continue;
            }
            self.inner.bus.share(self.has_others());
            let mut apps = self.inner.apps.lock().await;
            self.inner.ownership().again_at = None;
            self.converge(&mut apps).await;
            self.prepare_missing(&apps);
            drop(apps);
            let needed = self.state(State::packages);
            // Whoever changes something may have kept a package that nothing names yet.
            if needed != named
                && let Ok(_one) = self.inner.changes.try_lock()
            {
                self.sweep().await;
                named = needed;
            }
        }
    }

    /// What a change of an application leads to, as far as it concerns this node. `loose` are
    /// shards that are no more.
    pub(super) async fn settle(&self, apps: &mut Apps, app: &str, loose: Vec<ShardId>) {
        let running: BTreeSet<ShardId> = running_shards(apps).map(|it| it.id).collect();
        self.forget(loose.into_iter().filter(|id| !running.contains(id)).collect()).await;
        let mut changes = self.inner.cluster.changes();
        let until = tokio::time::Instant::now() + PLACED_WITHIN;
        loop {
            changes.borrow_and_update();
            self.place().await;
            self.converge(apps).await;
            let prefix = format!("{app}/");
            let is_placed = self.state(|state| {
                let mut mine = state.shards().values().filter(|it| it.trigger.starts_with(&prefix));
                mine.all(|it| it.owner.is_some())
            });
            if is_placed || tokio::time::timeout_at(until, changes.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Makes what runs here what the state says.
    pub(super) async fn converge(&self, apps: &mut Apps) {
        for _round in 0..ROUNDS_MAX {
            if self.inner.over.is_cancelled() {
                return;
            }
            let state = self.inner.cluster.state();
            self.inner.groups.learn_all(&state);
            self.take_away(apps, &state).await;
            self.take_over(apps, &state).await;
            let actions = self.actions(apps, &state);
            if !self.carry_out(apps, &state, actions).await {
                break;
            }
        }
        let state = self.inner.cluster.state();
        for shard in running_shards(apps) {
            shard.handle.set_paused(state.paused().contains_key(&shard.status.trigger));
        }
        self.inner.inheritance.sweep();
        self.show(apps);
    }

    /// Ends functions that are no more, and those that others run now, because they name labels that
    /// this node lacks.
    async fn take_away(&self, apps: &mut Apps, state: &State) {
        let is_there = |app: &str, function: &str, running: &RunningFunction| {
            let known = state.apps().get(app).and_then(|app| app.functions.get(function));
            let is_ours = |known: &cluster::Function| {
                !running.shards.is_empty()
                    || *running.revision == *known.revision
                    || as_kept(known).is_ok_and(|(spec, _)| self.inner.lacking(&spec).is_empty())
            };
            known.is_some_and(is_ours)
        };
        let mut gone = Vec::new();
        for (name, app) in apps.iter_mut() {
            let stale = app.functions.iter().filter(|(function, it)| !is_there(name, function, it));
            let names: Vec<String> = stale.map(|(function, _)| function.clone()).collect();
            gone.extend(names.iter().filter_map(|function| app.functions.remove(function)));
        }
        apps.retain(|name, _| state.apps().contains_key(name));
        let ended = futures::future::join_all(gone.into_iter().map(RunningFunction::drain)).await;
        let ended = ended.into_iter().flatten();
        self.forget(ended.filter(|id| !state.shards().contains_key(id)).collect()).await;
    }

    /// Forgets the positions of shards that are no more and have ended.
    async fn forget(&self, shards: Vec<ShardId>) {
        for shard in shards {
            if let Err(error) = self.inner.bus.forget_shard(shard).await {
                tracing::warn!(%shard, %error, "the positions of a trigger that is gone stay");
            }
        }
    }

    /// Runs revisions that are ready: shards that go on as they are get them handed, the others
    /// end, and are begun anew.
    async fn take_over(&self, apps: &mut Apps, state: &State) {
        let ready = std::mem::take(&mut self.inner.ownership().ready);
        let mut drains = Vec::new();
        let mut pools = Vec::new();
        for ((app, function), ready) in ready {
            let known = state.apps().get(&app).and_then(|it| it.functions.get(&function));
            if known.is_none_or(|known| *known.revision != *ready.revision) {
                // Another took its place meanwhile.
                pools.push(ready.pool);
                continue;
            }
            let running = &mut apps.entry(app).or_default().functions;
            let before = running.remove(&function);
            let is_same = before.as_ref().is_some_and(|it| it.revision == ready.revision);
            let since = before.as_ref().filter(|_| is_same).map(|it| it.since);
            let mut after = RunningFunction::new(ready, since.unwrap_or_else(Timestamp::now));
            if let Some(before) = before {
                let goes_on = before.has_settings_of(&after.spec);
                for shard in before.shards {
                    // One that has stopped is tried anew.
                    if goes_on && shard.stopped().is_none() {
                        shard.handle.set_revision(after.runs.clone());
                        after.shards.push(shard);
                    } else {
                        drains.push(shard.drain(DRAIN_PATIENCE));
                    }
                }
                if !is_same {
                    pools.push(before.pool);
                }
            }
            running.insert(function, after);
        }
        futures::future::join_all(drains).await;
        for pool in pools {
            // What runs on the old revision ends there.
            drop(tokio::spawn(async move { pool.drain().await }));
        }
    }

    fn actions(&self, apps: &Apps, state: &State) -> Vec<Action> {
        let present = running_shards(apps).map(|it| (it.id, it.epoch())).collect();
        let can_run = |trigger: &str| function_of(apps, trigger).is_some();
        let ownership = self.inner.ownership();
        let Ownership { used: Some(used), leaving, .. } = &*ownership else { return Vec::new() };
        let (me, shards) = (self.inner.cluster.me(), state.shards());
        reconcile::actions(Scene { me, shards, present: &present, leaving, used }, can_run)
    }

    /// Whether there may be more to do then.
    async fn carry_out(&self, apps: &mut Apps, state: &State, actions: Vec<Action>) -> bool {
        let (mut cut, mut ended, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
        let (mut leaving, mut renewed, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Fence(id, epoch) => {
                    // What is on its way out ends by this alone.
                    self.inner.bus.fence(id, epoch);
                    if let Some(shard) = take(apps, id) {
                        tracing::warn!(shard = %id, %epoch, "the shard is another node's now");
                        cut.push(shard);
                    }
                }
                Action::End(id) => ended.extend(take(apps, id)),
                Action::Forget(id) => {
                    forgotten.push(id);
                    ended.extend(take(apps, id));
                }
                Action::HandOver { shard, ends, .. } => {
                    self.inner.ownership().leaving.insert(shard);
                    leaving.push((shard, ends, take(apps, shard)));
                }
                Action::Renew(shard, ends) => {
                    renewed.push(Placing { shard, ends, to: self.inner.cluster.me() });
                }
                Action::Start(id, _) => starts.push(id),
            }
        }
        if !leaving.is_empty() {
            drop(tokio::spawn(self.clone().hand_over(leaving)));
        }
        futures::future::join_all(cut.into_iter().map(|it| it.drain(Duration::ZERO))).await;
        let is_not_over = !ended.is_empty() || !renewed.is_empty();
        futures::future::join_all(ended.into_iter().map(|it| it.drain(DRAIN_PATIENCE))).await;
        self.forget(forgotten).await;
        if !renewed.is_empty()
            && let Err(error) = self.append(Command::Assign { moves: renewed }).await
        {
            tracing::warn!(error = error.message, "could not assign shards anew: trying again");
            self.inner.ownership().again();
            return false;
        }
        self.start_all(apps, state, starts).await;
        is_not_over
    }

    /// Those that were handed over ask for nothing, and wait for nobody. Those whose partition was
    /// added come last: they look at the others.
    async fn start_all(&self, apps: &mut Apps, state: &State, starts: Vec<ShardId>) {
        let known = starts.iter().filter_map(|id| Some((*id, state.shards().get(id)?.clone())));
        let (grown, first): (Vec<_>, Vec<_>) = known.partition(|(_, shard)| shard.grown);
        for wave in [first, grown] {
            let (seen, asks) = (&*apps, &Semaphore::new(STARTS_MAX));
            let start = |(id, shard): (ShardId, cluster::Shard)| async move {
                let function = function_of(seen, &shard.trigger)?;
                if let Some(used) = &mut self.inner.ownership().used {
                    used.insert(id, shard.epoch);
                }
                let handed = self.inner.inheritance.take(id, shard.epoch).await;
                let _turn = if handed.is_none() { asks.acquire().await.ok() } else { None };
                self.start_shard(id, shard, function, &function.shards, handed).await
            };
            let started = futures::future::join_all(wave.into_iter().map(start)).await;
            for shard in started.into_iter().flatten() {
                let (app, function) = super::triggers::owner(&shard.status.trigger);
                let running = apps.get_mut(app).and_then(|app| app.functions.get_mut(function));
                if let Some(running) = running {
                    let at = running.shards.partition_point(|it| it.id < shard.id);
                    running.shards.insert(at, shard);
                }
            }
        }
    }
}

pub(super) fn running_shards(apps: &Apps) -> impl Iterator<Item = &RunningShard> {
    apps.values().flat_map(|app| app.functions.values()).flat_map(|function| &function.shards)
}

/// The running function of a trigger, if it has the trigger.
fn function_of<'a>(apps: &'a Apps, trigger: &str) -> Option<&'a RunningFunction> {
    let (app, function) = super::triggers::owner(trigger);
    let function = apps.get(app)?.functions.get(function)?;
    function.trigger(trigger).map(|_| function)
}

/// Takes a shard out of what runs.
pub(super) fn take(apps: &mut Apps, id: ShardId) -> Option<RunningShard> {
    let functions = apps.values_mut().flat_map(|app: &mut RunningApp| app.functions.values_mut());
    functions.into_iter().find_map(|function| {
        let at = function.shards.iter().position(|it| it.id == id)?;
        Some(function.shards.remove(at))
    })
}
