//! Remembers the newest synced commit outside the journal, so that a journal that lost its end
//! (redb falls back by one commit when the last one's pages rot) is not taken for a whole one.
//!
//! The file is synced lazily: it may lag behind the journal, which means nothing, and is never
//! ahead of it unless the journal lost something.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::rows;
use crate::Error;

const KEY: &[u8] = b"newest commit";

/// The file beside the journal.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

impl Mark {
    /// Opens or makes the file, and gives the commit it names, if it names one.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<u64>), Error> {
        let failed = |source| Error::Io { action: format!("open {}", path.display()), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut bytes = [0; 32];
        let length = file.read_at(&mut bytes, 0).map_err(failed)?;
        let newest = match length {
            0 => None,
            _ => decode(&bytes[..length]).or_else(|| {
                tracing::warn!(path = %path.display(), "the mark of the newest commit is damaged: going by the journal alone");
                None
            }),
        };
        Ok((Self { file }, newest))
    }

    /// Notes that `commit` is durable in the journal.
    pub(super) fn note(&self, commit: u64) -> std::io::Result<()> {
        let row = rows::encode_number(KEY, commit);
        // One write of one sector: the length first, so that a shorter row is cut off right.
        let mut bytes = [0; 32];
        bytes[0] = row.len() as u8;
        bytes[1..=row.len()].copy_from_slice(&row);
        self.file.write_all_at(&bytes, 0)
    }

    /// Makes the newest note durable.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let (&length, rest) = bytes.split_first()?;
    rows::decode_number(KEY, rest.get(..length.into())?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_note_is_found_again_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let (mark, none) = Mark::open(&path).unwrap();
        assert_eq!(none, None);
        mark.note(u64::MAX).unwrap();
        mark.note(5).unwrap();
        mark.sync().unwrap();
        assert_eq!(Mark::open(&path).unwrap().1, Some(5));
        std::fs::write(&path, b"garbage").unwrap();
        assert_eq!(Mark::open(&path).unwrap().1, None);
    }
}
