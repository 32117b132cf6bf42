//! The node as a unit of the system's service manager: says when it is ready, what it does, that it
//! is alive and that it ends. Without a manager nothing is said.

use std::time::Duration;

use gateway::NodeView as _;
use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use crate::node::Node;
use crate::output::count;

/// How often the line of status is renewed, and longer starts and ends are excused.
const BEAT: Duration = Duration::from_secs(2);

/// How much time one excuse asks for: more than one beat, in case a beat is late.
const EXCUSED: Duration = Duration::from_secs(10);

/// A task that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Going(JoinHandle<()>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Says that what the unit is for can be had from now on.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the node ends, and of which.
pub(crate) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Asks for time, again and again, while a start or an end goes on: it may take as long as it has
/// work, and no longer than the runtime turns. Call it within the runtime.
pub(crate) fn excuse(node: Option<Node>) -> Going {
    let micros = u32::try_from(EXCUSED.as_micros()).expect("seconds fit");
    Going(tokio::spawn(async move {
        loop {
            match &node {
                Some(node) => tell(&[
                    NotifyState::ExtendTimeoutUsec(micros),
                    NotifyState::Watchdog,
                    NotifyState::Status(&format!("draining: {}", line(node))),
                ]),
                None => tell(&[NotifyState::ExtendTimeoutUsec(micros)]),
            }
            tokio::time::sleep(BEAT).await;
        }
    }))
}

/// Renews the line of status, and with it says that the node is alive: a word each time that its
/// timers, a task on its threads, one on the threads for what blocks, and the locks of its state
/// have all turned. Where one of them hangs nothing is said, and the manager starts the node again.
pub(crate) fn watch(node: Node) -> Going {
    // A third of what the manager waits: two may be late.
    let beat = sd_notify::watchdog_enabled().map_or(BEAT, |it| (it / 3).min(BEAT));
    Going(tokio::spawn(async move {
        loop {
            tokio::time::sleep(beat).await;
            let seen = node.clone();
            let turn = tokio::spawn(async move {
                let look = tokio::task::spawn_blocking(move || line(&seen));
                look.await.ok()
            });
            if let Ok(Some(status)) = turn.await {
                tell(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
            }
        }
    }))
}

/// What a node does, as one line.
fn line(node: &Node) -> String {
    let status = node.status();
    let functions = status.functions.len();
    let (mut settled, mut in_flight) = (0, 0);
    for function in &status.functions {
        settled += function.settled;
        in_flight += function.in_flight;
    }
    let held_up = status.held_up.len();
    let mut text = format!(
        "{functions} functions, {} records settled, {} in flight",
        count(settled),
        count(in_flight)
    );
    if 0 < held_up {
        text.push_str(&format!(", {held_up} triggers held up: millrace trigger list"));
    }
    text
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager does not hear");
    }
}
