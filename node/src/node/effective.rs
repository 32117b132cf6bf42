//! What the node was told, as it may be shown to anybody: no value of an environment, no setting of
//! Kafka's client, no credentials in an address.

use std::collections::BTreeMap;

use function::FunctionSpec;
use gateway::api::{API, ClusterSummary, Effective, KafkaSettings, TracesSettings};
use serde_json::Value;

use super::Node;

/// What stands for a value that is left out.
pub(crate) const LEFT_OUT: &str = "[left out]";

impl Node {
    /// The settings in effect.
    pub(super) fn effective(&self) -> Effective {
        let inner = &self.inner;
        let kafka = inner.kafka.as_ref().map(|kafka| KafkaSettings {
            brokers: kafka.brokers.clone(),
            cluster: kafka.cluster.clone(),
            create_topics: kafka.create_topics.unwrap_or_default(),
            settings: kafka.settings.keys().cloned().collect(),
        });
        let traces = inner.trace_settings.as_ref().map(|traces| TracesSettings {
            url: without_credentials(&traces.url),
            ratio: traces.ratio.get(),
        });
        let (functions, cluster) = self.state(|state| {
            let mut functions = BTreeMap::new();
            for (app, it) in state.apps() {
                for (name, function) in &it.functions {
                    functions.insert(format!("{app}/{name}"), settings(&function.spec));
                }
            }
            let apps = state.apps().keys();
            let summary = ClusterSummary {
                versions: apps.map(|app| (app.clone(), state.version(app))).collect(),
                shards: state.shards().len() as u64,
                epoch_max: state.shards().values().map(|it| it.epoch.0).max().unwrap_or(0),
                paused: state.paused().len() as u64,
                redrivers: state.redrivers().len() as u64,
            };
            (functions, summary)
        });
        let data_dir = inner.data_dir.display().to_string();
        let labels = inner.labels.iter().map(ToString::to_string).collect();
        Effective { api: API, data_dir, labels, kafka, traces, functions, cluster }
    }
}

/// A function's settings as it was deployed with, the values of its environment left out.
fn settings(spec: &str) -> Value {
    let Ok(mut spec) = serde_json::from_str::<FunctionSpec>(spec) else {
        // Of another version: what is in it nobody can say.
        return Value::from(LEFT_OUT);
    };
    spec.env.values_mut().for_each(|value| LEFT_OUT.clone_into(value));
    serde_json::to_value(spec).unwrap_or_default()
}

fn without_credentials(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_who_speaks() {
        let shown = without_credentials("http://me:secret@host:4318/v1/traces?key=secret");
        assert_eq!(shown, "http://host:4318/v1/traces");
        assert_eq!(without_credentials("http://host:4318/v1/traces"), "http://host:4318/v1/traces");
        assert_eq!(settings("{\"env\":{\"A\":\"secret\"}}"), LEFT_OUT);
    }
}
