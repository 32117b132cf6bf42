//! Synchronous invocations that cross: asks other members how their functions stand while somebody
//! calls those, hands calls to them, and runs theirs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::Role;
use exchange::CallError;
use tokio::time::{sleep, timeout};

use super::super::Node;
use super::wire::{Call, NotBegun, Outcome, Question, Report, decode_news, encode_news};
use super::{Counted, lock};

/// How often members are asked while somebody calls what may run there.
const NEWS_EVERY: Duration = Duration::from_millis(250);
/// How long after its last call a function is asked about.
const WANTED: Duration = Duration::from_secs(10);
/// How long a call waits for the first news.
const FIRST_NEWS: Duration = Duration::from_millis(50);
/// How long one question may wait; who is silent is known before.
const NEWS_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether a member has gone silent.
const LOOK: Duration = Duration::from_millis(100);

/// Why a call has no report.
pub(super) enum Unheard {
    /// It did not leave, or was not let in: it certainly did not run.
    NotSent(String),
    /// Its time was over, there too, and it was ended.
    Late,
    /// It may have run.
    Lost(String),
}

impl Node {
    pub(super) fn is_linked(&self, member: u64) -> bool {
        self.inner.peers.as_ref().is_some_and(|peers| peers.is_linked(member))
    }

    /// Hands a call to another member. Dropping it ends it there.
    pub(super) async fn run_there(
        &self,
        member: u64,
        call: &Call,
        deadline: Instant,
    ) -> Result<Report, Unheard> {
        let Some(peers) = self.inner.peers.clone() else {
            return Err(Unheard::NotSent("there is no other node".to_owned()));
        };
        let mut counted = Counted { side: Some("sent"), outcome: "cancelled" };
        let _sent = Sent::begin(self, member, &call.function);
        let within = deadline.saturating_duration_since(Instant::now());
        let asked = peers.invoke(member, Question::Run(call.clone()).encode(), within);
        let answered = tokio::select! {
            biased;
            answered = asked => answered,
            () = self.silent(member, &call.function) => {
                counted.outcome = "may-have-run";
                return Err(Unheard::Lost("the node is silent".to_owned()));
            }
        };
        let report = match answered {
            Ok(bytes) => Report::decode(&bytes),
            Err(error) => {
                let (outcome, unheard) = unheard(&error);
                counted.outcome = outcome;
                return Err(unheard);
            }
        };
        let Some(report) = report else {
            counted.outcome = "may-have-run";
            return Err(Unheard::Lost("its answer cannot be read".to_owned()));
        };
        counted.outcome = outcome_of(&report);
        let is_there = !matches!(report.outcome, Outcome::NotBegun(NotBegun::NotHere, _));
        let (revision, load) = (report.revision.clone(), report.load);
        let said = is_there.then_some(cluster::invoking::Said { revision, load });
        let news = [(call.function.clone(), said)];
        lock(&self.inner.calls.bulletin).on_news(Instant::now(), member, news);
        Ok(report)
    }

    /// Comes back when a member does not answer any more. Meanwhile it is asked again and again.
    async fn silent(&self, member: u64, function: &str) {
        loop {
            self.want(function);
            sleep(LOOK).await;
            if lock(&self.inner.calls.bulletin).is_silent(Instant::now(), member) {
                return;
            }
        }
    }

    /// Has members asked about a function from now on.
    fn want(&self, function: &str) {
        let calls = &self.inner.calls;
        let before = lock(&calls.wanted).insert(function.to_owned(), Instant::now());
        if before.is_none() {
            calls.wake.notify_one();
        }
    }

    /// Waits until each of these members has said of late how a function stands there, but not
    /// long.
    pub(super) async fn ask_for_news(&self, members: &BTreeSet<u64>, function: &str) {
        self.want(function);
        let now = Instant::now();
        let unknown: Vec<u64> = {
            let bulletin = lock(&self.inner.calls.bulletin);
            let is_unknown = |member: &u64| {
                !bulletin.is_fresh(now, *member, function) && !bulletin.is_silent(now, *member)
            };
            members.iter().copied().filter(is_unknown).collect()
        };
        if unknown.is_empty() {
            return;
        }
        // In tasks of their own: what comes later is heard too.
        let asked = unknown.into_iter().map(|member| {
            let (node, functions) = (self.clone(), vec![function.to_owned()]);
            tokio::spawn(async move { node.ask_news(member, functions).await })
        });
        drop(timeout(FIRST_NEWS, futures::future::join_all(asked)).await);
    }

    async fn ask_news(&self, member: u64, functions: Vec<String>) {
        let Some(peers) = &self.inner.peers else { return };
        let bulletin = || lock(&self.inner.calls.bulletin);
        bulletin().on_asked(Instant::now(), member);
        let question = Question::News(functions.clone()).encode();
        let answer = peers.invoke(member, question, NEWS_PATIENCE).await;
        let now = Instant::now();
        let none = || functions.into_iter().map(|it| (it, None));
        match answer {
            Ok(bytes) => match decode_news(&bytes) {
                Some(news) => bulletin().on_news(now, member, news),
                None => bulletin().on_news(now, member, none()),
            },
            // One of another version is there, and runs nothing for us.
            Err(CallError::Refused(_)) => bulletin().on_news(now, member, none()),
            Err(CallError::NotSent) => bulletin().on_not_asked(member),
            // Its silence stays on record until it answers.
            Err(_) => {}
        }
    }

    /// Asks the other members as long as somebody calls what may run there.
    pub(in crate::node) async fn follow_calls(self) {
        let over = self.inner.over.clone();
        let follow = async {
            loop {
                let wanted = self.wanted_functions();
                if wanted.is_empty() {
                    self.inner.calls.wake.notified().await;
                    continue;
                }
                self.ask_all(&wanted);
                sleep(NEWS_EVERY).await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = over.cancelled() => {}
        }
    }

    fn wanted_functions(&self) -> Vec<String> {
        let now = Instant::now();
        let mut wanted = lock(&self.inner.calls.wanted);
        wanted.retain(|_, at| now.saturating_duration_since(*at) < WANTED);
        wanted.keys().cloned().collect()
    }

    fn ask_all(&self, functions: &[String]) {
        let state = self.inner.cluster.state();
        let me = self.inner.cluster.me();
        let members = state.roster().members().iter();
        let others = members.filter(|(id, it)| **id != me && it.role != Role::Removed);
        let others: BTreeSet<u64> = others.map(|(id, _)| *id).collect();
        let calls = &self.inner.calls;
        lock(&calls.bulletin).retain(&others);
        for member in others {
            if !self.is_linked(member) || !lock(&calls.asking).insert(member) {
                continue;
            }
            let (node, functions) = (self.clone(), functions.to_vec());
            drop(tokio::spawn(async move {
                node.ask_news(member, functions).await;
                lock(&node.inner.calls.asking).remove(&member);
            }));
        }
    }

    /// Answers another member; `None` when it asks what cannot be understood. Dropped, it ends what
    /// it began.
    pub(in crate::node) async fn answer_call(
        self,
        deadline: Instant,
        payload: Bytes,
    ) -> Option<Bytes> {
        let call = match Question::decode(&payload)? {
            Question::News(functions) => {
                let said = |it: String| {
                    let said = self.inner.calls.callable(&it).map(|callable| callable.said());
                    (it, said)
                };
                return Some(encode_news(&functions.into_iter().map(said).collect()));
            }
            Question::Run(call) => call,
        };
        let _running = self.inner.calls.running.token();
        let mut counted = Counted { side: Some("served"), outcome: "cancelled" };
        let report = match self.inner.calls.callable(&call.function) {
            Some(callable) if *callable.revision == *call.revision => {
                self.run_here(&callable, &call, deadline).await
            }
            Some(callable) => callable.not_begun(NotBegun::NotHere, "another revision runs there"),
            None => Report {
                revision: String::new(),
                load: cluster::invoking::Load::default(),
                cold: false,
                queue_us: 0,
                run_us: 0,
                outcome: Outcome::NotBegun(NotBegun::NotHere, "it does not run there".to_owned()),
            },
        };
        counted.outcome = outcome_of(&report);
        Some(report.encode())
    }
}

/// What an exchange that failed says of the call.
fn unheard(error: &CallError) -> (&'static str, Unheard) {
    let why = error.to_string();
    match error {
        // None of these comes from the handler of a call.
        CallError::NotSent
        | CallError::UnknownNode(_)
        | CallError::TooLong(_)
        | CallError::Refused(_) => ("not-begun", Unheard::NotSent(why)),
        CallError::Deadline => ("late", Unheard::Late),
        _ => ("may-have-run", Unheard::Lost(why)),
    }
}

const fn outcome_of(report: &Report) -> &'static str {
    match report.outcome {
        Outcome::Answered(_) => "answered",
        Outcome::Failed { timed_out: true, .. } => "late",
        Outcome::Failed { .. } => "failed",
        Outcome::NotBegun(..) => "not-begun",
        Outcome::InDoubt(_) => "may-have-run",
    }
}

/// A call on its way to a member.
struct Sent<'a> {
    node: &'a Node,
    member: u64,
    function: &'a str,
}

impl<'a> Sent<'a> {
    fn begin(node: &'a Node, member: u64, function: &'a str) -> Self {
        lock(&node.inner.calls.bulletin).on_sent(member, function);
        Self { node, member, function }
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        lock(&self.node.inner.calls.bulletin).on_ended(self.member, self.function);
    }
}
