//! A pure core: join tokens. Each is for one joiner and a limited time, names the CA that the
//! joiner has to find, and is kept as a hash only.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::certificate::Trust;
use crate::identity::{Fingerprint, Life};
use crate::keyfile::KeyError;
use crate::refusal::Refusal;

/// Bytes of the secret: 128 bits.
const SECRET: usize = 16;
/// How long a token is remembered after its end, so that it is refused by its own name.
const REMEMBERED_SECONDS: u64 = 7 * 24 * 3_600;

/// `mrj1-<SHA-256 of the CA's key>-<secret>`, both in hexadecimal. Its debug form hides the secret;
/// [`Display`](fmt::Display) shows it, for the operator who carries it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    ca: Fingerprint,
    secret: [u8; SECRET],
}

impl Token {
    /// One of this CA, from 128 random bits.
    #[must_use]
    pub const fn new(ca: Fingerprint, random: [u8; SECRET]) -> Self {
        Self { ca, secret: random }
    }

    /// The CA that the other side has to show before it is told the secret.
    #[must_use]
    pub const fn ca(&self) -> Fingerprint {
        self.ca
    }

    /// What is kept of it. The CA is part of it: a secret is nothing under another one.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"millrace join token 1\0");
        hash.update(self.ca.0);
        hash.update(self.secret);
        hash.finalize().into()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mrj1-{}-", self.ca)?;
        self.secret.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mrj1-{}-***", self.ca)
    }
}

impl FromStr for Token {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let parse = || {
            let (ca, secret) = text.strip_prefix("mrj1-")?.split_once('-')?;
            Some(Self { ca: Fingerprint(hexadecimal(ca)?), secret: hexadecimal(secret)? })
        };
        parse().ok_or(KeyError::Name)
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

#[derive(Clone, Debug)]
struct Entry {
    hash: [u8; 32],
    until: u64,
    is_used: bool,
}

/// What the issuer knows of its tokens.
#[derive(Clone, Debug, Default)]
pub struct TokenBook(Vec<Entry>);

impl TokenBook {
    /// Tokens kept at most, those that are over among them.
    pub const MAX: usize = 1_024;

    /// Makes a token of `ca` that holds for `life`, from 128 random bits; `None` while the book is
    /// full.
    pub fn mint(&mut self, ca: Fingerprint, life: Life, random: [u8; SECRET]) -> Option<Token> {
        self.0.retain(|entry| life.from < entry.until.saturating_add(REMEMBERED_SECONDS));
        if Self::MAX <= self.0.len() {
            return None;
        }
        let token = Token::new(ca, random);
        self.0.push(Entry { hash: token.hash(), until: life.until, is_used: false });
        Some(token)
    }

    /// Takes a token in at `now` (Unix seconds): it counts as used from here on.
    ///
    /// # Errors
    ///
    /// [`Refusal::ForeignToken`], [`Refusal::UnknownToken`], [`Refusal::UsedToken`],
    /// [`Refusal::ExpiredToken`]; such a try changes nothing.
    pub fn redeem(&mut self, token: &Token, trust: &Trust, now: u64) -> Result<(), Refusal> {
        if !trust.cas().iter().any(|ca| ca.fingerprint() == token.ca) {
            return Err(Refusal::ForeignToken);
        }
        let hash = token.hash();
        // Every entry is looked at, each in constant time: how long it takes says nothing.
        let mut found = None;
        for entry in &mut self.0 {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(entry);
            }
        }
        let entry = found.ok_or(Refusal::UnknownToken)?;
        if entry.is_used {
            return Err(Refusal::UsedToken);
        }
        if entry.until <= now {
            return Err(Refusal::ExpiredToken);
        }
        entry.is_used = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Authority;

    fn trust() -> (Trust, Fingerprint) {
        let ca = Authority::create("mill", Life::new(0, 10_000)).unwrap();
        let fingerprint = ca.certificate().fingerprint();
        (Trust::new(vec![ca.certificate().clone()]).unwrap(), fingerprint)
    }

    #[test]
    fn a_token_is_taken_once_and_in_its_time() {
        let ((trust, ca), mut book) = (trust(), TokenBook::default());
        let token = book.mint(ca, Life::new(100, 10), [7; 16]).unwrap();
        let late = book.mint(ca, Life::new(100, 10), [8; 16]).unwrap();

        assert_eq!(book.redeem(&token, &trust, 109), Ok(()));
        assert_eq!(book.redeem(&token, &trust, 109), Err(Refusal::UsedToken));
        assert_eq!(book.redeem(&late, &trust, 110), Err(Refusal::ExpiredToken));
        assert_eq!(book.redeem(&late, &trust, 109), Ok(()), "being refused used nothing up");
    }

    #[test]
    fn a_token_that_was_not_made_here_is_named() {
        let ((trust, ca), mut book) = (trust(), TokenBook::default());
        let made_up = Token { ca, secret: [9; 16] };
        assert_eq!(book.redeem(&made_up, &trust, 0), Err(Refusal::UnknownToken));
        let foreign = book.mint(Fingerprint([1; 32]), Life::new(0, 10), [7; 16]).unwrap();
        assert_eq!(book.redeem(&foreign, &trust, 0), Err(Refusal::ForeignToken));
        let under_another = Token { ca, ..foreign };
        assert_eq!(book.redeem(&under_another, &trust, 0), Err(Refusal::UnknownToken));
    }

    #[test]
    fn the_text_of_a_token_is_read_back_and_nothing_else_is() {
        let token = Token { ca: Fingerprint([0xab; 32]), secret: [0xcd; 16] };
        let text = token.to_string();
        assert_eq!(text.parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains("cd"), "the debug form hides the secret");
        for bad in ["", "mrj1-", "mrj1-ab-cd", &text[..text.len() - 1], &text.replace("cd", "+d")] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_full_book_makes_room_only_for_what_is_long_over() {
        let ((_, ca), mut book) = (trust(), TokenBook::default());
        for number in 0..TokenBook::MAX {
            let mut random = [0; 16];
            random[..8].copy_from_slice(&number.to_le_bytes());
            assert!(book.mint(ca, Life::new(0, 10), random).is_some());
        }
        assert!(book.mint(ca, Life::new(10, 10), [7; 16]).is_none());
        assert!(book.mint(ca, Life::new(10 + REMEMBERED_SECONDS, 10), [7; 16]).is_some());
        assert_eq!(book.0.len(), 1);
    }
}
