//! A pure core: the revisions of one function that are kept, in the order of their deploys, and
//! the aliases that name some of them.

use std::collections::BTreeMap;

use bus::Timestamp;
use serde::{Deserialize, Serialize};

use super::Function;

/// Revisions of a function that are kept, the newest ones, beside what runs, what ran before it and
/// what an alias names.
pub const REVISIONS_MAX: usize = 20;

/// A revision that is kept: it can run again without its sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// How people tell them apart: counted from 1 by the deploys of the function. Content that is
    /// deployed again later gets a new number.
    pub number: u64,
    /// What it is.
    pub function: Function,
    /// When it was deployed last, by the clock of the node that did. Shown, decides nothing.
    pub at: Timestamp,
    /// The revision that ran when this one was deployed.
    pub before: Option<String>,
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// By number.
    kept: Vec<Kept>,
    /// Alias -> revision.
    aliases: BTreeMap<String, String>,
    /// Of the last deploy.
    newest: u64,
}

impl History {
    /// What was kept elsewhere: the oldest first, aliases of revisions that are among them.
    #[must_use]
    pub fn restored(kept: Vec<Kept>, aliases: BTreeMap<String, String>) -> Option<Self> {
        let newest = kept.last()?.number;
        let history = Self { kept, aliases, newest };
        let ascends = history.kept.is_sorted_by(|a, b| a.number < b.number);
        let names: std::collections::BTreeSet<&str> =
            history.kept.iter().map(|it| it.function.revision.as_str()).collect();
        let is_named = history.aliases.values().all(|it| names.contains(it.as_str()));
        (ascends && is_named && names.len() == history.kept.len()).then_some(history)
    }

    /// By number, the oldest first.
    #[must_use]
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Which revision each alias names.
    #[must_use]
    pub const fn aliases(&self) -> &BTreeMap<String, String> {
        &self.aliases
    }

    /// A revision that is kept.
    #[must_use]
    pub fn find(&self, revision: &str) -> Option<&Kept> {
        self.kept.iter().find(|it| it.function.revision == revision)
    }

    /// What a rollback from this revision leads to: the one that ran when it was deployed, if that
    /// is kept still. It is, as long as this one runs.
    #[must_use]
    pub fn before(&self, revision: &str) -> Option<&Kept> {
        self.find(self.find(revision)?.before.as_deref()?)
    }

    /// This revision was deployed, and runs from now on.
    pub(super) fn deploy(&mut self, function: &Function, running: Option<&str>, at: Timestamp) {
        self.kept.retain(|it| it.function.revision != function.revision);
        self.newest += 1;
        self.kept.push(Kept {
            number: self.newest,
            function: function.clone(),
            at,
            before: running.map(str::to_owned),
        });
    }

    /// Lets an alias name a revision that is kept, or, with `None`, takes it away; the caller has
    /// looked both up.
    pub(super) fn alias(&mut self, alias: &str, revision: Option<&str>) {
        match revision {
            Some(revision) => drop(self.aliases.insert(alias.to_owned(), revision.to_owned())),
            None => drop(self.aliases.remove(alias)),
        }
    }

    /// Forgets what is older than the newest [`REVISIONS_MAX`], but not what runs, what ran before
    /// it, and what an alias names.
    pub(super) fn prune(&mut self, running: &str) {
        let old = self.kept.len().saturating_sub(REVISIONS_MAX);
        let before = self.before(running).map(|it| it.number);
        let aliases = &self.aliases;
        let mut place = 0;
        self.kept.retain(|it| {
            place += 1;
            let revision = &it.function.revision;
            old < place
                || revision == running
                || Some(it.number) == before
                || aliases.values().any(|it| it == revision)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(revision: usize) -> Function {
        Function {
            revision: format!("r{revision}"),
            package: format!("p{revision}"),
            spec: "{}".to_owned(),
        }
    }

    fn deployed(history: &mut History, revision: usize, running: Option<usize>) {
        let running = running.map(|it| format!("r{it}"));
        history.deploy(&function(revision), running.as_deref(), Timestamp(7));
        history.prune(&format!("r{revision}"));
    }

    fn names(history: &History) -> Vec<&str> {
        history.kept().iter().map(|it| it.function.revision.as_str()).collect()
    }

    #[test]
    fn the_newest_and_those_that_are_named_are_kept() {
        let mut history = History::default();
        deployed(&mut history, 1, None);
        deployed(&mut history, 2, Some(1));
        history.alias("stable", Some("r2"));
        for revision in 3..=30 {
            deployed(&mut history, revision, Some(revision - 1));
        }
        assert_eq!(history.kept().len(), REVISIONS_MAX + 1);
        assert_eq!(names(&history)[..2], ["r2", "r11"]);
        history.alias("stable", None);
        history.prune("r30");
        assert_eq!(names(&history)[0], "r11");
        history.prune("r11");
        assert_eq!(history.kept().len(), REVISIONS_MAX);
    }

    #[test]
    fn a_rollback_leads_to_what_ran_before_and_never_to_what_was_rolled_back() {
        let mut history = History::default();
        deployed(&mut history, 1, None);
        deployed(&mut history, 2, Some(1));
        deployed(&mut history, 3, Some(2));
        let before = |history: &History, revision: &str| {
            history.before(revision).map(|it| it.function.revision.clone())
        };
        assert_eq!(before(&history, "r3").as_deref(), Some("r2"));
        assert_eq!(before(&history, "r2").as_deref(), Some("r1"));
        assert_eq!(before(&history, "r1"), None);
        // r3 was bad; r2 runs again when r4 is deployed.
        deployed(&mut history, 4, Some(2));
        assert_eq!(before(&history, "r4").as_deref(), Some("r2"));
        // The content of r1, deployed anew.
        deployed(&mut history, 1, Some(4));
        assert_eq!(names(&history), ["r2", "r3", "r4", "r1"]);
        assert_eq!(history.find("r1").map(|it| it.number), Some(5));
        assert_eq!(before(&history, "r1").as_deref(), Some("r4"));
        assert_eq!(before(&history, "unknown"), None);
    }

    #[test]
    fn what_a_rollback_leads_to_is_kept_while_it_may_be_asked_for() {
        let mut history = History::default();
        deployed(&mut history, 1, None);
        deployed(&mut history, 2, Some(1));
        for revision in 3..=40 {
            // One after the other while r2 ran: each was rolled back.
            deployed(&mut history, revision, Some(2));
        }
        assert_eq!(names(&history)[..2], ["r2", "r21"]);
        assert_eq!(history.before("r40").map(|it| it.function.revision.as_str()), Some("r2"));
        assert!(history.before("r2").is_none(), "r1 is gone");
    }
}
