//! The binary `millrace`: a node, and the commands that talk to one. Everything is in the library
//! beside it; here stands only what a process has once.

use std::process::ExitCode;

/// Many threads take and give back batches of all sizes: it costs less memory and less time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A spawner has no use for a command line, and must have no second thread.
    if std::env::args_os().nth(1).is_some_and(|word| word == millrace::cli::SPAWNER) {
        return runtime::spawner_main();
    }
    millrace::cli::main(std::env::args_os())
}
