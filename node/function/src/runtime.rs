//! What runs a function, as a manifest names it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What runs a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Runtime {
    /// `wasm`: a WebAssembly component of the world `millrace:function`.
    Wasm,
    /// `python3`, or `python3.11` for that minor version alone.
    Python(Option<u8>),
    /// `node`, or `node20` for that major version alone.
    Node(Option<u16>),
    /// `provided`: the package's own executable `bootstrap`, which speaks the Runtime API.
    Provided,
}

/// A word that names no runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one of wasm, python3, python3.N, node, nodeN, provided")]
pub struct NotARuntime;

impl Runtime {
    /// Whether its instances are processes.
    #[must_use]
    pub const fn is_process(self) -> bool {
        !matches!(self, Self::Wasm)
    }

    /// Reads a word of a manifest.
    ///
    /// # Errors
    ///
    /// When it names none.
    pub fn parse(text: &str) -> Result<Self, NotARuntime> {
        let number = |digits: &str| {
            let plain = !digits.starts_with(['0', '+']) && digits.len() <= 3;
            digits.parse::<u16>().ok().filter(|_| plain).ok_or(NotARuntime)
        };
        match text {
            "wasm" => Ok(Self::Wasm),
            "python3" => Ok(Self::Python(None)),
            "node" => Ok(Self::Node(None)),
            "provided" => Ok(Self::Provided),
            _ => {
                if let Some(minor) = text.strip_prefix("python3.") {
                    let minor = u8::try_from(number(minor)?).map_err(|_large| NotARuntime)?;
                    return Ok(Self::Python(Some(minor)));
                }
                let major = text.strip_prefix("node").ok_or(NotARuntime)?;
                Ok(Self::Node(Some(number(major)?)))
            }
        }
    }

    /// What was meant by the name that AWS gives a runtime, or by a shorter one.
    #[must_use]
    pub fn near(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if text == "python" || text == "py" {
            return Some(Self::Python(None));
        }
        if text.starts_with("provided") {
            return Some(Self::Provided);
        }
        if let Some(version) = text.strip_prefix("nodejs").or_else(|| text.strip_prefix("node")) {
            let major = version.trim_end_matches(".x").split('.').next().unwrap_or_default();
            return Self::parse(&format!("node{major}")).ok();
        }
        let version = text.strip_prefix("python")?;
        Self::parse(&format!("python3.{}", version.strip_prefix('3').unwrap_or(version))).ok()
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wasm => f.write_str("wasm"),
            Self::Python(None) => f.write_str("python3"),
            Self::Python(Some(minor)) => write!(f, "python3.{minor}"),
            Self::Node(None) => f.write_str("node"),
            Self::Node(Some(major)) => write!(f, "node{major}"),
            Self::Provided => f.write_str("provided"),
        }
    }
}

impl TryFrom<String> for Runtime {
    type Error = NotARuntime;

    fn try_from(text: String) -> Result<Self, NotARuntime> {
        Self::parse(&text)
    }
}

impl From<Runtime> for String {
    fn from(runtime: Runtime) -> Self {
        runtime.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_reads_back_and_nothing_else_does() {
        for text in ["wasm", "python3", "python3.9", "python3.13", "node", "node20", "provided"] {
            assert_eq!(Runtime::parse(text).unwrap().to_string(), text);
        }
        for text in
            ["", "python", "python2", "python3.", "python3.x", "node+2", "node020", "java21"]
        {
            assert_eq!(Runtime::parse(text), Err(NotARuntime), "{text}");
        }
    }

    #[test]
    fn names_of_aws_are_understood() {
        assert_eq!(Runtime::near("nodejs20.x"), Some(Runtime::Node(Some(20))));
        assert_eq!(Runtime::near("node.js"), Some(Runtime::Node(None)));
        assert_eq!(Runtime::near("nodejs"), Some(Runtime::Node(None)));
        assert_eq!(Runtime::near("Python"), Some(Runtime::Python(None)));
        assert_eq!(Runtime::near("provided.al2023"), Some(Runtime::Provided));
        assert_eq!(Runtime::near("ruby"), None);
    }
}
