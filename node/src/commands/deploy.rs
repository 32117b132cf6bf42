//! `millrace deploy` and `millrace remove`: bring an application to a running node, or take it
//! away. What was shown is what happens: a plan that is out of date is refused.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use gateway::api::{Change, Deployed, FunctionList, FunctionOutcome, Outcome, Plan, RevisionName};

use super::error::{CommandError, exit};
use super::plan::{self, Folder};
use super::program::program;
use super::revisions::number;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, bytes, printable};

/// Compiling and starting take longer than other answers.
const PATIENCE: Duration = Duration::from_secs(570);

/// Deploys an application.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace deploy                        the application in this folder
  millrace deploy examples/weather       another one
  millrace deploy --node edge-1 --yes    to a node of several, without a question

Exit status: 1 when a function was refused; the others were deployed.")]
pub struct DeployArgs {
    /// The application's folder, where millrace.toml lies.
    #[arg(default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// Do not ask when functions or triggers go, with their positions.
    #[arg(short, long)]
    pub yes: bool,
}

/// Ends an application on a node. Its topics stay, with all records.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace remove greenhouse          asks first
  millrace remove greenhouse --yes    does not ask")]
pub struct RemoveArgs {
    /// The application's name.
    pub app: String,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// Carries a deploy out.
///
/// # Errors
///
/// `E0521` when a function was refused, `E0520` when somebody else was quicker.
pub fn run(args: &DeployArgs, globals: &Globals) -> Result<(), CommandError> {
    let folder = Folder::read(&args.dir)?;
    let client = Client::connect(globals)?;
    let plan = folder.plan(&client)?;
    let paint = Paint::new(globals.colour_on_stdout());
    let is_table = globals.output == Format::Table;
    if is_table {
        output::print(&plan::render(&plan, paint))?;
    }
    if let Some(loss) = loss(&plan)
        && !args.yes
    {
        confirm(&format!("{loss} Deploy?"), "deploy")?;
    }
    send(&folder, &plan.missing, &client)?;
    let path = format!("/v1/apps/{}:deploy", folder.app);
    progress("deploying ...");
    let deploy = || client.post_at(&path, folder.proposal(), plan.version, PATIENCE);
    let deployed: Deployed = match deploy() {
        // What was there at the plan went meanwhile.
        Err(error) if error.code == Some("E0524") => {
            send(&folder, &folder.plan(&client)?.missing, &client)?;
            deploy()?
        }
        other => other?,
    };
    if is_table {
        output::print(&render(&deployed, paint))?;
    } else {
        output::print_json(&deployed)?;
    }
    judge(&deployed, globals)
}

/// What a person should agree to: positions that go.
fn loss(plan: &Plan) -> Option<String> {
    let functions = plan.functions.iter().filter(|it| it.change == Change::Removed);
    let triggers = plan.functions.iter().filter(|it| it.change != Change::Removed);
    let triggers = triggers.flat_map(|it| &it.triggers).filter(|it| it.change == Change::Removed);
    let (functions, triggers) = (functions.count(), triggers.count());
    let count = |count: usize, one: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {one}s")),
    };
    let parts = [count(functions, "function"), count(triggers, "trigger")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{} will go, with their positions.", parts.join(" and ")))
}

fn send(folder: &Folder, missing: &[String], client: &Client) -> Result<(), CommandError> {
    for digest in missing {
        let Some(package) = folder.package(digest) else { continue };
        progress(&format!("sending {}  {}", &digest[..12], bytes(package.size_bytes())));
        client.put_bytes(&format!("/v1/packages/{digest}"), &package.archive(), PATIENCE)?;
    }
    Ok(())
}

/// For a person who waits; a pipe has no use for it.
fn progress(text: &str) {
    if io::stderr().is_terminal() {
        drop(writeln!(io::stderr().lock(), "  {text}"));
    }
}

fn render(deployed: &Deployed, paint: Paint) -> String {
    let mut rows = Rows::new(&["FUNCTION", "OUTCOME", "RUNS"]);
    for it in &deployed.functions {
        let outcome = match it.outcome {
            Outcome::Unchanged => "unchanged",
            Outcome::Deployed => "deployed",
            Outcome::Removed => "removed",
            Outcome::Refused => "refused",
        };
        let runs = it.runs.as_ref().map_or_else(|| "-".to_owned(), named);
        rows.push(vec![it.name.clone(), outcome.to_owned(), runs]);
    }
    rows.render(paint)
}

fn named(name: &RevisionName) -> String {
    format!("{} {}", number(name), name.revision)
}

/// Says what was refused, each with its reason, and fails if anything was.
fn judge(deployed: &Deployed, globals: &Globals) -> Result<(), CommandError> {
    let is_refused = |it: &&FunctionOutcome| it.outcome == Outcome::Refused;
    let refused: Vec<&FunctionOutcome> = deployed.functions.iter().filter(is_refused).collect();
    for it in &refused {
        let error = it.error.clone().unwrap_or_default();
        let message = format!("function `{}` cannot start: {}", it.name, printable(&error.message));
        let known = function::codes().into_iter().find(|known| known.code == error.code);
        let rest = match &it.runs {
            Some(name) => format!("{} runs on; mend it and deploy again", named(name)),
            None => "mend it and deploy again; the other functions run".to_owned(),
        };
        let failed = CommandError::new(exit::FAILED, known.map_or("E0312", |it| it.code), message);
        failed.help(rest).print(globals.colour_on_stderr());
    }
    if refused.is_empty() {
        return Ok(());
    }
    let (count, all) = (refused.len(), deployed.functions.len());
    let were = if count == 1 { "was" } else { "were" };
    let message = format!("{count} of {all} functions of {} {were} refused", deployed.app);
    Err(CommandError::new(exit::FAILED, "E0521", message)
        .help(format!("`{} functions` shows what is deployed", program())))
}

/// Asks a person. Without one there is no answer, and so no yes.
fn confirm(question: &str, command: &str) -> Result<(), CommandError> {
    let refused = |exit, message: &str| {
        Err(CommandError::new(exit, "E0517", message)
            .help(format!("`{} {command} --yes` does not ask", program())))
    };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let first = question.rsplit_once(' ').map_or(question, |(before, _)| before);
        let message = format!("{first} That needs a yes, and nobody is there to say it");
        return refused(exit::USAGE, &message);
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => refused(exit::FAILED, "nothing was changed"),
    }
}

/// Carries a removal out.
///
/// # Errors
///
/// `E0506` when there is no such application.
pub fn remove(args: &RemoveArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let list: FunctionList = client.get("/v1/functions")?;
    let count = list.functions.iter().filter(|it| it.app == args.app).count();
    if count == 0 {
        let mut apps: Vec<&str> = list.functions.iter().map(|it| it.app.as_str()).collect();
        apps.dedup();
        let message = format!("there is no application `{}`", args.app.escape_debug());
        let failed = CommandError::new(exit::NOT_FOUND, "E0506", message);
        return Err(match apps.is_empty() {
            true => failed.help("nothing is deployed on this node"),
            false => failed.help(format!("applications are {}", apps.join(", "))),
        });
    }
    if !args.yes {
        let what = if count == 1 { "1 function".to_owned() } else { format!("{count} functions") };
        let question =
            format!("{} and its {what} will go, with their positions. Remove?", args.app);
        confirm(&question, &format!("remove {}", args.app))?;
    }
    client.delete(&format!("/v1/apps/{}", args.app))?;
    output::print(&format!("removed {} and its {count} functions; its topics stay\n", args.app))
}

#[cfg(test)]
mod tests {
    use gateway::api::{FunctionPlan, TriggerPlan};

    use super::*;

    #[test]
    fn what_goes_is_counted_before_it_goes() {
        let trigger = |change| TriggerPlan { change, ..TriggerPlan::default() };
        let function = |change, triggers| FunctionPlan { change, triggers, ..Default::default() };
        let mut plan = Plan {
            functions: vec![function(Change::Changed, vec![trigger(Change::Changed)])],
            ..Plan::default()
        };
        assert_eq!(loss(&plan), None);
        plan.functions.push(function(Change::Removed, vec![trigger(Change::Removed)]));
        assert_eq!(loss(&plan).unwrap(), "1 function will go, with their positions.");
        let two = vec![trigger(Change::Removed), trigger(Change::Removed)];
        plan.functions.push(function(Change::Changed, two));
        let expected = "1 function and 2 triggers will go, with their positions.";
        assert_eq!(loss(&plan).unwrap(), expected);
    }

    #[test]
    fn the_outcome_names_what_runs() {
        let name = RevisionName { number: 3, revision: "aaaaaaaaaaaa".into() };
        let functions = vec![
            FunctionOutcome {
                name: "hot".into(),
                outcome: Outcome::Refused,
                runs: Some(name),
                error: None,
            },
            FunctionOutcome { name: "old".into(), outcome: Outcome::Removed, ..Default::default() },
        ];
        let deployed = Deployed { app: "a".into(), functions, ..Deployed::default() };
        let expected = "\
FUNCTION  OUTCOME  RUNS
hot       refused  v3 aaaaaaaaaaaa
old       removed  -
";
        assert_eq!(render(&deployed, Paint::default()), expected);
        let error = judge(&deployed, &Globals::default()).unwrap_err();
        assert_eq!((error.exit, error.code), (exit::FAILED, Some("E0521")));
        assert_eq!(error.message, "1 of 2 functions of a was refused");
    }
}
