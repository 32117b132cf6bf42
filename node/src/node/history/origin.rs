//! A pure core: where an output or a dead letter says that it comes from.

use bus::{Headers, Offset, TopicPartition};

/// The header `millrace-origin`: `1;topic;partition;offset;index;revision;attempt;epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) place: TopicPartition,
    pub(super) offset: Offset,
    /// `None` for a dead letter.
    pub(super) index: Option<u32>,
    pub(super) revision: String,
    pub(super) attempt: u32,
    pub(super) epoch: u64,
}

impl Origin {
    /// That of a record, if it has one. Of several the last was written last.
    pub(super) fn of(headers: Headers<'_>) -> Option<Self> {
        let text = std::str::from_utf8(headers.last(dispatch::ORIGIN.as_bytes())?).ok()?;
        let [layout, topic, partition, offset, index, revision, attempt, epoch] =
            text.split(';').collect::<Vec<_>>().try_into().ok()?;
        let index = match index {
            "d" => None,
            index => Some(index.parse().ok()?),
        };
        (layout == "1").then_some(Self {
            place: TopicPartition::new(topic, partition.parse().ok()?),
            offset: Offset(offset.parse().ok()?),
            index,
            revision: revision.to_owned(),
            attempt: attempt.parse().ok()?,
            epoch: epoch.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use bus::HeadersBuilder;

    use super::*;

    fn read(texts: &[&str]) -> Option<Origin> {
        let mut headers = HeadersBuilder::default();
        texts.iter().for_each(|it| headers.push(b"millrace-origin", Some(it.as_bytes())));
        Origin::of(headers.headers())
    }

    #[test]
    fn the_last_origin_counts_and_what_is_none_is_none() {
        let found = read(&["1;raw;0;1;0;abc;1;1", "1;in;3;18;d;def;2;9"]).unwrap();
        assert_eq!((found.place, found.offset), (TopicPartition::new("in", 3), Offset(18)));
        assert_eq!((found.index, found.attempt, found.epoch), (None, 2, 9));
        assert_eq!(read(&["1;in;3;18;4;def;2;9"]).unwrap().index, Some(4));
        for bad in
            ["", "2;in;3;18;4;def;2;9", "1;in;3;18;x;def;2;9", "1;in;3;18;4;def;2", "1;;;;;;;"]
        {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
    }
}
