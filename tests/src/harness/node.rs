//! A node as a process: started with its own state directory, listened to line by line with the
//! time of each line, killed and stopped by signal, its output kept as evidence.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{command, wait};
use crate::promise::{During, NotShown, broken};

/// A line a process wrote, and when it was read.
#[derive(Clone, Debug)]
pub struct Line {
    /// Since the process was started.
    pub after: Duration,
    /// Whether it came on standard error.
    pub is_stderr: bool,
    /// Without its end.
    pub text: String,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    child: Child,
    /// When the process was started.
    pub started_at: Instant,
    lines: Arc<Mutex<Vec<Line>>>,
    ended: bool,
}

impl Node {
    /// Starts `command`; what it says is also appended to `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self, NotShown> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started_at = Instant::now();
        let mut child = command.spawn().during(format!("start {:?}", command.get_program()))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let listen = Listener { started_at, lines: Arc::clone(&lines), log: log.to_owned() };
        listen.clone().to(child.stdout.take(), false);
        listen.to(child.stderr.take(), true);
        Ok(Self { child, started_at, lines, ended: false })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    /// Everything it has said so far, as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines().iter().map(|line| format!("{}\n", line.text)).collect()
    }

    /// Waits for the first line that `is_it`.
    ///
    /// # Errors
    ///
    /// When the process ends or the time is over before.
    pub fn line(
        &mut self,
        what: &str,
        within: Duration,
        mut is_it: impl FnMut(&Line) -> bool,
    ) -> Result<Line, NotShown> {
        let mut seen = 0;
        let found = wait::until(within, || {
            let has_ended = !self.is_running();
            let held = self.lines.lock().ok()?;
            let found = held[seen..].iter().find(|line| is_it(line)).cloned();
            seen = held.len();
            match found {
                Some(line) => Some(Ok(line)),
                None if has_ended => Some(Err(())),
                None => None,
            }
        });
        match found {
            Some(Ok(line)) => Ok(line),
            Some(Err(())) => Err(broken(format!("it ended before {what}: {}", self.tail()))),
            None => Err(broken(format!("no {what} within {within:?}: {}", self.tail()))),
        }
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        !self.ended && matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines, for a message.
    #[must_use]
    pub fn tail(&self) -> String {
        let lines = self.lines();
        let tail = &lines[lines.len().saturating_sub(8)..];
        let texts: Vec<&str> = tail.iter().map(|line| line.text.as_str()).collect();
        texts.join(" / ")
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When there is no such process any more.
    pub fn signal(&self, signal: Signal) -> Result<(), NotShown> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| broken("the process has no id"))?;
        kill_process(pid, signal).during("signal the node")
    }

    /// SIGKILL, confirmed: whether it was the signal that ended the process.
    ///
    /// # Errors
    ///
    /// When the process cannot be waited for.
    pub fn kill(&mut self) -> Result<bool, NotShown> {
        use std::os::unix::process::ExitStatusExt;
        self.signal(Signal::KILL)?;
        let status = self.child.wait().during("wait for the killed node")?;
        self.ended = true;
        Ok(status.signal() == Some(Signal::KILL.as_raw()))
    }

    /// Sends `signal` and waits for the end; the exit status and how long it took.
    ///
    /// # Errors
    ///
    /// When it is not gone within the time, or a signal ended it.
    pub fn stop(&mut self, signal: Signal, within: Duration) -> Result<(i32, Duration), NotShown> {
        let asked_at = Instant::now();
        self.signal(signal)?;
        self.exited(within).map(|status| (status, asked_at.elapsed()))
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    ///
    /// When it does not within the time, or a signal ended it.
    pub fn exited(&mut self, within: Duration) -> Result<i32, NotShown> {
        let status = wait::until(within, || self.child.try_wait().ok().flatten());
        let Some(status) = status else {
            return Err(broken(format!("still there after {within:?}: {}", self.tail())));
        };
        self.ended = true;
        status.code().ok_or_else(|| broken(format!("ended by {status}: {}", self.tail())))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.ended {
            command::end(&mut self.child);
        }
    }
}

/// Reads one stream of a process on a thread of its own.
#[derive(Clone, Debug)]
struct Listener {
    started_at: Instant,
    lines: Arc<Mutex<Vec<Line>>>,
    log: PathBuf,
}

impl Listener {
    fn to(self, stream: Option<impl Read + Send + 'static>, is_stderr: bool) {
        let Some(stream) = stream else { return };
        std::thread::spawn(move || {
            let mut log =
                std::fs::OpenOptions::new().create(true).append(true).open(&self.log).ok();
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(bytes) = line else { return };
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some(log) = &mut log {
                    drop(writeln!(log, "{text}"));
                }
                let line = Line { after: self.started_at.elapsed(), is_stderr, text };
                if let Ok(mut lines) = self.lines.lock() {
                    lines.push(line);
                }
            }
        });
    }
}
