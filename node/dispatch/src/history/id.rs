//! The name of an invocation, unique in its cluster: `SHARD-EPOCH-NUMBER`. An epoch is never used
//! twice, so neither is a name, whichever node runs the shard and however often it starts.

use std::fmt;
use std::str::FromStr;

use bus::{Epoch, ShardId};

use crate::InvocationId;

/// See the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InvocationName {
    /// The shard that it ran for.
    pub shard: ShardId,
    /// The assignment.
    pub epoch: Epoch,
    /// Which of that assignment.
    pub number: InvocationId,
}

impl fmt::Display for InvocationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard.0, self.epoch.0, self.number.0)
    }
}

impl FromStr for InvocationName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "an invocation is SHARD-EPOCH-NUMBER, such as 4-2-118";
        let mut parts = text.split('-').map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
            is_number.then(|| part.parse::<u64>().ok()).flatten()
        });
        let mut part = || parts.next().flatten();
        let (Some(shard), Some(epoch), Some(number)) = (part(), part(), part()) else {
            return Err(WANTED);
        };
        if parts.next().is_some() {
            return Err(WANTED);
        }
        let (shard, epoch, number) = (ShardId(shard), Epoch(epoch), InvocationId(number));
        Ok(Self { shard, epoch, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_others_are_refused() {
        let name: InvocationName = "4-2-118".parse().unwrap();
        assert_eq!((name.shard, name.epoch, name.number.0), (ShardId(4), Epoch(2), 118));
        assert_eq!(name.to_string(), "4-2-118");
        for bad in ["", "4-2", "4-2-1-1", "a-2-1", "4--1", "-4-2-1", "+4-2-1", "4-2-1 "] {
            assert!(bad.parse::<InvocationName>().is_err(), "{bad}");
        }
    }
}
