//! What a real node tells Prometheus: every family has its help, and every name that the rules and
//! the dashboard in deploy/ use is one that a node serves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

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
retry  = { attempts = 2, backoff = "1ms..1ms" }
output = { topic = "out" }
on-success = "done"
on-failure = "failed"
"#;

const CODE: &str = "\
def mark(value, context):
    if value == 'bad':
        raise ValueError(value)
    return value
";

fn deploy_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn scraped(mill: &Mill) -> String {
    let url = format!("{}/metrics", mill.file().unwrap().url);
    ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

/// The names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| word.starts_with("millrace_") || word.starts_with("process_");
    words.filter(is_metric).map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_use_what_a_node_serves() {
    let mill = Mill::with(MANIFEST, &[("mark/app.py", CODE)]);
    mill.run("deploy app").ok();
    mill.run("produce in \"good\" \"bad\" -k k").ok();
    mill.run("trigger pause mark").ok();
    mill.run("trigger resume mark").ok();
    let text = mill.until("both records are settled", |mill| {
        let text = scraped(mill);
        let line = "millrace_trigger_records_settled_total{function=\"mark\",trigger=\"mill/mark/mark\"} 2\n";
        text.contains(line).then_some(text)
    });
    let mut types = BTreeMap::new();
    let mut helps = BTreeSet::new();
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name)) => assert!(helps.insert(name), "{name} twice"),
            (Some("#"), Some("TYPE"), Some(name)) => {
                types.insert(name, words.next().unwrap());
            }
            (Some(sample), ..) => {
                series.insert(sample.split('{').next().unwrap());
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(types.keys().copied().collect::<BTreeSet<_>>(), helps, "each has its help");
    for name in &series {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|it| name.strip_suffix(it));
        let known =
            helps.contains(name) || base.is_some_and(|base| types.get(base) == Some(&"histogram"));
        assert!(known, "{name} has no help");
    }
    for (name, value) in [
        ("millrace_trigger_attempts_failed_total", 2),
        ("millrace_trigger_records_retried_total", 1),
        ("millrace_trigger_records_dead_lettered_total", 1),
        ("millrace_trigger_records_polled_total", 2),
        ("millrace_trigger_outputs_total", 1),
        ("millrace_trigger_on_success_delivered_total", 1),
        ("millrace_trigger_on_failure_delivered_total", 1),
    ] {
        let line = format!("{name}{{function=\"mark\",trigger=\"mill/mark/mark\"}} {value}\n");
        assert!(text.contains(&line), "{line}: {text}");
    }
    assert!(text.contains("\nmillrace_trigger_commit_seconds_count{"), "{text}");

    let dashboard: Value = serde_json::from_str(&deploy_file("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut used: BTreeSet<String> =
        targets.flat_map(|target| names(target["expr"].as_str().unwrap())).collect();
    assert!(15 < used.len(), "{used:?}");
    let rules = deploy_file("alerts.yml");
    let rules = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    used.extend(rules.flat_map(names));
    for name in &used {
        assert!(series.contains(name.as_str()), "no node serves {name}");
    }
}
