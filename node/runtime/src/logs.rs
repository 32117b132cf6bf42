//! What functions say: the lines of one invocation, bounded, each made one line whatever is in it,
//! on their way to the node's log and to whoever watches.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Named;

/// What one invocation may write to its log, stdout and stderr together.
pub(crate) const LOG_BYTES_MAX: usize = 64 << 10;

/// One log line of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Which function.
    pub function: Arc<str>,
    /// trace, debug, info, warn or error; stdout is info, stderr is warn.
    pub level: &'static str,
    /// The text, as one line: control characters are escaped.
    pub message: String,
    /// What said it; nameless where it came while an instance started, or after its invocation.
    pub named: Named,
}

/// Takes log lines; called from guests' tasks, so it must not block.
pub type LogSink = Arc<dyn Fn(LogLine) + Send + Sync>;

/// A sink, printable.
#[derive(Clone)]
pub(crate) struct Logs(pub(crate) LogSink);

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logs")
    }
}

/// What the instance wrote during one invocation, cut at [`LOG_BYTES_MAX`].
pub(crate) struct Output {
    function: Arc<str>,
    sink: Option<LogSink>,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    named: Named,
    bytes: usize,
    /// Whether more was written than is shown, and that was said.
    cut: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last_error: String,
}

impl Output {
    pub(crate) fn new(function: &Arc<str>, sink: Option<&Logs>) -> Self {
        let sink = sink.map(|logs| Arc::clone(&logs.0));
        Self { function: Arc::clone(function), sink, written: Mutex::default() }
    }

    /// A new invocation starts.
    pub(crate) fn reset(&self, named: &Named) {
        *self.written() = Written { named: named.clone(), ..Written::default() };
    }

    /// A line of the interface `logging`.
    pub(crate) fn log(&self, level: &'static str, message: &str) {
        let mut written = self.written();
        if let Some(message) = self.admit(&mut written, message.as_bytes()) {
            let message = String::from_utf8_lossy(message);
            self.line(&written.named, level, &message);
        }
    }

    /// Passes on lines that did not end, and gives the last line of stderr: what a panic said.
    pub(crate) fn finish(&self) -> String {
        let mut written = self.written();
        let (out, err) = (std::mem::take(&mut written.stdout), std::mem::take(&mut written.stderr));
        let (named, mut said) =
            (std::mem::take(&mut written.named), std::mem::take(&mut written.last_error));
        self.lines(&named, "info", &out, &mut String::new());
        self.lines(&named, "warn", &err, &mut said);
        said
    }

    /// Bytes of stdout, or of stderr.
    pub(crate) fn write(&self, bytes: &[u8], error: bool) {
        let mut written = self.written();
        let written = &mut *written;
        let Some(bytes) = self.admit(written, bytes) else { return };
        let pending = if error { &mut written.stderr } else { &mut written.stdout };
        pending.extend_from_slice(bytes);
        if let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') {
            let whole: Vec<u8> = pending.drain(..=end).collect();
            let level = if error { "warn" } else { "info" };
            let mut last = String::new();
            self.lines(&written.named, level, &whole, &mut last);
            if error && !last.is_empty() {
                if !written.last_error.is_empty() {
                    written.last_error.push_str("; ");
                }
                written.last_error.push_str(&last);
                written.last_error.truncate(written.last_error.floor_char_boundary(1_000));
            }
        }
    }

    fn lines(&self, named: &Named, level: &'static str, bytes: &[u8], all: &mut String) {
        // A carriage return folds lines into one: Python's tracebacks come so.
        let text = String::from_utf8_lossy(bytes);
        for line in text.split(['\n', '\r']).filter(|line| !line.is_empty()) {
            if !all.is_empty() {
                all.push_str("; ");
            }
            all.push_str(line);
            self.line(named, level, line);
        }
    }

    fn line(&self, named: &Named, level: &'static str, message: &str) {
        let message = escaped(message);
        tracing::debug!(target: "millrace::guest", function = %self.function, level, message);
        if let Some(sink) = &self.sink {
            let (function, named) = (Arc::clone(&self.function), named.clone());
            sink(LogLine { function, level, message, named });
        }
    }

    /// As much of `bytes` as the invocation may still write; says so once when that is not all.
    fn admit<'a>(&self, written: &mut Written, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let room = LOG_BYTES_MAX.saturating_sub(written.bytes);
        let taken = &bytes[..bytes.len().min(room)];
        written.bytes += taken.len();
        if taken.len() < bytes.len() && !written.cut {
            written.cut = true;
            let text =
                format!("more than {} KiB of log: the rest is left out", LOG_BYTES_MAX >> 10);
            self.line(&written.named, "warn", &text);
        }
        (!taken.is_empty()).then_some(taken)
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Written> {
        // The sink is called with it held and may panic; what it guards stays whole.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line whatever is in it: control characters, and those that turn the direction of a text,
/// become escapes.
pub(crate) fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for it in text.chars() {
        if it.is_control() || matches!(it, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            line.extend(it.escape_default());
        } else {
            line.push(it);
        }
    }
    line
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Output({})", self.function)
    }
}
