//! `millrace join`: makes a folder a node of a cluster that somebody founded.

use std::path::PathBuf;
use std::time::Duration;

use cluster::FORMATS;
use exchange::{CallError, JoinError, NodeKey, Refusal, Token};
use serde_json::json;

use super::error::{CommandError, exit};
use super::init::{PlaceArgs, free_folder};
use super::program::program;
use super::serve::runtime;
use crate::cli::Globals;
use crate::node::peers::{About, Card, Known, trusted, unusable};
use crate::output::{self, Format};

/// How long the other side may take: an election, and an agreement.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `millrace join` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace join TOKEN --peer 10.0.0.7:7400 --data DIR --name edge-2 --peers-listen 10.0.0.8:7400
  millrace join TOKEN --peer a:7400 --data DIR --peers-listen 0.0.0.0:7400 --advertise b:7400")]
pub struct JoinArgs {
    /// What `millrace node token` printed on a node of the cluster.
    #[arg(value_name = "TOKEN", env = "MILLRACE_JOIN_TOKEN", hide_env_values = true)]
    pub token: String,
    /// Where a node of the cluster is reached that votes: host:port.
    #[arg(long, value_name = "ADDRESS")]
    pub peer: String,
    /// Where the node keeps its data; `serve` is given the same folder.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// How it is called and reached.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Carries it out.
///
/// # Errors
///
/// `E0574` when the cluster refuses, `E0575` when the folder belongs to one, `E0503` when nobody
/// answers.
pub fn run(args: &JoinArgs, globals: &Globals) -> Result<(), CommandError> {
    let advertise = args.place.check()?;
    let token: Token = args.token.trim().parse().map_err(|_bad| {
        refused("this is no join token").help("`millrace node token` on a node of the cluster")
    })?;
    if args.data.join("raft.redb").exists() {
        let message = format!("{} is that of a node alone", args.data.display());
        return Err(CommandError::new(exit::CONFLICT, "E0575", message)
            .help("name a new folder with --data"));
    }
    let folder = free_folder(&args.data)?;
    let key = NodeKey::generate().map_err(|error| unusable(error.to_string()))?;
    let about = About {
        name: args.place.name.clone(),
        address: advertise.clone(),
        reads: (FORMATS.oldest, FORMATS.newest),
    };
    let about = serde_json::to_string(&about).expect("texts can be written");
    let joined = runtime()?.block_on(async {
        let found = tokio::net::lookup_host(args.peer.as_str()).await;
        let peer = found.ok().and_then(|mut it| it.next()).ok_or_else(|| {
            let message = format!("no address {}", args.peer.escape_debug());
            CommandError::new(exit::UNREACHABLE, "E0503", message)
                .help("host:port of a node of the cluster: `millrace node list` there")
        })?;
        exchange::join(peer, token, key, about, PATIENCE).await.map_err(|error| explain(&error))
    });
    let (identity, trust, about) = joined?;
    let peers: Vec<Known> = serde_json::from_str(&about)
        .map_err(|error| unusable(format!("the answer cannot be read: {error}")))?;
    folder.save_identity(&identity)?;
    let node = identity.name().clone();
    folder.save(&Card {
        cluster: node.cluster.clone(),
        id: node.node.0,
        name: args.place.name.clone(),
        listen: args.place.peers_listen,
        advertise: advertise.clone(),
        trust: trusted(&trust),
        peers: peers.into_iter().filter(|it| it.id != node.node.0).collect(),
    })?;
    let name = &args.place.name;
    if globals.output == Format::Json {
        return output::print_json(&json!({
            "cluster": node.cluster, "id": node.node.0, "name": name, "address": advertise,
        }));
    }
    output::print(&format!(
        "{name} is node {} of cluster {}\nnext: {} serve --data {}\n",
        node.node,
        node.cluster,
        program(),
        args.data.display()
    ))
}

fn refused(message: impl Into<String>) -> CommandError {
    CommandError::new(exit::DENIED, "E0574", message)
}

fn explain(error: &JoinError) -> CommandError {
    match error {
        JoinError::Unreachable { .. } => {
            CommandError::new(exit::UNREACHABLE, "E0503", error.to_string())
                .help("look whether the node runs, and whether UDP reaches it")
        }
        JoinError::NotTold(_) => refused(error.to_string())
            .help("the node at this address is of another cluster than the token"),
        JoinError::Call(CallError::Deadline) => {
            CommandError::new(exit::TIMED_OUT, "E0508", error.to_string())
                .help("the token may be used up: `millrace node list` shows whether it is in")
        }
        JoinError::Call(CallError::Refused(why)) if *why == Refusal::UnreadFormat.name() => {
            let message = format!(
                "the cluster writes a format that this build does not read: it reads {FORMATS}"
            );
            CommandError::new(exit::UNUSABLE, "E0440", message)
                .help("join with the build that the other nodes run; the token is not used up")
        }
        JoinError::Call(_) | JoinError::Key(_) => refused(error.to_string())
            .help("`millrace node token` on a node of the cluster: a new one"),
    }
}
