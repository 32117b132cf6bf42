//! A pure core: what a subscriber has to have seen of numbers that somebody produced.

use std::collections::{BTreeMap, BTreeSet};

/// What was seen of a record: its partition, offset and key, and the number in it.
type Got = (u32, i64, String, u64);

/// What was produced, and what was seen of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Numbers whose append was acknowledged.
    pub(super) acknowledged: BTreeSet<u64>,
    /// The highest number that was tried: an append without an answer may be there.
    pub(super) last: u64,
    /// (partition, offset, key, number), in the order in which they came.
    pub(super) got: Vec<Got>,
}

impl Seen {
    /// Every acknowledged number once, nothing twice, nothing made up, keys and offsets in order.
    pub(super) fn judge(&self) -> Result<(), String> {
        let (mut numbers, mut offsets) = (BTreeSet::new(), BTreeMap::new());
        let mut keys: BTreeMap<&str, u64> = BTreeMap::new();
        for (partition, offset, key, number) in &self.got {
            if self.last < *number || *key != key_of(*number) {
                return Err(format!("number {number} of key {key} was never produced"));
            }
            if !numbers.insert(*number) {
                return Err(format!("number {number} was seen twice"));
            }
            if offsets.insert(*partition, *offset).is_some_and(|before| *offset <= before) {
                return Err(format!("[{partition}]@{offset} came behind a later one"));
            }
            if keys.insert(key, *number).is_some_and(|before| *number < before) {
                return Err(format!("number {number} of key {key} came behind a later one"));
            }
        }
        match self.acknowledged.difference(&numbers).next() {
            Some(missing) => Err(format!("number {missing} was acknowledged and never seen")),
            None => Ok(()),
        }
    }

    /// Each way to be wrong, in the middle.
    pub(super) fn planted(&self) -> Vec<Self> {
        let acknowledged = |it: &Got| self.acknowledged.contains(&it.3);
        let middle = self.got.len() / 2;
        let at = (middle..self.got.len()).find(|at| acknowledged(&self.got[*at])).unwrap_or(0);
        let later = (at + 1..self.got.len()).find(|it| self.got[*it].2 == self.got[at].2);
        let plant = |change: &dyn Fn(&mut Vec<Got>)| {
            let mut seen = self.clone();
            change(&mut seen.got);
            seen
        };
        vec![
            // A resume token one too far.
            plant(&|got| drop(got.remove(at))),
            // One not far enough: at once, and after everything.
            plant(&|got| got.insert(at, got[at].clone())),
            plant(&|got| got.push(got[at].clone())),
            plant(&|got| {
                if let Some(later) = later {
                    got.swap(at, later);
                }
            }),
            plant(&|got| got[at].3 = self.last + 1),
            plant(&|got| got[at].2 = "another".to_owned()),
        ]
    }
}

/// The key that a number is produced with.
pub(super) fn key_of(number: u64) -> String {
    format!("key-{}", number % 7)
}
