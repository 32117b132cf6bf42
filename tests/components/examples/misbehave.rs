//! Does what its first record's value says: answers that break the contract, one kind at a time.

use millrace_guest::{Failure, Output, Outputs, Record, bindings};

struct Misbehave;

impl bindings::Guest for Misbehave {
    fn handle(batch: Vec<u8>) -> Vec<u8> {
        let mut asked = String::new();
        let mut answer = millrace_guest::run(&batch, |record, out| {
            asked.push_str(std::str::from_utf8(record.value().unwrap_or_default()).unwrap_or(""));
            one(record, out)
        });
        if asked.contains("foreign") {
            // The first output entry's source, after the ends: a record far beyond the batch.
            let at = u32::from_le_bytes(answer[32..36].try_into().expect("4 bytes")) as usize;
            answer[at..at + 4].copy_from_slice(&9_999_u32.to_le_bytes());
        }
        if asked.contains("truncated") {
            answer.truncate(answer.len() / 2);
        }
        if asked.contains("print") {
            println!("printed by the function");
        }
        answer
    }
}

bindings::export!(Misbehave with_types_in bindings);

fn one(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    let value = record.value().unwrap_or_default();
    let has = |what: &str| value.windows(what.len()).any(|it| it == what.as_bytes());
    if has("fail") {
        return Err(Failure::new("Test.Failed", "it was told to"));
    }
    if has("topic") {
        out.push_with(&Output { topic: Some("forbidden"), value: Some(value), ..Output::default() });
    } else if has("large") {
        out.push(&vec![b'x'; 2 << 20]);
    } else if has("partition") {
        out.push_with(&Output { partition: Some(999), value: Some(value), ..Output::default() });
    } else if has("log") {
        millrace_guest::log(millrace_guest::Level::Warn, "logged by the\nfunction");
        out.push(value);
    } else {
        out.push(value);
    }
    Ok(())
}
