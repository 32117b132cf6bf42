//! The identity, but a value that contains "trap" ends the instance.

use millrace_guest::{Failure, Outputs, Record};

millrace_guest::handler!(trap);

fn trap(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    let value = record.value().unwrap_or_default();
    assert!(!value.windows(4).any(|it| it == b"trap"), "trapped at {}", record.offset());
    out.push(value);
    Ok(())
}
