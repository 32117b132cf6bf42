//! The identity, but a value that contains "bomb" takes memory without end.

use millrace_guest::{Failure, Outputs, Record};

millrace_guest::handler!(bomb);

fn bomb(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    let value = record.value().unwrap_or_default();
    if value.windows(4).any(|it| it == b"bomb") {
        let mut hoard = Vec::new();
        loop {
            hoard.push(std::hint::black_box(vec![1_u8; 1 << 20]));
        }
    }
    out.push(value);
    Ok(())
}
