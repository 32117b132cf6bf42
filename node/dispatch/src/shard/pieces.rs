//! A pure core: parts of a batch that run by themselves, the tokens that they claim meanwhile, and
//! batches that run for so long that they do the same.

use std::time::{Duration, Instant};

use super::{Invocation, Lineage, Part, ShardDispatch};
use crate::command::InvocationId;
use crate::records::RecordId;
use crate::token::Order;

/// A batch that runs longer claims its tokens and gives its strands back: what shares a strand with
/// it and no token goes on. Shorter than anybody waits for, and longer than a strand is worth a
/// table of tokens.
pub(super) const STRANDS_FOR: Duration = Duration::from_millis(50);

impl ShardDispatch {
    /// Whether there is room for a risky part: they leave half of the invocations to the others.
    pub(super) fn may_risk(&self) -> bool {
        let running = self.running.values().filter(|it| it.part.is_risky).count();
        running < (self.width / 2).max(1)
    }

    /// The next part of a batch that failed, without the records of tokens held since.
    pub(super) fn next_part(&mut self) -> Option<(Part, Lineage)> {
        let may_risk = self.may_risk();
        let is_next = |it: &Lineage| may_risk || it.front().is_none_or(|part| !part.is_risky);
        while let Some(at) = self.lineages.iter().position(is_next) {
            let mut lineage = self.lineages.remove(at).expect("it was found there");
            let mut part = lineage.pop_front().expect("a lineage has a part");
            self.hold_back(&mut part);
            if !part.records.is_empty() {
                return Some((part, lineage));
            }
            self.release(&part.strands);
            if !lineage.is_empty() {
                self.lineages.push_front(lineage);
            }
        }
        None
    }

    /// When the next batch has run for so long that it gives its strands back. One that has begun
    /// later ends later, but for parts of a batch, which have none.
    pub(super) fn next_freed(&self) -> Option<Instant> {
        // One at a time, or one strand for all, nobody gains anything.
        let is_of_use = self.config.order == Order::Key && 1 < self.config.invocations_max.get();
        let mut running = self.running.values().filter(|_| is_of_use);
        running.find(|it| !it.part.strands.is_empty()).map(|it| it.started_at + STRANDS_FOR)
    }

    /// Lets batches that run for long claim their tokens, in place of their strands.
    pub(super) fn free_strands(&mut self, now: Instant) {
        if self.next_freed().is_none_or(|at| now < at) {
            return;
        }
        let is_long = |it: &Invocation| it.started_at + STRANDS_FOR <= now;
        let long = self.running.iter().filter(|(_, it)| !it.part.strands.is_empty() && is_long(it));
        let long: Vec<InvocationId> = long.map(|(id, _)| *id).collect();
        for id in long {
            let it = self.running.get_mut(&id).expect("it runs");
            let records = std::mem::take(&mut it.part.records);
            let strands = std::mem::take(&mut it.part.strands);
            let (retries, is_risky) = (it.part.retries, it.part.is_risky);
            let piece = Part { is_risky, ..self.piece(records, retries) };
            self.running.get_mut(&id).expect("it runs").part = piece;
            self.release(&strands);
        }
    }

    /// Makes a part of records that are in no queue. It claims their tokens.
    pub(super) fn piece(&mut self, records: Vec<RecordId>, retries: bool) -> Part {
        for &record in &records {
            let entry = self.records.entry(record);
            if entry.is_ordered() {
                self.holds.claims.claim(entry.token, entry.strand);
            }
        }
        Part { records, strands: Vec::new(), is_piece: true, is_risky: false, retries }
    }

    /// The tokens that a part claims, once for each of its records.
    pub(super) fn claimed(&self, part: &Part) -> Vec<u64> {
        if !part.is_piece {
            return Vec::new();
        }
        let entries = part.records.iter().map(|&record| self.records.entry(record));
        entries.filter(|entry| entry.is_ordered()).map(|entry| entry.token).collect()
    }

    /// Records of these tokens are no piece's any more; what waited for the last goes on.
    pub(super) fn end_claims(&mut self, tokens: Vec<u64>) {
        for token in tokens {
            let Some(mut it) = self.holds.claims.end(token) else { continue };
            if self.holds.is_held(token) || self.holds.parking.has_token(token) {
                while let Some(record) = it.followers.pop_front(&self.records) {
                    self.holds.follow(&mut self.records, token, record);
                }
            } else {
                self.strands.prepend(&mut self.records, it.strand, it.followers, it.follower_bytes);
            }
        }
    }
}
