//! A pure core: what differs between what runs on this node and what the cluster's state says, as
//! the actions that make it the same.
//!
//! ```text
//! the state's shards ─┐
//! what runs here      ├─▶ Fence | End | Forget | HandOver | Renew | Start
//! epochs of before    ┘
//! ```
//!
//! Invariants, checked by the model test:
//!
//! - **RC-1** a shard starts only where the state says that it is this node's, at an epoch at which
//!   no process ran it before.
//! - **RC-2** a shard that is somebody else's now is fenced, and before anything else is done; also
//!   one that is still on its way out.
//! - **RC-3** a shard of this node that is to go elsewhere is handed over, not dropped.
//! - **RC-4** of a shard that is still on its way out nothing is begun.
//! - **RC-5** carried out again and again, actions come to an end: then what runs is what the state
//!   says, as far as its functions can run here.

use std::collections::{BTreeMap, BTreeSet};

use bus::{Epoch, ShardId};

use crate::state::Shard;

/// What has to be done for a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Stop it without waiting: somebody else owns it at this epoch.
    Fence(ShardId, Epoch),
    /// Let what is in flight end: it is to run at another epoch, or its function not at all.
    End(ShardId),
    /// Its trigger is gone: let what is in flight end, and forget its positions.
    Forget(ShardId),
    /// Give it to this member, ending this epoch.
    HandOver {
        /// Which.
        shard: ShardId,
        /// The epoch that it has here.
        ends: Epoch,
        /// The member that gets it.
        to: u64,
    },
    /// Assign it to this node anew, ending this epoch.
    Renew(ShardId, Epoch),
    /// Run it.
    Start(ShardId, Epoch),
}

/// What is known when it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// This member.
    pub me: u64,
    /// By the cluster's state.
    pub shards: &'a BTreeMap<ShardId, Shard>,
    /// What runs here, and at which epoch.
    pub present: &'a BTreeMap<ShardId, Epoch>,
    /// What is on its way out.
    pub leaving: &'a BTreeSet<ShardId>,
    /// The newest epoch at which this node ran each shard, in this process or one before.
    pub used: &'a BTreeMap<ShardId, Epoch>,
}

/// What has to be done, in this order. `can_run` says whether a trigger's function runs here.
#[must_use]
pub fn actions(scene: Scene<'_>, can_run: impl Fn(&str) -> bool) -> Vec<Action> {
    let gone = scene.present.keys().filter(|id| !scene.shards.contains_key(id));
    let mut actions: Vec<Action> = gone.map(|id| Action::Forget(*id)).collect();
    for (id, shard) in scene.shards {
        actions.extend(action(scene, *id, shard, can_run(&shard.trigger)));
    }
    actions.sort_unstable();
    actions
}

fn action(scene: Scene<'_>, id: ShardId, shard: &Shard, can_run: bool) -> Option<Action> {
    let present = scene.present.get(&id).copied();
    let is_leaving = scene.leaving.contains(&id);
    if shard.owner != Some(scene.me) {
        let is_here = present.is_some() || is_leaving;
        return is_here.then_some(Action::Fence(id, shard.epoch)); // RC-2
    }
    if is_leaving {
        return None; // RC-4
    }
    if let Some(to) = shard.target {
        return Some(Action::HandOver { shard: id, ends: shard.epoch, to }); // RC-3
    }
    if let Some(epoch) = present {
        return (epoch != shard.epoch || !can_run).then_some(Action::End(id));
    }
    let is_used = scene.used.get(&id).is_some_and(|used| shard.epoch <= *used);
    can_run.then_some(match is_used {
        true => Action::Renew(id, shard.epoch),
        false => Action::Start(id, shard.epoch), // RC-1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u64 = 1;
    const ID: ShardId = ShardId(7);

    fn shard(epoch: u64, owner: Option<u64>, target: Option<u64>) -> Shard {
        let (trigger, topic) = ("a/f/t".to_owned(), "in".to_owned());
        Shard { trigger, topic, partition: 0, grown: false, epoch: Epoch(epoch), owner, target }
    }

    fn decide(shard: Option<Shard>, present: Option<u64>, used: u64) -> Vec<Action> {
        let shards = shard.into_iter().map(|it| (ID, it)).collect();
        let present = present.into_iter().map(|epoch| (ID, Epoch(epoch))).collect();
        let (used, leaving) = ([(ID, Epoch(used))].into(), BTreeSet::new());
        let (shards, present, used, leaving) = (&shards, &present, &used, &leaving);
        actions(Scene { me: ME, shards, present, leaving, used }, |_| true)
    }

    #[test]
    fn a_shard_of_this_node_runs_at_an_epoch_that_nobody_ran_it_at() {
        let mine = |epoch| Some(shard(epoch, Some(ME), None));
        assert_eq!(decide(mine(3), None, 2), [Action::Start(ID, Epoch(3))], "RC-1");
        assert_eq!(decide(mine(3), None, 3), [Action::Renew(ID, Epoch(3))], "RC-1");
        assert_eq!(decide(mine(3), Some(3), 3), []);
        assert_eq!(decide(mine(3), Some(2), 2), [Action::End(ID)]);
    }

    #[test]
    fn a_shard_of_somebody_else_is_fenced_and_one_that_is_to_go_is_handed_over() {
        let other = || Some(shard(4, Some(2), None));
        assert_eq!(decide(other(), Some(3), 3), [Action::Fence(ID, Epoch(4))], "RC-2");
        assert_eq!(decide(other(), None, 3), []);
        let going = || Some(shard(3, Some(ME), Some(2)));
        let hand_over = [Action::HandOver { shard: ID, ends: Epoch(3), to: 2 }];
        assert_eq!(decide(going(), Some(3), 3), hand_over, "RC-3");
        assert_eq!(decide(going(), None, 3), hand_over, "also of what could not start here");
        assert_eq!(decide(None, Some(3), 3), [Action::Forget(ID)]);
        assert_eq!(decide(Some(shard(0, None, None)), None, 0), []);
    }

    /// A node that stood still while it handed a shard over may find that nobody has waited for it.
    #[test]
    fn a_shard_on_its_way_out_is_left_alone_until_it_is_somebody_elses() {
        let decide = |owner| {
            let shards = [(ID, shard(4, Some(owner), None))].into();
            let (present, used) = (BTreeMap::new(), [(ID, Epoch(3))].into());
            let leaving = [ID].into();
            let (shards, present, leaving, used) = (&shards, &present, &leaving, &used);
            actions(Scene { me: ME, shards, present, leaving, used }, |_| true)
        };
        assert_eq!(decide(ME), [], "RC-4");
        assert_eq!(decide(2), [Action::Fence(ID, Epoch(4))], "RC-2");
    }

    /// RC-1 to RC-5: two nodes follow one state that somebody changes at random, each at its own
    /// pace, and nodes start anew.
    #[test]
    fn nodes_that_follow_a_state_come_to_run_what_it_says() {
        for seed in 1..=200_u64 {
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut draw = |below: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                rng % below
            };
            let mut world = World::default();
            for step in 0..400 {
                let is_quiet = 300 < step;
                let id = ShardId(draw(4));
                match draw(if is_quiet { 2 } else { 12 }) {
                    at @ 0..2 => {
                        world.arrive(1 + at);
                        world.follow(1 + at, |_| true);
                    }
                    2..6 => {
                        let node = 1 + draw(2);
                        let broken = draw(3);
                        world.follow(node, |trigger| broken != 0 || trigger != "a/f/0");
                    }
                    6 => world.place(id, 1 + draw(2)),
                    7 => {
                        let to = 1 + draw(2);
                        if let Some(it) = world.shards.get_mut(&id).filter(|it| it.owner.is_some())
                        {
                            it.target = Some(to).filter(|to| it.owner != Some(*to));
                        }
                    }
                    8 => drop(world.shards.remove(&id)),
                    9 => {
                        let number = id.0;
                        let fresh =
                            || Shard { trigger: format!("a/f/{number}"), ..shard(0, None, None) };
                        // An id is never used again: its epochs go on.
                        let epoch = world.epochs.get(&id).copied().unwrap_or_default();
                        world.shards.entry(id).or_insert_with(|| Shard { epoch, ..fresh() });
                    }
                    10 => world.leave(1 + draw(2), id),
                    _ => world.start_anew(1 + draw(2)),
                }
            }
            world.judge(seed);
        }
    }

    #[derive(Default)]
    struct World {
        shards: BTreeMap<ShardId, Shard>,
        epochs: BTreeMap<ShardId, Epoch>,
        present: [BTreeMap<ShardId, Epoch>; 2],
        leaving: [BTreeSet<ShardId>; 2],
        used: [BTreeMap<ShardId, Epoch>; 2],
        ran: BTreeSet<(ShardId, Epoch)>,
    }

    impl World {
        fn place(&mut self, id: ShardId, to: u64) {
            let Some(shard) = self.shards.get_mut(&id) else { return };
            shard.epoch.0 += 1;
            (shard.owner, shard.target) = (Some(to), None);
            self.epochs.insert(id, shard.epoch);
        }

        fn follow(&mut self, me: u64, can_run: impl Fn(&str) -> bool) {
            let at = me as usize - 1;
            let (present, leaving) = (self.present[at].clone(), self.leaving[at].clone());
            let used = self.used[at].clone();
            let (shards, present, leaving, used) = (&self.shards, &present, &leaving, &used);
            let scene = Scene { me, shards, present, leaving, used };
            let mut is_begun = false;
            for action in actions(scene, can_run) {
                let is_fence = matches!(action, Action::Fence(..));
                assert!(!(is_begun && is_fence), "RC-2: first of all");
                is_begun |= !is_fence;
                match action {
                    Action::Fence(id, _) | Action::End(id) | Action::Forget(id) => {
                        self.present[at].remove(&id);
                    }
                    Action::HandOver { shard, ends, to } => {
                        self.present[at].remove(&shard);
                        assert_eq!(self.shards[&shard].epoch, ends);
                        self.place(shard, to);
                    }
                    Action::Renew(id, ends) => {
                        assert_eq!(self.shards[&id].epoch, ends);
                        self.place(id, me);
                    }
                    Action::Start(id, epoch) => {
                        let shard = &self.shards[&id];
                        assert_eq!((shard.owner, shard.epoch), (Some(me), epoch), "RC-1");
                        assert!(self.ran.insert((id, epoch)), "RC-1: {id} at {epoch} twice");
                        assert!(!self.leaving[at].contains(&id), "RC-4");
                        self.present[at].insert(id, epoch);
                        self.used[at].insert(id, epoch);
                    }
                }
            }
        }

        /// It is on its way out for a while.
        fn leave(&mut self, me: u64, id: ShardId) {
            if self.present[me as usize - 1].remove(&id).is_some() {
                self.leaving[me as usize - 1].insert(id);
            }
        }

        fn arrive(&mut self, me: u64) {
            self.leaving[me as usize - 1].clear();
        }

        /// Another process: of what ran before it knows what the state says.
        fn start_anew(&mut self, me: u64) {
            let mine = self.shards.iter().filter(|(_, it)| it.owner == Some(me));
            let used = mine.map(|(id, it)| (*id, it.epoch)).collect();
            self.present[me as usize - 1].clear();
            self.leaving[me as usize - 1].clear();
            self.used[me as usize - 1] = used;
        }

        fn judge(&self, seed: u64) {
            for (at, present) in self.present.iter().enumerate() {
                let me = at as u64 + 1;
                let mine = self.shards.iter().filter(|(_, it)| it.owner == Some(me));
                let mine: Vec<_> = mine.map(|(id, it)| (*id, it.epoch)).collect();
                let run: Vec<_> = present.iter().map(|(id, epoch)| (*id, *epoch)).collect();
                assert_eq!(run, mine, "seed {seed}: RC-5, node {me}");
            }
            assert!(self.shards.values().all(|it| it.target.is_none()), "seed {seed}: RC-3");
        }
    }
}
