//! A pure core: the replicated state, and what each command makes of it.
//!
//! The same commands in the same order give the same state on every node; a command is applied
//! whole, or refused by name and changes nothing.
//!
//! Invariants, checked by the model test:
//!
//! - **RS-1** a shard's epoch grows by one with every assignment and never decreases.
//! - **RS-2** a shard id is never reused, and a (trigger, topic, partition) has one as long as its
//!   trigger exists.
//! - **RS-3** a revision's name always means the same package and settings, as long as it is kept.
//! - **RS-4** a refused command changes nothing.
//! - **RS-5** every shard belongs to a trigger that exists.
//! - **RS-6** what runs, what ran before it and what an alias names is kept; beside that at most the
//!   newest [`REVISIONS_MAX`] of a function are. Packages are needed for those that are kept alone.
//! - **RS-7** an application's version grows with every change of what it is, and no version is
//!   ever used twice; a command that expects another version is refused.
//! - **RS-8** only a trigger that exists is paused, and it stays so until it is resumed or gone.
//! - **RS-9** redrives of a topic have one shard id, never a trigger's, and each gets an epoch
//!   above the one before.
//! - **RS-10**, **RS-11** about members: roster.rs; **RS-12** about join tokens: tokens.rs;
//!   **RS-13** about what is proposed twice: answered.rs; **RS-14**, **RS-15** about owners: owners.rs;
//!   **RS-16** about tokens of subscribers: subscribers.rs; **RS-17** to **RS-19** about CAs:
//!   authorities.rs; **RS-20** about formats: upgrade.rs.

mod alone;
mod answered;
mod authorities;
mod former;
mod history;
mod owners;
mod refused;
mod roster;
mod subscribers;
mod tokens;
mod upgrade;

use std::collections::{BTreeMap, BTreeSet};

use bus::{Epoch, ShardId, Timestamp};
use serde::{Deserialize, Serialize};

pub use answered::Answered;
pub use authorities::{Authorities, Ca, CaChange, Rotation, Stage};
pub(crate) use former::{Alone, Former, Named, Unfollowed, Unrotated, Unversioned};
pub use history::{History, Kept, REVISIONS_MAX};
pub use owners::Placing;
pub use refused::Refused;
pub use roster::{Member, MemberChange, Role, Roster, Spent};
pub use subscribers::{SubscriberChange, SubscriberToken, Subscribers};
pub use tokens::Tokens;
#[cfg(feature = "next-version")]
pub use upgrade::Notes;

use crate::format::Formats;
use crate::group::RequestId;
use crate::members::Change;

/// One function of an application, at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// The revision: immutable, named by its content.
    pub revision: String,
    /// The package's digest.
    pub package: String,
    /// Its settings, as JSON: opaque here.
    pub spec: String,
}

/// What a function reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// The function's name.
    pub function: String,
    /// The topics, with how many partitions each has.
    pub topics: BTreeMap<String, u32>,
}

/// An application as it was deployed last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// By name.
    pub functions: BTreeMap<String, Function>,
    /// By id: app/function/name.
    pub triggers: BTreeMap<String, Trigger>,
    /// The topics that it needs: name -> settings, as JSON: opaque here.
    pub topics: BTreeMap<String, String>,
}

/// The unit of ownership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The trigger's id.
    pub trigger: String,
    /// What it reads.
    pub topic: String,
    /// Of that topic.
    pub partition: u32,
    /// Whether its trigger read the topic before it had this partition: keys moved to it then, and
    /// it is read from its start whatever the trigger's `start` says.
    pub grown: bool,
    /// How often it was assigned; 0 = never.
    pub epoch: Epoch,
    /// The member that has it.
    pub owner: Option<u64>,
    /// The member that its owner is to hand it to.
    pub target: Option<u64>,
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The application is this from now on: functions and triggers that it had and has no more
    /// go, with their shards; triggers it keeps keep theirs, so that positions stay.
    Deploy {
        /// Its name.
        name: String,
        /// All of it.
        app: App,
        /// The version it must have now, if that matters; 0 = it must not be there.
        expects: Option<u64>,
        /// When, for people.
        at: Timestamp,
    },
    /// The application is gone, with its shards, revisions and aliases.
    Remove {
        /// Its name.
        name: String,
    },
    /// As [`Command::Assign`], in logs of versions whose nodes were alone: the owner is member 1,
    /// whatever its name. Nobody proposes it any more.
    AssignByName {
        /// Which shards; each once.
        shards: Vec<ShardId>,
        /// Who.
        owner: String,
    },
    /// A function is a revision that is kept again, with the triggers of that revision. The order
    /// of revisions stays as it is.
    Rollback {
        /// The application.
        name: String,
        /// Which of its functions.
        function: String,
        /// The revision.
        revision: String,
        /// Its triggers by id: all of them.
        triggers: BTreeMap<String, Trigger>,
        /// As for a deploy.
        expects: Option<u64>,
    },
    /// An alias names this revision from now on.
    Alias {
        /// The application.
        name: String,
        /// Which of its functions.
        function: String,
        /// The alias.
        alias: String,
        /// The revision; `None` takes the alias away.
        revision: Option<String>,
    },
    /// A trigger takes no records from now on, on whichever node, until it is resumed.
    Pause {
        /// Its id.
        trigger: String,
        /// When, for people.
        at: Timestamp,
    },
    /// A trigger goes on.
    Resume {
        /// Its id.
        trigger: String,
    },
    /// Dead letters of this topic are about to be put back, or records of a trigger run again:
    /// whoever did so before is fenced.
    Redrive {
        /// The topic of dead letters, or `replay/` and the trigger.
        topic: String,
    },
    /// A node of the cluster comes, changes or goes.
    Member {
        /// Its id.
        member: u64,
        /// How.
        change: MemberChange,
    },
    /// A join token was made.
    Token {
        /// What is kept of it.
        hash: [u8; 32],
        /// When it was made, Unix seconds.
        at: u64,
        /// When it is of no use any more.
        until: u64,
    },
    /// Shards get owners, each at a new epoch.
    Assign {
        /// Each shard once.
        moves: Vec<Placing>,
    },
    /// Owners are to hand these shards over; to an owner itself: it keeps it.
    Hand {
        /// Each shard once.
        moves: Vec<Placing>,
    },
    /// A member cannot run a function, or can again.
    Unfit {
        /// Its id.
        member: u64,
        /// `app/function`.
        function: String,
        /// The revision that it cannot run.
        revision: Option<String>,
    },
    /// A member's process is about to end, or does not reach the bus: until it starts again, or is
    /// ready again, it gives away its shards.
    Stop {
        /// Its id.
        member: u64,
    },
    /// A member's process that has started, or reaches the bus again, is ready to run shards.
    Ready {
        /// Its id.
        member: u64,
    },
    /// The application is what it was when it was backed up, with its revisions and aliases. All of
    /// its triggers are paused, so that they get their positions before they run.
    Restore {
        /// Its name.
        name: String,
        /// All of it.
        app: App,
        /// What is kept of each of its functions.
        histories: BTreeMap<String, History>,
        /// All of its triggers, since when they are paused.
        paused: BTreeMap<String, Timestamp>,
        /// As for a deploy.
        expects: Option<u64>,
    },
    /// The token of a subscriber is made or revoked.
    Subscriber {
        /// The token's id.
        id: u32,
        /// What becomes of it.
        change: SubscriberChange,
    },
    /// A CA takes the place of another, step by step.
    Ca {
        /// Which step.
        change: CaChange,
    },
    /// The build that a member runs since its last start reads these formats.
    Reads {
        /// Its id.
        member: u64,
        /// Which.
        formats: Formats,
    },
    /// What is written is of this format from now on, and no build takes part that does not read it.
    Raise {
        /// Which.
        format: u8,
    },
    /// A member has started under a format that has notes.
    #[cfg(feature = "next-version")]
    Note {
        /// Its id.
        member: u64,
        /// Which start.
        incarnation: u64,
    },
}

/// Who puts back the dead letters of a topic: its position there says which are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriver {
    /// Under which the bus knows it.
    pub shard: ShardId,
    /// How often dead letters of the topic were put back.
    pub epoch: Epoch,
}

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Shards that are new.
    pub added: Vec<ShardId>,
    /// Shards that are no more.
    pub removed: Vec<ShardId>,
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    apps: BTreeMap<String, App>,
    /// Of the applications there are; each from 1.
    versions: BTreeMap<String, u64>,
    /// The newest version of all.
    version: u64,
    /// (app, function) -> what is kept of it; of the functions there are.
    histories: BTreeMap<(String, String), History>,
    shards: BTreeMap<ShardId, Shard>,
    next_shard: u64,
    /// Triggers that take no records, since when.
    paused: BTreeMap<String, Timestamp>,
    /// By topic of dead letters.
    redrivers: BTreeMap<String, Redriver>,
    roster: Roster,
    tokens: Tokens,
    answered: Answered,
    /// (member, app/function) -> the revision that it cannot run.
    unfit: BTreeMap<(u64, String), String>,
    /// Members whose process is about to end.
    stopping: BTreeSet<u64>,
    /// Members whose process has started and is not ready yet.
    starting: BTreeSet<u64>,
    subscribers: Subscribers,
    authorities: Authorities,
    upgrade: upgrade::Upgrade,
    /// Behind the others in a checkpoint, of formats that have it.
    #[cfg(feature = "next-version")]
    #[serde(skip)]
    notes: Notes,
}

impl State {
    /// Applies a command, or refuses it and changes nothing (RS-4).
    ///
    /// # Errors
    ///
    /// [`Refused`], by name.
    pub fn apply(&mut self, command: &Command) -> Result<Applied, Refused> {
        match command {
            Command::Deploy { name, app, expects, at } => {
                self.check_version(name, *expects)?;
                self.check(name, app)?;
                self.keep_revisions(name, app, *at);
                Ok(self.become_app(name, app.clone()))
            }
            Command::Remove { name } => {
                if self.apps.remove(name).is_none() {
                    return Err(Refused::UnknownApp(name.clone()));
                }
                self.versions.remove(name);
                self.histories.retain(|(app, _), _| app != name);
                let prefix = format!("{name}/");
                self.paused.retain(|it, _| !it.starts_with(&prefix));
                self.forget_unfit();
                Ok(Applied {
                    removed: self.drop_shards(|it| it.starts_with(&prefix)),
                    ..Applied::default()
                })
            }
            Command::AssignByName { shards, .. } => {
                if let Some(unknown) = shards.iter().find(|it| !self.shards.contains_key(it)) {
                    return Err(Refused::UnknownShard(*unknown));
                }
                for id in shards {
                    let shard = self.shards.get_mut(id).expect("it was looked up above");
                    shard.epoch = Epoch(shard.epoch.0 + 1);
                    shard.owner = Some(former::ALONE);
                }
                Ok(Applied::default())
            }
            Command::Rollback { name, function, revision, triggers, expects } => {
                self.check_version(name, *expects)?;
                self.roll_back(name, function, revision, triggers)
            }
            Command::Alias { name, function, alias, revision } => {
                self.alias(name, function, alias, revision.as_deref())
            }
            Command::Pause { trigger, at } => {
                self.check_trigger(trigger)?;
                self.paused.entry(trigger.clone()).or_insert(*at);
                Ok(Applied::default())
            }
            Command::Resume { trigger } => {
                self.check_trigger(trigger)?;
                self.paused.remove(trigger);
                Ok(Applied::default())
            }
            Command::Redrive { topic } => {
                match self.redrivers.get_mut(topic) {
                    Some(known) => known.epoch = Epoch(known.epoch.0 + 1),
                    None => {
                        self.next_shard += 1;
                        let shard = ShardId(self.next_shard);
                        let redriver = Redriver { shard, epoch: Epoch(1) };
                        self.redrivers.insert(topic.clone(), redriver);
                    }
                }
                Ok(Applied::default())
            }
            Command::Member { member, change } => {
                let spent = match change {
                    MemberChange::Join { token, .. } => token.as_ref(),
                    _ => None,
                };
                spent.map_or(Ok(()), |token| self.tokens.check(token))?;
                self.roster.apply(*member, change)?;
                if let Some(token) = spent {
                    self.tokens.spend(token);
                }
                if let MemberChange::Start { .. } = change {
                    self.stopping.remove(member);
                    self.starting.insert(*member);
                    // It may be another build.
                    self.upgrade.forget(*member);
                    // What it could not run may be what ended it: this process says so anew.
                    self.unfit.retain(|(id, _), _| id != member);
                }
                Ok(Applied::default())
            }
            Command::Token { hash, at, until } => {
                self.tokens.mint(*hash, *at, *until)?;
                Ok(Applied::default())
            }
            Command::Assign { moves } => {
                self.assign(moves);
                Ok(Applied::default())
            }
            Command::Hand { moves } => {
                self.hand(moves);
                Ok(Applied::default())
            }
            Command::Unfit { member, function, revision } => {
                self.mark_unfit(*member, function, revision.as_deref());
                self.forget_unfit();
                Ok(Applied::default())
            }
            Command::Stop { member } => {
                self.stopping.insert(*member);
                Ok(Applied::default())
            }
            Command::Ready { member } => {
                self.starting.remove(member);
                self.stopping.remove(member);
                Ok(Applied::default())
            }
            Command::Restore { name, app, histories, paused, expects } => {
                self.check_version(name, *expects)?;
                self.check_triggers(app)?;
                for (function, it) in &app.functions {
                    let known =
                        histories.get(function).and_then(|it_was| it_was.find(&it.revision));
                    if known.is_none_or(|known| known.function != *it) {
                        let (function, revision) = (function.clone(), it.revision.clone());
                        return Err(Refused::UnknownRevision { function, revision });
                    }
                }
                self.histories.retain(|(it, _), _| it != name);
                let kept = histories.iter().filter(|(it, _)| app.functions.contains_key(*it));
                let kept = kept.map(|(it, history)| ((name.clone(), it.clone()), history.clone()));
                self.histories.extend(kept);
                let applied = self.become_app(name, app.clone());
                let paused = paused.iter().filter(|(it, _)| app.triggers.contains_key(*it));
                self.paused.extend(paused.map(|(id, at)| (id.clone(), *at)));
                Ok(applied)
            }
            Command::Subscriber { id, change } => {
                let applied = self.subscribers.apply(*id, change)?;
                if let SubscriberChange::Make(_) = change {
                    let kept = self.subscribers.tokens();
                    self.authorities.note_token(*id, |id| kept.contains_key(&id));
                }
                Ok(applied)
            }
            Command::Ca { change } => {
                let tokens = self.subscribers.tokens().keys().copied();
                self.authorities.apply(change, &self.roster, tokens)
            }
            Command::Reads { member, formats } => self.note_reads(*member, *formats),
            Command::Raise { format } => self.raise_format(*format),
            #[cfg(feature = "next-version")]
            Command::Note { member, incarnation } => {
                self.notes.insert(*member, *incarnation);
                Ok(Applied::default())
            }
        }
    }

    /// Applies a command that was asked for by `request`; `None` if it was applied before (RS-13).
    pub fn apply_once(
        &mut self,
        request: RequestId,
        command: &Command,
    ) -> Option<Result<Applied, Refused>> {
        self.answered.note(request).then(|| self.apply(command))
    }

    /// The group has agreed on this change of who belongs to it. What it tells of a member that
    /// there is not, or not any more, changes nothing.
    pub fn change_members(&mut self, change: Change) {
        let (member, change) = match change {
            // It learns since it joined.
            Change::AddLearner(_) => return,
            Change::Promote(id) => (id, MemberChange::Promote),
            Change::Remove(id) => (id, MemberChange::Remove),
        };
        if change == MemberChange::Remove {
            self.stopping.remove(&member);
            self.starting.remove(&member);
        }
        drop(self.roster.apply(member, &change));
    }

    /// Which requests were applied.
    #[must_use]
    pub const fn answered(&self) -> &Answered {
        &self.answered
    }

    /// The join tokens that were made.
    #[must_use]
    pub const fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The tokens of subscribers.
    #[must_use]
    pub const fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }

    /// The CAs of the cluster.
    #[must_use]
    pub const fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// The nodes that the cluster has and had.
    #[must_use]
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Triggers that take no records, by id, with when they were paused.
    #[must_use]
    pub const fn paused(&self) -> &BTreeMap<String, Timestamp> {
        &self.paused
    }

    /// Who puts back dead letters, by their topic.
    #[must_use]
    pub const fn redrivers(&self) -> &BTreeMap<String, Redriver> {
        &self.redrivers
    }

    fn check_trigger(&self, trigger: &str) -> Result<(), Refused> {
        match self.apps.values().any(|app| app.triggers.contains_key(trigger)) {
            true => Ok(()),
            false => Err(Refused::UnknownTrigger(trigger.to_owned())),
        }
    }

    /// Applications by name.
    #[must_use]
    pub const fn apps(&self) -> &BTreeMap<String, App> {
        &self.apps
    }

    /// Shards by id.
    #[must_use]
    pub const fn shards(&self) -> &BTreeMap<ShardId, Shard> {
        &self.shards
    }

    /// An application's version; 0 = there is none of this name.
    #[must_use]
    pub fn version(&self, app: &str) -> u64 {
        self.versions.get(app).copied().unwrap_or(0)
    }

    /// What is kept of a function.
    #[must_use]
    pub fn history(&self, app: &str, function: &str) -> Option<&History> {
        self.histories.get(&(app.to_owned(), function.to_owned()))
    }

    /// The packages of all revisions that are kept.
    #[must_use]
    pub fn packages(&self) -> BTreeSet<String> {
        let kept = self.histories.values().flat_map(History::kept);
        kept.map(|it| it.function.package.clone()).collect()
    }

    fn check_version(&self, app: &str, expects: Option<u64>) -> Result<(), Refused> {
        let found = self.version(app);
        match expects {
            Some(expected) if expected != found => Err(Refused::Version { expected, found }),
            _ => Ok(()),
        }
    }

    fn check(&self, name: &str, app: &App) -> Result<(), Refused> {
        for (function, it) in &app.functions {
            let known = self.history(name, function).and_then(|known| known.find(&it.revision));
            if known.is_some_and(|known| known.function != *it) {
                let (function, revision) = (function.clone(), it.revision.clone());
                return Err(Refused::Revision { function, revision });
            }
        }
        self.check_triggers(app)
    }

    fn check_triggers(&self, app: &App) -> Result<(), Refused> {
        for (id, trigger) in &app.triggers {
            if !app.functions.contains_key(&trigger.function) {
                let (trigger, function) = (id.clone(), trigger.function.clone());
                return Err(Refused::Dangling { trigger, function });
            }
            for (topic, now) in &trigger.topics {
                let before = self.partitions_of(id, topic);
                if *now < before {
                    return Err(Refused::Shrunk { topic: topic.clone(), before, now: *now });
                }
            }
        }
        Ok(())
    }

    /// Takes note of revisions that are deployed: those that do not run already.
    fn keep_revisions(&mut self, name: &str, app: &App, at: Timestamp) {
        self.histories
            .retain(|(it, function), _| it != name || app.functions.contains_key(function));
        let before = self.apps.get(name);
        for (function, it) in &app.functions {
            let running = before.and_then(|app| app.functions.get(function));
            let running = running.map(|it| it.revision.as_str());
            if running == Some(&it.revision) {
                continue;
            }
            let history = self.histories.entry((name.to_owned(), function.clone())).or_default();
            history.deploy(it, running, at);
            history.prune(&it.revision);
        }
    }

    fn roll_back(
        &mut self,
        name: &str,
        function: &str,
        revision: &str,
        triggers: &BTreeMap<String, Trigger>,
    ) -> Result<Applied, Refused> {
        let mut app = self.find_app(name, function)?.clone();
        let unknown = || Refused::UnknownRevision {
            function: function.to_owned(),
            revision: revision.to_owned(),
        };
        let kept = self.history(name, function).and_then(|it| it.find(revision));
        let kept = kept.ok_or_else(unknown)?.function.clone();
        let foreign = |(id, it): &(&String, &Trigger)| {
            it.function != function || !id.starts_with(&format!("{name}/{function}/"))
        };
        if let Some((trigger, it)) = triggers.iter().find(foreign) {
            let (trigger, function) = (trigger.clone(), it.function.clone());
            return Err(Refused::Dangling { trigger, function });
        }
        app.functions.insert(function.to_owned(), kept);
        app.triggers.retain(|_, it| it.function != function);
        app.triggers.extend(triggers.clone());
        self.check(name, &app)?;
        let key = (name.to_owned(), function.to_owned());
        self.histories.entry(key).or_default().prune(revision);
        Ok(self.become_app(name, app))
    }

    fn alias(
        &mut self,
        name: &str,
        function: &str,
        alias: &str,
        revision: Option<&str>,
    ) -> Result<Applied, Refused> {
        let running = self.find_app(name, function)?.functions[function].revision.clone();
        let key = (name.to_owned(), function.to_owned());
        let history = self.histories.get_mut(&key).expect("a function there is has a history");
        let function = function.to_owned();
        match revision {
            Some(revision) if history.find(revision).is_none() => {
                return Err(Refused::UnknownRevision { function, revision: revision.to_owned() });
            }
            None if !history.aliases().contains_key(alias) => {
                return Err(Refused::UnknownAlias { function, alias: alias.to_owned() });
            }
            _ => {}
        }
        history.alias(alias, revision);
        history.prune(&running);
        Ok(Applied::default())
    }

    /// The application that has this function.
    fn find_app(&self, name: &str, function: &str) -> Result<&App, Refused> {
        let app = self.apps.get(name).ok_or_else(|| Refused::UnknownApp(name.to_owned()))?;
        match app.functions.contains_key(function) {
            true => Ok(app),
            false => Err(Refused::UnknownFunction(function.to_owned())),
        }
    }

    /// The application is this from now on; it was checked.
    fn become_app(&mut self, name: &str, app: App) -> Applied {
        let prefix = format!("{name}/");
        let mut removed = self.drop_shards(|trigger| {
            trigger.starts_with(&prefix) && !app.triggers.contains_key(trigger)
        });
        for (id, trigger) in &app.triggers {
            removed.extend(self.drop_topics(id, trigger));
        }
        self.paused.retain(|it, _| !it.starts_with(&prefix) || app.triggers.contains_key(it));
        let mut added = Vec::new();
        for (id, trigger) in &app.triggers {
            for (topic, partitions) in &trigger.topics {
                let before = self.partitions_of(id, topic);
                for partition in before..*partitions {
                    let shard = Shard {
                        trigger: id.clone(),
                        topic: topic.clone(),
                        partition,
                        grown: before != 0,
                        epoch: Epoch(0),
                        owner: None,
                        target: None,
                    };
                    self.next_shard += 1;
                    self.shards.insert(ShardId(self.next_shard), shard);
                    added.push(ShardId(self.next_shard));
                }
            }
        }
        // Partitions that a topic gained change nothing of what the application is.
        let is_same =
            |before: &App| before.functions == app.functions && before.topics == app.topics;
        if !self.apps.get(name).is_some_and(is_same) {
            self.version += 1;
            self.versions.insert(name.to_owned(), self.version);
        }
        self.apps.insert(name.to_owned(), app);
        self.forget_unfit();
        Applied { added, removed }
    }

    /// How many partitions of a topic have a shard of this trigger: always the first ones.
    fn partitions_of(&self, trigger: &str, topic: &str) -> u32 {
        let mine = self.shards.values().filter(|it| it.trigger == trigger && it.topic == topic);
        mine.map(|it| it.partition + 1).max().unwrap_or(0)
    }

    fn drop_shards(&mut self, gone: impl Fn(&str) -> bool) -> Vec<ShardId> {
        self.drop_where(|shard| gone(&shard.trigger))
    }

    fn drop_topics(&mut self, id: &str, trigger: &Trigger) -> Vec<ShardId> {
        self.drop_where(|shard| shard.trigger == id && !trigger.topics.contains_key(&shard.topic))
    }

    fn drop_where(&mut self, gone: impl Fn(&Shard) -> bool) -> Vec<ShardId> {
        let ids: Vec<ShardId> =
            self.shards.iter().filter(|(_, it)| gone(it)).map(|(id, _)| *id).collect();
        for id in &ids {
            self.shards.remove(id);
        }
        ids
    }
}

#[cfg(test)]
mod tests;
