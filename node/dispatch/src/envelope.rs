//! A pure core: how parked records lie in a park topic, and what a shard that starts makes of it.
//!
//! ```text
//! key    topic;partition;offset          of the parked record
//! value  u8  version, 1
//!        u32 attempts made
//!        i64 when it is due, Unix ms
//!        u16 length of the failure's name, u16 length of its account, both
//!        the record alone as a batch (bus/src/batch.rs)
//! header millrace.ended, decimal: how many nodes may have ended while the record ran; none = 0
//! ```
//!
//! All integers are little endian. Of a key only the newest record counts; one without a value says
//! that the record is settled. A key of four parts marks how far a start has to read.
//!
//! - **PK-4** an envelope counts only if the position says that its record is settled. Else the record
//!   is read again, and its tombstone is in the commit that settles it: not earlier, because an older
//!   owner may still say in the group that it is settled, for the next one to start from.
//!
//! On Kafka an envelope of an older owner may come after a newer one has read the topic and settled
//! the record. It cannot be told from one that the position rests on, so the next start takes it for
//! good: at least once.

use std::collections::BTreeMap;

use bus::{
    BatchBuilder, Headers, HeadersBuilder, Offset, Position, RecordBatch, RecordView, Timestamp,
    TopicPartition,
};

use crate::command::{Loaded, Park, Resumed, Wanted};

const VERSION: u8 = 1;
const ENDED: &[u8] = b"millrace.ended";
const HEAD: usize = 1 + 4 + 8 + 2 + 2;
/// How much of a failure's account is kept.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// The key of a record of this partition at an offset.
pub(crate) fn key(partition: &TopicPartition, offset: Offset) -> String {
    format!("{};{};{offset}", partition.topic, partition.partition)
}

/// The key of what a start writes, to know when it has read everything.
pub(crate) fn mark_key(partition: &TopicPartition) -> String {
    format!("mark;{};{};", partition.topic, partition.partition)
}

/// Which record the key of an envelope, or of its tombstone, is of: topic, partition, offset.
#[must_use]
pub fn parked_at(key: &[u8]) -> Option<(&str, i32, Offset)> {
    let mut parts = std::str::from_utf8(key).ok()?.split(';');
    let (topic, number, offset) = (parts.next()?, parts.next()?, parts.next()?);
    let at = (topic, number.parse().ok()?, Offset(offset.parse().ok()?));
    parts.next().is_none().then_some(at)
}

/// Which record a key is of; `None` when it is of no partition of `partitions`.
fn parse_key(key: &[u8], partitions: &[TopicPartition]) -> Option<(u32, Offset)> {
    let (topic, number, offset) = parked_at(key)?;
    let mut all = partitions.iter().zip(0..);
    let found = all.find(|(it, _)| *it.topic == *topic && it.partition == number);
    found.map(|(_, index)| (index, offset))
}

/// Writes the value of an envelope.
pub(crate) fn encode(park: &Park, record: RecordView<'_>) -> Vec<u8> {
    let (code, message) = &park.failure;
    let code = &code[..code.floor_char_boundary(MESSAGE_BYTES_MAX)];
    let message = &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)];
    let mut alone = BatchBuilder::default();
    alone.push_view(record);
    let alone = alone.finish().expect("a record was pushed");
    let mut value = Vec::with_capacity(HEAD + code.len() + message.len() + alone.as_bytes().len());
    value.push(VERSION);
    value.extend_from_slice(&park.attempts.to_le_bytes());
    value.extend_from_slice(&park.due.0.to_le_bytes());
    value.extend_from_slice(&(code.len() as u16).to_le_bytes());
    value.extend_from_slice(&(message.len() as u16).to_le_bytes());
    value.extend_from_slice(code.as_bytes());
    value.extend_from_slice(message.as_bytes());
    value.extend_from_slice(alone.as_bytes());
    value
}

/// Writes the headers of an envelope.
pub(crate) fn headers(park: &Park) -> HeadersBuilder {
    let mut headers = HeadersBuilder::default();
    if park.ended != 0 {
        headers.push(ENDED, Some(park.ended.to_string().as_bytes()));
    }
    headers
}

/// How many nodes may have ended while a record ran.
fn ended(headers: Headers<'_>) -> u32 {
    let said = headers.last(ENDED).and_then(|it| std::str::from_utf8(it).ok());
    said.and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// An envelope.
struct Envelope {
    attempts: u32,
    due: Timestamp,
    failure: (String, String),
    record: RecordBatch,
}

fn field<const N: usize>(value: &[u8], at: usize) -> Option<[u8; N]> {
    value.get(at..at + N)?.try_into().ok()
}

fn decode(batch: &RecordBatch, value: &[u8], offset: Offset) -> Option<Envelope> {
    if *value.first()? != VERSION {
        return None;
    }
    let attempts = u32::from_le_bytes(field(value, 1)?);
    let due = Timestamp(i64::from_le_bytes(field(value, 5)?));
    let (code, message) = (field(value, 13)?, field(value, 15)?);
    let middle = HEAD + usize::from(u16::from_le_bytes(code));
    let end = middle + usize::from(u16::from_le_bytes(message));
    let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
    let failure = (text(value.get(HEAD..middle)?), text(value.get(middle..end)?));
    let record = RecordBatch::decode(batch.share(value.get(end..)?), offset).ok()?;
    Some(Envelope { attempts, due, failure, record })
}

/// The parked record that a record of the park topic holds, if it is one of `partitions`.
pub(crate) fn open(
    batch: &RecordBatch,
    record: &RecordView<'_>,
    partitions: &[TopicPartition],
) -> Option<Loaded> {
    let (partition, offset) = parse_key(record.key?, partitions)?;
    let it = decode(batch, record.value?, offset)?;
    Some(Loaded { partition, batch: it.record, failure: it.failure })
}

/// What a shard finds in its park topic when it starts.
#[derive(Debug)]
pub(crate) struct View {
    partitions: Vec<TopicPartition>,
    found: BTreeMap<(u32, Offset), Resumed>,
    /// The end of what was read.
    pub(crate) end: Offset,
    /// The key of an envelope of this shard that could not be read.
    pub(crate) broken: Option<String>,
}

/// What a shard begins with.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    pub(crate) resumed: Vec<Resumed>,
    /// Records whose envelopes do not count: index of the partition, offset.
    pub(crate) untold: Vec<(u32, Offset)>,
}

impl View {
    pub(crate) fn new(partitions: &[TopicPartition], start: Offset) -> Self {
        let partitions = partitions.to_vec();
        Self { partitions, found: BTreeMap::new(), end: start, broken: None }
    }

    /// Takes the next records of the park topic.
    pub(crate) fn read(&mut self, batch: &RecordBatch) {
        for record in batch.iter() {
            self.end = record.offset.next();
            let Some(key) = record.key else { continue };
            let Some(at) = parse_key(key, &self.partitions) else { continue };
            match record.value.map(|value| decode(batch, value, at.1)) {
                None => drop(self.found.remove(&at)),
                Some(None) => self.broken = Some(String::from_utf8_lossy(key).into_owned()),
                Some(Some(Envelope { attempts, due, record: alone, .. })) => {
                    let view = alone.get(0);
                    let (key, bytes) = (view.key.map(<[u8]>::to_vec), view.payload_bytes() as u32);
                    let place = record.offset;
                    let wanted = Wanted { partition: at.0, offset: at.1, place };
                    let ended = ended(record.headers);
                    let it = Resumed { at: wanted, key, bytes, attempts, due, ended };
                    self.found.insert(at, it);
                }
            }
        }
    }

    /// What counts of it, by the positions that the shard starts from.
    pub(crate) fn finish(self, positions: &[Position]) -> Beginning {
        let mut beginning = Beginning::default();
        for ((partition, offset), it) in self.found {
            let position = &positions[partition as usize];
            if offset < position.next || position.completions.contains(offset) {
                beginning.resumed.push(it);
            } else {
                beginning.untold.push((partition, offset));
            }
        }
        beginning
    }
}

#[cfg(test)]
mod tests {
    use bus::{Completions, Headers};

    use super::*;

    fn partitions() -> Vec<TopicPartition> {
        vec![TopicPartition::new("readings", 3)]
    }

    fn record(builder: &mut BatchBuilder, offset: i64, is_parked: bool) {
        let mut alone = BatchBuilder::default();
        alone.push(Timestamp(5), Some(b"station"), Some(b"value"), Headers::default());
        let alone = alone.finish().unwrap();
        let failure = ("Test.Failed".to_owned(), "it failed".to_owned());
        let record = crate::records::RecordId(0);
        let park = Park { record, attempts: 2, due: Timestamp(70), failure, ended: 3 };
        let value = is_parked.then(|| encode(&park, alone.get(0)));
        let key = key(&partitions()[0], Offset(offset));
        let headers = headers(&park);
        builder.push(Timestamp(0), Some(key.as_bytes()), value.as_deref(), headers.headers());
    }

    fn begins(builder: &mut BatchBuilder, next: i64, settled: &[(i64, i64)]) -> (Vec<i64>, usize) {
        let batch = builder.finish().unwrap();
        let mut view = View::new(&partitions(), Offset(0));
        view.read(&batch);
        assert_eq!((view.end, &view.broken), (batch.last_offset().next(), &None));
        let ranges = settled.iter().map(|(start, end)| (Offset(*start), Offset(*end)));
        let completions = Completions::from_ranges(ranges);
        let position = Position { next: Offset(next), completions, ..Position::default() };
        let it = view.finish(&[position]);
        (it.resumed.iter().map(|it| it.at.offset.0).collect(), it.untold.len())
    }

    #[test]
    fn an_envelope_gives_its_record_back() {
        let mut builder = BatchBuilder::default();
        record(&mut builder, 40, true);
        let batch = builder.finish().unwrap();
        let loaded = open(&batch, &batch.get(0), &partitions()).unwrap();
        let view = loaded.batch.get(0);
        assert_eq!(loaded.failure, ("Test.Failed".to_owned(), "it failed".to_owned()));
        assert_eq!((loaded.partition, view.offset, view.timestamp), (0, Offset(40), Timestamp(5)));
        assert_eq!((view.key, view.value), (Some(&b"station"[..]), Some(&b"value"[..])));
        let others = vec![TopicPartition::new("readings", 4)];
        assert!(open(&batch, &batch.get(0), &others).is_none(), "it is of another shard");
        let mut view = View::new(&partitions(), Offset(0));
        view.read(&batch);
        let resumed = view.found.into_values().next().unwrap();
        assert_eq!((resumed.attempts, resumed.due, resumed.ended), (2, Timestamp(70), 3));
    }

    #[test]
    fn what_is_settled_is_forgotten_and_what_is_not_told_is_read_again() {
        let mut builder = BatchBuilder::default();
        [3, 4, 9, 12].into_iter().for_each(|offset| record(&mut builder, offset, true));
        record(&mut builder, 3, false);
        record(&mut builder, 4, true);
        assert_eq!(begins(&mut builder, 5, &[(9, 10)]), (vec![4, 9], 1), "PK-4: 12");
    }

    #[test]
    fn no_foreign_bytes_panic() {
        let mut builder = BatchBuilder::default();
        record(&mut builder, 1, true);
        let good = builder.finish().unwrap();
        let (key, value) = (good.get(0).key.unwrap().to_vec(), good.get(0).value.unwrap().to_vec());
        for cut in 0..value.len() {
            let mut flipped = value.clone();
            flipped[cut] ^= 0xff;
            for bad in [&value[..cut], &flipped] {
                for key in [&key[..], b"mark;readings;3;", b"readings;3;x", b";;;", b"\xff"] {
                    builder.push(Timestamp(0), Some(key), Some(bad), Headers::default());
                }
            }
        }
        let batch = builder.finish().unwrap();
        let mut view = View::new(&partitions(), Offset(0));
        view.read(&batch);
        batch.iter().for_each(|record| drop(open(&batch, &record, &partitions())));
        drop(view.finish(&[Position::default()]));
    }
}
