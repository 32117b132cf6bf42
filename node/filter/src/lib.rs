//! A pure core: event patterns over records, compiled once.
//!
//! A pattern says what a record has to be for its function to be called: fields of its JSON value,
//! its key, headers and place. Patterns are EventBridge's; where its documentation and its library
//! event-ruler differ, the library is followed.
//!
//! ```
//! # use millrace_filter as filter;
//! let pattern = serde_json::json!({
//!     "value": { "c": [{ "numeric": [">", 30] }], "bed": [{ "prefix": "north-" }] },
//!     "headers": { "source": ["edge", { "exists": false }] },
//! });
//! let filter = filter::Filter::compile(&[pattern])?;
//! let record = filter::Record {
//!     value: Some(br#"{"bed":"north-4","c":34.2}"#),
//!     ..filter::Record::default()
//! };
//! assert!(filter.matches(&record));
//! # Ok::<(), filter::PatternError>(())
//! ```
//!
//! Fields of one object are all to be met; values in a list are alternatives, as are the objects
//! of a `$or` and the patterns of a filter. A record whose value is no JSON meets no alternative
//! that names a field of its value.
//!
//! Where event-ruler is left on purpose: numbers are compared as doubles of any size, a network
//! has no bits set beyond its length, and a field that stands twice in a pattern is an error
//! rather than its second list.

mod compile;
mod condition;
mod error;
mod explain;
mod json;
mod operators;
mod wildcard;
mod worlds;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use compile::{Alternative, Place, Wanted};
use condition::{Number, Scalar};
use error::{TOO_MUCH, Way};
use worlds::World;

pub use error::{PatternError, Step};
pub use explain::{Missed, Unmet};

/// Different conditions of a filter: a bit each.
pub const CONDITIONS_MAX: usize = 64;

/// A record, as a filter sees it.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Where it lies.
    pub topic: &'a str,
    /// In its topic.
    pub partition: i32,
    /// In its partition.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The value of its last header of a name, if it has one.
    pub header: &'a dyn Fn(&str) -> Option<&'a [u8]>,
}

impl Default for Record<'_> {
    fn default() -> Self {
        let (key, value) = (None, None);
        Self { topic: "", partition: 0, offset: 0, timestamp: 0, key, value, header: &|_| None }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}

/// A field and what it has to be.
#[derive(Clone, Debug)]
struct Leaf {
    name: String,
    wanted: Wanted,
}

/// One way in which a record can match.
#[derive(Clone, Copy, Debug, Default)]
struct Rule {
    /// All of its conditions.
    all: u64,
    /// Those on fields of JSON.
    json: u64,
}

/// Names of JSON fields, as a tree.
#[derive(Clone, Debug, Default)]
struct Names {
    below: Vec<(Box<str>, Self)>,
    /// The conditions on the value of this name.
    here: Vec<u8>,
}

impl Names {
    fn add(&mut self, path: &[Box<str>], leaf: u8) {
        let Some((first, rest)) = path.split_first() else {
            self.here.push(leaf);
            return;
        };
        let at = self.below.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.below.push((first.clone(), Self::default()));
            self.below.len() - 1
        });
        self.below[at].1.add(rest, leaf);
    }

    /// The names under a key. `"a.b"` is the same as `b` in `a`.
    #[inline]
    fn below(&self, key: &str) -> Option<&Self> {
        let one =
            |names: &'_ Self, key: &str| names.below.iter().position(|(name, _)| **name == *key);
        match one(self, key) {
            Some(at) => Some(&self.below[at].1),
            None if key.contains('.') => {
                key.split('.').try_fold(self, |names, key| Some(&names.below[one(names, key)?].1))
            }
            None => None,
        }
    }
}

/// Patterns, compiled: any of them lets a record pass.
#[derive(Clone, Debug)]
pub struct Filter {
    leaves: Vec<Leaf>,
    rules: Vec<Rule>,
    names: Names,
    /// Conditions that absence can meet.
    absent: u64,
    /// For each of those on a field of JSON: its bit, and those of its rule that are judged before.
    before: Vec<(u64, u64)>,
}

impl Filter {
    /// Compiles patterns, of which a record has to match one.
    ///
    /// # Errors
    ///
    /// What is wrong with the first one that cannot be used, and where in it.
    pub fn compile(patterns: &[Value]) -> Result<Self, PatternError> {
        let (mut leaves, mut rules) = (Vec::new(), Vec::new());
        let (mut absent, mut before) = (0, Vec::new());
        let mut known = BTreeMap::new();
        for alternative in compile::alternatives(patterns)? {
            rules.push(add_rule(alternative, &mut known, &mut leaves, &mut before)?);
        }
        let mut names = Names::default();
        for (index, leaf) in (0..).zip(&leaves) {
            if let Place::Json(path) = &leaf.wanted.place {
                names.add(path, index);
            }
            absent |= u64::from(leaf.wanted.absent) << index;
        }
        Ok(Self { leaves, rules, names, absent, before })
    }

    /// Whether a record passes. A record whose arrays give more choices than can be followed
    /// (it takes a pattern of more than ten fields within one array) passes, too: none is dropped
    /// that might have matched.
    #[must_use]
    pub fn matches(&self, record: &Record<'_>) -> bool {
        let plain = self.place(record);
        let is_met = |rule: &Rule, asked: u64, found: World| {
            let met = found.met | self.absent & !found.there;
            rule.all & asked & !met == 0
        };
        let mut wants_json = false;
        for rule in &self.rules {
            if is_met(rule, !rule.json, plain) {
                if rule.json == 0 {
                    return true;
                }
                wants_json = true;
            }
        }
        let Some(value) = record.value.filter(|_| wants_json) else { return false };
        let Some(worlds) = json::evaluate(self, value) else { return false };
        let mut rules = self.rules.iter().filter(|rule| is_met(rule, !rule.json, plain));
        rules.any(|rule| worlds.iter().any(|world| is_met(rule, rule.json, world)))
            || worlds.is_overflown()
    }

    /// What is met beside the value's JSON.
    fn place(&self, record: &Record<'_>) -> World {
        let mut found = World::default();
        for (index, leaf) in (0..).zip(&self.leaves) {
            if let Some(value) = beside(&leaf.wanted.place, record) {
                found.there |= 1 << index;
                found.met |= u64::from(leaf.wanted.is_met(value)) << index;
            }
        }
        found
    }

    /// What a value at a name meets.
    #[inline]
    fn meets(&self, leaves: &[u8], value: Scalar<'_>) -> World {
        let mut found = World::default();
        for &index in leaves {
            let leaf = &self.leaves[usize::from(index)];
            found.met |= u64::from(leaf.wanted.is_met(value)) << index;
            found.there |= 1 << index;
        }
        found.there &= self.absent;
        found
    }
}

impl Wanted {
    #[inline]
    fn is_met(&self, value: Scalar<'_>) -> bool {
        self.conditions.iter().any(|it| it.holds(value))
    }
}

/// What tells a condition from all others: its field, itself, and for absence what comes before.
type Identity = (String, String, u64);

/// Gives each condition of an alternative its bit.
fn add_rule(
    alternative: Alternative,
    known: &mut BTreeMap<Identity, u8>,
    leaves: &mut Vec<Leaf>,
    before: &mut Vec<(u64, u64)>,
) -> Result<Rule, PatternError> {
    let mut rule = Rule::default();
    for (name, wanted) in alternative {
        let is_json = matches!(wanted.place, Place::Json(_));
        let earlier = if wanted.absent { rule.json } else { 0 };
        let identity = (name.clone(), wanted.written.clone(), earlier);
        let index = match known.get(&identity) {
            Some(index) => *index,
            None => {
                let index = u8::try_from(leaves.len()).unwrap_or(u8::MAX);
                if CONDITIONS_MAX <= leaves.len() {
                    let message = format!("more than {CONDITIONS_MAX} different conditions");
                    let expected = "fewer fields, or a second trigger";
                    return Err(Way::default().error(TOO_MUCH, message, expected));
                }
                if wanted.absent && is_json {
                    before.push((1 << index, earlier));
                }
                leaves.push(Leaf { name, wanted });
                known.insert(identity, index);
                index
            }
        };
        rule.all |= 1 << index;
        rule.json |= u64::from(is_json) << index;
    }
    Ok(rule)
}

/// The value of a field that is not one of JSON.
fn beside<'a>(place: &Place, record: &Record<'a>) -> Option<Scalar<'a>> {
    let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).map_or(Scalar::Bytes, Scalar::Text);
    let number = |it: i64| Some(Scalar::Number(Number::Whole(it.into())));
    match place {
        Place::Value => record.value.map(text),
        Place::Key => record.key.map(text),
        Place::Topic => Some(Scalar::Text(record.topic)),
        Place::Partition => number(record.partition.into()),
        Place::Offset => number(record.offset),
        Place::Timestamp => number(record.timestamp),
        Place::Header(name) => (record.header)(name).map(text),
        Place::Json(_) => None,
    }
}

#[cfg(test)]
mod tests;
