//! A pure core: which records are bad, how, and in which stretch of the load.

use crate::harness::rng::Rng;

/// One record of so many is bad.
pub(super) const EVERY: u64 = 10_000;

/// What a bad record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The handler raises.
    Exception,
    /// The process ends.
    Crash,
    /// The handler takes longer than it may.
    Timeout,
    /// The value is no JSON.
    Undecodable,
}

impl Kind {
    pub(super) const ALL: [Self; 4] =
        [Self::Exception, Self::Crash, Self::Timeout, Self::Undecodable];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Exception => "exception",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
            Self::Undecodable => "undecodable",
        }
    }
}

/// Records that are sent in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) name: &'static str,
    pub(super) from: u64,
    pub(super) to: u64,
    /// By number.
    pub(super) bad: Vec<(u64, Kind)>,
}

/// A stretch without bad records, one for each kind with `alone` of them, one with `mixed` of each,
/// and one without again. Before them some that only warm up.
pub(super) fn plan(rng: &mut Rng, alone: u64, mixed: u64) -> Vec<Stretch> {
    let mut plan: Vec<Stretch> = Vec::new();
    let mut add = |name, records, kinds: Vec<Kind>| {
        let from = plan.last().map_or(0, |it| it.to);
        // Not so late that what it costs others falls into the next stretch.
        let place = |rng: &mut Rng| EVERY / 10 + rng.draw(EVERY / 2);
        let starts = (0..).map(|at| from + at * EVERY);
        let bad = starts.zip(kinds).map(|(start, kind)| (start + place(rng), kind)).collect();
        plan.push(Stretch { name, from, to: from + records, bad });
    };
    add("warm", EVERY / 2, Vec::new());
    add("before", EVERY, Vec::new());
    for kind in Kind::ALL {
        add(kind.name(), alone * EVERY, vec![kind; alone as usize]);
    }
    let kinds = (0..mixed).flat_map(|_| Kind::ALL).collect();
    add("mixed", mixed * 4 * EVERY, kinds);
    add("after", EVERY, Vec::new());
    plan
}

/// The key of a record. Every second one has none.
pub(super) fn key(number: u64) -> Option<String> {
    number.is_multiple_of(2).then(|| format!("key-{}", number % 4_001))
}

/// The value of a record.
pub(super) fn value(number: u64, bad: Option<Kind>, at_s: f64) -> String {
    match bad {
        None => format!("{{\"n\":{number},\"at\":{at_s:.6}}}"),
        Some(Kind::Undecodable) => format!("{{\"n\":{number},\"at\":"),
        Some(kind) => format!("{{\"n\":{number},\"at\":{at_s:.6},\"do\":\"{}\"}}", kind.name()),
    }
}

/// The number in a value, decodable or not.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.strip_prefix("{\"n\":")?;
    text.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_of_ten_thousand_is_bad_and_says_who_it_is() {
        let plan = plan(&mut Rng::new(3, 0), 2, 1);
        assert_eq!(plan.last().map(|it| it.to), Some(5_000 + 10_000 * (1 + 8 + 4 + 1)));
        for it in &plan {
            assert!(it.bad.iter().all(|(number, _)| (it.from..it.to).contains(number)));
            let is_clean = ["warm", "before", "after"].contains(&it.name);
            assert_eq!(it.bad.len() as u64, if is_clean { 0 } else { (it.to - it.from) / EVERY });
            for &(number, kind) in &it.bad {
                assert_eq!(super::number(value(number, Some(kind), 1.5).as_bytes()), Some(number));
            }
        }
        assert_eq!(number(value(7, None, 0.25).as_bytes()), Some(7));
    }
}
