//! `millrace topic`: lists, makes, describes and deletes topics of a running node.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use gateway::api::{CreateTopic, Topic, TopicList};

use super::error::{CommandError, exit};
use super::program::{program, quoted};
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, count};

/// How the names of topics begin that nodes keep for themselves.
const OWN: &str = "millrace.";

/// Lists, makes, describes and deletes topics.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace topic list
  millrace topic create readings --partitions 8
  millrace topic describe readings
  millrace topic delete readings --yes")]
pub enum TopicCommand {
    /// List all topics.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  millrace topic list               with their sizes
  millrace topic list --all         those too that nodes keep for themselves
  millrace topic list -o json       for programs"
    )]
    List(ListArgs),
    /// Make a topic. One that exists with as many partitions is left as it is.
    #[command(after_help = "\
Examples:
  millrace topic create readings --partitions 8
  millrace topic create clicks --partitions 4 --retention 7d --retention-bytes 1GiB")]
    Create(CreateArgs),
    /// Show a topic, its partitions and who reads it.
    #[command(after_help = "\
Examples:
  millrace topic describe readings
  millrace topic describe readings -o json")]
    Describe(NamedArgs),
    /// Delete a topic and all its records.
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  millrace topic delete readings            asks first
  millrace topic delete readings --yes      does not ask"
    )]
    Delete(DeleteArgs),
}

/// What a topic is made with.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Its name: 1 to 249 of a-z, A-Z, 0-9, '.', '_', '-'.
    pub name: String,
    /// How many partitions. It does not change later.
    #[arg(short, long, value_name = "NUMBER", default_value_t = 8)]
    pub partitions: i32,
    /// Records older than this may go, such as 12h or 7d; for ever by default.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub retention: Option<Duration>,
    /// The oldest records may go while a partition holds more, such as 512MiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub retention_bytes: Option<u64>,
    /// The largest record: key, value and headers together; 1MiB by default.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub record_bytes_max: Option<u64>,
}

/// Which topic.
#[derive(Debug, clap::Args)]
pub struct NamedArgs {
    /// Its name.
    pub name: String,
}

/// Which topic goes.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Its name.
    pub name: String,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

fn duration(text: &str) -> Result<Duration, function::UnitError> {
    function::parse_duration(text)
}

fn size(text: &str) -> Result<u64, function::UnitError> {
    function::parse_bytes(text)
}

/// Which topics.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Those too that nodes keep for themselves: parked records and histories.
    #[arg(short, long)]
    pub all: bool,
}

/// Carries it out.
///
/// # Errors
///
/// When no node answers, or the node refuses.
pub fn run(command: &TopicCommand, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    match command {
        TopicCommand::List(args) => list(args, &client, globals),
        TopicCommand::Create(args) => create(args, &client, globals),
        TopicCommand::Describe(args) => describe(&args.name, &client, globals),
        TopicCommand::Delete(args) => delete(args, &client),
    }
}

/// The path of a topic. Names that no topic can have are refused before they become a path.
///
/// # Errors
///
/// `E0209`.
pub fn path_of(name: &str) -> Result<String, CommandError> {
    match function::check_topic_name(name) {
        Ok(()) => Ok(format!("/v1/topics/{name}")),
        Err(error) => {
            let message = format!("`{}` is not the name of a topic: {error}", name.escape_debug());
            Err(CommandError::new(exit::USAGE, "E0209", message))
        }
    }
}

fn list(args: &ListArgs, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let list: TopicList = client.get("/v1/topics")?;
    if globals.output == Format::Json {
        return output::print_json(&list);
    }
    if list.topics.is_empty() {
        let next = format!("next: {} topic create NAME --partitions 8\n", program());
        return output::print(&format!("no topics\n{next}"));
    }
    let mut rows = Rows::new(&["TOPIC", ">PARTITIONS", ">RECORDS", ">SIZE", "KEPT"]);
    let is_shown = |topic: &&Topic| args.all || !topic.name.starts_with(OWN);
    for topic in list.topics.iter().filter(is_shown) {
        rows.push(vec![
            topic.name.clone(),
            topic.partitions.to_string(),
            count(topic.records),
            output::bytes(topic.bytes),
            kept(topic),
        ]);
    }
    let hidden = list.topics.iter().filter(|topic| !is_shown(topic)).count();
    let rest = match hidden {
        0 => String::new(),
        hidden => format!("{hidden} more are the node's own: --all\n"),
    };
    output::print(&format!("{}{rest}", rows.render(Paint::new(globals.colour_on_stdout()))))
}

fn create(args: &CreateArgs, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    path_of(&args.name)?;
    let question = CreateTopic {
        name: args.name.clone(),
        partitions: args.partitions,
        retention_ms: args.retention.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        retention_bytes: args.retention_bytes,
        record_bytes_max: args.record_bytes_max,
    };
    let made = client.post("/v1/topics", &question, Duration::ZERO);
    let topic: Topic = made.map_err(|refused| refused.error)?;
    if globals.output == Format::Json {
        return output::print_json(&topic);
    }
    let (name, partitions) = (&topic.name, topic.partitions);
    output::print(&format!("topic {name}: {partitions} partitions, {}\n", kept(&topic)))
}

fn describe(name: &str, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let topic: Topic = client.get(&path_of(name)?)?;
    if globals.output == Format::Json {
        return output::print_json(&topic);
    }
    output::print(&render(&topic, Paint::new(globals.colour_on_stdout())))
}

fn render(topic: &Topic, paint: Paint) -> String {
    let mut rows = Rows::new(&[">PARTITION", ">START", ">END", ">RECORDS", ">SIZE"]);
    for marks in &topic.watermarks {
        rows.push(vec![
            marks.partition.to_string(),
            marks.start.to_string(),
            marks.end.to_string(),
            count(marks.end.abs_diff(marks.start)),
            output::bytes(marks.bytes),
        ]);
    }
    let readers = match topic.readers.as_slice() {
        [] => "nobody".to_owned(),
        readers => readers.join(", "),
    };
    format!(
        "TOPIC {}  {} records, {}, {}, records up to {}\n{}read by {readers}\n",
        topic.name,
        count(topic.records),
        output::bytes(topic.bytes),
        kept(topic),
        output::bytes(topic.record_bytes_max),
        rows.render(paint),
    )
}

fn kept(topic: &Topic) -> String {
    let age = topic.retention_ms.map(|it| function::format_duration(Duration::from_millis(it)));
    let size = topic.retention_bytes.map(|bytes| format!("{} a partition", output::bytes(bytes)));
    match (age, size) {
        (None, None) => "kept for ever".to_owned(),
        (Some(one), None) | (None, Some(one)) => format!("kept {one}"),
        (Some(age), Some(size)) => format!("kept {age} or {size}"),
    }
}

fn delete(args: &DeleteArgs, client: &Client) -> Result<(), CommandError> {
    let path = path_of(&args.name)?;
    let topic: Topic = client.get(&path)?;
    if !args.yes && !is_confirmed(&topic)? {
        return Err(CommandError::new(exit::FAILED, "E0510", "nothing was deleted"));
    }
    client.delete(&path)?;
    output::print(&format!("deleted {} and its {} records\n", topic.name, count(topic.records)))
}

/// Asks a person. Without one there is no answer, and so no yes.
fn is_confirmed(topic: &Topic) -> Result<bool, CommandError> {
    let name = quoted(&topic.name);
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let message = format!("deleting {} needs a yes, and nobody is there to say it", topic.name);
        return Err(CommandError::new(exit::USAGE, "E0101", message)
            .help(format!("{} topic delete {name} --yes", program())));
    }
    let records = count(topic.records);
    write!(io::stderr(), "delete {} and its {records} records? [y/N] ", topic.name)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use gateway::api::PartitionMarks;

    use super::*;

    #[test]
    fn a_topic_is_described_with_its_partitions_and_readers() {
        let topic = Topic {
            name: "readings".into(),
            partitions: 1,
            records: 1_200,
            bytes: 2_048,
            retention_ms: Some(86_400_000),
            retention_bytes: Some(1 << 30),
            record_bytes_max: 1 << 20,
            watermarks: vec![PartitionMarks { partition: 0, start: 5, end: 1_205, bytes: 2_048 }],
            readers: vec!["weather/tidy/tidy".into()],
            ..Topic::default()
        };
        let expected = "\
TOPIC readings  1,200 records, 2.0 KiB, kept 1d or 1.0 GiB a partition, records up to 1.0 MiB
PARTITION  START   END  RECORDS     SIZE
        0      5  1205    1,200  2.0 KiB
read by weather/tidy/tidy
";
        assert_eq!(render(&topic, Paint::default()), expected);
    }

    #[test]
    fn what_is_no_name_never_becomes_a_path() {
        assert_eq!(path_of("a.b_c-D").unwrap(), "/v1/topics/a.b_c-D");
        for bad in ["", "..", "a/b", "a b", "a?b", "%2e", "a:fetch"] {
            assert_eq!(path_of(bad).unwrap_err().code, Some("E0209"), "{bad}");
        }
    }
}
