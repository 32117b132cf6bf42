//! The control API over real connections, on a real embedded bus.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod apps;
mod door;
mod harness;
mod produce;
mod read;
mod topics;
mod watched;
