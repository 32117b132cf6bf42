//! Many shards of one trigger ask the same of its group when they start or leave together: whoever
//! comes while a request is under way goes into the next one, with all others that wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::oneshot;

use super::Inner;
use super::ledger::Committed;
use super::offsets::Mark;
use crate::{Epoch, Error, ShardId};

/// What a request that was made for many came to.
type Shared<T> = Result<T, Failure>;

/// An error that many can be told of.
#[derive(Clone, Debug)]
struct Failure {
    kind: Kind,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unreachable,
    Authentication,
    Refused,
}

impl Failure {
    fn of(error: &Error) -> Self {
        let kind = match error {
            Error::Authentication { .. } => Kind::Authentication,
            error if error.is_retryable() => Kind::Unreachable,
            _ => Kind::Refused,
        };
        let reason = match error {
            Error::Unreachable { reason, .. }
            | Error::Authentication { reason, .. }
            | Error::Kafka { reason, .. } => reason.clone(),
            error => error.to_string(),
        };
        Self { kind, reason }
    }

    fn error(self, action: &'static str) -> Error {
        let Self { kind, reason } = self;
        match kind {
            Kind::Unreachable => Error::Unreachable { action, reason },
            Kind::Authentication => Error::Authentication { action, reason },
            Kind::Refused => Error::Kafka { action, reason },
        }
    }
}

/// A read of a group that has not begun: who joins it asked before.
#[derive(Debug, Default)]
struct Round {
    found: OnceLock<Shared<Arc<Vec<Committed>>>>,
}

/// The reads of one group.
#[derive(Debug, Default)]
struct Group {
    /// Held by who reads.
    turn: Arc<tokio::sync::Mutex<()>>,
    next: Arc<Round>,
}

/// One that waits to be written with others.
#[derive(Debug)]
struct Waiting<T> {
    what: T,
    done: oneshot::Sender<Result<(), Error>>,
}

/// Those that wait, by group.
#[derive(Debug)]
pub(super) struct Line<T>(Mutex<BTreeMap<String, Vec<Waiting<T>>>>);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Line<T> {
    fn join(&self, group: &str, what: T) -> oneshot::Receiver<Result<(), Error>> {
        let (done, outcome) = oneshot::channel();
        hold(&self.0).entry(group.to_owned()).or_default().push(Waiting { what, done });
        outcome
    }

    /// All that wait now and are still waited for.
    fn take(&self, group: &str) -> Vec<Waiting<T>> {
        let mut all = hold(&self.0).remove(group).unwrap_or_default();
        all.retain(|it| !it.done.is_closed());
        all
    }
}

/// What waits to be asked or written together.
#[derive(Debug, Default)]
pub(super) struct Together {
    reads: Mutex<BTreeMap<String, Group>>,
    anchors: Line<(ShardId, Epoch, Vec<Mark>)>,
    releases: Line<Vec<ShardId>>,
}

impl Together {
    fn join_read(&self, group: &str) -> (Arc<tokio::sync::Mutex<()>>, Arc<Round>) {
        let mut reads = hold(&self.reads);
        let it = reads.entry(group.to_owned()).or_default();
        (Arc::clone(&it.turn), Arc::clone(&it.next))
    }

    /// Who comes from here on asks again.
    fn begin_read(&self, group: &str, round: &Arc<Round>) {
        if let Some(it) = hold(&self.reads).get_mut(group)
            && Arc::ptr_eq(&it.next, round)
        {
            it.next = Arc::default();
        }
    }
}

const READ: &str = "read committed offsets";
const COMMIT: &str = "commit offsets";

/// Who had the turn gave up in the middle of it.
fn given_up() -> Error {
    Error::Unreachable { action: COMMIT, reason: "given up".to_owned() }
}

impl Inner {
    /// What a group holds after this was called; asked once for all that wait for it.
    pub(super) async fn committed_together(
        &self,
        group: &str,
    ) -> Result<Arc<Vec<Committed>>, Error> {
        let (turn, round) = self.together.join_read(group);
        let _turn = turn.lock().await;
        if let Some(found) = round.found.get() {
            return found.clone().map_err(|failure| failure.error(READ));
        }
        self.together.begin_read(group, &round);
        let found = self.committed(group).await.map(Arc::new);
        let shared = match &found {
            Ok(found) => Ok(Arc::clone(found)),
            Err(error) => Err(Failure::of(error)),
        };
        // It is set once: by who has the turn, and finds it empty.
        drop(round.found.set(shared));
        found
    }

    /// Commits offsets under an epoch, now: KL-1. Somebody else may have been seen while it waited
    /// for its turn, and for the answer.
    pub(super) async fn anchor(
        &self,
        shard: ShardId,
        epoch: Epoch,
        marks: Vec<Mark>,
    ) -> Result<(), Error> {
        let group = (self.brokers.config.group)(shard);
        let outcome = self.together.anchors.join(&group, (shard, epoch, marks));
        let turn = self.offsets.turn.lock().await;
        self.anchor_all(&group, self.together.anchors.take(&group)).await;
        drop(turn);
        outcome.await.unwrap_or_else(|_dropped| Err(given_up()))
    }

    async fn anchor_all(&self, group: &str, all: Vec<Waiting<(ShardId, Epoch, Vec<Mark>)>>) {
        let mut ours = Vec::with_capacity(all.len());
        for Waiting { what: (shard, epoch, marks), done } in all {
            let of_shard = |mark| (shard, epoch, mark);
            match self.check_epoch(shard, epoch) {
                Ok(()) => {
                    let marks: Vec<_> = marks.into_iter().map(of_shard).collect();
                    ours.push(Waiting { what: (shard, epoch, marks), done });
                }
                // Nobody waits any more when the caller was dropped; so below.
                Err(fenced) => drop(done.send(Err(fenced))),
            }
        }
        let marks = ours.iter().flat_map(|it| it.what.2.iter().cloned()).collect();
        let mut failure = self.alter(group, marks).await.err().map(|error| Failure::of(&error));
        // What is refused of one must not fail the others.
        let each = 1 < ours.len() && failure.as_ref().is_some_and(|it| it.kind == Kind::Refused);
        for Waiting { what: (shard, epoch, marks), done } in ours {
            if each {
                failure = self.alter(group, marks).await.err().map(|error| Failure::of(&error));
            }
            let outcome = match failure.clone() {
                Some(failure) => Err(failure.error(COMMIT)),
                None => self.check_epoch(shard, epoch),
            };
            drop(done.send(outcome));
        }
    }

    /// Writes the groups of these shards at once, with those of all others that leave.
    pub(super) async fn write_groups(&self, shards: &[ShardId]) -> Result<(), Error> {
        let mut groups: BTreeMap<String, Vec<ShardId>> = BTreeMap::new();
        for shard in shards {
            groups.entry((self.brokers.config.group)(*shard)).or_default().push(*shard);
        }
        for (group, shards) in groups {
            let outcome = self.together.releases.join(&group, shards);
            let turn = self.offsets.turn.lock().await;
            let all = self.together.releases.take(&group);
            if !all.is_empty() {
                let shards: Vec<ShardId> =
                    all.iter().flat_map(|it| it.what.iter().copied()).collect();
                let wrote = self.write_group_in_turn(&group, &shards, false).await;
                let failure = wrote.err().map(|error| Failure::of(&error));
                for Waiting { done, .. } in all {
                    let failed = failure.clone().map(|failure| failure.error(COMMIT));
                    drop(done.send(failed.map_or(Ok(()), Err)));
                }
            }
            drop(turn);
            outcome.await.unwrap_or_else(|_dropped| Err(given_up()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_before_a_read_begins_joins_it_and_who_comes_later_does_not() {
        let together = Together::default();
        let ((_, first), (_, second)) = (together.join_read("g"), together.join_read("g"));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &together.join_read("other").1));
        together.begin_read("g", &first);
        let (_, third) = together.join_read("g");
        assert!(!Arc::ptr_eq(&first, &third), "its answer may be older than the question");
        // Of a round whose reader gave up, the next one reads again.
        together.begin_read("g", &second);
        assert!(Arc::ptr_eq(&third, &together.join_read("g").1));
    }

    #[test]
    fn those_that_wait_are_taken_once_and_who_went_away_is_left_out() {
        let line = Line::default();
        let (first, gone) = (line.join("g", 1), line.join("g", 2));
        drop(gone);
        let other = line.join("h", 3);
        let taken = line.take("g");
        assert_eq!(taken.iter().map(|it| it.what).collect::<Vec<_>>(), [1]);
        assert!(line.take("g").is_empty());
        drop(taken);
        assert!(first.blocking_recv().is_err(), "who took it gave up");
        assert_eq!(line.take("h").len(), 1);
        drop(other);
    }
}
