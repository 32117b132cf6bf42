//! `millrace explain`: the page of a code, or the list of all codes.

use std::io::{self, Write};

use super::error::{CommandError, exit};

/// Says what a code means, with an example of wrong and right.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace explain E0203     what the code means, and what to do
  millrace explain           every code there is")]
pub struct ExplainArgs {
    /// A code as printed, such as E0203. Without it, all codes are listed.
    pub code: Option<String>,
}

/// Carries it out.
///
/// # Errors
///
/// `E0104` for a code that has no page.
pub fn run(args: &ExplainArgs) -> Result<(), CommandError> {
    run_to(args, &mut io::stdout().lock())
}

fn run_to(args: &ExplainArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let Some(code) = &args.code else {
        for one in function::codes() {
            writeln!(out, "{}  {}", one.code, one.title)?;
        }
        return Ok(());
    };
    let Some(page) = function::explain(code) else {
        let message = format!("no code `{}`", code.escape_debug());
        let error = CommandError::new(exit::NOT_FOUND, "E0104", message);
        return Err(error.help("`millrace explain` lists all codes"));
    };
    writeln!(out, "{page}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(code: Option<&str>) -> Result<String, CommandError> {
        let mut out = Vec::new();
        run_to(&ExplainArgs { code: code.map(str::to_owned) }, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_code_has_its_page_and_all_codes_are_listed() {
        assert!(explained(Some("E0203")).unwrap().starts_with("E0203: unknown key\n"));
        assert!(explained(None).unwrap().lines().any(|line| line == "E0203  unknown key"));
        let error = explained(Some("E0999")).unwrap_err();
        assert_eq!((error.exit, error.code), (exit::NOT_FOUND, Some("E0104")));
    }
}
