//! What a function is: its manifest, its package and its immutable revisions.
//!
//! [`Manifest::load`] turns `millrace.toml` into checked specs or into every mistake of the file
//! at once; [`Package`] is a function's bytes by content; [`explain`] holds a page for every
//! code that Millrace prints. The crate runs nothing and knows neither runtime nor cluster.

mod archive;
mod code;
mod diagnostic;
mod explain;
mod manifest;
mod names;
mod package;
mod parse;
mod revision;
mod runtime;
mod settings;
mod units;

pub use archive::ARCHIVE_BYTES_MAX;
pub use diagnostic::{Diagnostic, Diagnostics, Place, Severity};
pub use explain::{CodeTitle, codes, explain};
pub use manifest::{
    Batch, Circuit, Cleanup, Decode, Delivery, Event, FILE_NAME, Feed, Fresh, FunctionSpec,
    Instances, Manifest, Order, PARTITIONS_MAX, Retention, Retry, Start, Topic, TriggerSpec,
};
pub use names::{
    NAME_CHARS_MAX, Name, NameError, TOPIC_CHARS_MAX, TopicNameError, check_topic_name,
};
pub use package::{
    DEPTH_MAX, ENTRIES_MAX, FILE_BYTES_MAX, NotADigest, PACKAGE_BYTES_MAX, Package, PackageDigest,
    PackageError,
};
pub use revision::{NotARevision, Revision};
pub use runtime::{NotARuntime, Runtime};
pub use settings::Setting;
pub use units::{UnitError, format_bytes, format_duration, parse_bytes, parse_duration};
