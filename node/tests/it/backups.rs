//! Backups of a real node, restored into another one: the same functions and revisions, paused what
//! was paused, and no record that was open is passed, also none that was parked.

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
retry  = { backoff = ["5m"] }
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

/// Fails a record until the file of this name is there.
fn code(healed: &str) -> String {
    format!(
        "import os\ndef mark(value, context):\n    if value == 'bad' and not os.path.exists('{healed}'):\n        raise ValueError(value)\n    return value\n"
    )
}

fn produce(mill: &Mill, values: &[&str]) {
    for value in values {
        mill.run(&format!("produce in \"{value}\" -k {value} -p 0")).ok();
    }
}

fn outputs(mill: &Mill, topic: &str) -> Vec<String> {
    let out = mill.run(&format!("consume {topic} --end")).ok();
    out.lines().map(|line| line.trim_matches('"').to_owned()).collect()
}

fn until(mill: &Mill, topic: &str, expected: &[&str]) {
    mill.until("the outputs", |mill| {
        let found = outputs(mill, topic);
        assert!(found.len() <= expected.len(), "{found:?} instead of {expected:?}");
        (found.len() == expected.len()).then_some(())
    });
    let mut found = outputs(mill, topic);
    found.sort();
    assert_eq!(found, expected);
}

fn revisions(mill: &Mill) -> Value {
    let mut list = mill.json("functions mill/mark");
    list["version"] = Value::Null;
    list
}

#[test]
fn a_backup_goes_on_elsewhere_where_it_was_and_what_is_no_backup_changes_nothing() {
    let shared = tempfile::tempdir().unwrap();
    let healed = shared.path().join("healed");
    let code = code(healed.to_str().unwrap());
    let file = shared.path().join("mill.backup");
    let file = file.to_str().unwrap();
    let first = Mill::with(MANIFEST, &[("mark/app.py", &format!("{code}\n# before\n"))]);
    first.run("deploy app").ok();
    first.write("mark/app.py", &code);
    first.run("deploy app").ok();
    first.run("alias set mill/mark stable v1").ok();
    first.run("trigger pause other").ok();
    produce(&first, &["a", "bad", "c"]);
    until(&first, "out", &["a", "c"]);
    first.until("the record is parked", |mill| {
        let record = mill.run("record in[0]@1 -o json");
        record.out.contains("\"parked\"").then_some(())
    });
    let made: Value =
        serde_json::from_str(&first.run(&format!("backup {file} -o json")).ok()).unwrap();
    assert_eq!((&made["parked"], &made["packages"]), (&1.into(), &2.into()), "{made}");
    first.run(&format!("backup {file}")).failed(5, "E0110");
    produce(&first, &["d"]);
    until(&first, "out", &["a", "c", "d"]);

    // A bus with the same records, and nothing that runs.
    let second = Mill::with(MANIFEST, &[]);
    second.run("topic create in --partitions 2").ok();
    produce(&second, &["a", "bad", "c", "d"]);
    let whole = std::fs::read(file).unwrap();
    let harmed = shared.path().join("harmed");
    for (bytes, code) in [(&whole[..whole.len() / 2], "E0581"), (&b"no backup"[..], "E0581")] {
        std::fs::write(&harmed, bytes).unwrap();
        second.run(&format!("restore {}", harmed.display())).failed(5, code);
    }
    let would = second.run(&format!("restore {file} --dry-run")).ok();
    assert!(would.contains("would be new") && would.contains("nothing was changed"), "{would}");
    assert_eq!(second.json("functions")["functions"], Value::Array(Vec::new()));

    std::fs::write(&healed, "").unwrap();
    let said = second.run(&format!("restore {file}")).ok();
    assert!(said.contains("restored") && !said.contains('!'), "{said}");
    until(&second, "out", &["bad", "d"]);
    assert_eq!(revisions(&second), revisions(&first));
    let since = |mill: &Mill| {
        let list = mill.json("trigger list");
        let all = list["triggers"].as_array().unwrap();
        all.iter().map(|it| it["paused_since"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(since(&second), since(&first));
    assert_eq!(outputs(&second, "others"), [""; 0], "it is paused");
    second.run("trigger resume other").ok();
    until(&second, "others", &["a", "bad", "c", "d"]);

    second.run(&format!("restore {file}")).failed(5, "E0583");
    let said = second.run(&format!("restore {file} --replace")).ok();
    assert!(said.contains("replaced"), "{said}");
    until(&second, "out", &["bad", "bad", "d", "d"]);
    assert_eq!(since(&second), since(&first), "it is paused again");

    // Where the records are not, everything that comes is read, and it is said.
    let third = Mill::with(MANIFEST, &[]);
    let said = third.run(&format!("restore {file}")).ok();
    assert!(said.contains("! mill/mark/mark goes on in in[0] at 0, not at 1"), "{said}");
    produce(&third, &["e"]);
    until(&third, "out", &["e"]);
}
