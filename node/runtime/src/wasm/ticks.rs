//! The guests' clock: a thread that makes running guests yield every [`TICK`], and tells pools the
//! time. While no guest runs nobody needs ticks, and the thread sleeps: a node that waits for
//! records would else wake a hundred times a second for nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::TICK;
use crate::pool::Pools;

/// How often pools expire what is idle.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Ticks without a guest before the thread sleeps: where guests come one after the other, none of
/// them has to wake it.
const QUIET_TICKS: u32 = 20;

/// What guests say to the clock.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    running: AtomicUsize,
    /// Whether one began since the last tick.
    came: AtomicBool,
    sleeps: AtomicBool,
    clock: OnceLock<Thread>,
}

impl Guests {
    /// A guest runs until what this returns is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        if !self.came.load(Ordering::Relaxed) {
            self.came.store(true, Ordering::Relaxed);
        }
        // Either this sees that the clock is about to sleep, or the clock sees the guest.
        if self.sleeps.load(Ordering::SeqCst)
            && self.sleeps.swap(false, Ordering::SeqCst)
            && let Some(clock) = self.clock.get()
        {
            clock.unpark();
        }
        Running(Arc::clone(self))
    }
}

/// A guest that runs.
#[derive(Debug)]
pub(crate) struct Running(Arc<Guests>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Clock {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    pub(super) fn start(
        engine: wasmtime::Engine,
        guests: &Arc<Guests>,
        pools: Pools,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, heard) = (Arc::clone(&stop), Arc::clone(guests));
        let thread = std::thread::Builder::new()
            .name("millrace-ticks".into())
            .spawn(move || tick(&engine, &heard, &stopped, &pools))?;
        // Set once: an engine has one clock.
        drop(guests.clock.set(thread.thread().clone()));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

fn tick(engine: &wasmtime::Engine, guests: &Guests, stop: &AtomicBool, pools: &Pools) {
    let mut housekeeping_at = Instant::now() + HOUSEKEEPING;
    let mut quiet = 0;
    while !stop.load(Ordering::Acquire) {
        if quiet < QUIET_TICKS {
            std::thread::park_timeout(TICK);
        } else {
            guests.sleeps.store(true, Ordering::SeqCst);
            if guests.running.load(Ordering::SeqCst) == 0 {
                std::thread::park_timeout(
                    housekeeping_at.saturating_duration_since(Instant::now()),
                );
            }
            guests.sleeps.store(false, Ordering::SeqCst);
        }
        engine.increment_epoch();
        let came = guests.came.swap(false, Ordering::Relaxed);
        let is_busy = came || 0 < guests.running.load(Ordering::SeqCst);
        quiet = if is_busy { 0 } else { quiet.saturating_add(1) };
        let now = Instant::now();
        if housekeeping_at <= now {
            housekeeping_at = now + HOUSEKEEPING;
            pools.on_time(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far the epoch of an engine goes is not to be read; a guest of one tick says so.
    fn ends_within(engine: &wasmtime::Engine, guests: &Arc<Guests>, within: Duration) -> bool {
        let endless = wat::parse_str("(module (func (export \"f\") (loop (br 0))))").unwrap();
        let module = wasmtime::Module::new(engine, endless).unwrap();
        let mut store = wasmtime::Store::new(engine, ());
        store.set_epoch_deadline(2);
        store.epoch_deadline_trap();
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let call = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        let at = Instant::now();
        let _running = guests.enter();
        call.call(&mut store, ()).unwrap_err();
        at.elapsed() < within
    }

    #[test]
    fn a_guest_wakes_a_clock_that_sleeps_and_is_interrupted_in_time() {
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let guests = Arc::<Guests>::default();
        let clock = Clock::start(engine.clone(), &guests, Pools::default()).unwrap();
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_secs(10);
            while !guests.sleeps.load(Ordering::SeqCst) {
                assert!(Instant::now() < until, "a clock without guests does not sleep");
                std::thread::park_timeout(TICK);
            }
            // Asleep it ticks once a second; two of those were too late.
            assert!(ends_within(&engine, &guests, HOUSEKEEPING), "the clock was not woken");
        }
        drop(clock);
    }
}
