//! What a spec says, in the words and units of the manifest: what a plan compares and shows.

use serde::Serialize;

use crate::{
    Batch, Circuit, FunctionSpec, Instances, Retention, Retry, Start, Topic, TriggerSpec,
    format_bytes, format_duration,
};

/// A key of the manifest and its value, as somebody would write it there, but without quotes.
pub type Setting = (String, String);

impl FunctionSpec {
    /// Everything but its name and its triggers, in the order of the manifest; what is left out
    /// there is here with its default.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let Self {
            name: _,
            runtime,
            handler,
            path,
            memory_bytes,
            timeout,
            instances,
            labels,
            env,
            allow_produce,
            triggers: _,
        } = self;
        let Instances { warm, max, cluster_warm, cluster_max, fresh } = instances;
        let mut out = Vec::new();
        let mut set = |key: &str, value: String| out.push((key.to_owned(), value));
        set("runtime", runtime.to_string());
        set("handler", handler.clone());
        set("path", path.clone());
        set("memory", format_bytes(*memory_bytes));
        set("timeout", format_duration(*timeout));
        set("instances.warm", warm.to_string());
        set("instances.max", max.to_string());
        set("instances.cluster-warm", cluster_warm.to_string());
        set("instances.cluster-max", cluster_max.map_or_else(none, |it| it.to_string()));
        set("instances.fresh", word(fresh));
        let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
        set("labels", list(&labels));
        set("allow.produce", list(allow_produce));
        for (name, value) in env {
            set(&format!("env.{name}"), value.clone());
        }
        out
    }
}

impl TriggerSpec {
    /// Everything but its name, in the order of the manifest.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let Self {
            name: _,
            topics,
            start,
            order,
            delivery,
            event,
            decode,
            filter,
            batch,
            retry,
            circuit,
            dead_letter,
            output_topic,
            on_success,
            on_failure,
        } = self;
        let Batch { records, bytes, window } = batch;
        let Retry { attempts, backoff_min, backoff_max, pauses, age_max, bisect, no_retry } = retry;
        let listed: Vec<String> = pauses.iter().map(|it| format_duration(*it)).collect();
        let backoff = match backoff_min == backoff_max {
            _ if !listed.is_empty() => listed.join(", "),
            true => format_duration(*backoff_min),
            false => {
                format!("{}..{}", format_duration(*backoff_min), format_duration(*backoff_max))
            }
        };
        let mut out = Vec::new();
        let mut set = |key: &str, value: String| out.push((key.to_owned(), value));
        set("topics", list(topics));
        let start = match start {
            Start::At(time) => time.to_string(),
            other => word(other),
        };
        set("start", start);
        set("order", word(order));
        set("delivery", word(delivery));
        set("event", word(event));
        set("decode", word(decode));
        let patterns: Vec<String> = filter.iter().map(ToString::to_string).collect();
        set("filter", if patterns.is_empty() { none() } else { patterns.join(" or ") });
        set("batch.records", records.to_string());
        set("batch.bytes", format_bytes(*bytes));
        set("batch.window", format_duration(*window));
        set("retry.attempts", attempts.to_string());
        set("retry.backoff", backoff);
        set("retry.max-age", age_max.map_or_else(none, format_duration));
        set("retry.bisect", bisect.to_string());
        set("retry.no-retry", list(no_retry));
        set("circuit", circuit.as_ref().map_or_else(none, circuit_words));
        set("dead-letter", dead_letter.clone());
        set("output.topic", output_topic.clone().unwrap_or_else(none));
        set("on-success", on_success.clone().unwrap_or_else(none));
        set("on-failure", on_failure.clone().unwrap_or_else(none));
        out
    }
}

impl Topic {
    /// Everything but its name, in the order of the manifest.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let Self { name: _, partitions, retention, cleanup, record_bytes_max } = self;
        let Retention { age, bytes } = retention;
        let mut out = Vec::new();
        let mut set = |key: &str, value: String| out.push((key.to_owned(), value));
        set("partitions", partitions.to_string());
        set("retention.age", age.map_or_else(none, format_duration));
        set("retention.bytes", bytes.map_or_else(none, format_bytes));
        set("cleanup", word(cleanup));
        set("record-bytes-max", format_bytes(*record_bytes_max));
        out
    }
}

fn circuit_words(it: &Circuit) -> String {
    let Circuit { failures_percent, attempts, window, pause_min, pause_max } = it;
    let [window, least, most] = [window, pause_min, pause_max].map(|it| format_duration(*it));
    format!("{failures_percent}% of {attempts} in {window}, pause {least}..{most}")
}

fn none() -> String {
    "none".to_owned()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { none() } else { names.join(", ") }
}

/// The word of a setting that has only words.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;

    const MANIFEST: &str = r#"
[app]
name = "greenhouse"
[topic.readings]
retention = { age = "7d" }
[function.hot]
runtime = "python3"
path = "functions/hot"
handler = "app.hot"
memory = "128MiB"
env = { LIMIT = "30" }
[[function.hot.trigger]]
topics = ["readings"]
filter = [{ value = { c = [{ numeric = [">", 30] }] } }, { key = ["a"] }]
batch = { window = "200ms" }
retry = { backoff = "1s..1m", no-retry = ["ValueError", "Sandbox.*"] }
output = { topic = "alerts" }
on-failure = "hot.failed"
"#;

    fn lines(settings: Vec<Setting>) -> Vec<String> {
        settings.into_iter().map(|(key, value)| format!("{key} {value}")).collect()
    }

    #[test]
    fn settings_are_in_the_words_of_the_manifest() {
        let manifest = Manifest::parse(MANIFEST, "millrace.toml").unwrap();
        let hot = &manifest.functions[0];
        let expected = [
            "runtime python3",
            "handler app.hot",
            "path functions/hot",
            "memory 128MiB",
            "timeout 10s",
            "instances.warm 0",
            "instances.max 8",
            "instances.cluster-warm 0",
            "instances.cluster-max none",
            "instances.fresh never",
            "labels none",
            "allow.produce none",
            "env.LIMIT 30",
        ];
        assert_eq!(lines(hot.settings()), expected);
        let expected = [
            "topics readings",
            "start earliest",
            "order key",
            "delivery at-least-once",
            "event record",
            "decode json",
            r#"filter {"value":{"c":[{"numeric":[">",30]}]}} or {"key":["a"]}"#,
            "batch.records 100",
            "batch.bytes 1MiB",
            "batch.window 200ms",
            "retry.attempts 3",
            "retry.backoff 1s..1m",
            "retry.max-age none",
            "retry.bisect true",
            "retry.no-retry ValueError, Sandbox.*",
            "circuit none",
            "dead-letter greenhouse.hot.dead",
            "output.topic alerts",
            "on-success none",
            "on-failure hot.failed",
        ];
        assert_eq!(lines(hot.triggers[0].settings()), expected);
        let expected = [
            "partitions 8",
            "retention.age 7d",
            "retention.bytes none",
            "cleanup delete",
            "record-bytes-max 1MiB",
        ];
        assert_eq!(lines(manifest.topics[0].settings()), expected);
    }
}
