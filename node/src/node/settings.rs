//! What a node is told beside its folders: flags, `MILLRACE_*`, its file, and last the variables
//! that OpenTelemetry has for every program. The first that says something counts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use dispatch::Ratio;
use serde::Deserialize;

use super::history::History;
use super::kafka::Kafka;
use super::peers::PeerSettings;
use super::site::Site;
use super::subscribers::SubscriberSettings;
use crate::commands::error::{CommandError, exit};

/// Where a collector of OpenTelemetry takes spans, below its address.
const TRACES_PATH: &str = "/v1/traces";

/// What `dev` and `serve` take of a node's settings.
#[derive(Clone, Debug, Default, Args)]
pub struct NodeFlags {
    /// Use the Kafka at these brokers instead of a bus of the node's own: host:port, several with
    /// commas.
    #[arg(long, value_name = "BROKERS", env = "MILLRACE_KAFKA", hide_env_values = true)]
    pub kafka: Option<String>,
    /// The node's file: [node] with name, data, listen, spawner,
    /// labels and drain, [kafka] with brokers,
    /// cluster, create-topics, [kafka.settings] and [kafka.credentials], [history] with max-bytes and
    /// max-age, [traces] with endpoint and ratio, [cluster] with listen and advertise,
    /// [subscribers] with listen and max.
    #[arg(long, value_name = "FILE", env = "MILLRACE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Send traces to the OpenTelemetry collector here, by OTLP over HTTP [default:
    /// OTEL_EXPORTER_OTLP_ENDPOINT, else none].
    #[arg(long, value_name = "URL", env = "MILLRACE_TRACES_ENDPOINT", hide_env_values = true)]
    pub traces_endpoint: Option<String>,
    /// How many of the batches whose records bring no trace along are traced: 0 to 1 [default: 1].
    #[arg(long, value_name = "RATIO", env = "MILLRACE_TRACES_RATIO")]
    pub traces_ratio: Option<f64>,
    /// Let subscribers in here, by UDP: those with a token of `millrace token create`. Nobody is let
    /// in without it. The node has to be one of a cluster, which may have one node.
    #[arg(long, value_name = "ADDRESS", env = "MILLRACE_SUBSCRIBERS_LISTEN")]
    pub subscribers_listen: Option<SocketAddr>,
}

/// The node's file: `--config`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct NodeFile {
    pub(super) node: Site,
    pub(super) kafka: Option<Kafka>,
    history: History,
    traces: Option<TracesTable>,
    cluster: PeerSettings,
    subscribers: SubscriberSettings,
}

/// `[traces]` of the node's file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct TracesTable {
    /// The collector's address; `/v1/traces` is added.
    endpoint: Option<String>,
    /// How many of the traces that begin here are kept: 0 to 1.
    ratio: Option<f64>,
}

/// Where spans go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// A whole address, `http://host:port/v1/traces`.
    pub url: String,
    /// How many of the traces that begin here are kept.
    pub ratio: Ratio,
}

/// What a node is told beside its folders.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where it is: for `serve`.
    pub site: Site,
    /// The brokers, if the bus is not to be the node's own.
    pub kafka: Option<Kafka>,
    /// How much of what became of records is kept.
    pub history: History,
    /// Whether it traces.
    pub traces: Option<TraceSettings>,
    /// How it is reached by the other nodes of its cluster, where that is other than it was told.
    pub cluster: PeerSettings,
    /// Whether subscribers are let in, and where.
    pub subscribers: SubscriberSettings,
}

impl Settings {
    /// What flags, environment and file say together.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or understood, or a setting is of no use.
    pub fn choose(flags: &NodeFlags, is_dev: bool) -> Result<Self, CommandError> {
        let file = flags.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let kafka = Kafka::choose(flags.kafka.as_deref(), file.kafka, is_dev)?;
        let own = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
        let traces = traces(flags, file.traces.unwrap_or_default(), own)?;
        let (site, history, cluster) = (file.node, file.history, file.cluster);
        let listen = flags.subscribers_listen.or(file.subscribers.listen);
        let subscribers = SubscriberSettings { listen, ..file.subscribers };
        Ok(Self { site, kafka, history, traces, cluster, subscribers })
    }
}

pub(super) fn read(path: &Path) -> Result<NodeFile, CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        unusable(message, "name the node's file with --config, and let the node's user read it")
    })?;
    toml::from_str(&text).map_err(|error| {
        let message = format!("cannot use {}: {error}", path.display());
        unusable(
            message.trim_end(),
            "a node's file has [node], [kafka], [history], [traces], [cluster] and [subscribers]: \
             millrace serve --help",
        )
    })
}

fn unusable(message: impl Into<String>, help: &str) -> CommandError {
    CommandError::new(exit::UNUSABLE, "E0414", message).help(help)
}

/// Whether it traces, and where to. `variable` is the environment.
fn traces(
    flags: &NodeFlags,
    file: TracesTable,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<TraceSettings>, CommandError> {
    let is =
        |name: &str, value: &str| variable(name).is_some_and(|it| it.eq_ignore_ascii_case(value));
    let ratio = flags.traces_ratio.or(file.ratio).unwrap_or(1.0);
    let ratio = Ratio::new(ratio).ok_or_else(|| {
        unusable(format!("traces.ratio is {ratio}"), "it is from 0 to 1: 0.01 is one in a hundred")
    })?;
    let whole = || Some((variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")?, ""));
    let general = || Some((variable("OTEL_EXPORTER_OTLP_ENDPOINT")?, TRACES_PATH));
    let ours = flags.traces_endpoint.clone().or(file.endpoint).filter(|it| !it.is_empty());
    let named = match ours {
        Some(ours) => Some((ours, TRACES_PATH)),
        None if is("OTEL_TRACES_EXPORTER", "none") => None,
        None => whole().or_else(general),
    };
    let named = named.filter(|_| !is("OTEL_SDK_DISABLED", "true"));
    let Some((address, path)) = named else { return Ok(None) };
    let host = address.strip_prefix("http://").unwrap_or_default();
    if host.is_empty() || host.starts_with(['/', ':']) || host.contains(char::is_whitespace) {
        let message = format!("traces cannot be sent to {}", address.escape_debug());
        let help = "name a collector as http://HOST:4318; one on this machine can go on with TLS";
        return Err(unusable(message, help));
    }
    let protocols = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    if let Some(other) = protocols.iter().find_map(|it| variable(it))
        && other != "http/protobuf"
    {
        let message = format!("traces cannot be sent by `{}`", other.escape_debug());
        let help = "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, and the port of that: 4318";
        return Err(unusable(message, help));
    }
    let url =
        if path.is_empty() { address } else { format!("{}{path}", address.trim_end_matches('/')) };
    Ok(Some(TraceSettings { url, ratio }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        flag: Option<&str>,
        file: &str,
        variables: &[(&str, &str)],
    ) -> Result<Option<TraceSettings>, CommandError> {
        let flags = NodeFlags { traces_endpoint: flag.map(str::to_owned), ..NodeFlags::default() };
        let file: NodeFile = toml::from_str(file).unwrap();
        traces(&flags, file.traces.unwrap_or_default(), |name| {
            let found = variables.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn url(flag: Option<&str>, file: &str, variables: &[(&str, &str)]) -> Option<String> {
        chosen(flag, file, variables).unwrap().map(|it| it.url)
    }

    const FILE: &str = "[traces]\nendpoint = \"http://b:4318/\"\nratio = 0.5";
    const GENERAL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");

    #[test]
    fn the_flag_goes_before_the_file_and_that_before_the_general_variables() {
        let at = |host: &str| Some(format!("http://{host}:4318/v1/traces"));
        assert_eq!(url(Some("http://a:4318"), FILE, &[GENERAL]), at("a"));
        assert_eq!(url(None, FILE, &[GENERAL]), at("b"));
        assert_eq!(url(None, "", &[GENERAL]), at("c"));
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://d/x");
        assert_eq!(url(None, "", &[GENERAL, whole]).as_deref(), Some("http://d/x"));
        assert_eq!(url(None, "", &[]), None);
        assert_eq!(chosen(None, FILE, &[]).unwrap().unwrap().ratio, Ratio::new(0.5).unwrap());
    }

    #[test]
    fn the_general_switches_are_heard() {
        assert_eq!(url(None, FILE, &[("OTEL_SDK_DISABLED", "True")]), None);
        assert_eq!(url(None, "", &[GENERAL, ("OTEL_TRACES_EXPORTER", "none")]), None);
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let error = chosen(None, "", &[GENERAL, grpc]).unwrap_err();
        assert!(error.message.contains("grpc"), "{error:?}");
    }

    #[test]
    fn what_is_of_no_use_is_refused_by_name() {
        for bad in ["https://a", "a:4318", "http://", "http://a b"] {
            let error = chosen(Some(bad), "", &[]).unwrap_err();
            assert_eq!((error.exit, error.code), (exit::UNUSABLE, Some("E0414")), "{bad}");
            assert!(error.message.contains(bad), "{error:?}");
        }
        let error = chosen(None, "[traces]\nratio = 2.0", &[]).unwrap_err();
        assert!(error.message.contains("ratio"), "{error:?}");
    }
}
