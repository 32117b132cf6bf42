//! The systemd journal in its own protocol, so that what a node and its functions say can be asked
//! for by field: `journalctl MILLRACE_FUNCTION=hot-alert`. Used where standard error is the
//! journal's; elsewhere lines go to standard error as ever.

use std::fmt;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metrics::counter;
use runtime::LogLine;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Where the journal takes lines. `MILLRACE_JOURNAL` names another place, or `off`.
const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "millrace";
/// A datagram has to fit the socket's buffer, 208 KiB by default.
const VALUE_BYTES_MAX: usize = 48 << 10;
/// What the ids of messages begin with; the code of `millrace explain` is the rest.
const MESSAGES: [u8; 11] = [0x4f, 0x1c, 0x9a, 0x7b, 0xe8, 0xd3, 0x42, 0x6a, 0x9b, 0x05, 0xc7];
/// What functions say comes from the pools by itself.
const GUESTS: &str = "millrace::guest";

const DROPPED: &str = "millrace_journal_lines_dropped_total";

/// Tells the recorder what this is.
pub(crate) fn describe_metrics() {
    metrics::describe_counter!(DROPPED, "Lines that the system's journal did not take.");
}

/// The journal. It is never waited for: a line that it does not take at once is counted and lost.
#[derive(Clone)]
pub(crate) struct Journal {
    socket: Arc<UnixDatagram>,
    path: Arc<Path>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Journal({})", self.path.display())
    }
}

impl Journal {
    /// The journal, if standard error goes there.
    pub(crate) fn of_this_process() -> Option<Self> {
        let path = match std::env::var_os("MILLRACE_JOURNAL") {
            Some(word) if word == "off" => return None,
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => PathBuf::from(SOCKET),
        };
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = std::fs::metadata("/proc/self/fd/2").ok()?;
        is_stream(&stream, stderr.st_dev(), stderr.st_ino()).then(|| Self::at(&path))?
    }

    /// The one that listens there.
    fn at(path: &Path) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket: Arc::new(socket), path: path.into() })
    }

    /// What a function said.
    pub(crate) fn line(&self, line: &LogLine) {
        let mut entry = Entry::new(priority(line.level));
        entry.field("MILLRACE_FUNCTION", &line.function);
        entry.field("MILLRACE_INVOCATION", &line.named.invocation);
        entry.field("TRACE_ID", trace_id(&line.named.trace));
        entry.field("MESSAGE", &line.message);
        self.send(&entry);
    }

    fn send(&self, entry: &Entry) {
        if self.socket.send_to(&entry.bytes, &self.path).is_err() {
            counter!(DROPPED).increment(1);
        }
    }
}

/// Whether `JOURNAL_STREAM` names this file: it is inherited by processes whose standard error has
/// gone elsewhere since.
fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    named.split_once(':').is_some_and(|(its_device, its_inode)| {
        its_device.parse() == Ok(device) && its_inode.parse() == Ok(inode)
    })
}

/// The trace of a `traceparent`.
pub(crate) fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap_or_default()
}

/// As syslog has it.
fn priority(level: &str) -> u8 {
    match level {
        "error" => 3,
        "warn" => 4,
        "info" => 6,
        _ => 7,
    }
}

/// An entry in the making: `NAME=value` and a newline, or, for a value with newlines, the name, its
/// length and the value.
struct Entry {
    bytes: Vec<u8>,
}

impl Entry {
    fn new(priority: u8) -> Self {
        let mut entry = Self { bytes: Vec::with_capacity(512) };
        entry.field("PRIORITY", &priority.to_string());
        entry.field("SYSLOG_IDENTIFIER", IDENTIFIER);
        entry
    }

    /// An empty value is none.
    fn field(&mut self, name: &str, value: &str) {
        let value = &value[..value.floor_char_boundary(VALUE_BYTES_MAX)];
        if value.is_empty() {
            return;
        }
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.bytes.push(b'\n');
            self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'\n');
    }
}

/// The id of messages with a code of `millrace explain`; `None` for other codes.
fn message_id(code: &str) -> Option<String> {
    let is_ours = code.len() == 5
        && code.starts_with(['E', 'W'])
        && code[1..].bytes().all(|it| it.is_ascii_digit());
    let bytes = MESSAGES.iter().copied().chain(code.bytes());
    is_ours.then(|| bytes.map(|it| format!("{it:02x}")).collect())
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let meta = event.metadata();
        if meta.target() == GUESTS {
            return;
        }
        let level = match *meta.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut told = Told { entry: Entry::new(priority(level)), ..Told::default() };
        event.record(&mut told);
        let Told { mut entry, mut message, rest } = told;
        message.push_str(&rest);
        entry.field("MESSAGE", &message);
        entry.field("MILLRACE_TARGET", meta.target());
        self.send(&entry);
    }
}

/// An event's fields: those that have a name of their own in the journal stand there, and all of
/// them, as on a terminal, behind the message.
struct Told {
    entry: Entry,
    message: String,
    rest: String,
}

impl Default for Told {
    fn default() -> Self {
        Self { entry: Entry { bytes: Vec::new() }, message: String::new(), rest: String::new() }
    }
}

impl Told {
    fn take(&mut self, name: &str, value: &str) {
        match name {
            "message" => return value.clone_into(&mut self.message),
            "function" => self.entry.field("MILLRACE_FUNCTION", value),
            "invocation" => self.entry.field("MILLRACE_INVOCATION", value),
            "trigger" => self.entry.field("MILLRACE_TRIGGER", value),
            "trace_id" => self.entry.field("TRACE_ID", value),
            "code" => {
                self.entry.field("MILLRACE_CODE", value);
                self.entry.field("MESSAGE_ID", &message_id(value).unwrap_or_default());
            }
            _ => {}
        }
        self.rest.push_str(&format!(" {name}={value}"));
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field.name(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use runtime::Named;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Reads an entry as the journal does.
    fn fields(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|it| *it == b'\n').unwrap();
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if let Some(at) = line.iter().position(|it| *it == b'=') {
                fields.insert(text(&line[..at]), text(&line[at + 1..]));
                bytes = rest;
            } else {
                let (length, rest) = rest.split_at(8);
                let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
                fields.insert(text(line), text(&rest[..length]));
                assert_eq!(rest[length], b'\n');
                bytes = &rest[length + 1..];
            }
        }
        fields
    }

    /// A socket that stands for the journal's.
    fn journal() -> (tempfile::TempDir, UnixDatagram, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listens = UnixDatagram::bind(&path).unwrap();
        listens.set_nonblocking(true).unwrap();
        (dir, listens, Journal::at(&path).unwrap())
    }

    fn next(listens: &UnixDatagram) -> BTreeMap<String, String> {
        let mut bytes = vec![0; 256 << 10];
        let length = listens.recv(&mut bytes).unwrap();
        fields(&bytes[..length])
    }

    #[test]
    fn events_have_the_journals_fields() {
        let (_dir, listens, journal) = journal();
        let subscriber = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(subscriber, || {
            let (function, invocation) = ("hot", "1-2-3");
            tracing::error!(
                function, invocation, trace_id = "4bf9", code = "E0312", app = %"mill",
                "it cannot\nstart"
            );
            tracing::debug!(target: "millrace::guest", "said elsewhere");
            tracing::warn!(code = "ValueError", "odd");
        });
        let entry = next(&listens);
        let rest = "function=hot invocation=1-2-3 trace_id=4bf9 code=E0312 app=mill";
        for (name, value) in [
            ("PRIORITY", "3"),
            ("SYSLOG_IDENTIFIER", "millrace"),
            ("MILLRACE_FUNCTION", "hot"),
            ("MILLRACE_INVOCATION", "1-2-3"),
            ("TRACE_ID", "4bf9"),
            ("MILLRACE_CODE", "E0312"),
            ("MESSAGE_ID", "4f1c9a7be8d3426a9b05c74530333132"),
            ("MESSAGE", &format!("it cannot\nstart {rest}")),
        ] {
            assert_eq!(entry.get(name).map(String::as_str), Some(value), "{name}");
        }
        let entry = next(&listens);
        assert_eq!((&*entry["PRIORITY"], entry.get("MESSAGE_ID")), ("4", None));
        assert!(listens.recv(&mut [0; 8]).is_err(), "what functions say is not said twice");
    }

    #[test]
    fn what_a_function_says_names_its_invocation_and_trace() {
        let (_dir, listens, journal) = journal();
        let line = LogLine {
            function: "hot".into(),
            level: "warn",
            message: "PRIORITY=0".to_owned(),
            named: Named {
                invocation: "1-2-3".into(),
                trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            },
        };
        journal.line(&line);
        let entry = next(&listens);
        assert_eq!((&*entry["PRIORITY"], &*entry["MESSAGE"]), ("4", "PRIORITY=0"));
        assert_eq!(entry["TRACE_ID"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(
            (&*entry["MILLRACE_FUNCTION"], &*entry["MILLRACE_INVOCATION"]),
            ("hot", "1-2-3")
        );
        journal.line(&LogLine { message: "y".repeat(1 << 20), named: Named::default(), ..line });
        let entry = next(&listens);
        assert_eq!((entry["MESSAGE"].len(), entry.get("TRACE_ID")), (VALUE_BYTES_MAX, None));
    }

    #[test]
    fn a_journal_that_does_not_listen_holds_nobody_up() {
        let (dir, listens, journal) = journal();
        let line = LogLine {
            function: "hot".into(),
            level: "info",
            message: "x".repeat(1_000),
            named: Named::default(),
        };
        for _line in 0..10_000 {
            journal.line(&line);
        }
        drop((listens, dir));
        journal.line(&line);
    }

    #[test]
    fn the_stream_is_the_one_that_standard_error_is() {
        assert!(is_stream("8:42", 8, 42));
        for other in ["8:43", "9:42", "8", "", "8:42:1", "x:y"] {
            assert!(!is_stream(other, 8, 42), "{other}");
        }
    }
}
