//! A pure core: from when to when a certificate holds, by its own bytes (RFC 5280 section 4.1.2.5):
//! webpki checks that and does not say it.

use crate::identity::Life;

/// DER's tags (X.690 section 8).
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The life of a certificate; `None` for bytes that are none.
pub(crate) fn life(certificate: &[u8]) -> Option<Life> {
    let (tbs, _) = of(SEQUENCE, of(SEQUENCE, certificate)?.0)?;
    let (tag, _, behind) = element(tbs)?;
    let rest = if tag == VERSION { behind } else { tbs };
    // A serial number, an algorithm, an issuer.
    let rest = (0..3).try_fold(rest, |rest, _| element(rest).map(|it| it.2))?;
    let (times, _) = of(SEQUENCE, rest)?;
    let (tag, from, rest) = element(times)?;
    let from = seconds(tag, from)?;
    let (tag, until, _) = element(rest)?;
    // X.509's end belongs to it.
    Some(Life { from, until: seconds(tag, until)?.checked_add(1)? })
}

/// The first element: its tag, what is in it, and what is behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
        _ => return None,
    };
    let (inside, behind) = rest.split_at_checked(length)?;
    Some((tag, inside, behind))
}

/// The first element, if it is of this kind: what is in it and behind it.
fn of(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, inside, behind) = element(bytes)?;
    (found == tag).then_some((inside, behind))
}

/// Unix seconds of `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn seconds(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: u64 = number(year)?;
            // RFC 5280 section 4.1.2.5.1.
            (if year < 50 { 2_000 + year } else { 1_900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let mut parts = [0_u64; 5];
    if rest.len() != 2 * parts.len() {
        return None;
    }
    for (index, part) in parts.iter_mut().enumerate() {
        *part = number(rest.get(2 * index..2 * index + 2)?)?;
    }
    let [month, day, hour, minute, second] = parts;
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && 1_970 <= year;
    let days = is_date.then(|| days_since_1970(year, month, day))?;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|it| it.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March.
const fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Authority;

    #[test]
    fn a_life_is_what_the_certificate_was_made_with() {
        // Times before 2050 are written in another way than those after.
        for life in [
            Life::new(0, 10),
            Life::new(951_782_400, 86_400),
            Life::new(1_700_000_003, 10 * 365 * 24 * 3_600),
            Life::new(2_524_607_999, 100 * 365 * 24 * 3_600),
        ] {
            let ca = Authority::create("mill", life).unwrap();
            assert_eq!(super::life(ca.certificate().der()), Some(life));
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_life_and_harm_nobody() {
        let ca = Authority::create("mill", Life::new(0, 10)).unwrap();
        let der = ca.certificate().der();
        for cut in 0..80 {
            assert_eq!(life(&der[..cut]), None, "{cut}");
        }
        let mut rng = 7_u64;
        for _ in 0..20_000 {
            let mut bytes = der[..120].to_vec();
            for _ in 0..3 {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (rng >> 33) as usize % bytes.len();
                bytes[at] = (rng >> 40) as u8;
            }
            let _whatever = life(&bytes);
        }
    }
}
