//! A disk for proofs: it remembers every write and sync, and gives the image that a power cut at
//! any moment could have left. What was not synced is lost, kept or torn at the whim of a seed.
//!
//! - Between two blocks of 4 KiB unsynced writes reach the disk in any order, or not at all.
//! - Within a block they reach it in order, but the last one that does may be torn: each sector
//!   of 512 bytes is the new one or the old one.
//! - A change of length that was not synced may be lost, and with it what lies beyond.
//! - A sync makes all that was written before it durable, unless it is of the kind to ignore.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// What may be reordered: a page of the file system.
const BLOCK: usize = 4096;
/// What is never torn: a sector of the drive.
const SECTOR: usize = 512;
/// Where redb keeps the bits that say which of its two commit slots counts.
const GOD_BYTE: usize = 9;
const PRIMARY: u8 = 1;

/// What a sync of redb is for, read off the writes since the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncKind {
    /// Before a commit is named: its pages and its slot.
    Pages,
    /// The switch to the new slot: after it, the commit is acknowledged.
    Switch,
    /// A longer file, before any page lies in the new part.
    Growth,
    /// The mark that the file is open or was closed, or nothing at all.
    Mark,
}

impl SyncKind {
    /// Every kind, in the order that [`crash_points_journal`](super::crash_points_journal)
    /// counts them.
    pub const ALL: [Self; 4] = [Self::Pages, Self::Switch, Self::Growth, Self::Mark];

    /// Whether the journal breaks without it. Each journal write has one [`Pages`](Self::Pages)
    /// and one [`Switch`](Self::Switch), and both are.
    ///
    /// redb 4.6 does without the others, because either covers for the other: a file whose mark
    /// says "open" has its layout rebuilt from its length, whatever the header says of it
    /// (`UnrepairedDatabaseHeader::finalize`); and a header that names a new length carries the
    /// mark in the same sector, so it never reaches the disk without it.
    #[must_use]
    pub const fn is_needed(self) -> bool {
        matches!(self, Self::Pages | Self::Switch)
    }
}

/// What happened to the disk, in order.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Write {
        at: u64,
        data: Arc<[u8]>,
    },
    Length(u64),
    Sync(SyncKind),
    /// The script handed over its step of this number.
    Asked(usize),
    /// The step of this number was acknowledged.
    Answered(usize),
}

#[derive(Debug, Default)]
struct Inner {
    image: Vec<u8>,
    events: Vec<Event>,
    recording: bool,
    /// Of the writes since the last sync.
    grew: bool,
    header: Option<(u8, u8)>,
}

/// The disk: clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
}

impl SimDisk {
    /// A disk with this content, all of it durable.
    #[must_use]
    pub fn with_image(image: Vec<u8>) -> Self {
        let inner = Inner { image, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the disk holds now, synced or not.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.inner().image.clone()
    }

    /// Starts to record from what the disk holds now.
    pub(super) fn record(&self) -> Vec<u8> {
        let mut inner = self.inner();
        inner.recording = true;
        inner.events.clear();
        inner.image.clone()
    }

    /// Notes a step of the script among the events.
    pub(super) fn note(&self, event: Event) {
        let mut inner = self.inner();
        if inner.recording {
            inner.events.push(event);
        }
    }

    /// What was recorded.
    pub(super) fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.inner().events)
    }
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.inner();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = inner.image.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.inner();
        let length = usize::try_from(len).map_err(io::Error::other)?;
        inner.grew |= inner.image.len() < length;
        inner.image.resize(length, 0);
        if inner.recording {
            inner.events.push(Event::Length(len));
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.inner();
        let kind = match inner.header.take() {
            Some((before, after)) if (before ^ after) & PRIMARY != 0 => SyncKind::Switch,
            Some((before, after)) if before == after => SyncKind::Pages,
            None if inner.grew => SyncKind::Growth,
            _ => SyncKind::Mark,
        };
        inner.grew = false;
        if inner.recording {
            inner.events.push(Event::Sync(kind));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.inner();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        if inner.image.len() < start + data.len() {
            inner.image.resize(start + data.len(), 0);
        }
        if let (0, Some(after)) = (start, data.get(GOD_BYTE)) {
            let before = inner.header.map_or(inner.image[GOD_BYTE], |(before, _)| before);
            inner.header = Some((before, *after));
        }
        inner.image[start..start + data.len()].copy_from_slice(data);
        if inner.recording {
            inner.events.push(Event::Write { at: offset, data: data.into() });
        }
        Ok(())
    }
}

/// A generator that is the same on every machine: splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is above zero.
    pub(super) const fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Walks along recorded events and gives crash images.
#[derive(Debug)]
pub(super) struct Replay<'a> {
    events: &'a [Event],
    at: usize,
    durable: Vec<u8>,
    /// Indexes of the events that no sync has covered yet.
    pending: Vec<usize>,
    ignored: Option<SyncKind>,
}

impl<'a> Replay<'a> {
    pub(super) const fn new(
        events: &'a [Event],
        durable: Vec<u8>,
        ignored: Option<SyncKind>,
    ) -> Self {
        Self { events, at: 0, durable, pending: Vec::new(), ignored }
    }

    /// Goes on until `to` events have happened.
    pub(super) fn advance(&mut self, to: usize) {
        while self.at < to {
            match &self.events[self.at] {
                Event::Write { .. } | Event::Length(_) => self.pending.push(self.at),
                Event::Sync(kind) if self.ignored != Some(*kind) => {
                    for index in self.pending.drain(..) {
                        match &self.events[index] {
                            Event::Length(length) => self.durable.resize(*length as usize, 0),
                            Event::Write { at, data } => put(&mut self.durable, *at, data),
                            _ => {}
                        }
                    }
                }
                Event::Sync(_) | Event::Asked(_) | Event::Answered(_) => {}
            }
            self.at += 1;
        }
    }

    /// How many writes a crash here may lose.
    pub(super) const fn unsynced(&self) -> usize {
        self.pending.len()
    }

    /// What a power cut here leaves, as `rng` has it.
    pub(super) fn crash(&self, rng: &mut Rng) -> Vec<u8> {
        let mut image = self.durable.clone();
        let mut lengths = Vec::new();
        let mut blocks: BTreeMap<u64, Vec<(u64, &[u8])>> = BTreeMap::new();
        for index in &self.pending {
            match &self.events[*index] {
                Event::Length(length) => lengths.push(*length as usize),
                Event::Write { at, data } => split_blocks(*at, data, &mut blocks),
                _ => {}
            }
        }
        // Any of the lengths the file had since the last sync may be the one that lasts.
        if let Some(chosen) = rng.below(lengths.len() + 1).checked_sub(1) {
            image.resize(lengths[chosen], 0);
        }
        let length = image.len();
        // One in four crashes keeps nearly all, one in four nearly nothing.
        let mood = rng.below(4);
        for writes in blocks.into_values() {
            let kept = match mood {
                0 if rng.below(16) != 0 => writes.len(),
                1 if rng.below(16) != 0 => 0,
                _ => rng.below(writes.len() + 1),
            };
            let Some((last, whole)) = writes[..kept].split_last() else { continue };
            whole.iter().for_each(|(at, data)| put_within(&mut image, length, *at, data));
            let torn = mood != 0 && rng.below(3) == 0;
            let (mut at, mut rest) = *last;
            while !rest.is_empty() {
                let room = SECTOR - at as usize % SECTOR;
                let (sector, left) = rest.split_at(rest.len().min(room));
                if !torn || rng.below(2) == 0 {
                    put_within(&mut image, length, at, sector);
                }
                at += sector.len() as u64;
                rest = left;
            }
        }
        image
    }
}

/// Cuts a write at the borders of blocks: each part reaches the disk on its own.
fn split_blocks<'a>(at: u64, data: &'a [u8], into: &mut BTreeMap<u64, Vec<(u64, &'a [u8])>>) {
    let (mut at, mut rest) = (at, data);
    while !rest.is_empty() {
        let room = BLOCK - at as usize % BLOCK;
        let (part, left) = rest.split_at(rest.len().min(room));
        into.entry(at / BLOCK as u64).or_default().push((at, part));
        at += part.len() as u64;
        rest = left;
    }
}

fn put(image: &mut Vec<u8>, at: u64, data: &[u8]) {
    let start = at as usize;
    if image.len() < start + data.len() {
        image.resize(start + data.len(), 0);
    }
    image[start..start + data.len()].copy_from_slice(data);
}

fn put_within(image: &mut [u8], length: usize, at: u64, data: &[u8]) {
    let start = (at as usize).min(length);
    let end = (start + data.len()).min(length);
    image[start..end].copy_from_slice(&data[..end - start]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &SimDisk, at: u64, byte: u8, length: usize) {
        disk.write(at, &vec![byte; length]).unwrap();
    }

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_go_either_way() {
        let disk = SimDisk::with_image(vec![0; 4 * BLOCK]);
        let start = disk.record();
        write(&disk, 0, 1, BLOCK);
        disk.sync_data().unwrap();
        write(&disk, BLOCK as u64, 2, 2 * BLOCK);
        let events = disk.take_events();
        let mut replay = Replay::new(&events, start, None);
        replay.advance(events.len());
        assert_eq!(replay.unsynced(), 1);
        let (mut lost, mut kept, mut reordered, mut torn) = (0, 0, 0, 0);
        for seed in 0..500 {
            let image = replay.crash(&mut Rng::new(seed));
            assert!(image[..BLOCK].iter().all(|byte| *byte == 1), "synced bytes stay");
            let block = |index: usize| &image[index * BLOCK..(index + 1) * BLOCK];
            let sum = |index: usize| block(index).iter().filter(|byte| **byte == 2).count();
            for sector in image[BLOCK..3 * BLOCK].chunks(SECTOR) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
            }
            match (sum(1), sum(2)) {
                (0, 0) => lost += 1,
                (BLOCK, BLOCK) => kept += 1,
                (0, BLOCK) => reordered += 1,
                (first, _) if first != 0 && first != BLOCK => torn += 1,
                _ => {}
            }
        }
        assert!(0 < lost && 0 < kept && 0 < reordered && 0 < torn);
    }

    #[test]
    fn a_sync_of_the_ignored_kind_makes_nothing_durable() {
        let disk = SimDisk::with_image(vec![0; BLOCK]);
        let start = disk.record();
        write(&disk, 1024, 1, SECTOR);
        disk.sync_data().unwrap();
        let events = disk.take_events();
        let mut replay = Replay::new(&events, start, Some(SyncKind::Mark));
        replay.advance(events.len());
        assert_eq!(replay.unsynced(), 1);
    }
}
