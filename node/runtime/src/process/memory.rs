//! What a worker may have in memory, and who sees to it: the kernel where this process may make
//! control groups (version 2, else version 1), else the node, which looks at what is resident.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often a worker without a control group is looked at while it runs. A process that fills
/// memory at 1 GB/s is 50 MB over its limit by then.
pub(crate) const WATCH: Duration = Duration::from_millis(50);

/// Processes of one worker that are counted.
const PROCESSES_MAX: usize = 4_096;

/// Where control groups are made, if they can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Groups {
    /// Below this folder of the unified hierarchy, with the memory controller handed down.
    Two(PathBuf),
    /// Below this folder of the memory controller's own hierarchy.
    One(PathBuf),
    /// Nowhere: the node watches.
    None,
}

impl Groups {
    /// Finds out what this process may do, by doing it once.
    pub(crate) fn probe() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for folder in candidates(&mounts, &own) {
            let works = match &folder {
                Self::Two(folder) => delegated(folder),
                Self::One(_) | Self::None => true,
            };
            if works && folder.make(64 << 20).map(|group| group.remove()).is_ok() {
                return folder;
            }
        }
        Self::None
    }

    /// A group of its own for a worker that may have that much; `None` where there are no groups.
    pub(crate) fn make(&self, bytes_max: u64) -> io::Result<Group> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name =
            format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (parent, version) = match self {
            Self::Two(parent) => (parent, 2),
            Self::One(parent) => (parent, 1),
            Self::None => return Err(io::ErrorKind::Unsupported.into()),
        };
        let group = Group { folder: parent.join(name), version };
        fs::create_dir(&group.folder)?;
        let limited = group.limit(bytes_max);
        if limited.is_err() {
            group.remove();
        }
        limited.map(|()| group)
    }

    /// Removes groups that nodes before this one, killed, have left behind.
    pub(crate) fn sweep(&self) {
        let (Self::Two(parent) | Self::One(parent)) = self else { return };
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|it| it.strip_prefix(PREFIX)?.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // One that still has processes stays: removing it fails.
                drop(fs::remove_dir(entry.path()));
            }
        }
    }
}

/// What names of groups begin with.
const PREFIX: &str = "millrace-";

/// Folders where groups may be made, best first, from the texts of `mounts` and `cgroup`.
fn candidates(mounts: &str, own: &str) -> Vec<Groups> {
    let mount = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (_, folder, found) = (words.next()?, words.next()?, words.next()?);
            let options = words.next()?;
            let has = option.is_empty() || options.split(',').any(|it| it == option);
            (found == kind && has).then(|| PathBuf::from(folder))
        })
    };
    let place = |controller: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_it = controllers.split(',').any(|it| it == controller);
            is_it.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let mut found = Vec::new();
    if let (Some(folder), Some(path)) = (mount("cgroup2", ""), place("")) {
        found.push(Groups::Two(folder.join(path)));
    }
    if let (Some(folder), Some(path)) = (mount("cgroup", "memory"), place("memory")) {
        found.push(Groups::One(folder.join(path)));
    }
    found
}

/// Whether the memory controller can be handed down to groups below this folder.
fn delegated(folder: &Path) -> bool {
    let has = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.split_whitespace().any(|it| it == "memory")
    };
    // Refused where this process itself lies in the folder: its unit then has no subgroup for it.
    has("cgroup.subtree_control")
        || (has("cgroup.controllers")
            && fs::write(folder.join("cgroup.subtree_control"), "+memory").is_ok())
}

/// The control group of one worker.
#[derive(Debug)]
pub(crate) struct Group {
    folder: PathBuf,
    version: u8,
}

impl Group {
    fn limit(&self, bytes_max: u64) -> io::Result<()> {
        let write = |file: &str, text: &str| fs::write(self.folder.join(file), text);
        let limit = bytes_max.to_string();
        if self.version == 2 {
            write("memory.max", &limit)?;
            write("memory.oom.group", "1")?;
            // Not there without swap.
            drop(write("memory.swap.max", "0"));
            return Ok(());
        }
        write("memory.limit_in_bytes", &limit)?;
        // Not there without the accounting of swap.
        drop(write("memory.memsw.limit_in_bytes", &limit));
        Ok(())
    }

    /// Where a process is put.
    pub(crate) fn folders(&self) -> impl Iterator<Item = String> {
        self.folder.to_str().map(str::to_owned).into_iter()
    }

    /// Whether the kernel has killed a process of it.
    pub(crate) fn was_exceeded(&self) -> bool {
        let file = if self.version == 2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }

    /// Removes it; it must be empty. Blocks for as long as the kernel still clears up.
    #[expect(clippy::disallowed_methods, reason = "runs on a thread for what blocks")]
    pub(crate) fn remove(&self) {
        for _attempt in 0..50 {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    // The kernel is still clearing up behind the last process.
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

/// What a process and all its descendants have in memory, bytes. What they share counts for each.
pub(crate) fn resident_bytes(root: u32) -> Option<u64> {
    let (mut pids, mut pages) = (vec![root], 0);
    let mut at = 0;
    while let Some(pid) = pids.get(at).copied() {
        at += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|it| it.parse::<u32>().ok()));
        }
        // The guardian itself is the node's.
        if pid != root {
            let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
            pages += text.split(' ').nth(1).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        }
        if PROCESSES_MAX < at {
            break;
        }
    }
    (1 < at).then(|| pages * page_bytes())
}

/// The process that a guardian watches over, while it is there.
pub(crate) fn guarded(guardian: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{guardian}/task/{guardian}/children"));
    children.ok()?.split_whitespace().next()?.parse().ok()
}

fn page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|it| u64::try_from(it).ok())
        .unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_looked_for_where_the_process_is() {
        let two = candidates("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "0::/user.slice/x.scope");
        assert_eq!(two, [Groups::Two("/sys/fs/cgroup/user.slice/x.scope".into())]);
        let mixed = "cgroup /c/cpu cgroup rw,cpu 0 0\ncgroup /c/memory cgroup rw,memory 0 0\n\
                     none /c/unified cgroup2 rw 0 0";
        let found = candidates(mixed, "4:memory:/a/b\n1:cpu:/\n0::/");
        assert_eq!(found, [Groups::Two("/c/unified".into()), Groups::One("/c/memory/a/b".into())]);
        assert_eq!(candidates("", ""), []);
    }

    #[test]
    fn what_children_have_is_counted() {
        let mut child = std::process::Command::new("sleep").arg("20").spawn().unwrap();
        let bytes = resident_bytes(std::process::id()).unwrap();
        assert!(0 < bytes && bytes < 1 << 30, "{bytes}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
