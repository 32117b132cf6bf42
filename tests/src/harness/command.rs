//! Runs a command to its end, with a deadline, and keeps what it said.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::wait;
use crate::promise::{During, NotShown, broken};

/// How long packages may take to come, and to be built where they are.
const FETCH_PATIENCE: Duration = Duration::from_secs(900);

/// What a command that ended said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Said {
    /// Both streams, for messages and searches.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `command` and waits for it; kills it when it takes longer than `within`.
///
/// # Errors
///
/// When it cannot be started or does not end in time.
pub fn run(command: &mut Command, within: Duration) -> Result<Said, NotShown> {
    run_with(command, Stdio::null(), within)
}

/// As [`run`], with something on its standard input.
///
/// # Errors
///
/// When it cannot be started or does not end in time.
pub fn run_with(command: &mut Command, input: Stdio, within: Duration) -> Result<Said, NotShown> {
    let name = format!("{:?}", command.get_program());
    let started_at = Instant::now();
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().during(format!("start {name}"))?;
    let stdout = gather(child.stdout.take());
    let stderr = gather(child.stderr.take());
    let ended = wait::until(within, || child.try_wait().ok().flatten());
    let Some(status) = ended else {
        end(&mut child);
        let said = format!("{}{}", joined(stdout), joined(stderr));
        return Err(broken(format!("{command:?} did not end within {within:?}; it said {said:?}")));
    };
    let took = started_at.elapsed();
    Ok(Said { status: status.code(), stdout: joined(stdout), stderr: joined(stderr), took })
}

/// Runs what fetches or builds something from a registry: what cannot be had is unchecked, not
/// broken.
///
/// # Errors
///
/// [`NotShown::Unchecked`].
pub fn fetch(tool: &mut Command) -> Result<(), NotShown> {
    let shown = format!("{:?}", tool.get_program());
    match run(tool, FETCH_PATIENCE) {
        Ok(said) if said.status == Some(0) => Ok(()),
        Ok(said) => Err(NotShown::Unchecked(format!("{shown}: {}", said.all()))),
        Err(error) => Err(NotShown::Unchecked(format!("{shown}: {error}"))),
    }
}

/// Kills a child and takes its status, so that it is gone.
pub fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

fn gather(stream: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            drop(stream.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn joined(gathered: JoinHandle<String>) -> String {
    gathered.join().unwrap_or_default()
}
