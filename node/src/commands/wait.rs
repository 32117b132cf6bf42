//! Time that a command lets pass between two looks at a node.

use std::time::Duration;

/// Waits so long; Ctrl-C ends it as it ends everything.
#[expect(
    clippy::disallowed_methods,
    reason = "a command waits in real time, with nothing else to do"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
