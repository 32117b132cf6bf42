//! What an operator sees of an upgrade and ends it with: the format that the cluster writes, which
//! ones each node's build reads, and the step after which no older build takes part.

use cluster::{Cluster, Command, Error, FORMATS, Refused, Role, State};
use gateway::api::{API, UpgradeMember, UpgradeStatus};

use super::Node;
use super::peers::of_cluster;
use crate::commands::error::{CommandError, exit};

/// This node's build does not read what its cluster writes.
pub(crate) fn unread(format: u8) -> CommandError {
    let message =
        format!("the cluster writes format {format}, and this build of Millrace reads {FORMATS}");
    CommandError::new(exit::UNUSABLE, "E0440", message)
        .help("start the build that the other nodes run; nothing of this folder is lost")
}

impl Node {
    pub(super) fn upgrade_status(&self) -> UpgradeStatus {
        status_of(&self.inner.cluster, &self.inner.whole)
    }

    /// Has the cluster write the newest format of this build.
    pub(super) async fn finish_upgrade(&self) -> Result<UpgradeStatus, CommandError> {
        let cluster = &self.inner.cluster;
        let format = FORMATS.newest;
        // What is so already is as wished, also when somebody else is quicker.
        if cluster.state().format() < format {
            match cluster.propose(Command::Raise { format }).await {
                Ok(_) | Err(Error::Refused(Refused::NoLater { .. })) => {}
                Err(Error::Refused(Refused::Unread { member, format })) => {
                    return Err(held_up(&cluster.state(), &member, format));
                }
                Err(error) => return Err(of_cluster(&error)),
            }
        }
        Ok(self.upgrade_status())
    }
}

fn held_up(state: &State, member: &str, format: u8) -> CommandError {
    let reads = state.roster().named(member).and_then(|(id, _)| state.reads().get(&id));
    let message = match reads {
        Some(reads) => format!("{member} reads format {reads}, not {format}"),
        None => format!("{member} has not said yet which formats it reads"),
    };
    CommandError::new(exit::CONFLICT, "E0441", message).help(
        "upgrade and start it, or `millrace node remove` it; `millrace upgrade status` shows all",
    )
}

fn status_of(cluster: &Cluster, whole: &str) -> UpgradeStatus {
    let state = cluster.state();
    let present = state.roster().members().iter().filter(|(_, it)| it.role != Role::Removed);
    let members = present.map(|(id, it)| {
        let reads = state.reads().get(id);
        UpgradeMember {
            id: *id,
            name: it.name.clone(),
            version: it.version.clone(),
            oldest: reads.map(|it| it.oldest),
            newest: reads.map(|it| it.newest),
        }
    });
    let held_up = state.unready(FORMATS.newest);
    let name = |id: &u64| state.roster().members()[id].name.clone();
    UpgradeStatus {
        api: API,
        cluster: whole.to_owned(),
        format: state.format(),
        oldest: FORMATS.oldest,
        newest: FORMATS.newest,
        members: members.collect(),
        held_up_by: held_up.iter().map(name).collect(),
        notes: notes(&state),
    }
}

#[cfg(feature = "next-version")]
fn notes(state: &State) -> std::collections::BTreeMap<u64, u64> {
    state.notes().clone()
}

#[cfg(not(feature = "next-version"))]
const fn notes(_state: &State) -> std::collections::BTreeMap<u64, u64> {
    std::collections::BTreeMap::new()
}

/// One number stands for all that nodes write for each other.
const _: () = assert!(
    FORMATS.newest == exchange::FORMATS.newest && FORMATS.oldest == exchange::FORMATS.oldest,
    "the log and the frames have the same formats"
);
