//! What no single section can know: topics that nobody declares or writes, loops, and
//! paths that lead elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::kinds::{Draft, FunctionDraft, nearest_topic};
use super::log::{Log, Spanned};
use super::trigger::TriggerDraft;
use crate::{Cleanup, TriggerSpec, code};

/// How the names of the node's own topics begin.
const RESERVED: &str = "millrace.";

/// Checks the whole.
pub(super) fn check(log: &Log<'_>, draft: &Draft) {
    let paths = draft.functions.iter().filter_map(|function| function.path.as_ref());
    for path in paths.chain(draft.feed.as_ref().and_then(|feed| feed.file.as_ref())) {
        check_inside(log, path);
    }
    for function in &draft.functions {
        if function.triggers.is_empty() {
            let message = format!("nothing starts function `{}`", function.spec.name);
            let one = log.warning(code::NO_TRIGGER, &function.span, message);
            let one = one.note("it has no trigger");
            let section = format!("[[function.{}.trigger]]", function.spec.name);
            log.push_missing(one.help(format!("add a section `{section}`")));
        }
        for trigger in &function.triggers {
            check_own_loop(log, function, trigger);
            check_destinations(log, draft, function, trigger);
        }
    }
    check_undeclared(log, draft);
    check_feed(log, draft);
    check_long_loops(log, draft);
}

/// Whether a path is a plain one within the application's folder.
pub(super) fn is_inside(path: &str) -> bool {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    Path::new(path).components().all(plain) && !path.contains(['\\', '\0'])
}

fn check_inside(log: &Log<'_>, path: &Spanned<String>) {
    if !is_inside(&path.value) {
        let message = format!("{:?} leads out of the application's folder", path.value);
        let error = log.error(code::BAD_PATH, &path.span, message);
        let error = error.note("a path is relative to millrace.toml, without `..`");
        log.push(error.help("move the files into the folder"));
    }
}

/// A trigger whose output or dead letter comes back to it as input.
fn check_own_loop(log: &Log<'_>, function: &FunctionDraft, trigger: &TriggerDraft) {
    for input in &trigger.topics {
        if trigger.spec.output_topic.as_ref() == Some(&input.value) {
            let span = trigger.output.as_ref().map_or(&trigger.span, |output| &output.span);
            report_loop(log, span, &input.value, "its output");
        }
        if trigger.spec.dead_letter == input.value {
            let letter = trigger.dead_letter.as_ref();
            report_loop(
                log,
                letter.map_or(&input.span, |topic| &topic.span),
                &input.value,
                "its dead letters",
            );
        }
        let allowed = function.produce.iter().find(|topic| topic.value == input.value);
        if let Some(allowed) = allowed {
            let name = &function.spec.name;
            let message = format!("`{name}` may write `{}`, which it reads", input.value);
            let one = log.warning(code::LOOP_OF_SEVERAL, &allowed.span, message);
            log.push(one.note("a record that leads to itself never ends"));
        }
    }
}

/// What lies in a destination are messages about records: beside records of another kind nobody can
/// read them, and the node's own topics are for the node.
fn check_destinations(
    log: &Log<'_>,
    draft: &Draft,
    function: &FunctionDraft,
    trigger: &TriggerDraft,
) {
    let is_compacted = |name: &String| {
        let mut topics = draft.topics.iter().map(|it| &it.value);
        topics.any(|it| it.name == *name && it.cleanup == Cleanup::Compact)
    };
    for (key, topic) in &trigger.destinations {
        if trigger.spec.topics.contains(&topic.value) {
            report_loop(log, &topic.span, &topic.value, &format!("its `{key}` messages"));
            continue;
        }
        let other = if trigger.spec.dead_letter == topic.value {
            "the topic of its dead letters"
        } else if trigger.spec.output_topic.as_ref() == Some(&topic.value) {
            "the topic of its outputs"
        } else if function.produce.iter().any(|it| it.value == topic.value) {
            "a topic of `allow.produce`"
        } else if topic.value.starts_with(RESERVED) {
            "a topic of the node's own"
        } else if is_compacted(&topic.value) {
            "which is compacted: a record without a key has no place there"
        } else {
            continue;
        };
        let message = format!("`{key}` cannot be `{}`, {other}", topic.value);
        let error = log.error(code::BAD_DESTINATION, &topic.span, message);
        let error = error.note("a destination holds messages about records, and nothing else");
        log.push(error.help("name another topic"));
    }
}

fn report_loop(log: &Log<'_>, span: &std::ops::Range<usize>, topic: &str, what: &str) {
    let message = format!("the trigger reads `{topic}` and sends {what} to it");
    let error = log.error(code::LOOP, span, message);
    log.push(error.note("a record that leads to itself never ends").help("name another topic"));
}

/// Topics that are declared, or written by a trigger whose own input is known.
fn known_topics(draft: &Draft) -> BTreeSet<&str> {
    let mut known: BTreeSet<&str> =
        draft.topics.iter().map(|topic| topic.value.name.as_str()).collect();
    loop {
        let before = known.len();
        for function in &draft.functions {
            for trigger in &function.triggers {
                if trigger.spec.topics.first().is_some_and(|topic| known.contains(topic.as_str())) {
                    known.extend(written_by(function, trigger));
                }
            }
        }
        if known.len() == before {
            return known;
        }
    }
}

fn written_by<'a>(
    function: &'a FunctionDraft,
    trigger: &'a TriggerDraft,
) -> impl Iterator<Item = &'a str> {
    function.spec.written_by(&trigger.spec)
}

/// Inputs that nobody declares and nobody writes: a typing mistake as a rule.
fn check_undeclared(log: &Log<'_>, draft: &Draft) {
    let known = known_topics(draft);
    for function in &draft.functions {
        for topic in function.triggers.iter().flat_map(|trigger| &trigger.topics) {
            if !known.contains(topic.value.as_str()) {
                report_undeclared(log, topic, &known, "nothing declares or writes it");
            }
        }
    }
}

fn report_undeclared(log: &Log<'_>, topic: &Spanned<String>, known: &BTreeSet<&str>, note: &str) {
    let name = &topic.value;
    let error = log.error(code::UNDECLARED_TOPIC, &topic.span, format!("unknown topic `{name}`"));
    let error = error.note(note).suggest(nearest_topic(name, known.iter().copied()));
    let section = if name.contains('.') { format!("{name:?}") } else { name.clone() };
    log.push_missing(error.help(format!("`[topic.{section}]` declares it")));
}

fn check_feed(log: &Log<'_>, draft: &Draft) {
    let Some(topic) = draft.feed.as_ref().and_then(|feed| feed.topic.as_ref()) else { return };
    let declared: BTreeSet<&str> =
        draft.topics.iter().map(|topic| topic.value.name.as_str()).collect();
    if !declared.contains(topic.value.as_str()) {
        report_undeclared(log, topic, &declared, "a feed's topic is declared");
    }
}

/// The triggers of an application, and who reads a topic, by the trigger's number: the graph goes from
/// trigger to trigger.
struct Graph<'a> {
    triggers: Vec<(&'a FunctionDraft, &'a TriggerDraft)>,
    readers: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn of(draft: &'a Draft) -> Self {
        let functions = draft.functions.iter();
        let triggers: Vec<(&FunctionDraft, &TriggerDraft)> =
            functions.flat_map(|it| it.triggers.iter().map(move |of| (it, of))).collect();
        let mut readers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, (_, trigger)) in triggers.iter().enumerate() {
            for topic in &trigger.spec.topics {
                readers.entry(topic).or_default().push(number);
            }
        }
        Self { triggers, readers }
    }

    /// The triggers that what is written to `topic` leads to, where each passes it on to the topics that
    /// `onward` names.
    fn reached(&self, topic: &str, onward: fn(&TriggerSpec) -> Vec<&str>) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<usize> = self.readers.get(topic).cloned().unwrap_or_default();
        while let Some(at) = next.pop() {
            if reached.insert(at) {
                let topics = onward(&self.triggers[at].1.spec).into_iter();
                next.extend(topics.filter_map(|it| self.readers.get(it)).flatten());
            }
        }
        reached
    }
}

fn destinations(trigger: &TriggerSpec) -> Vec<&str> {
    trigger.destinations().map(|it| it.1).collect()
}

fn outputs_and_destinations(trigger: &TriggerSpec) -> Vec<&str> {
    trigger.output_topic.as_deref().into_iter().chain(destinations(trigger)).collect()
}

/// Functions that write what each other read. They may know how to end, so this is a doubt; messages
/// about messages never do, and that is an error.
fn check_long_loops(log: &Log<'_>, draft: &Draft) {
    let graph = Graph::of(draft);
    for (number, (function, trigger)) in graph.triggers.iter().enumerate() {
        let name = &function.spec.name;
        let is_own = |topic: &str| trigger.spec.topics.iter().any(|it| it == topic);
        let mut written: Vec<&Spanned<String>> = trigger.output.iter().collect();
        for (key, topic) in trigger.destinations.iter().filter(|it| !is_own(&it.1.value)) {
            if !graph.reached(&topic.value, destinations).contains(&number) {
                written.push(topic);
                continue;
            }
            let message = format!("the `{key}` messages of `{name}` lead to messages to it");
            let error = log.error(code::LOOP, &topic.span, message);
            let error = error.note("through the destinations of other triggers, and without end");
            log.push(error.help("name another topic"));
        }
        for topic in written.into_iter().filter(|it| !is_own(&it.value)) {
            let reached = graph.reached(&topic.value, outputs_and_destinations);
            // Said once a loop: at its first trigger in the file.
            if reached.contains(&number) && reached.iter().all(|at| *at >= number) {
                let message = format!("what `{name}` writes comes back to it");
                let one = log.warning(code::LOOP_OF_SEVERAL, &topic.span, message);
                log.push(one.note("through what other functions write"));
            }
        }
    }
}
