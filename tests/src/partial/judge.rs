//! A pure core: what may become of a batch that fails, case by case, as the rules say it, judged by
//! what the functions wrote down and what lies in the topics of dead letters.

use std::collections::BTreeMap;

use super::app::{ATTEMPTS, Case, KEYS, Order, RECORDS, Run, TOO_LARGE};

/// The largest event, and what writing it down adds.
const EVENT_BYTES_MAX: u64 = (6 << 20) + (64 << 10);

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) cause: String,
    pub(super) attempts: u64,
    pub(super) error_type: String,
}

/// What became of one case.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) order: Order,
    pub(super) runs: Vec<Run>,
    /// By number.
    pub(super) dead: BTreeMap<u64, Dead>,
}

/// Says why something does not hold.
macro_rules! hold {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

impl Seen {
    fn given(&self, n: u64) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.batch.contains(&n))
    }

    fn count(&self, n: u64, said: &str) -> usize {
        self.given(n).filter(|run| run.said == said).count()
    }

    fn last(&self, n: u64) -> Option<usize> {
        self.runs.iter().rposition(|run| run.batch.contains(&n))
    }

    /// Whether a record that was not reported has to run again after this run.
    fn is_held(&self, run: &Run, at: usize) -> bool {
        let earlier = run.batch[..at].iter().filter(|n| run.bad.contains(n));
        match self.order {
            Order::None => false,
            Order::Key => earlier.into_iter().any(|n| n % KEYS == run.batch[at] % KEYS),
            Order::Partition => earlier.count() > 0,
        }
    }

    /// Nothing but these is dead.
    fn only_dead(&self, expected: &[(u64, &str, u64, &str)]) -> Result<(), String> {
        let expected: BTreeMap<u64, Dead> = expected
            .iter()
            .map(|(n, cause, attempts, error_type)| {
                let (cause, error_type) = ((*cause).to_owned(), (*error_type).to_owned());
                (*n, Dead { cause, attempts: *attempts, error_type })
            })
            .collect();
        hold!(self.dead == expected, "dead are {:?}, not {expected:?}", self.dead);
        Ok(())
    }

    /// Rule 3: what is reported runs again, with what its order holds; nothing else does.
    fn runs_again(&self) -> Result<(), String> {
        for (index, run) in self.runs.iter().enumerate() {
            for (at, &n) in run.batch.iter().enumerate() {
                let again = self.runs[index + 1..].iter().any(|later| later.batch.contains(&n));
                let reported = run.bad.contains(&n);
                let must = match self.dead.get(&n) {
                    // After its last attempt it does not.
                    Some(_) if reported => again,
                    _ => reported || self.is_held(run, at),
                };
                hold!(again == must, "{n} runs again after {run:?}: {again}, not {must}");
            }
        }
        Ok(())
    }

    /// All but these records ended well, each in one run.
    fn ended_well_but(&self, but: &[u64]) -> Result<(), String> {
        for n in (0..RECORDS).filter(|n| !but.contains(n)) {
            let count = self.count(n, "ok");
            hold!(count == 1, "{n} ended well {count} times");
        }
        Ok(())
    }

    /// One record is found by halving, and tried alone so often.
    fn found(&self, n: u64, attempts: usize) -> Result<(), String> {
        let (alone, with): (Vec<&Run>, Vec<&Run>) =
            self.given(n).partition(|run| run.batch.len() == 1);
        hold!(alone.len() == attempts, "{n} ran alone {} times, not {attempts}", alone.len());
        // 12 records are one after 4 halvings.
        hold!(with.len() <= 4, "{n} ran with others {} times", with.len());
        Ok(())
    }
}

/// Whether a case went as the rules say.
pub(super) fn judge(case: &Case, seen: &Seen) -> Result<(), String> {
    let exhausted = "RetryAttemptsExhausted";
    match case.name {
        "success" => {
            seen.only_dead(&[])?;
            hold!(seen.runs.iter().all(|run| run.said == "ok"), "something failed");
            seen.ended_well_but(&[])
        }
        "reported" => {
            seen.only_dead(&[(5, exhausted, ATTEMPTS, "Function.BatchItemFailure")])?;
            let reports = seen.given(5).filter(|run| run.bad.contains(&5)).count() as u64;
            hold!(reports == ATTEMPTS, "5 was tried {reports} times");
            seen.runs_again()
        }
        "unreadable" | "no-json" => {
            seen.only_dead(&[])?;
            let odd: Vec<&Run> = seen.runs.iter().filter(|run| run.said == "unreadable").collect();
            hold!(!odd.is_empty(), "no answer was unreadable");
            seen.ended_well_but(&[])
        }
        "raises" => {
            seen.only_dead(&[(5, exhausted, ATTEMPTS, "ValueError")])?;
            seen.found(5, ATTEMPTS as usize)?;
            seen.ended_well_but(&[5])
        }
        "whole" => {
            let twice = (0..RECORDS).filter(|n| seen.count(*n, "failed") == 2);
            let expected: Vec<_> = twice.map(|n| (n, exhausted, 2, "ValueError")).collect();
            seen.only_dead(&expected)?;
            hold!(1 < expected.len(), "only 5 was given up: the batch was not taken as a whole");
            seen.ended_well_but(&expected.iter().map(|it| it.0).collect::<Vec<_>>())
        }
        "sleeps" | "ends" => {
            let error = if case.name == "ends" { "Runtime.ExitError" } else { "Sandbox.Timedout" };
            seen.only_dead(&[(5, exhausted, 2, error)])?;
            seen.found(5, 2)?;
            seen.ended_well_but(&[5])
        }
        "too-old" => {
            seen.only_dead(&[(5, "RecordAgeExceeded", 1, "Function.BatchItemFailure")])?;
            seen.runs_again()
        }
        "not-retried" => {
            seen.only_dead(&[(5, "NotRetried", 1, "ValueError")])?;
            seen.found(5, 1)?;
            seen.ended_well_but(&[5])
        }
        "waits" => {
            seen.only_dead(&[(0, exhausted, 6, "Function.BatchItemFailure")])?;
            seen.runs_again()?;
            let last = seen.last(0);
            for n in 1..RECORDS {
                let waits = match seen.order {
                    Order::None => false,
                    Order::Key => n % KEYS == 0,
                    Order::Partition => true,
                };
                let waited = last < seen.last(n);
                hold!(waited == waits, "{n} ran after 0 was given up: {waited}, not {waits}");
            }
            Ok(())
        }
        "killed" => {
            seen.only_dead(&[])?;
            hold!(seen.runs.iter().any(|run| run.said == "sleeps"), "nothing ran at the kill");
            (0..RECORDS).try_for_each(|n| {
                hold!(0 < seen.count(n, "ok"), "{n} did not run again");
                Ok(())
            })
        }
        "large" => {
            let cause = "MaximumPayloadSizeExceeded";
            seen.only_dead(&[(TOO_LARGE, cause, 0, cause)])?;
            hold!(seen.given(TOO_LARGE).next().is_none(), "what no event can hold was given");
            let most = seen.runs.iter().map(|run| run.bytes).max().unwrap_or_default();
            hold!(most <= EVENT_BYTES_MAX, "an event of {most} bytes");
            hold!(1 < seen.runs.len(), "12 MiB came in one event");
            seen.ended_well_but(&[TOO_LARGE])
        }
        "parts" => {
            seen.only_dead(&[])?;
            seen.runs_again()?;
            // What has to wait for 2 waits in whichever event it was to come.
            let again = seen.last(2);
            let waits = |n: &u64| match seen.order {
                Order::None => false,
                Order::Key => n % KEYS == 2,
                Order::Partition => true,
            };
            (3..RECORDS).filter(waits).try_for_each(|n| {
                let with = |run: &&Run| run.batch.contains(&2);
                let ahead = seen.given(n).filter(|run| !with(run)).count();
                let after = seen.runs.iter().skip(again.unwrap_or_default());
                let behind = after.filter(|run| run.batch.contains(&n) && !with(run)).count();
                hold!(ahead == behind, "{n} ran before 2 was tried again");
                Ok(())
            })
        }
        other => Err(format!("no rule for {other}")),
    }
}

/// Ways in which a case that went well could have gone wrong, each of which has to be noticed.
pub(super) fn mistakes(seen: &Seen) -> Vec<(&'static str, Seen)> {
    let mut all = Vec::new();
    let mut plant = |name, change: &dyn Fn(&mut Seen)| {
        let mut seen = seen.clone();
        change(&mut seen);
        all.push((name, seen));
    };
    plant("a dead letter is missing", &|it| it.dead.clear());
    plant("an attempt too few", &|it| {
        let last = it.runs.iter().rposition(|run| run.bad.contains(&5));
        drop(it.runs.remove(last.expect("5 was reported")));
    });
    plant("an attempt that was not counted", &|it| {
        it.dead.values_mut().for_each(|dead| dead.attempts -= 1);
    });
    plant("one that ended well runs again", &|it| {
        let run = Run { batch: vec![0], bad: Vec::new(), ..it.runs[0].clone() };
        it.runs.push(run);
    });
    plant("one that was held does not run again", &|it| {
        // 9 has the key of 5, and comes after it.
        let first = it.runs.iter().position(|run| run.batch.contains(&9));
        for run in &mut it.runs[first.expect("9 ran") + 1..] {
            run.batch.retain(|n| *n != 9);
        }
    });
    plant("another cause", &|it| {
        it.dead.values_mut().for_each(|dead| dead.cause = "RecordAgeExceeded".to_owned());
    });
    all
}
