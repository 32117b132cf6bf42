//! Arguments of the prove binary that only promises use, to start it again as a part of
//! themselves. They are not shown by its help.

use std::process::ExitCode;

/// Runs the hidden part that the arguments ask for, if they do.
#[must_use]
pub fn dispatch(arguments: &[String]) -> Option<ExitCode> {
    match arguments.first()?.as_str() {
        "__store-script" => None,
        _ => None,
    }
}
