//! `millrace node`: the nodes of a cluster; who comes, who rests, who goes.

use std::io::Write as _;
use std::time::Duration;

use gateway::api::{JoinToken, MemberInfo, MemberList, MemberState};
use serde_json::json;

use super::error::{CommandError, exit};
use super::program::program;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, count};

/// An order may wait for an election and for another change.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lists, admits, drains and removes nodes.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace node list
  millrace node token
  millrace node drain edge-2
  millrace node undrain edge-2
  millrace node remove edge-2")]
pub enum NodeCommand {
    /// List the nodes of the cluster, and how each is.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  millrace node list
  millrace node list -o json     for programs"
    )]
    List,
    /// Make a token that lets in one node.
    ///
    /// It holds for an hour and is shown once. The joining node finds by it that it talks to this
    /// cluster, before it shows the token.
    #[command(after_help = "\
Examples:
  millrace node token
  millrace node token -o json    with the address to join at")]
    Token,
    /// Let a node give away its shards, and get no others.
    #[command(after_help = "\
Examples:
  millrace node drain edge-2")]
    Drain(NamedArgs),
    /// Let a node have shards again.
    #[command(after_help = "\
Examples:
  millrace node undrain edge-2")]
    Undrain(NamedArgs),
    /// Take a node out of the cluster for good.
    ///
    /// Its id is never used again, and its certificate is refused from then on. What would leave
    /// too few nodes that vote is refused.
    #[command(after_help = "\
Examples:
  millrace node remove edge-2
  millrace node remove 2         by its id")]
    Remove(NamedArgs),
}

/// Which node.
#[derive(Debug, clap::Args)]
pub struct NamedArgs {
    /// Its name, or its id.
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Carries it out.
///
/// # Errors
///
/// `E0575` on a node that is alone, `E0572` when there is no such node, `E0573` when the cluster
/// refuses, `E0570` without a quorum.
pub fn run(command: &NodeCommand, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    match command {
        NodeCommand::List => list(&client, globals),
        NodeCommand::Token => token(&client, globals),
        NodeCommand::Drain(args) => drain(&args.name, "drain", &client, globals),
        NodeCommand::Undrain(args) => drain(&args.name, "undrain", &client, globals),
        NodeCommand::Remove(args) => remove(&args.name, &client, globals),
    }
}

fn list(client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let list: MemberList = client.get("/v1/members")?;
    if globals.output == Format::Json {
        return output::print_json(&list);
    }
    output::print(&render(&list, Paint::new(globals.colour_on_stdout())))
}

fn render(list: &MemberList, paint: Paint) -> String {
    let mut rows = Rows::new(&[">ID", "NAME", "ADDRESS", "ROLE", "STATE", "VERSION", ">SHARDS"]);
    for it in &list.members {
        let version = if it.version.is_empty() { "-" } else { &it.version };
        rows.push(vec![
            it.id.to_string(),
            it.name.clone(),
            it.address.clone(),
            if it.leads { "leader".to_owned() } else { it.role.clone() },
            state(it, paint),
            version.to_owned(),
            count(it.shards),
        ]);
    }
    rows.render(paint)
}

fn state(member: &MemberInfo, paint: Paint) -> String {
    let state = match (member.state, member.unheard_ms) {
        (MemberState::Up, _) => paint.good("up"),
        (MemberState::Unheard, Some(since)) => {
            paint.bad(&format!("unheard for {} s", since / 1_000))
        }
        (MemberState::Unheard, None) => paint.bad("unheard"),
        (MemberState::Unknown, _) => paint.doubtful("unknown"),
    };
    if member.draining { format!("{state}, draining") } else { state }
}

fn token(client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let made: JoinToken =
        client.post("/v1/members:token", &json!({}), PATIENCE).map_err(|it| it.error)?;
    if globals.output == Format::Json {
        return output::print_json(&made);
    }
    output::print(&format!("{}\n", made.token))?;
    // What is said of it is no part of it: `$(millrace node token)` is the token.
    let said = format!(
        "it lets one node into {} until {}\n\
         next: {} join TOKEN --peer {} --data DIR --name NAME --peers-listen ADDRESS\n",
        made.cluster,
        made.expires,
        program(),
        made.address
    );
    Ok(std::io::stderr().write_all(said.as_bytes())?)
}

/// A name as a part of a path; what can be no name is nobody's.
fn segment(name: &str) -> Result<&str, CommandError> {
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !name.is_empty() && name.bytes().all(is_one) {
        return Ok(name);
    }
    let message = format!("no node `{}`", name.escape_debug());
    Err(CommandError::new(exit::NOT_FOUND, "E0572", message)
        .help(format!("`{} node list` lists those there are", program())))
}

fn drain(name: &str, verb: &str, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    let path = format!("/v1/members/{}:{verb}", segment(name)?);
    let list: MemberList = client.post(&path, &json!({}), PATIENCE).map_err(|it| it.error)?;
    if globals.output == Format::Json {
        return output::print_json(&list);
    }
    output::print(&render(&list, Paint::new(globals.colour_on_stdout())))
}

fn remove(name: &str, client: &Client, globals: &Globals) -> Result<(), CommandError> {
    client.delete(&format!("/v1/members/{}", segment(name)?))?;
    if globals.output == Format::Json {
        return output::print_json(&json!({"removed": name}));
    }
    output::print(&format!("removed {}\n", output::printable(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_heard_of_is_seen_at_once() {
        let member = |id, state, leads| MemberInfo {
            id,
            name: format!("edge-{id}"),
            address: format!("10.0.0.{id}:7400"),
            role: "voter".to_owned(),
            state,
            leads,
            version: "0.1.0".to_owned(),
            unheard_ms: (state == MemberState::Unheard).then_some(12_400),
            draining: id == 3,
            ..MemberInfo::default()
        };
        let members = vec![
            member(1, MemberState::Up, true),
            member(2, MemberState::Unheard, false),
            member(3, MemberState::Up, false),
        ];
        let list = MemberList { members, ..MemberList::default() };
        assert_eq!(
            render(&list, Paint::new(false)),
            "\
ID  NAME    ADDRESS        ROLE    STATE             VERSION  SHARDS
 1  edge-1  10.0.0.1:7400  leader  up                0.1.0         0
 2  edge-2  10.0.0.2:7400  voter   unheard for 12 s  0.1.0         0
 3  edge-3  10.0.0.3:7400  voter   up, draining      0.1.0         0
"
        );
    }
}
