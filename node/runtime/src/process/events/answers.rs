//! A pure core: what a client's answer says about the records of its event, and what it gives to
//! topics.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frame::{HeadersBuilder, Output, OutputKey, Request, ResponseBuilder};
use serde_json::{Map, Value};

use crate::held::Held;
use crate::{Failure, FailureKind};

/// An output that shape was given to.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    source: u32,
    topic: Option<String>,
    key: Key,
    value: Option<Vec<u8>>,
    headers: HeadersBuilder,
    partition: Option<i32>,
}

#[derive(Debug, Default)]
enum Key {
    #[default]
    Keep,
    None,
    Bytes(Vec<u8>),
}

/// A record's failure: its name and message.
type Refused = (&'static str, String);

impl Owned {
    pub(crate) fn as_output(&self) -> Output<'_> {
        Output {
            source: self.source,
            topic: self.topic.as_deref(),
            key: match &self.key {
                Key::Keep => OutputKey::Keep,
                Key::None => OutputKey::None,
                Key::Bytes(bytes) => OutputKey::Bytes(bytes),
            },
            value: self.value.as_deref(),
            headers: self.headers.headers(),
            partition: self.partition,
        }
    }

    fn plain(source: u32, value: &[u8]) -> Self {
        Self { source, value: Some(value.to_vec()), ..Self::default() }
    }

    /// One of `$outputs`.
    fn chosen(source: u32, it: &Value) -> Result<Self, Refused> {
        let bad = |what: &str| ("Millrace.OutputInvalid", format!("one of `$outputs` {what}"));
        let Value::Object(fields) = it else { return Err(bad("is no object")) };
        let known = ["topic", "key", "value", "headers", "partition", "source"];
        if let Some(other) = fields.keys().find(|it| !known.contains(&it.as_str())) {
            return Err(bad(&format!("has an unknown field {other:?}")));
        }
        let topic = match fields.get("topic") {
            None | Some(Value::Null) => None,
            Some(Value::String(topic)) => Some(topic.clone()),
            Some(_) => return Err(bad("has a `topic` that is no text")),
        };
        let key = match fields.get("key") {
            None => Key::Keep,
            Some(Value::Null) => Key::None,
            Some(key) => Key::Bytes(text_or_bytes(key).ok_or_else(|| bad(KEY))?),
        };
        let partition = match fields.get("partition") {
            None | Some(Value::Null) => None,
            Some(number) => {
                let number = number.as_i64().and_then(|it| i32::try_from(it).ok());
                Some(number.filter(|it| 0 <= *it).ok_or_else(|| bad("has an odd `partition`"))?)
            }
        };
        let value = match fields.get("value") {
            None => return Err(bad("has no `value`")),
            Some(Value::Null) => None,
            Some(value) => {
                let bytes = bytes_of(value).transpose().map_err(|()| bad("has odd `$bytes`"))?;
                Some(bytes.unwrap_or_else(|| value.to_string().into_bytes()))
            }
        };
        let mut headers = HeadersBuilder::default();
        match fields.get("headers") {
            None | Some(Value::Null) => {}
            Some(Value::Object(all)) => {
                for (name, value) in all {
                    let value = match value {
                        Value::Null => None,
                        value => Some(text_or_bytes(value).ok_or_else(|| bad(HEADER))?),
                    };
                    headers.push(name.as_bytes(), value.as_deref());
                }
            }
            Some(_) => return Err(bad("has `headers` that are no object")),
        }
        Ok(Self { source, topic, key, value, headers, partition })
    }
}

const KEY: &str = "has a `key` that is neither text nor bytes";
const HEADER: &str = "has a header that is neither text nor bytes";

/// The bytes that `{"$bytes": "<base64>"}` stands for; `None` for anything else.
fn bytes_of(value: &Value) -> Option<Result<Vec<u8>, ()>> {
    let Value::Object(fields) = value else { return None };
    let text = fields.get("$bytes").filter(|_| fields.len() == 1)?;
    let text = text.as_str().ok_or(());
    Some(text.and_then(|text| STANDARD.decode(text).map_err(|_error| ())))
}

fn text_or_bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        value => bytes_of(value)?.ok(),
    }
}

/// The outputs that an answer to one record leads to.
///
/// # Errors
///
/// The record's failure.
pub(crate) fn record_answer(source: u32, body: &[u8]) -> Result<Vec<Owned>, Refused> {
    let trimmed = body.trim_ascii();
    if trimmed.is_empty() || trimmed == b"null" {
        return Ok(Vec::new());
    }
    // Only an object can choose; everything else, JSON or not, is a value as it is.
    let chosen = (trimmed[0] == b'{').then(|| serde_json::from_slice::<Map<String, Value>>(body));
    match chosen {
        Some(Ok(fields)) if fields.len() == 1 && fields.contains_key("$outputs") => {
            let Value::Array(all) = &fields["$outputs"] else {
                return Err(("Millrace.OutputInvalid", "`$outputs` is no list".to_owned()));
            };
            all.iter().map(|it| Owned::chosen(source, it)).collect()
        }
        _ => Ok(vec![Owned::plain(source, body)]),
    }
}

/// What an answer to a Kafka event says.
#[derive(Debug)]
pub(crate) struct LambdaAnswer {
    range: Range<usize>,
    /// Of each record of the range: ok, failed, or held back by one that failed.
    ends: Vec<End>,
    outputs: Vec<Owned>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ok,
    Reported,
    Held,
}

impl LambdaAnswer {
    /// The records that did not end well, by index of the batch.
    pub(crate) fn open(&self) -> impl Iterator<Item = usize> {
        self.range.clone().zip(&self.ends).filter(|(_, end)| **end != End::Ok).map(|it| it.0)
    }

    /// Adds it to the answer of the whole batch.
    pub(crate) fn write(&self, response: &mut ResponseBuilder) {
        for (index, end) in self.range.clone().zip(&self.ends) {
            match end {
                End::Ok => response.ok(index),
                End::Held => response.not_run(index),
                End::Reported => {
                    let message = "the function reported it in batchItemFailures";
                    response.failed(index, "Function.BatchItemFailure", message);
                }
            }
        }
        for output in &self.outputs {
            response.output(&output.as_output());
        }
    }
}

/// Reads an answer to the event of these records.
///
/// # Errors
///
/// When it says nothing that can be relied on: then all of its records have failed.
pub(crate) fn lambda_answer(
    request: &Request<'_>,
    range: Range<usize>,
    body: &[u8],
    has_output: bool,
) -> Result<LambdaAnswer, Failure> {
    let broken = |what: String| Failure::new(FailureKind::BrokenAnswer, what);
    let value: Value = if body.trim_ascii().is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).map_err(|error| broken(format!("not JSON: {error}")))?
    };
    let mut ends = vec![End::Ok; range.len()];
    let find = |identifier: Option<&Value>| {
        let (partition, offset) =
            (identifier?.get("partition")?.as_str()?, identifier?.get("offset")?.as_i64()?);
        range.clone().find(|index| {
            let record = request.get(*index);
            record.offset == offset && {
                let (topic, number) = partition.rsplit_once('-').unwrap_or((partition, ""));
                topic == record.topic && number == record.partition.to_string()
            }
        })
    };
    let fields = value.as_object();
    match fields.and_then(|it| it.get("batchItemFailures")) {
        None | Some(Value::Null) => {}
        Some(Value::Array(failures)) => {
            for failure in failures {
                let index = find(failure.get("itemIdentifier")).ok_or_else(|| {
                    let shown: String = failure.to_string().chars().take(200).collect();
                    broken(format!("batchItemFailures names no record of the batch: {shown}"))
                })?;
                ends[index - range.start] = End::Reported;
            }
        }
        Some(_) => return Err(broken("batchItemFailures is no list".to_owned())),
    }
    let mut held = Held::default();
    for index in range.clone() {
        let (end, record) = (&mut ends[index - range.start], request.get(index));
        if *end == End::Reported {
            held.failed(&record);
        } else if held.holds(request.order(), &record) {
            *end = End::Held;
        }
    }
    let last_ok = range.clone().rev().find(|index| ends[index - range.start] == End::Ok);
    let mut outputs = Vec::new();
    match fields.and_then(|it| it.get("$outputs")) {
        Some(Value::Array(all)) => {
            for it in all {
                let source = match it.get("source") {
                    None | Some(Value::Null) => last_ok,
                    named => Some(find(named).ok_or_else(|| {
                        broken("the source of an output is no record of the batch".to_owned())
                    })?),
                };
                // What belongs to a record that runs again comes again.
                let Some(source) = source.filter(|it| ends[it - range.start] == End::Ok) else {
                    continue;
                };
                let output = Owned::chosen(source as u32, it);
                outputs.push(output.map_err(|(name, message)| broken(message).named(name))?);
            }
        }
        Some(_) => return Err(broken("`$outputs` is no list".to_owned())),
        None => {
            let says_more =
                fields.is_none_or(|it| !it.is_empty() && !it.contains_key("batchItemFailures"));
            if let Some(source) = last_ok.filter(|_| has_output && says_more && !value.is_null()) {
                outputs.push(Owned::plain(source as u32, body));
            }
        }
    }
    outputs.sort_by_key(|output| output.source);
    Ok(LambdaAnswer { range, ends, outputs })
}

#[cfg(test)]
mod tests {
    use frame::{Context, Order, RequestBuilder, Response};

    use super::*;

    /// Offsets 10, 11, ... with the keys a, b, a, b, ...
    fn frame(order: Order, records: i64) -> Vec<u8> {
        let mut builder = RequestBuilder::new(7, order, &Context::default(), &[("my-t", 3)]);
        for index in 0..records {
            let key = Some(if index % 2 == 0 { &b"a"[..] } else { b"b" });
            builder.push(0, 10 + index, 5, 1, key, Some(b"{}"), &[], 0);
        }
        builder.finish()
    }

    /// Ends as a letter each, and outputs as source=value.
    fn read(order: Order, body: &str) -> Result<(String, Vec<String>), String> {
        let frame = frame(order, 4);
        let request = Request::parse(&frame).unwrap();
        let answer = lambda_answer(&request, 0..4, body.as_bytes(), true);
        let answer = answer.map_err(|failure| failure.to_string())?;
        let mut builder = ResponseBuilder::new(7, 4);
        answer.write(&mut builder);
        let bytes = builder.finish();
        let response = Response::parse(&bytes, 7, 4).unwrap();
        let letter = |index| match response.end(index) {
            frame::End::Ok => 'o',
            frame::End::Failed { .. } => 'f',
            frame::End::NotRun => '-',
        };
        let outputs = response.outputs().map(|it| {
            let value = it.value.map(String::from_utf8_lossy);
            format!("{}={}", it.source, value.as_deref().unwrap_or("null"))
        });
        Ok(((0..4).map(letter).collect(), outputs.collect()))
    }

    fn ends(order: Order, body: &str) -> String {
        read(order, body).unwrap().0
    }

    #[test]
    fn every_form_of_success_is_one() {
        for body in
            ["", "null", "{}", r#"{"batchItemFailures":[]}"#, r#"{"batchItemFailures":null}"#]
        {
            assert_eq!(read(Order::Key, body).unwrap(), ("oooo".to_owned(), vec![]), "{body}");
        }
    }

    #[test]
    fn what_is_reported_runs_again_with_what_its_order_holds() {
        let body =
            r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"my-t-3","offset":11}}]}"#;
        assert_eq!(ends(Order::None, body), "ofoo");
        assert_eq!(ends(Order::Key, body), "ofo-");
        assert_eq!(ends(Order::Partition, body), "of--");
    }

    #[test]
    fn what_names_no_record_fails_all() {
        for body in [
            "not json",
            r#"{"batchItemFailures":{}}"#,
            r#"{"batchItemFailures":[{}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":""}]}"#,
            r#"{"batchItemFailures":[{"item":{"partition":"my-t-3","offset":11}}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"my-t-3","offset":99}}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"my-t-0","offset":11}}]}"#,
            r#"{"$outputs":[{"value":1,"source":{"partition":"my-t-3","offset":9}}]}"#,
            r#"{"$outputs":[{"key":"x"}]}"#,
            r#"{"$outputs":[{"value":1,"colour":"red"}]}"#,
        ] {
            read(Order::Key, body).expect_err(body);
        }
    }

    #[test]
    fn outputs_belong_to_their_source_or_to_the_last_that_ended_well() {
        let body = r#"{"$outputs":[{"value":{"a":1}},
            {"value":{"$bytes":"AQ=="},"source":{"partition":"my-t-3","offset":10}}]}"#;
        let (_, outputs) = read(Order::Key, body).unwrap();
        assert_eq!(outputs, ["0=\u{1}", "3={\"a\":1}"]);
        let body = r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"my-t-3","offset":13}}],
            "$outputs":[{"value":1},{"value":2,"source":{"partition":"my-t-3","offset":13}}]}"#;
        assert_eq!(read(Order::Key, body).unwrap(), ("ooof".to_owned(), vec!["2=1".to_owned()]));
        let (_, outputs) = read(Order::Key, r#"{"statusCode":200}"#).unwrap();
        assert_eq!(outputs, [r#"3={"statusCode":200}"#]);
    }

    #[test]
    fn one_record_is_answered_by_one_value_or_by_choice() {
        let read = |body: &str| {
            record_answer(0, body.as_bytes()).map(|all| all.len()).map_err(|(name, _)| name)
        };
        assert_eq!((read(""), read("null"), read(" null ")), (Ok(0), Ok(0), Ok(0)));
        assert_eq!((read("[1,2]"), read("not json"), read("{}")), (Ok(1), Ok(1), Ok(1)));
        assert_eq!(read(r#"{"$outputs":[{"value":1},{"value":null,"key":"k"}]}"#), Ok(2));
        assert_eq!(read(r#"{"$outputs":1}"#), Err("Millrace.OutputInvalid"));
        assert_eq!(read(r#"{"$outputs":[{"value":1}],"more":1}"#), Ok(1));
    }
}
