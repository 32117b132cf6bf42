//! What can go wrong with the log of commands.

use std::path::PathBuf;
use std::sync::Arc;

use storage::codec;

use crate::format::FORMATS;
use crate::members::NotChanged;
use crate::recovery::NotRecovered;
use crate::state::Refused;

/// The largest command: an application of many functions has to fit, and with its head it has to
/// fit into a frame of 8 MiB between two nodes.
pub const COMMAND_BYTES_MAX: usize = (8 << 20) - (64 << 10);

/// The cluster could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state refuses the command, which changed nothing.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A command or the state has no room in the log; nothing was written.
    #[error("the change does not fit into the cluster's log")]
    TooLarge(#[from] codec::CodecError),
    /// Nobody who could decide was there in time. Nothing was changed: try again.
    #[error("no quorum of the cluster answered in time; nothing was changed")]
    Unavailable,
    /// It was proposed, and nobody could say in time whether it was agreed on. Look at the state,
    /// then try again.
    #[error("whether the change was made is unknown: the cluster did not answer in time")]
    Unknown,
    /// More is on its way than this member takes. Nothing was changed: try again.
    #[error("too many changes of the cluster are on their way")]
    Busy,
    /// The member was closed, or has ended; nothing was changed.
    #[error("this node takes no part in the cluster any more")]
    Closed,
    /// A change of the members, or of who leads, was not begun.
    #[error(transparent)]
    NotChanged(#[from] NotChanged),
    /// Nobody can go on alone from this log.
    #[error(transparent)]
    NotRecovered(#[from] NotRecovered),
    /// The folder was written by a version whose log had another form.
    #[error("{} is of an earlier version, whose log had another form", .0.display())]
    Former(PathBuf),
    /// The cluster writes a format that this build does not read (FM-3).
    #[error("the cluster writes format {format}, and this build reads {FORMATS}")]
    Unread {
        /// Which.
        format: u8,
    },
    /// What is on disk is not what was written. The node must not start from it.
    #[error("the cluster's log {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It could not be written; what reached the disk is unknown, and the process must end.
    #[error("write the cluster's log {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// Whether the same may be asked for again: it was certainly not done.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable
                | Self::Busy
                | Self::NotChanged(
                    NotChanged::Dropped | NotChanged::Pending | NotChanged::Behind(_)
                )
        )
    }
}

/// What ends the process when the log cannot be trusted any more; gets the reason.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bus::ShardId;

    use super::*;
    use crate::cluster::{Cluster, Config};
    use crate::format::{
        Logged, decode_command, decode_state, encode_command, encode_state, unread_checkpoint,
    };
    use crate::group::Limits;
    use crate::state::{App, Command, Function, State, Trigger};

    fn deploy(revision: u64) -> Command {
        let function = Function {
            revision: revision.to_string(),
            package: revision.to_string(),
            spec: "{}".to_owned(),
        };
        let topics = [("in".to_owned(), 2)].into();
        let trigger = Trigger { function: "f".to_owned(), topics };
        let app = App {
            functions: [("f".to_owned(), function)].into(),
            triggers: [("a/f/f".to_owned(), trigger)].into(),
            ..App::default()
        };
        let at = bus::Timestamp(0);
        Command::Deploy { name: "a".to_owned(), app, expects: None, at }
    }

    fn open(dir: &Path, entries: u64) -> Cluster {
        let never: OnFatal = Arc::new(|reason| panic!("fatal: {reason}"));
        let limits = Limits { entries, trailing: entries / 2, ..Limits::default() };
        let config = Config { limits, ..Config::alone() };
        Cluster::open(dir, config, never).unwrap()
    }

    #[test]
    fn what_was_acknowledged_is_there_after_each_restart_also_past_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 7);
        for revision in 0..40 {
            log.propose_and_wait(&deploy(revision)).unwrap();
            if revision % 3 == 0 {
                let state = log.state();
                drop(log);
                log = open(dir.path(), 7);
                assert_eq!(log.state(), state);
            }
        }
        let vitals = log.vitals();
        assert!(30 < vitals.checkpoint && vitals.last < vitals.first + 20, "{vitals:?}");
        let remove = Command::Remove { name: "b".into() };
        assert!(matches!(log.propose_and_wait(&remove), Err(Error::Refused(_))));
    }

    /// The active format, and an empty map of what members read.
    const FORMAT: usize = 1 + size_of::<u64>();

    /// A checkpoint whose body is `edit` of that of `state`; its head holds a version and a checksum.
    fn edited(state: &State, edit: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
        let bytes = encode_state(state).unwrap();
        let body = edit(bytes[5..].to_vec());
        [&bytes[..1], &crc32c::crc32c(&body).to_le_bytes(), &body].concat()
    }

    #[test]
    fn a_state_that_was_stored_before_there_were_members_or_pauses_is_read() {
        let mut state = State::default();
        state.apply(&deploy(7)).unwrap();
        let mut expected = state.clone();
        expected
            .apply(&Command::AssignByName { shards: vec![ShardId(2)], owner: "x".into() })
            .unwrap();
        assert_eq!(expected.shards()[&ShardId(2)].owner, Some(1));
        // A shard ends with an epoch, an owner and a target; of one without, two zeros. The second
        // is owned by a name, where a member's id is now.
        let named = |body: Vec<u8>| {
            let shard = |partition: u32, epoch: u64| {
                let numbers = [&partition.to_le_bytes()[..], &[0], &epoch.to_le_bytes()].concat();
                [b"in".as_slice(), &numbers, &[0, 0]].concat()
            };
            let cut = |body: &[u8], tail: &[u8], instead: &[u8]| {
                let at = body.windows(tail.len()).position(|it| it == tail).unwrap();
                [&body[..at], instead, &body[at + tail.len()..]].concat()
            };
            let (first, second) = (shard(0, 0), shard(1, 0));
            let body = cut(&body, &first, &first[..first.len() - 1]);
            let second_was = &second[..second.len() - 10];
            let owner = [&1_u64.to_le_bytes()[..], &[1], &5_u64.to_le_bytes(), b"plant"].concat();
            cut(&body, &second, &[second_was, &owner].concat())
        };
        // Two CAs that are not there, a turn, and no token that names one; then the formats.
        let cas = 1 + 1 + size_of::<u64>() + size_of::<u64>();
        // An empty map is a count. First formats, tokens of subscribers, what members cannot run, who
        // stops and starts, tokens and what was answered goes, then the roster, then redrivers and
        // pauses.
        for maps in [6, 7, 9] {
            let bytes = edited(&state, |body| {
                let body = named(body);
                body[..body.len() - FORMAT - cas - maps * size_of::<u64>()].to_vec()
            });
            assert_eq!(decode_state(&bytes).unwrap(), expected, "{maps} maps fewer");
        }
        assert_eq!(decode_state(&edited(&state, |body| body)).unwrap(), state);
        for former in [FORMAT, FORMAT + cas, FORMAT + cas + size_of::<u64>()] {
            let shorter = |body: Vec<u8>| body[..body.len() - former].to_vec();
            assert_eq!(decode_state(&edited(&state, shorter)).unwrap(), state, "{former} fewer");
        }
        assert!(decode_state(&edited(&state, |body| body[..body.len() - 1].to_vec())).is_err());
    }

    /// FM-1, FM-2: what an entry is to a state depends on its format and the active one alone.
    #[test]
    fn an_entry_of_a_later_format_is_nothing_until_that_is_active() {
        let command = deploy(7);
        let bytes = encode_command(&command, 1).unwrap();
        let is = Logged::Command(Box::new(command));
        assert_eq!(decode_command(&bytes, 1).unwrap(), is);
        assert_eq!(decode_command(&bytes, 9).unwrap(), is, "one of before stays readable");
        for format in [9, 255] {
            let later = [&[format], b"whatever it is".as_slice()].concat();
            assert_eq!(decode_command(&later, 1).unwrap(), Logged::Early(format), "FM-2");
            let unread = decode_command(&later, format);
            assert!(matches!(unread, Err(codec::CodecError::Version(Some(it))) if it == format));
            assert_eq!(unread_checkpoint(&later), Some(format), "FM-3");
        }
        assert!(decode_state(&[&[9], &[0; 40][..]].concat()).is_err());
        assert_eq!(unread_checkpoint(&encode_state(&State::default()).unwrap()), None);
    }

    /// FM-3, at the start: nothing of the log is applied, by name.
    #[test]
    fn a_log_whose_format_is_not_read_here_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), 100);
        assert_eq!(log.state().format(), FORMATS.newest, "a founder writes its newest");
        let format = FORMATS.newest + 1;
        // Nobody is waited for where nobody else is.
        let raised = log.propose_and_wait(&Command::Raise { format });
        assert!(matches!(raised, Err(Error::Unknown)), "it ends: {raised:?}");
        drop(log);
        for _start in 0..2 {
            let opened = Cluster::open(dir.path(), Config::alone(), Arc::new(|_| {}));
            assert!(matches!(opened, Err(Error::Unread { format: it }) if it == format));
        }
    }

    #[test]
    fn the_log_of_a_version_without_raft_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cluster.redb"), b"").unwrap();
        let opened = Cluster::open(dir.path(), Config::alone(), Arc::new(|_| {}));
        assert!(matches!(opened, Err(Error::Former(_))), "{opened:?}");
    }
}
