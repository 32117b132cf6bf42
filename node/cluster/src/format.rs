//! A pure core: the format of what nodes write for each other, and which ones a build reads.
//!
//! One number stands for all of it: commands in the log, checkpoints, and frames between nodes. A
//! build reads a range of formats; the replicated state says which one is written. Every build has
//! to read what the one before it writes, so that nodes can be exchanged one by one.
//!
//! - **FM-1** what is written is of the active format, and that never decreases. It rises by a
//!   command of an operator, which the state refuses while a member is not known to read the new
//!   one: until then every node can go back to the build before.
//! - **FM-2** an entry above the active format changes nothing, on any node: those that could read
//!   it pass over it as those do that cannot, so that one build that writes too soon splits nobody.
//! - **FM-3** a build that does not read the active format takes no part: it ends by name before it
//!   applies anything under it.
//!
//! A command that is new has a later [`since`]; a state that is new has fields behind those before.
//! Whoever adds either raises [`FORMATS`], and the state of the format before is still written as
//! long as that is the active one.

use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError};

use crate::state::{Alone, Command, Former, Named, State, Unfollowed, Unrotated, Unversioned};

/// The formats that a build reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formats {
    /// The lowest one.
    pub oldest: u8,
    /// The highest one, which a cluster that it founds has.
    pub newest: u8,
}

/// What this build reads.
pub const FORMATS: Formats =
    Formats { oldest: 1, newest: if cfg!(feature = "next-version") { 2 } else { 1 } };

impl Formats {
    /// Whether it reads this one.
    #[must_use]
    pub const fn reads(self, format: u8) -> bool {
        self.oldest <= format && format <= self.newest
    }
}

impl std::fmt::Display for Formats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

/// What an entry of the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    /// This.
    Command(Box<Command>),
    /// Nothing: it is of this format, which was not active yet (FM-2).
    Early(u8),
}

/// Since which format there is such a command.
const fn since(command: &Command) -> u8 {
    match command {
        #[cfg(feature = "next-version")]
        Command::Note { .. } => 2,
        _ => 1,
    }
}

/// A command for the log of a cluster whose format is `active`; `Err(Ok(since))` when it is of a
/// later one.
pub(crate) fn encode_command(command: &Command, active: u8) -> Result<Vec<u8>, NotEncoded> {
    let since = since(command);
    if active < since && !writes_early() {
        return Err(NotEncoded::Early(since));
    }
    codec::encode_large_as(active.max(since), command).map_err(NotEncoded::Codec)
}

/// Why a command cannot be written.
#[derive(Debug)]
pub(crate) enum NotEncoded {
    /// It is of this format, which is not active.
    Early(u8),
    /// As it says.
    Codec(CodecError),
}

/// The fault that `cargo prove upgrade` plants: a build that does not wait for its format.
fn writes_early() -> bool {
    cfg!(feature = "next-version") && std::env::var_os("MILLRACE_NEXT_WRITES_EARLY").is_some()
}

/// What an entry says to a state whose format is `active`.
pub(crate) fn decode_command(bytes: &[u8], active: u8) -> Result<Logged, CodecError> {
    match codec::version_of(bytes) {
        Some(format) if active < format => Ok(Logged::Early(format)),
        Some(format) if FORMATS.reads(format) => {
            codec::decode_large_as(format, bytes).map(|it| Logged::Command(Box::new(it)))
        }
        other => Err(CodecError::Version(other)),
    }
}

/// A checkpoint's state, in its own format.
pub(crate) fn encode_state(state: &State) -> Result<Vec<u8>, CodecError> {
    match state.format() {
        #[cfg(feature = "next-version")]
        2 => codec::encode_snapshot_as(2, &(state, state.notes())),
        format => codec::encode_snapshot_as(format, state),
    }
}

/// A checkpoint's state, also in the forms of before there were formats.
pub(crate) fn decode_state(bytes: &[u8]) -> Result<State, CodecError> {
    match codec::version_of(bytes) {
        #[cfg(feature = "next-version")]
        Some(2) => codec::decode_snapshot_as(2, bytes)
            .map(|(state, notes): (State, crate::state::Notes)| state.with_notes(notes)),
        _ => codec::decode_snapshot(bytes).or_else(|error| match error {
            CodecError::Version(_) => Err(error),
            error => decode_former(bytes).ok_or(error),
        }),
    }
}

/// The format of a checkpoint that this build does not read.
pub(crate) fn unread_checkpoint(bytes: &[u8]) -> Option<u8> {
    codec::version_of(bytes).filter(|format| FORMATS.newest < *format)
}

fn decode_former(bytes: &[u8]) -> Option<State> {
    let unversioned = codec::decode_snapshot::<Unversioned>(bytes).map(State::from);
    let unrotated = || codec::decode_snapshot::<Unrotated>(bytes).map(State::from);
    let unfollowed = || codec::decode_snapshot::<Unfollowed>(bytes).map(State::from);
    let named = || codec::decode_snapshot::<Named>(bytes).map(State::from);
    let alone = || codec::decode_snapshot::<Alone>(bytes).map(State::from);
    let former = || codec::decode_snapshot::<Former>(bytes).map(State::from);
    let before_raft = |_: CodecError| named().or_else(|_| alone()).or_else(|_| former());
    let before_cas = |_: CodecError| unrotated().or_else(|_| unfollowed());
    unversioned.or_else(before_cas).or_else(before_raft).ok()
}

#[cfg(test)]
mod tests;
