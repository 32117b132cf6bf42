//! A pure core: what the trace of a batch is. Which contexts of its records the invocation goes on
//! from or links to, whether it is sampled, and what its outputs carry.
//!
//! - **TR-1** every record with a context has its link, with its place, up to [`LINKS_MAX`]; what is
//!   left out is counted.
//! - **TR-2** a batch whose records all carry one and the same context is part of that trace; any
//!   other begins a trace of its own and is tied to theirs by links.
//! - **TR-3** a batch is sampled when a record of it is, or when records without a context come
//!   with a drawn trace id that the ratio takes; what is not sampled carries nothing.

use std::fmt;

use bus::{Headers, Offset};

use crate::{End, Outcome};

/// The header of a trace context, W3C Trace Context section 3.2, as UTF-8 on a record.
pub const TRACEPARENT: &str = "traceparent";
/// What vendors add to it, section 3.3.
pub const TRACESTATE: &str = "tracestate";

/// Links of one span. A batch may have more records; a collector has use for fewer.
pub const LINKS_MAX: usize = 1_024;
/// Section 3.3.1.1 asks for 512 characters at least; a record's header is not to grow further.
const STATE_BYTES_MAX: usize = 512;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const TEXT_BYTES: usize = 55;
/// What both headers add to an output at most: names, values, four lengths.
pub(crate) const HEADER_BYTES: usize =
    TRACEPARENT.len() + TEXT_BYTES + TRACESTATE.len() + STATE_BYTES_MAX + 16;

/// Where in which trace something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never all zeros.
    pub trace: [u8; 16],
    /// The span; never all zeros.
    pub span: [u8; 8],
    /// Whether somebody keeps it.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`; `None` for what the standard calls invalid. Of a later version than
    /// 00 it takes what version 00 knows.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let [version] = hex(value.get(..2)?)?;
        let may_end = match version {
            0 => value.len() == TEXT_BYTES,
            0xff => false,
            _ => value.get(TEXT_BYTES).is_none_or(|it| *it == b'-'),
        };
        let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
        if !may_end || !dashes {
            return None;
        }
        let (trace, span) = (hex(&value[3..35])?, hex(&value[36..52])?);
        let [flags] = hex(value.get(53..TEXT_BYTES)?)?;
        let is_none = trace == [0; 16] || span == [0; 8];
        (!is_none).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace), u64::from_be_bytes(self.span));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.sampled))
    }
}

/// `2 N` lower-case digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |it: u8| match it {
        b'0'..=b'9' => Some(it - b'0'),
        b'a'..=b'f' => Some(it - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// How many traces of those that begin here are kept: 0 to 1. Who comes with a context brings the
/// decision along.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    /// `None` unless it is from 0 to 1.
    #[must_use]
    pub fn new(ratio: f64) -> Option<Self> {
        (0.0..=1.0).contains(&ratio).then_some(Self(ratio))
    }

    /// From 0 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// As OpenTelemetry's `TraceIdRatioBased`: every node decides alike on a trace.
    fn takes(self, trace: [u8; 16]) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace;
        let drawn = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        drawn < (self.0 * (1_u64 << 63) as f64) as u64
    }
}

/// A record that the span is tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its own context.
    pub context: TraceContext,
    /// Index of its partition in the shard.
    pub partition: u32,
    /// Where it lies there.
    pub offset: Offset,
}

/// What a sampled batch is in its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchTrace {
    /// Of the invocation; outputs carry it.
    pub context: TraceContext,
    /// What it goes on from.
    pub parent: Option<TraceContext>,
    /// What vendors said of the parent.
    pub state: String,
    /// The records that came with a context, in the order of the batch.
    pub links: Vec<Link>,
    /// Links beyond [`LINKS_MAX`].
    pub links_left_out: u32,
}

impl BatchTrace {
    /// Of a batch: index of the partition, offset and headers of each record. `drawn` are a trace
    /// and a span id at random, not all zeros.
    pub(crate) fn of<'a>(
        records: impl Iterator<Item = (u32, Offset, Headers<'a>)>,
        ratio: Ratio,
        drawn: ([u8; 16], [u8; 8]),
    ) -> Option<Self> {
        let (mut links, mut links_left_out) = (Vec::new(), 0);
        let (mut sampled, mut alone, mut same) = (false, false, true);
        let mut first: Option<(TraceContext, Headers<'a>)> = None;
        for (partition, offset, headers) in records {
            let Some(context) = context_of(headers) else {
                alone = true;
                continue;
            };
            sampled |= context.sampled;
            let (known, _) = first.get_or_insert((context, headers));
            same &= *known == context;
            if links.len() < LINKS_MAX {
                links.push(Link { context, partition, offset });
            } else {
                links_left_out += 1;
            }
        }
        let is_traced = sampled || alone && ratio.takes(drawn.0);
        if !is_traced {
            return None;
        }
        let parent = first.filter(|_| same && !alone);
        let trace = parent.map_or(drawn.0, |(it, _)| it.trace);
        let context = TraceContext { trace, span: drawn.1, sampled: true };
        let state = parent.map(|(_, headers)| state_of(headers)).unwrap_or_default();
        let parent = parent.map(|(it, _)| it);
        Some(Self { context, parent, state, links, links_left_out })
    }
}

/// The context that a record carries.
pub(crate) fn context_of(headers: Headers<'_>) -> Option<TraceContext> {
    TraceContext::parse(headers.last(TRACEPARENT.as_bytes())?)
}

/// Its `tracestate`, unless it is longer than we pass on or no text of a header.
fn state_of(headers: Headers<'_>) -> String {
    let state = headers.last(TRACESTATE.as_bytes()).unwrap_or_default();
    let is_text = state.iter().all(|it| matches!(it, b' '..=b'~'));
    match std::str::from_utf8(state) {
        Ok(state) if is_text && state.len() <= STATE_BYTES_MAX => state.to_owned(),
        _ => String::new(),
    }
}

/// Whether an output that the function gave a `traceparent` of its own keeps it: when it is a span
/// of the function's, and not what the function copied from its record.
pub(crate) fn keeps_own(own: Headers<'_>, record: Headers<'_>) -> bool {
    context_of(own).is_some_and(|own| context_of(record) != Some(own))
}

/// How a batch ended, as a span says it: records that failed, and the first failure's name and
/// account.
pub(crate) fn ending(outcome: &Outcome, records: usize) -> (usize, Option<(String, String)>) {
    match outcome {
        Outcome::Failed { code, message, .. } => (records, Some((code.clone(), message.clone()))),
        Outcome::Ended { exceptions, .. } => {
            let mut failures = exceptions.iter().filter_map(|(_, end)| end.failure());
            let first = failures.next().map(|(code, said)| (code.to_owned(), said.to_owned()));
            (exceptions.iter().filter(|(_, end)| *end != End::NotRun).count(), first)
        }
    }
}

#[cfg(test)]
mod tests {
    use bus::HeadersBuilder;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const ONE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TWO: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01";
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    const DRAWN: ([u8; 16], [u8; 8]) = ([1; 16], [2; 8]);

    fn headers(pairs: &[(&str, &str)]) -> HeadersBuilder {
        let mut headers = HeadersBuilder::default();
        pairs.iter().for_each(|(name, it)| headers.push(name.as_bytes(), Some(it.as_bytes())));
        headers
    }

    fn batch(parents: &[&str], ratio: f64) -> Option<BatchTrace> {
        let all: Vec<_> = parents
            .iter()
            .map(|it| if it.is_empty() { headers(&[]) } else { headers(&[(TRACEPARENT, it)]) })
            .collect();
        let records = (0..).zip(&all).map(|(at, it)| (0, Offset(at), it.headers()));
        BatchTrace::of(records, Ratio::new(ratio).unwrap(), DRAWN)
    }

    #[test]
    fn a_context_is_read_and_written_as_the_standard_says() {
        let context = TraceContext::parse(ONE.as_bytes()).unwrap();
        assert_eq!(context.to_string(), ONE);
        assert!(context.sampled && context.span == [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 2, 0xb7]);
        let later = format!("cc-{TRACE}-00f067aa0ba902b7-09-what-the-future-adds");
        assert_eq!(TraceContext::parse(later.as_bytes()), Some(context));
        for bad in [
            String::new(),
            ONE[..54].to_owned(),
            format!("{ONE}-"),
            format!("ff{}", &ONE[2..]),
            ONE.to_uppercase(),
            ONE.replace('-', "_"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("cc-{TRACE}-00f067aa0ba902b7-01x"),
            format!("00-{TRACE}-00f067aa0ba902b7-0\u{e9}"),
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn tr_2_one_context_is_gone_on_from_and_several_are_linked() {
        let trace = batch(&[ONE, ONE], 0.0).unwrap();
        let one = TraceContext::parse(ONE.as_bytes()).unwrap();
        assert_eq!((trace.parent, trace.context.trace), (Some(one), one.trace));
        assert_eq!(trace.context.span, DRAWN.1);
        let places: Vec<_> = trace.links.iter().map(|it| (it.context, it.offset.0)).collect();
        assert_eq!(places, [(one, 0), (one, 1)]);
        for mixed in [[ONE, TWO], [ONE, ""], [ONE, UNSAMPLED]] {
            let trace = batch(&mixed, 0.0).unwrap();
            assert_eq!((trace.parent, trace.context.trace), (None, DRAWN.0), "{mixed:?}");
            assert_eq!(trace.links.len(), mixed.iter().filter(|it| !it.is_empty()).count());
        }
    }

    #[test]
    fn tr_3_who_comes_with_a_context_brings_the_decision_along() {
        assert_eq!(batch(&["", ""], 0.0), None);
        assert_eq!(batch(&[UNSAMPLED], 1.0), None);
        assert!(batch(&[UNSAMPLED, ""], 1.0).is_some());
        assert!(batch(&["", ""], 1.0).is_some_and(|it| it.links.is_empty()));
        assert!(batch(&["garbage"], 0.0).is_none());
        let half = Ratio::new(0.5).unwrap();
        let drawn = |high: u8| half.takes([0, 0, 0, 0, 0, 0, 0, 0, high, 0, 0, 0, 0, 0, 0, 0]);
        assert!(drawn(0x7f) && !drawn(0x80));
        assert!(Ratio::new(1.0).unwrap().takes([0xff; 16]));
        assert!(Ratio::new(1.1).is_none() && Ratio::new(f64::NAN).is_none());
    }

    #[test]
    fn tr_1_links_are_bounded_and_what_is_left_out_is_counted() {
        let parents = vec![ONE; LINKS_MAX + 3];
        let trace = batch(&parents, 0.0).unwrap();
        assert_eq!((trace.links.len(), trace.links_left_out), (LINKS_MAX, 3));
    }

    #[test]
    fn what_vendors_say_goes_along_while_it_is_short_text() {
        let state = |state: &str| {
            let headers = headers(&[(TRACEPARENT, ONE), (TRACESTATE, state)]);
            let records = std::iter::once((0, Offset(0), headers.headers()));
            BatchTrace::of(records, Ratio::new(0.0).unwrap(), DRAWN).unwrap().state
        };
        assert_eq!(state("a=1,b=2"), "a=1,b=2");
        assert_eq!(state("a=\r\nb"), "");
        assert_eq!(state(&"x".repeat(STATE_BYTES_MAX + 1)), "");
    }

    #[test]
    fn a_copied_context_is_replaced_and_one_of_the_function_stays() {
        let record = headers(&[(TRACEPARENT, ONE)]);
        let kept = |own: &[(&str, &str)]| keeps_own(headers(own).headers(), record.headers());
        assert!(!kept(&[]) && !kept(&[(TRACEPARENT, ONE)]) && !kept(&[(TRACEPARENT, "x")]));
        assert!(kept(&[(TRACEPARENT, TWO)]));
    }

    #[test]
    fn a_span_says_how_its_batch_ended() {
        let failed = |code: &str| End::Failed { code: code.to_owned(), message: "m".to_owned() };
        let exceptions = vec![(1, failed("A")), (2, End::NotRun), (3, failed("B"))];
        let (count, first) = ending(&Outcome::Ended { exceptions, output_bytes: 0 }, 5);
        assert_eq!((count, first), (2, Some(("A".to_owned(), "m".to_owned()))));
        assert_eq!(ending(&Outcome::ok(0), 5), (0, None));
    }
}
