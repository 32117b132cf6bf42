//! Durations and sizes as people write them in a manifest: a number with its unit.
//! A number without a unit is refused, so that nobody has to guess which one was meant.

use std::time::Duration;

/// Why a text is no duration or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing there, or no digit at its start.
    #[error("{text:?} does not start with a number")]
    NoNumber {
        /// What was written.
        text: String,
    },
    /// A number without a unit.
    #[error("{text:?} has no unit; units are {units}")]
    NoUnit {
        /// What was written.
        text: String,
        /// The units there are.
        units: &'static str,
    },
    /// A unit that is none.
    #[error("{unit:?} is no unit; units are {units}")]
    UnknownUnit {
        /// The unit as written.
        unit: String,
        /// The units there are.
        units: &'static str,
    },
    /// More than fits.
    #[error("{text:?} is too large")]
    TooLarge {
        /// What was written.
        text: String,
    },
}

/// The units of [`parse_duration`], smallest first, in milliseconds.
const DURATIONS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const DURATION_UNITS: &str = "ms, s, m, h, d";

/// The units of [`parse_bytes`], smallest first.
const SIZES: [(&str, u64); 8] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
const SIZE_UNITS: &str = "B, kB, KiB, MB, MiB, GB, GiB, TiB";

/// Parses `"200ms"`, `"10s"`, `"5m"`, `"1h"`, `"7d"`, or several in one: `"1h30m"`.
///
/// # Errors
///
/// [`UnitError`], among others for a number without a unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let too_large = || UnitError::TooLarge { text: text.to_owned() };
    let mut millis: u64 = 0;
    let mut rest = text.trim();
    loop {
        let (number, unit, after) = next_part(text, rest, DURATION_UNITS)?;
        let scale = DURATIONS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
        let scale = scale.ok_or_else(|| unknown(unit, DURATION_UNITS))?;
        let part = number.checked_mul(scale).ok_or_else(too_large)?;
        millis = millis.checked_add(part).ok_or_else(too_large)?;
        rest = after;
        if rest.is_empty() {
            return Ok(Duration::from_millis(millis));
        }
    }
}

/// Parses `"64MiB"`, `"1GB"`, `"500B"`.
///
/// # Errors
///
/// [`UnitError`], among others for a number without a unit.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    let (number, unit, after) = next_part(text, text.trim(), SIZE_UNITS)?;
    if !after.is_empty() {
        return Err(unknown(&format!("{unit}{after}"), SIZE_UNITS));
    }
    let scale = SIZES.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let scale = scale.ok_or_else(|| unknown(unit, SIZE_UNITS))?;
    number.checked_mul(scale).ok_or_else(|| UnitError::TooLarge { text: text.to_owned() })
}

/// The first number and unit of `rest`, and what follows them.
fn next_part<'a>(
    text: &str,
    rest: &'a str,
    units: &'static str,
) -> Result<(u64, &'a str, &'a str), UnitError> {
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (number, rest) = rest.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber { text: text.to_owned() });
    }
    let number = number.parse().map_err(|_| UnitError::TooLarge { text: text.to_owned() })?;
    let rest = rest.trim_start();
    let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    let unit = unit.trim_end();
    if unit.is_empty() {
        return Err(UnitError::NoUnit { text: text.to_owned(), units });
    }
    Ok((number, unit, after))
}

fn unknown(unit: &str, units: &'static str) -> UnitError {
    UnitError::UnknownUnit { unit: unit.to_owned(), units }
}

/// A duration in the largest unit that divides it: `90s` is `"90s"`, `3600s` is `"1h"`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    in_largest(millis, &DURATIONS)
}

/// A size in the largest binary unit that divides it: `65536` is `"64KiB"`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const BINARY: [(&str, u64); 5] =
        [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    in_largest(bytes, &BINARY)
}

fn in_largest(number: u64, units: &[(&str, u64)]) -> String {
    let divides = |&&(_, scale): &&(&str, u64)| number != 0 && number.is_multiple_of(scale);
    let (unit, scale) = units.iter().rev().find(divides).unwrap_or(&units[0]);
    format!("{}{unit}", number / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration(" 7 d "), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "10", "s", "10 parsecs", "1.5s", "-1s", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("18446744073709551615d").is_err(), "overflow is an error");
    }

    #[test]
    fn sizes_carry_units() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1 GB"), Ok(1_000_000_000));
        for bad in ["", "64", "MiB", "64mib", "1MiB2", "1MiB2KiB", "18446744073709551615TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for millis in [0, 1, 999, 1_000, 90_000, 3_600_000, 86_400_000, 86_400_001] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1_000, 1_024, 64 << 20, (1 << 30) + 1] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_bytes(64 << 20), "64MiB");
    }
}
