//! `millrace invoke`: calls a function and prints what it answers.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use gateway::VALUE_BYTES_MAX;
use serde_json::json;

use super::error::{CommandError, exit};
use super::revisions::{find, path_of};
use crate::cli::Globals;
use crate::client::{Answered, Client};
use crate::output::{self, Format};

/// How long it is waited for the answer if nobody says otherwise: longer than a node waits.
const PATIENCE: Duration = Duration::from_secs(600);

/// Which function, and what it is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace invoke report '{\"bed\":\"bed-4\"}'           prints what the function answers
  millrace invoke greenhouse/report -e @event.json   the event is in a file
  cat event.json | millrace invoke report -e -       the event is read from stdin
  millrace invoke report '{}' --timeout 2s           gives up, and ends the call, after 2 s
  millrace invoke report '{}' --at edge-2            on that node and no other
  millrace invoke report '{}' -o json                with where and how long it ran

Exit status 10: the function failed.")]
pub struct InvokeArgs {
    /// The function: APP/FUNCTION, or enough of it.
    #[arg(value_name = "FUNCTION")]
    pub function: String,
    /// What it is given; without any, null.
    #[arg(value_name = "EVENT", conflicts_with = "event")]
    pub value: Option<String>,
    /// What it is given: a text, @FILE, or - for stdin.
    #[arg(short, long, value_name = "EVENT", allow_hyphen_values = true)]
    pub event: Option<String>,
    /// How long to wait; then the call is ended [default: the function's timeout, and its start].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,
    /// The node that has to run it, instead of whichever is best.
    #[arg(long, value_name = "NODE")]
    pub at: Option<String>,
    /// The trace that it belongs to, as W3C writes it.
    #[arg(long, value_name = "TRACEPARENT")]
    pub traceparent: Option<String>,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = function::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_millis(1) {
        return Err("at least 1ms".to_owned());
    }
    Ok(time)
}

/// Carries it out.
///
/// # Errors
///
/// `E0506` when there is no such function, `E0550` when it failed, `E0551` when it took too long,
/// `E0552` when too many calls wait, `E0553` when it may have run, `E0554` when it runs nowhere.
pub fn run(args: &InvokeArgs, globals: &Globals) -> Result<(), CommandError> {
    let input = event(args)?;
    let client = Client::connect(globals)?;
    let function = find(&client, &args.function)?;
    let timeout = args.timeout.map(|it| it.as_millis().to_string());
    let query = [("timeout_ms", timeout.as_deref()), ("node", args.at.as_deref())];
    let query: Vec<(&str, &str)> =
        query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let path = format!("{}:invoke", path_of(&function));
    let headers: Vec<(&str, &str)> =
        args.traceparent.iter().map(|it| ("traceparent", it.as_str())).collect();
    let wait = args.timeout.unwrap_or(PATIENCE);
    let answered = client.send(&path, &query, &headers, &input, wait).map_err(|refused| {
        let mut error = refused.error;
        if error.code == Some("E0550") {
            error.exit = exit::FUNCTION_FAILED;
        }
        error
    })?;
    match globals.output {
        Format::Json => output::print_json(&as_json(&answered)),
        Format::Table => print(&answered.body),
    }
}

fn event(args: &InvokeArgs) -> Result<Vec<u8>, CommandError> {
    let text = args.value.as_deref().or(args.event.as_deref()).unwrap_or("null");
    let bytes = match (args.event.is_some(), text) {
        (true, "-") => {
            let mut bytes = Vec::new();
            let most = VALUE_BYTES_MAX as u64 + 1;
            let read = std::io::stdin().lock().take(most).read_to_end(&mut bytes);
            read.map_err(|error| CommandError::file("read", "stdin".as_ref(), &error))?;
            bytes
        }
        (true, named) if named.starts_with('@') => {
            let path = std::path::Path::new(&named[1..]);
            std::fs::read(path).map_err(|error| CommandError::file("read", path, &error))?
        }
        (_, text) => text.as_bytes().to_vec(),
    };
    if VALUE_BYTES_MAX < bytes.len() {
        let message = format!("the event is larger than {VALUE_BYTES_MAX} bytes");
        return Err(CommandError::new(exit::USAGE, "E0513", message));
    }
    Ok(bytes)
}

/// As the function gave it; a terminal gets a line end after what has none.
fn print(value: &[u8]) -> Result<(), CommandError> {
    use std::io::IsTerminal as _;
    let mut out = std::io::stdout().lock();
    let ends = value.is_empty() || value.ends_with(b"\n") || !out.is_terminal();
    let written = out.write_all(value).and_then(|()| if ends { Ok(()) } else { writeln!(out) });
    Ok(written.and_then(|()| out.flush())?)
}

fn as_json(answered: &Answered) -> serde_json::Value {
    let header = |name: &str| answered.header(name).unwrap_or_default().to_owned();
    let number = |name: &str| answered.header(name).and_then(|it| it.parse::<u64>().ok());
    let value = match (answered.status, serde_json::from_slice(&answered.body)) {
        (204, _) => serde_json::Value::Null,
        (_, Ok(value)) => value,
        (_, Err(_)) => match std::str::from_utf8(&answered.body) {
            Ok(text) => text.into(),
            Err(_) => {
                use base64::Engine as _;
                json!({"$bytes": base64::prelude::BASE64_STANDARD.encode(&answered.body)})
            }
        },
    };
    json!({
        "answer": value,
        "node": header("millrace-node"),
        "revision": header("millrace-revision"),
        "invocation": header("millrace-invocation"),
        "cold": header("millrace-cold") == "true",
        "queue_us": number("millrace-queue-us"),
        "run_us": number("millrace-run-us"),
    })
}
