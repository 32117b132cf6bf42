//! `millrace tail`: invocations as they end, a line each.

use std::io::{self, Write as _};
use std::time::Duration;

use gateway::api::{TailLine, TailLines};

use super::error::CommandError;
use super::interrupt;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{Format, Paint, count, milliseconds, printable, span};

/// How long the node holds an empty answer back.
const WAIT: Duration = Duration::from_secs(25);

/// Shows invocations as they end.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace tail                    of all functions, until Ctrl-C
  millrace tail hot-alert          of one
  millrace tail --errors           only those that did not end well
  millrace tail -n 10 -o json      the next ten, for programs, a line each")]
pub struct TailArgs {
    /// A function: NAME or APP/NAME.
    #[arg(value_name = "FUNCTION")]
    pub function: Option<String>,
    /// Only those in which a record failed or was not run.
    #[arg(long)]
    pub errors: bool,
    /// End after so many.
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub number: Option<u64>,
}

/// Carries it out.
///
/// # Errors
///
/// `E0506` when there is no such function.
pub fn run(args: &TailArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    interrupt::exit_on_ctrl_c();
    let paint = Paint::new(globals.colour_on_stdout());
    let mut out = io::stdout().lock();
    let (mut from, mut left) = (None::<String>, args.number.unwrap_or(u64::MAX));
    loop {
        let wait = if from.is_some() { WAIT } else { Duration::ZERO };
        let wait_ms = wait.as_millis().to_string();
        let mut asked = vec![("wait_ms", wait_ms.as_str())];
        asked.extend(args.function.as_deref().map(|it| ("function", it)));
        asked.extend(from.as_deref().map(|it| ("from", it)));
        let said: TailLines = client.get_with("/v1/tail", &asked, wait)?;
        for it in said.lines.iter().filter(|it| !args.errors || it.outcome != "ok") {
            match globals.output {
                Format::Json => {
                    serde_json::to_writer(&mut out, it).map_err(io::Error::from)?;
                    out.write_all(b"\n")?;
                }
                Format::Table => out.write_all(render(it, paint).as_bytes())?,
            }
            left -= 1;
            if left == 0 {
                return Ok(out.flush()?);
            }
        }
        out.flush()?;
        from = Some(said.next);
    }
}

fn render(it: &TailLine, paint: Paint) -> String {
    let outcome = format!("{:<4}", it.outcome);
    let outcome = match it.outcome.as_str() {
        "ok" => paint.good(&outcome),
        "fail" => paint.bad(&outcome),
        _ => paint.doubtful(&outcome),
    };
    // The time of day: who follows knows the day.
    let time = it.at.split_once('T').map_or(it.at.as_str(), |(_, time)| time);
    let mut text = format!(
        "{:<28} {:>6} rec  {:>8}  {}  {}",
        it.range,
        count(it.records),
        milliseconds(it.run_us as f64 / 1e3),
        if it.cold { "cold" } else { "warm" },
        it.invocation,
    );
    if it.outcome != "ok" || 1 < it.attempt {
        let most = it.attempts_max.map_or_else(String::new, |most| format!("/{most}"));
        text.push_str(&format!("  attempt {}{most}", it.attempt));
    }
    if let Some(wait) = it.next_try_at.as_deref().and_then(|next| until(&it.at, next)) {
        text.push_str(&format!(", next in {wait}"));
    }
    if let Some(name) = &it.error_type {
        let message = it.error_message.as_deref().unwrap_or_default();
        text.push_str(&format!("  {name}: {}", message.lines().next().unwrap_or_default()));
    }
    format!("{} {outcome} {}\n", paint.dim(time.trim_end_matches('Z')), printable(&text))
}

/// From one time to another.
fn until(from: &str, to: &str) -> Option<String> {
    let (from, to): (jiff::Timestamp, jiff::Timestamp) = (from.parse().ok()?, to.parse().ok()?);
    u64::try_from(to.as_millisecond() - from.as_millisecond()).ok().map(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_an_invocation_ended_and_what_comes_next() {
        let ok = TailLine {
            at: "2013-01-02T07:31:02.114Z".into(),
            invocation: "4-2-118".into(),
            outcome: "ok".into(),
            range: "readings[2]@18223..18322".into(),
            records: 100,
            run_us: 9_100,
            attempt: 1,
            attempts_max: Some(3),
            ..TailLine::default()
        };
        let expected =
            "07:31:02.114 ok   readings[2]@18223..18322        100 rec    9.1 ms  warm  4-2-118\n";
        assert_eq!(render(&ok, Paint::default()), expected);
        let failed = TailLine {
            outcome: "fail".into(),
            range: "readings[4]@9921".into(),
            records: 1,
            attempt: 2,
            next_try_at: Some("2013-01-02T07:31:06.114Z".into()),
            error_type: Some("KeyError".into()),
            error_message: Some("'c'\nat line 3\x1b[2J".into()),
            ..ok
        };
        let text = render(&failed, Paint::default());
        assert!(text.ends_with("4-2-118  attempt 2/3, next in 4s  KeyError: 'c'\n"), "{text}");
    }
}
