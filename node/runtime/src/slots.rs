//! A pure core: decides which instance of a pool runs which request, when one is started ahead of
//! need, and when one has lived long enough.
//!
//! ```text
//!            Run (cold)                 on_finished(keep)
//!   (none) ────────────▶ busy ──────────────────────────▶ idle ──▶ Run (warm)
//!      │                  │ on_finished(lost)               │ idle expiry, age
//!      │ Prepare          ▼                                 ▼
//!      └──────▶ preparing ─▶ idle                         Retire
//! ```
//!
//! A **risky** request may take its instance with it: it is part of a batch that did. Risky ones
//! are given at most half of the slots, and a new instance where there is room, so that they leave
//! the warm ones to the others.
//!
//! A request that meets no idle instance does not always start one. Where the running ones usually
//! end sooner than a new one would be there, and nobody has said that more are
//! [wanted](Slots::on_wanted), it waits for one of them, at most for `patience`: two records that come
//! at once are no reason to keep two instances for the time of the idle expiry.
//!
//! Invariants, checked by the model test:
//!
//! - **PS-1** at most `max` slots are taken, whatever is asked for; where it was lowered, idle instances
//!   go at once and others when what they run ends.
//! - **PS-2** a slot runs one request at a time.
//! - **PS-3** requests start in the order they came, risky ones among themselves; none waits while an
//!   instance is idle that it may have, nor for longer than `patience` while a slot is free.
//! - **PS-4** every request is run once, or refused once.
//! - **PS-5** no instance runs more than `invocations_max` requests, or starts one at `age_max`.
//! - **PS-6** a request waits beside a free slot only while one runs, usual runs take at most a quarter
//!   of `patience`, and at least as many slots are taken as are wanted.
//! - **PS-7** an idle instance beyond `warm` goes when it has not been needed for the idle expiry. A
//!   run does not need it that came while as many ran as the load of the moment keeps busy, and could
//!   have waited for one of them: else records that meet by chance keep every instance that a burst
//!   has left.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The place of an instance. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u64);

/// A request for an instance. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a pool may hold.
#[derive(Clone, Copy, Debug)]
pub struct SlotsConfig {
    /// Instances kept ready while nothing happens.
    pub warm: u32,
    /// Instances at the same time; none start while it is 0.
    pub max: u32,
    /// Requests that may wait.
    pub queue_max: usize,
    /// How long an instance beyond `warm` waits for work.
    pub idle_expiry: Duration,
    /// Requests that an instance runs before it is replaced; at least 1.
    pub invocations_max: u64,
    /// How old an instance may be when it takes a request.
    pub age_max: Duration,
    /// How long a request waits for a running instance before it starts one; zero where a start costs
    /// next to nothing.
    pub patience: Duration,
}

/// Runs that are over before so manieth part of `patience` are short: more than one may be waited for.
const SHORT: u32 = 4;
/// How much of the usual time of a run is the newest one's.
const RUN_SHARE: f64 = 0.25;

/// What the shell must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run this request here, then report [`Slots::on_finished`]. A cold slot has no instance
    /// yet: start one first.
    Run {
        /// Where.
        slot: SlotId,
        /// What.
        request: RequestId,
        /// Whether an instance must be started.
        cold: bool,
    },
    /// Start an instance ahead of need, then report [`Slots::on_prepared`].
    Prepare(SlotId),
    /// End this instance.
    Retire(SlotId),
    /// No room: answer at once.
    Refuse(RequestId),
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Is being started ahead of need.
    Starting,
    /// Waits for work.
    Warm,
    /// Runs something, or starts to.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preparing,
    Idle { since: Instant },
    Busy,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    phase: Phase,
    started_at: Instant,
    invocations: u64,
    /// It runs a risky request.
    is_risky: bool,
    /// Since when its instance, which was there, runs what it runs.
    ran_from: Option<Instant>,
    /// Since when it was idle before a run that does not need it.
    unneeded: Option<Instant>,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Slots {
    config: SlotsConfig,
    slots: BTreeMap<SlotId, Slot>,
    /// Idle instances, the one needed last at the end: few instances stay hot, the others expire.
    idle: VecDeque<SlotId>,
    /// Requests, and since when each waits.
    waiting: VecDeque<(RequestId, Instant)>,
    /// The same of risky ones.
    risky: VecDeque<RequestId>,
    commands: VecDeque<Command>,
    next_slot: u64,
    draining: bool,
    /// Instances that there is work for, as whoever knows the queues says.
    wanted: u32,
    /// The same for what comes just now, without what came shortly before.
    needed: u32,
    /// How long a run takes in an instance that is there, once one has.
    usual_run: Option<Duration>,
    /// Preparing failed: wait for a request before trying again.
    prepare: bool,
}

impl Slots {
    /// An empty pool. Call [`on_timeout`](Self::on_timeout) to have the warm ones prepared.
    #[must_use]
    pub fn new(config: SlotsConfig) -> Self {
        let config = SlotsConfig {
            warm: config.warm.min(config.max),
            invocations_max: config.invocations_max.max(1),
            ..config
        };
        Self {
            config,
            slots: BTreeMap::new(),
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            risky: VecDeque::new(),
            commands: VecDeque::new(),
            next_slot: 0,
            draining: false,
            wanted: 0,
            needed: 0,
            usual_run: None,
            prepare: true,
        }
    }

    /// A request for an instance.
    pub fn on_request(&mut self, now: Instant, request: RequestId) {
        if self.has_room(request) {
            self.waiting.push_back((request, now));
            self.settle(now);
        }
    }

    /// There is work for so many instances: up to that many are started for what waits. What comes just
    /// now keeps `needed` of them busy.
    pub fn on_wanted(&mut self, now: Instant, wanted: u32, needed: u32) {
        (self.wanted, self.needed) = (wanted, needed);
        self.settle(now);
    }

    /// From now on it keeps so many ready, and may have so many.
    pub fn on_limits(&mut self, now: Instant, warm: u32, max: u32) {
        (self.config.warm, self.config.max) = (warm.min(max), max);
        while (max as usize) < self.slots.len() {
            let Some(slot) = self.idle.front().copied() else { break };
            self.retire_idle(slot);
        }
        self.settle(now);
    }

    /// The most that it may have.
    pub const fn max(&self) -> u32 {
        self.config.max
    }

    /// One that may take its instance with it.
    pub fn on_risky(&mut self, now: Instant, request: RequestId) {
        if self.has_room(request) {
            self.risky.push_back(request);
            self.settle(now);
        }
    }

    /// Whether a request may wait; otherwise it is refused.
    fn has_room(&mut self, request: RequestId) -> bool {
        self.prepare = true;
        let waiting = self.waiting.len() + self.risky.len();
        let is_full = self.draining || waiting >= self.config.queue_max.max(1);
        if is_full {
            self.commands.push_back(Command::Refuse(request));
        }
        !is_full
    }

    /// Somebody wants to know whether an instance can be started: its slot, to be reported with
    /// [`on_prepared`](Self::on_prepared) like a warm one's. `None` when there is no room, because
    /// so many run already.
    pub fn on_try(&mut self, now: Instant) -> Option<SlotId> {
        let room = !self.draining && self.slots.len() < self.config.max as usize;
        room.then(|| self.take_slot(now, Phase::Preparing))
    }

    /// Whoever asked has gone. Does nothing once the request runs.
    pub fn on_cancelled(&mut self, request: RequestId) {
        self.waiting.retain(|(it, _)| *it != request);
        self.risky.retain(|it| *it != request);
    }

    /// An instance that was prepared is ready, or could not be started.
    pub fn on_prepared(&mut self, now: Instant, slot: SlotId, started: bool) {
        let Some(it) = self.slots.get_mut(&slot).filter(|it| it.phase == Phase::Preparing) else {
            return;
        };
        if started {
            it.phase = Phase::Idle { since: now };
            it.started_at = now;
            self.idle.push_front(slot);
            if (self.config.max as usize) < self.slots.len() {
                self.retire_idle(slot);
            }
        } else {
            self.slots.remove(&slot);
            self.prepare = false;
        }
        self.settle(now);
    }

    /// A request ended. `keep` says whether its instance can run another; the shell keeps it
    /// until it hears `Retire` or `Run`.
    pub fn on_finished(&mut self, now: Instant, slot: SlotId, keep: bool) {
        let Some(it) = self.slots.get_mut(&slot).filter(|it| it.phase == Phase::Busy) else {
            return;
        };
        it.invocations += 1;
        if let Some(from) = it.ran_from.take() {
            let run = now.saturating_duration_since(from);
            let usual = self.usual_run.unwrap_or(run);
            self.usual_run = Some(usual.mul_f64(1.0 - RUN_SHARE) + run.mul_f64(RUN_SHARE));
        }
        let spent = self.config.invocations_max <= it.invocations;
        let is_over = (self.config.max as usize) < self.slots.len();
        if keep && !spent && !is_over && !self.draining {
            let it = self.slots.get_mut(&slot).expect("it was looked at");
            let since = it.unneeded.take().unwrap_or(now);
            (it.phase, it.is_risky) = (Phase::Idle { since }, false);
            // Where it was: were one that has just been needed put behind the others by a run that does
            // not need it, the next run would need another, and in the end all would stay.
            let earlier = |it: &SlotId| {
                let Phase::Idle { since: its } = self.slots[it].phase else { return false };
                its <= since
            };
            let at = self.idle.iter().rposition(earlier).map_or(0, |at| at + 1);
            self.idle.insert(at, slot);
        } else {
            self.slots.remove(&slot);
            self.commands.push_back(Command::Retire(slot));
        }
        self.settle(now);
    }

    /// Time has passed: expires idle instances and prepares warm ones. Early calls do nothing.
    pub fn on_timeout(&mut self, now: Instant) {
        let mut surplus = self.idle.len().saturating_sub(self.config.warm as usize);
        let config = self.config;
        let slots = &self.slots;
        let expired: Vec<SlotId> = self
            .idle
            .iter()
            .copied()
            .filter(|slot| {
                let it = &slots[slot];
                let Phase::Idle { since } = it.phase else { return false };
                let old = config.age_max <= now.saturating_duration_since(it.started_at);
                let idle = 0 < surplus && since + config.idle_expiry <= now;
                if old || idle {
                    surplus = surplus.saturating_sub(1);
                }
                old || idle
            })
            .collect();
        for slot in expired {
            self.retire_idle(slot);
        }
        self.settle(now);
    }

    /// Takes no more requests, refuses those that wait, and retires what is idle.
    pub fn on_drain(&mut self, now: Instant) {
        self.draining = true;
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|(it, _)| it);
        for request in waiting.chain(std::mem::take(&mut self.risky)) {
            self.commands.push_back(Command::Refuse(request));
        }
        for slot in std::mem::take(&mut self.idle) {
            self.slots.remove(&slot);
            self.commands.push_back(Command::Retire(slot));
        }
        self.settle(now);
    }

    /// What to do next, in order. Ask after every input.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`on_timeout`](Self::on_timeout) has something to do next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let beyond_warm = self.idle.len() > self.config.warm as usize;
        self.idle
            .iter()
            .filter_map(|slot| {
                let it = &self.slots[slot];
                let Phase::Idle { since } = it.phase else { return None };
                let old_at = it.started_at.checked_add(self.config.age_max);
                let idle_at = beyond_warm.then(|| since + self.config.idle_expiry);
                [old_at, idle_at].into_iter().flatten().min()
            })
            .min()
    }

    /// Idle and busy instances, and waiting requests.
    #[must_use]
    pub fn counts(&self) -> (u32, u32, u32) {
        let busy = self.slots.values().filter(|it| it.phase == Phase::Busy).count();
        let waiting = self.waiting.len() + self.risky.len();
        (self.idle.len() as u32, busy as u32, waiting as u32)
    }

    /// Every slot that is taken, the oldest first: its state, since when it has its instance, and
    /// how many requests ended there.
    pub fn taken(&self) -> impl Iterator<Item = (SlotId, InstanceState, Instant, u64)> {
        self.slots.iter().map(|(id, it)| {
            let state = match it.phase {
                Phase::Preparing => InstanceState::Starting,
                Phase::Idle { .. } => InstanceState::Warm,
                Phase::Busy => InstanceState::Busy,
            };
            (*id, state, it.started_at, it.invocations)
        })
    }

    /// Whether nothing runs or is being started.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.slots.len() == self.idle.len()
    }

    fn retire_idle(&mut self, slot: SlotId) {
        self.idle.retain(|it| *it != slot);
        self.slots.remove(&slot);
        self.commands.push_back(Command::Retire(slot));
    }

    /// Gives waiting requests what is free, then prepares what should be warm.
    fn settle(&mut self, now: Instant) {
        while self.start(now) {}
        let mut ready = self.slots.values().filter(|it| it.phase != Phase::Busy).count();
        while self.prepare
            && !self.draining
            && ready < self.config.warm as usize
            && self.slots.len() < self.config.max as usize
        {
            let slot = self.take_slot(now, Phase::Preparing);
            self.commands.push_back(Command::Prepare(slot));
            ready += 1;
        }
    }

    /// Gives the request that came first of those that may have a slot one that is free.
    fn start(&mut self, now: Instant) -> bool {
        let risky = self.risky.front().copied().filter(|_| self.may_start_risky());
        let mut is_risky = match (self.waiting.front(), risky) {
            (Some((first, _)), Some(risky)) => risky < *first,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (None, None) => return false,
        };
        let mut found = if is_risky { self.own_slot(now) } else { self.free_slot(now) };
        if found.is_none() && risky.is_some() {
            // The other waits for an instance that runs, which a risky one does not do.
            (is_risky, found) = (true, self.own_slot(now));
        }
        let Some((slot, cold)) = found else { return false };
        let request = if is_risky {
            self.risky.pop_front()
        } else {
            self.waiting.pop_front().map(|(request, _)| request)
        };
        let request = request.expect("it was looked at");
        let it = self.slots.get_mut(&slot).expect("it was taken");
        (it.is_risky, it.ran_from) = (is_risky, (!cold).then_some(now));
        self.commands.push_back(Command::Run { slot, request, cold });
        true
    }

    fn may_start_risky(&self) -> bool {
        let running = self.slots.values().filter(|it| it.is_risky).count();
        running < (self.config.max as usize / 2).max(1)
    }

    /// For the request that has waited longest, unless it had better wait.
    fn free_slot(&mut self, now: Instant) -> Option<(SlotId, bool)> {
        if let Some(slot) = self.idle_slot(now) {
            return Some((slot, false));
        }
        if self.had_better_wait(now) { None } else { self.new_slot(now) }
    }

    /// Whether a running instance is likely to be there before a new one, and is enough.
    fn had_better_wait(&self, now: Instant) -> bool {
        let SlotsConfig { patience, .. } = self.config;
        let Some((_, since)) = self.waiting.front() else { return false };
        0 < self.running()
            && self.wanted <= self.slots.len() as u32
            && self.is_short()
            && now.saturating_duration_since(*since) < patience
    }

    /// Slots that run what is not risky.
    fn running(&self) -> usize {
        self.slots.values().filter(|it| it.phase == Phase::Busy && !it.is_risky).count()
    }

    /// Whether usual runs are short enough to be waited for.
    fn is_short(&self) -> bool {
        self.usual_run.is_some_and(|it| SHORT * it <= self.config.patience)
    }

    /// One that others miss least.
    fn own_slot(&mut self, now: Instant) -> Option<(SlotId, bool)> {
        // An idle one that is too old makes room for a new one.
        let found = self.new_slot(now).or_else(|| self.idle_slot(now).map(|slot| (slot, false)));
        found.or_else(|| self.new_slot(now))
    }

    fn idle_slot(&mut self, now: Instant) -> Option<SlotId> {
        let needed = self.running() < self.needed.max(1) as usize || !self.is_short();
        while let Some(slot) = self.idle.pop_back() {
            let it = self.slots.get_mut(&slot).expect("an idle slot is taken");
            if now.saturating_duration_since(it.started_at) < self.config.age_max {
                if let Phase::Idle { since } = it.phase {
                    it.unneeded = (!needed).then_some(since);
                }
                it.phase = Phase::Busy;
                return Some(slot);
            }
            self.retire_idle(slot);
        }
        None
    }

    fn new_slot(&mut self, now: Instant) -> Option<(SlotId, bool)> {
        let room = self.slots.len() < self.config.max as usize;
        room.then(|| (self.take_slot(now, Phase::Busy), true))
    }

    fn take_slot(&mut self, now: Instant, phase: Phase) -> SlotId {
        let slot = SlotId(self.next_slot);
        self.next_slot += 1;
        let taken = Slot {
            phase,
            started_at: now,
            invocations: 0,
            is_risky: false,
            ran_from: None,
            unneeded: None,
        };
        self.slots.insert(slot, taken);
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const CONFIG: SlotsConfig = SlotsConfig {
        warm: 0,
        max: 2,
        queue_max: 2,
        idle_expiry: Duration::from_secs(10),
        invocations_max: 3,
        age_max: Duration::from_secs(60),
        patience: Duration::ZERO,
    };

    fn drain(slots: &mut Slots) -> Vec<Command> {
        std::iter::from_fn(|| slots.poll_command()).collect()
    }

    fn run(slot: u64, request: u64, cold: bool) -> Command {
        Command::Run { slot: SlotId(slot), request: RequestId(request), cold }
    }

    #[test]
    fn requests_share_slots_in_the_order_they_came() {
        let now = Instant::now();
        let mut slots = Slots::new(CONFIG);
        (0..5).for_each(|request| slots.on_request(now, RequestId(request)));
        let refused = Command::Refuse(RequestId(4));
        assert_eq!(drain(&mut slots), [run(0, 0, true), run(1, 1, true), refused]);
        slots.on_finished(now, SlotId(1), true);
        assert_eq!(drain(&mut slots), [run(1, 2, false)]);
        slots.on_finished(now, SlotId(0), false);
        assert_eq!(drain(&mut slots), [Command::Retire(SlotId(0)), run(2, 3, true)]);
    }

    #[test]
    fn risky_requests_leave_half_of_the_slots_and_the_warm_ones_to_the_others() {
        let now = Instant::now();
        let mut slots = Slots::new(SlotsConfig { max: 4, queue_max: 9, ..CONFIG });
        slots.on_request(now, RequestId(0));
        slots.on_finished(now, SlotId(0), true);
        assert_eq!(drain(&mut slots), [run(0, 0, true)]);
        (1..4).for_each(|request| slots.on_risky(now, RequestId(request)));
        assert_eq!(drain(&mut slots), [run(1, 1, true), run(2, 2, true)], "two of four");
        slots.on_request(now, RequestId(4));
        assert_eq!(drain(&mut slots), [run(0, 4, false)], "the warm one was left alone");
        slots.on_request(now, RequestId(5));
        assert_eq!(drain(&mut slots), [run(3, 5, true)]);
        slots.on_finished(now, SlotId(0), true);
        assert_eq!(drain(&mut slots), [], "the third risky one waits for one of the two");
        slots.on_finished(now, SlotId(1), false);
        assert_eq!(drain(&mut slots), [Command::Retire(SlotId(1)), run(4, 3, true)]);
    }

    #[test]
    fn idle_instances_expire_but_the_warm_ones() {
        let now = Instant::now();
        let mut slots = Slots::new(SlotsConfig { warm: 1, ..CONFIG });
        slots.on_timeout(now);
        assert_eq!(drain(&mut slots), [Command::Prepare(SlotId(0))]);
        slots.on_prepared(now, SlotId(0), true);
        slots.on_request(now, RequestId(0));
        assert_eq!(drain(&mut slots), [run(0, 0, false), Command::Prepare(SlotId(1))]);
        slots.on_prepared(now, SlotId(1), true);
        slots.on_finished(now, SlotId(0), true);
        assert_eq!(slots.next_timeout(), Some(now + CONFIG.idle_expiry));
        slots.on_timeout(now + CONFIG.idle_expiry);
        assert_eq!(drain(&mut slots).len(), 1, "one stays warm");
        assert_eq!(slots.counts(), (1, 0, 0));
    }

    #[test]
    fn a_short_wait_starts_no_instance_that_nobody_wants() {
        let (mut now, ms) = (Instant::now(), Duration::from_millis);
        let config = SlotsConfig { patience: ms(50), max: 4, queue_max: 9, ..CONFIG };
        let mut slots = Slots::new(SlotsConfig { invocations_max: 100, ..config });
        slots.on_request(now, RequestId(0));
        slots.on_request(now, RequestId(1));
        assert_eq!(drain(&mut slots), [run(0, 0, true), run(1, 1, true)], "nothing is known yet");
        slots.on_finished(now, SlotId(0), true);
        slots.on_finished(now, SlotId(1), false);
        slots.on_request(now, RequestId(2));
        now += ms(10);
        slots.on_finished(now, SlotId(0), true);
        slots.on_request(now, RequestId(3));
        slots.on_request(now, RequestId(4));
        let seen = [Command::Retire(SlotId(1)), run(0, 2, false), run(0, 3, false)];
        assert_eq!(drain(&mut slots), seen, "the other waits for the one that runs");
        slots.on_timeout(now + ms(49));
        assert_eq!(drain(&mut slots), [], "PS-6");
        slots.on_timeout(now + ms(50));
        assert_eq!(drain(&mut slots), [run(2, 4, true)], "PS-3: not for longer");
        slots.on_request(now, RequestId(5));
        slots.on_request(now, RequestId(6));
        assert_eq!(drain(&mut slots), []);
        slots.on_wanted(now, 3, 1);
        assert_eq!(drain(&mut slots), [run(3, 5, true)], "so many are wanted, and no more");
        now += ms(400);
        slots.on_finished(now, SlotId(0), true);
        assert_eq!(drain(&mut slots), [run(0, 6, false)]);
        slots.on_request(now, RequestId(7));
        assert_eq!(drain(&mut slots), [run(4, 7, true)], "one that runs takes long");
    }

    /// PS-7: records meet every now and then, for longer than the idle expiry.
    #[test]
    fn what_meets_by_chance_keeps_one_instance_of_many() {
        let mut now = Instant::now();
        let patience = Duration::from_secs(1);
        let config =
            SlotsConfig { max: 8, queue_max: 9, invocations_max: 1_000, patience, ..CONFIG };
        let mut slots = Slots::new(config);
        (0..8).for_each(|request| slots.on_request(now, RequestId(request)));
        (0..8).for_each(|slot| slots.on_finished(now, SlotId(slot), true));
        drop(drain(&mut slots));
        let mut running = VecDeque::new();
        let collect = |slots: &mut Slots, running: &mut VecDeque<SlotId>| {
            let started = |command| match command {
                Command::Run { slot, .. } => Some(slot),
                _ => None,
            };
            running.extend(drain(slots).into_iter().filter_map(started));
        };
        for step in 0..50 {
            // Two meet, and a third comes when the one of them that came first has ended.
            slots.on_request(now, RequestId(8 + 3 * step));
            slots.on_request(now, RequestId(9 + 3 * step));
            collect(&mut slots, &mut running);
            for end in 0..3 {
                now += Duration::from_millis(1);
                if let Some(slot) = running.pop_front() {
                    slots.on_finished(now, slot, true);
                }
                if end == 0 {
                    slots.on_request(now, RequestId(10 + 3 * step));
                }
                collect(&mut slots, &mut running);
            }
            now += Duration::from_millis(300);
            slots.on_timeout(now);
            drop(drain(&mut slots));
        }
        assert_eq!(slots.slots.len(), 1);
    }

    /// PS-1 to PS-6 at every step of seeded sequences.
    #[test]
    fn any_sequence_keeps_the_invariants() {
        for seed in 1..=300_u64 {
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut draw = |below: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                rng % below
            };
            let mut now = Instant::now();
            let patience = Duration::from_millis([0, 2_000, 20_000][draw(3) as usize]);
            let (warm, max) = (draw(3) as u32, 1 + draw(4) as u32);
            let mut config = SlotsConfig { warm, max, patience, ..CONFIG };
            let (mut over, mut risky_over) = (0, 0);
            let (mut since, mut wanted, mut few) = (BTreeMap::new(), 0, 0);
            let mut slots = Slots::new(config);
            let mut busy: BTreeMap<SlotId, u64> = BTreeMap::new();
            let mut preparing = Vec::new();
            let mut born: BTreeMap<SlotId, Instant> = BTreeMap::new();
            let mut runs: BTreeMap<SlotId, u64> = BTreeMap::new();
            let (mut needed, mut unneeded) = (BTreeMap::new(), BTreeSet::new());
            let (mut asked, mut ended, mut last) = (0, 0, [None; 2]);
            let mut risky = BTreeSet::new();
            for _step in 0..200 {
                match draw(9) {
                    8 if draw(4) == 0 => {
                        (config.warm, config.max) = (draw(3) as u32, draw(5) as u32);
                        config.warm = config.warm.min(config.max);
                        slots.on_limits(now, config.warm, config.max);
                    }
                    7 => {
                        wanted = draw(5) as u32;
                        few = draw(u64::from(wanted) + 1) as u32;
                        slots.on_wanted(now, wanted, few);
                    }
                    6 => {
                        if let Some(slot) = slots.on_try(now) {
                            born.insert(slot, now);
                            preparing.push(slot);
                        }
                    }
                    0 | 1 if draw(3) == 0 => {
                        risky.insert(RequestId(asked));
                        slots.on_risky(now, RequestId(asked));
                        asked += 1;
                    }
                    0 | 1 => {
                        since.insert(RequestId(asked), now);
                        slots.on_request(now, RequestId(asked));
                        asked += 1;
                    }
                    2 if !busy.is_empty() => {
                        let slot = *busy.keys().nth(draw(busy.len() as u64) as usize).unwrap();
                        busy.remove(&slot);
                        if !unneeded.remove(&slot) {
                            needed.insert(slot, now);
                        }
                        slots.on_finished(now, slot, draw(4) != 0);
                    }
                    3 if !preparing.is_empty() => {
                        let slot = preparing.swap_remove(0);
                        born.insert(slot, now);
                        needed.insert(slot, now);
                        slots.on_prepared(now, slot, draw(4) != 0);
                    }
                    4 => {}
                    _ => now += Duration::from_millis(draw(8_000)),
                }
                // It is told of the time before anybody looks.
                slots.on_timeout(now);
                for command in drain(&mut slots) {
                    match command {
                        Command::Run { slot, request, cold } => {
                            let usual = |id| !risky.contains(&RequestId(id));
                            let beside = busy.values().filter(|id| usual(**id)).count();
                            let is_short = slots.usual_run.is_some_and(|it| SHORT * it <= patience);
                            if !cold && is_short && few.max(1) as usize <= beside {
                                unneeded.insert(slot);
                            }
                            assert!(busy.insert(slot, request.0).is_none(), "seed {seed}: PS-2");
                            let last = &mut last[usize::from(risky.contains(&request))];
                            assert!(*last < Some(request), "seed {seed}: PS-3, PS-4");
                            *last = Some(request);
                            ended += 1;
                            if cold {
                                born.insert(slot, now);
                            }
                            let age = now.saturating_duration_since(born[&slot]);
                            assert!(cold || age < config.age_max, "seed {seed}: PS-5, age");
                            let runs = runs.entry(slot).or_default();
                            *runs += 1;
                            assert!(*runs <= config.invocations_max, "seed {seed}: PS-5");
                        }
                        Command::Prepare(slot) => {
                            born.insert(slot, now);
                            preparing.push(slot);
                        }
                        Command::Retire(slot) => assert!(!busy.contains_key(&slot)),
                        Command::Refuse(_) => ended += 1,
                    }
                }
                let taken = slots.slots.len();
                let allowed = taken <= config.max as usize;
                assert!(allowed || taken <= over && slots.idle.is_empty(), "seed {seed}: PS-1");
                over = taken;
                let of_risky = |it: &&u64| risky.contains(&RequestId(**it));
                let running = busy.values().filter(of_risky).count();
                let most = (config.max as usize / 2).max(1);
                assert!(running <= most.max(risky_over), "seed {seed}: too many risky ones");
                risky_over = running;
                let idle_since = |slot: &SlotId| now.saturating_duration_since(needed[slot]);
                let has_gone = |slot: &SlotId| config.idle_expiry <= idle_since(slot);
                let is_few = slots.idle.len() <= config.warm as usize;
                assert!(is_few || !slots.idle.iter().any(has_gone), "seed {seed}: PS-7");
                let has_free = !slots.idle.is_empty() || taken < config.max as usize;
                if let Some((first, _)) = slots.waiting.front().filter(|_| has_free) {
                    let waited = now.saturating_duration_since(since[first]);
                    assert!(waited < patience && slots.idle.is_empty(), "seed {seed}: PS-3");
                    let usual = slots.usual_run.expect("PS-6: one has ended");
                    assert!(!busy.is_empty() && SHORT * usual <= patience, "seed {seed}: PS-6");
                    assert!(wanted as usize <= taken, "seed {seed}: PS-6");
                }
                let may_run = has_free && running < most;
                assert!(slots.risky.is_empty() || !may_run, "seed {seed}: PS-3");
                let waiting = slots.waiting.len() + slots.risky.len();
                assert_eq!(asked, ended + waiting as u64, "seed {seed}: PS-4");
            }
        }
    }
}
