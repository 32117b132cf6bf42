//! The replicated state, command by command, and against its invariants over any commands.

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
    App { functions, triggers: triggers.collect(), ..App::default() }
}

fn deploy(app: App) -> Command {
    deploy_at(app, None)
}

fn deploy_at(app: App, expects: Option<u64>) -> Command {
    Command::Deploy { name: "a".to_owned(), app, expects, at: Timestamp(0) }
}

fn roll_back(revision: &str, triggers: &[(&str, &str, u32)], expects: Option<u64>) -> Command {
    Command::Rollback {
        name: "a".to_owned(),
        function: "f".to_owned(),
        revision: revision.to_owned(),
        triggers: app(revision, triggers).triggers,
        expects,
    }
}

fn alias(alias: &str, revision: Option<&str>) -> Command {
    Command::Alias {
        name: "a".to_owned(),
        function: "f".to_owned(),
        alias: alias.to_owned(),
        revision: revision.map(str::to_owned),
    }
}

#[test]
fn a_deploy_keeps_the_shards_of_triggers_that_stay() {
    let mut state = State::default();
    let first = state.apply(&deploy(app("1", &[("a/f/f", "in", 2)]))).unwrap();
    assert_eq!(first.added, [ShardId(1), ShardId(2)]);
    let moves = [1, 2].map(|id| Placing { shard: ShardId(id), ends: Epoch(0), to: 1 }).to_vec();
    state.apply(&Command::Assign { moves }).unwrap();
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
fn what_a_member_cannot_run_is_said_of_one_revision_and_who_stops_is_back_with_its_next_start() {
    let mut state = State::default();
    state.apply(&deploy(app("1", &[("a/f/f", "in", 2)]))).unwrap();
    let unfit = |revision: Option<&str>| Command::Unfit {
        member: 2,
        function: "a/f".to_owned(),
        revision: revision.map(str::to_owned),
    };
    state.apply(&unfit(Some("0"))).unwrap();
    assert!(!state.is_unfit(2, "a/f"), "that revision runs no more");
    state.apply(&unfit(Some("1"))).unwrap();
    assert!(state.is_unfit(2, "a/f") && !state.is_unfit(1, "a/f"));
    state.apply(&unfit(None)).unwrap();
    assert!(!state.is_unfit(2, "a/f"));
    state.apply(&unfit(Some("1"))).unwrap();
    state.apply(&deploy(app("2", &[("a/f/f", "in", 2)]))).unwrap();
    assert_eq!(state.unfit().count(), 0);
    state.apply(&Command::Stop { member: 2 }).unwrap();
    assert!(state.is_stopping(2));
    state.apply(&Command::Ready { member: 2 }).unwrap();
    assert!(!state.is_stopping(2), "it reaches the bus again");
    state.apply(&Command::Stop { member: 2 }).unwrap();
    let (name, address) = ("n".to_owned(), "a:1".to_owned());
    let join = MemberChange::Join { name, address: address.clone(), key: [0; 32], token: None };
    state.apply(&Command::Member { member: 2, change: join }).unwrap();
    assert!(state.is_stopping(2));
    let start = MemberChange::Start { address, incarnation: 1, version: "1".into() };
    state.apply(&unfit(Some("2"))).unwrap();
    assert!(state.is_unfit(2, "a/f"));
    state.apply(&Command::Member { member: 2, change: start }).unwrap();
    assert!(!state.is_stopping(2));
    assert!(!state.is_unfit(2, "a/f"), "the process that starts says anew what it cannot run");
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
    let shards = vec![ShardId(1), ShardId(9)];
    let unknown = Command::AssignByName { shards, owner: "n".into() };
    assert_eq!(state.apply(&unknown), Err(Refused::UnknownShard(ShardId(9))));
    let remove = Command::Remove { name: "b".into() };
    assert_eq!(state.apply(&remove), Err(Refused::UnknownApp("b".into())));
    assert_eq!(state, before, "RS-4");
}

#[test]
fn a_rollback_runs_what_was_kept_and_leaves_positions() {
    let mut state = State::default();
    let both = [("a/f/f", "in", 2), ("a/f/g", "x", 1)];
    state.apply(&deploy(app("1", &both))).unwrap();
    state.apply(&deploy(app("2", &both[..1]))).unwrap();
    let changed = state.apply(&roll_back("1", &both, Some(2))).unwrap();
    assert_eq!((changed.added, changed.removed), (vec![ShardId(4)], vec![]));
    assert_eq!(state.apps()["a"].functions["f"], app("1", &[]).functions["f"]);
    assert_eq!(state.shards()[&ShardId(1)].topic, "in");
    assert_eq!((state.version("a"), state.version("b")), (3, 0));
    let numbers = |state: &State| -> Vec<u64> {
        state.history("a", "f").unwrap().kept().iter().map(|it| it.number).collect()
    };
    assert_eq!(numbers(&state), [1, 2], "a rollback is no deploy");
    state.apply(&deploy(app("1", &both))).unwrap();
    assert_eq!((numbers(&state), state.version("a")), (vec![1, 2], 3), "nothing changed");
    state.apply(&deploy(app("2", &both[..1]))).unwrap();
    assert_eq!(numbers(&state), [1, 3], "what is deployed again is the newest again");

    let before = state.clone();
    let unknown = state.apply(&roll_back("7", &both, None));
    assert!(matches!(unknown, Err(Refused::UnknownRevision { .. })), "{unknown:?}");
    let stale = state.apply(&roll_back("1", &both, Some(3)));
    assert_eq!(stale, Err(Refused::Version { expected: 3, found: 4 }), "RS-7");
    let foreign = state.apply(&roll_back("1", &[("b/f/f", "in", 2)], None));
    assert!(matches!(foreign, Err(Refused::Dangling { .. })), "{foreign:?}");
    let shrunk = state.apply(&roll_back("1", &[("a/f/f", "in", 1)], None));
    assert!(matches!(shrunk, Err(Refused::Shrunk { .. })), "{shrunk:?}");
    assert_eq!(state, before, "RS-4");
}

#[test]
fn what_is_restored_has_its_revisions_and_waits_for_its_positions() {
    let mut before = State::default();
    let both = [("a/f/f", "in", 2), ("a/f/g", "x", 1)];
    before.apply(&deploy(app("1", &both))).unwrap();
    before.apply(&deploy(app("2", &both))).unwrap();
    before.apply(&alias("stable", Some("1"))).unwrap();
    let history = before.history("a", "f").unwrap().clone();
    assert_eq!(
        History::restored(history.kept().to_vec(), history.aliases().clone()),
        Some(history.clone())
    );
    let restore = |revision: &str, expects| Command::Restore {
        name: "a".into(),
        app: app(revision, &both),
        histories: [("f".to_owned(), history.clone())].into(),
        paused: [("a/f/f".to_owned(), Timestamp(7)), ("b/f/f".to_owned(), Timestamp(7))].into(),
        expects: Some(expects),
    };
    let mut state = State::default();
    let unknown = state.apply(&restore("3", 0));
    assert!(matches!(unknown, Err(Refused::UnknownRevision { .. })), "{unknown:?}");
    assert_eq!(state, State::default(), "RS-4");
    let applied = state.apply(&restore("2", 0)).unwrap();
    assert_eq!(applied.added.len(), 3);
    assert_eq!(state.history("a", "f"), Some(&history));
    assert_eq!(state.paused().keys().collect::<Vec<_>>(), ["a/f/f"], "RS-8");
    let there = state.apply(&restore("2", 0));
    assert_eq!(there, Err(Refused::Version { expected: 0, found: 1 }));
    state.apply(&roll_back("1", &both, None)).unwrap();
    let again = state.apply(&restore("2", 2)).unwrap();
    assert_eq!((again.added, again.removed), (vec![], vec![]), "RS-2");
    assert_eq!(state.apps()["a"].functions["f"].revision, "2");

    let kept = history.kept().to_vec();
    let strange = [("x".to_owned(), "9".to_owned())].into();
    assert_eq!(History::restored(kept.clone(), strange), None, "an alias of nothing");
    let backward = kept.iter().rev().cloned().collect();
    assert_eq!(History::restored(backward, BTreeMap::new()), None);
    let twice = kept.iter().chain(&kept).cloned().collect();
    assert_eq!(History::restored(twice, BTreeMap::new()), None);
}

#[test]
fn an_alias_names_what_is_kept_and_keeps_it() {
    let mut state = State::default();
    state.apply(&deploy(app("0", &[]))).unwrap();
    state.apply(&alias("stable", Some("0"))).unwrap();
    for revision in 1..=2 * REVISIONS_MAX {
        state.apply(&deploy(app(&revision.to_string(), &[]))).unwrap();
    }
    assert_eq!(state.packages().len(), REVISIONS_MAX + 1);
    assert!(state.packages().contains("package of 0"), "RS-6");
    let unknown = state.apply(&alias("stable", Some("7")));
    assert!(matches!(unknown, Err(Refused::UnknownRevision { .. })), "{unknown:?}");
    let unknown = state.apply(&alias("testing", None));
    assert!(matches!(unknown, Err(Refused::UnknownAlias { .. })), "{unknown:?}");
    state.apply(&alias("stable", None)).unwrap();
    assert_eq!(state.packages().len(), REVISIONS_MAX, "nothing names it any more");
    state.apply(&Command::Remove { name: "a".into() }).unwrap();
    assert!(state.packages().is_empty());
    assert_eq!(state.apply(&alias("stable", None)), Err(Refused::UnknownApp("a".into())));
    let expected = Err(Refused::Version { expected: 41, found: 0 });
    assert_eq!(state.apply(&deploy_at(app("0", &[]), Some(41))), expected, "RS-7");
    state.apply(&deploy_at(app("0", &[]), Some(0))).unwrap();
    assert_eq!(state.version("a"), 42, "RS-7: no version is used twice");
}

/// The simplest account of what is kept of the function: revisions in the order of their last
/// deploy with what ran then, aliases, what runs.
#[derive(Clone, Default)]
struct Model {
    order: Vec<(String, Option<String>)>,
    aliases: BTreeMap<String, String>,
    runs: Option<String>,
}

impl Model {
    fn follow(&mut self, command: &Command) {
        match command {
            Command::Remove { .. } => *self = Self::default(),
            Command::Deploy { app, .. } => {
                let revision = app.functions["f"].revision.clone();
                if self.runs.as_ref() != Some(&revision) {
                    self.order.retain(|(it, _)| *it != revision);
                    self.order.push((revision.clone(), self.runs.replace(revision)));
                }
            }
            Command::Rollback { revision, .. } => self.runs = Some(revision.clone()),
            Command::Alias { alias, revision: Some(revision), .. } => {
                self.aliases.insert(alias.clone(), revision.clone());
            }
            Command::Alias { alias, .. } => drop(self.aliases.remove(alias)),
            Command::Assign { .. }
            | Command::AssignByName { .. }
            | Command::Hand { .. }
            | Command::Unfit { .. }
            | Command::Stop { .. }
            | Command::Ready { .. }
            | Command::Pause { .. }
            | Command::Resume { .. }
            | Command::Redrive { .. }
            | Command::Member { .. }
            | Command::Token { .. }
            | Command::Subscriber { .. }
            | Command::Ca { .. }
            | Command::Reads { .. }
            | Command::Raise { .. }
            | Command::Restore { .. } => {}
            #[cfg(feature = "next-version")]
            Command::Note { .. } => {}
        }
    }

    /// Forgets what need not be kept, when the state may do so too.
    fn forget(&mut self) {
        let old = self.order.len().saturating_sub(REVISIONS_MAX);
        let runs = self.order.iter().find(|(it, _)| Some(it) == self.runs.as_ref());
        let before = runs.and_then(|(_, before)| before.clone());
        let mut named: Vec<String> = self.aliases.values().cloned().collect();
        named.extend(self.runs.iter().chain(&before).cloned());
        let mut place = 0;
        self.order.retain(|(it, _)| {
            place += 1;
            old < place || named.contains(it)
        });
    }
}

/// RS-8: which triggers are paused after a command that was applied.
fn follow_pauses(paused: &mut BTreeMap<String, Timestamp>, command: &Command) {
    match command {
        Command::Pause { trigger, at } => drop(paused.entry(trigger.clone()).or_insert(*at)),
        Command::Resume { trigger } => drop(paused.remove(trigger)),
        Command::Remove { .. } => paused.clear(),
        Command::Deploy { app: App { triggers, .. }, .. } | Command::Rollback { triggers, .. } => {
            paused.retain(|it, _| triggers.contains_key(it))
        }
        _ => {}
    }
}

/// RS-14, RS-15: what becomes of shards that were to get another owner.
fn follow_owners(before: &State, after: &State, command: &Command) {
    let (Command::Assign { moves } | Command::Hand { moves }) = command else { return };
    for Placing { shard, ends, to } in moves {
        let (was, is) = (before.shards().get(shard), after.shards().get(shard));
        let Some(was) = was.filter(|it| it.epoch == *ends) else {
            assert_eq!(was, is, "RS-14");
            continue;
        };
        let is = is.expect("no shard goes by getting an owner");
        if let Command::Assign { .. } = command {
            assert_eq!((is.epoch.0, is.owner, is.target), (ends.0 + 1, Some(*to), None), "RS-14");
        } else {
            assert_eq!((is.epoch, is.owner), (was.epoch, was.owner), "RS-15");
            let to = was.owner.and_then(|owner| Some(*to).filter(|to| *to != owner));
            assert_eq!(is.target, to, "RS-15");
        }
    }
}

/// RS-1, RS-2, RS-4 to RS-9, RS-14, RS-15 over seeded commands.
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
        let mut versions: BTreeSet<u64> = BTreeSet::new();
        let (mut model, mut paused) = (Model::default(), BTreeMap::new());
        // Few revisions meet each other often, many push each other out.
        let revisions = 3 + (seed % 2) * 60;
        for _step in 0..120 {
            let command = match draw(19) {
                16 => Command::Redrive { topic: ["dead", "gone"][draw(2) as usize].into() },
                at @ 17.. => {
                    let trigger = format!("a/f/{}", ["f", "g", "h", "x"][draw(4) as usize]);
                    match at {
                        17 => Command::Pause { trigger, at: Timestamp(draw(99) as i64) },
                        _ => Command::Resume { trigger },
                    }
                }
                0 if draw(6) == 0 => Command::Remove { name: "a".into() },
                0 | 1 => alias(["x", "y"][draw(2) as usize], None),
                2 | 3 => {
                    let revision = draw(revisions).to_string();
                    alias(["x", "y"][draw(2) as usize], Some(&revision))
                }
                4 | 5 => {
                    let expects = (draw(3) == 0).then(|| draw(9));
                    let all = [("a/f/f", "in", 1 + draw(3) as u32)];
                    roll_back(&draw(revisions).to_string(), &all[..draw(2) as usize], expects)
                }
                6 => {
                    let shards = (0..draw(4)).map(|_| ShardId(1 + draw(12))).collect();
                    Command::AssignByName { shards, owner: "n".into() }
                }
                at @ 7..9 => {
                    let mut moves: Vec<Placing> = Vec::new();
                    for _ in 0..draw(4) {
                        let shard = ShardId(1 + draw(12));
                        let epoch = state.shards().get(&shard).map_or(0, |it| it.epoch.0);
                        moves.retain(|it| it.shard != shard);
                        moves.push(Placing {
                            shard,
                            ends: Epoch(epoch + draw(2)),
                            to: 1 + draw(3),
                        });
                    }
                    if at == 7 { Command::Assign { moves } } else { Command::Hand { moves } }
                }
                _ => {
                    let all = [("a/f/f", "in"), ("a/f/g", "x"), ("a/f/h", "in")];
                    let mut picked = Vec::new();
                    for (id, topic) in all {
                        if draw(3) != 0 {
                            picked.push((id, topic, 1 + draw(3) as u32));
                        }
                    }
                    let expects = (draw(4) == 0).then(|| state.version("a") + draw(2));
                    deploy_at(app(&draw(revisions).to_string(), &picked), expects)
                }
            };
            let before = state.clone();
            match state.apply(&command) {
                Err(_) => assert_eq!(state, before, "seed {seed}: RS-4"),
                Ok(applied) => {
                    for id in applied.added {
                        assert!(seen.insert(id), "seed {seed}: RS-2, {id} twice");
                    }
                    follow_pauses(&mut paused, &command);
                    if let Command::Redrive { topic } = &command {
                        let (was, is) = (before.redrivers().get(topic), state.redrivers()[topic]);
                        let id = was.map_or(is.shard, |was| was.shard);
                        assert_eq!(is.shard, id, "seed {seed}: RS-9");
                        assert_eq!(is.epoch.0, was.map_or(0, |was| was.epoch.0) + 1, "RS-9");
                        assert!(was.is_some() || seen.insert(id), "seed {seed}: RS-9, {id} twice");
                    }
                    follow_owners(&before, &state, &command);
                    model.follow(&command);
                    model.forget();
                    let was = (before.version("a"), before.apps().get("a"));
                    let is = (state.version("a"), state.apps().get("a"));
                    let content = |app: Option<&App>| app.map(|app| app.functions.clone());
                    if content(was.1) == content(is.1) {
                        assert_eq!(was.0, is.0, "seed {seed}: RS-7");
                    } else if is.0 != 0 {
                        assert!(versions.insert(is.0), "seed {seed}: RS-7, {} twice", is.0);
                    }
                }
            }
            assert_eq!(*state.paused(), paused, "seed {seed}: RS-8");
            let history = state.history("a", "f").cloned().unwrap_or_default();
            let kept = history.kept().iter().map(|it| &it.function.revision);
            assert!(kept.eq(model.order.iter().map(|(it, _)| it)), "seed {seed}: RS-6");
            assert_eq!(*history.aliases(), model.aliases, "seed {seed}: RS-6");
            let named = model.runs.iter().chain(history.aliases().values());
            for revision in named {
                assert!(history.find(revision).is_some(), "seed {seed}: RS-6, {revision}");
            }
            let packages = history.kept().iter().map(|it| it.function.package.clone());
            assert_eq!(state.packages(), packages.collect(), "seed {seed}: RS-6");
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
