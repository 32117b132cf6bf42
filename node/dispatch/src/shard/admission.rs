//! A pure core: lets fetched records into the window.

use bus::{Offset, RecordBatch};

use super::{Backlog, Mode, ShardDispatch};
use crate::offset_tracker::Admission;

impl ShardDispatch {
    /// Lets records in as far as the window goes.
    pub(super) fn admit(&mut self) {
        if self.backlog.is_empty() || self.mode != Mode::Running {
            return;
        }
        for _batch in 0..self.backlog.len() {
            let mut batch = self.backlog.pop_front().expect("as many as there are");
            if !self.admit_batch(&mut batch) {
                self.backlog.push_back(batch);
            }
        }
    }

    /// Lets in what there is room for; `true` when that was all.
    fn admit_batch(&mut self, it: &mut Backlog) -> bool {
        let batch = self.records.batch(it.chunk).clone();
        let count = batch.len();
        let window = self.config.window.records.get();
        let (first, last) = (batch.first_offset().0, batch.last_offset().0);
        if last - first + 1 == count as i64 {
            loop {
                let from = Offset(first + i64::from(it.cursor));
                let room = window.saturating_sub(self.records.len()).min(self.room(it, from));
                let wanted = room.min(count - it.cursor as usize);
                let tracker = &mut self.trackers[usize::from(it.partition)];
                let Some(sequences) = tracker.track_run(from, wanted) else { break };
                let is_full = sequences.is_empty();
                for sequence in sequences {
                    self.admit_record(it, &batch, sequence);
                }
                // Unwanted records took no room: there may be more of it.
                if is_full || it.cursor as usize == count {
                    return it.cursor as usize == count;
                }
            }
        }
        while (it.cursor as usize) < count {
            if window <= self.records.len() {
                return false;
            }
            let offset = batch.get(it.cursor as usize).offset;
            if self.room(it, offset) == 0 {
                return false;
            }
            match self.trackers[usize::from(it.partition)].track(offset) {
                Admission::Run(sequence) => self.admit_record(it, &batch, sequence),
                Admission::Full => return false,
                Admission::Skip => {
                    self.counters.skipped += 1;
                    self.records.close_one(it.chunk);
                    it.cursor += 1;
                }
            }
        }
        true
    }

    #[inline]
    fn admit_record(&mut self, it: &mut Backlog, batch: &RecordBatch, sequence: u64) {
        self.counters.admitted += 1;
        if it.unwanted.as_ref().is_some_and(|unwanted| unwanted.contains(it.cursor)) {
            return self.pass(it, sequence);
        }
        let view = batch.get(it.cursor as usize);
        let part = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let bytes = part(view.key) + part(view.value) + view.headers.as_bytes().len();
        let bytes = u32::try_from(bytes).expect("a batch is below 4 GiB");
        let order = self.tokens.of(it.partition, view.key);
        let at = (it.chunk, it.cursor);
        let record = self.records.admit(at, (it.partition, sequence), order, bytes);
        it.cursor += 1;
        if self.suspicions.is_over() || self.is_innocent(it.partition, record, view.offset) {
            self.strands.push_back(&mut self.records, record);
        }
    }

    /// How many records may be let in from `offset` of a batch on.
    fn room(&mut self, it: &Backlog, offset: Offset) -> usize {
        if self.suspicions.is_over() {
            return usize::MAX;
        }
        self.suspicions.room(it.partition, offset)
    }
}
