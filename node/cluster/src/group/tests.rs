//! Several members over disks that never fail and a network without delay: what each input leads
//! to, one case a test.

use std::collections::BTreeSet;

use super::*;
use crate::members::NotChanged;
use crate::reads::Unavailable;

/// Members by id, and what is under way between them.
struct Net {
    groups: BTreeMap<u64, Group>,
    wire: VecDeque<Message>,
    cut: BTreeSet<u64>,
    /// Those whom nothing reaches, and who reach the others.
    deaf: BTreeSet<u64>,
    without_appends: bool,
    changes: Vec<Changed>,
    ended: Vec<(RequestId, ReadEnd)>,
    forgot: BTreeSet<u64>,
    requests: u64,
}

impl Net {
    fn of(voters: u64) -> Self {
        let mut net = Self {
            groups: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
            without_appends: false,
            changes: Vec::new(),
            ended: Vec::new(),
            forgot: BTreeSet::new(),
            requests: 0,
        };
        for id in 1..=voters {
            net.start(id, &Image::founding((1..=voters).collect(), Vec::new()));
        }
        net.give(1, Group::campaign);
        net.tick(1);
        assert!(net.groups[&1].leads());
        net
    }

    fn start(&mut self, id: u64, first: &Write) {
        let mut image = Image::default();
        image.carry_out(first);
        self.restart(id, image);
    }

    fn restart(&mut self, id: u64, image: Image) {
        let group = Group::new(id, image, Limits::default(), id).unwrap();
        self.groups.insert(id, group);
        self.settle();
    }

    fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId { member: 1, number: self.requests }
    }

    fn give<T>(&mut self, id: u64, input: impl FnOnce(&mut Group) -> T) -> T {
        let given = input(self.groups.get_mut(&id).unwrap());
        self.settle();
        given
    }

    /// Carries out steps and delivers messages until there are none.
    fn settle(&mut self) {
        loop {
            for group in self.groups.values_mut() {
                loop {
                    while let Some(step) = group.step() {
                        match step {
                            Step::Send(messages) => self.wire.extend(messages),
                            Step::Change(changed) => self.changes.push(changed),
                            Step::Reads(ended) => self.ended.extend(ended),
                            Step::Persist(_) | Step::Restore(_) | Step::Apply(_) => {}
                        }
                    }
                    if !group.is_checkpoint_due() {
                        break;
                    }
                    group.checkpoint(b"state".to_vec());
                }
            }
            let Some(message) = self.wire.pop_front() else { return };
            let (from, to) = (message.from, message.to);
            let is_append = message.get_msg_type() == MessageType::MsgAppend;
            let arrives = !self.cut.contains(&from)
                && !self.cut.contains(&to)
                && !self.deaf.contains(&to)
                && (!is_append || !self.without_appends);
            if carries_checkpoint(&message)
                && let Some(sender) = self.groups.get_mut(&from)
            {
                sender.checkpoint_sent(to, arrives);
            }
            let receiver = self.groups.get_mut(&to).filter(|_| arrives);
            if receiver.is_some_and(|it| it.receive(message).is_err()) {
                self.forgot.insert(to);
                self.groups.remove(&to);
            }
        }
    }

    fn tick(&mut self, ticks: usize) {
        for _tick in 0..ticks {
            let ids: Vec<u64> = self.groups.keys().copied().collect();
            for id in ids {
                if self.groups.contains_key(&id) {
                    self.give(id, Group::tick);
                }
            }
        }
    }

    fn change(&mut self, leader: u64, change: Change) -> Result<(), NotChanged> {
        let request = self.request();
        self.give(leader, |group| group.change(request, change))
    }

    fn leader_of(&self, among: &[u64]) -> u64 {
        *among.iter().find(|id| self.groups[id].leads()).unwrap()
    }
}

#[test]
fn a_member_joins_as_a_learner_catches_up_and_then_votes() {
    let mut net = Net::of(1);
    assert_eq!(net.change(1, Change::AddLearner(1)), Err(NotChanged::Used(1)));
    net.change(1, Change::AddLearner(2)).unwrap();
    assert_eq!(net.change(1, Change::Promote(2)), Err(NotChanged::Behind(2)));
    net.start(2, &Image::joining());
    net.tick(3);
    let joined = net.groups[&2].image();
    assert!(!joined.is_blank() && joined.checkpoint.state == b"state", "{joined:?}");
    assert_eq!(net.groups[&1].promotion(), Some(Change::Promote(2)));
    net.change(1, Change::Promote(2)).unwrap();
    net.tick(1);
    for group in net.groups.values() {
        assert_eq!(group.members(), &Members::new([1, 2], [], 2));
    }
    assert_eq!(net.groups[&1].promotion(), None);
    // What is durable of it is durable with the checkpoint, and applied once.
    let before = net.changes.len();
    let image = net.groups[&1].image().clone();
    assert_eq!(image.checkpoint.members, Members::new([1], [2], 2));
    net.restart(1, image);
    net.tick(40);
    assert_eq!(net.groups[&1].members(), &Members::new([1, 2], [], 2));
    assert_eq!(net.changes.len(), before + 1, "the promotion, from behind the checkpoint");
}

#[test]
fn changes_come_one_at_a_time_and_after_the_leaders_own_entry() {
    let mut net = Net::of(3);
    net.cut = [2, 3].into();
    net.change(1, Change::AddLearner(4)).unwrap();
    assert_eq!(net.change(1, Change::AddLearner(5)), Err(NotChanged::Pending));
    assert_eq!(net.change(2, Change::AddLearner(5)), Err(NotChanged::Dropped));
    net.cut.clear();
    net.tick(2);
    net.change(1, Change::AddLearner(5)).unwrap();
    // A leader whose first entry nobody has got yet.
    net.cut = [1].into();
    net.without_appends = true;
    net.tick(3 * ELECTION_TICKS);
    let next = net.leader_of(&[2, 3]);
    assert_eq!(net.change(next, Change::AddLearner(6)), Err(NotChanged::Pending));
    let request = net.request();
    assert_eq!(net.give(next, |it| it.read(request, 9)), Err(Unavailable), "CLU-5: at once");
}

#[test]
fn no_removal_leaves_fewer_live_voters_than_a_quorum() {
    let mut net = Net::of(3);
    net.tick(1);
    assert_eq!(net.change(1, Change::Remove(1)), Err(NotChanged::Leads(1)));
    assert_eq!(net.change(1, Change::Remove(7)), Err(NotChanged::Unknown(7)));
    // One is dead. To remove the other would leave one of two.
    net.cut = [3].into();
    net.tick(ELECTION_TICKS + 1);
    let removal = net.change(1, Change::Remove(2));
    assert_eq!(removal, Err(NotChanged::Quorum { live: 1, quorum: 2 }));
    net.change(1, Change::Remove(3)).unwrap();
    net.tick(2);
    assert_eq!(net.groups[&1].members(), &Members::new([1, 2], [], 3));
    net.change(1, Change::Remove(2)).unwrap();
    net.tick(2);
    assert_eq!(net.groups[&1].members(), &Members::new([1], [], 3));
}

#[test]
fn a_removed_member_is_not_heard_and_its_id_is_gone() {
    let mut net = Net::of(3);
    net.tick(1);
    // It does not learn that it was removed, and stands for election for ever.
    net.cut = [3].into();
    net.change(1, Change::Remove(3)).unwrap();
    net.tick(ELECTION_TICKS);
    net.cut.clear();
    let (term, heard) = (net.groups[&1].term(), net.groups[&1].heard[&3]);
    net.tick(10 * ELECTION_TICKS);
    assert!(net.groups[&1].leads());
    assert_eq!(net.groups[&1].term(), term);
    assert_eq!(net.groups[&1].heard[&3], heard, "nothing of it was heard");
    assert_eq!(net.change(1, Change::AddLearner(3)), Err(NotChanged::Used(3)));
}

#[test]
fn a_member_that_hears_nobody_is_not_there_however_often_it_asks_for_votes() {
    let mut net = Net::of(3);
    net.tick(1);
    net.deaf = [3].into();
    net.tick(5 * ELECTION_TICKS);
    let leader = &net.groups[&1];
    assert!(leader.leads());
    let unheard = leader.unheard(0);
    assert!(unheard[&2] <= 1 && 4 * ELECTION_TICKS as u64 <= unheard[&3], "{unheard:?}");
}

#[test]
fn a_fresh_leader_knows_how_long_the_one_before_it_is_silent_and_gives_the_others_time() {
    let mut net = Net::of(3);
    net.tick(1);
    net.cut = [1].into();
    let mut silent = 0;
    while !net.groups[&2].leads() && !net.groups[&3].leads() {
        net.tick(1);
        silent += 1;
    }
    assert!(ELECTION_TICKS as u64 <= silent, "{silent}");
    let (id, other) = if net.groups[&2].leads() { (2, 3) } else { (3, 2) };
    let from = net.groups[&id].ticks();
    net.deaf = [other].into();
    net.tick(3);
    let unheard = net.groups[&id].unheard(from);
    assert!(silent <= unheard[&1] && unheard[&other] <= 3, "{silent}: {unheard:?}");
}

#[test]
fn an_old_id_on_a_blank_or_older_disk_is_noticed() {
    for first in [Image::joining(), Image::founding(vec![1, 2, 3], Vec::new())] {
        let mut net = Net::of(3);
        let request = net.request();
        net.give(1, |group| group.propose(request, b"x".to_vec())).unwrap();
        net.tick(2);
        net.start(2, &first);
        net.tick(1);
        assert_eq!(net.forgot, [2].into(), "CLU-6");
    }
    // Without a leader: whoever asks a blank disk for its vote asks one who had a vote.
    let mut net = Net::of(3);
    net.groups.remove(&1);
    net.start(2, &Image::joining());
    net.tick(3 * ELECTION_TICKS);
    assert_eq!(net.forgot, [2].into(), "CLU-6");
}

#[test]
fn an_old_id_on_a_blank_disk_is_noticed_by_a_leader_that_never_heard_of_it() {
    let mut net = Net::of(2);
    net.start(3, &Image::joining());
    net.change(1, Change::AddLearner(3)).unwrap();
    net.tick(2);
    // What a blank disk gets first has it as a learner.
    assert!(net.groups[&1].image().checkpoint.members.contains(3));
    net.change(1, Change::Promote(3)).unwrap();
    net.tick(2);
    assert!(net.forgot.is_empty() && net.groups[&1].members().voters().contains(&3));
    net.groups.remove(&3);
    for (from, to) in [(1, 2), (2, 1)] {
        net.give(from, |group| group.transfer(to)).unwrap();
        net.tick(2);
        assert!(net.groups[&to].leads());
    }
    net.start(3, &Image::joining());
    net.tick(3 * ELECTION_TICKS);
    assert_eq!(net.forgot, [3].into(), "CLU-6");
}

#[test]
fn the_lead_goes_where_it_is_sent() {
    let mut net = Net::of(3);
    net.tick(1);
    assert_eq!(net.give(1, |group| group.transfer(1)), Err(NotChanged::Unknown(1)));
    assert_eq!(net.give(2, |group| group.transfer(3)), Err(NotChanged::Dropped));
    net.give(1, |group| group.transfer(3)).unwrap();
    net.tick(1);
    assert!(net.groups[&3].leads() && net.groups[&2].leader() == Some(3));
    // The former leader may go now.
    net.change(3, Change::Remove(1)).unwrap();
    net.tick(2);
    assert_eq!(net.groups[&3].members(), &Members::new([2, 3], [], 3));
}

#[test]
fn a_leader_that_was_removed_leaves_the_lead_to_the_others() {
    let mut net = Net::of(3);
    net.tick(1);
    // The change reaches one follower, which leads before it is committed.
    net.cut = [3].into();
    net.tick(1);
    net.change(1, Change::Remove(2)).unwrap();
    assert!(net.groups[&1].members().contains(2) || net.groups[&2].image().last().index > 2);
    net.cut.clear();
    net.give(2, Group::campaign);
    net.tick(8 * ELECTION_TICKS);
    let leader = net.leader_of(&[1, 3]);
    assert_eq!(net.groups[&leader].members(), &Members::new([1, 3], [], 3));
    assert!(!net.groups[&2].leads());
}

#[test]
fn a_read_waits_for_what_was_acknowledged_and_fails_by_its_deadline() {
    let mut net = Net::of(3);
    net.tick(1);
    for member in 1..=3 {
        let request = net.request();
        net.give(member, |group| group.read(request, 9)).unwrap();
        net.tick(1);
        assert_eq!(net.ended.pop(), Some((request, ReadEnd::Fresh)), "asked of {member}");
    }
    // A leader that nobody hears any more cannot confirm anything.
    net.cut = [1].into();
    let request = net.request();
    net.give(1, |group| group.read(request, 3)).unwrap();
    net.tick(3);
    assert_eq!(net.ended, []);
    net.tick(1);
    assert_eq!(net.ended.pop(), Some((request, ReadEnd::Unavailable)), "CLU-5");
    // One with more time fails when the lead is lost.
    let request = net.request();
    net.give(1, |group| group.read(request, 999)).unwrap();
    net.tick(3 * ELECTION_TICKS);
    assert!(!net.groups[&1].leads());
    assert_eq!(net.ended.pop(), Some((request, ReadEnd::Unavailable)), "CLU-5");
    let request = net.request();
    assert_eq!(net.give(1, |group| group.read(request, 9)), Err(Unavailable), "no leader");
}

#[test]
fn a_group_of_one_reads_at_once() {
    let mut net = Net::of(1);
    let request = net.request();
    net.give(1, |group| group.read(request, 1)).unwrap();
    assert_eq!(net.ended, [(request, ReadEnd::Fresh)]);
}
