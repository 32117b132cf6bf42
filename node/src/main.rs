//! The binary `millrace`: a node, and the commands that talk to one. Everything is in the library
//! beside it; here stands only what a process has once.

use std::process::ExitCode;

/// Many threads take and give back batches of all sizes: it costs less memory and less time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let is_spawner = std::env::args_os().nth(1).is_some_and(|word| word == millrace::cli::SPAWNER);
    // The allocator asks for huge pages, of which a node uses a part each: 312 MB of memory with a
    // long backlog instead of 218, and 76 instead of 24 without work. What a spawner starts
    // decides for itself. A kernel without the call has no such pages.
    let _done = rustix::thread::disable_transparent_huge_pages(!is_spawner);
    // A spawner has no use for a command line, and must have no second thread.
    if is_spawner {
        return runtime::spawner_main();
    }
    millrace::cli::main(std::env::args_os())
}
