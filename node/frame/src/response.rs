//! What a function made of a batch: how every record ended, its outputs and its failures.

use crate::wire::{
    ABSENT, FrameError, Headers, VERSION, i32_at, length, move_arena, position, slice, u16_at,
    u32_at, u64_at,
};

const KIND: u8 = 2;
const HEAD: usize = 48;
const OUTPUT: usize = 48;
const FAILURE: usize = 24;
/// A key's length that means "the source record's key".
const KEEP: u32 = ABSENT - 1;

const NOT_RUN: u8 = 0;
const OK: u8 = 1;
const FAILED: u8 = 2;

/// How one record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'a> {
    /// Its outputs count.
    Ok,
    /// It alone is tried again.
    Failed {
        /// A name for this kind of failure, such as `Reading.Malformed`.
        code: &'a str,
        /// What happened.
        message: &'a str,
    },
    /// It was left alone, because of an earlier record of its key or partition.
    NotRun,
}

/// The key of an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputKey<'a> {
    /// The source record's, or none if that has none.
    #[default]
    Keep,
    /// None.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
}

/// One record that the function gives to a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output<'a> {
    /// The index of the record it came from.
    pub source: u32,
    /// Where to; `None` is the trigger's output topic.
    pub topic: Option<&'a str>,
    /// Its key.
    pub key: OutputKey<'a>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its encoded headers.
    pub headers: Headers<'a>,
    /// Its partition; `None` follows from the key.
    pub partition: Option<i32>,
}

/// Gathers results into a response. Records start as not run.
///
/// ```text
/// head | ends | outputs, and room for more | arena
/// ```
#[derive(Debug)]
pub struct ResponseBuilder {
    batch_id: u64,
    records: usize,
    bytes: Vec<u8>,
    outputs: usize,
    /// Outputs that fit before the arena.
    room: usize,
    failures: Vec<u8>,
}

impl ResponseBuilder {
    /// Starts the response to a request of this id and this many records.
    #[must_use]
    pub fn new(batch_id: u64, records: usize) -> Self {
        let bytes = vec![0; HEAD + records];
        Self { batch_id, records, bytes, outputs: 0, room: 0, failures: Vec::new() }
    }

    /// As [`new`](Self::new), with room for an output of each record, `arena_bytes` in all, where
    /// there is memory for it.
    #[must_use]
    pub fn with_room(batch_id: u64, records: usize, arena_bytes: usize) -> Self {
        let mut bytes = Vec::new();
        let wanted = HEAD + records + records * OUTPUT + arena_bytes;
        if bytes.try_reserve_exact(wanted).is_err() {
            return Self::new(batch_id, records);
        }
        bytes.resize(HEAD + records + records * OUTPUT, 0);
        Self { batch_id, records, bytes, outputs: 0, room: records, failures: Vec::new() }
    }

    /// The record at `index` ended well.
    ///
    /// # Panics
    ///
    /// When there is no such record; so for the two below.
    pub fn ok(&mut self, index: usize) {
        self.end(index, OK);
    }

    /// The record at `index` was left alone.
    pub fn not_run(&mut self, index: usize) {
        self.end(index, NOT_RUN);
    }

    fn end(&mut self, index: usize, end: u8) {
        self.bytes[HEAD..HEAD + self.records][index] = end;
    }

    /// The record at `index` failed. Say so once.
    pub fn failed(&mut self, index: usize, code: &str, message: &str) {
        self.end(index, FAILED);
        let record = position(index);
        let code = (self.keep(code.as_bytes()), length(code.as_bytes()));
        let message = (self.keep(message.as_bytes()), length(message.as_bytes()));
        for word in [record, code.0, code.1, message.0, message.1, 0] {
            self.failures.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Adds an output of a record that ends ok. Sources ascend.
    pub fn output(&mut self, output: &Output<'_>) {
        if self.outputs == self.room {
            self.set_room((2 * self.room).max(4));
        }
        let topic = self.keep_some(output.topic.map(str::as_bytes));
        let key = match output.key {
            OutputKey::Keep => (0, KEEP),
            OutputKey::None => (0, ABSENT),
            OutputKey::Bytes(bytes) => self.keep_some(Some(bytes)),
        };
        let value = self.keep_some(output.value);
        let headers = self.keep_some(Some(output.headers.as_bytes()));
        let partition = output.partition.unwrap_or(-1).cast_unsigned();
        let words = [
            output.source,
            partition,
            topic.0,
            topic.1,
            key.0,
            key.1,
            value.0,
            value.1,
            headers.0,
            headers.1,
            output.headers.len(),
            0,
        ];
        let at = self.outputs_at() + self.outputs * OUTPUT;
        let places = self.bytes[at..at + OUTPUT].chunks_exact_mut(4);
        for (word, place) in words.iter().zip(places) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.outputs += 1;
    }

    /// How many outputs there are, to take back what a failed record left behind with
    /// [`truncate_outputs`](Self::truncate_outputs).
    #[must_use]
    pub const fn outputs_mark(&self) -> usize {
        self.outputs
    }

    /// Forgets the outputs added since `mark`.
    pub fn truncate_outputs(&mut self, mark: usize) {
        self.outputs = self.outputs.min(mark);
    }

    const fn outputs_at(&self) -> usize {
        HEAD + self.records
    }

    const fn arena_at(&self) -> usize {
        self.outputs_at() + self.room * OUTPUT
    }

    fn set_room(&mut self, room: usize) {
        let outputs_at = self.outputs_at();
        move_arena(&mut self.bytes, outputs_at, (self.room, room), OUTPUT);
        self.room = room;
    }

    /// The frame.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let arena_bytes = self.bytes.len() - self.arena_at();
        // Room for outputs that did not come stays before the arena, where moving that costs more.
        if arena_bytes < (self.room - self.outputs) * OUTPUT {
            self.set_room(self.outputs);
        }
        let failures_at = self.outputs_at() + self.outputs * OUTPUT;
        let counts = [self.records, self.outputs, self.failures.len() / FAILURE];
        let mut arena_at = self.arena_at();
        let mut bytes = self.bytes;
        if !self.failures.is_empty() {
            bytes.splice(failures_at..arena_at, self.failures.iter().copied());
            arena_at = failures_at + self.failures.len();
        }
        let places = [HEAD, HEAD + self.records, failures_at, arena_at, bytes.len()];
        bytes[0..2].copy_from_slice(&[VERSION, KIND]);
        for (index, word) in [FAILURE as u16, HEAD as u16, OUTPUT as u16].into_iter().enumerate() {
            bytes[2 + 2 * index..4 + 2 * index].copy_from_slice(&word.to_le_bytes());
        }
        bytes[8..16].copy_from_slice(&self.batch_id.to_le_bytes());
        let words = counts.into_iter().chain(places);
        for (word, place) in words.zip(bytes[16..HEAD].chunks_exact_mut(4)) {
            place.copy_from_slice(&position(word).to_le_bytes());
        }
        bytes
    }

    fn keep(&mut self, bytes: &[u8]) -> u32 {
        let at = position(self.bytes.len() - self.arena_at());
        self.bytes.extend_from_slice(bytes);
        at
    }

    fn keep_some(&mut self, bytes: Option<&[u8]>) -> (u32, u32) {
        bytes.map_or((0, ABSENT), |bytes| (self.keep(bytes), length(bytes)))
    }
}

/// A checked response.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    ends: &'a [u8],
    outputs: &'a [u8],
    output_length: usize,
    failures: Vec<(u32, &'a str, &'a str)>,
    arena: &'a [u8],
}

impl<'a> Response<'a> {
    /// Checks `bytes` as the response to the batch `batch_id` of `records` records.
    ///
    /// # Errors
    ///
    /// What is wrong with them (FC-3, FC-4, FC-5).
    pub fn parse(bytes: &'a [u8], batch_id: u64, records: usize) -> Result<Self, FrameError> {
        Self::parse_with(bytes, batch_id, records, |_output| ())
    }

    /// The same, and shows each output while it is at hand, up to the first that is wrong.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse): then what was shown is worth nothing.
    pub fn parse_with(
        bytes: &'a [u8],
        batch_id: u64,
        records: usize,
        each: impl FnMut(&Output<'a>),
    ) -> Result<Self, FrameError> {
        let this = Self::parse_again(bytes, batch_id, records)?;
        this.check_outputs(each)?;
        Ok(this)
    }

    /// The same for bytes that [`parse`](Self::parse) has accepted: looks at no output.
    ///
    /// # Errors
    ///
    /// As `parse`, but for what is wrong with outputs: [`outputs`](Self::outputs) panics then.
    pub fn parse_again(bytes: &'a [u8], batch_id: u64, records: usize) -> Result<Self, FrameError> {
        let head = bytes.get(..HEAD).ok_or(FrameError("an answer shorter than its head"))?;
        if head[0] != VERSION || head[1] != KIND {
            return Err(FrameError("not an answer of a known version"));
        }
        let short = |at| usize::from(u16_at(head, at).unwrap_or_default());
        let word = |at| u32_at(head, at).map_or(0, |it| it as usize);
        let (failure_length, output_length) = (short(2), short(6));
        if short(4) < HEAD || output_length < OUTPUT || failure_length < FAILURE {
            return Err(FrameError("a head or entry shorter than version 1 has"));
        }
        if word(44) != bytes.len() {
            return Err(FrameError("an answer longer or shorter than it says"));
        }
        if u64_at(head, 8) != Some(batch_id) || word(16) != records {
            return Err(FrameError("an answer to another batch"));
        }
        let part = |at: usize, count: usize, each: usize| {
            let end = count.checked_mul(each).and_then(|it| it.checked_add(at));
            end.and_then(|end| bytes.get(at..end)).ok_or(FrameError("an answer cut short"))
        };
        let ends = part(word(28), records, 1)?;
        let outputs = part(word(32), word(20), output_length)?;
        let failures = part(word(36), word(24), failure_length)?;
        let arena = bytes.get(word(40)..).ok_or(FrameError("an answer cut short"))?;
        let failures = parse_failures(failures, failure_length, arena, ends)?;
        Ok(Self { ends, outputs, output_length, failures, arena })
    }

    /// How the record at `index` ended.
    ///
    /// # Panics
    ///
    /// When there is no such record.
    #[must_use]
    pub fn end(&self, index: usize) -> End<'a> {
        match self.ends[index] {
            OK => End::Ok,
            FAILED => {
                let found = self.failures.binary_search_by_key(&index, |(it, ..)| *it as usize);
                let (_, code, message) = self.failures[found.expect("FC-3 was checked")];
                End::Failed { code, message }
            }
            _ => End::NotRun,
        }
    }

    /// Whether every record ended ok: what a batch is most of the time.
    #[must_use]
    pub fn all_ok(&self) -> bool {
        self.ends.iter().all(|end| *end == OK)
    }

    /// The outputs, ascending by source.
    pub fn outputs(&self) -> impl Iterator<Item = Output<'a>> + '_ {
        self.outputs
            .chunks_exact(self.output_length)
            .map(|entry| output(entry, self.arena).expect("every entry was checked"))
    }

    fn check_outputs(&self, mut each: impl FnMut(&Output<'a>)) -> Result<(), FrameError> {
        let mut last = 0;
        // FC-5: what is left of the arena for the next entry to claim.
        let mut room = self.arena.len();
        let mut claim = |bytes: usize| {
            let left = room.checked_sub(bytes);
            room = left.ok_or(FrameError("entries that claim more bytes than the answer has"))?;
            Ok(())
        };
        for (_record, code, message) in &self.failures {
            claim(code.len())?;
            claim(message.len())?;
        }
        for entry in self.outputs.chunks_exact(self.output_length) {
            let output = output(entry, self.arena)
                .ok_or(FrameError("an output that points outside the answer"))?;
            if output.source < last {
                return Err(FrameError("outputs that do not ascend by source"));
            }
            last = output.source;
            claim(output.topic.map_or(0, str::len))?;
            claim(output.value.map_or(0, <[u8]>::len))?;
            claim(output.headers.as_bytes().len())?;
            if let OutputKey::Bytes(key) = output.key {
                claim(key.len())?;
            }
            match self.ends.get(output.source as usize) {
                Some(&OK) => each(&output),
                Some(_) => return Err(FrameError("an output of a record that did not end ok")),
                None => return Err(FrameError("an output of a record that is not in the batch")),
            }
        }
        Ok(())
    }
}

fn parse_failures<'a>(
    entries: &'a [u8],
    each: usize,
    arena: &'a [u8],
    ends: &[u8],
) -> Result<Vec<(u32, &'a str, &'a str)>, FrameError> {
    if ends.iter().any(|end| FAILED < *end) {
        return Err(FrameError("a record with an unknown end"));
    }
    let mut failures = Vec::with_capacity(entries.len() / each);
    for entry in entries.chunks_exact(each) {
        failures.push(failure(entry, arena).ok_or(FrameError("a failure that is not readable"))?);
    }
    failures.sort_unstable_by_key(|(record, ..)| *record);
    let failed = ends.iter().enumerate().filter(|(_, end)| **end == FAILED);
    let named = failures.iter().map(|(record, ..)| *record as usize);
    if failed.map(|(index, _)| index).eq(named) {
        Ok(failures)
    } else {
        Err(FrameError("failures that do not match the failed records"))
    }
}

fn failure<'a>(entry: &[u8], arena: &'a [u8]) -> Option<(u32, &'a str, &'a str)> {
    let word = |at| u32_at(entry, at);
    let code = slice(arena, word(4)?, word(8)?)??;
    let message = slice(arena, word(12)?, word(16)?)??;
    Some((word(0)?, std::str::from_utf8(code).ok()?, std::str::from_utf8(message).ok()?))
}

fn output<'a>(entry: &[u8], arena: &'a [u8]) -> Option<Output<'a>> {
    let word = |at| u32_at(entry, at);
    let topic = match slice(arena, word(8)?, word(12)?)? {
        Some(bytes) => Some(std::str::from_utf8(bytes).ok()?),
        None => None,
    };
    let key = match word(20)? {
        KEEP => OutputKey::Keep,
        ABSENT => OutputKey::None,
        length => OutputKey::Bytes(slice(arena, word(16)?, length)??),
    };
    let headers = slice(arena, word(32)?, word(36)?)?.unwrap_or_default();
    Some(Output {
        source: word(0)?,
        topic,
        key,
        value: slice(arena, word(24)?, word(28)?)?,
        headers: Headers::parse(headers, word(40)?)?,
        partition: match i32_at(entry, 4)? {
            -1 => None,
            partition if 0 <= partition => Some(partition),
            _ => return None,
        },
    })
}
