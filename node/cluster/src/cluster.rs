//! One member of the group that runs, and the handle to it.
//!
//! ```text
//! callers --Input--> the raft thread (driver.rs): Group, log, state --Letter--> Transport
//!            ^                                                          |
//!            +------------------------ Inbox <--------------------------+
//! ```
//!
//! One thread carries out every step, because each write to the log blocks and the order of steps
//! is what makes them safe. A panic on it ends the process: nobody knows what was half done.

mod driver;
mod inbox;
mod survivor;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
#[cfg(test)]
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use storage::codec;
use tokio::sync::{oneshot, watch};

use crate::format::{self, NotEncoded, decode_state, encode_state, unread_checkpoint};
use crate::group::{Group, Limits};
use crate::image::Image;
use crate::log::{COMMAND_BYTES_MAX, Error, OnFatal};
use crate::members::{Change, Members, NotChanged};
use crate::raft_log::RaftLog;
use crate::state::{Applied, Command, Refused, State};
use crate::wire::Sender;

use driver::Driver;
pub use inbox::{Forwarded, Inbox, Letter, NoTransport, Transport};
use inbox::{Input, Inputs, Queue};
pub use survivor::Survivor;

/// The time between two ticks.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// How long a command is proposed again until a leader takes it: several elections.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one try of a read waits before it is asked anew: a lost question is not answered.
const READ_TRY: Duration = Duration::from_millis(500);

/// The file of versions that had no raft yet.
const FORMER: &str = "cluster.redb";

/// What a member is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its id.
    pub member: u64,
    /// The cluster's name: what comes from another one is dropped.
    pub cluster: String,
    /// Whether an empty folder founds a group of this member alone. Otherwise it waits for the
    /// leader's checkpoint.
    pub founds: bool,
    /// When it makes checkpoints.
    pub limits: Limits,
    /// What carries messages to the others.
    pub transport: Arc<dyn Transport>,
}

impl Config {
    /// A node without others: member 1 of a group of its own.
    #[must_use]
    pub fn alone() -> Self {
        Self {
            member: 1,
            cluster: String::new(),
            founds: true,
            limits: Limits::default(),
            transport: Arc::new(NoTransport),
        }
    }
}

/// Who leads, as far as this member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// In which term.
    pub term: u64,
    /// The member, if one is known.
    pub leader: Option<u64>,
}

/// How a member takes no part any more, although nobody closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its disk lacks what it acknowledged (CLU-6).
    Forgot,
    /// It belongs to the group no more.
    Removed,
    /// The group writes this format, which its build does not read (FM-3).
    Unread(u8),
}

/// How a member is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Who belongs to the group.
    pub members: Members,
    /// The term it is in.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<u64>,
    /// The index of the first entry that it keeps.
    pub first: u64,
    /// The index of the last entry.
    pub last: u64,
    /// What is agreed on, as far as it knows.
    pub committed: u64,
    /// What is in its state.
    pub applied: u64,
    /// What is in its last checkpoint.
    pub checkpoint: u64,
    /// What came from others and was dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// What handles and the raft thread share.
struct Shared {
    me: u64,
    sender: Sender,
    state: RwLock<Arc<State>>,
    applied: watch::Sender<u64>,
    leadership: watch::Sender<Leadership>,
    unheard: Mutex<BTreeMap<u64, Duration>>,
    vitals: Mutex<Vitals>,
    dropped: Mutex<BTreeMap<&'static str, u64>>,
    ended: watch::Sender<Option<Ended>>,
}

const UNPOISONED: &str = "nothing panics while it holds this";

impl Shared {
    fn drop_for(&self, reason: &'static str) {
        *self.dropped().entry(reason).or_default() += 1;
        metrics::counter!("millrace_raft_dropped_total", "reason" => reason).increment(1);
    }

    fn dropped(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.dropped.lock().expect(UNPOISONED)
    }
}

/// Describes the metrics of this crate.
pub fn describe_metrics() {
    metrics::describe_counter!(
        "millrace_raft_dropped_total",
        "Messages of other members that were dropped, by reason"
    );
}

struct Inner {
    shared: Arc<Shared>,
    queue: Queue,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    /// The files are closed when this returns.
    fn drop(&mut self) {
        self.queue.close();
        let thread = self.thread.get_mut().expect(UNPOISONED).take();
        let other = thread.filter(|it| it.thread().id() != std::thread::current().id());
        // A panic on it has ended the process.
        drop(other.map(JoinHandle::join));
    }
}

/// See the [module documentation](self). Cheap to clone; the member ends with the last handle.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("me", &self.me()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Opens the member's log in a data directory, making it if there is none, applies what is
    /// known to be agreed on, and starts. A member alone leads when this returns, and all of its
    /// log is applied.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Former`], [`Error::Unread`], [`Error::Write`].
    pub fn open(data_dir: &Path, config: Config, on_fatal: OnFatal) -> Result<Self, Error> {
        let former = data_dir.join(FORMER);
        if former.exists() {
            return Err(Error::Former(former));
        }
        let path = data_dir.join("raft.redb");
        let damaged = |reason| Error::Damaged { path: path.clone(), reason };
        let first = match config.founds {
            true => Image::founding(vec![config.member], encode_state(&State::founding())?),
            false => Image::joining(),
        };
        let (log, image) = RaftLog::open(&path, &first)?;
        if let Some(format) = unread_checkpoint(&image.checkpoint.state) {
            return Err(Error::Unread { format });
        }
        let incarnation = log.count_start()?;
        let last = image.last();
        let state = match image.is_blank() {
            true => State::default(),
            false => decode_state(&image.checkpoint.state)
                .map_err(|error| damaged(format!("its checkpoint: {error}")))?,
        };
        // Members that start together must not stand for election together.
        let seed = config.member.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ incarnation;
        let group = Group::new(config.member, image, config.limits, seed).map_err(damaged)?;
        let shared = Arc::new(Shared {
            me: config.member,
            sender: Sender { cluster: config.cluster, incarnation },
            state: RwLock::new(Arc::new(state)),
            applied: watch::Sender::new(group.applied()),
            leadership: watch::Sender::default(),
            unheard: Mutex::default(),
            vitals: Mutex::default(),
            dropped: Mutex::default(),
            ended: watch::Sender::default(),
        });
        let (queue, inputs) = Queue::new();
        let transport = Arc::clone(&config.transport);
        transport.start(Inbox::new(queue.clone(), Arc::clone(&shared)));
        let mut driver = Driver::new(group, (log, path), Arc::clone(&shared), transport);
        driver.begin(last)?;
        let thread = spawn(driver, inputs, on_fatal);
        let inner = Inner { shared, queue, thread: Mutex::new(Some(thread)) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This member's id.
    #[must_use]
    pub fn me(&self) -> u64 {
        self.inner.shared.me
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.shared.sender.cluster
    }

    /// How many processes have opened this member's log, this one among them.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.inner.shared.sender.incarnation
    }

    /// The newest state that was applied on this node.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.inner.shared.state.read().expect(UNPOISONED))
    }

    /// The index of what was applied last; wakes at each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.shared.applied.subscribe()
    }

    /// Proposes a command through whoever leads, and waits until it is applied here.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::TooLarge`], [`Error::Busy`], [`Error::Unavailable`] and
    /// [`Error::Closed`], when nothing was changed; [`Error::Unknown`].
    pub async fn propose(&self, command: Command) -> Result<Applied, Error> {
        let (reply, answer) = oneshot::channel();
        let bytes = self.encode(&command)?;
        // Whoever asked may have gone: then nobody wants the answer.
        self.send(Input::Propose {
            command: bytes,
            until: Instant::now() + PATIENCE,
            reply: Box::new(move |ended| drop(reply.send(ended))),
        })?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// As [`Cluster::propose`], for callers that are no tasks.
    #[cfg(test)]
    pub(crate) fn propose_and_wait(&self, command: &Command) -> Result<Applied, Error> {
        let (reply, answer) = channel();
        self.send(Input::Propose {
            command: self.encode(command)?,
            until: Instant::now() + PATIENCE,
            reply: Box::new(move |ended| drop(reply.send(ended))),
        })?;
        answer.recv().unwrap_or(Err(Error::Closed))
    }

    /// A state that has everything that was acknowledged anywhere before this was called.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when nobody could confirm that within `patience`; [`Error::Closed`].
    pub async fn read(&self, patience: Duration) -> Result<Arc<State>, Error> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let (reply, answer) = oneshot::channel();
            self.send(Input::Read { within: left.min(READ_TRY), reply })?;
            match tokio::time::timeout_at(until, answer).await {
                Ok(Ok(true)) => return Ok(self.state()),
                Ok(Ok(false)) => {}
                Ok(Err(_)) => return Err(Error::Closed),
                Err(_) => return Err(Error::Unavailable),
            }
            if tokio::time::timeout_at(until, tokio::time::sleep(TICK)).await.is_err() {
                return Err(Error::Unavailable);
            }
        }
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        *self.inner.shared.leadership.borrow()
    }

    /// As [`Cluster::leadership`]; wakes when it changes.
    #[must_use]
    pub fn leaderships(&self) -> watch::Receiver<Leadership> {
        self.inner.shared.leadership.subscribe()
    }

    /// Whether this member leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leadership().leader == Some(self.me())
    }

    /// Where this member leads: how long ago each other one was heard of, since it began to lead at
    /// the most; of who led before it, however long. Empty elsewhere.
    #[must_use]
    pub fn unheard(&self) -> BTreeMap<u64, Duration> {
        self.inner.shared.unheard.lock().expect(UNPOISONED).clone()
    }

    /// How this member is, for people.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let vitals = self.inner.shared.vitals.lock().expect(UNPOISONED).clone();
        Vitals { dropped: self.inner.shared.dropped().clone(), ..vitals }
    }

    /// Changes who belongs to the group; only the leader can. Learners that the state names come
    /// by themselves and are promoted when they have caught up, so that what is left to ask for is
    /// [`Change::Remove`].
    ///
    /// # Errors
    ///
    /// [`Error::NotChanged`]; [`Error::Unknown`] when it was begun and the lead was lost.
    pub async fn change(&self, change: Change) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Change { change, reply })?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Gives the lead to another voter; only the leader can. It has it when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::NotChanged`]; [`Error::Unavailable`] when it did not take it within an election.
    pub async fn transfer(&self, to: u64) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let mut leaderships = self.leaderships();
        self.send(Input::Transfer { to, reply })?;
        answer.await.unwrap_or(Err(NotChanged::Dropped)).map_err(Error::from)?;
        let is_there = leaderships.wait_for(|it| it.leader == Some(to));
        match tokio::time::timeout(Duration::from_secs(2), is_there).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::Unavailable),
        }
    }

    /// Makes a checkpoint of this member's state now; which index it is of.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub async fn checkpoint(&self) -> Result<u64, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Checkpoint { reply })?;
        answer.await.map_err(|_| Error::Closed)
    }

    /// Waits until the member takes no part any more, although nobody closed it.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.inner.shared.ended.subscribe();
        let found = ended.wait_for(Option::is_some).await.map(|it| *it);
        match found {
            Ok(Some(ended)) => ended,
            // The sender lives as long as this handle.
            _ => std::future::pending().await,
        }
    }

    /// Ends the member: what is on its way ends as unknown, and the files are closed.
    pub async fn close(&self) {
        self.inner.queue.close();
        let thread = self.inner.thread.lock().expect(UNPOISONED).take();
        if let Some(thread) = thread {
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
    }

    /// A command in the active format. Nobody who applies it later reads less (FM-1).
    fn encode(&self, command: &Command) -> Result<Vec<u8>, Error> {
        let active = self.state().format();
        let bytes = format::encode_command(command, active).map_err(|error| match error {
            NotEncoded::Early(format) => Error::Refused(Refused::Early { format, active }),
            NotEncoded::Codec(error) => Error::TooLarge(error),
        })?;
        if COMMAND_BYTES_MAX < bytes.len() {
            let (bytes, limit_bytes) = (bytes.len(), COMMAND_BYTES_MAX);
            return Err(codec::CodecError::TooLarge { bytes, limit_bytes }.into());
        }
        Ok(bytes)
    }

    fn send(&self, input: Input) -> Result<(), Error> {
        self.inner.queue.ask(input)
    }
}

fn spawn(mut driver: Driver, inputs: Inputs, on_fatal: OnFatal) -> JoinHandle<()> {
    let run = move || {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| driver.run(&inputs)));
        match ran {
            Ok(Ok(())) => {}
            Ok(Err(error)) => on_fatal(&error.to_string()),
            Err(_panic) => on_fatal("a panic on the thread of the cluster's log"),
        }
    };
    let thread = std::thread::Builder::new().name("raft".to_owned());
    thread.spawn(run).expect("a process that is starting may have one more thread")
}

#[cfg(test)]
mod tests;
