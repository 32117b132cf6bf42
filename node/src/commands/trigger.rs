//! `millrace trigger`: lists triggers, pauses and resumes them, and moves their positions. What a
//! move would skip or repeat is shown before anything is moved.

use std::time::Duration;

use gateway::api::{HeldUp, Seek, ShardState, Sought, TriggerInfo, TriggerList};
use serde_json::json;

use super::error::{CommandError, exit};
use super::lag::word;
use super::program::{program, quoted};
use super::unheard;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, count, count_or_unknown, since};

/// What is in flight may take as long to end as a start takes.
const PATIENCE: Duration = Duration::from_secs(570);

/// Lists, pauses, resumes and seeks triggers.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace trigger list
  millrace trigger pause greenhouse/hot-alert/readings
  millrace trigger resume greenhouse/hot-alert/readings
  millrace trigger seek hot-alert --to earliest             what that would repeat
  millrace trigger seek hot-alert --to earliest --yes       does it")]
pub enum TriggerCommand {
    /// List all triggers: what they read, how they are, and why some do not go on.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  millrace trigger list               all
  millrace trigger list hot-alert     those of a function
  millrace trigger list -o json       for programs"
    )]
    List(ListArgs),
    /// Let a trigger take no more records.
    ///
    /// What is in flight ends and is committed. It stays so through restarts and deploys, until it
    /// is resumed.
    #[command(after_help = "\
Examples:
  millrace trigger pause greenhouse/hot-alert/readings
  millrace trigger pause hot-alert                          where that says which")]
    Pause(NamedArgs),
    /// Let a paused trigger go on where it was.
    #[command(after_help = "\
Examples:
  millrace trigger resume greenhouse/hot-alert/readings
  millrace trigger resume hot-alert                         where that says which")]
    Resume(NamedArgs),
    /// Move the positions of a trigger: records are skipped, or run again.
    ///
    /// Without --yes it only shows what would be skipped and repeated. What runs of the trigger is
    /// ended first and fenced, so that nothing of it moves a position afterwards. A trigger that has
    /// stopped for its position (E0417, E0420) starts again from the new one.
    #[command(after_help = "\
Examples:
  millrace trigger seek hot-alert --to earliest                       the preview
  millrace trigger seek hot-alert --to latest --yes                   skip what is there
  millrace trigger seek hot-alert --to 2026-11-24T00:00:00Z --yes     from a time on
  millrace trigger seek hot-alert --to 1200 --partition 3 --yes       one partition")]
    Seek(SeekArgs),
}

/// Which triggers.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// A function, or a part of a trigger's id.
    pub name: Option<String>,
}

/// Which trigger.
#[derive(Debug, clap::Args)]
pub struct NamedArgs {
    /// The trigger: APP/FUNCTION/TRIGGER, or enough of it.
    #[arg(value_name = "TRIGGER")]
    pub trigger: String,
}

/// Which trigger goes where.
#[derive(Debug, clap::Args)]
pub struct SeekArgs {
    /// The trigger: APP/FUNCTION/TRIGGER, or enough of it.
    #[arg(value_name = "TRIGGER")]
    pub trigger: String,
    /// Where: earliest, latest, an offset, or a time such as 2013-01-02T03:04:05Z.
    #[arg(long, value_name = "PLACE")]
    pub to: String,
    /// Only in this topic, for a trigger of several.
    #[arg(long)]
    pub topic: Option<String>,
    /// Only this partition.
    #[arg(short, long, value_name = "NUMBER")]
    pub partition: Option<i32>,
    /// Do it, instead of showing what it would do.
    #[arg(short, long)]
    pub yes: bool,
}

/// Carries it out.
///
/// # Errors
///
/// `E0506` when there is no such trigger, `E0507` when several are meant, `E0406` when an offset is
/// not there.
pub fn run(command: &TriggerCommand, globals: &Globals) -> Result<(), CommandError> {
    let client = || Client::connect(globals);
    match command {
        TriggerCommand::List(args) => list(args, globals),
        TriggerCommand::Pause(args) => pause(&args.trigger, "pause", &client()?, globals),
        TriggerCommand::Resume(args) => pause(&args.trigger, "resume", &client()?, globals),
        TriggerCommand::Seek(args) => seek(args, &client()?, globals),
    }
}

fn list(args: &ListArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect_about(globals)?;
    let mut list: TriggerList = client.get("/v1/triggers")?;
    if let Some(name) = &args.name {
        list.triggers.retain(|it| it.trigger.contains(name.as_str()));
    }
    if globals.output == Format::Json {
        return output::print_json(&list);
    }
    if list.triggers.is_empty() {
        return output::print("no triggers\n");
    }
    let paint = Paint::new(globals.colour_on_stdout());
    let unheard = unheard::lines(&list.unheard, paint, &program());
    output::print(&format!("{}{unheard}", render_list(&list, paint, &program())))
}

fn render_list(list: &TriggerList, paint: Paint, program: &str) -> String {
    let mut rows = Rows::new(&["TRIGGER", "FROM", "TO", ">PARTITIONS", ">LAG", "STATE"]);
    for it in &list.triggers {
        rows.push(vec![
            it.trigger.clone(),
            it.topics.join(", "),
            it.output.clone().unwrap_or_else(|| "-".to_owned()),
            count(it.partitions.into()),
            count_or_unknown(it.lag),
            state(it),
        ]);
    }
    let mut out = rows.render(paint);
    for HeldUp { trigger, code, message, .. } in list.triggers.iter().flat_map(|it| &it.held_up) {
        let line = format!("{trigger}: {code} \"{message}\"    {program} explain {code}");
        out.push_str(&format!("{} {}\n", paint.bad("!"), output::printable(&line)));
    }
    out
}

fn state(it: &TriggerInfo) -> String {
    match &it.paused_since {
        None => word(it.state).to_owned(),
        Some(at) => {
            let ago = since(at).map(|ago| format!(" {ago}")).unwrap_or_default();
            match it.state {
                ShardState::Paused => format!("paused{ago}"),
                // It ends what is in flight, or cannot even say that it waits.
                other => format!("paused{ago}, {}", word(other)),
            }
        }
    }
}

fn pause(name: &str, verb: &str, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let id = find(client, name)?.trigger;
    let answer = client.post(&format!("/v1/triggers/{id}:{verb}"), &json!({}), PATIENCE);
    let info: TriggerInfo = answer.map_err(|refused| refused.error)?;
    if globals.output == Format::Json {
        return output::print_json(&info);
    }
    let next = match verb {
        "pause" => format!("next: {} trigger resume {}\n", program(), quoted(&id)),
        _ => String::new(),
    };
    output::print(&format!("{verb}d {id}\n{next}"))
}

fn seek(args: &SeekArgs, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let id = find(client, &args.trigger)?.trigger;
    let question = Seek {
        to: args.to.clone(),
        topic: args.topic.clone(),
        partition: args.partition,
        dry_run: !args.yes,
        own: false,
    };
    let answer = client.post(&format!("/v1/triggers/{id}:seek"), &question, PATIENCE);
    let sought: Sought = answer.map_err(|refused| refused.error)?;
    if globals.output == Format::Json {
        return output::print_json(&sought);
    }
    output::print(&render_sought(&sought, Paint::new(globals.colour_on_stdout())))
}

fn render_sought(sought: &Sought, paint: Paint) -> String {
    let head = ["PARTITION", ">FROM", ">TO", ">SKIPPED", ">REPEATED", ">START", ">END"];
    let mut rows = Rows::new(&head);
    for it in &sought.partitions {
        rows.push(vec![
            format!("{}[{}]", it.topic, it.partition),
            it.from.map_or_else(|| "none".to_owned(), |from| from.to_string()),
            it.to.to_string(),
            count(it.skipped),
            count(it.repeated),
            it.start.to_string(),
            it.end.to_string(),
        ]);
    }
    let Sought { trigger, skipped, repeated, .. } = sought;
    let (skipped, repeated) = (count(*skipped), count(*repeated));
    let last = match sought.dry_run {
        true => format!(
            "{trigger}: {skipped} records would be skipped, {repeated} would run again\n\
             next: the same with --yes\n"
        ),
        false => format!("{trigger}: {skipped} records are skipped, {repeated} run again\n"),
    };
    format!("{}{last}", rows.render(paint))
}

/// The trigger that is meant: by its id, by the end of it, or by a part that only one has.
///
/// # Errors
///
/// `E0506` when there is none, `E0507` when there are several.
pub fn find(client: &Client, name: &str) -> Result<TriggerInfo, CommandError> {
    let list: TriggerList = client.get("/v1/triggers")?;
    choose(list.triggers, name)
}

fn choose(triggers: Vec<TriggerInfo>, name: &str) -> Result<TriggerInfo, CommandError> {
    let end = format!("/{name}");
    let function = format!("/{name}/");
    let ways: [&dyn Fn(&str) -> bool; 4] =
        [&|id| id == name, &|id| id.ends_with(&end), &|id| id.contains(&function), &|id| {
            id.contains(name)
        }];
    for is_meant in ways {
        let mut meant = triggers.iter().filter(|it| is_meant(&it.trigger));
        match (meant.next(), meant.next()) {
            (None, _) => {}
            (Some(one), None) => return Ok(one.clone()),
            (Some(first), Some(second)) => {
                let rest = meant.map(|it| it.trigger.as_str());
                let all = [first.trigger.as_str(), &second.trigger].into_iter().chain(rest);
                let all: Vec<&str> = all.collect();
                let message = format!("`{name}` is a part of several: {}", all.join(", "));
                return Err(
                    CommandError::new(exit::USAGE, "E0507", message).help("write more of it")
                );
            }
        }
    }
    let message = format!("there is no trigger `{}`", name.escape_debug());
    Err(CommandError::new(exit::NOT_FOUND, "E0506", message)
        .help(format!("`{} trigger list` lists those there are", program())))
}

#[cfg(test)]
mod tests {
    use gateway::api::SoughtPartition;

    use super::*;

    fn trigger(id: &str) -> TriggerInfo {
        TriggerInfo {
            trigger: id.to_owned(),
            topics: vec!["in".to_owned()],
            partitions: 2,
            lag: Some(1_200),
            state: ShardState::Running,
            ..TriggerInfo::default()
        }
    }

    #[test]
    fn a_trigger_is_meant_by_its_id_its_end_its_function_or_a_part() {
        let all = || ["a/f/in", "a/f/late", "a/g/g", "b/ff/in-2"].map(trigger).to_vec();
        let meant = |name: &str| choose(all(), name).map(|it| it.trigger);
        for (name, id) in [("a/f/in", "a/f/in"), ("late", "a/f/late"), ("g", "a/g/g")] {
            assert_eq!(meant(name).unwrap(), id, "{name}");
        }
        assert_eq!(meant("ff").unwrap(), "b/ff/in-2");
        assert_eq!(meant("in").unwrap(), "a/f/in", "the end before a part");
        assert_eq!(meant("f").unwrap_err().code, Some("E0507"));
        assert_eq!(meant("x").unwrap_err().code, Some("E0506"));
    }

    #[test]
    fn a_list_says_who_is_paused_and_why_others_wait() {
        let paused = TriggerInfo {
            state: ShardState::Paused,
            paused_since: Some("1970-01-01T00:00:00Z".into()),
            output: Some("out".into()),
            ..trigger("a/f/f")
        };
        let held = HeldUp {
            trigger: "a/g/g".into(),
            code: "E0415".into(),
            message: "the brokers do not answer".into(),
            ..HeldUp::default()
        };
        let waiting = TriggerInfo {
            state: ShardState::Waiting,
            held_up: vec![held],
            lag: None,
            ..trigger("a/g/g")
        };
        let list =
            TriggerList { api: 1, triggers: vec![paused, waiting], ..TriggerList::default() };
        let text = render_list(&list, Paint::default(), "millrace");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("a/f/f    in    out           2    1,200  paused "), "{text}");
        assert_eq!(lines[2], "a/g/g    in    -             2  unknown  waiting");
        let told = "! a/g/g: E0415 \"the brokers do not answer\"    millrace explain E0415";
        assert_eq!(lines[3], told);
    }

    #[test]
    fn a_preview_says_what_is_skipped_and_how_to_go_on() {
        let one = SoughtPartition {
            topic: "in".into(),
            partition: 1,
            end: 2_000,
            from: Some(12),
            to: 1_212,
            skipped: 1_200,
            ..SoughtPartition::default()
        };
        let none = SoughtPartition { partition: 2, from: None, skipped: 0, ..one.clone() };
        let sought = Sought {
            trigger: "a/f/f".into(),
            dry_run: true,
            partitions: vec![one, none],
            skipped: 1_200,
            ..Sought::default()
        };
        let expected = "\
PARTITION  FROM    TO  SKIPPED  REPEATED  START   END
in[1]        12  1212    1,200         0      0  2000
in[2]      none  1212        0         0      0  2000
a/f/f: 1,200 records would be skipped, 0 would run again
next: the same with --yes
";
        assert_eq!(render_sought(&sought, Paint::default()), expected);
        let done = render_sought(&Sought { dry_run: false, ..sought }, Paint::default());
        assert!(done.ends_with("a/f/f: 1,200 records are skipped, 0 run again\n"), "{done}");
    }
}
