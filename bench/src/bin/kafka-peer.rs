//! The passthrough on rdkafka with the system's malloc.

use std::process::ExitCode;

fn main() -> ExitCode {
    millrace_bench::passthrough::main("system")
}
