//! A batch on its way to a function: its context, its records, and their bytes as they are on
//! the bus.

use crate::wire::{
    ABSENT, FrameError, Headers, VERSION, i32_at, i64_at, length, move_arena, position, put_text,
    slice, text, u16_at, u32_at, u64_at,
};

const KIND: u8 = 1;
const HEAD: usize = 48;
const ENTRY: usize = 56;
/// The smallest partition entry: its number and the length of its topic.
const PARTITION_MIN: usize = 8;

/// Which records of a batch must not run after one of them failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// None of them: all run.
    None,
    /// Later records of the same key.
    Key,
    /// All later records.
    Partition,
}

/// What is the same for every record of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The function's name.
    pub function: &'a str,
    /// The revision that runs.
    pub revision: &'a str,
    /// The trigger: app/function/name.
    pub trigger: &'a str,
    /// The W3C `traceparent` of the invocation, or empty.
    pub trace: &'a str,
    /// When the node gives up on the batch, Unix ms.
    pub deadline_ms: i64,
}

/// One record, as a function is given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord<'a> {
    /// The topic it was read from.
    pub topic: &'a str,
    /// The partition it was read from.
    pub partition: i32,
    /// Where it lies there.
    pub offset: i64,
    /// Its timestamp, Unix ms.
    pub timestamp: i64,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

/// Gathers records into a request.
///
/// ```text
/// head, context, partition table | entries, and room for more | arena
/// ```
#[derive(Debug)]
pub struct RequestBuilder {
    batch_id: u64,
    order: Order,
    bytes: Vec<u8>,
    partitions: u32,
    partitions_at: usize,
    entries_at: usize,
    /// Entries that fit before the arena.
    room: usize,
    records: u32,
}

impl RequestBuilder {
    /// Starts a request. `partitions` is the table that records point into.
    #[must_use]
    pub fn new(
        batch_id: u64,
        order: Order,
        context: &Context<'_>,
        partitions: &[(&str, i32)],
    ) -> Self {
        let mut bytes = vec![0; HEAD];
        bytes.extend_from_slice(&context.deadline_ms.to_le_bytes());
        for part in
            [context.cluster, context.function, context.revision, context.trigger, context.trace]
        {
            put_text(&mut bytes, part);
        }
        let partitions_at = bytes.len();
        for (topic, number) in partitions {
            bytes.extend_from_slice(&number.to_le_bytes());
            put_text(&mut bytes, topic);
        }
        let entries_at = bytes.len();
        let partitions = position(partitions.len());
        Self { batch_id, order, bytes, partitions, partitions_at, entries_at, room: 0, records: 0 }
    }

    /// Makes room for `records` records of `arena_bytes` in all.
    pub fn reserve(&mut self, records: usize, arena_bytes: usize) {
        self.bytes.reserve(records * ENTRY + arena_bytes);
        self.set_room(self.room.max(self.records as usize + records));
    }

    fn arena_at(&self) -> usize {
        self.entries_at + self.room * ENTRY
    }

    fn set_room(&mut self, room: usize) {
        move_arena(&mut self.bytes, self.entries_at, (self.room, room), ENTRY);
        self.room = room;
    }

    /// Adds a record. `partition` is an index into the table; `headers` are encoded.
    #[expect(clippy::too_many_arguments, reason = "a record's fields, without a copy between")]
    pub fn push(
        &mut self,
        partition: u32,
        offset: i64,
        timestamp: i64,
        attempt: u32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[u8],
        header_count: u32,
    ) {
        if self.records as usize == self.room {
            self.set_room((2 * self.room).max(4));
        }
        let arena_at = self.arena_at();
        let key_at = position(self.bytes.len() - arena_at);
        self.bytes.extend_from_slice(key.unwrap_or_default());
        let value_at = position(self.bytes.len() - arena_at);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let headers_at = position(self.bytes.len() - arena_at);
        self.bytes.extend_from_slice(headers);
        let at = self.entries_at + self.records as usize * ENTRY;
        let entry = &mut self.bytes[at..at + ENTRY];
        entry[0..8].copy_from_slice(&offset.to_le_bytes());
        entry[8..16].copy_from_slice(&timestamp.to_le_bytes());
        let words = [
            partition,
            attempt,
            key_at,
            key.map_or(ABSENT, length),
            value_at,
            value.map_or(ABSENT, length),
            headers_at,
            length(headers),
            header_count,
        ];
        for (word, place) in words.iter().zip(entry[16..].chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.records += 1;
    }

    /// How many records were added.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records as usize
    }

    /// Whether none was.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How long the frame is so far.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        self.bytes.len() - (self.room - self.records as usize) * ENTRY
    }

    /// The frame.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.set_room(self.records as usize);
        let (arena_at, size) = (self.arena_at(), self.bytes.len());
        let mut bytes = self.bytes;
        let order = match self.order {
            Order::None => 0,
            Order::Key => 1,
            Order::Partition => 2,
        };
        bytes[0..4].copy_from_slice(&[VERSION, KIND, order, 0]);
        bytes[4..6].copy_from_slice(&(HEAD as u16).to_le_bytes());
        bytes[6..8].copy_from_slice(&(ENTRY as u16).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.batch_id.to_le_bytes());
        let words = [
            self.records,
            self.partitions,
            HEAD as u32,
            position(self.partitions_at),
            position(self.entries_at),
            position(arena_at),
            position(size),
        ];
        for (word, place) in words.iter().zip(bytes[16..44].chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A checked request: every access below is in bounds, whatever the bytes were.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    batch_id: u64,
    order: Order,
    context: Context<'a>,
    partitions: Vec<(&'a str, i32)>,
    entries: &'a [u8],
    entry_length: usize,
    arena: &'a [u8],
    records: usize,
}

impl<'a> Request<'a> {
    /// Checks `bytes` and takes them as a request.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        Self::try_parse(bytes)?.ok_or(FrameError("a request shorter than it says"))
    }

    fn try_parse(bytes: &'a [u8]) -> Result<Option<Self>, FrameError> {
        let Some(head) = bytes.get(..HEAD) else { return Ok(None) };
        if head[0] != VERSION || head[1] != KIND {
            return Err(FrameError("not a request of a known version"));
        }
        let order = match head[2] {
            0 => Order::None,
            1 => Order::Key,
            2 => Order::Partition,
            _ => return Err(FrameError("unknown order")),
        };
        let word = |at| u32_at(head, at).map_or(0, |it| it as usize);
        let entry_length = usize::from(u16_at(head, 6).unwrap_or_default());
        if usize::from(u16_at(head, 4).unwrap_or_default()) < HEAD || entry_length < ENTRY {
            return Err(FrameError("a head or entry shorter than version 1 has"));
        }
        if word(40) != bytes.len() {
            return Err(FrameError("a frame longer or shorter than it says"));
        }
        let (records, arena_at, entries_at) = (word(16), word(36), word(32));
        let entries_end =
            records.checked_mul(entry_length).and_then(|it| it.checked_add(entries_at));
        let Some(entries) = entries_end.and_then(|end| bytes.get(entries_at..end)) else {
            return Ok(None);
        };
        let Some(arena) = bytes.get(arena_at..) else { return Ok(None) };
        let mut at = word(24);
        let Some(deadline_ms) = i64_at(bytes, at) else { return Ok(None) };
        at += 8;
        let mut parts = [""; 5];
        for part in &mut parts {
            let Some(text) = text(bytes, &mut at) else { return Ok(None) };
            *part = text;
        }
        let [cluster, function, revision, trigger, trace] = parts;
        let context = Context { cluster, function, revision, trigger, trace, deadline_ms };
        let Some(partitions) = partitions(bytes, word(28), word(20)) else { return Ok(None) };
        let batch_id = u64_at(head, 8).unwrap_or_default();
        let this =
            Self { batch_id, order, context, partitions, entries, entry_length, arena, records };
        for index in 0..records {
            if this.record(index).is_none() {
                return Err(FrameError("a record that points outside the frame"));
            }
        }
        Ok(Some(this))
    }

    /// The batch's id, echoed in the response.
    #[must_use]
    pub const fn batch_id(&self) -> u64 {
        self.batch_id
    }

    /// How many records there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// What a failed record holds back.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// What is the same for all records.
    #[must_use]
    pub const fn context(&self) -> &Context<'a> {
        &self.context
    }

    /// The record at `index`.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`len`](Self::len).
    #[must_use]
    pub fn get(&self, index: usize) -> RequestRecord<'a> {
        self.record(index).expect("every entry was checked, and the index is below len")
    }

    /// The records, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RequestRecord<'a>> + '_ {
        (0..self.records).map(|index| self.get(index))
    }

    fn record(&self, index: usize) -> Option<RequestRecord<'a>> {
        let at = index.checked_mul(self.entry_length)?;
        let entry = self.entries.get(at..at.checked_add(ENTRY)?)?;
        let word = |at| u32_at(entry, at);
        let (topic, partition) = *self.partitions.get(word(16)? as usize)?;
        let headers = slice(self.arena, word(40)?, word(44)?)?.unwrap_or_default();
        Some(RequestRecord {
            topic,
            partition,
            offset: i64_at(entry, 0)?,
            timestamp: i64_at(entry, 8)?,
            attempt: word(20)?,
            key: slice(self.arena, word(24)?, word(28)?)?,
            value: slice(self.arena, word(32)?, word(36)?)?,
            headers: if headers.is_empty() && word(48)? == 0 {
                Headers::default()
            } else {
                Headers::parse(headers, word(48)?)?
            },
        })
    }
}

fn partitions(bytes: &[u8], mut at: usize, count: usize) -> Option<Vec<(&str, i32)>> {
    if bytes.len() / PARTITION_MIN < count {
        return None;
    }
    let mut table = Vec::with_capacity(count);
    for _entry in 0..count {
        let number = i32_at(bytes, at)?;
        at = at.checked_add(4)?;
        table.push((text(bytes, &mut at)?, number));
    }
    Some(table)
}
