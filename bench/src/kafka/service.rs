//! Processes that are measured: started, watched through /proc, ended.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Failed;

/// How long a service may take to end when it is asked to.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// CPU time of a process so far, all threads, those that ended too. The kernel gives it in
/// hundredths of a second.
pub(crate) fn cpu(pid: u32) -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|error| format!("process {pid} is gone: {error}"))?;
    // The name may contain spaces and brackets; what follows the last one is numbers.
    let numbers = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        numbers.split_whitespace().skip(11).take(2).map(|it| it.parse().unwrap_or(0)).sum();
    Ok(Duration::from_millis(10 * ticks))
}

/// A process of ours. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    name: String,
}

impl Service {
    /// Starts it; what it says goes to `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self, Failed> {
        let out = File::create(log)?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error} (cargo build --release)"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time so far; an error when it has ended.
    pub(crate) fn cpu(&mut self) -> Result<Duration, Failed> {
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("{} ended with {status}", self.name).into());
        }
        cpu(self.pid())
    }

    /// How many threads it has now.
    pub(crate) fn threads(&self) -> Result<usize, Failed> {
        Ok(std::fs::read_dir(format!("/proc/{}/task", self.pid()))?.count())
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn end(mut self) -> Result<(), Failed> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or("a process without an id")?, Signal::TERM)?;
        let until = Instant::now() + END_PATIENCE;
        while self.child.try_wait()?.is_none() {
            if until <= Instant::now() {
                return Err(format!("{} did not end on SIGTERM", self.name).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
