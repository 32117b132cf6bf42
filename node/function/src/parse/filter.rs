//! The reader of a trigger's `filter`: one event pattern, or a list of them. TOML becomes the JSON
//! that patterns are written in, and a mistake is shown where it stands.

use std::ops::Range;

use filter::{Filter, PatternError, Step};
use serde_json::Value as Json;
use toml_edit::{Item, TableLike, Value};

use super::section::{Entry, Section};
use crate::code;

/// A value that JSON does not have: where, and what it is.
type Misfit = (Option<Range<usize>>, &'static str);

/// Reads the patterns; none where there is no filter, or one that was reported.
pub(super) fn read(section: &Section<'_>) -> Vec<Json> {
    let Some(entry) = section.take("filter") else { return Vec::new() };
    let patterns = match of_item(entry.item) {
        Ok(Json::Array(patterns)) => patterns,
        Ok(pattern) => vec![pattern],
        Err((span, what)) => {
            let span = span.unwrap_or_else(|| entry.span.clone());
            let message = format!("an event pattern cannot hold {what}");
            let error = section.log.error(code::WRONG_TYPE, &span, message);
            section.log.push(error.note("write it as a string").help(HELP));
            return Vec::new();
        }
    };
    match Filter::compile(&patterns) {
        Ok(_) => patterns,
        Err(error) => {
            let span = place(&entry, &error);
            let one = section.log.error(error.code, &span, error.message);
            section.log.push(one.note(format!("expected {}", error.expected)).help(HELP));
            Vec::new()
        }
    }
}

const HELP: &str = "`millrace event match` tries a pattern on sample records";

fn of_item(item: &Item) -> Result<Json, Misfit> {
    match item {
        Item::Value(value) => of_value(value),
        Item::Table(table) => of_table(table),
        Item::ArrayOfTables(tables) => {
            tables.iter().map(|table| of_table(table)).collect::<Result<_, _>>().map(Json::Array)
        }
        Item::None => Ok(Json::Null),
    }
}

fn of_table(table: &dyn TableLike) -> Result<Json, Misfit> {
    let fields = table.iter().map(|(key, item)| Ok((key.to_owned(), of_item(item)?)));
    fields.collect::<Result<_, _>>().map(Json::Object)
}

fn of_value(value: &Value) -> Result<Json, Misfit> {
    match value {
        Value::String(text) => Ok(text.value().as_str().into()),
        Value::Integer(number) => Ok((*number.value()).into()),
        Value::Float(number) => serde_json::Number::from_f64(*number.value())
            .map(Json::Number)
            .ok_or_else(|| (value.span(), "a number that is none")),
        Value::Boolean(it) => Ok((*it.value()).into()),
        Value::Datetime(_) => Err((value.span(), "a date")),
        Value::Array(values) => {
            values.iter().map(of_value).collect::<Result<_, _>>().map(Json::Array)
        }
        Value::InlineTable(table) => of_table(table),
    }
}

/// Where the mistake stands, as closely as it can be said.
fn place(entry: &Entry<'_>, error: &PatternError) -> Range<usize> {
    let is_list = entry.item.is_array() || entry.item.is_array_of_tables();
    // A pattern that stands alone has no index.
    let path = if is_list { &error.path[..] } else { error.path.get(1..).unwrap_or_default() };
    let mut span = entry.span.clone();
    let mut at = At::Item(entry.item);
    for (depth, step) in path.iter().enumerate() {
        let Some((key, next)) = at.go(step) else { break };
        let is_last = depth + 1 == path.len();
        // An unknown word is a key; anything else is wrong with what the key has.
        let own = next.span().filter(|span| !span.is_empty());
        let shown = if is_last && error.code == "E0222" { key.or(own) } else { own.or(key) };
        span = shown.unwrap_or(span);
        at = next;
    }
    span
}

/// A place in a TOML document.
#[derive(Clone, Copy)]
enum At<'a> {
    Item(&'a Item),
    Value(&'a Value),
    Table(&'a toml_edit::Table),
}

impl<'a> At<'a> {
    fn span(self) -> Option<Range<usize>> {
        match self {
            Self::Item(item) => item.span(),
            Self::Value(value) => value.span(),
            Self::Table(table) => table.span(),
        }
    }

    /// One step further in, with the place of its key.
    fn go(self, step: &Step) -> Option<(Option<Range<usize>>, Self)> {
        match step {
            Step::Key(key) => {
                let table: &dyn TableLike = match self {
                    Self::Item(item) => item.as_table_like()?,
                    Self::Value(value) => value.as_inline_table()?,
                    Self::Table(table) => table,
                };
                let (key, item) = table.get_key_value(key)?;
                Some((key.span(), Self::Item(item)))
            }
            Step::Index(index) => {
                let next = match self {
                    Self::Item(Item::ArrayOfTables(tables)) => Self::Table(tables.get(*index)?),
                    Self::Item(item) => Self::Value(item.as_array()?.get(*index)?),
                    Self::Value(value) => Self::Value(value.as_array()?.get(*index)?),
                    Self::Table(_) => return None,
                };
                Some((None, next))
            }
        }
    }
}
