//! The Runtime API of AWS Lambda, version 2018-06-01, as one worker sees it: what it is given and
//! what it says, one invocation at a time.
//!
//! Whoever reaches the API is the worker: it is served on a socket that only the worker has, or on
//! a loopback port of its own. An id that does not run there is refused.

mod answer;
mod core;
mod repoll;
mod server;

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::{Notify, oneshot};

use self::core::{Core, Next, Refusal};

pub(crate) use answer::{Answered, BATCH, JSON, function_error};
pub(crate) use server::{serve_connection, serve_port};

/// What a client's answer may have, bytes: 6 MiB and a little.
pub(crate) const ANSWER_BYTES_MAX: usize = (6 << 20) + 100;

/// One event for the worker.
#[derive(Debug)]
pub(crate) struct Event {
    /// Its content type and other headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    /// The longest answer, bytes.
    pub(crate) answer_bytes_max: usize,
}

/// The API of one worker. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// What all request ids of this worker begin with.
    prefix: String,
    state: Mutex<State>,
    /// An event was handed over: for the worker that waits for one.
    handed: Notify,
    /// The worker asks for more, or says that it cannot start. Apart from the other, because a
    /// question would wake itself and, on its second way through the scheduler, another thread.
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    core: Core,
    last: u64,
    event: Option<Arc<Event>>,
    answer: Option<oneshot::Sender<Answered>>,
    init_error: Option<Answered>,
}

impl Api {
    pub(crate) fn new() -> Self {
        let (high, low) = (random(), random());
        let prefix = format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-",
            high >> 32,
            high & 0xffff,
            low >> 52,
            low & 0xfff
        );
        let shared =
            Shared { prefix, state: Mutex::default(), handed: Notify::new(), asked: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nothing panics while holding it")
    }

    /// The id of the last event.
    pub(crate) fn last_id(&self) -> String {
        self.text(self.state().last)
    }

    fn text(&self, id: u64) -> String {
        format!("{}{id:012x}", self.shared.prefix)
    }

    fn number(&self, text: &str) -> Option<u64> {
        let digits = text.strip_prefix(self.shared.prefix.as_str())?;
        (digits.len() == 12).then(|| u64::from_str_radix(digits, 16).ok())?
    }

    /// Gives an event to the worker, which must be free. The answer comes at most once.
    pub(crate) fn hand(&self, event: Event) -> oneshot::Receiver<Answered> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        state.core.on_event(id);
        state.event = Some(Arc::new(event));
        state.answer = Some(answer);
        drop(state);
        self.shared.handed.notify_waiters();
        answered
    }

    /// Whether the worker has taken the last event.
    pub(crate) fn has_taken(&self) -> bool {
        self.state().core.has_taken()
    }

    /// Whether it waits for an event.
    pub(crate) fn is_free(&self) -> bool {
        self.state().core.is_free()
    }

    /// Whether it asked for batches.
    pub(crate) fn takes_batches(&self) -> bool {
        self.state().core.takes_batches()
    }

    /// Waits until the worker is free; its own account when it says that it cannot start.
    pub(crate) async fn freed(&self) -> Result<(), Answered> {
        loop {
            let asked = self.shared.asked.notified();
            tokio::pin!(asked);
            asked.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(error) = state.init_error.take() {
                    return Err(error);
                }
                if state.core.is_free() {
                    return Ok(());
                }
            }
            asked.await;
        }
    }

    /// The worker asks for its next event; comes back when there is one.
    async fn next(&self, takes_batches: bool) -> Result<(String, Arc<Event>), Refusal> {
        let mut asking = Asking { api: self, counted: false };
        loop {
            let handed = self.shared.handed.notified();
            tokio::pin!(handed);
            handed.as_mut().enable();
            {
                let mut state = self.state();
                state.core.on_taker_of_batches(takes_batches);
                let was_free = state.core.is_free();
                let next = state.core.on_next(asking.counted);
                asking.counted = next == Ok(Next::Wait);
                if next? == Next::Take {
                    let event = state.event.clone().expect("what runs has an event");
                    return Ok((self.text(state.last), event));
                }
                if !was_free {
                    drop(state);
                    self.shared.asked.notify_waiters();
                }
            }
            handed.await;
        }
    }

    /// An answer to this id begins.
    fn begin(&self, id: &str) -> Result<usize, Refusal> {
        let number = self.number(id);
        let mut state = self.state();
        state.core.on_answer(number)?;
        Ok(state.event.as_ref().map_or(ANSWER_BYTES_MAX, |event| event.answer_bytes_max))
    }

    /// The answer that has begun is this.
    fn end(&self, answered: Answered) {
        let mut state = self.state();
        state.core.on_answered();
        state.event = None;
        if let Some(answer) = state.answer.take() {
            // Whoever waited may have given up: the answer is late.
            drop(answer.send(answered));
        }
        drop(state);
        self.shared.asked.notify_waiters();
    }

    fn init_error(&self, error: Answered) -> Result<(), Refusal> {
        let mut state = self.state();
        state.core.on_init_error()?;
        state.init_error = Some(error);
        drop(state);
        self.shared.asked.notify_waiters();
        Ok(())
    }
}

/// A question that waits; withdrawn when its connection closes.
struct Asking<'a> {
    api: &'a Api,
    counted: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.api.state().core.on_gone();
        }
    }
}

/// Not for secrets: for ids that do not repeat.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}
