//! The binary `millrace-next`, made for `cargo prove upgrade` and nobody's cluster: `millrace` as the
//! build after this one would be, as far as other nodes can tell. It is built with the feature
//! `next-version` only, beside the other one.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == millrace::cli::SPAWNER) {
        return runtime::spawner_main();
    }
    millrace::cli::main(std::env::args_os())
}
