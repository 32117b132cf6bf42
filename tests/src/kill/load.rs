//! The load of a node on its own bus: numbered records in order, sent over the control API at a
//! pace, so that after a kill it is known which arrived. Goes on after a lost connection without
//! sending anything twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::api::{Api, ToProduce};
use crate::harness::wait;
use crate::kill::app::KEYS;
use crate::promise::{NotShown, broken};

/// Records of one request: one append of the journal, whole or not there.
const BATCH: u64 = 500;

/// What was sent, and what the node said to it.
#[derive(Debug)]
pub(crate) struct Load {
    records: u64,
    state: Mutex<Sent>,
    /// Records a second; 0 = as fast as the node takes them.
    rate: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Sent {
    /// The first number that was never sent.
    next: u64,
    /// Sent, not acknowledged and not there: these go first, in order.
    again: Vec<u64>,
    /// By number.
    acknowledged: Vec<bool>,
    /// By number.
    arrived: Vec<bool>,
}

/// The key of a record.
#[must_use]
pub(crate) fn key(number: u64) -> Vec<u8> {
    format!("key-{:05}", number % KEYS).into_bytes()
}

/// How long each value is.
pub(crate) const VALUE_BYTES: usize = 107;

/// The value of a record: JSON of [`VALUE_BYTES`].
#[must_use]
pub(crate) fn value(number: u64) -> Vec<u8> {
    let pad = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{{\"n\":{number:>12},\"pad\":\"{pad:080}\"}}").into_bytes()
}

/// The number in a value, if it is a whole value of this load.
#[must_use]
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    leading_number(bytes).filter(|number| bytes == value(*number))
}

/// The number that an object of JSON begins with.
pub(super) fn leading_number(bytes: &[u8]) -> Option<u64> {
    let rest = bytes.strip_prefix(b"{\"n\":")?.trim_ascii_start();
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

impl Load {
    /// A load of so many records.
    #[must_use]
    pub(crate) fn new(records: u64) -> Arc<Self> {
        let all = usize::try_from(records).unwrap_or(usize::MAX);
        let (acknowledged, arrived) = (vec![false; all], vec![false; all]);
        let state = Sent { acknowledged, arrived, ..Sent::default() };
        Arc::new(Self {
            records,
            state: Mutex::new(state),
            rate: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    /// Sends from now on until [`stop`](Self::stop), the end, a lost connection, or `most`
    /// records.
    #[must_use]
    pub(crate) fn start(
        self: &Arc<Self>,
        api: Api,
        rate: u64,
        most: u64,
    ) -> JoinHandle<Result<(), NotShown>> {
        self.rate.store(rate, Ordering::Relaxed);
        self.stop.store(false, Ordering::Relaxed);
        let load = Arc::clone(self);
        std::thread::spawn(move || load.run(&api, most))
    }

    /// Ends the sender after its request.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn run(&self, api: &Api, most: u64) -> Result<(), NotShown> {
        let started_at = Instant::now();
        let mut sent = 0_u64;
        while sent < most && !self.stop.load(Ordering::Relaxed) {
            let numbers = self.take();
            if numbers.is_empty() {
                return Ok(());
            }
            let records: Vec<ToProduce> = numbers
                .iter()
                .map(|number| ToProduce { key: key(*number), value: value(*number) })
                .collect();
            match api.produce("in", &records) {
                Ok(()) => self.acknowledge(&numbers),
                // Whether they arrived is for the journal to say.
                Err(crate::harness::api::ApiError::Lost(_)) => return Ok(()),
                Err(error) => return Err(broken(format!("the node refused records: {error}"))),
            }
            sent += numbers.len() as u64;
            let rate = self.rate.load(Ordering::Relaxed);
            if rate != 0 {
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                wait::pause(due.saturating_sub(started_at.elapsed()).min(Duration::from_secs(1)));
            }
        }
        Ok(())
    }

    /// The next numbers to send.
    fn take(&self) -> Vec<u64> {
        let mut state = self.state.lock().expect("no one panics while holding it");
        if !state.again.is_empty() {
            let count = state.again.len().min(usize::try_from(BATCH).expect("it is small"));
            return state.again.drain(..count).collect();
        }
        let from = state.next;
        state.next = (from + BATCH).min(self.records);
        (from..state.next).collect()
    }

    fn acknowledge(&self, numbers: &[u64]) {
        let mut state = self.state.lock().expect("no one panics while holding it");
        for number in numbers {
            state.acknowledged[index(*number)] = true;
        }
    }

    /// A record with this number is in the journal; `false` when it was there before.
    pub(crate) fn arrived(&self, number: u64) -> bool {
        let mut state = self.state.lock().expect("no one panics while holding it");
        match state.arrived.get_mut(index(number)) {
            None => false,
            Some(arrived) => !std::mem::replace(arrived, true),
        }
    }

    /// After the journal was read: what was sent and is not there is sent again. What was
    /// acknowledged has to be there.
    ///
    /// # Errors
    ///
    /// The first acknowledged record that is lost.
    pub(crate) fn resume(&self) -> Result<(), NotShown> {
        let mut state = self.state.lock().expect("no one panics while holding it");
        let missing: Vec<u64> =
            (0..state.next).filter(|number| !state.arrived[index(*number)]).collect();
        if let Some(lost) = missing.iter().find(|number| state.acknowledged[index(**number)]) {
            return Err(broken(format!("record {lost} was acknowledged and is lost (DEL-1)")));
        }
        state.again = missing;
        Ok(())
    }

    /// How many records were never sent.
    #[must_use]
    pub(crate) fn left(&self) -> u64 {
        self.records - self.state.lock().expect("no one panics while holding it").next
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_out_of_values() {
        assert_eq!(number(&value(123_456)), Some(123_456));
        assert_eq!(number(b"{\"n\":123456}"), None);
        assert_eq!(leading_number(b"{\"n\":123456}"), Some(123_456));
        assert_eq!(value(999_999).len(), VALUE_BYTES);
    }

    #[test]
    fn what_did_not_arrive_is_sent_again_first_and_a_lost_acknowledgement_is_found() {
        let load = Load::new(2_000);
        let first = load.take();
        let second = load.take();
        load.acknowledge(&first);
        first.iter().for_each(|number| assert!(load.arrived(*number)));
        load.resume().unwrap();
        assert_eq!(load.take(), second);
        load.acknowledge(&second);
        assert!(load.resume().is_err());
        assert!(!load.arrived(0), "it was there before");
        assert_eq!(load.left(), 1_000);
    }
}
