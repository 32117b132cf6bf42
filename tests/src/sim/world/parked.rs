//! What a shard finds in its park topic when it starts, and what it reads back of it later.

use bus::{BatchBuilder, Headers, Offset, Timestamp};
use dispatch::{Loaded, Resumed, Wanted};

use super::World;
use crate::sim::Bug;
use crate::sim::bus::Place;
use crate::sim::plan::{PARK, Parked};

/// What a shard begins with: what is parked, and what it does not count.
pub(super) type Beginning = (Vec<Resumed>, Vec<(u32, Offset)>);

impl World {
    /// The newest envelopes of a shard's records that its position says are settled.
    pub(super) fn beginning(&self, trigger: usize, partition: usize, place: &Place) -> Beginning {
        let (mut resumed, mut untold) = (Vec::new(), Vec::new());
        let parks = self.plan.triggers[trigger].dispatch.park.is_some();
        if !parks || self.bug == Some(Bug::ParkForgotten) {
            return (resumed, untold);
        }
        for (offset, (at, rec)) in self.bus.parked(PARK + trigger, partition) {
            let offset = Offset(offset);
            if !place.tells(offset.0) {
                untold.push((0, offset));
            } else if let Some(Parked::Envelope(attempts, due, ended)) = rec.park {
                let at = Wanted { partition: 0, offset, place: Offset(at) };
                let (key, bytes, due) = (rec.key.map(|key| vec![key]), 9, Timestamp(due));
                resumed.push(Resumed { at, key, bytes, attempts, due, ended });
            }
        }
        (resumed, untold)
    }

    /// Reads parked records back: all of them, or only the first ones.
    pub(super) fn load(&mut self, life: u64, wanted: &[Wanted]) -> Result<(), String> {
        let now = self.instant();
        let most = 1 + self.times.draw(wanted.len() as u64) as usize;
        let most = if self.times.draw(4) == 0 { most } else { wanted.len() };
        let Some(shell) = self.shells.get_mut(&life) else { return Ok(()) };
        let topic = PARK + shell.trigger;
        let mut loaded = Vec::new();
        for it in wanted.iter().take(most) {
            let rec = self.bus.envelope(topic, shell.partition, it.place.0, it.offset.0);
            let rec = rec.ok_or_else(|| format!("PK-1: {it:?} has no envelope"))?;
            let (key, value) = (rec.key.map(|key| [key]), rec.value.to_le_bytes());
            let key = key.as_ref().map(<[u8; 1]>::as_slice);
            let mut builder = BatchBuilder::default();
            builder.push(Timestamp(1_000), key, Some(&value), Headers::default());
            let batch = builder.finish().ok_or("a record was pushed")?.with_base(it.offset);
            loaded.push(Loaded { partition: 0, batch, failure: Default::default() });
        }
        shell.core.on_loaded(now, loaded);
        self.pump(life)
    }
}
