//! Destinations as an operator meets them: planned, made with their topics, shown, and found in what
//! happened to a record.

use serde_json::json;

use crate::deploys::Mill;

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 1

[function.mark]
runtime = "python3"
path    = "mark"
handler = "app.mark"

[[function.mark.trigger]]
topics = ["in"]
retry  = { attempts = 1 }
output = { topic = "out" }
"#;

const DESTINATIONS: &str = "on-success = \"done\"\non-failure = \"failed\"\n";

const CODE: &str = "\
def mark(value, context):
    if value == 'bad':
        raise ValueError(value)
    return value
";

#[test]
fn destinations_are_planned_shown_and_traced_back() {
    let mill = Mill::with(MANIFEST, &[("mark/app.py", CODE)]);
    mill.run("deploy app").ok();
    mill.write("millrace.toml", &format!("{MANIFEST}{DESTINATIONS}"));
    let plan = mill.run("plan app");
    let change =
        "  ~ trigger mark\n      on-success  none -> done\n      on-failure  none -> failed\n";
    assert!(plan.out.contains(change), "{plan:?}");
    mill.run("deploy app").ok();
    let shown = mill.run("describe trigger mark").ok();
    for line in ["on-success done", "on-failure failed"] {
        assert!(shown.contains(line), "{shown}");
    }
    mill.run("produce in \"good\" \"bad\" -k k").ok();
    let settled = "\"on_success\":\"done\"";
    assert!(mill.json("describe trigger mark").to_string().contains(settled));
    mill.until("both are told of", |mill| {
        let end = |topic: &str| {
            mill.json(&format!("topic describe {topic}"))["watermarks"][0]["end"].as_i64()
        };
        (end("done") == Some(1) && end("failed") == Some(1)).then_some(())
    });
    let account = mill.json("record in[0]@0");
    let outputs = account["triggers"][0]["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 1, "a message is no output: {account}");
    assert_eq!(outputs[0]["topic"], "out", "{account}");
    let account = mill.json("record in[0]@1");
    assert_eq!(account["triggers"][0]["dead_letter"]["topic"], "mill.mark.dead", "{account}");
    for (topic, destination, offset) in [("done", "on-success", 0), ("failed", "on-failure", 1)] {
        let account = mill.json(&format!("record {topic}[0]@0"));
        let step = &account["origin"][0];
        assert_eq!(step["destination"], destination, "{account}");
        assert_eq!((&step["topic"], &step["offset"]), (&json!("in"), &json!(offset)), "{account}");
        assert_eq!(step["trigger"], "mill/mark/mark", "{account}");
    }
    let shown = mill.run("record failed[0]@0").ok();
    assert!(shown.contains("on-failure message of in[0]@1  mill/mark/mark"), "{shown}");
}
