//! What tests/preload/trace.c wrote down: every operation of the process on the files below its
//! root, in order, with the data.

use crate::promise::{NotShown, broken};

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) what: What,
    /// The file descriptor, where one is meant.
    pub(super) fd: i32,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Open {
        name: String,
        is_new: bool,
        truncates: bool,
    },
    Close,
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    /// So many times one byte.
    Fill {
        at: usize,
        count: usize,
        byte: u8,
    },
    Length(usize),
    /// `fsync`, or `fdatasync` where `is_data`.
    Sync {
        is_data: bool,
    },
    /// `sync_file_range`: no sync, a power cut does not respect it.
    Range,
    MakeDir(String),
    Rename {
        from: String,
        to: String,
    },
    /// A file, or an empty directory.
    Remove(String),
}

const HEAD: usize = 32;
/// `O_TRUNC` on Linux, x86-64 and arm64 alike.
const TRUNCATE: u64 = 0o1000;

/// Reads a whole trace.
///
/// # Errors
///
/// When it is not one.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Vec<Entry>, NotShown> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (entry, rest) = split(bytes)
            .ok_or_else(|| broken(format!("entry {} of the trace is not one", entries.len())))?;
        entries.push(entry);
        bytes = rest;
    }
    Ok(entries)
}

fn split(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let u32_at = |at: usize| Some(u32::from_ne_bytes(head[at..at + 4].try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(head[at..at + 8].try_into().ok()?));
    let (kind, fd) = (u32_at(0)?, u32_at(4)?.cast_signed());
    let (a, b) = (u64_at(8)?, u64_at(16)?);
    let (name, rest) = rest.split_at_checked(u32_at(24)? as usize)?;
    let (data, rest) = rest.split_at_checked(u32_at(28)? as usize)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    let (at, count) = (usize::try_from(a).ok()?, usize::try_from(b).ok()?);
    let what = match kind {
        1 => What::Open { name, is_new: b != 0, truncates: a & TRUNCATE != 0 },
        2 => What::Close,
        3 => What::Write { at, bytes: data.to_vec() },
        4 => What::Fill { at, count, byte: *data.first()? },
        5 => What::Length(at),
        6 => What::Sync { is_data: false },
        7 => What::Sync { is_data: true },
        8 => What::Range,
        9 => What::MakeDir(name),
        10 => What::Rename { from: name, to: String::from_utf8(data.to_vec()).ok()? },
        11 | 12 => What::Remove(name),
        _ => return None,
    };
    Some((Entry { what, fd }, rest))
}
