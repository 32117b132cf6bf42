//! FC-1 to FC-4, by round trips and by damaged frames.

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
    for _round in 0..50_000 {
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
