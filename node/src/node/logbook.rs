//! The newest lines that functions said, in memory: what `millrace logs` shows. Bounded by lines and
//! by bytes, whatever functions write; who asks from too far back gets what is left.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bus::Timestamp;
use gateway::api::{API, LogEntry, LogLines, LogQuestion};
use runtime::LogLine;
use tokio::sync::Notify;

use super::status::rfc3339;
use crate::commands::error::{CommandError, exit};
use crate::journal::trace_id;

/// What is remembered at most.
const LINES_MAX: usize = 10_000;
const BYTES_MAX: usize = 8 << 20;
/// More lines than are said in a millisecond: a process that was started later has higher numbers.
const LINES_PER_MS: u64 = 1_000;
/// Lines of an answer, unless more are asked for.
const ANSWER_LINES: usize = 1_000;
/// The longest wait for a first line.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// From the least to the worst.
const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub(super) struct Logbook {
    lines: Mutex<Lines>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<(Timestamp, LogLine)>,
    /// The number of the next line.
    next: u64,
    bytes: usize,
}

impl Lines {
    fn push(&mut self, at: Timestamp, line: LogLine) {
        self.bytes += line.message.len();
        self.kept.push_back((at, line));
        self.next += 1;
        while LINES_MAX < self.kept.len() || BYTES_MAX < self.bytes {
            let Some((_, oldest)) = self.kept.pop_front() else { return };
            self.bytes -= oldest.message.len();
        }
    }

    /// The newest lines that are meant, oldest first.
    fn read(&self, asked: &LogQuestion, level: usize, max: usize) -> Vec<LogEntry> {
        let first = self.next - self.kept.len() as u64;
        let numbered = (first..).zip(&self.kept);
        let is_meant = |(number, (_, line)): &(u64, &(Timestamp, LogLine))| {
            asked.from.is_none_or(|from| from <= *number)
                && asked.function.as_ref().is_none_or(|it| **it == *line.function)
                && asked.invocation.as_ref().is_none_or(|it| **it == *line.named.invocation)
                && LEVELS.iter().position(|it| *it == line.level).is_none_or(|it| level <= it)
        };
        let meant: Vec<_> = numbered.filter(is_meant).collect();
        let newest = &meant[meant.len().saturating_sub(max)..];
        let entry = |(number, (at, line)): &(u64, &(Timestamp, LogLine))| LogEntry {
            number: *number,
            node: None,
            at: rfc3339(*at),
            function: line.function.to_string(),
            invocation: Some(line.named.invocation.to_string()).filter(|it| !it.is_empty()),
            level: line.level.to_owned(),
            trace_id: trace_id(&line.named.trace).to_owned(),
            message: line.message.clone(),
        };
        newest.iter().map(entry).collect()
    }
}

impl Logbook {
    /// A book whose numbers are above those of any that this node had before.
    pub(super) fn begun(at: Timestamp) -> Self {
        let next = u64::try_from(at.0).unwrap_or(0) * LINES_PER_MS;
        Self { lines: Mutex::new(Lines { next, ..Lines::default() }), came: Notify::new() }
    }

    /// Takes a line; never blocks for long.
    pub(super) fn note(&self, line: LogLine) {
        let at = Timestamp::now();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(at, line);
        self.came.notify_waiters();
    }

    pub(super) async fn read(&self, asked: &LogQuestion) -> Result<LogLines, CommandError> {
        let level = match &asked.level {
            None => 0,
            Some(level) => LEVELS.iter().position(|it| it == level).ok_or_else(|| {
                let message = format!("`{}` is no level", level.escape_debug());
                CommandError::new(exit::USAGE, "E0513", message)
                    .help("one of trace, debug, info, warn, error")
            })?,
        };
        let max = asked.max.unwrap_or(ANSWER_LINES).clamp(1, LINES_MAX);
        let wait = Duration::from_millis(asked.wait_ms).min(WAIT_MAX);
        let until = tokio::time::Instant::now() + wait;
        loop {
            // Before the look, so that nothing comes between.
            let came = self.came.notified();
            let answer = {
                let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                LogLines {
                    api: API,
                    lines: lines.read(asked, level, max),
                    next: lines.next,
                    ..LogLines::default()
                }
            };
            let is_there = !answer.lines.is_empty();
            if is_there || tokio::time::timeout_at(until, came).await.is_err() {
                return Ok(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::Named;

    use super::*;

    fn line(function: &str, level: &'static str, message: &str) -> LogLine {
        let invocation = if function == "f" { "4-2-1" } else { "" };
        let named = Named { invocation: invocation.into(), ..Named::default() };
        LogLine { function: function.into(), level, message: message.to_owned(), named }
    }

    async fn said(book: &Logbook, asked: LogQuestion) -> Vec<String> {
        let answer = book.read(&asked).await.unwrap();
        answer.lines.into_iter().map(|it| format!("{} {}", it.number, it.message)).collect()
    }

    #[tokio::test]
    async fn lines_are_found_by_function_level_and_number() {
        let book = Logbook::default();
        for (function, level, message) in
            [("f", "info", "a"), ("g", "error", "b"), ("f", "warn", "c"), ("f", "debug", "d")]
        {
            book.note(line(function, level, message));
        }
        let all = LogQuestion::default();
        assert_eq!(said(&book, all.clone()).await, ["0 a", "1 b", "2 c", "3 d"]);
        let of = LogQuestion { function: Some("f".into()), ..all.clone() };
        assert_eq!(said(&book, of).await, ["0 a", "2 c", "3 d"]);
        let one = LogQuestion { invocation: Some("4-2-1".into()), ..all.clone() };
        assert_eq!(said(&book, one).await, ["0 a", "2 c", "3 d"]);
        let none = LogQuestion { invocation: Some("4-2-2".into()), ..all.clone() };
        assert!(said(&book, none).await.is_empty());
        let bad = LogQuestion { level: Some("warn".into()), ..all.clone() };
        assert_eq!(said(&book, bad).await, ["1 b", "2 c"]);
        let newest = LogQuestion { max: Some(1), from: Some(2), ..all.clone() };
        assert_eq!(said(&book, newest).await, ["3 d"]);
        let wrong = LogQuestion { level: Some("loud".into()), ..all };
        assert_eq!(book.read(&wrong).await.unwrap_err().code, Some("E0513"));
    }

    #[tokio::test]
    async fn who_waits_is_told_at_once_and_what_is_kept_is_bounded() {
        let book = std::sync::Arc::new(Logbook::default());
        let asked = LogQuestion { wait_ms: 30_000, ..LogQuestion::default() };
        let waiting = tokio::spawn({
            let book = std::sync::Arc::clone(&book);
            async move { said(&book, asked).await }
        });
        tokio::task::yield_now().await;
        book.note(line("f", "info", "first"));
        assert_eq!(waiting.await.unwrap(), ["0 first"]);
        for _line in 0..LINES_MAX {
            book.note(line("f", "info", "x"));
        }
        let all = LogQuestion { max: Some(LINES_MAX), ..LogQuestion::default() };
        let kept = said(&book, all.clone()).await;
        assert_eq!((kept.len(), kept[0].as_str()), (LINES_MAX, "1 x"));
        for _line in 0..3 {
            book.note(line("f", "info", &"y".repeat(BYTES_MAX / 2)));
        }
        assert!(said(&book, all).await.len() <= 2, "bytes are bounded too");
    }
}
