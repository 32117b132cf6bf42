//! `millrace consume`: reads a topic from where it is told to, and goes on as records come. What
//! is printed into a pipe is what was produced, byte for byte; on a terminal nothing moves the
//! cursor.

mod live;

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::time::Duration;

use gateway::Data;
use gateway::api::{Fetch, FetchedRecords, RecordData};

use super::error::CommandError;
use super::interrupt;
use super::topic::path_of;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{Format, Paint, printable};
pub use live::LiveArgs;

/// What `millrace consume` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace consume alerts                              all there are, then as they come
  millrace consume alerts -n 1                         one, and wait for it if there is none
  millrace consume alerts --end                        all there are
  millrace consume alerts --from latest                only new ones
  millrace consume alerts --from 2013-01-02T03:00:00Z -n 10
  millrace consume readings.dead --meta --end          with origin, key and headers
  millrace consume alerts --end -o json | jq .key
  millrace consume alerts --live --node edge-1:7500 --token-file alerts.token --resume alerts.at")]
pub struct ConsumeArgs {
    /// The topic.
    pub topic: String,
    /// Stop after this many records.
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub number: Option<u64>,
    /// Where to begin: earliest, latest, an offset, or a time such as 2013-01-02T03:04:05Z.
    #[arg(long, value_name = "START", default_value = "earliest")]
    pub from: String,
    /// Only this partition.
    #[arg(short, long, value_name = "NUMBER")]
    pub partition: Option<i32>,
    /// Go on as records come. This is what it does unless told otherwise.
    #[arg(short, long)]
    pub follow: bool,
    /// Stop at the end of the topic instead of waiting for more.
    #[arg(short, long, conflicts_with = "follow")]
    pub end: bool,
    /// Print partition, offset, time, key and headers before each value.
    #[arg(short, long)]
    pub meta: bool,
    /// From anywhere, with a token.
    #[command(flatten)]
    pub live: LiveArgs,
}

/// How long the node holds an empty answer back.
const WAIT: Duration = Duration::from_secs(25);
/// Records of one answer.
const RECORDS_MAX: u64 = 1_000;

/// How a record is printed.
#[derive(Clone, Copy, Debug)]
struct Style {
    is_json: bool,
    has_meta: bool,
    is_terminal: bool,
    paint: Paint,
}

/// Carries it out.
///
/// # Errors
///
/// When no node answers, or there is no such topic.
pub fn run(args: &ConsumeArgs, globals: &Globals) -> Result<(), CommandError> {
    if args.live.live {
        return live::run(args, globals);
    }
    let client = Client::connect(globals)?;
    let path = format!("{}:fetch", path_of(&args.topic)?);
    interrupt::exit_on_ctrl_c();
    let style = Style {
        is_json: globals.output == Format::Json,
        has_meta: args.meta,
        is_terminal: io::stdout().is_terminal(),
        paint: Paint::new(globals.colour_on_stdout()),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = args.number;
    let mut positions = std::collections::BTreeMap::new();
    loop {
        let wait = if args.end { Duration::ZERO } else { WAIT };
        let question = Fetch {
            from: positions.is_empty().then(|| args.from.clone()),
            positions,
            partition: args.partition,
            max: usize::try_from(left.unwrap_or(RECORDS_MAX).min(RECORDS_MAX)).ok(),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(0),
        };
        let fetched: FetchedRecords =
            client.post(&path, &question, wait).map_err(|refused| refused.error)?;
        for (partition, lost) in &fetched.expired {
            let topic = &args.topic;
            writeln!(io::stderr(), "! {lost} records of {topic}[{partition}] expired unread")?;
        }
        for record in &fetched.records {
            write_record(&mut out, record, style)?;
        }
        out.flush()?;
        left = left.map(|left| left.saturating_sub(fetched.records.len() as u64));
        if left == Some(0) || (args.end && fetched.at_end) {
            return Ok(());
        }
        positions = fetched.next;
    }
}

fn write_record(
    out: &mut impl Write,
    record: &RecordData,
    style: Style,
) -> Result<(), CommandError> {
    if style.is_json {
        serde_json::to_writer(&mut *out, record).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        return Ok(());
    }
    if style.has_meta {
        let meta = style.paint.dim(&meta(record));
        write!(out, "{meta}  ")?;
    }
    match &record.value {
        None => out.write_all(b"null")?,
        Some(value) if style.is_terminal => out.write_all(shown(value).as_bytes())?,
        Some(value) => out.write_all(value.as_bytes())?,
    }
    out.write_all(b"\n")?;
    Ok(())
}

/// `readings[2]@18  2013-01-02T03:00:00.000Z  key bed-4  millrace-dead-error-type=Reading.Number`
fn meta(record: &RecordData) -> String {
    let mut line = format!("{}[{}]@{}", record.topic, record.partition, record.offset);
    match &record.timestamp {
        Some(time) => line.push_str(&format!("  {time}")),
        None => line.push_str(&format!("  {} ms", record.timestamp_ms)),
    }
    if let Some(key) = &record.key {
        line.push_str(&format!("  key {}", shown(key)));
    }
    for header in &record.headers {
        let value = header.value.as_ref().map_or_else(|| "null".to_owned(), shown);
        line.push_str(&format!("  {}={value}", shown(&header.name)));
    }
    line
}

fn shown(data: &Data) -> String {
    printable(&String::from_utf8_lossy(data.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use gateway::api::HeaderData;

    use super::*;

    fn record() -> RecordData {
        RecordData {
            topic: "readings".into(),
            partition: 2,
            offset: 18,
            timestamp: Some("2013-01-02T03:00:00.000Z".into()),
            timestamp_ms: 1_357_095_600_000,
            key: Some("bed-4".into()),
            value: Some(Data::from(&b"\x1b[2J\xff"[..])),
            headers: vec![HeaderData { name: "a".into(), value: Some("b".into()) }],
        }
    }

    fn written(record: &RecordData, is_json: bool, has_meta: bool, is_terminal: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let style = Style { is_json, has_meta, is_terminal, paint: Paint::default() };
        write_record(&mut out, record, style).unwrap();
        out
    }

    #[test]
    fn a_pipe_gets_bytes_and_a_terminal_gets_text() {
        assert_eq!(written(&record(), false, false, false), b"\x1b[2J\xff\n");
        assert_eq!(written(&record(), false, false, true), "\\u{1b}[2J\u{fffd}\n".as_bytes());
        let tombstone = RecordData { value: None, ..record() };
        assert_eq!(written(&tombstone, false, false, false), b"null\n");
    }

    #[test]
    fn meta_and_json_say_everything() {
        let meta = String::from_utf8(written(&record(), false, true, true)).unwrap();
        let expected = "readings[2]@18  2013-01-02T03:00:00.000Z  key bed-4  a=b  ";
        assert!(meta.starts_with(expected), "{meta}");
        let json = written(&record(), true, false, true);
        assert_eq!(serde_json::from_slice::<RecordData>(&json).unwrap(), record());
    }
}
