//! Why a command failed: the exit status, the code with its explain page, and the next step.
//! Every command gives back this one type, so that all failures look alike.

use std::io::Write as _;

use function::Diagnostics;

use super::program::program;

/// The exit statuses of `millrace`, as its help lists them.
pub mod exit {
    /// It is done.
    pub const DONE: u8 = 0;
    /// It failed.
    pub const FAILED: u8 = 1;
    /// The command line cannot be understood.
    pub const USAGE: u8 = 2;
    /// What was named is not there.
    pub const NOT_FOUND: u8 = 3;
    /// It is not allowed.
    pub const DENIED: u8 = 4;
    /// It conflicts with what is there.
    pub const CONFLICT: u8 = 5;
    /// No node answers.
    pub const UNREACHABLE: u8 = 6;
    /// It took too long.
    pub const TIMED_OUT: u8 = 7;
    /// A plan has changes.
    pub const CHANGES: u8 = 9;
    /// The function that was invoked failed.
    pub const FUNCTION_FAILED: u8 = 10;
    /// The manifest or a setting cannot be used.
    pub const UNUSABLE: u8 = 78;
    /// It was interrupted.
    pub const INTERRUPTED: u8 = 130;
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// What the process ends with: one of [`exit`].
    pub exit: u8,
    /// The code of its explain page.
    pub code: Option<&'static str>,
    /// What failed, in lower case, names in backticks.
    pub message: String,
    /// The next step.
    pub help: Option<String>,
    /// The mistakes of a manifest, if that is what failed: they are shown instead.
    pub diagnostics: Option<Diagnostics>,
}

impl CommandError {
    /// A failure with a code.
    pub fn new(exit: u8, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, code: Some(code), message, help: None, diagnostics: None }
    }

    /// The same with a next step.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// A file that cannot be read or written.
    pub fn file(verb: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(exit::FAILED, "E0110", format!("cannot {verb} {}: {error}", path.display()))
    }

    /// An exit status that says all there is to say.
    #[must_use]
    pub const fn silent(exit: u8) -> Self {
        Self { exit, code: None, message: String::new(), help: None, diagnostics: None }
    }

    /// Whether there is anything to print.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.exit == exit::DONE || self.message.is_empty()
    }

    /// Prints it to stderr; what it says can be typed as it is.
    pub fn print(&self, colour: bool) {
        let typed = format!("more: {} explain", program());
        let text = self.render(colour).replace("more: millrace explain", &typed);
        drop(std::io::stderr().write_all(text.as_bytes()));
    }

    /// What is printed to stderr, with its line ends.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        if let Some(diagnostics) = &self.diagnostics {
            return diagnostics.render(colour);
        }
        let paint = |tone: &str, text: &str| {
            if colour { format!("\x1b[{tone}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let code = self.code.map(|code| format!("[{code}]")).unwrap_or_default();
        let mut out = format!("{}: {}\n", paint("1;31", &format!("error{code}")), self.message);
        if let Some(help) = &self.help {
            out.push_str(&format!("   {} {help}\n", paint("1;36", "help:")));
        }
        if let Some(code) = self.code {
            out.push_str(&paint("2", &format!("   more: millrace explain {code}")));
            out.push('\n');
        }
        out
    }
}

impl std::fmt::Display for CommandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for CommandError {}

impl From<Diagnostics> for CommandError {
    fn from(diagnostics: Diagnostics) -> Self {
        let count = diagnostics.error_count();
        let code = diagnostics.iter().next().map(|one| one.code);
        let message = format!("{count} mistakes in the manifest");
        let diagnostics = Some(diagnostics);
        Self { exit: exit::UNUSABLE, code, message, help: None, diagnostics }
    }
}

impl From<std::io::Error> for CommandError {
    /// A failure of stdout or stderr themselves. Whoever closed the pipe has seen enough: that is
    /// no failure, and nothing is said of it.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            let message = "the output was closed".to_owned();
            return Self { exit: exit::DONE, code: None, message, help: None, diagnostics: None };
        }
        Self::new(exit::FAILED, "E0110", format!("cannot write the output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let error = CommandError::new(exit::NOT_FOUND, "E0105", "no function `tidi`");
        let error = error.help("did you mean `tidy`?");
        let expected = "\
error[E0105]: no function `tidi`
   help: did you mean `tidy`?
   more: millrace explain E0105
";
        assert_eq!(error.render(false), expected);
        assert!(error.render(true).contains("\x1b[1;31merror[E0105]"));
    }

    #[test]
    fn the_mistakes_of_a_manifest_are_shown_as_they_are() {
        let found = function::Manifest::parse("[app]\nnmae = \"x\"", "millrace.toml").unwrap_err();
        let error = CommandError::from(found.clone());
        assert_eq!((error.exit, error.render(false)), (exit::UNUSABLE, found.render(false)));
    }
}
