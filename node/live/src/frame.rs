//! A pure core: the frames of a subscription.
//!
//! ```text
//! head       u8 version, 1; u8 kind; u16 zero; u32 bytes that follow
//! SUBSCRIBE  u32 id of the token (big endian), 32 bytes secret, u8 start, u16 topics, of each its
//!            name; behind them the resume token, where the start is one
//! WELCOME    the resume token of the start
//! RECORDS    u16 topic by its place in the request, u32 partition, u32 records, of each:
//!            i64 offset, i64 timestamp (Unix ms), u32 length of the key, of the value (u32::MAX =
//!            none), u32 headers; key, value, headers
//! ```
//!
//! A name is its length (u8) and UTF-8. A header is the length of its name (u32), its name, the
//! length of its value (u32, u32::MAX = null), its value. All integers but the id are little endian.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::resume::{Resume, ResumeError};
use crate::token::{Token, TokenId};

/// The version of all frames here.
pub const VERSION: u8 = 1;
/// Bytes of a head.
pub const HEAD: usize = 8;
/// Topics of one subscription.
pub const TOPICS_MAX: usize = 64;
/// The largest request: a resume token of 64 topics with 1,300 partitions each.
pub const REQUEST_MAX: usize = 1 << 20;
/// The largest frame of a node: one record as large as a bus takes, and what is around it.
pub const FRAME_MAX: usize = 65 << 20;

const SUBSCRIBE: u8 = 1;
const WELCOME: u8 = 2;
const RECORDS: u8 = 3;

const EARLIEST: u8 = 1;
const LATEST: u8 = 2;
const RESUME: u8 = 3;

const ABSENT: u32 = u32::MAX;

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A version that is not spoken here.
    #[error("unknown version {0}")]
    Version(u8),
    /// A kind that is not known, or has no business here.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// It is longer than the limit.
    #[error("{length} bytes, {limit} may be")]
    TooLong {
        /// What the head says.
        length: usize,
        /// What may be.
        limit: usize,
    },
    /// What is inside is not what the kind has.
    #[error("not what a frame of kind {0} holds")]
    Body(u8),
    /// The resume token in it.
    #[error(transparent)]
    Resume(#[from] ResumeError),
}

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first record there is.
    Earliest,
    /// With what is appended from now on.
    Latest,
    /// Behind what was seen.
    Resume(Resume),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Who asks: the token's id.
    pub token: TokenId,
    /// [`Token::hash_of`] of what was shown.
    pub hash: [u8; 32],
    /// The topics, each once, at least one.
    pub topics: Vec<String>,
    /// Where from.
    pub start: Start,
}

/// A header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name; names may repeat.
    pub name: Bytes,
    /// Its value; Kafka allows none.
    pub value: Option<Bytes>,
}

/// A record, as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it lies in its partition.
    pub offset: i64,
    /// When it happened, by its producer: Unix ms.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// In order.
    pub headers: Vec<Header>,
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// From a subscriber.
    Subscribe(Subscribe),
    /// From a node: it has begun there.
    Welcome(Resume),
    /// From a node.
    Records {
        /// The topic, by its place in the request.
        topic: usize,
        /// Its partition.
        partition: u32,
        /// In offset order.
        records: Vec<Record>,
    },
}

/// A request.
///
/// # Panics
///
/// When there are more than 65,535 topics, or a name has more than 255 bytes.
#[must_use]
pub fn subscribe(token: &Token, topics: &[String], start: &Start) -> Vec<u8> {
    let mut body = token.id().0.to_be_bytes().to_vec();
    body.extend(token.secret());
    body.push(match start {
        Start::Earliest => EARLIEST,
        Start::Latest => LATEST,
        Start::Resume(_) => RESUME,
    });
    body.extend(u16::try_from(topics.len()).expect("few topics are asked for").to_le_bytes());
    topics.iter().for_each(|topic| put_name(&mut body, topic));
    if let Start::Resume(resume) = start {
        body.extend(resume.encode());
    }
    framed(SUBSCRIBE, &body)
}

/// What a node answers first.
#[must_use]
pub fn welcome(start: &Resume) -> Vec<u8> {
    framed(WELCOME, &start.encode())
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("requests and welcomes are short");
    let mut bytes = vec![VERSION, kind, 0, 0];
    bytes.extend(length.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Gathers records of one partition into a frame.
#[derive(Debug)]
pub struct RecordsWriter {
    bytes: Vec<u8>,
    count: u32,
}

impl RecordsWriter {
    /// For this topic, by its place in the request, and partition.
    #[must_use]
    pub fn new(topic: u16, partition: u32) -> Self {
        let mut bytes = vec![VERSION, RECORDS, 0, 0, 0, 0, 0, 0];
        bytes.extend(topic.to_le_bytes());
        bytes.extend(partition.to_le_bytes());
        bytes.extend([0; 4]);
        Self { bytes, count: 0 }
    }

    /// Adds a record behind the last one.
    pub fn push<'a>(
        &mut self,
        (offset, timestamp): (i64, i64),
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) {
        self.bytes.extend(offset.to_le_bytes());
        self.bytes.extend(timestamp.to_le_bytes());
        put_length(&mut self.bytes, key);
        put_length(&mut self.bytes, value);
        let count = u32::try_from(headers.len()).expect("a record is below 4 GiB");
        self.bytes.extend(count.to_le_bytes());
        self.bytes.extend(key.unwrap_or_default());
        self.bytes.extend(value.unwrap_or_default());
        for (name, value) in headers {
            put_length(&mut self.bytes, Some(name));
            self.bytes.extend(name);
            put_length(&mut self.bytes, value);
            self.bytes.extend(value.unwrap_or_default());
        }
        self.count += 1;
    }

    /// How many were added.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes the frame has so far.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The frame.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len() - HEAD).expect("a frame is below 4 GiB");
        self.bytes[4..8].copy_from_slice(&length.to_le_bytes());
        self.bytes[14..18].copy_from_slice(&self.count.to_le_bytes());
        self.bytes
    }
}

fn put_length(bytes: &mut Vec<u8>, of: Option<&[u8]>) {
    let length = of.map_or(ABSENT, |it| u32::try_from(it.len()).expect("it is below 4 GiB"));
    bytes.extend(length.to_le_bytes());
}

pub(crate) fn put_name(bytes: &mut Vec<u8>, name: &str) {
    bytes.push(u8::try_from(name.len()).expect("a name has 249 bytes at most"));
    bytes.extend(name.as_bytes());
}

/// Takes frames apart as their bytes come. It holds what it was given and nothing beyond: the length
/// in a head is compared, never reserved (LV-1).
#[derive(Debug)]
pub struct Decoder {
    held: BytesMut,
    limit: usize,
}

impl Decoder {
    /// For frames of `limit` bytes at most behind their heads.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { held: BytesMut::new(), limit }
    }

    /// Takes the next bytes of the stream.
    pub fn on_bytes(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether it holds part of a frame.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.held.is_empty()
    }

    /// The next frame, once all of it has come.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; what comes after an error has no meaning.
    pub fn poll_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        match self.held[..] {
            [version, ..] if version != VERSION => return Err(FrameError::Version(version)),
            [_, kind, ..] if !(SUBSCRIBE..=RECORDS).contains(&kind) => {
                return Err(FrameError::Kind(kind));
            }
            _ => {}
        }
        let Some([_, kind, z0, z1, length @ ..]) = self.held.first_chunk::<HEAD>().copied() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if [z0, z1] != [0, 0] {
            return Err(FrameError::Body(kind));
        }
        if self.limit < length {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        if self.held.len() - HEAD < length {
            return Ok(None);
        }
        self.held.advance(HEAD);
        let body = self.held.split_to(length).freeze();
        let bad = FrameError::Body(kind);
        match kind {
            SUBSCRIBE => parse_subscribe(&body, bad).map(Some),
            WELCOME => Ok(Some(Frame::Welcome(Resume::decode(&body)?))),
            _ => parse_records(body).map(Some).ok_or(bad),
        }
    }
}

fn parse_subscribe(body: &[u8], bad: FrameError) -> Result<Frame, FrameError> {
    let mut rest = body;
    let fixed = |rest: &mut &[u8]| {
        let token = TokenId(u32::from_be_bytes(take(rest)?));
        let hash = Token::hash_of(token, &take(rest)?);
        let [start] = take(rest)?;
        let count = usize::from(u16::from_le_bytes(take(rest)?));
        let mut topics: Vec<String> = Vec::new();
        for _ in 0..count {
            let topic = take_name(rest)?;
            if TOPICS_MAX <= topics.len() || topics.contains(&topic) {
                return None;
            }
            topics.push(topic);
        }
        (!topics.is_empty()).then_some((token, hash, start, topics))
    };
    let (token, hash, start, topics) = fixed(&mut rest).ok_or(bad)?;
    let start = match (start, rest) {
        (EARLIEST, []) => Start::Earliest,
        (LATEST, []) => Start::Latest,
        (RESUME, rest) => Start::Resume(Resume::decode(rest)?),
        _ => return Err(bad),
    };
    Ok(Frame::Subscribe(Subscribe { token, hash, topics, start }))
}

fn parse_records(body: Bytes) -> Option<Frame> {
    let mut rest = &body[..];
    let rest = &mut rest;
    let topic = usize::from(u16::from_le_bytes(take(rest)?));
    let partition = u32::from_le_bytes(take(rest)?);
    let count = u32::from_le_bytes(take(rest)?);
    let mut records = Vec::new();
    for _ in 0..count {
        let (offset, timestamp) =
            (i64::from_le_bytes(take(rest)?), i64::from_le_bytes(take(rest)?));
        let (key, value) = (u32::from_le_bytes(take(rest)?), u32::from_le_bytes(take(rest)?));
        let headers = u32::from_le_bytes(take(rest)?);
        let (key, value) = (take_part(&body, rest, key)?, take_part(&body, rest, value)?);
        let mut read = Vec::new();
        for _ in 0..headers {
            let length = u32::from_le_bytes(take(rest)?);
            let name = take_part(&body, rest, length)??;
            let length = u32::from_le_bytes(take(rest)?);
            read.push(Header { name, value: take_part(&body, rest, length)? });
        }
        records.push(Record { offset, timestamp, key, value, headers: read });
    }
    rest.is_empty().then_some(Frame::Records { topic, partition, records })
}

/// The next bytes of `body`, without a copy; `Some(None)` where there are to be none.
fn take_part(body: &Bytes, rest: &mut &[u8], length: u32) -> Option<Option<Bytes>> {
    if length == ABSENT {
        return Some(None);
    }
    let (part, left) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = left;
    // An empty slice is nowhere in particular.
    Some(Some(if part.is_empty() { Bytes::new() } else { body.slice_ref(part) }))
}

pub(crate) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

pub(crate) fn take_name(rest: &mut &[u8]) -> Option<String> {
    let [length] = take(rest)?;
    let (name, left) = rest.split_at_checked(usize::from(length))?;
    *rest = left;
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resume::TopicPlace;

    fn resume() -> Resume {
        let positions = [(0, 5), (1, 0)].into();
        let place = TopicPlace { name: "alerts".to_owned(), id: 3, positions };
        Resume { cluster: "mill".to_owned(), topics: vec![place] }
    }

    fn frames() -> Vec<Vec<u8>> {
        let token = Token::new([1; 32], TokenId(0x0102_0304), [5; 32]);
        let topics = ["alerts".to_owned(), "more".to_owned()];
        let mut records = RecordsWriter::new(1, 7);
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"a", Some(b"\xff")), (b"", None)];
        records.push((40, 1_000), Some(b"key"), Some(b"value"), headers.into_iter());
        records.push((43, -1), None, None, [].into_iter());
        records.push((44, 0), Some(b""), Some(b""), [].into_iter());
        assert_eq!(records.count(), 3);
        vec![
            subscribe(&token, &topics, &Start::Latest),
            subscribe(&token, &topics[..1], &Start::Resume(resume())),
            welcome(&resume()),
            records.finish(),
        ]
    }

    fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let mut decoder = Decoder::new(FRAME_MAX);
        decoder.on_bytes(bytes);
        decoder.poll_frame()
    }

    #[test]
    fn frames_come_back_however_their_bytes_come() {
        let (frames, mut decoder) = (frames(), Decoder::new(FRAME_MAX));
        let mut read = Vec::new();
        for byte in frames.concat() {
            decoder.on_bytes(&[byte]);
            read.extend(decoder.poll_frame().unwrap());
        }
        assert!(!decoder.is_inside());
        let hash = Token::hash_of(TokenId(0x0102_0304), &[5; 32]);
        let asked = |topics: &[&str], start| {
            let topics = topics.iter().map(|it| (*it).to_owned()).collect();
            Frame::Subscribe(Subscribe { token: TokenId(0x0102_0304), hash, topics, start })
        };
        assert_eq!(read[0], asked(&["alerts", "more"], Start::Latest));
        assert_eq!(read[1], asked(&["alerts"], Start::Resume(resume())));
        assert_eq!(read[2], Frame::Welcome(resume()));
        let Frame::Records { topic: 1, partition: 7, records } = &read[3] else {
            panic!("{:?}", read[3]);
        };
        assert_eq!(records.iter().map(|it| it.offset).collect::<Vec<_>>(), [40, 43, 44]);
        assert_eq!(records[0].headers[0].value.as_deref(), Some(&b"\xff"[..]));
        assert_eq!(records[0].headers[1], Header { name: Bytes::new(), value: None });
        assert_eq!((&records[1].key, &records[1].value), (&None, &None));
        assert_eq!((records[2].key.as_deref(), records[2].timestamp), (Some(&b""[..]), 0));
    }

    #[test]
    fn no_cut_is_a_frame_and_no_flipped_bit_panics() {
        for frame in frames() {
            for length in 0..frame.len() {
                assert!(!matches!(decode(&frame[..length]), Ok(Some(_))), "{length}");
            }
            for at in 0..frame.len() {
                for bit in 0..8 {
                    let mut flipped = frame.clone();
                    flipped[at] ^= 1 << bit;
                    drop(decode(&flipped));
                }
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_told_by_name_and_reserves_nothing() {
        assert_eq!(decode(&[2]), Err(FrameError::Version(2)));
        assert_eq!(decode(b"\x01G"), Err(FrameError::Kind(b'G')));
        let long = [&[1, 3, 0, 0][..], &u32::MAX.to_le_bytes()].concat();
        assert!(matches!(decode(&long), Err(FrameError::TooLong { .. })), "LV-1");
        let mut decoder = Decoder::new(FRAME_MAX);
        decoder.on_bytes(&[&[1, 3, 0, 0][..], &(64_u32 << 20).to_le_bytes()].concat());
        assert_eq!(decoder.poll_frame(), Ok(None));
        assert!(decoder.held.capacity() < 4_096, "LV-1");
        // Counts that no bytes follow.
        let many = framed(RECORDS, &[0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(decode(&many), Err(FrameError::Body(RECORDS)), "LV-1");
        let token = Token::new([1; 32], TokenId(1), [5; 32]);
        let twice = ["a".to_owned(), "a".to_owned()];
        let asked = subscribe(&token, &twice, &Start::Earliest);
        assert_eq!(decode(&asked), Err(FrameError::Body(SUBSCRIBE)));
        let asked = subscribe(&token, &[], &Start::Earliest);
        assert_eq!(decode(&asked), Err(FrameError::Body(SUBSCRIBE)));
    }
}
