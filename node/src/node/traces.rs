//! Spans on their way to a collector: a queue with room for so much, and a thread that sends what is
//! in it by OTLP. Nobody waits for it: what finds no room is dropped and counted, and so is what the
//! collector does not take in time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use dispatch::{BatchSpan, LINKS_MAX, TakeSpans, TraceContext};
use metrics::{Counter, counter};
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

use super::settings::TraceSettings;
use crate::commands::error::{CommandError, exit};

/// Spans that may wait, and spans and links together: 65,536 links take some 10 MB.
const WAITING_MAX: usize = 4_096;
const WEIGHT_MAX: usize = 64 * LINKS_MAX;
/// Spans of one request, and how long the first of them waits for others.
const REQUEST_SPANS: usize = 512;
const LINGER: Duration = Duration::from_millis(500);
/// A collector that takes longer is tried again, until the exporter's own patience (10 s, or
/// OTEL_EXPORTER_OTLP_TIMEOUT) ends.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// What is read of a collector's answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// A failure's account in a span.
const ACCOUNT_BYTES_MAX: usize = 1_024;

const EXPORTED: &str = "millrace_trace_spans_exported_total";
const DROPPED: &str = "millrace_trace_spans_dropped_total";

/// Tells the recorder what each of these is.
pub(crate) fn describe_metrics() {
    metrics::describe_counter!(EXPORTED, "Spans that the collector of traces took.");
    metrics::describe_counter!(
        DROPPED,
        "Spans that were lost: the queue had no room, or the collector did not take them."
    );
}

/// The way out. Dropping it leaves what waits behind.
pub(super) struct Exporter {
    waiting: Mutex<Option<SyncSender<BatchSpan>>>,
    /// Spans and links that wait.
    weight: Arc<AtomicUsize>,
    no_room: Counter,
    /// Tells when the thread is over.
    over: Mutex<Receiver<()>>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exporter({} waiting)", self.weight.load(Ordering::Relaxed))
    }
}

impl Exporter {
    /// Starts the thread. `system` is what the bus is to OpenTelemetry: `kafka`, or our own.
    ///
    /// # Errors
    ///
    /// When the settings of the environment make no exporter, or there is no thread to be had.
    pub(super) fn start(
        settings: &TraceSettings,
        node: &str,
        system: &'static str,
    ) -> Result<Arc<Self>, CommandError> {
        let failed = |error: &dyn fmt::Display| {
            let message = format!("cannot send traces to {}: {error}", settings.url);
            CommandError::new(exit::UNUSABLE, "E0414", message)
                .help("look at the variables OTEL_*: millrace explain E0414")
        };
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&settings.url)
            .with_http_client(Client::new())
            .build()
            .map_err(|error| failed(&error))?;
        exporter.set_resource(&resource(node));
        let (waiting, taken) = sync_channel(WAITING_MAX);
        let (ends, over) = sync_channel(1);
        let weight = Arc::new(AtomicUsize::new(0));
        let sender = Sender {
            exporter,
            taken,
            weight: Arc::clone(&weight),
            system,
            exported: counter!(EXPORTED),
            not_taken: counter!(DROPPED, "cause" => "not-delivered"),
            is_well: true,
        };
        let run = move || {
            sender.run();
            drop(ends);
        };
        std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(run)
            .map_err(|error| failed(&error))?;
        let no_room = counter!(DROPPED, "cause" => "queue-full");
        let (waiting, over) = (Mutex::new(Some(waiting)), Mutex::new(over));
        Ok(Arc::new(Self { waiting, weight, no_room, over }))
    }

    /// Sends what waits, for at most `patience`; what comes after this is dropped.
    pub(super) fn end(&self, patience: Duration) {
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        if over.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the collector of traces did not take the last spans in time");
        }
    }
}

impl TakeSpans for Exporter {
    fn take(&self, span: BatchSpan) {
        let weight = weight_of(&span);
        // Held for a moment by other shards, and never over a wait.
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = self.weight.load(Ordering::Relaxed) + weight <= WEIGHT_MAX;
        // Before it is there to be taken, so that the sum never falls below zero.
        self.weight.fetch_add(weight, Ordering::Relaxed);
        let is_taken = has_room && waiting.as_ref().is_some_and(|it| it.try_send(span).is_ok());
        if !is_taken {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
            self.no_room.increment(1);
        }
    }
}

fn weight_of(span: &BatchSpan) -> usize {
    1 + span.trace.links.len()
}

/// The thread's end.
struct Sender {
    exporter: opentelemetry_otlp::SpanExporter,
    taken: Receiver<BatchSpan>,
    weight: Arc<AtomicUsize>,
    system: &'static str,
    exported: Counter,
    not_taken: Counter,
    /// Whether the last request was answered well: a change is a line, not each request.
    is_well: bool,
}

impl Sender {
    fn run(mut self) {
        while let Ok(first) = self.taken.recv() {
            let until = Instant::now() + LINGER;
            let mut weight = weight_of(&first);
            let mut spans = vec![span_data(first, self.system)];
            while spans.len() < REQUEST_SPANS {
                let wait = until.saturating_duration_since(Instant::now());
                // When nobody sends any more, what is there still goes.
                let Ok(next) = self.taken.recv_timeout(wait) else { break };
                weight += weight_of(&next);
                spans.push(span_data(next, self.system));
            }
            self.send(spans);
            self.weight.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    fn send(&mut self, spans: Vec<SpanData>) {
        let count = spans.len() as u64;
        match futures::executor::block_on(self.exporter.export(spans)) {
            Ok(()) => {
                self.exported.increment(count);
                if !self.is_well {
                    tracing::info!("the collector takes traces again");
                }
                self.is_well = true;
            }
            Err(error) => {
                self.not_taken.increment(count);
                if self.is_well {
                    tracing::warn!("could not send traces, they are dropped: {error}");
                }
                self.is_well = false;
            }
        }
    }
}

/// The HTTP client of the commands, for the exporter's thread.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST_PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
            .build();
        Self(config.into())
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.run(request.map(Vec::from))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, Bytes::from(body)))
    }
}

/// Who speaks: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, and this node.
fn resource(node: &str) -> Resource {
    let from_outside = Resource::builder().build();
    let name = from_outside.iter().find(|(key, _)| key.as_str() == "service.name");
    let has_name = name.is_some_and(|(_, name)| !name.as_str().starts_with("unknown_service"));
    let mut attributes = BTreeMap::from([
        ("service.instance.id", node.to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    if !has_name {
        attributes.insert("service.name", "millrace".to_owned());
    }
    attributes.retain(|name, _| {
        *name == "service.name" || !from_outside.iter().any(|(key, _)| key.as_str() == *name)
    });
    let attributes = attributes.into_iter().map(|(name, value)| KeyValue::new(name, value));
    Resource::builder().with_attributes(attributes).build()
}

/// A span as OpenTelemetry has it, under the names of its conventions for functions and messaging.
fn span_data(span: BatchSpan, system: &'static str) -> SpanData {
    let place = |index: u32| span.partitions.get(index as usize);
    let (first, offset) = span.first;
    let mut attributes = vec![
        KeyValue::new("faas.name", span.function.to_string()),
        KeyValue::new("faas.version", span.revision.to_string()),
        KeyValue::new("faas.trigger", "pubsub"),
        KeyValue::new("faas.invocation_id", span.invocation),
        KeyValue::new("messaging.system", system),
        KeyValue::new("messaging.operation.name", "process"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.consumer.group.name", span.trigger.to_string()),
        KeyValue::new("messaging.batch.message_count", span.records as i64),
        KeyValue::new("messaging.kafka.offset", offset.0),
        KeyValue::new("millrace.records.failed", span.failed as i64),
    ];
    if let Some((topic, partition)) = place(first) {
        attributes.push(KeyValue::new("messaging.destination.name", topic.to_string()));
        attributes.push(KeyValue::new("messaging.destination.partition.id", partition.to_string()));
    }
    if let Some(times) = span.times {
        attributes.push(KeyValue::new("faas.coldstart", times.is_cold));
        attributes.push(KeyValue::new("faas.instance", runtime::instance_name(times.slot)));
        for (name, time) in [
            ("millrace.queue.seconds", times.queue),
            ("millrace.start.seconds", times.start),
            ("millrace.run.seconds", times.run),
        ] {
            attributes.push(KeyValue::new(name, time.as_secs_f64()));
        }
    }
    let status = match span.failure {
        None => Status::Unset,
        Some((name, account)) => {
            let end = account.floor_char_boundary(ACCOUNT_BYTES_MAX);
            let text = format!("{name}: {}", &account[..end]);
            attributes.push(KeyValue::new("error.type", name));
            Status::error(text)
        }
    };
    let started = Duration::from_millis(u64::try_from(span.started.0).unwrap_or(0));
    let started = SystemTime::UNIX_EPOCH + started;
    let link = |link: &dispatch::Link| {
        let mut attributes = vec![KeyValue::new("messaging.kafka.offset", link.offset.0)];
        if let Some((topic, partition)) = place(link.partition) {
            attributes.push(KeyValue::new("messaging.destination.name", topic.to_string()));
            attributes
                .push(KeyValue::new("messaging.destination.partition.id", partition.to_string()));
        }
        Link::new(remote(&link.context), attributes, 0)
    };
    let mut links = SpanLinks::default();
    links.links = span.trace.links.iter().map(link).collect();
    links.dropped_count = span.trace.links_left_out;
    let parent = span.trace.parent;
    SpanData {
        span_context: context(&span.trace.context, &span.trace.state, false),
        parent_span_id: parent.map_or(SpanId::INVALID, |it| SpanId::from_bytes(it.span)),
        parent_span_is_remote: parent.is_some(),
        span_kind: SpanKind::Consumer,
        name: span.function.to_string().into(),
        start_time: started,
        end_time: started + span.took,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status,
        instrumentation_scope: InstrumentationScope::builder("millrace")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn remote(it: &TraceContext) -> SpanContext {
    context(it, "", true)
}

fn context(it: &TraceContext, state: &str, is_remote: bool) -> SpanContext {
    let flags = if it.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state: TraceState = state.parse().unwrap_or_default();
    let (trace, span) = (TraceId::from_bytes(it.trace), SpanId::from_bytes(it.span));
    SpanContext::new(trace, span, flags, is_remote, state)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use bus::Offset;
    use dispatch::{BatchTrace, Ratio, Times};

    use super::*;

    fn span(links: usize) -> BatchSpan {
        let it = TraceContext { trace: [1; 16], span: [2; 8], sampled: true };
        let parent = TraceContext { span: [3; 8], ..it };
        let link = |at| dispatch::Link { context: parent, partition: 0, offset: Offset(at) };
        let links = (0..links as i64).map(link).collect();
        let state = "a=1".to_owned();
        let trace =
            BatchTrace { context: it, parent: Some(parent), state, links, links_left_out: 7 };
        BatchSpan {
            trace,
            function: "tidy".into(),
            trigger: "app/tidy/in".into(),
            revision: "r-1".into(),
            invocation: "1-2-3".to_owned(),
            partitions: vec![("in".into(), 4)].into(),
            first: (0, Offset(9)),
            records: 2,
            failed: 1,
            failure: Some(("ValueError".to_owned(), "no".to_owned())),
            started: bus::Timestamp(5_000),
            took: Duration::from_millis(4),
            times: Some(Times {
                queue: Duration::ZERO,
                start: Duration::ZERO,
                run: Duration::from_millis(3),
                is_cold: true,
                slot: 4,
            }),
        }
    }

    #[test]
    fn a_span_has_the_names_of_the_conventions() {
        let data = span_data(span(2), "kafka");
        let said = |key: &str| {
            let found = data.attributes.iter().find(|it| it.key.as_str() == key);
            found.map(|it| it.value.to_string()).unwrap_or_default()
        };
        for (key, value) in [
            ("faas.name", "tidy"),
            ("faas.version", "r-1"),
            ("faas.trigger", "pubsub"),
            ("faas.invocation_id", "1-2-3"),
            ("faas.coldstart", "true"),
            ("faas.instance", "i-4"),
            ("messaging.system", "kafka"),
            ("messaging.operation.name", "process"),
            ("messaging.destination.name", "in"),
            ("messaging.destination.partition.id", "4"),
            ("messaging.consumer.group.name", "app/tidy/in"),
            ("messaging.batch.message_count", "2"),
            ("messaging.kafka.offset", "9"),
            ("error.type", "ValueError"),
        ] {
            assert_eq!(said(key), value, "{key}");
        }
        assert_eq!(data.parent_span_id, SpanId::from_bytes([3; 8]));
        assert_eq!(data.span_context.trace_state().header(), "a=1");
        assert_eq!((data.links.links.len(), data.links.dropped_count), (2, 7));
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since(data.start_time), Duration::from_secs(5));
        assert_eq!(since(data.end_time), Duration::from_millis(5_004));
        assert_eq!(data.status, Status::error("ValueError: no"));
    }

    /// A port that accepts and never answers, or answers with this.
    fn collector(answer: Option<&'static str>) -> (TraceSettings, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 1 << 16];
                let length = stream.read(&mut bytes).unwrap_or(0);
                assert!(bytes[..length].starts_with(b"POST /v1/traces "), "a request of OTLP");
                noted.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer {
                    drop(stream.write_all(answer.as_bytes()));
                } else {
                    open.push(stream);
                }
            }
        });
        (TraceSettings { url, ratio: Ratio::new(1.0).unwrap() }, asked)
    }

    #[test]
    fn what_waits_is_sent_before_the_end() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let (settings, asked) = collector(Some(ok));
        let exporter = Exporter::start(&settings, "n", "kafka").unwrap();
        exporter.take(span(1));
        exporter.end(Duration::from_secs(20));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(exporter.weight.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_collector_that_hangs_holds_up_neither_shards_nor_the_end() {
        let (settings, _asked) = collector(None);
        let exporter = Exporter::start(&settings, "n", "kafka").unwrap();
        let since = Instant::now();
        for _span in 0..3 * WAITING_MAX {
            exporter.take(span(0));
        }
        for _span in 0..100 {
            exporter.take(span(LINKS_MAX));
        }
        let waiting = exporter.weight.load(Ordering::SeqCst);
        assert!((WAITING_MAX..=WEIGHT_MAX).contains(&waiting), "{waiting}");
        exporter.end(Duration::from_millis(50));
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
        exporter.take(span(0));
        assert_eq!(exporter.weight.load(Ordering::SeqCst), waiting, "nothing is taken any more");
    }
}
