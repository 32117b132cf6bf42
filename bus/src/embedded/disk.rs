//! A pure core: whether a file system has room for an operation. Sources leave a reserve alone,
//! so that outputs and dead letters of what is already accepted still fit on a full disk.

use super::config::Space;
use crate::Error;

/// Pages a write may touch beyond its records: the trees' inner pages and redb's own tables.
const WRITE_OVERHEAD_BYTES: u64 = 1 << 20;

/// The room for one group, handed out operation by operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    available_bytes: u64,
    reserve_bytes: u64,
    taken_bytes: u64,
}

impl Room {
    /// The room there is, of which `reserve_bytes`, at most an eighth of the file system, is not
    /// for sources. `reusable_bytes` lie free inside the journal's file.
    pub(super) fn new(space: Option<Space>, reserve_bytes: u64, reusable_bytes: u64) -> Self {
        let Some(Space { total_bytes, available_bytes }) = space else {
            return Self { available_bytes: u64::MAX, reserve_bytes: 0, taken_bytes: 0 };
        };
        Self {
            available_bytes: available_bytes.saturating_add(reusable_bytes),
            reserve_bytes: reserve_bytes.min(total_bytes / 8),
            taken_bytes: 0,
        }
    }

    /// Takes room for `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`].
    pub(super) fn take(&mut self, bytes: usize, is_source: bool) -> Result<(), Error> {
        // Copy on write: the new pages are there before the old ones are free.
        let needed = self.taken_bytes.saturating_add(2 * bytes as u64);
        let overhead = WRITE_OVERHEAD_BYTES.min(self.reserve_bytes.max(64 << 10));
        let kept = if is_source { self.reserve_bytes } else { 0 };
        if self.available_bytes < needed.saturating_add(overhead).saturating_add(kept) {
            return Err(self.refusal());
        }
        self.taken_bytes = needed;
        Ok(())
    }

    /// What a refused operation is told.
    pub(super) const fn refusal(&self) -> Error {
        Error::DiskFull { available_bytes: self.available_bytes, reserve_bytes: self.reserve_bytes }
    }

    /// Whether sources are refused or soon will be: time to look for room inside the file.
    pub(super) fn is_short(&self, bytes: usize) -> bool {
        self.clone().take(bytes, true).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(total_mib: u64, available_mib: u64) -> Room {
        let (total_bytes, available_bytes) = (total_mib * MIB, available_mib * MIB);
        Room::new(Some(Space { total_bytes, available_bytes }), 256 * MIB, 0)
    }

    #[test]
    fn sources_leave_the_reserve_and_commits_may_use_it() {
        let kib = 1 << 10;
        assert!(room(10_000, 258).take(kib, true).is_ok());
        assert!(room(10_000, 256).take(kib, true).is_err());
        assert!(room(10_000, 256).take(kib, false).is_ok());
        assert!(room(10_000, 0).take(kib, false).is_err(), "nor is there more than there is");
        assert!(room(16, 4).take(kib, true).is_ok(), "an eighth of a small disk");
        assert!(room(16, 2).take(kib, true).is_err());
    }

    #[test]
    fn a_group_takes_room_operation_by_operation() {
        let mut room = room(10_000, 258);
        assert!(room.take(400 << 10, true).is_ok());
        assert!(room.take(400 << 10, true).is_err(), "the first one took it");
        assert!(room.take(400 << 10, false).is_ok());
        let free = Room::new(None, 256 * MIB, 0);
        assert!(!free.is_short(usize::MAX / 4), "a file system that does not say is not full");
    }

    #[test]
    fn room_inside_the_file_counts() {
        let space = Some(Space { total_bytes: 10_000 * MIB, available_bytes: 0 });
        assert!(Room::new(space, 256 * MIB, 300 * MIB).take(1 << 10, true).is_ok());
    }
}
