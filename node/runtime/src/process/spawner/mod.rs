//! Starts worker processes, and sees to it that none outlives its node.
//!
//! ```text
//!   node ── one socket, orders and descriptors ──▶ spawner ── clone ──▶ guardian ── fork ──▶ worker
//!    └───────────────── one control socket per worker ─────────────────▶┘
//! ```
//!
//! The spawner is the node's own binary, started before the node has a second thread: a process
//! that forks must have one only, and a parent-death signal is tied to the thread that forked. It
//! keeps nothing but its socket. Each worker has a guardian of its own, a fork of the spawner that
//! waits for two things: that the worker ends, or that the node closes the control socket. Then it
//! kills whatever the worker has left behind, reports, and ends.
//!
//! - The node dies: the kernel closes the control sockets, the guardians kill their workers.
//! - The spawner dies: the guardians get a parent-death signal and do the same.
//! - The spawner is a unit of its own (`millrace spawner`): each connection of a node is served by a
//!   fork, which ends when the connection does, as above. The node connects anew when it is gone.
//! - A guardian dies: its worker gets a parent-death signal; with a process namespace, all that the
//!   worker started dies too.
//!
//! Where the kernel permits it the guardian is the first process of a process namespace with a
//! `/proc` of its own, and nothing inside can outlive it. Elsewhere it is a child subreaper: what
//! the worker's children leave behind becomes the guardian's, in whatever session it hides.

mod guardian;
mod launch;
mod listen;
mod order;
mod serve;

pub use launch::Spawner;
pub use listen::SpawnerListener;
pub use serve::spawner_main;

pub(crate) use order::{Order, Report, Stage};
pub(crate) use serve::own;
