//! Names, parsed at every door: of applications, functions and triggers, and of topics.
//! Whatever has passed here is safe in a path, a log line, a header and a topic name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest [`Name`].
pub const NAME_CHARS_MAX: usize = 63;

/// The longest topic name, as on Kafka.
pub const TOPIC_CHARS_MAX: usize = 249;

/// The name of an application, a function or a trigger: `^[a-z][a-z0-9-]{0,62}$`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// Why a text is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name cannot be empty")]
    Empty,
    /// More than 63 characters.
    #[error("a name has at most {NAME_CHARS_MAX} characters, this one has {chars}")]
    TooLong {
        /// How many it has.
        chars: usize,
    },
    /// It starts with something else than `a-z`.
    #[error("a name starts with a letter a-z, not with {found:?}")]
    Start {
        /// The first character.
        found: char,
    },
    /// It holds something else than `a-z`, `0-9` and `-`.
    #[error("a name holds only a-z, 0-9 and '-', not {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
}

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let first = text.chars().next().ok_or(NameError::Empty)?;
        if !first.is_ascii_lowercase() {
            return Err(NameError::Start { found: first });
        }
        let stranger = |c: &char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-');
        if let Some(found) = text.chars().find(stranger) {
            return Err(NameError::Character { found });
        }
        if text.len() > NAME_CHARS_MAX {
            return Err(NameError::TooLong { chars: text.len() });
        }
        Ok(Self(text.into()))
    }

    /// The closest valid name to a text, where there is one: what an error suggests.
    #[must_use]
    pub fn near(text: &str) -> Option<Self> {
        let mut name = String::new();
        for c in text.chars() {
            let lower = c.to_ascii_lowercase();
            match lower {
                'a'..='z' => name.push(lower),
                '0'..='9' if !name.is_empty() => name.push(lower),
                '-' | '_' | ' ' | '.' | '/' if !name.is_empty() && !name.ends_with('-') => {
                    name.push('-');
                }
                _ => {}
            }
        }
        name.truncate(NAME_CHARS_MAX);
        Self::parse(name.trim_end_matches('-')).ok()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl From<Name> for Arc<str> {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// Why a text is no topic name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// Nothing there.
    #[error("a topic name cannot be empty")]
    Empty,
    /// `.` or `..`.
    #[error("a topic cannot be named \".\" or \"..\"")]
    Dots,
    /// More than 249 characters.
    #[error("a topic name has at most {TOPIC_CHARS_MAX} characters, this one has {chars}")]
    TooLong {
        /// How many it has.
        chars: usize,
    },
    /// It holds something that Kafka does not take.
    #[error("a topic name holds only letters, digits, '.', '_' and '-', not {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
}

/// Checks a topic name by Kafka's rules (`Topic.validate` of Apache Kafka).
///
/// # Errors
///
/// What is wrong with it, as [`TopicNameError`].
pub fn check_topic_name(text: &str) -> Result<(), TopicNameError> {
    if text.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if text == "." || text == ".." {
        return Err(TopicNameError::Dots);
    }
    let stranger = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if let Some(found) = text.chars().find(stranger) {
        return Err(TopicNameError::Character { found });
    }
    if text.len() > TOPIC_CHARS_MAX {
        return Err(TopicNameError::TooLong { chars: text.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused_at_the_door() {
        for bad in ["", "../x", "a;id", "$(id)", "A", "a\0", "%2e%2e", "9a", "-a", "a_b", "ä"] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<Name>(bad.into()).is_err(), "{bad:?}");
        }
        assert!(Name::parse(&"a".repeat(64)).is_err());
        for good in ["a", "hot-alert", "a9", "a-"] {
            assert_eq!(Name::parse(good).unwrap(), *good);
        }
        assert!(Name::parse(&"a".repeat(63)).is_ok());
    }

    #[test]
    fn the_nearest_name_is_a_name() {
        assert_eq!(Name::near("Hot_Alert").unwrap(), "hot-alert");
        assert_eq!(Name::near("9 lives").unwrap(), "lives");
        assert_eq!(Name::near("$$"), None);
        assert_eq!(Name::near(&"x-".repeat(200)).unwrap().as_str().len(), 63);
    }

    #[test]
    fn topic_names_follow_kafka() {
        for good in ["a", "Readings.v2_x-y", "...", &"t".repeat(249)] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a;b", "a/b", "ü", &"t".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
    }
}
