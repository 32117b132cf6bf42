//! `millrace functions`, `rollback` and `alias`: what is deployed, which revisions can run again,
//! and the names that some of them have.

use std::time::Duration;

use gateway::api::{
    AliasList, FunctionInfo, FunctionList, RevisionList, RevisionName, RolledBack, Target,
};

use super::error::{CommandError, exit};
use super::program::program;
use crate::cli::Globals;
use crate::client::Client;
use crate::node::check_alias;
use crate::output::{self, Format, Paint, Rows, since};

/// A trial start of an interpreter takes longer than other answers.
const PATIENCE: Duration = Duration::from_secs(570);

/// Lists what is deployed, or the revisions of a function that can run again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace functions                         all that is deployed
  millrace functions greenhouse/hot-alert    its revisions, the newest first
  millrace functions hot-alert -o json       for programs")]
pub struct FunctionsArgs {
    /// A function: APP/FUNCTION, or enough of it.
    #[arg(value_name = "FUNCTION")]
    pub function: Option<String>,
}

/// Lets a function be a revision again that it was before. Positions stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace rollback greenhouse/hot-alert                to what ran before
  millrace rollback greenhouse/hot-alert --to v3        to a revision that is kept
  millrace rollback greenhouse/hot-alert --to stable    to what an alias names")]
pub struct RollbackArgs {
    /// The function: APP/FUNCTION, or enough of it.
    #[arg(value_name = "FUNCTION")]
    pub function: String,
    /// A revision or the start of one, its number as v3, or an alias [default: what ran before].
    #[arg(long, value_name = "REVISION|ALIAS")]
    pub to: Option<String>,
}

/// Names revisions, so that they are kept and found again.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace alias set greenhouse/hot-alert stable
  millrace alias list greenhouse/hot-alert
  millrace alias delete greenhouse/hot-alert stable")]
pub enum AliasCommand {
    /// Let an alias name a revision.
    #[command(after_help = "\
Examples:
  millrace alias set greenhouse/hot-alert stable       what runs now
  millrace alias set greenhouse/hot-alert stable v3    another revision")]
    Set(SetArgs),
    /// List the aliases of a function.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  millrace alias list greenhouse/hot-alert
  millrace alias list greenhouse/hot-alert -o json"
    )]
    List(ListArgs),
    /// Take an alias away.
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  millrace alias delete greenhouse/hot-alert stable"
    )]
    Delete(DeleteArgs),
}

/// What names what.
#[derive(Debug, clap::Args)]
pub struct SetArgs {
    /// The function: APP/FUNCTION, or enough of it.
    #[arg(value_name = "FUNCTION")]
    pub function: String,
    /// The alias: a name such as stable.
    pub alias: String,
    /// A revision or the start of one, its number as v3, or another alias [default: what runs].
    pub revision: Option<String>,
}

/// Whose aliases.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// The function: APP/FUNCTION, or enough of it.
    #[arg(value_name = "FUNCTION")]
    pub function: String,
}

/// Which alias goes.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// The function: APP/FUNCTION, or enough of it.
    #[arg(value_name = "FUNCTION")]
    pub function: String,
    /// The alias.
    pub alias: String,
}

/// Carries `millrace functions` out.
///
/// # Errors
///
/// `E0506` when there is no such function, `E0507` when several are meant.
pub fn functions(args: &FunctionsArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let paint = Paint::new(globals.colour_on_stdout());
    let Some(function) = &args.function else {
        let list: FunctionList = client.get("/v1/functions")?;
        return match globals.output {
            Format::Json => output::print_json(&list),
            Format::Table => output::print(&render_list(&list, paint)),
        };
    };
    let path = path_of(&find(&client, function)?);
    let list: RevisionList = client.get(&format!("{path}/revisions"))?;
    match globals.output {
        Format::Json => output::print_json(&list),
        Format::Table => output::print(&render_revisions(&list, paint)),
    }
}

/// Carries a rollback out.
///
/// # Errors
///
/// `E0522` when there is no such revision, the reason when it cannot start, `E0520` when somebody
/// else was quicker.
pub fn rollback(args: &RollbackArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let function = find(&client, &args.function)?;
    let target = Target { to: args.to.clone() };
    let path = format!("{}:rollback", path_of(&function));
    let done: RolledBack = client.post_at(&path, &target, function.version, PATIENCE)?;
    if globals.output == Format::Json {
        return output::print_json(&done);
    }
    let name = format!("{}/{}", done.app, done.function);
    let (before, now) = (named(&done.before), named(&done.now));
    output::print(&match done.before == done.now {
        true => format!("{name}  {now} runs already\n"),
        false => format!("{name}  {before} -> {now}, positions as they were\n"),
    })
}

/// Carries `millrace alias` out.
///
/// # Errors
///
/// `E0522` when there is no such revision or alias, `E0527` for what cannot be an alias.
pub fn alias(command: &AliasCommand, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let (AliasCommand::Set(SetArgs { function, .. })
    | AliasCommand::List(ListArgs { function })
    | AliasCommand::Delete(DeleteArgs { function, .. })) = command;
    let path = format!("{}/aliases", path_of(&find(&client, function)?));
    match command {
        AliasCommand::List(_) => {}
        AliasCommand::Set(args) => {
            let target = Target { to: args.revision.clone() };
            let _: AliasList = client.put(&of_alias(&path, &args.alias)?, &target)?;
        }
        AliasCommand::Delete(args) => client.delete(&of_alias(&path, &args.alias)?)?,
    }
    let list: AliasList = client.get(&path)?;
    match globals.output {
        Format::Json => output::print_json(&list),
        Format::Table => {
            output::print(&render_aliases(&list, Paint::new(globals.colour_on_stdout())))
        }
    }
}

/// The path of an alias. What no alias can be is refused before it becomes a path.
fn of_alias(path: &str, alias: &str) -> Result<String, CommandError> {
    check_alias(alias)?;
    Ok(format!("{path}/{alias}"))
}

pub(super) fn path_of(function: &FunctionInfo) -> String {
    format!("/v1/functions/{}/{}", function.app, function.name)
}

/// The function that is meant.
pub(super) fn find(client: &Client, text: &str) -> Result<FunctionInfo, CommandError> {
    let list: FunctionList = client.get("/v1/functions")?;
    choose(list.functions, text)
}

/// By its whole name, its own name, or the start of either.
fn choose(functions: Vec<FunctionInfo>, text: &str) -> Result<FunctionInfo, CommandError> {
    let whole = |it: &FunctionInfo| format!("{}/{}", it.app, it.name);
    let rules: [&dyn Fn(&FunctionInfo) -> bool; 3] =
        [&|it| whole(it) == text, &|it| it.name == text, &|it| {
            !text.is_empty() && (whole(it).starts_with(text) || it.name.starts_with(text))
        }];
    for rule in rules {
        let mut meant: Vec<&FunctionInfo> = functions.iter().filter(|it| rule(it)).collect();
        match (meant.pop(), meant.is_empty()) {
            (None, _) => {}
            (Some(one), true) => return Ok(one.clone()),
            (Some(last), false) => {
                meant.push(last);
                let names: Vec<String> = meant.into_iter().map(whole).collect();
                let message = format!("`{}` is the name of several functions", text.escape_debug());
                let failed = CommandError::new(exit::USAGE, "E0507", message);
                return Err(failed.help(format!("write one of {}", names.join(", "))));
            }
        }
    }
    let message = format!("there is no function `{}`", text.escape_debug());
    let failed = CommandError::new(exit::NOT_FOUND, "E0506", message);
    let names: Vec<String> = functions.iter().map(whole).collect();
    Err(match names.is_empty() {
        true => failed.help(format!("nothing is deployed; next: {} deploy DIR", program())),
        false => failed.help(format!("functions are {}", names.join(", "))),
    })
}

/// As people write it: v3.
pub(super) fn number(name: &RevisionName) -> String {
    format!("v{}", name.number)
}

fn named(name: &RevisionName) -> String {
    format!("{} {}", number(name), name.revision)
}

fn ago(time: &str) -> String {
    since(time).map_or_else(|| time.to_owned(), |span| format!("{span} ago"))
}

fn render_list(list: &FunctionList, paint: Paint) -> String {
    if list.functions.is_empty() {
        return format!("no functions\nnext: {} deploy DIR\n", program());
    }
    let head = ["FUNCTION", "IS", "REVISION", "DEPLOYED", ">KEPT", "ALIASES"];
    let mut rows = Rows::new(&head);
    for it in &list.functions {
        rows.push(vec![
            format!("{}/{}", it.app, it.name),
            number(&it.runs),
            it.runs.revision.clone(),
            ago(&it.deployed),
            it.revisions.to_string(),
            it.aliases.join(", "),
        ]);
    }
    rows.render(paint)
}

fn render_revisions(list: &RevisionList, paint: Paint) -> String {
    let mut rows = Rows::new(&[">NUMBER", "REVISION", "DEPLOYED", "PACKAGE", "IS", "ALIASES"]);
    for it in &list.revisions {
        rows.push(vec![
            number(&it.name),
            it.name.revision.clone(),
            ago(&it.deployed),
            it.package.chars().take(12).collect(),
            if it.runs { "current".to_owned() } else { String::new() },
            it.aliases.join(", "),
        ]);
    }
    let name = format!("{}/{}", list.app, list.function);
    format!("FUNCTION {name}  version {} of {}\n{}", list.version, list.app, rows.render(paint))
}

fn render_aliases(list: &AliasList, paint: Paint) -> String {
    if list.aliases.is_empty() {
        return format!("{}/{} has no aliases\n", list.app, list.function);
    }
    let mut rows = Rows::new(&["ALIAS", ">NUMBER", "REVISION"]);
    for it in &list.aliases {
        rows.push(vec![it.alias.clone(), number(&it.names), it.names.revision.clone()]);
    }
    rows.render(paint)
}

#[cfg(test)]
mod tests {
    use gateway::api::{AliasInfo, RevisionInfo};

    use super::*;

    fn info(app: &str, name: &str) -> FunctionInfo {
        FunctionInfo { app: app.into(), name: name.into(), ..FunctionInfo::default() }
    }

    #[test]
    fn a_function_is_meant_by_its_name_or_enough_of_it() {
        let all =
            || vec![info("a", "hot"), info("a", "hot-alert"), info("b", "hot"), info("b", "x")];
        let meant = |text: &str| {
            choose(all(), text)
                .map(|it| format!("{}/{}", it.app, it.name))
                .map_err(|error| error.code.unwrap_or_default())
        };
        assert_eq!(meant("a/hot").as_deref(), Ok("a/hot"));
        assert_eq!(meant("hot-a").as_deref(), Ok("a/hot-alert"));
        assert_eq!(meant("b/x").as_deref(), Ok("b/x"));
        assert_eq!(meant("hot"), Err("E0507"));
        assert_eq!(meant("b"), Err("E0507"));
        assert_eq!(meant("cold"), Err("E0506"));
        assert_eq!(meant(""), Err("E0506"));
        let none = choose(Vec::new(), "x").unwrap_err();
        assert!(none.help.unwrap().starts_with("nothing is deployed; next: "));
    }

    #[test]
    fn revisions_are_listed_with_what_they_are_called() {
        let name = |number, revision: &str| RevisionName { number, revision: revision.into() };
        let revision = |number, revision: &str, runs, aliases: &[&str]| RevisionInfo {
            name: name(number, revision),
            package: "0123456789abcdef".into(),
            deployed: "soon".into(),
            runs,
            aliases: aliases.iter().map(|it| (*it).to_owned()).collect(),
        };
        let list = RevisionList {
            app: "a".into(),
            function: "f".into(),
            version: 7,
            revisions: vec![
                revision(12, "aaaaaaaaaaaa", true, &[]),
                revision(3, "bbbbbbbbbbbb", false, &["blue", "stable"]),
            ],
            ..RevisionList::default()
        };
        let expected = "\
FUNCTION a/f  version 7 of a
NUMBER  REVISION      DEPLOYED  PACKAGE       IS       ALIASES
   v12  aaaaaaaaaaaa  soon      0123456789ab  current
    v3  bbbbbbbbbbbb  soon      0123456789ab           blue, stable
";
        assert_eq!(render_revisions(&list, Paint::default()), expected);
        let aliases = vec![AliasInfo { alias: "stable".into(), names: name(3, "bbbbbbbbbbbb") }];
        let list = AliasList { app: "a".into(), function: "f".into(), aliases, api: 1 };
        let expected = "ALIAS   NUMBER  REVISION\nstable      v3  bbbbbbbbbbbb\n";
        assert_eq!(render_aliases(&list, Paint::default()), expected);
    }
}
