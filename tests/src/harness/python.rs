//! Python for verdicts that share no code with ours: an environment with packages from PyPI, and
//! programs that answer each line they are given with a line of JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::Value;

use crate::harness::network::Host;
use crate::harness::{binaries, command};
use crate::promise::{During, NotShown, broken};

/// An interpreter with these packages, `name==version`, made where there is none yet.
///
/// # Errors
///
/// [`NotShown::Unchecked`] without `python3`, its `venv`, or the packages.
pub fn with(packages: &[&str]) -> Result<PathBuf, NotShown> {
    let dir = binaries::target().join("python").join(packages.join("-"));
    let (complete, python) = (dir.join("complete"), dir.join("bin/python"));
    if complete.is_file() {
        return Ok(python);
    }
    drop(std::fs::remove_dir_all(&dir));
    std::fs::create_dir_all(&dir).during("make a folder for Python")?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&dir);
    command::fetch(&mut venv)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    command::fetch(&mut pip)?;
    std::fs::write(complete, "").during("note that Python is complete")?;
    Ok(python)
}

/// A program of tests/kafka that is asked.
#[derive(Debug)]
pub struct Asked {
    name: String,
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    errors: PathBuf,
}

impl Asked {
    /// Starts it; what it complains of goes into `folder`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(
        python: &Path,
        name: &str,
        arguments: &[&str],
        folder: &Path,
    ) -> Result<Self, NotShown> {
        Self::start_on(Host::HERE, python, name, arguments, folder)
    }

    /// The same on a host of its own.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_on(
        host: Host,
        python: &Path,
        name: &str,
        arguments: &[&str],
        folder: &Path,
    ) -> Result<Self, NotShown> {
        let errors = folder.join(format!("{name}.log"));
        let mut program = host.command(python);
        // No bytecode beside the sources.
        program.arg("-B").arg(binaries::root().join("tests/kafka").join(name)).args(arguments);
        program.stdin(Stdio::piped()).stdout(Stdio::piped());
        program.stderr(std::fs::File::create(&errors).during("make a log")?);
        let mut child = program.spawn().during(format!("start {name}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(broken(format!("{name} has no pipes")));
        };
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, stdin, answers, errors })
    }

    /// Gives it a line; its answer.
    ///
    /// # Errors
    ///
    /// When it has ended or does not answer in time.
    pub fn ask(&mut self, line: &str, within: Duration) -> Result<Value, NotShown> {
        // One that has ended is heard of below.
        drop(writeln!(self.stdin, "{line}"));
        match self.answers.recv_timeout(within) {
            Ok(answer) => serde_json::from_str(&answer).during(format!("read {answer:?}")),
            Err(RecvTimeoutError::Timeout) => {
                Err(broken(format!("{} does not answer {line:?} within {within:?}", self.name)))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let said = std::fs::read_to_string(&self.errors).unwrap_or_default();
                Err(broken(format!("{} ended at {line:?}: {said}", self.name)))
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        command::end(&mut self.child);
    }
}
