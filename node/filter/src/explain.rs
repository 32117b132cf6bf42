//! Why a record does not pass: for people, so it builds the tree that matching does without.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::condition::{Number, Scalar};
use crate::{Filter, Leaf, Place, Record, Rule, beside};

/// Values of a field that are shown.
const SHOWN_MAX: usize = 5;

/// Why one alternative of a filter is not met. `$or` and several patterns make several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The fields that are not what they have to be. None: each is, but not within one element of
    /// an array.
    pub missed: Vec<Missed>,
}

/// A field that is not what it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Its whole name.
    pub name: String,
    /// What it has to be, as the pattern says it.
    pub wanted: String,
    /// What it is, as JSON, the first few values of an array's.
    pub found: Vec<String>,
}

impl Filter {
    /// Why each of its alternatives is not met, those that miss least first; nothing when the
    /// record passes.
    #[must_use]
    pub fn explain(&self, record: &Record<'_>) -> Vec<Unmet> {
        if self.matches(record) {
            return Vec::new();
        }
        let value = record.value.unwrap_or_default();
        let tree = serde_json::from_slice(value).ok().map(|tree: Value| {
            let mut fields = BTreeMap::new();
            flatten("value".to_owned(), &tree, &mut fields);
            fields
        });
        let mut all: Vec<Unmet> =
            self.rules.iter().map(|rule| self.unmet(*rule, record, tree.as_ref())).collect();
        all.sort_by_key(|it| it.missed.len());
        all.dedup();
        all
    }

    fn unmet(
        &self,
        rule: Rule,
        record: &Record<'_>,
        tree: Option<&BTreeMap<String, Vec<Value>>>,
    ) -> Unmet {
        let mut missed = Vec::new();
        if rule.json != 0 && tree.is_none() {
            let found = record.value.map(|it| Value::from(String::from_utf8_lossy(it)).to_string());
            let (name, wanted) = ("value".to_owned(), "JSON".to_owned());
            missed.push(Missed { name, wanted, found: found.into_iter().collect() });
        }
        let nothing = BTreeMap::new();
        let leaves = (0..).zip(&self.leaves).filter(|(index, _)| rule.all >> index & 1 == 1);
        for (index, leaf) in leaves {
            let is_json = rule.json >> index & 1 == 1;
            if is_json && tree.is_none() {
                continue;
            }
            missed.extend(miss(leaf, record, tree.unwrap_or(&nothing)));
        }
        Unmet { missed }
    }
}

/// A field that is not what it has to be, taken alone.
fn miss(leaf: &Leaf, record: &Record<'_>, tree: &BTreeMap<String, Vec<Value>>) -> Option<Missed> {
    let found: Vec<Value> = match &leaf.wanted.place {
        Place::Json(_) => tree.get(&leaf.name).cloned().unwrap_or_default(),
        place => beside(place, record).map(shown).into_iter().collect(),
    };
    let is_met = if found.is_empty() {
        leaf.wanted.absent
    } else {
        found.iter().any(|value| leaf.wanted.is_met(scalar(value)))
    };
    if is_met {
        return None;
    }
    let (name, wanted) = (leaf.name.clone(), leaf.wanted.written.clone());
    let found = found.iter().take(SHOWN_MAX).map(Value::to_string).collect();
    Some(Missed { name, wanted, found })
}

/// Every value without parts, by its whole name.
fn flatten(name: String, value: &Value, into: &mut BTreeMap<String, Vec<Value>>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(format!("{name}.{key}"), value, into);
            }
        }
        Value::Array(elements) => {
            elements.iter().for_each(|element| flatten(name.clone(), element, into));
        }
        plain => into.entry(name).or_default().push(plain.clone()),
    }
}

fn scalar(value: &Value) -> Scalar<'_> {
    match value {
        Value::String(text) => Scalar::Text(text),
        Value::Number(number) => Scalar::Number(Number::of(number)),
        Value::Bool(it) => Scalar::Bool(*it),
        _ => Scalar::Null,
    }
}

fn shown(value: Scalar<'_>) -> Value {
    match value {
        Scalar::Text(text) => text.into(),
        Scalar::Bytes => "(bytes that are no UTF-8)".into(),
        Scalar::Number(Number::Whole(it)) => i64::try_from(it).map_or(Value::Null, Value::from),
        Scalar::Number(Number::Double(it)) => it.into(),
        Scalar::Bool(it) => it.into(),
        Scalar::Null => Value::Null,
    }
}
