//! `millrace dev`: a node with one application, an embedded bus, and hot reload.

use super::error::{CommandError, exit};
use crate::cli::{DevArgs, Globals};

/// Carries it out.
///
/// # Errors
///
/// Always, until the wiring of a node is there.
pub fn run(_args: &DevArgs, _globals: &Globals) -> Result<(), CommandError> {
    Err(CommandError::new(exit::FAILED, "E0511", "this build has no node in it"))
}
