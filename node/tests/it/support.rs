//! The file for whoever helps with a node: everything is in it but secrets, records and what
//! functions said; secrets and records are planted wherever they could come from.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::deploys::Mill;

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 1

[function.tell]
runtime = "python3"
path    = "tell"
handler = "app.tell"
env     = { PASSWORD = "planted-env" }

[[function.tell.trigger]]
topics = ["in"]
retry  = { attempts = 1 }
output = { topic = "out" }

[function.broken]
runtime = "python3"
path    = "broken"
handler = "app.tell"

[[function.broken.trigger]]
topics = ["in"]
"#;

/// Says the record, fails with it, and gives it on.
const CODE: &str = "\
import os

def tell(value, context):
    print('heard', value, os.environ['PASSWORD'])
    if 'bad' in value:
        raise ValueError(value)
    return value
";

const BROKEN: &str = "raise RuntimeError('planted-start')\n";

/// Every file of the bundle.
fn unpacked(bundle: &std::path::Path) -> BTreeMap<String, String> {
    let file = std::fs::File::open(bundle).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(entry.header().mode().unwrap(), 0o600, "{name}");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name, text);
    }
    files
}

#[test]
fn a_bundle_has_everything_but_secrets_and_records() {
    let mill = Mill::with(MANIFEST, &[("tell/app.py", CODE), ("broken/app.py", BROKEN)]);
    // The other function is refused, which is what its secret comes out by.
    assert_ne!(mill.run("deploy app").status, None);
    mill.run("produce in \"planted-good\" -k planted-key -H planted-name=planted-header").ok();
    mill.run("produce in \"planted-bad\" -k planted-key").ok();
    mill.until("both records are settled", |mill| {
        let status: Value = serde_json::from_str(&mill.run("status -o json").out).ok()?;
        let settled = status["functions"].as_array()?.iter().find(|it| it["name"] == "tell")?;
        (settled["settled"] == 2).then_some(())
    });
    let heard = mill.run("logs").ok();
    assert!(heard.contains("planted-good") && heard.contains("planted-env"), "{heard}");
    assert!(mill.run("status").out.contains("planted-bad"), "the failure tells the record");

    let there: Value = serde_json::from_str(&mill.run("ps tell -o json").ok()).unwrap();
    let instance = &there["instances"][0];
    assert_eq!((&instance["state"], &instance["invocations"]), (&"warm".into(), &2.into()));
    let pid = instance["pid"].as_u64().unwrap();
    let name = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(name.contains("python3"), "{name}");
    assert!((1 << 20..1 << 30).contains(&instance["memory_bytes"].as_u64().unwrap()), "{there}");

    let bundle = mill.path("bundle.tar.gz");
    let made = mill.run(&format!("support-bundle --to {}", bundle.display())).ok();
    assert!(made.contains("no secrets"), "{made}");
    assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpacked(&bundle);
    let token = mill.file().unwrap().token;
    for (name, text) in &files {
        assert!(!text.contains("planted"), "{name}: {text}");
        assert!(!text.contains(&token), "{name} has the token");
    }
    for (name, holds) in [
        ("versions.json", env!("CARGO_PKG_VERSION")),
        ("config.json", "PASSWORD"),
        ("status.json", "ValueError"),
        ("doctor.json", "findings"),
        ("triggers.json", "mill/tell/tell"),
        ("positions.json", "\"next\": 2"),
        ("topics.json", "out"),
        ("instances.json", "mill/tell"),
        ("functions.json", "tell"),
        ("metrics.txt", "millrace_trigger_records_settled_total"),
        ("logs.jsonl", "\"function\":\"tell\""),
        ("missing.json", "{}"),
    ] {
        let text = files.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", files.keys()));
        assert!(text.contains(holds), "{name}: {text}");
    }
    mill.run(&format!("support-bundle --to {}", bundle.display())).failed(1, "E0110");
}
