//! The processes of a node: its spawner, the guardians, the workers and what they started. Known
//! by `/proc` while the node lives, and looked for when it has been killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::demand;
use crate::harness::{processes, wait};
use crate::promise::NotShown;

/// How long anything may live on.
const OUTLIVES_MAX: Duration = Duration::from_secs(2);
/// How long is looked at least: what nobody saw at first may still come.
const LOOK_MIN: Duration = Duration::from_millis(50);

/// A process: its id, and when it started, so that an id that was given again is another.
type Processes = BTreeMap<u32, u64>;

/// What a node has started.
#[derive(Clone, Debug)]
pub(super) struct Family {
    members: Processes,
    /// Whatever works in here is a member too.
    folder: PathBuf,
}

impl Family {
    /// Everything below `node`, and everything that works in `folder`, but for the node itself.
    pub(super) fn of(node: u32, folder: &Path) -> Self {
        let below = processes::below(node).into_iter();
        let mut members: Processes = below.filter_map(|pid| Some((pid, living(pid)?))).collect();
        members.extend(at_work_in(folder));
        members.remove(&node);
        Self { members, folder: folder.to_owned() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Waits until none is left of the node that was killed at `killed_at`; how long the last of
    /// them lived on.
    ///
    /// # Errors
    ///
    /// Who is there after two seconds.
    pub(super) fn gone(mut self, killed_at: Instant) -> Result<Duration, NotShown> {
        let mut last = Duration::ZERO;
        loop {
            self.members.extend(at_work_in(&self.folder));
            self.members.retain(|pid, started| living(*pid) == Some(*started));
            let now = killed_at.elapsed();
            if self.members.is_empty() && LOOK_MIN <= now {
                return Ok(last);
            }
            if !self.members.is_empty() {
                last = now;
            }
            let who: Vec<String> = self.members.keys().map(|pid| command(*pid)).collect();
            demand!(now < OUTLIVES_MAX, "{who:?} outlive their node by {now:?}");
            wait::pause(Duration::from_millis(2));
        }
    }
}

/// When a process started, in ticks since the machine did; `None` once it has ended, buried or
/// not.
fn living(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let state = fields.first()?;
    if ["Z", "X"].contains(state) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The processes whose working directory is `folder` or lies in it.
fn at_work_in(folder: &Path) -> Processes {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let here = pids.filter(|pid| {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
        cwd.is_ok_and(|cwd| cwd.starts_with(folder))
    });
    here.filter_map(|pid| Some((pid, living(pid)?))).collect()
}

fn command(pid: u32) -> String {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&words).replace('\0', " ").trim_end())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::harness::command;

    #[test]
    fn what_lives_on_is_found_and_what_has_ended_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut sleeper = Command::new("sleep");
        let mut sleeper = sleeper.arg("60").current_dir(folder.path()).spawn().unwrap();
        // The kernel has no command line for it while it makes the new program's memory.
        let named = || command(sleeper.id()).contains("sleep 60").then_some(());
        wait::until(Duration::from_secs(10), named).unwrap();
        let family = Family::of(std::process::id(), folder.path());
        assert!(family.members.contains_key(&sleeper.id()), "{family:?}");
        let stranger = Family { members: Processes::new(), ..family.clone() };
        let long_ago = Instant::now().checked_sub(OUTLIVES_MAX).unwrap();
        let found = stranger.gone(long_ago).unwrap_err().to_string();
        assert!(found.contains("sleep 60"), "by its folder alone: {found}");
        command::end(&mut sleeper);
        let only = Processes::from([(sleeper.id(), family.members[&sleeper.id()])]);
        Family { members: only, ..family }.gone(long_ago).unwrap();
    }
}
