//! One immutable version of a function: what it says and what it is made of, by content.
//! The same spec and package give the same revision on every node and on every day.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{FunctionSpec, PackageDigest};

/// Hexadecimal digits of a revision.
const DIGITS: usize = 12;

/// Says which layout was hashed: another layout is another revision.
const DOMAIN: &[u8] = b"millrace-revision-v1\0";

/// The name of a revision: the first 12 hexadecimal digits of a SHA-256 over its spec, as JSON
/// with sorted keys, and the digest of its package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Revision(Arc<str>);

/// A text that is no revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a revision is {DIGITS} hexadecimal digits")]
pub struct NotARevision;

impl Revision {
    /// The revision of a spec and its package.
    #[must_use]
    pub fn of(spec: &FunctionSpec, package: PackageDigest) -> Self {
        let spec = serde_json::to_value(spec).expect("a spec has text keys and finite numbers");
        let mut hash = Sha256::new_with_prefix(DOMAIN);
        let mut text = String::new();
        write_sorted(&spec, &mut text);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
        hash.update(package.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let hex: String = digest[..DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect();
        Self(hex.into())
    }

    /// The 12 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// JSON with sorted keys, whatever order the library's map keeps in this build.
fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (number, (key, value)) in entries.into_iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_sorted(value, out);
            }
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            for (number, value) in values.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                write_sorted(value, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Revision {
    type Error = NotARevision;

    fn try_from(text: String) -> Result<Self, NotARevision> {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let fits = text.len() == DIGITS && text.as_bytes().iter().all(is_digit);
        if fits { Ok(Self(text.into())) } else { Err(NotARevision) }
    }
}

impl From<Revision> for String {
    fn from(revision: Revision) -> Self {
        revision.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Instances, Name, Package, Runtime};

    fn spec() -> FunctionSpec {
        FunctionSpec {
            name: Name::parse("tidy").unwrap(),
            runtime: Runtime::Wasm,
            handler: "tidy.wasm".to_owned(),
            path: "functions/tidy".to_owned(),
            memory_bytes: FunctionSpec::MEMORY_BYTES,
            timeout: FunctionSpec::TIMEOUT,
            instances: Instances::default(),
            labels: std::collections::BTreeSet::new(),
            env: std::collections::BTreeMap::new(),
            allow_produce: vec!["side".to_owned()],
            triggers: Vec::new(),
        }
    }

    fn digest(content: &str) -> PackageDigest {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tidy.wasm");
        std::fs::write(&path, content).unwrap();
        Package::from_file(&path).unwrap().digest()
    }

    #[test]
    fn a_revision_is_its_content() {
        let one = Revision::of(&spec(), digest("1"));
        assert_eq!(one, Revision::of(&spec(), digest("1")));
        assert_ne!(one, Revision::of(&spec(), digest("2")));
        let other = FunctionSpec { memory_bytes: 1 << 20, ..spec() };
        assert_ne!(one, Revision::of(&other, digest("1")));
        assert_eq!(one.as_str().len(), 12);
    }

    #[test]
    fn a_revision_reads_back_and_nothing_else_does() {
        let one = Revision::of(&spec(), digest("1"));
        assert_eq!(Revision::try_from(one.to_string()), Ok(one));
        for bad in ["", "0123456789a", "0123456789AB", "0123456789abc", "../x56789abc"] {
            assert_eq!(Revision::try_from(bad.to_owned()), Err(NotARevision), "{bad}");
        }
    }

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = serde_json::json!({"b": [{"d": 1, "c": null}], "a": "\"x"});
        let mut text = String::new();
        write_sorted(&value, &mut text);
        assert_eq!(text, r#"{"a":"\"x","b":[{"c":null,"d":1}]}"#);
    }
}
