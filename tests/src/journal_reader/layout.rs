//! A pure core: decodes the rows of a journal, from the layout that bus/ documents
//! (bus/src/batch.rs, bus/src/embedded/{rows,store}.rs) and from nothing of its code.
//!
//! Written a second time on purpose: a mistake in the bus's own decoder must not hide itself.

/// A record as it lies in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, Unix ms.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
    header_count: u32,
}

impl<'a> Record<'a> {
    /// How many headers it has.
    #[must_use]
    pub const fn header_count(&self) -> u32 {
        self.header_count
    }

    /// The value of the last header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.headers;
        let mut found = None;
        for _header in 0..self.header_count {
            let length = u32_at(rest, 0)? as usize;
            let this = rest.get(4..4 + length)?;
            rest = &rest[4 + length..];
            let length = u32_at(rest, 0)?;
            rest = &rest[4..];
            let value = match length {
                u32::MAX => None,
                length => Some(rest.get(..length as usize)?),
            };
            rest = &rest[value.map_or(0, <[u8]>::len)..];
            if this == name.as_bytes() {
                found = value;
            }
        }
        found
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads a batch whose base offset is `base`; `Err` says what is wrong with it.
///
/// # Errors
///
/// What does not fit the layout.
pub fn batch(bytes: &[u8], base: i64) -> Result<Vec<Record<'_>>, &'static str> {
    let head = bytes.get(..24).ok_or("a batch shorter than its head")?;
    if head[..4] != [1, 0, 32, 0] {
        return Err("a batch of another version, flags or entry length");
    }
    if u32_at(head, 4) != Some(crc32c::crc32c(&bytes[8..])) {
        return Err("a batch whose checksum is wrong");
    }
    let count = u32_at(head, 8).unwrap_or(0) as usize;
    let arena = u32_at(head, 12).unwrap_or(0) as usize;
    let (Some(entries), Some(arena_bytes)) = (bytes.get(24..arena), bytes.get(arena..)) else {
        return Err("a batch shorter than its entries");
    };
    if count == 0 || entries.len() != 32 * count {
        return Err("a batch whose count and length disagree");
    }
    let mut records = Vec::with_capacity(count);
    for entry in entries.chunks_exact(32) {
        let word = |at| u32_at(entry, at).unwrap_or(0);
        let mut at = word(12) as usize;
        let mut part = |length: u32| match length {
            u32::MAX => Some(None),
            length => {
                let part = arena_bytes.get(at..at.checked_add(length as usize)?)?;
                at += part.len();
                Some(Some(part))
            }
        };
        let (key, value, headers) = (part(word(16)), part(word(20)), part(word(24)));
        let (Some(key), Some(value), Some(Some(headers))) = (key, value, headers) else {
            return Err("a record that ends beyond its batch");
        };
        let offset = base + i64::from(word(8));
        if records.last().is_some_and(|last: &Record<'_>| offset <= last.offset) {
            return Err("offsets of a batch that do not ascend");
        }
        let timestamp = i64::from(word(4)) << 32 | i64::from(word(0));
        records.push(Record { offset, timestamp, key, value, headers, header_count: word(28) });
    }
    Ok(records)
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id: the upper half of its partitions' uids.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
}

/// A topic's row: name, partitions, and limits that do not matter here. Its key is its id.
#[must_use]
pub fn topic(id: u64, row: &[u8]) -> Option<Topic> {
    let mut rest = opened(&id.to_be_bytes(), row)?;
    let length = usize::try_from(varint(&mut rest)?).ok()?;
    let name = std::str::from_utf8(rest.get(..length)?).ok()?.to_owned();
    rest = &rest[length..];
    Some(Topic { id, name, partitions: i32::try_from(varint(&mut rest)?).ok()? })
}

/// A partition's uid: its topic's id, then its number.
#[must_use]
pub fn partition_uid(topic: u64, partition: i32) -> u64 {
    (topic << 32) | u64::from(partition.unsigned_abs())
}

/// A key of two numbers, both big endian.
#[must_use]
pub fn pair_key(high: u64, low: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&high.to_be_bytes());
    key[8..].copy_from_slice(&low.to_be_bytes());
    key
}

/// The numbers of a [`pair_key`].
#[must_use]
pub fn split_key(key: &[u8; 16]) -> (u64, u64) {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    (number(&key[..8]), number(&key[8..]))
}

/// What the index says of a batch: how many records it has, and the key of its row.
#[must_use]
pub fn index(key: &[u8; 16], row: &[u8]) -> Option<(u64, [u8; 16])> {
    let payload = opened(key, row)?;
    let word = |at: usize| Some(u64::from(u32_at(payload, at)?));
    let (count, low, high, ordinal) = (word(0)?, word(16)?, word(20)?, word(24)?);
    (payload.len() == 28).then_some((count, pair_key((high << 32) | low, ordinal)))
}

/// The index row of a batch under another key: for planting a fault.
#[must_use]
pub fn index_row(key: &[u8; 16], row: &[u8]) -> Vec<u8> {
    let mut row = row[..row.len() - 4].to_vec();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &row);
    row.extend_from_slice(&checksum.to_le_bytes());
    row
}

/// One shard's position in one partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Who reads.
    pub shard: u64,
    /// What is read.
    pub partition_uid: u64,
    /// The epoch that committed last.
    pub epoch: u64,
    /// Everything before is settled.
    pub next: i64,
    /// Settled beyond `next`: ascending ranges, end exclusive.
    pub beyond: Vec<(i64, i64)>,
}

/// A position's row: epoch, next, and the completion ranges as gap and length from `next` on; then
/// perhaps what may have ended a node: where it starts, how much it is, and an attempt.
#[must_use]
pub fn position(key: &[u8; 16], row: &[u8]) -> Option<Position> {
    let (shard, partition_uid) = split_key(key);
    let mut rest = opened(key, row)?;
    let epoch = varint(&mut rest)?;
    let next = i64::try_from(varint(&mut rest)?).ok()?;
    let count = varint(&mut rest)?;
    let (mut beyond, mut at) = (Vec::new(), next);
    for _range in 0..count {
        let start = at.checked_add_unsigned(varint(&mut rest)?)?;
        let end = start.checked_add_unsigned(varint(&mut rest)?)?;
        beyond.push((start, end));
        at = end;
    }
    if !rest.is_empty() {
        for _number in 0..3 {
            varint(&mut rest)?;
        }
    }
    rest.is_empty().then_some(Position { shard, partition_uid, epoch, next, beyond })
}

/// A position's row: for planting a fault.
#[must_use]
pub fn position_row(key: &[u8; 16], position: &Position) -> Vec<u8> {
    let mut row = vec![1];
    let mut put = |mut value: u64| {
        while 0x80 <= value {
            row.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        row.push(value.to_le_bytes()[0]);
    };
    put(position.epoch);
    put(position.next.unsigned_abs());
    put(position.beyond.len() as u64);
    let mut at = position.next;
    for (start, end) in &position.beyond {
        put(start.abs_diff(at));
        put(end.abs_diff(*start));
        at = *end;
    }
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &row);
    row.extend_from_slice(&checksum.to_le_bytes());
    row
}

/// The payload of a row between its version byte and its checksum, which covers the key too.
fn opened<'a>(key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (payload, checksum) = row.split_last_chunk::<4>()?;
    let expected = crc32c::crc32c_append(crc32c::crc32c(key), payload);
    (expected == u32::from_le_bytes(*checksum)).then_some(())?;
    payload.strip_prefix(&[1])
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by hand from the documented layout.
    fn by_hand() -> Vec<u8> {
        let mut arena = b"keyvalue".to_vec();
        for part in [&b"h"[..], b"1"] {
            arena.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
            arena.extend_from_slice(part);
        }
        let mut tail = Vec::new();
        tail.extend_from_slice(&2_u32.to_le_bytes());
        tail.extend_from_slice(&(24_u32 + 64).to_le_bytes());
        tail.extend_from_slice(&9_i64.to_le_bytes());
        for (delta, start, key, value, headers, count) in
            [(0_u32, 0_u32, 3_u32, 5_u32, 10_u32, 1_u32), (1, 18, u32::MAX, u32::MAX, 0, 0)]
        {
            tail.extend_from_slice(&9_i64.to_le_bytes());
            for word in [delta, start, key, value, headers, count] {
                tail.extend_from_slice(&word.to_le_bytes());
            }
        }
        tail.extend_from_slice(&arena);
        let mut bytes = vec![1, 0, 32, 0];
        bytes.extend_from_slice(&crc32c::crc32c(&tail).to_le_bytes());
        bytes.extend_from_slice(&tail);
        bytes
    }

    #[test]
    fn a_batch_reads_as_documented() {
        let bytes = by_hand();
        let records = batch(&bytes, 40).unwrap();
        assert_eq!((records[0].offset, records[0].key), (40, Some(&b"key"[..])));
        assert_eq!(records[0].value, Some(&b"value"[..]));
        assert_eq!(records[0].header("h"), Some(&b"1"[..]));
        assert_eq!(records[0].header("i"), None);
        assert_eq!((records[1].offset, records[1].key, records[1].value), (41, None, None));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(batch(&bad, 40).is_err(), "flipped byte {at}");
            assert!(batch(&bytes[..at], 40).is_err());
        }
    }
}
