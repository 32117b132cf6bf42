//! What commands do and print.

use serde_json::Value;

use crate::harness::User;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn what_is_produced_is_consumed() {
    let user = User::new();
    user.start("greenhouse");
    let said = user.run("produce readings -k bed-4 {\"c\":34.2}").ok();
    let expected =
        format!("  readings[{}]@0  key bed-4  acked in ", bus::partition_for_key(b"bed-4", 2));
    assert!(said.starts_with(&expected) && said.ends_with(" ms\n"), "{said}");
    assert_eq!(user.run("consume readings -n 1").ok(), "{\"c\":34.2}\n");
    let said = user.run("produce readings a b c -p 0 -H unit=c -H unit=d=e").ok();
    assert_eq!(said.lines().count(), 3, "{said}");
    assert_eq!(
        user.run("consume readings -p 0 --end --from 1970-01-01T00:00:00Z").ok().lines().last(),
        Some("c")
    );
    let meta = user.run("consume readings -p 0 --end --meta").ok();
    let last = meta.lines().last().unwrap();
    assert!(last.starts_with("readings[0]@") && last.ends_with("  unit=c  unit=d=e  c"), "{meta}");
    assert_eq!(user.run("consume readings --from latest --end").ok(), "");
    assert_eq!(user.run("consume readings --end").ok().lines().count(), 4);
    assert_eq!(user.run("consume readings -n 2").ok().lines().count(), 2);
}

#[test]
fn lines_are_produced_from_stdin_and_files() {
    let user = User::new();
    user.start("greenhouse");
    let lines: String = (0..1_234).map(|it| format!("{{\"id\":{it}}}\n")).collect();
    let said = user.run_with("produce readings --key-field id", lines.as_bytes()).ok();
    assert!(said.starts_with("  1,234 records to readings  acked in "), "{said}");
    std::fs::write(user.folder().join("more.jsonl"), "one\r\n\ntwo").unwrap();
    user.run("produce readings -f more.jsonl -p 1").ok();
    let all = user.run("consume readings --end -o json").ok();
    let records: Vec<Value> = all.lines().map(json).collect();
    assert_eq!(records.len(), 1_236);
    for record in &records {
        let Some(key) = record["key"].as_str() else { continue };
        assert_eq!(record["value"], format!("{{\"id\":{key}}}"));
        assert_eq!(record["partition"], bus::partition_for_key(key.as_bytes(), 2));
    }
    let keyless: Vec<_> = records.iter().filter(|it| it["key"].is_null()).collect();
    assert_eq!((&keyless[0]["value"], &keyless[1]["value"]), (&"one".into(), &"two".into()));

    let bad = user.run_with("produce readings --key-field id", b"{\"id\":1}\nnot json\n");
    bad.failed(1, "E0111");
    user.run("produce readings -f nothing.jsonl").failed(1, "E0110");
    let large = format!("{}\n", "x".repeat(2 << 20));
    user.run_with("produce readings", large.as_bytes()).failed(1, "E0407");
}

#[test]
fn any_bytes_go_through_a_pipe_and_tombstones_are_null() {
    let user = User::new();
    user.start("greenhouse");
    user.run_with("produce readings -p 0", b"\xff\x00\x1b[2J\n").ok();
    let output = user.command("consume readings -n 1").output().unwrap();
    assert_eq!(output.stdout, b"\xff\x00\x1b[2J\n");
    let record = json(&user.run("consume readings -n 1 -o json").ok());
    assert_eq!(record["value"]["$bytes"], "/wAbWzJK");
    user.run("produce readings -k gone --null -p 1").ok();
    assert_eq!(user.run("consume readings -p 1 -n 1").ok(), "null\n");
    let landed = json(&user.run("produce readings x -p 1 -o json").ok());
    assert_eq!((&landed["partition"], &landed["offset"]), (&1.into(), &1.into()));
}

#[test]
fn a_consumer_waits_for_what_it_was_asked_for() {
    let user = User::new();
    user.start("greenhouse");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| user.run("consume readings -n 2").ok());
        user.run("produce readings first -p 0").ok();
        user.run("produce readings second -p 0").ok();
        assert_eq!(waits.join().unwrap(), "first\nsecond\n");
    });
}

#[test]
fn topics_are_made_shown_and_deleted() {
    let user = User::new();
    user.start("greenhouse");
    let said = user.run("topic create clicks --partitions 3 --retention 7d --retention-bytes 1GiB");
    assert_eq!(said.ok(), "topic clicks: 3 partitions, kept 7d or 1.0 GiB a partition\n");
    user.run("produce clicks x").ok();
    let list = user.run("topic list").ok();
    assert!(list.starts_with("TOPIC     PARTITIONS  RECORDS  "), "{list}");
    assert!(list.lines().any(|line| line.starts_with("clicks ")), "{list}");
    assert_eq!(json(&user.run("topic list -o json").ok())["topics"][0]["name"], "clicks");
    let described = user.run("topic describe readings").ok();
    assert!(described.ends_with("read by greenhouse/hot-alert/hot-alert\n"), "{described}");
    user.run("topic delete clicks").failed(2, "E0101");
    assert_eq!(user.run("topic delete clicks --yes").ok(), "deleted clicks and its 1 records\n");
    user.run("topic describe clicks").failed(3, "E0404");
    assert_eq!(user.run("topic create bad --retention 7x").status, Some(2));
}

#[test]
fn status_and_lag_are_for_people_and_programs() {
    let user = User::new();
    user.start("greenhouse");
    user.run("produce readings 1 2 3 -p 0").ok();
    let status = user.run("status").ok();
    assert!(status.starts_with("NODE greenhouse  millrace "), "{status}");
    let row = status.lines().find(|line| line.starts_with("hot-alert")).unwrap();
    assert_eq!(row.split_whitespace().nth(7), Some("3"), "the lag: {status}");
    assert_eq!(json(&user.run("status -o json").ok())["functions"][0]["lag"], 3);
    let lag = user.run("lag").ok();
    assert!(lag.ends_with("\ntotal 3\n"), "{lag}");
    assert_eq!(json(&user.run("lag -o json").ok())["total"], 3);
    assert!(user.run("lag -p").ok().contains("readings[0]"));
    assert_eq!(user.run("lag nobody").ok(), "no triggers\n");
    assert!(!status.contains('\x1b'), "a pipe gets no colour");
    assert!(user.run("status --color always").ok().contains('\x1b'));
    assert_eq!(user.run("status --color never").ok().lines().count(), status.lines().count());
}

#[test]
fn completions_are_scripts() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = user.run(&format!("completions {shell}")).ok();
        assert!(script.contains("produce") && script.len() > 1_000, "{shell}");
    }
}
