//! The reader of `[[function.NAME.trigger]]`: what is read, in what order, how often tried.

use std::ops::Range;
use std::time::Duration;

use bus::Timestamp;

use super::kinds::{parse_name, parse_topic, parse_topics};
use super::log::Spanned;
use super::planned;
use super::section::{Entry, Section};
use crate::{
    Batch, Circuit, Decode, Delivery, Event, Name, Order, Retry, Start, TriggerSpec, code,
    parse_duration,
};

#[derive(Debug)]
pub(super) struct TriggerDraft {
    pub(super) spec: TriggerSpec,
    /// Its section's head.
    pub(super) span: Range<usize>,
    pub(super) topics: Vec<Spanned<String>>,
    pub(super) output: Option<Spanned<String>>,
    pub(super) dead_letter: Option<Spanned<String>>,
    /// By key.
    pub(super) destinations: Vec<(&'static str, Spanned<String>)>,
}

/// Reads all triggers of a function.
pub(super) fn read(
    function: &Section<'_>,
    function_name: &Name,
    app: Option<&Name>,
    is_process: bool,
) -> Vec<TriggerDraft> {
    let title = format!("[[function.{function_name}.trigger]]");
    let sections = function.sections("trigger", &title);
    let is_only = sections.len() == 1;
    let mut taken: Vec<Name> = Vec::new();
    let mut drafts = Vec::with_capacity(sections.len());
    for section in &sections {
        let name = read_name(section, function_name, is_only, &mut taken);
        drafts.push(read_trigger(section, name, function_name, app, is_process));
    }
    drafts
}

/// The trigger's name. A name that cannot be used was reported and stands in for one that can.
fn read_name(section: &Section<'_>, function: &Name, is_only: bool, taken: &mut Vec<Name>) -> Name {
    let text = section.string("name", "name = \"readings\"");
    let Some(text) = text else {
        let is_absent = !section.entries().iter().any(|entry| entry.name == "name");
        if is_absent && !is_only {
            let error = section.log.error(
                code::UNNAMED_TRIGGER,
                &section.span,
                "every trigger of several needs a name",
            );
            let error = error.note("positions are kept under the name, never under the number");
            section.log.push_missing(error.help("add `name = \"...\"`"));
        }
        return function.clone();
    };
    let Some(name) = parse_name(section, text.value, &text.span, "a trigger") else {
        return function.clone();
    };
    if taken.contains(&name) {
        let message = format!("two triggers of `{function}` are named `{name}`");
        let error = section.log.error(code::DUPLICATE, &text.span, message);
        let error = error.note("positions are kept under the name");
        section.log.push(error.help("name each trigger differently"));
    }
    taken.push(name.clone());
    name
}

fn read_trigger(
    section: &Section<'_>,
    name: Name,
    function: &Name,
    app: Option<&Name>,
    is_process: bool,
) -> TriggerDraft {
    let topics = read_topics(section);
    let start = read_start(section).unwrap_or_default();
    let orders = [("partition", Order::Partition), ("key", Order::Key), ("none", Order::None)];
    let order = section.choice("order", &orders, &[]).unwrap_or_default();
    let deliveries =
        [("at-least-once", Delivery::AtLeastOnce), ("exactly-once", Delivery::ExactlyOnce)];
    let delivery = section.choice("delivery", &deliveries, planned::DELIVERIES).unwrap_or_default();
    let event = read_event(section, is_process);
    let decode = read_decode(section, is_process, event);
    let filter = super::filter::read(section);
    let batch = section.section("batch", "batch = { records = 100 }");
    let retry = section.section("retry", "retry = { attempts = 3 }");
    let circuit = section.section("circuit", "circuit = { failures = \"50%\" }");
    let dead_letter = section.string("dead-letter", "dead-letter = \"readings.dead\"");
    let dead_letter = dead_letter.and_then(|topic| parse_topic(section.log, &topic));
    let on_success = read_destination(section, "on-success", "on-success = \"readings.done\"");
    let on_failure = read_destination(section, "on-failure", "on-failure = \"readings.failed\"");
    let output = section.section("output", "output = { topic = \"alerts\" }");
    let output = output.and_then(|section| read_output(&section));
    let batch = batch.map(|section| read_batch(&section)).unwrap_or_default();
    let retry = retry.map(|section| read_retry(&section)).unwrap_or_default();
    let circuit = circuit.map(|section| read_circuit(&section));
    section.finish(planned::TRIGGER);
    let app = app.map_or("app", Name::as_str);
    let dead = dead_letter.as_ref().map(|topic| topic.value.clone());
    let spec = TriggerSpec {
        name,
        topics: topics.iter().map(|topic| topic.value.clone()).collect(),
        start,
        order,
        delivery,
        event,
        decode,
        filter,
        batch,
        retry,
        circuit,
        dead_letter: dead.unwrap_or_else(|| format!("{app}.{function}.dead")),
        output_topic: output.as_ref().map(|topic| topic.value.clone()),
        on_success: on_success.as_ref().map(|topic| topic.1.value.clone()),
        on_failure: on_failure.as_ref().map(|topic| topic.1.value.clone()),
    };
    let destinations = on_success.into_iter().chain(on_failure).collect();
    TriggerDraft { spec, span: section.span.clone(), topics, output, dead_letter, destinations }
}

fn read_destination(
    section: &Section<'_>,
    key: &'static str,
    example: &str,
) -> Option<(&'static str, Spanned<String>)> {
    let topic = section.string(key, example)?;
    parse_topic(section.log, &topic).map(|topic| (key, topic))
}

fn read_event(section: &Section<'_>, is_process: bool) -> Event {
    let span = section.entries().into_iter().find(|it| it.name == "event").map(|it| it.span);
    let words = [("record", Event::Record), ("lambda", Event::Lambda)];
    let event = section.choice("event", &words, planned::EVENTS).unwrap_or_default();
    if let (Event::Lambda, false, Some(span)) = (event, is_process, span) {
        section.refuse(&span, "event = \"lambda\"", &planned::LAMBDA);
        return Event::Record;
    }
    event
}

/// JSON is what a process's handler expects; a component, and who reads Lambda events, decodes.
fn read_decode(section: &Section<'_>, is_process: bool, event: Event) -> Decode {
    let span = section.entries().into_iter().find(|it| it.name == "decode").map(|it| it.span);
    let words = [("none", Decode::None), ("json", Decode::Json)];
    let decode = section.choice("decode", &words, planned::DECODES);
    let default = if is_process { Decode::Json } else { Decode::None };
    match (decode, span) {
        (Some(Decode::Json), Some(span)) if !is_process => {
            section.refuse(&span, "decode = \"json\"", &planned::JSON);
            Decode::None
        }
        (Some(Decode::Json), Some(span)) if event == Event::Lambda => {
            let message = "`decode` and `event = \"lambda\"` contradict each other";
            let error = section.log.error(code::CONTRADICTION, &span, message);
            let error = error.note("a Lambda event holds values as base64");
            section.log.push(error.help("take `decode` out"));
            Decode::None
        }
        _ if event == Event::Lambda => Decode::None,
        (decode, _) => decode.unwrap_or(default),
    }
}

fn read_topics(section: &Section<'_>) -> Vec<Spanned<String>> {
    const EXAMPLE: &str = "topics = [\"readings\"]";
    let Some(names) = section.strings("topics") else {
        if !section.entries().iter().any(|entry| entry.name == "topics") {
            section.missing("topics", EXAMPLE);
        }
        return Vec::new();
    };
    if names.value.is_empty() {
        let error = section.log.error(code::WRONG_VALUE, &names.span, "`topics` cannot be empty");
        section.log.push(error.note("a trigger reads something").help(format!("`{EXAMPLE}`")));
    }
    parse_topics(section.log, "topics", &names.value)
}

fn read_start(section: &Section<'_>) -> Option<Start> {
    let entry = section.take("start")?;
    let text = match (entry.item.as_str(), entry.item.as_datetime()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(time)) => time.to_string(),
        (None, None) => {
            // Says what it takes, as for any other text.
            section.string("start", "start = \"earliest\"");
            return None;
        }
    };
    match text.as_str() {
        "earliest" => return Some(Start::Earliest),
        "latest" => return Some(Start::Latest),
        _ => {}
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(Start::At(Timestamp(time.as_millisecond())));
    }
    let is_time = text.starts_with(|c: char| c.is_ascii_digit());
    let text = Spanned { value: text.as_str(), span: entry.span };
    if is_time {
        let message = format!("`start` cannot be {:?}", text.value);
        let error = section.log.error(code::WRONG_VALUE, &text.span, message);
        let error = error.note("a time has a date, a time of day and an offset, as in RFC 3339");
        section.log.push(error.help("write it as `start = \"2026-01-31T06:00:00Z\"`"));
    } else {
        section.wrong_word("start", &text, ["earliest", "latest"].into_iter());
    }
    None
}

fn read_output(section: &Section<'_>) -> Option<Spanned<String>> {
    let topic = super::kinds::required(section, "topic", "topic = \"alerts\"");
    section.finish(planned::OUTPUT);
    let topic = topic?;
    parse_topic(section.log, &Spanned { value: topic.value.as_str(), span: topic.span })
}

fn read_batch(section: &Section<'_>) -> Batch {
    let mut batch = Batch::default();
    if let Some(records) = section.integer("records", 1..i64::from(Batch::RECORDS_MAX) + 1) {
        batch.records = u32::try_from(records.value).unwrap_or(batch.records);
    }
    if let Some(bytes) = section.bytes("bytes", Batch::BYTES_MIN, Batch::BYTES_MAX) {
        batch.bytes = bytes.value;
    }
    if let Some(window) = section.duration("window", Duration::ZERO, Batch::WINDOW_MAX) {
        batch.window = window.value;
    }
    section.finish(&[]);
    batch
}

fn read_retry(section: &Section<'_>) -> Retry {
    let mut retry = Retry::default();
    let given = section.integer("attempts", 1..i64::from(Retry::ATTEMPTS_MAX) + 1);
    if let Some(attempts) = &given {
        retry.attempts = u32::try_from(attempts.value).unwrap_or(retry.attempts);
    }
    let is_list = |entry: &Entry<'_>| entry.name == "backoff" && entry.item.is_array();
    if section.entries().iter().any(is_list) {
        read_pauses(section, given, &mut retry);
    } else if let Some((least, most)) = read_range(section, "backoff", "backoff = \"1s..30s\"") {
        retry.backoff_min = least;
        retry.backoff_max = most;
    }
    let year = Duration::from_secs(366 * 86_400);
    retry.age_max = section.duration("max-age", Duration::from_secs(1), year).map(|age| age.value);
    retry.bisect = section.boolean("bisect").unwrap_or(retry.bisect);
    retry.no_retry = read_no_retry(section);
    section.finish(planned::RETRY);
    retry
}

/// Names of failures, whole or how they begin.
fn read_no_retry(section: &Section<'_>) -> Vec<String> {
    let Some(names) = section.strings("no-retry") else { return Vec::new() };
    let mut read = Vec::with_capacity(names.value.len());
    for name in names.value {
        let stem = name.value.strip_suffix('*').unwrap_or(name.value);
        if stem.is_empty() || stem.contains('*') {
            let message = format!("`no-retry` cannot hold {:?}", name.value);
            let error = section.log.error(code::WRONG_VALUE, &name.span, message);
            let error =
                error.note("the name of a failure, or how names begin with a `*` behind it");
            section.log.push(if stem.is_empty() {
                error.help("`attempts = 1` tries nothing again")
            } else {
                error.help("write it as `no-retry = [\"ValueError\", \"Sandbox.*\"]`")
            });
        } else {
            read.push(name.value.to_owned());
        }
    }
    read
}

/// `["5m", "30m", "2h"]`. Each pause is one that is used: attempts that leave one out contradict it.
fn read_pauses(section: &Section<'_>, attempts: Option<Spanned<i64>>, retry: &mut Retry) {
    let Some(texts) = section.strings("backoff") else { return };
    let mut pauses = Vec::with_capacity(texts.value.len());
    for text in &texts.value {
        match parse_duration(text.value) {
            Ok(pause) if !pause.is_zero() && pause <= Retry::PAUSE_MAX => pauses.push(pause),
            Ok(_) => {
                let message = "a pause of `backoff` is out of range";
                let error = section.log.error(code::OUT_OF_RANGE, &text.span, message);
                section.log.push(error.note("1ms to 7d"));
                return;
            }
            Err(error) => {
                let message = "`backoff` holds what is not a duration";
                let one = section.log.error(code::BAD_UNIT, &text.span, message);
                let one = one.note(error.to_string());
                section.log.push(one.help("write it as `backoff = [\"5m\", \"30m\", \"2h\"]`"));
                return;
            }
        }
    }
    if pauses.is_empty() || Retry::PAUSES_MAX < pauses.len() {
        let message = format!("`backoff` lists {} pauses", pauses.len());
        let error = section.log.error(code::OUT_OF_RANGE, &texts.span, message);
        section.log.push(error.note(format!("1 to {}; the last one repeats", Retry::PAUSES_MAX)));
        return;
    }
    let needed = pauses.len() + 1;
    match attempts {
        Some(given) if (given.value.unsigned_abs() as usize) < needed => {
            let given = given.value;
            let message = format!("`attempts = {given}` leaves out pauses of `backoff`");
            let error = section.log.error(code::CONTRADICTION, &texts.span, message);
            let error = error.note(format!(
                "{} pauses are between {needed} attempts, the first one counted",
                pauses.len()
            ));
            section.log.push(error.help(format!(
                "write `attempts = {needed}`, or leave it out: it follows from the list"
            )));
        }
        Some(_) => {}
        None => retry.attempts = needed as u32,
    }
    retry.pauses = pauses;
}

/// `"1s..30s"`, or one duration for every pause.
fn read_range(
    section: &Section<'_>,
    key: &'static str,
    example: &str,
) -> Option<(Duration, Duration)> {
    let text = section.string(key, example)?;
    let (least, most) = text.value.split_once("..").unwrap_or((text.value, text.value));
    let parse = |part: &str| {
        parse_duration(part)
            .map_err(|error| {
                let message = format!("`{key}` is not a duration or a range of them");
                let one = section.log.error(code::BAD_UNIT, &text.span, message);
                let one = one.note(error.to_string());
                section.log.push(one.help(format!("write it as `{example}`")));
            })
            .ok()
    };
    let (least, most) = (parse(least)?, parse(most)?);
    if least > most {
        let message = format!("`{key}` starts with more than it ends with");
        let error = section.log.error(code::CONTRADICTION, &text.span, message);
        section.log.push(error.note("the shortest pause, two dots, the longest"));
        return None;
    }
    if least.is_zero() || most > Retry::BACKOFF_MAX {
        let message = format!("`{key}` is out of range");
        let error = section.log.error(code::OUT_OF_RANGE, &text.span, message);
        section.log.push(error.note("1ms to 1h: a failed record is not tried again at once"));
        return None;
    }
    Some((least, most))
}

fn read_circuit(section: &Section<'_>) -> Circuit {
    let mut circuit = Circuit::default();
    let example = "failures = \"50%\"";
    if let Some(text) = section.string("failures", example) {
        let number = text.value.strip_suffix('%').and_then(|it| it.trim().parse().ok());
        match number.filter(|it| (1..=100).contains(it)) {
            Some(percent) => circuit.failures_percent = percent,
            None => {
                let message = format!("`failures` cannot be {:?}", text.value);
                let error = section.log.error(code::OUT_OF_RANGE, &text.span, message);
                section.log.push(
                    error
                        .note("1% to 100% of the attempts")
                        .help(format!("write it as `{example}`")),
                );
            }
        }
    }
    if let Some(attempts) = section.integer("attempts", 1..10_001) {
        circuit.attempts = u32::try_from(attempts.value).unwrap_or(circuit.attempts);
    }
    let hour = Duration::from_secs(3_600);
    if let Some(window) = section.duration("window", Duration::from_secs(1), hour) {
        circuit.window = window.value;
    }
    if let Some(range) = read_range(section, "pause", "pause = \"5s..5m\"") {
        (circuit.pause_min, circuit.pause_max) = range;
    }
    section.finish(&[]);
    circuit
}
