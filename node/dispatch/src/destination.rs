//! A pure core: what a trigger's destinations are told of a record that has its end: the messages, in
//! the frame of AWS Lambda's on-failure destination for Kafka, and their order within a commit.
//!
//! - **DS-1** a record that an invocation settles is told of once, as a success or as a failure; one
//!   that the filter kept from the function never.
//! - **DS-2** messages of a commit are in the order of their records, so that behind a success of a key
//!   nothing follows that is of an earlier record of it. A failure may come before a record that is
//!   still tried again, as its dead letter does.
//! - **DS-3** a message that its topic does not take goes without what makes it large: it is never
//!   left out, and holds nothing up.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bus::{HeadersBuilder, Offset, Timestamp};
use frame::{Output, OutputKey, RequestRecord};

use crate::RecordRef;
use crate::dead_letter::Cause;
use crate::suspects::NODE_ENDED;

/// Where a trigger tells what became of its records.
#[derive(Clone, Debug, Default)]
pub struct Destinations {
    /// Of every record that succeeded.
    pub on_success: Option<Arc<str>>,
    /// Of every record that was given up, beside its dead letter.
    pub on_failure: Option<Arc<str>>,
    /// What messages name as their brokers, as Lambda events do.
    pub brokers: Arc<str>,
}

impl Destinations {
    /// Where messages of this kind go.
    pub(crate) const fn of(&self, kind: Kind) -> Option<&Arc<str>> {
        match kind {
            Kind::Success => self.on_success.as_ref(),
            Kind::Failure => self.on_failure.as_ref(),
        }
    }
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Success,
    Failure,
}

impl Kind {
    /// The output index in the origin of a message.
    pub(crate) const fn index(self) -> &'static str {
        match self {
            Self::Success => "s",
            Self::Failure => "f",
        }
    }

    /// What an origin with this output index is of, if it is that of a message.
    pub(crate) fn of_index(index: &str) -> Option<Self> {
        [Self::Success, Self::Failure].into_iter().find(|kind| kind.index() == index)
    }
}

/// How a record ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending<'a> {
    /// With these outputs.
    Success(&'a [Output<'a>]),
    /// It was given up after this failure.
    Failure(Cause, &'a str),
}

impl Ending<'_> {
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Success(_) => Kind::Success,
            Self::Failure(..) => Kind::Failure,
        }
    }

    /// In the words of AWS, which has three for a failure.
    const fn condition(self) -> &'static str {
        match self {
            Self::Success(_) => "Success",
            Self::Failure(Cause::TooOld, _) => Cause::TooOld.as_str(),
            Self::Failure(Cause::EventTooLarge, _) => Cause::EventTooLarge.as_str(),
            Self::Failure(..) => Cause::AttemptsExhausted.as_str(),
        }
    }

    /// Whether the function ran for it, and how that ended.
    fn response(self, attempts: u32) -> Option<&'static str> {
        match self {
            Self::Success(_) => Some(""),
            Self::Failure(Cause::EventTooLarge | Cause::Undecodable, _) => None,
            Self::Failure(_, NODE_ENDED) => None,
            Self::Failure(..) if attempts == 0 => None,
            Self::Failure(..) => Some(",\"functionError\":\"Unhandled\""),
        }
    }
}

/// A record that has its end, and what is said of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) record: RecordRef<'a>,
    /// Where it lies.
    pub(crate) place: (&'a str, i32),
    /// How often the function was given it.
    pub(crate) attempts: u32,
    /// The last invocation that it was in, where one was.
    pub(crate) invocation: Option<&'a str>,
    pub(crate) revision: &'a str,
    pub(crate) ending: Ending<'a>,
    /// When it ended.
    pub(crate) at: Timestamp,
}

/// What all messages of a shard have in common.
#[derive(Clone, Debug)]
pub(crate) struct Envelopes {
    function_arn: String,
    source_arn: String,
    brokers: Arc<str>,
    /// Where outputs go that choose no topic.
    output_topic: Option<Arc<str>>,
}

impl Envelopes {
    pub(crate) fn new(
        function: &str,
        cluster: &str,
        brokers: &Arc<str>,
        output_topic: Option<&Arc<str>>,
    ) -> Self {
        Self {
            function_arn: quoted(&runtime::function_arn(function)),
            source_arn: quoted(&format!("arn:aws:kafka:us-east-1:000000000000:cluster/{cluster}")),
            brokers: Arc::clone(brokers),
            output_topic: output_topic.cloned(),
        }
    }

    /// The value of a message, with at most so many bytes if it can be helped (DS-3).
    pub(crate) fn write(&self, ended: &Ended<'_>, bytes_max: usize) -> Vec<u8> {
        let Ended { record, attempts, revision, ending, .. } = *ended;
        let (view, payload) = (record.view, self.payload(ended));
        let mut text = String::with_capacity(payload.len() + 1_024);
        let request = ended.invocation.map_or_else(|| "null".to_owned(), quoted);
        let Self { function_arn, source_arn, .. } = self;
        let condition = ending.condition();
        let response = match ending.response(attempts) {
            None => "null".to_owned(),
            Some(error) => {
                let revision = quoted(revision);
                format!("{{\"statusCode\":200,\"executedVersion\":{revision}{error}}}")
            }
        };
        let (at, own) = (time(ended.at), time(view.timestamp));
        let (brokers, size, offset) = (quoted(&self.brokers), payload.len(), view.offset.0);
        write!(
            text,
            "{{\"requestContext\":{{\"requestId\":{request},\"functionArn\":{function_arn},\
             \"condition\":\"{condition}\",\"approximateInvokeCount\":{attempts}}},\
             \"responseContext\":{response},\"version\":\"1.0\",\"timestamp\":{at},\
             \"KafkaBatchInfo\":{{\"batchSize\":1,\"eventSourceArn\":{source_arn},\
             \"bootstrapServers\":{brokers},\"payloadSize\":{size},\
             \"recordInfo\":{{\"offset\":\"{offset}\",\"timestamp\":{own}}}}}"
        )
        .expect("writing to a string does not fail");
        let head = text.len();
        text.push_str(PAYLOAD);
        text.push_str(&payload);
        if let Ending::Success(outputs) = ending {
            text.push_str(RESPONSE_PAYLOAD);
            self.write_outputs(outputs, &mut text);
        }
        if bytes_max <= text.len() {
            text.truncate(head);
            leave_out(&mut text, ending.kind());
        }
        text.push('}');
        text.into_bytes()
    }

    /// The Lambda event of this record alone.
    fn payload(&self, ended: &Ended<'_>) -> String {
        let (RecordRef { attempt, view, .. }, (topic, partition)) = (ended.record, ended.place);
        let headers = frame::Headers::parse(view.headers.as_bytes(), view.headers.len());
        let record = RequestRecord {
            topic,
            partition,
            offset: view.offset.0,
            timestamp: view.timestamp.0,
            attempt,
            key: view.key,
            value: view.value,
            headers: headers.unwrap_or_default(),
        };
        runtime::kafka_event(&record, &self.brokers)
    }

    /// A record's outputs in the form of `$outputs`, each with its topic.
    fn write_outputs(&self, outputs: &[Output<'_>], text: &mut String) {
        text.push('[');
        for (number, output) in outputs.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let topic = output.topic.or(self.output_topic.as_deref()).map(quoted);
            text.extend([comma, "{\"topic\":", topic.as_deref().unwrap_or("null")]);
            match output.key {
                OutputKey::Keep => {}
                OutputKey::None => text.push_str(",\"key\":null"),
                OutputKey::Bytes(key) => text.extend([",\"key\":", &text_or_bytes(Some(key))]),
            }
            text.push_str(",\"value\":");
            match output.value.map(|value| (as_json(value), value)) {
                None => text.push_str("null"),
                Some((Some(json), _)) => text.push_str(json),
                Some((None, value)) => text.push_str(&as_bytes(value)),
            }
            if !output.headers.is_empty() {
                text.push_str(",\"headers\":[");
                for (number, (name, value)) in output.headers.iter().enumerate() {
                    let comma = if number == 0 { "{" } else { ",{" };
                    let name = quoted(&String::from_utf8_lossy(name));
                    text.extend([comma, &name, ":", &text_or_bytes(value), "}"]);
                }
                text.push(']');
            }
            if let Some(partition) = output.partition {
                write!(text, ",\"partition\":{partition}")
                    .expect("writing to a string does not fail");
            }
            text.push('}');
        }
        text.push(']');
    }
}

/// The field that may be left out; nothing before it in a message can look like it, for quotes within
/// texts are escaped.
const PAYLOAD: &str = ",\"payload\":";
/// The other one, of a success.
const RESPONSE_PAYLOAD: &str = ",\"responsePayload\":";

/// Says of what is left out that it is.
fn leave_out(text: &mut String, kind: Kind) {
    text.extend([PAYLOAD, "null"]);
    if kind == Kind::Success {
        text.extend([RESPONSE_PAYLOAD, "null"]);
    }
}

/// A message without what makes it large (DS-3); `None` where it is so already.
pub(crate) fn shortened(value: &[u8], kind: Kind) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut short = text[..text.find(PAYLOAD)?].to_owned();
    leave_out(&mut short, kind);
    short.push('}');
    (short.len() < text.len()).then(|| short.into_bytes())
}

/// A message that waits for its commit.
#[derive(Debug)]
pub(crate) struct Told {
    /// The place of its topic among those that are written to.
    pub(crate) topic: usize,
    /// The record's.
    pub(crate) partition: u32,
    pub(crate) offset: Offset,
    pub(crate) timestamp: Timestamp,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: HeadersBuilder,
}

/// DS-2: the messages of a commit as they go out. What an invocation gave up is heard of before what
/// it kept, whichever came first.
pub(crate) fn in_order(told: &mut [Told]) {
    told.sort_by_key(|it| (it.partition, it.offset));
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// RFC 3339 in UTC, to the millisecond; null for a time that it has no words for.
fn time(at: Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(at.0);
    time.map_or_else(|_out_of_range| "null".to_owned(), |it| format!("\"{it:.3}\""))
}

/// A value that is JSON, and flat enough to stay readable inside of a message.
fn as_json(value: &[u8]) -> Option<&str> {
    /// What a message adds, below the 128 levels that readers of JSON take.
    const ROOM: (&str, &str) = ("[[[[", "]]]]");
    let text = std::str::from_utf8(value).ok()?;
    let nested = format!("{}{text}{}", ROOM.0, ROOM.1);
    let inner = serde_json::from_str::<[[[[serde_json::Value; 1]; 1]; 1]; 1]>(&nested);
    inner.is_ok().then_some(text)
}

fn as_bytes(value: &[u8]) -> String {
    format!("{{\"$bytes\":\"{}\"}}", STANDARD.encode(value))
}

fn text_or_bytes(value: Option<&[u8]>) -> String {
    match value.map(|value| (std::str::from_utf8(value), value)) {
        None => "null".to_owned(),
        Some((Ok(text), _)) => quoted(text),
        Some((Err(_no_text), value)) => as_bytes(value),
    }
}

#[cfg(test)]
mod tests {
    use bus::{Headers, RecordView};
    use serde_json::{Value, json};

    use super::*;

    fn envelopes() -> Envelopes {
        Envelopes::new("hot", "mill", &"b-1:9092".into(), Some(&"alerts".into()))
    }

    fn ended<'a>(view: RecordView<'a>, attempts: u32, ending: Ending<'a>) -> Ended<'a> {
        Ended {
            record: RecordRef { partition: 0, attempt: attempts.max(1), view },
            place: ("read-ings", 2),
            attempts,
            invocation: Some("4-2-118"),
            revision: "3f2a1b4c5d6e",
            ending,
            at: Timestamp(1_795_393_086_021),
        }
    }

    fn view<'a>(headers: Headers<'a>) -> RecordView<'a> {
        RecordView {
            offset: Offset(100),
            timestamp: Timestamp(1_795_393_084_835),
            key: Some(b"abc"),
            value: Some(b"Hello"),
            headers,
        }
    }

    fn written(ended: &Ended<'_>) -> Value {
        serde_json::from_slice(&envelopes().write(ended, usize::MAX)).unwrap()
    }

    #[test]
    fn a_failure_is_told_as_aws_documents_it() {
        let mut headers = HeadersBuilder::default();
        headers.push(b"trace", Some(&[118, 220]));
        let failure = Ending::Failure(Cause::AttemptsExhausted, "ValueError");
        let found = written(&ended(view(headers.headers()), 4, failure));
        let expected = json!({
            "requestContext": {
                "requestId": "4-2-118",
                "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:hot",
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": 4,
            },
            "responseContext": {
                "statusCode": 200, "executedVersion": "3f2a1b4c5d6e", "functionError": "Unhandled",
            },
            "version": "1.0",
            "timestamp": "2026-11-23T00:18:06.021Z",
            "KafkaBatchInfo": {
                "batchSize": 1,
                "eventSourceArn": "arn:aws:kafka:us-east-1:000000000000:cluster/mill",
                "bootstrapServers": "b-1:9092",
                "payloadSize": found["payload"].to_string().len(),
                "recordInfo": { "offset": "100", "timestamp": "2026-11-23T00:18:04.835Z" },
            },
            "payload": {
                "eventSource": "SelfManagedKafka",
                "bootstrapServers": "b-1:9092",
                "records": { "read-ings-2": [{
                    "topic": "read-ings", "partition": 2, "offset": 100,
                    "timestamp": 1_795_393_084_835_i64, "timestampType": "CREATE_TIME",
                    "key": "YWJj", "value": "SGVsbG8=", "headers": [{ "trace": [118, -36] }],
                }] },
            },
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn each_cause_has_its_condition_and_only_an_answer_a_context() {
        let cases = [
            (Cause::AttemptsExhausted, "E", 3, "RetryAttemptsExhausted", true),
            (Cause::AttemptsExhausted, NODE_ENDED, 7, "RetryAttemptsExhausted", false),
            (Cause::NotRetried, "E", 1, "RetryAttemptsExhausted", true),
            (Cause::OutputRefused, "E", 0, "RetryAttemptsExhausted", false),
            (Cause::Undecodable, "Millrace.Decode", 0, "RetryAttemptsExhausted", false),
            (Cause::TooOld, "E", 2, "RecordAgeExceeded", true),
            (Cause::EventTooLarge, "E", 0, "MaximumPayloadSizeExceeded", false),
        ];
        for (cause, code, attempts, condition, answered) in cases {
            let ended = ended(view(Headers::default()), attempts, Ending::Failure(cause, code));
            let found = written(&ended);
            assert_eq!(found["requestContext"]["condition"], condition, "{cause:?}");
            assert_eq!(found["responseContext"].is_object(), answered, "{cause:?}");
            assert_eq!(found.get("responsePayload"), None);
        }
        let nobody = Ended {
            invocation: None,
            at: Timestamp(i64::MAX),
            ..ended(view(Headers::default()), 7, Ending::Failure(Cause::TooOld, NODE_ENDED))
        };
        let found = written(&nobody);
        let request = &found["requestContext"]["requestId"];
        assert_eq!((request, &found["timestamp"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_success_has_its_outputs_as_they_were() {
        let mut headers = HeadersBuilder::default();
        headers.push(b"a", Some(b"1"));
        headers.push(b"a", Some(b"\xff"));
        let headers = headers.headers();
        let headers = frame::Headers::parse(headers.as_bytes(), headers.len()).unwrap();
        let deep = [vec![b'['; 126], vec![b']'; 126]].concat();
        let value = |value| Output { value: Some(value), ..Output::default() };
        let outputs = [
            value(b"{\"b\":1.50, \"a\":2}"),
            Output { key: OutputKey::None, headers, ..value(b"no JSON") },
            Output {
                topic: Some("side"),
                key: OutputKey::Bytes(b"k\xff"),
                partition: Some(3),
                ..Output::default()
            },
            Output { key: OutputKey::Bytes(b"k"), ..value(&deep) },
            value(b"1] "),
        ];
        let ended = ended(view(Headers::default()), 2, Ending::Success(&outputs));
        let bytes = envelopes().write(&ended, usize::MAX);
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.contains("\"value\":{\"b\":1.50, \"a\":2}"), "as it was written: {text}");
        let found = written(&ended);
        assert_eq!(found["requestContext"]["condition"], "Success");
        let context = json!({ "statusCode": 200, "executedVersion": "3f2a1b4c5d6e" });
        assert_eq!(found["responseContext"], context);
        let bytes = |bytes: &[u8]| json!({ "$bytes": STANDARD.encode(bytes) });
        let expected = json!([
            { "topic": "alerts", "value": { "b": 1.5, "a": 2 } },
            { "topic": "alerts", "key": null, "value": bytes(b"no JSON"),
              "headers": [{ "a": "1" }, { "a": bytes(b"\xff") }] },
            { "topic": "side", "key": bytes(b"k\xff"), "value": null, "partition": 3 },
            { "topic": "alerts", "key": "k", "value": bytes(&deep) },
            { "topic": "alerts", "value": bytes(b"1] ") },
        ]);
        assert_eq!(found["responsePayload"], expected);
    }

    #[test]
    fn a_message_that_is_too_large_goes_without_what_makes_it_large() {
        let outputs = [Output { value: Some(b",\"payload\":\"x\""), ..Output::default() }];
        let large = vec![b'x'; 10_000];
        let view = RecordView { value: Some(&large), ..view(Headers::default()) };
        for ending in [Ending::Success(&outputs), Ending::Failure(Cause::TooOld, "E")] {
            let ended = ended(view, 1, ending);
            let whole = envelopes().write(&ended, usize::MAX);
            let short = envelopes().write(&ended, whole.len() - 1);
            assert!(10_000 < whole.len() && short.len() < 1_000, "{}", short.len());
            assert_eq!(envelopes().write(&ended, whole.len()), whole, "DS-3: only then");
            assert_eq!(shortened(&whole, ending.kind()), Some(short.clone()), "DS-3");
            assert_eq!(shortened(&short, ending.kind()), None);
            let (mut whole, short): (Value, Value) =
                (serde_json::from_slice(&whole).unwrap(), serde_json::from_slice(&short).unwrap());
            for field in ["payload", "responsePayload"] {
                whole[field] = whole.get(field).map_or(Value::Null, |_| Value::Null);
            }
            let fields = whole.as_object_mut().unwrap();
            if ending.kind() == Kind::Failure {
                fields.remove("responsePayload");
            }
            assert_eq!(whole, short, "all else is there");
        }
    }

    #[test]
    fn messages_of_a_commit_follow_their_records() {
        let told = |partition, offset| Told {
            topic: 0,
            partition,
            offset: Offset(offset),
            timestamp: Timestamp(0),
            key: None,
            value: Vec::new(),
            headers: HeadersBuilder::default(),
        };
        let mut all = [told(1, 3), told(0, 9), told(1, 2), told(0, 10)];
        in_order(&mut all);
        let found: Vec<_> = all.iter().map(|it| (it.partition, it.offset.0)).collect();
        assert_eq!(found, [(0, 9), (0, 10), (1, 2), (1, 3)], "DS-2");
    }
}
