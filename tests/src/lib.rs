//! The harness that whole-system tests share, and the promises that `cargo prove` shows to hold.
//! Verdicts come from code of this crate alone: it reads journals with a decoder of its own.

pub mod answers;
pub mod backlog;
pub mod bad_input;
pub mod broker_faults;
pub mod checker;
pub mod circuit;
pub mod clients;
pub mod components;
pub mod conformance;
pub mod crash_points;
pub mod crash_store;
pub mod delayed_retry;
pub mod destinations;
pub mod filters;
pub mod first_alert;
pub mod fuzz;
pub mod harness;
pub mod hidden;
pub mod journal_reader;
pub mod kill;
pub mod node_killer;
pub mod partial;
pub mod poison;
pub mod promise;
pub mod raft_sim;
pub mod redeploy;
pub mod redrive;
pub mod seen;
pub mod sim;
pub mod speed_embedded;
pub mod speed_kafka;
pub mod speed_process;
pub mod stubborn_key;
pub mod worker_abuse;
pub mod workspace_tests;
