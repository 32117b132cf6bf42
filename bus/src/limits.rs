//! What every bus refuses before it asks anybody: names, counts and sizes that Kafka would not
//! take.

use crate::{Cleanup, Error, RecordBatch, TopicPartition};

/// More partitions than this in one topic are refused.
pub(crate) const PARTITIONS_MAX: i32 = 16_384;
/// A batch larger than this is refused; it would keep everything else waiting.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// Refuses a name that Kafka would refuse.
pub(crate) fn check_topic_name(name: &str) -> Result<(), Error> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let good =
        (1..=249).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != "..";
    if good { Ok(()) } else { Err(Error::TopicName { topic: name.to_owned() }) }
}

/// Refuses a record without a key for a compacted topic.
pub(crate) fn check_keys(
    batch: &RecordBatch,
    to: &TopicPartition,
    cleanup: Cleanup,
) -> Result<(), Error> {
    if cleanup == Cleanup::Compact && batch.iter().any(|record| record.key.is_none()) {
        return Err(Error::NoKey(to.clone()));
    }
    Ok(())
}

/// Refuses a record over the limit of its topic.
pub(crate) fn check_sizes(
    batch: &RecordBatch,
    to: &TopicPartition,
    limit_bytes: usize,
) -> Result<(), Error> {
    let too_large =
        |bytes, limit_bytes| Err(Error::TooLarge { partition: to.clone(), bytes, limit_bytes });
    let batch_bytes = batch.as_bytes().len();
    if BATCH_BYTES_MAX < batch_bytes {
        return too_large(batch_bytes, BATCH_BYTES_MAX);
    }
    if batch_bytes <= limit_bytes {
        return Ok(());
    }
    for record in batch.iter() {
        let bytes = record.payload_bytes();
        if limit_bytes < bytes {
            return too_large(bytes, limit_bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_kafka() {
        for bad in ["", ".", "..", "a b", "a;b", "a/b", "ä", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
        assert!(check_topic_name("a.B_c-9").is_ok());
    }
}
