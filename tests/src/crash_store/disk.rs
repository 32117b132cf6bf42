//! A pure core: a disk that forgets. It is told what a process did to its files, and says what a
//! power cut would leave of them.
//!
//! - Of a file, what was written before its last sync is there. Of what was written since, each
//!   page of 4 KiB holds any of the versions it has had, or sectors of 512 B of two of them; its
//!   length is any it has had. So writes are lost, reordered and torn.
//! - Of a directory, names as of its last sync are there. Each name that was made, replaced or
//!   removed since is in any of the states it has had, whatever the others are: POSIX promises no
//!   order, although ext4 would keep one.
//! - A sync of a file does not make its name durable.

use std::collections::{BTreeMap, BTreeSet};

use super::trace::{Entry, What};
use crate::harness::rng::Rng;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// Syncs of the store, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SyncKind {
    /// The name of the store's directory.
    Store,
    /// The log of a new generation, before it is marked complete.
    NewLog,
    /// sled's settings file.
    Settings,
    /// The names in a new generation.
    Names,
    /// The name of a new generation.
    Generation,
    /// The name of the mark.
    Mark,
    /// The log at a commit.
    Commit,
}

impl SyncKind {
    pub(super) const ALL: [Self; 7] = [
        Self::Store,
        Self::NewLog,
        Self::Settings,
        Self::Names,
        Self::Generation,
        Self::Mark,
        Self::Commit,
    ];
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Fill { at: usize, count: usize, byte: u8 },
    Length(usize),
}

impl Change {
    /// The bytes it touches, of a file of `length`.
    fn span(&self, length: usize) -> std::ops::Range<usize> {
        match self {
            Self::Write { at, bytes } => *at..at + bytes.len(),
            Self::Fill { at, count, .. } => *at..at + count,
            Self::Length(to) => (*to).min(length)..length.max(*to),
        }
    }

    fn length_after(&self, length: usize) -> usize {
        match self {
            Self::Length(to) => *to,
            _ => length.max(self.span(length).end),
        }
    }

    /// Does it to the part of the file that starts at `from`.
    fn apply(&self, from: usize, part: &mut [u8]) {
        let end = from + part.len();
        let (span, byte) = match self {
            Self::Write { at, bytes } => {
                let (first, last) = ((*at).max(from), (at + bytes.len()).min(end));
                if first < last {
                    part[first - from..last - from].copy_from_slice(&bytes[first - at..last - at]);
                }
                return;
            }
            Self::Fill { at, count, byte } => (*at..at + count, *byte),
            Self::Length(to) => (*to..end, 0),
        };
        let (first, last) = (span.start.clamp(from, end), span.end.clamp(from, end));
        part[first - from..last.max(first) - from].fill(byte);
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    since: Vec<Change>,
    length: usize,
}

impl File {
    fn change(&mut self, change: Change) {
        self.length = change.length_after(self.length);
        self.since.push(change);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.since) {
            let length = change.length_after(self.durable.len());
            self.durable.resize(length, 0);
            change.apply(0, &mut self.durable);
        }
    }

    /// What a power cut leaves, and whether that is less than all.
    fn cut(&self, rng: &mut Rng, mood: Mood) -> (Vec<u8>, bool) {
        let mut lengths = vec![self.durable.len()];
        let mut dirty = BTreeSet::new();
        for change in &self.since {
            let before = *lengths.last().unwrap_or(&0);
            let span = change.span(before);
            if !span.is_empty() {
                dirty.extend(span.start / PAGE..=(span.end - 1) / PAGE);
            }
            lengths.push(change.length_after(before));
        }
        let length = lengths[mood.version(rng, lengths.len())];
        let (mut content, mut lost) = (self.durable.clone(), length != self.length);
        content.resize(length, 0);
        for page in dirty {
            let from = page * PAGE;
            if length <= from {
                continue;
            }
            let mut version = [0; PAGE];
            let there = self.durable.get(from..).unwrap_or_default();
            let there = &there[..there.len().min(PAGE)];
            version[..there.len()].copy_from_slice(there);
            let mut versions = vec![version];
            let mut before = self.durable.len();
            for change in &self.since {
                let span = change.span(before);
                before = change.length_after(before);
                if span.start < from + PAGE && from < span.end {
                    change.apply(from, &mut version);
                    versions.push(version);
                }
            }
            let chosen = mood.version(rng, versions.len());
            let mut kept = versions[chosen];
            if mood == Mood::Mixed && rng.draw(4) == 0 {
                let other = versions[rng.draw(versions.len() as u64) as usize];
                for sector in (0..PAGE).step_by(SECTOR).filter(|_| rng.draw(2) == 0) {
                    kept[sector..sector + SECTOR].copy_from_slice(&other[sector..sector + SECTOR]);
                }
            }
            lost |= kept != versions[versions.len() - 1];
            let end = length.min(from + PAGE);
            content[from..end].copy_from_slice(&kept[..end - from]);
        }
        (content, lost)
    }
}

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug, Default)]
struct Directory {
    durable: Names,
    now: Names,
    since: Vec<(String, Option<usize>)>,
}

impl Directory {
    fn change(&mut self, name: &str, to: Option<usize>) {
        match to {
            Some(node) => drop(self.now.insert(name.to_owned(), node)),
            None => drop(self.now.remove(name)),
        }
        self.since.push((name.to_owned(), to));
    }

    fn sync(&mut self) {
        self.durable = self.now.clone();
        self.since.clear();
    }

    fn cut(&self, rng: &mut Rng, mood: Mood) -> (Names, bool) {
        let mut names = self.durable.clone();
        let changed: BTreeSet<&String> = self.since.iter().map(|(name, _)| name).collect();
        for name in changed {
            let mut states = vec![self.durable.get(name).copied()];
            states.extend(self.since.iter().filter(|it| it.0 == *name).map(|it| it.1));
            match states[mood.version(rng, states.len())] {
                Some(node) => drop(names.insert(name.clone(), node)),
                None => drop(names.remove(name)),
            }
        }
        let lost = names != self.now;
        (names, lost)
    }
}

#[derive(Clone, Debug)]
enum Node {
    File(File),
    Directory(Directory),
}

/// How much a power cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// All that was not synced.
    Everything,
    /// Nothing.
    Nothing,
    Mixed,
}

impl Mood {
    /// Which of `count` versions is left, the oldest first.
    fn version(self, rng: &mut Rng, count: usize) -> usize {
        match self {
            Self::Everything => 0,
            Self::Nothing => count - 1,
            Self::Mixed => rng.draw(count as u64) as usize,
        }
    }
}

/// What is left of the files, by name below the root; `None` is a directory.
pub(super) type Image = BTreeMap<String, Option<Vec<u8>>>;

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Disk {
    nodes: Vec<Node>,
    /// What each descriptor is open on.
    open: BTreeMap<i32, (usize, String)>,
    /// Syncs of this kind do nothing.
    dropped: Option<SyncKind>,
    pub(super) syncs: [u64; SyncKind::ALL.len()],
}

const ROOT: usize = 0;

impl Disk {
    pub(super) fn new(dropped: Option<SyncKind>) -> Self {
        let nodes = vec![Node::Directory(Directory::default())];
        Self { nodes, open: BTreeMap::new(), dropped, syncs: [0; _] }
    }

    /// Where a name leads now.
    fn find(&self, name: &str) -> Option<usize> {
        name.split('/').filter(|it| !it.is_empty()).try_fold(ROOT, |at, part| {
            match &self.nodes[at] {
                Node::Directory(directory) => directory.now.get(part).copied(),
                Node::File(_) => None,
            }
        })
    }

    fn rename(&mut self, name: &str, to: Option<usize>) -> Option<()> {
        let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
        let parent = self.find(parent)?;
        let Node::Directory(directory) = &mut self.nodes[parent] else { return None };
        directory.change(last, to);
        Some(())
    }

    fn make(&mut self, name: &str, node: Node) -> Option<usize> {
        self.nodes.push(node);
        let made = self.nodes.len() - 1;
        self.rename(name, Some(made))?;
        Some(made)
    }

    /// Does what the process did; `None` when that is impossible.
    pub(super) fn on_entry(&mut self, entry: &Entry) -> Option<()> {
        match &entry.what {
            What::Open { name, is_new, truncates } => {
                let node = match self.find(name) {
                    Some(node) => node,
                    None if *is_new => self.make(name, Node::File(File::default()))?,
                    None => return None,
                };
                self.open.insert(entry.fd, (node, name.clone()));
                if *truncates {
                    self.change(entry.fd, Change::Length(0))?;
                }
            }
            What::Close => drop(self.open.remove(&entry.fd)?),
            What::Write { at, bytes } => {
                self.change(entry.fd, Change::Write { at: *at, bytes: bytes.clone() })?;
            }
            What::Fill { at, count, byte } => {
                let change = Change::Fill { at: *at, count: *count, byte: *byte };
                self.change(entry.fd, change)?;
            }
            What::Length(to) => self.change(entry.fd, Change::Length(*to))?,
            What::Sync { is_data } => self.sync(entry.fd, *is_data)?,
            What::Range => {}
            What::MakeDir(name) => {
                self.make(name, Node::Directory(Directory::default()))?;
            }
            What::Remove(name) => self.rename(name, None)?,
            What::Rename { from, to } => {
                let node = self.find(from)?;
                self.rename(from, None)?;
                self.rename(to, Some(node))?;
            }
        }
        Some(())
    }

    fn change(&mut self, fd: i32, change: Change) -> Option<()> {
        let (node, _) = self.open.get(&fd)?;
        let Node::File(file) = &mut self.nodes[*node] else { return None };
        file.change(change);
        Some(())
    }

    fn sync(&mut self, fd: i32, is_data: bool) -> Option<()> {
        let (node, name) = self.open.get(&fd)?;
        let kind = self.kind(name, *node, is_data);
        if let Some(kind) = kind {
            self.syncs[kind as usize] += 1;
        }
        if kind.is_none() || kind != self.dropped {
            match &mut self.nodes[*node] {
                Node::File(file) => file.sync(),
                Node::Directory(directory) => directory.sync(),
            }
        }
        Some(())
    }

    /// What a sync is for; `None` is one of sled's own.
    fn kind(&self, name: &str, node: usize, is_data: bool) -> Option<SyncKind> {
        let file = name.rsplit('/').next().unwrap_or_default();
        match &self.nodes[node] {
            Node::File(_) if is_data && file == "db" => Some(SyncKind::Commit),
            Node::File(_) if file == "db" => Some(SyncKind::NewLog),
            Node::File(_) if file == "conf" => Some(SyncKind::Settings),
            Node::Directory(_) if name.is_empty() => Some(SyncKind::Store),
            Node::Directory(_) if !name.contains('/') => Some(SyncKind::Generation),
            Node::Directory(it) if it.now.contains_key("complete") => Some(SyncKind::Mark),
            Node::Directory(_) => Some(SyncKind::Names),
            Node::File(_) => None,
        }
    }

    /// What a power cut leaves, and whether anything was lost. `skip` is a file beside the store
    /// that is not looked at.
    pub(super) fn cut(&self, seed: u64, skip: &str) -> (Image, bool) {
        let mut rng = Rng::new(seed, 2);
        let mood = match rng.draw(6) {
            0 => Mood::Everything,
            1 => Mood::Nothing,
            _ => Mood::Mixed,
        };
        self.image(&mut rng, mood, skip)
    }

    /// Every file as the process saw it.
    pub(super) fn seen(&self, skip: &str) -> Image {
        self.image(&mut Rng::new(0, 0), Mood::Nothing, skip).0
    }

    fn image(&self, rng: &mut Rng, mood: Mood, skip: &str) -> (Image, bool) {
        let (mut image, mut lost) = (Image::new(), false);
        let mut left = vec![(String::new(), ROOT)];
        while let Some((name, node)) = left.pop() {
            match &self.nodes[node] {
                Node::File(file) => {
                    let (content, lost_here) = file.cut(rng, mood);
                    lost |= lost_here;
                    image.insert(name, Some(content));
                }
                Node::Directory(directory) => {
                    let (names, lost_here) = directory.cut(rng, mood);
                    lost |= lost_here;
                    let below = names.into_iter().filter(|it| it.0 != skip);
                    left.extend(below.map(|(last, node)| {
                        let name = if name.is_empty() { last } else { format!("{name}/{last}") };
                        (name, node)
                    }));
                    image.insert(name, None);
                }
            }
        }
        (image, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(disk: &mut Disk, fd: i32, what: What) {
        disk.on_entry(&Entry { what, fd }).expect("it is possible");
    }

    fn open(disk: &mut Disk, fd: i32, name: &str, is_new: bool) {
        done(disk, fd, What::Open { name: name.to_owned(), is_new, truncates: false });
    }

    /// Every image of a hundred cuts.
    fn images(disk: &Disk) -> BTreeSet<Option<Vec<u8>>> {
        (0..100).map(|seed| disk.cut(seed, "").0.get("file").cloned().flatten()).collect()
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_anything() {
        let mut disk = Disk::new(None);
        open(&mut disk, 3, "file", true);
        done(&mut disk, 3, What::Write { at: 0, bytes: vec![1; 512] });
        assert!(images(&disk).contains(&None), "a name that was not synced may be missing");
        done(&mut disk, 3, What::Sync { is_data: true });
        open(&mut disk, 4, "", false);
        done(&mut disk, 4, What::Sync { is_data: false });
        assert_eq!(images(&disk), BTreeSet::from([Some(vec![1; 512])]));
        done(&mut disk, 3, What::Write { at: 0, bytes: vec![2; 512] });
        let either = BTreeSet::from([Some(vec![1; 512]), Some(vec![2; 512])]);
        assert_eq!(images(&disk), either);
        done(&mut disk, 3, What::Range);
        assert_eq!(images(&disk), either, "sync_file_range is no sync");
    }

    #[test]
    fn pages_are_reordered_and_sectors_torn() {
        let mut disk = Disk::new(None);
        open(&mut disk, 3, "file", true);
        done(&mut disk, 3, What::Fill { at: 0, count: 2 * PAGE, byte: 1 });
        done(&mut disk, 3, What::Sync { is_data: true });
        open(&mut disk, 4, "", false);
        done(&mut disk, 4, What::Sync { is_data: false });
        for at in [0, PAGE] {
            done(&mut disk, 3, What::Write { at, bytes: vec![2; PAGE] });
        }
        let images: Vec<Vec<u8>> = images(&disk).into_iter().flatten().collect();
        let pages = |image: &Vec<u8>| (image[0], image[PAGE]);
        assert!(images.iter().any(|it| pages(it) == (1, 2)), "the second page came first");
        let torn = |image: &&Vec<u8>| image[..PAGE].iter().any(|it| *it != image[0]);
        let image = images.iter().find(torn).expect("a page is torn");
        assert!(image.chunks(SECTOR).all(|it| it.iter().all(|byte| *byte == it[0])));
    }

    #[test]
    fn a_shortened_file_is_long_or_short() {
        let mut disk = Disk::new(None);
        open(&mut disk, 3, "file", true);
        done(&mut disk, 3, What::Write { at: 0, bytes: vec![1; 100] });
        done(&mut disk, 3, What::Sync { is_data: false });
        open(&mut disk, 4, "", false);
        done(&mut disk, 4, What::Sync { is_data: false });
        done(&mut disk, 3, What::Length(10));
        done(&mut disk, 3, What::Length(20));
        let lengths: BTreeSet<usize> = images(&disk).iter().flatten().map(Vec::len).collect();
        assert_eq!(lengths, BTreeSet::from([10, 20, 100]));
        let seen = disk.seen("");
        assert_eq!(seen["file"].as_deref(), Some(&[[1; 10], [0; 10]].concat()[..]));
    }
}
