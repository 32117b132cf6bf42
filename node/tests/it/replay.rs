//! Replays on a real node: a range runs again on what the function is now, into a topic of its own,
//! and the trigger, its positions and its outputs are as they were.

use serde_json::{Value, json};

use crate::deploys::Mill;

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 2

[topic.aside]
partitions = 1

[function.mark]
runtime = "python3"
path    = "mark"
handler = "app.mark"
[function.mark.allow]
produce = ["aside"]

[[function.mark.trigger]]
topics = ["in"]
batch  = { records = 3 }
retry  = { attempts = 1 }
filter = { key = [{ anything-but = "skip" }] }
output = { topic = "out" }

[function.next]
runtime = "python3"
path    = "mark"
handler = "app.mark"

[[function.next.trigger]]
topics = ["out"]
output = { topic = "end" }
"#;

const BEFORE: &str = "def mark(value, context):\n    return 'old ' + value\n";

const AFTER: &str = "\
def mark(value, context):
    if value == 'r-4':
        raise ValueError(value)
    if value == 'r-5':
        return {'$outputs': [{'value': 'aside ' + value, 'topic': 'aside'}]}
    return 'new ' + value
";

fn outputs(mill: &Mill, topic: &str) -> Vec<String> {
    let out = mill.run(&format!("consume {topic} --end")).ok();
    out.lines().map(|line| line.trim_matches('"').to_owned()).collect()
}

#[test]
fn a_range_runs_again_beside_the_trigger_and_nothing_of_it_is_mixed_up() {
    let mill = Mill::with(MANIFEST, &[("mark/app.py", BEFORE)]);
    mill.run("deploy app").ok();
    for number in 0..8 {
        mill.run(&format!("produce in \"r-{number}\" -k k -p 0")).ok();
    }
    mill.run("produce in \"r-8\" -k skip -p 0").ok();
    mill.run("produce in \"r-9\" -k k -p 1").ok();
    mill.until("the outputs", |mill| (outputs(mill, "end").len() == 9).then_some(()));
    mill.write("mark/app.py", AFTER);
    mill.run("deploy app").ok();
    let is_still = |mill: &Mill| {
        let lag = mill.json("lag -p");
        let triggers = lag["triggers"].as_array()?;
        triggers.iter().all(|it| it["lag"] == 0).then_some(lag.clone())
    };
    let before = mill.until("the position of what was filtered", is_still);

    let text = mill.run("replay mill/mark --from earliest --partition 0").ok();
    assert!(text.contains("9 records would run again on "), "{text}");
    assert!(text.contains("outputs would go to mill.mark.replay-1\nnext: "), "{text}");
    let preview = mill.json("replay mill/mark/mark --from 2 --to 7 --partition 0");
    assert_eq!((&preview["state"], &preview["records"]), (&json!("preview"), &json!(5)));
    assert_eq!(outputs(&mill, "end").len(), 9, "a preview changes nothing");

    let replay = "replay mill/mark/mark --from 2 --to 7 --partition 0 --yes";
    let done: Value = mill.json(replay);
    assert_eq!((&done["state"], &done["done"]), (&json!("done"), &json!(5)), "{done}");
    assert_eq!((&done["outputs"], &done["dead_letters"]), (&json!(4), &json!(1)), "{done}");
    let mut came = outputs(&mill, "mill.mark.replay-1");
    came.sort();
    assert_eq!(came, ["aside r-5", "new r-2", "new r-3", "new r-6", "r-4"]);
    let meta = mill.run("consume mill.mark.replay-1 --meta --end").ok();
    assert!(meta.contains("millrace-replayed-topic"), "{meta}");
    assert!(meta.contains("millrace-dead-error-type"), "{meta}");

    // Nothing of it reached what the function writes otherwise, nor who reads that.
    assert_eq!(outputs(&mill, "aside"), Vec::<String>::new());
    assert_eq!(outputs(&mill, "out").len(), 9);
    assert_eq!(outputs(&mill, "end").len(), 9);
    assert_eq!(mill.json("lag -p")["triggers"], before["triggers"], "no position moved");

    // All of it, the filter included, into another topic; then once more, into a third.
    let all: Value = mill.json("replay mill/mark/mark --from earliest --into compare --yes");
    assert_eq!((&all["records"], &all["outputs"]), (&json!(10), &json!(8)), "{all}");
    assert_eq!(outputs(&mill, "compare").len(), 9);
    let again: Value = mill.json(replay);
    assert_eq!(again["into"], "mill.mark.replay-2");

    for (words, exit, code) in [
        ("replay mill/mark/mark --from earliest --into out --yes", 5, "E0562"),
        ("replay mill/mark/mark --from 99 --partition 0 --yes", 1, "E0406"),
        ("replay nothing --from earliest", 3, "E0506"),
        ("replay mill/mark/mark --from sometime", 1, "E0513"),
    ] {
        mill.run(words).failed(exit, code);
    }
}
