//! Has shards assigned and handed over while this node leads: asks [`placing`](cluster::placing) at
//! every change of the state, and as often as a member can come or go.

use std::time::{Duration, Instant};

use cluster::placing::{Planner, Sight};
use cluster::weighing::Weighing;
use cluster::{Command, Role};

use super::shares::Maxima;
use super::{Inner, Node};

/// How often the leader looks for members that went.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The planner of the term that this node leads.
#[derive(Debug, Default)]
pub(super) struct Seat {
    term: Option<(u64, Instant)>,
    planner: Planner,
    weighing: Weighing,
    maxima: Maxima,
}

impl Seat {
    /// Who weighs shards in this term, and for how long it has lasted; `None` if this node does not
    /// lead, or has only just begun to.
    pub(super) fn weighing(&mut self, term: u64) -> Option<(&mut Weighing, Duration)> {
        let (_, since) = self.term.filter(|it| it.0 == term)?;
        Some((&mut self.weighing, since.elapsed()))
    }
}

impl Inner {
    /// Whether the cluster has other members.
    pub(super) fn has_others(&self) -> bool {
        let (me, state) = (self.cluster.me(), self.cluster.state());
        let mut members = state.roster().members().iter();
        members.any(|(id, it)| *id != me && it.role != Role::Removed)
    }

    /// Whether the others could not go on with what this node ran: it may run nothing then.
    pub(super) fn shares_no_bus(&self) -> bool {
        self.kafka.is_none() && self.has_others()
    }
}

impl Node {
    /// Plans until the node ends.
    pub(super) async fn plan_places(self) {
        let mut changes = self.inner.cluster.changes();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.inner.over.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                _tick = ticks.tick(), if self.has_others() => {}
            }
            if self.inner.ownership().has_begun() {
                self.place().await;
            }
        }
    }

    /// Whether the cluster has other members.
    pub(super) fn has_others(&self) -> bool {
        self.inner.has_others()
    }

    /// What people call a member.
    pub(super) fn member_name(&self, member: u64) -> String {
        let named = self.state(|state| Some(state.roster().members().get(&member)?.name.clone()));
        named.unwrap_or_else(|| self.inner.name.clone())
    }

    /// Proposes what is to be placed now, if this node leads.
    pub(super) async fn place(&self) {
        let mut seat = self.inner.seat.lock().await;
        let (me, leadership) = (self.inner.cluster.me(), self.inner.cluster.leadership());
        if leadership.leader != Some(me) {
            *seat = Seat::default();
            return;
        }
        let now = Instant::now();
        let since = match seat.term {
            Some((term, since)) if term == leadership.term => since,
            _ => {
                *seat = Seat { term: Some((leadership.term, now)), ..Seat::default() };
                now
            }
        };
        let (state, unheard) = (self.inner.cluster.state(), self.inner.cluster.unheard());
        let led_for = now.duration_since(since);
        let Seat { planner, weighing, maxima, .. } = &mut *seat;
        let weighing = state.roster().members().len().gt(&1).then_some(&*weighing);
        let limits = &maxima.of(&state);
        let sight = Sight { me, state: &state, unheard: &unheard, led_for, weighing, limits };
        let proposals = planner.plan(sight);
        if proposals.is_empty() {
            return;
        }
        let (assigned, handed) = (proposals.assign.len(), proposals.hand.len());
        let assign = Command::Assign { moves: proposals.assign };
        let hand = Command::Hand { moves: proposals.hand };
        let commands = [(assigned, assign), (handed, hand)];
        for (_, command) in commands.into_iter().filter(|(count, _)| 0 < *count) {
            if let Err(error) = self.append(command).await {
                tracing::warn!(error = error.message, "could not place shards: trying again");
                return;
            }
        }
        if !unheard.is_empty() {
            tracing::info!(assigned, handed, "shards get other owners");
        }
    }
}
