//! A pure core: the records of a batch one by one, and which of them must not run after one of
//! them failed.

use frame::{Order, Request, RequestBuilder, RequestRecord};

/// The frame of one record of a request, as if it had come alone.
pub(crate) fn alone(request: &Request<'_>, record: &RequestRecord<'_>) -> Vec<u8> {
    let table = [(record.topic, record.partition)];
    let mut one =
        RequestBuilder::new(request.batch_id(), request.order(), request.context(), &table);
    one.push(
        0,
        record.offset,
        record.timestamp,
        record.attempt,
        record.key,
        record.value,
        record.headers.as_bytes(),
        record.headers.len(),
    );
    one.finish()
}

/// Which later records of a batch a failed one holds back: those of its key, or of its partition,
/// as the order says.
#[derive(Default)]
pub(crate) struct Held<'a> {
    keys: std::collections::BTreeSet<&'a [u8]>,
    partitions: std::collections::BTreeSet<(&'a str, i32)>,
}

impl<'a> Held<'a> {
    /// This record failed.
    pub(crate) fn failed(&mut self, record: &RequestRecord<'a>) {
        self.keys.extend(record.key);
        self.partitions.insert((record.topic, record.partition));
    }

    /// Whether this record must not run any more.
    pub(crate) fn holds(&self, order: Order, record: &RequestRecord<'a>) -> bool {
        match order {
            Order::None => false,
            Order::Key => record.key.is_some_and(|key| self.keys.contains(key)),
            Order::Partition => self.partitions.contains(&(record.topic, record.partition)),
        }
    }
}
