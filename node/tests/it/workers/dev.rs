//! The templates as a newcomer meets them: made, run, changed while they run, broken and mended.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::within;

/// `millrace dev` of a new application.
struct Dev {
    child: Child,
    said: Arc<Mutex<String>>,
    dir: tempfile::TempDir,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Dev {
    fn start(template: &str) -> Self {
        let this = Self::starting(template, |_| {});
        this.says("ready in");
        this
    }

    /// It may not be ready yet. `edit` is given the function's folder, before it starts.
    fn starting(template: &str, edit: impl Fn(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Below a folder whose name, within an application, is that of a tool.
        std::fs::create_dir(dir.path().join("target")).unwrap();
        let new = ["new", "target/greenhouse", "--template", template];
        assert!(millrace(dir.path(), &new).status().unwrap().success());
        edit(&dir.path().join("target/greenhouse/functions/hot-alert"));
        let mut child = millrace(dir.path(), &["dev", "target/greenhouse"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said: Arc<Mutex<String>> = Arc::default();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let sources: [Box<dyn std::io::Read + Send>; 2] = [Box::new(out), Box::new(err)];
        for source in sources {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(source).lines().map_while(Result::ok) {
                    *said.lock().unwrap() += &format!("{line}\n");
                }
            });
        }
        Self { child, said, dir }
    }

    /// Waits until it has said this.
    fn says(&self, text: &str) {
        let until = std::time::Instant::now() + PATIENCE;
        while !self.said.lock().unwrap().contains(text) {
            let said = self.said.lock().unwrap().clone();
            assert!(std::time::Instant::now() < until, "it does not say {text:?}:\n{said}");
            std::thread::yield_now();
        }
    }

    fn produce(&self, value: &str) {
        let said =
            millrace(self.dir.path(), &["produce", "readings", "-k", "bed-4", value]).output();
        assert!(said.unwrap().status.success());
    }

    /// Waits for the number of records in a topic, and gives them.
    fn consumed(&self, topic: &str, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        within(PATIENCE, topic, || {
            let said = millrace(self.dir.path(), &["consume", topic, "--end"]).output().unwrap();
            let text = String::from_utf8(said.stdout).unwrap();
            lines = text.lines().map(str::to_owned).collect();
            lines.len() == count
        });
        lines
    }

    fn source(&self, file: &str) -> PathBuf {
        self.dir.path().join("target/greenhouse/functions/hot-alert").join(file)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn millrace(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.args(words).current_dir(dir).env("XDG_STATE_HOME", dir).stdin(Stdio::null());
    command.env_remove("MILLRACE_NODE").env("NO_COLOR", "1");
    command
}

/// Runs a template; `edit` changes what its output says, `damage` makes it no program.
fn lives(template: &str, file: &str, edit: (&str, &str), damage: &str, named: &str) {
    let dev = Dev::start(template);
    for value in ["{\"c\":34.2}", "{\"c\":3}", "warm", "{\"d\":1}"] {
        dev.produce(value);
    }
    assert_eq!(dev.consumed("alerts", 1), ["{\"bed\":\"bed-4\",\"c\":34.2}"]);

    let source = dev.source(file);
    let good = std::fs::read_to_string(&source).unwrap();
    assert!(good.contains(edit.0));
    std::fs::write(&source, damage).unwrap();
    dev.says(named);
    dev.says("the revision before runs on");
    dev.produce("{\"c\":35}");
    assert_eq!(dev.consumed("alerts", 2)[1], "{\"bed\":\"bed-4\",\"c\":35}");

    std::fs::write(&source, good.replace(edit.0, edit.1)).unwrap();
    dev.says("reloaded hot-alert");
    dev.produce("{\"c\":36}");
    assert_eq!(dev.consumed("alerts", 3)[2], "{\"place\":\"bed-4\",\"c\":36}");
}

#[test]
fn a_new_python_application_runs_and_reloads() {
    let edit = ("\"bed\"", "\"place\"");
    lives("python", "app.py", edit, "def handler(:\n", "Runtime.UserCodeSyntaxError");
}

#[test]
fn a_new_javascript_application_runs_and_reloads() {
    let edit = ("bed:", "place:");
    lives("node", "index.mjs", edit, "import 'nowhere';", "Runtime.ImportModuleError");
}

#[test]
fn what_is_saved_while_it_starts_is_not_lost() {
    let dev = Dev::starting("python", |folder| {
        let text = std::fs::read_to_string(folder.join("app.py")).unwrap();
        std::fs::write(folder.join("app.py"), format!("import time; time.sleep(1)\n{text}"))
            .unwrap();
    });
    // Once it has a package, it has read the folder.
    let packages = dev.dir.path().join("target/greenhouse/.millrace/packages");
    within(PATIENCE, "a package", || {
        std::fs::read_dir(&packages).is_ok_and(|mut entries| entries.next().is_some())
    });
    let source = dev.source("app.py");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace("\"bed\"", "\"place\"")).unwrap();
    dev.says("reloaded hot-alert");
    dev.produce("{\"c\":36}");
    assert_eq!(dev.consumed("alerts", 1), ["{\"place\":\"bed-4\",\"c\":36}"]);
}
