//! `millrace produce`: appends records from the command line, a file or stdin, many at a time
//! where there are many, and says where they are once they are durable.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use gateway::Data;
use gateway::api::{HeaderData, Produce, ProduceRecord, Produced};
use indicatif::{ProgressBar, ProgressStyle};

use super::error::{CommandError, exit};
use super::interrupt;
use super::topic::path_of;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{Format, count, milliseconds, printable};

/// What `millrace produce` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace produce readings '{\"c\":34.2}'
  millrace produce readings -k bed-4 '{\"c\":34.2}'
  millrace produce readings -H source=hand -H unit=celsius 34.2
  millrace produce readings -f readings.jsonl --key-field station
  seq 1000 | millrace produce numbers
  millrace produce users -k 4711 --null                  a tombstone")]
pub struct ProduceArgs {
    /// The topic.
    pub topic: String,
    /// Records, one a word.
    #[arg(value_name = "VALUE")]
    pub values: Vec<String>,
    /// Take records from the lines of this file; - is stdin.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["values", "null"])]
    pub file: Option<PathBuf>,
    /// The key of all these records.
    #[arg(short, long, value_name = "KEY")]
    pub key: Option<String>,
    /// Take each record's key from this field of its JSON value.
    #[arg(long, value_name = "FIELD", conflicts_with = "key")]
    pub key_field: Option<String>,
    /// A header of all these records, as NAME=VALUE; may be given more than once.
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub headers: Vec<HeaderData>,
    /// Append to this partition, whatever the key.
    #[arg(short, long, value_name = "NUMBER")]
    pub partition: Option<i32>,
    /// Append a record without a value, which is a tombstone of its key.
    #[arg(long, conflicts_with = "values")]
    pub null: bool,
}

pub(super) fn header(text: &str) -> Result<HeaderData, String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("it is written as NAME=VALUE".to_owned()),
        Some((name, value)) => Ok(HeaderData { name: name.into(), value: Some(value.into()) }),
    }
}

/// Records of one request.
const RECORDS_MAX: usize = 500;
/// Bytes of one request, beyond which it gets no further record.
const BYTES_MAX: usize = 1 << 20;
/// The longest line: more than any topic takes.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Lines read ahead of the node.
const LINES_AHEAD: usize = 4 * RECORDS_MAX;
/// How long a busy node is asked again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Carries it out.
///
/// # Errors
///
/// When no node answers, the node refuses, or a line cannot be read.
pub fn run(args: &ProduceArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let path = format!("{}/records", path_of(&args.topic)?);
    interrupt::exit_on_ctrl_c();
    let mut sender = Sender { client, path, args, globals, sent: 0, started_at: Instant::now() };
    if args.null {
        sender.send(vec![sender.record(None)?])?;
    } else if args.values.is_empty() {
        sender.lines()?;
    } else {
        let values = args.values.iter().map(|value| sender.record(Some(value.as_str().into())));
        let records = values.collect::<Result<Vec<_>, _>>()?;
        for batch in records.chunks(RECORDS_MAX) {
            sender.send(batch.to_vec())?;
        }
    }
    sender.finish()
}

struct Sender<'a> {
    client: Client,
    path: String,
    args: &'a ProduceArgs,
    globals: &'a Globals,
    sent: u64,
    started_at: Instant,
}

impl Sender<'_> {
    fn record(&self, value: Option<Data>) -> Result<ProduceRecord, CommandError> {
        let key = match (&self.args.key, &self.args.key_field) {
            (Some(key), _) => Some(key.as_str().into()),
            (None, Some(field)) => {
                let number = self.sent + 1;
                let key = key_of(value.as_ref(), field).map_err(|why| {
                    let message = format!("after {} records, a value {why}", number - 1);
                    CommandError::new(exit::FAILED, "E0111", message)
                        .help("--key-field takes lines of JSON objects")
                })?;
                Some(key)
            }
            (None, None) => None,
        };
        let (headers, partition) = (self.args.headers.clone(), self.args.partition);
        Ok(ProduceRecord { key, value, headers, partition, timestamp_ms: None })
    }

    /// Appends the lines of a file or of stdin: as many at a time as are there, without waiting
    /// for more.
    fn lines(&mut self) -> Result<(), CommandError> {
        let file = self.args.file.as_ref().filter(|path| path.as_os_str() != "-");
        let (input, bytes): (Box<dyn Read + Send>, u64) = match file {
            Some(path) => {
                let opened = File::open(path).and_then(|it| Ok((it.metadata()?.len(), it)));
                let (bytes, opened) =
                    opened.map_err(|error| CommandError::file("read", path, &error))?;
                (Box::new(opened), bytes)
            }
            None => {
                if io::stdin().is_terminal() {
                    writeln!(io::stderr(), "one record a line; Ctrl-D ends")?;
                }
                (Box::new(io::stdin()), 0)
            }
        };
        let lines = read_ahead(input)?;
        let progress = progress(file.is_some() || !io::stdin().is_terminal(), bytes);
        while let Ok(line) = lines.recv() {
            let (mut records, mut bytes) = (Vec::new(), 0);
            let mut next = Some(line);
            while let Some(line) = next.take() {
                let line = line?;
                bytes += line.len();
                progress.inc(line.len() as u64 + 1);
                records.push(self.record(Some(line.into()))?);
                if records.len() < RECORDS_MAX && bytes < BYTES_MAX {
                    next = lines.try_recv().ok();
                }
            }
            self.send(records)?;
            progress.set_message(format!("{} records", count(self.sent)));
        }
        progress.finish_and_clear();
        Ok(())
    }

    /// One request. A busy node is asked again; nothing of a refused request was written.
    fn send(&mut self, records: Vec<ProduceRecord>) -> Result<(), CommandError> {
        let question = Produce { records };
        let asked_at = Instant::now();
        let produced: Produced = loop {
            let sent_at = Instant::now();
            match self.client.post(&self.path, &question, Duration::ZERO) {
                Ok(produced) => {
                    self.report(&question, &produced, sent_at.elapsed())?;
                    break produced;
                }
                Err(refused) => match refused.retry_after {
                    Some(after) if asked_at.elapsed() + after < PATIENCE => {
                        // The command has nothing else to do, and no clock that tests turn.
                        std::thread::park_timeout(after);
                    }
                    _ => return Err(self.after_some(refused.error)),
                },
            }
        };
        self.sent += produced.records.len() as u64;
        Ok(())
    }

    /// Where records landed: each of a few, or all of them for programs.
    fn report(
        &self,
        question: &Produce,
        produced: &Produced,
        took: Duration,
    ) -> Result<(), CommandError> {
        let topic = &self.args.topic;
        let mut out = io::stdout().lock();
        if self.globals.output == Format::Json {
            for landed in &produced.records {
                let (partition, offset) = (landed.partition, landed.offset);
                let line =
                    serde_json::json!({"topic": topic, "partition": partition, "offset": offset});
                writeln!(out, "{line}")?;
            }
            return Ok(());
        }
        if !self.names_each() {
            return Ok(());
        }
        let took = milliseconds(took.as_secs_f64() * 1_000.0);
        for (record, landed) in question.records.iter().zip(&produced.records) {
            let key = record.key.as_ref().map(|key| String::from_utf8_lossy(key.as_bytes()));
            let key = key.map(|key| format!("  key {}", printable(&key))).unwrap_or_default();
            let (partition, offset) = (landed.partition, landed.offset);
            writeln!(out, "  {topic}[{partition}]@{offset}{key}  acked in {took}")?;
        }
        Ok(())
    }

    /// Whether each record gets a line: where a person typed them.
    fn names_each(&self) -> bool {
        self.args.null || !self.args.values.is_empty()
    }

    fn finish(&self) -> Result<(), CommandError> {
        if self.globals.output == Format::Json || self.names_each() {
            return Ok(());
        }
        let took = self.started_at.elapsed().as_secs_f64();
        let rate = if took > 0.0 { self.sent as f64 / took } else { 0.0 };
        let (sent, topic, rate) = (count(self.sent), &self.args.topic, count(rate as u64));
        let took = milliseconds(took * 1_000.0);
        writeln!(io::stdout(), "  {sent} records to {topic}  acked in {took}  ({rate}/s)")?;
        Ok(())
    }

    /// What was acknowledged before stays.
    fn after_some(&self, error: CommandError) -> CommandError {
        if self.sent == 0 {
            return error;
        }
        let message = format!("after {} acknowledged records: {}", count(self.sent), error.message);
        CommandError { message, ..error }
    }
}

/// The text or the number under `field` of a JSON object.
fn key_of(value: Option<&Data>, field: &str) -> Result<Data, String> {
    let object: serde_json::Value = serde_json::from_slice(value.map_or(b"", |it| it.as_bytes()))
        .map_err(|error| format!("is not JSON: {error}"))?;
    match object.get(field) {
        Some(serde_json::Value::String(text)) => Ok(text.as_str().into()),
        Some(serde_json::Value::Number(number)) => Ok(number.to_string().as_str().into()),
        Some(_) => Err(format!("has a `{field}` that is neither text nor number")),
        None => Err(format!("has no field `{field}`")),
    }
}

/// Reads lines on a thread, so that those that are there go in one request, and one that comes
/// alone goes at once.
fn read_ahead(input: impl Read + Send + 'static) -> Result<Receiver<Line>, CommandError> {
    let (sender, receiver) = sync_channel(LINES_AHEAD);
    let read = move || {
        let mut input = BufReader::with_capacity(256 << 10, input);
        loop {
            let line = match next_line(&mut input) {
                Ok(Some(line)) => Ok(line),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let is_last = line.is_err();
            if sender.send(line).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new().name("millrace-lines".into()).spawn(read)?;
    Ok(receiver)
}

type Line = Result<Vec<u8>, CommandError>;

/// The next line that is not empty, without its end.
fn next_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, CommandError> {
    loop {
        let mut line = Vec::new();
        let read = input.take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        let read = read.map_err(|error| {
            CommandError::new(exit::FAILED, "E0110", format!("cannot read the input: {error}"))
        })?;
        if LINE_BYTES_MAX < read {
            let message = format!("a line has more than {LINE_BYTES_MAX} bytes");
            return Err(CommandError::new(exit::FAILED, "E0407", message));
        }
        if read == 0 {
            return Ok(None);
        }
        if line.ends_with(b"\n") {
            line.pop();
        }
        if line.ends_with(b"\r") {
            line.pop();
        }
        if !line.is_empty() {
            return Ok(Some(line));
        }
    }
}

/// A bar on a terminal, if there is something to wait for.
fn progress(is_long: bool, bytes: u64) -> ProgressBar {
    if !is_long || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        0 => (ProgressBar::new_spinner(), "  {spinner} {bytes} {msg}"),
        _ => (ProgressBar::new(bytes), "  {bar:32} {percent}%  {msg}  {bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_without_their_ends_and_empty_ones_are_left_out() {
        let mut input = &b"a\n\nb\r\n\r\n c "[..];
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input).unwrap() {
            lines.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(lines, ["a", "b", " c "]);
    }

    #[test]
    fn a_line_without_an_end_is_refused_before_it_fills_the_memory() {
        let mut input = BufReader::new(io::repeat(b'x'));
        let error = next_line(&mut input).unwrap_err();
        assert_eq!(error.code, Some("E0407"));
    }

    #[test]
    fn a_key_is_a_field_of_the_value() {
        let key = |value: &str| {
            key_of(Some(&value.into()), "id").map(|key| key.as_str().unwrap().to_owned())
        };
        assert_eq!(key(r#"{"id":"x y"}"#).unwrap(), "x y");
        assert_eq!(key(r#"{"id":12345678901234567}"#).unwrap(), "12345678901234567");
        assert!(key(r#"{"id":null}"#).unwrap_err().contains("neither"));
        assert!(key("{}").unwrap_err().contains("no field `id`"));
        assert!(key("id").unwrap_err().contains("not JSON"));
    }

    #[test]
    fn headers_are_names_and_values() {
        let found = header("a=b=c").unwrap();
        assert_eq!((found.name.as_str(), found.value.unwrap().as_str()), (Some("a"), Some("b=c")));
        assert!(header("=x").is_err() && header("x").is_err());
    }
}
