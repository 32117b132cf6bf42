//! Where operations wait for the writer. Callers are let in by bytes, so what waits is bounded;
//! the writer takes all of it at once and sleeps while there is none.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    Append, Appended, Commit, Epoch, Error, Recovered, ShardId, Timestamp, TopicInfo, TopicSpec,
};

/// What the writer is asked for.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Append(Vec<Append>),
    Commit(Commit),
    Recover(ShardId, Epoch),
    CreateTopic(TopicSpec),
    DeleteTopic(String),
    Forget(ShardId),
    /// Deletes what retention lets go at this time.
    Retain(Timestamp),
}

impl Op {
    /// About how many bytes it writes.
    pub(super) fn bytes(&self) -> usize {
        let appends = match self {
            Self::Append(appends) => appends,
            Self::Commit(commit) => &commit.appends,
            _ => return OVERHEAD_BYTES,
        };
        let settles = if let Self::Commit(commit) = self { &commit.settles[..] } else { &[] };
        appends
            .iter()
            .chain(settles)
            .map(|it| it.batch.as_bytes().len() + OVERHEAD_BYTES)
            .sum::<usize>()
            + OVERHEAD_BYTES
    }

    /// Whether it shares a journal write with others. What changes topics or forgets does not:
    /// the operations behind it are checked against what it led to.
    pub(super) const fn is_shared(&self) -> bool {
        matches!(self, Self::Append(_) | Self::Commit(_) | Self::Recover(..))
    }
}

/// What a row beside a batch costs, and an operation beside its rows.
const OVERHEAD_BYTES: usize = 256;

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Appended(Vec<Appended>),
    Recovered(Recovered),
    Topic(TopicInfo),
    Done,
}

/// An operation and who waits for it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) op: Op,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Outcome, Error>>,
    /// Room in the queue, given back when the operation is done.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Default)]
struct Inner {
    pending: VecDeque<Pending>,
    is_closed: bool,
}

/// What [`Queue::take`] found.
pub(super) enum Taken {
    Group(Vec<Pending>),
    /// Nothing came in time.
    Nothing,
    /// Closed, and empty.
    Closed,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
}

impl Queue {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands operations over together: nothing comes between them.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub(super) fn push(&self, pending: impl IntoIterator<Item = Pending>) -> Result<(), Error> {
        let mut inner = self.inner();
        if inner.is_closed {
            return Err(Error::Closed);
        }
        inner.pending.extend(pending);
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    /// Admits nothing more; what was admitted is still given out.
    pub(super) fn close(&self) {
        self.inner().is_closed = true;
        self.wake.notify_one();
    }

    /// Waits for operations, for ever or for `patience`, and takes those that share a write, up
    /// to about `bytes_max`.
    pub(super) fn take(&self, bytes_max: usize, patience: Option<Duration>) -> Taken {
        let until = patience.and_then(|it| Instant::now().checked_add(it));
        let mut inner = self.inner();
        while inner.pending.is_empty() {
            if inner.is_closed {
                return Taken::Closed;
            }
            let Some(until) = until else {
                inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Taken::Nothing;
            }
            let waited = self.wake.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) = inner.pending.front() {
            let fits = bytes + next.bytes <= bytes_max && next.op.is_shared();
            if !group.is_empty() && !fits {
                break;
            }
            bytes += next.bytes;
            let is_shared = next.op.is_shared();
            group.extend(inner.pending.pop_front());
            if !is_shared {
                break;
            }
        }
        Taken::Group(group)
    }
}
