//! The topics that an application needs: which, with which settings, and how they are made.

use std::collections::BTreeMap;
use std::sync::Arc;

use function::{Cleanup, FunctionSpec, Manifest, Retention, Topic, TriggerSpec};

use super::{Node, chain};
use crate::commands::error::{CommandError, exit};

/// Headers that a dead letter carries beyond its record.
const DEAD_LETTER_BYTES: u64 = 16 << 10;

/// What a message to a destination says beside its record and outputs.
const MESSAGE_BYTES: u64 = 64 << 10;

/// All topics of an application. Those for dead letters take whatever the trigger may have read. Those
/// for messages take it in base64, with outputs; what is larger goes without, and a limit that the
/// manifest declares stands.
pub(super) fn needed(manifest: &Manifest) -> Vec<Topic> {
    let mut topics = manifest.all_topics();
    let limits: BTreeMap<String, u64> =
        topics.iter().map(|topic| (topic.name.clone(), topic.record_bytes_max)).collect();
    for topic in &mut topics {
        let dead = manifest.triggers().filter(|(_, it)| it.dead_letter == topic.name);
        for source in dead.flat_map(|(_, trigger)| &trigger.topics) {
            let limit = limits.get(source).copied().unwrap_or(Topic::RECORD_BYTES_MAX);
            topic.record_bytes_max = topic.record_bytes_max.max(limit + DEAD_LETTER_BYTES);
        }
        if manifest.topics.iter().any(|it| it.name == topic.name) {
            continue;
        }
        let told = manifest
            .triggers()
            .filter(|(_, it)| it.destinations().any(|(_, name)| name == topic.name));
        for source in told.flat_map(|(_, trigger)| &trigger.topics) {
            let limit = limits.get(source).copied().unwrap_or(Topic::RECORD_BYTES_MAX);
            let message = limit.saturating_mul(2).saturating_add(MESSAGE_BYTES);
            topic.record_bytes_max = topic.record_bytes_max.max(message);
        }
    }
    topics
}

/// The park topic of a trigger, by its id `app/function/name`.
pub(super) fn park_name(node: &super::Inner, id: &str) -> String {
    format!("{}.{}", node.park_prefix, id.replace('/', "."))
}

/// Where a trigger parks records, if it can.
pub(super) fn park_of(node: &super::Inner, id: &str, trigger: &TriggerSpec) -> Option<Arc<str>> {
    let name = park_name(node, id);
    let found = node.bus.topic(&name).map(|info| info.spec.name);
    if found.is_none() && trigger.order != function::Order::Partition {
        tracing::warn!(
            trigger = id,
            topic = name,
            "there is no park topic: a key that fails for long holds its partition"
        );
    }
    found
}

/// The history topic of a trigger, by its id `app/function/name`.
fn history_name(node: &super::Inner, id: &str) -> String {
    format!("{}.{}", node.history_prefix, id.replace('/', "."))
}

/// Where a trigger tells what became of its records, if it does.
pub(super) fn history_of(node: &super::Inner, id: &str) -> Option<Arc<str>> {
    if !node.history.is_on() {
        return None;
    }
    node.bus.topic(&history_name(node, id)).map(|info| info.spec.name)
}

/// What a trigger reads and writes.
pub(super) fn of_trigger(trigger: &TriggerSpec) -> impl Iterator<Item = &str> {
    trigger.topics.iter().map(String::as_str).chain(trigger.writes())
}

/// A topic of the bus, as a manifest says it.
pub(super) fn of_bus(spec: &bus::TopicSpec) -> Topic {
    Topic {
        partitions: spec.partitions,
        retention: Retention { age: spec.retention.age, bytes: spec.retention.bytes },
        cleanup: match spec.cleanup {
            bus::Cleanup::Delete => Cleanup::Delete,
            bus::Cleanup::Compact => Cleanup::Compact,
        },
        record_bytes_max: spec.record_bytes_max as u64,
        ..Topic::new(&*spec.name)
    }
}

/// As the cluster's state holds them.
pub(super) fn stored(topics: &[Topic]) -> BTreeMap<String, String> {
    let json = |topic| serde_json::to_string(topic).expect("a topic is plain data");
    topics.iter().map(|topic| (topic.name.clone(), json(topic))).collect()
}

/// What the cluster's state holds; what another version wrote in another way is left out.
pub(super) fn restored(stored: &BTreeMap<String, String>) -> Vec<Topic> {
    stored.values().filter_map(|topic| serde_json::from_str(topic).ok()).collect()
}

impl Node {
    /// Makes those of an application that are missing.
    pub(super) async fn make_topics(
        &self,
        app: &str,
        topics: &[Topic],
    ) -> Result<(), CommandError> {
        if self.inner.kafka.is_some() {
            // What others made there since the last look.
            let looked = self.inner.bus.topics().await;
            looked.map_err(|error| super::deploy::failed(&error))?;
        }
        let mut missing = Vec::new();
        for topic in topics {
            if let Some(kafka) = &self.inner.kafka {
                if self.inner.bus.topic(&topic.name).is_some() {
                    // It is not ours: its partitions and limits are what they are.
                    continue;
                }
                if kafka.create_topics != Some(true) {
                    if self.was_deployed(app) {
                        // It was there once: what needs it stops, by name, and the rest runs.
                        continue;
                    }
                    let message = format!("there is no topic {} on Kafka", topic.name);
                    return Err(CommandError::new(exit::NOT_FOUND, "E0404", message).help(
                        "make it there, or let the node: `create-topics = true` in [kafka]",
                    ));
                }
            }
            missing.push(topic.to_bus());
        }
        self.inner.bus.create_topics(missing).await.map_err(|(name, error)| {
            let (status, code) = match &error {
                bus::Error::DiskFull { .. } => (exit::FAILED, "E0401"),
                bus::Error::TopicExists { .. } => (exit::CONFLICT, "E0408"),
                _ => (exit::FAILED, "E0412"),
            };
            let message = format!("cannot make topic {name}: {}", chain(&error));
            let failed = CommandError::new(status, code, message);
            if code == "E0408" {
                let text = "a topic keeps its partitions: name that many in the manifest, or \
                            delete the topic first";
                return failed.help(text);
            }
            failed
        })
    }

    /// Makes topics that are the node's own.
    async fn make_own_topics(&self, specs: Vec<bus::TopicSpec>) -> Result<(), CommandError> {
        self.inner.bus.create_topics(specs).await.map_err(|(name, error)| {
            let message = format!("cannot make topic {name}: {}", chain(&error));
            CommandError::new(exit::FAILED, "E0412", message)
        })
    }

    /// Makes the history topics of these functions' triggers that are missing: one partition, bounded
    /// by `[history]`. On a Kafka where topics are not ours to make, nothing is told without one that
    /// is there.
    pub(super) async fn make_history_topics(
        &self,
        app: &str,
        functions: &[FunctionSpec],
    ) -> Result<(), CommandError> {
        let history = &self.inner.history;
        let may_make = self.inner.kafka.as_ref().is_none_or(|it| it.create_topics == Some(true));
        let all = functions.iter().flat_map(|it| it.triggers.iter().map(|of| (&it.name, of)));
        let mut specs = Vec::new();
        for (function, trigger) in all.filter(|_| may_make && history.is_on()) {
            let name = history_name(&self.inner, &format!("{app}/{function}/{}", trigger.name));
            if self.inner.bus.topic(&name).is_some() {
                continue;
            }
            let retention =
                bus::Retention { age: Some(history.max_age), bytes: Some(history.max_bytes) };
            specs.push(bus::TopicSpec { retention, ..bus::TopicSpec::new(name, 1) });
        }
        self.make_own_topics(specs).await
    }

    /// Makes the park topics of these functions' triggers that are missing: compacted, with as many
    /// partitions as a source has, and room for its records in their envelopes. On a Kafka where
    /// topics are not ours to make, nothing is parked without one that is there.
    pub(super) async fn make_park_topics(
        &self,
        app: &str,
        functions: &[FunctionSpec],
    ) -> Result<(), CommandError> {
        let may_make = self.inner.kafka.as_ref().is_none_or(|it| it.create_topics == Some(true));
        let all = functions.iter().flat_map(|it| it.triggers.iter().map(|of| (&it.name, of)));
        let mut specs = Vec::new();
        for (function, trigger) in all.filter(|_| may_make) {
            let name = park_name(&self.inner, &format!("{app}/{function}/{}", trigger.name));
            if trigger.order == function::Order::Partition || self.inner.bus.topic(&name).is_some()
            {
                continue;
            }
            let spec = bus::TopicSpec::new(name, 1).compacted();
            let (mut partitions, mut bytes) = (spec.partitions, spec.record_bytes_max);
            let sources = trigger.topics.iter().filter_map(|topic| self.inner.bus.topic(topic));
            for source in sources {
                partitions = partitions.max(source.spec.partitions);
                bytes = bytes.max(source.spec.record_bytes_max);
            }
            let record_bytes_max = bytes.saturating_add(DEAD_LETTER_BYTES as usize);
            specs.push(bus::TopicSpec { partitions, record_bytes_max, ..spec });
        }
        self.make_own_topics(specs).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_fits_into_its_topic_and_settings_come_back_out_of_the_state() {
        let text = r#"
[app]
name = "a"
[topic.in]
record-bytes-max = "4MiB"
partitions = 3
[function.f]
runtime = "wasm"
path = "f"
handler = "f.wasm"
[[function.f.trigger]]
topics = ["in"]
on-success = "told"
on-failure = "small"
[topic.small]
"#;
        let mut topics = needed(&Manifest::parse(text, "millrace.toml").unwrap());
        let dead = topics.iter().find(|it| it.name == "a.f.dead").unwrap();
        assert_eq!((dead.partitions, dead.record_bytes_max), (3, (4 << 20) + DEAD_LETTER_BYTES));
        let limit = |name: &str| topics.iter().find(|it| it.name == name).unwrap().record_bytes_max;
        assert_eq!((limit("told"), limit("small")), ((8 << 20) + MESSAGE_BYTES, 1 << 20));
        let mut again = restored(&stored(&topics));
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        again.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(again, topics);
        assert!(restored(&[("x".to_owned(), "{}".to_owned())].into()).is_empty());
    }
}
