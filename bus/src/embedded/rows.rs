//! How a row of the journal lies on disk: a version byte, varints, and a CRC-32C that also covers
//! the row's key, so that a row that strays or rots is noticed when it is read.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    Cleanup, Completions, Epoch, Offset, Position, Retention, Suspects, TopicInfo, TopicSpec,
};

const VERSION: u8 = 1;

/// What is wrong with a row, as a fact.
pub(super) type Damage = &'static str;

/// The key of a row with two parts, big endian so that redb orders it by both.
pub(super) fn pair_key(high: u64, low: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&high.to_be_bytes());
    key[8..].copy_from_slice(&low.to_be_bytes());
    key
}

/// The parts of a key that [`pair_key`] made.
pub(super) fn split_key(key: &[u8; 16]) -> (u64, u64) {
    let (high, low) = key.split_at(8);
    (
        u64::from_be_bytes(high.try_into().expect("8 bytes")),
        u64::from_be_bytes(low.try_into().expect("8 bytes")),
    )
}

/// An offset as a key part. Offsets of the embedded bus count from zero.
pub(super) fn offset_key(offset: Offset) -> u64 {
    u64::try_from(offset.0).unwrap_or_default()
}

/// An offset from a key part or a varint.
pub(super) fn offset_of(raw: u64) -> Result<Offset, Damage> {
    i64::try_from(raw).map(Offset).map_err(|_| "an offset over 2^63")
}

/// Writes a row.
struct RowWriter {
    bytes: Vec<u8>,
}

impl RowWriter {
    fn new() -> Self {
        Self { bytes: vec![VERSION] }
    }

    fn number(&mut self, mut value: u64) -> &mut Self {
        while 0x80 <= value {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
        self
    }

    fn option(&mut self, value: Option<u64>) -> &mut Self {
        match value {
            None => self.number(0),
            Some(value) => self.number(1).number(value),
        }
    }

    fn text(&mut self, value: &str) -> &mut Self {
        self.number(value.len() as u64);
        self.bytes.extend_from_slice(value.as_bytes());
        self
    }

    fn finish(&mut self, key: &[u8]) -> Vec<u8> {
        let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &self.bytes);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());
        std::mem::take(&mut self.bytes)
    }
}

/// Reads what [`RowWriter`] wrote, and nothing else.
struct RowReader<'a> {
    rest: &'a [u8],
}

impl<'a> RowReader<'a> {
    fn open(key: &[u8], bytes: &'a [u8]) -> Result<Self, Damage> {
        let (payload, checksum) = bytes.split_last_chunk::<4>().ok_or("a row too short")?;
        if crc32c::crc32c_append(crc32c::crc32c(key), payload) != u32::from_le_bytes(*checksum) {
            return Err("the checksum of a row");
        }
        match payload.split_first() {
            Some((&VERSION, rest)) => Ok(Self { rest }),
            _ => Err("an unknown version of a row"),
        }
    }

    fn number(&mut self) -> Result<u64, Damage> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or("a row that ends early")?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                return Err("a number over 64 bits");
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number over 64 bits")
    }

    fn option(&mut self) -> Result<Option<u64>, Damage> {
        match self.number()? {
            0 => Ok(None),
            1 => Ok(Some(self.number()?)),
            _ => Err("an option that is neither"),
        }
    }

    fn text(&mut self) -> Result<&'a str, Damage> {
        let length = usize::try_from(self.number()?).map_err(|_| "a text too long")?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or("a text too long")?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| "a text that is not UTF-8")
    }

    fn end(self) -> Result<(), Damage> {
        if self.rest.is_empty() { Ok(()) } else { Err("a row with more than it should have") }
    }
}

/// A row that is one number: a fence, a start, a counter.
pub(super) fn encode_number(key: &[u8], value: u64) -> Vec<u8> {
    RowWriter::new().number(value).finish(key)
}

pub(super) fn decode_number(key: &[u8], bytes: &[u8]) -> Result<u64, Damage> {
    let mut row = RowReader::open(key, bytes)?;
    let value = row.number()?;
    row.end()?;
    Ok(value)
}

/// Where the journal keeps a batch: the write that brought it, and its number in that write. Places
/// only grow, so that a new batch always goes to the end of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) commit: u64,
    pub(super) ordinal: u32,
}

impl Place {
    pub(super) fn key(self) -> [u8; 16] {
        pair_key(self.commit, self.ordinal.into())
    }
}

/// What the journal knows of a batch without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexRow {
    /// How many offsets it takes. It has as many records, or fewer where the topic is compacted.
    pub(super) count: u32,
    /// How many bytes it has.
    pub(super) bytes: u32,
    /// Its newest timestamp.
    pub(super) timestamp_max: i64,
    /// Where it is.
    pub(super) place: Place,
}

const INDEX_ROW: usize = 33;

/// The fixed form of an index row: one is written for every batch.
pub(super) fn encode_index(key: &[u8], row: IndexRow) -> [u8; INDEX_ROW] {
    let mut bytes = [0; INDEX_ROW];
    bytes[0] = VERSION;
    bytes[1..5].copy_from_slice(&row.count.to_le_bytes());
    bytes[5..9].copy_from_slice(&row.bytes.to_le_bytes());
    bytes[9..17].copy_from_slice(&row.timestamp_max.to_le_bytes());
    bytes[17..25].copy_from_slice(&row.place.commit.to_le_bytes());
    bytes[25..29].copy_from_slice(&row.place.ordinal.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &bytes[..29]);
    bytes[29..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

pub(super) fn decode_index(key: &[u8], bytes: &[u8]) -> Result<IndexRow, Damage> {
    let bytes: &[u8; INDEX_ROW] = bytes.try_into().map_err(|_| "the length of an index row")?;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    if crc32c::crc32c_append(crc32c::crc32c(key), &bytes[..29]) != word(29) {
        return Err("the checksum of an index row");
    }
    if bytes[0] != VERSION {
        return Err("an unknown version of an index row");
    }
    Ok(IndexRow {
        count: word(1),
        bytes: word(5),
        timestamp_max: long(9).cast_signed(),
        place: Place { commit: long(17), ordinal: word(25) },
    })
}

/// A position: epoch, next, and the completion ranges as gap and length, from `next` on.
pub(super) fn encode_position(key: &[u8], position: &Position) -> Vec<u8> {
    let mut row = RowWriter::new();
    let ranges = position.completions.ranges();
    row.number(position.epoch.0).number(offset_key(position.next)).number(ranges.len() as u64);
    let mut at = position.next.0;
    for (start, end) in ranges {
        row.number(start.0.abs_diff(at)).number(end.0.abs_diff(start.0));
        at = end.0;
    }
    if let Some(Suspects { from, until, attempt }) = position.suspects {
        row.number(offset_key(from)).number(until.0.abs_diff(from.0)).number(attempt.into());
    }
    row.finish(key)
}

pub(super) fn decode_position(key: &[u8], bytes: &[u8]) -> Result<Position, Damage> {
    let mut row = RowReader::open(key, bytes)?;
    let epoch = Epoch(row.number()?);
    let next = row.number()?;
    let count = row.number()?;
    let mut ranges = Vec::new();
    let mut at = next;
    for _range in 0..count {
        let start = at.checked_add(row.number()?).ok_or("a completion range over 2^64")?;
        let end = start.checked_add(row.number()?).ok_or("a completion range over 2^64")?;
        if end <= start {
            return Err("an empty completion range");
        }
        ranges.push((offset_of(start)?, offset_of(end)?));
        at = end;
    }
    // Most rows end here.
    let suspects = if row.rest.is_empty() { None } else { Some(read_suspects(&mut row)?) };
    row.end()?;
    let completions = Completions::from_ranges(ranges);
    Ok(Position { epoch, next: offset_of(next)?, completions, suspects })
}

fn read_suspects(row: &mut RowReader<'_>) -> Result<Suspects, Damage> {
    let from = row.number()?;
    let until = from.checked_add(row.number()?).ok_or("suspects over 2^64")?;
    let attempt = u32::try_from(row.number()?).map_err(|_| "suspects of 2^32 attempts")?;
    Ok(Suspects { from: offset_of(from)?, until: offset_of(until)?, attempt })
}

/// A topic; its key is its id.
pub(super) fn encode_topic(key: &[u8], info: &TopicInfo) -> Vec<u8> {
    let spec = &info.spec;
    let age_ms = spec.retention.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    RowWriter::new()
        .text(&spec.name)
        .number(spec.partitions.unsigned_abs().into())
        .option(age_ms)
        .option(spec.retention.bytes)
        .number(spec.record_bytes_max as u64)
        .number(u64::from(spec.cleanup == Cleanup::Compact))
        .finish(key)
}

pub(super) fn decode_topic(key: &[u8], id: u64, bytes: &[u8]) -> Result<TopicInfo, Damage> {
    let mut row = RowReader::open(key, bytes)?;
    let name: Arc<str> = row.text()?.into();
    let partitions = i32::try_from(row.number()?).map_err(|_| "a topic with 2^31 partitions")?;
    if partitions < 1 {
        return Err("a topic without partitions");
    }
    let retention =
        Retention { age: row.option()?.map(Duration::from_millis), bytes: row.option()? };
    let record_bytes_max =
        usize::try_from(row.number()?).map_err(|_| "a record limit over 2^64")?;
    // Rows of before there were compacted topics end here.
    let cleanup = match if row.rest.is_empty() { 0 } else { row.number()? } {
        0 => Cleanup::Delete,
        1 => Cleanup::Compact,
        _ => return Err("an unknown way to clean up"),
    };
    row.end()?;
    Ok(TopicInfo { spec: TopicSpec { name, partitions, retention, cleanup, record_bytes_max }, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        let ranges = [(Offset(310), Offset(312)), (Offset(400), Offset(900_000))];
        Position {
            epoch: Epoch(u64::MAX),
            next: Offset(300),
            completions: Completions::from_ranges(ranges),
            suspects: Some(Suspects { from: Offset(300), until: Offset(317), attempt: 4 }),
        }
    }

    #[test]
    fn rows_come_back() {
        let key = pair_key(7, 9);
        assert_eq!(split_key(&key), (7, 9));
        let position = position();
        let usual = Position { suspects: None, ..position.clone() };
        for position in [position, usual] {
            assert_eq!(decode_position(&key, &encode_position(&key, &position)), Ok(position));
        }
        let mut spec = TopicSpec::new("a.b-c_d", 3);
        spec.retention = Retention { age: Some(Duration::from_millis(5)), bytes: Some(0) };
        let info = TopicInfo { spec, id: 4 };
        assert_eq!(decode_topic(&key, 4, &encode_topic(&key, &info)), Ok(info));
        let place = Place { commit: u64::MAX - 1, ordinal: 7 };
        let row = IndexRow { count: 500, bytes: 1 << 20, timestamp_max: -3, place };
        assert_eq!(decode_index(&key, &encode_index(&key, row)), Ok(row));
        for value in [0, 127, 128, u64::MAX] {
            assert_eq!(decode_number(&key, &encode_number(&key, value)), Ok(value));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let key = pair_key(1, 2);
        let good = encode_position(&key, &position());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(decode_position(&key, &bad).is_err(), "byte {at} bit {bit}");
            }
            assert!(decode_position(&key, &good[..at]).is_err(), "cut at {at}");
        }
        assert!(decode_position(&pair_key(1, 3), &good).is_err(), "a row under another key");
    }

    #[test]
    fn hostile_rows_with_a_right_checksum_are_errors() {
        let key = pair_key(1, 2);
        let good = encode_position(&key, &position());
        for at in 0..good.len() - 4 {
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                let mut bad = good[..good.len() - 4].to_vec();
                bad[at] = byte;
                let checksum = crc32c::crc32c_append(crc32c::crc32c(&key), &bad);
                bad.extend_from_slice(&checksum.to_le_bytes());
                drop(decode_position(&key, &bad));
                drop(decode_topic(&key, 1, &bad));
                assert!(decode_number(&key, &bad).is_err() || at != 0);
            }
        }
    }
}
