//! A filter from the manifest to the function: planned, deployed, counted, changed, and the same
//! after a kill.

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
filter = { key = ["a"], value = { n = [{ numeric = [">", 1] }] } }
output = { topic = "out" }
"#;

const MARK: &str = "def mark(value, context):\n    return value['n']\n";

/// What came out, in the order of the values.
fn out(mill: &Mill) -> Vec<String> {
    let mut out: Vec<String> =
        mill.run("consume out --end").ok().lines().map(str::to_owned).collect();
    out.sort();
    out
}

#[test]
fn a_filter_is_deployed_counted_and_changed() {
    let mut mill = Mill::with(MANIFEST, &[("mark/app.py", MARK)]);
    mill.run("deploy app").ok();
    for (key, n) in [("a", 1), ("a", 2), ("b", 3)] {
        mill.run(&format!("produce in {{\"n\":{n}}} -k {key}")).ok();
    }
    mill.run("produce in nothing -k a").ok();
    let counted = |mill: &Mill| {
        let function = mill.json("status")["functions"][0].clone();
        (function["settled"].as_u64(), function["filtered"].as_u64(), function["lag"].as_u64())
    };
    let wanted = (Some(4), Some(3), Some(0));
    mill.until("all is settled", |mill| (counted(mill) == wanted).then_some(()));
    assert_eq!(out(&mill), ["2"]);
    let status = mill.run("status").ok();
    let head = status.lines().nth(1).unwrap();
    assert!(head.contains(" FILTERED "), "{status}");
    assert_eq!(mill.json("status")["functions"][0]["dead_lettered"], 0);
    let url = format!("{}/metrics", mill.file().unwrap().url);
    let metrics = ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap();
    let filtered = metrics.lines().filter(|it| it.starts_with("millrace_trigger_records_filtered"));
    let sum: u64 = filtered.map(|it| it.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 3, "{metrics}");

    mill.write("millrace.toml", &MANIFEST.replace("key = [\"a\"], value", "value"));
    let plan = mill.run("plan app");
    let change = "      filter  {\"key\":[\"a\"],\"value\":{\"n\":[{\"numeric\":[\">\",1]}]}} -> \
                  {\"value\":{\"n\":[{\"numeric\":[\">\",1]}]}}\n";
    assert!(plan.out.contains(change), "{plan:?}");
    mill.run("deploy app").ok();
    mill.run("produce in {\"n\":4} -k b").ok();
    mill.until("the new filter holds", |mill| (out(mill) == ["2", "4"]).then_some(()));

    mill.kill_and_serve();
    mill.run("produce in {\"n\":0} {\"n\":5} -k b").ok();
    mill.until("it holds after a kill", |mill| (out(mill) == ["2", "4", "5"]).then_some(()));
}

#[test]
fn a_filter_that_cannot_be_used_is_refused_by_the_node_too() {
    let mill = Mill::with(MANIFEST, &[("mark/app.py", MARK)]);
    mill.write("millrace.toml", &MANIFEST.replace("numeric", "numerik"));
    mill.run("deploy app").failed(78, "E0222");
    let manifest = std::fs::read_to_string(mill.path("millrace.toml")).unwrap();
    let proposal = serde_json::json!({"manifest": manifest, "packages": {}});
    let body = serde_json::to_vec(&proposal).unwrap();
    let (status, problem) = mill.ask("POST", "/v1/apps/mill:plan", None, &body);
    assert_eq!((status, &problem["code"]), (422, &"E0222".into()), "{problem}");
}
