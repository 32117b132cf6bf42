//! What a dead letter carries beyond its record: written when a record is given up, read when
//! somebody looks at it, and taken away when it is put back.
//!
//! The record's own headers come first, untouched. Then follows one block: the origin, whose output
//! index is `d`, and headers that begin with `millrace-dead-`. A dead letter that a function read and
//! that was given up again has two such blocks, of which the last is that of its own topic.

use bus::{Headers, HeadersBuilder, Timestamp};

/// The header that says where an output or dead letter comes from:
/// `1;topic;partition;offset;output index;revision;attempt;epoch`, `d` as the index of a dead
/// letter.
pub const ORIGIN: &str = "millrace-origin";
/// The output index of a dead letter.
pub(crate) const DEAD: &str = "d";

/// How all other headers of a dead letter begin.
const PREFIX: &[u8] = b"millrace-dead-";
/// Why it was given up: [`Cause`].
pub const CAUSE: &str = "millrace-dead-cause";
/// Of an output of a replay: the topic that it would have gone to.
pub const REPLAYED_TOPIC: &str = "millrace-replayed-topic";
/// How many attempts were made.
pub const ATTEMPTS: &str = "millrace-dead-attempts";
/// Where the record lay.
pub const TOPIC: &str = "millrace-dead-topic";
/// Of that topic.
pub const PARTITION: &str = "millrace-dead-partition";
/// In that partition.
pub const OFFSET: &str = "millrace-dead-offset";
/// The record's own timestamp, Unix ms.
pub const TIMESTAMP: &str = "millrace-dead-timestamp";
/// Who read it: `app/function/name`.
pub const TRIGGER: &str = "millrace-dead-trigger";
/// The function's name.
pub const FUNCTION: &str = "millrace-dead-function";
/// What ran when it was given up.
pub const REVISION: &str = "millrace-dead-revision";
/// The last invocation that it was in: [`InvocationName`](crate::InvocationName). Letters of before
/// there were such names have none.
pub const INVOCATION: &str = "millrace-dead-invocation";
/// The name of the failure.
pub const ERROR_TYPE: &str = "millrace-dead-error-type";
/// Its account.
pub const ERROR_MESSAGE: &str = "millrace-dead-error-message";
/// When it was given up, Unix ms.
pub const AT: &str = "millrace-dead-at";

/// How much of a failure's name is kept.
const TYPE_BYTES_MAX: usize = 256;
/// How much of a failure's account is kept.
const MESSAGE_BYTES_MAX: usize = 4_096;

/// Why a record was given up. Words as AWS has them, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The last attempt failed.
    AttemptsExhausted,
    /// There would have been attempts left, but not the time.
    TooOld,
    /// There would have been attempts left, but the trigger says of this failure that none helps.
    NotRetried,
    /// No attempt could ever succeed.
    Undecodable,
    /// No event could hold it.
    EventTooLarge,
    /// The function succeeded, and the bus did not take what it made.
    OutputRefused,
}

impl Cause {
    /// As the header says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "RetryAttemptsExhausted",
            Self::TooOld => "RecordAgeExceeded",
            Self::NotRetried => "NotRetried",
            Self::Undecodable => "Undecodable",
            Self::EventTooLarge => "MaximumPayloadSizeExceeded",
            Self::OutputRefused => "OutputRefused",
        }
    }
}

/// The headers of a dead letter, but its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadHead<'a> {
    /// See [`CAUSE`].
    pub cause: &'a str,
    /// See [`ATTEMPTS`].
    pub attempts: u32,
    /// See [`TOPIC`].
    pub topic: &'a str,
    /// See [`PARTITION`].
    pub partition: i32,
    /// See [`OFFSET`].
    pub offset: i64,
    /// See [`TIMESTAMP`].
    pub timestamp: Timestamp,
    /// See [`TRIGGER`].
    pub trigger: &'a str,
    /// See [`FUNCTION`].
    pub function: &'a str,
    /// See [`REVISION`].
    pub revision: &'a str,
    /// See [`INVOCATION`].
    pub invocation: Option<&'a str>,
    /// See [`ERROR_TYPE`].
    pub error_type: &'a str,
    /// See [`ERROR_MESSAGE`].
    pub error_message: &'a str,
    /// See [`AT`].
    pub at: Timestamp,
}

impl<'a> DeadHead<'a> {
    /// Adds the block's headers behind the origin.
    pub(crate) fn write(&self, headers: &mut HeadersBuilder) {
        let mut push = |name: &str, value: &str| {
            headers.push(name.as_bytes(), Some(value.as_bytes()));
        };
        push(CAUSE, self.cause);
        push(ATTEMPTS, &self.attempts.to_string());
        push(TOPIC, self.topic);
        push(PARTITION, &self.partition.to_string());
        push(OFFSET, &self.offset.to_string());
        push(TIMESTAMP, &self.timestamp.to_string());
        push(TRIGGER, self.trigger);
        push(FUNCTION, self.function);
        push(REVISION, self.revision);
        if let Some(invocation) = self.invocation {
            push(INVOCATION, invocation);
        }
        push(ERROR_TYPE, start_of(self.error_type, TYPE_BYTES_MAX));
        push(ERROR_MESSAGE, start_of(self.error_message, MESSAGE_BYTES_MAX));
        push(AT, &self.at.to_string());
    }

    /// What a dead letter says of itself, and the headers that its record had. `None` for a record
    /// that is no dead letter, or one whose headers somebody else has changed.
    #[must_use]
    pub fn read(headers: Headers<'a>) -> Option<(Self, HeadersBuilder)> {
        let all: Vec<(&[u8], Option<&[u8]>)> = headers.iter().collect();
        let block = all.iter().rposition(|(name, _)| !name.starts_with(PREFIX))?;
        let (own, [(origin, _), block @ ..]) = all.split_at_checked(block)? else { return None };
        if *origin != ORIGIN.as_bytes() {
            return None;
        }
        let text = |wanted: &str| {
            let found = block.iter().find(|(name, _)| *name == wanted.as_bytes())?;
            std::str::from_utf8(found.1?).ok()
        };
        let head = DeadHead {
            cause: text(CAUSE)?,
            attempts: text(ATTEMPTS)?.parse().ok()?,
            topic: text(TOPIC)?,
            partition: text(PARTITION)?.parse().ok()?,
            offset: text(OFFSET)?.parse().ok()?,
            timestamp: Timestamp(text(TIMESTAMP)?.parse().ok()?),
            trigger: text(TRIGGER)?,
            function: text(FUNCTION)?,
            revision: text(REVISION)?,
            invocation: text(INVOCATION),
            error_type: text(ERROR_TYPE)?,
            error_message: text(ERROR_MESSAGE)?,
            at: Timestamp(text(AT)?.parse().ok()?),
        };
        let mut builder = HeadersBuilder::default();
        own.iter().for_each(|(name, value)| builder.push(name, *value));
        Some((head, builder))
    }
}

fn start_of(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(topic: &'static str) -> DeadHead<'static> {
        DeadHead {
            cause: Cause::TooOld.as_str(),
            attempts: 3,
            topic,
            partition: 2,
            offset: 18,
            timestamp: Timestamp(1_000),
            trigger: "a/f/t",
            function: "f",
            revision: "3f2a1b4c5d6e",
            invocation: Some("4-2-118"),
            error_type: "Reading.Number",
            error_message: "wind\n\"",
            at: Timestamp(2_000),
        }
    }

    fn give_up(headers: &mut HeadersBuilder, topic: &'static str) {
        headers.push(ORIGIN.as_bytes(), Some(b"1;in;2;18;d;3f2a1b4c5d6e;3;1"));
        head(topic).write(headers);
    }

    #[test]
    fn what_is_written_is_read_and_the_records_own_headers_come_back() {
        let mut headers = HeadersBuilder::default();
        headers.push(b"trace", Some(b"\xff\x00"));
        headers.push(b"trace", None);
        // The record was the output of another function.
        headers.push(ORIGIN.as_bytes(), Some(b"1;raw;0;1;0;abc;1;1"));
        let own = headers.clone();
        give_up(&mut headers, "in");
        let (found, left) = DeadHead::read(headers.headers()).unwrap();
        assert_eq!((found, left.headers()), (head("in"), own.headers()));
        assert_eq!(DeadHead::read(own.headers()).map(|it| it.0), None, "it is no dead letter");
        assert_eq!(DeadHead::read(Headers::default()).map(|it| it.0), None);
    }

    #[test]
    fn of_a_dead_letter_that_was_given_up_again_the_last_block_counts() {
        let mut headers = HeadersBuilder::default();
        give_up(&mut headers, "in");
        let once = headers.clone();
        give_up(&mut headers, "in.dead");
        let (found, left) = DeadHead::read(headers.headers()).unwrap();
        assert_eq!(found.topic, "in.dead");
        assert_eq!(left.headers(), once.headers(), "it goes back as the dead letter that it was");
        let (found, left) = DeadHead::read(left.headers()).unwrap();
        assert_eq!((found.topic, left.headers().len()), ("in", 0));
    }

    #[test]
    fn headers_that_somebody_changed_are_no_dead_letters() {
        let mut whole = HeadersBuilder::default();
        give_up(&mut whole, "in");
        let count = whole.headers().len();
        for left_out in 0..count as usize {
            let mut less = HeadersBuilder::default();
            let kept = whole.headers().iter().enumerate().filter(|(at, _)| *at != left_out);
            kept.for_each(|(_, (name, value))| less.push(name, value));
            // Letters of before there were names of invocations have none.
            let is_optional = |(_, (name, _)): &(usize, (&[u8], _))| *name == INVOCATION.as_bytes();
            let mut gone = whole.headers().iter().enumerate().filter(|(at, _)| *at == left_out);
            let expected = gone.any(|it| is_optional(&it));
            assert_eq!(DeadHead::read(less.headers()).is_some(), expected, "{left_out}");
        }
    }

    #[test]
    fn long_accounts_are_cut_between_characters() {
        let long = "ä".repeat(MESSAGE_BYTES_MAX);
        let mut headers = HeadersBuilder::default();
        headers.push(ORIGIN.as_bytes(), None);
        DeadHead { error_type: &long, error_message: &long, ..head("in") }.write(&mut headers);
        let (found, _) = DeadHead::read(headers.headers()).unwrap();
        assert_eq!(found.error_type.len(), TYPE_BYTES_MAX);
        assert_eq!(found.error_message.len(), MESSAGE_BYTES_MAX);
    }
}
