//! The commands that the group has agreed on, and the state they lead to.
//!
//! A node alone is a raft group of one: a command is proposed, synced, committed and applied
//! before it is acknowledged, by the same steps that a group of several takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::codec;

use crate::group::{Committed, Group, Limits, RequestId, Step};
use crate::image::{Image, Write};
use crate::raft_log::RaftLog;
use crate::state::{Alone, Applied, Command, Former, Refused, State};

/// The member of a group of one.
const FOUNDER: u64 = 1;

/// The largest command: an application of many functions has to fit.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// The file of versions that had no raft yet.
const FORMER: &str = "cluster.redb";

/// The log could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state refuses the command; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A command or the state has no room in the log; nothing was written.
    #[error("the change does not fit into the cluster's log")]
    TooLarge(#[from] codec::CodecError),
    /// The folder was written by a version whose log had another form.
    #[error("{} is of an earlier version, whose log had another form", .0.display())]
    Former(PathBuf),
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

/// What ends the process when the log cannot be trusted any more; gets the reason.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The log, and the state it leads to. Calls block on the disk.
pub struct CommandLog {
    group: Group,
    log: RaftLog,
    state: State,
    path: PathBuf,
    proposals: u64,
    on_fatal: OnFatal,
}

impl std::fmt::Debug for CommandLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandLog").field("path", &self.path).finish_non_exhaustive()
    }
}

impl CommandLog {
    /// Opens the log in a data directory, making it if there is none, and applies all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Former`], [`Error::Write`].
    pub fn open(data_dir: &Path, on_fatal: OnFatal) -> Result<Self, Error> {
        Self::open_with(data_dir, on_fatal, Limits::default())
    }

    fn open_with(data_dir: &Path, on_fatal: OnFatal, limits: Limits) -> Result<Self, Error> {
        let former = data_dir.join(FORMER);
        if former.exists() {
            return Err(Error::Former(former));
        }
        let path = data_dir.join("raft.redb");
        let damaged = |reason| Error::Damaged { path: path.clone(), reason };
        let state = codec::encode_snapshot(&State::default())?;
        let (log, image) = RaftLog::open(&path, &Image::founding(vec![FOUNDER], state))?;
        let last = image.last();
        let state = decode_state(&image.checkpoint.state)
            .map_err(|error| damaged(format!("its checkpoint: {error}")))?;
        let group = Group::new(FOUNDER, image, limits, 0).map_err(damaged)?;
        let mut this = Self { group, log, state, path: path.clone(), proposals: 0, on_fatal };
        // What is known to be committed, then, as the leader, the rest.
        this.settle(None)?;
        this.group.campaign();
        this.settle(None)?;
        if this.group.applied() <= last.index {
            return Err(damaged(format!("entry {} could not be applied", last.index)));
        }
        Ok(this)
    }

    /// What the commands so far lead to.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Checks a command, makes it durable, then applies it. When it cannot be written, or a panic
    /// leaves unknown what was, the process ends.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] and [`Error::TooLarge`]; nothing was written.
    pub fn append(&mut self, command: &Command) -> Result<Applied, Error> {
        self.state.clone().apply(command)?;
        let bytes = codec::encode_large(command)?;
        if COMMAND_BYTES_MAX < bytes.len() {
            let (bytes, limit_bytes) = (bytes.len(), COMMAND_BYTES_MAX);
            return Err(codec::CodecError::TooLarge { bytes, limit_bytes }.into());
        }
        let on_fatal = Arc::clone(&self.on_fatal);
        let agreed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.agree(bytes)));
        match agreed {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(error)) => {
                if !matches!(error, Error::Refused(_)) {
                    on_fatal(&error.to_string());
                }
                Err(error)
            }
            Err(panic) => {
                on_fatal("a panic while the cluster's log was written");
                std::panic::resume_unwind(panic)
            }
        }
    }

    fn agree(&mut self, command: Vec<u8>) -> Result<Applied, Error> {
        self.proposals += 1;
        let request = RequestId { member: FOUNDER, number: self.proposals };
        let lost =
            |reason: &str| Error::Write { path: self.path.clone(), reason: reason.to_owned() };
        // A group of one leads from its start, and has nothing else in flight.
        self.group.propose(request, command).map_err(|error| lost(&error.to_string()))?;
        let answer = self.settle(Some(request))?;
        let answer = answer.ok_or_else(|| Error::Write {
            path: self.path.clone(),
            reason: "the group has not agreed".to_owned(),
        })?;
        if self.group.is_checkpoint_due() {
            self.group.checkpoint(codec::encode_snapshot(&self.state)?);
            self.settle(None)?;
        }
        Ok(answer?)
    }

    /// Carries out steps until there are none; the answer to `request`, if it was applied.
    fn settle(
        &mut self,
        request: Option<RequestId>,
    ) -> Result<Option<Result<Applied, Refused>>, Error> {
        let mut answer = None;
        while let Some(step) = self.group.step() {
            match step {
                // There is nobody else, and nobody asks to join or to read.
                Step::Send(_) | Step::Change(_) | Step::Reads(_) => {}
                Step::Persist(write) => self.persist(&write)?,
                Step::Restore(checkpoint) => self.state = self.decode(&checkpoint.state)?,
                Step::Apply(commands) => {
                    for committed in commands {
                        let applied = self.apply(&committed)?;
                        if Some(committed.request) == request {
                            answer = Some(applied);
                        }
                    }
                }
            }
        }
        Ok(answer)
    }

    fn persist(&self, write: &Write) -> Result<(), Error> {
        self.log.write(write, self.group.image().last_after(write))
    }

    fn apply(&mut self, committed: &Committed) -> Result<Result<Applied, Refused>, Error> {
        let command: Command = codec::decode_large(&committed.command).map_err(|error| {
            let reason = format!("entry {}: {error}", committed.place.index);
            Error::Damaged { path: self.path.clone(), reason }
        })?;
        Ok(self.state.apply(&command))
    }

    fn decode(&self, state: &[u8]) -> Result<State, Error> {
        decode_state(state).map_err(|error| Error::Damaged {
            path: self.path.clone(),
            reason: format!("its checkpoint: {error}"),
        })
    }
}

/// A checkpoint's state, also in the forms of versions without members, and without pauses.
fn decode_state(bytes: &[u8]) -> Result<State, codec::CodecError> {
    codec::decode_snapshot(bytes).or_else(|error| {
        let alone = codec::decode_snapshot::<Alone>(bytes).map(State::from);
        let former = || codec::decode_snapshot::<Former>(bytes).map(State::from);
        alone.or_else(|_| former()).map_err(|_| error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{App, Function, Trigger};

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

    fn open(dir: &Path, entries: u64) -> CommandLog {
        let never: OnFatal = Arc::new(|reason| panic!("fatal: {reason}"));
        let limits = Limits { entries, trailing: entries / 2, ..Limits::default() };
        CommandLog::open_with(dir, never, limits).unwrap()
    }

    #[test]
    fn what_was_acknowledged_is_there_after_each_restart_also_past_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 7);
        for revision in 0..40 {
            log.append(&deploy(revision)).unwrap();
            if revision % 3 == 0 {
                let state = log.state().clone();
                drop(log);
                log = open(dir.path(), 7);
                assert_eq!(*log.state(), state);
            }
        }
        let image = log.group.image();
        assert!(30 < image.checkpoint.place.index && image.entries.len() < 20, "{image:?}");
        let remove = Command::Remove { name: "b".into() };
        assert!(matches!(log.append(&remove), Err(Error::Refused(_))));
    }

    #[test]
    fn a_state_that_was_stored_before_there_were_members_or_pauses_is_read() {
        let mut state = State::default();
        state.apply(&deploy(7)).unwrap();
        let mut bytes = codec::encode_snapshot(&state).unwrap();
        assert_eq!(decode_state(&bytes).unwrap(), state);
        // An empty map is a count; the head holds a version and a checksum. First the members go,
        // then pauses and redrivers.
        for maps in [1, 2] {
            bytes.truncate(bytes.len() - maps * size_of::<u64>());
            let checksum = crc32c::crc32c(&bytes[5..]);
            bytes[1..5].copy_from_slice(&checksum.to_le_bytes());
            assert_eq!(decode_state(&bytes).unwrap(), state);
        }
        bytes.pop();
        assert!(decode_state(&bytes).is_err());
    }

    #[test]
    fn the_log_of_a_version_without_raft_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FORMER), b"").unwrap();
        let opened = CommandLog::open(dir.path(), Arc::new(|_| {}));
        assert!(matches!(opened, Err(Error::Former(_))), "{opened:?}");
    }
}
