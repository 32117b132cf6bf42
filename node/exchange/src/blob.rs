//! Blobs: answers of many MB that nobody holds whole. The sender writes as fast as the receiver
//! reads (QUIC's flow control), and the receiver hands nothing out as whole before it has the
//! SHA-256 that the head named.

use std::fmt;

use bytes::Bytes;
use quinn::ReadError;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::call::CallError;
use crate::link::{Busy, CHUNK, Stream};

/// A blob to send.
pub struct Blob {
    pub(crate) length: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) chunks: mpsc::Receiver<Bytes>,
}

impl Blob {
    /// One of `length` bytes with this SHA-256, that come through a bounded channel. With too few
    /// of them the receiver has no blob, with too many the stream is taken back.
    #[must_use]
    pub const fn new(length: u64, digest: [u8; 32], chunks: mpsc::Receiver<Bytes>) -> Self {
        Self { length, digest, chunks }
    }

    /// One that is in memory.
    #[must_use]
    pub fn of(bytes: Bytes, digest: [u8; 32]) -> Self {
        let (sender, chunks) = mpsc::channel(1);
        let length = bytes.len() as u64;
        sender.try_send(bytes).expect("a new channel has room");
        Self { length, digest, chunks }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A blob that comes. It is whole and right when [`next`](Self::next) has given `None`, and not
/// before.
pub struct BlobReader {
    pub(crate) stream: Stream,
    pub(crate) first: Bytes,
    pub(crate) left: u64,
    pub(crate) length: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) hash: Sha256,
    pub(crate) deadline: Instant,
    pub(crate) _busy: Busy,
}

impl BlobReader {
    /// How many bytes it has.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The SHA-256 that it will have been checked against.
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The next bytes, in order; `None` once all came and their digest is right.
    ///
    /// # Errors
    ///
    /// [`CallError::Digest`] when it is wrong, [`CallError::Length`] when they are too few or too
    /// many, [`CallError::Abandoned`], [`CallError::Deadline`], [`CallError::Lost`]. What was handed out before is worth
    /// nothing then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        let bytes = if self.first.is_empty() {
            let read = self.stream.recv.read_chunk(CHUNK, true);
            let chunk = timeout_at(self.deadline, read).await.map_err(|_| CallError::Deadline)?;
            match chunk {
                Ok(Some(chunk)) => chunk.bytes,
                Ok(None) => return self.end(),
                Err(ReadError::Reset(_)) => return Err(CallError::Abandoned),
                Err(_) => return Err(CallError::Lost),
            }
        } else {
            std::mem::take(&mut self.first)
        };
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(CallError::Length)?;
        self.hash.update(&bytes);
        Ok(Some(bytes))
    }

    fn end(&mut self) -> Result<Option<Bytes>, CallError> {
        if self.left != 0 {
            return Err(CallError::Length);
        }
        let digest: [u8; 32] = self.hash.finalize_reset().into();
        if digest != self.digest {
            return Err(CallError::Digest);
        }
        self.stream.done();
        // Asked once more it is still whole: an empty rest has this digest.
        self.digest = Sha256::digest([]).into();
        Ok(None)
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader").field("left", &self.left).finish_non_exhaustive()
    }
}
