//! A pure core: what a subscriber has to show, and the CA that the node has to show before.
//!
//! ```text
//! mrs1-<SHA-256 of the CA's key>-<id>-<secret>       all in hexadecimal
//! ```

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

/// Bytes of a secret: 256 bits.
const SECRET: usize = 32;

/// SHA-256 of the key of a cluster's CA (SubjectPublicKeyInfo in DER).
pub type CaDigest = [u8; 32];

/// What a token names of a CA's key.
#[must_use]
pub fn digest(spki: &[u8]) -> CaDigest {
    Sha256::digest(spki).into()
}

/// What a token is listed and revoked by; it is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u32);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        hexadecimal(text).map(|bytes| Self(u32::from_be_bytes(bytes))).ok_or(TokenError)
    }
}

/// A text that is no token of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no token of a subscriber: it begins with mrs1- and is what `millrace token create` printed"
)]
pub struct TokenError;

/// See the [module documentation](self). Its debug form hides the secret; [`Display`](fmt::Display)
/// shows it.
#[derive(Clone)]
pub struct Token {
    ca: CaDigest,
    id: TokenId,
    secret: [u8; SECRET],
}

impl Token {
    /// One of this CA, from 256 random bits.
    #[must_use]
    pub const fn new(ca: CaDigest, id: TokenId, random: [u8; SECRET]) -> Self {
        Self { ca, id, secret: random }
    }

    /// The CA that the node has to show before it is told the secret.
    #[must_use]
    pub const fn ca(&self) -> &CaDigest {
        &self.ca
    }

    /// What it is listed by.
    #[must_use]
    pub const fn id(&self) -> TokenId {
        self.id
    }

    /// What crosses.
    #[must_use]
    pub const fn secret(&self) -> &[u8; SECRET] {
        &self.secret
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Self::hash_of(self.id, &self.secret)
    }

    /// What is kept of a token with this id and secret.
    #[must_use]
    pub fn hash_of(id: TokenId, secret: &[u8; SECRET]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"millrace subscriber token 1\0");
        hash.update(id.0.to_be_bytes());
        hash.update(secret);
        hash.finalize().into()
    }

    /// Whether two hashes are the same, in a time that says nothing of where they differ.
    #[must_use]
    pub fn is_same(kept: &[u8; 32], shown: &[u8; 32]) -> bool {
        kept.ct_eq(shown).into()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mrs1-")?;
        self.ca.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{}-", self.id)?;
        self.secret.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mrs1-...-{}-***", self.id)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parse = || {
            let mut parts = text.trim().strip_prefix("mrs1-")?.split('-');
            let (ca, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
            let token =
                Self { ca: hexadecimal(ca)?, id: id.parse().ok()?, secret: hexadecimal(secret)? };
            parts.next().is_none().then_some(token)
        };
        parse().ok_or(TokenError)
    }
}

fn hexadecimal<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|it| it.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_its_text_and_hides_its_secret() {
        let token = Token::new([7; 32], TokenId(0x00a1_b2c3), [9; 32]);
        let text = token.to_string();
        let read: Token = format!(" {text}\n").parse().unwrap();
        assert_eq!((read.ca(), read.id(), read.secret()), (&[7; 32], token.id(), &[9; 32]));
        assert!(!format!("{token:?}").contains("0909"), "{token:?}");
        assert_eq!("00a1b2c3".parse(), Ok(TokenId(0x00a1_b2c3)));
        for bad in ["", "mrs1-", &text[1..], &text[..text.len() - 1], &format!("{text}-00")] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_hash_is_of_both_id_and_secret() {
        let hash = |id, secret| Token::new([0; 32], TokenId(id), [secret; 32]).hash();
        assert!(Token::is_same(&hash(1, 2), &hash(1, 2)));
        assert!(!Token::is_same(&hash(1, 2), &hash(2, 2)));
        assert!(!Token::is_same(&hash(1, 2), &hash(1, 3)));
    }
}
