//! `millrace raft`: how a node takes part in what its cluster agrees on, and who leads.

use std::time::Duration;

use gateway::api::{LeadChoice, RaftCheckpoint, RaftStatus};
use serde_json::json;

use super::error::CommandError;
use super::recover::{self, RecoverArgs};
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, count};

/// An order may wait for an election.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows and steers what the nodes of a cluster agree by.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace raft status
  millrace raft transfer edge-2
  millrace raft snapshot
  millrace raft recover --data DIR")]
pub enum RaftCommand {
    /// Show how a node takes part: term, leader, log.
    #[command(after_help = "\
Examples:
  millrace raft status
  millrace raft status --node edge-2 -o json")]
    Status,
    /// Let another node lead.
    #[command(after_help = "\
Examples:
  millrace raft transfer            any other that is there
  millrace raft transfer edge-2     this one")]
    Transfer(TransferArgs),
    /// Write a checkpoint of a node's state now, and shorten its log.
    #[command(after_help = "\
Examples:
  millrace raft snapshot
  millrace raft snapshot --node edge-2")]
    Snapshot,
    /// Let the last node go on alone, when most of those that vote are gone for good.
    ///
    /// For the folder of a node that does not run. Every other node is removed, and has to join
    /// anew. What was acknowledged and did not reach this folder is lost; what reached it counts,
    /// agreed on or not. Without --yes nothing is changed: it shows what would be kept, and how to
    /// choose among several survivors.
    #[command(after_help = "\
Examples:
  millrace raft recover --data DIR               what would be kept, removed, lost
  millrace raft recover --data DIR -o json       to compare survivors: `last`, term before index
  millrace raft recover --data DIR --yes")]
    Recover(RecoverArgs),
}

/// To whom.
#[derive(Debug, clap::Args)]
pub struct TransferArgs {
    /// Its name, or its id; without one, any other node that votes and is there.
    #[arg(value_name = "NAME")]
    pub to: Option<String>,
}

/// Carries it out.
///
/// # Errors
///
/// `E0575` on a node that is alone, `E0572` when there is no such node, `E0573` when it cannot lead,
/// and those of [`recover::run`].
pub fn run(command: &RaftCommand, globals: &Globals) -> Result<(), CommandError> {
    let connect = || Client::connect(globals);
    let is_json = globals.output == Format::Json;
    match command {
        RaftCommand::Recover(args) => recover::run(args, globals),
        RaftCommand::Status => {
            let status: RaftStatus = connect()?.get("/v1/raft")?;
            if is_json { output::print_json(&status) } else { output::print(&render(&status)) }
        }
        RaftCommand::Transfer(args) => {
            let client = connect()?;
            let choice = LeadChoice { to: args.to.clone() };
            let leads: LeadChoice = client
                .post("/v1/raft:transfer", &choice, PATIENCE)
                .map_err(|refused| refused.error)?;
            if is_json {
                return output::print_json(&leads);
            }
            output::print(&format!("{} leads\n", leads.to.unwrap_or_default()))
        }
        RaftCommand::Snapshot => {
            let made: RaftCheckpoint = connect()?
                .post("/v1/raft:snapshot", &json!({}), PATIENCE)
                .map_err(|refused| refused.error)?;
            if is_json {
                return output::print_json(&made);
            }
            output::print(&format!("a checkpoint at entry {}\n", count(made.index)))
        }
    }
}

fn render(status: &RaftStatus) -> String {
    let or_none = |names: &[String]| match names {
        [] => "-".to_owned(),
        names => names.join(", "),
    };
    let mut lines = vec![
        ("cluster", status.cluster.clone()),
        ("node", format!("{} (id {})", status.name, status.id)),
        ("leader", status.leader.clone().unwrap_or_else(|| "none is known".to_owned())),
        ("term", count(status.term)),
        ("voters", or_none(&status.voters)),
        ("learners", or_none(&status.learners)),
        ("log", format!("entries {} to {}", count(status.first), count(status.last))),
        ("agreed on", format!("up to {}", count(status.committed))),
        ("applied", format!("up to {}", count(status.applied))),
        ("checkpoint", format!("at {}", count(status.checkpoint))),
    ];
    if !status.dropped.is_empty() {
        let dropped = status.dropped.iter().map(|(why, n)| format!("{} {why}", count(*n)));
        lines.push(("dropped", dropped.collect::<Vec<_>>().join(", ")));
    }
    lines.iter().map(|(head, text)| format!("{head:<11} {text}\n")).collect()
}
