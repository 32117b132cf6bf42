//! The commands, one file each. All end with the same kind of error, and all "next:" lines say
//! what works as typed.

pub mod build;
pub mod completions;
pub mod consume;
pub mod dead_letter;
pub mod deploy;
pub mod describe;
pub mod dev;
pub mod doctor;
pub mod error;
pub mod event;
pub mod explain;
pub mod init;
pub mod interrupt;
pub mod join;
pub mod lag;
pub mod logs;
pub mod new;
pub mod node;
pub mod plan;
pub mod produce;
pub mod program;
pub mod ps;
pub mod raft_group;
pub mod record;
pub mod replay;
pub mod revisions;
pub mod serve;
pub mod status;
pub mod support_bundle;
pub mod tail;
pub mod top;
pub mod topic;
pub mod trigger;
pub mod wait;
