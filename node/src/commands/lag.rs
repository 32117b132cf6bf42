//! `millrace lag`: how many records each trigger has before it, in all or by partition. Where
//! there are any, a second look says how quickly they go, and when a trigger will have caught up.

use std::time::{Duration, Instant};

use gateway::api::{Lag, PartitionLag, ShardState};

use super::error::CommandError;
use super::program::program;
use super::{unheard, wait};
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, count, count_or_unknown, span};

/// Between two looks.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Shows how far triggers are behind, and when they will have caught up.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace lag                  by trigger and topic; a second longer where somebody is behind
  millrace lag -p               by partition
  millrace lag tidy             of one function or trigger
  millrace lag --node edge-2    of what one node of a cluster owns
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
    let client = Client::connect_about(globals)?;
    let look = || -> Result<Lag, CommandError> {
        let mut lag: Lag = client.get("/v1/lag")?;
        if let Some(name) = &args.name {
            lag.triggers.retain(|trigger| trigger.trigger.contains(name.as_str()));
            lag.total = lag.triggers.iter().map(|trigger| trigger.lag).sum();
        }
        Ok(lag)
    };
    let (mut lag, looked_at) = (look()?, Instant::now());
    if globals.output == Format::Json {
        return output::print_json(&lag);
    }
    if lag.triggers.is_empty() {
        return output::print("no triggers\n");
    }
    let paint = Paint::new(globals.colour_on_stdout());
    let mut before = None;
    if !args.partitions && lag.total != Some(0) {
        wait::pause(LOOK_AFTER);
        let first = std::mem::replace(&mut lag, look()?);
        before = Some((first, looked_at.elapsed()));
    }
    let rows = match args.partitions {
        true => by_partition(&lag),
        false => by_topic(&lag, before.as_ref().map(|(first, time)| (first, *time))),
    };
    output::print(&format!(
        "{}total {}\n{}",
        rows.render(paint),
        count_or_unknown(lag.total),
        unheard::lines(&lag.unheard, paint, &program())
    ))
}

fn by_topic(lag: &Lag, before: Option<(&Lag, Duration)>) -> Rows {
    let mut rows = Rows::new(&[
        "TRIGGER",
        "TOPIC",
        ">PARTITIONS",
        ">LAG",
        ">WORST",
        ">RATE/s",
        "CAUGHT UP",
        "STATE",
    ]);
    for trigger in &lag.triggers {
        for partitions in trigger.partitions.chunk_by(|a, b| a.topic == b.topic) {
            let total = partitions.iter().map(|partition| partition.lag).sum();
            let worst = partitions.iter().max_by_key(|partition| partition.lag.unwrap_or(u64::MAX));
            let worst = worst.filter(|worst| worst.lag != Some(0));
            let pace = before.and_then(|(first, time)| {
                let known = first.triggers.iter().find(|it| it.trigger == trigger.trigger)?;
                pace(&known.partitions, partitions, time)
            });
            let (rate, caught_up) = match (total, pace) {
                (Some(0), _) => ("-".to_owned(), "now".to_owned()),
                (_, Some(pace)) => (count(pace.settled_per_s.round() as u64), pace.told()),
                (_, None) => ("-".to_owned(), "unknown".to_owned()),
            };
            rows.push(vec![
                trigger.trigger.clone(),
                partitions[0].topic.clone(),
                count(partitions.len() as u64),
                count_or_unknown(total),
                worst.map_or_else(String::new, |worst| {
                    format!("[{}] {}", worst.partition, count_or_unknown(worst.lag))
                }),
                rate,
                caught_up,
                states(partitions),
            ]);
        }
    }
    rows
}

/// How partitions of a topic went between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    settled_per_s: f64,
    /// How much shorter the lag got, a second; below zero it grew.
    gained_per_s: f64,
    lag: u64,
}

impl Pace {
    fn told(self) -> String {
        match self {
            Self { gained_per_s, lag, .. } if 0.0 < gained_per_s => {
                let ms = lag as f64 / gained_per_s * 1e3;
                format!("in {}", span(ms.min(1e15) as u64))
            }
            Self { settled_per_s: 0.0, .. } => "never: it stands".to_owned(),
            _ => "never: it grows".to_owned(),
        }
    }
}

/// `None` where something is unknown, or a position was moved back meanwhile.
fn pace(before: &[PartitionLag], now: &[PartitionLag], time: Duration) -> Option<Pace> {
    let (mut settled, mut gained, mut lag) = (0_i64, 0_i64, 0);
    for it in now {
        let is_it =
            |other: &&PartitionLag| (&other.topic, other.partition) == (&it.topic, it.partition);
        let other = before.iter().find(is_it)?;
        settled += it.next? - other.next?;
        gained += i64::try_from(other.lag?).ok()? - i64::try_from(it.lag?).ok()?;
        lag += it.lag?;
    }
    let per_s = |count: i64| count as f64 / time.as_secs_f64();
    let (settled_per_s, gained_per_s) = (per_s(settled), per_s(gained));
    (0 <= settled).then_some(Pace { settled_per_s, gained_per_s, lag })
}

fn by_partition(lag: &Lag) -> Rows {
    let mut head = vec![
        "TRIGGER",
        "PARTITION",
        ">START",
        ">NEXT",
        ">END",
        ">AHEAD",
        ">LAG",
        ">EPOCH",
        "STATE",
    ];
    let all = lag.triggers.iter().flat_map(|it| &it.partitions);
    let has_nodes = all.clone().any(|it| it.node.is_some());
    head.extend(has_nodes.then_some("NODE"));
    let mut rows = Rows::new(&head);
    for trigger in &lag.triggers {
        for one in &trigger.partitions {
            let mut row = vec![
                trigger.trigger.clone(),
                format!("{}[{}]", one.topic, one.partition),
                one.start.to_string(),
                one.next.map_or_else(|| "unknown".to_owned(), |next| next.to_string()),
                one.end.to_string(),
                count(one.ahead),
                count_or_unknown(one.lag),
                one.epoch.to_string(),
                word(one.state).to_owned(),
            ];
            row.extend(has_nodes.then(|| one.node.clone().unwrap_or_else(|| "-".to_owned())));
            rows.push(row);
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
        ShardState::Unknown => "unknown",
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
TRIGGER  TOPIC  PARTITIONS      LAG        WORST  RATE/s  CAUGHT UP  STATE
app/f/f  a               2        3        [0] 3       -  unknown    running
app/f/f  b               2  unknown  [0] unknown       -  unknown    1 of 2 stopped
";
        assert_eq!(by_topic(&lag, None).render(Paint::default()), expected);
        let text = by_partition(&lag).render(Paint::default());
        assert!(text.lines().nth(1).unwrap().contains("a[0]"), "{text}");
    }

    #[test]
    fn two_looks_say_when_a_trigger_will_have_caught_up() {
        let at = |next, end| PartitionLag {
            topic: "a".to_owned(),
            end,
            next: Some(next),
            lag: u64::try_from(end - next).ok(),
            ..PartitionLag::default()
        };
        let told = |before: PartitionLag, now: PartitionLag| {
            pace(&[before], &[now], Duration::from_secs(2)).map(|it| (it.settled_per_s, it.told()))
        };
        assert_eq!(told(at(0, 1_000), at(400, 1_200)), Some((200.0, "in 8s".to_owned())));
        assert_eq!(told(at(0, 100), at(50, 200)), Some((25.0, "never: it grows".to_owned())));
        assert_eq!(told(at(0, 100), at(0, 200)), Some((0.0, "never: it stands".to_owned())));
        assert_eq!(told(at(50, 100), at(0, 100)), None, "somebody moved it back");
        assert_eq!(told(PartitionLag { lag: None, ..at(0, 1) }, at(1, 1)), None);
        assert_eq!(pace(&[], &[at(0, 1)], LOOK_AFTER), None, "a partition that is new");
    }
}
