//! Topics and lag.

use bus::{Bus as _, Commit, Epoch, Offset, Position, PositionMove, ShardId, TopicPartition};
use serde_json::json;

use crate::harness::Served;

#[test]
fn topics_are_made_listed_described_and_deleted() {
    let served = Served::new();
    let made = served.post(
        "/v1/topics",
        &json!({"name": "b", "partitions": 3, "retention_ms": 5000, "record_bytes_max": 2048}),
    );
    assert_eq!(made.status, 201, "{made:?}");
    let again = served.post("/v1/topics", &json!({"name": "b", "partitions": 3}));
    assert_eq!(again.status, 200, "{again:?}");
    served.post("/v1/topics", &json!({"name": "b", "partitions": 4})).refused(409, "E0408");
    served.post("/v1/topics", &json!({"name": "a b"})).refused(400, "E0209");
    served.post("/v1/topics", &json!({"name": "c", "partitions": 0})).refused(400, "E0513");
    served.post("/v1/topics", &json!({"name": "c", "partitions": 100_000})).refused(400, "E0513");
    served.post("/v1/topics", &json!({"name": "c", "partition": 1})).refused(400, "E0513");

    served.post("/v1/topics/b/records", &json!({"records": [{"value": "x"}]})).ok();
    let list = served.get("/v1/topics").ok();
    let names: Vec<_> = list["topics"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["b", "in", "out"]);
    let described = served.get("/v1/topics/b").ok();
    assert_eq!(described["api"], 1);
    assert_eq!(described["records"], 1);
    assert_eq!(described["retention_ms"], 5000);
    assert_eq!(described["record_bytes_max"], 2048);
    assert_eq!(described["watermarks"].as_array().unwrap().len(), 3);
    assert_eq!(served.get("/v1/topics/in").ok()["readers"], json!(["a/f/f"]));

    assert_eq!(served.delete("/v1/topics/b").status, 204);
    served.get("/v1/topics/b").refused(404, "E0404");
    served.delete("/v1/topics/b").refused(404, "E0404");
}

#[test]
fn a_topic_in_use_is_not_deleted_under_its_functions() {
    let served = Served::new();
    for (topic, says) in [("in", "a/f reads in"), ("out", "a/f writes out")] {
        let answer = served.delete(&format!("/v1/topics/{topic}"));
        answer.refused(409, "E0510");
        assert_eq!(answer.json()["detail"], says);
    }
}

#[test]
fn lag_is_the_distance_from_the_committed_position_to_the_end() {
    let served = Served::new();
    let to = |partition: i32| {
        json!({"records": [
            {"value": "1", "partition": partition}, {"value": "2", "partition": partition},
            {"value": "3", "partition": partition},
        ]})
    };
    served.post("/v1/topics/in/records", &to(0)).ok();
    served.post("/v1/topics/in/records", &to(1)).ok();
    let moved = PositionMove {
        partition: TopicPartition::new("in", 0),
        position: Position { epoch: Epoch(3), next: Offset(2), ..Position::default() },
    };
    served.runtime.block_on(async {
        let shard = ShardId(7);
        served.bus.recover(shard, Epoch(3)).await.unwrap();
        let positions = vec![moved];
        let commit =
            Commit { shard, epoch: Epoch(3), appends: Vec::new(), settles: Vec::new(), positions };
        served.bus.commit(commit).await.unwrap();
    });
    let lag = served.get("/v1/lag").ok();
    assert_eq!(lag["total"], 4);
    assert_eq!(lag["triggers"][0]["trigger"], "a/f/f");
    let partitions = &lag["triggers"][0]["partitions"];
    assert_eq!((&partitions[0]["next"], &partitions[0]["lag"]), (&json!(2), &json!(1)));
    assert_eq!((&partitions[1]["next"], &partitions[1]["lag"]), (&json!(0), &json!(3)));
    assert_eq!(served.get("/v1/status").ok()["functions"][0]["lag"], 4);
}
