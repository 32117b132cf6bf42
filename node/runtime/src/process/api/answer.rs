//! What a worker answered, and what its errors say.

use bytes::Bytes;
use serde::Deserialize;

/// The content type of a batch, both ways.
pub(crate) const BATCH: &str = "application/vnd.millrace.batch.v1";
/// The content type of events that are JSON.
pub(crate) const JSON: &str = "application/json";

/// What a message of a function is cut to, bytes.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// What a name that a function gives its error is cut to, bytes.
const NAME_BYTES_MAX: usize = 256;

/// How an invocation was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// With a result; `batch` says that it is a frame.
    Response { body: Bytes, batch: bool },
    /// With an error: its type as the header has it, and its body.
    Error { name: Option<String>, body: Bytes },
    /// With more than it may.
    TooLarge { bytes_max: usize },
    /// With less than it announced.
    Truncated,
    /// In a mode that there is not.
    BadMode(String),
}

/// The body of an error, whatever language wrote it.
#[derive(Deserialize)]
struct Body {
    #[serde(rename = "errorMessage", default)]
    message: Option<serde_json::Value>,
    #[serde(rename = "errorType", default)]
    name: Option<String>,
}

/// Type and message of a function's error.
pub(crate) fn function_error(name: Option<&str>, body: &[u8]) -> (String, String) {
    let parsed: Option<Body> = serde_json::from_slice(body).ok();
    let (own_name, message) = parsed.map_or((None, None), |body| (body.name, body.message));
    let mut name = own_name
        .filter(|it| !it.is_empty())
        .or_else(|| name.map(str::to_owned))
        .unwrap_or_else(|| "Function.Error".to_owned());
    let mut message = match message {
        Some(serde_json::Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::from_utf8_lossy(body).into_owned(),
    };
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    (name, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_its_type_and_message_in_every_shape() {
        let of = |name: Option<&str>, body: &str| function_error(name, body.as_bytes());
        let pair = |name: &str, message: &str| (name.to_owned(), message.to_owned());
        let python = r#"{"errorMessage":"no","errorType":"ValueError","stackTrace":["x"]}"#;
        assert_eq!(of(Some("Unhandled"), python), pair("ValueError", "no"));
        assert_eq!(of(Some("Function.Odd"), "not json"), pair("Function.Odd", "not json"));
        assert_eq!(of(None, r#"{"errorMessage":{"a":1}}"#), pair("Function.Error", r#"{"a":1}"#));
        assert_eq!(of(None, "").0, "Function.Error");
        assert!(of(None, &"é".repeat(9_000)).1.len() <= MESSAGE_BYTES_MAX);
    }
}
