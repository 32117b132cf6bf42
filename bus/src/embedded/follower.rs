//! Lets the position log follow the journal: the newest position of each row that moved, written
//! together, never in the way of a commit. At the start it repairs a log that is behind, empty or
//! impossible. The journal holds the truth: a log that fails is said so, and the bus goes on.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::state::Shared;
use crate::{Error, Position, PositionKey, PositionLog, metrics as names};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Default)]
struct Work {
    moved: BTreeSet<PositionKey>,
    rebuild: bool,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Desk {
    work: Mutex<Work>,
    wake: Condvar,
}

impl Desk {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running follower; dropping it writes what is left.
#[derive(Debug)]
pub(super) struct Follower {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Brings `log` up to the journal, and follows it from here on.
    pub(super) fn start(
        log: Arc<dyn PositionLog>,
        shared: Arc<Shared>,
        every: Duration,
    ) -> Result<Self, Error> {
        let mut teller = Teller::default();
        teller.tell(guarded(|| catch_up(&*log, &shared)));
        let desk = Arc::new(Desk::default());
        let worker = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name("millrace-positions".into())
            .spawn(move || run(&*log, &shared, &worker, every, teller))
            .map_err(|source| Error::Io {
                action: "start the position log's thread".into(),
                source,
            })?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// These rows moved.
    pub(super) fn follow(&self, mut moved: BTreeSet<PositionKey>) {
        let is_first = {
            let mut work = self.desk.work();
            let is_first = work.moved.is_empty();
            work.moved.append(&mut moved);
            is_first
        };
        // Else the thread knows, and gathers: it sleeps until it writes.
        if is_first {
            self.desk.wake.notify_one();
        }
    }

    /// Rows were forgotten: the log has no other way to lose some than to lose all.
    pub(super) fn rebuild(&self) {
        self.desk.work().rebuild = true;
        self.desk.wake.notify_one();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.desk.work().is_closed = true;
        self.desk.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panics only with the log, which is caught; there is nothing to do about more.
            drop(thread.join());
        }
    }
}

fn run(log: &dyn PositionLog, shared: &Shared, desk: &Desk, every: Duration, mut teller: Teller) {
    // What could not be written waits for the next move: no retry against a full disk.
    let (mut kept, mut kept_rebuild) = (BTreeSet::new(), false);
    loop {
        let mut work = desk.work();
        while work.moved.is_empty() && !work.rebuild && !work.is_closed {
            work = desk.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + every;
        while !work.is_closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = desk.wake.wait_timeout(work, left);
            work = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let is_last = work.is_closed;
        let mut moved = std::mem::take(&mut work.moved);
        let rebuild = std::mem::take(&mut work.rebuild) | std::mem::take(&mut kept_rebuild);
        drop(work);
        moved.append(&mut kept);
        let written = guarded(|| {
            if rebuild {
                log.clear()?;
                return write(log, shared.positions());
            }
            write(log, newest(shared, &moved))
        });
        if written.is_err() {
            (kept, kept_rebuild) = (moved, rebuild);
        }
        teller.tell(written);
        if is_last {
            return;
        }
    }
}

/// The rows of `moved` that still exist, as they are now.
fn newest(shared: &Shared, moved: &BTreeSet<PositionKey>) -> Vec<(PositionKey, Position)> {
    let shards = shared.shards();
    let rows = moved.iter().filter_map(|key| {
        let (_, position) = shards.get(&key.shard)?.positions.get(&key.partition)?;
        Some((key.clone(), position.clone()))
    });
    rows.collect()
}

fn write(
    log: &dyn PositionLog,
    rows: impl IntoIterator<Item = (PositionKey, Position)>,
) -> Result<(), Failure> {
    let rows: Vec<_> = rows.into_iter().collect();
    if rows.is_empty() { Ok(()) } else { log.record(&rows) }
}

/// Compares the log with the journal: behind or equal is normal, ahead cannot be.
fn catch_up(log: &dyn PositionLog, shared: &Shared) -> Result<(), Failure> {
    let truth = shared.positions();
    let known = log.load().or_else(|reason| {
        tracing::warn!(%reason, "could not read the position log: rebuilding it from the journal");
        log.clear().map(|()| Vec::new())
    })?;
    let order = |position: &Position| (position.epoch, position.next);
    let mut rebuild = false;
    for (key, position) in &known {
        match truth.get(key) {
            Some(truth) if order(truth) < order(position) => {
                tracing::warn!(
                    row = %key, log = %position.next, journal = %truth.next,
                    "the position log is ahead of the journal: rebuilding it"
                );
                rebuild = true;
                break;
            }
            Some(_) => {}
            None => rebuild = true,
        }
    }
    if rebuild {
        log.clear()?;
        return write(log, truth);
    }
    let known: std::collections::BTreeMap<_, _> = known.into_iter().collect();
    write(log, truth.into_iter().filter(|(key, position)| known.get(key) != Some(position)))
}

/// Says that the log fails when it starts to, and that it works again.
#[derive(Debug, Default)]
struct Teller {
    has_failed: bool,
}

impl Teller {
    fn tell(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) if self.has_failed => {
                self.has_failed = false;
                tracing::info!("the position log is written again");
            }
            Ok(()) => {}
            Err(reason) => {
                metrics::counter!(names::POSITION_LOG_ERRORS).increment(1);
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::warn!(%reason, "could not write the position log: the journal has what it lacks");
                }
            }
        }
    }
}

/// A store that panics on what it reads is a failure of the log like any other.
fn guarded(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_panic| Err("the position log panicked".into()))
}
