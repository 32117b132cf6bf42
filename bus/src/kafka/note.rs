//! A pure core: what is committed beside an offset in a consumer group, so that another owner can
//! go on where this one was.
//!
//! `1;shard;epoch;topic id in hex;ranges`, the ranges of the completion map as `start-end` with
//! commas; behind them `;start-end-attempt` where there are suspects. A broker takes 4,096 bytes
//! (`offset.metadata.max.bytes`): a larger map is left out, which costs repeats and nothing else.

#![cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "the simulation plays it"))]

use crate::{Completions, Epoch, Offset, ShardId, Suspects};

/// What a broker takes by default.
const BYTES_MAX: usize = 4_096;

/// The note of one committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whose it is.
    pub shard: ShardId,
    /// The assignment that committed it.
    pub epoch: Epoch,
    /// The topic's id: one made again under the same name has another.
    pub topic_id: u64,
    /// What was settled beyond the offset.
    pub completions: Completions,
    /// What may have ended an owner before.
    pub suspects: Option<Suspects>,
}

impl Note {
    /// As it is committed.
    pub fn encode(&self) -> String {
        use std::fmt::Write as _;
        let head = format!("1;{};{};{:x};", self.shard, self.epoch, self.topic_id);
        let tail = self.suspects.map(|it| format!(";{}-{}-{}", it.from, it.until, it.attempt));
        let tail = tail.unwrap_or_default();
        let mut text = head.clone();
        for (index, (start, end)) in self.completions.ranges().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(text, "{comma}{start}-{end}").expect("a string takes any text");
            if BYTES_MAX < text.len() + tail.len() {
                return head + &tail;
            }
        }
        text + &tail
    }

    /// What was committed, if it was by us: anything else, such as an offset that an operator's
    /// tool has set, is nobody's note.
    pub fn decode(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        if parts.next()? != "1" {
            return None;
        }
        let shard = ShardId(parts.next()?.parse().ok()?);
        let epoch = Epoch(parts.next()?.parse().ok()?);
        let topic_id = u64::from_str_radix(parts.next()?, 16).ok()?;
        let ranges = parts.next()?;
        let suspects = match parts.next() {
            Some(text) => Some(suspects(text)?),
            None => None,
        };
        if parts.next().is_some() {
            return None;
        }
        let mut settled = Vec::new();
        for range in ranges.split(',').filter(|it| !it.is_empty()) {
            let (start, end) = range.split_once('-')?;
            let (start, end) = (Offset(start.parse().ok()?), Offset(end.parse().ok()?));
            if end <= start || settled.last().is_some_and(|(_, last)| start < *last) {
                return None;
            }
            settled.push((start, end));
        }
        let completions = Completions::from_ranges(settled);
        Some(Self { shard, epoch, topic_id, completions, suspects })
    }
}

fn suspects(text: &str) -> Option<Suspects> {
    let mut parts = text.split('-');
    let (from, until) = (Offset(parts.next()?.parse().ok()?), Offset(parts.next()?.parse().ok()?));
    let attempt = parts.next()?.parse().ok()?;
    (parts.next().is_none() && from < until).then_some(Suspects { from, until, attempt })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(ranges: impl IntoIterator<Item = (i64, i64)>) -> Note {
        let ranges = ranges.into_iter().map(|(start, end)| (Offset(start), Offset(end)));
        let completions = Completions::from_ranges(ranges);
        Note {
            shard: ShardId(7),
            epoch: Epoch(3),
            topic_id: u64::MAX - 1,
            completions,
            suspects: None,
        }
    }

    #[test]
    fn it_comes_back_as_it_was() {
        for note in [note([]), note([(5, 6)]), note([(5, 6), (8, 20), (i64::MAX - 1, i64::MAX)])] {
            assert_eq!(Note::decode(&note.encode()), Some(note));
        }
        assert_eq!(note([(5, 6), (8, 20)]).encode(), "1;7;3;fffffffffffffffe;5-6,8-20");
        let suspects = Some(Suspects { from: Offset(4), until: Offset(90), attempt: 3 });
        let marked = Note { suspects, ..note([(5, 6)]) };
        assert_eq!(marked.encode(), "1;7;3;fffffffffffffffe;5-6;4-90-3");
        assert_eq!(Note::decode(&marked.encode()), Some(marked));
    }

    #[test]
    fn a_map_that_is_too_large_is_left_out() {
        let large = note((0..2_000).map(|it| (3 * it, 3 * it + 1)));
        assert_eq!(Note::decode(&large.encode()), Some(note([])));
        for count in 350..600 {
            assert!(note((0..count).map(|it| (3 * it, 3 * it + 1))).encode().len() <= BYTES_MAX);
        }
    }

    #[test]
    fn foreign_notes_are_nobodys() {
        let foreign = ["", "1", "2;7;3;ff;", "1;7;3;ff", "1;7;3;ff;5", "1;7;3;ff;6-5", "x;y"];
        for text in foreign.into_iter().chain([
            "1;7;3;ff;5-9,7-12",
            "1;7;3;ff;;",
            "1;7;3;zz;",
            "1;7;3;ff;;4-3-2",
        ]) {
            assert_eq!(Note::decode(text), None, "{text}");
        }
    }
}
