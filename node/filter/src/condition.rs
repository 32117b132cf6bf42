//! A single condition on a single value of an event.

use std::net::IpAddr;

use crate::wildcard::Wildcard;

/// A value of an event that has no parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Text(&'a str),
    /// Bytes that are no text, where one was expected: no text is equal to them.
    Bytes,
    Number(Number),
    Bool(bool),
    Null,
}

/// A number of JSON. Whole ones keep all their digits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Whole(i128),
    Double(f64),
}

impl Number {
    /// The number that JSON's library read.
    pub(crate) fn of(number: &serde_json::Number) -> Self {
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        whole.map_or_else(|| Self::Double(number.as_f64().unwrap_or(f64::NAN)), Self::Whole)
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers are compared as doubles")]
    pub(crate) const fn double(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Double(double) => double,
        }
    }

    /// 300 is 300.0; beyond 2^53, where doubles are no longer exact, only equal digits are equal.
    fn equals(self, other: Self) -> bool {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one == other,
            (Self::Double(one), Self::Double(other)) => one == other,
            (one, other) => {
                let (one, other) = (one.double(), other.double());
                one == other && one.abs() < 9_007_199_254_740_992.0
            }
        }
    }
}

/// A bound of a range, and whether it is part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bound {
    pub(crate) at: f64,
    pub(crate) included: bool,
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    /// `10.0.0.0/8`, `2001:db8::/32`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = text.split_once('/').ok_or("it has no `/`")?;
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is no address"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| *bits <= most)
            .ok_or_else(|| format!("`{bits}` is no number of bits from 0 to {most}"))?;
        let network = Self { address, bits };
        if network.part(address) == whole(address) {
            return Ok(network);
        }
        Err(format!("{address} has bits set beyond the first {bits}"))
    }

    /// The address alone.
    fn host(address: IpAddr) -> Self {
        Self { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    fn part(&self, address: IpAddr) -> u128 {
        let least = if address.is_ipv4() { 128 - 32 + self.bits } else { self.bits };
        whole(address) & u128::MAX.checked_shl(128 - least).unwrap_or(0)
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && self.part(address) == whole(self.address)
    }
}

fn whole(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(it) => u128::from(it.to_bits()),
        IpAddr::V6(it) => it.to_bits(),
    }
}

/// What a value can be asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    Text(Box<str>),
    /// A text that is an address, however it is written.
    Address(Network),
    Number(Number),
    Bool(bool),
    Null,
    Prefix(Box<str>),
    PrefixFolded(Box<str>),
    Suffix(Box<str>),
    SuffixFolded(Box<str>),
    TextFolded(Box<str>),
    Wildcard(Wildcard),
    Within(Option<Bound>, Option<Bound>),
    Network(Network),
    /// Any value.
    Exists,
    /// A value that meets none of these.
    AnythingBut(Vec<Self>),
}

impl Condition {
    /// Equal to this text, or to the address that it is.
    pub(crate) fn texts(text: &str) -> Vec<Self> {
        let mut all = vec![Self::Text(text.into())];
        if let Ok(address) = text.parse() {
            all.push(Self::Address(Network::host(address)));
        }
        all
    }

    pub(crate) fn holds(&self, value: Scalar<'_>) -> bool {
        use Scalar as S;
        match (self, value) {
            (Self::Exists, _) => true,
            (Self::AnythingBut(none), value) => !none.iter().any(|it| it.holds(value)),
            (Self::Text(wanted), S::Text(text)) => text == &**wanted,
            (Self::Prefix(wanted), S::Text(text)) => text.starts_with(&**wanted),
            (Self::Suffix(wanted), S::Text(text)) => text.ends_with(&**wanted),
            (Self::TextFolded(wanted), S::Text(text)) => {
                starts_with_folded(wanted.chars(), text.chars()) == Some(true)
            }
            (Self::PrefixFolded(wanted), S::Text(text)) => {
                starts_with_folded(wanted.chars(), text.chars()).is_some()
            }
            (Self::SuffixFolded(wanted), S::Text(text)) => {
                starts_with_folded(wanted.chars().rev(), text.chars().rev()).is_some()
            }
            (Self::Wildcard(wanted), S::Text(text)) => wanted.matches(text),
            (Self::Address(network) | Self::Network(network), S::Text(text)) => {
                text.parse().is_ok_and(|address| network.contains(address))
            }
            (Self::Number(wanted), S::Number(number)) => wanted.equals(number),
            (Self::Within(least, most), S::Number(number)) => {
                let number = number.double();
                least.is_none_or(|it| it.at < number || it.included && it.at == number)
                    && most.is_none_or(|it| number < it.at || it.included && it.at == number)
            }
            (Self::Bool(wanted), S::Bool(it)) => *wanted == it,
            (Self::Null, S::Null) => true,
            _ => false,
        }
    }
}

/// Whether nothing follows, if `text` begins with `wanted`, whatever the case.
fn starts_with_folded(
    wanted: impl Iterator<Item = char>,
    mut text: impl Iterator<Item = char>,
) -> Option<bool> {
    for one in wanted {
        text.next().filter(|other| is_same_letter(one, *other))?;
    }
    Some(text.next().is_none())
}

/// The same but for its case, letter by letter, in no language's way.
fn is_same_letter(one: char, other: char) -> bool {
    one == other
        || one.eq_ignore_ascii_case(&other)
        || !(one.is_ascii() && other.is_ascii())
            && (one.to_lowercase().eq(other.to_lowercase())
                || one.to_uppercase().eq(other.to_uppercase()))
}
