//! `[history]` of the node's file: how much is kept of what became of records, and for how long.

use std::time::Duration;

use function::{parse_bytes, parse_duration};
use serde::{Deserialize, Deserializer, de};

/// Bounds of each trigger's history. Topics that are there keep the bounds they were made with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct History {
    /// How many bytes of each trigger; the oldest go first. 0 tells nothing, and costs nothing.
    /// Some 200 bytes go for each commit, and 2 for each run of offsets in a batch.
    #[serde(deserialize_with = "bytes")]
    pub max_bytes: u64,
    /// For how long.
    #[serde(deserialize_with = "duration")]
    pub max_age: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_age: Duration::from_hours(7 * 24) }
    }
}

impl History {
    /// Whether anything is told.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.max_bytes != 0
    }
}

/// `"64MiB"`, or 0.
fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Number(u64),
        Text(String),
    }
    match Size::deserialize(from)? {
        Size::Number(0) => Ok(0),
        Size::Number(number) => {
            Err(de::Error::custom(format!("a size has a unit: \"{number}B\", \"64MiB\"")))
        }
        Size::Text(text) => parse_bytes(&text).map_err(de::Error::custom),
    }
}

pub(in crate::node) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_have_units_and_zero_is_off() {
        let parse = |text: &str| toml::from_str::<History>(text);
        assert_eq!(parse("").unwrap(), History::default());
        let some = parse("max-bytes = \"8MiB\"\nmax-age = \"1h\"").unwrap();
        assert_eq!((some.max_bytes, some.max_age), (8 << 20, Duration::from_hours(1)));
        assert!(!parse("max-bytes = 0").unwrap().is_on());
        for bad in ["max-bytes = 5", "max-bytes = \"5\"", "max-age = 5", "max-size = \"1MiB\""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
