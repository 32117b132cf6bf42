//! Ctrl-C for commands that take long: the process ends with the status that the help names,
//! instead of by the signal.

use tokio::signal::unix::{SignalKind, signal};

use super::error::exit;

/// From here on Ctrl-C ends the process with status 130. What is on its way to a node arrives or
/// does not, as a whole.
pub fn exit_on_ctrl_c() {
    // Without a handler the signal ends the process by itself: shells show the same status.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else {
        return;
    };
    let entered = runtime.enter();
    // Registered before this returns, not when the thread gets its turn.
    let Ok(mut interrupts) = signal(SignalKind::interrupt()) else { return };
    drop(entered);
    let wait = move || {
        if runtime.block_on(interrupts.recv()).is_some() {
            std::process::exit(i32::from(exit::INTERRUPTED));
        }
    };
    drop(std::thread::Builder::new().name("millrace-ctrl-c".into()).spawn(wait));
}
