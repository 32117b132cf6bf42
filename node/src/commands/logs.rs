//! `millrace logs`: what functions said of late, and, when told to follow, what they say.

use std::io::{self, Write as _};
use std::time::Duration;

use gateway::api::{LogEntry, LogLines};

use super::dead_letter::time;
use super::error::CommandError;
use super::program::program;
use super::{interrupt, unheard};
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{Format, Paint, printable};

/// How long the node holds an empty answer back.
const WAIT: Duration = Duration::from_secs(25);

/// Shows what functions said, and follows it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace logs                          the newest lines of all functions
  millrace logs hot-alert -f             of one, and as they come
  millrace logs hot-alert --level warn   warnings and errors
  millrace logs --since 10m --grep timeout
  millrace logs --node edge-2            what was said on one node of a cluster
  millrace logs --invocation 4-2-118     what was said in one invocation
  millrace logs -n 20 -o json            for programs, a line each")]
pub struct LogsArgs {
    /// A function, by its name.
    #[arg(value_name = "FUNCTION")]
    pub function: Option<String>,
    /// Go on as lines come.
    #[arg(short, long)]
    pub follow: bool,
    /// Only of this level or worse.
    #[arg(long, value_parser = ["trace", "debug", "info", "warn", "error"])]
    pub level: Option<String>,
    /// Only of this invocation, as `record`, `tail` and dead letters name it.
    #[arg(long, value_name = "ID")]
    pub invocation: Option<String>,
    /// Only lines that contain this.
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
    /// Only since then: a time such as 2013-01-02T03:04:05Z, or an age such as 10m.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<String>,
    /// The newest so many of those that the node remembers.
    #[arg(short, long, value_name = "NUMBER", default_value = "1000",
        value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub number: u64,
}

/// Carries it out.
///
/// # Errors
///
/// When no node answers.
pub fn run(args: &LogsArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect_about(globals)?;
    interrupt::exit_on_ctrl_c();
    let since = args.since.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let is_meant = |it: &LogEntry| {
        args.grep.as_ref().is_none_or(|text| it.message.contains(text.as_str()))
            && since
                .is_none_or(|since| it.at.parse::<jiff::Timestamp>().is_ok_and(|at| since <= at))
    };
    let paint = Paint::new(globals.colour_on_stdout());
    let mut out = io::stdout().lock();
    let (mut from, mut after) = (None::<u64>, None::<String>);
    let mut silent = Vec::new();
    loop {
        let wait = if from.is_some() { WAIT } else { Duration::ZERO };
        let number = args.number.to_string();
        let (number_from, wait_ms) = (from.map(|it| it.to_string()), wait.as_millis().to_string());
        // Later answers hold what came meanwhile: all of it.
        let max = if from.is_some() { "10000" } else { &number };
        let mut asked = vec![("max", max), ("wait_ms", &wait_ms)];
        asked.extend(args.function.as_deref().map(|it| ("function", name_of(it))));
        asked.extend(args.level.as_deref().map(|it| ("level", it)));
        asked.extend(args.invocation.as_deref().map(|it| ("invocation", it)));
        match (&after, &number_from) {
            (Some(after), _) => asked.push(("after", after)),
            (None, from) => asked.extend(from.as_deref().map(|it| ("from", it))),
        }
        let said: LogLines = client.get_with("/v1/logs", &asked, wait)?;
        for it in said.lines.iter().filter(|it| is_meant(it)) {
            match globals.output {
                Format::Json => {
                    serde_json::to_writer(&mut out, it).map_err(io::Error::from)?;
                    out.write_all(b"\n")?;
                }
                Format::Table => out.write_all(render(it, paint).as_bytes())?,
            }
        }
        out.flush()?;
        if said.unheard != silent {
            let paint = Paint::new(globals.colour_on_stderr());
            let told = unheard::lines(&said.unheard, paint, &program());
            io::stderr().write_all(told.as_bytes())?;
            silent = said.unheard;
        }
        if !args.follow {
            return Ok(());
        }
        (from, after) = (Some(said.next), said.after);
    }
}

/// The function's own name, also where somebody writes the application's before it.
fn name_of(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

fn render(it: &LogEntry, paint: Paint) -> String {
    let level = format!("{:<5}", it.level);
    let level = match it.level.as_str() {
        "error" => paint.bad(&level),
        "warn" => paint.doubtful(&level),
        _ => paint.dim(&level),
    };
    let (at, function) = (paint.dim(&it.at), paint.bold(&printable(&it.function)));
    let node = it.node.as_deref().map(|it| format!(" {}", printable(it))).unwrap_or_default();
    format!("{at} {level}{node} {function}  {}\n", printable(&it.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let entry = LogEntry {
            number: 1,
            node: None,
            at: "2013-01-02T03:04:05.000Z".into(),
            function: "tell".into(),
            invocation: None,
            level: "warn".into(),
            trace_id: String::new(),
            message: "slow\x1b[2J".into(),
        };
        let expected = "2013-01-02T03:04:05.000Z warn  tell  slow\\u{1b}[2J\n";
        assert_eq!(render(&entry, Paint::default()), expected);
        assert_eq!((name_of("app/tell"), name_of("tell")), ("tell", "tell"));
    }
}
