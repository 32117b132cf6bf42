//! One table of a manifest being read: each key is taken by its type, and what is left over at the
//! end is unknown. No key is read without being known, and none is known without being read.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use toml_edit::{Item, Key, TableLike, Value};

use super::log::{Log, Spanned};
use super::planned::Planned;
use super::suggest;
use crate::{code, parse_bytes, parse_duration};

#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) log: &'a Log<'a>,
    /// What it is called: `[function.tidy]`, or `` `batch` of [[function.tidy.trigger]] ``.
    pub(super) title: String,
    /// Where a key that is missing is missed.
    pub(super) span: Range<usize>,
    table: &'a dyn TableLikeDebug,
    known: RefCell<Vec<&'static str>>,
}

/// A table of either form that can be shown.
pub(super) trait TableLikeDebug: TableLike + std::fmt::Debug {}
impl<T: TableLike + std::fmt::Debug> TableLikeDebug for T {}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) key_span: Range<usize>,
    pub(super) item: &'a Item,
    pub(super) span: Range<usize>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        log: &'a Log<'a>,
        title: impl Into<String>,
        span: Range<usize>,
        table: &'a dyn TableLikeDebug,
    ) -> Self {
        Self { log, title: title.into(), span, table, known: RefCell::default() }
    }

    /// The value of a key that this version carries out.
    pub(super) fn take(&self, key: &'static str) -> Option<Entry<'a>> {
        self.known.borrow_mut().push(key);
        self.table.get_key_value(key).map(|(key, item)| self.entry(key, item))
    }

    /// Everything there is, for tables whose keys are names.
    pub(super) fn entries(&self) -> Vec<Entry<'a>> {
        self.table
            .iter()
            .filter_map(|(key, _)| self.table.get_key_value(key))
            .map(|(key, item)| self.entry(key, item))
            .collect()
    }

    fn entry(&self, key: &'a Key, item: &'a Item) -> Entry<'a> {
        let key_span = key.span().unwrap_or_else(|| self.span.clone());
        let span = item.span().filter(|span| !span.is_empty());
        Entry { name: key.get(), span: span.unwrap_or_else(|| key_span.clone()), key_span, item }
    }

    /// Reports a required key that is not there; `example` is how it would look.
    pub(super) fn missing(&self, key: &str, example: &str) {
        let error = self.log.error(code::MISSING_KEY, &self.span, format!("`{key}` is missing"));
        let note = format!("{} needs it", self.title);
        self.log.push_missing(error.note(note).help(format!("add `{example}`")));
    }

    fn wrong_type(&self, entry: &Entry<'_>, wanted: &str, example: &str) {
        let found = entry.item.type_name();
        let message = format!("`{}` takes {wanted}, not {}", entry.name, with_article(found));
        let error = self.log.error(code::WRONG_TYPE, &entry.span, message);
        self.log.push(error.note(format!("{found} here")).help(format!("write it as `{example}`")));
    }

    /// A text.
    pub(super) fn string(&self, key: &'static str, example: &str) -> Option<Spanned<&'a str>> {
        let entry = self.take(key)?;
        let Some(value) = entry.item.as_str() else {
            self.wrong_type(&entry, "a string", example);
            return None;
        };
        Some(Spanned { value, span: entry.span })
    }

    /// A truth.
    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        let entry = self.take(key)?;
        let value = entry.item.as_bool();
        if value.is_none() {
            self.wrong_type(&entry, "true or false", &format!("{key} = true"));
        }
        value
    }

    /// A whole number within a range.
    pub(super) fn integer(&self, key: &'static str, range: Range<i64>) -> Option<Spanned<i64>> {
        let entry = self.take(key)?;
        let Some(value) = entry.item.as_integer() else {
            self.wrong_type(&entry, "a whole number", &format!("{key} = {}", range.start.max(1)));
            return None;
        };
        let bounds = (range.start.to_string(), (range.end - 1).to_string());
        let value = self.in_range(&entry, value, range.contains(&value), bounds)?;
        Some(Spanned { value, span: entry.span })
    }

    /// A duration with its unit within a range.
    pub(super) fn duration(
        &self,
        key: &'static str,
        least: Duration,
        most: Duration,
    ) -> Option<Spanned<Duration>> {
        let entry = self.take(key)?;
        let value = self.unit(&entry, "a duration", "s", parse_duration)?;
        let bounds = (crate::format_duration(least), crate::format_duration(most));
        let value = self.in_range(&entry, value, least <= value && value <= most, bounds)?;
        Some(Spanned { value, span: entry.span })
    }

    /// A size with its unit within a range.
    pub(super) fn bytes(&self, key: &'static str, least: u64, most: u64) -> Option<Spanned<u64>> {
        let entry = self.take(key)?;
        let value = self.unit(&entry, "a size", "MiB", parse_bytes)?;
        let bounds = (crate::format_bytes(least), crate::format_bytes(most));
        let value = self.in_range(&entry, value, (least..=most).contains(&value), bounds)?;
        Some(Spanned { value, span: entry.span })
    }

    fn unit<T>(
        &self,
        entry: &Entry<'_>,
        what: &str,
        usual: &str,
        parse: impl Fn(&str) -> Result<T, crate::UnitError>,
    ) -> Option<T> {
        if let Some(number) = entry.item.as_integer() {
            let message = format!("`{}` has no unit", entry.name);
            let error = self.log.error(code::WRONG_TYPE, &entry.span, message);
            let meant = format!("{} = \"{number}{usual}\"", entry.name);
            self.log.push(error.note(format!("{what} carries its unit")).suggest(Some(meant)));
            return None;
        }
        let Some(text) = entry.item.as_str() else {
            let example = format!("{} = \"10{usual}\"", entry.name);
            self.wrong_type(entry, &format!("{what} in quotes"), &example);
            return None;
        };
        parse(text).map_err(|error| self.bad_unit(entry, what, &error)).ok()
    }

    /// Reports a text that is no duration or size.
    pub(super) fn bad_unit(&self, entry: &Entry<'_>, what: &str, error: &crate::UnitError) {
        let message = format!("`{}` is not {what}", entry.name);
        let one = self.log.error(code::BAD_UNIT, &entry.span, message);
        self.log.push(one.note(error.to_string()));
    }

    fn in_range<T>(
        &self,
        entry: &Entry<'_>,
        value: T,
        fits: bool,
        (least, most): (String, String),
    ) -> Option<T> {
        if fits {
            return Some(value);
        }
        let message = format!("`{}` is out of range", entry.name);
        let error = self.log.error(code::OUT_OF_RANGE, &entry.span, message);
        self.log.push(error.note(format!("{least} to {most} in {}", self.title)));
        None
    }

    /// A list of texts. A single text is a mistake with an obvious repair.
    pub(super) fn strings(&self, key: &'static str) -> Option<Spanned<Vec<Spanned<&'a str>>>> {
        let entry = self.take(key)?;
        if let Some(text) = entry.item.as_str() {
            let message = format!("`{key}` takes a list of strings, not a string");
            let error = self.log.error(code::WRONG_TYPE, &entry.span, message);
            let meant = format!("{key} = [\"{text}\"]");
            self.log.push(error.note("a list has brackets").suggest(Some(meant)));
            return None;
        }
        let Some(array) = entry.item.as_array() else {
            self.wrong_type(&entry, "a list of strings", &format!("{key} = [\"readings\"]"));
            return None;
        };
        let mut texts = Vec::with_capacity(array.len());
        for value in array {
            let span = value.span().unwrap_or_else(|| entry.span.clone());
            if let Some(text) = value.as_str() {
                texts.push(Spanned { value: text, span });
            } else {
                let found = value.type_name();
                let message = format!("`{key}` takes strings, not {}", with_article(found));
                let error = self.log.error(code::WRONG_TYPE, &span, message);
                self.log.push(error.note(format!("{found} here")));
            }
        }
        Some(Spanned { value: texts, span: entry.span })
    }

    /// A table, in either form.
    pub(super) fn section(&self, key: &'static str, example: &str) -> Option<Self> {
        let entry = self.take(key)?;
        let title = format!("`{key}` of {}", self.title);
        self.open(&entry, title, example)
    }

    /// The table that an entry is, in either form.
    pub(super) fn open(&self, entry: &Entry<'a>, title: String, example: &str) -> Option<Self> {
        match entry.item {
            Item::Table(table) => Some(Self::new(self.log, title, entry.span.clone(), table)),
            Item::Value(Value::InlineTable(table)) => {
                Some(Self::new(self.log, title, entry.span.clone(), table))
            }
            _ => {
                self.wrong_type(entry, "a table", example);
                None
            }
        }
    }

    /// A list of tables, in either form.
    pub(super) fn sections(&self, key: &'static str, title: &str) -> Vec<Self> {
        let Some(entry) = self.take(key) else { return Vec::new() };
        let new = |span: Option<Range<usize>>, table| {
            let span = span.unwrap_or_else(|| entry.key_span.clone());
            Self::new(self.log, title, span, table)
        };
        match entry.item {
            Item::ArrayOfTables(tables) => {
                tables.iter().map(|table| new(table.span(), table)).collect()
            }
            Item::Value(Value::Array(array)) if array.iter().all(Value::is_inline_table) => array
                .iter()
                .filter_map(Value::as_inline_table)
                .map(|table| new(table.span(), table))
                .collect(),
            _ => {
                let found = entry.item.type_name();
                let message = format!("`{key}` is a list of tables, not {}", with_article(found));
                let error = self.log.error(code::WRONG_TYPE, &entry.span, message);
                let error = error.note("a section of a list has two brackets");
                self.log.push(error.suggest(Some(title)));
                Vec::new()
            }
        }
    }

    /// One word of several.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
        planned: &[Planned],
    ) -> Option<T> {
        let example = format!("{key} = \"{}\"", words[0].0);
        let text = self.string(key, &example)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(*value);
        }
        if let Some(plan) = planned.iter().find(|plan| plan.is(text.value)) {
            let written = format!("{key} = \"{}\"", text.value);
            self.refuse(&text.span, &written, plan);
            return None;
        }
        self.wrong_word(key, &text, words.iter().map(|(word, _)| *word));
        None
    }

    /// Reports a word that is none of those a key takes.
    pub(super) fn wrong_word<'w>(
        &self,
        key: &str,
        text: &Spanned<&str>,
        words: impl Iterator<Item = &'w str> + Clone,
    ) {
        let message = format!("`{key}` cannot be {:?}", text.value);
        let error = self.log.error(code::WRONG_VALUE, &text.span, message);
        let meant = suggest::nearest(text.value, words.clone());
        let meant = meant.map(|word| format!("{key} = \"{word}\""));
        let all: Vec<&str> = words.collect();
        self.log.push(error.note(format!("one of {}", all.join(", "))).suggest(meant));
    }

    /// Reports something of the plan that this version does not carry out.
    pub(super) fn refuse(&self, span: &Range<usize>, written: &str, plan: &Planned) {
        let message = format!("`{written}` is not carried out by this version");
        let error = self.log.error(code::NOT_CARRIED_OUT, span, message);
        self.log.push(error.note(plan.what).help(plan.instead));
    }

    /// Reports every key that nobody took.
    pub(super) fn finish(&self, planned: &[Planned]) {
        let known = self.known.borrow();
        for entry in self.entries() {
            if known.contains(&entry.name) {
                continue;
            }
            if let Some(plan) = planned.iter().find(|plan| plan.is(entry.name)) {
                self.refuse(&entry.key_span, entry.name, plan);
                continue;
            }
            let message = format!("unknown key `{}`", entry.name);
            let error = self.log.error(code::UNKNOWN_KEY, &entry.key_span, message);
            let meant = suggest::alias(entry.name, &known)
                .or_else(|| suggest::nearest(entry.name, known.iter().copied()));
            let error = error.note(format!("not a key of {}", self.title));
            self.log.push(if meant.is_some() {
                error.suggest(meant)
            } else {
                error.help(format!("its keys are {}", known.join(", ")))
            });
        }
    }
}

fn with_article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}
