//! What a member of a group does about its members: changes, transfers of the lead, reads that the
//! others have to confirm, and whether it may go on under its id.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{ProgressState, StateRole};

use super::{Changed, ELECTION_TICKS, Group, RequestId, Step};
use crate::image::place_of;
use crate::members::{Change, NotChanged};
use crate::reads::Unavailable;

impl Group {
    /// Asks the group to agree on a change of its members: one at a time, after this leader's own
    /// first entry, and only if enough of those who vote then are there.
    ///
    /// # Errors
    ///
    /// [`NotChanged`]. That it was taken says nothing: only [`Step::Change`] does.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn change(&mut self, request: RequestId, change: Change) -> Result<(), NotChanged> {
        self.demand_idle();
        let raft = &self.raw.raft;
        if !self.leads() || !self.members.contains(raft.id) {
            return Err(NotChanged::Dropped);
        }
        let is_settled = raft.apply_to_current_term() && !raft.has_pending_conf();
        if !is_settled || raft.lead_transferee.is_some() {
            return Err(NotChanged::Pending);
        }
        let after = self.members.after(change)?;
        match change {
            Change::Promote(id) if !self.is_caught_up(id) => return Err(NotChanged::Behind(id)),
            Change::Remove(id) if id == raft.id => return Err(NotChanged::Leads(id)),
            _ => {}
        }
        let live = after.voters().iter().filter(|id| self.is_live(**id)).count();
        let quorum = after.quorum();
        if live < quorum {
            return Err(NotChanged::Quorum { live, quorum });
        }
        let proposed = self.raw.propose_conf_change(request.to_bytes(), change.to_conf_change());
        proposed.map_err(|_dropped| NotChanged::Dropped)
    }

    /// The promotion that a leader may propose now: of the first learner that is caught up.
    #[must_use]
    pub fn promotion(&self) -> Option<Change> {
        let mut learners = self.members.learners().iter().filter(|_| self.leads());
        learners.find(|id| self.is_caught_up(**id)).map(|id| Change::Promote(*id))
    }

    /// Lets another voter lead; nothing is proposed until it does, or an election timeout passes.
    ///
    /// # Errors
    ///
    /// [`NotChanged`]. That it was begun says nothing: [`Group::leader`] does.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn transfer(&mut self, to: u64) -> Result<(), NotChanged> {
        self.demand_idle();
        if !self.leads() {
            return Err(NotChanged::Dropped);
        }
        if to == self.raw.raft.id || !self.members.voters().contains(&to) {
            return Err(NotChanged::Unknown(to));
        }
        if !self.is_live(to) {
            return Err(NotChanged::Behind(to));
        }
        self.raw.transfer_leader(to);
        Ok(())
    }

    /// Asks for a read of the state that has all that was acknowledged until now, on any member.
    /// [`Step::Reads`] says how it ended, before the tick after `within_ticks` of them.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], and then there is no such step.
    ///
    /// # Panics
    ///
    /// As [`Group::tick`].
    pub fn read(&mut self, request: RequestId, within_ticks: u64) -> Result<(), Unavailable> {
        self.demand_idle();
        let leader = self.leader().ok_or(Unavailable)?;
        let raft = &self.raw.raft;
        let before = (raft.pending_read_count(), raft.ready_read_count());
        self.raw.read_index(request.to_bytes());
        let raft = &self.raw.raft;
        let is_dropped = (raft.pending_read_count(), raft.ready_read_count()) == before;
        if self.leads() && is_dropped {
            // A leader whose first entry is not committed drops it and says nothing.
            return Err(Unavailable);
        }
        self.reads.on_asked(request, (raft.term, leader), self.ticks + within_ticks);
        Ok(())
    }

    /// Heard of within an election timeout.
    fn is_live(&self, id: u64) -> bool {
        let since = |at: &u64| self.ticks - at <= ELECTION_TICKS as u64;
        id == self.raw.raft.id || self.heard.get(&id).is_some_and(since)
    }

    /// Whether a member's log has all that is committed, and the member is there.
    fn is_caught_up(&self, id: u64) -> bool {
        let committed = self.raw.raft.raft_log.committed;
        let is_whole =
            |it: &raft::Progress| it.state == ProgressState::Replicate && committed <= it.matched;
        self.is_live(id) && self.raw.raft.prs().get(id).is_some_and(is_whole)
    }

    /// Notes what was committed when this disk, which is blank, was first told so.
    pub(super) fn find(&mut self, message: &Message) {
        let tells = message.get_msg_type() == MessageType::MsgAppend;
        if tells && self.found.is_none() && self.image().is_blank() {
            self.found = Some(message.commit);
        }
    }

    /// Whether a message says that this member has acknowledged what is not on its disk: a commit
    /// that only its own answers can have moved so far, a vote, which nobody has whose disk is
    /// blank, or that it was made a voter before its disk was there. The last is what a leader tells
    /// that was elected while the member was away, and knows of none of its answers.
    pub(super) fn has_forgotten(&self, message: &Message) -> bool {
        let (raft, blank) = (&self.raw.raft, self.image().is_blank());
        match message.get_msg_type() {
            MessageType::MsgHeartbeat => {
                raft.term <= message.term && raft.raft_log.last_index() < message.commit
            }
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => blank,
            MessageType::MsgAppend => {
                let before = |it: &&Entry| self.found.is_some_and(|found| it.index <= found);
                let changes = message.entries.iter().filter(before).filter(|it| is_change(it));
                changes.filter_map(Change::of_entry).any(|it| it == Change::Promote(raft.id))
            }
            MessageType::MsgSnapshot => {
                let conf = message.get_snapshot().get_metadata().get_conf_state();
                blank && conf.voters.contains(&raft.id)
            }
            _ => false,
        }
    }

    /// One that does not fit the members any more changes nothing, here as everywhere.
    pub(super) fn apply_change(&mut self, entry: &Entry, request: RequestId) {
        let Some(change) = Change::of_entry(entry) else { return };
        if let Ok(after) = self.members.after(change) {
            let applied = self.raw.apply_conf_change(&change.to_conf_change());
            applied.expect("raft takes what the members allow");
            self.members = after;
        }
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !self.members.contains(raft.id) {
            // Whoever led before has removed this one. raft-rs panics over a leader that it does
            // not find among the members; the others elect one of themselves.
            raft.become_follower(raft.term, raft::INVALID_ID);
            let left = std::mem::take(&mut raft.msgs);
            self.send(left);
        }
        let (place, members) = (place_of(entry), self.members.clone());
        self.steps.push_back(Step::Change(Changed { place, request, change, members }));
    }
}

fn is_change(entry: &Entry) -> bool {
    entry.get_entry_type() == EntryType::EntryConfChange
}
