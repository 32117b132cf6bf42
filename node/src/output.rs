//! What commands print: tables for people, JSON for programs, colour only where somebody looks.
//! Nothing that came with a record can move a terminal's cursor.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};

use comfy_table::{Cell, CellAlignment, Table, presets};
use gateway::api::InstanceCounts;
use serde::Serialize;

use crate::cli::Globals;
use crate::commands::error::CommandError;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// The control API's own, for programs.
    Json,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal.
    #[default]
    Auto,
    /// Also into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// Instances of a function: at work, that there is work for, and allowed.
#[must_use]
pub fn instances(counts: InstanceCounts) -> String {
    format!("{}/{}/{}", counts.busy, counts.wanted, counts.max)
}

impl Globals {
    /// Whether stdout gets colour.
    #[must_use]
    pub fn colour_on_stdout(&self) -> bool {
        has_colour(self.color, |name| std::env::var(name).ok(), io::stdout().is_terminal())
    }

    /// Whether stderr gets colour.
    #[must_use]
    pub fn colour_on_stderr(&self) -> bool {
        has_colour(self.color, |name| std::env::var(name).ok(), io::stderr().is_terminal())
    }
}

/// <https://no-color.org> and <https://bixense.com/clicolors>: a flag wins, then NO_COLOR.
fn has_colour(
    choice: ColorChoice,
    variable: impl Fn(&str) -> Option<String>,
    is_terminal: bool,
) -> bool {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if is_set("NO_COLOR") => false,
        ColorChoice::Auto if variable("CLICOLOR_FORCE").is_some_and(|it| is_force(&it)) => true,
        ColorChoice::Auto => is_terminal && variable("TERM").is_none_or(|term| term != "dumb"),
    }
}

fn is_force(value: &str) -> bool {
    !value.is_empty() && value != "0"
}

/// Colours by meaning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paint {
    colour: bool,
}

impl Paint {
    /// With colour or without.
    #[must_use]
    pub const fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// As it should be.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// Somebody should look.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// Somebody may look.
    #[must_use]
    pub fn doubtful(self, text: &str) -> String {
        self.with("33", text)
    }

    /// Beside the point.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// A name or a head.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, tone: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{tone}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Rows under a head, columns two spaces apart, numbers to the right.
#[derive(Debug)]
pub struct Rows {
    head: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Rows {
    /// A head whose names say with a leading `>` that a column is aligned to the right.
    #[must_use]
    pub fn new(head: &[&'static str]) -> Self {
        Self {
            head: head.iter().map(|name| name.strip_prefix('>').unwrap_or(name)).collect(),
            right: head.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as the head has.
    pub fn push(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.head.len(), "a row has a cell per column");
        self.rows.push(cells.iter().map(|cell| printable(cell).into_owned()).collect());
    }

    /// The lines, the head first; nothing at all without rows.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(self.head.clone());
        for row in &self.rows {
            table.add_row(row.iter().map(Cell::new));
        }
        for (index, right) in self.right.iter().enumerate() {
            let Some(column) = table.column_mut(index) else { continue };
            column.set_padding((0, 2));
            if *right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let text = table.to_string();
        let mut out = String::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            out.push_str(&if index == 0 { paint.dim(line) } else { line.to_owned() });
            out.push('\n');
        }
        out
    }
}

/// Prints an answer as the control API gave it, for programs.
///
/// # Errors
///
/// When stdout cannot be written.
pub fn print_json(answer: &impl Serialize) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    let text = serde_json::to_string_pretty(answer).map_err(io::Error::from)?;
    writeln!(out, "{text}")?;
    Ok(())
}

/// Prints text to stdout.
///
/// # Errors
///
/// When stdout cannot be written.
pub fn print(text: &str) -> Result<(), CommandError> {
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// The text with nothing in it that a terminal would obey.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| (c.is_control() && c != '\t') || is_reordering(c);
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if obeyed(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Marks that make a terminal show text in another order than it is in.
const fn is_reordering(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// 1234567 as 1,234,567.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count that may be unknown.
#[must_use]
pub fn count_or_unknown(number: Option<u64>) -> String {
    number.map_or_else(|| "unknown".to_owned(), count)
}

/// Bytes in the largest unit that leaves a digit before the point.
#[must_use]
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        return format!("{value:.0} {}", UNITS[unit]);
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Milliseconds as people read them: 0.42 ms, 3.1 ms, 210 ms, 4.2 s.
#[must_use]
pub fn milliseconds(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{value:.2} ms"),
        value if value < 10.0 => format!("{value:.1} ms"),
        value if value < 1_000.0 => format!("{value:.0} ms"),
        value => format!("{:.1} s", value / 1_000.0),
    }
}

/// A span of time in its largest unit, or two where that matters: 42s, 3m, 2h, 5d.
#[must_use]
pub fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago an RFC 3339 time was, as in "3m"; `None` when it is not one.
#[must_use]
pub fn since(time: &str) -> Option<String> {
    let then = time.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    let now = bus::Timestamp::now().0;
    Some(span(u64::try_from(now - then).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_unless_somebody_says_otherwise() {
        let none = |_: &str| None;
        let set = |what: &'static str, value: &'static str| {
            move |name: &str| (name == what).then(|| value.to_owned())
        };
        assert!(has_colour(ColorChoice::Auto, none, true));
        assert!(!has_colour(ColorChoice::Auto, none, false));
        assert!(!has_colour(ColorChoice::Auto, set("NO_COLOR", "1"), true));
        assert!(has_colour(ColorChoice::Auto, set("NO_COLOR", ""), true));
        assert!(has_colour(ColorChoice::Auto, set("CLICOLOR_FORCE", "1"), false));
        assert!(!has_colour(ColorChoice::Auto, set("CLICOLOR_FORCE", "0"), false));
        assert!(!has_colour(ColorChoice::Auto, set("TERM", "dumb"), true));
        assert!(has_colour(ColorChoice::Always, set("NO_COLOR", "1"), false));
        assert!(!has_colour(ColorChoice::Never, set("CLICOLOR_FORCE", "1"), true));
    }

    #[test]
    fn a_table_is_plain_and_aligned() {
        let mut rows = Rows::new(&["TOPIC", ">RECORDS", "NOTE"]);
        rows.push(vec!["readings".into(), "1,204".into(), String::new()]);
        rows.push(vec!["a".into(), "7".into(), "x".into()]);
        let expected = "\
TOPIC     RECORDS  NOTE
readings    1,204
a               7  x
";
        assert_eq!(rows.render(Paint::default()), expected);
        assert_eq!(Rows::new(&["A"]).render(Paint::default()), "");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(300 << 20), "300 MiB");
        assert_eq!(milliseconds(0.417), "0.42 ms");
        assert_eq!(milliseconds(210.4), "210 ms");
        assert_eq!(milliseconds(4_200.0), "4.2 s");
        assert_eq!(span(59_999), "59s");
        assert_eq!(span(7_300_000), "2h");
        assert_eq!(since("1970-01-01T00:00:00Z").map(|it| it.ends_with('d')), Some(true));
        assert_eq!(since("yesterday"), None);
    }

    #[test]
    fn a_record_cannot_move_the_cursor() {
        assert_eq!(printable("plain\ttext wörter"), "plain\ttext wörter");
        assert_eq!(printable("\x1b[2J\r\n"), "\\u{1b}[2J\\r\\n");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }
}
