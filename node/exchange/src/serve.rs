//! Answering other nodes: one task per stream that has to wait. A handler is dropped when whoever
//! asked has gone, or when the time that they gave is over.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use quinn::WriteError;
use tokio::time::{Instant, sleep_until, timeout};

use crate::blob::Blob;
use crate::endpoint::Inner;
use crate::frame::{FIRST, FrameError, Head, Kind, PAYLOAD_MAX, Status};
use crate::identity::NodeName;
use crate::link::{Link, ReadFailed, Stream, code, read_frame};
use crate::metrics;
use crate::refusal::Refusal;

/// The longest that a request may be given, whatever it says.
const LEFT_MAX: Duration = Duration::from_secs(3_600);
/// The longest request of who is no member yet, in bytes.
const JOIN_MAX: usize = 4 << 10;
/// The longest text of a failure, in bytes.
const SAID_MAX: usize = 4 << 10;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A member, by its certificate and the member table.
    Member(NodeName),
    /// Somebody who wants to be one; only [`Kind::JOIN`] comes from there.
    Joiner(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(name) => name.fmt(f),
            Self::Joiner(address) => write!(f, "a joiner at {address}"),
        }
    }
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// By whom.
    pub peer: Peer,
    /// What it is about; one that this version knows, and never `HELLO`.
    pub kind: Kind,
    /// When nobody waits for the answer any more.
    pub deadline: Instant,
    /// The rest.
    pub payload: Bytes,
}

/// What a handler answers.
#[derive(Debug)]
pub enum Answer {
    /// In one piece, of [`PAYLOAD_MAX`] bytes at most.
    Bytes(Bytes),
    /// Piece by piece.
    Blob(Blob),
    /// It failed; the text is cut at 4 KiB.
    Failed(String),
    /// It may not be; counted and logged under its name.
    Refused(Refusal),
}

/// An answer on its way.
pub type Handling<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What answers other nodes.
pub trait Handler: Send + Sync + 'static {
    /// Answers. The future is dropped when the caller is gone or its time is over, at any await.
    fn handle(&self, request: Request) -> Handling<'_>;
}

/// Serves a link until it ends.
pub(crate) async fn serve_link(inner: Arc<Inner>, link: Arc<Link>) {
    let peer = Peer::Member(link.name.clone());
    while let Ok(opened) = link.connection.accept_bi().await {
        let mut stream = Stream::new(opened, code::ABANDONED);
        let (inner, peer, busy) = (Arc::clone(&inner), peer.clone(), link.busy());
        let mut serving = Box::pin(async move {
            serve(&inner, peer, &mut stream).await;
            busy.leave(stream);
        });
        // As far as it comes at once it goes here: before a task of its own begins a thread is woken
        // that takes it, which takes as long. That task polls it again, and is what is woken.
        let mut nobody = Context::from_waker(Waker::noop());
        if serving.as_mut().poll(&mut nobody).is_pending() {
            drop(tokio::spawn(serving));
        }
    }
    inner.forget(&link);
}

/// Serves one request.
pub(crate) async fn serve(inner: &Inner, peer: Peer, stream: &mut Stream) {
    let is_member = matches!(peer, Peer::Member(_));
    let limit = if is_member { PAYLOAD_MAX } else { JOIN_MAX };
    let read = timeout(inner.timing.read, read_frame(&mut stream.recv, limit)).await;
    let frame = match read {
        // It came too slowly, or whoever sent it is gone.
        Err(_) | Ok(Err(ReadFailed::Lost | ReadFailed::Reset)) => return,
        Ok(Err(ReadFailed::Frame(error))) => {
            let refusal = match error {
                FrameError::Version(_) => Refusal::UnknownVersion,
                _ => Refusal::BadFrame,
            };
            return refuse(inner, &peer, stream, (FIRST, 0), refusal, error.to_string()).await;
        }
        Ok(Ok(frame)) => frame,
    };
    let Head::Request { kind, id, left_ms, .. } = frame.head else {
        let said = "an answer where a request should be".to_owned();
        return refuse(inner, &peer, stream, (FIRST, 0), Refusal::BadFrame, said).await;
    };
    metrics::came(frame.format);
    let to = (frame.format, id);
    if !kind.is_known() {
        let number = kind.0.to_string();
        return refuse(inner, &peer, stream, to, Refusal::UnknownKind, number).await;
    }
    if kind == Kind::HELLO || is_member == (kind == Kind::JOIN) {
        let name = kind.name().to_owned();
        return refuse(inner, &peer, stream, to, Refusal::ForeignKind, name).await;
    }
    let deadline = Instant::now() + Duration::from_millis(left_ms).min(LEFT_MAX);
    let request = Request { peer: peer.clone(), kind, deadline, payload: frame.payload.into() };
    if kind != Kind::INVOKE {
        // It may compute for a while, and other requests of the link do not wait for that.
        next_poll().await;
    }
    let ended = tokio::select! {
        biased;
        _gone = stream.send.stopped() => "cancelled",
        () = sleep_until(deadline) => {
            reply(stream, to, Status::LATE, Bytes::new()).await.ok();
            "late"
        }
        answer = inner.handler.handle(request) => {
            let said = tell(inner, &peer, stream, to, answer);
            tokio::select! {
                said = said => said,
                () = sleep_until(deadline) => "late",
            }
        }
    };
    metrics::served(kind, ended);
}

/// Comes back when it is polled again, which it asks for.
async fn next_poll() {
    let mut was_polled = false;
    let once_more = poll_fn(|cx| {
        if std::mem::replace(&mut was_polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    once_more.await;
}

/// Writes an answer; how it ended.
async fn tell(
    inner: &Inner,
    peer: &Peer,
    stream: &mut Stream,
    to: (u8, u64),
    answer: Answer,
) -> &'static str {
    let (written, ended) = match answer {
        Answer::Bytes(bytes) if PAYLOAD_MAX < bytes.len() => {
            let said = format!("an answer of {} bytes, {PAYLOAD_MAX} may be", bytes.len());
            (reply(stream, to, Status::FAILED, said.into()).await, "failed")
        }
        Answer::Bytes(bytes) => (reply(stream, to, Status::OK, bytes).await, "answered"),
        Answer::Failed(said) => {
            let said = Bytes::from(said);
            let cut = said.slice(..said.len().min(SAID_MAX));
            (reply(stream, to, Status::FAILED, cut).await, "failed")
        }
        Answer::Refused(refusal) => {
            inner.gate.refusals.note(refusal, peer);
            (reply(stream, to, Status::REFUSED, refusal.name().into()).await, "refused")
        }
        Answer::Blob(blob) => (stream_out(stream, to, blob).await, "answered"),
    };
    if written.is_ok() { ended } else { "cancelled" }
}

/// Refuses by name, and answers with it and with what is wrong.
async fn refuse(
    inner: &Inner,
    peer: &Peer,
    stream: &mut Stream,
    to: (u8, u64),
    refusal: Refusal,
    what: String,
) {
    inner.gate.refusals.note(refusal, &format_args!("{peer}: {what}"));
    let said = format!("{refusal}: {what}");
    reply(stream, to, Status::REFUSED, said.into()).await.ok();
    // What is still coming is not read.
    stream.recv.stop(code::REFUSED).ok();
}

/// Writes an answer in one piece, in the format of the request and with its id.
pub(crate) async fn reply(
    stream: &mut Stream,
    (format, id): (u8, u64),
    status: Status,
    payload: Bytes,
) -> Result<(), WriteError> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut head = Vec::with_capacity(crate::frame::HEAD);
    Head::Answer { status, length, id }.encode_as(format, &mut head);
    stream.send.write_all_chunks(&mut [head.into(), payload]).await?;
    finish(stream)
}

async fn stream_out(
    stream: &mut Stream,
    (format, id): (u8, u64),
    mut blob: Blob,
) -> Result<(), WriteError> {
    let mut head = Vec::with_capacity(crate::frame::BLOB_HEAD);
    Head::Blob { length: blob.length, id, digest: blob.digest }.encode_as(format, &mut head);
    stream.send.write_chunk(head.into()).await?;
    let mut left = blob.length;
    while let Some(chunk) = blob.chunks.recv().await {
        // More than was said is an error of ours; too few the other side counts itself.
        left = left.checked_sub(chunk.len() as u64).ok_or(WriteError::ClosedStream)?;
        stream.send.write_chunk(chunk).await?;
    }
    finish(stream)
}

fn finish(stream: &mut Stream) -> Result<(), WriteError> {
    stream.send.finish().map_err(|_closed| WriteError::ClosedStream)?;
    stream.done();
    Ok(())
}
