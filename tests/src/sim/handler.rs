//! What the simulated function answers: outputs, failures, silence. Records fail one by one or all
//! together, answers come late, twice or not at all.

use dispatch::{Blame, End, Order, Outcome};

use super::plan::{Poison, Rec, TIMEOUT, output_count, output_value, poison};
use crate::harness::rng::Rng;

/// A record as an invocation carries it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) offset: i64,
    pub(super) attempt: u32,
    pub(super) key: Option<u8>,
    pub(super) value: u64,
}

/// What comes back from the function.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// By index of the record: the outputs, without where they come from.
    pub(super) outputs: Vec<Vec<Rec>>,
    /// The offsets of the records, for the outputs' origin.
    pub(super) offsets: Vec<i64>,
}

/// An answer and when it comes, in microseconds from now.
pub(super) type Timed = (u64, Answer);

/// Whoever runs the batches of one trigger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handler {
    pub(super) trigger: usize,
    pub(super) order: Order,
    /// Whether anything fails that is not the record's own fault.
    pub(super) faults: bool,
    /// A key whose records mostly fail while there are faults.
    pub(super) stubborn: Option<u8>,
}

impl Handler {
    /// Runs a batch: the answers, the first of which ends the invocation.
    pub(super) fn run(self, rng: &mut Rng, given: &[Given]) -> Vec<Timed> {
        let takes = 200 + rng.draw(6_000);
        let answer = self.answer(rng, given);
        let timeout = whole(given, Blame::Batch, "Sandbox.Timedout");
        if !self.faults {
            return vec![(takes, answer)];
        }
        match rng.draw(60) {
            0 => vec![(TIMEOUT, timeout)],
            1..=2 => vec![(TIMEOUT, timeout), (TIMEOUT + takes, answer)],
            3..=5 => {
                let again = (takes + rng.draw(9_000), answer.clone());
                vec![(takes, answer), again]
            }
            _ => vec![(takes, answer)],
        }
    }

    fn answer(self, rng: &mut Rng, given: &[Given]) -> Answer {
        let kills = |it: &Given| poison(self.trigger, it.value) == Poison::Kills;
        if given.iter().any(kills) {
            return whole(given, Blame::Batch, "Runtime.ExitError");
        }
        match rng.draw(90) {
            0 if self.faults => return whole(given, Blame::Batch, "Runtime.OutOfMemory"),
            1 if self.faults => return whole(given, Blame::Nobody, "Millrace.Start"),
            _ => {}
        }
        let stops = self.faults && rng.draw(15) == 0;
        let stops_at = if stops { rng.draw(given.len() as u64) as usize } else { given.len() };
        let runs_on = rng.draw(2) == 0;
        let (mut exceptions, mut outputs, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (index, it) in given.iter().enumerate() {
            let behind = failed.contains(&it.key) || self.order == Order::Partition;
            let behind = behind && !failed.is_empty() && self.order != Order::None;
            let end = if stops_at < index || (behind && !runs_on) {
                Some(End::NotRun)
            } else {
                self.end(rng, it)
            };
            if matches!(end, Some(End::Failed { .. } | End::Undecodable { .. })) {
                failed.push(it.key);
            }
            outputs.push(if end.is_none() { self.outputs(it) } else { Vec::new() });
            exceptions.extend(end.map(|end| (index as u32, end)));
        }
        let output_bytes = 40 * outputs.iter().map(Vec::len).sum::<usize>();
        Answer {
            outcome: Outcome::Ended { exceptions, output_bytes },
            outputs,
            offsets: given.iter().map(|it| it.offset).collect(),
        }
    }

    fn end(self, rng: &mut Rng, it: &Given) -> Option<End> {
        let (code, message) = ("Sim.Failed".to_owned(), "it failed".to_owned());
        let is_stubborn = self.faults && self.stubborn.is_some() && it.key == self.stubborn;
        let fails =
            poison(self.trigger, it.value) == Poison::Fails || (is_stubborn && rng.draw(10) != 0);
        match rng.draw(400) {
            0 if self.faults => Some(End::Undecodable { code, message }),
            1..=10 if self.faults => Some(End::Failed { code, message }),
            _ if fails => Some(End::Failed { code, message }),
            _ => None,
        }
    }

    fn outputs(self, it: &Given) -> Vec<Rec> {
        let outputs = 0..output_count(self.trigger, it.value);
        let value = |index| output_value(self.trigger, it.value, index);
        outputs
            .map(|index| Rec {
                key: it.key,
                value: value(index),
                origin: None,
                park: None,
                told: None,
            })
            .collect()
    }
}

/// The batch as a whole had a failure.
pub(super) fn whole(given: &[Given], blame: Blame, code: &str) -> Answer {
    Answer {
        outcome: Outcome::Failed { blame, code: code.to_owned(), message: "all of it".to_owned() },
        outputs: vec![Vec::new(); given.len()],
        offsets: given.iter().map(|it| it.offset).collect(),
    }
}
