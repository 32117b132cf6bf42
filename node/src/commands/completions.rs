//! `millrace completions`: the script that makes a shell complete commands and options.

use std::io::{self, Write as _};

use clap_complete::Shell;

use super::error::CommandError;

/// Prints a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace completions bash > ~/.local/share/bash-completion/completions/millrace
  millrace completions zsh > ~/.zfunc/_millrace
  millrace completions fish > ~/.config/fish/completions/millrace.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Carries it out.
///
/// # Errors
///
/// When stdout cannot be written.
pub fn run(args: &CompletionsArgs) -> Result<(), CommandError> {
    // The generator panics where it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::cli::command(), "millrace", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(())
}
