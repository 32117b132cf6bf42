//! Every record becomes one output with the same key, value and headers' absence.

use millrace_guest::{Failure, Outputs, Record};

millrace_guest::handler!(identity);

fn identity(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    out.push(record.value().unwrap_or_default());
    Ok(())
}
