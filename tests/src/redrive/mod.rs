//! The promise that dead letters go back once and in order: a function that fails everything is
//! mended, some of what it failed is edited, and all of it is put back at a rate while the node is
//! killed again and again.

mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::node::Node;
use crate::harness::rng::Rng;
use crate::harness::{binaries, command, wait};
use crate::promise::{During, Figures, NotShown, Run, broken, seconds};
use verdict::{Expected, FAULTS, Seen};

/// Keys of the records.
const KEYS: u64 = 500;
/// Records of a request.
const BATCH: u64 = 500;
/// How many are put back a second while the node is killed.
const RATE: u64 = 4_000;
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the dead letters lie, and by which path.
const DEAD: &str = "in.dead";
const DEAD_PATH: &str = "/v1/dead-letters/in.dead";

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 4

[function.read]
runtime = "python3"
path    = "read"
handler = "app.read"

[[function.read.trigger]]
topics      = ["in"]
batch       = { records = 500 }
retry       = { attempts = 1 }
output      = { topic = "out" }
dead-letter = "in.dead"
"#;

const BROKEN: &str = "\
def read(value, context):
    if value.endswith('0'):
        raise KeyError(value)
    raise ValueError(value)
";

const MENDED: &str = "def read(value, context):\n    return value\n";

/// The application and its node's folders.
struct Mill {
    folder: PathBuf,
    app: PathBuf,
}

impl Mill {
    fn make(folder: &Path) -> Result<Self, NotShown> {
        let app = folder.join("app");
        std::fs::create_dir_all(app.join("read")).during("make the application")?;
        std::fs::write(app.join("millrace.toml"), MANIFEST).during("write the manifest")?;
        std::fs::write(app.join("read/app.py"), BROKEN).during("write the function")?;
        Ok(Self { folder: folder.to_owned(), app })
    }

    fn serve(&self) -> Result<(Node, Api), NotShown> {
        Api::serve(&self.app, &self.folder, PATIENCE)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binaries::millrace());
        command.args(words).env("XDG_STATE_HOME", self.folder.join("state"));
        command.env_remove("MILLRACE_NODE").env("NO_COLOR", "1");
        command
    }

    fn say(&self, words: &[&str]) -> Result<String, NotShown> {
        let said = command::run(&mut self.command(words), PATIENCE)?;
        demand!(said.status == Some(0), "{words:?} ended with {:?}: {}", said.status, said.all());
        Ok(said.stdout)
    }

    /// A client that begins to put everything back, and may be gone at any time.
    fn begin(&self, rate: &str) -> Result<Child, NotShown> {
        let mut command = self.command(&["dead-letter", "redrive", "read", "--rate", rate]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().during("start a redrive")
    }
}

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let found = Command::new("python3").arg("--version").output();
    if !found.is_ok_and(|said| said.status.success()) {
        return Err(NotShown::Unchecked("there is no python3".to_owned()));
    }
    let records = run.count("records", 10_000, 100_000).next_multiple_of(KEYS);
    let kills = run.count("kills", 3, 10);
    let mut rng = Rng::new(run.seed, 5);
    let mill = Mill::make(&run.evidence)?;
    let (mut node, mut api) = mill.serve()?;

    run.note(format!("{records} records of {KEYS} keys, all of which fail"));
    let mut expected = Expected { keys: KEYS, records, edits: BTreeMap::new() };
    for start in (0..records).step_by(BATCH as usize) {
        let batch: Vec<ToProduce> =
            (start..(start + BATCH).min(records)).map(|number| expected.record(number)).collect();
        let trace = serde_json::json!([{ "name": "trace", "value": "t-1" }]);
        api.produce_with("in", &batch, &trace)?;
    }
    let all = i64::try_from(records).during("count the records")?;
    reach(&api, DEAD, all)?;
    let listed = list(&api)?;
    let causes = listed["causes"].as_array().map_or(0, Vec::len);
    demand!(listed["open"] == records && causes == 2, "it lists {listed}");

    run.note("some are edited, then what a redrive would do is shown, and nothing changes");
    let letters = api.records(DEAD, 2_000)?;
    for letter in letters.iter().step_by(letters.len().div_ceil(5).max(1)) {
        let number = verdict::number_of(letter["value"].as_str().unwrap_or_default())?;
        let place = format!("{DEAD}[{}]@{}", letter["partition"], letter["offset"]);
        let file = run.evidence.join("value");
        std::fs::write(&file, expected.edit(number)).during("write a value")?;
        let mut edit = mill.command(&["dead-letter", "edit", &place, "--value"]);
        let said = command::run(edit.arg(&file), PATIENCE)?;
        demand!(said.status == Some(0), "an edit of {place}: {}", said.all());
    }
    let before = (list(&api)?, api.end_of("in")?);
    let preview = mill.say(&["dead-letter", "redrive", "read", "--dry-run", "-o", "json"])?;
    let preview: Value = serde_json::from_str(&preview).during("read the preview")?;
    let told = (&preview[0]["matched"], &preview[0]["edited"], &preview[0]["overtaking"]);
    let edits = expected.edits.len();
    demand!(told.0 == records && told.1 == edits && told.2 == 0, "the preview is {preview}");
    demand!((list(&api)?, api.end_of("in")?) == before, "a dry run changed something");

    std::fs::write(mill.app.join("read/app.py"), MENDED).during("mend the function")?;
    mill.say(&["deploy", &mill.app.to_string_lossy()])?;
    let mut counted = 0;
    let mut slowest = Duration::ZERO;
    for kill in 1..=kills {
        let from = records * kill / (kills + 1);
        let at = from + rng.draw(records / (4 * (kills + 1)) + 1);
        run.note(format!("a redrive, and a kill once {at} are back"));
        let mut client = mill.begin(&RATE.to_string())?;
        let back = |api: &Api| -> Result<u64, NotShown> {
            let status: Value = serde_json::from_str(&api.get(&format!("{DEAD_PATH}/redrive"))?)
                .during("read how far it is")?;
            demand!(status["state"] == "running", "the redrive is {status}");
            Ok(records - status["matched"].as_u64().unwrap_or(0)
                + status["done"].as_u64().unwrap_or(0))
        };
        let reached = wait::until(PATIENCE, || match back(&api) {
            // It has not begun.
            Err(_) if client.try_wait().is_ok_and(|it| it.is_none()) => None,
            Ok(done) if done < at => None,
            other => Some(other),
        });
        let done = reached.ok_or_else(|| broken("the redrive does not get on"))??;
        // The client first: the node goes on without it.
        command::end(&mut client);
        let was_killed = node.kill()?;
        let started_at = Instant::now();
        (node, api) = mill.serve()?;
        slowest = slowest.max(started_at.elapsed());
        let listed = list(&api)?;
        let (open, is_done) = (listed["open"].as_u64(), listed["done"].as_u64().unwrap_or(0));
        demand!(open == Some(records - is_done), "after the kill it lists {listed}");
        demand!(done <= is_done, "{done} were back before the kill, {is_done} after it");
        counted += u64::from(was_killed && 0 < is_done && is_done < records);
    }
    demand!(0 < counted, "no kill came in the middle of a redrive");

    run.note("the rest, to the end");
    let said = mill.say(&["dead-letter", "redrive", "read"])?;
    demand!(said.contains("went back to in"), "the last redrive said {said:?}");
    reach(&api, "out", all)?;
    let listed = list(&api)?;
    demand!(listed["open"] == 0 && listed["done"] == records, "at the end it lists {listed}");
    demand!(api.end_of(DEAD)? == all, "records failed again after the function was mended");
    node.stop(rustix::process::Signal::TERM, PATIENCE)?;

    run.note("the final read, and its planted faults");
    let seen = Seen::read(&run.evidence.join("data"))?;
    verdict::judge(&expected, &seen).map_err(broken)?;
    for (name, plant) in FAULTS {
        let mut other = seen.clone();
        plant(&mut other, &expected);
        demand!(verdict::judge(&expected, &other).is_err(), "a planted fault is not seen: {name}");
    }
    Ok(Figures::default()
        .with("records", records)
        .with("keys", KEYS)
        .with("kills", counted)
        .with("edited", edits)
        .with("lost", 0)
        .with("repeated", 0)
        .with("disorder", 0)
        .with("slowest_start_s", seconds(slowest))
        .with("red_controls", FAULTS.len()))
}

fn list(api: &Api) -> Result<Value, NotShown> {
    serde_json::from_str(&api.get(DEAD_PATH)?).during("read the list of dead letters")
}

/// Waits until a topic has so many records.
fn reach(api: &Api, topic: &str, end: i64) -> Result<(), NotShown> {
    let reached = wait::until(PATIENCE, || match api.end_of(topic) {
        Ok(there) if there < end => None,
        other => Some(other),
    });
    let reached =
        reached.ok_or_else(|| broken(format!("{topic} does not get {end} records")))??;
    demand!(reached == end, "{topic} has {reached} records instead of {end}");
    Ok(())
}
