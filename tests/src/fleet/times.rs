//! When results were put out, by shard and epoch, and what that says of kills.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::Timestamp;
use serde_json::Value;

use crate::demand;
use crate::promise::{Figures, NotShown, broken};

/// The topic that it reads, and its partition.
type Shard = (String, u64);

/// What a look found, in milliseconds of the broker's time.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// By shard and epoch: its first result.
    began: BTreeMap<(Shard, u64), i64>,
    /// By shard: its newest result.
    newest: BTreeMap<Shard, i64>,
    /// By shard: the longest time between two results since the look before.
    silent: BTreeMap<Shard, i64>,
    /// By shard and epoch: its newest result that came after one of a higher epoch.
    stale: BTreeMap<(Shard, u64), i64>,
    /// How long a committed offset had gone back, at most.
    back_ms: u64,
}

impl Seen {
    /// Of what the judge said.
    ///
    /// # Errors
    ///
    /// When that is something else.
    pub(super) fn of(said: &Value) -> Result<Self, NotShown> {
        let mut seen = Self::default();
        let shard = |row: &Value| Some((row[0].as_str()?.to_owned(), row[1].as_u64()?));
        let of_epoch = |row: &Value| Some(((shard(row)?, row[2].as_u64()?), row[3].as_i64()?));
        let newest = |row: &Value| Some((shard(row)?, row[2].as_i64()?));
        let epochs = |name: &str| -> Result<BTreeMap<(Shard, u64), i64>, NotShown> {
            let rows = said[name].as_array().into_iter().flatten();
            let row = |row| of_epoch(row).ok_or_else(|| broken(format!("no epoch: {row}")));
            rows.map(row).collect()
        };
        (seen.began, seen.stale) = (epochs("began")?, epochs("stale")?);
        seen.back_ms = said["back_ms"].as_u64().unwrap_or_default();
        let times = |name: &str| -> Result<BTreeMap<Shard, i64>, NotShown> {
            let rows = said[name].as_array().into_iter().flatten();
            let row = |row| newest(row).ok_or_else(|| broken(format!("no result: {row}")));
            rows.map(row).collect()
        };
        (seen.newest, seen.silent) = (times("newest")?, times("silent")?);
        Ok(seen)
    }

    /// Counts the silences of an earlier look as this one's, too.
    pub(super) fn add_silence(&mut self, before: &Self) {
        for (shard, silent) in &before.silent {
            let longest = self.silent.entry(shard.clone()).or_default();
            *longest = (*longest).max(*silent);
        }
    }

    /// When a result of an epoch was taken after one of a higher epoch, by shard and epoch.
    pub(super) const fn stale(&self) -> &BTreeMap<(Shard, u64), i64> {
        &self.stale
    }

    /// How long a committed offset had gone back, at most.
    pub(super) const fn back_ms(&self) -> u64 {
        self.back_ms
    }

    /// How long each shard was silent at most, in milliseconds.
    pub(super) fn silent(&self) -> Vec<i64> {
        self.silent.values().copied().collect()
    }

    /// How many shards have put out something.
    pub(super) fn shards(&self) -> usize {
        self.newest.len()
    }

    /// The newest epoch of each shard.
    pub(super) fn epochs(&self) -> BTreeMap<&Shard, u64> {
        self.began.keys().map(|(shard, epoch)| (shard, *epoch)).collect()
    }

    /// Whether every shard has put out something since then: under a new epoch those that have
    /// one, well after it those that kept theirs, for what a dead node had sent may still arrive.
    pub(super) fn resumed_since(&self, at: Timestamp, before: &Self) -> bool {
        let late = at.0 + 300;
        let had = before.epochs();
        let mut has = self.epochs().into_iter();
        has.all(|(shard, epoch)| had.get(shard) != Some(&epoch) || late < self.newest[shard])
    }

    /// Of results of an old epoch, how long after the first one of a newer epoch the last was taken,
    /// in milliseconds; those that a look before has seen left out.
    pub(super) fn stale_for(&self, before: &Self) -> Vec<i64> {
        let fresh = self.stale.iter().filter(|(of, at)| before.stale.get(of) != Some(at));
        let lasted = fresh.filter_map(|((shard, epoch), at)| {
            let newer = self.began.iter().filter(|((of, it), _)| of == shard && epoch < it);
            Some(at - newer.map(|(_, began)| *began).min()?)
        });
        lasted.collect()
    }

    /// Those that have put out nothing since then.
    pub(super) fn silent_since(&self, at: Timestamp) -> Vec<&Shard> {
        let silent = self.newest.iter().filter(|(_, newest)| **newest <= at.0 + 300);
        silent.map(|(shard, _)| shard).collect()
    }
}

/// What the kills of a run have shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    /// From a kill to the first result of a shard's new owner, in milliseconds.
    silent_ms: Vec<i64>,
    /// From a leader's kill to a change of the replicated state, in milliseconds.
    write_ms: Vec<i64>,
}

impl Times {
    /// A kill is over; how many shards changed hands.
    pub(super) fn on_kill(&mut self, at: Timestamp, before: &Seen, after: &Seen) -> usize {
        let had = before.epochs();
        let of_new = after.began.iter().filter(|((shard, epoch), _)| had.get(shard) < Some(epoch));
        let mut first: BTreeMap<&Shard, i64> = BTreeMap::new();
        for ((shard, _), began) in of_new {
            first.entry(shard).or_insert(*began);
        }
        self.silent_ms.extend(first.values().map(|began| began - at.0));
        first.len()
    }

    /// A change was taken so long after a leader's kill.
    pub(super) fn on_write(&mut self, took: Duration) {
        self.write_ms.push(took.as_millis() as i64);
    }

    /// Whether the times are those that were promised; on a machine that is not asked for figures,
    /// the most that any user could put up with.
    ///
    /// # Errors
    ///
    /// Which is not.
    pub(super) fn judge(&self, is_strict: bool) -> Result<(), NotShown> {
        let factor = if is_strict { 1 } else { 3 };
        for (of, part, most) in [("50", 50, 1_500), ("90", 90, 3_000), ("100", 100, 5_000)] {
            let found = share(&self.silent_ms, part);
            demand!(found <= factor * most, "p{of} of a kill is {found} ms, {most} may be");
        }
        let write = share(&self.write_ms, 90);
        demand!(write <= factor * 2_000, "p90 to the next write is {write} ms, 2000 may be");
        Ok(())
    }

    /// Adds the times.
    pub(super) fn figures(&self, figures: Figures) -> Figures {
        figures
            .with("shards_moved", self.silent_ms.len())
            .with("silent_ms_p50", share(&self.silent_ms, 50))
            .with("silent_ms_p90", share(&self.silent_ms, 90))
            .with("silent_ms_max", share(&self.silent_ms, 100))
            .with("leader_kills", self.write_ms.len())
            .with("write_ms_p90", share(&self.write_ms, 90))
    }
}

/// The value that so many percent do not exceed.
pub(super) fn share(values: &[i64], percent: usize) -> i64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(began: &[(u64, u64, i64)], newest: &[(u64, i64)]) -> Seen {
        let shard = |partition: u64| ("in".to_owned(), partition);
        Seen {
            began: began.iter().map(|(p, epoch, at)| ((shard(*p), *epoch), *at)).collect(),
            newest: newest.iter().map(|(p, at)| (shard(*p), *at)).collect(),
            ..Seen::default()
        }
    }

    #[test]
    fn only_what_changed_hands_counts_from_the_kill_to_its_first_result() {
        let before = seen(&[(0, 1, 10), (1, 1, 10)], &[(0, 900), (1, 900)]);
        let at = Timestamp(1_000);
        let late = seen(&[(0, 1, 10), (1, 1, 10)], &[(0, 2_000), (1, 1_010)]);
        assert!(!late.resumed_since(at, &before), "what was on its way arrived after the kill");
        assert_eq!(late.silent_since(at), [&("in".to_owned(), 1)]);
        let after = seen(&[(0, 1, 10), (1, 1, 10), (1, 2, 1_700)], &[(0, 2_000), (1, 1_700)]);
        assert!(after.resumed_since(at, &before));
        let mut times = Times::default();
        assert_eq!(times.on_kill(at, &before, &after), 1);
        assert_eq!(times.silent_ms, [700]);
        assert!(times.judge(true).is_ok());
        times.silent_ms.push(5_100);
        assert!(times.judge(true).is_err() && times.judge(false).is_ok());
    }

    #[test]
    fn what_an_old_epoch_still_puts_out_is_counted_from_the_first_result_of_the_next() {
        let mut before = seen(&[(0, 1, 10), (0, 2, 500)], &[(0, 900)]);
        let shard = ("in".to_owned(), 0);
        before.stale = [((shard.clone(), 1), 600)].into();
        let mut after = seen(&[(0, 1, 10), (0, 2, 500), (0, 3, 1_000)], &[(0, 9_000)]);
        after.stale = [((shard.clone(), 1), 600), ((shard, 2), 1_700)].into();
        assert_eq!(after.stale_for(&before), [700]);
    }

    #[test]
    fn shares_are_values_that_were_there() {
        assert_eq!((share(&[], 50), share(&[3], 90)), (0, 3));
        let ten: Vec<i64> = (1..=10).collect();
        assert_eq!((share(&ten, 50), share(&ten, 90), share(&ten, 100)), (5, 9, 10));
    }
}
