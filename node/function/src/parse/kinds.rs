//! The kinds of a manifest, one reader each: application, topics, functions, the feed.
//! A reader gives a draft: the spec as far as it could be read, and where each part stands.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use toml_edit::Table;

use super::log::{Log, Spanned};
use super::section::{Entry, Section};
use super::trigger::{self, TriggerDraft};
use super::{planned, suggest};
use crate::{
    Cleanup, Diagnostics, Feed, Fresh, FunctionSpec, Instances, Manifest, Name, PARTITIONS_MAX,
    Retention, Runtime, Topic, check_topic_name, code,
};

/// A manifest as far as it could be read. What could not be read was reported.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) app: Option<Name>,
    pub(super) topics: Vec<Spanned<Topic>>,
    pub(super) functions: Vec<FunctionDraft>,
    pub(super) feed: Option<FeedDraft>,
}

#[derive(Debug)]
pub(super) struct FunctionDraft {
    pub(super) spec: FunctionSpec,
    /// Its section's head.
    pub(super) span: Range<usize>,
    /// Whether the runtime could be read: without it, its files mean nothing.
    pub(super) has_runtime: bool,
    pub(super) path: Option<Spanned<String>>,
    pub(super) handler: Option<Spanned<String>>,
    pub(super) produce: Vec<Spanned<String>>,
    pub(super) triggers: Vec<TriggerDraft>,
}

#[derive(Debug)]
pub(super) struct FeedDraft {
    pub(super) spec: Feed,
    pub(super) file: Option<Spanned<String>>,
    pub(super) topic: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
}

impl Draft {
    /// The manifest, if enough was read for one.
    pub(super) fn into_manifest(self) -> Option<Manifest> {
        let functions = self.functions.into_iter().map(|draft| FunctionSpec {
            triggers: draft.triggers.into_iter().map(|trigger| trigger.spec).collect(),
            ..draft.spec
        });
        Some(Manifest {
            app: self.app?,
            topics: self.topics.into_iter().map(|topic| topic.value).collect(),
            functions: functions.collect(),
            feed: self.feed.map(|feed| feed.spec),
            warnings: Diagnostics::default(),
        })
    }
}

/// Reads everything.
pub(super) fn read<'a>(log: &'a Log<'a>, root: &'a Table) -> Draft {
    let top = Section::new(log, "millrace.toml", first_line(log.text), root);
    let app = read_app(&top);
    let topics = read_topics(&top);
    let functions = read_functions(&top, app.as_ref());
    let feed = read_dev(&top);
    top.finish(planned::TOP);
    Draft { app, topics, functions, feed }
}

/// The first line that says something: where a missing `[app]` is missed.
fn first_line(text: &str) -> Range<usize> {
    let start = text.len() - text.trim_start().len();
    let length = text[start..].find('\n').unwrap_or(text.len() - start);
    start..start + length
}

fn read_app(top: &Section<'_>) -> Option<Name> {
    const EXAMPLE: &str = "[app] name = \"greenhouse\"";
    let Some(entry) = top.take("app") else {
        top.missing("app", EXAMPLE);
        return None;
    };
    let app = top.open(&entry, "[app]".to_owned(), EXAMPLE)?;
    let name = app.string("name", "name = \"greenhouse\"");
    if name.is_none() && !app.entries().iter().any(|entry| entry.name == "name") {
        app.missing("name", "name = \"greenhouse\"");
    }
    let name = name.and_then(|name| parse_name(&app, name.value, &name.span, "an application"));
    app.finish(&[]);
    name
}

/// Parses a name, or reports why it is none.
pub(super) fn parse_name(
    section: &Section<'_>,
    text: &str,
    span: &Range<usize>,
    of: &str,
) -> Option<Name> {
    Name::parse(text)
        .map_err(|error| {
            let message = format!("{text:?} cannot be the name of {of}");
            let one = section.log.error(code::BAD_NAME, span, message).note(error.to_string());
            let near = Name::near(text).map(|name| name.to_string());
            section.log.push(one.suggest(near));
        })
        .ok()
}

/// A topic's name, or `None` and a report.
pub(super) fn parse_topic(log: &Log<'_>, name: &Spanned<&str>) -> Option<Spanned<String>> {
    check_topic_name(name.value)
        .map_err(|error| {
            let message = format!("{:?} cannot be the name of a topic", name.value);
            let one = log.error(code::BAD_TOPIC, &name.span, message).note(error.to_string());
            let stars = name.value.contains('*');
            log.push(if stars { one.help("name each topic: there are no patterns") } else { one });
        })
        .map(|()| Spanned { value: name.value.to_owned(), span: name.span.clone() })
        .ok()
}

/// Topic names without those that cannot be one or are there twice.
pub(super) fn parse_topics(
    log: &Log<'_>,
    key: &str,
    names: &[Spanned<&str>],
) -> Vec<Spanned<String>> {
    let mut topics: Vec<Spanned<String>> = Vec::with_capacity(names.len());
    for name in names {
        if topics.iter().any(|topic| topic.value == name.value) {
            let message = format!("`{key}` names {:?} twice", name.value);
            log.push(log.error(code::DUPLICATE, &name.span, message).note("once is enough"));
        } else {
            topics.extend(parse_topic(log, name));
        }
    }
    topics
}

fn read_topics(top: &Section<'_>) -> Vec<Spanned<Topic>> {
    const EXAMPLE: &str = "[topic.readings]";
    let Some(entry) = top.take("topic") else { return Vec::new() };
    let Some(all) = top.open(&entry, "[topic]".to_owned(), EXAMPLE) else { return Vec::new() };
    all.entries().iter().filter_map(|entry| read_topic(&all, entry)).collect()
}

fn read_topic<'a>(all: &Section<'a>, entry: &Entry<'a>) -> Option<Spanned<Topic>> {
    let name = Spanned { value: entry.name, span: entry.key_span.clone() };
    let checked = parse_topic(all.log, &name);
    let title = format!("[topic.{}]", quoted(entry.name));
    let section = all.open(entry, title, "[topic.readings] partitions = 8")?;
    if report_dotted(&section, entry.name) {
        return None;
    }
    let mut topic = Topic::new(entry.name);
    if let Some(partitions) = section.integer("partitions", 1..i64::from(PARTITIONS_MAX) + 1) {
        topic.partitions = i32::try_from(partitions.value).unwrap_or(PARTITIONS_MAX);
    }
    if let Some(retention) = section.section("retention", "retention = { age = \"7d\" }") {
        topic.retention = read_retention(&retention);
    }
    let cleanups = [("delete", Cleanup::Delete), ("compact", Cleanup::Compact)];
    topic.cleanup = section.choice("cleanup", &cleanups, &[]).unwrap_or_default();
    if let Some(bytes) = section.bytes("record-bytes-max", RECORD_BYTES_LEAST, RECORD_BYTES_MOST) {
        topic.record_bytes_max = bytes.value;
    }
    section.finish(planned::TOPIC);
    checked.map(|name| Spanned { value: topic, span: name.span })
}

/// The bounds of `record-bytes-max`.
const RECORD_BYTES_LEAST: u64 = 64;
const RECORD_BYTES_MOST: u64 = 64 << 20;

/// `[topic.readings.dead]` is a topic `readings` with a key `dead`, which nobody means.
fn report_dotted(section: &Section<'_>, name: &str) -> bool {
    let mut found = false;
    for entry in section.entries() {
        if entry.name != "retention"
            && entry.item.as_table().is_some_and(|table| !table.is_dotted())
        {
            let message = format!("unknown key `{}`", entry.name);
            let error = section.log.error(code::UNKNOWN_KEY, &entry.key_span, message);
            let error = error.note("a dot starts a key; a name with a dot stands in quotes");
            let meant = format!("[topic.\"{name}.{}\"]", entry.name);
            section.log.push(error.suggest(Some(meant)));
            found = true;
        }
    }
    found
}

fn quoted(name: &str) -> String {
    if name.contains('.') { format!("{name:?}") } else { name.to_owned() }
}

fn read_retention(section: &Section<'_>) -> Retention {
    let years_100 = Duration::from_secs(100 * 365 * 86_400);
    let age = section.duration("age", Duration::from_secs(1), years_100);
    let bytes = section.bytes("bytes", 1, 1 << 60);
    section.finish(&[]);
    Retention { age: age.map(|age| age.value), bytes: bytes.map(|bytes| bytes.value) }
}

fn read_functions(top: &Section<'_>, app: Option<&Name>) -> Vec<FunctionDraft> {
    const EXAMPLE: &str = "[function.hot-alert]";
    let Some(entry) = top.take("function") else { return Vec::new() };
    let Some(all) = top.open(&entry, "[function]".to_owned(), EXAMPLE) else { return Vec::new() };
    all.entries().iter().filter_map(|entry| read_function(&all, entry, app)).collect()
}

fn read_function<'a>(
    all: &Section<'a>,
    entry: &Entry<'a>,
    app: Option<&Name>,
) -> Option<FunctionDraft> {
    let name = parse_name(all, entry.name, &entry.key_span, "a function");
    let title = format!("[function.{}]", entry.name);
    let section = all.open(entry, title, "[function.hot-alert] runtime = \"wasm\"")?;
    let runtime = read_runtime(&section);
    let is_process = runtime.is_some_and(Runtime::is_process);
    let handler = read_handler(&section, runtime);
    let path = required(&section, "path", "path = \"functions/hot-alert\"");
    let memory = section.bytes("memory", MEMORY_LEAST, MEMORY_MOST);
    let timeout = section.duration("timeout", TIMEOUT_LEAST, TIMEOUT_MOST);
    let instances = section.section("instances", "instances = { max = 8 }");
    let fresh = if is_process { Fresh::Never } else { Fresh::Batch };
    let instances = match instances {
        Some(section) => read_instances(&section, fresh),
        None => Instances { fresh, ..Instances::default() },
    };
    let labels = read_labels(&section);
    let env = if is_process { read_env(&section) } else { BTreeMap::new() };
    let allow = section.section("allow", "allow = { produce = [\"alerts\"] }");
    let produce = allow.map(|section| read_allow(&section)).unwrap_or_default();
    // A name that is none was reported; the triggers are still read for their own mistakes.
    let known_name =
        name.or_else(|| Name::near(entry.name)).or_else(|| Name::parse("unnamed").ok())?;
    let triggers = trigger::read(&section, &known_name, app, is_process);
    section.finish(planned::FUNCTION);
    let text = |value: &Option<Spanned<String>>| {
        value.as_ref().map(|value| value.value.clone()).unwrap_or_default()
    };
    let spec = FunctionSpec {
        name: known_name,
        runtime: runtime.unwrap_or(Runtime::Wasm),
        handler: text(&handler),
        path: text(&path),
        memory_bytes: memory.map_or(
            if is_process {
                FunctionSpec::PROCESS_MEMORY_BYTES
            } else {
                FunctionSpec::MEMORY_BYTES
            },
            |memory| memory.value,
        ),
        timeout: timeout.map_or(FunctionSpec::TIMEOUT, |timeout| timeout.value),
        instances,
        labels,
        env,
        allow_produce: produce.iter().map(|topic| topic.value.clone()).collect(),
        triggers: Vec::new(),
    };
    let (span, has_runtime) = (section.span.clone(), runtime.is_some());
    Some(FunctionDraft { spec, span, has_runtime, path, handler, produce, triggers })
}

/// The bounds of `memory`: what a Rust guest starts with, and what 32 bits address.
const MEMORY_LEAST: u64 = 1 << 20;
const MEMORY_MOST: u64 = 4 << 30;

/// The bounds of `timeout`: the node's clock for guests ticks every 10 ms.
const TIMEOUT_LEAST: Duration = Duration::from_millis(10);
const TIMEOUT_MOST: Duration = Duration::from_secs(86_400);

/// A text that must be there and not be empty.
pub(super) fn required(
    section: &Section<'_>,
    key: &'static str,
    example: &str,
) -> Option<Spanned<String>> {
    let text = section.string(key, example);
    let Some(text) = text else {
        if !section.entries().iter().any(|entry| entry.name == key) {
            section.missing(key, example);
        }
        return None;
    };
    if text.value.is_empty() {
        let message = format!("`{key}` cannot be empty");
        let error = section.log.error(code::WRONG_VALUE, &text.span, message);
        section.log.push(error.note("nothing here").help(format!("write it as `{example}`")));
        return None;
    }
    Some(Spanned { value: text.value.to_owned(), span: text.span })
}

fn read_runtime(section: &Section<'_>) -> Option<Runtime> {
    const EXAMPLE: &str = "runtime = \"wasm\"";
    let Some(text) = section.string("runtime", EXAMPLE) else {
        if !section.entries().iter().any(|entry| entry.name == "runtime") {
            section.missing("runtime", EXAMPLE);
        }
        return None;
    };
    let error = match Runtime::parse(text.value) {
        Ok(runtime) => return Some(runtime),
        Err(error) => error,
    };
    if let Some(plan) = planned::RUNTIMES.iter().find(|plan| plan.is(text.value)) {
        section.refuse(&text.span, &format!("runtime = \"{}\"", text.value), plan);
        return None;
    }
    let message = format!("`runtime` cannot be {:?}", text.value);
    let one = section.log.error(code::WRONG_VALUE, &text.span, message).note(error.to_string());
    let words = ["wasm", "python3", "node", "provided"];
    let near = Runtime::near(text.value).map(|runtime| runtime.to_string());
    let near = near.or_else(|| suggest::nearest(text.value, words).map(str::to_owned));
    section.log.push(one.suggest(near.map(|word| format!("runtime = \"{word}\""))));
    None
}

/// The handler; a provided executable needs none.
fn read_handler(section: &Section<'_>, runtime: Option<Runtime>) -> Option<Spanned<String>> {
    let example = match runtime {
        Some(Runtime::Python(_)) => "handler = \"app.handler\"",
        Some(Runtime::Node(_)) => "handler = \"index.handler\"",
        Some(Runtime::Provided) if !section.entries().iter().any(|it| it.name == "handler") => {
            return None;
        }
        Some(Runtime::Provided | Runtime::Wasm) | None => "handler = \"hot_alert.wasm\"",
    };
    required(section, "handler", example)
}

/// `env = { LIMIT = "30" }`.
fn read_env(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(all) = section.section("env", "env = { LIMIT = \"30\" }") else { return env };
    for entry in all.entries() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if entry.name.is_empty() || !entry.name.chars().all(is_name) || entry.name.len() > 128 {
            let message = format!("{:?} cannot be the name of a variable", entry.name);
            let error = all.log.error(code::WRONG_VALUE, &entry.key_span, message);
            all.log.push(error.note("letters, digits and `_`"));
        } else if entry.name.starts_with('_') || entry.name.starts_with("AWS_LAMBDA_") {
            let message = format!("`{}` is the runtime's own", entry.name);
            let error = all.log.error(code::WRONG_VALUE, &entry.key_span, message);
            all.log.push(error.note("names with `_` or `AWS_LAMBDA_` in front are reserved"));
        } else if let Some(value) = entry.item.as_str().filter(|it| !it.contains('\0')) {
            env.insert(entry.name.to_owned(), value.to_owned());
        } else {
            let message = format!("`{}` takes a string", entry.name);
            let error = all.log.error(code::WRONG_TYPE, &entry.span, message);
            let help = format!("write it as `{} = \"30\"`", entry.name);
            all.log.push(error.note("variables are texts").help(help));
        }
    }
    env
}

/// `labels = ["gpu"]`.
fn read_labels(section: &Section<'_>) -> BTreeSet<Name> {
    let mut labels = BTreeSet::new();
    for text in section.strings("labels").map(|all| all.value).unwrap_or_default() {
        let Some(label) = parse_name(section, text.value, &text.span, "a label") else { continue };
        if !labels.insert(label) {
            let message = format!("`labels` names {:?} twice", text.value);
            let error = section.log.error(code::DUPLICATE, &text.span, message);
            section.log.push(error.note("once is enough"));
        }
    }
    labels
}

/// The largest `instances.max`.
const INSTANCES_MAX: i64 = 1_000;
/// The largest `instances.cluster-max`.
const CLUSTER_INSTANCES_MAX: i64 = 100_000;

fn read_instances(section: &Section<'_>, fresh_default: Fresh) -> Instances {
    let default = Instances::default();
    let count = |number: &Option<Spanned<i64>>, default: u32| {
        number.as_ref().map_or(default, |number| u32::try_from(number.value).unwrap_or(default))
    };
    let warm = section.integer("warm", 0..INSTANCES_MAX + 1);
    let max = section.integer("max", 1..INSTANCES_MAX + 1);
    let cluster_warm = section.integer("cluster-warm", 0..CLUSTER_INSTANCES_MAX + 1);
    let cluster_max = section.integer("cluster-max", 1..CLUSTER_INSTANCES_MAX + 1);
    let words = [("batch", Fresh::Batch), ("never", Fresh::Never), ("record", Fresh::Record)];
    // A process per record is not to be had: the slice ends before it.
    let words = if fresh_default == Fresh::Never { &words[..2] } else { &words[..] };
    let fresh = section.choice("fresh", words, &[]).unwrap_or(fresh_default);
    section.finish(planned::INSTANCES);
    let instances = Instances {
        warm: count(&warm, default.warm),
        max: count(&max, default.max),
        cluster_warm: count(&cluster_warm, default.cluster_warm),
        cluster_max: cluster_max.as_ref().map(|_| count(&cluster_max, 1)),
        fresh,
    };
    let whole = instances.cluster_max.unwrap_or(u32::MAX);
    for (least, most, warm, max, span) in [
        ("warm", "max", instances.warm, instances.max, &warm),
        ("warm", "cluster-max", instances.warm, whole, &warm),
        ("cluster-warm", "cluster-max", instances.cluster_warm, whole, &cluster_warm),
    ] {
        if warm <= max {
            continue;
        }
        let span = span.as_ref().map_or_else(|| section.span.clone(), |it| it.span.clone());
        let message = format!("`{least}` is larger than `{most}`");
        let error = section.log.error(code::CONTRADICTION, &span, message);
        let note = format!("{warm} kept warm, {max} allowed");
        section.log.push(error.note(note).help(format!("set `{most}` to {warm}")));
    }
    instances
}

fn read_allow(section: &Section<'_>) -> Vec<Spanned<String>> {
    let names = section.strings("produce").map(|names| names.value).unwrap_or_default();
    section.finish(planned::ALLOW);
    parse_topics(section.log, "produce", &names)
}

fn read_dev(top: &Section<'_>) -> Option<FeedDraft> {
    let entry = top.take("dev")?;
    let dev = top.open(&entry, "[dev]".to_owned(), "[dev.feed]")?;
    let feed = dev.take("feed").and_then(|entry| {
        dev.open(&entry, "[dev.feed]".to_owned(), "[dev.feed] file = \"readings.csv\"")
    });
    dev.finish(planned::DEV);
    feed.map(|section| read_feed(&section))
}

fn read_feed(section: &Section<'_>) -> FeedDraft {
    let file = required(section, "file", "file = \"readings.csv\"");
    let topic = required(section, "topic", "topic = \"readings\"");
    let topic = topic.and_then(|topic| {
        parse_topic(section.log, &Spanned { value: topic.value.as_str(), span: topic.span })
    });
    let key = section.string("key", "key = \"station\"");
    let key = key.map(|key| Spanned { value: key.value.to_owned(), span: key.span });
    let rate = section.integer("rate", 1..i64::from(Feed::RATE_MAX) + 1);
    let repeat = section.boolean("loop").unwrap_or(false);
    section.finish(planned::FEED);
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(|value| value.value.clone());
    let rate = rate.and_then(|rate| u32::try_from(rate.value).ok()).unwrap_or(Feed::RATE);
    let spec = Feed {
        file: text(&file).unwrap_or_default(),
        topic: text(&topic).unwrap_or_default(),
        key: text(&key),
        rate,
        repeat,
    };
    FeedDraft { spec, file, topic, key }
}

/// The nearest topic by name, for a help.
pub(super) fn nearest_topic<'a>(
    name: &str,
    topics: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    suggest::nearest(name, topics)
}
