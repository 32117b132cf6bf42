//! Processes as `/proc` shows them.

use crate::promise::{During, NotShown, broken};

/// Every process below this one.
#[must_use]
pub fn below(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut at = 0;
    while let Some(pid) = pids.get(at) {
        pids.extend(children(*pid));
        at += 1;
    }
    pids.split_off(1)
}

/// How much memory a process holds.
///
/// # Errors
///
/// When there is no such process.
pub fn resident_kib(pid: u32) -> Result<u64, NotShown> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).during("look at the node")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|it| it.trim().trim_end_matches(" kB").parse().ok());
    kib.ok_or_else(|| broken("no VmRSS"))
}

/// Those that any of its threads has started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|it| std::fs::read_to_string(it.path().join("children")).ok());
    let pids = |text: String| -> Vec<u32> {
        text.split_whitespace().filter_map(|it| it.parse().ok()).collect()
    };
    texts.flat_map(pids).collect()
}
