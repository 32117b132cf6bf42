//! A pure core: what an official client is told about its record, in the one place that all of
//! them show to handlers, `client_context.custom`. Its values are texts, because Go's and Java's
//! clients take no others: `millrace` is one of JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frame::{Request, RequestRecord};
use hyper::header::HeaderValue;
use serde_json::{Map, Value, json};

use crate::Decode;

/// Some clients read no longer header than 64 KiB.
const CONTEXT_BYTES_MAX: usize = 32 << 10;

/// What is the same for all records of a batch.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    request: &'a Request<'a>,
    decode: Decode,
}

impl<'a> Shared<'a> {
    pub(crate) const fn new(request: &'a Request<'a>, decode: Decode) -> Self {
        Self { request, decode }
    }

    /// The header's value; `None` when not even the least of it fits.
    pub(crate) fn client_context(&self, record: &RequestRecord<'_>) -> Option<HeaderValue> {
        let context = self.request.context();
        let mut facts = json!({
            "function": context.function,
            "revision": context.revision,
            "trigger": context.trigger,
            "decode": self.decode.as_str(),
            "attempt": record.attempt,
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "idempotencyKey": format!(
                "{}/{}/{}/{}/{}",
                context.cluster, context.trigger, record.topic, record.partition, record.offset
            ),
            "key": record.key.map(|key| STANDARD.encode(key)),
        });
        if !context.trace.is_empty() {
            facts["traceparent"] = context.trace.into();
        }
        let least = ascii(&json!({ "custom": { "millrace": facts.to_string() } }));
        let headers = record.headers.iter().map(|(name, value)| {
            let name = String::from_utf8_lossy(name).into_owned();
            let value = value.map_or(Value::Null, |value| STANDARD.encode(value).into());
            Value::Object(Map::from_iter([(name, value)]))
        });
        facts["headers"] = headers.collect();
        let all = ascii(&json!({ "custom": { "millrace": facts.to_string() } }));
        let text = [all, least].into_iter().find(|text| text.len() <= CONTEXT_BYTES_MAX)?;
        HeaderValue::from_str(&text).ok()
    }
}

/// JSON of ASCII alone: clients disagree about what other bytes of a header mean.
fn ascii(value: &Value) -> String {
    let text = value.to_string();
    let mut ascii = String::with_capacity(text.len());
    for it in text.chars() {
        if it.is_ascii() && it != '\u{7f}' {
            ascii.push(it);
        } else {
            let mut units = [0; 2];
            for unit in it.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use frame::{Context, Order, RequestBuilder};

    use super::*;

    #[test]
    fn the_context_is_ascii_and_says_where_the_record_lies() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = Context { cluster: "dev", trigger: "a/b/c", trace, ..Context::default() };
        let mut builder = RequestBuilder::new(1, Order::Key, &context, &[("in", 3)]);
        let mut headers = frame::HeadersBuilder::default();
        headers.push("größe\u{1f600}".as_bytes(), Some(b"1"));
        let headers = headers.headers();
        builder.push(0, 40, 5, 2, None, None, headers.as_bytes(), headers.len());
        let frame = builder.finish();
        let request = Request::parse(&frame).unwrap();
        let shared = Shared::new(&request, Decode::Json);
        let header = shared.client_context(&request.get(0)).unwrap();
        let value: Value = serde_json::from_str(header.to_str().unwrap()).unwrap();
        let facts = value["custom"]["millrace"].as_str().unwrap();
        let facts: Value = serde_json::from_str(facts).unwrap();
        assert_eq!(facts["idempotencyKey"], "dev/a/b/c/in/3/40");
        assert_eq!(facts["traceparent"], trace);
        assert_eq!((&facts["attempt"], &facts["key"]), (&json!(2), &Value::Null));
        assert_eq!(facts["headers"], json!([{"größe\u{1f600}": "MQ=="}]));
    }
}
