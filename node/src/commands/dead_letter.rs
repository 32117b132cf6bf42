//! `millrace dead-letter`: what was given up, by cause; one of it; with another value; back to where
//! it came from, or let be. The node carries it out; this watches.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gateway::Data;
use gateway::api::{
    DeadLetterEdit, DeadLetterInfo, DeadLetterList, Redrive, RedriveState, RedriveStatus,
    TriggerInfo, TriggerList,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::{CommandError, exit};
use super::program::{program, quoted};
use super::topic::path_of;
use super::wait;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, count, printable, since};

/// A topic may have to be read to its end.
const PATIENCE: Duration = Duration::from_secs(570);
/// How often the node is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The largest value that is edited.
const VALUE_BYTES_MAX: u64 = 16 << 20;

/// Looks at dead letters, edits them, puts them back or purges them.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace dead-letter list                              all that is open, by cause
  millrace dead-letter show 'readings.dead[2]@18'
  millrace dead-letter redrive hot-alert --dry-run       what would be put back
  millrace dead-letter redrive hot-alert --rate 100      at most 100 a second
  millrace dead-letter purge hot-alert --cause ValueError --yes")]
pub enum DeadLetterCommand {
    /// List what was given up and neither put back nor purged, by cause.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  millrace dead-letter list                        of all triggers
  millrace dead-letter list hot-alert              of a function or trigger
  millrace dead-letter list readings.dead          of a topic
  millrace dead-letter list hot-alert --since 1h --cause KeyError
  millrace dead-letter list -o json                for programs"
    )]
    List(ListArgs),
    /// Show one dead letter: why it was given up, and the record.
    #[command(after_help = "\
Examples:
  millrace dead-letter show 'readings.dead[2]@18'
  millrace dead-letter show 'readings.dead[2]@18' -o json")]
    Show(PlaceArgs),
    /// Let a dead letter be put back with another value. Key, headers and turn stay.
    ///
    /// The new value is kept by the node until the dead letter is put back; an edit of an edit takes
    /// its place.
    #[command(after_help = "\
Examples:
  millrace dead-letter edit 'readings.dead[2]@18'                      in $EDITOR
  millrace dead-letter edit 'readings.dead[2]@18' --value fixed.json   the file's bytes
  millrace dead-letter edit 'readings.dead[2]@18' --value -            stdin's")]
    Edit(EditArgs),
    /// Put dead letters back to the topics that they came from.
    ///
    /// Each goes back as it was, under its key and in the order of its key; every trigger that reads
    /// the topic meets it again. The node does it, and goes on when this command ends. What went back is not open any more: another run goes on
    /// where the first one ended, also after a kill.
    #[command(after_help = "\
Examples:
  millrace dead-letter redrive hot-alert --dry-run                 what would go where
  millrace dead-letter redrive hot-alert                           all that is open
  millrace dead-letter redrive hot-alert --cause KeyError --rate 50
  millrace dead-letter redrive readings.dead --since 2h --limit 1000
  millrace dead-letter redrive hot-alert --stop                    end one that runs")]
    Redrive(RedriveArgs),
    /// Let dead letters be: they are neither listed nor put back any more.
    ///
    /// They stay in their topic for as long as that keeps records. Without --yes it only shows how
    /// many are meant.
    #[command(after_help = "\
Examples:
  millrace dead-letter purge hot-alert                             how many that would be
  millrace dead-letter purge hot-alert --cause ValueError --yes
  millrace dead-letter purge readings.dead --yes")]
    Purge(PurgeArgs),
}

/// Which dead letters.
#[derive(Clone, Debug, clap::Args)]
pub struct Choice {
    /// Only of this error type, or this cause.
    #[arg(long)]
    pub cause: Option<String>,
    /// Only those given up since then: a time such as 2013-01-02T03:04:05Z, or an age such as 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<String>,
}

/// What is listed.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// A function, a trigger, or a topic of dead letters [default: those of all triggers].
    pub name: Option<String>,
    /// Of those, which.
    #[command(flatten)]
    pub choice: Choice,
}

/// Which dead letter.
#[derive(Debug, clap::Args)]
pub struct PlaceArgs {
    /// Where it lies: TOPIC[PARTITION]@OFFSET, as `list` shows it.
    #[arg(value_name = "PLACE", value_parser = place)]
    pub place: Place,
}

/// Which dead letter is edited, and how.
#[derive(Debug, clap::Args)]
pub struct EditArgs {
    /// Where it lies: TOPIC[PARTITION]@OFFSET, as `list` shows it.
    #[arg(value_name = "PLACE", value_parser = place)]
    pub place: Place,
    /// A file with the new value, byte for byte; - is stdin [default: $VISUAL or $EDITOR].
    #[arg(long, value_name = "FILE")]
    pub value: Option<PathBuf>,
}

/// What is put back.
#[derive(Debug, clap::Args)]
pub struct RedriveArgs {
    /// A function, a trigger, or a topic of dead letters.
    pub name: String,
    /// Of those, which.
    #[command(flatten)]
    pub choice: Choice,
    /// At most this many.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// At most this many a second.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Show what would be put back, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// End one that runs; what went back stays so.
    #[arg(long, conflicts_with_all = ["dry_run", "limit", "rate", "cause", "since"])]
    pub stop: bool,
}

/// What is let be.
#[derive(Debug, clap::Args)]
pub struct PurgeArgs {
    /// A function, a trigger, or a topic of dead letters.
    pub name: String,
    /// Of those, which.
    #[command(flatten)]
    pub choice: Choice,
    /// At most this many.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Do it, instead of showing how many are meant.
    #[arg(short, long)]
    pub yes: bool,
}

/// Where a record lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// Of that topic.
    pub partition: i32,
    /// In that partition.
    pub offset: i64,
}

impl Place {
    fn path(&self) -> Result<String, CommandError> {
        path_of(&self.topic)?;
        Ok(format!("/v1/dead-letters/{}/{}/{}", self.topic, self.partition, self.offset))
    }
}

/// A place as people write it.
///
/// # Errors
///
/// What can be written.
pub fn place(text: &str) -> Result<Place, String> {
    let parsed = || {
        let (topic, rest) = text.split_once('[')?;
        let (partition, offset) = rest.split_once("]@")?;
        let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
        let is_place = !topic.is_empty() && 0 <= partition && 0 <= offset;
        is_place.then(|| Place { topic: topic.to_owned(), partition, offset })
    };
    parsed().ok_or_else(|| "write TOPIC[PARTITION]@OFFSET, such as readings.dead[2]@18".to_owned())
}

/// A time, or how long ago, as the control API takes it.
///
/// # Errors
///
/// What can be written.
pub fn time(text: &str) -> Result<String, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.to_string());
    }
    let ago = function::parse_duration(text)
        .map_err(|_neither| "write a time such as 2013-01-02T03:04:05Z, or an age such as 2h")?;
    let ago = jiff::SignedDuration::try_from(ago).map_err(|error| error.to_string())?;
    let now = jiff::Timestamp::from_millisecond(bus::Timestamp::now().0);
    let time = now.and_then(|now| now.checked_sub(ago)).map_err(|error| error.to_string())?;
    Ok(time.to_string())
}

/// A topic of dead letters, and whose of it are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meant {
    topic: String,
    trigger: Option<String>,
}

/// Carries it out.
///
/// # Errors
///
/// When no node answers, nothing of the name is there, or the node refuses.
pub fn run(command: &DeadLetterCommand, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    match command {
        DeadLetterCommand::List(args) => list(args, &client, globals),
        DeadLetterCommand::Show(args) => show(&args.place, &client, globals),
        DeadLetterCommand::Edit(args) => edit(args, &client, globals),
        DeadLetterCommand::Redrive(args) => redrive(args, &client, globals),
        DeadLetterCommand::Purge(args) => purge(args, &client, globals),
    }
}

/// A topic by its whole name before anything else; then triggers by their ids, their functions, or
/// the end of either.
fn choose(triggers: &[TriggerInfo], name: &str) -> Vec<Meant> {
    let is_topic = |it: &&TriggerInfo| it.dead_letter.as_deref() == Some(name);
    if triggers.iter().any(|it| is_topic(&it)) {
        return vec![Meant { topic: name.to_owned(), trigger: None }];
    }
    let end = format!("/{name}");
    let is_meant = |it: &&TriggerInfo| {
        [&it.trigger, &it.function].into_iter().any(|id| id == name || id.ends_with(&end))
    };
    let meant = triggers.iter().filter(is_meant);
    let meant = meant.filter_map(|it| {
        Some(Meant { topic: it.dead_letter.clone()?, trigger: Some(it.trigger.clone()) })
    });
    let meant: Vec<Meant> = meant.collect();
    match meant.is_empty() {
        // The node says whether there is such a topic.
        true => vec![Meant { topic: name.to_owned(), trigger: None }],
        false => meant,
    }
}

fn find(client: &Client, name: &str) -> Result<Vec<Meant>, CommandError> {
    let list: TriggerList = client.get("/v1/triggers")?;
    let meant = choose(&list.triggers, name);
    meant.iter().try_for_each(|it| path_of(&it.topic).map(drop))?;
    Ok(meant)
}

fn list(args: &ListArgs, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let meant = match &args.name {
        Some(name) => find(client, name)?,
        None => {
            let list: TriggerList = client.get("/v1/triggers")?;
            let topics = list.triggers.into_iter().filter_map(|it| it.dead_letter);
            let topics: std::collections::BTreeSet<String> = topics.collect();
            topics.into_iter().map(|topic| Meant { topic, trigger: None }).collect()
        }
    };
    let mut lists = Vec::new();
    for Meant { topic, trigger } in meant {
        let asked = [("trigger", &trigger), ("cause", &args.choice.cause)];
        let asked = asked.into_iter().chain([("since", &args.choice.since)]);
        let asked: Vec<(&str, &str)> =
            asked.filter_map(|(name, it)| Some((name, it.as_deref()?))).collect();
        let path = format!("/v1/dead-letters/{topic}");
        lists.push(client.get_with::<DeadLetterList>(&path, &asked, PATIENCE)?);
    }
    if globals.output == Format::Json {
        return output::print_json(&lists);
    }
    output::print(&render_lists(&lists, Paint::new(globals.colour_on_stdout()), &program()))
}

fn render_lists(lists: &[DeadLetterList], paint: Paint, program: &str) -> String {
    let mut rows =
        Rows::new(&["TOPIC", ">OPEN", "ERROR", "CAUSE", "TRIGGER", "LAST", "MESSAGE", "SUCH AS"]);
    for list in lists {
        for it in &list.causes {
            rows.push(vec![
                list.topic.clone(),
                count(it.count),
                it.error_type.clone(),
                it.cause.clone(),
                it.trigger.clone(),
                since(&it.last).map_or_else(|| it.last.clone(), |ago| format!("{ago} ago")),
                shortened(&it.message),
                it.samples.last().cloned().unwrap_or_default(),
            ]);
        }
    }
    let mut out = rows.render(paint);
    let total = |of: fn(&DeadLetterList) -> u64| lists.iter().map(of).sum::<u64>();
    out.push_str(&format!("{} open", count(total(|it| it.open))));
    for (number, what) in [
        (total(|it| it.edited), "edited"),
        (total(|it| it.done), "put back or purged"),
        (total(|it| it.foreign), "records that are no dead letters"),
    ] {
        if 0 < number {
            out.push_str(&format!(", {} {what}", count(number)));
        }
    }
    out.push('\n');
    if lists.iter().any(|it| it.truncated) {
        out.push_str(&format!("{} there are more causes than these\n", paint.doubtful("!")));
    }
    if let Some(sample) = lists.iter().flat_map(|it| &it.causes).find_map(|it| it.samples.last()) {
        out.push_str(&format!("next: {program} dead-letter show {}\n", quoted(sample)));
    }
    out
}

/// Enough of an account to know it by.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 48;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line.to_owned(),
    }
}

fn show(place: &Place, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let info: DeadLetterInfo = client.get(&place.path()?)?;
    if globals.output == Format::Json {
        return output::print_json(&info);
    }
    output::print(&render_info(&info, Paint::new(globals.colour_on_stdout()), &program()))
}

fn render_info(info: &DeadLetterInfo, paint: Paint, program: &str) -> String {
    let record = &info.record;
    let here = format!("{}[{}]@{}", record.topic, record.partition, record.offset);
    let state = match (info.done, &info.edited) {
        (true, _) => "put back or purged",
        (false, Some(_)) => "open, edited",
        (false, None) => "open",
    };
    let mut out = format!("{}  {state}\n", paint.bold(&printable(&here)));
    let mut line = |name: &str, text: &str| {
        out.push_str(&format!("{} {}\n", paint.dim(&format!("{name:<9}")), printable(text)));
    };
    line("error", &format!("{}: {}", info.error_type, info.error_message));
    let ago = since(&info.at).map(|ago| format!(", {ago} ago")).unwrap_or_default();
    let attempts = match info.attempts {
        1 => "1 attempt".to_owned(),
        other => format!("{} attempts", count(other.into())),
    };
    line("cause", &format!("{}, {attempts}, {}{ago}", info.cause, info.at));
    let by = info.invocation.as_deref().map_or_else(String::new, |it| format!("  invocation {it}"));
    line("trigger", &format!("{}  revision {}{by}", info.trigger, info.revision));
    line("from", &format!("{}[{}]@{}", info.topic, info.partition, info.offset));
    if let Some(time) = &record.timestamp {
        line("time", time);
    }
    if let Some(key) = &record.key {
        line("key", &text_of(key));
    }
    for header in &record.headers {
        let value = header.value.as_ref().map_or_else(|| "null".to_owned(), text_of);
        line("header", &format!("{}={value}", text_of(&header.name)));
    }
    line("value", &record.value.as_ref().map_or_else(|| "null".to_owned(), text_of));
    if let Some(edited) = &info.edited {
        line("edited", &text_of(edited));
    }
    if !info.done {
        let (topic, place) = (quoted(&record.topic), quoted(&here));
        out.push_str(&format!(
            "next: {program} dead-letter redrive {topic}, or first {program} dead-letter edit {place}\n"
        ));
    }
    out
}

fn text_of(data: &Data) -> String {
    String::from_utf8_lossy(data.as_bytes()).into_owned()
}

fn edit(args: &EditArgs, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let path = args.place.path()?;
    let info: DeadLetterInfo = client.get(&path)?;
    let before = info.edited.as_ref().or(info.record.value.as_ref());
    let before = before.map(Data::as_bytes).unwrap_or_default();
    let value = match &args.value {
        Some(file) => read_value(file)?,
        None => in_editor(before)?,
    };
    if args.value.is_none() && value == before {
        return Err(CommandError::new(exit::FAILED, "E0510", "nothing was changed in the editor"));
    }
    let info: DeadLetterInfo = client.put(&path, &DeadLetterEdit { value: Data::from(value) })?;
    if globals.output == Format::Json {
        return output::print_json(&info);
    }
    let next = format!("{} dead-letter redrive {}", program(), quoted(&args.place.topic));
    output::print(&format!("edited; it goes back with its new value\nnext: {next}\n"))
}

fn read_value(file: &Path) -> Result<Vec<u8>, CommandError> {
    let mut value = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().take(VALUE_BYTES_MAX + 1).read_to_end(&mut value)
    } else {
        let opened = std::fs::File::open(file);
        opened.and_then(|it| it.take(VALUE_BYTES_MAX + 1).read_to_end(&mut value))
    };
    read.map_err(|error| CommandError::file("read", file, &error))?;
    if VALUE_BYTES_MAX < value.len() as u64 {
        let message = format!("{} has more than {VALUE_BYTES_MAX} bytes", file.display());
        return Err(CommandError::new(exit::USAGE, "E0407", message));
    }
    Ok(value)
}

/// What a person makes of it. The line end that editors add goes, where there was none.
fn in_editor(before: &[u8]) -> Result<Vec<u8>, CommandError> {
    let editor = ["VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os);
    let editor = editor.into_iter().find(|it| !it.is_empty()).ok_or_else(|| {
        let message = "no editor: $VISUAL and $EDITOR are not set";
        CommandError::new(exit::USAGE, "E0101", message).help("name a file with --value")
    })?;
    let file = tempfile::Builder::new().prefix("dead-letter-").suffix(".json").tempfile()?;
    std::fs::write(file.path(), before)?;
    // `code --wait` is a program and an argument.
    let words = editor.to_string_lossy().into_owned();
    let mut words = words.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = Command::new(program).args(words).arg(file.path()).status();
    let status = status.map_err(|error| CommandError::file("run", Path::new(program), &error))?;
    if !status.success() {
        let message = format!("the editor {program} ended with {status}: nothing was changed");
        return Err(CommandError::new(exit::FAILED, "E0510", message));
    }
    let mut value = read_value(file.path())?;
    if value.ends_with(b"\n") && !before.ends_with(b"\n") {
        value.pop();
    }
    Ok(value)
}

fn redrive(args: &RedriveArgs, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let meant = find(client, &args.name)?;
    if args.stop {
        for it in &meant {
            client.delete(&format!("/v1/dead-letters/{}/redrive", it.topic))?;
        }
        return output::print("stopped; what went back stays so\n");
    }
    let question = |it: &Meant| Redrive {
        trigger: it.trigger.clone(),
        cause: args.choice.cause.clone(),
        since: args.choice.since.clone(),
        limit: args.limit,
        rate: args.rate,
        dry_run: args.dry_run,
    };
    carry_out(&meant, "redrive", question, client, globals)
}

fn purge(args: &PurgeArgs, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let question = |it: &Meant| Redrive {
        trigger: it.trigger.clone(),
        cause: args.choice.cause.clone(),
        since: args.choice.since.clone(),
        limit: args.limit,
        rate: None,
        dry_run: !args.yes,
    };
    carry_out(&find(client, &args.name)?, "purge", question, client, globals)
}

/// One topic after the other, each to its end.
fn carry_out(
    meant: &[Meant],
    verb: &str,
    question: impl Fn(&Meant) -> Redrive,
    client: &Client,
    globals: &Globals,
) -> Result<(), CommandError> {
    let mut ended = Vec::new();
    for it in meant {
        let path = format!("/v1/dead-letters/{}", it.topic);
        let begun = client.post(&format!("{path}:{verb}"), &question(it), PATIENCE);
        let begun: RedriveStatus = begun.map_err(|refused| refused.error)?;
        let status = watch(client, &path, begun)?;
        if globals.output == Format::Table {
            output::print(&told(&status))?;
        }
        ended.push(status);
    }
    if globals.output == Format::Json {
        output::print_json(&ended)?;
    }
    ended.iter().try_for_each(judge)
}

/// Waits until it is over. Who gives up waiting ends nothing.
fn watch(
    client: &Client,
    path: &str,
    mut status: RedriveStatus,
) -> Result<RedriveStatus, CommandError> {
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos} of {human_len}  {per_sec}  {msg}");
    let bar = match io::stderr().is_terminal() {
        true => ProgressBar::new(status.matched),
        false => ProgressBar::with_draw_target(Some(status.matched), ProgressDrawTarget::hidden()),
    };
    if let Ok(style) = style {
        bar.set_style(style);
    }
    while matches!(status.state, RedriveState::Running | RedriveState::Waiting) {
        wait::pause(LOOK_EVERY);
        status = client.get(&format!("{path}/redrive"))?;
        bar.set_position(status.done);
        bar.set_message(match &status.error {
            Some(error) => format!("waits: {}", error.code),
            None => String::new(),
        });
    }
    bar.finish_and_clear();
    Ok(status)
}

fn told(status: &RedriveStatus) -> String {
    let RedriveStatus { topic, purge, state, matched, done, edited, overtaking, .. } = status;
    let to = status.to.join(", ");
    let to = printable(&to);
    let mut out = match (state, purge) {
        (RedriveState::Preview, false) => {
            format!("{topic}: {} would go back to {}", count(*matched), to)
        }
        (RedriveState::Preview, true) => format!("{topic}: {} would be purged", count(*matched)),
        (_, false) if *done == 0 => format!("{topic}: none went back"),
        (_, false) => format!("{topic}: {} went back to {}", count(*done), to),
        (_, true) => format!("{topic}: {} purged", count(*done)),
    };
    if *matched == 0 {
        out = format!("{topic}: none are open");
    }
    if 0 < *edited {
        out.push_str(&format!(", {} of them edited", count(*edited)));
    }
    out.push('\n');
    if 0 < *overtaking {
        out.push_str(&format!(
            "! {} have an earlier dead letter of their key that is not meant: they overtake it\n",
            count(*overtaking)
        ));
    }
    if *state == RedriveState::Preview && *purge && 0 < *matched {
        out.push_str("next: the same with --yes\n");
    }
    out
}

fn judge(status: &RedriveStatus) -> Result<(), CommandError> {
    let topic = &status.topic;
    match status.state {
        RedriveState::Failed => {
            let error = status.error.clone().unwrap_or_default();
            let code = function::codes().into_iter().find(|known| known.code == error.code);
            let message = format!("{topic}: {}", printable(&error.message));
            let failed =
                CommandError::new(exit::FAILED, code.map_or("E0511", |it| it.code), message);
            Err(failed.help("what is done stays done; run it again when that is mended"))
        }
        RedriveState::Stopped => {
            let message = format!("{topic}: it was stopped before its end");
            Err(CommandError::new(exit::CONFLICT, "E0540", message)
                .help("what is done stays done; run it again for the rest"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use gateway::api::{DeadLetterCause, HeaderData, RecordData};

    use super::*;

    #[test]
    fn a_place_is_a_topic_a_partition_and_an_offset() {
        let found = place("readings.dead[2]@18").unwrap();
        assert_eq!(found, Place { topic: "readings.dead".into(), partition: 2, offset: 18 });
        assert_eq!(found.path().unwrap(), "/v1/dead-letters/readings.dead/2/18");
        for bad in ["", "a", "a[1]", "a@1", "a[x]@1", "a[1]@-1", "[1]@1", "a[1]@1x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        assert!(place("a/b[1]@1").unwrap().path().is_err());
    }

    #[test]
    fn a_time_is_one_or_an_age() {
        assert_eq!(time("2013-01-02T03:04:05Z").unwrap(), "2013-01-02T03:04:05Z");
        assert!(time("2h").unwrap().parse::<jiff::Timestamp>().is_ok());
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn letters_are_meant_by_their_topic_a_trigger_or_a_function() {
        let trigger = |id: &str, dead: &str| TriggerInfo {
            trigger: id.into(),
            function: id.rsplit_once('/').unwrap().0.into(),
            dead_letter: Some(dead.into()),
            ..TriggerInfo::default()
        };
        let all =
            [trigger("a/f/x", "a.f.dead"), trigger("a/f/y", "late"), trigger("b/late/z", "q")];
        let meant = |name: &str| -> Vec<(String, Option<String>)> {
            choose(&all, name).into_iter().map(|it| (it.topic, it.trigger)).collect()
        };
        let of = |topic: &str, trigger: &str| (topic.to_owned(), Some(trigger.to_owned()));
        assert_eq!(meant("late"), [("late".to_owned(), None)], "the topic before the function");
        assert_eq!(meant("f"), [of("a.f.dead", "a/f/x"), of("late", "a/f/y")]);
        assert_eq!(meant("a/f"), meant("f"));
        assert_eq!(meant("y"), [of("late", "a/f/y")]);
        assert_eq!(meant("other.dead"), [("other.dead".to_owned(), None)]);
    }

    #[test]
    fn causes_are_listed_and_nothing_of_them_moves_the_cursor() {
        let cause = DeadLetterCause {
            error_type: "KeyError".into(),
            cause: "RetryAttemptsExhausted".into(),
            function: "f".into(),
            trigger: "a/f/f".into(),
            count: 1_200,
            first: "x".into(),
            last: "x".into(),
            message: "'c'\x1b[2J\nand more".into(),
            samples: vec!["in.dead[0]@7".into()],
        };
        let list = DeadLetterList {
            topic: "in.dead".into(),
            open: 1_200,
            done: 3,
            causes: vec![cause],
            ..DeadLetterList::default()
        };
        let text = render_lists(&[list], Paint::default(), "millrace");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("in.dead  1,200  KeyError  RetryAttempts"), "{text}");
        assert!(lines[1].contains("'c'\\u{1b}[2J  in.dead[0]@7"), "{text}");
        assert_eq!(lines[2], "1,200 open, 3 put back or purged");
        assert_eq!(lines[3], "next: millrace dead-letter show 'in.dead[0]@7'");
        assert_eq!(render_lists(&[], Paint::default(), "millrace"), "0 open\n");
    }

    #[test]
    fn a_dead_letter_is_shown_whole() {
        let record = RecordData {
            topic: "in.dead".into(),
            partition: 0,
            offset: 7,
            timestamp: None,
            timestamp_ms: 0,
            key: Some("k".into()),
            value: Some("{}".into()),
            headers: vec![HeaderData { name: "h".into(), value: None }],
        };
        let info = DeadLetterInfo {
            api: 1,
            done: false,
            record,
            edited: Some("{\"c\":1}".into()),
            cause: "RecordAgeExceeded".into(),
            attempts: 2,
            topic: "in".into(),
            partition: 3,
            offset: 18,
            trigger: "a/f/f".into(),
            function: "f".into(),
            revision: "3f2a".into(),
            invocation: Some("4-2-118".into()),
            error_type: "KeyError".into(),
            error_message: "'c'".into(),
            at: "never".into(),
        };
        let expected = "\
in.dead[0]@7  open, edited
error     KeyError: 'c'
cause     RecordAgeExceeded, 2 attempts, never
trigger   a/f/f  revision 3f2a  invocation 4-2-118
from      in[3]@18
key       k
header    h=null
value     {}
edited    {\"c\":1}
next: millrace dead-letter redrive in.dead, or first millrace dead-letter edit 'in.dead[0]@7'
";
        assert_eq!(render_info(&info, Paint::default(), "millrace"), expected);
    }

    #[test]
    fn what_was_done_is_told_and_a_stop_is_a_failure() {
        let status = RedriveStatus {
            topic: "in.dead".into(),
            state: RedriveState::Done,
            matched: 3,
            done: 3,
            edited: 1,
            overtaking: 2,
            to: vec!["in".into()],
            ..RedriveStatus::default()
        };
        let text = told(&status);
        assert!(
            text.starts_with("in.dead: 3 went back to in, 1 of them edited\n! 2 have"),
            "{text}"
        );
        assert_eq!(judge(&status), Ok(()));
        let preview = RedriveStatus { state: RedriveState::Preview, ..status.clone() };
        assert!(told(&preview).starts_with("in.dead: 3 would go back to in"));
        let purge = RedriveStatus { purge: true, overtaking: 0, edited: 0, ..preview };
        assert_eq!(told(&purge), "in.dead: 3 would be purged\nnext: the same with --yes\n");
        let stopped = RedriveStatus { state: RedriveState::Stopped, ..status };
        assert_eq!(judge(&stopped).unwrap_err().exit, exit::CONFLICT);
    }
}
