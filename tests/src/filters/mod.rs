//! The promise that filters do what event patterns mean: event-ruler's published cases, random
//! patterns on random events against a slow evaluator of their own, and what a record costs that
//! is filtered. Mistakes that are planted between the two have to be noticed.

use bus::HeadersBuilder;
use filter::{Filter, Record};
use serde_json::Value;

use crate::demand;
use crate::harness::binaries;
use crate::promise::{Figures, NotShown, Run, broken, rounded};

mod cases;
mod cost;
mod draw;
mod mistakes;
mod reference;

use cases::CASES;
use draw::Pair;
use mistakes::Mistake;
use reference::Event;

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    for (pattern, event, expected) in CASES {
        check_case(pattern, event, expected).map_err(broken)?;
    }
    let pairs = run.count("pairs", 10_000, 1_000_000);
    run.note(format!("{pairs} pairs from seed {}", run.seed));
    let mut matched = 0_u64;
    for seed in run.seed..run.seed + pairs {
        matched += u64::from(agree(&draw::pair(seed), None).map_err(|why| {
            broken(format!("{why}; repeat it: cargo prove filters --pairs 1 --seed {seed}"))
        })?);
    }
    demand!(
        pairs < 1_000 || pairs / 5 < matched && matched < pairs / 5 * 4,
        "{matched} of {pairs} pairs match: they try one side only"
    );
    let mut figures = Figures::default()
        .with("cases", CASES.len())
        .with("pairs", pairs)
        .with("matched", matched)
        .with("red_controls", Mistake::ALL.len());
    for mistake in Mistake::ALL {
        let within = red(run.seed, mistake)?;
        figures.set(&format!("red_{}", mistake.name()), format!("at pair {within}"));
    }
    let records = run.count("records", 200_000, 2_000_000);
    run.note(format!("a node filters {records} records of {} bytes", cost::VALUE_BYTES));
    let cpu_us = cost::measure(run, records)?;
    figures.set("records", records);
    figures.set("cpu_us", rounded(cpu_us, 2));
    let late = binaries::is_release() && cost::CPU_US_MAX < cpu_us;
    // Speed on a shared machine gates nothing but a run that asks for it.
    demand!(!run.full || !late, "a filtered record costs {cpu_us} us of CPU; {figures}");
    figures.set("missed", if late { "cpu_us" } else { "" });
    Ok(figures)
}

/// A case, by both evaluators.
fn check_case(pattern: &str, event: &str, expected: bool) -> Result<(), String> {
    let pattern: Value = serde_json::from_str(pattern).map_err(|error| error.to_string())?;
    let patterns = vec![serde_json::json!({ "value": pattern })];
    let event = Event { value: Some(event.as_bytes().to_vec()), beside: Vec::new() };
    let pair = Pair { patterns, event, headers: Vec::new() };
    let matches = agree(&pair, None)?;
    if matches == expected {
        return Ok(());
    }
    Err(format!("{pattern} matches {matches}, not {expected}: {}", shown(&pair)))
}

/// How both evaluators judge a pair, the one under test with a mistake planted before it.
fn agree(pair: &Pair, mistake: Option<Mistake>) -> Result<bool, String> {
    let expected = reference::matches(&pair.patterns, &pair.event);
    let mut mistaken = pair.clone();
    if let Some(mistake) = mistake {
        mistake.plant(&mut mistaken);
    }
    let filter = match Filter::compile(&mistaken.patterns) {
        Ok(filter) => filter,
        // A mistake that makes no pattern shows nothing.
        Err(_) if mistake.is_some() => return Ok(expected),
        Err(error) => return Err(format!("refused: {error}: {}", shown(pair))),
    };
    let found = evaluate(&filter, &mistaken);
    if found == expected {
        return Ok(found);
    }
    Err(format!("the filter says {found}, the reference {expected}: {}", shown(pair)))
}

fn evaluate(filter: &Filter, pair: &Pair) -> bool {
    let beside = |name: &str| pair.event.beside.iter().find(|(it, _)| it == name).map(|it| &it.1);
    let number = |name| beside(name).and_then(Value::as_i64).unwrap_or_default();
    let mut headers = HeadersBuilder::default();
    for (name, value) in &pair.headers {
        headers.push(name.as_bytes(), Some(value.as_bytes()));
    }
    let headers = headers.headers();
    filter.matches(&Record {
        topic: beside("topic").and_then(Value::as_str).unwrap_or_default(),
        partition: number("partition") as i32,
        offset: number("offset"),
        timestamp: number("timestamp"),
        key: beside("key").and_then(Value::as_str).map(str::as_bytes),
        value: pair.event.value.as_deref(),
        header: &|name| headers.last(name.as_bytes()),
    })
}

fn shown(pair: &Pair) -> String {
    let patterns: Vec<String> = pair.patterns.iter().map(Value::to_string).collect();
    let value = pair.event.value.as_ref().map(|it| String::from_utf8_lossy(it));
    let patterns = patterns.join(" or ");
    format!("{patterns} on {value:?}, {:?}, headers {:?}", pair.event.beside, pair.headers)
}

/// Pairs within which a planted mistake has to be noticed.
const RED_WITHIN: u64 = 10_000;

/// How many pairs it takes until the mistake is noticed.
fn red(first: u64, mistake: Mistake) -> Result<u64, NotShown> {
    (0..RED_WITHIN)
        .find(|number| agree(&draw::pair(first + number), Some(mistake)).is_err())
        .map(|number| number + 1)
        .ok_or_else(|| broken(format!("{} went unnoticed in {RED_WITHIN} pairs", mistake.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_cases_hold() {
        for (pattern, event, expected) in CASES {
            check_case(pattern, event, expected).unwrap();
        }
        assert!(check_case(CASES[0].0, CASES[0].1, false).is_err());
    }

    #[test]
    fn pairs_agree_and_match_as_often_as_not() {
        let matched = (1..2_001).filter(|seed| agree(&draw::pair(*seed), None).unwrap()).count();
        assert!((400..1_600).contains(&matched), "{matched}");
    }

    #[test]
    fn readings_have_the_length_that_is_measured() {
        for number in [0, 39, 1_999_999] {
            assert_eq!(cost::record(number).value.len(), cost::VALUE_BYTES);
            let value: Value = serde_json::from_slice(&cost::record(number).value).unwrap();
            assert_eq!(value["seq"], number);
        }
    }

    #[test]
    fn planted_mistakes_are_noticed() {
        for mistake in Mistake::ALL {
            red(1, mistake).unwrap();
        }
    }
}
