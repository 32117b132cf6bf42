//! A machine in namespaces of its own: a fresh Debian under a layer of memory, with a real systemd
//! or nothing at all as its first process, and no network but its loopback. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::demand;
use crate::harness::command::{self, Said};
use crate::harness::node::Node;
use crate::harness::{processes, wait};
use crate::promise::{During, NotShown, broken};

/// Makes the namespaces and what is mounted in them.
const BOOT: &str = include_str!("boot.sh");
/// How long a command in a machine may take, where nothing else is said.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What a machine's first process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Init {
    /// A process that does nothing: packages are installed as in a chroot.
    Idle,
    /// The service manager, up to the usual target.
    Systemd,
}

/// A machine that runs. It ends when this is dropped, with all that runs in it.
#[derive(Debug)]
pub(super) struct Machine {
    name: String,
    at: PathBuf,
    /// `unshare`, whose death ends the first process.
    holder: Node,
    /// The first process, as it is called outside.
    pid: u32,
}

impl Machine {
    /// Starts one over the Debian in `root`; its mount point and its log go into `folder`.
    ///
    /// # Errors
    ///
    /// [`NotShown::Unchecked`] where the kernel refuses the namespaces.
    pub(super) fn start(
        root: &Path,
        folder: &Path,
        name: &str,
        init: Init,
    ) -> Result<Self, NotShown> {
        let at = folder.join(name);
        std::fs::create_dir_all(&at).during("make a mount point")?;
        let script = folder.join("boot.sh");
        std::fs::write(&script, BOOT).during("write boot.sh")?;
        // Also the name of its control group, which other runs must not share.
        let name = format!("{name}-{}", std::process::id());
        // It does not outlive whoever started it, however that ends.
        let mut unshare = Command::new("setpriv");
        unshare.args(["--pdeathsig", "KILL", "unshare"]);
        unshare.args(["--fork", "--kill-child", "--mount", "--propagation", "private", "--pid"]);
        unshare.args(["--net", "--uts", "--ipc", "--", "sh"]).arg(&script).arg("outside");
        unshare.arg(&name).arg(root).arg(&at);
        match init {
            Init::Idle => unshare.args(["sleep", "infinity"]),
            Init::Systemd => unshare.args(["/lib/systemd/systemd", "--unit=multi-user.target"]),
        };
        let log = folder.join(format!("{name}.log"));
        let mut holder = Node::start(&mut unshare, &log)?;
        if let Err(why) = holder.line("machine", PATIENCE, |line| line.text == "made") {
            return Err(NotShown::Unchecked(format!("the kernel makes no machine: {why}")));
        }
        let pid = processes::below(holder.pid()).first().copied();
        let pid = pid.ok_or_else(|| broken("the machine's first process is gone"))?;
        let machine = Self { name, at, holder, pid };
        if init == Init::Systemd {
            machine.is_up()?;
        }
        Ok(machine)
    }

    /// Until the service manager has done all that it starts with.
    fn is_up(&self) -> Result<(), NotShown> {
        let mut state = String::new();
        let is_up = wait::until(PATIENCE, || {
            state = self.run("systemctl is-system-running 2>&1 || true", PATIENCE).ok()?.stdout;
            wait::pause(Duration::from_millis(50));
            matches!(state.trim(), "running" | "degraded").then_some(())
        });
        let failed = self.run("systemctl --failed --no-legend --plain", PATIENCE)?.stdout;
        let is_well = is_up.is_some() && state.trim() == "running";
        demand!(is_well, "systemd came up {:?}; failed: {failed}", state.trim());
        Ok(())
    }

    /// A command that runs in the machine.
    pub(super) fn command(&self, program: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.arg("--target").arg(self.pid.to_string()).arg("--all").arg("--").args(program);
        nsenter.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        nsenter.env("LANG", "C.UTF-8").env("NO_COLOR", "1").env("SYSTEMD_COLORS", "0");
        nsenter.env("SYSTEMD_PAGER", "").env("DEBIAN_FRONTEND", "noninteractive");
        nsenter
    }

    /// Runs a script of the shell there, in /srv.
    ///
    /// # Errors
    ///
    /// When it does not end in time.
    pub(super) fn run(&self, script: &str, within: Duration) -> Result<Said, NotShown> {
        let script = format!("cd /srv\n{script}");
        command::run(&mut self.command(&["sh", "-euc", &script]), within)
    }

    /// Runs a script that has to end well; what it said on standard output.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn sh(&self, script: &str) -> Result<String, NotShown> {
        let said = self.run(script, 2 * PATIENCE)?;
        demand!(said.status == Some(0), "`{script}` ended with {:?}: {}", said.status, said.all());
        Ok(said.stdout)
    }

    /// A place in the machine, as it is called outside.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        let inside = inside.trim_start_matches('/');
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(inside)
    }

    /// Copies a file into the machine.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub(super) fn take(&self, from: &Path, to: &str) -> Result<(), NotShown> {
        let copied = std::fs::copy(from, self.path(to));
        copied.map(drop).during(format!("copy {} into the machine", from.display()))
    }

    /// Writes a file in the machine, and the folders that it lies in.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn write(&self, to: &str, text: &str) -> Result<(), NotShown> {
        let path = self.path(to);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).during("make a folder in the machine")?;
        }
        std::fs::write(path, text).during(format!("write {to} in the machine"))
    }

    /// What systemd says of a unit's property.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(super) fn show(&self, unit: &str, property: &str) -> Result<String, NotShown> {
        let said = self.sh(&format!("systemctl show --value -p {property} {unit}"))?;
        Ok(said.trim().to_owned())
    }

    /// Waits until a property of a unit is as it should be; how it is then.
    ///
    /// # Errors
    ///
    /// When it does not get there in time.
    pub(super) fn until(
        &self,
        unit: &str,
        property: &str,
        within: Duration,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<String, NotShown> {
        let mut last = String::new();
        let found = wait::until(within, || {
            last = self.show(unit, property).ok()?;
            is_it(&last).then(|| last.clone())
        });
        found.ok_or_else(|| {
            let said = self.sh(&format!("journalctl -q -n 12 -o cat -u {unit}"));
            broken(format!("{property} of {unit} is {last:?} after {within:?}: {said:?}"))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        const SCRIPT: &str = "mount -t cgroup2 cgroup2 \"$1\" && \
             find \"$1/$2\" -depth -type d -exec rmdir {} +";
        // Its processes first: all of them go with the first one.
        let pid = self.pid.to_string();
        drop(command::run(Command::new("kill").args(["-9", &pid]), PATIENCE));
        drop(self.holder.exited(PATIENCE));
        wait::until(Duration::from_secs(5), || {
            let mut remove = Command::new("unshare");
            remove.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
            let removed = command::run(remove.arg(&self.at).arg(&self.name), PATIENCE);
            removed.is_ok_and(|said| said.status == Some(0)).then_some(())
        });
    }
}
