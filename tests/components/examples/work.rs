//! The identity, at a price: some microseconds of work a record, so that a kill meets it running.

use millrace_guest::{Failure, Outputs, Record};

millrace_guest::handler!(work);

const ROUNDS: u32 = 20_000;

fn work(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    let mut state = 0x9e37_79b9_u32 ^ record.offset() as u32;
    for _round in 0..ROUNDS {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    std::hint::black_box(state);
    out.push(record.value().unwrap_or_default());
    Ok(())
}
