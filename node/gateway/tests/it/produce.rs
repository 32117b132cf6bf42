//! Appending: where records land, what is refused, and that a call is all or nothing.

use bus::{BatchBuilder, Error, Headers, RecordBatch, Timestamp, partition_for_key};
use millrace_gateway::api::RECORDS_MEDIA_TYPE;
use serde_json::{Value, json};

use crate::harness::Served;

fn batch(values: &[&str]) -> RecordBatch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(Timestamp(5), Some(b"k"), Some(value.as_bytes()), Headers::default());
    }
    builder.finish().unwrap()
}

fn framed(partition: i32, batch: &RecordBatch) -> Vec<u8> {
    let bytes = batch.as_bytes();
    let mut out = partition.to_le_bytes().to_vec();
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

fn ends(served: &Served) -> Vec<i64> {
    let topic = served.get("/v1/topics/in").ok();
    topic["watermarks"].as_array().unwrap().iter().map(|it| it["end"].as_i64().unwrap()).collect()
}

#[test]
fn a_key_lands_where_kafka_would_put_it() {
    let served = Served::new();
    let keys: Vec<String> = (0..50).map(|it| format!("bed-{it}")).collect();
    let records: Vec<Value> = keys.iter().map(|key| json!({"key": key, "value": key})).collect();
    let answer = served.post("/v1/topics/in/records", &json!({"records": records})).ok();
    let mut next = [0; 2];
    for (key, landed) in keys.iter().zip(answer["records"].as_array().unwrap()) {
        let partition = partition_for_key(key.as_bytes(), 2);
        assert_eq!(landed["partition"], partition, "{key}");
        let next = &mut next[usize::try_from(partition).unwrap()];
        assert_eq!(landed["offset"], *next, "{key}");
        *next += 1;
    }
    assert_eq!(ends(&served), next);
}

#[test]
fn records_without_a_key_stay_together_and_calls_take_turns() {
    let served = Served::new();
    let three = json!({"records": [{"value": "1"}, {"value": "2"}, {"value": null}]});
    let mut seen = Vec::new();
    for _call in 0..4 {
        let answer = served.post("/v1/topics/in/records", &three).ok();
        assert_eq!(answer["batches"].as_array().unwrap().len(), 1, "{answer}");
        seen.push(answer["batches"][0]["partition"].as_i64().unwrap());
    }
    assert_eq!(seen, [0, 1, 0, 1]);
    assert_eq!(ends(&served), [6, 6]);
}

#[test]
fn what_cannot_be_a_record_is_refused_and_nothing_is_written() {
    let served = Served::new();
    let path = "/v1/topics/in/records";
    served.post(path, &json!({"records": []})).refused(400, "E0513");
    served.post(path, &json!({"records": [{"value": 1}]})).refused(400, "E0513");
    served.post(path, &json!({"records": [{"valeu": "x"}]})).refused(400, "E0513");
    let elsewhere = json!({"records": [{"value": "x"}, {"value": "x", "partition": 2}]});
    served.post(path, &elsewhere).refused(404, "E0405");
    served
        .post("/v1/topics/x/records", &json!({"records": [{"value": "x"}]}))
        .refused(404, "E0404");
    served.post_raw(path, "text/plain", b"x").refused(415, "E0513");
    let large = "x".repeat((1 << 20) + 1);
    let two =
        json!({"records": [{"value": "x", "partition": 0}, {"value": large, "partition": 1}]});
    served.post(path, &two).refused(413, "E0407");
    served.post_raw(path, "application/json", &vec![b' '; (16 << 20) + 1]).refused(413, "E0513");
    assert_eq!(ends(&served), [0, 0]);
}

#[test]
fn raw_batches_are_taken_whole() {
    let served = Served::new();
    let one = batch(&["a", "b"]);
    let answer =
        served.post_raw("/v1/topics/in/records?partition=1", RECORDS_MEDIA_TYPE, one.as_bytes());
    assert_eq!(answer.ok()["batches"], json!([{"partition": 1, "base": 0, "records": 2}]));
    let two = [framed(1, &one), framed(0, &batch(&["c"]))].concat();
    let answer = served.post_raw("/v1/topics/in/records", RECORDS_MEDIA_TYPE, &two).ok();
    let expected = json!([
        {"partition": 1, "base": 2, "records": 2},
        {"partition": 0, "base": 0, "records": 1},
    ]);
    assert_eq!(answer["batches"], expected);
    assert_eq!(ends(&served), [1, 4]);
}

#[test]
fn damaged_raw_batches_are_refused_and_nothing_is_written() {
    let served = Served::new();
    let good = framed(0, &batch(&["a", "b"]));
    let path = "/v1/topics/in/records";
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    served
        .post_raw(path, RECORDS_MEDIA_TYPE, &[good.clone(), flipped].concat())
        .refused(400, "E0413");
    for length in [0, 3, 7, 8, 20, good.len() - 1] {
        let cut = [&good[..], &good[..length]].concat();
        let answer = served.post_raw(path, RECORDS_MEDIA_TYPE, &cut);
        if length > 0 {
            answer.refused(400, "E0513");
        }
    }
    served.post_raw(path, RECORDS_MEDIA_TYPE, b"").refused(400, "E0513");
    let elsewhere = [good, framed(2, &batch(&["c"]))].concat();
    served.post_raw(path, RECORDS_MEDIA_TYPE, &elsewhere).refused(404, "E0405");
    assert_eq!(ends(&served), [2, 0], "only the call that was whole");
}

#[test]
fn backpressure_says_when_to_come_again() {
    let served = Served::new();
    let one = json!({"records": [{"value": "x"}]});
    for (error, status, code, retry_after) in [
        (Error::DiskFull { available_bytes: 5, reserve_bytes: 10 }, 507, "E0401", Some("5")),
        (Error::Busy, 429, "E0515", Some("1")),
        (Error::Closed, 503, "E0512", Some("2")),
        (Error::Corrupt("x".into()), 500, "E0403", None),
    ] {
        served.bus.refuses_with(error);
        let answer = served.post("/v1/topics/in/records", &one);
        answer.refused(status, code);
        assert_eq!(answer.retry_after.as_deref(), retry_after);
    }
    served.post("/v1/topics/in/records", &one).ok();
}
