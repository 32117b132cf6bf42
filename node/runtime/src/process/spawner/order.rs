//! A pure core: what the node says to the spawner and what a guardian says to the node, as bytes.

use serde::{Deserialize, Serialize};

/// The longest order, bytes: a packet must fit into a socket's default buffer.
pub(crate) const ORDER_BYTES_MAX: usize = 192 << 10;

/// A worker to start. Descriptors go beside it: the control socket, stdout, stderr, and the socket
/// of the Runtime API, or with `by_port` the one over which the guardian sends its listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The executable's path, then its arguments.
    pub(crate) command: Vec<String>,
    /// All of its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Its working directory.
    pub(crate) dir: String,
    /// Descriptors that it may have open.
    pub(crate) files_max: u64,
    /// Whether it reaches the Runtime API on a port of loopback. The guardian listens there, since
    /// only it is in the worker's network, and adds the address to the environment.
    pub(crate) by_port: bool,
    /// Folders of control groups that it is put into.
    pub(crate) groups: Vec<String>,
}

/// What could not be done for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Make a process.
    Fork,
    /// Join a control group, set limits, place descriptors.
    Prepare,
    /// Enter the working directory.
    Dir,
    /// Run the executable.
    Exec,
}

/// What becomes of a worker. Eight bytes: a word for what, a word for how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Its guardian runs under this process id.
    Guarded(u32),
    /// It could not be started; the system's error number.
    Failed(Stage, i32),
    /// It ended with this status.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl Report {
    /// Bytes of a report.
    pub(crate) const BYTES: usize = 8;

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let (what, how) = match self {
            Self::Guarded(pid) => (1, pid.cast_signed()),
            Self::Failed(Stage::Fork, error) => (2, error),
            Self::Failed(Stage::Prepare, error) => (3, error),
            Self::Failed(Stage::Dir, error) => (4, error),
            Self::Failed(Stage::Exec, error) => (5, error),
            Self::Exited(status) => (6, status),
            Self::Signaled(signal) => (7, signal),
        };
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&u32::to_le_bytes(what));
        bytes[4..].copy_from_slice(&i32::to_le_bytes(how));
        bytes
    }

    /// `None` for what no guardian says.
    pub(crate) fn decode(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let how = i32::from_le_bytes(word(4));
        Some(match u32::from_le_bytes(word(0)) {
            1 => Self::Guarded(how.cast_unsigned()),
            2 => Self::Failed(Stage::Fork, how),
            3 => Self::Failed(Stage::Prepare, how),
            4 => Self::Failed(Stage::Dir, how),
            5 => Self::Failed(Stage::Exec, how),
            6 => Self::Exited(how),
            7 => Self::Signaled(how),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_and_nothing_else_does() {
        let stages = [Stage::Fork, Stage::Prepare, Stage::Dir, Stage::Exec];
        let failed = stages.map(|stage| Report::Failed(stage, 13));
        let others = [Report::Guarded(u32::MAX), Report::Exited(255), Report::Signaled(9)];
        for report in failed.into_iter().chain(others) {
            assert_eq!(Report::decode(report.encode()), Some(report));
        }
        assert_eq!(Report::decode([0; 8]), None);
        assert_eq!(Report::decode([8, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
