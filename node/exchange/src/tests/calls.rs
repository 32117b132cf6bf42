//! Requests, deadlines, cancellation and blobs, over loopback.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{SOON, pair, pattern, until};
use crate::link::{Stream, code, read_frame};
use crate::{CallError, Head, Kind, NodeId, PAYLOAD_MAX, Refusal, Status};

const TWO: NodeId = NodeId(2);

#[tokio::test]
async fn a_request_is_answered_failed_or_refused_by_name() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    let call = |kind, payload: Vec<u8>| one.exchange.call(TWO, kind, payload.into(), SOON);
    assert_eq!(call(Kind::PING, b"there?".to_vec()).await, Ok(Bytes::from_static(b"there?")));
    let most = pattern(PAYLOAD_MAX);
    assert!(call(Kind::RAFT, most.clone()).await == Ok(most.into()), "8 MiB are the same");
    let too_long = call(Kind::RAFT, pattern(PAYLOAD_MAX + 1)).await;
    assert_eq!(too_long, Err(CallError::TooLong(PAYLOAD_MAX + 1)));
    let failed = CallError::Failed("no hand is free".to_owned());
    assert_eq!(call(Kind::HAND_OVER, Vec::new()).await, Err(failed));
    let refused = CallError::Refused("unknown-kind: 77".to_owned());
    assert_eq!(call(Kind(77), Vec::new()).await, Err(refused));
    let refused = CallError::Refused("foreign-kind: join".to_owned());
    assert_eq!(call(Kind::JOIN, Vec::new()).await, Err(refused));
    assert_eq!(two.exchange.refused(Refusal::UnknownKind), 1);
    assert_eq!(two.exchange.refused(Refusal::ForeignKind), 1);
    let nobody = one.exchange.call(NodeId(9), Kind::PING, Bytes::new(), SOON).await;
    assert_eq!(nobody, Err(CallError::UnknownNode(NodeId(9))));
}

#[tokio::test]
async fn bytes_that_are_no_request_are_refused_by_name_and_the_connection_stays() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    let link = one.exchange.inner.wait_link(TWO).await.unwrap();
    let head = |head: Head| {
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        bytes
    };
    let ping = head(Head::Request { kind: Kind::PING, length: 9, id: 1, left_ms: 9_000 });
    let long = u32::try_from(PAYLOAD_MAX + 1).unwrap();
    let long = head(Head::Request { kind: Kind::PING, length: long, id: 1, left_ms: 9_000 });
    let answer = head(Head::Answer { status: Status::OK, length: 0, id: 1 });
    for (bytes, refusal, said) in [
        ([9].to_vec(), Refusal::UnknownVersion, "unknown-version: unknown version 9"),
        ([1, 7].to_vec(), Refusal::BadFrame, "bad-frame: unknown shape 7"),
        (ping, Refusal::BadFrame, "bad-frame: the stream ended inside a frame"),
        (long, Refusal::BadFrame, "bad-frame: 8388609 bytes, 8388608 may be"),
        (answer, Refusal::BadFrame, "bad-frame: an answer where a request should be"),
    ] {
        let before = two.exchange.refused(refusal);
        let opened = link.connection.open_bi().await.unwrap();
        let mut stream = Stream::new(opened, code::CANCELLED);
        stream.send.write_all(&bytes).await.unwrap();
        stream.send.finish().unwrap();
        let frame = read_frame(&mut stream.recv, PAYLOAD_MAX).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&frame.payload), said);
        assert!(matches!(frame.head, Head::Answer { status: Status::REFUSED, .. }));
        assert_eq!(two.exchange.refused(refusal), before + 1, "{refusal}");
    }
    let answer = one.exchange.call(TWO, Kind::PING, Bytes::from_static(b"x"), SOON).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"x")));
}

#[tokio::test]
async fn a_call_stops_no_stream_and_its_answer_is_known_to_have_left() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    let asks = one.exchange.inner.wait_link(TWO).await.unwrap();
    for _ in 0..100 {
        let answer = one.exchange.call(TWO, Kind::PING, Bytes::from_static(b"x"), SOON).await;
        assert_eq!(answer, Ok(Bytes::from_static(b"x")));
    }
    let answers = two.exchange.inner.wait_link(NodeId(1)).await.unwrap();
    for link in [&asks, &answers] {
        let stopped = link.connection.stats().frame_tx.stop_sending;
        assert_eq!(stopped, 0, "each is a packet, and an acknowledgement");
    }
    until("the answers to have left", || !answers.is_busy()).await;
}

#[tokio::test]
async fn a_call_that_goes_once_says_whether_it_left() {
    let (_, _, [one, two]) = pair();
    let call = |kind| one.exchange.call_once(TWO, kind, Bytes::from_static(b"x"), SOON);
    assert_eq!(call(Kind::PING).await, Err(CallError::NotSent), "nobody is known");
    one.exchange.set_peer(TWO, two.address);
    let link = one.exchange.inner.wait_link(TWO).await.unwrap();
    assert_eq!(call(Kind::PING).await, Ok(Bytes::from_static(b"x")));
    let handler = async {
        until("a handler", || two.echo.started.load(Ordering::SeqCst) == 1).await;
        link.close(code::ABANDONED, "cut");
    };
    let (lost, ()) = tokio::join!(call(Kind::INVOKE), handler);
    assert_eq!(lost, Err(CallError::Lost), "it may have been done");
    assert!(CallError::Lost.is_outcome_unknown() && !CallError::NotSent.is_outcome_unknown());
    let within = Duration::from_millis(50);
    one.exchange.inner.wait_link(TWO).await.unwrap();
    let late = one.exchange.call_once(TWO, Kind::INVOKE, Bytes::new(), within).await;
    assert_eq!(late, Err(CallError::Deadline));
}

#[tokio::test]
async fn a_call_that_is_dropped_ends_its_handler() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    let mut call = Box::pin(one.exchange.call(TWO, Kind::INVOKE, Bytes::new(), SOON));
    let started = until("a handler", || two.echo.started.load(Ordering::SeqCst) == 1);
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        () = started => {}
    }
    assert_eq!(two.echo.dropped.load(Ordering::SeqCst), 0);
    drop(call);
    until("a handler dropped", || two.echo.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_its_handler() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    one.exchange.inner.wait_link(TWO).await.unwrap();
    let (began, within) = (Instant::now(), Duration::from_millis(300));
    let answer = one.exchange.call(TWO, Kind::INVOKE, Bytes::new(), within).await;
    assert_eq!(answer, Err(CallError::Deadline));
    assert!(within <= began.elapsed(), "{:?}", began.elapsed());
    until("a handler dropped", || two.echo.dropped.load(Ordering::SeqCst) == 1).await;
    // Nobody is there: the deadline holds for waiting too.
    one.exchange.set_peer(NodeId(3), ([127, 0, 0, 1], 9).into());
    let answer = one.exchange.call(NodeId(3), Kind::PING, Bytes::new(), within).await;
    assert_eq!(answer, Err(CallError::Deadline));
}

#[tokio::test]
async fn a_blob_is_whole_or_it_is_an_error() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    let length = 6 << 20;
    let fetch = async |fault: &str, most: u64| {
        let asked = Bytes::from(format!("{length} {fault}"));
        let fetched = one.exchange.fetch(TWO, Kind::BLOB, asked, SOON, most).await;
        let mut reader = fetched?;
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(reader.next().await, Ok(None), "asked once more");
        Ok::<_, CallError>(bytes == pattern(length))
    };
    let most = u64::MAX;
    assert_eq!(fetch("right", most).await, Ok(true), "6 MiB are the same");
    assert_eq!(fetch("digest", most).await, Err(CallError::Digest));
    assert_eq!(fetch("short", most).await, Err(CallError::Length));
    assert_eq!(fetch("long", most).await, Err(CallError::Abandoned));
    assert_eq!(fetch("right", 1 << 20).await, Err(CallError::Length));
    let asked = Bytes::from_static(b"5 right");
    let call = one.exchange.call(TWO, Kind::BLOB, asked, SOON).await;
    assert_eq!(call, Err(CallError::Answer), "a blob is fetched");
    let asked = one.exchange.fetch(TWO, Kind::PING, Bytes::new(), SOON, most).await;
    assert_eq!(asked.unwrap_err(), CallError::Answer, "an answer is no blob");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_sender_and_nobody_else() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    let asked = Bytes::from(format!("{} right", 12 << 20));
    let mut reader = one.exchange.fetch(TWO, Kind::BLOB, asked, SOON, u64::MAX).await.unwrap();
    for number in 0..200_u32 {
        let payload = Bytes::copy_from_slice(&number.to_le_bytes());
        let answer = one.exchange.call(TWO, Kind::PING, payload.clone(), SOON).await;
        assert_eq!(answer, Ok(payload));
    }
    // What came without being read is bounded by the stream's window.
    let link = one.exchange.inner.wait_link(TWO).await.unwrap();
    let came = link.connection.stats().udp_rx.bytes;
    assert!(came < 8 << 20, "{came} bytes came of a blob that nobody reads");
    let mut read = 0;
    while let Some(chunk) = reader.next().await.unwrap() {
        read += chunk.len();
    }
    assert_eq!(read, 12 << 20);
}
