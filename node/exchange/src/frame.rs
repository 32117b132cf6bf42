//! A pure core: the heads of what crosses between nodes, and a decoder of whole frames that is fed
//! as bytes come. Payloads are bytes here.
//!
//! All integers are little endian.
//!
//! ```text
//! head, 24 bytes                              blob: a head, then
//!   0  u8   format, 1                           24  32 bytes  SHA-256 of the blob
//!   1  u8   shape: 1 request, 2 answer, 3 blob  56  the blob, as long as the head says
//!   2  u16  kind of a request, else status
//!   4  u32  length of the payload, 0 of a blob
//!   8  u64  request id; an answer echoes it
//!  16  u64  request: milliseconds left, answer: 0, blob: its length
//! ```
//!
//! A head is written in the format that is active in the cluster, and an answer in that of its
//! request: a build reads several, see [`Formats`]. What two nodes say before they know what the
//! other reads, `HELLO` and `JOIN`, stays in the first one for good.
//!
//! - **FR-1** what an encoder wrote decodes to the same values, however it is cut.
//! - **FR-2** no bytes make a decoder panic, or hold more than it was given.
//! - **FR-3** an unknown version ends the stream by name; an unknown kind is decoded, because its
//!   length is known, and refused by name by who would have to serve it.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The formats of frames that a build reads. TLS has agreed on the protocol before the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// The lowest one.
    pub oldest: u8,
    /// The highest one.
    pub newest: u8,
}

impl Formats {
    /// Whether it reads this one.
    #[must_use]
    pub const fn reads(self, format: u8) -> bool {
        self.oldest <= format && format <= self.newest
    }
}

impl fmt::Display for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "formats {} to {}", self.oldest, self.newest)
    }
}

/// What this build reads.
pub const FORMATS: Formats =
    Formats { oldest: FIRST, newest: if cfg!(feature = "next-version") { 2 } else { 1 } };

/// The format of `HELLO` and `JOIN`, which every build reads.
pub const FIRST: u8 = 1;

/// What formats after the first one add behind a head: in the build that is made for the upgrade
/// promise, the first bytes of its SHA-256.
const fn tail(format: u8) -> usize {
    if cfg!(feature = "next-version") && 1 < format { 4 } else { 0 }
}

/// Bytes of a head.
pub const HEAD: usize = 24;
/// Bytes of a blob's head, its digest with it.
pub const BLOB_HEAD: usize = HEAD + 32;
/// The longest payload: what a command of the cluster may have, 8 MiB.
pub const PAYLOAD_MAX: usize = 8 << 20;

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const BLOB: u8 = 3;

/// What a request is about; a number that later versions may know more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// The first request of a connection; never handed to a handler.
    pub const HELLO: Self = Self(1);
    /// Whether somebody is there.
    pub const PING: Self = Self(2);
    /// Messages of Raft.
    pub const RAFT: Self = Self(3);
    /// A remote invocation.
    pub const INVOKE: Self = Self(4);
    /// A blob by its digest.
    pub const BLOB: Self = Self(5);
    /// What an old owner tells the new one.
    pub const HAND_OVER: Self = Self(6);
    /// Live output from a place on.
    pub const SUBSCRIBE: Self = Self(7);
    /// Somebody wants to be a member.
    pub const JOIN: Self = Self(8);
    /// A message of Raft whose state is a blob, to be fetched from who says so.
    pub const CHECKPOINT: Self = Self(9);
    /// A proposal, to the leader.
    pub const PROPOSE: Self = Self(10);
    /// What an operator wants of the leader.
    pub const ORDER: Self = Self(11);
    /// Who the members are.
    pub const ROSTER: Self = Self(12);
    /// What only those who vote may have.
    pub const AUTHORITY: Self = Self(13);
    /// A blob to be fetched and kept; answered when it is durable.
    pub const STORE: Self = Self(14);
    /// A newer certificate for the same key.
    pub const RENEW: Self = Self(15);
    /// A question to the control API of the other node.
    pub const CONTROL: Self = Self(16);

    /// Its name; `unknown` for those of another version.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HELLO => "hello",
            Self::PING => "ping",
            Self::RAFT => "raft",
            Self::INVOKE => "invoke",
            Self::BLOB => "blob",
            Self::HAND_OVER => "hand-over",
            Self::SUBSCRIBE => "subscribe",
            Self::JOIN => "join",
            Self::CHECKPOINT => "checkpoint",
            Self::PROPOSE => "propose",
            Self::ORDER => "order",
            Self::ROSTER => "roster",
            Self::AUTHORITY => "authority",
            Self::STORE => "store",
            Self::RENEW => "renew",
            Self::CONTROL => "control",
            _ => "unknown",
        }
    }

    /// Whether this version knows it.
    #[must_use]
    pub const fn is_known(self) -> bool {
        Self::HELLO.0 <= self.0 && self.0 <= Self::CONTROL.0
    }
}

/// How a request ended. What is not listed here is of another version and counts as a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// The payload is the answer.
    pub const OK: Self = Self(0);
    /// The handler failed; the payload says why.
    pub const FAILED: Self = Self(1);
    /// It was not let in; the payload is the reason's name.
    pub const REFUSED: Self = Self(2);
    /// Its time was over first.
    pub const LATE: Self = Self(3);
    /// Another connection of the pair is kept.
    pub const DUPLICATE: Self = Self(4);
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A request.
    Request {
        /// What it is about.
        kind: Kind,
        /// Bytes of its payload.
        length: u32,
        /// Echoed in the answer.
        id: u64,
        /// Milliseconds that are left for it.
        left_ms: u64,
    },
    /// An answer in one piece.
    Answer {
        /// How it ended.
        status: Status,
        /// Bytes of its payload.
        length: u32,
        /// Of the request.
        id: u64,
    },
    /// An answer that is a blob; its bytes follow.
    Blob {
        /// How many.
        length: u64,
        /// Of the request.
        id: u64,
        /// SHA-256 of them.
        digest: [u8; 32],
    },
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A version that is not spoken here.
    Version(u8),
    /// Neither request nor answer nor blob.
    Shape(u8),
    /// A payload longer than the limit.
    TooLong {
        /// What the head says.
        length: u32,
        /// What may be.
        limit: usize,
    },
    /// A place that must be zero is not.
    NotZero,
    /// Bytes behind the end.
    Trailing,
    /// The stream ended before the frame did.
    Truncated,
    /// What a later format adds to a head does not fit it.
    Tail,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "unknown version {version}"),
            Self::Shape(shape) => write!(f, "unknown shape {shape}"),
            Self::TooLong { length, limit } => write!(f, "{length} bytes, {limit} may be"),
            Self::NotZero => f.write_str("a place that must be zero is not"),
            Self::Trailing => f.write_str("bytes behind the end of the frame"),
            Self::Truncated => f.write_str("the stream ended inside a frame"),
            Self::Tail => f.write_str("a head that is another than its digest says"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Head {
    /// Writes it behind what is there, in the first format.
    pub fn encode(&self, into: &mut Vec<u8>) {
        self.encode_as(FIRST, into);
    }

    /// The same in another one that this build reads.
    pub fn encode_as(&self, format: u8, into: &mut Vec<u8>) {
        let start = into.len();
        let (shape, word, length, id, last) = match *self {
            Self::Request { kind, length, id, left_ms } => (REQUEST, kind.0, length, id, left_ms),
            Self::Answer { status, length, id } => (ANSWER, status.0, length, id, 0),
            Self::Blob { length, id, .. } => (BLOB, Status::OK.0, 0, id, length),
        };
        into.extend_from_slice(&[format, shape]);
        into.extend_from_slice(&word.to_le_bytes());
        into.extend_from_slice(&length.to_le_bytes());
        into.extend_from_slice(&id.to_le_bytes());
        into.extend_from_slice(&last.to_le_bytes());
        if let Self::Blob { digest, .. } = self {
            into.extend_from_slice(digest);
        }
        if tail(format) != 0 {
            let digest: [u8; 32] = Sha256::digest(&into[start..]).into();
            into.extend_from_slice(&digest[..tail(format)]);
        }
    }

    /// Reads one from the front, with the bytes it takes; `None` while there are too few. A
    /// version or shape that is not known is told from its first bytes.
    ///
    /// # Errors
    ///
    /// [`FrameError`], all but `TooLong`, `Trailing` and `Truncated`.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((head, at)) = Self::decode_body(bytes)? else { return Ok(None) };
        let tail = tail(bytes[0]);
        let Some(said) = bytes.get(at..at + tail) else { return Ok(None) };
        if tail != 0 && Sha256::digest(&bytes[..at])[..tail] != *said {
            return Err(FrameError::Tail);
        }
        Ok(Some((head, at + tail)))
    }

    /// What every format has.
    fn decode_body(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        match bytes {
            [format, ..] if !FORMATS.reads(*format) => return Err(FrameError::Version(*format)),
            [_, shape, ..] if !(REQUEST..=BLOB).contains(shape) => {
                return Err(FrameError::Shape(*shape));
            }
            _ => {}
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [_, shape, w0, w1, l0, l1, l2, l3, ids @ ..] = *head;
        let word = u16::from_le_bytes([w0, w1]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let [i0, i1, i2, i3, i4, i5, i6, i7, last @ ..] = ids;
        let id = u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
        let last = u64::from_le_bytes(last);
        match shape {
            REQUEST => {
                let head = Self::Request { kind: Kind(word), length, id, left_ms: last };
                Ok(Some((head, HEAD)))
            }
            ANSWER if last != 0 => Err(FrameError::NotZero),
            ANSWER => Ok(Some((Self::Answer { status: Status(word), length, id }, HEAD))),
            _ if length != 0 || word != 0 => Err(FrameError::NotZero),
            _ => {
                let Some(digest) = rest.first_chunk::<32>() else { return Ok(None) };
                Ok(Some((Self::Blob { length: last, id, digest: *digest }, BLOB_HEAD)))
            }
        }
    }

    /// Bytes that follow and belong to the frame; a blob's do not, they are read as they come.
    const fn payload(&self) -> u32 {
        match self {
            Self::Request { length, .. } | Self::Answer { length, .. } => *length,
            Self::Blob { .. } => 0,
        }
    }
}

/// A frame: its head, and its payload or the first bytes of its blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The format that it was written in.
    pub format: u8,
    /// Its head.
    pub head: Head,
    /// What followed.
    pub payload: Vec<u8>,
}

/// Takes a frame apart as its bytes come. It holds what it was given and nothing beyond: the
/// length in a head is compared, never reserved.
#[derive(Debug)]
pub struct Decoder {
    held: Vec<u8>,
    head: Option<(Head, usize)>,
    limit: usize,
}

impl Decoder {
    /// For one frame with a payload of `limit` bytes at most.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { held: Vec::new(), head: None, limit }
    }

    /// Takes the next bytes of the stream; the frame, when they complete it.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; what comes after an error has no meaning.
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        self.held.extend_from_slice(bytes);
        if self.head.is_none() {
            self.head = Head::decode(&self.held)?;
        }
        let Some((head, at)) = self.head else { return Ok(None) };
        let length = head.payload();
        if self.limit < length as usize {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        let there = self.held.len() - at;
        if !matches!(head, Head::Blob { .. }) {
            if there < length as usize {
                return Ok(None);
            }
            if (length as usize) < there {
                return Err(FrameError::Trailing);
            }
        }
        let mut payload = std::mem::take(&mut self.held);
        let format = payload[0];
        payload.drain(..at);
        self.head = None;
        Ok(Some(Frame { format, head, payload }))
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.held.capacity()
    }
}
