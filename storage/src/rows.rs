//! How a position lies in sled: its key, its bytes, and the pieces they are cut into. A row that
//! would move back is told from one that moves on by what it carries, without decoding.
//!
//! ```text
//! key    shard (u64, big endian), topic, NUL, partition (i32, big endian), piece (u16, big endian)
//! value  the bytes of the codec, cut into pieces of at most 32 KiB, so that none of sled's pages
//!        (up to 17 values) comes near the size that sled writes into files which it never syncs
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::{Completions, Epoch, Offset, Position, PositionKey, ShardId, TopicPartition};
use serde::Deserialize;

use crate::Error;
use crate::codec;

/// The largest value in sled. 17 of them in a page are 544 KiB, a quarter of the limit.
pub(crate) const PIECE_BYTES_MAX: usize = 32 * 1024;

/// A position as it is stored, with what decides about it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    epoch: Epoch,
    next: Offset,
    bytes: Vec<u8>,
}

impl Row {
    pub(crate) fn encode(key: &PositionKey, position: &Position) -> Result<Self, Error> {
        let bytes = codec::encode_large(position)
            .map_err(|source| Error::Position { key: key.clone(), source: Arc::new(source) })?;
        Ok(Self { epoch: position.epoch, next: position.next, bytes })
    }

    fn decode(bytes: Vec<u8>) -> Result<Self, Error> {
        let position = decode_position(&bytes)?;
        Ok(Self { epoch: position.epoch, next: position.next, bytes })
    }

    pub(crate) fn position(&self) -> Result<Position, Error> {
        decode_position(&self.bytes)
    }

    /// Whether this row may take the place of `other`: epochs never decrease, and within an epoch
    /// `next` never does.
    pub(crate) fn follows(&self, other: &Self) -> bool {
        (other.epoch, other.next) <= (self.epoch, self.next)
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(PIECE_BYTES_MAX)
    }

    pub(crate) fn piece_count(&self) -> usize {
        self.bytes.len().div_ceil(PIECE_BYTES_MAX)
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Rows by the key of [`key_bytes`].
pub(crate) type Rows = BTreeMap<Vec<u8>, Row>;

/// The key of a row, without its piece.
pub(crate) fn key_bytes(key: &PositionKey) -> Vec<u8> {
    let PositionKey { shard, partition } = key;
    let mut bytes = shard.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(partition.topic.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&partition.partition.to_be_bytes());
    bytes
}

/// The key of one piece of a row.
pub(crate) fn piece_key(key: &[u8], piece: usize) -> Vec<u8> {
    let piece = u16::try_from(piece).expect("16 MiB, the codec's limit, are 512 pieces");
    let mut bytes = key.to_vec();
    bytes.extend_from_slice(&piece.to_be_bytes());
    bytes
}

/// What [`key_bytes`] turned into bytes.
pub(crate) fn parse_key(bytes: &[u8]) -> Result<PositionKey, Error> {
    let parsed = || {
        let (shard, rest) = bytes.split_first_chunk::<8>()?;
        let (rest, partition) = rest.split_last_chunk::<4>()?;
        let topic = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
        let partition = TopicPartition::new(topic, i32::from_be_bytes(*partition));
        Some(PositionKey { shard: ShardId(u64::from_be_bytes(*shard)), partition })
    };
    parsed().ok_or_else(|| damaged(format!("a key of {} bytes", bytes.len())))
}

/// Joins pieces, in key order, to rows. Every row is decoded once.
pub(crate) fn join(
    pieces: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), Error>>,
) -> Result<Rows, Error> {
    let mut joined: Vec<(Vec<u8>, Vec<u8>, u16)> = Vec::new();
    for pair in pieces {
        let (mut key, value) = pair?;
        let piece = split_piece(&mut key)?;
        match joined.last_mut() {
            Some((last, bytes, pieces)) if *last == key => {
                if piece != *pieces {
                    return Err(damaged(format!("piece {piece} follows piece {pieces}")));
                }
                *pieces += 1;
                bytes.extend(value);
            }
            _ if piece == 0 => joined.push((key, value, 1)),
            _ => return Err(damaged(format!("piece {piece} comes first"))),
        }
    }
    let rows = joined.into_iter().map(|(key, bytes, _)| {
        parse_key(&key)?;
        Ok((key, Row::decode(bytes)?))
    });
    rows.collect()
}

/// Cuts the piece off a key.
fn split_piece(key: &mut Vec<u8>) -> Result<u16, Error> {
    let Some(piece) = key.last_chunk::<2>().map(|piece| u16::from_be_bytes(*piece)) else {
        return Err(damaged(format!("a key of {} bytes", key.len())));
    };
    key.truncate(key.len() - 2);
    Ok(piece)
}

/// A position as it was before there were suspects.
#[derive(Deserialize)]
struct Former {
    epoch: Epoch,
    next: Offset,
    completions: Completions,
}

fn decode_position(bytes: &[u8]) -> Result<Position, Error> {
    let position: Position = codec::decode_large(bytes).or_else(|error| {
        let former = codec::decode_large(bytes).map_err(|_| damaged(error.to_string()))?;
        let Former { epoch, next, completions } = former;
        Ok(Position { epoch, next, completions, suspects: None })
    })?;
    let ranges = position.completions.ranges();
    let ascend = ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0);
    if !ascend || ranges.iter().any(|(start, end)| end <= start) {
        return Err(damaged(format!("completions {ranges:?}")));
    }
    Ok(position)
}

fn damaged(reason: String) -> Error {
    Error::Damaged { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_before_there_were_suspects_are_read() {
        let completions = Completions::from_ranges([(Offset(7), Offset(9))]);
        let former = codec::encode_large(&(Epoch(3), Offset(5), completions.clone())).unwrap();
        let position = Position { epoch: Epoch(3), next: Offset(5), completions, suspects: None };
        assert_eq!(decode_position(&former).unwrap(), position);
        assert!(decode_position(&former[..former.len() - 1]).is_err());
    }
}
