//! What the journal of the stopped node says of every record, read with the decoder of this crate, and
//! whether the node's answers say the same. Nothing here knows of the histories but their size.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::app::{FUNCTIONS, TOPICS};
use crate::journal_reader::layout::Record;
use crate::journal_reader::{Journal, ORIGIN};
use crate::promise::{NotShown, broken};

/// Topic, partition, offset.
type Place = (String, i32, i64);

/// What the node says of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) state: String,
    pub(super) attempts: u64,
    pub(super) invocation: Option<String>,
    pub(super) revision: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) next_try_at: Option<String>,
    /// Place and index.
    pub(super) outputs: BTreeSet<(Place, u64)>,
    pub(super) dead_letter: Option<Place>,
    /// Where it comes from, the nearest first.
    pub(super) origin: Vec<Place>,
    /// Attempts that the history names, by invocation.
    pub(super) history: Vec<(u64, String)>,
    note: Option<String>,
}

impl Answer {
    /// Reads what the control API says, of the one trigger that reads the topic.
    pub(super) fn of(said: &Value) -> Result<Self, NotShown> {
        let odd = || broken(format!("an answer that says too little: {said}"));
        let place = |it: &Value| {
            let partition = i32::try_from(it["partition"].as_i64()?).ok()?;
            Some((it["topic"].as_str()?.to_owned(), partition, it["offset"].as_i64()?))
        };
        let text = |it: &Value| it.as_str().map(str::to_owned);
        let list = |it: &Value| it.as_array().cloned().unwrap_or_default();
        let (topic, partition, offset) = place(said).ok_or_else(odd)?;
        let [of] = said["triggers"].as_array().map(Vec::as_slice).unwrap_or_default() else {
            return Err(odd());
        };
        let output = |it: &Value| Some((place(it)?, it["index"].as_u64()?));
        let attempt = |it: &Value| Some((it["number"].as_u64()?, text(&it["invocation"])?));
        let outputs = list(&of["outputs"]).iter().map(output).collect::<Option<_>>();
        let origin = list(&said["origin"]).iter().map(place).collect::<Option<_>>();
        let history = list(&of["history"]).iter().map(attempt).collect::<Option<_>>();
        Ok(Self {
            topic,
            partition,
            offset,
            state: text(&of["state"]).ok_or_else(odd)?,
            attempts: of["attempts"].as_u64().ok_or_else(odd)?,
            invocation: text(&of["invocation"]),
            revision: text(&of["revision"]),
            cause: text(&of["cause"]),
            next_try_at: text(&of["next_try_at"]),
            outputs: outputs.ok_or_else(odd)?,
            dead_letter: place(&of["dead_letter"]),
            origin: origin.ok_or_else(odd)?,
            history: history.ok_or_else(odd)?,
            note: text(&of["note"]),
        })
    }

    pub(super) fn place(&self) -> String {
        format!("{}[{}]@{}", self.topic, self.partition, self.offset)
    }

    /// Whether nothing more will become of it.
    pub(super) fn is_over(&self) -> bool {
        ["succeeded", "filtered", "dead_lettered"].contains(&self.state.as_str())
    }
}

/// An output, or a dead letter, as its headers and its value have it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    place: Place,
    index: u64,
    revision: String,
    attempt: u64,
    epoch: u64,
    /// The event that it was made in, as the function saw it.
    event: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Letter {
    place: Place,
    cause: String,
    attempts: u64,
    revision: String,
    invocation: Option<String>,
}

/// What the journal has of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Truth {
    /// What its value says that it is; `odd` where it says nothing.
    kind: String,
    is_settled: bool,
    outputs: Vec<Made>,
    letter: Option<Letter>,
    /// It is in a park topic, after so many attempts.
    parked: Option<u64>,
    /// Where it comes from.
    origin: Option<Place>,
}

/// All records of the topics that are asked after.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) records: BTreeMap<Place, Truth>,
    pub(super) history_bytes: u64,
}

fn text(bytes: Option<&[u8]>) -> String {
    bytes.map(|it| String::from_utf8_lossy(it).into_owned()).unwrap_or_default()
}

/// `1;topic;partition;offset;index;revision;attempt;epoch`, and where the record that has it lies.
fn made(place: Place, record: &Record<'_>) -> Option<(Place, Option<Made>)> {
    let origin = text(record.header(ORIGIN));
    let parts: Vec<&str> = origin.split(';').collect();
    let [_, topic, partition, offset, index, revision, attempt, epoch] = parts[..] else {
        return None;
    };
    let source = (topic.to_owned(), partition.parse().ok()?, offset.parse().ok()?);
    let value: Option<Value> = record.value.and_then(|it| serde_json::from_slice(it).ok());
    let event = value.and_then(|it| it["event"].as_str().map(str::to_owned));
    let made = index.parse().ok().and_then(|index| {
        let (attempt, epoch) = (attempt.parse().ok()?, epoch.parse().ok()?);
        Some(Made { place, index, revision: revision.to_owned(), attempt, epoch, event })
    });
    Some((source, made))
}

impl Seen {
    /// Reads the journal of a node that has ended.
    pub(super) fn read(data: &Path) -> Result<Self, NotShown> {
        let journal = Journal::open(data)?;
        let mut seen = Self::default();
        let positions = journal.positions()?;
        let mut at = BTreeMap::new();
        for position in &positions {
            if let Some((topic, partition)) = journal.partition(position) {
                at.insert((topic.to_owned(), partition), position.clone());
            }
        }
        for topic in TOPICS {
            let partitions = journal.topics.get(topic).map_or(0, |it| it.partitions);
            for partition in 0..partitions {
                let position = at.get(&(topic.to_owned(), partition));
                journal.records(topic, partition, 0, |record| {
                    let value: Option<Value> =
                        record.value.and_then(|it| serde_json::from_slice(it).ok());
                    let kind = value.as_ref().and_then(|it| it["kind"].as_str());
                    let kind = match (topic, kind) {
                        ("mid", _) => "fine",
                        (_, kind) => kind.unwrap_or("odd"),
                    };
                    let is_settled = position.is_some_and(|it| {
                        let beyond = it.beyond.iter();
                        record.offset < it.next
                            || beyond.clone().any(|it| (it.0..it.1).contains(&record.offset))
                    });
                    let place = (topic.to_owned(), partition, record.offset);
                    let origin = made(place.clone(), record).map(|(source, _)| source);
                    let kind = kind.to_owned();
                    let truth = Truth { kind, is_settled, origin, ..Truth::default() };
                    seen.records.insert(place, truth);
                })?;
            }
        }
        for topic in journal.topics.values() {
            for partition in 0..topic.partitions {
                let mut parked = BTreeMap::new();
                journal.records(&topic.name, partition, 0, |record| {
                    let place = (topic.name.clone(), partition, record.offset);
                    if topic.name.starts_with("millrace.history.") {
                        seen.history_bytes += record.value.map_or(0, <[u8]>::len) as u64;
                    } else if topic.name.starts_with("millrace.park.") {
                        parked.insert(text(record.key), record.value.map(<[u8]>::to_vec));
                    } else {
                        seen.take(place, record);
                    }
                })?;
                for (key, envelope) in parked {
                    seen.envelope(&key, envelope.as_deref());
                }
            }
        }
        Ok(seen)
    }

    fn take(&mut self, place: Place, record: &Record<'_>) {
        let Some((source, made)) = made(place.clone(), record) else { return };
        let Some(truth) = self.records.get_mut(&source) else { return };
        if let Some(made) = made {
            truth.outputs.push(made);
            return;
        }
        let header = |name: &str| record.header(name).map(|it| text(Some(it)));
        truth.letter = Some(Letter {
            place,
            cause: header("millrace-dead-cause").unwrap_or_default(),
            attempts: header("millrace-dead-attempts").and_then(|it| it.parse().ok()).unwrap_or(99),
            revision: header("millrace-dead-revision").unwrap_or_default(),
            invocation: header("millrace-dead-invocation"),
        });
    }

    /// `topic;partition;offset`, and one byte of layout before four of attempts.
    fn envelope(&mut self, key: &str, envelope: Option<&[u8]>) {
        let parts: Vec<&str> = key.split(';').collect();
        let ([topic, partition, offset], Some(envelope)) = (&parts[..], envelope) else { return };
        let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse()) else { return };
        let attempts = envelope.get(1..5).and_then(|it| it.try_into().ok()).map(u32::from_le_bytes);
        if let Some(truth) = self.records.get_mut(&((*topic).to_owned(), partition, offset)) {
            truth.parked = attempts.map(u64::from);
        }
    }
}

/// Whether every answer is true; how many there are of each state.
pub(super) fn judge(seen: &Seen, answers: &[Answer]) -> Result<BTreeMap<String, u64>, String> {
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    // Who shared an event shared an invocation, and who did not did not.
    let (mut by_event, mut by_invocation) = (BTreeMap::new(), BTreeMap::new());
    for answer in answers {
        let place = (answer.topic.clone(), answer.partition, answer.offset);
        let truth = seen.records.get(&place).ok_or_else(|| format!("there is no {place:?}"))?;
        one(seen, answer, truth).map_err(|why| format!("{why}: {answer:?}, but {truth:?}"))?;
        *told.entry(answer.state.clone()).or_default() += 1;
        let event = truth.outputs.first().and_then(|it| it.event.clone());
        if let (Some(event), Some(invocation)) = (event, answer.invocation.clone()) {
            // Events are counted by process: functions have processes of their own.
            let one = by_event.entry(event.clone()).or_insert_with(|| invocation.clone());
            let other = by_invocation.entry(invocation.clone()).or_insert_with(|| event.clone());
            if (&*one, &*other) != (&invocation, &event) {
                return Err(format!("event {event} was {one}, and {invocation} was {other}"));
            }
        }
    }
    let all = ["succeeded", "filtered", "dead_lettered", "parked", "retrying", "held", "in_flight"];
    match all.iter().find(|it| !told.contains_key(**it)) {
        Some(state) => Err(format!("no record is {state}: {told:?}")),
        None => Ok(told),
    }
}

fn one(seen: &Seen, answer: &Answer, truth: &Truth) -> Result<(), &'static str> {
    let is = |state: &str| answer.state == state;
    let expect = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
    expect(!is("unknown"), "unknown")?;
    let mut origin = Vec::new();
    let mut next = truth.origin.as_ref();
    while let Some(source) = next {
        origin.push(source.clone());
        next = seen.records.get(source).and_then(|it| it.origin.as_ref());
    }
    expect(answer.origin == origin, "it comes from elsewhere")?;
    let function = TOPICS.iter().position(|it| *it == answer.topic).map(|it| FUNCTIONS[it]);
    expect(function.is_some(), "a topic that nobody reads")?;
    let outputs: BTreeSet<(Place, u64)> =
        truth.outputs.iter().map(|it| (it.place.clone(), it.index)).collect();
    expect(answer.outputs == outputs, "its outputs lie elsewhere")?;
    let letter = truth.letter.as_ref();
    expect(
        answer.dead_letter.as_ref() == letter.map(|it| &it.place),
        "its dead letter lies elsewhere",
    )?;
    let last = answer.history.last();
    if is("succeeded") || is("dead_lettered") {
        expect(answer.invocation.is_some(), "no invocation")?;
        expect(
            last.map(|it| &it.1) == answer.invocation.as_ref(),
            "another invocation was the last",
        )?;
    }
    if let Some(letter) = letter {
        let expected = match truth.kind.as_str() {
            "bad" => ("RetryAttemptsExhausted", 3),
            "odd" => ("Undecodable", 0),
            _ => return Err("a dead letter of a record that does not fail"),
        };
        expect(is("dead_lettered") && truth.is_settled && outputs.is_empty(), "it was given up")?;
        expect((letter.cause.as_str(), letter.attempts) == expected, "given up for another cause")?;
        expect(answer.cause.as_ref() == Some(&letter.cause), "another cause")?;
        expect(answer.attempts == letter.attempts, "other attempts")?;
        expect(answer.revision.as_ref() == Some(&letter.revision), "another revision")?;
        return expect(answer.invocation == letter.invocation, "another invocation");
    }
    if let Some(first) = truth.outputs.first() {
        expect(is("succeeded") && truth.is_settled, "it has outputs")?;
        let is_flaky = truth.kind == "flaky";
        expect(
            is_flaky == (first.attempt == 2) || truth.kind == "sick",
            "an attempt of another kind",
        )?;
        expect(answer.attempts == first.attempt, "other attempts")?;
        expect(last.map(|it| it.0) == Some(first.attempt), "another last attempt")?;
        expect(answer.revision.as_ref() == Some(&first.revision), "another revision")?;
        let epoch = answer.invocation.as_ref().and_then(|it| it.split('-').nth(1)?.parse().ok());
        return expect(epoch == Some(first.epoch), "another assignment");
    }
    if let Some(attempts) = truth.parked {
        expect(is("parked") && truth.is_settled && truth.kind == "stuck", "it is parked")?;
        return expect(answer.attempts == attempts, "other attempts");
    }
    if truth.is_settled {
        return match truth.kind.as_str() {
            "skip" => expect(is("filtered") && answer.invocation.is_none(), "it was filtered"),
            "none" => expect(is("succeeded") && answer.attempts == 1, "it ended without outputs"),
            _ => Err("settled, and nothing is left of it"),
        };
    }
    match truth.kind.as_str() {
        "stuck" if is("retrying") => {
            expect(1 <= answer.attempts && answer.next_try_at.is_some(), "it failed, and waits")
        }
        // Now and then the first of a key runs again.
        "stuck" if is("in_flight") => expect(1 < answer.attempts, "it failed before"),
        "stuck" => expect(is("held") && answer.attempts == 0, "it waits behind another"),
        "slow" => expect(is("in_flight") && answer.attempts == 1, "it runs"),
        "fine" if answer.topic == "slow" => {
            expect(is("in_flight") || is("waiting"), "it waits for another, or runs with it")
        }
        _ => Err("it is not settled"),
    }
}

/// A fault that the verdict has to see; `false` where there is nothing to plant it in.
type Fault = (&'static str, fn(&mut Vec<Answer>) -> bool);

fn change(
    answers: &mut [Answer],
    state: &str,
    may: impl Fn(&Answer) -> bool,
    how: impl Fn(&mut Answer),
) -> bool {
    let found = answers.iter_mut().find(|it| it.state == state && may(it));
    found.map(how).is_some()
}

pub(super) const FAULTS: [Fault; 14] = [
    ("one is unknown", |all| {
        change(all, "filtered", |_| true, |it| it.state = "unknown".to_owned())
    }),
    ("one that was filtered succeeded", |all| {
        change(all, "filtered", |_| true, |it| it.state = "succeeded".to_owned())
    }),
    ("one that was given up was parked", |all| {
        change(all, "dead_lettered", |_| true, |it| it.state = "parked".to_owned())
    }),
    ("an attempt too many", |all| {
        change(all, "succeeded", |it| !it.outputs.is_empty(), |it| it.attempts += 1)
    }),
    ("a parked one with an attempt too many", |all| {
        change(all, "parked", |_| true, |it| it.attempts += 1)
    }),
    ("another revision", |all| {
        change(
            all,
            "succeeded",
            |it| !it.outputs.is_empty(),
            |it| it.revision = Some("ab".to_owned()),
        )
    }),
    ("no invocation", |all| change(all, "succeeded", |_| true, |it| it.invocation = None)),
    ("the invocation of another event", |all| {
        let with = |it: &&Answer| it.state == "succeeded" && !it.outputs.is_empty();
        let Some(first) = all.iter().find(with).cloned() else { return false };
        let is_other = |it: &Answer| it.topic == first.topic && it.invocation != first.invocation;
        change(
            all,
            "succeeded",
            |it| !it.outputs.is_empty() && is_other(it),
            |it| {
                it.invocation.clone_from(&first.invocation);
                if let Some(last) = it.history.last_mut() {
                    last.1 = first.invocation.clone().unwrap_or_default();
                }
            },
        )
    }),
    ("an output one place further", |all| {
        change(
            all,
            "succeeded",
            |it| !it.outputs.is_empty(),
            |it| {
                it.outputs = it
                    .outputs
                    .iter()
                    .cloned()
                    .map(|mut at| {
                        at.0.2 += 1;
                        at
                    })
                    .collect();
            },
        )
    }),
    ("an output that is not told", |all| {
        change(all, "succeeded", |it| it.outputs.len() == 2, |it| drop(it.outputs.pop_last()))
    }),
    ("a dead letter one place further", |all| {
        change(
            all,
            "dead_lettered",
            |_| true,
            |it| {
                it.dead_letter.iter_mut().for_each(|at| at.2 += 1);
            },
        )
    }),
    ("another cause", |all| {
        change(all, "dead_lettered", |_| true, |it| it.cause = Some("RecordAgeExceeded".to_owned()))
    }),
    ("the invocation of another dead letter", |all| {
        change(
            all,
            "dead_lettered",
            |_| true,
            |it| {
                it.invocation = Some("9-9-9".to_owned());
                it.history.push((3, "9-9-9".to_owned()));
            },
        )
    }),
    ("another source", |all| {
        change(
            all,
            "succeeded",
            |it| it.topic == "mid",
            |it| {
                it.origin.iter_mut().for_each(|at| at.2 += 1);
            },
        )
    }),
];
