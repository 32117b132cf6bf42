//! What authors write Millrace functions with in Rust: a handler is called record by record, and
//! this crate reads the batch and writes the answer.
//!
//! ```ignore
//! use millrace_guest::{Failure, Outputs, Record};
//!
//! millrace_guest::handler!(shout);
//!
//! fn shout(record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
//!     let value = record.value().ok_or_else(|| Failure::new("Shout.Empty", "no value"))?;
//!     out.push(&value.to_ascii_uppercase());
//!     Ok(())
//! }
//! ```
//!
//! Build for `wasm32-wasip2` as a `cdylib`. A handler that returns an error fails its record
//! alone: with order `key` later records of that key are left alone, with `partition` all later
//! ones, with `none` nothing is.

use std::collections::BTreeSet;

use millrace_frame::{Headers, Order, OutputKey, Request, RequestRecord, ResponseBuilder};

pub use millrace_frame::HeadersBuilder;

#[doc(hidden)]
#[allow(unsafe_code, missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "batch",
        pub_export_macro: true,
        default_bindings_module: "millrace_guest::bindings",
    });
}

/// How loud a log line is.
pub use bindings::millrace::function::logging::Level;

/// Writes a log line of this invocation.
pub fn log(level: Level, message: &str) {
    bindings::millrace::function::logging::log(level, message);
}

/// Why a record failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: String,
    message: String,
}

impl Failure {
    /// A failure of this kind (a short name, such as `Reading.Malformed`), and what happened.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new("Function.Error", error.to_string())
    }
}

/// One record, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    record: RequestRecord<'a>,
    trace: &'a str,
}

impl<'a> Record<'a> {
    /// The topic it was read from.
    #[must_use]
    pub const fn topic(&self) -> &'a str {
        self.record.topic
    }

    /// The partition it was read from.
    #[must_use]
    pub const fn partition(&self) -> i32 {
        self.record.partition
    }

    /// Where it lies there.
    #[must_use]
    pub const fn offset(&self) -> i64 {
        self.record.offset
    }

    /// Its timestamp, Unix ms.
    #[must_use]
    pub const fn timestamp(&self) -> i64 {
        self.record.timestamp
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.record.attempt
    }

    /// Its key, if it has one.
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        self.record.key
    }

    /// Its value; a tombstone has none.
    #[must_use]
    pub const fn value(&self) -> Option<&'a [u8]> {
        self.record.value
    }

    /// The W3C `traceparent` of the invocation that it is in; empty unless that is traced.
    #[must_use]
    pub const fn trace(&self) -> &'a str {
        self.trace
    }

    /// Its headers, in order, duplicates kept.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        self.record.headers.iter()
    }
}

/// An output with choices. By default the trigger's topic and the record's key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output<'a> {
    /// Another topic than the trigger's: the manifest must allow it.
    pub topic: Option<&'a str>,
    /// The key.
    pub key: Key<'a>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: Option<&'a HeadersBuilder>,
    /// The partition; follows from the key by default.
    pub partition: Option<i32>,
}

/// The key of an output.
#[derive(Clone, Copy, Debug, Default)]
pub enum Key<'a> {
    /// The record's own.
    #[default]
    Keep,
    /// None.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
}

/// Where a handler puts what it makes of a record.
#[derive(Debug)]
pub struct Outputs<'a> {
    response: &'a mut ResponseBuilder,
    source: u32,
}

impl Outputs<'_> {
    /// A record with this value, under the source's key, to the trigger's output topic.
    pub fn push(&mut self, value: &[u8]) {
        self.push_with(&Output { value: Some(value), ..Output::default() });
    }

    /// A record with choices.
    pub fn push_with(&mut self, output: &Output<'_>) {
        self.response.output(&millrace_frame::Output {
            source: self.source,
            topic: output.topic,
            key: match output.key {
                Key::Keep => OutputKey::Keep,
                Key::None => OutputKey::None,
                Key::Bytes(bytes) => OutputKey::Bytes(bytes),
            },
            value: output.value,
            headers: output.headers.map_or_else(Headers::default, HeadersBuilder::headers),
            partition: output.partition,
        });
    }
}

/// Makes a function the component's handler: `fn(&Record<'_>, &mut Outputs<'_>) -> Result<(),
/// Failure>`.
#[macro_export]
macro_rules! handler {
    ($handle:path) => {
        struct MillraceHandler;

        impl $crate::bindings::Guest for MillraceHandler {
            fn handle(batch: Vec<u8>) -> Vec<u8> {
                $crate::run(&batch, $handle)
            }
        }

        $crate::bindings::export!(MillraceHandler with_types_in $crate::bindings);
    };
}

/// Runs `handle` on every record of an encoded batch and encodes the answer.
///
/// # Panics
///
/// When `batch` is not a request: the node made it, so a new instance will not do better.
pub fn run(
    batch: &[u8],
    mut handle: impl FnMut(&Record<'_>, &mut Outputs<'_>) -> Result<(), Failure>,
) -> Vec<u8> {
    let request = Request::parse(batch).expect("the node sends a request that it checked");
    // Memory that grows step by step is moved step by step, and each step is a call of the kernel.
    let mut response = ResponseBuilder::with_room(request.batch_id(), request.len(), batch.len());
    let trace = request.context().trace;
    let mut failed_keys: BTreeSet<&[u8]> = BTreeSet::new();
    let mut failed_partitions: BTreeSet<(&str, i32)> = BTreeSet::new();
    for (index, record) in request.iter().enumerate() {
        let held = match request.order() {
            Order::None => false,
            Order::Key => record.key.is_some_and(|key| failed_keys.contains(key)),
            Order::Partition => failed_partitions.contains(&(record.topic, record.partition)),
        };
        if held {
            continue;
        }
        let mark = response.outputs_mark();
        let source = index as u32;
        let ended =
            handle(&Record { record, trace }, &mut Outputs { response: &mut response, source });
        match ended {
            Ok(()) => response.ok(index),
            Err(failure) => {
                response.truncate_outputs(mark);
                response.failed(index, &failure.code, &failure.message);
                failed_keys.extend(record.key);
                failed_partitions.insert((record.topic, record.partition));
            }
        }
    }
    response.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_frame::{Context, End, RequestBuilder, Response};

    fn ends(order: Order) -> Vec<String> {
        let mut builder = RequestBuilder::new(1, order, &Context::default(), &[("in", 0)]);
        for (offset, (key, value)) in
            [("a", "1"), ("b", "bad"), ("b", "2"), ("a", "3")].into_iter().enumerate()
        {
            let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
            builder.push(0, offset as i64, 0, 1, key, value, &[], 0);
        }
        let answer = run(&builder.finish(), |record, out| {
            out.push(record.value().unwrap_or_default());
            match record.value() {
                Some(b"bad") => Err(Failure::new("Bad", "it is")),
                _ => Ok(()),
            }
        });
        let response = Response::parse(&answer, 1, 4).unwrap();
        let oks = (0..4).filter(|index| response.end(*index) == End::Ok).count();
        assert_eq!(response.outputs().count(), oks, "a failed record has no outputs");
        (0..4).map(|index| format!("{:?}", response.end(index))).collect()
    }

    #[test]
    fn a_failed_record_holds_back_what_its_order_says() {
        let failed = r#"Failed { code: "Bad", message: "it is" }"#;
        assert_eq!(ends(Order::None), ["Ok", failed, "Ok", "Ok"]);
        assert_eq!(ends(Order::Key), ["Ok", failed, "NotRun", "Ok"]);
        assert_eq!(ends(Order::Partition), ["Ok", failed, "NotRun", "NotRun"]);
    }
}
