//! From patterns as they are written to what is evaluated: every `$or` multiplied out into
//! alternatives, each of them conditions by field, all of which have to be met.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::condition::Condition;
use crate::error::{PatternError, Step, TOO_MUCH, UNKNOWN, Way};
use crate::operators;

/// Alternatives of all patterns of a filter. Each is looked at for every record.
const ALTERNATIVES_MAX: usize = 256;

/// What a pattern can name beside fields of the value.
const FIELDS: [&str; 7] = ["value", "key", "headers", "topic", "partition", "offset", "timestamp"];

/// Where a field is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The value as a text.
    Value,
    Key,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Header(Box<str>),
    /// A field of the value's JSON, by the names that lead to it.
    Json(Vec<Box<str>>),
}

/// What a field has to be: any of these.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) place: Place,
    pub(crate) conditions: Vec<Condition>,
    /// It may also be absent.
    pub(crate) absent: bool,
    /// The conditions as they were written.
    pub(crate) written: String,
}

/// Fields by their whole name, in the order in which absence is judged.
pub(crate) type Alternative = BTreeMap<String, Wanted>;

/// Multiplies patterns out.
pub(crate) fn alternatives(patterns: &[Value]) -> Result<Vec<Alternative>, PatternError> {
    let mut way = Way::default();
    if patterns.is_empty() {
        return Err(way.wrong("there is no pattern", "one pattern or more"));
    }
    let mut all = Vec::new();
    for (index, pattern) in patterns.iter().enumerate() {
        way.at(Step::Index(index), |way| {
            let Value::Object(fields) = pattern else {
                let expected = "an object of fields, such as { value = { c = [30] } }";
                return Err(way.wrong("a pattern is not an object", expected));
            };
            let mut own = vec![Alternative::new()];
            object(fields, "", &mut own, way)?;
            all.extend(own);
            limit(all.len(), way)
        })?;
    }
    Ok(all)
}

fn limit(count: usize, way: &Way) -> Result<(), PatternError> {
    if count <= ALTERNATIVES_MAX {
        return Ok(());
    }
    let message = format!("the patterns have more than {ALTERNATIVES_MAX} alternatives");
    Err(way.error(TOO_MUCH, message, "fewer objects in `$or`: those of several are multiplied"))
}

/// Adds the fields of an object to every alternative.
fn object(
    fields: &Map<String, Value>,
    above: &str,
    all: &mut Vec<Alternative>,
    way: &mut Way,
) -> Result<(), PatternError> {
    if fields.is_empty() {
        return Err(way.wrong("an empty object matches nothing in particular", "a field"));
    }
    for (key, value) in fields {
        way.key(key, |way| match value {
            Value::Array(options) if key == "$or" && is_or(options) => {
                either(options, above, all, way)
            }
            Value::Object(inner) => object(inner, &join(above, key), all, way),
            Value::Array(leaf) => {
                let name = join(above, key);
                let wanted =
                    leaf_at(&name, leaf, way).map_err(|error| or_meant(key, error, way))?;
                for one in all.iter_mut() {
                    if one.insert(name.clone(), wanted.clone()).is_some() {
                        let message = format!("`{name}` stands there twice");
                        return Err(way.wrong(message, "all values of a field in one list"));
                    }
                }
                Ok(())
            }
            other => {
                let message = format!("{} stands where a list belongs", kind(other));
                let example = format!("a list, even of one: {key} = [{other}]");
                Err(way.wrong(message, example))
            }
        })?;
    }
    Ok(())
}

fn join(above: &str, key: &str) -> String {
    if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") }
}

/// A list under `$or` is one of alternatives when it has two objects or more, and none of them
/// could be an operator; else `$or` is a name like any other.
fn is_or(options: &[Value]) -> bool {
    let is_fields = |it: &Value| {
        it.as_object().is_some_and(|it| !it.keys().any(|key| operators::is_reserved(key)))
    };
    2 <= options.len() && options.iter().all(is_fields)
}

/// Replaces every alternative by one for each object.
fn either(
    options: &[Value],
    above: &str,
    all: &mut Vec<Alternative>,
    way: &mut Way,
) -> Result<(), PatternError> {
    let before = std::mem::take(all);
    for (index, option) in options.iter().enumerate() {
        let fields = option.as_object().expect("all of them are objects");
        way.at(Step::Index(index), |way| {
            let mut own = before.clone();
            object(fields, above, &mut own, way)?;
            all.append(&mut own);
            limit(all.len(), way)
        })?;
    }
    Ok(())
}

/// Says of a `$or` that was taken for a name why it was.
fn or_meant(key: &str, error: PatternError, way: &Way) -> PatternError {
    if key != "$or" {
        return error;
    }
    let expected = "two objects or more, and no operator as the name of a field in them";
    way.wrong("this `$or` has no alternatives", expected)
}

/// The conditions of one field.
fn leaf_at(name: &str, leaf: &[Value], way: &mut Way) -> Result<Wanted, PatternError> {
    let place = place(name, way)?;
    if leaf.is_empty() {
        return Err(way.wrong("an empty list matches nothing", "a value or an operator"));
    }
    let kind = match place {
        Place::Json(_) => operators::Kind::Any,
        Place::Partition | Place::Offset | Place::Timestamp => operators::Kind::Number,
        _ => operators::Kind::Text,
    };
    let (mut conditions, mut absent) = (Vec::new(), false);
    for (index, value) in leaf.iter().enumerate() {
        way.at(Step::Index(index), |way| {
            absent |= operators::read(value, kind, &mut conditions, way)?;
            Ok(())
        })?;
    }
    let written = Value::Array(leaf.to_vec()).to_string();
    Ok(Wanted { place, conditions, absent, written })
}

fn place(name: &str, way: &Way) -> Result<Place, PatternError> {
    let (field, inner) = name.split_once('.').map_or((name, None), |(it, rest)| (it, Some(rest)));
    match (field, inner) {
        ("value", None) => Ok(Place::Value),
        ("value", Some(inner)) => Ok(Place::Json(inner.split('.').map(Into::into).collect())),
        ("headers", Some(inner)) => Ok(Place::Header(inner.into())),
        ("headers", None) => {
            let expected = "the name of a header: headers = { source = [\"edge\"] }";
            Err(way.wrong("`headers` alone has no value", expected))
        }
        ("key", None) => Ok(Place::Key),
        ("topic", None) => Ok(Place::Topic),
        ("partition", None) => Ok(Place::Partition),
        ("offset", None) => Ok(Place::Offset),
        ("timestamp", None) => Ok(Place::Timestamp),
        (field, Some(_)) if FIELDS.contains(&field) => {
            let message = format!("`{field}` has no fields of its own");
            Err(way.wrong(message, format!("a list: {field} = [..]")))
        }
        (field, _) => {
            let message = format!("a record has no `{field}`");
            let expected =
                format!("one of {}; fields of JSON stand under value", FIELDS.join(", "));
            Err(way.error(UNKNOWN, message, expected))
        }
    }
}

/// What a value is, with its article.
pub(crate) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
