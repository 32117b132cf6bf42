//! Writes positions into this node's log, for all shards together: whoever comes while a write is
//! under way, or soon after one, goes into the next. A sync costs a quarter of a millisecond of
//! CPU, and a commit has waited for its brokers already.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::topics::blocking;
use crate::{Error, Position, PositionKey, PositionLog, metrics as names};

/// From one write to the next at least. Who comes later than that after the last one never waits.
const WRITE_EVERY: Duration = Duration::from_millis(10);

type Rows = Vec<(PositionKey, Position)>;

/// Rows that wait, and who waits for them.
struct Call {
    rows: Rows,
    done: oneshot::Sender<Result<(), Error>>,
}

/// The way to the log.
#[derive(Debug)]
pub(super) struct Recorder {
    calls: mpsc::UnboundedSender<Call>,
}

impl Recorder {
    /// Starts the task that writes; it ends with the recorder.
    pub(super) fn start(log: Arc<dyn PositionLog>) -> Self {
        // Each shard has one call in it at most.
        let (calls, waiting) = mpsc::unbounded_channel();
        drop(tokio::spawn(write(log, waiting)));
        Self { calls }
    }

    /// Writes rows, and waits until they are durable.
    pub(super) async fn record(&self, rows: Rows) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let (done, outcome) = oneshot::channel();
        self.calls.send(Call { rows, done }).map_err(|_over| Error::Closed)?;
        outcome.await.map_err(|_over| Error::Closed)?.inspect_err(|_error| {
            metrics::counter!(names::POSITION_LOG_ERRORS).increment(1);
        })
    }
}

async fn write(log: Arc<dyn PositionLog>, mut waiting: mpsc::UnboundedReceiver<Call>) {
    let mut write_at = Instant::now();
    while let Some(first) = waiting.recv().await {
        tokio::time::sleep_until(write_at).await;
        let mut calls = vec![first];
        while let Ok(call) = waiting.try_recv() {
            calls.push(call);
        }
        let log = Arc::clone(&log);
        // What panics there is said there; whoever waits is told that it is over.
        drop(blocking(move || write_together(&*log, calls)).await);
        write_at = Instant::now() + WRITE_EVERY;
    }
}

/// All of them in one write. One that is refused must not fail the others: then each is tried by
/// itself.
fn write_together(log: &dyn PositionLog, calls: Vec<Call>) {
    let record = |rows: &[(PositionKey, Position)]| {
        log.record(rows).map_err(|error| Error::PositionLog { reason: error.to_string() })
    };
    if 1 < calls.len() {
        let rows: Rows = calls.iter().flat_map(|call| call.rows.iter().cloned()).collect();
        if record(&rows).is_ok() {
            for call in calls {
                // Nobody waits any more when the caller was dropped.
                drop(call.done.send(Ok(())));
            }
            return;
        }
    }
    for call in calls {
        let outcome = record(&call.rows);
        drop(call.done.send(outcome));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{Epoch, Offset, ShardId, TopicPartition};

    /// Keeps what was written, call by call; refuses what has an offset below zero.
    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<Rows>>);

    impl PositionLog for Log {
        fn record(
            &self,
            rows: &[(PositionKey, Position)],
        ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            if rows.iter().any(|(_, position)| position.next < Offset(0)) {
                return Err("below zero".into());
            }
            self.0.lock().unwrap().push(rows.to_vec());
            Ok(())
        }

        fn load(&self) -> Result<Rows, Box<dyn std::error::Error + Send + Sync>> {
            Ok(self.0.lock().unwrap().concat())
        }

        fn clear(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
    }

    fn row(shard: u64, next: i64) -> Rows {
        let key = PositionKey { shard: ShardId(shard), partition: TopicPartition::new("t", 0) };
        vec![(key, Position { next: Offset(next), epoch: Epoch(1), ..Position::default() })]
    }

    #[tokio::test]
    async fn who_comes_together_is_written_together_and_a_refused_one_fails_alone() {
        let log = Arc::new(Log::default());
        let recorder = Recorder::start(Arc::clone(&log) as Arc<dyn PositionLog>);
        recorder.record(row(1, 1)).await.unwrap();
        let calls = [row(1, 2), row(2, 2), row(3, 2)].map(|rows| recorder.record(rows));
        let [one, two, three] = calls;
        let (one, two, three) = tokio::join!(one, two, three);
        one.and(two).and(three).unwrap();
        let written: Vec<usize> = log.0.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(written, [1, 3]);

        let (good, bad) = tokio::join!(recorder.record(row(1, 3)), recorder.record(row(2, -1)));
        good.unwrap();
        assert!(matches!(bad, Err(Error::PositionLog { .. })), "{bad:?}");
        assert_eq!(log.load().unwrap().len(), 5);
    }
}
