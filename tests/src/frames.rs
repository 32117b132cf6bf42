//! The promise `frames`: no bytes of a peer, a joiner or a subscriber end a node or lie to it. Each
//! decoder of what crosses is fed bytes that are right, nearly right and anything, cut anywhere, and
//! has to say what a reader says that was written from the layout alone.
//!
//! ```text
//! chance ─▶ bytes ─┬─▶ the decoder, in pieces ─▶ frame, name of what is wrong, or more is wanted ─┐
//!                  └─▶ the layout, by hand ────▶ the same ──────────────────────────────────────── ┴▶ equal
//! ```
//!
//! Readers with a mistake in them are the red controls: the decoder has to differ from each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use exchange::{Decoder, FrameError, Head, JoinRequest, NodeKey, Refusal, Token};

use crate::demand;
use crate::harness::rng::Rng;
use crate::promise::{During, Figures, NotShown, Run, broken, panics_unprinted};

/// The longest payload that is taken.
const LIMIT: usize = 48;
const HEAD: usize = 24;

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let executions = run.count("executions", 1_000_000, 10_000_000);
    let mut rng = Rng::new(run.seed, 0xf7);
    // A panic is judged here, and need not be printed as well.
    panics_unprinted(|| all(run, executions, &mut rng))
}

fn all(run: &Run, executions: u64, rng: &mut Rng) -> Result<Figures, NotShown> {
    run.note("frames between members");
    let members = executions / 2;
    let peers = peers(members, rng)?;
    run.note("what joiners send");
    // A signature is checked where all else is right, which is what takes time.
    let joiners = executions / 5;
    let joins = joins(joiners, rng)?;
    run.note("what subscribers send, and are sent");
    let followers = executions - members - joiners;
    let subscribers = subscribers(followers, rng)?;
    let red = red(rng)?;
    Ok(Figures::default()
        .with("executions", executions)
        .with("crashes", 0)
        .with("frames", peers.frames)
        .with("refused", peers.refused)
        .with("wants_more", peers.wants)
        .with("joins_read", joins.frames)
        .with("joins_refused", joins.refused)
        .with("subscriber_frames", subscribers.frames)
        .with("subscriber_refused", subscribers.refused)
        .with("red_controls", red))
}

#[derive(Default)]
struct Ends {
    frames: u64,
    refused: u64,
    wants: u64,
}

impl Ends {
    /// One who meets one kind of end only has tried nothing.
    fn judge(self, of: u64, what: &str) -> Result<Self, NotShown> {
        let least = [self.frames, self.refused].into_iter().min().unwrap_or_default();
        demand!(of / 50 < least, "{what}: {} read, {} refused of {of}", self.frames, self.refused);
        Ok(self)
    }
}

/// Runs a decoder; a panic breaks the promise, with the bytes that did it.
fn without_panic<T>(bytes: &[u8], decode: impl FnOnce() -> T) -> Result<T, NotShown> {
    catch_unwind(AssertUnwindSafe(decode))
        .map_err(|_| broken(format!("a decoder panicked at {bytes:?}")))
}

/// What the layout says of bytes that are given whole.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    /// Shape, word, id, last number, digest and payload.
    Frame(u8, u16, u64, u64, Vec<u8>, Vec<u8>),
    Version,
    Shape,
    TooLong,
    NotZero,
    Trailing,
    Wants,
}

/// A mistake that a reader may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    LimitByOne,
    BigEndian,
    AnyVersion,
    TimeInAnswers,
    Behind,
}

/// The layout, read by hand: version, shape, word, length, id, a last number, and a digest of a blob.
fn by_hand(bytes: &[u8], mistake: Mistake) -> Read {
    if bytes.first().is_some_and(|it| *it != 1) && mistake != Mistake::AnyVersion {
        return Read::Version;
    }
    if bytes.get(1).is_some_and(|it| ![1, 2, 3].contains(it)) {
        return Read::Shape;
    }
    if bytes.len() < HEAD {
        return Read::Wants;
    }
    let number = |from: usize, count: usize| {
        let part = bytes[from..from + count].iter();
        match mistake {
            Mistake::BigEndian => part.fold(0_u64, |sum, it| sum << 8 | u64::from(*it)),
            _ => part.rev().fold(0_u64, |sum, it| sum << 8 | u64::from(*it)),
        }
    };
    let (shape, word, length) = (bytes[1], number(2, 2) as u16, number(4, 4) as usize);
    let (id, last) = (number(8, 8), number(16, 8));
    if shape == 2 && last != 0 && mistake != Mistake::TimeInAnswers {
        return Read::NotZero;
    }
    if shape == 3 {
        if word != 0 || length != 0 {
            return Read::NotZero;
        }
        if bytes.len() < HEAD + 32 {
            return Read::Wants;
        }
        let (digest, rest) = bytes[HEAD..].split_at(32);
        return Read::Frame(shape, word, id, last, digest.to_vec(), rest.to_vec());
    }
    let limit = if mistake == Mistake::LimitByOne { LIMIT - 1 } else { LIMIT };
    if limit < length {
        return Read::TooLong;
    }
    let behind = bytes.len() - HEAD;
    match behind.cmp(&length) {
        std::cmp::Ordering::Less => Read::Wants,
        std::cmp::Ordering::Greater if mistake != Mistake::Behind => Read::Trailing,
        _ => {
            let payload = bytes[HEAD..HEAD + length].to_vec();
            Read::Frame(shape, word, id, last, Vec::new(), payload)
        }
    }
}

/// What the decoder says of bytes in pieces that end where `cuts` say.
fn decoded(bytes: &[u8], cuts: &[usize]) -> Result<Read, String> {
    let (mut decoder, mut given) = (Decoder::new(LIMIT), 0);
    for end in cuts.iter().copied().chain([bytes.len()]) {
        if end <= given {
            continue;
        }
        let taken = decoder.on_bytes(&bytes[given..end]);
        given = end;
        // XC-4: a vector grows by doubling, never by what a head says.
        if 2 * given.max(8) < decoder.held() {
            return Err(format!("{} bytes held of {given} given", decoder.held()));
        }
        match taken {
            Ok(None) => {}
            Ok(Some(frame)) => {
                let (shape, word, id, last, digest) = match frame.head {
                    Head::Request { kind, id, left_ms, .. } => (1, kind.0, id, left_ms, Vec::new()),
                    Head::Answer { status, id, .. } => (2, status.0, id, 0, Vec::new()),
                    Head::Blob { length, id, digest } => (3, 0, id, length, digest.to_vec()),
                };
                return Ok(Read::Frame(shape, word, id, last, digest, frame.payload));
            }
            Err(error) => {
                return Ok(match error {
                    FrameError::Version(_) => Read::Version,
                    FrameError::Shape(_) => Read::Shape,
                    FrameError::TooLong { .. } => Read::TooLong,
                    FrameError::NotZero => Read::NotZero,
                    FrameError::Trailing => Read::Trailing,
                    FrameError::Truncated => return Err("truncated before its end".to_owned()),
                    FrameError::Tail => return Err("this format has no tails".to_owned()),
                });
            }
        }
    }
    Ok(Read::Wants)
}

/// A frame that is right.
fn right(rng: &mut Rng) -> Vec<u8> {
    let shape = 1 + rng.draw(3) as u8;
    let payload = random(rng, LIMIT as u64 + 1);
    let (word, length, last) = match shape {
        1 => (rng.draw(20) as u16, payload.len(), rng.draw(u64::MAX)),
        2 => (rng.draw(6) as u16, payload.len(), 0),
        _ => (0, 0, rng.draw(1 << 40)),
    };
    let mut bytes = vec![1, shape];
    bytes.extend(word.to_le_bytes());
    bytes.extend((length as u32).to_le_bytes());
    bytes.extend(rng.draw(u64::MAX).to_le_bytes());
    bytes.extend(last.to_le_bytes());
    if shape == 3 {
        bytes.extend((0..32).map(|_| rng.draw(256) as u8));
    }
    bytes.extend(payload);
    bytes
}

fn random(rng: &mut Rng, below: u64) -> Vec<u8> {
    let length = rng.draw(below);
    (0..length).map(|_| rng.draw(256) as u8).collect()
}

/// Bytes that were right, changed in some places.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=rng.draw(3) {
        let at = rng.draw(bytes.len() as u64 + 1) as usize;
        match rng.draw(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.draw(8),
            // Heads are where most of what can be wrong is.
            1 if HEAD <= bytes.len() => bytes[rng.draw(HEAD as u64) as usize] = rng.draw(256) as u8,
            2 => bytes.truncate(at),
            3 => bytes.extend(random(rng, 20)),
            _ => drop(bytes.splice(at.., other.iter().copied())),
        }
    }
}

fn drawn(rng: &mut Rng, right: impl Fn(&mut Rng) -> Vec<u8>) -> Vec<u8> {
    match rng.draw(5) {
        0 => random(rng, 90),
        1 | 2 => right(rng),
        _ => {
            let (mut bytes, other) = (right(rng), right(rng));
            mutate(rng, &mut bytes, &other);
            bytes
        }
    }
}

fn peers(count: u64, rng: &mut Rng) -> Result<Ends, NotShown> {
    let mut ends = Ends::default();
    for number in 0..count {
        let bytes = drawn(rng, right);
        let expected = by_hand(&bytes, Mistake::None);
        let whole = without_panic(&bytes, || decoded(&bytes, &[]))?.map_err(broken)?;
        demand!(whole == expected, "{bytes:?}: {whole:?}, the layout says {expected:?}");
        // In pieces a frame may be whole before what is behind it comes.
        if number % 2 == 0 {
            let mut cuts: Vec<usize> =
                (0..1 + rng.draw(6)).map(|_| rng.draw(bytes.len() as u64 + 1) as usize).collect();
            cuts.sort_unstable();
            let pieces = without_panic(&bytes, || decoded(&bytes, &cuts))?.map_err(broken)?;
            let is_same = match (&pieces, &expected) {
                (Read::Frame(..), Read::Trailing) => true,
                (Read::Frame(a, b, c, d, e, part), Read::Frame(k, l, m, n, o, all)) => {
                    (a, b, c, d, e) == (k, l, m, n, o) && all.starts_with(part)
                }
                (pieces, expected) => pieces == expected,
            };
            demand!(is_same, "{bytes:?} cut at {cuts:?}: {pieces:?}, not {expected:?}");
        }
        match expected {
            Read::Frame(..) => ends.frames += 1,
            Read::Wants => ends.wants += 1,
            _ => ends.refused += 1,
        }
    }
    ends.judge(count, "frames")
}

/// Requests to join: what is read is written again as it was; what was changed is refused.
fn joins(count: u64, rng: &mut Rng) -> Result<Ends, NotShown> {
    let mut right = Vec::new();
    for number in 0..20_u8 {
        let token = format!("mrj1-{}-{}", "ab".repeat(32), format!("{number:02x}").repeat(16));
        let token: Token = token.parse().during("read a token")?;
        let key = NodeKey::generate().during("make a key")?;
        let request = JoinRequest::new(token, &key, format!("edge-{number}"));
        right.push(request.during("ask to join")?.encode());
    }
    let mut ends = Ends::default();
    for _ in 0..count {
        let bytes = match rng.draw(20) {
            0 => right[rng.draw(20) as usize].clone(),
            1 => random(rng, 400),
            _ => {
                let (one, other) = (rng.draw(20) as usize, rng.draw(20) as usize);
                let (mut bytes, other) = (right[one].clone(), right[other].clone());
                mutate(rng, &mut bytes, &other);
                bytes
            }
        };
        match without_panic(&bytes, || JoinRequest::decode(&bytes))? {
            Ok(request) => {
                // No byte that is signed differs from one that was right.
                let again = request.encode();
                demand!(right.contains(&again), "a request was read that nobody made: {bytes:?}");
                ends.frames += 1;
            }
            Err(Refusal::BadFrame | Refusal::UnprovenKey) => ends.refused += 1,
            Err(other) => return Err(broken(format!("{bytes:?} was refused as {other}"))),
        }
    }
    ends.judge(count, "joins")
}

/// What crosses to and from subscribers: the same however it is cut, and never a panic.
fn subscribers(count: u64, rng: &mut Rng) -> Result<Ends, NotShown> {
    let ended = |bytes: &[u8], step: usize| -> (Vec<live::Frame>, bool, Option<String>) {
        let mut decoder = live::Decoder::new(live::REQUEST_MAX);
        let mut frames = Vec::new();
        for piece in bytes.chunks(step.max(1)) {
            decoder.on_bytes(piece);
            loop {
                match decoder.poll_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, true, Some(error.to_string())),
                }
            }
        }
        (frames, false, None)
    };
    let mut ends = Ends::default();
    for _ in 0..count {
        let bytes = drawn(rng, request);
        let whole = without_panic(&bytes, || ended(&bytes, bytes.len()))?;
        let step = 1 + rng.draw(40) as usize;
        let pieces = without_panic(&bytes, || ended(&bytes, step))?;
        demand!(whole == pieces, "{bytes:?} in pieces of {step}: {pieces:?}, not {whole:?}");
        match (whole.0.is_empty(), whole.1) {
            (false, _) => ends.frames += 1,
            (true, true) => ends.refused += 1,
            (true, false) => ends.wants += 1,
        }
    }
    ends.judge(count, "frames of subscribers")
}

/// A request, or records, written by hand.
fn request(rng: &mut Rng) -> Vec<u8> {
    let (kind, mut body) = (if rng.draw(2) == 0 { 1 } else { 3 }, Vec::new());
    if kind == 1 {
        body.extend((0..36).map(|_| rng.draw(256) as u8));
        // From the start, or from now on.
        body.push(1 + rng.draw(2) as u8);
        let topics = 1 + rng.draw(3);
        body.extend((topics as u16).to_le_bytes());
        for topic in 0..topics {
            body.extend([2, b't', b'0' + topic as u8]);
        }
    } else {
        body.extend((rng.draw(4) as u16).to_le_bytes());
        body.extend((rng.draw(9) as u32).to_le_bytes());
        let records = 1 + rng.draw(2) as u32;
        body.extend(records.to_le_bytes());
        for _ in 0..records {
            body.extend(rng.draw(1 << 40).to_le_bytes());
            body.extend(rng.draw(1 << 40).to_le_bytes());
            let (key, value) = (random(rng, 5), random(rng, 9));
            body.extend((key.len() as u32).to_le_bytes());
            body.extend((value.len() as u32).to_le_bytes());
            body.extend(1_u32.to_le_bytes());
            body.extend(key);
            body.extend(value);
            // A header with a name and no value.
            body.extend([1, 0, 0, 0, b'h', 0xff, 0xff, 0xff, 0xff]);
        }
    }
    let mut bytes = vec![1, kind, 0, 0];
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// Readers with a mistake: the decoder has to differ from each.
fn red(rng: &mut Rng) -> Result<u64, NotShown> {
    let mistakes = [
        Mistake::LimitByOne,
        Mistake::BigEndian,
        Mistake::AnyVersion,
        Mistake::TimeInAnswers,
        Mistake::Behind,
    ];
    let mut red = 0;
    for mistake in mistakes {
        let differs = (0..20_000).any(|_| {
            let bytes = drawn(rng, right);
            decoded(&bytes, &[]) != Ok(by_hand(&bytes, mistake))
        });
        demand!(differs, "a reader with the mistake {mistake:?} was not told from the decoder");
        red += 1;
    }
    Ok(red)
}
