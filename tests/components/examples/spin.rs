//! The identity, but a value that contains "spin" never ends.

use millrace_guest::{Failure, Outputs, Record};

millrace_guest::handler!(spin);

fn spin(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    let value = record.value().unwrap_or_default();
    while value.windows(4).any(|it| it == b"spin") {
        std::hint::black_box(value);
    }
    out.push(value);
    Ok(())
}
