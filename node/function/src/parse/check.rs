//! What no single section can know: topics that nobody declares or writes, loops, and
//! paths that lead elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::kinds::{Draft, FunctionDraft, nearest_topic};
use super::log::{Log, Spanned};
use super::trigger::TriggerDraft;
use crate::code;

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

/// Functions that write what each other read. They may know how to end, so this is a doubt.
fn check_long_loops(log: &Log<'_>, draft: &Draft) {
    // Who reads a topic, by the trigger's number: the graph goes from trigger to trigger.
    let triggers: Vec<(&FunctionDraft, &TriggerDraft)> = draft
        .functions
        .iter()
        .flat_map(|function| function.triggers.iter().map(move |trigger| (function, trigger)))
        .collect();
    let mut readers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, (_, trigger)) in triggers.iter().enumerate() {
        for topic in &trigger.spec.topics {
            readers.entry(topic).or_default().push(number);
        }
    }
    for (number, (function, trigger)) in triggers.iter().enumerate() {
        let Some(output) = &trigger.output else { continue };
        if trigger.spec.topics.contains(&output.value) {
            continue;
        }
        let mut reached = BTreeSet::new();
        let mut next: Vec<usize> = readers.get(output.value.as_str()).cloned().unwrap_or_default();
        while let Some(at) = next.pop() {
            if reached.insert(at) {
                let onward = triggers[at].1.spec.output_topic.as_deref();
                next.extend(onward.and_then(|topic| readers.get(topic)).into_iter().flatten());
            }
        }
        // Said once a loop: at its first trigger in the file.
        if reached.contains(&number) && reached.iter().all(|at| *at >= number) {
            let name = &function.spec.name;
            let message = format!("what `{name}` writes comes back to it");
            let one = log.warning(code::LOOP_OF_SEVERAL, &output.span, message);
            log.push(one.note("through the outputs of other functions"));
        }
    }
}
