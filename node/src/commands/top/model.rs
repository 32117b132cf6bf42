//! What `millrace top` knows: the newest look, and how much every function did since the one before.

use std::collections::BTreeMap;
use std::time::Instant;

use gateway::api::{FunctionStatus, InstanceInfo, Status};

use super::Sort;
use crate::commands::error::CommandError;

/// What a node said.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) status: Status,
    pub(super) instances: Vec<InstanceInfo>,
}

/// Between two looks, a second. `None`: nobody knows yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    pub(super) settled: Option<f64>,
    pub(super) failed: Option<f64>,
    /// Below zero where it catches up.
    pub(super) lag: Option<f64>,
}

/// What is on the screen.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) sort: Sort,
    pub(super) shows_instances: bool,
    /// Somebody reads: the screen stays.
    pub(super) is_held: bool,
    look: Look,
    paces: BTreeMap<(String, String), Pace>,
    looked_at: Option<Instant>,
    failure: Option<CommandError>,
}

impl Model {
    pub(super) fn new(sort: Sort) -> Self {
        Self {
            sort,
            shows_instances: false,
            is_held: false,
            look: Look::default(),
            paces: BTreeMap::new(),
            looked_at: None,
            failure: None,
        }
    }

    /// The node answered, or did not. While the screen is held, neither shows.
    pub(super) fn on_look(&mut self, now: Instant, look: Result<Look, CommandError>) {
        if self.is_held {
            return;
        }
        match look {
            Ok(look) => {
                self.take(now, look);
                self.failure = None;
            }
            Err(failure) => self.failure = Some(failure),
        }
    }

    fn take(&mut self, now: Instant, look: Look) {
        let passed = self.looked_at.map(|at| now.saturating_duration_since(at).as_secs_f64());
        let is_same = lives(&self.look.status) == lives(&look.status);
        let before = &self.look.status.functions;
        self.paces = look
            .status
            .functions
            .iter()
            .map(|it| {
                // A node that was started anew counts from zero.
                let known = before.iter().find(|old| is_same && name(old) == name(it));
                let pace = known.zip(passed).map(|(old, passed)| pace(old, it, passed));
                (name(it), pace.unwrap_or_default())
            })
            .collect();
        self.looked_at = Some(now);
        self.look = look;
    }

    /// What kept the first look from being one.
    pub(super) fn take_first_error(&mut self) -> Option<CommandError> {
        self.failure.take()
    }

    pub(super) fn failure(&self) -> Option<&CommandError> {
        self.failure.as_ref()
    }

    pub(super) const fn status(&self) -> &Status {
        &self.look.status
    }

    pub(super) fn instances(&self) -> &[InstanceInfo] {
        &self.look.instances
    }

    /// In the order that was asked for; those that are alike by name.
    pub(super) fn functions(&self) -> Vec<(&FunctionStatus, Pace)> {
        let functions = self.look.status.functions.iter();
        let mut all: Vec<_> = functions.map(|it| (it, self.paces[&name(it)])).collect();
        let weight = |(it, pace): &(&FunctionStatus, Pace)| match self.sort {
            Sort::Name => 0.0,
            Sort::Rate => pace.settled.unwrap_or(0.0),
            Sort::Failures => pace.failed.unwrap_or(0.0),
            // What is not known may be anything.
            Sort::Lag => it.lag.map_or(f64::INFINITY, |lag| lag as f64),
        };
        all.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then_with(|| name(a.0).cmp(&name(b.0))));
        all
    }

    /// Of all functions together.
    pub(super) fn total(&self) -> Pace {
        let sum = |of: fn(&Pace) -> Option<f64>| self.paces.values().map(of).sum();
        Pace { settled: sum(|it| it.settled), failed: sum(|it| it.failed), lag: sum(|it| it.lag) }
    }
}

/// The processes that counted. One more or less of them is no pace.
fn lives(status: &Status) -> (&str, Vec<(&str, &str)>) {
    let nodes = status.nodes.iter().map(|it| (it.node.as_str(), it.started.as_str()));
    (&status.node.started, nodes.collect())
}

fn name(it: &FunctionStatus) -> (String, String) {
    (it.app.clone(), it.name.clone())
}

fn pace(before: &FunctionStatus, now: &FunctionStatus, passed_s: f64) -> Pace {
    let rate =
        |before: u64, now: u64| (0.0 < passed_s).then(|| (now as f64 - before as f64) / passed_s);
    // A function that was deployed anew begins to count again.
    let count = |before, now| rate(before, now).map(|it| it.max(0.0));
    Pace {
        settled: count(before.settled, now.settled),
        failed: count(before.failed, now.failed),
        lag: before.lag.zip(now.lag).and_then(|(before, now)| rate(before, now)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn look(started: &str, functions: &[(&str, u64, u64, Option<u64>)]) -> Look {
        let functions = functions.iter().map(|(name, settled, failed, lag)| FunctionStatus {
            app: "a".into(),
            name: (*name).into(),
            settled: *settled,
            failed: *failed,
            lag: *lag,
            ..FunctionStatus::default()
        });
        let mut look = Look::default();
        look.status.functions = functions.collect();
        look.status.node.started = started.to_owned();
        look
    }

    fn names(model: &Model) -> Vec<&str> {
        model.functions().iter().map(|(it, _)| it.name.as_str()).collect()
    }

    #[test]
    fn rates_are_between_two_looks_of_one_life() {
        let (now, mut model) = (Instant::now(), Model::new(Sort::Name));
        model.on_look(now, Ok(look("1", &[("f", 100, 0, Some(50)), ("g", 0, 0, None)])));
        assert_eq!(model.functions()[0].1, Pace::default(), "one look says nothing of rates");
        let later = now + Duration::from_secs(2);
        model.on_look(later, Ok(look("1", &[("f", 300, 4, Some(10)), ("g", 10, 0, Some(1))])));
        let expected = Pace { settled: Some(100.0), failed: Some(2.0), lag: Some(-20.0) };
        assert_eq!(model.functions()[0].1, expected);
        assert_eq!(model.functions()[1].1.lag, None, "what was unknown has no rate");
        assert_eq!(model.total().settled, Some(105.0));
        model.on_look(later + Duration::from_secs(1), Ok(look("2", &[("f", 5, 0, Some(10))])));
        assert_eq!(model.functions()[0].1, Pace::default(), "a new life counts from zero");
    }

    #[test]
    fn the_worst_comes_first_and_unknown_lag_is_the_worst() {
        let (now, mut model) = (Instant::now(), Model::new(Sort::Lag));
        let first = [("a", 0, 0, Some(1)), ("b", 0, 0, None), ("c", 0, 0, Some(9))];
        model.on_look(now, Ok(look("1", &first)));
        assert_eq!(names(&model), ["b", "c", "a"]);
        let second = [("a", 5, 1, Some(1)), ("b", 9, 0, None), ("c", 0, 3, Some(9))];
        model.on_look(now + Duration::from_secs(1), Ok(look("1", &second)));
        model.sort = Sort::Rate;
        assert_eq!(names(&model), ["b", "a", "c"]);
        model.sort = Sort::Failures;
        assert_eq!(names(&model), ["c", "a", "b"]);
        model.sort = Sort::Failures.next().next();
        assert_eq!(names(&model), ["a", "b", "c"]);
    }

    #[test]
    fn a_node_that_does_not_answer_leaves_the_last_look_and_a_held_screen_stays() {
        let (now, mut model) = (Instant::now(), Model::new(Sort::Name));
        model.on_look(now, Ok(look("1", &[("f", 1, 0, None)])));
        let away = || Err(CommandError::new(6, "E0503", "nobody answers"));
        model.on_look(now, away());
        assert_eq!((names(&model), model.failure().is_some()), (vec!["f"], true));
        model.is_held = true;
        model.on_look(now, Ok(look("1", &[("g", 1, 0, None)])));
        assert_eq!(names(&model), ["f"]);
    }
}
