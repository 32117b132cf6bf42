//! The command line: what can be typed, and which command it is handed to. Every help text begins
//! with examples.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::error::{CommandError, exit};
use crate::commands::{
    backup, build, ca, completions, consume, dead_letter, deploy, describe, dev, doctor, event,
    explain, init, invoke, join, lag, logs, man, new, node, plan, produce, ps, raft_group, record,
    replay, revisions, serve, spawner, status, support_bundle, tail, token, top, topic, trigger,
    upgrade,
};
use crate::node::NodeFlags;
use crate::output::{ColorChoice, Format};

/// Runs your functions on the records of your topics: one binary, on a laptop or on servers.
#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  millrace new greenhouse && cd greenhouse && millrace build
  millrace dev                                           a node with this application
  millrace produce readings -k bed-4 '{\"c\":34.2}'        in a second terminal
  millrace consume alerts -n 1
  millrace status
  millrace deploy                                        to a node that runs as a service

Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 conflict, 6 unreachable,
7 timed out, 9 a plan with changes, 10 the function failed, 78 unusable configuration, 130 interrupted.
`millrace explain CODE` explains errors."
)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The word that makes this program a spawner of worker processes; for a node alone.
pub const SPAWNER: &str = "__spawner";

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The node to talk to: its name or the start of it, its folder, or its URL (with the token in
    /// MILLRACE_TOKEN). Needed only if several run.
    #[arg(long, global = true, env = "MILLRACE_NODE", value_name = "NODE", hide_env_values = true)]
    pub node: Option<String>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// When to use colour; NO_COLOR and CLICOLOR_FORCE are heard too.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
    /// Say more; twice for even more.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new application.
    New(new::NewArgs),
    /// Compile the functions of an application.
    Build(build::BuildArgs),
    /// Run an application on this machine, and reload it when it is saved.
    ///
    /// The node has a bus of its own; nothing else is needed. Records and positions stay in the
    /// data folder, so that the next start goes on where this one was. Ctrl-C drains and ends.
    Dev(DevArgs),
    /// Run applications as a service.
    ///
    /// As `dev`, but nothing is reloaded and no feed is played. SIGTERM drains and ends; a setting
    /// that cannot be used ends with status 78.
    Serve(ServeArgs),
    /// Show what a deploy would change on a running node.
    ///
    /// Functions that are new, changed or gone, setting by setting, and topics that will be made.
    /// Nothing is changed.
    Plan(plan::PlanArgs),
    /// Deploy an application to a running node.
    ///
    /// What is unchanged is left alone; what changed runs on until its new revision is ready, and
    /// positions stay. A function that cannot start is refused, and its old revision runs on. What
    /// was deployed is there after a power cut.
    Deploy(deploy::DeployArgs),
    /// Let a function be a revision again that it was before.
    Rollback(revisions::RollbackArgs),
    /// Name revisions, so that they are kept and found again.
    #[command(subcommand)]
    Alias(revisions::AliasCommand),
    /// List what is deployed, and the revisions that can run again.
    Functions(revisions::FunctionsArgs),
    /// End an application on a running node.
    Remove(deploy::RemoveArgs),
    /// Append records to a topic.
    ///
    /// Each VALUE is a record; without any, each line of stdin or of a file is one (empty lines
    /// are left out). Records are durable when they are acknowledged. Those of one key go to the
    /// partition that Kafka's default partitioner would choose.
    Produce(produce::ProduceArgs),
    /// Read records of a topic.
    ///
    /// It begins with the earliest record and goes on until Ctrl-C. It has no positions of its
    /// own: nothing is taken away, and nothing is remembered but in the file of --resume. With --live
    /// it follows a cluster from anywhere, with a token of `millrace token create`.
    Consume(consume::ConsumeArgs),
    /// List, make, describe and delete topics.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Look at dead letters, edit them, put them back or purge them.
    #[command(subcommand, visible_alias = "dlq")]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// List, pause, resume and seek triggers.
    #[command(subcommand)]
    Trigger(trigger::TriggerCommand),
    /// Run records again that a trigger has read, with outputs in a topic of their own.
    ///
    /// The function is what it is now; its trigger goes on as it does. Outputs, whatever topic they
    /// choose, and records that are given up go into one topic that nothing reads. What the function
    /// does elsewhere it does again.
    Replay(replay::ReplayArgs),
    /// Call a function, and print what it answers.
    ///
    /// It runs at the node that is asked where an instance is ready, else at another member of its
    /// cluster. What it answers is printed; what it gives to topics by name is there when it has
    /// answered. Ctrl-C ends the call, wherever it runs.
    Invoke(invoke::InvokeArgs),
    /// Try event patterns on sample records.
    #[command(subcommand)]
    Event(event::EventCommand),
    /// Show what a node does.
    Status(status::StatusArgs),
    /// Show how far triggers are behind.
    Lag(lag::LagArgs),
    /// Show what happened to a record.
    ///
    /// At every trigger that reads it: how it stands, its attempts and invocations, where its outputs
    /// or its dead letter lie; and what it was made from, function by function.
    Record(record::RecordArgs),
    /// Show what an invocation was.
    Invocation(record::InvocationArgs),
    /// Show all that is known of a function, a trigger, a topic or an application.
    Describe(describe::DescribeArgs),
    /// Show invocations as they end.
    Tail(tail::TailArgs),
    /// Show what a node does on a screen that is drawn anew every second.
    Top(top::TopArgs),
    /// Show the instances of functions that there are now.
    Ps(ps::PsArgs),
    /// Show what functions said.
    Logs(logs::LogsArgs),
    /// Found a cluster: this node is its first.
    ///
    /// It makes the cluster's CA and this node's key, in the data folder, which only their owner can
    /// read. Nothing founds a cluster but this.
    Init(init::InitArgs),
    /// Make a folder a node of a cluster, with a token of it.
    ///
    /// The other side has to show the CA that the token names before it is told the token. The node
    /// takes part once `serve` runs: it learns first, and votes when it has caught up.
    Join(join::JoinArgs),
    /// List the nodes of a cluster; let in, drain and remove them.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Make, list and revoke tokens of those who follow topics from outside.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Show and rotate the CA that vouches for the nodes of a cluster.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Show and steer what the nodes of a cluster agree by.
    #[command(subcommand)]
    Raft(raft_group::RaftCommand),
    /// Show how far the nodes of a cluster are upgraded, and end an upgrade.
    #[command(subcommand)]
    Upgrade(upgrade::UpgradeCommand),
    /// Examine a node and its machine, with a remedy for what is not well.
    Doctor(doctor::DoctorArgs),
    /// Put what somebody else needs to help with a node into one file, without secrets and records.
    SupportBundle(support_bundle::SupportBundleArgs),
    /// Put applications, their packages and positions into one file.
    ///
    /// From any node of a cluster, while it runs: revisions, aliases, pauses, and how far each
    /// trigger is. Records stay on the bus. The file has no token, key or credential of a node; it
    /// has the environments of functions, as their manifests have them.
    Backup(backup::BackupArgs),
    /// Restore applications, packages and positions from such a file.
    ///
    /// The file is checked whole before anything is changed. No trigger runs before it has its
    /// position, and no position passes a record that was open when the backup was made.
    Restore(backup::RestoreArgs),
    /// Explain the code of an error.
    Explain(explain::ExplainArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Start the workers of nodes that run as this user, as a unit of its own.
    ///
    /// A node forks such a process by itself. As a unit it has the permissions that workers need
    /// and the node does not, and workers have its network and files instead of the node's.
    Spawner(spawner::SpawnerArgs),
    /// Write the manual pages.
    #[command(hide = true)]
    Man(man::ManArgs),
}

/// What `millrace dev` takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millrace dev                            the application in this folder
  millrace dev examples/weather           another one
  millrace dev --no-feed                  leave [dev.feed] of the manifest out
  millrace dev --kafka 127.0.0.1:9092     on an existing Kafka instead of a bus of its own
  millrace dev --data /tmp/try            keep records elsewhere than in .millrace/")]
pub struct DevArgs {
    /// The application's folder, where millrace.toml lies.
    #[arg(default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
    /// Where records and positions are kept [default: .millrace in the application's folder].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the control API listens; any free port of 127.0.0.1 by default.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Do not play the file of [dev.feed].
    #[arg(long)]
    pub no_feed: bool,
    /// What else a node is told.
    #[command(flatten)]
    pub settings: NodeFlags,
}

/// What `millrace serve` takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millrace serve --data /var/lib/millrace                      what was deployed into it
  millrace serve --data /var/lib/millrace --app /srv/greenhouse
  millrace serve --data DIR --app one --app two --name edge-1
  millrace serve --data DIR --app one --kafka kafka-1:9092,kafka-2:9092
  millrace serve --data DIR --app one --config /etc/millrace/node.toml
  millrace serve --config /etc/millrace/node.toml --check      what is wrong with it, and nothing else
  millrace serve --data DIR --traces-endpoint http://127.0.0.1:4318 --traces-ratio 0.01
  millrace serve --data DIR --app one --listen 127.0.0.1:8081
  millrace serve --data DIR          after `millrace init` or `join`: a node of a cluster")]
pub struct ServeArgs {
    /// An application's folder, deployed at every start; may be given more than once. Without any,
    /// the node runs what was deployed into it, and waits for more.
    #[arg(long = "app", value_name = "DIR")]
    pub apps: Vec<PathBuf>,
    /// Where records and positions are kept; needed here, in MILLRACE_DATA or in the node's file.
    #[arg(long, value_name = "DIR", env = "MILLRACE_DATA")]
    pub data: Option<PathBuf>,
    /// Where the control API listens; any free port of 127.0.0.1 by default.
    #[arg(long, value_name = "ADDRESS", env = "MILLRACE_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// How commands address this node [default: the first application's name, else millrace]. A node
    /// of a cluster keeps the name that `init` or `join` was given.
    #[arg(long, value_name = "NAME", env = "MILLRACE_NAME")]
    pub name: Option<String>,
    /// The socket of a `millrace spawner` that starts this node's workers, instead of a process of
    /// its own.
    #[arg(long, value_name = "PATH", env = "MILLRACE_SPAWNER")]
    pub spawner: Option<PathBuf>,
    /// Say whether flags, variables, the node's file and the applications can be used, and end.
    #[arg(long)]
    pub check: bool,
    /// What else a node is told.
    #[command(flatten)]
    pub settings: NodeFlags,
}

/// Parses, dispatches, prints what failed, and gives the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors of clap too, with status 0.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                error.print(cli.globals.colour_on_stderr());
            }
            ExitCode::from(error.exit)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), CommandError> {
    let globals = &cli.globals;
    match &cli.command {
        Command::New(args) => new::run(args),
        Command::Build(args) => build::run(args),
        Command::Dev(args) => dev::run(args, globals),
        Command::Serve(args) => serve::run(args, globals),
        Command::Plan(args) => plan::run(args, globals),
        Command::Deploy(args) => deploy::run(args, globals),
        Command::Rollback(args) => revisions::rollback(args, globals),
        Command::Alias(args) => revisions::alias(args, globals),
        Command::Functions(args) => revisions::functions(args, globals),
        Command::Remove(args) => deploy::remove(args, globals),
        Command::Produce(args) => produce::run(args, globals),
        Command::Consume(args) => consume::run(args, globals),
        Command::Topic(args) => topic::run(args, globals),
        Command::DeadLetter(args) => dead_letter::run(args, globals),
        Command::Trigger(args) => trigger::run(args, globals),
        Command::Replay(args) => replay::run(args, globals),
        Command::Invoke(args) => invoke::run(args, globals),
        Command::Event(args) => event::run(args, globals),
        Command::Status(args) => status::run(args, globals),
        Command::Lag(args) => lag::run(args, globals),
        Command::Record(args) => record::record(args, globals),
        Command::Invocation(args) => record::invocation(args, globals),
        Command::Describe(args) => describe::run(args, globals),
        Command::Tail(args) => tail::run(args, globals),
        Command::Top(args) => top::run(args, globals),
        Command::Ps(args) => ps::run(args, globals),
        Command::Logs(args) => logs::run(args, globals),
        Command::Init(args) => init::run(args, globals),
        Command::Join(args) => join::run(args, globals),
        Command::Node(command) => node::run(command, globals),
        Command::Token(command) => token::run(command, globals),
        Command::Ca(command) => ca::run(command, globals),
        Command::Raft(command) => raft_group::run(command, globals),
        Command::Upgrade(command) => upgrade::run(command, globals),
        Command::Doctor(args) => doctor::run(args, globals),
        Command::SupportBundle(args) => support_bundle::run(args, globals),
        Command::Backup(args) => backup::run(args, globals),
        Command::Restore(args) => backup::restore(args, globals),
        Command::Explain(args) if globals.output == Format::Json => explain::run_json(args),
        Command::Explain(args) => explain::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Spawner(args) => spawner::run(args),
        Command::Man(args) => man::run(args),
    }
}

/// The whole command line, with the examples of each command at the top of its help.
#[must_use]
pub fn command() -> clap::Command {
    examples_first(Cli::command())
}

/// Commands write their examples as `after_help`, next to their arguments; people read them first.
fn examples_first(mut command: clap::Command) -> clap::Command {
    if let Some(examples) = command.get_after_help().cloned() {
        command = command.before_help(examples).after_help("");
    }
    let names: Vec<String> =
        command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, examples_first);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        if command.get_subcommands().next().is_none() {
            found.push((path, command.clone()));
            return;
        }
        for one in command.get_subcommands() {
            leaves(one, &path, found);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_help_begins_with_examples_that_parse() {
        let mut found = Vec::new();
        leaves(&command(), "", &mut found);
        assert!(found.len() > 12, "{}", found.len());
        for (path, mut command) in found {
            let help = command.render_long_help().to_string();
            assert!(help.starts_with("Examples:\n"), "{path}: {help}");
            let examples = help.lines().skip(1).take_while(|line| line.starts_with("  "));
            let mut count = 0;
            for example in examples.filter(|line| line.trim_start().starts_with("millrace ")) {
                assert!(example.trim_start().starts_with(&path), "{path}: {example}");
                count += 1;
                check_example(example.trim());
            }
            assert!(count > 0, "{path} has no example that starts with its name");
        }
    }

    /// An example is a command, then at least three spaces and what it does.
    fn check_example(example: &str) {
        let typed = example.split("   ").next().unwrap();
        let typed = typed.split(" | ").next().unwrap().split(" > ").next().unwrap();
        let words = typed.split_whitespace().map(|word| word.trim_matches('\''));
        if let Err(error) = command().try_get_matches_from(words) {
            panic!("{typed}: {error}");
        }
    }

    #[test]
    fn a_mistyped_command_is_guessed() {
        let error = command().try_get_matches_from(["millrace", "prodcue", "t"]).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(exit::USAGE));
        assert!(error.to_string().contains("produce"), "{error}");
        let error = command().try_get_matches_from(["millrace", "lag", "--outptu"]).unwrap_err();
        assert!(error.to_string().contains("--output"), "{error}");
    }

    #[test]
    fn globals_may_stand_behind_the_command() {
        let matches =
            command().try_get_matches_from(["millrace", "lag", "-o", "json", "--node", "x", "-vv"]);
        let cli = Cli::from_arg_matches(&matches.unwrap()).unwrap();
        assert_eq!(cli.globals.output, Format::Json);
        assert_eq!(cli.globals.node.as_deref(), Some("x"));
        assert_eq!(cli.globals.verbose, 2);
    }
}
