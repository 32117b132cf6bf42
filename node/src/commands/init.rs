//! `millrace init`: founds a cluster of one node, which others join.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cluster::{Cluster, Command, Config, MemberChange, Role};
use exchange::{Authority, Identity, KeyError, Life, NodeKey, Trust};
use serde_json::json;

use super::error::{CommandError, exit};
use super::program::program;
use super::serve::runtime;
use crate::cli::Globals;
use crate::node::peers::{
    CA_S, Card, Folder, certificate_life, is_name, name_of, now, of_cluster, trusted, unusable,
};
use crate::node::{check_lock, cluster_failed};
use crate::output::{self, Format};

/// What `millrace init` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace init --data /var/lib/millrace --name edge-1 --peers-listen 10.0.0.7:7400
  millrace init --data DIR --cluster greenhouse --name edge-1 --peers-listen 10.0.0.7:7400
  millrace init --data DIR --peers-listen 0.0.0.0:7400 --advertise edge-1.example.net:7400")]
pub struct InitArgs {
    /// Where the node keeps its data; `serve` is given the same folder.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// What the cluster is called; a random part is added.
    #[arg(long, default_value = "millrace", value_name = "NAME")]
    pub cluster: String,
    /// What of the cluster a node is: how it listens and is called.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// How a node of a cluster is called and reached.
#[derive(Debug, clap::Args)]
pub struct PlaceArgs {
    /// What operators call this node: letters, digits and dashes.
    #[arg(long, default_value = "node-1", value_name = "NAME")]
    pub name: String,
    /// Where it listens for the other nodes, by UDP: a private address.
    #[arg(long, value_name = "ADDRESS")]
    pub peers_listen: SocketAddr,
    /// Where the others reach it: host:port [default: where it listens].
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<String>,
}

impl PlaceArgs {
    /// Where the others reach the node, if all of this can be used.
    pub(super) fn check(&self) -> Result<String, CommandError> {
        let bad = |message: String| CommandError::new(exit::USAGE, "E0111", message);
        if !is_name(&self.name) {
            let message = format!("`{}` cannot be the name of a node", self.name.escape_debug());
            return Err(bad(message).help("it begins with a-z, and has a-z, 0-9 and -, 63 at most"));
        }
        let listen = self.peers_listen;
        if listen.port() == 0 {
            return Err(bad("the other nodes need a fixed port".to_owned())
                .help("name one: --peers-listen 10.0.0.7:7400"));
        }
        match &self.advertise {
            Some(advertise) => Ok(advertise.clone()),
            None if listen.ip().is_unspecified() => {
                Err(bad(format!("the other nodes cannot reach {listen}"))
                    .help("say where they reach this node: --advertise edge-1.example.net:7400"))
            }
            None => Ok(listen.to_string()),
        }
    }
}

/// A folder that belongs to no cluster and is used by nobody.
pub(super) fn free_folder(data: &std::path::Path) -> Result<Folder, CommandError> {
    let folder = Folder::of(data);
    if folder.is_there() {
        let message = format!("{} belongs to a cluster already", data.display());
        return Err(CommandError::new(exit::CONFLICT, "E0575", message)
            .help("name a new folder with --data; a node that lost its disk joins as a new one"));
    }
    std::fs::create_dir_all(data).map_err(|error| CommandError::file("make", data, &error))?;
    check_lock(data)?;
    folder.create()?;
    Ok(folder)
}

/// Carries it out.
///
/// # Errors
///
/// `E0575` when the folder belongs to a cluster, `E0111` for a name or an address that cannot be.
pub fn run(args: &InitArgs, globals: &Globals) -> Result<(), CommandError> {
    let advertise = args.place.check()?;
    if !is_name(&args.cluster) || 50 < args.cluster.len() {
        let message = format!("`{}` cannot be the name of a cluster", args.cluster.escape_debug());
        return Err(CommandError::new(exit::USAGE, "E0111", message)
            .help("it begins with a-z, and has a-z, 0-9 and -, 50 at most"));
    }
    let folder = free_folder(&args.data)?;
    let cluster = format!("{}-{:08x}", args.cluster, rand::random::<u32>());
    let (authority, identity) =
        credentials(&cluster).map_err(|error| unusable(error.to_string()))?;
    let authority = Arc::new(authority);
    folder.save_authorities(&[Arc::clone(&authority)])?;
    folder.save_identity(&identity)?;
    let key = identity.public_key().fingerprint().0;
    runtime()?.block_on(found(args, &cluster, &advertise, key))?;
    let trust = Trust::new(vec![authority.certificate().clone()]);
    let trust = trust.map_err(|error| unusable(error.to_string()))?;
    // Last: what is not whole is no cluster, and may be founded again.
    folder.save(&Card {
        cluster: cluster.clone(),
        id: 1,
        name: args.place.name.clone(),
        listen: args.place.peers_listen,
        advertise: advertise.clone(),
        trust: trusted(&trust),
        peers: Vec::new(),
    })?;
    if globals.output == Format::Json {
        let name = &args.place.name;
        return output::print_json(
            &json!({"cluster": cluster, "id": 1, "name": name, "address": advertise}),
        );
    }
    let (program, data, name) = (program(), args.data.display(), &args.place.name);
    output::print(&format!(
        "founded cluster {cluster}; {name} is its first node\n\
         next: {program} serve --data {data}\n\
         then, for each other node:\n\
         \x20     {program} node token                                        on this one\n\
         \x20     {program} join TOKEN --peer {advertise} --data DIR --name NAME --peers-listen ADDRESS\n"
    ))
}

fn credentials(cluster: &str) -> Result<(Authority, Identity), KeyError> {
    let now = now();
    let life = Life::new(certificate_life(now).from, CA_S);
    let authority = Authority::create(cluster, life)?;
    let (name, key) = (name_of(cluster.to_owned(), 1), NodeKey::generate()?);
    let issued = authority.issue(&name, &key.public(), certificate_life(now))?;
    let identity = Identity::new(name, key, issued, authority.certificate().clone());
    Ok((authority, identity))
}

/// The log of the first member, which names it. What a node alone had deployed stays.
async fn found(
    args: &InitArgs,
    cluster: &str,
    address: &str,
    key: [u8; 32],
) -> Result<(), CommandError> {
    let config = Config { cluster: cluster.to_owned(), ..Config::alone() };
    let fatal: cluster::OnFatal = Arc::new(|reason| {
        tracing::error!(reason, "the cluster's log cannot be trusted: ending");
        std::process::abort();
    });
    let member =
        Cluster::open(&args.data, config, fatal).map_err(|error| cluster_failed(&error))?;
    let (name, address) = (args.place.name.clone(), address.to_owned());
    let join = MemberChange::Join { name, address, key, token: None };
    let founder = member.state().roster().members().get(&1).map(|it| it.role);
    let changes = match founder {
        // A kill came between this and the last file: under the key of then nobody can speak.
        Some(Role::Voter | Role::Learner | Role::Removed) => {
            let message = format!("{} was left half made", args.data.display());
            return Err(CommandError::new(exit::CONFLICT, "E0575", message)
                .help("name a new folder with --data"));
        }
        None => [join, MemberChange::Promote],
    };
    for change in changes {
        let done = member.propose(Command::Member { member: 1, change }).await;
        done.map_err(|error| of_cluster(&error))?;
    }
    member.close().await;
    Ok(())
}
