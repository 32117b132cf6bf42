//! FC-1 to FC-5, by round trips and by damaged frames.

mod readers;

use crate::{
    Context, End, HeadersBuilder, Order, Output, OutputKey, Request, RequestBuilder, Response,
    ResponseBuilder,
};

const CONTEXT: Context<'_> = Context {
    cluster: "dev",
    function: "tidy",
    revision: "0123456789ab",
    trigger: "weather/tidy/tidy",
    trace: "",
    deadline_ms: 1_764_000_000_000,
};

fn request() -> Vec<u8> {
    let mut headers = HeadersBuilder::default();
    headers.push(b"a", Some(b"\xff\x00"));
    headers.push(b"a", None);
    let headers = headers.headers();
    let mut builder = RequestBuilder::new(7, Order::Key, &CONTEXT, &[("in", 3), ("other", 0)]);
    builder.push(0, 40, 5, 1, Some(b"key"), Some(b"value"), headers.as_bytes(), headers.len());
    builder.push(1, 41, -1, 2, None, None, &[], 0);
    builder.push(0, 45, 6, 3, Some(b""), Some(b""), &[], 0);
    builder.finish()
}

fn response() -> Vec<u8> {
    let mut headers = HeadersBuilder::default();
    headers.push(b"h", Some(b"v"));
    let mut builder = ResponseBuilder::new(7, 3);
    builder.ok(0);
    builder.output(&Output { source: 0, value: Some(b"one"), ..Output::default() });
    builder.output(&Output {
        source: 0,
        topic: Some("alerts"),
        key: OutputKey::Bytes(b"k"),
        value: None,
        headers: headers.headers(),
        partition: Some(2),
    });
    builder.failed(1, "Test.Failed", "it did");
    builder.finish()
}

/// As a later version may write them: a head that is 8 bytes longer, entries that are 4 longer.
fn widened_request() -> Vec<u8> {
    let old = request();
    let word = |at: usize| u32::from_le_bytes(old[at..at + 4].try_into().unwrap()) as usize;
    let (entries, arena) = (word(32), word(36));
    let mut new = [&old[..48], &[0xee; 8], &old[48..entries]].concat();
    for entry in old[entries..arena].chunks_exact(56) {
        new.extend_from_slice(entry);
        new.extend_from_slice(&[0xee; 4]);
    }
    new.extend_from_slice(&old[arena..]);
    (new[4], new[6]) = (56, 60);
    let moved = 8 + 4 * word(16);
    let words = [(24, 8), (28, 8), (32, 8), (36, moved), (40, moved)];
    for (at, by) in words {
        new[at..at + 4].copy_from_slice(&((word(at) + by) as u32).to_le_bytes());
    }
    new
}

/// The same for a response.
fn widened_response() -> Vec<u8> {
    let old = response();
    let word = |at: usize| u32::from_le_bytes(old[at..at + 4].try_into().unwrap()) as usize;
    let (outputs, failures, arena) = (word(32), word(36), word(40));
    let mut new = [&old[..48], &[0xee; 8], &old[48..outputs]].concat();
    for (part, each) in [(&old[outputs..failures], 48), (&old[failures..arena], 24)] {
        for entry in part.chunks_exact(each) {
            new.extend_from_slice(entry);
            new.extend_from_slice(&[0xee; 4]);
        }
    }
    new.extend_from_slice(&old[arena..]);
    (new[2], new[4], new[6]) = (28, 56, 52);
    let of_outputs = 8 + 4 * word(20);
    let moved = of_outputs + 4 * word(24);
    let words = [(28, 8), (32, 8), (36, of_outputs), (40, moved), (44, moved)];
    for (at, by) in words {
        new[at..at + 4].copy_from_slice(&((word(at) + by) as u32).to_le_bytes());
    }
    new
}

#[test]
fn what_a_later_version_adds_is_skipped() {
    let (old, new) = (request(), widened_request());
    let (old, new) = (Request::parse(&old).unwrap(), Request::parse(&new).unwrap());
    assert_eq!((old.context(), old.len()), (new.context(), new.len()));
    assert!(old.iter().eq(new.iter()));
    let (old, new) = (response(), widened_response());
    let (old, new) = (Response::parse(&old, 7, 3).unwrap(), Response::parse(&new, 7, 3).unwrap());
    assert!(old.outputs().eq(new.outputs()));
    assert!((0..3).all(|index| old.end(index) == new.end(index)));
}

#[test]
fn a_request_comes_back_as_it_was() {
    let bytes = request();
    let request = Request::parse(&bytes).unwrap();
    assert_eq!((request.batch_id(), request.len(), request.order()), (7, 3, Order::Key));
    assert_eq!(*request.context(), CONTEXT);
    let first = request.get(0);
    assert_eq!((first.topic, first.partition, first.offset, first.attempt), ("in", 3, 40, 1));
    assert_eq!((first.key, first.value), (Some(&b"key"[..]), Some(&b"value"[..])));
    let headers: Vec<_> = first.headers.iter().collect();
    assert_eq!(headers, [(&b"a"[..], Some(&b"\xff\x00"[..])), (&b"a"[..], None)]);
    let second = request.get(1);
    assert_eq!(
        (second.topic, second.timestamp, second.key, second.value),
        ("other", -1, None, None)
    );
    assert_eq!((request.get(2).key, request.get(2).value), (Some(&b""[..]), Some(&b""[..])));
}

#[test]
fn a_response_comes_back_as_it_was() {
    let bytes = response();
    let response = Response::parse(&bytes, 7, 3).unwrap();
    assert_eq!(response.end(0), End::Ok);
    assert_eq!(response.end(1), End::Failed { code: "Test.Failed", message: "it did" });
    assert_eq!(response.end(2), End::NotRun);
    let outputs: Vec<_> = response.outputs().collect();
    assert_eq!(outputs.len(), 2);
    assert_eq!(
        (outputs[0].topic, outputs[0].key, outputs[0].partition),
        (None, OutputKey::Keep, None)
    );
    assert_eq!(
        (outputs[1].topic, outputs[1].value, outputs[1].partition),
        (Some("alerts"), None, Some(2))
    );
    assert_eq!(outputs[1].headers.len(), 1);
    assert!(Response::parse(&bytes, 8, 3).is_err(), "FC-3: another batch");
    assert!(Response::parse(&bytes, 7, 2).is_err(), "FC-3: another count");
}

#[test]
fn results_that_contradict_themselves_are_refused() {
    let mut foreign = ResponseBuilder::new(1, 1);
    foreign.ok(0);
    foreign.output(&Output { source: 4, ..Output::default() });
    assert!(Response::parse(&foreign.finish(), 1, 1).is_err(), "FC-4: not in the batch");

    let mut of_failed = ResponseBuilder::new(1, 1);
    of_failed.failed(0, "A", "b");
    of_failed.output(&Output::default());
    assert!(Response::parse(&of_failed.finish(), 1, 1).is_err(), "FC-4: of a failed record");

    let mut twice = ResponseBuilder::new(1, 1);
    twice.failed(0, "A", "b");
    twice.failed(0, "A", "b");
    assert!(Response::parse(&twice.finish(), 1, 1).is_err(), "FC-3: failed twice");

    let mut back = ResponseBuilder::new(1, 2);
    back.ok(0);
    back.ok(1);
    back.output(&Output { source: 1, ..Output::default() });
    back.output(&Output { source: 0, ..Output::default() });
    assert!(Response::parse(&back.finish(), 1, 2).is_err(), "FC-4: sources descend");
}

/// FC-5: entries that all point at the same bytes would be gigabytes once they are copied.
#[test]
fn a_small_answer_does_not_turn_into_a_large_one() {
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    };
    let mut outputs = ResponseBuilder::new(1, 1);
    outputs.ok(0);
    for value in [&[b'v'; 1_000][..], b"", b""] {
        outputs.output(&Output { value: Some(value), ..Output::default() });
    }
    let mut bytes = outputs.finish();
    assert!(Response::parse(&bytes, 1, 1).is_ok());
    let second = word(&bytes, 32) + 48;
    bytes[second + 24..second + 28].copy_from_slice(&0_u32.to_le_bytes());
    bytes[second + 28..second + 32].copy_from_slice(&1_000_u32.to_le_bytes());
    assert!(Response::parse(&bytes, 1, 1).is_err(), "FC-5: a value shared by two outputs");

    let mut failures = ResponseBuilder::new(1, 2);
    failures.failed(0, "A", "a long account");
    failures.failed(1, "A", "");
    let mut bytes = failures.finish();
    assert!(Response::parse(&bytes, 1, 2).is_ok());
    let (first, second) = (word(&bytes, 36), word(&bytes, 36) + 24);
    bytes.copy_within(first + 12..first + 20, second + 12);
    assert!(Response::parse(&bytes, 1, 2).is_err(), "FC-5: a text shared by two failures");
}

/// FC-2: truncations, flips, overwritten words, and a seeded mix of them.
#[test]
fn no_bytes_make_a_decoder_panic() {
    let frames = [request(), response()];
    let look = |bytes: &[u8]| {
        if let Ok(request) = Request::parse(bytes) {
            assert!(request.len() <= bytes.len(), "FC-2");
            for record in request.iter() {
                assert!(record.headers.iter().count() <= bytes.len());
            }
        }
        if let Ok(response) = Response::parse(bytes, 7, 3) {
            assert!(response.outputs().count() <= bytes.len(), "FC-2");
            (0..3).for_each(|index| drop(format!("{:?}", response.end(index))));
        }
    };
    for frame in &frames {
        for at in 0..frame.len() {
            look(&frame[..at]);
            for byte in [0, 1, 0x7f, 0x80, 0xfe, 0xff] {
                let mut bad = frame.clone();
                bad[at] = byte;
                look(&bad);
            }
        }
    }
    let mut rng = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = move |below: usize| {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        usize::try_from(rng % below as u64).unwrap()
    };
    for _round in 0..300_000 {
        let mut bad = frames[draw(2)].clone();
        for _change in 0..=draw(4) {
            let at = draw(bad.len() - 4);
            let word =
                [0, 1, 47, 48, 49, u32::MAX, u32::MAX - 1, 1 << 31, draw(300) as u32][draw(9)];
            bad[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        bad.truncate(bad.len() - draw(2) * draw(bad.len()));
        look(&bad);
    }
}

/// FC-1 for seeded records: what goes in comes out.
#[test]
fn any_records_round_trip() {
    let mut rng = 88_172_645_463_325_252_u64;
    let mut draw = move |below: u64| {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng % below
    };
    for _round in 0..300 {
        let count = draw(40) as usize;
        let records: Vec<_> = (0..count)
            .map(|_| {
                let mut bytes = |limit: u64| -> Option<Vec<u8>> {
                    (draw(4) != 0).then(|| (0..draw(limit)).map(|_| draw(256) as u8).collect())
                };
                (bytes(20), bytes(200))
            })
            .collect();
        let mut builder = RequestBuilder::new(1, Order::None, &CONTEXT, &[("t", 0)]);
        for (index, (key, value)) in records.iter().enumerate() {
            builder.push(0, index as i64, 0, 1, key.as_deref(), value.as_deref(), &[], 0);
        }
        let frame = builder.finish();
        let request = Request::parse(&frame).unwrap();
        for (record, (key, value)) in request.iter().zip(&records) {
            assert_eq!((record.key, record.value), (key.as_deref(), value.as_deref()));
        }
        assert_eq!(request.len(), count);
    }
}

/// FC-1 for seeded results: ends, outputs with every choice, failures.
#[test]
fn any_results_round_trip() {
    let mut rng = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng % below
    };
    for round in 0..300_u64 {
        let count = draw(30) as usize;
        let mut builder = ResponseBuilder::new(round, count);
        let (mut ends, mut outputs) = (Vec::new(), Vec::new());
        for index in 0..count {
            let end = draw(4);
            ends.push((end, format!("Code.{}", draw(3)), "m".repeat(draw(20) as usize)));
            match end {
                0 => builder.not_run(index),
                1 => builder.failed(index, &ends[index].1, &ends[index].2),
                _ => builder.ok(index),
            }
            for _output in 0..if end < 2 { 0 } else { draw(3) } {
                let mut headers = HeadersBuilder::default();
                (0..draw(3)).for_each(|it| headers.push(&[it as u8], (it == 0).then_some(b"v")));
                outputs.push((index as u32, draw(3), draw(3), draw(100), headers));
            }
        }
        let values: Vec<Vec<u8>> = outputs.iter().map(|it| vec![b'v'; it.3 as usize]).collect();
        let outputs: Vec<Output<'_>> = outputs
            .iter()
            .zip(&values)
            .map(|((source, topic, key, length, headers), value)| Output {
                source: *source,
                topic: [None, Some("alerts"), Some("")][*topic as usize],
                key: [OutputKey::Keep, OutputKey::None, OutputKey::Bytes(b"k")][*key as usize],
                value: (*length != 0).then_some(value),
                headers: headers.headers(),
                partition: (*length % 3 == 0).then_some(*length as i32),
            })
            .collect();
        outputs.iter().for_each(|output| builder.output(output));
        let bytes = builder.finish();
        let response = Response::parse(&bytes, round, count).unwrap();
        assert!(response.outputs().eq(outputs.iter().copied()), "FC-1, round {round}");
        for (index, (end, code, message)) in ends.iter().enumerate() {
            let expected = match end {
                0 => End::NotRun,
                1 => End::Failed { code, message },
                _ => End::Ok,
            };
            assert_eq!(response.end(index), expected, "FC-1, round {round}");
        }
    }
}

#[test]
fn room_for_more_or_fewer_entries_than_there_are_changes_no_value() {
    for records in [0, 1, 3, 5, 40] {
        let request = |room: Option<usize>| {
            let mut builder = RequestBuilder::new(1, Order::Key, &Context::default(), &[("in", 0)]);
            room.into_iter().for_each(|room| builder.reserve(room, 100));
            for index in 0..records {
                let value = format!("value {index}");
                let value = Some(value.as_bytes());
                builder.push(0, index as i64, 7, 1, None, value, &[], 0);
                let size = builder.size_bytes();
                assert!(48 + 56 * (index + 1) < size, "{size}");
            }
            let size = builder.size_bytes();
            let bytes = builder.finish();
            assert_eq!(bytes.len(), size);
            bytes
        };
        let response = |room: Option<usize>, outputs: usize| {
            let mut builder = match room {
                Some(room) => ResponseBuilder::with_room(1, records, room),
                None => ResponseBuilder::new(1, records),
            };
            for index in 0..records {
                if index % 7 == 6 {
                    builder.failed(index, "No", "it is the seventh");
                    continue;
                }
                builder.ok(index);
                for output in 0..outputs {
                    let value = format!("output {output} of {index}");
                    let (source, value) = (index as u32, Some(value.as_bytes()));
                    builder.output(&Output { source, value, ..Output::default() });
                }
            }
            builder.finish()
        };
        let plain = request(None);
        for room in [0, 1, records, 100] {
            assert_eq!(request(Some(room)), plain, "{room} for {records}");
        }
        for outputs in [0, 1, 3] {
            let plain = response(None, outputs);
            let plain = Response::parse(&plain, 1, records).unwrap();
            for room in [0, 10, 10_000] {
                let bytes = response(Some(room), outputs);
                let answer = Response::parse(&bytes, 1, records).unwrap();
                assert!(answer.outputs().eq(plain.outputs()), "{outputs} of {records}");
                assert!((0..records).all(|index| answer.end(index) == plain.end(index)));
            }
        }
    }
}
