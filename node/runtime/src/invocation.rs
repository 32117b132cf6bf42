//! What a pool is asked for and what it answers, whatever runs inside.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// One batch for a function.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// A request of the crate `frame`.
    pub frame: Bytes,
    /// The id inside it.
    pub batch_id: u64,
    /// How many records it has.
    pub records: u32,
    /// How long it may run, from the moment an instance has it.
    pub timeout: Duration,
    /// How its trigger wants the handler to be called.
    pub calling: Calling,
    /// Whether it is part of a batch that took its instance with it, and may do so again.
    pub is_risky: bool,
    /// Whether its instance is ended when nobody waits for the answer any more. What runs for a
    /// shard goes on: its outputs may be committed already.
    pub ends_with_caller: bool,
    /// What its log lines name it by.
    pub named: Named,
}

/// What the lines of an invocation say it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The invocation, unique in the cluster.
    pub invocation: Arc<str>,
    /// Its W3C `traceparent`; empty unless it is traced.
    pub trace: Arc<str>,
}

/// How a handler is called. WebAssembly functions are called in one way only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calling {
    /// With what.
    pub event: Event,
    /// What becomes of a value before the handler sees it.
    pub decode: Decode,
    /// Whether a returned value has a topic to go to.
    pub has_output: bool,
}

/// What a handler is called with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// One record.
    #[default]
    Record,
    /// The AWS Kafka event, a batch.
    Lambda,
}

/// What becomes of a value before a handler sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decode {
    /// Nothing: it sees the bytes.
    #[default]
    None,
    /// It is parsed; what does not parse is a dead letter at once.
    Json,
}

impl Decode {
    /// The word of the manifest, and of the header that bootstraps read.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Json => "json",
        }
    }
}

/// What a function made of a batch.
#[derive(Clone, Debug)]
pub struct Answer {
    /// A response of the crate `frame`, not checked yet.
    pub frame: Bytes,
    /// Whether an instance was started for it.
    pub cold: bool,
    /// How long it waited for an instance.
    pub queue: Duration,
    /// How long the instance took to start; zero when it was warm.
    pub start: Duration,
    /// How long it ran.
    pub run: Duration,
    /// The place of its instance, never reused within the pool.
    pub slot: u64,
}

/// An invocation without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", self.code())]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// Its name where the function gave it one of its own.
    pub name: Option<Box<str>>,
    /// What happened, for the function's author.
    pub message: String,
}

impl Failure {
    /// A failure under its kind's own name.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, name: None, message: message.into() }
    }

    /// The same under another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<Box<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether the handler certainly never had the batch. A task that was cut off is no such
    /// case, though nobody is charged for it either.
    #[must_use]
    pub fn has_not_run(&self) -> bool {
        match self.kind {
            FailureKind::NoCapacity => self.name.as_deref() != Some(CUT_OFF),
            FailureKind::Start => true,
            _ => false,
        }
    }

    /// The name that dead letters and messages carry.
    #[must_use]
    pub fn code(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.kind.code())
    }
}

/// The name of a failure whose task ended with the engine, or with whoever asked: the handler may
/// have had the batch.
pub(crate) const CUT_OFF: &str = "Millrace.CutOff";

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It ran into its deadline.
    Timeout,
    /// The instance ended.
    Crash,
    /// The instance asked for more memory than it may have.
    OutOfMemory,
    /// The answer is not one.
    BrokenAnswer,
    /// The handler ended the whole batch with an error of its own.
    Function,
    /// No instance was free and the queue is full, or the pool drains. Charged to nobody.
    NoCapacity,
    /// No instance could be started. Charged to nobody.
    Start,
}

impl FailureKind {
    /// The name that dead letters and messages carry (functions.md section 8).
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Timeout => "Sandbox.Timedout",
            Self::Crash => "Runtime.ExitError",
            Self::OutOfMemory => "Runtime.OutOfMemory",
            Self::BrokenAnswer => "Millrace.BrokenAnswer",
            Self::Function => "Function.Error",
            Self::NoCapacity => "Millrace.NoCapacity",
            Self::Start => "Millrace.Start",
        }
    }

    /// Whether the batch is to blame, and not the node.
    #[must_use]
    pub const fn is_charged(self) -> bool {
        !matches!(self, Self::NoCapacity | Self::Start)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// How a pool does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Instances that wait for work.
    pub idle: u32,
    /// Instances that run.
    pub busy: u32,
    /// Invocations that wait for an instance.
    pub queued: u32,
    /// Instances started so far.
    pub started: u64,
    /// Invocations that ended so far.
    pub ended: u64,
    /// Instances that there may be at once.
    pub max: u32,
    /// Whether a new instance costs next to nothing, so that one that is idle is no better.
    pub starts_fast: bool,
}

/// Runs batches: a pool, or in tests a function of the test.
#[async_trait]
pub trait Invoke: Send + Sync + fmt::Debug {
    /// Runs one batch. A dropped call may still run to its end; its answer is lost.
    ///
    /// # Errors
    ///
    /// [`Failure`], by kind.
    async fn invoke(&self, invocation: Invocation) -> Result<Answer, Failure>;

    /// How it does.
    fn stats(&self) -> PoolStats;
}
