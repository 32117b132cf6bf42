//! The simulated consumer groups of Kafka: an offset and a note for each shard, as they arrived last,
//! whoever sent them.

use std::collections::BTreeMap;

use super::bus::Place;

/// An offset on its way to a group, or as the group holds it.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) shard: usize,
    pub(super) epoch: u64,
    pub(super) offset: i64,
    /// The note as bytes: what a home reads.
    pub(super) text: String,
    /// What offset and note say, for the checker.
    pub(super) place: Place,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Groups {
    held: BTreeMap<usize, Mark>,
}

impl Groups {
    /// Takes offsets, the last word being the last that comes.
    pub(super) fn alter(&mut self, marks: &[Mark]) {
        self.held.extend(marks.iter().map(|mark| (mark.shard, mark.clone())));
    }

    /// What these shards' group holds.
    pub(super) fn read(&self, is_in_group: impl Fn(usize) -> bool) -> Vec<Mark> {
        self.held.values().filter(|it| is_in_group(it.shard)).cloned().collect()
    }
}
