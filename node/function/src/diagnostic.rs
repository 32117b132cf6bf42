//! One mistake of a file as people see it: code, place, the line itself, and the next step.
//! [`Diagnostics`] holds all mistakes of a file, because they are reported at once.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing was carried out.
    Error,
    /// It was carried out, and may not be what was meant.
    Warning,
}

/// A place in a file, counted as editors do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Characters to underline, at least 1, none past the line's end.
    pub length: usize,
    /// The line, without its end.
    pub text: String,
}

impl Place {
    /// The place of a byte range of `source`. A range that leaves the source or cuts a character
    /// is moved to the nearest one that does not.
    #[must_use]
    pub fn at(source: &str, range: std::ops::Range<usize>) -> Self {
        let start = floor_char(source, range.start);
        let end = floor_char(source, range.end.max(start));
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |newline| start + newline);
        let text = source[line_start..line_end].trim_end_matches('\r');
        let marked = source[start..end.min(line_end)].trim_end();
        Self {
            line: source[..line_start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            length: marked.chars().count().max(1),
            text: text.to_owned(),
        }
    }
}

fn floor_char(source: &str, at: usize) -> usize {
    let mut at = at.min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// One mistake, or one doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable, with a page in [`explain`](crate::explain).
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in lower case, names in backticks.
    pub message: String,
    /// The file, as the user would name it.
    pub file: String,
    /// Where in it, if anywhere in particular.
    pub place: Option<Place>,
    /// What stands beside the carets.
    pub note: String,
    /// What was tried before it was given up.
    pub tried: Vec<String>,
    /// What was probably meant, by itself, ready to be typed.
    pub suggestion: Option<String>,
    /// The next step, if there is more to say than `suggestion`.
    pub help: Option<String>,
}

/// Characters of a line that are shown; more are cut around the mistake.
const LINE_CHARS_MAX: usize = 120;

impl Diagnostic {
    /// An error without a place yet.
    #[must_use]
    pub fn error(code: &'static str, file: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            file: file.to_owned(),
            place: None,
            note: String::new(),
            tried: Vec::new(),
            suggestion: None,
            help: None,
        }
    }

    /// The text for a terminal, with a line end after every line.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let paint = Paint { colour };
        let (word, tone) = match self.severity {
            Severity::Error => ("error", RED),
            Severity::Warning => ("warning", YELLOW),
        };
        let head = paint.with(tone, &format!("{word}[{}]", self.code));
        let message = format!(": {}", printable(&self.message));
        let mut out = format!("{head}{}\n", paint.with(BOLD, &message));
        let indent = self.render_place(&mut out, paint, tone);
        for tried in &self.tried {
            push_line(&mut out, &format!("{indent}tried: {}", printable(tried)));
        }
        let more = paint.with(DIM, &format!("more: millrace explain {}", self.code));
        let help = match (&self.suggestion, &self.help) {
            (Some(meant), Some(help)) => format!("did you mean `{meant}`? {help}"),
            (Some(meant), None) => format!("did you mean `{meant}`?"),
            (None, Some(help)) => help.clone(),
            (None, None) => {
                push_line(&mut out, &format!("{indent}{more}"));
                return out;
            }
        };
        let help = printable(&help);
        push_line(&mut out, &format!("{indent}{} {help}      {more}", paint.with(CYAN, "help:")));
        out
    }

    /// Writes the file, the line and the carets; returns what the lines after them start with.
    fn render_place(&self, out: &mut String, paint: Paint, tone: &str) -> String {
        let file = printable(&self.file);
        let Some(place) = &self.place else {
            push_line(out, &format!("  {} {file}", paint.with(BLUE, "-->")));
            return "   ".to_owned();
        };
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        let arrow = paint.with(BLUE, "-->");
        push_line(out, &format!("{gutter}{arrow} {file}:{}:{}", place.line, place.column));
        let (text, column, length) = clip(place);
        let bar = paint.with(BLUE, "|");
        push_line(out, &format!("{} {bar} {text}", paint.with(BLUE, &number)));
        let carets = paint
            .with(tone, format!("{} {}", "^".repeat(length), printable(&self.note)).trim_end());
        push_line(out, &format!("{gutter} {bar} {}{carets}", " ".repeat(column - 1)));
        format!("{gutter} ")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

/// The shown part of a line, with the column and the length of the mark in it.
fn clip(place: &Place) -> (String, usize, usize) {
    let chars: Vec<char> = printable(&place.text).chars().collect();
    if chars.len() <= LINE_CHARS_MAX {
        return (chars.into_iter().collect(), place.column, place.length);
    }
    let from = (place.column - 1).saturating_sub(LINE_CHARS_MAX / 3);
    let to = (from + LINE_CHARS_MAX).min(chars.len());
    let shown: String = chars.get(from..to).unwrap_or_default().iter().collect();
    let (head, tail) = (if from > 0 { "…" } else { "" }, if to < chars.len() { "…" } else { "" });
    let column = place.column - from + head.chars().count();
    let length = place.length.min(LINE_CHARS_MAX + 2 - column);
    (format!("{head}{shown}{tail}"), column, length.max(1))
}

/// The same number of characters, none of which moves a terminal's cursor or turns its text.
fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const BLUE: &str = "1;34";
const CYAN: &str = "1;36";
const BOLD: &str = "1";
const DIM: &str = "2";

#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn with(self, tone: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{tone}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// All mistakes of a file, in the order of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// How many there are, doubts included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them are errors.
    #[must_use]
    pub fn error_count(&self) -> usize {
        self.iter().filter(|one| one.severity == Severity::Error).count()
    }

    /// The text for a terminal: each one, an empty line between, and how many there were.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        for one in self.iter() {
            out.push_str(&one.render(colour));
            out.push('\n');
        }
        let errors = self.error_count();
        if errors > 1 {
            let file = self.0.first().map_or("", |one| &one.file);
            writeln!(out, "{errors} errors in {}", printable(file))
                .expect("a string takes any text");
        }
        out.truncate(out.trim_end().len());
        if !out.is_empty() {
            out.push('\n');
        }
        out
    }

    /// Brings them into the order of the lines.
    pub(crate) fn sort(&mut self) {
        let place = |one: &Diagnostic| one.place.as_ref().map_or((0, 0), |at| (at.line, at.column));
        self.0.sort_by_key(place);
        self.0.dedup();
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Self(vec![one])
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown_key(source: &str, range: std::ops::Range<usize>) -> Diagnostic {
        Diagnostic {
            place: Some(Place::at(source, range)),
            note: "not a key of [[function.hot-alert.trigger]]".to_owned(),
            suggestion: Some("batch = { records = 100 }".to_owned()),
            ..Diagnostic::error("E0203", "millrace.toml", "unknown key `batchsize`")
        }
    }

    #[test]
    fn it_looks_as_the_documentation_shows_it() {
        let source = "\n".repeat(17) + "batchsize = 100\n";
        let expected = "\
error[E0203]: unknown key `batchsize`
  --> millrace.toml:18:1
18 | batchsize = 100
   | ^^^^^^^^^ not a key of [[function.hot-alert.trigger]]
   help: did you mean `batch = { records = 100 }`?      more: millrace explain E0203
";
        assert_eq!(unknown_key(&source, 17..26).render(false), expected);
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let one = unknown_key("a = 1\nbatchsize = 100", 6..15);
        let mut plain = String::new();
        let coloured = one.render(true);
        let mut rest = coloured.as_str();
        while let Some(at) = rest.find('\x1b') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
        }
        plain.push_str(rest);
        assert_eq!(plain, one.render(false));
    }

    #[test]
    fn a_place_survives_any_range() {
        for source in ["", "a", "ä = \"ü\"\r\nß", "\n\n"] {
            for start in 0..12 {
                for end in 0..12 {
                    let place = Place::at(source, start..end);
                    assert!(place.length >= 1 && place.column >= 1 && place.line >= 1);
                }
            }
        }
    }

    #[test]
    fn a_name_in_a_message_cannot_move_the_cursor() {
        let found = crate::Manifest::parse("\"\\u001b[2J\\u202e\" = 1", "m").unwrap_err();
        assert!(found.iter().any(|one| one.message.contains('\x1b')), "the case meets its test");
        assert!(!found.render(false).contains(['\x1b', '\u{202e}']), "{found}");
    }

    #[test]
    fn a_line_cannot_move_the_cursor_and_a_long_one_is_cut() {
        let source = format!("{}\x1b[2Jbad", "\t".repeat(300));
        let text = unknown_key(&source, 304..307).render(false);
        assert!(!text.contains('\x1b') && !text.contains('\t'));
        let lines: Vec<&str> = text.lines().collect();
        let bad = lines[2].chars().position(|c| c == 'b').unwrap();
        let caret = lines[3].chars().position(|c| c == '^').unwrap();
        assert_eq!(bad, caret, "{text}");
        assert!(lines[2].chars().count() < 140);
    }
}
