//! Lets the position log follow the journal: newest position per row, grouped, never in the way
//! of a commit. At the start it repairs a log that is behind, missing or impossible.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::{Error, Position, PositionKey, PositionLog};

/// How long moves gather before they are written: a flush costs 250 us of CPU.
const GATHER: Duration = Duration::from_millis(50);

/// The running follower; dropping it writes what is left.
#[derive(Debug)]
pub(crate) struct Follower {
    moves: Option<Sender<Vec<(PositionKey, Position)>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Follower {
    pub(crate) fn follow(&self, moves: Vec<(PositionKey, Position)>) {
        if let Some(sender) = &self.moves {
            // A follower that ended has said so; the journal holds the truth without it.
            drop(sender.send(moves));
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.moves = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Brings `log` up to `truth` and starts following.
pub(crate) fn start(
    log: Arc<dyn PositionLog>,
    truth: &BTreeMap<PositionKey, Position>,
) -> Result<Follower, Error> {
    if let Err(reason) = catch_up(log.as_ref(), truth) {
        tracing::warn!(%reason, "could not bring the position log up to the journal");
    }
    let (moves, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("millrace-positions".into())
        .spawn(move || run(log.as_ref(), &receiver))
        .map_err(|source| Error::Io { action: "start the position log's thread".into(), source })?;
    Ok(Follower { moves: Some(moves), thread: Some(thread) })
}

fn catch_up(
    log: &dyn PositionLog,
    truth: &BTreeMap<PositionKey, Position>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let known: BTreeMap<_, _> = log.load()?.into_iter().collect();
    let ahead = known.iter().find(|(key, position)| {
        let order = |position: &Position| (position.epoch, position.next);
        truth.get(key).is_none_or(|truth| order(truth) < order(position))
    });
    let mut behind: Vec<_> = truth
        .iter()
        .filter(|(key, position)| known.get(key) != Some(position))
        .map(|(key, position)| (key.clone(), position.clone()))
        .collect();
    if let Some((key, _)) = ahead {
        tracing::warn!(row = %key, "the position log is ahead of the journal: rebuilding it");
        log.clear()?;
        behind = truth.iter().map(|(key, it)| (key.clone(), it.clone())).collect();
    }
    if !behind.is_empty() {
        log.record(&behind)?;
    }
    Ok(())
}

fn run(log: &dyn PositionLog, moves: &Receiver<Vec<(PositionKey, Position)>>) {
    let mut warned = false;
    while let Ok(first) = moves.recv() {
        let mut newest: BTreeMap<PositionKey, Position> = first.into_iter().collect();
        let until = Instant::now() + GATHER;
        let mut open = true;
        while open {
            match moves.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(more) => newest.extend(more),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        let batch: Vec<_> = newest.into_iter().collect();
        if let Err(reason) = log.record(&batch) {
            if !warned {
                tracing::warn!(%reason, "could not write the position log; the journal goes on");
            }
            warned = true;
        } else {
            warned = false;
        }
    }
}
