//! The worker pools of the nodes: one for each trigger on each node.

use std::rc::Rc;

use dispatch::Blame;
use runtime::slots::SlotId;

use super::{Event, World};
use crate::sim::handler::{Handler, whole};
use crate::sim::pool::{Pool, PoolAsks, Request};

impl World {
    /// The pools of a node that starts.
    pub(super) fn open_pools(&mut self, home: usize) -> Result<(), String> {
        let (node, now) = (self.node, self.instant());
        let first = home * self.plan.triggers.len();
        let slots: Vec<_> = self.plan.triggers.iter().map(|it| it.slots).collect();
        for (pool, slots) in (first..).zip(slots) {
            self.pools.insert(pool, Pool::new(slots, node, now));
            self.pump_pool(pool)?;
        }
        Ok(())
    }

    /// The pool of a trigger on this node, if it is still the same.
    pub(super) fn pool_of(&mut self, pool: usize, node: u64) -> Option<&mut Pool> {
        self.pools.get_mut(&pool).filter(|it| it.node == node)
    }

    pub(super) fn pump_pool(&mut self, pool: usize) -> Result<(), String> {
        let Some(it) = self.pools.get_mut(&pool) else { return Ok(()) };
        let node = it.node;
        for ask in it.follow()? {
            match ask {
                PoolAsks::Run { slot, request, cold } => self.run(pool, slot, request, cold),
                PoolAsks::Prepare(slot) => {
                    let started = self.healed || self.times.draw(10) != 0;
                    self.after(300, 3_000, Event::Prepared { pool, node, slot, started });
                }
                PoolAsks::Refuse(Request { life, id, given }) => {
                    let answer = whole(&given, Blame::Nobody, "Millrace.NoCapacity");
                    let answer = Rc::new(answer);
                    self.after(10, 50, Event::Answer { life, id, answer, place: None });
                }
            }
        }
        let due = self.pools[&pool].slots.next_timeout().map(|at| self.micros(at));
        let it = self.pools.get_mut(&pool).expect("it was just there");
        if let Some(due) = due
            && it.wake.is_none_or(|wake| due < wake)
        {
            it.wake = Some(due);
            self.at(due, Event::PoolWake(pool, node));
        }
        Ok(())
    }

    fn run(&mut self, pool: usize, slot: SlotId, request: Request, cold: bool) {
        let Request { life, id, given } = request;
        let trigger = pool % self.plan.triggers.len();
        let order = self.plan.triggers[trigger].dispatch.order;
        let (faults, stubborn) = (!self.healed, self.plan.stubborn);
        let handler = Handler { trigger, order, faults, stubborn };
        let begins = self.now + if cold { 200 + self.times.draw(2_000) } else { 0 };
        let mut place = Some((pool, self.pools[&pool].node, slot));
        for (after, answer) in handler.run(&mut self.handler, &given) {
            let (answer, place) = (Rc::new(answer), place.take());
            self.at(begins + after, Event::Answer { life, id, answer, place });
        }
    }
}
