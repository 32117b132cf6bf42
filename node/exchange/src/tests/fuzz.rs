//! The decoder: a million random and mutated inputs, cut at random (FR-1, FR-2).

use crate::{BLOB_HEAD, Decoder, FIRST, FORMATS, Frame, FrameError, HEAD, Head, Kind, Status};

const INPUTS: u64 = 1_000_000;
const LIMIT: usize = 48;

/// xorshift64*: the run follows from the seed.
struct Rng(u64);

impl Rng {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % below
    }

    fn below(&mut self, below: usize) -> usize {
        self.draw(below as u64) as usize
    }
}

fn valid(rng: &mut Rng) -> (Frame, Vec<u8>) {
    let length = rng.below(LIMIT + 1);
    let payload: Vec<u8> = (0..length).map(|_| rng.draw(256) as u8).collect();
    let (id, word) = (rng.draw(u64::MAX >> 12), rng.draw(12) as u16);
    let head = match rng.draw(3) {
        0 => {
            let left_ms = rng.draw(100_000);
            Head::Request { kind: Kind(word), length: length as u32, id, left_ms }
        }
        1 => Head::Answer { status: Status(word), length: length as u32, id },
        _ => Head::Blob { length: rng.draw(1 << 40), id, digest: [word as u8; 32] },
    };
    let mut bytes = Vec::new();
    let format = FIRST + rng.draw(u64::from(FORMATS.newest)) as u8;
    head.encode_as(format, &mut bytes);
    bytes.extend_from_slice(&payload);
    (Frame { format, head, payload }, bytes)
}

fn mutated(rng: &mut Rng) -> Vec<u8> {
    let (_, mut bytes) = valid(rng);
    for _ in 0..=rng.draw(3) {
        match rng.draw(5) {
            0 if !bytes.is_empty() => {
                let at = rng.below(bytes.len());
                bytes[at] ^= 1 << rng.draw(8);
            }
            1 => bytes.truncate(rng.below(bytes.len() + 1)),
            2 => bytes.extend((0..rng.draw(20)).map(|_| 0xff)),
            // Heads count: most of a mutation's worth is there.
            3 if HEAD <= bytes.len() => bytes[rng.below(HEAD)] = rng.draw(256) as u8,
            _ => {
                let (_, other) = valid(rng);
                bytes.splice(rng.below(bytes.len() + 1).., other);
            }
        }
    }
    bytes
}

#[derive(Debug, PartialEq)]
enum Ended {
    Frame(Frame),
    Refused(FrameError),
    Wants,
}

/// Feeds it in pieces up to `step` long; what is left over when a frame is complete is not given.
fn decode(bytes: &[u8], mut step: impl FnMut() -> usize) -> Ended {
    let mut decoder = Decoder::new(LIMIT);
    let mut given = 0;
    while given < bytes.len() {
        let end = bytes.len().min(given + step());
        match decoder.on_bytes(&bytes[given..end]) {
            Ok(Some(frame)) => return Ended::Frame(frame),
            Ok(None) => {}
            Err(error) => return Ended::Refused(error),
        }
        given = end;
        // A vector grows by doubling: never by what a head says.
        assert!(decoder.held() <= 2 * given.max(8), "{} held of {given} given", decoder.held());
    }
    Ended::Wants
}

#[test]
fn a_million_inputs_neither_panic_nor_take_memory_nor_depend_on_how_they_are_cut() {
    let mut rng = Rng(0x6d69_6c6c);
    let (mut frames, mut refused, mut wants) = (0_u64, 0_u64, 0_u64);
    for _ in 0..INPUTS {
        let bytes = match rng.draw(4) {
            0 => (0..rng.draw(80)).map(|_| rng.draw(256) as u8).collect(),
            1 => valid(&mut rng).1,
            _ => mutated(&mut rng),
        };
        let whole = decode(&bytes, || bytes.len());
        let pieces = decode(&bytes, || 1 + rng.below(40));
        match &whole {
            Ended::Frame(frame) => {
                frames += 1;
                let Ended::Frame(cut) = &pieces else { panic!("{bytes:?}: {pieces:?}") };
                assert_eq!(cut.head, frame.head, "{bytes:?}");
                assert!(frame.payload.starts_with(&cut.payload), "{bytes:?}");
                let mut again = Vec::new();
                frame.head.encode_as(frame.format, &mut again);
                again.extend_from_slice(&frame.payload);
                assert_eq!(again, bytes, "what was accepted is what its encoder writes");
            }
            // In pieces the frame may be complete before what is behind it comes.
            Ended::Refused(FrameError::Trailing) => refused += 1,
            Ended::Refused(_) => {
                refused += 1;
                assert_eq!(pieces, whole, "{bytes:?}");
            }
            Ended::Wants => {
                wants += 1;
                assert_eq!(pieces, whole, "{bytes:?}");
            }
        }
    }
    // A fuzzer that meets one of these only is none.
    for (what, count) in [("frames", frames), ("refused", refused), ("wants", wants)] {
        assert!(INPUTS / 20 < count, "{what}: {count} of {INPUTS}");
    }
}

#[test]
fn what_an_encoder_wrote_decodes_to_the_same_byte_by_byte() {
    let mut rng = Rng(7);
    for _ in 0..2_000 {
        let (frame, bytes) = valid(&mut rng);
        let decoded = decode(&bytes, || 1);
        let Ended::Frame(decoded) = decoded else { panic!("{decoded:?}") };
        assert_eq!(decoded.head, frame.head);
        // What is left of a blob is read as it comes.
        if !matches!(frame.head, Head::Blob { .. }) {
            assert_eq!(decoded.payload, frame.payload);
        }
    }
}

#[test]
fn each_thing_that_is_wrong_has_its_name() {
    let mut good = Vec::new();
    let head = Head::Request { kind: Kind::PING, length: 3, id: 1, left_ms: 9 };
    head.encode(&mut good);
    good.extend_from_slice(b"abc");
    let ended = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        decode(&bytes, || bytes.len())
    };
    let refused = |error| Ended::Refused(error);
    assert!(matches!(ended(&|_| {}), Ended::Frame(_)));
    assert_eq!(ended(&|it| it[0] = 9), refused(FrameError::Version(9)));
    assert_eq!(ended(&|it| it[1] = 4), refused(FrameError::Shape(4)));
    assert_eq!(ended(&|it| it[1] = 2), refused(FrameError::NotZero), "an answer with a time");
    assert_eq!(ended(&|it| it[1] = 3), refused(FrameError::NotZero), "a blob with a payload");
    let too_long = FrameError::TooLong { length: u32::MAX, limit: LIMIT };
    assert_eq!(ended(&|it| it[4..8].fill(0xff)), refused(too_long));
    assert_eq!(ended(&|it| it.push(0)), refused(FrameError::Trailing));
    assert_eq!(ended(&|it| it.truncate(HEAD - 1)), Ended::Wants);
    assert_eq!(BLOB_HEAD, HEAD + 32);
    // A later version's kind is read, with its number.
    let later = ended(&|it| it[2..4].copy_from_slice(&77_u16.to_le_bytes()));
    let Ended::Frame(Frame { head: Head::Request { kind, .. }, .. }) = later else { panic!() };
    assert_eq!((kind, kind.is_known(), kind.name()), (Kind(77), false, "unknown"));
}
