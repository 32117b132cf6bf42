//! How keys and rows of the journal look as bytes.
//!
//! ```text
//! batches    partition uid (u64, big endian), base offset (i64, big endian) -> a record batch
//! topics     name -> version 1, CRC-32C of the rest, id u64, partitions i32,
//!            retention age ms u64 (0 = none), retention bytes u64 (0 = none), record bytes u64
//! starts     partition uid -> start i64, end i64: what retention left
//! positions  shard (u64, big endian), partition (i32, big endian), topic ->
//!            version 1, CRC-32C of the rest, epoch u64, next i64, count varint,
//!            then per completion range: gap varint, length varint
//! fences     shard (u64, big endian) -> epoch u64
//! meta       "group" -> u64, how many groups were written; "topic" -> u64, the next topic's id
//! ```
//!
//! Integers inside rows are little endian. A partition's uid is its topic's id times 65,536 plus
//! its number; ids are never reused.

use std::time::Duration;

use crate::{
    Completions, Epoch, Error, Offset, Position, PositionKey, Retention, ShardId, TopicInfo,
    TopicPartition, TopicSpec,
};

const VERSION: u8 = 1;

pub(crate) fn batch_key(uid: u64, base: Offset) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&uid.to_be_bytes());
    key[8..].copy_from_slice(&base.0.to_be_bytes());
    key
}

pub(crate) fn batch_base(key: &[u8]) -> Option<Offset> {
    Some(Offset(i64::from_be_bytes(key.get(8..16)?.try_into().ok()?)))
}

pub(crate) fn position_key(key: &PositionKey) -> Vec<u8> {
    let mut bytes = key.shard.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(&key.partition.partition.to_be_bytes());
    bytes.extend_from_slice(key.partition.topic.as_bytes());
    bytes
}

pub(crate) fn parse_position_key(bytes: &[u8]) -> Option<PositionKey> {
    let shard = ShardId(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?));
    let partition = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
    let topic = std::str::from_utf8(bytes.get(12..)?).ok()?;
    Some(PositionKey { shard, partition: TopicPartition::new(topic, partition) })
}

fn sealed(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn opened(bytes: &[u8]) -> Option<&[u8]> {
    let (head, body) = bytes.split_at_checked(5)?;
    let checksum = u32::from_le_bytes(head[1..].try_into().ok()?);
    (head[0] == VERSION && checksum == crc32c::crc32c(body)).then_some(body)
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while 0x80 <= value {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

pub(crate) fn encode_position(position: &Position) -> Vec<u8> {
    let mut body = position.epoch.0.to_le_bytes().to_vec();
    body.extend_from_slice(&position.next.0.to_le_bytes());
    let ranges = position.completions.ranges();
    put_varint(&mut body, ranges.len() as u64);
    let mut at = position.next;
    for (start, end) in ranges {
        put_varint(&mut body, start.0.abs_diff(at.0));
        put_varint(&mut body, end.0.abs_diff(start.0));
        at = *end;
    }
    sealed(&body)
}

pub(crate) fn decode_position(bytes: &[u8]) -> Option<Position> {
    let mut body = opened(bytes)?;
    let epoch = Epoch(u64::from_le_bytes(take(&mut body)?));
    let next = Offset(i64::from_le_bytes(take(&mut body)?));
    let mut ranges = Vec::new();
    let mut at = next.0;
    for _range in 0..take_varint(&mut body)? {
        let start = at.checked_add_unsigned(take_varint(&mut body)?)?;
        let end = start.checked_add_unsigned(take_varint(&mut body)?)?;
        ranges.push((Offset(start), Offset(end)));
        at = end;
    }
    let completions = Completions::from_ranges(ranges);
    body.is_empty().then_some(Position { epoch, next, completions })
}

pub(crate) fn encode_topic(info: &TopicInfo) -> Vec<u8> {
    let TopicSpec { partitions, retention, record_bytes_max, .. } = &info.spec;
    let age = retention.age.map_or(0, |age| age.as_millis() as u64);
    let mut body = info.id.to_le_bytes().to_vec();
    body.extend_from_slice(&partitions.to_le_bytes());
    for word in [age, retention.bytes.unwrap_or(0), *record_bytes_max as u64] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    sealed(&body)
}

pub(crate) fn decode_topic(name: &str, bytes: &[u8]) -> Option<TopicInfo> {
    let mut body = opened(bytes)?;
    let id = u64::from_le_bytes(take(&mut body)?);
    let partitions = i32::from_le_bytes(take(&mut body)?);
    let mut word = || Some(u64::from_le_bytes(take(&mut body)?));
    let (age, retained, record_bytes) = (word()?, word()?, word()?);
    let retention = Retention {
        age: (age != 0).then(|| Duration::from_millis(age)),
        bytes: (retained != 0).then_some(retained),
    };
    let record_bytes_max = usize::try_from(record_bytes).ok()?;
    let spec = TopicSpec { name: name.into(), partitions, retention, record_bytes_max };
    (0 < partitions).then_some(TopicInfo { spec, id })
}

/// Kafka's rule for topic names.
pub(crate) fn check_topic_name(name: &str) -> Result<(), Error> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let good =
        (1..=249).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != "..";
    if good { Ok(()) } else { Err(Error::TopicName { topic: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_come_back_and_damaged_ones_do_not() {
        let completions = [(Offset(45), Offset(47)), (Offset(300), Offset(90_000))];
        let position = Position {
            epoch: Epoch(3),
            next: Offset(40),
            completions: Completions::from_ranges(completions),
        };
        let bytes = encode_position(&position);
        assert_eq!(decode_position(&bytes), Some(position));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(decode_position(&bad), None, "flipped byte {at}");
            assert_eq!(decode_position(&bytes[..at]), None);
        }
    }

    #[test]
    fn names_follow_kafkas_rule() {
        for bad in ["", ".", "..", "a b", "a;b", "ä", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
        assert!(check_topic_name("a.B_c-9").is_ok());
    }
}
