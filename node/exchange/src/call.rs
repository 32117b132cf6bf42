//! Asking another node: one stream per request, until its answer or its deadline. Dropping a call
//! resets the stream, and with it the handler on the other side.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::WriteError;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

use crate::blob::BlobReader;
use crate::endpoint::{Exchange, Inner};
use crate::frame::{Frame, FrameError, Head, Kind, PAYLOAD_MAX, Status};
use crate::identity::NodeId;
use crate::link::{Busy, ReadFailed, Stream, code, read_frame};

/// How a call ended that has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No address is known of this node, and it has not dialled.
    #[error("node {0} is not known here")]
    UnknownNode(NodeId),
    /// The payload is over the limit; it was not sent.
    #[error("a payload of {0} bytes, {PAYLOAD_MAX} may be")]
    TooLong(usize),
    /// Its time was over first; what was asked may have happened.
    #[error("no answer in time")]
    Deadline,
    /// The connection ended before the answer; what was asked may have happened.
    #[error("the connection ended before the answer")]
    Lost,
    /// The other side gave up in the middle of it; what was asked may have happened.
    #[error("the other side gave up")]
    Abandoned,
    /// The other side's handler failed.
    #[error("failed there: {0}")]
    Failed(String),
    /// The other side did not let it in.
    #[error("refused there: {0}")]
    Refused(String),
    /// The answer is no frame.
    #[error("read the answer: {0}")]
    Frame(#[from] FrameError),
    /// An answer to another request, or of another shape than asked for.
    #[error("an answer to something else")]
    Answer,
    /// A blob with too few or too many bytes, or more than may be.
    #[error("a blob of another length than it says, or than may be")]
    Length,
    /// A blob that is another than its digest says.
    #[error("a blob that is not the one of its digest")]
    Digest,
    /// There is no connection, or it ended before the request had left: it certainly did not run.
    #[error("there is no connection to it")]
    NotSent,
}

impl CallError {
    /// Whether what was asked may have happened all the same.
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::Deadline | Self::Lost | Self::Abandoned | Self::Frame(_) | Self::Answer
        )
    }

    /// Whether the same may succeed later, given that it may be done twice.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Deadline | Self::Lost | Self::UnknownNode(_))
    }
}

impl Exchange {
    /// Asks a node and waits for the answer, for `within` at most; waits for a connection too.
    /// A request that certainly did not run because its connection ended is sent again.
    ///
    /// # Errors
    ///
    /// [`CallError`]; never later than `within`.
    pub async fn call(
        &self,
        node: NodeId,
        kind: Kind,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let deadline = Instant::now() + within;
        let asked = async {
            let (asking, frame) = ask(&self.inner, node, kind, payload, deadline).await?;
            let Head::Answer { .. } = frame.head else { return Err(CallError::Answer) };
            let (_busy, mut stream) = asking;
            stream.done();
            Ok(Bytes::from(frame.payload))
        };
        timeout_at(deadline, asked).await.unwrap_or(Err(CallError::Deadline))
    }

    /// As [`call`](Self::call), over the connection that there is: it waits for none, and sends the
    /// request once.
    ///
    /// # Errors
    ///
    /// [`CallError`]; never later than `within`. [`CallError::NotSent`] and every other error that
    /// is not [`is_outcome_unknown`](CallError::is_outcome_unknown) say that no handler began,
    /// unless it is the handler's own word ([`CallError::Failed`]).
    pub async fn call_once(
        &self,
        node: NodeId,
        kind: Kind,
        payload: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        if PAYLOAD_MAX < payload.len() {
            return Err(CallError::TooLong(payload.len()));
        }
        let deadline = Instant::now() + within;
        let link = self.inner.live_link(node).ok_or(CallError::NotSent)?;
        let _busy = link.busy();
        let sent = async {
            // Without its end a request does not run.
            let opened = link.connection.open_bi().await.map_err(|_lost| CallError::NotSent)?;
            let mut stream = Stream::new(opened, code::CANCELLED);
            let id = self.inner.next_request();
            let asks = (self.inner.writes(), kind);
            match send(&mut stream, asks, id, payload, deadline).await {
                Ok(()) | Err(WriteError::Stopped(_)) => Ok((stream, id)),
                Err(_lost) => Err(CallError::NotSent),
            }
        };
        let sent = timeout_at(deadline, sent).await.unwrap_or(Err(CallError::NotSent));
        let (mut stream, id) = sent.inspect_err(|_lost| self.inner.forget_if_over(&link))?;
        let answered = timeout_at(deadline, answer(&mut stream, id)).await;
        let frame = answered.unwrap_or(Err(CallError::Deadline))?;
        let Head::Answer { .. } = frame.head else { return Err(CallError::Answer) };
        stream.done();
        Ok(Bytes::from(frame.payload))
    }

    /// Asks a node for a blob of `bytes_max` at most; `within` is for all of it.
    ///
    /// # Errors
    ///
    /// [`CallError`], before the first byte; later ones come from the reader.
    pub async fn fetch(
        &self,
        node: NodeId,
        kind: Kind,
        payload: Bytes,
        within: Duration,
        bytes_max: u64,
    ) -> Result<BlobReader, CallError> {
        let deadline = Instant::now() + within;
        let asked = ask(&self.inner, node, kind, payload, deadline);
        let asked = timeout_at(deadline, asked).await.unwrap_or(Err(CallError::Deadline))?;
        let ((busy, stream), frame) = asked;
        let Head::Blob { length, digest, .. } = frame.head else { return Err(CallError::Answer) };
        if bytes_max < length {
            return Err(CallError::Length);
        }
        Ok(BlobReader {
            stream,
            first: frame.payload.into(),
            left: length,
            length,
            digest,
            hash: Sha256::new(),
            deadline,
            _busy: busy,
        })
    }
}

/// Sends a request and reads the head of what comes back.
async fn ask(
    inner: &Arc<Inner>,
    node: NodeId,
    kind: Kind,
    payload: Bytes,
    deadline: Instant,
) -> Result<((Busy, Stream), Frame), CallError> {
    if PAYLOAD_MAX < payload.len() {
        return Err(CallError::TooLong(payload.len()));
    }
    loop {
        let link = inner.wait_link(node).await?;
        let busy = link.busy();
        // Without a stream nothing was sent; the link's own task notices that it is over.
        let Ok(opened) = link.connection.open_bi().await else {
            inner.forget(&link);
            continue;
        };
        let mut stream = Stream::new(opened, code::CANCELLED);
        let id = inner.next_request();
        let format = inner.writes();
        match send(&mut stream, (format, kind), id, payload.clone(), deadline).await {
            // Stopped: the answer says why.
            Ok(()) | Err(WriteError::Stopped(_)) => {}
            // Without its end a request does not run.
            Err(_lost) => {
                inner.forget(&link);
                continue;
            }
        }
        let frame = answer(&mut stream, id).await?;
        return Ok(((busy, stream), frame));
    }
}

/// Writes a request whole.
pub(crate) async fn send(
    stream: &mut Stream,
    (format, kind): (u8, Kind),
    id: u64,
    payload: Bytes,
    deadline: Instant,
) -> Result<(), WriteError> {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    // Rounded up: whoever asks is the first to know.
    let left_ms = u64::try_from(left).unwrap_or(u64::MAX).saturating_add(1);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut head = Vec::with_capacity(crate::frame::HEAD);
    Head::Request { kind, length, id, left_ms }.encode_as(format, &mut head);
    stream.send.write_all_chunks(&mut [head.into(), payload]).await?;
    stream.send.finish().map_err(|_closed| WriteError::ClosedStream)
}

/// Reads what comes back; statuses become errors.
pub(crate) async fn answer(stream: &mut Stream, id: u64) -> Result<Frame, CallError> {
    let frame = read_frame(&mut stream.recv, PAYLOAD_MAX).await;
    let frame = frame.map_err(|failed| match failed {
        ReadFailed::Lost => CallError::Lost,
        ReadFailed::Reset => CallError::Abandoned,
        ReadFailed::Frame(error) => CallError::Frame(error),
    })?;
    let (status, echoed) = match frame.head {
        Head::Request { .. } => return Err(CallError::Answer),
        Head::Answer { status, id, .. } => (status, id),
        Head::Blob { id, .. } => (Status::OK, id),
    };
    if echoed != id {
        return Err(CallError::Answer);
    }
    let said = || String::from_utf8_lossy(&frame.payload).into_owned();
    match status {
        Status::OK => Ok(frame),
        Status::REFUSED => Err(CallError::Refused(said())),
        Status::LATE => Err(CallError::Deadline),
        _ => Err(CallError::Failed(said())),
    }
}
