//! `millrace lag`: how many records each trigger has before it, in all or by partition.

use gateway::api::{Lag, PartitionLag, ShardState};

use super::error::CommandError;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, count, count_or_unknown};

/// Shows how far triggers are behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace lag                  by trigger and topic
  millrace lag -p               by partition
  millrace lag tidy             of one function or trigger
  millrace lag -o json          for programs; null is unknown, not zero")]
pub struct LagArgs {
    /// A function, or a part of a trigger's id.
    pub name: Option<String>,
    /// Show each partition.
    #[arg(short, long)]
    pub partitions: bool,
}

/// Carries it out.
///
/// # Errors
///
/// When no node answers.
pub fn run(args: &LagArgs, globals: &Globals) -> Result<(), CommandError> {
    let mut lag: Lag = Client::connect(globals)?.get("/v1/lag")?;
    if let Some(name) = &args.name {
        lag.triggers.retain(|trigger| trigger.trigger.contains(name.as_str()));
        lag.total = lag.triggers.iter().map(|trigger| trigger.lag).sum();
    }
    if globals.output == Format::Json {
        return output::print_json(&lag);
    }
    if lag.triggers.is_empty() {
        return output::print("no triggers\n");
    }
    let paint = Paint::new(globals.colour_on_stdout());
    let rows = if args.partitions { by_partition(&lag) } else { by_topic(&lag) };
    output::print(&format!("{}total {}\n", rows.render(paint), count_or_unknown(lag.total)))
}

fn by_topic(lag: &Lag) -> Rows {
    let mut rows = Rows::new(&["TRIGGER", "TOPIC", ">PARTITIONS", ">LAG", ">WORST", "STATE"]);
    for trigger in &lag.triggers {
        for partitions in trigger.partitions.chunk_by(|a, b| a.topic == b.topic) {
            let total = partitions.iter().map(|partition| partition.lag).sum();
            let worst = partitions.iter().max_by_key(|partition| partition.lag.unwrap_or(u64::MAX));
            let worst = worst.filter(|worst| worst.lag != Some(0));
            rows.push(vec![
                trigger.trigger.clone(),
                partitions[0].topic.clone(),
                count(partitions.len() as u64),
                count_or_unknown(total),
                worst.map_or_else(String::new, |worst| {
                    format!("[{}] {}", worst.partition, count_or_unknown(worst.lag))
                }),
                states(partitions),
            ]);
        }
    }
    rows
}

fn by_partition(lag: &Lag) -> Rows {
    let head =
        ["TRIGGER", "PARTITION", ">START", ">NEXT", ">END", ">AHEAD", ">LAG", ">EPOCH", "STATE"];
    let mut rows = Rows::new(&head);
    for trigger in &lag.triggers {
        for one in &trigger.partitions {
            rows.push(vec![
                trigger.trigger.clone(),
                format!("{}[{}]", one.topic, one.partition),
                one.start.to_string(),
                one.next.map_or_else(|| "unknown".to_owned(), |next| next.to_string()),
                one.end.to_string(),
                count(one.ahead),
                count_or_unknown(one.lag),
                one.epoch.to_string(),
                word(one.state).to_owned(),
            ]);
        }
    }
    rows
}

/// One word if all are alike, else how many are not as they should be.
fn states(partitions: &[PartitionLag]) -> String {
    let first = partitions[0].state;
    if partitions.iter().all(|partition| partition.state == first) {
        return word(first).to_owned();
    }
    let others = partitions.iter().filter(|it| it.state != ShardState::Running);
    let mut words: Vec<&str> = others.clone().map(|it| word(it.state)).collect();
    words.sort_unstable();
    words.dedup();
    format!("{} of {} {}", others.count(), partitions.len(), words.join(", "))
}

/// The word that people read.
#[must_use]
pub const fn word(state: ShardState) -> &'static str {
    match state {
        ShardState::Starting => "starting",
        ShardState::Running => "running",
        ShardState::Waiting => "waiting",
        ShardState::Paused => "paused",
        ShardState::Draining => "draining",
        ShardState::Stopped => "stopped",
    }
}

#[cfg(test)]
mod tests {
    use gateway::api::TriggerLag;

    use super::*;

    fn partition(topic: &str, partition: i32, lag: Option<u64>) -> PartitionLag {
        let (topic, state) = (topic.to_owned(), ShardState::Running);
        let next = lag.map(|lag| 100 - i64::try_from(lag).unwrap());
        PartitionLag { topic, partition, state, end: 100, next, lag, ..PartitionLag::default() }
    }

    #[test]
    fn unknown_is_shown_as_unknown() {
        let partitions = vec![
            partition("a", 0, Some(3)),
            partition("a", 1, Some(0)),
            PartitionLag { state: ShardState::Stopped, ..partition("b", 0, None) },
            partition("b", 1, Some(1)),
        ];
        let trigger = "app/f/f".to_owned();
        let lag = Lag {
            triggers: vec![TriggerLag { trigger, partitions, ..TriggerLag::default() }],
            ..Lag::default()
        };
        let expected = "\
TRIGGER  TOPIC  PARTITIONS      LAG        WORST  STATE
app/f/f  a               2        3        [0] 3  running
app/f/f  b               2  unknown  [0] unknown  1 of 2 stopped
";
        assert_eq!(by_topic(&lag).render(Paint::default()), expected);
        let text = by_partition(&lag).render(Paint::default());
        assert!(text.lines().nth(1).unwrap().contains("a[0]"), "{text}");
    }
}
