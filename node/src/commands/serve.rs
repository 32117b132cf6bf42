//! `millrace serve`: a node with applications, as a service.

use super::error::{CommandError, exit};
use crate::cli::{Globals, ServeArgs};

/// Carries it out.
///
/// # Errors
///
/// Always, until the wiring of a node is there.
pub fn run(_args: &ServeArgs, _globals: &Globals) -> Result<(), CommandError> {
    Err(CommandError::new(exit::FAILED, "E0511", "this build has no node in it"))
}
