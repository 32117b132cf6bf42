//! What the system says of the node's process and of the disk under its data.

use std::path::Path;

use gateway::ProcessFigures;
use rustix::process::{Resource, getrlimit};

/// As it is now; what this system does not say is left out.
pub(super) fn of_process(started: bus::Timestamp, data_dir: &Path) -> ProcessFigures {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let disk = rustix::fs::statvfs(data_dir).ok();
    let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
        disk.as_ref().map(|disk| blocks(disk).saturating_mul(disk.f_frsize))
    };
    ProcessFigures {
        cpu_s: cpu_s(),
        started_s: started.0 as f64 / 1e3,
        resident_bytes: field("VmRSS").map(|kib| kib * 1_024),
        // One is the folder that is read.
        open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64 - 1),
        max_fds: getrlimit(Resource::Nofile).current,
        threads: field("Threads"),
        data_available_bytes: bytes(|disk| disk.f_bavail),
        data_size_bytes: bytes(|disk| disk.f_blocks),
    }
}

fn cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let figures = of_process(bus::Timestamp(1_500), Path::new("/"));
        assert!(0.0 < figures.cpu_s && figures.started_s == 1.5, "{figures:?}");
        assert!(figures.resident_bytes.is_some_and(|bytes| 1 << 20 < bytes), "{figures:?}");
        assert!(figures.open_fds.is_some_and(|open| 2 < open), "{figures:?}");
        assert!(figures.open_fds < figures.max_fds, "{figures:?}");
        assert!(figures.threads.is_some_and(|threads| 0 < threads), "{figures:?}");
        assert!(figures.data_available_bytes <= figures.data_size_bytes, "{figures:?}");
        assert!(figures.data_size_bytes.is_some(), "{figures:?}");
    }
}
