//! The node on a Kafka: which brokers and how, from the command line and the node's file, and the
//! names under which its triggers are known there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bus::kafka::{GroupName, KafkaBus, KafkaConfig};
use bus::{Bus, Position, PositionKey, PositionLog, ShardId};
use serde::Deserialize;
use storage::SledPositions;

use super::chain;
use crate::commands::error::{CommandError, exit};

/// What `LoadCredential=` of the package calls its folder of credentials.
const CREDENTIALS: &str = "millrace";

/// `[kafka]` of the node's file: with it the node has no bus of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kafka {
    /// Where the brokers are asked for first: `host:port`, several with commas.
    pub brokers: String,
    /// The name of this installation on those brokers [default: the node's name]. Groups are
    /// called after it; two installations on one Kafka need two.
    pub cluster: Option<String>,
    /// Whether topics that an application names are made when they are missing [default: in
    /// `dev`].
    pub create_topics: Option<bool>,
    /// Settings of librdkafka: `"security.protocol" = "SASL_SSL"`.
    pub settings: BTreeMap<String, String>,
    /// Settings whose values are secrets: each names a file in `$CREDENTIALS_DIRECTORY`, where the
    /// system's service manager puts what `LoadCredential=` names.
    pub credentials: BTreeMap<String, String>,
    /// Without a name, the data folder makes one of its own: who deletes it starts anew, as on the
    /// node's own bus. So in `dev`; a service that lost its disk must not.
    #[serde(skip)]
    pub named_by_folder: bool,
}

impl Kafka {
    /// What the flags and the file say together; `None` is the embedded bus.
    ///
    /// # Errors
    ///
    /// When no brokers are named.
    pub fn choose(
        brokers: Option<&str>,
        file: Option<Self>,
        is_dev: bool,
    ) -> Result<Option<Self>, CommandError> {
        let mut kafka = match (file, brokers) {
            (None, None) => return Ok(None),
            (kafka, _) => kafka.unwrap_or_default(),
        };
        if let Some(brokers) = brokers {
            brokers.clone_into(&mut kafka.brokers);
        }
        if kafka.brokers.is_empty() {
            let failed = CommandError::new(exit::UNUSABLE, "E0414", "`kafka.brokers` is empty");
            return Err(failed.help("name them as host:port, several with commas"));
        }
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        for (setting, name) in &kafka.credentials {
            let secret = credential(folder.as_deref(), name).map_err(|why| {
                let message = format!("cannot use the credential `{name}` for `{setting}`: {why}");
                CommandError::new(exit::UNUSABLE, "E0414", message)
                    .help("put it into a file of this name in /etc/millrace/credentials")
            })?;
            kafka.settings.insert(setting.clone(), secret);
        }
        kafka.create_topics.get_or_insert(is_dev);
        kafka.named_by_folder = is_dev && kafka.cluster.is_none();
        Ok(Some(kafka))
    }
}

/// What the service manager has laid down under this name. That of the package loads a folder, so
/// that the names of its files have the name of the folder in front.
fn credential(folder: Option<&Path>, name: &str) -> Result<String, String> {
    let folder = folder.ok_or("this process has no CREDENTIALS_DIRECTORY")?;
    if name.is_empty() || name.contains('/') {
        return Err("this is no name of a file".to_owned());
    }
    let names = [name.to_owned(), format!("{CREDENTIALS}_{name}")];
    let found = names.into_iter().map(|it| folder.join(it)).find(|it| it.exists());
    let path = found.ok_or_else(|| format!("it is not in {}", folder.display()))?;
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The triggers of shards, by which their groups are called.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(Arc<Mutex<BTreeMap<ShardId, String>>>);

impl Groups {
    /// This shard is one of this trigger: app/function/name.
    pub(super) fn learn(&self, shard: ShardId, trigger: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(shard, trigger.replace('/', "."));
    }

    /// All shards that a state knows.
    pub(super) fn learn_all(&self, state: &cluster::State) {
        for (id, shard) in state.shards() {
            self.learn(*id, &shard.trigger);
        }
        for (topic, redriver) in state.redrivers() {
            self.learn(redriver.shard, &super::dead_letters::redriver_name(topic));
        }
    }

    fn namer(&self, cluster: &str) -> GroupName {
        let (known, cluster) = (Arc::clone(&self.0), cluster.to_owned());
        Arc::new(move |shard| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            match known.get(&shard) {
                Some(trigger) => format!("millrace.{cluster}.{trigger}"),
                None => format!("millrace.{cluster}.shard-{shard}"),
            }
        })
    }
}

/// What groups and park topics on these brokers are named by.
pub(super) fn cluster_of(
    kafka: &Kafka,
    data_dir: &Path,
    name: &str,
) -> Result<String, CommandError> {
    match &kafka.cluster {
        Some(cluster) => Ok(cluster.clone()),
        None if kafka.named_by_folder => folder_name(data_dir, name),
        None => Ok(name.to_owned()),
    }
}

/// Whether shards may come here from other nodes, and go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbours {
    Some,
    None,
}

/// Between nodes the wait of a lane is part of the silence when a shard moves. A node alone has only
/// its deploys and seeks to wait for.
const LANE_WAIT_ALONE: Duration = Duration::from_millis(250);

/// Connects to the brokers.
pub(super) async fn open(
    kafka: &Kafka,
    data_dir: &Path,
    name: &str,
    groups: &Groups,
    positions: SledPositions,
    neighbours: Neighbours,
) -> Result<Arc<dyn Bus>, CommandError> {
    let cluster = cluster_of(kafka, data_dir, name)?;
    let mut config = KafkaConfig::new(&kafka.brokers, &*cluster);
    if neighbours == Neighbours::None {
        config.lane_wait = LANE_WAIT_ALONE;
    }
    config.settings.clone_from(&kafka.settings);
    config.group = groups.namer(&cluster);
    let opened = KafkaBus::open(config, Arc::new(Truth(positions))).await;
    opened.map(|bus| bus as Arc<dyn Bus>).map_err(|error| {
        let message = format!("cannot use Kafka at {}: {}", kafka.brokers, chain(&error));
        match &error {
            bus::Error::Setting { .. } => CommandError::new(exit::UNUSABLE, "E0414", message),
            bus::Error::Authentication { .. } => CommandError::new(exit::DENIED, "E0416", message)
                .help("look at sasl.username and sasl.password in [kafka.settings]"),
            _ => CommandError::new(exit::UNREACHABLE, "E0415", message)
                .help("is a broker listening there, and advertised under a name that resolves?"),
        }
    })
}

/// The name that belongs to a data folder; made once.
fn folder_name(data_dir: &Path, name: &str) -> Result<String, CommandError> {
    let path = data_dir.join("kafka-name");
    match std::fs::read_to_string(&path) {
        Ok(made) => Ok(made),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let made = format!("{name}-{:08x}", rand::random::<u32>());
            let written = std::fs::write(&path, &made);
            written.map_err(|error| CommandError::file("write", &path, &error))?;
            Ok(made)
        }
        Err(error) => Err(CommandError::file("read", &path, &error)),
    }
}

/// On Kafka the position log is what a restart goes on from. When a sync of it failed, nobody
/// knows what is on the disk: the process ends, and the next one reads what is there.
#[derive(Debug)]
struct Truth(SledPositions);

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl PositionLog for Truth {
    fn record(&self, moves: &[(PositionKey, Position)]) -> Result<(), BoxedError> {
        self.0.record(moves).map_err(end_if_fatal)
    }

    fn load(&self) -> Result<Vec<(PositionKey, Position)>, BoxedError> {
        self.0.load().map_err(end_if_fatal)
    }

    fn clear(&self) -> Result<(), BoxedError> {
        self.0.clear().map_err(end_if_fatal)
    }
}

fn end_if_fatal(error: storage::Error) -> BoxedError {
    if storage::is_fatal(&error) {
        tracing::error!(%error, "could not sync the positions: the process ends");
        std::process::abort();
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use super::super::settings;
    use super::*;

    fn chosen(text: &str, brokers: Option<&str>) -> Result<Option<Kafka>, CommandError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Kafka::choose(brokers, settings::read(file.path())?.kafka, false)
    }

    #[test]
    fn the_flag_goes_before_the_file_and_neither_is_the_embedded_bus() {
        assert_eq!(Kafka::choose(None, None, true).unwrap(), None);
        assert_eq!(chosen("", None).unwrap(), None);
        let flag = Kafka::choose(Some("a:1"), None, true).unwrap().unwrap();
        assert_eq!((flag.brokers.as_str(), flag.create_topics), ("a:1", Some(true)));
        let text = "[kafka]\nbrokers = \"a:1\"\ncluster = \"plant\"\n\
                    [kafka.settings]\n\"linger.ms\" = \"1\"\n";
        let file = chosen(text, Some("b:2")).unwrap().unwrap();
        assert_eq!((file.brokers.as_str(), file.create_topics), ("b:2", Some(false)));
        assert_eq!((file.cluster.as_deref(), file.settings.len()), (Some("plant"), 1));
    }

    #[test]
    fn a_file_with_a_mistake_is_refused_by_name() {
        for (text, named) in [("[kafka]\nbroker = \"a\"", "broker"), ("[kafka]", "kafka.brokers")] {
            let error = chosen(text, None).unwrap_err();
            assert_eq!((error.exit, error.code), (exit::UNUSABLE, Some("E0414")));
            assert!(error.message.contains(named), "{}", error.message);
        }
    }

    #[test]
    fn a_credential_is_found_under_its_name_and_that_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("millrace_word"), "secret\n").unwrap();
        std::fs::write(folder.path().join("other"), "plain").unwrap();
        let of = |name| credential(Some(folder.path()), name);
        assert_eq!(of("word").as_deref(), Ok("secret"));
        assert_eq!(of("other").as_deref(), Ok("plain"));
        for bad in ["", "../other", "missing"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(credential(None, "other").is_err());
        let text = "[kafka]\nbrokers = \"a:1\"\n[kafka.credentials]\n\"sasl.password\" = \"word\"";
        let error = chosen(text, None).unwrap_err();
        assert_eq!((error.exit, error.code), (exit::UNUSABLE, Some("E0414")));
    }

    #[test]
    fn a_folder_keeps_its_name_and_another_has_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = folder_name(one.path(), "weather").unwrap();
        assert!(name.starts_with("weather-"), "{name}");
        assert_eq!(folder_name(one.path(), "weather").unwrap(), name);
        assert_ne!(folder_name(two.path(), "weather").unwrap(), name);
    }

    #[test]
    fn groups_are_called_after_triggers() {
        let groups = Groups::default();
        groups.learn(ShardId(3), "weather/tidy/readings");
        let namer = groups.namer("edge");
        assert_eq!(namer(ShardId(3)), "millrace.edge.weather.tidy.readings");
        assert_eq!(namer(ShardId(4)), "millrace.edge.shard-4");
    }
}
