//! A redb storage backend that shows a file as it lies on disk and keeps every write to itself.
//! A stopped node's journal is opened in place this way: redb may repair what a kill left behind,
//! but the node still finds the file exactly as it died with it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use redb::StorageBackend;

const PAGE: usize = 4096;

/// The file, and what was written over it in memory.
#[derive(Debug)]
pub struct Overlay {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    /// Of the file that redb sees.
    length: u64,
    /// Beyond this, the file beneath is not looked at (it was cut, or ended).
    beneath: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Overlay {
    /// Opens `path` for reading.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let written = Written { length, beneath: length, pages: BTreeMap::new() };
        Ok(Self { file, written: Mutex::new(written) })
    }

    fn written(&self) -> Result<MutexGuard<'_, Written>, Error> {
        self.written.lock().map_err(|_| Error::other("a writer panicked"))
    }

    /// A page as the file beneath has it, zeros where it ends.
    fn beneath(&self, page: u64, beneath: u64) -> Result<Box<[u8; PAGE]>, Error> {
        let mut bytes = Box::new([0; PAGE]);
        let start = page * PAGE as u64;
        let there = usize::try_from(beneath.saturating_sub(start)).unwrap_or(PAGE).min(PAGE);
        self.file.read_exact_at(&mut bytes[..there], start)?;
        Ok(bytes)
    }
}

/// The parts of `start..start + length` by page: page, offset in it, how many bytes.
fn parts(start: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = start;
    let end = start + length as u64;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let page = at / PAGE as u64;
            let inside = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let count = (PAGE - inside).min(usize::try_from(end - at).unwrap_or(PAGE));
            at += count as u64;
            (page, inside, count)
        })
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.written()?.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let written = self.written()?;
        if offset.checked_add(out.len() as u64).is_none_or(|end| written.length < end) {
            return Err(Error::new(ErrorKind::UnexpectedEof, "read beyond the end"));
        }
        let end = offset + out.len() as u64;
        if end <= written.beneath
            && written.pages.range(offset / PAGE as u64..end.div_ceil(PAGE as u64)).next().is_none()
        {
            return self.file.read_exact_at(out, offset);
        }
        let mut rest = out;
        for (page, inside, count) in parts(offset, rest.len()) {
            let (into, left) = rest.split_at_mut(count);
            match written.pages.get(&page) {
                Some(bytes) => into.copy_from_slice(&bytes[inside..inside + count]),
                None => {
                    let bytes = self.beneath(page, written.beneath)?;
                    into.copy_from_slice(&bytes[inside..inside + count]);
                }
            }
            rest = left;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let mut written = self.written()?;
        if len < written.length {
            written.beneath = written.beneath.min(len);
            let kept = len.div_ceil(PAGE as u64);
            drop(written.pages.split_off(&kept));
            let inside = usize::try_from(len % PAGE as u64).unwrap_or(0);
            if inside != 0
                && let Some(bytes) = written.pages.get_mut(&(kept - 1))
            {
                bytes[inside..].fill(0);
            }
        }
        written.length = len;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut written = self.written()?;
        let beneath = written.beneath;
        let mut rest = data;
        for (page, inside, count) in parts(offset, data.len()) {
            let (from, left) = rest.split_at(count);
            let bytes = match written.pages.entry(page) {
                Entry::Occupied(held) => held.into_mut(),
                Entry::Vacant(free) => free.insert(self.beneath(page, beneath)?),
            };
            bytes[inside..inside + count].copy_from_slice(from);
            rest = left;
        }
        written.length = written.length.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::rng::Rng;

    /// The simplest model of a file: a vector.
    #[test]
    fn it_reads_what_was_written_and_leaves_the_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let original: Vec<u8> = (0..20_000_u32).map(|it| it.to_le_bytes()[0]).collect();
        std::fs::write(&path, &original).unwrap();
        let overlay = Overlay::open(&path).unwrap();
        let mut model = original.clone();
        let mut rng = Rng::new(7, 0);
        for _step in 0..2_000 {
            let at = usize::try_from(rng.draw(30_000)).unwrap();
            let count = usize::try_from(rng.draw(9_000)).unwrap();
            match rng.draw(10) {
                0 => {
                    model.resize(at, 0);
                    overlay.set_len(at as u64).unwrap();
                }
                1..5 => {
                    let byte = rng.draw(256).to_le_bytes()[0];
                    let at = at.min(model.len());
                    model.resize(model.len().max(at + count), 0);
                    model[at..at + count].fill(byte);
                    overlay.write(at as u64, &vec![byte; count]).unwrap();
                }
                _ => {
                    let mut out = vec![0xaa; count];
                    let read = overlay.read(at as u64, &mut out);
                    match model.get(at..at + count) {
                        Some(expected) => assert_eq!((read.is_ok(), &out[..]), (true, expected)),
                        None => assert!(read.is_err()),
                    }
                }
            }
            assert_eq!(overlay.len().unwrap(), model.len() as u64);
        }
        assert_eq!(std::fs::read(&path).unwrap(), original);
    }

    #[test]
    fn redb_finds_its_tables_through_it() {
        const TABLE: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("table");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let database = redb::Database::create(&path).unwrap();
        let writing = database.begin_write().unwrap();
        writing.open_table(TABLE).unwrap().insert(1, 2).unwrap();
        writing.commit().unwrap();
        // As a kill leaves it: copied while open, so that it has to be repaired.
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        let before = std::fs::read(&copy).unwrap();
        let overlay = Overlay::open(&copy).unwrap();
        let opened = redb::Database::builder().create_with_backend(overlay).unwrap();
        let reading = redb::ReadableDatabase::begin_read(&opened).unwrap();
        let table = reading.open_table(TABLE).unwrap();
        assert_eq!(redb::ReadableTable::get(&table, 1).unwrap().unwrap().value(), 2);
        drop((table, reading, opened));
        assert_eq!(std::fs::read(&copy).unwrap(), before);
    }
}
