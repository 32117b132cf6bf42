//! What the journal of the stopped node says: every record that failed is there once more, in the
//! order of its key, as it was or as it was edited, and has one output. Read with the decoder of
//! this crate.

use std::collections::BTreeMap;
use std::path::Path;

use crate::harness::api::ToProduce;
use crate::journal_reader::layout::Record;
use crate::journal_reader::{Journal, ORIGIN};
use crate::promise::{NotShown, broken};

/// What was sent, and what was made of it.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) keys: u64,
    pub(super) records: u64,
    /// New values by number.
    pub(super) edits: BTreeMap<u64, String>,
}

impl Expected {
    /// The record of this number.
    pub(super) fn record(&self, number: u64) -> ToProduce {
        let key = format!("key-{}", number % self.keys);
        ToProduce { key: key.into_bytes(), value: value_of(number).into_bytes() }
    }

    /// Edits a record; its new value.
    pub(super) fn edit(&mut self, number: u64) -> String {
        let value = format!("\"mended {number}\"");
        self.edits.insert(number, value.clone());
        value
    }

    /// What comes back of a record.
    fn back(&self, number: u64) -> String {
        self.edits.get(&number).cloned().unwrap_or_else(|| value_of(number))
    }
}

fn value_of(number: u64) -> String {
    format!("\"reading {number}\"")
}

/// The number in a value.
///
/// # Errors
///
/// When it is none that was sent.
pub(super) fn number_of(value: &str) -> Result<u64, NotShown> {
    let number = value.trim_matches('"').rsplit(' ').next().and_then(|it| it.parse().ok());
    number.ok_or_else(|| broken(format!("{value:?} is no value that was sent")))
}

/// A record, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    key: String,
    value: String,
    partition: i32,
    headers: u32,
    has_trace: bool,
    is_marked: bool,
}

impl Found {
    fn of(partition: i32, record: &Record<'_>) -> Self {
        let text = |bytes: Option<&[u8]>| {
            bytes.map(|it| String::from_utf8_lossy(it).into_owned()).unwrap_or_default()
        };
        Self {
            key: text(record.key),
            value: text(record.value),
            partition,
            headers: record.header_count(),
            has_trace: record.header("trace") == Some(b"t-1"),
            is_marked: ["millrace-dead-cause", "millrace-dead-at", ORIGIN]
                .iter()
                .any(|name| record.header(name).is_some()),
        }
    }
}

/// Both topics, each partition in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    input: Vec<Found>,
    output: Vec<Found>,
}

impl Seen {
    /// Reads the journal of a node that has ended.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) fn read(data: &Path) -> Result<Self, NotShown> {
        let journal = Journal::open(data)?;
        let mut seen = Self::default();
        for (topic, into) in [("in", &mut seen.input), ("out", &mut seen.output)] {
            let partitions = journal.topics.get(topic).map_or(0, |it| it.partitions);
            for partition in 0..partitions {
                journal.records(topic, partition, 0, |record| {
                    into.push(Found::of(partition, record));
                })?;
            }
        }
        Ok(seen)
    }
}

/// Whether everything went back once, in order, as it was.
pub(super) fn judge(expected: &Expected, seen: &Seen) -> Result<(), String> {
    let by_key = |records: &[Found]| {
        let mut keys: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        for record in records {
            keys.entry(record.key.clone()).or_default().push(record.clone());
        }
        keys
    };
    let (input, output) = (by_key(&seen.input), by_key(&seen.output));
    for key in 0..expected.keys {
        let name = format!("key-{key}");
        let numbers = || (key..expected.records).step_by(expected.keys as usize);
        let (first, back) =
            (numbers().map(value_of), numbers().map(|number| expected.back(number)));
        let found = input.get(&name).map_or(&[][..], Vec::as_slice);
        let wanted: Vec<String> = first.chain(back.clone()).collect();
        let values: Vec<&str> = found.iter().map(|it| it.value.as_str()).collect();
        if values != wanted {
            return Err(format!("of {name} in has {values:?} instead of {wanted:?}"));
        }
        let is_plain = |it: &&Found| it.headers == 1 && it.has_trace && !it.is_marked;
        if let Some(odd) = found.iter().find(|it| !is_plain(it)) {
            return Err(format!("a record came back with other headers than it had: {odd:?}"));
        }
        if found.iter().any(|it| it.partition != found[0].partition) {
            return Err(format!("records of {name} came back to another partition"));
        }
        let outputs = output.get(&name).map_or(&[][..], Vec::as_slice);
        let outputs: Vec<&str> = outputs.iter().map(|it| it.value.as_str()).collect();
        let wanted: Vec<String> = back.collect();
        if outputs != wanted {
            return Err(format!("of {name} out has {outputs:?} instead of {wanted:?}"));
        }
    }
    match input.len() as u64 == expected.keys && output.len() as u64 == expected.keys {
        true => Ok(()),
        false => Err("there are records of other keys".to_owned()),
    }
}

/// A fault that the verdict has to see.
pub(super) type Plant = fn(&mut Seen, &Expected);

/// Each is planted in what was read.
pub(super) const FAULTS: [(&str, Plant); 7] = [
    ("one that did not come back", |seen, _| drop(seen.input.pop())),
    ("one that came back twice", |seen, _| {
        seen.input.extend(seen.input.last().cloned());
    }),
    ("two of a key that came back in the other order", |seen, _| {
        let last = seen.input.len() - 1;
        let key = seen.input[last].key.clone();
        let before = seen.input[..last].iter().rposition(|it| it.key == key).unwrap_or(0);
        seen.input.swap(before, last);
    }),
    ("an edit that was forgotten", |seen, expected| {
        let edited = expected.edits.iter().next();
        for found in &mut seen.input {
            if let Some((number, value)) = edited.filter(|(_, value)| found.value == **value) {
                (found.value, _) = (value_of(*number), value);
            }
        }
    }),
    ("one that still says why it failed", |seen, _| {
        seen.input.iter_mut().for_each(|it| it.is_marked = true);
    }),
    ("one in another partition", |seen, _| {
        seen.input.last_mut().into_iter().for_each(|it| it.partition += 1);
    }),
    ("an output that is missing", |seen, _| drop(seen.output.pop())),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn found(key: u64, value: String, headers: u32) -> Found {
        let key = format!("key-{key}");
        let has_trace = headers == 1;
        Found { key, value, partition: 0, headers, has_trace, is_marked: false }
    }

    #[test]
    fn what_is_right_passes_and_each_fault_is_seen() {
        let mut expected = Expected { keys: 3, records: 12, edits: BTreeMap::new() };
        expected.edit(4);
        let mut seen = Seen::default();
        seen.input.extend((0..12).map(|it| found(it % 3, value_of(it), 1)));
        seen.input.extend((0..12).map(|it| found(it % 3, expected.back(it), 1)));
        seen.output.extend((0..12).map(|it| found(it % 3, expected.back(it), 2)));
        assert_eq!(judge(&expected, &seen), Ok(()));
        for (name, plant) in FAULTS {
            let mut other = seen.clone();
            plant(&mut other, &expected);
            assert!(judge(&expected, &other).is_err(), "{name}");
        }
        assert_eq!(number_of(&value_of(4)).unwrap(), 4);
    }
}
