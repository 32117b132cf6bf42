//! What every promise does with processes, files and time: find the binaries, start a node, wait
//! for what it says, kill it and keep its logs.

pub mod api;
pub mod bench;
pub mod binaries;
pub mod command;
pub mod fleet;
pub mod kafka;
pub mod mounts;
pub mod network;
pub mod node;
pub mod overlay;
pub mod ports;
pub mod processes;
pub mod python;
pub mod rng;
pub mod wait;
