//! `millrace record` and `millrace invocation`: what happened to a record, and what an invocation was.

use std::time::Duration;

use gateway::api::{
    InvocationInfo, LogLines, OutputPlace, RecordAccount, RecordState, TriggerAccount,
};

use super::dead_letter::{Place, place};
use super::error::{CommandError, exit};
use super::program::program;
use super::topic::path_of;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, count, milliseconds, printable, since};

/// Runs of offsets that are listed for people.
const RANGES_SHOWN: usize = 20;

/// Shows what happened to a record.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace record readings[2]@4711              at every trigger that reads it
  millrace record 'alerts[0]@12' -o json        for programs, and what it was made from")]
pub struct RecordArgs {
    /// Where it lies: TOPIC[PARTITION]@OFFSET.
    #[arg(value_name = "PLACE", value_parser = place)]
    pub place: Place,
}

/// Shows what an invocation was.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace invocation 4-2-118             its records, how it ended, what it failed for
  millrace invocation 4-2-118 -o json     for programs")]
pub struct InvocationArgs {
    /// Its name, as `record`, dead letters and the log have it.
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Carries `record` out.
///
/// # Errors
///
/// `E0404` to `E0406` when there is no such record.
pub fn record(args: &RecordArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect_about(globals)?;
    let Place { topic, partition, offset } = &args.place;
    path_of(topic)?;
    let account: RecordAccount =
        client.get(&format!("/v1/records/{topic}/{partition}/{offset}"))?;
    if globals.output == Format::Json {
        return output::print_json(&account);
    }
    let paint = Paint::new(globals.colour_on_stdout());
    output::print(&render_record(&account, paint, &program()))
}

/// Carries `invocation` out.
///
/// # Errors
///
/// `E0531` when nothing is known of it.
pub fn invocation(args: &InvocationArgs, globals: &Globals) -> Result<(), CommandError> {
    let name: dispatch::InvocationName = args
        .id
        .parse()
        .map_err(|wanted: &str| CommandError::new(exit::USAGE, "E0531", wanted.to_owned()))?;
    let client = Client::connect(globals)?;
    let info: InvocationInfo = client.get(&format!("/v1/invocations/{name}"))?;
    if globals.output == Format::Json {
        return output::print_json(&info);
    }
    let name = name.to_string();
    let said: LogLines =
        client.get_with("/v1/logs", &[("invocation", name.as_str())], Duration::ZERO)?;
    output::print(&render_invocation(&info, &said, Paint::new(globals.colour_on_stdout())))
}

const fn word(state: RecordState) -> &'static str {
    match state {
        RecordState::Succeeded => "succeeded",
        RecordState::Filtered => "filtered",
        RecordState::InFlight => "in flight",
        RecordState::Retrying => "retrying",
        RecordState::Held => "held",
        RecordState::Parked => "parked",
        RecordState::DeadLettered => "dead-lettered",
        RecordState::Waiting => "waiting",
        RecordState::Unknown => "unknown",
    }
}

fn coloured(state: RecordState, paint: Paint) -> String {
    match state {
        RecordState::Succeeded | RecordState::Filtered => paint.good(word(state)),
        RecordState::DeadLettered => paint.bad(word(state)),
        RecordState::InFlight | RecordState::Waiting => word(state).to_owned(),
        _ => paint.doubtful(word(state)),
    }
}

fn at(place: &OutputPlace) -> String {
    format!("{}[{}]@{}", place.topic, place.partition, place.offset)
}

fn attempts(number: u32) -> String {
    if number == 1 { "1 attempt".to_owned() } else { format!("{number} attempts") }
}

fn render_record(account: &RecordAccount, paint: Paint, program: &str) -> String {
    let here = format!("{}[{}]@{}", account.topic, account.partition, account.offset);
    let time = account.timestamp.as_deref().unwrap_or("not there any more");
    let mut out = format!("{}  {time}\n", paint.bold(&printable(&here)));
    for step in &account.origin {
        let what = match (step.index, &step.destination) {
            (Some(index), _) => format!("output {index} of"),
            (None, Some(destination)) => format!("{destination} message of"),
            (None, None) => "dead letter of".to_owned(),
        };
        let by = step.trigger.as_deref().map_or_else(String::new, |it| format!("  {it}"));
        let run = step.invocation.as_deref().map_or_else(String::new, |it| format!("  {it}"));
        out.push_str(&printable(&format!(
            "  {what} {}[{}]@{}{by}  revision {}  attempt {}{run}",
            step.topic, step.partition, step.offset, step.revision, step.attempt
        )));
        out.push('\n');
    }
    if account.triggers.is_empty() {
        out.push_str("  no trigger reads its topic\n");
    }
    for it in &account.triggers {
        out.push_str(&render_trigger(it, paint));
    }
    let invocation = account.triggers.iter().find_map(|it| it.invocation.as_ref());
    if let Some(invocation) = invocation {
        out.push_str(&format!("next: {program} invocation {invocation}\n"));
    }
    out
}

fn render_trigger(it: &TriggerAccount, paint: Paint) -> String {
    let mut head = vec![coloured(it.state, paint)];
    if 0 < it.attempts {
        head.push(attempts(it.attempts));
    }
    if let Some(at) = &it.at {
        head.push(since(at).map_or_else(|| at.clone(), |ago| format!("{ago} ago")));
    }
    head.extend(it.next_try_at.iter().map(|at| format!("next try at {at}")));
    head.extend(it.cause.clone());
    head.extend(it.node.as_deref().map(|node| format!("on {}", printable(node))));
    let mut out = format!("{}  {}\n", paint.bold(&printable(&it.trigger)), head.join(", "));
    let mut line = |name: &str, text: &str| {
        out.push_str(&format!("  {} {}\n", paint.dim(&format!("{name:<11}")), printable(text)));
    };
    if let (Some(name), Some(message)) = (&it.error_type, &it.error_message) {
        line("error", &format!("{name}: {message}"));
    }
    for attempt in &it.history {
        let how = match (&attempt.error_type, attempt.ok) {
            (Some(name), _) => format!("failed: {name}"),
            (None, true) => "ok".to_owned(),
            (None, false) => "not run".to_owned(),
        };
        line(
            &format!("attempt {}", attempt.number),
            &format!(
                "{how}  {}  revision {}  {}  {} rec  {}",
                attempt.invocation,
                attempt.revision,
                attempt.at,
                count(attempt.records),
                milliseconds(attempt.run_us as f64 / 1e3),
            ),
        );
    }
    for output in &it.outputs {
        line("output", &at(output));
    }
    if let Some(letter) = &it.dead_letter {
        line("dead letter", &at(letter));
    }
    if let Some(note) = &it.note {
        line("note", note);
    }
    out
}

fn render_invocation(info: &InvocationInfo, said: &LogLines, paint: Paint) -> String {
    let mut out = format!("{}  {}  {}\n", paint.bold(&info.invocation), info.trigger, info.outcome);
    let mut line = |name: &str, text: &str| {
        out.push_str(&format!("{} {}\n", paint.dim(&format!("{name:<9}")), printable(text)));
    };
    let start = match info.start_us {
        Some(start) => format!("cold, started in {}", milliseconds(start as f64 / 1e3)),
        None => "warm".to_owned(),
    };
    line("revision", &info.revision);
    line("ended", &info.at);
    line("ran", &format!("{}, {start}", milliseconds(info.run_us as f64 / 1e3)));
    line("records", &format!("{}, {} ended well", count(info.records), count(info.kept)));
    let mut listed = |name: &str, of: &[String]| {
        for it in of.iter().take(RANGES_SHOWN) {
            line(name, it);
        }
        if RANGES_SHOWN < of.len() {
            line(name, &format!("and {} more: see -o json", of.len() - RANGES_SHOWN));
        }
    };
    listed("  of", &info.ranges);
    let failed = info.failed.iter();
    let failed =
        failed.map(|it| format!("{}  attempt {}  {}", it.record, it.attempt, it.error_type));
    listed("failed", &failed.collect::<Vec<_>>());
    let errors = info.errors.iter();
    let errors = errors.map(|it| format!("{}: {}", it.error_type, it.error_message));
    listed("error", &errors.collect::<Vec<_>>());
    listed("committed", &info.appended);
    let lines = said.lines.iter().map(|it| format!("{} {}  {}", it.at, it.level, it.message));
    listed("said", &lines.collect::<Vec<_>>());
    out
}

#[cfg(test)]
mod tests {
    use gateway::api::{AttemptInfo, LogEntry, OriginStep};

    use super::*;

    fn account() -> RecordAccount {
        let attempt = |number, error_type: Option<&str>| AttemptInfo {
            number,
            invocation: format!("4-2-{number}"),
            revision: "3f2a1b4c5d6e".to_owned(),
            at: "2013-01-02T03:04:05Z".to_owned(),
            records: 100,
            run_us: 9_100,
            ok: error_type.is_none(),
            error_type: error_type.map(str::to_owned),
            error_message: None,
        };
        let output =
            |offset, index| OutputPlace { topic: "alerts".to_owned(), partition: 0, offset, index };
        RecordAccount {
            topic: "readings".to_owned(),
            partition: 2,
            offset: 18,
            timestamp: Some("2013-01-02T03:04:05Z".to_owned()),
            origin: vec![
                OriginStep {
                    topic: "clean".to_owned(),
                    offset: 9,
                    destination: Some("on-failure".to_owned()),
                    revision: "bbbbbbbbbbbb".to_owned(),
                    attempt: 3,
                    ..OriginStep::default()
                },
                OriginStep {
                    topic: "raw".to_owned(),
                    offset: 7,
                    index: Some(1),
                    revision: "aaaaaaaaaaaa".to_owned(),
                    attempt: 1,
                    trigger: Some("a/tidy/t".to_owned()),
                    invocation: Some("1-1-1".to_owned()),
                    ..OriginStep::default()
                },
            ],
            triggers: vec![
                TriggerAccount {
                    trigger: "a/f/t".to_owned(),
                    state: RecordState::Succeeded,
                    attempts: 2,
                    invocation: Some("4-2-2".to_owned()),
                    history: vec![attempt(1, Some("KeyError")), attempt(2, None)],
                    outputs: vec![output(40, Some(0)), output(41, Some(1))],
                    ..TriggerAccount::default()
                },
                TriggerAccount {
                    trigger: "a/g/t".to_owned(),
                    note: Some("settled, and no history tells how".to_owned()),
                    ..TriggerAccount::default()
                },
            ],
            ..RecordAccount::default()
        }
    }

    #[test]
    fn people_see_where_a_record_came_from_what_became_of_it_and_what_to_type_next() {
        let expected = "\
readings[2]@18  2013-01-02T03:04:05Z
  on-failure message of clean[0]@9  revision bbbbbbbbbbbb  attempt 3
  output 1 of raw[0]@7  a/tidy/t  revision aaaaaaaaaaaa  attempt 1  1-1-1
a/f/t  succeeded, 2 attempts
  attempt 1   failed: KeyError  4-2-1  revision 3f2a1b4c5d6e  2013-01-02T03:04:05Z  100 rec  9.1 ms
  attempt 2   ok  4-2-2  revision 3f2a1b4c5d6e  2013-01-02T03:04:05Z  100 rec  9.1 ms
  output      alerts[0]@40
  output      alerts[0]@41
a/g/t  unknown
  note        settled, and no history tells how
next: millrace invocation 4-2-2
";
        assert_eq!(render_record(&account(), Paint::default(), "millrace"), expected);
    }

    #[test]
    fn an_invocation_lists_its_records_in_runs_and_not_all_of_many() {
        let info = InvocationInfo {
            invocation: "4-2-1".to_owned(),
            trigger: "a/f/t".to_owned(),
            outcome: "partial".to_owned(),
            records: 30,
            kept: 29,
            ranges: (0..30).map(|it| format!("in[0]@{}", 2 * it)).collect(),
            ..InvocationInfo::default()
        };
        let line =
            LogEntry { level: "info".into(), message: "saw it".into(), ..LogEntry::default() };
        let said = LogLines { lines: vec![line], ..LogLines::default() };
        let text = render_invocation(&info, &said, Paint::default());
        assert!(text.ends_with("info  saw it\n"), "{text}");
        assert!(text.starts_with("4-2-1  a/f/t  partial\n"), "{text}");
        assert!(text.contains("30, 29 ended well") && text.contains("and 10 more"), "{text}");
    }
}
