//! `millrace replay`: runs records that a trigger has read before again, on what the function is now,
//! with outputs in a topic of their own.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use gateway::api::{Replay, ReplayState, ReplayStatus};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::{CommandError, exit};
use super::program::{program, quoted};
use super::trigger::find;
use super::wait;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, count, printable};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which records of which trigger, and where to.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace replay hot-alert --from earliest                       what it would run
  millrace replay hot-alert --from earliest --yes                 all that is there
  millrace replay hot-alert --from 2026-11-24T00:00:00Z --to 2026-11-24T06:00:00Z --yes
  millrace replay hot-alert --from 1200 --to 1300 --partition 3 --into compare --yes
  millrace replay hot-alert --stop")]
pub struct ReplayArgs {
    /// The trigger: APP/FUNCTION/TRIGGER, or enough of it.
    #[arg(value_name = "TRIGGER")]
    pub trigger: String,
    /// The first records: earliest, an offset, or a time such as 2013-01-02T03:04:05Z.
    #[arg(long, value_name = "PLACE", required_unless_present = "stop")]
    pub from: Option<String>,
    /// Where to end: latest, an offset (which does not run), or a time.
    #[arg(long, value_name = "PLACE", default_value = "latest")]
    pub to: String,
    /// Only of this topic, for a trigger of several.
    #[arg(long)]
    pub topic: Option<String>,
    /// Only of this partition.
    #[arg(short, long, value_name = "NUMBER")]
    pub partition: Option<i32>,
    /// The topic for outputs and dead letters; made if missing [default: APP.FUNCTION.replay-N].
    #[arg(long, value_name = "TOPIC")]
    pub into: Option<String>,
    /// Do it, instead of showing what it would do.
    #[arg(short, long, conflicts_with = "stop")]
    pub yes: bool,
    /// Stop one that runs.
    #[arg(long, conflicts_with_all = ["from", "into", "partition", "topic"])]
    pub stop: bool,
}

/// Carries it out.
///
/// # Errors
///
/// `E0506` when there is no such trigger, `E0507` when several are meant, `E0406` when an offset is
/// not there, `E0560` to `E0562` when it cannot run now or there.
pub fn run(args: &ReplayArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let id = find(&client, &args.trigger)?.trigger;
    let path = format!("/v1/triggers/{id}");
    if args.stop {
        client.delete(&format!("{path}/replay"))?;
        return output::print("stopped; outputs so far stay\n");
    }
    let question = Replay {
        from: args.from.clone().unwrap_or_default(),
        to: args.to.clone(),
        topic: args.topic.clone(),
        partition: args.partition,
        into: args.into.clone(),
        dry_run: !args.yes,
    };
    let answer = client.post(&format!("{path}:replay"), &question, PATIENCE);
    let begun: ReplayStatus = answer.map_err(|refused| refused.error)?;
    let status = watch(&client, &path, begun)?;
    match globals.output {
        Format::Json => output::print_json(&status)?,
        Format::Table => {
            output::print(&told(&status, Paint::new(globals.colour_on_stdout())))?;
        }
    }
    judge(&status)
}

/// Waits until it is over. Who gives up waiting ends nothing.
fn watch(
    client: &Client,
    path: &str,
    mut status: ReplayStatus,
) -> Result<ReplayStatus, CommandError> {
    let bar = match io::stderr().is_terminal() {
        true => ProgressBar::new(status.records),
        false => ProgressBar::with_draw_target(Some(status.records), ProgressDrawTarget::hidden()),
    };
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos} of {human_len}  {per_sec}  {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    while status.state == ReplayState::Running {
        wait::pause(LOOK_EVERY);
        status = client.get(&format!("{path}/replay"))?;
        bar.set_position(status.done);
        let held_up = status.error.as_ref().map(|error| format!("waits: {}", error.code));
        bar.set_message(held_up.unwrap_or_default());
    }
    bar.finish_and_clear();
    Ok(status)
}

fn told(status: &ReplayStatus, paint: Paint) -> String {
    let ReplayStatus { trigger, revision, records, done, outputs, dead_letters, .. } = status;
    let into = printable(&status.into);
    if status.state == ReplayState::Preview {
        let mut rows = Rows::new(&["PARTITION", ">FROM", ">TO", ">RECORDS"]);
        for it in &status.partitions {
            rows.push(vec![
                format!("{}[{}]", it.topic, it.partition),
                it.from.to_string(),
                it.to.to_string(),
                count(it.to.abs_diff(it.from)),
            ]);
        }
        return format!(
            "{}{trigger}: {} records would run again on {revision}, outputs would go to {into}\n\
             next: the same with --yes\n",
            rows.render(paint),
            count(*records),
        );
    }
    let next = match outputs + dead_letters {
        0 => String::new(),
        _ => format!("next: {} consume {} --meta --end\n", program(), quoted(&status.into)),
    };
    format!(
        "{trigger}: {} of {} records ran again on {revision}: {} outputs and {} dead letters in \
         {into}\n{next}",
        count(*done),
        count(*records),
        count(*outputs),
        count(*dead_letters),
    )
}

fn judge(status: &ReplayStatus) -> Result<(), CommandError> {
    let trigger = &status.trigger;
    match status.state {
        ReplayState::Failed => {
            let error = status.error.clone().unwrap_or_default();
            let code = function::codes().into_iter().find(|known| known.code == error.code);
            let message = format!("{trigger}: {}", printable(&error.message));
            Err(CommandError::new(exit::FAILED, code.map_or("E0511", |it| it.code), message)
                .help("outputs so far stay; run it again when that is mended"))
        }
        ReplayState::Stopped => {
            let message = format!("{trigger}: the replay was stopped before its end");
            Err(CommandError::new(exit::CONFLICT, "E0561", message)
                .help("outputs so far stay; another one begins anew"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use gateway::api::ReplayedPartition;

    use super::*;

    #[test]
    fn a_preview_says_what_would_run_and_a_replay_what_came_of_it() {
        let partition = ReplayedPartition { topic: "in".into(), partition: 1, from: 5, to: 1_205 };
        let status = ReplayStatus {
            trigger: "a/f/in".into(),
            revision: "3f2a".into(),
            into: "a.f.replay-1".into(),
            records: 1_200,
            partitions: vec![partition],
            ..ReplayStatus::default()
        };
        let expected = "\
PARTITION  FROM    TO  RECORDS
in[1]         5  1205    1,200
a/f/in: 1,200 records would run again on 3f2a, outputs would go to a.f.replay-1
next: the same with --yes
";
        assert_eq!(told(&status, Paint::default()), expected);
        let done = ReplayStatus {
            state: ReplayState::Done,
            done: 1_200,
            outputs: 1_199,
            dead_letters: 1,
            ..status
        };
        let text = told(&done, Paint::default());
        assert!(text.starts_with("a/f/in: 1,200 of 1,200 records ran again on 3f2a: 1,199 outputs and 1 dead letters in a.f.replay-1\nnext: "), "{text}");
        assert_eq!(judge(&done), Ok(()));
        let stopped = ReplayStatus { state: ReplayState::Stopped, ..done };
        assert_eq!(judge(&stopped).unwrap_err().exit, exit::CONFLICT);
    }
}
