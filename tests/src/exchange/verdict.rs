//! A pure core: what a refusal has to look like, and what calls have to end with.

use std::collections::{BTreeMap, BTreeSet};

/// What was seen of one thing that must be refused.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The reason that it must have.
    pub(super) wanted: &'static str,
    /// By how much each reason's counter grew meanwhile, those that did.
    pub(super) grew: BTreeMap<&'static str, u64>,
    /// The reasons in the log's lines of that time.
    pub(super) logged: Vec<String>,
    /// Whether who was refused got anywhere: an answer that is none of a refusal.
    pub(super) got_in: bool,
}

impl Seen {
    pub(super) fn judge(&self) -> Result<(), String> {
        let wanted = self.wanted;
        if self.got_in {
            return Err(format!("{wanted}: it was let in"));
        }
        if self.grew.get(wanted).is_none_or(|grew| *grew == 0) {
            return Err(format!("{wanted}: not counted, {:?} was", self.grew));
        }
        if self.grew.len() != 1 {
            return Err(format!("{wanted}: counted beside others, {:?}", self.grew));
        }
        if !self.logged.iter().any(|it| it == wanted) {
            return Err(format!("{wanted}: not in the log, {:?} is", self.logged));
        }
        Ok(())
    }

    /// Each way to be wrong.
    pub(super) fn planted(&self) -> Vec<Self> {
        let plant = |change: &dyn Fn(&mut Self)| {
            let mut seen = self.clone();
            change(&mut seen);
            seen
        };
        vec![
            plant(&|seen| seen.got_in = true),
            plant(&|seen| seen.grew.clear()),
            plant(&|seen| {
                seen.grew.insert("another", 1);
            }),
            plant(&|seen| seen.logged = vec!["another".to_owned()]),
        ]
    }
}

/// What was seen of calls under load.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// By number: the answer, or how the call ended without one.
    pub(super) calls: BTreeMap<u64, Result<Vec<u8>, String>>,
    /// The numbers that handlers ran.
    pub(super) ran: BTreeSet<u64>,
    /// The highest number that was given out.
    pub(super) last: u64,
}

impl Load {
    /// Every number has its answer, the right one, from a handler that ran it.
    pub(super) fn judge(&self, answer: impl Fn(u64) -> Vec<u8>) -> Result<(), String> {
        for number in 1..=self.last {
            match self.calls.get(&number) {
                None => return Err(format!("call {number} never ended")),
                Some(Err(error)) => return Err(format!("call {number} was dropped: {error}")),
                Some(Ok(got)) if *got != answer(number) => {
                    return Err(format!("call {number} got another answer: {got:?}"));
                }
                Some(Ok(_)) if !self.ran.contains(&number) => {
                    return Err(format!("call {number} was answered and never ran"));
                }
                Some(Ok(_)) => {}
            }
        }
        Ok(())
    }

    /// Each way to be wrong, in the middle.
    pub(super) fn planted(&self) -> Vec<Self> {
        let (at, other) = (self.last.div_ceil(2), self.last);
        let plant = |change: &dyn Fn(&mut Self)| {
            let mut load = self.clone();
            change(&mut load);
            load
        };
        vec![
            plant(&|load| drop(load.calls.remove(&at))),
            plant(&|load| drop(load.calls.insert(at, Err("lost".to_owned())))),
            plant(&|load| {
                let swapped = load.calls.get(&other).cloned();
                swapped.map(|swapped| load.calls.insert(at, swapped));
            }),
            plant(&|load| {
                load.ran.remove(&at);
            }),
        ]
    }
}
