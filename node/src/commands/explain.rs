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

/// Carries it out for a program: a list of codes and titles, or one with its page.
///
/// # Errors
///
/// As for [`run`].
pub fn run_json(args: &ExplainArgs) -> Result<(), CommandError> {
    json_to(args, &mut io::stdout().lock())
}

fn json_to(args: &ExplainArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let entry =
        |one: function::CodeTitle| serde_json::json!({"code": one.code, "title": one.title});
    let answer = if let Some(code) = &args.code {
        let page = function::explain(code).ok_or_else(|| no_page(code))?;
        let of_page = |one: &function::CodeTitle| page.starts_with(one.code);
        let mut answer = function::codes().into_iter().find(of_page).map(entry).unwrap_or_default();
        answer["page"] = page.into();
        answer
    } else {
        function::codes().into_iter().map(entry).collect()
    };
    writeln!(out, "{answer:#}")?;
    Ok(())
}

fn no_page(code: &str) -> CommandError {
    let message = format!("no code `{}`", code.escape_debug());
    let error = CommandError::new(exit::NOT_FOUND, "E0104", message);
    error.help("`millrace explain` lists all codes")
}

fn run_to(args: &ExplainArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let Some(code) = &args.code else {
        for one in function::codes() {
            writeln!(out, "{}  {}", one.code, one.title)?;
        }
        return Ok(());
    };
    let page = function::explain(code).ok_or_else(|| no_page(code))?;
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

    #[test]
    fn a_program_gets_the_same_as_json() {
        let parsed = |code: Option<&str>| -> serde_json::Value {
            let mut out = Vec::new();
            json_to(&ExplainArgs { code: code.map(str::to_owned) }, &mut out).unwrap();
            serde_json::from_slice(&out).unwrap()
        };
        assert_eq!(parsed(None).as_array().unwrap().len(), function::codes().len());
        let one = parsed(Some("e0203"));
        assert_eq!((&one["code"], &one["title"]), (&"E0203".into(), &"unknown key".into()));
        assert_eq!(one["page"], *function::explain("E0203").unwrap());
    }
}
