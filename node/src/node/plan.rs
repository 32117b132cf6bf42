//! A pure core: what a deploy would change, in the words of the manifest. It compares what the
//! cluster's state holds with what somebody proposes, and does nothing.

use std::collections::{BTreeMap, BTreeSet};

use cluster::App;
use function::{FunctionSpec, Manifest, PackageDigest, Revision, Setting, Topic, TriggerSpec};
use gateway::api::{Change, FunctionPlan, SettingPlan, TopicChange, TopicPlan, TriggerPlan};

/// What becomes of each function, by name.
pub(super) fn functions(
    before: Option<&App>,
    manifest: &Manifest,
    packages: &BTreeMap<String, PackageDigest>,
) -> Vec<FunctionPlan> {
    let known = |name: &str| before.and_then(|app| app.functions.get(name));
    let mut plans: Vec<FunctionPlan> = manifest
        .functions
        .iter()
        .filter_map(|spec| {
            let package = *packages.get(spec.name.as_str())?;
            Some(function(known(spec.name.as_str()), spec, package))
        })
        .collect();
    let names = before.into_iter().flat_map(|app| &app.functions);
    plans.extend(
        names
            .filter(|(name, _)| manifest.function(name).is_none())
            .map(|(name, it)| removed(name, it)),
    );
    plans.sort_by(|a, b| a.name.cmp(&b.name));
    plans
}

fn function(
    known: Option<&cluster::Function>,
    spec: &FunctionSpec,
    package: PackageDigest,
) -> FunctionPlan {
    let revision = Revision::of(spec, package).to_string();
    let mut plan = FunctionPlan {
        name: spec.name.to_string(),
        runtime: spec.runtime.to_string(),
        revision_before: known.map(|it| it.revision.clone()),
        change: match known {
            None => Change::Added,
            Some(known) if known.revision == revision => Change::Unchanged,
            Some(_) => Change::Changed,
        },
        revision: Some(revision),
        ..FunctionPlan::default()
    };
    if plan.change == Change::Unchanged {
        return plan;
    }
    // Settings that another version wrote in another way are as good as none.
    let old: Option<FunctionSpec> = known.and_then(|it| serde_json::from_str(&it.spec).ok());
    plan.settings = compare(old.as_ref().map(FunctionSpec::settings), Some(spec.settings()));
    plan.triggers = triggers(old.as_ref().map_or(&[], |old| &old.triggers), &spec.triggers);
    let digest = package.to_string();
    let old = known.map(|it| it.package.clone());
    if old.as_ref() != Some(&digest) {
        let key = "code".to_owned();
        plan.package = Some(SettingPlan { key, before: old, after: Some(digest) });
    }
    plan
}

fn removed(name: &str, known: &cluster::Function) -> FunctionPlan {
    let old: Option<FunctionSpec> = serde_json::from_str(&known.spec).ok();
    FunctionPlan {
        name: name.to_owned(),
        change: Change::Removed,
        runtime: old.as_ref().map(|old| old.runtime.to_string()).unwrap_or_default(),
        revision_before: Some(known.revision.clone()),
        triggers: triggers(old.as_ref().map_or(&[], |old| &old.triggers), &[]),
        ..FunctionPlan::default()
    }
}

/// Triggers that differ, in the order of the manifest, then those that go.
fn triggers(before: &[TriggerSpec], after: &[TriggerSpec]) -> Vec<TriggerPlan> {
    let find = |all: &[TriggerSpec], name: &function::Name| {
        all.iter().find(|it| it.name == *name).map(TriggerSpec::settings)
    };
    let mut plans = Vec::new();
    for trigger in after {
        let old = find(before, &trigger.name);
        let change = if old.is_some() { Change::Changed } else { Change::Added };
        let settings = compare(old, Some(trigger.settings()));
        if !settings.is_empty() {
            plans.push(TriggerPlan { name: trigger.name.to_string(), change, settings });
        }
    }
    for trigger in before.iter().filter(|it| find(after, &it.name).is_none()) {
        let settings = compare(Some(trigger.settings()), None);
        let name = trigger.name.to_string();
        plans.push(TriggerPlan { name, change: Change::Removed, settings });
    }
    plans
}

/// Settings that differ.
fn compare(before: Option<Vec<Setting>>, after: Option<Vec<Setting>>) -> Vec<SettingPlan> {
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let find = |all: &[Setting], key: &str| {
        all.iter().find(|(it, _)| it == key).map(|(_, value)| value.clone())
    };
    let mut keys: Vec<&String> = after.iter().map(|(key, _)| key).collect();
    let gone = before.iter().map(|(key, _)| key).filter(|key| find(&after, key).is_none());
    keys.extend(gone);
    let plan = |key: &String| SettingPlan {
        key: key.clone(),
        before: find(&before, key),
        after: find(&after, key),
    };
    keys.into_iter().map(plan).filter(|it| it.before != it.after).collect()
}

/// What becomes of topics. `there` says what the bus has, as far as that can be compared.
pub(super) fn topics(
    before: Option<&App>,
    needed: &[Topic],
    there: impl Fn(&str) -> There,
) -> Vec<TopicPlan> {
    let mut plans = Vec::new();
    for topic in needed {
        let (change, old) = match there(&topic.name) {
            There::Nothing => (TopicChange::Added, None),
            There::MustBeMadeElsewhere => (TopicChange::Refused, None),
            There::Foreign => continue,
            There::Topic(old) if old == *topic => continue,
            There::Topic(old) if old.partitions != topic.partitions => {
                (TopicChange::Refused, Some(old))
            }
            There::Topic(old) => (TopicChange::Kept, Some(old)),
        };
        let settings = compare(old.as_ref().map(Topic::settings), Some(topic.settings()));
        plans.push(TopicPlan { name: topic.name.clone(), change, settings });
    }
    let needed: BTreeSet<&str> = needed.iter().map(|topic| topic.name.as_str()).collect();
    let before = before.into_iter().flat_map(|app| app.topics.keys());
    let is_unused =
        |name: &&String| !needed.contains(name.as_str()) && !matches!(there(name), There::Nothing);
    plans.extend(before.filter(is_unused).map(|name| TopicPlan {
        name: name.clone(),
        change: TopicChange::Unused,
        settings: Vec::new(),
    }));
    plans.sort_by(|a, b| a.name.cmp(&b.name));
    plans
}

/// What the bus has under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum There {
    /// Nothing: the node makes it.
    Nothing,
    /// Nothing, and the node must not make it.
    MustBeMadeElsewhere,
    /// A topic with settings of somebody else's.
    Foreign,
    /// A topic of the node's own.
    Topic(Topic),
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
[app]
name = "greenhouse"
[topic.readings]
partitions = 4
[function.hot]
runtime = "python3"
path = "hot"
handler = "app.hot"
env = { LIMIT = "30" }
[[function.hot.trigger]]
topics = ["readings"]
output = { topic = "alerts" }
[function.cold]
runtime = "python3"
path = "cold"
handler = "app.cold"
[[function.cold.trigger]]
topics = ["readings"]
output = { topic = "alerts" }
"#;

    fn manifest(edit: impl Fn(String) -> String) -> Manifest {
        Manifest::parse(&edit(MANIFEST.to_owned()), "millrace.toml").unwrap()
    }

    fn digest(text: &str) -> PackageDigest {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("app.py"), text).unwrap();
        function::Package::from_dir(dir.path()).unwrap().digest()
    }

    fn packages(manifest: &Manifest, text: &str) -> BTreeMap<String, PackageDigest> {
        manifest.functions.iter().map(|it| (it.name.to_string(), digest(text))).collect()
    }

    fn deployed(manifest: &Manifest, text: &str) -> App {
        let function = |spec: &FunctionSpec| {
            let it = cluster::Function {
                revision: Revision::of(spec, digest(text)).to_string(),
                package: digest(text).to_string(),
                spec: serde_json::to_string(spec).unwrap(),
            };
            (spec.name.to_string(), it)
        };
        let topics = super::super::topics::stored(&manifest.all_topics());
        App {
            functions: manifest.functions.iter().map(function).collect(),
            topics,
            ..App::default()
        }
    }

    fn line(it: &SettingPlan) -> String {
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        format!("{} {} -> {}", it.key, word(&it.before), word(&it.after))
    }

    #[test]
    fn what_is_the_same_is_unchanged_and_what_is_new_is_added() {
        let manifest = manifest(|text| text);
        let app = deployed(&manifest, "1");
        let plans = functions(Some(&app), &manifest, &packages(&manifest, "1"));
        let changes: Vec<_> = plans.iter().map(|it| (it.name.as_str(), it.change)).collect();
        assert_eq!(changes, [("cold", Change::Unchanged), ("hot", Change::Unchanged)]);
        assert!(plans.iter().all(|it| it.settings.is_empty() && it.triggers.is_empty()));
        let plans = functions(None, &manifest, &packages(&manifest, "1"));
        assert!(plans.iter().all(|it| it.change == Change::Added));
        assert_eq!(plans[1].triggers[0].change, Change::Added);
        assert!(plans[1].settings.iter().any(|it| line(it) == "handler - -> app.hot"));
    }

    #[test]
    fn what_differs_is_named_with_its_old_and_its_new_value() {
        let app = deployed(&manifest(|text| text), "1");
        let after = manifest(|text| {
            let text = text.replace("LIMIT = \"30\"", "LIMIT = \"35\", UNIT = \"c\"");
            let second = "[[function.hot.trigger]]\nname = \"late\"\ntopics = [\"readings\"]\n\
                          output = { topic = \"alerts\" }\n[function.cold]";
            let text = text.replace("[function.cold]", second);
            text.replacen(
                "[[function.hot.trigger]]",
                "[[function.hot.trigger]]\nname = \"hot\"\norder = \"none\"",
                1,
            )
        });
        let plans = functions(Some(&app), &after, &packages(&after, "1"));
        let hot = &plans[1];
        assert_eq!((hot.change, hot.package.as_ref()), (Change::Changed, None));
        let settings: Vec<String> = hot.settings.iter().map(line).collect();
        assert_eq!(settings, ["env.LIMIT 30 -> 35", "env.UNIT - -> c"]);
        assert_eq!(
            (hot.triggers[0].change, hot.triggers[1].change),
            (Change::Changed, Change::Added)
        );
        let settings: Vec<String> = hot.triggers[0].settings.iter().map(line).collect();
        assert_eq!(settings, ["order key -> none"]);
        assert_eq!(hot.triggers[1].name, "late");

        let plans = functions(Some(&app), &after, &packages(&after, "2"));
        let code = line(plans[0].package.as_ref().unwrap());
        assert_eq!(code, format!("code {} -> {}", digest("1"), digest("2")));
        assert_eq!(plans[0].change, Change::Changed);

        let both = deployed(&after, "1");
        let less = manifest(|text| text.split("[function.cold]").next().unwrap().to_owned());
        let plans = functions(Some(&both), &less, &packages(&less, "1"));
        assert_eq!(
            (plans[0].change, plans[0].triggers[0].change),
            (Change::Removed, Change::Removed)
        );
        let late = plans[1].triggers.iter().find(|it| it.name == "late").unwrap();
        assert_eq!(late.change, Change::Removed);
    }

    #[test]
    fn topics_are_made_and_never_changed() {
        let manifest = manifest(|text| text);
        let needed = super::super::topics::needed(&manifest);
        let mut app = deployed(&manifest, "1");
        app.topics.insert("old".to_owned(), "{}".to_owned());
        let is_there = |name: &str| match name {
            "readings" => There::Topic(Topic { partitions: 8, ..Topic::new(name) }),
            "alerts" => {
                There::Topic(Topic { record_bytes_max: 7, partitions: 4, ..Topic::new(name) })
            }
            "old" => There::Foreign,
            "greenhouse.hot.dead" => There::MustBeMadeElsewhere,
            _ => There::Nothing,
        };
        let plans = topics(Some(&app), &needed, is_there);
        let changes: Vec<_> = plans.iter().map(|it| (it.name.as_str(), it.change)).collect();
        let expected = [
            ("alerts", TopicChange::Kept),
            ("greenhouse.cold.dead", TopicChange::Added),
            ("greenhouse.hot.dead", TopicChange::Refused),
            ("old", TopicChange::Unused),
            ("readings", TopicChange::Refused),
        ];
        assert_eq!(changes, expected);
        assert_eq!(line(&plans[4].settings[0]), "partitions 8 -> 4");
        assert_eq!(topics(None, &needed, |_| There::Foreign), []);
    }
}
