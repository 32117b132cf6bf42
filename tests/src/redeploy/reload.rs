//! How long `dev` takes from a save to the first record on the new code, in Python and Node.js,
//! while records flow.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::binaries;
use crate::harness::node::Node;
use crate::harness::wait;
use crate::promise::{During, NotShown, broken};

/// Between two records of the load: what is measured is not finer.
const EVERY: Duration = Duration::from_millis(4);
/// How long a save may take to be seen before it never will.
const PATIENCE: Duration = Duration::from_secs(30);

const MANIFEST: &str = r#"
[app]
name = "reload"

[topic.in]
partitions = 1

[function.py]
runtime = "python3"
path    = "py"
handler = "app.stamp"

[[function.py.trigger]]
topics = ["in"]
decode = "none"
output = { topic = "from-py" }

[function.js]
runtime = "node"
path    = "js"
handler = "index.stamp"

[[function.js.trigger]]
topics = ["in"]
decode = "none"
output = { topic = "from-js" }
"#;

/// Saves so many times, alternately; how long each took, shortest first.
///
/// # Errors
///
/// When a save is not seen at all.
pub(super) fn measure(within: &Path, saves: u64) -> Result<Vec<Duration>, NotShown> {
    let (dir, state) = (within.join("reload"), within.join("reload-state"));
    for (language, number) in [("py", 0), ("js", 0)] {
        std::fs::create_dir_all(dir.join(language)).during("make the application")?;
        std::fs::write(source(&dir, language), code(language, number)).during("write it")?;
    }
    std::fs::write(dir.join("millrace.toml"), MANIFEST).during("write the manifest")?;
    let mut command = Command::new(binaries::millrace());
    command.arg("dev").arg(&dir).env("XDG_STATE_HOME", &state).env_remove("MILLRACE_NODE");
    let mut node = Node::start(&mut command, &within.join("reload.log"))?;
    let api = Api::of(&state, &mut node, Duration::from_secs(60))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| produce(&api, &stop));
        let mut took = Vec::new();
        let measured = (1..=saves).try_for_each(|number| {
            let language = if number % 2 == 0 { "js" } else { "py" };
            took.push(save(&api, &dir, language, number)?);
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| broken("the load panicked"))?;
        measured
            .and(sent)
            .map_err(|error: NotShown| broken(format!("{error}: {}", node.tail())))?;
        took.sort();
        Ok(took)
    })
}

fn source(dir: &Path, language: &str) -> PathBuf {
    dir.join(if language == "py" { "py/app.py" } else { "js/index.mjs" })
}

fn code(language: &str, number: u64) -> String {
    match language {
        "py" => format!("def stamp(value, context):\n    return \"{number}\"\n"),
        _ => format!("export const stamp = () => \"{number}\";\n"),
    }
}

fn produce(api: &Api, stop: &AtomicBool) -> Result<(), NotShown> {
    let record = [ToProduce { key: b"key".to_vec(), value: b"value".to_vec() }];
    while !stop.load(Ordering::Relaxed) {
        api.produce("in", &record)?;
        wait::pause(EVERY);
    }
    Ok(())
}

/// One save, until a record is there that the new code made.
fn save(api: &Api, dir: &Path, language: &str, number: u64) -> Result<Duration, NotShown> {
    let topic = format!("from-{language}");
    let path = format!("/v1/topics/{topic}:fetch");
    let mut positions = json!({ "0": api.end_of(&topic)? });
    let saved_at = Instant::now();
    std::fs::write(source(dir, language), code(language, number)).during("save")?;
    let expected = format!("\"{number}\"");
    while saved_at.elapsed() < PATIENCE {
        let question = json!({ "positions": positions, "wait_ms": 1_000 });
        let answer: Value =
            serde_json::from_str(&api.post(&path, &question)?).during("read an answer")?;
        let took = saved_at.elapsed();
        let mut records = answer["records"].as_array().into_iter().flatten();
        if records.any(|record| record["value"] == *expected) {
            return Ok(took);
        }
        positions = answer["next"].clone();
    }
    demand!(false, "save {number} of {language} is not seen within {PATIENCE:?}");
    Ok(PATIENCE)
}

/// The time that so much of the saves kept, of sorted ones.
pub(super) fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=20).map(Duration::from_secs).collect();
        assert_eq!(percentile(&times, 0.95), Duration::from_secs(19));
        assert_eq!(percentile(&times[..6], 0.95), Duration::from_secs(6));
        assert_eq!(percentile(&times, 0.5), Duration::from_secs(10));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
