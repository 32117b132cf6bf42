//! The passthrough on rdkafka with the node's malloc, for C and Rust alike.

use std::process::ExitCode;

/// As in the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    millrace_bench::passthrough::main("mimalloc")
}
