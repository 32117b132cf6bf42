//! `millrace plan`: what a deploy of an application would change, in the words of its manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use function::{FILE_NAME, Manifest, Package};
use gateway::api::{
    Change, FunctionPlan, Plan, Proposal, SettingPlan, TopicChange, TopicPlan, TriggerPlan,
};

use super::error::{CommandError, exit};
use super::program::{program, quoted};
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, printable};

/// Digits of a digest that are shown.
const DIGEST_CHARS: usize = 12;

/// Shows what a deploy would change.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace plan                          the application in this folder
  millrace plan examples/weather         another one
  millrace plan --node edge-1 -o json    against a node of several, for programs

Exit status: 0 there is nothing to do, 9 there are changes, others as for all commands.")]
pub struct PlanArgs {
    /// The application's folder, where millrace.toml lies.
    #[arg(default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
}

/// Carries it out.
///
/// # Errors
///
/// [`exit::CHANGES`] when there are any; what is wrong with the application; when no node answers.
pub fn run(args: &PlanArgs, globals: &Globals) -> Result<(), CommandError> {
    let folder = Folder::read(&args.dir)?;
    let plan = folder.plan(&Client::connect(globals)?)?;
    if globals.output == Format::Json {
        output::print_json(&plan)?;
    } else {
        output::print(&render(&plan, Paint::new(globals.colour_on_stdout())))?;
        if plan.has_changes() {
            let dir = match args.dir.to_string_lossy() {
                dir if dir == "." => String::new(),
                dir => format!(" {}", quoted(&dir)),
            };
            output::print(&format!("next: {} deploy{dir}\n", program()))?;
        }
    }
    if plan.has_changes() { Err(CommandError::silent(exit::CHANGES)) } else { Ok(()) }
}

/// An application in its folder, read and checked.
pub(super) struct Folder {
    pub(super) app: String,
    proposal: Proposal,
    packages: BTreeMap<String, Package>,
}

impl Folder {
    pub(super) fn read(dir: &Path) -> Result<Self, CommandError> {
        let manifest = Manifest::load(dir)?;
        let path = dir.join(FILE_NAME);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| CommandError::file("read", &path, &error))?;
        let mut this = Self {
            app: manifest.app.to_string(),
            proposal: Proposal { manifest: text, packages: BTreeMap::new() },
            packages: BTreeMap::new(),
        };
        for function in &manifest.functions {
            let package = Package::of(dir, function).map_err(|error| {
                let message = format!("function `{}`: {error}", function.name);
                CommandError::new(exit::UNUSABLE, error.code(), message)
            })?;
            let digest = package.digest().to_string();
            this.proposal.packages.insert(function.name.to_string(), digest.clone());
            this.packages.insert(digest, package);
        }
        Ok(this)
    }

    pub(super) const fn proposal(&self) -> &Proposal {
        &self.proposal
    }

    /// A package by its digest.
    pub(super) fn package(&self, digest: &str) -> Option<&Package> {
        self.packages.get(digest)
    }

    pub(super) fn plan(&self, client: &Client) -> Result<Plan, CommandError> {
        let path = format!("/v1/apps/{}:plan", self.app);
        client.post(&path, &self.proposal, Duration::ZERO).map_err(|refused| refused.error)
    }
}

/// The plan, a line for each thing and its settings below it.
pub(super) fn render(plan: &Plan, paint: Paint) -> String {
    let mut out = String::new();
    for function in &plan.functions {
        render_function(&mut out, function, paint);
    }
    for topic in &plan.topics {
        render_topic(&mut out, topic, paint);
    }
    let count = |change| plan.functions.iter().filter(|it| it.change == change).count();
    let made = plan.topics.iter().filter(|it| it.change == TopicChange::Added).count();
    let parts = [
        (count(Change::Added), "to add"),
        (count(Change::Changed), "to change"),
        (count(Change::Removed), "to remove"),
        (count(Change::Unchanged), "unchanged"),
    ];
    let mut parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count != 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if made != 0 {
        parts.push(format!("{made} {} to make", if made == 1 { "topic" } else { "topics" }));
    }
    let sum = if parts.is_empty() { "no functions".to_owned() } else { parts.join(", ") };
    let what = if plan.has_changes() { "" } else { "nothing to do: " };
    out.push_str(&format!("{}: {what}{sum}\n", paint.bold(&plan.app)));
    out
}

fn mark(change: Change, paint: Paint) -> String {
    match change {
        Change::Added => paint.good("+"),
        Change::Changed => paint.doubtful("~"),
        Change::Removed => paint.bad("-"),
        Change::Unchanged => "=".to_owned(),
    }
}

fn render_function(out: &mut String, plan: &FunctionPlan, paint: Paint) {
    if plan.change == Change::Unchanged {
        return;
    }
    let tail = match (plan.change, &plan.revision_before, &plan.revision) {
        (Change::Changed, Some(before), Some(after)) => format!("{before} -> {after}"),
        (Change::Removed, Some(before), _) => {
            format!("{before}, with the positions of its triggers")
        }
        (_, _, Some(after)) => format!("{}  {after}", plan.runtime),
        _ => String::new(),
    };
    let mark = mark(plan.change, paint);
    out.push_str(&format!("{mark} function {}  {}\n", paint.bold(&plan.name), paint.dim(&tail)));
    if plan.change == Change::Changed {
        let code = plan.package.as_ref().map(|it| SettingPlan {
            key: it.key.clone(),
            before: it.before.as_deref().map(short),
            after: it.after.as_deref().map(short),
        });
        settings(out, plan.settings.iter().chain(&code), "    ");
    }
    for trigger in &plan.triggers {
        render_trigger(out, trigger, paint);
    }
}

fn render_trigger(out: &mut String, plan: &TriggerPlan, paint: Paint) {
    let value = |key: &str| {
        let setting = plan.settings.iter().find(|it| it.key == key);
        setting.and_then(|it| it.after.as_ref().or(it.before.as_ref())).map(|it| printable(it))
    };
    let tail = match plan.change {
        Change::Changed | Change::Unchanged => String::new(),
        Change::Removed => "  its positions go with it".to_owned(),
        Change::Added => {
            let from = value("topics").unwrap_or_default();
            let to = value("output.topic").unwrap_or_default();
            let to = if to == "none" { "(no output)".into() } else { to };
            format!("  {from} -> {to}")
        }
    };
    out.push_str(&format!("  {} trigger {}{tail}\n", mark(plan.change, paint), plan.name));
    if plan.change == Change::Changed {
        settings(out, &plan.settings, "      ");
    }
}

fn render_topic(out: &mut String, plan: &TopicPlan, paint: Paint) {
    let (mark, tail) = match plan.change {
        TopicChange::Added => {
            let partitions = plan.settings.iter().find(|it| it.key == "partitions");
            let partitions = partitions.and_then(|it| it.after.as_deref()).unwrap_or("?");
            let noun = if partitions == "1" { "partition" } else { "partitions" };
            (paint.good("+"), format!("{partitions} {noun}"))
        }
        TopicChange::Kept => {
            (paint.doubtful("!"), "is there, and keeps what it was made with".to_owned())
        }
        TopicChange::Unused => (
            paint.doubtful("!"),
            format!("is not needed any more, and stays: {} topic delete {}", program(), plan.name),
        ),
        TopicChange::Refused if plan.settings.iter().all(|it| it.before.is_none()) => {
            (paint.bad("!"), "is not on Kafka, and this node makes none there".to_owned())
        }
        TopicChange::Refused => {
            (paint.bad("!"), "a topic keeps its partitions: this will be refused".to_owned())
        }
    };
    out.push_str(&format!("{mark} topic {}  {}\n", paint.bold(&plan.name), paint.dim(&tail)));
    let differs = plan.settings.iter().filter(|it| it.before.is_some());
    settings(out, differs, "    ");
}

/// Keys side by side, old -> new.
fn settings<'a>(
    out: &mut String,
    settings: impl IntoIterator<Item = &'a SettingPlan>,
    indent: &str,
) {
    let settings: Vec<&SettingPlan> = settings.into_iter().collect();
    let width = settings.iter().map(|it| it.key.chars().count()).max().unwrap_or(0);
    for it in settings {
        let value = |value: &Option<String>| match value {
            Some(value) if value.is_empty() => "\"\"".to_owned(),
            Some(value) => printable(value).into_owned(),
            None => "-".to_owned(),
        };
        let (key, before, after) = (printable(&it.key), value(&it.before), value(&it.after));
        out.push_str(&format!("{indent}{key:width$}  {before} -> {after}\n"));
    }
}

fn short(digest: &str) -> String {
    digest.chars().take(DIGEST_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, before: Option<&str>, after: Option<&str>) -> SettingPlan {
        let text = |it: Option<&str>| it.map(str::to_owned);
        SettingPlan { key: key.to_owned(), before: text(before), after: text(after) }
    }

    fn trigger(change: Change, settings: Vec<SettingPlan>) -> TriggerPlan {
        TriggerPlan { name: "hot".into(), change, settings }
    }

    #[test]
    fn a_plan_is_read_from_top_to_bottom() {
        let topics = setting("topics", None, Some("readings"));
        let output = setting("output.topic", None, Some("alerts"));
        let new = FunctionPlan {
            name: "warm".into(),
            change: Change::Added,
            runtime: "python3".into(),
            revision: Some("aaaaaaaaaaaa".into()),
            settings: vec![setting("memory", None, Some("256MiB"))],
            triggers: vec![trigger(Change::Added, vec![topics, output])],
            ..FunctionPlan::default()
        };
        let changed = FunctionPlan {
            name: "hot".into(),
            change: Change::Changed,
            revision_before: Some("bbbbbbbbbbbb".into()),
            revision: Some("cccccccccccc".into()),
            package: Some(setting("code", Some("0123456789abcdef"), Some("ffffffffffffffff"))),
            settings: vec![
                setting("timeout", Some("10s"), Some("30s")),
                setting("env.LIMIT", None, Some("3\x1b[2J")),
            ],
            triggers: vec![
                trigger(Change::Changed, vec![setting("order", Some("key"), Some("none"))]),
                trigger(Change::Removed, vec![]),
            ],
            ..FunctionPlan::default()
        };
        let gone = FunctionPlan {
            name: "old".into(),
            change: Change::Removed,
            revision_before: Some("dddddddddddd".into()),
            ..FunctionPlan::default()
        };
        let topic = |name: &str, change, before| TopicPlan {
            name: name.into(),
            change,
            settings: vec![setting("partitions", before, Some("8"))],
        };
        let plan = Plan {
            app: "greenhouse".into(),
            functions: vec![changed, gone, FunctionPlan::default(), new],
            topics: vec![
                topic("alerts", TopicChange::Added, None),
                topic("readings", TopicChange::Refused, Some("4")),
            ],
            ..Plan::default()
        };
        let expected = "\
~ function hot  bbbbbbbbbbbb -> cccccccccccc
    timeout    10s -> 30s
    env.LIMIT  - -> 3\\u{1b}[2J
    code       0123456789ab -> ffffffffffff
  ~ trigger hot
      order  key -> none
  - trigger hot  its positions go with it
- function old  dddddddddddd, with the positions of its triggers
+ function warm  python3  aaaaaaaaaaaa
  + trigger hot  readings -> alerts
+ topic alerts  8 partitions
! topic readings  a topic keeps its partitions: this will be refused
    partitions  4 -> 8
greenhouse: 1 to add, 1 to change, 1 to remove, 1 unchanged, 1 topic to make
";
        assert_eq!(render(&plan, Paint::default()), expected);
        let same = Plan { app: "a".into(), ..Plan::default() };
        assert_eq!(render(&same, Paint::default()), "a: nothing to do: no functions\n");
    }
}
