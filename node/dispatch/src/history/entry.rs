//! A pure core: one entry of a history, and its bytes: the value of one record of the history topic.
//! The bytes are postcard's after one byte that names the layout; numbers take as many bytes as they
//! need.

use serde::{Deserialize, Serialize};

use super::Spans;

/// The layout that is written.
const LAYOUT: u8 = 1;

/// What a commit settled, or what happened between two commits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the node's clock, Unix ms.
    pub at: i64,
    /// The shard.
    pub shard: u64,
    /// Its assignment.
    pub epoch: u64,
    /// The commit that carries it; `None` where something was told between two.
    pub commit: Option<u64>,
    /// The shard's topics and partitions: all indexes mean these.
    pub places: Vec<(String, i32)>,
    /// Invocations that ended since the entry before.
    pub runs: Vec<Run>,
    /// Records that the filter kept from the function, by partition.
    pub filtered: Vec<(u32, Spans)>,
    /// Records that wait in the park topic from this commit on, or wait there anew.
    pub parked: Vec<Parked>,
    /// Records that were given up.
    pub dead: Vec<Dead>,
    /// What the commit appends besides.
    pub appends: Vec<Appends>,
    /// Where batches lie that commits before this one of the same assignment appended.
    pub placed: Vec<Placed>,
}

/// One invocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its number in the assignment.
    pub number: u64,
    /// What ran.
    pub revision: String,
    /// When it ended, Unix ms.
    pub at: i64,
    /// How long it ran, in microseconds; 0 where it did not get that far.
    pub run_us: u64,
    /// How long its instance took to start, in microseconds; `None` = it was warm.
    pub start_us: Option<u64>,
    /// Its records, by partition.
    pub records: Vec<(u32, Spans)>,
    /// Partition, offset and number of attempts that are not the first.
    pub attempts: Vec<(u32, i64, u32)>,
    /// Records whose outputs this commit carries.
    pub kept: Kept,
    /// The failures that occurred, each once: code and account.
    pub errors: Vec<(String, String)>,
    /// Records that failed.
    pub failed: Vec<Failed>,
    /// The first error is that of the whole batch: every record of it failed at once.
    pub is_whole: bool,
}

/// Which records of an invocation ended well, and needed nothing more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// None.
    #[default]
    Nothing,
    /// All of them.
    All,
    /// These, by partition.
    Some(Vec<(u32, Spans)>),
}

/// A record that failed in an invocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Index of its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Which error.
    pub error: u32,
}

/// A record that waits in the park topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Index of its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Attempts that were made.
    pub attempts: u32,
    /// When it may be tried, Unix ms.
    pub due: i64,
    /// It waits for another record of its key.
    pub is_behind: bool,
}

/// A record that was given up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    /// Index of its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Attempts that were made.
    pub attempts: u32,
    /// The last invocation it was in, where one was.
    pub run: Option<u64>,
    /// What its header `millrace-dead-cause` says.
    pub cause: String,
    /// The last failure's name and account.
    pub error: (String, String),
}

/// A batch that a commit appends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appends {
    /// Where to.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Records in it.
    pub count: u32,
}

/// Where a batch lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The commit that appended it.
    pub commit: u64,
    /// Which of its batches, in the order in which its entry names them.
    pub index: u32,
    /// The offset of its first record.
    pub base: i64,
}

impl Entry {
    /// As it is written.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let bytes = postcard::to_extend(self, vec![LAYOUT]);
        bytes.expect("an entry is plain data, and memory its only limit")
    }

    /// As it was written; `None` for what another version wrote, or nobody.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&layout, rest) = bytes.split_first()?;
        let read = (layout == LAYOUT).then(|| postcard::take_from_bytes(rest))?;
        read.ok().and_then(|(entry, rest)| rest.is_empty().then_some(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let records = vec![(0, (100..600).collect())];
        Entry {
            at: 1_790_000_000_000,
            shard: 4,
            epoch: 2,
            commit: Some(17),
            places: vec![("readings".to_owned(), 3)],
            runs: vec![Run {
                number: 18,
                revision: "3f2a1b4c5d6e".to_owned(),
                at: 1_790_000_000_000,
                run_us: 900,
                records,
                kept: Kept::All,
                ..Run::default()
            }],
            appends: vec![Appends { topic: "alerts".to_owned(), partition: 0, count: 500 }],
            placed: vec![Placed { commit: 16, index: 0, base: 40_000 }],
            ..Entry::default()
        }
    }

    #[test]
    fn an_entry_is_read_back_and_an_ordinary_one_is_small() {
        let bytes = entry().encode();
        assert_eq!(Entry::decode(&bytes), Some(entry()));
        assert!(bytes.len() < 90, "{} bytes for 500 records", bytes.len());
    }

    #[test]
    fn bytes_that_are_no_entry_are_none() {
        let bytes = entry().encode();
        for length in 0..bytes.len() {
            assert_eq!(Entry::decode(&bytes[..length]), None, "{length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Entry::decode(&longer), None);
        assert_eq!(Entry::decode(&[&[9], &bytes[1..]].concat()), None);
        let mut random = 7_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut broken = bytes.clone();
            let at = 1 + (random >> 33) as usize % (bytes.len() - 1);
            broken[at] ^= (random >> 11) as u8;
            drop(Entry::decode(&broken));
        }
    }
}
