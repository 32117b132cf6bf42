//! Several members in one process, on disks, over a network that loses and cuts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use bus::Epoch;
use raft::eraftpb::{HardState, MessageType};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::*;
use crate::group::RequestId;
use crate::image::Write;
use crate::state::{App, MemberChange, Redriver, Role};
use crate::wire::Proposal;

const SOON: Duration = Duration::from_secs(60);

/// Carries letters at once, loses some of them, and none over a cut.
#[derive(Debug, Default)]
struct Network {
    inboxes: Mutex<BTreeMap<u64, Inbox>>,
    cut: Mutex<BTreeSet<u64>>,
    /// Of a thousand letters.
    lost: AtomicU64,
    draws: AtomicU64,
    states: AtomicU64,
}

impl Network {
    fn way(&self, from: u64, to: u64) -> Option<Inbox> {
        let cut = self.cut.lock().unwrap();
        let draw = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        let draw = (draw ^ (draw >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32;
        let is_lost = draw % 1_000 < self.lost.load(Ordering::SeqCst);
        let is_cut = cut.contains(&from) != cut.contains(&to);
        self.inboxes.lock().unwrap().get(&to).filter(|_| !is_lost && !is_cut).cloned()
    }
}

#[derive(Debug)]
struct Cable {
    me: u64,
    network: Arc<Network>,
    runtime: Handle,
    own: std::sync::OnceLock<Inbox>,
}

impl Cable {
    fn own(&self) -> Inbox {
        self.own.get().unwrap().clone()
    }
}

impl Transport for Cable {
    fn start(&self, inbox: Inbox) {
        self.own.set(inbox.clone()).unwrap();
        self.network.inboxes.lock().unwrap().insert(self.me, inbox);
    }

    fn send(&self, letter: Letter) {
        let (own, to) = (self.own(), letter.to);
        let way = self.network.way(self.me, to);
        let Some(state) = letter.state else {
            match way {
                Some(there) => there.receive(self.me, &own.seal(&[letter.message])),
                None => own.unreachable(to),
            }
            return;
        };
        self.network.states.fetch_add(1, Ordering::SeqCst);
        let sealed = own.seal_checkpoint(&letter.message, &state);
        let arrived = way.is_some_and(|there| {
            let length = there.wanted(self.me, &sealed).map(|it| it.length);
            assert_eq!(length, Some(state.len() as u64));
            assert!(!there.restore(self.me, &sealed, [&state[1..], &[0]].concat()), "WR-2");
            there.restore(self.me, &sealed, state)
        });
        own.checkpoint_sent(to, arrived);
    }

    fn forward(&self, leader: (u64, u64), proposal: Proposal) {
        let own = self.own();
        let there = self.network.way(self.me, leader.1);
        // The answer may be lost as well.
        let back = self.network.way(leader.1, self.me);
        let me = self.me;
        self.runtime.spawn(async move {
            let taken = match there {
                Some(there) => there.take(me, &own.seal_proposal(&proposal)).await,
                None => false,
            };
            let how = match (back, taken) {
                (None, _) => Forwarded::Unknown,
                (Some(_), true) => Forwarded::Taken,
                (Some(_), false) => Forwarded::NotTaken,
            };
            own.forwarded(proposal.request, leader, how);
        });
    }
}

struct Net {
    network: Arc<Network>,
    dirs: BTreeMap<u64, TempDir>,
    members: BTreeMap<u64, Cluster>,
    limits: Limits,
}

impl Net {
    /// A founder, and others who join it and vote in the end.
    async fn of(count: u64, limits: Limits) -> Self {
        let mut net = Self {
            network: Arc::default(),
            dirs: BTreeMap::new(),
            members: BTreeMap::new(),
            limits,
        };
        for id in 1..=count {
            let dir = tempfile::tempdir().unwrap();
            net.dirs.insert(id, dir);
        }
        net.start(1, true);
        for id in 1..=count {
            net.members[&1].propose(join(id)).await.unwrap();
            if id != 1 {
                net.start(id, false);
            }
        }
        net.until("all vote", |net| {
            let voters: Vec<u64> = (1..=count).collect();
            net.members.values().all(|it| it.vitals().members.voters().iter().eq(&voters))
        })
        .await;
        net
    }

    fn start(&mut self, id: u64, founds: bool) {
        let transport = Arc::new(Cable {
            me: id,
            network: Arc::clone(&self.network),
            runtime: Handle::current(),
            own: std::sync::OnceLock::new(),
        });
        let cluster = "mill".to_owned();
        let config = Config { member: id, cluster, founds, limits: self.limits, transport };
        let fatal: OnFatal = Arc::new(|reason| panic!("fatal: {reason}"));
        let member = Cluster::open(self.dirs[&id].path(), config, fatal).unwrap();
        self.members.insert(id, member);
    }

    async fn stop(&mut self, id: u64) {
        self.network.inboxes.lock().unwrap().remove(&id);
        self.members.remove(&id).unwrap().close().await;
    }

    async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let patience = async {
            while !so(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let all: Vec<Vitals> = self.members.values().map(Cluster::vitals).collect();
        let waited = tokio::time::timeout(SOON, patience).await;
        assert!(waited.is_ok(), "not in {SOON:?}: {what}; it was {all:?}");
    }

    async fn leader(&self) -> u64 {
        self.until("one leads that all know", |net| {
            let mut known = net.members.values().map(Cluster::leadership);
            let first = known.next().unwrap();
            first.leader.is_some_and(|it| net.members.contains_key(&it))
                && known.all(|it| it == first)
        })
        .await;
        self.members.values().next().unwrap().leadership().leader.unwrap()
    }

    fn followers(&self, leader: u64) -> Vec<u64> {
        self.members.keys().copied().filter(|id| *id != leader).collect()
    }

    /// All have the same state in the end.
    async fn agree(&self) -> Arc<State> {
        self.until("all have one state", |net| {
            let mut states = net.members.values().map(Cluster::state);
            let first = states.next().unwrap();
            states.all(|it| it == first)
        })
        .await;
        self.members.values().next().unwrap().state()
    }
}

fn join(id: u64) -> Command {
    let (name, address) = (format!("edge-{id}"), format!("127.0.0.1:{id}"));
    let change = MemberChange::Join { name, address, key: [id as u8; 32], token: None };
    Command::Member { member: id, change }
}

/// Each of it that is applied is one more in the epoch.
fn count() -> Command {
    Command::Redrive { topic: "t".to_owned() }
}

fn counted(state: &State) -> u64 {
    state.redrivers().get("t").map_or(0, |Redriver { epoch: Epoch(epoch), .. }| *epoch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_agree_whoever_is_asked_also_after_all_were_off() {
    let mut net = Net::of(3, Limits::default()).await;
    for (id, member) in &net.members {
        member.propose(count()).await.unwrap();
        assert_eq!(counted(&member.state()), *id, "it shows what it has answered");
    }
    let state = net.agree().await;
    assert!(state.roster().members().values().skip(1).all(|it| it.role == Role::Voter));
    let version = Command::Remove { name: "b".into() };
    let refused = net.members[&2].propose(version).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    for id in 1..=3 {
        net.stop(id).await;
    }
    for id in 1..=3 {
        net.start(id, false);
    }
    net.leader().await;
    let fresh = net.members[&3].read(SOON).await.unwrap();
    assert_eq!(counted(&fresh), 3);
    assert_eq!(net.members[&3].incarnation(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_leader_a_group_goes_on_and_who_comes_back_catches_up() {
    let limits = Limits { entries: 20, trailing: 5, ..Limits::default() };
    let mut net = Net::of(3, limits).await;
    let leader = net.leader().await;
    let before = net.members[&leader].leadership();
    net.stop(leader).await;
    let other = net.followers(leader)[0];
    net.members[&other].propose(count()).await.unwrap();
    let now = net.members[&other].leadership();
    assert!(before.term < now.term && now.leader != before.leader, "{before:?} {now:?}");
    // So much that the one which was off has to begin with a checkpoint.
    for _more in 0..60 {
        net.members[&other].propose(count()).await.unwrap();
    }
    let states = net.network.states.load(Ordering::SeqCst);
    net.start(leader, false);
    assert_eq!(counted(&*net.agree().await), 61);
    assert!(states < net.network.states.load(Ordering::SeqCst));
    net.members[&leader].propose(count()).await.unwrap();
    assert_eq!(counted(&*net.agree().await), 62);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_says_so_and_what_it_was_asked_is_done_once() {
    let net = Net::of(3, Limits::default()).await;
    let leader = net.leader().await;
    net.network.cut.lock().unwrap().insert(leader);
    let cut_off = net.members[&leader].clone();
    let asked = tokio::spawn(async move { cut_off.propose(count()).await });
    let read = net.members[&leader].read(Duration::from_millis(700)).await;
    assert!(matches!(read, Err(Error::Unavailable)), "CLU-5: {read:?}");
    let other = net.followers(leader)[0];
    net.members[&other].propose(count()).await.unwrap();
    let silence = |net: &Net| {
        let leading =
            net.members.values().find(|it| *it.unheard().get(&leader).unwrap_or(&TICK) > TICK * 10);
        leading.is_some()
    };
    net.until("its silence is seen", silence).await;
    assert_eq!(counted(&net.members[&leader].state()), 0);
    net.network.cut.lock().unwrap().clear();
    asked.await.unwrap().unwrap();
    assert_eq!(counted(&*net.agree().await), 2, "RS-13");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_loses_letters_costs_time_and_nothing_else() {
    let net = Net::of(3, Limits::default()).await;
    net.network.lost.store(250, Ordering::SeqCst);
    let mut asked = Vec::new();
    for round in 0..60 {
        let member = net.members[&(1 + round % 3)].clone();
        asked.push(tokio::spawn(async move { member.propose(count()).await }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut done, mut unknown) = (0, 0);
    for asked in asked {
        match asked.await.unwrap() {
            Ok(_) => done += 1,
            Err(Error::Unknown) => unknown += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    net.network.lost.store(0, Ordering::SeqCst);
    let counted = counted(&*net.agree().await);
    assert!(done <= counted && counted <= done + unknown, "{done} {unknown} {counted}");
    assert!(40 < done, "{done}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_disk_ends_and_a_removed_one_is_not_heard() {
    let mut net = Net::of(3, Limits::default()).await;
    let leader = net.leader().await;
    let lost = net.followers(leader)[0];
    net.stop(lost).await;
    net.dirs.insert(lost, tempfile::tempdir().unwrap());
    net.start(lost, false);
    let ended = tokio::time::timeout(SOON, net.members[&lost].ended()).await.unwrap();
    assert_eq!(ended, Ended::Forgot, "CLU-6");
    assert!(matches!(net.members[&lost].propose(count()).await, Err(Error::Closed)));
    // Under its old id it never comes back; it is removed, and its name is free again.
    let leads = &net.members[&net.leader_of_two(lost).await];
    leads.change(Change::Remove(lost)).await.unwrap();
    assert_eq!(leads.state().roster().members()[&lost].role, Role::Removed);
    let Command::Member { change, .. } = join(lost) else { panic!() };
    leads.propose(Command::Member { member: 4, change }).await.unwrap();
    net.dirs.insert(4, tempfile::tempdir().unwrap());
    net.members.remove(&lost);
    net.start(4, false);
    net.until("the new one votes", |net| {
        net.members.values().all(|it| it.vitals().members.voters().contains(&4))
    })
    .await;
    // What its old process still says is dropped.
    let stranger = Sender { cluster: "mill".into(), incarnation: 99 };
    let mut vote = raft::eraftpb::Message { from: lost, to: 4, term: 99, ..Default::default() };
    vote.set_msg_type(MessageType::MsgRequestVote);
    let inbox = net.network.inboxes.lock().unwrap()[&4].clone();
    let say = |sender: &Sender| {
        inbox.receive(lost, &crate::wire::messages(sender, &[crate::wire::encode(&vote)]));
    };
    say(&stranger);
    say(&Sender { cluster: "other".into(), incarnation: 99 });
    net.until("both are counted", |net| {
        let dropped = net.members[&4].vitals().dropped;
        dropped.contains_key("removed-member") && dropped.contains_key("foreign-cluster")
    })
    .await;
    assert!(net.members[&4].leadership().term < 99);
}

impl Net {
    async fn leader_of_two(&self, without: u64) -> u64 {
        self.until("one of the others leads", |net| {
            net.members.iter().any(|(id, it)| *id != without && it.leads())
        })
        .await;
        *self.members.iter().find(|(id, it)| **id != without && it.leads()).unwrap().0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_process_of_a_member_is_not_heard() {
    let mut net = Net::of(3, Limits::default()).await;
    let leader = net.leader().await;
    let again = net.followers(leader)[0];
    net.stop(again).await;
    net.start(again, false);
    net.members[&again].propose(count()).await.unwrap();
    let inbox = net.network.inboxes.lock().unwrap()[&leader].clone();
    let mut vote =
        raft::eraftpb::Message { from: again, to: leader, term: 99, ..Default::default() };
    vote.set_msg_type(MessageType::MsgRequestVote);
    let before = Sender { cluster: "mill".into(), incarnation: 1 };
    inbox.receive(again, &crate::wire::messages(&before, &[crate::wire::encode(&vote)]));
    net.until("it is counted", |net| {
        net.members[&leader].vitals().dropped.contains_key("stale-incarnation")
    })
    .await;
    assert!(net.members[&leader].leadership().term < 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_command_crosses_and_a_larger_one_is_refused() {
    let net = Net::of(3, Limits::default()).await;
    let follower = net.followers(net.leader().await)[0];
    let deploy = |bytes: usize| Command::Deploy {
        name: "a".to_owned(),
        app: App { topics: [("t".to_owned(), "x".repeat(bytes))].into(), ..App::default() },
        expects: None,
        at: bus::Timestamp(0),
    };
    let head = codec::encode_large(&deploy(0)).unwrap().len();
    let largest = COMMAND_BYTES_MAX - head;
    net.members[&follower].propose(deploy(largest)).await.unwrap();
    assert_eq!(net.agree().await.apps()["a"].topics["t"].len(), largest);
    let over = net.members[&follower].propose(deploy(largest + 1)).await;
    assert!(matches!(over, Err(Error::TooLarge(_))), "{over:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_handed_over_and_the_last_quorum_is_not_removed() {
    let mut net = Net::of(3, Limits::default()).await;
    let leader = net.leader().await;
    let to = net.followers(leader)[0];
    net.members[&leader].transfer(to).await.unwrap();
    net.until("it leads", |net| net.members[&to].leads()).await;
    // Its own first entry comes before any change.
    net.members[&to].propose(count()).await.unwrap();
    let own = net.members[&to].change(Change::Remove(to)).await;
    assert!(matches!(own, Err(Error::NotChanged(NotChanged::Leads(_)))), "{own:?}");
    let other = net.followers(to)[0];
    let elsewhere = net.members[&other].change(Change::Remove(to)).await;
    assert!(matches!(elsewhere, Err(Error::NotChanged(NotChanged::Dropped))), "{elsewhere:?}");
    let off = net.followers(to)[1];
    net.stop(off).await;
    tokio::time::sleep(TICK * 15).await;
    let refused = net.members[&to].change(Change::Remove(other)).await;
    assert!(matches!(refused, Err(Error::NotChanged(NotChanged::Quorum { .. }))), "{refused:?}");
    assert_eq!(net.members[&to].checkpoint().await.unwrap(), net.members[&to].vitals().applied);
}

/// What a version before requests were numbered by starts has written is applied.
#[test]
fn a_log_of_a_version_without_numbered_starts_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raft.redb");
    let state = codec::encode_snapshot(&State::default()).unwrap();
    let (log, _image) = RaftLog::open(&path, &Image::founding(vec![1], state)).unwrap();
    let request = RequestId { member: 1, number: 1 };
    let entry = |index| raft::eraftpb::Entry {
        term: 1,
        index,
        data: codec::encode_large(&count()).unwrap().into(),
        context: [request.member.to_le_bytes(), request.number.to_le_bytes()].concat().into(),
        ..Default::default()
    };
    let hard = HardState { term: 1, commit: 3, ..HardState::default() };
    let write = Write { entries: vec![entry(2), entry(3)], hard: Some(hard), ..Write::default() };
    log.write(&write, crate::image::Place { term: 1, index: 3 }).unwrap();
    drop(log);
    let fatal: OnFatal = Arc::new(|reason| panic!("fatal: {reason}"));
    let member = Cluster::open(dir.path(), Config::alone(), fatal).unwrap();
    assert_eq!(counted(&member.state()), 2);
    assert!(member.leads());
    member.propose_and_wait(&count()).unwrap();
    assert_eq!(counted(&member.state()), 3);
}
