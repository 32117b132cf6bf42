//! TOML with its mistakes taken out: the parser stops at the first one, so each is reported, cut
//! out of the text and the rest parsed again. Places stay what they were, because what is cut out
//! is overwritten with spaces.

use std::ops::Range;

use toml_edit::Document;

use super::log::Log;
use crate::code;

/// Mistakes reported before the rest of a file is left alone.
const ERRORS_MAX: usize = 50;

/// Parses what can be parsed, and reports the rest. `None` if nothing is left.
pub(super) fn parse(log: &Log<'_>) -> Option<Document<String>> {
    let mut text = log.text.to_owned();
    for _ in 0..ERRORS_MAX {
        let error = match Document::parse(text.clone()) {
            Ok(document) => return Some(document),
            Err(error) => error,
        };
        let span = mistake(&text, error.span());
        log.incomplete.set(true);
        let message = error.message().trim().replace('\n', ", ");
        let open = open_value(&text, line_start(&text, span.start));
        let note = match open {
            Some(start) => {
                let line = text[..start].matches('\n').count() + 1;
                format!("the value that starts in line {line} is still open here")
            }
            None => "TOML cannot be read here".to_owned(),
        };
        log.push(log.error(code::SYNTAX, &span, message).note(note));
        let cut = cut_out(&text, span.start);
        if text[cut.clone()].trim().is_empty() {
            return None;
        }
        let blank: String =
            text[cut.clone()].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
        text.replace_range(cut, &blank);
    }
    None
}

/// The place of a mistake: where the parser says, or the end of what is written.
fn mistake(text: &str, span: Option<Range<usize>>) -> Range<usize> {
    let written = text.trim_end().len();
    let span = span.unwrap_or(written..written);
    if span.start < written { span } else { written.saturating_sub(1)..written }
}

/// The bytes to cut out for a mistake at `at`: its line; the whole value if one is still open
/// there; and the whole section if its head cannot be read.
fn cut_out(text: &str, at: usize) -> Range<usize> {
    let start = line_start(text, at);
    let end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let line = text[start..end].trim();
    if let Some(open) = open_value(text, start) {
        let goes_on = !is_assignment(line) && !line.starts_with('[');
        return open..if goes_on { next_start(text, end, is_assignment) } else { start };
    }
    if line.starts_with('[') { start..next_start(text, end, |_| false) } else { start..end }
}

/// The start of the line that `at` lies in.
fn line_start(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Where the assignment starts whose list, table or long text is still open at the start of a
/// line. Strings are skipped as well as can be without a parser.
fn open_value(text: &str, line_start: usize) -> Option<usize> {
    let mut end = line_start;
    while end > 0 {
        let start = text[..end - 1].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..end].trim();
        if is_assignment(line) {
            return is_open(&text[start..line_start]).then_some(start);
        }
        if line.starts_with('[') {
            return None;
        }
        end = start;
    }
    None
}

fn is_open(value: &str) -> bool {
    if value.matches("\"\"\"").count() % 2 == 1 || value.matches("'''").count() % 2 == 1 {
        return true;
    }
    let mut depth = 0_usize;
    for line in value.lines() {
        let mut quote = None;
        for c in line.chars() {
            match (quote, c) {
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), c) if open == c => quote = None,
                (None, '#') => break,
                (None, '[' | '{') => depth += 1,
                (None, ']' | '}') => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    depth > 0
}

fn is_assignment(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| is_key(key))
}

fn is_key(key: &str) -> bool {
    let of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '"' | ' ');
    !key.trim().is_empty() && key.trim().chars().all(of_key)
}

/// The start of the next line that opens a section or is what is looked for, or the text's end.
fn next_start(text: &str, from: usize, or: fn(&str) -> bool) -> usize {
    let mut start = from;
    while let Some(newline) = text[start..].find('\n') {
        start += newline + 1;
        let line = text[start..].split('\n').next().unwrap_or_default().trim();
        if line.starts_with('[') || or(line) {
            return start;
        }
    }
    text.len()
}
