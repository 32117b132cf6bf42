//! A pure core: where a subscriber goes on. It names the cluster and each topic by an id that is
//! never used twice, so that it is of no use at another place (LV-2).
//!
//! ```text
//! u8  version, 1
//! u8  length of the cluster's name, the name
//! u16 topics; of each:
//!     u8 length of its name, the name, u64 its id, u32 partitions; of each:
//!         u32 number, i64 offset of the next record
//! the first 8 bytes of SHA-256 of all before
//! ```
//!
//! All integers are little endian. As text it is `mrr1-` and base64url of that.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::frame::{put_name, take, take_name};

const VERSION: u8 = 1;
const CHECK: usize = 8;
const PREFIX: &str = "mrr1-";

/// Where a subscriber is in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlace {
    /// Its name.
    pub name: String,
    /// One that was deleted and made again has another.
    pub id: u64,
    /// By partition: the offset of the next record. One that is not named is new: it is read from
    /// its start.
    pub positions: BTreeMap<u32, i64>,
}

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The cluster, by a name that no other has.
    pub cluster: String,
    /// The topics, in the order in which they were asked for.
    pub topics: Vec<TopicPlace>,
}

/// Why bytes are no resume token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// It is of a version that is not known here.
    #[error("a resume token of version {0}, which is not known here")]
    Version(u8),
    /// It is not whole.
    #[error("a resume token that is not whole")]
    Damaged,
}

impl Resume {
    /// A record of this topic, by its place in the list, was seen: the one after it is next.
    pub fn advance(&mut self, topic: usize, partition: u32, offset: i64) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.positions.insert(partition, offset.saturating_add(1));
        }
    }

    /// As bytes.
    ///
    /// # Panics
    ///
    /// When a name has more than 255 bytes, or there are more than 65,535 topics.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        put_name(&mut bytes, &self.cluster);
        let topics = u16::try_from(self.topics.len()).expect("few topics are asked for");
        bytes.extend(topics.to_le_bytes());
        for topic in &self.topics {
            put_name(&mut bytes, &topic.name);
            bytes.extend(topic.id.to_le_bytes());
            let count = u32::try_from(topic.positions.len()).expect("partitions are numbered so");
            bytes.extend(count.to_le_bytes());
            for (partition, next) in &topic.positions {
                bytes.extend(partition.to_le_bytes());
                bytes.extend(next.to_le_bytes());
            }
        }
        let check = Sha256::digest(&bytes);
        bytes.extend(&check[..CHECK]);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// [`ResumeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ResumeError> {
        let (whole, check) = bytes.split_last_chunk::<CHECK>().ok_or(ResumeError::Damaged)?;
        if Sha256::digest(whole)[..CHECK] != check[..] {
            return Err(ResumeError::Damaged);
        }
        match whole.first() {
            Some(&VERSION) => parse(&whole[1..]).ok_or(ResumeError::Damaged),
            Some(other) => Err(ResumeError::Version(*other)),
            None => Err(ResumeError::Damaged),
        }
    }
}

fn parse(mut rest: &[u8]) -> Option<Resume> {
    let rest = &mut rest;
    let cluster = take_name(rest)?;
    let topics = u16::from_le_bytes(take(rest)?);
    // Nothing is reserved by a count: each entry takes bytes that are there (LV-1).
    let mut read = Vec::new();
    for _ in 0..topics {
        let (name, id) = (take_name(rest)?, u64::from_le_bytes(take(rest)?));
        let count = u32::from_le_bytes(take(rest)?);
        let mut positions = BTreeMap::new();
        for _ in 0..count {
            let partition = u32::from_le_bytes(take(rest)?);
            positions.insert(partition, i64::from_le_bytes(take(rest)?));
        }
        read.push(TopicPlace { name, id, positions });
    }
    rest.is_empty().then_some(Resume { cluster, topics: read })
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.encode()))
    }
}

impl FromStr for Resume {
    type Err = ResumeError;

    fn from_str(text: &str) -> Result<Self, ResumeError> {
        let bytes = text.trim().strip_prefix(PREFIX).ok_or(ResumeError::Damaged)?;
        Self::decode(&URL_SAFE_NO_PAD.decode(bytes).map_err(|_bad| ResumeError::Damaged)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Resume {
        let place = |name: &str, id, positions: &[(u32, i64)]| TopicPlace {
            name: name.to_owned(),
            id,
            positions: positions.iter().copied().collect(),
        };
        let topics = vec![place("alerts", 7, &[(0, 12), (3, 0)]), place("more", 1 << 60, &[])];
        Resume { cluster: "mill-00c0ffee".to_owned(), topics }
    }

    #[test]
    fn it_comes_back_from_bytes_and_from_text() {
        let resume = sample();
        assert_eq!(Resume::decode(&resume.encode()), Ok(resume.clone()));
        assert_eq!(format!("{resume}\n").parse(), Ok(resume));
    }

    #[test]
    fn no_cut_and_no_flipped_bit_is_taken_for_another_place() {
        let bytes = sample().encode();
        for length in 0..bytes.len() {
            assert_eq!(Resume::decode(&bytes[..length]), Err(ResumeError::Damaged), "LV-2");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(Resume::decode(&flipped), Err(ResumeError::Damaged), "LV-2");
            }
        }
        for text in ["", "mrr1-", "mrr1-****", "mrr2-AAAA", &sample().to_string()[..40]] {
            assert_eq!(text.parse::<Resume>(), Err(ResumeError::Damaged), "{text}");
        }
    }

    #[test]
    fn another_version_and_hostile_counts_are_told() {
        let sealed = |mut bytes: Vec<u8>| {
            let check = Sha256::digest(&bytes);
            bytes.extend(&check[..CHECK]);
            Resume::decode(&bytes)
        };
        assert_eq!(sealed(vec![9, 0]), Err(ResumeError::Version(9)));
        assert_eq!(sealed(vec![1, 0, 255, 255]), Err(ResumeError::Damaged), "LV-1");
        assert_eq!(sealed(vec![1, 0, 0, 0, 1]), Err(ResumeError::Damaged), "bytes behind the end");
    }

    #[test]
    fn a_record_that_was_seen_is_behind_it() {
        let mut resume = sample();
        resume.advance(0, 3, 41);
        resume.advance(1, 0, 0);
        resume.advance(9, 0, 0);
        assert_eq!(resume.topics[0].positions[&3], 42);
        assert_eq!(resume.topics[1].positions[&0], 1);
    }
}
