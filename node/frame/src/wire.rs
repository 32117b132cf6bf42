//! The parts that requests and responses share: checked reads, headers, errors.

use std::fmt;

pub(crate) const VERSION: u8 = 1;
pub(crate) const ABSENT: u32 = u32::MAX;

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError(pub &'static str);

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for FrameError {}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

pub(crate) fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    u64_at(bytes, at).map(u64::cast_signed)
}

/// `length` bytes of `arena` from `start`; the inner `None` is an absent value.
pub(crate) fn slice(arena: &[u8], start: u32, length: u32) -> Option<Option<&[u8]>> {
    if length == ABSENT {
        return Some(None);
    }
    let start = start as usize;
    Some(Some(arena.get(start..start.checked_add(length as usize)?)?))
}

/// A text with its length before it; moves `at` past it.
pub(crate) fn text<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a str> {
    let length = u32_at(bytes, *at)? as usize;
    let start = at.checked_add(4)?;
    let end = start.checked_add(length)?;
    *at = end;
    std::str::from_utf8(bytes.get(start..end)?).ok()
}

/// Moves the arena behind entries of `each` bytes from `entries_at` on, when there is room for
/// more or fewer of them than before. The room is zeros.
pub(crate) fn move_arena(
    bytes: &mut Vec<u8>,
    entries_at: usize,
    (before, after): (usize, usize),
    each: usize,
) {
    let (from, to) = (entries_at + before * each, entries_at + after * each);
    let (end, arena) = (bytes.len(), bytes.len() - from);
    if from < to {
        bytes.resize(to + arena, 0);
        bytes.copy_within(from..end, to);
        // What lay there was copied on.
        let left = to.min(end);
        bytes[from..left].fill(0);
    } else if to < from {
        bytes.copy_within(from..end, to);
        bytes.truncate(to + arena);
    }
}

pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&length(text.as_bytes()).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A length as the wire has it.
///
/// # Panics
///
/// Beyond what a frame can hold (4 GiB): encoders are given bounded batches.
pub(crate) fn length(bytes: &[u8]) -> u32 {
    position(bytes.len())
}

pub(crate) fn position(length: usize) -> u32 {
    u32::try_from(length).ok().filter(|it| *it < ABSENT - 1).expect("a frame is below 4 GiB")
}

/// Encoded headers: names and values in order, duplicates kept.
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

    /// The encoded form, as [`parse`](Self::parse) takes it.
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

    /// Names and values, in order; a value may be null.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || next_header(&mut rest))
    }
}

fn next_header<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let name_length = u32_at(rest, 0)? as usize;
    let name = rest.get(4..name_length.checked_add(4)?)?;
    let value_at = name_length + 4;
    let (value, end) = match u32_at(rest, value_at)? {
        ABSENT => (None, value_at + 4),
        length => {
            let end = (value_at + 4).checked_add(length as usize)?;
            (Some(rest.get(value_at + 4..end)?), end)
        }
    };
    *rest = &rest[end..];
    Some((name, value))
}

/// Encodes headers one by one.
#[derive(Clone, Debug, Default)]
pub struct HeadersBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl HeadersBuilder {
    /// Adds a header at the end.
    pub fn push(&mut self, name: &[u8], value: Option<&[u8]>) {
        self.bytes.extend_from_slice(&length(name).to_le_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(&value.map_or(ABSENT, length).to_le_bytes());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.count += 1;
    }

    /// What was pushed.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        Headers { bytes: &self.bytes, count: self.count }
    }
}
