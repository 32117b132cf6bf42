//! The traces of one shard: begins the span of a batch when it is invoked, and hands it on when its
//! invocation has ended. Without traces all of it is one branch a call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Headers, HeadersBuilder, Offset, Timestamp};
use runtime::Answer;

use crate::driver::ShardConfig;
use crate::trace::{BatchTrace, Ratio, TRACEPARENT, TRACESTATE, ending, keeps_own};
use crate::{InvocationId, Outcome, ShardDispatch};

/// An invocation that ended, as a trace shows it.
#[derive(Clone, Debug)]
pub struct BatchSpan {
    /// Where it belongs.
    pub trace: BatchTrace,
    /// The function's name.
    pub function: Arc<str>,
    /// The trigger: app/function/name.
    pub trigger: Arc<str>,
    /// The revision that ran.
    pub revision: Arc<str>,
    /// Unique among those of all shards: shard, epoch, number.
    pub invocation: String,
    /// What the shard reads; links name these by index.
    pub partitions: Arc<[(Arc<str>, i32)]>,
    /// Partition, by index, and offset of the batch's first record.
    pub first: (u32, Offset),
    /// How many records it had.
    pub records: usize,
    /// How many of them failed.
    pub failed: usize,
    /// The first failure's name and account.
    pub failure: Option<(String, String)>,
    /// When it was given to the pool.
    pub started: Timestamp,
    /// How long it was until its answer was read.
    pub took: Duration,
    /// How long it waited for an instance, the instance started, and it ran; without an answer
    /// nobody knows.
    pub times: Option<Times>,
}

/// Of an invocation with an answer.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// It waited for an instance.
    pub queue: Duration,
    /// Its instance started; zero when it was warm.
    pub start: Duration,
    /// It ran.
    pub run: Duration,
    /// Whether an instance was started for it.
    pub is_cold: bool,
    /// The place of its instance in the pool.
    pub slot: u64,
}

/// Takes spans away. Called in the shard's task: it must not wait.
pub trait TakeSpans: Send + Sync + fmt::Debug {
    /// Takes one, or drops and counts it.
    fn take(&self, span: BatchSpan);
}

/// Whether and where batches are traced.
#[derive(Clone, Debug)]
pub struct Traces {
    /// How many of those that come without a context.
    pub ratio: Ratio,
    /// Where spans go.
    pub spans: Arc<dyn TakeSpans>,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Tracer(Option<Tracing>);

#[derive(Debug)]
struct Tracing {
    traces: Traces,
    open: BTreeMap<InvocationId, Open>,
    partitions: Arc<[(Arc<str>, i32)]>,
    function: Arc<str>,
    trigger: Arc<str>,
    /// What the ids of its invocations begin with.
    prefix: String,
}

#[derive(Debug)]
struct Open {
    trace: BatchTrace,
    /// What its function is told, and its outputs carry.
    text: String,
    first: (u32, Offset),
    records: usize,
    started: Timestamp,
    started_at: Instant,
    times: Option<Times>,
}

impl Tracer {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        let traces = config.traces.as_ref().map(|traces| {
            let partitions = config.partitions.iter();
            Tracing {
                traces: traces.clone(),
                open: BTreeMap::new(),
                partitions: partitions.map(|it| (Arc::clone(&it.topic), it.partition)).collect(),
                function: Arc::clone(&config.function),
                trigger: Arc::clone(&config.trigger),
                prefix: format!("{}-{}", config.shard, config.epoch.0),
            }
        });
        Self(traces)
    }

    /// A batch is about to run.
    pub(crate) fn begin(&mut self, core: &ShardDispatch, id: InvocationId) {
        let Some(this) = &mut self.0 else { return };
        let ids = core.records(id);
        let Some(first) = ids.first().map(|it| core.record(*it)) else { return };
        let records = ids.iter().map(|it| {
            let record = core.record(*it);
            (record.partition, record.view.offset, record.view.headers)
        });
        let drawn = (rand::random::<u128>().max(1), rand::random::<u64>().max(1));
        let drawn = (drawn.0.to_be_bytes(), drawn.1.to_be_bytes());
        let Some(trace) = BatchTrace::of(records, this.traces.ratio, drawn) else { return };
        let open = Open {
            text: trace.context.to_string(),
            trace,
            first: (first.partition, first.view.offset),
            records: ids.len(),
            started: Timestamp::now(),
            started_at: Instant::now(),
            times: None,
        };
        this.open.insert(id, open);
    }

    /// The `traceparent` of an invocation that is sampled; empty otherwise.
    pub(crate) fn text(&self, id: InvocationId) -> &str {
        self.0.as_ref().and_then(|this| this.open.get(&id)).map_or("", |open| &open.text)
    }

    /// How long it took.
    pub(crate) fn answered(&mut self, id: InvocationId, answer: Option<&Answer>) {
        let Some(open) = self.0.as_mut().and_then(|this| this.open.get_mut(&id)) else { return };
        open.times = answer.map(|it| Times {
            queue: it.queue,
            start: it.start,
            run: it.run,
            is_cold: it.cold,
            slot: it.slot,
        });
    }

    /// It has ended: its span goes away. What its outputs carry stays until [`forget`](Self::forget).
    pub(crate) fn end(&self, id: InvocationId, revision: &Arc<str>, outcome: &Outcome) {
        let Some(this) = &self.0 else { return };
        let Some(open) = this.open.get(&id) else { return };
        let (failed, failure) = ending(outcome, open.records);
        this.traces.spans.take(BatchSpan {
            trace: open.trace.clone(),
            function: Arc::clone(&this.function),
            trigger: Arc::clone(&this.trigger),
            revision: Arc::clone(revision),
            invocation: format!("{}-{}", this.prefix, id.0),
            partitions: Arc::clone(&this.partitions),
            first: open.first,
            records: open.records,
            failed,
            failure,
            started: open.started,
            took: open.started_at.elapsed(),
            times: open.times,
        });
    }

    pub(crate) fn forget(&mut self, id: InvocationId) {
        if let Some(this) = &mut self.0 {
            this.open.remove(&id);
        }
    }

    /// What the outputs of an invocation carry, if it is sampled.
    pub(crate) fn carried(&self, id: InvocationId) -> Option<Carried<'_>> {
        let open = self.0.as_ref()?.open.get(&id)?;
        Some(Carried { parent: &open.text, state: &open.trace.state })
    }
}

/// The context that an output goes on with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried<'a> {
    parent: &'a str,
    state: &'a str,
}

impl Carried<'_> {
    /// The headers of an output: its own, with this context unless the function gave it one of
    /// its own.
    pub(crate) fn write(self, own: Headers<'_>, record: Headers<'_>, to: &mut HeadersBuilder) {
        if keeps_own(own, record) {
            return to.extend(own);
        }
        let ours = [TRACEPARENT.as_bytes(), TRACESTATE.as_bytes()];
        for (name, value) in own.iter().filter(|(name, _)| !ours.contains(name)) {
            to.push(name, value);
        }
        to.push(TRACEPARENT.as_bytes(), Some(self.parent.as_bytes()));
        if !self.state.is_empty() {
            to.push(TRACESTATE.as_bytes(), Some(self.state.as_bytes()));
        }
    }
}
