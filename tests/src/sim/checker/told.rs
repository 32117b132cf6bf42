//! What must hold of messages to destinations: DS-1 and DS-2 of node/dispatch, under the promises about
//! outputs.

use super::{Checker, Origin, PARK, Rec, TOLD, output_count};

impl Checker {
    /// A destination hears that a record has its end.
    pub(super) fn on_told(
        &mut self,
        topic: usize,
        partition: usize,
        rec: &Rec,
        origin: Origin,
    ) -> Result<(), String> {
        let Origin { trigger, partition: from, offset, epoch, .. } = origin;
        let thread = self.thread(trigger, rec, partition);
        let Some(source) = self.sources.get_mut(&(trigger, from, offset)) else {
            return Err(format!("DEL-4: {origin:?} does not exist"));
        };
        hold!(self, source.delivered, "DEL-4: a message about {origin:?}, which never ran");
        hold!(self, topic == TOLD + trigger && topic < PARK, "DEL-4: {origin:?} to {topic}");
        let is_it = (source.rec.key, source.rec.value) == (rec.key, rec.value);
        hold!(self, is_it, "DEL-4: a message about {origin:?} says {rec:?}");
        if self.kafka {
            source.told = true;
            return self.on_told_again(origin, epoch);
        }
        let all = (1_u32 << output_count(trigger, source.rec.value)) - 1;
        let ended = if rec.told == Some(true) {
            !source.dead && source.outputs == all
        } else {
            source.dead
        };
        hold!(self, ended, "DEL-4: a message about {origin:?} says {:?}", rec.told);
        let again = std::mem::replace(&mut source.told, true);
        hold!(self, !again, "DEL-2: a second message about {origin:?}");
        if let Some(thread) = thread {
            let last = self.last_told.entry((trigger, from, thread)).or_insert(-1);
            hold!(self, *last < offset, "DEL-6: a message about {origin:?} after {last}");
            if rec.told == Some(true) {
                *last = offset;
            }
        }
        Ok(())
    }
}
