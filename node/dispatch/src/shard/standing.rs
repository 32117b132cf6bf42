//! A pure core: how a record of the shard stands at this moment, for somebody who asks. It looks
//! through the window, so it is not for every record.

use std::time::Instant;

use bus::Offset;

use super::ShardDispatch;
use crate::command::InvocationId;
use crate::records::RecordId;

/// How a record stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The shard has not come to it.
    NotRead,
    /// It waits for its turn.
    Queued,
    /// An invocation runs it.
    Running {
        /// Which.
        id: InvocationId,
        /// The number of the attempt.
        attempt: u32,
    },
    /// It failed, and is tried again.
    Retrying {
        /// Attempts that failed.
        attempts: u32,
        /// When it is tried again, where that is not now.
        due_at: Option<Instant>,
        /// The failure's name and account, where the shard keeps them.
        failure: Option<(String, String)>,
    },
    /// It waits behind another record of its key that failed.
    Held {
        /// Attempts that failed.
        attempts: u32,
    },
    /// It waits in the park topic.
    Parked {
        /// Attempts that failed.
        attempts: u32,
        /// When it may be tried, where that is not now.
        due_at: Option<Instant>,
    },
    /// It is settled in the position, or will be by the next commit.
    Settled,
}

impl ShardDispatch {
    /// How the record at `offset` of the partition with this index stands.
    #[must_use]
    pub fn standing(&self, partition: u32, offset: Offset) -> Standing {
        let number = u16::try_from(partition).unwrap_or(u16::MAX);
        if let Some(record) = self.records.find(number, offset) {
            return self.standing_of(record);
        }
        if let Some(slip) = self.holds.parking.find(number, offset) {
            return Standing::Parked { attempts: slip.attempts, due_at: slip.due };
        }
        let position = self.position(partition);
        let is_settled = offset < position.next || position.completions.contains(offset);
        match is_settled {
            true => Standing::Settled,
            // What is in the backlog waits to be let in.
            false
                if self.backlog.iter().any(|it| {
                    it.partition == number
                        && self
                            .records
                            .batch(it.chunk)
                            .iter()
                            .skip(it.cursor as usize)
                            .any(|record| record.offset == offset)
                }) =>
            {
                Standing::Queued
            }
            false if self.trackers[usize::from(number)].newest() <= offset => Standing::NotRead,
            false => Standing::Settled,
        }
    }

    fn standing_of(&self, record: RecordId) -> Standing {
        let runs = |part: &super::Part| part.records.contains(&record);
        let entry = self.records.entry(record);
        if let Some((id, _)) = self.running.iter().find(|(_, it)| runs(&it.part)) {
            return Standing::Running { id: *id, attempt: entry.attempts + 1 };
        }
        if self.commits.has(record) {
            return Standing::Settled;
        }
        let hold = self.holds.get(entry.token).filter(|_| entry.is_ordered());
        match hold {
            Some(hold) if hold.front == record => Standing::Retrying {
                attempts: entry.attempts,
                due_at: hold.is_waiting.then_some(hold.due_at),
                failure: Some(hold.failure.clone()),
            },
            Some(_) => Standing::Held { attempts: entry.attempts },
            None if 0 < entry.attempts => Standing::Retrying {
                attempts: entry.attempts,
                due_at: self.holds.due_of(record),
                failure: None,
            },
            None if entry.is_ordered() && self.holds.parking.has_token(entry.token) => {
                Standing::Held { attempts: 0 }
            }
            None => Standing::Queued,
        }
    }
}
