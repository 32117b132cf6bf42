//! A pure core: where a worker stands in the Runtime API of one invocation at a time, and what it
//! may say next.
//!
//! ```text
//!   Started ──next──▶ Ready ──event──▶ Running ──response or error──▶ Answering ──whole──▶ Answered
//!      │                ▲                                                                    │
//!      └─init/error─▶ Failed                └───────────────────── next ─────────────────────┘
//! ```
//!
//! - **RA-1** an answer counts for the invocation that it names and that runs; once.
//! - **RA-2** an event is given out only while its invocation runs, and again to whoever asks again.
//! - **RA-3** a worker is free only while a question for the next event waits, or is on its way:
//!   for who takes batches an answer is one.

/// What is wrong with a call; the names are the Runtime API's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such invocation runs here.
    InvalidRequestId,
    /// It does, but this is not the time for that.
    InvalidStateTransition,
}

/// What a question for the next event leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Take the event of the running invocation.
    Take,
    /// There is none yet.
    Wait,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Started,
    Failed,
    /// It has asked before; whether it asks now says `asking`.
    Ready,
    /// An event was handed over before anybody asked for it.
    Handed(u64),
    Running(u64),
    Answering(u64),
    Answered(u64),
}

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub(crate) struct Core {
    phase: Phase,
    /// Questions for the next event that wait.
    asking: u32,
    /// Its answers are questions for the next event.
    asks_along: bool,
}

impl Core {
    /// Whether the worker takes batches, as its question says.
    pub(crate) fn on_taker_of_batches(&mut self, takes_batches: bool) {
        self.asks_along = takes_batches;
    }

    /// Whether it takes batches.
    pub(crate) fn takes_batches(&self) -> bool {
        self.asks_along
    }

    /// The worker asks for the next event. After `Wait`, ask again when something was handed over,
    /// and report [`on_gone`](Self::on_gone) if the worker does not wait that long.
    pub(crate) fn on_next(&mut self, asked_before: bool) -> Result<Next, Refusal> {
        let next = match self.phase {
            Phase::Failed | Phase::Answering(_) => Err(Refusal::InvalidStateTransition),
            Phase::Handed(id) => {
                self.phase = Phase::Running(id);
                Ok(Next::Take)
            }
            Phase::Running(_) => Ok(Next::Take),
            Phase::Started | Phase::Ready | Phase::Answered(_) => {
                self.phase = Phase::Ready;
                Ok(Next::Wait)
            }
        };
        match (next, asked_before) {
            (Ok(Next::Wait), false) => self.asking += 1,
            (Ok(Next::Wait), true) | (_, false) => {}
            (_, true) => self.on_gone(),
        }
        next
    }

    /// A question that waited is withdrawn.
    pub(crate) fn on_gone(&mut self) {
        self.asking = self.asking.saturating_sub(1);
    }

    /// An event for the worker, once it is free.
    pub(crate) fn on_event(&mut self, id: u64) {
        self.phase = Phase::Handed(id);
    }

    /// An answer begins to come in, for this invocation if the id is one at all.
    pub(crate) fn on_answer(&mut self, id: Option<u64>) -> Result<(), Refusal> {
        match (self.phase, id) {
            (Phase::Running(running), Some(id)) if running == id => {
                self.phase = Phase::Answering(id);
                Ok(())
            }
            (Phase::Answering(known) | Phase::Answered(known), Some(id)) if known == id => {
                Err(Refusal::InvalidStateTransition)
            }
            _ => Err(Refusal::InvalidRequestId),
        }
    }

    /// The answer is there, or has failed to come whole.
    pub(crate) fn on_answered(&mut self) {
        if let Phase::Answering(id) = self.phase {
            self.phase = Phase::Answered(id);
        }
    }

    /// The worker says that it cannot start.
    pub(crate) fn on_init_error(&mut self) -> Result<(), Refusal> {
        match self.phase {
            Phase::Started => {
                self.phase = Phase::Failed;
                Ok(())
            }
            _ => Err(Refusal::InvalidStateTransition),
        }
    }

    /// Whether it can take an event at once (RA-3).
    pub(crate) fn is_free(&self) -> bool {
        match self.phase {
            Phase::Ready => 0 < self.asking,
            Phase::Answered(_) => self.asks_along,
            _ => false,
        }
    }

    /// Whether the worker has taken the event that was handed over.
    pub(crate) fn has_taken(&self) -> bool {
        !matches!(self.phase, Phase::Handed(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(id: u64) -> Core {
        let mut core = Core::default();
        assert_eq!(core.on_next(false), Ok(Next::Wait));
        assert!(core.is_free());
        core.on_event(id);
        assert!(!core.has_taken() && !core.is_free());
        assert_eq!(core.on_next(true), Ok(Next::Take));
        core
    }

    #[test]
    fn an_answer_counts_once_and_only_for_what_runs() {
        let mut core = running(7);
        assert_eq!(core.on_answer(Some(6)), Err(Refusal::InvalidRequestId));
        assert_eq!(core.on_answer(None), Err(Refusal::InvalidRequestId));
        assert_eq!(core.on_answer(Some(7)), Ok(()));
        assert_eq!(core.on_answer(Some(7)), Err(Refusal::InvalidStateTransition));
        assert_eq!(core.on_next(false), Err(Refusal::InvalidStateTransition));
        core.on_answered();
        assert_eq!(core.on_answer(Some(7)), Err(Refusal::InvalidStateTransition));
        assert!(!core.is_free(), "free only at the next question");
        assert_eq!(core.on_next(false), Ok(Next::Wait));
        assert!(core.is_free());
        assert_eq!(core.on_answer(Some(7)), Err(Refusal::InvalidRequestId), "late");
    }

    #[test]
    fn who_takes_batches_has_asked_for_more_with_its_answer() {
        let mut core = running(7);
        core.on_taker_of_batches(true);
        assert_eq!(core.on_answer(Some(7)), Ok(()));
        assert!(!core.is_free(), "not while the answer comes in");
        core.on_answered();
        assert!(core.is_free());
        core.on_event(8);
        assert!(!core.is_free() && !core.has_taken());
        assert_eq!(core.on_next(false), Ok(Next::Take));
        assert!(core.has_taken());
    }

    #[test]
    fn the_same_event_again_for_who_asks_again() {
        let mut core = running(7);
        assert_eq!(core.on_next(false), Ok(Next::Take));
        assert_eq!(core.on_answer(Some(7)), Ok(()));
    }

    #[test]
    fn an_error_of_the_start_is_only_for_the_start() {
        let mut core = Core::default();
        assert_eq!(core.on_answer(Some(1)), Err(Refusal::InvalidRequestId));
        assert_eq!(core.on_init_error(), Ok(()));
        assert_eq!(core.on_init_error(), Err(Refusal::InvalidStateTransition));
        assert_eq!(core.on_next(false), Err(Refusal::InvalidStateTransition));
        assert_eq!(running(7).on_init_error(), Err(Refusal::InvalidStateTransition));
    }

    #[test]
    fn a_worker_that_does_not_wait_is_not_free() {
        let mut core = Core::default();
        assert_eq!(core.on_next(false), Ok(Next::Wait));
        assert_eq!(core.on_next(false), Ok(Next::Wait));
        core.on_gone();
        assert!(core.is_free(), "one still waits");
        core.on_gone();
        assert!(!core.is_free());
        assert_eq!(core.on_next(false), Ok(Next::Wait));
        core.on_event(1);
        assert_eq!(core.on_next(true), Ok(Next::Take));
        assert!(core.has_taken());
    }
}
