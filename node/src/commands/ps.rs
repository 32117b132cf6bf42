//! `millrace ps`: the instances of functions that there are now, and what each takes.

use std::time::Duration;

use gateway::api::{InstanceInfo, InstanceList, InstanceState};

use super::error::CommandError;
use super::program::program;
use super::unheard;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, bytes, count, span};

/// A machine that is busy takes its time to say what processes have in memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shows the instances of functions that there are now.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace ps                  of all functions
  millrace ps hot-alert        of one
  millrace ps --node edge-2    of one node of a cluster
  millrace ps -o json          for programs; null is unknown, not zero")]
pub struct PsArgs {
    /// A function, by its name.
    #[arg(value_name = "FUNCTION")]
    pub function: Option<String>,
}

/// Carries it out.
///
/// # Errors
///
/// When no node answers.
pub fn run(args: &PsArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect_about(globals)?;
    let mut list: InstanceList = client.get_with("/v1/instances", &[], PATIENCE)?;
    if let Some(name) = &args.function {
        list.instances.retain(|it| is_of(&it.function, name));
    }
    if globals.output == Format::Json {
        return output::print_json(&list);
    }
    let paint = Paint::new(globals.colour_on_stdout());
    let unheard = unheard::lines(&list.unheard, paint, &program());
    output::print(&format!("{}{unheard}", render(&list.instances, paint)))
}

/// Whether `name`, with or without the application's before it, is that of `function`.
pub(super) fn is_of(function: &str, name: &str) -> bool {
    function == name || function.rsplit('/').next() == Some(name)
}

fn render(instances: &[InstanceInfo], paint: Paint) -> String {
    if instances.is_empty() {
        return "no instances: functions start them when there is work\n".to_owned();
    }
    rows(instances).render(paint)
}

/// A table of them.
pub(super) fn rows(instances: &[InstanceInfo]) -> Rows {
    let has_nodes = instances.iter().any(|it| it.node.is_some());
    let mut head =
        vec!["FUNCTION", "REVISION", "INSTANCE", ">PID", "STATE", ">AGE", ">RUNS", ">MEMORY"];
    head.extend(has_nodes.then_some("NODE"));
    let mut rows = Rows::new(&head);
    for it in instances {
        let mut row = vec![
            it.function.clone(),
            it.revision.clone(),
            it.instance.clone(),
            it.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            state(it.state).to_owned(),
            span(it.age_ms),
            count(it.invocations),
            it.memory_bytes.map_or_else(|| "-".to_owned(), bytes),
        ];
        row.extend(has_nodes.then(|| it.node.clone().unwrap_or_else(|| "-".to_owned())));
        rows.push(row);
    }
    rows
}

const fn state(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Starting => "starting",
        InstanceState::Warm => "warm",
        InstanceState::Busy => "busy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_each_and_what_is_not_known_is_not_zero() {
        let process = InstanceInfo {
            function: "mill/tell".into(),
            revision: "3f2a1b".into(),
            instance: "i-4".into(),
            pid: Some(4_711),
            state: InstanceState::Busy,
            age_ms: 125_000,
            invocations: 1_400,
            memory_bytes: Some(12 << 20),
            ..InstanceInfo::default()
        };
        let component = InstanceInfo {
            state: InstanceState::Warm,
            pid: None,
            memory_bytes: None,
            ..process.clone()
        };
        let expected = "\
FUNCTION   REVISION  INSTANCE   PID  STATE  AGE   RUNS    MEMORY
mill/tell  3f2a1b    i-4       4711  busy    2m  1,400  12.0 MiB
mill/tell  3f2a1b    i-4          -  warm    2m  1,400         -
";
        assert_eq!(render(&[process, component], Paint::default()), expected);
        assert!(render(&[], Paint::default()).starts_with("no instances"));
        assert!(is_of("a/f", "f") && is_of("a/f", "a/f") && !is_of("a/f", "a"));
    }
}
