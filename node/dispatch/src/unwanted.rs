//! A pure core: which records of a batch the trigger's filter keeps from the function.

use bus::{Offset, RecordBatch, RecordView, TopicPartition};
use filter::{Filter, Record};

/// The records of one batch that do not pass, a bit each. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwanted(Box<[u64]>);

impl Unwanted {
    /// Those of a batch that do not pass `filter`, or lie at or beyond `until`; `None` when there
    /// are none.
    #[must_use]
    pub fn by(
        filter: Option<&Filter>,
        until: Option<Offset>,
        place: &TopicPartition,
        batch: &RecordBatch,
    ) -> Option<Self> {
        let until = until.filter(|until| *until <= batch.last_offset());
        if filter.is_none() && until.is_none() {
            return None;
        }
        Self::of(batch, |view| {
            let passes = |filter: &Filter| {
                filter.matches(&Record {
                    topic: &place.topic,
                    partition: place.partition,
                    offset: view.offset.0,
                    timestamp: view.timestamp.0,
                    key: view.key,
                    value: view.value,
                    header: &|name| view.headers.last(name.as_bytes()),
                })
            };
            until.is_some_and(|until| until <= view.offset) || !filter.is_none_or(passes)
        })
    }

    /// Those of a batch of which `is_unwanted` says so; `None` when there are none.
    #[must_use]
    pub fn of(
        batch: &RecordBatch,
        mut is_unwanted: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Option<Self> {
        let mut bits = vec![0_u64; batch.len().div_ceil(64)];
        let mut any = false;
        for index in 0..batch.len() {
            if is_unwanted(&batch.get(index)) {
                bits[index / 64] |= 1 << (index % 64);
                any = true;
            }
        }
        any.then(|| Self(bits.into_boxed_slice()))
    }

    /// Whether the record at this index is one of them.
    #[inline]
    pub(crate) fn contains(&self, index: u32) -> bool {
        let index = index as usize;
        self.0.get(index / 64).is_some_and(|bits| bits >> (index % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use bus::{BatchBuilder, HeadersBuilder, Offset, Timestamp};

    use super::*;

    #[test]
    fn a_filter_sees_all_of_a_record() {
        let mut headers = HeadersBuilder::default();
        headers.push(b"source", Some(b"cloud"));
        headers.push(b"source", Some(b"edge"));
        let mut builder = BatchBuilder::default();
        for number in 0..130 {
            let value = format!("{{\"n\":{number}}}");
            builder.push(Timestamp(number), Some(b"k"), Some(value.as_bytes()), headers.headers());
        }
        let batch = builder.finish().unwrap().with_base(Offset(1_000));
        let place = TopicPartition::new("readings", 3);
        let by = |pattern: &str| {
            let pattern = serde_json::from_str(pattern).unwrap();
            Unwanted::by(Some(&Filter::compile(&[pattern]).unwrap()), None, &place, &batch)
        };
        let all =
            r#"{"topic":["readings"],"partition":[3],"key":["k"],"headers":{"source":["edge"]}}"#;
        assert_eq!(by(all), None);
        let some = r#"{"value":{"n":[{"numeric":["<",64]}]},"offset":[{"numeric":[">",1000]}],
                       "timestamp":[{"anything-but":63}]}"#;
        let unwanted = by(some).unwrap();
        let wanted: Vec<u32> = (0..130).filter(|it| !unwanted.contains(*it)).collect();
        assert_eq!(wanted, (1..63).collect::<Vec<_>>());
    }
}
