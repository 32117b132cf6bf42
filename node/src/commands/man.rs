//! `millrace man`: the manual pages, one for each command, from the command line itself.

use std::fs;
use std::path::{Path, PathBuf};

use clap_mangen::Man;

use super::error::CommandError;

/// Writes the manual pages into a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace man --dir target/man     then: man target/man/millrace-serve.1")]
pub struct ManArgs {
    /// Where to; made if it is missing.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Carries it out.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn run(args: &ManArgs) -> Result<(), CommandError> {
    fs::create_dir_all(&args.dir).map_err(|error| CommandError::file("make", &args.dir, &error))?;
    let mut command = crate::cli::command().disable_help_subcommand(true);
    // Fills in what a subcommand has of its parents.
    command.build();
    write(&args.dir, &command)
}

fn write(dir: &Path, command: &clap::Command) -> Result<(), CommandError> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let path = dir.join(format!("{name}.1"));
    let mut page = Vec::new();
    let version = command.get_version().unwrap_or(env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name).source(format!("millrace {version}"));
    man.manual("Millrace").date("").render(&mut page)?;
    fs::write(&path, page).map_err(|error| CommandError::file("write", &path, &error))?;
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        write(dir, one)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page() {
        let dir = tempfile::tempdir().unwrap();
        run(&ManArgs { dir: dir.path().to_owned() }).unwrap();
        for (name, says) in [
            ("millrace.1", "produce"),
            ("millrace-serve.1", "spawner"),
            ("millrace-trigger-seek.1", "earliest"),
        ] {
            let page = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(page.contains(says) && page.contains(".SH NAME"), "{name}: {page}");
        }
        assert!(!dir.path().join("millrace-man.1").exists(), "hidden commands have none");
    }
}
