//! One connection between two nodes, and which of two is kept.

use std::cmp::Reverse;
use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;

use crate::frame::{Decoder, Formats, Frame, FrameError, Head};
use crate::gate::Side;
use crate::identity::{NodeId, NodeName};

/// Codes that connections and streams end with.
pub(crate) mod code {
    use quinn::VarInt;

    /// The endpoint closes.
    pub(crate) const CLOSED: VarInt = VarInt::from_u32(0);
    /// The other side may not come in; the reason is its name.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
    /// Another connection of the pair is kept.
    pub(crate) const REPLACED: VarInt = VarInt::from_u32(2);
    /// Whoever asked does not want it any more.
    pub(crate) const CANCELLED: VarInt = VarInt::from_u32(3);
    /// What was to be answered is not.
    pub(crate) const ABANDONED: VarInt = VarInt::from_u32(4);
}

/// What two connections of a pair are compared by. Both sides know the same of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// One more than the newest that the dialler knew of.
    pub(crate) generation: u64,
    /// Who dialled.
    pub(crate) dialer: NodeId,
    /// A number of the other side's process.
    pub(crate) boot: u64,
}

impl Claim {
    /// Whether it takes the place of `other` (XC-3): a process that is new knows nothing of what
    /// its predecessor held; else the higher generation, of equal ones that of the lower node, and
    /// of two dials by one node the newer one.
    pub(crate) fn replaces(self, other: Self) -> bool {
        let rank = |claim: Self| (claim.generation, Reverse(claim.dialer));
        self.boot != other.boot || rank(other) <= rank(self)
    }
}

/// A connection to a member that has been let in.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) name: NodeName,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) side: Side,
    pub(crate) claim: Claim,
    /// What the other side reads.
    pub(crate) reads: Formats,
    busy: AtomicU64,
    /// Answers that are written and may not have left.
    leaving: Mutex<Leaving>,
}

/// See [`Link::is_busy`]. Nothing waits for what leaves: each packet that says that an answer came
/// would wake a task, beside the one that has to do with what else is in it.
struct Leaving {
    answers: Vec<Stream>,
    /// How many there are when it is looked which have left.
    look_at: usize,
}

impl Leaving {
    fn look(&mut self) {
        self.answers.retain(|answer| !answer.is_taken());
        self.look_at = LEAVING_LOOK.max(2 * self.answers.len());
    }
}

/// Fewer answers than these are not worth a look.
const LEAVING_LOOK: usize = 32;

impl Link {
    pub(crate) fn new(
        connection: Connection,
        (name, certificate): (NodeName, CertificateDer<'static>),
        side: Side,
        (claim, reads): (Claim, Formats),
    ) -> Arc<Self> {
        let busy = AtomicU64::new(0);
        let leaving = Mutex::new(Leaving { answers: Vec::new(), look_at: LEAVING_LOOK });
        Arc::new(Self { connection, name, certificate, side, claim, reads, busy, leaving })
    }

    pub(crate) fn is_live(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Counts a request, in either direction, until the guard goes.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Whether a request is on its way, or an answer to one.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) != 0 || {
            let mut leaving = self.leaving.lock().expect(UNPOISONED);
            leaving.look();
            !leaving.answers.is_empty()
        }
    }

    pub(crate) fn close(&self, code: VarInt, reason: &str) {
        self.connection.close(code, reason.as_bytes());
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).field("claim", &self.claim).finish()
    }
}

/// A request on its way over a link.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Link>);

impl Busy {
    /// The request was answered, but the answer may not have left: a link that was replaced has to
    /// wait for that.
    pub(crate) fn leave(self, answer: Stream) {
        if answer.on_drop.is_some() {
            return;
        }
        let mut leaving = self.0.leaving.lock().expect(UNPOISONED);
        leaving.answers.push(answer);
        if leaving.look_at <= leaving.answers.len() {
            leaving.look();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Both halves of a stream. Dropped before its end it is reset and stopped, so that the other side
/// knows; quinn alone would finish it, as if all had been said.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    on_drop: Option<VarInt>,
}

impl Stream {
    pub(crate) fn new((send, recv): (SendStream, RecvStream), on_drop: VarInt) -> Self {
        Self { send, recv, on_drop: Some(on_drop) }
    }

    /// Whether the other side has all that was said, or does not want it.
    fn is_taken(&self) -> bool {
        let stopped = pin!(self.send.stopped());
        stopped.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// From here on there is nothing to take back.
    pub(crate) fn done(&mut self) {
        self.on_drop = None;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(code) = self.on_drop {
            // Either may be over already, which is as good.
            self.send.reset(code).ok();
            self.recv.stop(code).ok();
        }
    }
}

/// Why no frame came.
#[derive(Debug)]
pub(crate) enum ReadFailed {
    /// The connection ended.
    Lost,
    /// The other side took the stream back.
    Reset,
    /// What came is no frame.
    Frame(FrameError),
}

/// Reads a frame; of a blob its head, and what came with it.
pub(crate) async fn read_frame(recv: &mut RecvStream, limit: usize) -> Result<Frame, ReadFailed> {
    let mut decoder = Decoder::new(limit);
    loop {
        let chunk = recv.read_chunk(CHUNK, true).await.map_err(|error| match error {
            ReadError::Reset(_) => ReadFailed::Reset,
            _ => ReadFailed::Lost,
        })?;
        let Some(chunk) = chunk else { return Err(ReadFailed::Frame(FrameError::Truncated)) };
        let frame = decoder.on_bytes(&chunk.bytes).map_err(ReadFailed::Frame)?;
        if let Some(frame) = frame {
            if !matches!(frame.head, Head::Blob { .. }) {
                take_end(recv).await;
            }
            return Ok(frame);
        }
    }
}

/// Takes the end of a stream, which comes with the last of its bytes, and waits for nothing. A
/// stream whose end was not taken is stopped when it is dropped: that is a packet for each request
/// and for each answer, and as many acknowledgements.
async fn take_end(recv: &mut RecvStream) {
    let mut read = pin!(recv.read_chunk(1, true));
    poll_fn(|cx| {
        drop(read.as_mut().poll(cx));
        Poll::Ready(())
    })
    .await;
}

const UNPOISONED: &str = "nothing panics while it holds this";

/// What is taken from a stream at once, in bytes.
pub(crate) const CHUNK: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const fn claim(generation: u64, dialer: u64, boot: u64) -> Claim {
        Claim { generation, dialer: NodeId(dialer), boot }
    }

    #[test]
    fn both_sides_keep_the_same_one_whichever_they_see_first() {
        for (kept, other) in [
            (claim(1, 1, 7), claim(1, 2, 7)),
            (claim(2, 2, 7), claim(1, 1, 7)),
            (claim(3, 1, 7), claim(2, 1, 7)),
        ] {
            assert!(kept.replaces(other) && !other.replaces(kept), "{kept:?} {other:?}");
        }
    }

    #[test]
    fn a_new_process_and_a_second_dial_replace_what_there_was() {
        assert!(claim(1, 2, 8).replaces(claim(9, 1, 7)));
        assert!(claim(4, 2, 7).replaces(claim(4, 2, 7)));
    }
}
