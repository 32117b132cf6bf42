//! Triggers of a real node: paused and resumed through kills and deploys, and sought: what is
//! skipped never runs, what is repeated runs once more, and nothing of before lands afterwards.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::deploys::Mill;

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 2

[function.mark]
runtime = "python3"
path    = "mark"
handler = "app.mark"

[[function.mark.trigger]]
topics = ["in"]
batch  = { records = 1 }
output = { topic = "out" }

[function.other]
runtime = "python3"
path    = "mark"
handler = "app.mark"

[[function.other.trigger]]
name   = "all"
topics = ["in"]
output = { topic = "others" }
"#;

/// Longer than a node waits for what is in flight.
const SLOW: Duration = Duration::from_secs(3);

const CODE: &str = "\
import time
def mark(value, context):
    if value == 'slow':
        time.sleep(3)
    return value
";

fn mill() -> Mill {
    let mill = Mill::with(MANIFEST, &[("mark/app.py", CODE)]);
    mill.run("deploy app").ok();
    mill
}

fn produce(mill: &Mill, values: &[&str]) {
    for value in values {
        // In a JSON string, as the function reads it.
        mill.run(&format!("produce in \"{value}\" -k key -p 0")).ok();
    }
}

fn outputs(mill: &Mill) -> Vec<String> {
    let out = mill.run("consume out --end").ok();
    out.lines().map(|line| line.trim_matches('"').to_owned()).collect()
}

fn until_outputs(mill: &Mill, expected: &[&str]) {
    mill.until("the outputs", |mill| {
        let found = outputs(mill);
        assert!(found.len() <= expected.len(), "{found:?} instead of {expected:?}");
        (found.len() == expected.len()).then_some(())
    });
    assert_eq!(outputs(mill), expected);
}

fn trigger(mill: &Mill, id: &str) -> Value {
    let list = mill.json("trigger list");
    let triggers = list["triggers"].as_array().unwrap();
    triggers.iter().find(|it| it["trigger"] == id).unwrap().clone()
}

#[test]
fn a_paused_trigger_takes_nothing_until_it_is_resumed_whatever_happens_meanwhile() {
    let mut mill = mill();
    produce(&mill, &["a"]);
    until_outputs(&mill, &["a"]);
    let said = mill.run("trigger pause mark").ok();
    assert!(said.starts_with("paused mill/mark/mark\nnext: "), "{said}");
    produce(&mill, &["b"]);
    mill.until("the other trigger has it", |mill| {
        (mill.run("consume others --end").ok().lines().count() == 2).then_some(())
    });
    let paused = trigger(&mill, "mill/mark/mark");
    assert_eq!((&paused["state"], &paused["lag"]), (&"paused".into(), &1.into()), "{paused}");
    assert_eq!(trigger(&mill, "mill/other/all")["paused_since"], Value::Null);
    let since = paused["paused_since"].clone();

    mill.kill_and_serve();
    mill.run("trigger pause mill/mark/mark").ok();
    assert_eq!(trigger(&mill, "mill/mark/mark")["paused_since"], since, "it was paused already");
    mill.write("mark/app.py", &format!("{CODE}\n# another revision\n"));
    mill.run("deploy app").ok();
    mill.until("the new revision has started", |mill| {
        (trigger(mill, "mill/mark/mark")["state"] == "paused").then_some(())
    });
    let status = mill.json("status");
    assert_eq!(status["paused"][0]["trigger"], "mill/mark/mark");
    assert_eq!(status["functions"][0]["state"], "paused");
    assert_eq!(status["health"], "healthy", "somebody wanted it so");
    let status = mill.run("status").ok();
    assert!(status.contains("! mill/mark/mark: paused "), "{status}");
    assert!(status.contains(" trigger resume mill/mark/mark\n"), "{status}");
    let lag = mill.run("lag mark").ok();
    assert!(lag.contains("1  [0] 1       0  never: it stands  paused\n"), "{lag}");
    assert_eq!(outputs(&mill), ["a"], "nothing was run");

    assert_eq!(mill.run("trigger resume mill/mark/mark").ok(), "resumed mill/mark/mark\n");
    until_outputs(&mill, &["a", "b"]);
    mill.run("trigger resume mark").ok();
    assert_eq!(mill.json("status")["paused"], Value::Array(Vec::new()));

    mill.run("trigger pause nobody").failed(3, "E0506");
    mill.run("trigger pause mill/").failed(2, "E0507");
    mill.run("trigger seek mark --to nowhere").failed(1, "E0513");
}

#[test]
fn a_seek_shows_first_and_then_skips_and_repeats_exactly_what_it_said() {
    let mut mill = mill();
    produce(&mill, &["a", "b", "c"]);
    until_outputs(&mill, &["a", "b", "c"]);
    mill.run("trigger seek mark --to 4 --partition 0").failed(1, "E0406");
    mill.run("trigger seek mark --to 0 --partition 7").failed(3, "E0405");

    let preview = mill.run("trigger seek mark --to earliest").ok();
    assert!(
        preview.contains("\nin[0]         3   0        0         3      0    3\n"),
        "{preview}"
    );
    assert!(preview.ends_with("would run again\nnext: the same with --yes\n"), "{preview}");
    let epoch =
        |mill: &Mill| mill.json("lag mark")["triggers"][0]["partitions"][0]["epoch"].clone();
    let before = epoch(&mill);
    let done = mill.json("trigger seek mark --to 1 --partition 0 --yes");
    assert_eq!((&done["skipped"], &done["repeated"]), (&0.into(), &2.into()), "{done}");
    until_outputs(&mill, &["a", "b", "c", "b", "c"]);
    assert!(before.as_u64() < epoch(&mill).as_u64(), "a new assignment");

    mill.run("trigger pause mark").ok();
    produce(&mill, &["d", "e"]);
    let done = mill.run("trigger seek mark --to latest --yes").ok();
    assert!(done.ends_with("mill/mark/mark: 2 records are skipped, 0 run again\n"), "{done}");
    mill.kill_and_serve();
    produce(&mill, &["f"]);
    mill.run("trigger resume mark").ok();
    until_outputs(&mill, &["a", "b", "c", "b", "c", "f"]);

    let later = mill.json("trigger seek mark --to 2999-01-01T00:00:00Z");
    assert_eq!(later["partitions"][0]["to"], 6);
    let first = mill.json("trigger seek mark --to 2001-01-01T00:00:00Z");
    assert_eq!((&first["partitions"][0]["to"], &first["dry_run"]), (&0.into(), &true.into()));
}

#[test]
fn nothing_of_before_a_seek_lands_after_it() {
    let mill = mill();
    produce(&mill, &["slow"]);
    mill.until("it runs", |mill| {
        let functions = mill.json("status")["functions"].clone();
        (functions[0]["in_flight"] == 1).then_some(())
    });
    let started_at = Instant::now();
    let done = mill.json("trigger seek mark --to latest --yes");
    assert_eq!(done["skipped"], 1, "{done}");
    assert!(started_at.elapsed() < SLOW, "the seek waited for what it skips");
    // What ran has ended by now, and so would its output be there.
    mill.until("the time has passed", |_| (SLOW * 2 < started_at.elapsed()).then_some(()));
    produce(&mill, &["next"]);
    until_outputs(&mill, &["next"]);
}
