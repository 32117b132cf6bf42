//! Reading: byte for byte, from where it was asked, and woken by the next record.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::Served;

fn values(records: &Value) -> Vec<String> {
    let records = records.as_array().unwrap().iter();
    records.map(|record| record["value"].as_str().unwrap().to_owned()).collect()
}

fn fill(served: &Served, partition: i32, count: i64) {
    let record = |it: i64| json!({"value": it.to_string(), "partition": partition, "timestamp_ms": it * 1000});
    let records: Vec<Value> = (0..count).map(record).collect();
    served.post("/v1/topics/in/records", &json!({"records": records})).ok();
}

#[test]
fn records_come_back_byte_for_byte() {
    let served = Served::new();
    let records = json!([
        {"key": "k", "value": "wörter\n", "headers": [
            {"name": "a", "value": "1"}, {"name": "a", "value": null},
            {"name": {"$bytes": "/w=="}, "value": {"$bytes": "AP8="}},
        ], "partition": 0, "timestamp_ms": 1_357_095_600_001_i64},
        {"key": {"$bytes": "/wA="}, "value": null, "headers": [], "partition": 0, "timestamp_ms": -1},
        {"key": null, "value": "", "headers": [], "partition": 0, "timestamp_ms": i64::MAX},
    ]);
    served.post("/v1/topics/in/records", &json!({"records": records})).ok();
    let answer = served.get("/v1/topics/in/records?partition=0");
    assert_eq!(answer.kind, "application/x-ndjson");
    let lines: Vec<Value> =
        answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (offset, (line, sent)) in lines.iter().zip(records.as_array().unwrap()).enumerate() {
        assert_eq!((&line["topic"], &line["offset"]), (&json!("in"), &json!(offset)));
        for field in ["key", "value", "headers", "timestamp_ms", "partition"] {
            assert_eq!(line[field], sent[field], "{field} of {offset}");
        }
    }
    let times: Vec<&Value> = lines.iter().map(|line| &line["timestamp"]).collect();
    assert_eq!(
        times,
        [&json!("2013-01-02T03:00:00.001Z"), &json!("1969-12-31T23:59:59.999Z"), &Value::Null]
    );
    assert_eq!(answer.next.as_deref(), Some(r#"{"0":3}"#));
}

#[test]
fn reading_starts_where_it_was_asked_to() {
    let served = Served::new();
    fill(&served, 1, 10);
    for (from, first) in [
        ("earliest", Some(0)),
        ("0", Some(0)),
        ("7", Some(7)),
        ("1970-01-01T00:00:04.500Z", Some(5)),
        ("latest", None),
        ("4711", None),
        ("2020-01-01T00:00:00Z", None),
    ] {
        let answer = served.get(&format!("/v1/topics/in/records?partition=1&from={from}"));
        assert_eq!(answer.status, 200, "{from}: {answer:?}");
        let line = answer.text.lines().next();
        let offset = line
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["offset"].as_i64().unwrap());
        assert_eq!(offset, first, "{from}");
    }
    served.get("/v1/topics/in/records?from=newest").refused(400, "E0513");
    served.get("/v1/topics/in/records?partition=2").refused(404, "E0405");
    served.get("/v1/topics/x/records").refused(404, "E0404");
    served.get("/v1/topics/in/records?limit=0").refused(400, "E0513");
    let answer = served.get("/v1/topics/in/records?limit=3");
    assert_eq!(
        (answer.text.lines().count(), answer.next.as_deref()),
        (3, Some(r#"{"0":0,"1":3}"#))
    );
}

#[test]
fn a_fetch_goes_on_from_its_positions_to_the_end() {
    let served = Served::new();
    fill(&served, 0, 5);
    fill(&served, 1, 4);
    let (mut positions, mut seen, mut fetches) = (json!({}), Vec::new(), 0);
    loop {
        let question = json!({"positions": positions, "max": 2});
        let fetched = served.post("/v1/topics/in:fetch", &question).ok();
        seen.extend(values(&fetched["records"]));
        positions = fetched["next"].clone();
        fetches += 1;
        if fetched["at_end"].as_bool().unwrap() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["0", "0", "1", "1", "2", "2", "3", "3", "4"]);
    assert_eq!((positions, fetches), (json!({"0": 5, "1": 4}), 5));
    served.post("/v1/topics/in:fetch", &json!({"positions": {"0": 6}})).refused(416, "E0406");
    served.post("/v1/topics/in:fetch", &json!({"positions": {"0": -1}})).refused(416, "E0406");
    served.post("/v1/topics/in:fetch", &json!({"positions": {"9": 0}})).refused(404, "E0405");
    served.post("/v1/topics/x:fetch", &json!({})).refused(404, "E0404");
    let one = served.post("/v1/topics/in:fetch", &json!({"positions": {"1": 3}})).ok();
    assert_eq!((values(&one["records"]), &one["next"]), (vec!["3".to_owned()], &json!({"1": 4})));
}

#[test]
fn a_wait_ends_with_the_next_record_or_with_its_time() {
    let served = Served::new();
    let started_at = Instant::now();
    let question = json!({"from": "latest", "wait_ms": 300});
    let empty = served.post("/v1/topics/in:fetch", &question).ok();
    assert_eq!(empty["records"], json!([]));
    assert!(Duration::from_millis(290) <= started_at.elapsed());
    let readers = served.bus.readers();
    let (fetched, took) = std::thread::scope(|scope| {
        let question = json!({"positions": empty["next"], "wait_ms": 30_000});
        let waits = scope.spawn({
            let served = &served;
            move || served.post("/v1/topics/in:fetch", &question).ok()
        });
        served.wait_for_reader(readers);
        let produced_at = Instant::now();
        fill(&served, 1, 2);
        (waits.join().unwrap(), produced_at.elapsed())
    });
    assert_eq!(values(&fetched["records"]), ["0", "1"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}
