//! A pure core: what a shard tells its circuit, and how small a probe is.

use std::time::Instant;

use super::{Lineage, Part, ShardDispatch};
use crate::bisect::put_side_by_side;
use crate::circuit::Ends;
use crate::command::{Blame, End, InvocationId, Outcome};

impl ShardDispatch {
    /// Whether attempts fail so often that none starts but probes.
    #[must_use]
    pub fn is_circuit_open(&self) -> bool {
        self.circuit.is_open()
    }

    /// Tells the circuit how an invocation ended.
    pub(super) fn note_ends(
        &mut self,
        now: Instant,
        id: InvocationId,
        part: &Part,
        outcome: &Outcome,
    ) {
        if self.config.circuit.is_none() {
            return;
        }
        let count = part.records.len() as u64;
        let (ends, code) = match outcome {
            Outcome::Failed { blame: Blame::Nobody, .. } => return self.circuit.on_void(id),
            Outcome::Failed { blame: Blame::Batch, code, .. } => {
                // Only a probe says something before it has been halved.
                let is_halved = 1 < count && self.config.retry.bisect;
                if is_halved && !self.circuit.is_open() {
                    return;
                }
                (Ends { ran: count, failed: count }, code.as_str())
            }
            Outcome::Ended { exceptions, .. } => {
                let mut ends = Ends { ran: count, failed: 0 };
                let mut name = "";
                for (_, end) in exceptions {
                    match end {
                        End::Failed { code, .. } => (ends.failed, name) = (ends.failed + 1, code),
                        End::NotRun | End::Undecodable { .. } => ends.ran -= 1,
                    }
                }
                (ends, name)
            }
        };
        let share = self.jitter.draw();
        self.circuit.on_ended(now, id, ends, code, share);
    }

    /// A probe is small: what a part has beyond it waits behind it.
    pub(super) fn cut_to_probe(&self, (mut part, mut rest): (Part, Lineage)) -> (Part, Lineage) {
        let most = self.circuit.admits(part.records.len());
        // One that keeps its strands busy is run as it was; it has not failed.
        if part.is_piece && most < part.records.len() {
            // A half of what runs may leave the rest behind.
            put_side_by_side(&self.records, &mut part.records);
            let behind = part.records.split_off(most);
            rest.push_front(Part { records: behind, strands: Vec::new(), ..part });
        }
        (part, rest)
    }
}
