//! Turns values into bytes and back. The only place that names bincode.
//!
//! ```text
//! byte 0     version of the layout
//! byte 1..5  CRC-32C of what follows, little endian
//! byte 5..   the value, fixed-width little-endian integers
//! ```
//!
//! Decoding never panics, never allocates more than its limit and refuses what it does not know,
//! so bytes from disk or from a peer may be handed to it as they are.

use bincode::config::{self, Config};
use bincode::error::{DecodeError, EncodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The layout this version writes.
const VERSION: u8 = 1;

/// Version and checksum.
const HEAD_BYTES: usize = 5;

/// The largest value of [`encode`]: 64 KiB, above which sled writes files that it never syncs.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The largest value of [`encode_large`]: 16 MiB, for what is not kept in sled.
pub const LARGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The largest value of [`encode_snapshot`]: 256 MiB.
pub const SNAPSHOT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Why a value and its bytes did not meet.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value has no serialised form.
    #[error("no serialised form")]
    Encode(#[source] EncodeError),
    /// The value is over the limit.
    #[error("{bytes} bytes, more than {limit_bytes}")]
    TooLarge {
        /// How large it is.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The first byte names a version this node does not know, or there is none.
    #[error("unknown version {0:?}")]
    Version(Option<u8>),
    /// The bytes are not those that were written.
    #[error("wrong checksum")]
    Checksum,
    /// The bytes are not this kind of value.
    #[error("not this kind of value")]
    Decode(#[source] DecodeError),
    /// The value ended before its bytes did.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// The bytes of `value`, at most [`VALUE_BYTES_MAX`].
///
/// # Errors
///
/// [`CodecError::Encode`] and [`CodecError::TooLarge`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within::<VALUE_BYTES_MAX, T>(value)
}

/// The value that [`encode`] turned into `bytes`.
///
/// # Errors
///
/// Every variant but [`CodecError::Encode`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within::<VALUE_BYTES_MAX, T>(bytes)
}

/// The bytes of `value`, at most [`LARGE_BYTES_MAX`]: commands of the cluster.
///
/// # Errors
///
/// [`CodecError::Encode`] and [`CodecError::TooLarge`].
pub fn encode_large<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within::<LARGE_BYTES_MAX, T>(value)
}

/// The value that [`encode_large`] turned into `bytes`.
///
/// # Errors
///
/// Every variant but [`CodecError::Encode`].
pub fn decode_large<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within::<LARGE_BYTES_MAX, T>(bytes)
}

/// The bytes of `value`, at most [`SNAPSHOT_BYTES_MAX`]: a whole state.
///
/// # Errors
///
/// [`CodecError::Encode`] and [`CodecError::TooLarge`].
pub fn encode_snapshot<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within::<SNAPSHOT_BYTES_MAX, T>(value)
}

/// The value that [`encode_snapshot`] turned into `bytes`.
///
/// # Errors
///
/// Every variant but [`CodecError::Encode`].
pub fn decode_snapshot<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within::<SNAPSHOT_BYTES_MAX, T>(bytes)
}

/// As [`encode_large`], for a value whose layout has versions of its own: byte 0 says which.
///
/// # Errors
///
/// As [`encode_large`].
pub fn encode_large_as<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within::<LARGE_BYTES_MAX, T>(value).map(|bytes| stamped(bytes, version))
}

/// The value that [`encode_large_as`] turned into `bytes` under this version.
///
/// # Errors
///
/// As [`decode_large`].
pub fn decode_large_as<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, CodecError> {
    decode_at::<LARGE_BYTES_MAX, T>(version, bytes)
}

/// As [`encode_snapshot`], for a value whose layout has versions of its own.
///
/// # Errors
///
/// As [`encode_snapshot`].
pub fn encode_snapshot_as<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within::<SNAPSHOT_BYTES_MAX, T>(value).map(|bytes| stamped(bytes, version))
}

/// The value that [`encode_snapshot_as`] turned into `bytes` under this version.
///
/// # Errors
///
/// As [`decode_snapshot`].
pub fn decode_snapshot_as<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, CodecError> {
    decode_at::<SNAPSHOT_BYTES_MAX, T>(version, bytes)
}

/// Under which version a value was encoded, whether or not it can be read here.
#[must_use]
pub const fn version_of(bytes: &[u8]) -> Option<u8> {
    bytes.first().copied()
}

fn stamped(mut bytes: Vec<u8>, version: u8) -> Vec<u8> {
    bytes[0] = version;
    bytes
}

fn encode_within<const LIMIT: usize, T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    bincode::serde::encode_into_std_write(value, &mut bytes, layout::<LIMIT>())
        .map_err(CodecError::Encode)?;
    if LIMIT < bytes.len() {
        return Err(CodecError::TooLarge { bytes: bytes.len(), limit_bytes: LIMIT });
    }
    let checksum = crc32c::crc32c(&bytes[HEAD_BYTES..]);
    bytes[1..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

fn decode_within<const LIMIT: usize, T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_at::<LIMIT, T>(VERSION, bytes)
}

fn decode_at<const LIMIT: usize, T: DeserializeOwned>(
    version: u8,
    bytes: &[u8],
) -> Result<T, CodecError> {
    if LIMIT < bytes.len() {
        return Err(CodecError::TooLarge { bytes: bytes.len(), limit_bytes: LIMIT });
    }
    match version_of(bytes) {
        Some(found) if found == version => {}
        other => return Err(CodecError::Version(other)),
    }
    let Some((checksum, body)) = bytes[1..].split_first_chunk::<4>() else {
        return Err(CodecError::Checksum);
    };
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(body) {
        return Err(CodecError::Checksum);
    }
    let (value, used) =
        bincode::serde::decode_from_slice(body, layout::<LIMIT>()).map_err(CodecError::Decode)?;
    if used < body.len() {
        return Err(CodecError::Trailing(body.len() - used));
    }
    Ok(value)
}

fn layout<const LIMIT: usize>() -> impl Config {
    config::standard().with_fixed_int_encoding().with_limit::<LIMIT>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(crc32c::crc32c(body).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn the_bytes_of_version_1_stay_as_they_are() {
        let bytes = encode(&(7_u16, vec![9_u8])).unwrap();
        assert_eq!(bytes, [1, 40, 231, 60, 204, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(decode::<(u16, Vec<u8>)>(&bytes).unwrap(), (7, vec![9]));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        assert!(matches!(decode::<u8>(&[]), Err(CodecError::Version(None))));
        assert!(matches!(decode::<u8>(&[9, 1]), Err(CodecError::Version(Some(9)))));
        assert!(matches!(decode::<u8>(&[1, 1, 2]), Err(CodecError::Checksum)));
        assert!(matches!(decode::<u8>(&sealed(&[1, 2])), Err(CodecError::Trailing(1))));
        let endless = sealed(&[255, 255, 255, 255, 255, 255, 255, 127]);
        assert!(matches!(decode::<Vec<u64>>(&endless), Err(CodecError::Decode(_))));
    }

    #[test]
    fn a_value_says_under_which_version_it_was_encoded_and_no_other_reads_it() {
        let bytes = encode_large_as(7, &9_u16).unwrap();
        assert_eq!(version_of(&bytes), Some(7));
        assert_eq!(decode_large_as::<u16>(7, &bytes).unwrap(), 9);
        assert!(matches!(decode_large_as::<u16>(8, &bytes), Err(CodecError::Version(Some(7)))));
        assert!(matches!(decode_large::<u16>(&bytes), Err(CodecError::Version(Some(7)))));
        assert_eq!(encode_large_as(1, &9_u16).unwrap(), encode_large(&9_u16).unwrap());
        let bytes = encode_snapshot_as(2, &9_u16).unwrap();
        assert_eq!(decode_snapshot_as::<u16>(2, &bytes).unwrap(), 9);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = encode(&("a topic", 7_u64, vec![1_i64, 2, 3])).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(String, u64, Vec<i64>)>(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode::<(String, u64, Vec<i64>)>(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_value_over_the_limit_is_refused_both_ways() {
        let large = vec![0_u8; VALUE_BYTES_MAX];
        assert!(matches!(encode(&large), Err(CodecError::TooLarge { .. })));
        let bytes = encode_large(&large).unwrap();
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::TooLarge { .. })));
        assert_eq!(decode_large::<Vec<u8>>(&bytes).unwrap(), large);
    }
}
