//! What is wrong with a pattern, and where in it.

use std::fmt;

/// One step into a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value under this key.
    Key(String),
    /// The element of this index.
    Index(usize),
}

/// A pattern that cannot be used. Each code has its page in `millrace explain`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", At(path))]
pub struct PatternError {
    /// `E0221` a value that does not fit, `E0222` an unknown word, `E0223` too much of it.
    pub code: &'static str,
    /// Where, from the list of patterns on: the first step is the pattern's index.
    pub path: Vec<Step>,
    /// What is wrong.
    pub message: String,
    /// What was expected.
    pub expected: String,
}

/// `value.c[0].numeric: `, without the index of the pattern.
struct At<'a>(&'a [Step]);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = place(self.0);
        if place.is_empty() { Ok(()) } else { write!(f, "{place}: ") }
    }
}

/// A path as people write it, without the index of the pattern.
fn place(path: &[Step]) -> String {
    let mut place = String::new();
    for step in path.iter().skip(1) {
        match step {
            Step::Key(key) if place.is_empty() => place.push_str(key),
            Step::Key(key) => place.push_str(&format!(".{key}")),
            Step::Index(index) => place.push_str(&format!("[{index}]")),
        }
    }
    place
}

/// A value that does not fit.
pub(crate) const WRONG: &str = "E0221";
/// A field or an operator that there is not.
pub(crate) const UNKNOWN: &str = "E0222";
/// More than a filter takes.
pub(crate) const TOO_MUCH: &str = "E0223";

/// The way into a pattern while it is read.
#[derive(Debug, Default)]
pub(crate) struct Way(Vec<Step>);

impl Way {
    /// Goes one step further in for as long as `inside` runs.
    pub(crate) fn at<T>(&mut self, step: Step, inside: impl FnOnce(&mut Self) -> T) -> T {
        self.0.push(step);
        let result = inside(self);
        self.0.pop();
        result
    }

    pub(crate) fn key<T>(&mut self, key: &str, inside: impl FnOnce(&mut Self) -> T) -> T {
        self.at(Step::Key(key.to_owned()), inside)
    }

    pub(crate) fn error(
        &self,
        code: &'static str,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) -> PatternError {
        let (message, expected) = (message.into(), expected.into());
        PatternError { code, path: self.0.clone(), message, expected }
    }

    pub(crate) fn wrong(
        &self,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) -> PatternError {
        self.error(WRONG, message, expected)
    }
}
