//! `millrace spawner`: the process that starts workers, as a unit of its own.

use std::path::PathBuf;

use runtime::SpawnerListener;

use super::error::{CommandError, exit};
use crate::service;

/// Serves nodes of this user that come to its socket, until it is ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace spawner --listen /run/millrace-spawner/socket     for serve --spawner with that path")]
pub struct SpawnerArgs {
    /// Where it listens. Only processes of the same user are served.
    #[arg(long, value_name = "PATH")]
    pub listen: PathBuf,
}

/// Carries it out: returns only if it cannot go on.
///
/// # Errors
///
/// When it cannot listen.
pub fn run(args: &SpawnerArgs) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot serve at {}: {error}", args.listen.display());
        CommandError::new(exit::FAILED, "E0312", message)
            .help("is another spawner there already? choose another path with --listen")
    };
    let listener = SpawnerListener::bind(&args.listen).map_err(failed)?;
    service::ready("starts the workers of this user's nodes");
    listener.serve().map_err(failed)
}
