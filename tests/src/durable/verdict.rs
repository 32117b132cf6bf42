//! What was acknowledged, what a node says, and where the two differ. Nothing of it is shared with
//! the nodes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What somebody was told is done.
#[derive(Clone, Debug, Default)]
pub(super) struct Acknowledged {
    /// Application -> the revision of its function.
    pub(super) deploys: BTreeMap<String, String>,
    /// Trigger -> whether it is paused.
    pub(super) pauses: BTreeMap<String, bool>,
}

/// The same, as a node says it.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) deploys: BTreeMap<String, String>,
    pub(super) pauses: BTreeMap<String, bool>,
}

impl Said {
    /// From `functions -o json` and `trigger list -o json`.
    pub(super) fn of(functions: &Value, triggers: &Value) -> Self {
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let each = |list: &Value| list.as_array().cloned().unwrap_or_default();
        let deploys = each(&functions["functions"]);
        let deploys = deploys.iter().map(|it| (text(&it["app"]), text(&it["runs"]["revision"])));
        let pauses = each(&triggers["triggers"]);
        let pauses = pauses.iter().map(|it| (text(&it["trigger"]), !it["paused_since"].is_null()));
        Self { deploys: deploys.collect(), pauses: pauses.collect() }
    }
}

/// What was acknowledged and is not so.
pub(super) fn lost(acknowledged: &Acknowledged, said: &Said) -> Vec<String> {
    let mut lost = Vec::new();
    for (app, revision) in &acknowledged.deploys {
        match said.deploys.get(app) {
            Some(found) if found == revision => {}
            found => lost.push(format!("{app} is {found:?}, not {revision}")),
        }
    }
    for (trigger, paused) in &acknowledged.pauses {
        match said.pauses.get(trigger) {
            Some(found) if found == paused => {}
            found => lost.push(format!("{trigger}: paused is {found:?}, not {paused}")),
        }
    }
    lost
}

/// Records of the source, by partition and offset, that have no output or more than one, and
/// outputs of nothing.
pub(super) fn uneven(
    sources: &BTreeSet<(i64, i64)>,
    outputs: &[(i64, i64)],
) -> BTreeMap<(i64, i64), usize> {
    let mut counts: BTreeMap<(i64, i64), usize> = sources.iter().map(|it| (*it, 0)).collect();
    for output in outputs {
        *counts.entry(*output).or_default() += 1;
    }
    counts.retain(|place, count| *count != 1 || !sources.contains(place));
    counts
}

/// How many planted losses are noticed, of how many.
pub(super) fn red(acknowledged: &Acknowledged, said: &Said, outputs: &[(i64, i64)]) -> (u64, u64) {
    let mut planted: Vec<bool> = Vec::new();
    let mut try_one = |harm: &dyn Fn(&mut Said)| {
        let mut harmed = said.clone();
        harm(&mut harmed);
        planted.push(!lost(acknowledged, &harmed).is_empty());
    };
    try_one(&|said| drop(said.deploys.pop_first()));
    try_one(&|said| said.deploys.values_mut().for_each(|it| it.push('0')));
    try_one(&|said| drop(said.pauses.pop_last()));
    try_one(&|said| said.pauses.values_mut().for_each(|it| *it = !*it));
    let sources: BTreeSet<(i64, i64)> = outputs.iter().copied().collect();
    let passed: Vec<_> = outputs.iter().skip(1).copied().collect();
    let repeated: Vec<_> = outputs.iter().chain(outputs.first()).copied().collect();
    planted.push(!uneven(&sources, &passed).is_empty());
    planted.push(!uneven(&sources, &repeated).is_empty());
    (planted.iter().filter(|it| **it).count() as u64, planted.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_named_and_what_is_planted_is_noticed() {
        let deploys: BTreeMap<_, _> = [("a".to_owned(), "1".to_owned())].into();
        let pauses: BTreeMap<_, _> = [("a/f/f".to_owned(), true)].into();
        let acknowledged = Acknowledged { deploys: deploys.clone(), pauses: pauses.clone() };
        let said = Said { deploys, pauses };
        assert!(lost(&acknowledged, &said).is_empty());
        assert_eq!(red(&acknowledged, &said, &[(0, 1), (1, 5)]), (6, 6));
    }
}
