//! What goes to the raft thread, from handles and from other members, and what leaves it.
//!
//! The queue takes what the thread has to know in any case; what other members send, and what
//! callers ask for, is bounded, and dropped or refused beyond that.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use raft::eraftpb::Message;
use tokio::sync::oneshot;

use super::Shared;
use crate::group::RequestId;
use crate::log::Error;
use crate::members::{Change, NotChanged};
use crate::state::Applied;
use crate::wire::{self, Proposal, Said, Want};

/// What waits for the thread at most, of messages and questions together.
const WAITING_MAX: usize = 4_096;
/// And of bytes in messages.
const BYTES_MAX: usize = 64 << 20;

/// Gets what became of a proposal.
pub(super) type Reply = Box<dyn FnOnce(Result<Applied, Error>) + Send>;

/// What the raft thread is told or asked.
pub(super) enum Input {
    Message {
        message: Box<Message>,
        incarnation: u64,
        bytes: usize,
    },
    Unreachable(u64),
    CheckpointSent {
        to: u64,
        arrived: bool,
    },
    Propose {
        command: Vec<u8>,
        until: Instant,
        reply: Reply,
    },
    /// Another member's, to be put into the log if this one leads.
    Foreign {
        proposal: Proposal,
        incarnation: u64,
        reply: oneshot::Sender<bool>,
    },
    Forwarded {
        request: RequestId,
        leader: (u64, u64),
        how: Forwarded,
    },
    Read {
        within: Duration,
        reply: oneshot::Sender<bool>,
    },
    Change {
        change: Change,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Transfer {
        to: u64,
        reply: oneshot::Sender<Result<(), NotChanged>>,
    },
    Checkpoint {
        reply: oneshot::Sender<u64>,
    },
    Close,
}

/// The way to the raft thread.
#[derive(Clone)]
pub(super) struct Queue {
    inputs: Sender<Input>,
    load: Arc<Load>,
}

#[derive(Default)]
struct Load {
    waiting: AtomicUsize,
    bytes: AtomicUsize,
}

impl Queue {
    pub(super) fn new() -> (Self, Inputs) {
        let (inputs, receiver) = channel();
        let load = Arc::<Load>::default();
        (Self { inputs, load: Arc::clone(&load) }, Inputs { receiver, load })
    }

    /// Asks for something that may be refused for want of room.
    pub(super) fn ask(&self, input: Input) -> Result<(), Error> {
        if !self.reserve(0) {
            return Err(Error::Busy);
        }
        self.inputs.send(input).map_err(|_ended| Error::Closed)
    }

    /// Tells what must be known in any case.
    fn tell(&self, input: Input) {
        self.load.waiting.fetch_add(1, Ordering::Relaxed);
        // Nobody is left who would have to know.
        drop(self.inputs.send(input));
    }

    pub(super) fn close(&self) {
        self.tell(Input::Close);
    }

    fn reserve(&self, bytes: usize) -> bool {
        let waiting = self.load.waiting.fetch_add(1, Ordering::Relaxed);
        let before = self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room = waiting < WAITING_MAX && before + bytes <= BYTES_MAX.max(bytes);
        if !has_room {
            self.load.release(bytes);
        }
        has_room
    }
}

impl Load {
    fn release(&self, bytes: usize) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The raft thread's end of the queue.
pub(super) struct Inputs {
    receiver: Receiver<Input>,
    load: Arc<Load>,
}

impl Inputs {
    /// What comes until then; `None` if nothing does.
    pub(super) fn next(&self, until: Instant) -> Option<Input> {
        let left = until.saturating_duration_since(Instant::now());
        // Without any sender nobody is left who could ask.
        let input = self.receiver.recv_timeout(left).ok()?;
        self.release(&input);
        Some(input)
    }

    /// What is there already.
    pub(super) fn ready(&self) -> Option<Input> {
        let input = self.receiver.try_recv().ok()?;
        self.release(&input);
        Some(input)
    }

    fn release(&self, input: &Input) {
        let bytes = if let Input::Message { bytes, .. } = input { *bytes } else { 0 };
        self.load.release(bytes);
    }
}

/// A raft message on its way to another member.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    /// To whom.
    pub to: u64,
    /// The message, for [`Inbox::seal`].
    pub message: Vec<u8>,
    /// The state that goes with it, apart from it. Whoever carries it says in any case what became
    /// of it: [`Inbox::checkpoint_sent`].
    pub state: Option<Vec<u8>>,
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.as_ref().map(Vec::len);
        f.debug_struct("Letter").field("to", &self.to).field("state", &state).finish()
    }
}

/// What became of a proposal that was sent to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// It is in its log.
    Taken,
    /// It is not, and will not be.
    NotTaken,
    /// Nobody can say.
    Unknown,
}

/// What carries messages between members. Nothing of it may block: it is called on the raft thread.
pub trait Transport: fmt::Debug + Send + Sync {
    /// The member starts; what comes for it goes into its inbox.
    fn start(&self, inbox: Inbox);

    /// Carries a letter, or loses it: then it tells [`Inbox::unreachable`].
    fn send(&self, letter: Letter);

    /// Carries a proposal to the leader, and tells [`Inbox::forwarded`] what became of it.
    fn forward(&self, leader: (u64, u64), proposal: Proposal);
}

/// Of a node alone: there is nobody.
#[derive(Clone, Copy, Debug)]
pub struct NoTransport;

impl Transport for NoTransport {
    fn start(&self, _inbox: Inbox) {}

    fn send(&self, _letter: Letter) {}

    fn forward(&self, _leader: (u64, u64), _proposal: Proposal) {}
}

/// Where a transport brings what came. It does not keep the member running.
#[derive(Clone)]
pub struct Inbox {
    queue: Queue,
    shared: Arc<Shared>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("me", &self.shared.me).finish_non_exhaustive()
    }
}

impl Inbox {
    pub(super) const fn new(queue: Queue, shared: Arc<Shared>) -> Self {
        Self { queue, shared }
    }

    /// Whose inbox it is.
    #[must_use]
    pub fn me(&self) -> u64 {
        self.shared.me
    }

    /// Messages without a state, as one piece of bytes for [`Inbox::receive`] of another member.
    #[must_use]
    pub fn seal(&self, messages: &[Vec<u8>]) -> Vec<u8> {
        wire::messages(&self.shared.sender, messages)
    }

    /// A message whose state goes apart from it, for [`Inbox::wanted`] of another member.
    #[must_use]
    pub fn seal_checkpoint(&self, message: &[u8], state: &[u8]) -> Vec<u8> {
        wire::checkpoint(&self.shared.sender, message, state)
    }

    /// A proposal, for [`Inbox::take`] of the leader.
    #[must_use]
    pub fn seal_proposal(&self, proposal: &Proposal) -> Vec<u8> {
        wire::proposal(&self.shared.sender, proposal)
    }

    /// Member `from` sent these messages, whoever they say they are of. What may not be heard is
    /// dropped and counted.
    pub fn receive(&self, from: u64, bytes: &[u8]) {
        let Some((incarnation, Said::Messages(messages))) = self.decode(from, bytes) else {
            return;
        };
        let each = bytes.len() / messages.len().max(1);
        for message in messages {
            self.hand_over(message, incarnation, each);
        }
    }

    /// Which state has to come before what member `from` sent can be [received](Self::restore).
    #[must_use]
    pub fn wanted(&self, from: u64, bytes: &[u8]) -> Option<Want> {
        match self.decode(from, bytes)? {
            (_, Said::Checkpoint(want, _)) => Some(want),
            _ => None,
        }
    }

    /// Member `from` sent this, and this state goes with it; whether it is that state.
    #[must_use]
    pub fn restore(&self, from: u64, bytes: &[u8], state: Vec<u8>) -> bool {
        let Some((incarnation, Said::Checkpoint(want, message))) = self.decode(from, bytes) else {
            return false;
        };
        let length = state.len();
        match wire::put_state(*message, &want, state) {
            Ok(message) => self.hand_over(message, incarnation, length),
            Err(error) => {
                self.shared.drop_for(error.name());
                false
            }
        }
    }

    /// Member `from` proposes something to this one; whether it is in the log now.
    pub async fn take(&self, from: u64, bytes: &[u8]) -> bool {
        let Some((incarnation, Said::Proposal(proposal))) = self.decode(from, bytes) else {
            return false;
        };
        let (reply, answer) = oneshot::channel();
        let asked = self.queue.ask(Input::Foreign { proposal, incarnation, reply });
        asked.is_ok() && answer.await.unwrap_or(false)
    }

    /// A letter to this member was lost.
    pub fn unreachable(&self, to: u64) {
        self.queue.tell(Input::Unreachable(to));
    }

    /// What became of a letter with a state.
    pub fn checkpoint_sent(&self, to: u64, arrived: bool) {
        self.queue.tell(Input::CheckpointSent { to, arrived });
    }

    /// What became of a proposal that went to this leader.
    pub fn forwarded(&self, request: RequestId, leader: (u64, u64), how: Forwarded) {
        self.queue.tell(Input::Forwarded { request, leader, how });
    }

    fn decode(&self, from: u64, bytes: &[u8]) -> Option<(u64, Said)> {
        let decoded = wire::decode(&self.shared.sender.cluster, from, bytes);
        decoded.inspect_err(|error| self.shared.drop_for(error.name())).ok()
    }

    fn hand_over(&self, message: Message, incarnation: u64, bytes: usize) -> bool {
        if !self.queue.reserve(bytes) {
            self.shared.drop_for("overload");
            return false;
        }
        let input = Input::Message { message: Box::new(message), incarnation, bytes };
        self.queue.inputs.send(input).is_ok()
    }
}
