//! The binary as people and scripts meet it: help, exit statuses, and the commands that talk to a
//! node, against the real control API on a real embedded bus.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod backups;
mod commands;
mod dead_letters;
mod deploys;
mod destinations;
mod doctor;
mod filters;
mod harness;
mod journal;
mod members;
mod metrics;
mod replay;
mod statuses;
mod support;
mod top;
mod triggers;
mod workers;
