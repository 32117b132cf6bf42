//! A pure core: decides from what an independent client read of the topics whether a trigger lost,
//! skipped or made up a record, kept the order of its keys, and how long it was silent.
//!
//! A source is a record of the input topic as it is now. What came out of records that are there no
//! more (a topic that was deleted, an offset that expired) is told by the form of its value; of
//! such a partition it must be all up to some record, without a hole.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::Origin;

/// A record as the independent client read it.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// When the broker appended it, Unix ms.
    pub(super) time: i64,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) origin: Option<Origin>,
    /// The name of the failure, in a dead letter.
    pub(super) code: Option<String>,
}

/// A line of the client's file.
pub(super) fn parse(line: &str) -> Option<Record> {
    let [partition, offset, time, key, value, headers] =
        line.split('\t').collect::<Vec<_>>().try_into().ok()?;
    let header = |name: &str| {
        let found = headers.split(',').find_map(|it| it.split_once('=').filter(|it| it.0 == name));
        found.and_then(|(_, value)| unhex(value))
    };
    let code =
        header("millrace-dead-error-type").map(|code| String::from_utf8_lossy(&code).into_owned());
    Some(Record {
        partition: partition.parse().ok()?,
        offset: offset.parse().ok()?,
        time: time.parse().ok()?,
        key: unhex(key)?,
        value: unhex(value)?,
        origin: header("millrace-origin").and_then(|origin| Origin::parse(&origin)),
        code,
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// What there is of one trigger at the end.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// `NAME.in` is what it reads, and values begin with `NAME `.
    pub(super) name: String,
    /// The records of its input, those of a partition in their order.
    pub(super) sources: Vec<Record>,
    pub(super) outputs: Vec<Record>,
    pub(super) dead_letters: Vec<Record>,
}

/// What has to be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expects {
    /// Records that have a dead letter instead of an output.
    pub(super) dead_letters: usize,
    /// What these are named.
    pub(super) code: &'static str,
    /// It stopped for good before the first source was there, and was healed at this time:
    /// nothing of its sources may have come out before.
    pub(super) healed_at: Option<i64>,
    /// Records were there once that are there no more.
    pub(super) has_past: bool,
}

/// What holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) sources: u64,
    pub(super) outputs: u64,
    pub(super) duplicates: u64,
}

type Place = (i32, i64);

/// The verdict, or the first thing that is wrong.
pub(super) fn judge(seen: &Seen, expects: Expects) -> Result<Counts, String> {
    let place = |it: &Record| (it.partition, it.offset);
    let sources: BTreeMap<Place, &Record> = seen.sources.iter().map(|it| (place(it), it)).collect();
    let mut done: BTreeSet<Place> = BTreeSet::new();
    let mut past: BTreeSet<Place> = BTreeSet::new();
    let mut newest: BTreeMap<(bool, &[u8]), i64> = BTreeMap::new();
    let mut counts = Counts { sources: sources.len() as u64, ..Counts::default() };
    let name = &seen.name;
    for output in &seen.outputs {
        let origin = origin_of(output, name)?;
        if origin.index != Some(0) {
            return Err(format!("phantom: output {:?} of {name}", origin.index));
        }
        counts.outputs += 1;
        let from = (origin.partition, origin.offset);
        let source = sources.get(&from).filter(|it| is_copy(it, output));
        if source.is_none() {
            let is_ours = output.value.starts_with(format!("{name} ").as_bytes());
            if !expects.has_past || !is_ours {
                return Err(format!("phantom: no source of {name} at {from:?}"));
            }
        }
        if source.is_some() && expects.healed_at.is_some_and(|healed| output.time < healed) {
            return Err(format!("{name} at {from:?} was read before it was healed"));
        }
        let is_new = if source.is_some() { &mut done } else { &mut past }.insert(from);
        if !is_new {
            counts.duplicates += 1;
            continue;
        }
        let last = newest.entry((source.is_some(), &output.key)).or_insert(-1);
        if from.1 <= *last {
            let key = String::from_utf8_lossy(&output.key);
            return Err(format!("disorder: {name}, key {key}: {} after {last}", from.1));
        }
        *last = from.1;
    }
    let mut given_up: BTreeSet<Place> = BTreeSet::new();
    for letter in &seen.dead_letters {
        let origin = origin_of(letter, name)?;
        let from = (origin.partition, origin.offset);
        let is_right = origin.index.is_none()
            && letter.code.as_deref() == Some(expects.code)
            && sources.get(&from).is_some_and(|source| is_copy(source, letter))
            && !done.contains(&from);
        if !is_right {
            return Err(format!("{name}: dead letter {:?} of {from:?}", letter.code));
        }
        given_up.insert(from);
    }
    if given_up.len() != expects.dead_letters {
        return Err(format!("{name}: {} dead letters", given_up.len()));
    }
    let lost: Vec<Place> =
        sources.keys().filter(|it| !done.contains(it) && !given_up.contains(it)).copied().collect();
    if let Some(first) = lost.first() {
        return Err(format!("lost: {} of {name}, the first {first:?}", lost.len()));
    }
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for (partition, offset) in past {
        let next = next.entry(partition).or_insert(0);
        if offset != *next {
            return Err(format!("skipped: {name}[{partition}] from {next} to {offset}"));
        }
        *next += 1;
    }
    Ok(counts)
}

fn origin_of<'a>(record: &'a Record, name: &str) -> Result<&'a Origin, String> {
    let origin = record.origin.as_ref().filter(|it| it.topic.strip_suffix(".in") == Some(name));
    origin.ok_or_else(|| format!("phantom: {:?} in a topic of {name}", record.origin))
}

fn is_copy(source: &Record, output: &Record) -> bool {
    source.key == output.key && source.value == output.value
}

/// How long a partition of the input gave no output of a record that was appended since `from`, at
/// the longest until `to`; and how long until the first of them. Milliseconds, of the slowest.
pub(super) fn silence(seen: &Seen, from: i64, to: i64) -> (i64, i64) {
    let appended: BTreeMap<Place, i64> =
        seen.sources.iter().map(|it| ((it.partition, it.offset), it.time)).collect();
    let mut times: BTreeMap<i32, Vec<i64>> =
        seen.sources.iter().map(|it| (it.partition, vec![from])).collect();
    for output in &seen.outputs {
        let Some(origin) = &output.origin else { continue };
        let source = appended.get(&(origin.partition, origin.offset));
        if source.is_some_and(|time| from <= *time) && (from..to).contains(&output.time) {
            times.entry(origin.partition).or_default().push(output.time);
        }
    }
    let (mut longest, mut first) = (0, 0);
    for mut times in times.into_values() {
        times.push(to);
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        longest = longest.max(gaps.max().unwrap_or(0));
        first = first.max(times[1] - from);
    }
    (longest, first)
}

/// How many outputs there are from one time to another.
pub(super) fn outputs_within(seen: &Seen, from: i64, to: i64) -> usize {
    seen.outputs.iter().filter(|it| (from..to).contains(&it.time)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten records of two keys in one partition, each with its output a moment later.
    fn seen() -> Seen {
        let record = |offset: i64| Record {
            offset,
            time: 1_000 + 100 * offset,
            key: vec![b'0' + (offset % 2) as u8],
            value: format!("line {offset} ..").into_bytes(),
            ..Record::default()
        };
        let output = |offset: i64| {
            let origin = Origin::parse(format!("1;line.in;0;{offset};0;r;1;1").as_bytes());
            Record { origin, time: record(offset).time + 5, ..record(offset) }
        };
        Seen {
            name: "line".to_owned(),
            sources: (0..10).map(record).collect(),
            outputs: (0..10).map(output).collect(),
            dead_letters: Vec::new(),
        }
    }

    fn wrong(seen: &Seen, expects: Expects) -> String {
        judge(seen, expects).unwrap_err()
    }

    #[test]
    fn what_is_right_passes_and_duplicates_are_counted() {
        let mut seen = seen();
        assert_eq!(judge(&seen, Expects::default()).unwrap().outputs, 10);
        seen.outputs.push(seen.outputs[3].clone());
        assert_eq!(judge(&seen, Expects::default()).unwrap().duplicates, 1);
        seen.sources.drain(..6);
        let expired = Expects { has_past: true, healed_at: Some(1_600), ..Expects::default() };
        assert_eq!(judge(&seen, expired).unwrap().sources, 4);
    }

    #[test]
    fn each_wrong_is_found() {
        let expects = Expects::default();
        let mut lost = seen();
        lost.outputs.remove(4);
        assert!(wrong(&lost, expects).starts_with("lost"));
        let mut other = seen();
        other.outputs[4].value.push(b'x');
        assert!(wrong(&other, expects).starts_with("phantom"));
        let mut swapped = seen();
        swapped.outputs.swap(4, 6);
        assert!(wrong(&swapped, expects).starts_with("disorder"));
        let healed = Expects { healed_at: Some(1_300), ..expects };
        assert!(wrong(&seen(), healed).contains("before it was healed"));
        let mut skipped = seen();
        skipped.sources.drain(..6);
        skipped.outputs.remove(2);
        let past = Expects { has_past: true, ..expects };
        assert!(wrong(&skipped, past).starts_with("skipped"));
        let letters = Expects { dead_letters: 1, code: "X", ..expects };
        assert!(wrong(&seen(), letters).contains("dead letters"));
    }

    #[test]
    fn silence_is_measured_to_the_first_fresh_output() {
        assert_eq!(silence(&seen(), 1_000, 2_000), (100, 5));
        // The record of 1,100 was appended before.
        assert_eq!(silence(&seen(), 1_101, 1_950), (104, 104));
        assert_eq!(outputs_within(&seen(), 1_000, 1_200), 2);
        let mut silent = seen();
        silent.outputs.truncate(5);
        assert_eq!(silence(&silent, 1_000, 3_000).0, 1_595);
    }

    #[test]
    fn a_line_of_the_client_is_understood() {
        let origin = "1;line.in;0;7;0;r;1;1".bytes().map(|it| format!("{it:02x}"));
        let line = format!("3\t7\t1795\t6b\t76\tmillrace-origin={},", origin.collect::<String>());
        let record = parse(&line).unwrap();
        assert_eq!((record.partition, record.offset, record.time), (3, 7, 1_795));
        assert_eq!((record.key, record.value), (b"k".to_vec(), b"v".to_vec()));
        assert_eq!(record.origin.unwrap().offset, 7);
        assert_eq!(record.code, None);
    }
}
