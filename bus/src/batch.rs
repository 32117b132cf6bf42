//! Record batches: many records in one run of bytes, as they lie in the journal, cross channels
//! and travel over HTTP.
//!
//! ```text
//! byte  0  u8   version, 1
//!       1  u8   flags, 0
//!       2  u16  length of an entry, 32
//!       4  u32  CRC-32C of everything from byte 8 on
//!       8  u32  count of records
//!      12  u32  where the arena starts: 24 + 32 * count
//!      16  i64  the newest timestamp
//!      24  one entry per record:
//!           +0  i64  timestamp, Unix ms
//!           +8  u32  offset, less the batch's base offset; strictly ascending
//!          +12  u32  where the record's bytes start in the arena: key, value, headers in a row
//!          +16  u32  length of the key,   u32::MAX = no key
//!          +20  u32  length of the value, u32::MAX = no value (a tombstone)
//!          +24  u32  length of the headers
//!          +28  u32  count of headers
//!      ..  the arena
//! ```
//!
//! A header is its name's length (u32), its name, its value's length (u32, `u32::MAX` = null),
//! its value. All integers are little endian. The base offset is not part of the bytes: the
//! journal's key holds it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Offset, Timestamp};

const VERSION: u8 = 1;
const HEAD: usize = 24;
const ENTRY: usize = 32;
const ABSENT: u32 = u32::MAX;
/// Memory of a batch beyond its bytes: one part in so many.
const WASTE: usize = 2;

/// One header of an owned record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its name, UTF-8 by convention. Names may repeat.
    pub name: Bytes,
    /// Its value; Kafka allows null.
    pub value: Option<Bytes>,
}

/// A record on its own, for where there is only one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Decides the partition and the order, if there is one.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// In order, duplicates kept.
    pub headers: Vec<Header>,
    /// When it happened, by its producer.
    pub timestamp: Timestamp,
}

/// A record inside a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Where it lies in its partition.
    pub offset: Offset,
    /// When it happened.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

impl RecordView<'_> {
    /// Key, value and headers together: what a topic's limit is about.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let part = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        part(self.key) + part(self.value) + self.headers.as_bytes().len()
    }

    /// An owned copy, without the offset.
    #[must_use]
    pub fn to_record(&self) -> Record {
        Record {
            key: self.key.map(Bytes::copy_from_slice),
            value: self.value.map(Bytes::copy_from_slice),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| Header {
                    name: Bytes::copy_from_slice(name),
                    value: value.map(Bytes::copy_from_slice),
                })
                .collect(),
            timestamp: self.timestamp,
        }
    }
}

/// Encoded headers, in order, duplicates and raw bytes kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl<'a> Headers<'a> {
    /// Takes encoded headers; `None` when `bytes` are not exactly `count` headers.
    #[must_use]
    pub fn parse(bytes: &'a [u8], count: u32) -> Option<Self> {
        let mut rest = bytes;
        for _header in 0..count {
            next_header(&mut rest)?;
        }
        rest.is_empty().then_some(Self { bytes, count })
    }

    /// The encoded form.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || next_header(&mut rest))
    }

    /// The value of the last header of this name, as Kafka's `lastHeader`.
    #[must_use]
    pub fn last(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.iter().filter(|(it, _)| *it == name).last().and_then(|(_, value)| value)
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("4 bytes")))
}

fn next_header<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let name_length = take_u32(rest)?;
    let name = take(rest, name_length as usize)?;
    let value = match take_u32(rest)? {
        ABSENT => None,
        length => Some(take(rest, length as usize)?),
    };
    Some((name, value))
}

/// Encodes headers one by one; reusable.
#[derive(Clone, Debug, Default)]
pub struct HeadersBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl HeadersBuilder {
    /// Adds a header at the end.
    pub fn push(&mut self, name: &[u8], value: Option<&[u8]>) {
        self.bytes.extend_from_slice(&length_u32(name).to_le_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(&value.map_or(ABSENT, length_u32).to_le_bytes());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.count += 1;
    }

    /// Adds all of `headers` at the end.
    pub fn extend(&mut self, headers: Headers<'_>) {
        self.bytes.extend_from_slice(headers.bytes);
        self.count += headers.count;
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// What was pushed.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        Headers { bytes: &self.bytes, count: self.count }
    }
}

fn length_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).ok().filter(|it| *it != ABSENT).expect("below 4 GiB")
}

/// A checked batch: every access below is in bounds, whatever the bytes were.
///
/// A view: cloning and narrowing it copy no record.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordBatch {
    bytes: Bytes,
    base: Offset,
    first: usize,
    end: usize,
}

impl std::fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecordBatch({} records from {})", self.len(), self.base)
    }
}

impl RecordBatch {
    /// Checks `bytes` (version, checksum, every index and length) and takes them as the batch
    /// whose base offset is `base`.
    ///
    /// # Errors
    ///
    /// What is wrong with them, as a fact.
    pub fn decode(bytes: Bytes, base: Offset) -> Result<Self, &'static str> {
        let head = bytes.get(..HEAD).ok_or("shorter than a batch's head")?;
        if head[0] != VERSION {
            return Err("unknown version of a record batch");
        }
        if head[1] != 0 {
            return Err("unknown flags of a record batch");
        }
        if u16::from_le_bytes([head[2], head[3]]) as usize != ENTRY {
            return Err("unknown length of an entry");
        }
        if read_u32(&bytes, 4) != crc32c::crc32c(&bytes[8..]) {
            return Err("checksum of a record batch");
        }
        let count = read_u32(&bytes, 8) as usize;
        let arena = read_u32(&bytes, 12) as usize;
        if count == 0 {
            return Err("a record batch without records");
        }
        if count.checked_mul(ENTRY).and_then(|it| it.checked_add(HEAD)) != Some(arena)
            || bytes.len() < arena
        {
            return Err("a record batch shorter than its entries");
        }
        let arena_bytes = bytes.len() - arena;
        let mut before: Option<u32> = None;
        for index in 0..count {
            let at = HEAD + index * ENTRY;
            let delta = read_u32(&bytes, at + 8);
            if before.is_some_and(|before| delta <= before) {
                return Err("offsets of a record batch that do not ascend");
            }
            before = Some(delta);
            let start = read_u32(&bytes, at + 12) as usize;
            let key = present(read_u32(&bytes, at + 16));
            let value = present(read_u32(&bytes, at + 20));
            let headers = read_u32(&bytes, at + 24) as usize;
            let end = start + key + value + headers;
            if arena_bytes < end {
                return Err("a record that ends beyond its batch");
            }
            let count = read_u32(&bytes, at + 28);
            if headers != 0 || count != 0 {
                let blob = &bytes[arena + start + key + value..arena + end];
                Headers::parse(blob, count).ok_or("headers that do not parse")?;
            }
        }
        Ok(Self { bytes, base, first: 0, end: count })
    }

    /// The bytes of the whole batch, also of records this view leaves out.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many records the view has; at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub const fn len(&self) -> usize {
        self.end - self.first
    }

    /// Whether the view leaves nothing out and its offsets have no gap.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let count = read_u32(&self.bytes, 8) as usize;
        self.first == 0
            && self.end == count
            && read_u32(&self.bytes, HEAD + (count - 1) * ENTRY + 8) as usize == count - 1
    }

    /// The offset that the entries count from.
    #[must_use]
    pub const fn base(&self) -> Offset {
        self.base
    }

    /// The same batch at another base offset.
    #[must_use]
    pub const fn with_base(mut self, base: Offset) -> Self {
        self.base = base;
        self
    }

    /// The first record's offset.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.offset_at(self.first)
    }

    /// The last record's offset.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.offset_at(self.end - 1)
    }

    /// The newest timestamp of the whole batch.
    #[must_use]
    pub fn timestamp_max(&self) -> Timestamp {
        Timestamp(read_i64(&self.bytes, 16))
    }

    /// The view without records before `offset`; `None` when that leaves nothing.
    #[must_use]
    pub fn from_offset(mut self, offset: Offset) -> Option<Self> {
        while self.first < self.end && self.offset_at(self.first) < offset {
            self.first += 1;
        }
        (self.first < self.end).then_some(self)
    }

    /// The first `records` of the view.
    #[must_use]
    pub fn truncated(mut self, records: usize) -> Self {
        self.end = self.end.min(self.first + records.max(1));
        self
    }

    /// The record at `index` of the view.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`len`](Self::len).
    #[must_use]
    pub fn get(&self, index: usize) -> RecordView<'_> {
        assert!(index < self.len(), "record {index} of {}", self.len());
        let at = HEAD + (self.first + index) * ENTRY;
        let bytes = &self.bytes;
        let (key, value) = (read_u32(bytes, at + 16), read_u32(bytes, at + 20));
        let key_at = read_u32(bytes, 12) as usize + read_u32(bytes, at + 12) as usize;
        let value_at = key_at + present(key);
        let headers_at = value_at + present(value);
        let headers_end = headers_at + read_u32(bytes, at + 24) as usize;
        RecordView {
            offset: self.offset_at(self.first + index),
            timestamp: Timestamp(read_i64(bytes, at)),
            key: (key != ABSENT).then(|| &bytes[key_at..value_at]),
            value: (value != ABSENT).then(|| &bytes[value_at..headers_at]),
            headers: Headers {
                bytes: &bytes[headers_at..headers_end],
                count: read_u32(bytes, at + 28),
            },
        }
    }

    /// The records, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordView<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Bytes that `slice`, a part of this batch, occupies, without copying them.
    #[must_use]
    pub fn share(&self, slice: &[u8]) -> Bytes {
        self.bytes.slice_ref(slice)
    }

    fn offset_at(&self, index: usize) -> Offset {
        Offset(self.base.0 + i64::from(read_u32(&self.bytes, HEAD + index * ENTRY + 8)))
    }
}

const fn present(length: u32) -> usize {
    if length == ABSENT { 0 } else { length as usize }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn read_i64(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// How many there will be, where so many were expected and came: as many as now and a little, or
/// fewer than before if they were more.
const fn likely(expected: usize, came: usize) -> usize {
    let (roomy, fading) = (came + came / 8, expected - expected / 8);
    if fading < roomy { roomy } else { fading }
}

/// Gathers records into a batch. Reusable: [`finish`](Self::finish) leaves it empty.
///
/// ```text
/// head | entries, and room for more | arena
/// ```
///
/// The arena grows where it will stay: only the entries move when there are more or fewer of them
/// than there was room for.
#[derive(Clone, Debug, Default)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    /// Entries that fit before the arena.
    room: usize,
    count: u32,
    /// The next record's offset, less the batch's base.
    delta: u32,
    timestamp_max: i64,
    /// Records and bytes of the arena that the next batch is expected to have.
    expected: (usize, usize),
}

impl BatchBuilder {
    /// A builder with room for so many records, whose keys, values and headers have so many bytes.
    #[must_use]
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Self { expected: (records, bytes), ..Self::default() }
    }

    /// Leaves out offsets, so that the next record gets `delta` beyond the batch's base:
    /// compaction and transaction markers leave such holes in a partition.
    ///
    /// # Panics
    ///
    /// When `delta` is that of an earlier record.
    pub fn skip_to(&mut self, delta: u32) {
        assert!(self.delta <= delta, "offsets of a batch ascend");
        self.delta = delta;
    }

    /// Adds a record after the last one.
    ///
    /// # Panics
    ///
    /// When the batch would pass 4 GiB.
    pub fn push(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers<'_>,
    ) {
        if self.count as usize == self.room {
            self.make_room();
        }
        let start = u32::try_from(self.arena_bytes()).expect("a batch is below 4 GiB");
        let at = HEAD + self.count as usize * ENTRY;
        let entry = &mut self.bytes[at..at + ENTRY];
        entry[0..8].copy_from_slice(&timestamp.0.to_le_bytes());
        entry[8..12].copy_from_slice(&self.delta.to_le_bytes());
        entry[12..16].copy_from_slice(&start.to_le_bytes());
        entry[16..20].copy_from_slice(&key.map_or(ABSENT, length_u32).to_le_bytes());
        entry[20..24].copy_from_slice(&value.map_or(ABSENT, length_u32).to_le_bytes());
        entry[24..28].copy_from_slice(&length_u32(headers.bytes).to_le_bytes());
        entry[28..32].copy_from_slice(&headers.count.to_le_bytes());
        self.bytes.extend_from_slice(key.unwrap_or_default());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.bytes.extend_from_slice(headers.bytes);
        self.timestamp_max =
            if self.count == 0 { timestamp.0 } else { self.timestamp_max.max(timestamp.0) };
        self.count += 1;
        self.delta = self.delta.checked_add(1).expect("a batch has fewer offsets than 2^32");
    }

    /// Room for more entries: the expected ones at first, then twice as many each time.
    #[cold]
    fn make_room(&mut self) {
        if self.bytes.is_empty() {
            let (records, bytes) = self.expected;
            self.room = records.max(4);
            self.bytes.reserve(HEAD + self.room * ENTRY + bytes);
            self.bytes.resize(HEAD + self.room * ENTRY, 0);
            return;
        }
        let (arena_at, arena_end) = (HEAD + self.room * ENTRY, self.bytes.len());
        let more = self.room * ENTRY;
        self.room *= 2;
        self.bytes.resize(arena_end + more, 0);
        self.bytes.copy_within(arena_at..arena_end, arena_at + more);
    }

    /// Adds a record that stands on its own.
    pub fn push_record(&mut self, record: &Record) {
        let mut headers = HeadersBuilder::default();
        for header in &record.headers {
            headers.push(&header.name, header.value.as_deref());
        }
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        self.push(record.timestamp, key, value, headers.headers());
    }

    /// Adds a record of another batch, under the next offset of this one.
    pub fn push_view(&mut self, record: RecordView<'_>) {
        self.push(record.timestamp, record.key, record.value, record.headers);
    }

    /// How many records were pushed.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether none was.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of keys, values and headers.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(HEAD + self.room * ENTRY)
    }

    /// Records and bytes that the next batch is expected to have, from those before it: for
    /// [`with_capacity`](Self::with_capacity).
    #[must_use]
    pub const fn expected(&self) -> (usize, usize) {
        self.expected
    }

    /// How many bytes [`finish`](Self::finish) would give.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        HEAD + self.count as usize * ENTRY + self.arena_bytes()
    }

    /// The batch, at base offset 0, or `None` when nothing was pushed. Empties the builder.
    pub fn finish(&mut self) -> Option<RecordBatch> {
        if self.is_empty() {
            return None;
        }
        let (count, arena_bytes) = (self.count as usize, self.arena_bytes());
        let entries = count * ENTRY;
        // The entries end where the arena begins; room that was not used is left out in front.
        let start = (self.room - count) * ENTRY;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.copy_within(HEAD..HEAD + entries, start + HEAD);
        let arena_at = u32::try_from(HEAD + entries).expect("a batch is below 4 GiB");
        let head = &mut bytes[start..start + HEAD];
        head[0..4].copy_from_slice(&[VERSION, 0, ENTRY as u8, 0]);
        head[8..12].copy_from_slice(&self.count.to_le_bytes());
        head[12..16].copy_from_slice(&arena_at.to_le_bytes());
        head[16..24].copy_from_slice(&self.timestamp_max.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[start + 8..]);
        bytes[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
        let size = bytes.len() - start;
        let bytes = if bytes.capacity() - size <= size / WASTE {
            Bytes::from(bytes).slice(start..)
        } else {
            // Batches may be held for long, and by their size.
            Bytes::copy_from_slice(&bytes[start..])
        };
        // The next will be about as large, or as one of the last few.
        let expected = self.expected;
        *self = Self::with_capacity(likely(expected.0, count), likely(expected.1, arena_bytes));
        Some(RecordBatch { bytes, base: Offset(0), first: 0, end: count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RecordBatch {
        let mut headers = HeadersBuilder::default();
        headers.push(b"a", Some(b"\xff\x00"));
        headers.push(b"a", None);
        let mut builder = BatchBuilder::default();
        builder.push(Timestamp(7), Some(b"k"), Some(b"value"), headers.headers());
        builder.push(Timestamp(5), None, None, Headers::default());
        builder.push(Timestamp(6), Some(b""), Some(b""), Headers::default());
        builder.finish().unwrap()
    }

    #[test]
    fn records_come_back_byte_for_byte() {
        let batch = RecordBatch::decode(sample().as_bytes().clone(), Offset(40)).unwrap();
        assert_eq!(batch.len(), 3);
        assert_eq!(batch.timestamp_max(), Timestamp(7));
        let first = batch.get(0);
        assert_eq!((first.offset, first.key), (Offset(40), Some(&b"k"[..])));
        let headers: Vec<_> = first.headers.iter().collect();
        assert_eq!(headers, [(&b"a"[..], Some(&b"\xff\x00"[..])), (&b"a"[..], None)]);
        assert_eq!((batch.get(1).key, batch.get(1).value), (None, None));
        assert_eq!((batch.get(2).key, batch.get(2).value), (Some(&b""[..]), Some(&b""[..])));
        let rest = batch.from_offset(Offset(41)).unwrap();
        assert_eq!((rest.len(), rest.first_offset()), (2, Offset(41)));
        assert_eq!(rest.clone().truncated(1).last_offset(), Offset(41));
        assert!(rest.from_offset(Offset(43)).is_none());
    }

    #[test]
    fn holes_between_offsets_are_kept() {
        let mut builder = BatchBuilder::default();
        for delta in [0, 3, 1_000_000] {
            builder.skip_to(delta);
            builder.push(Timestamp(1), None, Some(b"v"), Headers::default());
        }
        let batch = builder.finish().unwrap().with_base(Offset(40));
        assert!(!batch.is_whole());
        let batch = RecordBatch::decode(batch.as_bytes().clone(), Offset(40)).unwrap();
        let offsets: Vec<i64> = batch.iter().map(|record| record.offset.0).collect();
        assert_eq!(offsets, [40, 43, 1_000_040]);
        builder.push(Timestamp(1), None, None, Headers::default());
        assert!(builder.finish().unwrap().is_whole(), "the next batch has none");
    }

    #[test]
    fn room_for_more_or_fewer_records_than_there_are_changes_nothing() {
        let batch = |records: usize, builder: &mut BatchBuilder| {
            for index in 0..records {
                let (key, value) = (index.to_string(), "v".repeat(index % 50));
                let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
                builder.push(Timestamp(index as i64), key, value, Headers::default());
            }
            let size = builder.size_bytes();
            let batch = builder.finish().unwrap();
            assert_eq!(batch.as_bytes().len(), size);
            batch
        };
        for records in [1, 3, 4, 5, 100, 500] {
            let plain = batch(records, &mut BatchBuilder::default());
            RecordBatch::decode(plain.as_bytes().clone(), Offset(0)).unwrap();
            for (room, bytes) in [(0, 0), (records, 10), (records + 1, 9_000), (4_000, 1 << 20)] {
                let mut builder = BatchBuilder::with_capacity(room, bytes);
                assert_eq!(batch(records, &mut builder), plain, "{room} for {records}");
                assert_eq!(batch(7, &mut builder), batch(7, &mut BatchBuilder::default()));
            }
        }
    }

    #[test]
    fn no_damaged_batch_is_accepted() {
        let good = sample().as_bytes().to_vec();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(RecordBatch::decode(bad.into(), Offset(0)).is_err(), "flipped byte {at}");
            assert!(RecordBatch::decode(good[..at].to_vec().into(), Offset(0)).is_err());
        }
    }

    #[test]
    fn hostile_entries_with_a_right_checksum_are_errors() {
        let good = sample().as_bytes().to_vec();
        for at in 8..good.len() {
            for byte in [0x00, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let checksum = crc32c::crc32c(&bad[8..]);
                bad[4..8].copy_from_slice(&checksum.to_le_bytes());
                if let Ok(batch) = RecordBatch::decode(bad.into(), Offset(0)) {
                    batch.iter().for_each(|record| drop(record.to_record()));
                }
            }
        }
    }
}
