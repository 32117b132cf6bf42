//! A pure core: what the state is when one member goes on without the others, whose disks are lost.
//! What that has to keep is in recovery.rs.

use bus::Epoch;

use super::{CaChange, Command, MemberChange, State, Tokens};
use crate::format::Logged;
use crate::group::RequestId;
use crate::recovery::PASSED;

impl State {
    /// Applies an entry of the log as a member does; `None` if it was applied before.
    pub(crate) fn apply_logged(
        &mut self,
        request: RequestId,
        logged: &Logged,
    ) -> Option<Result<super::Applied, super::Refused>> {
        let command = match logged {
            Logged::Command(command) => command,
            Logged::Early(format) => return self.pass_over(request, *format),
        };
        // What was proposed by versions that did not number their requests is applied as it is.
        match request.number >> 32 {
            0 => Some(self.apply(command)),
            _ => self.apply_once(request, command),
        }
    }

    /// Nobody but `me` belongs to the cluster from now on, ids up to `newest` are used up, and what
    /// the others may have done meanwhile is passed over.
    pub(crate) fn go_on_alone(&mut self, me: u64, newest: u64) {
        let others: Vec<u64> = self.roster.others(me);
        for id in others {
            // Each belongs to the cluster, as `others` says.
            drop(self.roster.apply(id, &MemberChange::Remove));
        }
        // It may have been told to give away what it has: there is nobody to take it.
        drop(self.roster.apply(me, &MemberChange::Undrain));
        self.roster.pass_over(newest);
        self.tokens = Tokens::default();
        self.stopping.clear();
        self.starting.clear();
        self.unfit.retain(|(member, _), _| *member == me);
        self.upgrade.keep_only(me);
        for shard in self.shards.values_mut() {
            shard.epoch = Epoch(shard.epoch.0 + PASSED);
            (shard.owner, shard.target) = (None, None);
        }
        for redriver in self.redrivers.values_mut() {
            redriver.epoch = Epoch(redriver.epoch.0 + PASSED);
        }
        self.next_shard += PASSED;
        self.version += PASSED;
    }
}

impl Command {
    /// What it changes, for a person who has to judge whether that may be so.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Deploy { name, .. } => format!("deploy of {name}"),
            Self::Restore { name, .. } => format!("restore of {name}"),
            Self::Remove { name } => format!("removal of {name}"),
            Self::Rollback { name, function, revision, .. } => {
                format!("rollback of {name}/{function} to {revision}")
            }
            Self::Alias { name, function, alias, .. } => {
                format!("alias {alias} of {name}/{function}")
            }
            Self::Pause { trigger, .. } => format!("pause of {trigger}"),
            Self::Resume { trigger } => format!("resumption of {trigger}"),
            Self::Redrive { topic } => format!("redrive of {topic}"),
            Self::Token { .. } => "a join token".to_owned(),
            Self::Subscriber { id, .. } => format!("the token {id:08x} of a subscriber"),
            Self::Member { member, change } => match change {
                MemberChange::Join { name, .. } => format!("{name} joins as node {member}"),
                MemberChange::Start { .. } => format!("node {member} started"),
                MemberChange::Promote => format!("node {member} votes"),
                MemberChange::Drain => format!("node {member} is drained"),
                MemberChange::Undrain => format!("node {member} is drained no more"),
                MemberChange::Remove => format!("node {member} is removed"),
            },
            Self::Ca { change } => match change {
                CaChange::Begin { .. } => "a rotation of the CA begins".to_owned(),
                CaChange::Done { member, .. } => {
                    format!("node {member} did its part of a rotation of the CA")
                }
                CaChange::Step { .. } => "a rotation of the CA goes on".to_owned(),
                CaChange::Abort { .. } => "a rotation of the CA is taken back".to_owned(),
            },
            Self::AssignByName { shards, .. } => format!("{} shards are assigned", shards.len()),
            Self::Assign { moves } => format!("{} shards are assigned", moves.len()),
            Self::Hand { moves } => format!("{} shards are to be handed over", moves.len()),
            Self::Unfit { member, function, .. } => {
                format!("whether node {member} can run {function}")
            }
            Self::Stop { member } => format!("node {member} stops"),
            Self::Ready { member } => format!("node {member} is ready"),
            Self::Reads { member, formats } => format!("node {member} reads format {formats}"),
            Self::Raise { format } => format!("format {format} is written"),
            #[cfg(feature = "next-version")]
            Self::Note { member, .. } => format!("a note of node {member}"),
        }
    }
}

impl Logged {
    /// As [`Command::title`].
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Command(command) => command.title(),
            Self::Early(format) => format!("nothing: it is of format {format}, too early"),
        }
    }
}
