//! Dead letters of a real node: listed by cause, shown, edited, put back in the order of their keys
//! and let be, with a kill in the middle.

use serde_json::{Value, json};

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
retry  = { attempts = 1 }
output = { topic = "out" }
dead-letter = "in.dead"
"#;

const BROKEN: &str = "\
def mark(value, context):
    if value.startswith('bad'):
        raise ValueError('no good: ' + value)
    if value.startswith('key'):
        raise KeyError(value)
    return value
";

const MENDED: &str = "def mark(value, context):\n    return 'ok ' + value\n";

/// With a function that fails some values, and these records of key `k`.
fn mill(values: &[&str]) -> Mill {
    let mill = Mill::with(MANIFEST, &[("mark/app.py", BROKEN)]);
    mill.run("deploy app").ok();
    for value in values {
        mill.run(&format!("produce in \"{value}\" -k k")).ok();
    }
    mill
}

fn mend(mill: &Mill) {
    mill.write("mark/app.py", MENDED);
    mill.run("deploy app").ok();
}

fn list(mill: &Mill) -> Value {
    mill.json("dead-letter list mark")[0].clone()
}

fn until_open(mill: &Mill, open: u64) -> Value {
    mill.until("the dead letters", |mill| Some(list(mill)).filter(|it| it["open"] == open))
}

fn until_outputs(mill: &Mill, expected: &[&str]) {
    let outputs = |mill: &Mill| -> Vec<String> {
        let out = mill.run("consume out --end").ok();
        out.lines().map(|line| line.trim_matches('"').to_owned()).collect()
    };
    mill.until("the outputs", |mill| (expected.len() <= outputs(mill).len()).then_some(()));
    assert_eq!(outputs(mill), expected);
}

#[test]
fn what_was_given_up_is_listed_by_cause_shown_edited_and_put_back_in_order() {
    let mut mill = mill(&["bad-1", "key-2", "bad-3", "fine", "bad-4"]);
    let listed = until_open(&mill, 4);
    let causes = listed["causes"].as_array().unwrap();
    assert_eq!((&causes[0]["error_type"], &causes[0]["count"]), (&json!("ValueError"), &json!(3)));
    assert_eq!(causes[0]["message"], "no good: bad-4");
    assert_eq!(causes[0]["cause"], "RetryAttemptsExhausted");
    assert_eq!((&causes[1]["error_type"], &causes[1]["count"]), (&json!("KeyError"), &json!(1)));
    let text = mill.run("dlq list").ok();
    assert!(text.contains("\n4 open\nnext: "), "{text}");
    let since = mill.run("dead-letter list mark --since 2999-01-01T00:00:00Z").ok();
    assert_eq!(since, "0 open\n");

    let place = causes[0]["samples"][1].as_str().unwrap();
    let shown = mill.json(&format!("dead-letter show {place}"));
    assert_eq!(
        (&shown["record"]["value"], &shown["record"]["key"]),
        (&json!("\"bad-3\""), &json!("k"))
    );
    assert_eq!(shown["record"]["headers"], json!([]), "its own alone");
    assert_eq!((&shown["trigger"], &shown["topic"]), (&json!("mill/mark/mark"), &json!("in")));
    mill.write("value", "\"mended 3\"");
    let said = mill.run(&format!("dead-letter edit {place} --value app/value")).ok();
    assert!(said.starts_with("edited; "), "{said}");
    assert_eq!(list(&mill)["edited"], 1);
    let text = mill.run(&format!("dead-letter show {place}")).ok();
    assert!(
        text.contains("  open, edited\n") && text.contains("edited    \"mended 3\"\n"),
        "{text}"
    );

    mend(&mill);
    let dry = mill.json("dead-letter redrive mark --dry-run");
    assert_eq!((&dry[0]["matched"], &dry[0]["state"]), (&json!(4), &json!("preview")), "{dry}");
    let values = mill.json("dead-letter redrive mark --dry-run --cause ValueError --limit 2");
    assert_eq!((&values[0]["matched"], &values[0]["overtaking"]), (&json!(2), &json!(1)));
    assert_eq!(list(&mill)["open"], 4, "nothing was changed");

    let said = mill.run("dead-letter redrive mark --limit 2").ok();
    assert_eq!(said, "in.dead: 2 went back to in\n");
    mill.kill_and_serve();
    assert_eq!(until_open(&mill, 2)["done"], 2);
    let said = mill.run("dead-letter redrive mill/mark/mark --rate 100").ok();
    assert_eq!(said, "in.dead: 2 went back to in, 1 of them edited\n");
    until_outputs(&mill, &["fine", "ok bad-1", "ok key-2", "ok mended 3", "ok bad-4"]);
    assert_eq!(mill.run("dead-letter redrive mark").ok(), "in.dead: none are open\n");
    assert_eq!(list(&mill)["done"], 4);
    let again = mill.run(&format!("dead-letter edit {place} --value app/value"));
    again.failed(5, "E0543");
    // What went back is as it came: nothing says that it was ever given up.
    let back = mill.run("consume in --from 5 --end -o json").ok();
    let last: Value = serde_json::from_str(back.lines().last().unwrap()).unwrap();
    assert_eq!((&last["value"], &last["headers"]), (&json!("\"bad-4\""), &json!([])));
}

#[test]
fn what_is_let_be_is_neither_listed_nor_put_back() {
    let mill = mill(&["bad-1", "key-2", "bad-3"]);
    until_open(&mill, 3);
    mend(&mill);
    let said = mill.run("dead-letter purge mark --cause ValueError").ok();
    assert_eq!(said, "in.dead: 2 would be purged\nnext: the same with --yes\n");
    assert_eq!(list(&mill)["open"], 3);
    let said = mill.run("dead-letter purge mark --cause ValueError --yes").ok();
    assert_eq!(said, "in.dead: 2 purged\n");
    let listed = list(&mill);
    assert_eq!((&listed["open"], &listed["done"]), (&json!(1), &json!(2)));
    mill.run("dead-letter redrive in.dead").ok();
    until_outputs(&mill, &["ok key-2"]);

    mill.run("dead-letter list nothing").failed(3, "E0404");
    mill.run("dead-letter show in.dead[0]@99").failed(3, "E0406");
    mill.run("produce in.dead made-up -p 0").ok();
    let end = mill.json("topic describe in.dead")["watermarks"][0]["end"].as_i64().unwrap();
    mill.run(&format!("dead-letter show in.dead[0]@{}", end - 1)).failed(5, "E0541");
    assert_eq!(list(&mill)["foreign"], 1);
    assert_eq!(mill.run("dead-letter show in.dead").status, Some(2));
}
