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
//! - **RS-3** a revision's name always means the same package and settings.
//! - **RS-4** a refused command changes nothing.
//! - **RS-5** every shard belongs to a trigger that exists.

use std::collections::BTreeMap;

use bus::{Epoch, ShardId};
use serde::{Deserialize, Serialize};

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
    /// Who has it.
    pub owner: Option<String>,
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
    },
    /// The application is gone, with its shards.
    Remove {
        /// Its name.
        name: String,
    },
    /// This node owns these shards from now on.
    Assign {
        /// Which shards; each once.
        shards: Vec<ShardId>,
        /// Who.
        owner: String,
    },
}

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Shards that are new.
    pub added: Vec<ShardId>,
    /// Shards that are no more.
    pub removed: Vec<ShardId>,
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such application.
    #[error("no application {0}")]
    UnknownApp(String),
    /// No such shard.
    #[error("no shard {0}")]
    UnknownShard(ShardId),
    /// A revision's name with other content than before.
    #[error("revision {revision} of {function} exists with another content")]
    Revision {
        /// Whose.
        function: String,
        /// Which.
        revision: String,
    },
    /// A trigger whose function is not part of the application.
    #[error("trigger {trigger} names function {function}, which the application does not have")]
    Dangling {
        /// Which.
        trigger: String,
        /// Its function.
        function: String,
    },
    /// A topic has fewer partitions than before.
    #[error("topic {topic} has {now} partitions, and had {before}")]
    Shrunk {
        /// Which.
        topic: String,
        /// Partitions with shards.
        before: u32,
        /// Partitions named now.
        now: u32,
    },
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    apps: BTreeMap<String, App>,
    /// (app, function, revision) -> (package, settings), for ever.
    revisions: BTreeMap<(String, String, String), (String, String)>,
    shards: BTreeMap<ShardId, Shard>,
    next_shard: u64,
}

impl State {
    /// Applies a command, or refuses it and changes nothing (RS-4).
    ///
    /// # Errors
    ///
    /// [`Refused`], by name.
    pub fn apply(&mut self, command: &Command) -> Result<Applied, Refused> {
        match command {
            Command::Deploy { name, app } => self.deploy(name, app),
            Command::Remove { name } => {
                if self.apps.remove(name).is_none() {
                    return Err(Refused::UnknownApp(name.clone()));
                }
                let prefix = format!("{name}/");
                Ok(Applied {
                    removed: self.drop_shards(|it| it.starts_with(&prefix)),
                    ..Applied::default()
                })
            }
            Command::Assign { shards, owner } => {
                if let Some(unknown) = shards.iter().find(|it| !self.shards.contains_key(it)) {
                    return Err(Refused::UnknownShard(*unknown));
                }
                for id in shards {
                    let shard = self.shards.get_mut(id).expect("it was looked up above");
                    shard.epoch = Epoch(shard.epoch.0 + 1);
                    shard.owner = Some(owner.clone());
                }
                Ok(Applied::default())
            }
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

    fn deploy(&mut self, name: &str, app: &App) -> Result<Applied, Refused> {
        self.check(name, app)?;
        for (function, it) in &app.functions {
            let key = (name.to_owned(), function.clone(), it.revision.clone());
            self.revisions.insert(key, (it.package.clone(), it.spec.clone()));
        }
        let prefix = format!("{name}/");
        let removed = self.drop_shards(|trigger| {
            trigger.starts_with(&prefix) && !app.triggers.contains_key(trigger)
        });
        let mut removed_topics = Vec::new();
        for (id, trigger) in &app.triggers {
            removed_topics.extend(self.drop_topics(id, trigger));
        }
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
                    };
                    self.next_shard += 1;
                    self.shards.insert(ShardId(self.next_shard), shard);
                    added.push(ShardId(self.next_shard));
                }
            }
        }
        self.apps.insert(name.to_owned(), app.clone());
        let removed = removed.into_iter().chain(removed_topics).collect();
        Ok(Applied { added, removed })
    }

    fn check(&self, name: &str, app: &App) -> Result<(), Refused> {
        for (function, it) in &app.functions {
            let key = (name.to_owned(), function.clone(), it.revision.clone());
            let content = (it.package.clone(), it.spec.clone());
            if self.revisions.get(&key).is_some_and(|known| *known != content) {
                let (function, revision) = (function.clone(), it.revision.clone());
                return Err(Refused::Revision { function, revision });
            }
        }
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
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn app(revision: &str, triggers: &[(&str, &str, u32)]) -> App {
        let function = Function {
            revision: revision.to_owned(),
            package: format!("package of {revision}"),
            spec: "{}".to_owned(),
        };
        let functions = BTreeMap::from([("f".to_owned(), function)]);
        let triggers = triggers.iter().map(|(id, topic, partitions)| {
            let topics = BTreeMap::from([((*topic).to_owned(), *partitions)]);
            ((*id).to_owned(), Trigger { function: "f".to_owned(), topics })
        });
        App { functions, triggers: triggers.collect() }
    }

    fn deploy(app: App) -> Command {
        Command::Deploy { name: "a".to_owned(), app }
    }

    #[test]
    fn a_deploy_keeps_the_shards_of_triggers_that_stay() {
        let mut state = State::default();
        let first = state.apply(&deploy(app("1", &[("a/f/f", "in", 2)]))).unwrap();
        assert_eq!(first.added, [ShardId(1), ShardId(2)]);
        let shards = vec![ShardId(1), ShardId(2)];
        state.apply(&Command::Assign { shards, owner: "node".into() }).unwrap();
        let second = state.apply(&deploy(app("2", &[("a/f/f", "in", 3), ("a/f/g", "x", 1)])));
        assert_eq!(second.unwrap().added, [ShardId(3), ShardId(4)]);
        assert_eq!(state.shards()[&ShardId(1)].epoch, Epoch(1));
        let grown = |id| state.shards()[&ShardId(id)].grown;
        assert_eq!([1, 2, 3, 4].map(grown), [false, false, true, false], "for as long as it lives");
        let third = state.apply(&deploy(app("2", &[("a/f/g", "x", 1)]))).unwrap();
        assert_eq!(third.removed, [ShardId(1), ShardId(2), ShardId(3)]);
        let again = state.apply(&deploy(app("2", &[("a/f/f", "in", 1), ("a/f/g", "x", 1)])));
        assert_eq!(again.unwrap().added, [ShardId(5)], "RS-2");
    }

    #[test]
    fn what_contradicts_itself_is_refused_and_changes_nothing() {
        let mut state = State::default();
        state.apply(&deploy(app("1", &[("a/f/f", "in", 2)]))).unwrap();
        let before = state.clone();
        let mut other = app("1", &[("a/f/f", "in", 2)]);
        other.functions.get_mut("f").unwrap().package = "other".to_owned();
        assert!(matches!(state.apply(&deploy(other)), Err(Refused::Revision { .. })), "RS-3");
        let shrunk = deploy(app("2", &[("a/f/f", "in", 1)]));
        assert!(matches!(state.apply(&shrunk), Err(Refused::Shrunk { .. })));
        let mut dangling = app("2", &[("a/f/f", "in", 2)]);
        dangling.functions.clear();
        assert!(matches!(state.apply(&deploy(dangling)), Err(Refused::Dangling { .. })));
        let unknown = Command::Assign { shards: vec![ShardId(1), ShardId(9)], owner: "n".into() };
        assert_eq!(state.apply(&unknown), Err(Refused::UnknownShard(ShardId(9))));
        let remove = Command::Remove { name: "b".into() };
        assert_eq!(state.apply(&remove), Err(Refused::UnknownApp("b".into())));
        assert_eq!(state, before, "RS-4");
    }

    /// RS-1, RS-2, RS-4, RS-5 over seeded commands.
    #[test]
    fn any_commands_keep_the_invariants() {
        for seed in 1..=200_u64 {
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut draw = |below: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                rng % below
            };
            let mut state = State::default();
            let mut seen: BTreeSet<ShardId> = BTreeSet::new();
            for _step in 0..60 {
                let command = match draw(4) {
                    0 => Command::Remove { name: "a".into() },
                    1 => {
                        let shards = (0..draw(4)).map(|_| ShardId(1 + draw(12))).collect();
                        Command::Assign { shards, owner: "n".into() }
                    }
                    _ => {
                        let all = [("a/f/f", "in"), ("a/f/g", "x"), ("a/f/h", "in")];
                        let mut picked = Vec::new();
                        for (id, topic) in all {
                            if draw(3) != 0 {
                                picked.push((id, topic, 1 + draw(3) as u32));
                            }
                        }
                        deploy(app(&draw(3).to_string(), &picked))
                    }
                };
                let before = state.clone();
                match state.apply(&command) {
                    Err(_) => assert_eq!(state, before, "seed {seed}: RS-4"),
                    Ok(applied) => {
                        for id in applied.added {
                            assert!(seen.insert(id), "seed {seed}: RS-2, {id} twice");
                        }
                    }
                }
                let mut places = BTreeSet::new();
                for (id, shard) in state.shards() {
                    let place = (&shard.trigger, &shard.topic, shard.partition);
                    assert!(places.insert(place), "seed {seed}: RS-2, {place:?}");
                    let app = &state.apps()["a"];
                    assert!(app.triggers.contains_key(&shard.trigger), "seed {seed}: RS-5");
                    if let Some(old) = before.shards().get(id) {
                        assert!(old.epoch <= shard.epoch, "seed {seed}: RS-1");
                    }
                }
            }
        }
    }
}
