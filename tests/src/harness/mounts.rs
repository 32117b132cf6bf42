//! A small disk of its own: a tmpfs of so many bytes in a private mount namespace, which ends
//! with the process that holds it. Needs root.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::command;
use crate::promise::{During, NotShown};

/// A mounted tmpfs, seen by those who [`enter`](Self::enter).
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts `bytes` at `at`, a folder.
    ///
    /// # Errors
    ///
    /// [`NotShown::Unchecked`] where this user may not mount.
    pub fn mount(at: &Path, bytes: u64) -> Result<Self, NotShown> {
        const SCRIPT: &str =
            "mount -t tmpfs -o size=\"$2\" tmpfs \"$1\" && echo mounted && read -r line";
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
        holder.arg(at).arg(bytes.to_string());
        holder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = holder.spawn().map_err(|error| {
            NotShown::Unchecked(format!("a small disk needs unshare and root: {error}"))
        })?;
        let mut said = String::new();
        let stdout = holder.stdout.as_mut().ok_or_else(|| crate::promise::broken("no pipe"))?;
        BufReader::new(stdout).read_line(&mut said).during("mount a small disk")?;
        if said.trim() == "mounted" {
            return Ok(Self { holder, at: at.to_owned() });
        }
        let mut why = String::new();
        if let Some(mut stderr) = holder.stderr.take() {
            drop(stderr.read_to_string(&mut why));
        }
        command::end(&mut holder);
        Err(NotShown::Unchecked(format!("a small disk needs root: {}", why.trim())))
    }

    /// A command that sees the disk.
    #[must_use]
    pub fn enter(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.holder.id().to_string()).arg("--mount").arg("--");
        command.arg(program);
        command
    }

    /// The disk's folder, as those see it who do not enter.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let inside = self.at.strip_prefix("/").unwrap_or(&self.at);
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        command::end(&mut self.holder);
    }
}
