//! A node as a process, and the commands that talk to it: the command line, how a command finds
//! its node, what it prints, and the wiring of the crates into a running node.

pub mod cli;
pub mod client;
pub mod commands;
pub mod discovery;
mod journal;
pub mod node;
pub mod output;
mod service;
