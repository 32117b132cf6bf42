//! The simulated worker pool of one trigger: the real slots, and a check that they keep their word.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use dispatch::InvocationId;
use runtime::slots::{Command, RequestId, SlotId, Slots, SlotsConfig};

use super::handler::Given;

/// A batch that waits for an instance.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) life: u64,
    pub(super) id: InvocationId,
    pub(super) given: Vec<Given>,
}

/// What a pool asks of the world.
#[derive(Debug)]
pub(super) enum PoolAsks {
    Run { slot: SlotId, request: Request, cold: bool },
    Prepare(SlotId),
    Refuse(Request),
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) slots: Slots,
    /// A pool dies with its node: what belongs to an older one is nobody's.
    pub(super) node: u64,
    pub(super) wake: Option<u64>,
    max: usize,
    requests: BTreeMap<RequestId, Request>,
    next_request: u64,
    taken: BTreeSet<SlotId>,
    busy: BTreeSet<SlotId>,
}

impl Pool {
    pub(super) fn new(config: SlotsConfig, node: u64, now: Instant) -> Self {
        let mut slots = Slots::new(config);
        slots.on_timeout(now);
        Self {
            slots,
            node,
            wake: None,
            max: config.max.max(1) as usize,
            requests: BTreeMap::new(),
            next_request: 0,
            taken: BTreeSet::new(),
            busy: BTreeSet::new(),
        }
    }

    pub(super) fn request(&mut self, now: Instant, request: Request) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, request);
        self.slots.on_request(now, id);
    }

    pub(super) fn finished(&mut self, now: Instant, slot: SlotId, keep: bool) {
        self.busy.remove(&slot);
        self.slots.on_finished(now, slot, keep);
    }

    pub(super) fn prepared(&mut self, now: Instant, slot: SlotId, started: bool) {
        if !started {
            self.taken.remove(&slot);
        }
        self.slots.on_prepared(now, slot, started);
    }

    /// Carries out what the slots decided.
    pub(super) fn follow(&mut self) -> Result<Vec<PoolAsks>, String> {
        let mut asks = Vec::new();
        while let Some(command) = self.slots.poll_command() {
            match command {
                Command::Run { slot, request, cold } => {
                    if !self.busy.insert(slot) || cold != self.taken.insert(slot) {
                        return Err(format!("PS-2: {slot:?} runs two requests, or is none"));
                    }
                    let request = self.take(request)?;
                    asks.push(PoolAsks::Run { slot, request, cold });
                }
                Command::Prepare(slot) => {
                    self.taken.insert(slot);
                    asks.push(PoolAsks::Prepare(slot));
                }
                Command::Retire(slot) => {
                    self.taken.remove(&slot);
                }
                Command::Refuse(request) => asks.push(PoolAsks::Refuse(self.take(request)?)),
            }
            if self.max < self.taken.len() {
                return Err(format!("PS-1: {} slots taken", self.taken.len()));
            }
        }
        Ok(asks)
    }

    fn take(&mut self, id: RequestId) -> Result<Request, String> {
        self.requests.remove(&id).ok_or_else(|| format!("PS-4: {id:?} has its answer already"))
    }
}
