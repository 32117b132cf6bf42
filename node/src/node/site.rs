//! `[node]` of the node's file: where a service keeps its data, listens, finds its spawner, and how
//! long it lets work end. A flag or a variable goes before it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use function::Name;
use serde::Deserialize;

use super::history::duration;

/// How long a node that ends waits for what is in flight, if nobody says otherwise.
const DRAIN: Duration = Duration::from_millis(1_500);

/// What a node that runs as a service is told of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Site {
    /// How commands address it.
    pub name: Option<String>,
    /// Where records and positions are kept.
    pub data: Option<PathBuf>,
    /// Where the control API listens.
    pub listen: Option<SocketAddr>,
    /// The socket of the process that starts workers; without one the node has its own.
    pub spawner: Option<PathBuf>,
    /// What it has that others may lack: functions with `labels` run where all of theirs are.
    pub labels: BTreeSet<Name>,
    /// How long what is in flight may take to end when the node is asked to.
    #[serde(deserialize_with = "duration")]
    pub drain: Duration,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            name: None,
            data: None,
            listen: None,
            spawner: None,
            labels: BTreeSet::new(),
            drain: DRAIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::settings::NodeFile;

    const SHIPPED: &str = include_str!("../../../deploy/node.toml");

    /// The file with what it only shows switched on.
    fn switched_on() -> String {
        let is_shown = |rest: &str| {
            let name = rest.split(" = ").next().unwrap_or_default().trim_matches('"');
            let is_key = rest.contains(" = ")
                && name.chars().all(|it| it.is_ascii_lowercase() || ".-".contains(it));
            is_key || (rest.starts_with('[') && rest.ends_with(']'))
        };
        let lines = SHIPPED.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_shown(rest) => rest,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The keys that a table may have, as the parser names them when it meets another.
    fn known(table: &str) -> BTreeSet<String> {
        let text = if table.is_empty() { "zz = 1".into() } else { format!("[{table}]\nzz = 1") };
        let error = toml::from_str::<NodeFile>(&text).unwrap_err().message().to_owned();
        let (_, expected) = error.split_once("expected").unwrap_or_else(|| panic!("{error}"));
        expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_shipped_file_can_be_used_and_has_every_key_and_no_other() {
        let file: NodeFile = toml::from_str(SHIPPED).unwrap();
        assert_eq!(file.node.data.as_deref(), Some("/var/lib/millrace".as_ref()));
        let text = switched_on();
        toml::from_str::<NodeFile>(&text).unwrap_or_else(|error| panic!("{error}"));
        let all: toml::Table = toml::from_str(&text).unwrap();
        let keys = |table: &toml::Table| table.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(keys(&all), known(""));
        for (name, table) in &all {
            assert_eq!(keys(table.as_table().unwrap()), known(name), "[{name}]");
        }
    }
}
