//! Bytes in JSON: UTF-8 as a string, everything else as `{"$bytes": "<base64>"}`, so that any key,
//! value or header comes back byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const BYTES: &str = "$bytes";

/// A key, a value, or a part of a header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Data(pub Bytes);

impl Data {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, where it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl From<&str> for Data {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<&[u8]> for Data {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = self.as_str() {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(BYTES, &STANDARD.encode(&self.0))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(r#"a string, null or {"$bytes": "<base64>"}; send other JSON as a string"#)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Data, E> {
        Ok(text.into())
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Data, E> {
        Ok(text.into_bytes().into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let Some((key, text)) = map.next_entry::<String, String>()? else {
            return Err(A::Error::custom(r#"expected {"$bytes": "<base64>"}"#));
        };
        if key != BYTES || map.next_key::<String>()?.is_some() {
            return Err(A::Error::custom(r#"expected {"$bytes": "<base64>"} and nothing else"#));
        }
        let bytes = STANDARD.decode(text).map_err(|_wrong| A::Error::custom("not base64"))?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back() {
        for bytes in [&b""[..], b"plain", b"\xff\x00", "wörter\n\"".as_bytes(), b"\x00"] {
            let data = Data::from(bytes);
            let text = serde_json::to_string(&data).unwrap();
            assert_eq!(serde_json::from_str::<Data>(&text).unwrap(), data, "{text}");
        }
        assert_eq!(
            serde_json::to_string(&Data::from(&b"\xff"[..])).unwrap(),
            r#"{"$bytes":"/w=="}"#
        );
    }

    #[test]
    fn other_json_is_refused_with_what_would_do() {
        for (text, says) in [
            ("1", "send other JSON as a string"),
            ("{}", "expected {\"$bytes\""),
            (r#"{"c":"34"}"#, "expected {\"$bytes\""),
            (r#"{"$bytes":"/w==","more":1}"#, "nothing else"),
            (r#"{"$bytes":"?"}"#, "not base64"),
        ] {
            let error = serde_json::from_str::<Data>(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
