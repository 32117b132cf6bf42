//! Whether every record that ended has its message, whether all that a message says is what lies in the
//! topics, and whether messages of a key are in its order.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::app::{End, FUNCTIONS, Function, Kind};
use super::seen::{Row, Seen};
use crate::journal_reader::ORIGIN;

/// What messages of a bus have to say of it.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) brokers: String,
    /// Whether nothing may come twice.
    pub(super) is_exact: bool,
    /// When the run on it began, Unix ms.
    pub(super) began: i64,
}

/// What is right, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Verdict {
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) repeats: u64,
}

/// Partition and offset of a source.
type Place = (i64, i64);

/// An origin header, as far as it matters.
struct Origin<'a> {
    place: Place,
    index: &'a str,
    revision: &'a str,
    attempt: &'a str,
    epoch: &'a str,
}

fn origin(row: &Row) -> Result<Origin<'_>, String> {
    let text = row.header(ORIGIN);
    let read = || {
        let parts: [&str; 8] = text.split(';').collect::<Vec<_>>().try_into().ok()?;
        let [_, topic, partition, offset, index, revision, attempt, epoch] = parts;
        if topic != "in" {
            return None;
        }
        let place = (partition.parse().ok()?, offset.parse().ok()?);
        Some(Origin { place, index, revision, attempt, epoch })
    };
    read().ok_or_else(|| format!("an odd origin {text:?}"))
}

/// Judges all of it.
pub(super) fn judge(seen: &Seen, bus: &Bus) -> Result<Verdict, String> {
    let sources: BTreeMap<Place, (&Row, u64)> = seen
        .sources
        .iter()
        .map(|row| {
            let digits: String =
                row.value.chars().skip(5).take_while(char::is_ascii_digit).collect();
            let number = digits.parse().map_err(|_error| format!("an odd record {row:?}"))?;
            Ok(((row.partition, row.offset), (row, number)))
        })
        .collect::<Result<_, String>>()?;
    let mut verdict = Verdict::default();
    for (at, function) in FUNCTIONS.into_iter().enumerate() {
        let named = |why| format!("{}: {why}", function.name());
        let made = Made::of(&seen.outputs[at], &seen.dead[at]).map_err(named)?;
        let mut told: BTreeMap<Place, u64> = BTreeMap::new();
        let mut last: BTreeMap<(i64, &str), i64> = BTreeMap::new();
        for row in &seen.told[at] {
            let from = origin(row).map_err(named)?;
            let (source, number) = sources
                .get(&from.place)
                .ok_or_else(|| named(format!("a message about nothing: {row:?}")))?;
            let named = |why| named(format!("record {number}: {why}"));
            let end = Kind::of(*number).end(function);
            let end = end.ok_or_else(|| named("a message about a record that never ran".into()))?;
            message(row, &from, source, &end, function, bus, &made).map_err(named)?;
            let times = told.entry(from.place).or_default();
            *times += 1;
            if *times == 1 {
                let is_success = from.index == "s";
                verdict.successes += u64::from(is_success);
                verdict.failures += u64::from(!is_success);
                // Failures of a topic of their own are in the order in which records were given up.
                let key = row.key.as_deref().filter(|_| is_success || function.told().len() == 1);
                let thread = key.map(|key| (from.place.0, key));
                let before = thread.and_then(|it| last.get(&it).copied());
                if before.is_some_and(|before| from.place.1 < before) {
                    return Err(named(format!("told after {before:?} of its key")));
                }
                if is_success {
                    last.extend(thread.map(|it| (it, from.place.1)));
                }
            } else if bus.is_exact {
                return Err(named("told twice".into()));
            } else {
                verdict.repeats += 1;
            }
        }
        for (place, (_, number)) in &sources {
            if Kind::of(*number).end(function).is_some() && !told.contains_key(place) {
                return Err(named(format!("nobody was told of record {number}")));
            }
        }
    }
    Ok(verdict)
}

/// What a function made: outputs of a record by index, dead letters.
struct Made<'a> {
    outputs: BTreeMap<Place, BTreeMap<u32, &'a Row>>,
    dead: BTreeMap<Place, Vec<&'a Row>>,
}

impl<'a> Made<'a> {
    fn of(outputs: &'a [Row], dead: &'a [Row]) -> Result<Self, String> {
        let mut made = Self { outputs: BTreeMap::new(), dead: BTreeMap::new() };
        for row in outputs {
            let from = origin(row)?;
            let index = from.index.parse().map_err(|_error| format!("an odd output {row:?}"))?;
            made.outputs.entry(from.place).or_default().entry(index).or_insert(row);
        }
        for row in dead {
            made.dead.entry(origin(row)?.place).or_default().push(row);
        }
        Ok(made)
    }
}

/// Whether a message says of its source what is so.
fn message(
    row: &Row,
    from: &Origin<'_>,
    source: &Row,
    end: &End,
    function: Function,
    bus: &Bus,
    made: &Made<'_>,
) -> Result<(), String> {
    let is = |what: &str, found: &Value, wanted: Value| {
        if *found == wanted { Ok(()) } else { Err(format!("{what} is {found}, not {wanted}")) }
    };
    let is_success = end.condition == "Success";
    is("its key", &json!(row.key), json!(source.key))?;
    is("its timestamp", &json!(row.timestamp), json!(source.timestamp))?;
    is("its kind", &json!(from.index), json!(if is_success { "s" } else { "f" }))?;
    let said: Value = serde_json::from_str(&row.value).map_err(|error| error.to_string())?;
    let fields: BTreeSet<&str> = said.as_object().into_iter().flatten().map(|it| &**it.0).collect();
    let mut wanted = BTreeSet::from([
        "requestContext",
        "responseContext",
        "version",
        "timestamp",
        "KafkaBatchInfo",
        "payload",
    ]);
    wanted.extend(is_success.then_some("responsePayload"));
    is("the fields", &json!(fields), json!(wanted))?;

    let attempts: u64 = from.attempt.parse().unwrap_or(u64::MAX);
    if !(end.attempts..=end.attempts + 1).contains(&attempts) {
        return Err(format!("{attempts} attempts, not {}", end.attempts));
    }
    let invocation = said["requestContext"]["requestId"].as_str().unwrap_or_default();
    if invocation.split('-').nth(1) != Some(from.epoch) || invocation.split('-').count() != 3 {
        return Err(format!("invocation {invocation:?} is not of epoch {}", from.epoch));
    }
    let name = function.name();
    let request = json!({
        "requestId": invocation,
        "functionArn": format!("arn:aws:lambda:us-east-1:000000000000:function:{name}"),
        "condition": end.condition,
        "approximateInvokeCount": attempts,
    });
    is("the request", &said["requestContext"], request)?;
    let mut response = json!({ "statusCode": 200, "executedVersion": from.revision });
    if !is_success {
        response["functionError"] = json!("Unhandled");
    }
    let response = if end.answered { response } else { Value::Null };
    is("the response", &said["responseContext"], response)?;
    is("the version", &said["version"], json!("1.0"))?;
    let at = said["timestamp"].as_str().unwrap_or_default();
    if !(time(bus.began)..=time(now_ms())).contains(&at.to_owned()) {
        return Err(format!("it was told at {at:?}"));
    }

    let info = &said["KafkaBatchInfo"];
    let arn = info["eventSourceArn"].as_str().unwrap_or_default();
    if !arn.starts_with("arn:aws:kafka:us-east-1:000000000000:cluster/") {
        return Err(format!("the source is {arn:?}"));
    }
    let payload = row.value.split_once(",\"payload\":").map_or("", |it| it.1);
    let payload = payload
        .rsplit_once(",\"responsePayload\":")
        .map_or_else(|| payload.strip_suffix('}').unwrap_or_default(), |(payload, _)| payload);
    let wanted = json!({
        "batchSize": 1,
        "eventSourceArn": arn,
        "bootstrapServers": bus.brokers,
        "payloadSize": payload.len(),
        "recordInfo": { "offset": source.offset.to_string(), "timestamp": time(source.timestamp) },
    });
    is("the batch", info, wanted)?;
    is("the payload", &said["payload"], event(source, &bus.brokers))?;

    if is_success {
        let none = BTreeMap::new();
        let outputs = made.outputs.get(&from.place).unwrap_or(&none);
        let topic = format!("{name}.out");
        let value = |row: &&Row| {
            let bytes = || json!({ "$bytes": STANDARD.encode(&row.value) });
            let value: Value = serde_json::from_str(&row.value).unwrap_or_else(|_no_json| bytes());
            json!({ "topic": topic, "value": value })
        };
        let outputs: Vec<Value> = outputs.values().map(value).collect();
        if outputs.is_empty() || made.dead.contains_key(&from.place) {
            return Err("a success without outputs, or with a dead letter".to_owned());
        }
        return is("the outputs", &said["responsePayload"], json!(outputs));
    }
    let epoch = |text: &str| text.parse::<u64>().unwrap_or_default();
    let says = |letter: &&&Row| {
        let of = |name: &str| letter.header(&format!("millrace-dead-{name}"));
        let is_it = (of("attempts"), of("invocation"), of("revision"))
            == (from.attempt, invocation, from.revision);
        // A commit that the kill cut short on Kafka was made again by the next owner.
        let is_again =
            !bus.is_exact && origin(letter).is_ok_and(|made| epoch(from.epoch) < epoch(made.epoch));
        (is_it || is_again) && (&letter.key, &letter.value) == (&source.key, &source.value)
    };
    match made.dead.get(&from.place).and_then(|all| all.iter().find(says)) {
        Some(_) if !made.outputs.contains_key(&from.place) => Ok(()),
        _ => Err(format!("a failure without its dead letter, or with outputs: {row:?}")),
    }
}

/// The Lambda event of a record alone, as AWS documents it.
fn event(source: &Row, brokers: &str) -> Value {
    let mark: Vec<i8> = source.header("mark").bytes().map(u8::cast_signed).collect();
    let mut record = json!({
        "topic": "in", "partition": source.partition, "offset": source.offset,
        "timestamp": source.timestamp, "timestampType": "CREATE_TIME",
        "value": STANDARD.encode(&source.value), "headers": [{ "mark": mark }],
    });
    if let Some(key) = &source.key {
        record["key"] = json!(STANDARD.encode(key));
    }
    let group = format!("in-{}", source.partition);
    json!({
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": brokers,
        "records": { group: [record] },
    })
}

/// Now, Unix ms.
pub(super) fn now_ms() -> i64 {
    bus::Timestamp::now().0
}

/// RFC 3339 in UTC, to the millisecond, of a time after 1970: days to a date after Howard Hinnant's
/// `civil_from_days`.
fn time(ms: i64) -> String {
    let (seconds, millis) = (ms / 1_000, ms % 1_000);
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + 400 * era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Spoils what was seen; `false` when there was nothing to spoil.
type Plant = fn(&mut Seen) -> bool;

/// Puts other text into the first message of the function that has it.
fn change(seen: &mut Seen, from: &str, to: &str) -> bool {
    let mut rows = seen.told.iter_mut().flatten();
    let found = rows.find(|row| row.value.contains(from));
    found.is_some_and(|row| {
        row.value = row.value.replacen(from, to, 1);
        true
    })
}

/// Faults that the verdict has to see, on either bus.
pub(super) const FAULTS: [(&str, Plant); 12] = [
    ("a lost success", |seen| lose(&mut seen.told[0], "s")),
    ("a lost failure", |seen| lose(&mut seen.told[1], "f")),
    ("two messages of a key the other way round", |seen| {
        let told = &mut seen.told[2];
        let is_success = |row: &Row| row.value.contains("\"condition\":\"Success\"");
        let key = |row: &Row| row.key.clone().map(|key| (row.partition, key));
        let pair = (0..told.len()).find_map(|first| {
            let of = key(&told[first])?;
            let next = (first + 1..told.len()).find(|at| key(&told[*at]) == Some(of.clone()))?;
            is_success(&told[next]).then_some((first, next))
        });
        pair.is_some_and(|(first, next)| {
            told.swap(first, next);
            true
        })
    }),
    ("a message under another key", |seen| {
        let row = seen.told[0].iter_mut().find(|row| row.key.is_some());
        row.is_some_and(|row| {
            row.key = Some("key-x".to_owned());
            true
        })
    }),
    ("another value in the payload", |seen| change(seen, "\"value\":\"ey", "\"value\":\"eQ")),
    ("an offset as a number", |seen| change(seen, "\"offset\":\"", "\"offset\":0,\"x\":\"")),
    ("another condition", |seen| change(seen, "RecordAgeExceeded", "RetryAttemptsExhausted")),
    ("another count", |seen| change(seen, "InvokeCount\":3", "InvokeCount\":4")),
    ("a failure that nobody answered for", |seen| {
        change(seen, ",\"functionError\":\"Unhandled\"", "")
    }),
    ("an output that was left out", |seen| {
        change(seen, "\"responsePayload\":[{", "\"responsePayload\":[],\"x\":[{")
    }),
    ("another size", |seen| change(seen, "\"payloadSize\":", "\"payloadSize\":1")),
    ("a message about a record that was kept back", |seen| {
        let is_kept_back = |row: &&Row| row.key.as_ref().is_some_and(|it| it.starts_with("skip"));
        let Some(kept_back) = seen.sources.iter().find(is_kept_back) else { return false };
        let place = format!("1;in;{};{};s;", kept_back.partition, kept_back.offset);
        let Some(mut row) = seen.told[0].first().cloned() else { return false };
        for (_, value) in row.headers.iter_mut().filter(|it| it.0 == ORIGIN) {
            let rest = value.split(';').skip(5).collect::<Vec<_>>().join(";");
            *value = format!("{place}{rest}");
        }
        seen.told[0].push(row);
        true
    }),
];

/// Takes away all that is told of one record.
fn lose(told: &mut Vec<Row>, index: &str) -> bool {
    let place = told.iter().find_map(|row| {
        let from = origin(row).ok()?;
        (from.index == index).then_some(from.place)
    });
    let before = told.len();
    told.retain(|row| origin(row).map(|it| Some(it.place) != place).unwrap_or(true));
    told.len() < before
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_001), "2000-02-29T00:00:00.001Z");
        assert_eq!(time(1_795_393_086_021), "2026-11-23T00:18:06.021Z");
    }
}
