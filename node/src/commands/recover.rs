//! `millrace raft recover`: has the last member of a cluster go on alone, when those that could
//! decide with it are gone for good. Works on a folder whose node does not run.

use std::path::PathBuf;

use cluster::{Error, NotRecovered, Recovery, Survivor};
use serde::Serialize;

use super::error::{CommandError, exit};
use super::program::program;
use crate::cli::Globals;
use crate::node::peers::{Card, Folder};
use crate::node::{check_lock, cluster_failed};
use crate::output::{self, Format, count};

/// Changes in doubt that are named one by one; JSON has all of them.
const NAMED: usize = 10;

/// What `millrace raft recover` takes.
#[derive(Debug, clap::Args)]
pub struct RecoverArgs {
    /// The folder of a node that votes and does not run.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Do it; without, it only shows what it would do.
    #[arg(long)]
    pub yes: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    cluster: String,
    node: String,
    id: u64,
    /// The term that the node was in.
    term: u64,
    /// Of several survivors the one with the highest of this knows most: compare first the terms,
    /// then the indexes.
    last: PlaceReport,
    /// What it knows to be agreed on.
    committed: u64,
    /// What its last checkpoint holds.
    checkpoint: u64,
    /// They count from now on, whether they were agreed on or not.
    in_doubt: Vec<DoubtReport>,
    removes: Vec<RemovedReport>,
    applications: Vec<String>,
    /// Whether it was done.
    recovered: bool,
}

#[derive(Debug, Serialize)]
struct PlaceReport {
    term: u64,
    index: u64,
}

#[derive(Debug, Serialize)]
struct DoubtReport {
    term: u64,
    index: u64,
    change: String,
}

#[derive(Debug, Serialize)]
struct RemovedReport {
    id: u64,
    name: String,
}

impl Report {
    fn of(card: &Card, recovery: &Recovery, recovered: bool) -> Self {
        let in_doubt = recovery.doubtful.iter().map(|it| DoubtReport {
            term: it.place.term,
            index: it.place.index,
            change: it.what.clone(),
        });
        let removes = recovery.removed.iter();
        Self {
            cluster: card.cluster.clone(),
            node: card.name.clone(),
            id: card.id,
            term: recovery.term,
            last: PlaceReport { term: recovery.last.term, index: recovery.last.index },
            committed: recovery.committed,
            checkpoint: recovery.checkpoint.index,
            in_doubt: in_doubt.collect(),
            removes: removes
                .map(|(id, name)| RemovedReport { id: *id, name: name.clone() })
                .collect(),
            applications: recovery.state.apps().keys().cloned().collect(),
            recovered,
        }
    }
}

/// Carries it out.
///
/// # Errors
///
/// `E0575` when the folder is in no cluster, `E0402` when its node runs, `E0580` when it cannot go
/// on alone.
pub fn run(args: &RecoverArgs, globals: &Globals) -> Result<(), CommandError> {
    let folder = Folder::of(&args.data);
    if !folder.is_there() {
        let message = format!("{} belongs to no cluster", args.data.display());
        return Err(CommandError::new(exit::CONFLICT, "E0575", message)
            .help("name the folder of a node of the cluster with --data"));
    }
    check_lock(&args.data)?;
    check_lock(&args.data.join("sled"))?;
    let card = folder.load()?;
    if folder.authorities()?.is_empty() {
        let message = format!("{} lacks the cluster's CA: nobody could join", args.data.display());
        return Err(CommandError::new(exit::CONFLICT, "E0580", message)
            .help("choose another survivor, or copy cluster/ca.json from the folder of one"));
    }
    let survivor = Survivor::open(&args.data, card.id).map_err(|error| explain(&error))?;
    if args.yes {
        // First: who is named there is let in as long as the log does not know better.
        folder.save(&Card { peers: Vec::new(), ..card.clone() })?;
        survivor.carry_out().map_err(|error| cluster_failed(&error))?;
    }
    let report = Report::of(&card, survivor.recovery(), args.yes);
    if globals.output == Format::Json {
        return output::print_json(&report);
    }
    output::print(&render(&report, &args.data.display().to_string()))
}

fn explain(error: &Error) -> CommandError {
    let Error::NotRecovered(why) = error else { return cluster_failed(error) };
    let help = match why {
        NotRecovered::Alone => "start it: `millrace serve`",
        NotRecovered::Blank | NotRecovered::NoVote => {
            "choose a survivor that votes, or restore a backup into a new cluster"
        }
        NotRecovered::Unreadable(_) => "choose another survivor",
    };
    CommandError::new(exit::CONFLICT, "E0580", why.to_string()).help(help)
}

fn render(report: &Report, data: &str) -> String {
    let names = |names: Vec<String>| match names.is_empty() {
        true => "-".to_owned(),
        false => names.join(", "),
    };
    let (term, index) = (report.last.term, report.last.index);
    let lines = [
        ("cluster", report.cluster.clone()),
        ("survivor", format!("{} (id {}), in term {}", report.node, report.id, count(report.term))),
        ("log ends", format!("in term {}, at entry {}", count(term), count(index))),
        (
            "agreed on",
            format!("up to entry {}, as far as this node knows", count(report.committed)),
        ),
        ("keeps", names(report.applications.clone())),
        (
            "removes",
            names(report.removes.iter().map(|it| format!("{} (id {})", it.name, it.id)).collect()),
        ),
        ("in doubt", format!("{} entries", count(report.in_doubt.len() as u64))),
    ];
    let mut out: String = lines.iter().map(|(head, text)| format!("{head:<10} {text}\n")).collect();
    for it in report.in_doubt.iter().take(NAMED) {
        out.push_str(&format!("           {}: {}\n", count(it.index), it.change));
    }
    if NAMED < report.in_doubt.len() {
        let more = report.in_doubt.len() - NAMED;
        out.push_str(&format!("           and {} more: -o json\n", count(more as u64)));
    }
    let program = program();
    match report.recovered {
        true => out.push_str(&format!(
            "done: {} is the only node of the cluster now\n\
             next: {program} serve --data {data}\n\
             then wipe the folders of the others, and let them join as new nodes: {program} node token\n",
            report.node
        )),
        false => out.push_str(&format!(
            "! only when the removed nodes are gone for good: end those that run\n\
             ! lost: deploys, pauses and nodes that were acknowledged and are not in this log\n\
             ! back: what is in doubt counts from now on, also where somebody was told that it failed\n\
             ! of several survivors choose the one whose log ends in the highest term; of equal\n\
             \x20 terms, at the highest entry\n\
             nothing was changed; next: {program} raft recover --data {data} --yes\n"
        )),
    }
    out
}
