//! What the topics say once nothing is left to do: every record that ends no node has its output in
//! both topics, in the order of its key, and every one that does has a dead letter that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::ATTEMPTS;
use crate::harness::api::ToProduce;
use crate::harness::rng::Rng;
use crate::journal_reader::Journal;
use crate::promise::{NotShown, broken};

/// The headers that a dead letter is judged by, and what they say.
const CAUSE: (&str, &str) = ("millrace-dead-cause", "RetryAttemptsExhausted");
const KIND: (&str, &str) = ("millrace-dead-error-type", "Millrace.NodeEnded");
const ATTEMPTED: &str = "millrace-dead-attempts";
/// Where dead letters go that nobody says a topic for.
const DEAD: [&str; 2] = ["mill.work.dead", "mill.beside.dead"];

/// What was sent.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) records: u64,
    pub(super) killers: BTreeSet<u64>,
    /// Whether killers fail the first time, and are parked.
    pub(super) fails_first: bool,
    /// Whether nothing may come twice.
    exactly_once: bool,
}

impl Expected {
    /// So many killers, of which the second follows the first.
    pub(super) fn draw(rng: &mut Rng, records: u64, killers: u64, exactly_once: bool) -> Self {
        let mut drawn = BTreeSet::from([rng.draw(records - 1)]);
        if 1 < killers {
            drawn.extend(drawn.first().map(|it| it + 1));
        }
        while (drawn.len() as u64) < killers {
            drawn.insert(rng.draw(records));
        }
        Self { records, killers: drawn, fails_first: false, exactly_once }
    }

    pub(super) fn record(&self, number: u64, keys: u64) -> ToProduce {
        let kills = self.killers.contains(&number);
        let value = format!("{{\"n\":{number},\"kills\":{kills}}}");
        let key = format!("key-{}", number % keys);
        ToProduce { key: key.into_bytes(), value: value.into_bytes() }
    }
}

/// A record, as far as it matters.
#[derive(Clone, Debug)]
pub(super) struct Found {
    key: String,
    number: u64,
    headers: BTreeMap<String, String>,
}

/// The topics, each partition in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    outputs: Vec<Found>,
    beside: Vec<Found>,
    dead: Vec<Found>,
    dead_beside: Vec<Found>,
}

impl Seen {
    fn topics(&mut self) -> [(&'static str, &mut Vec<Found>); 4] {
        let [dead, dead_beside] = DEAD;
        [
            ("out", &mut self.outputs),
            ("beside", &mut self.beside),
            (dead, &mut self.dead),
            (dead_beside, &mut self.dead_beside),
        ]
    }

    /// Reads the journal of a node that has ended.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or holds what nobody sent.
    pub(super) fn in_journal(data: &Path) -> Result<Self, NotShown> {
        let journal = Journal::open(data)?;
        let mut seen = Self::default();
        for (topic, into) in seen.topics() {
            let partitions = journal.topics.get(topic).map_or(0, |it| it.partitions);
            let mut odd = None;
            for partition in 0..partitions {
                journal.records(topic, partition, 0, |record| {
                    let text = |bytes: Option<&[u8]>| {
                        bytes.map(|it| String::from_utf8_lossy(it).into_owned())
                    };
                    let header = |name| Some((String::from(name), text(record.header(name))?));
                    let headers = [CAUSE.0, KIND.0, ATTEMPTED].into_iter().filter_map(header);
                    match found(text(record.key), text(record.value), headers.collect()) {
                        Some(it) => into.push(it),
                        None => odd = Some(format!("{record:?}")),
                    }
                })?;
            }
            if let Some(odd) = odd {
                return Err(broken(format!("{topic} holds {odd}")));
            }
        }
        Ok(seen)
    }

    /// Reads topics of Kafka, as a client that is not ours tells them.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or hold what nobody sent.
    pub(super) fn in_kafka(
        mut dump: impl FnMut(&str) -> Result<Value, NotShown>,
    ) -> Result<Self, NotShown> {
        let mut seen = Self::default();
        for (topic, into) in seen.topics() {
            let said = dump(topic)?;
            for record in said["records"].as_array().into_iter().flatten() {
                let text = |it: &Value| it.as_str().map(str::to_owned);
                let headers = record[3].as_object().into_iter().flatten();
                let headers = headers.filter_map(|(name, it)| Some((name.clone(), text(it)?)));
                let it = found(text(&record[1]), text(&record[2]), headers.collect());
                into.push(it.ok_or_else(|| broken(format!("{topic} holds {record}")))?);
            }
        }
        Ok(seen)
    }
}

fn found(
    key: Option<String>,
    value: Option<String>,
    headers: BTreeMap<String, String>,
) -> Option<Found> {
    let value: Value = serde_json::from_str(&value?).ok()?;
    Some(Found { key: key?, number: value["n"].as_u64()?, headers })
}

/// What is right, counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    pub(super) dead_letters: usize,
    pub(super) repeats: usize,
}

/// Whether every record has its end, and the right one.
pub(super) fn judge(expected: &Expected, seen: &Seen) -> Result<Verdict, String> {
    let all: BTreeSet<u64> = (0..expected.records).collect();
    let healthy: BTreeSet<u64> = all.difference(&expected.killers).copied().collect();
    let mut repeats = ends("out", &seen.outputs, &healthy)?;
    repeats += ends("beside", &seen.beside, &all)?;
    let again = ends(DEAD[0], &seen.dead, &expected.killers)?;
    if let Some(it) = seen.dead_beside.first() {
        return Err(format!("record {} was given up by the function beside", it.number));
    }
    if expected.exactly_once && 0 < repeats + again {
        return Err(format!("{repeats} outputs and {again} dead letters come twice"));
    }
    for it in &seen.dead {
        let says = |name: &str| it.headers.get(name).map_or("", String::as_str);
        for (name, value) in [CAUSE, KIND] {
            if says(name) != value {
                return Err(format!("{name} of record {} is {:?}", it.number, says(name)));
            }
        }
        let attempts = says(ATTEMPTED).parse().unwrap_or(0);
        let is_one = expected.killers.len() == 1;
        if attempts < ATTEMPTS || (is_one && attempts != ATTEMPTS) {
            return Err(format!("record {} is given up after {attempts} attempts", it.number));
        }
    }
    Ok(Verdict { dead_letters: seen.dead.len(), repeats })
}

/// Whether exactly these records are there, in the order of their keys; how many come again.
fn ends(topic: &str, records: &[Found], wanted: &BTreeSet<u64>) -> Result<usize, String> {
    let (mut there, mut last) = (BTreeSet::new(), BTreeMap::new());
    let mut repeats = 0;
    for it in records {
        if !there.insert(it.number) {
            repeats += 1;
            continue;
        }
        let before = last.insert(&it.key, it.number);
        if before.is_some_and(|before| it.number < before) {
            return Err(format!("{topic}: {} of {} comes after {before:?}", it.number, it.key));
        }
    }
    if let Some(odd) = there.symmetric_difference(wanted).next() {
        let what = if there.contains(odd) { "does not belong there" } else { "is missing" };
        return Err(format!("{topic}: record {odd} {what}"));
    }
    Ok(repeats)
}

/// Takes the last record away, and what it repeats or is repeated by.
fn lose_last(records: &mut Vec<Found>) {
    if let Some(last) = records.pop() {
        records.retain(|it| it.number != last.number);
    }
}

/// Spoils what was seen.
type Plant = fn(&mut Seen, &Expected);

/// Faults that the verdict has to see.
pub(super) const FAULTS: [(&str, Plant); 6] = [
    ("a lost output", |seen, _| lose_last(&mut seen.outputs)),
    ("a lost output of the function beside", |seen, _| lose_last(&mut seen.beside)),
    ("a lost dead letter", |seen, _| lose_last(&mut seen.dead)),
    ("a killer that has an output", |seen, expected| {
        let number = expected.killers.first().copied().unwrap_or_default();
        let (key, headers) = ("key".to_owned(), BTreeMap::new());
        seen.outputs.push(Found { key, number, headers });
    }),
    ("a record given up that ends no node", |seen, _| {
        seen.dead_beside.extend(seen.beside.first().cloned());
    }),
    ("too few attempts", |seen, _| {
        seen.dead.iter_mut().for_each(|it| {
            it.headers.insert(ATTEMPTED.to_owned(), "2".to_owned());
        });
    }),
];
