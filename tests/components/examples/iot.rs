//! The filter and enrichment of the benches: about two in three readings come out with a field more.

use std::cell::RefCell;

use millrace_guest::{Failure, Outputs, Record};

millrace_guest::handler!(iot);

thread_local! {
    static ENRICHED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn iot(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
    ENRICHED.with_borrow_mut(|enriched| {
        if millrace_iot::enrich(record.value().unwrap_or_default(), enriched)? {
            out.push(enriched);
        }
        Ok(())
    })
}
