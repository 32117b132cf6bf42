//! Carries Raft's messages over QUIC: one task for each other node, so that one that hangs holds up
//! nobody else's. Messages that wait together go together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use cluster::{Forwarded, Inbox, Letter, Proposal, Transport};
use exchange::{CallError, Exchange, Kind, NodeId};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Letters to one node that wait at most; Raft sends again what is lost.
const WAITING_MAX: usize = 1_024;
/// Bytes of messages that go together; a single larger one goes alone.
const TOGETHER_MAX: usize = 1 << 20;
/// How long messages may take beside their bytes.
const WITHIN: Duration = Duration::from_secs(1);
/// And for their bytes: 1 MB/s.
const PER_BYTE: Duration = Duration::from_micros(1);
/// How long a proposal may take until the leader has it in its log.
const PROPOSAL_WITHIN: Duration = Duration::from_secs(5);
/// How long a checkpoint may take to cross.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(600);

/// A checkpoint that another node fetches now.
#[derive(Clone)]
struct Outgoing {
    digest: [u8; 32],
    state: Bytes,
}

/// See the [module documentation](self).
pub(super) struct Courier {
    runtime: Handle,
    inbox: OnceLock<Inbox>,
    exchange: OnceLock<Weak<Exchange>>,
    ways: Mutex<BTreeMap<u64, mpsc::Sender<Vec<u8>>>>,
    outgoing: Mutex<BTreeMap<u64, Outgoing>>,
}

const UNPOISONED: &str = "nothing panics while it holds this";

impl std::fmt::Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Courier").field("inbox", &self.inbox).finish_non_exhaustive()
    }
}

impl Courier {
    pub(super) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            inbox: OnceLock::new(),
            exchange: OnceLock::new(),
            ways: Mutex::default(),
            outgoing: Mutex::default(),
        }
    }

    /// From here on something can be carried.
    pub(super) fn connect(&self, exchange: &Arc<Exchange>) {
        // It is called once.
        drop(self.exchange.set(Arc::downgrade(exchange)));
    }

    pub(super) fn inbox(&self) -> &Inbox {
        self.inbox.get().expect("the cluster gives it before it opens")
    }

    /// The state that this node may fetch now, by its digest.
    pub(super) fn state_for(&self, node: u64, digest: [u8; 32]) -> Option<Bytes> {
        let outgoing = self.outgoing.lock().expect(UNPOISONED);
        outgoing.get(&node).filter(|it| it.digest == digest).map(|it| it.state.clone())
    }

    fn exchange(&self) -> Option<Arc<Exchange>> {
        self.exchange.get()?.upgrade()
    }

    fn way(&self, to: u64) -> mpsc::Sender<Vec<u8>> {
        let mut ways = self.ways.lock().expect(UNPOISONED);
        let way = ways.entry(to).or_insert_with(|| {
            let (way, letters) = mpsc::channel(WAITING_MAX);
            let exchange = self.exchange.get().cloned().unwrap_or_default();
            self.runtime.spawn(carry(to, letters, self.inbox().clone(), exchange));
            way
        });
        way.clone()
    }

    fn send_checkpoint(&self, to: u64, message: &[u8], state: Vec<u8>) {
        let (inbox, exchange) = (self.inbox().clone(), self.exchange());
        let sealed = inbox.seal_checkpoint(message, &state);
        let outgoing = Outgoing { digest: Sha256::digest(&state).into(), state: state.into() };
        let Some(exchange) = exchange else { return inbox.checkpoint_sent(to, false) };
        // Raft has one on its way to a node; what is left of another was given up.
        self.outgoing.lock().expect(UNPOISONED).insert(to, outgoing);
        self.runtime.spawn(async move {
            let asked =
                exchange.call(NodeId(to), Kind::CHECKPOINT, sealed.into(), CHECKPOINT_WITHIN);
            let arrived = asked.await;
            if let Err(error) = &arrived {
                tracing::warn!(node = to, %error, "a checkpoint did not arrive");
            }
            inbox.checkpoint_sent(to, arrived.is_ok());
        });
    }
}

impl Transport for Courier {
    fn start(&self, inbox: Inbox) {
        // It is called once.
        drop(self.inbox.set(inbox));
    }

    fn send(&self, letter: Letter) {
        let Letter { to, message, state } = letter;
        if let Some(state) = state {
            return self.send_checkpoint(to, &message, state);
        }
        if self.exchange().is_none() || self.way(to).try_send(message).is_err() {
            self.inbox().unreachable(to);
        }
    }

    fn forward(&self, leader: (u64, u64), proposal: Proposal) {
        let (inbox, exchange) = (self.inbox().clone(), self.exchange());
        self.runtime.spawn(async move {
            let sealed = inbox.seal_proposal(&proposal);
            let how = match exchange {
                None => Forwarded::NotTaken,
                Some(exchange) => {
                    let leads = NodeId(leader.1);
                    let asked = exchange.call(leads, Kind::PROPOSE, sealed.into(), PROPOSAL_WITHIN);
                    outcome(asked.await)
                }
            };
            inbox.forwarded(proposal.request, leader, how);
        });
    }
}

fn outcome(answer: Result<Bytes, CallError>) -> Forwarded {
    match answer {
        Ok(answer) if answer.as_ref() == TAKEN => Forwarded::Taken,
        Ok(_) => Forwarded::NotTaken,
        Err(error) if error.is_outcome_unknown() => Forwarded::Unknown,
        Err(_) => Forwarded::NotTaken,
    }
}

/// The answer to a proposal that is in the log.
pub(super) const TAKEN: &[u8] = b"taken";

/// Carries messages to one node, in order, until the courier is gone.
async fn carry(
    to: u64,
    mut letters: mpsc::Receiver<Vec<u8>>,
    inbox: Inbox,
    exchange: Weak<Exchange>,
) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(letter) => letter,
            None => match letters.recv().await {
                Some(letter) => letter,
                None => return,
            },
        };
        let mut bytes = first.len();
        let mut together = vec![first];
        while let Ok(letter) = letters.try_recv() {
            if TOGETHER_MAX < bytes + letter.len() {
                next = Some(letter);
                break;
            }
            bytes += letter.len();
            together.push(letter);
        }
        let Some(exchange) = exchange.upgrade() else { return };
        let within = WITHIN + PER_BYTE * u32::try_from(bytes).unwrap_or(u32::MAX);
        let sealed = inbox.seal(&together);
        let carried = exchange.call(NodeId(to), Kind::RAFT, sealed.into(), within).await;
        if let Err(error) = carried {
            tracing::debug!(node = to, %error, "messages were lost");
            inbox.unreachable(to);
        }
    }
}
