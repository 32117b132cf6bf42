//! A pure core: which member runs a synchronous invocation, by what each has said of its instances.
//!
//! Members tell each other how the pools of functions stand that are called just now. What one
//! said is a guess a moment later, so it ages, and what was sent there since is counted on top.
//!
//! - **IN-1** a ready instance of this member goes before any other member's.
//! - **IN-2** another member is chosen only by what it said within [`FRESH`], and only while it
//!   runs the revision that is wanted.
//! - **IN-3** of the members with a ready instance two are drawn, and the less loaded of them is
//!   chosen: the least loaded of all would get what everybody sends until the next word of it.
//! - **IN-4** without a ready instance one is started, here before elsewhere; without room for one
//!   it waits where the least waits for each instance, of this member and two that are drawn, and
//!   nowhere behind a full queue.
//! - **IN-5** a member is silent when a question to it has waited for [`SILENCE`]; what was not
//!   asked says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long what a member said is believed.
pub const FRESH: Duration = Duration::from_secs(1);
/// How long a question may wait until who was asked counts as gone.
pub const SILENCE: Duration = Duration::from_millis(1_250);
/// Invocations that may wait for each instance of a function at a member.
pub const WAITING_EACH: u32 = 8;
/// When what nobody asks about any more is forgotten.
const FORGET: Duration = Duration::from_secs(30);

/// How the pool of a function stands at a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Instances that wait for work.
    pub idle: u32,
    /// Instances that run.
    pub busy: u32,
    /// Invocations that wait for an instance.
    pub queued: u32,
    /// Instances that there may be.
    pub max: u32,
    /// Whether a new instance costs next to nothing.
    pub starts_fast: bool,
}

impl Load {
    /// Whether an invocation would run at once, without a start that is felt.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        self.queued == 0 && (0 < self.idle || self.starts_fast && self.busy < self.max)
    }

    /// Whether an instance could be started for it.
    const fn has_room(self) -> bool {
        self.queued == 0 && self.idle + self.busy < self.max
    }

    const fn is_full(self) -> bool {
        self.max.saturating_mul(WAITING_EACH) <= self.queued
    }

    /// What runs and waits for each instance that there may be, in 1/1024.
    fn share(self) -> u64 {
        (u64::from(self.busy) + u64::from(self.queued)) * 1_024 / u64::from(self.max.max(1))
    }

    /// With so many more sent there.
    fn with(self, sent: u32) -> Self {
        let idle = self.idle.saturating_sub(sent);
        let runs = (self.busy + sent).min(self.max);
        let queued = self.queued + (self.busy + sent).saturating_sub(runs);
        Self { idle, busy: runs, queued, ..self }
    }
}

/// What a member says of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The revision that runs there.
    pub revision: String,
    /// How its pool stands.
    pub load: Load,
}

#[derive(Clone, Debug)]
struct Entry {
    at: Instant,
    /// `None`: it does not run there.
    said: Option<Said>,
    /// Sent there since.
    sent: u32,
}

#[derive(Clone, Debug, Default)]
struct Known {
    functions: BTreeMap<String, Entry>,
    /// When the oldest question was asked that waits for its answer.
    asked: Option<Instant>,
}

/// What is known of the other members.
#[derive(Clone, Debug, Default)]
pub struct Bulletin(BTreeMap<u64, Known>);

impl Bulletin {
    /// A member is asked how its functions stand.
    pub fn on_asked(&mut self, now: Instant, member: u64) {
        self.0.entry(member).or_default().asked.get_or_insert(now);
    }

    /// The question did not leave, so that its silence says nothing.
    pub fn on_not_asked(&mut self, member: u64) {
        self.0.entry(member).or_default().asked = None;
    }

    /// It answered; `None` = it does not run that function.
    pub fn on_news(
        &mut self,
        now: Instant,
        member: u64,
        news: impl IntoIterator<Item = (String, Option<Said>)>,
    ) {
        let known = self.0.entry(member).or_default();
        known.asked = None;
        known.functions.retain(|_, it| now.saturating_duration_since(it.at) < FORGET);
        for (function, said) in news {
            known.functions.insert(function, Entry { at: now, said, sent: 0 });
        }
    }

    /// An invocation is sent there.
    pub fn on_sent(&mut self, member: u64, function: &str) {
        if let Some(entry) = self.entry(member, function) {
            entry.sent += 1;
        }
    }

    /// And is over.
    pub fn on_ended(&mut self, member: u64, function: &str) {
        if let Some(entry) = self.entry(member, function) {
            entry.sent = entry.sent.saturating_sub(1);
        }
    }

    /// Nobody else is a member any more.
    pub fn retain(&mut self, members: &BTreeSet<u64>) {
        self.0.retain(|member, _| members.contains(member));
    }

    /// Whether it does not answer (IN-5).
    #[must_use]
    pub fn is_silent(&self, now: Instant, member: u64) -> bool {
        let asked = self.0.get(&member).and_then(|known| known.asked);
        asked.is_some_and(|at| SILENCE <= now.saturating_duration_since(at))
    }

    /// Whether what it said of this function is believed, be it that it does not run there.
    #[must_use]
    pub fn is_fresh(&self, now: Instant, member: u64, function: &str) -> bool {
        let entry = self.0.get(&member).and_then(|known| known.functions.get(function));
        entry.is_some_and(|it| now.saturating_duration_since(it.at) < FRESH)
    }

    /// Those of these members that run this revision by what they said of late (IN-2).
    #[must_use]
    pub fn candidates(
        &self,
        now: Instant,
        members: &BTreeSet<u64>,
        function: &str,
        revision: &str,
    ) -> Vec<Candidate> {
        let candidate = |member: &u64| {
            let known = self.0.get(member)?;
            if !self.is_fresh(now, *member, function) || self.is_silent(now, *member) {
                return None;
            }
            let entry = known.functions.get(function)?;
            let said = entry.said.as_ref().filter(|it| it.revision == revision)?;
            Some(Candidate { member: *member, load: said.load.with(entry.sent) })
        };
        members.iter().filter_map(candidate).collect()
    }

    fn entry(&mut self, member: u64, function: &str) -> Option<&mut Entry> {
        self.0.get_mut(&member)?.functions.get_mut(function)
    }
}

/// A member that could run an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub member: u64,
    /// How its pool stands, as far as is known.
    pub load: Load,
}

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This member.
    Here,
    /// Another one.
    There(u64),
    /// All who could have a full queue.
    Busy,
    /// Nobody is known who could.
    Nowhere,
}

/// Chooses (IN-1, IN-3, IN-4). `here` is `None` where it does not run, or must not.
#[must_use]
pub fn choose(here: Option<Load>, others: &[Candidate], draws: [u64; 2]) -> Choice {
    if here.is_some_and(Load::is_ready) {
        return Choice::Here;
    }
    if let Some(ready) = lighter(others, Load::is_ready, draws) {
        return Choice::There(ready.member);
    }
    if here.is_some_and(Load::has_room) {
        return Choice::Here;
    }
    if let Some(room) = lighter(others, Load::has_room, draws) {
        return Choice::There(room.member);
    }
    let here_waits = here.filter(|it| !it.is_full());
    match (here_waits, lighter(others, |it| !it.is_full(), draws)) {
        (Some(here), Some(there)) if there.load.share() < here.share() => {
            Choice::There(there.member)
        }
        (Some(_), _) => Choice::Here,
        (None, Some(there)) => Choice::There(there.member),
        (None, None) if here.is_none() && others.is_empty() => Choice::Nowhere,
        (None, None) => Choice::Busy,
    }
}

/// The less loaded of two that are drawn.
fn lighter(others: &[Candidate], may: impl Fn(Load) -> bool, draws: [u64; 2]) -> Option<Candidate> {
    let able: Vec<Candidate> = others.iter().copied().filter(|it| may(it.load)).collect();
    let count = able.len() as u64;
    if count < 2 {
        return able.first().copied();
    }
    let first = draws[0] % count;
    let second = (first + 1 + draws[1] % (count - 1)) % count;
    let (first, second) = (able[first as usize], able[second as usize]);
    Some(if second.load.share() < first.load.share() { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn load(idle: u32, busy: u32, queued: u32, max: u32) -> Load {
        Load { idle, busy, queued, max, starts_fast: false }
    }

    fn others(loads: &[Load]) -> Vec<Candidate> {
        let numbered = loads.iter().zip(2..);
        numbered.map(|(load, member)| Candidate { member, load: *load }).collect()
    }

    fn said(load: Load) -> Option<Said> {
        Some(Said { revision: "r1".to_owned(), load })
    }

    #[test]
    fn in_1_a_ready_instance_here_goes_before_any_other() {
        let free = others(&[load(4, 0, 0, 4), load(4, 0, 0, 4)]);
        assert_eq!(choose(Some(load(1, 7, 0, 8)), &free, [0, 0]), Choice::Here);
        let fast = Load { starts_fast: true, ..load(0, 0, 0, 1) };
        assert_eq!(choose(Some(fast), &free, [0, 0]), Choice::Here, "a start costs nothing");
        assert_eq!(choose(Some(load(0, 0, 0, 8)), &free, [0, 0]), Choice::There(2), "it is cold");
        let busy = Load { busy: 1, ..fast };
        assert_eq!(choose(Some(busy), &free, [0, 0]), Choice::There(2), "it has no room");
    }

    #[test]
    fn in_2_only_fresh_words_of_the_wanted_revision_count() {
        let (mut bulletin, now) = (Bulletin::default(), Instant::now());
        let members: BTreeSet<u64> = [2, 3, 4, 5].into();
        let other = Some(Said { revision: "r0".to_owned(), load: load(1, 0, 0, 1) });
        bulletin.on_news(now, 2, [("a/f".to_owned(), said(load(1, 0, 0, 1)))]);
        bulletin.on_news(now, 3, [("a/f".to_owned(), other)]);
        bulletin.on_news(now, 4, [("a/f".to_owned(), None)]);
        let able = |bulletin: &Bulletin, later: Duration| {
            let able = bulletin.candidates(now + later, &members, "a/f", "r1");
            able.into_iter().map(|it| it.member).collect::<Vec<_>>()
        };
        assert_eq!(able(&bulletin, Duration::ZERO), [2]);
        assert_eq!(able(&bulletin, FRESH), Vec::<u64>::new(), "it is stale");
        assert!(bulletin.is_fresh(now, 4, "a/f"), "that it does not run there is known too");
        bulletin.retain(&[3, 4, 5].into());
        assert_eq!(able(&bulletin, Duration::ZERO), Vec::<u64>::new(), "it was removed");
    }

    #[test]
    fn in_3_two_are_drawn_and_the_less_loaded_is_chosen() {
        let loads = [load(1, 3, 0, 4), load(2, 2, 0, 4), load(3, 1, 0, 4), load(4, 0, 0, 4)];
        let all = others(&loads);
        let mut chosen: BTreeMap<u64, u32> = BTreeMap::new();
        for first in 0..4 {
            for second in 0..3 {
                let Choice::There(member) = choose(None, &all, [first, second]) else {
                    panic!("somebody is ready")
                };
                *chosen.entry(member).or_default() += 1;
            }
        }
        // Of the twelve ordered pairs each wins those with who is more loaded; the last none.
        assert_eq!(chosen, [(3, 2), (4, 4), (5, 6)].into());
    }

    #[test]
    fn in_3_what_was_sent_since_counts() {
        let (mut bulletin, now) = (Bulletin::default(), Instant::now());
        bulletin.on_news(now, 2, [("a/f".to_owned(), said(load(1, 0, 0, 2)))]);
        let seen = |bulletin: &Bulletin| bulletin.candidates(now, &[2].into(), "a/f", "r1")[0].load;
        bulletin.on_sent(2, "a/f");
        assert_eq!(seen(&bulletin), load(0, 1, 0, 2));
        bulletin.on_sent(2, "a/f");
        bulletin.on_sent(2, "a/f");
        assert_eq!(seen(&bulletin), load(0, 2, 1, 2), "one waits");
        (0..4).for_each(|_| bulletin.on_ended(2, "a/f"));
        assert_eq!(seen(&bulletin), load(1, 0, 0, 2));
    }

    #[test]
    fn in_4_without_a_ready_instance_one_is_started_here_then_elsewhere_then_it_waits() {
        let cold = load(0, 1, 0, 2);
        assert_eq!(choose(Some(cold), &others(&[cold]), [0, 0]), Choice::Here);
        let all_run = load(0, 2, 0, 2);
        assert_eq!(choose(Some(all_run), &others(&[cold]), [0, 0]), Choice::There(2));
        let waits = load(0, 2, 3, 2);
        assert_eq!(choose(Some(waits), &others(&[all_run]), [0, 0]), Choice::There(2));
        assert_eq!(choose(Some(all_run), &others(&[waits]), [0, 0]), Choice::Here);
        let full = load(0, 2, 2 * WAITING_EACH, 2);
        assert_eq!(choose(Some(full), &others(&[waits]), [0, 0]), Choice::There(2));
        assert_eq!(choose(Some(full), &others(&[full, full]), [0, 0]), Choice::Busy);
        assert_eq!(choose(None, &others(&[full]), [0, 0]), Choice::Busy);
        assert_eq!(choose(None, &[], [0, 0]), Choice::Nowhere);
    }

    #[test]
    fn in_5_who_was_asked_and_does_not_answer_is_silent() {
        let (mut bulletin, now) = (Bulletin::default(), Instant::now());
        bulletin.on_news(now, 2, [("a/f".to_owned(), said(load(1, 0, 0, 1)))]);
        assert!(!bulletin.is_silent(now + FORGET, 2), "nobody asked");
        bulletin.on_asked(now, 2);
        bulletin.on_asked(now + SILENCE / 2, 2);
        assert!(!bulletin.is_silent(now + SILENCE / 2, 2));
        assert!(bulletin.is_silent(now + SILENCE, 2), "the oldest question counts");
        bulletin.on_news(now + SILENCE, 2, []);
        assert!(!bulletin.is_silent(now + 2 * SILENCE, 2), "it answered");
        bulletin.on_asked(now, 2);
        bulletin.on_not_asked(2);
        assert!(!bulletin.is_silent(now + SILENCE, 2), "the question did not leave");
    }
}
