//! A pure core: the circuit of a shard, which opens when too many attempts fail, and is tried by one
//! small batch after a pause.
//!
//! ```text
//!            failures over the threshold              pause over
//!   closed ─────────────────────────────▶ open ─────────────────────▶ half open
//!     ▲                                    ▲                              │ a probe starts
//!     │          the probe fails           │                              ▼
//!     │                                    └────────────────────────── probing
//!     └──────────────────── the probe ends well ──────────────────────────┘
//! ```
//!
//! - **CB-1** nothing starts while it is open, and one probe at a time until it is closed.
//! - **CB-2** it opens only when at least `attempts_min` attempts of the window say so.
//! - **CB-3** each pause is as long as the one before or longer, until the circuit was closed for a
//!   window.
//!
//! What it leaves out: attempts that were nobody's fault, records that were never run, and the halves
//! of a batch that is still being halved: one bad record is not a failing function.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::command::{InvocationId, Wait};
use crate::retry::{Share, backoff_bound};

/// Records of a probe at most.
pub(crate) const PROBE_RECORDS: usize = 5;
/// How it is shown, with a page of its own in `millrace explain`.
pub(crate) const CIRCUIT_OPEN: &str = "E0422";
/// Parts of a window that are counted apart.
const PARTS: u32 = 10;

/// When the circuit of a trigger opens, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitPolicy {
    /// It opens when so many of a hundred attempts failed, 1 to 100.
    pub failures_percent: u32,
    /// It never opens for fewer attempts than these.
    pub attempts_min: NonZeroU32,
    /// Attempts older than this count no more.
    pub window: Duration,
    /// The first pause; it doubles with each probe that fails.
    pub pause_min: Duration,
    /// The longest.
    pub pause_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open(Instant),
    HalfOpen,
    Probing(InvocationId),
}

/// Attempts of one part of the window.
#[derive(Clone, Copy, Debug)]
struct Part {
    started_at: Instant,
    ran: u64,
    failed: u64,
}

/// How records of an invocation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Records that were run, failed ones too.
    pub(crate) ran: u64,
    pub(crate) failed: u64,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Circuit {
    policy: Option<CircuitPolicy>,
    phase: Phase,
    parts: VecDeque<Part>,
    /// Pauses in a row.
    pauses: u32,
    closed_at: Option<Instant>,
    /// Why it opened.
    message: String,
}

impl Circuit {
    /// Without a policy it is always closed.
    pub(crate) const fn new(policy: Option<CircuitPolicy>) -> Self {
        Self {
            policy,
            phase: Phase::Closed,
            parts: VecDeque::new(),
            pauses: 0,
            closed_at: None,
            message: String::new(),
        }
    }

    /// Takes note of the time.
    pub(crate) fn ripen(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Open(until) if until <= now) {
            self.phase = Phase::HalfOpen;
        }
    }

    /// When [`ripen`](Self::ripen) has something to do.
    pub(crate) const fn next_due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open(until) => Some(until),
            _ => None,
        }
    }

    /// How many records the next invocation may have, of so many; none while none may start (CB-1).
    pub(crate) fn admits(&self, records: usize) -> usize {
        match self.phase {
            Phase::Closed => records,
            Phase::HalfOpen => records.min(PROBE_RECORDS),
            Phase::Open(_) | Phase::Probing(_) => 0,
        }
    }

    /// An invocation starts.
    pub(crate) fn on_started(&mut self, id: InvocationId) {
        if self.phase == Phase::HalfOpen {
            self.phase = Phase::Probing(id);
        }
    }

    /// An invocation ended that is charged to nobody: a probe has said nothing.
    pub(crate) fn on_void(&mut self, id: InvocationId) {
        if self.phase == Phase::Probing(id) {
            self.phase = Phase::HalfOpen;
        }
    }

    /// An invocation ended. `share` is drawn by the caller: a tenth of the pause is on top of it.
    pub(crate) fn on_ended(
        &mut self,
        now: Instant,
        id: InvocationId,
        ends: Ends,
        code: &str,
        share: Share,
    ) {
        let Some(policy) = self.policy.clone() else { return };
        let is_over = |ends: Ends| {
            0 < ends.failed && ends.ran * u64::from(policy.failures_percent) <= ends.failed * 100
        };
        match self.phase {
            // What started before it opened says nothing new.
            Phase::Open(_) | Phase::HalfOpen => {}
            Phase::Probing(probe) if probe != id => {}
            Phase::Probing(_) if is_over(ends) => self.open(now, &policy, share),
            Phase::Probing(_) if ends.ran == 0 => self.phase = Phase::HalfOpen,
            Phase::Probing(_) => {
                self.phase = Phase::Closed;
                self.closed_at = Some(now);
                self.parts.clear();
            }
            Phase::Closed => {
                let all = self.count(now, &policy, ends);
                // CB-2
                if u64::from(policy.attempts_min.get()) <= all.ran && is_over(all) {
                    let Ends { ran, failed } = all;
                    self.message = format!(
                        "the circuit is open: {failed} of {ran} attempts failed, the last with {code}"
                    );
                    // CB-3
                    let is_new = self.closed_at.is_none_or(|at| at + policy.window <= now);
                    self.pauses = if is_new { 0 } else { self.pauses };
                    self.open(now, &policy, share);
                }
            }
        }
    }

    fn open(&mut self, now: Instant, policy: &CircuitPolicy, share: Share) {
        self.pauses = self.pauses.saturating_add(1);
        let pause = backoff_bound(policy.pause_min, policy.pause_max, self.pauses);
        self.phase = Phase::Open(now + pause + share.of(pause / 10));
        self.parts.clear();
    }

    /// Adds to the window, and what it says.
    fn count(&mut self, now: Instant, policy: &CircuitPolicy, ends: Ends) -> Ends {
        while self.parts.front().is_some_and(|it| it.started_at + policy.window <= now) {
            self.parts.pop_front();
        }
        let part = policy.window / PARTS;
        match self.parts.back_mut().filter(|it| now < it.started_at + part) {
            Some(it) => {
                it.ran += ends.ran;
                it.failed += ends.failed;
            }
            None => {
                let Ends { ran, failed } = ends;
                self.parts.push_back(Part { started_at: now, ran, failed });
            }
        }
        let add =
            |all: Ends, it: &Part| Ends { ran: all.ran + it.ran, failed: all.failed + it.failed };
        self.parts.iter().fold(Ends::default(), add)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase != Phase::Closed
    }

    /// Why nothing runs, and until when, while it is not closed.
    pub(crate) fn wait(&self, now: Instant) -> Option<Wait> {
        let until = match self.phase {
            Phase::Closed => return None,
            Phase::Open(until) => until,
            Phase::HalfOpen | Phase::Probing(_) => now,
        };
        Some(Wait { code: CIRCUIT_OPEN.to_owned(), message: self.message.clone(), until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> CircuitPolicy {
        CircuitPolicy {
            failures_percent: 50,
            attempts_min: NonZeroU32::new(10).unwrap(),
            window: 30 * SECOND,
            pause_min: 5 * SECOND,
            pause_max: 60 * SECOND,
        }
    }

    /// Nothing on top.
    fn none() -> Share {
        Share::default()
    }

    fn end(circuit: &mut Circuit, now: Instant, id: u64, ran: u64, failed: u64) {
        circuit.on_ended(now, InvocationId(id), Ends { ran, failed }, "Test.No", none());
    }

    #[test]
    fn it_opens_for_a_share_of_enough_attempts_and_not_before() {
        let (mut circuit, now) = (Circuit::new(Some(policy())), Instant::now());
        end(&mut circuit, now, 0, 9, 9);
        assert_eq!(circuit.admits(100), 100, "CB-2");
        end(&mut circuit, now + 31 * SECOND, 1, 9, 9);
        assert_eq!(circuit.admits(100), 100, "the first nine are of another window");
        end(&mut circuit, now + 32 * SECOND, 2, 10, 0);
        assert!(!circuit.is_open(), "9 of 19");
        end(&mut circuit, now + 33 * SECOND, 3, 1, 1);
        assert_eq!(circuit.admits(100), 0, "10 of 20");
        let wait = circuit.wait(now).unwrap();
        assert_eq!((wait.code.as_str(), wait.until), (CIRCUIT_OPEN, now + 38 * SECOND));
        assert!(wait.message.contains("10 of 20 attempts failed, the last with Test.No"));
    }

    #[test]
    fn probes_follow_pauses_that_grow_until_one_ends_well() {
        let (mut circuit, mut now) = (Circuit::new(Some(policy())), Instant::now());
        end(&mut circuit, now, 0, 10, 10);
        for (id, seconds) in [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60)] {
            assert_eq!(circuit.next_due(), Some(now + seconds * SECOND), "CB-3");
            circuit.ripen(now + seconds * SECOND - Duration::from_millis(1));
            assert_eq!(circuit.admits(100), 0, "CB-1");
            now += seconds * SECOND;
            circuit.ripen(now);
            assert_eq!(circuit.admits(100), PROBE_RECORDS);
            circuit.on_started(InvocationId(id));
            assert_eq!(circuit.admits(100), 0, "CB-1: one probe");
            // What had started before, and is late.
            end(&mut circuit, now, 0, 50, 50);
            if id < 6 {
                end(&mut circuit, now, id, 5, 3);
            }
        }
        circuit.on_void(InvocationId(6));
        circuit.on_started(InvocationId(7));
        end(&mut circuit, now, 7, 5, 2);
        assert_eq!((circuit.is_open(), circuit.wait(now)), (false, None));
        // It opens again at once, and goes on where it was.
        end(&mut circuit, now + SECOND, 8, 10, 10);
        assert_eq!(circuit.next_due(), Some(now + 61 * SECOND), "CB-3");
        circuit.ripen(now + 61 * SECOND);
        circuit.on_started(InvocationId(9));
        end(&mut circuit, now + 61 * SECOND, 9, 1, 0);
        end(&mut circuit, now + 91 * SECOND, 10, 10, 10);
        assert_eq!(circuit.next_due(), Some(now + 96 * SECOND), "closed for a window");
    }

    #[test]
    fn without_a_policy_it_never_opens() {
        let (mut circuit, now) = (Circuit::new(None), Instant::now());
        end(&mut circuit, now, 0, 1_000, 1_000);
        assert_eq!((circuit.admits(7), circuit.next_due()), (7, None));
    }

    /// Against a list of all attempts: never open where no span of a window says so.
    #[test]
    fn any_sequence_opens_only_where_a_window_says_so() {
        for seed in 1..=200_u64 {
            let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut draw = |below: u64| {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                rng % below
            };
            let (mut circuit, mut now) = (Circuit::new(Some(policy())), Instant::now());
            let bad = draw(100);
            let mut all: Vec<(Instant, u64, u64)> = Vec::new();
            let mut next = 0;
            for _step in 0..300 {
                now += Duration::from_millis(draw(2_000));
                circuit.ripen(now);
                let was_closed = !circuit.is_open();
                let most = circuit.admits(20);
                if most == 0 {
                    continue;
                }
                circuit.on_started(InvocationId(next));
                let ran = 1 + draw(most as u64);
                let failed = (0..ran).filter(|_| draw(100) < bad).count() as u64;
                all.push((now, ran, failed));
                end(&mut circuit, now, next, ran, failed);
                next += 1;
                if was_closed && circuit.is_open() {
                    let from = all.iter().rposition(|it| it.0 + 30 * SECOND <= now);
                    let recent = &all[from.map_or(0, |at| at + 1)..];
                    let (ran, failed) =
                        recent.iter().fold((0, 0), |(a, b), it| (a + it.1, b + it.2));
                    assert!(10 <= ran && 0 < failed, "seed {seed}: CB-2, {failed} of {ran}");
                } else if !was_closed && !circuit.is_open() {
                    assert!(2 * failed < ran, "seed {seed}: {failed} of {ran} closed it");
                    all.clear();
                }
            }
        }
    }
}
