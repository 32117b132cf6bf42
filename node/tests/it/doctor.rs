//! A node examines itself: what is well, what is not, and an exit status that says so.

use crate::deploys::Mill;
use crate::harness::User;

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]

[function.mark]
runtime = "python3"
path    = "mark"
handler = "app.mark"

[[function.mark.trigger]]
topics = ["in"]
output = { topic = "out" }
"#;

#[test]
fn what_is_not_well_is_named_with_its_remedy_and_ends_with_status_1() {
    let mill = Mill::with(MANIFEST, &[("mark/app.py", "def mark(value, context): return value\n")]);
    mill.run("deploy app").ok();
    let said = mill.run("doctor");
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{said:?}");
    for line in
        ["  data  /", "ok    descriptors  ", "ok    python3  /", "ok    bus  the node's own"]
    {
        assert!(said.out.contains(line), "{line}: {said:?}");
    }
    assert!(
        said.out.contains("ok    functions  all 1 run, and no trigger is held up\n"),
        "{said:?}"
    );
    assert!(said.out.contains("  fdatasync p50 "), "{said:?}");

    mill.write("mark/app.py", "def mark(:\n");
    assert_eq!(mill.run("deploy app").status, Some(1));
    let stale = mill.json("doctor");
    let findings = stale["findings"].as_array().unwrap();
    let stale = findings.iter().find(|it| it["subject"] == "function mill/mark").unwrap();
    assert_eq!((&stale["verdict"], &stale["code"]), (&"warn".into(), &"E0315".into()), "{stale}");

    let other = MANIFEST.replace("\"mill\"", "\"other\"").replace("topic.in", "topic.there");
    mill.write("millrace.toml", &other.replace("[\"in\"]", "[\"there\"]"));
    assert_eq!(mill.run("deploy app").status, Some(1));
    let said = mill.run("doctor");
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.out.contains("\nfail  function other/mark  "), "{said:?}");
    assert!(said.out.contains(" explain E0315)\n"), "{said:?}");
}

#[test]
fn a_machine_is_examined_before_there_is_a_node() {
    let user = User::new();
    let said = user.run("doctor --data .");
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.out.lines().count() == 5, "{said:?}");
    let missing = user.run("doctor --data nowhere -o json");
    assert_eq!(missing.status, Some(1), "{missing:?}");
    assert!(missing.out.contains("\"code\": \"E0410\""), "{missing:?}");
    user.run("doctor").failed(6, "E0502");
}

#[test]
fn what_functions_said_is_shown_and_followed() {
    let code = "def mark(value, context):\n    print('met ' + value)\n    return value\n";
    let mill = Mill::with(MANIFEST, &[("mark/app.py", code)]);
    mill.run("deploy app").ok();
    mill.run("produce in \"one\" -k k").ok();
    let said = mill.until("a line", |mill| {
        let said = mill.run("logs mark --since 1h").ok();
        said.contains("met one\n").then_some(said)
    });
    assert!(said.contains(" mark  "), "{said}");
    assert_eq!(mill.run("logs mill/mark --grep nothing").ok(), "");
    assert_eq!(mill.run("logs other").ok(), "");
    assert_eq!(mill.run("logs mark --level error").ok(), "");
    let line: serde_json::Value =
        serde_json::from_str(mill.run("logs -n 1 -o json").ok().trim_end()).unwrap();
    assert_eq!((&line["function"], &line["level"]), (&"mark".into(), &"info".into()), "{line}");

    let mut follow = mill.user.command("logs mark -f");
    let out = std::fs::File::create(mill.user.folder().join("followed")).unwrap();
    let mut follow = follow.stdin(std::process::Stdio::null()).stdout(out).spawn().unwrap();
    mill.run("produce in \"two\" -k k").ok();
    mill.until("the line that came", |mill| {
        let text = std::fs::read_to_string(mill.user.folder().join("followed")).unwrap();
        text.contains("met two\n").then_some(())
    });
    follow.kill().unwrap();
    follow.wait().unwrap();
}
