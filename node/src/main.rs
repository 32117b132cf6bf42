//! The binary `millrace`: a node, and the commands that talk to one. Everything is in the library
//! beside it; here stands only what a process has once.

use std::process::ExitCode;

/// Many threads take and give back batches of all sizes: it costs less memory and less time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    millrace::cli::main(std::env::args_os())
}
