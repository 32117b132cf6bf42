//! A pure core: where an output, a dead letter or a message to a destination says that it comes from.

use bus::{Headers, Offset, TopicPartition};

/// The header `millrace-origin`: `1;topic;partition;offset;index;revision;attempt;epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) place: TopicPartition,
    pub(super) offset: Offset,
    pub(super) made: Made,
    pub(super) revision: String,
    pub(super) attempt: u32,
    pub(super) epoch: u64,
}

/// What was made of the record that an origin names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// This one of its outputs.
    Output(u32),
    /// Its dead letter.
    DeadLetter,
    /// The message that it succeeded.
    OnSuccess,
    /// The message that it was given up.
    OnFailure,
}

impl Made {
    /// Which of the outputs.
    pub(super) const fn index(self) -> Option<u32> {
        match self {
            Self::Output(index) => Some(index),
            Self::DeadLetter | Self::OnSuccess | Self::OnFailure => None,
        }
    }

    /// The key of the manifest that it was made for.
    pub(super) const fn destination(self) -> Option<&'static str> {
        match self {
            Self::OnSuccess => Some("on-success"),
            Self::OnFailure => Some("on-failure"),
            Self::Output(_) | Self::DeadLetter => None,
        }
    }

    /// Whether it was made by an attempt that ended well.
    pub(super) const fn is_of_success(self) -> bool {
        matches!(self, Self::Output(_) | Self::OnSuccess)
    }
}

impl Origin {
    /// That of a record, if it has one. Of several the last was written last.
    pub(super) fn of(headers: Headers<'_>) -> Option<Self> {
        let text = std::str::from_utf8(headers.last(dispatch::ORIGIN.as_bytes())?).ok()?;
        let [layout, topic, partition, offset, index, revision, attempt, epoch] =
            text.split(';').collect::<Vec<_>>().try_into().ok()?;
        let made = match index {
            "d" => Made::DeadLetter,
            "s" => Made::OnSuccess,
            "f" => Made::OnFailure,
            index => Made::Output(index.parse().ok()?),
        };
        (layout == "1").then_some(Self {
            place: TopicPartition::new(topic, partition.parse().ok()?),
            offset: Offset(offset.parse().ok()?),
            made,
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
        assert_eq!((found.made, found.attempt, found.epoch), (Made::DeadLetter, 2, 9));
        let made = |text: &str| read(&[text]).unwrap().made;
        assert_eq!(made("1;in;3;18;4;def;2;9"), Made::Output(4));
        assert_eq!(made("1;in;3;18;s;def;2;9"), Made::OnSuccess);
        assert_eq!(made("1;in;3;18;f;def;2;9"), Made::OnFailure);
        for bad in
            ["", "2;in;3;18;4;def;2;9", "1;in;3;18;x;def;2;9", "1;in;3;18;4;def;2", "1;;;;;;;"]
        {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
    }
}
