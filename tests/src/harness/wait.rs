//! Waiting for a condition with a deadline. The only place of the harness that lets time pass.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(2);

/// Lets time pass: for pacing a load and for faults at random times, never for "long enough".
#[expect(clippy::disallowed_methods, reason = "processes run in real time")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Asks again and again until there is an answer or the time is over.
pub fn until<T>(within: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let due_at = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if due_at <= Instant::now() {
            return None;
        }
        pause(INTERVAL);
    }
}
