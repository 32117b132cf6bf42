//! A pure core: what a shard that has ended in order knows of its park topic, for its next owner.

use std::collections::BTreeSet;

use bus::{Offset, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Mode, ShardDispatch};
use crate::command::DispatchConfig;
use crate::parking::{Lot, Slip};
use crate::token::{Order, Tokens};

/// As many parked records as are handed over: the park topic tells of more.
const RECORDS_MAX: usize = 20_000;

/// What lies in a shard's park topic, as its owner before knew it: which records are parked, in
/// whose order, how often they were tried and when they are due. Keys are not in it: tokens stand
/// for them, which the same seed makes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legacy {
    seed: u64,
    order: Order,
    strands: u16,
    parked: Vec<Left>,
    /// Records whose envelopes do not count: index of the partition, offset.
    untold: Vec<(u32, Offset)>,
}

/// One parked record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Left {
    strand: u16,
    /// What its order is kept by; a record without an order has none.
    token: Option<u64>,
    partition: u16,
    offset: Offset,
    place: Offset,
    attempts: u32,
    bytes: u32,
    due: Timestamp,
}

impl Legacy {
    /// Whether it means here what it meant there.
    #[must_use]
    pub fn fits(&self, config: &DispatchConfig, partitions: usize) -> bool {
        let tokens = self.tokens(config, partitions);
        let is_known = |partition: usize| partition < partitions;
        let strands = tokens.strands();
        self.order == config.order
            && usize::from(self.strands) == strands
            && self.untold.iter().all(|it| is_known(it.0 as usize))
            && self
                .parked
                .iter()
                .all(|it| is_known(usize::from(it.partition)) && usize::from(it.strand) < strands)
    }

    /// What strands and jitter are to be drawn from.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// How many parked records it tells of.
    #[must_use]
    pub const fn records(&self) -> usize {
        self.parked.len()
    }

    fn tokens(&self, config: &DispatchConfig, partitions: usize) -> Tokens {
        Tokens::new(config.order, self.seed, partitions, config.invocations_max)
    }
}

impl ShardDispatch {
    /// What is parked, once everything else has ended and is durable; `None` before, and where
    /// there is too much of it.
    #[must_use]
    pub fn legacy(&self) -> Option<Legacy> {
        if self.mode != Mode::Drained || RECORDS_MAX < self.holds.parking.len() {
            return None;
        }
        let left = |(lot, strand, slip): (Lot, u16, &Slip)| {
            Some(Left {
                strand,
                token: match lot {
                    Lot::Token(token) => Some(token),
                    Lot::Single(..) => None,
                },
                partition: slip.partition,
                offset: slip.offset,
                place: slip.place?,
                attempts: slip.attempts,
                bytes: slip.bytes,
                due: self.wall(slip.due.unwrap_or(self.clock.0)),
            })
        };
        let parked: Option<Vec<Left>> = self.holds.parking.slips().map(left).collect();
        Some(Legacy {
            seed: self.tokens.seed(),
            order: self.config.order,
            strands: u16::try_from(self.tokens.strands()).ok()?,
            parked: parked?,
            untold: self.untold.iter().copied().collect(),
        })
    }

    /// Begins with what the owner before left, which [`fits`](Legacy::fits), with its seed. To be
    /// called before any other input, at the moment of [`new`](Self::new).
    pub fn resume(&mut self, legacy: Legacy) {
        let now = self.clock.0;
        let mut lots = BTreeSet::new();
        self.counters.resumed += legacy.parked.len() as u64;
        self.out += legacy.parked.len().cast_signed();
        for it in legacy.parked {
            let Left { strand, token, partition, offset, place, attempts, bytes, due } = it;
            let lot = token.map_or(Lot::Single(partition, offset), Lot::Token);
            let due = self.due_at(due);
            let (place, ended) = (Some(place), None);
            let slip = Slip { partition, offset, place, attempts, due, bytes, ended };
            self.take_in(lot, strand, slip);
            lots.insert(lot);
        }
        self.untold.extend(legacy.untold);
        lots.into_iter().for_each(|lot| self.reconsider(lot));
        self.proceed(now);
    }
}
