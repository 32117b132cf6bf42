//! One process as a pool's instance: starts it, runs batches in it in whatever form its function
//! wants them, and says what went wrong in the words of the Runtime API.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use frame::{Request, ResponseBuilder};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::time::timeout;

use super::api::{ANSWER_BYTES_MAX, Answered, BATCH, Event, JSON, function_error, random};
use super::events::{self, Shared};
use super::memory::WATCH;
use super::spawner::Stage;
use super::worker::{Exit, Worker};
use super::workers::Template;
use crate::held::Held;
use crate::kind::Called;
use crate::{Decode, Event as EventKind, Failure, FailureKind, Invocation};

const DEADLINE: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");
const ARN: HeaderName = HeaderName::from_static("lambda-runtime-invoked-function-arn");
const TRACE: HeaderName = HeaderName::from_static("lambda-runtime-trace-id");
const CLIENT_CONTEXT: HeaderName = HeaderName::from_static("lambda-runtime-client-context");
const DECODE: HeaderName = HeaderName::from_static("millrace-decode");

/// A process that asked for its first event.
#[derive(Debug)]
pub(crate) struct Instance {
    worker: Worker,
    arn: HeaderValue,
    brokers: String,
    memory_bytes_max: u64,
}

/// When an invocation must end, by the wall clock that its batch brought along: a runtime reads
/// none itself.
struct Clock {
    batch_deadline_ms: i64,
    since: Instant,
}

impl Clock {
    fn new(request: &Request<'_>) -> Self {
        Self { batch_deadline_ms: request.context().deadline_ms, since: Instant::now() }
    }

    /// Of an invocation that begins now and may take as long as the batch's first one.
    fn deadline_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.batch_deadline_ms.saturating_add(elapsed)
    }
}

/// What functions and messages call a function by, as AWS would.
#[must_use]
pub fn function_arn(function: &str) -> String {
    format!("arn:aws:lambda:us-east-1:000000000000:function:{function}")
}

/// One round through the process.
enum Round {
    Answered(Answered),
    /// The process must go.
    Failed(Failure),
    /// It had ended before it had the event.
    Gone,
}

impl Instance {
    /// Starts a process and waits until it asks for its first event.
    pub(crate) async fn start(template: &Template, patience: Duration) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(FailureKind::Start, format!("cannot start a process: {error}"))
        };
        let setup = template.setup().map_err(failed)?;
        let worker = Worker::start(template.spawner(), setup).map_err(failed)?;
        let arn = function_arn(&template.function);
        let this = Self {
            worker,
            arn: HeaderValue::from_str(&arn).unwrap_or(HeaderValue::from_static("")),
            brokers: template.brokers().to_owned(),
            memory_bytes_max: template.memory_bytes_max,
        };
        let ready = async {
            tokio::select! {
                biased;
                freed = this.worker.api.freed() => freed.map_err(|error| this.init_error(&error)),
                exit = this.worker.exited() => Err(this.start_exit(exit, template)),
                failure = this.out_of_memory() => Err(failure),
            }
        };
        let result = timeout(patience, ready).await.unwrap_or_else(|_elapsed| {
            let message = format!("it did not start within {:.2} seconds", patience.as_secs_f64());
            Err(Failure::new(FailureKind::Timeout, message))
        });
        this.worker.take_output();
        result.map(|()| this)
    }

    /// Runs one batch.
    pub(crate) async fn call(&mut self, invocation: &Invocation, bytes_max: usize) -> Called {
        if self.freed(invocation.timeout).await {
            self.worker.out.reset(&invocation.named);
            let called = self.call_free(invocation, bytes_max).await;
            self.worker.take_output();
            self.worker.out.finish();
            called
        } else {
            Called::Gone
        }
    }

    async fn call_free(&mut self, invocation: &Invocation, bytes_max: usize) -> Called {
        let request = match Request::parse(&invocation.frame) {
            Ok(request) => request,
            Err(error) => {
                let failure = Failure::new(FailureKind::BrokenAnswer, error.0);
                return Called::Ended { result: Err(failure), usable: true };
            }
        };
        match invocation.calling.event {
            EventKind::Lambda => self.call_lambda(invocation, &request).await,
            EventKind::Record if self.worker.api.takes_batches() => {
                self.call_batch(invocation, &request, bytes_max).await
            }
            EventKind::Record => self.call_records(invocation, &request).await,
        }
    }

    /// The whole batch as it is, for our own bootstraps.
    async fn call_batch(
        &mut self,
        invocation: &Invocation,
        request: &Request<'_>,
        bytes_max: usize,
    ) -> Called {
        let mut headers = self.headers(&Clock::new(request), BATCH);
        let decode = invocation.calling.decode.as_str();
        headers.push((DECODE, HeaderValue::from_static(decode)));
        let body = invocation.frame.clone();
        let event = Event { headers, body, answer_bytes_max: bytes_max };
        match self.round(event, invocation.timeout).await {
            Round::Gone => Called::Gone,
            Round::Failed(failure) => Called::Ended { result: Err(failure), usable: false },
            Round::Answered(Answered::Response { body, batch: true }) => {
                Called::Ended { result: Ok(body), usable: true }
            }
            Round::Answered(answered) => {
                let (failure, usable) = self.refused(answered);
                Called::Ended { result: Err(failure), usable }
            }
        }
    }

    /// The AWS Kafka event, in as many parts as its limit asks for.
    async fn call_lambda(&mut self, invocation: &Invocation, request: &Request<'_>) -> Called {
        let mut response = ResponseBuilder::new(request.batch_id(), request.len());
        let clock = Clock::new(request);
        let mut held = Held::default();
        for part in events::kafka_events(request, &self.brokers) {
            let (range, body) = match part {
                events::Part::Event { range, body } => (range, body),
                events::Part::TooLarge { index, bytes } => {
                    let message = format!("an event of {bytes} bytes for one record");
                    response.failed(index, "MaximumPayloadSizeExceeded", &message);
                    continue;
                }
            };
            // An event with a record that has to wait waits as a whole, and holds back what it has.
            if range.clone().any(|index| held.holds(request.order(), &request.get(index))) {
                range.for_each(|index| held.failed(&request.get(index)));
                continue;
            }
            let headers = self.event_headers(&clock, request, JSON);
            let event = Event { headers, body: body.into(), answer_bytes_max: ANSWER_BYTES_MAX };
            let failure = match self.round(event, invocation.timeout).await {
                Round::Gone if range.start == 0 => return Called::Gone,
                Round::Gone => {
                    let message = "the process ended between two parts of the batch";
                    (Failure::new(FailureKind::Start, message), false)
                }
                Round::Failed(failure) => (failure, false),
                Round::Answered(Answered::Response { body, batch: false }) => {
                    let has_output = invocation.calling.has_output;
                    let read = events::lambda_answer(request, range, &body, has_output);
                    match read {
                        Ok(answer) => {
                            answer.write(&mut response);
                            answer.open().for_each(|index| held.failed(&request.get(index)));
                            if !self.freed(invocation.timeout).await {
                                let message = "the process did not ask for more after its answer";
                                return ended(
                                    Err(Failure::new(FailureKind::Crash, message)),
                                    false,
                                );
                            }
                            continue;
                        }
                        Err(failure) => (failure, true),
                    }
                }
                Round::Answered(answered) => self.refused(answered),
            };
            return ended(Err(failure.0), failure.1);
        }
        ended(Ok(response.finish().into()), true)
    }

    /// Record by record, for clients that know one invocation at a time. What one of them does to
    /// the process is charged to the record that ran; those behind it have not run.
    async fn call_records(&mut self, invocation: &Invocation, request: &Request<'_>) -> Called {
        let mut response = ResponseBuilder::new(request.batch_id(), request.len());
        let mut held = Held::default();
        let shared = Shared::new(request, invocation.calling.decode);
        let clock = Clock::new(request);
        let mut first = true;
        for (index, record) in request.iter().enumerate() {
            if held.holds(request.order(), &record) {
                continue;
            }
            let value = record.value.unwrap_or(b"null");
            if invocation.calling.decode == Decode::Json
                && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(value)
            {
                // It is a dead letter at once, and holds nothing back.
                response.failed(index, "Millrace.Decode", &format!("not JSON: {error}"));
                continue;
            }
            if !first && !self.freed(invocation.timeout).await {
                return ended(Ok(response.finish().into()), false);
            }
            let content = match invocation.calling.decode {
                Decode::Json => JSON,
                Decode::None => "application/octet-stream",
            };
            let mut headers = self.event_headers(&clock, request, content);
            headers.extend(shared.client_context(&record).map(|it| (CLIENT_CONTEXT, it)));
            let body = Bytes::copy_from_slice(value);
            let event = Event { headers, body, answer_bytes_max: ANSWER_BYTES_MAX };
            match self.round(event, invocation.timeout).await {
                Round::Gone if first => return Called::Gone,
                Round::Gone => return ended(Ok(response.finish().into()), false),
                Round::Failed(failure) => {
                    response.failed(index, failure.code(), &failure.message);
                    return ended(Ok(response.finish().into()), false);
                }
                Round::Answered(Answered::Response { body, batch: false }) => {
                    match events::record_answer(index as u32, &body) {
                        Ok(outputs) => {
                            response.ok(index);
                            outputs.iter().for_each(|it| response.output(&it.as_output()));
                        }
                        Err((code, message)) => {
                            held.failed(&record);
                            response.failed(index, code, &message);
                        }
                    }
                }
                Round::Answered(answered) => {
                    let (failure, usable) = self.refused(answered);
                    held.failed(&record);
                    response.failed(index, failure.code(), &failure.message);
                    if !usable {
                        return ended(Ok(response.finish().into()), false);
                    }
                }
            }
            first = false;
        }
        ended(Ok(response.finish().into()), true)
    }

    /// Gives the process an event and waits for what becomes of it.
    async fn round(&self, event: Event, limit: Duration) -> Round {
        let answered = self.worker.api.hand(event);
        tokio::select! {
            biased;
            Ok(answered) = answered => Round::Answered(answered),
            exit = self.worker.exited() => {
                if self.worker.api.has_taken() { Round::Failed(self.exit(exit)) } else { Round::Gone }
            }
            failure = self.out_of_memory() => Round::Failed(failure),
            () = tokio::time::sleep(limit) => {
                let (id, seconds) = (self.worker.api.last_id(), limit.as_secs_f64());
                let message =
                    format!("RequestId: {id} Error: Task timed out after {seconds:.2} seconds");
                Round::Failed(Failure::new(FailureKind::Timeout, message))
            }
        }
    }

    /// Comes back when the process has more than it may, where no control group sees to it.
    async fn out_of_memory(&self) -> Failure {
        if self.worker.is_grouped() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(WATCH).await;
            if self.worker.resident_bytes().is_some_and(|it| self.memory_bytes_max < it) {
                return self.memory_failure();
            }
        }
    }

    fn memory_failure(&self) -> Failure {
        let limit = self.memory_bytes_max >> 20;
        let message = format!("the process needed more than its {limit} MiB of memory");
        Failure::new(FailureKind::OutOfMemory, message)
    }

    /// The process that watches over it, once there is one.
    pub(crate) fn guardian(&self) -> Arc<OnceLock<u32>> {
        self.worker.guardian()
    }

    /// Whether the process is still there.
    pub(crate) fn is_alive(&self) -> bool {
        self.worker.exit().is_none()
    }

    /// Whether it waits for an event.
    pub(crate) fn is_free(&self) -> bool {
        self.worker.api.is_free()
    }

    /// Waits until it waits for an event; false when it ends, or takes longer than that.
    pub(crate) async fn freed(&self, patience: Duration) -> bool {
        if self.is_free() {
            return self.is_alive();
        }
        tokio::select! {
            freed = timeout(patience, self.worker.api.freed()) => matches!(freed, Ok(Ok(()))),
            _exit = self.worker.exited() => false,
        }
    }

    fn headers(&self, clock: &Clock, content: &'static str) -> Vec<(HeaderName, HeaderValue)> {
        vec![
            (CONTENT_TYPE, HeaderValue::from_static(content)),
            (DEADLINE, HeaderValue::from(clock.deadline_ms())),
            (ARN, self.arn.clone()),
        ]
    }

    /// What an event of its own has beside those of a batch.
    fn event_headers(
        &self,
        clock: &Clock,
        request: &Request<'_>,
        content: &'static str,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let untraced = || {
            format!(
                "Root=1-{:08x}-{:016x}{:08x};Parent={:016x};Sampled=0",
                clock.deadline_ms() / 1_000,
                random(),
                random() >> 32,
                random()
            )
        };
        let trace = events::as_xray(request.context().trace).unwrap_or_else(untraced);
        let trace = HeaderValue::from_str(&trace).expect("digits and words");
        let mut headers = self.headers(clock, content);
        headers.push((TRACE, trace));
        headers
    }

    /// What an answer that is no result means, and whether the process can go on.
    fn refused(&self, answered: Answered) -> (Failure, bool) {
        match answered {
            Answered::Error { name, body } => {
                let (name, message) = function_error(name.as_deref(), &body);
                (Failure::new(FailureKind::Function, message).named(name), true)
            }
            Answered::Response { .. } => {
                let message = "the answer is of another content type than the event";
                (Failure::new(FailureKind::BrokenAnswer, message), false)
            }
            Answered::TooLarge { bytes_max } => {
                let message = format!("an answer of more than {bytes_max} bytes");
                let failure = Failure::new(FailureKind::BrokenAnswer, message);
                (failure.named("Function.ResponseSizeTooLarge"), true)
            }
            Answered::Truncated => {
                let failure = Failure::new(FailureKind::BrokenAnswer, "the answer was cut short");
                (failure.named("Runtime.TruncatedResponse"), false)
            }
            Answered::BadMode(mode) => {
                let message = format!("no response mode {}", crate::logs::escaped(&mode));
                let failure = Failure::new(FailureKind::BrokenAnswer, message);
                (failure.named("Runtime.InvalidResponseModeHeader"), false)
            }
        }
    }

    fn init_error(&self, error: &Answered) -> Failure {
        match error {
            Answered::Error { name, body } => {
                let (name, message) = function_error(name.as_deref(), body);
                Failure::new(FailureKind::Start, message).named(name)
            }
            _ => Failure::new(FailureKind::Start, "it could not start"),
        }
    }

    /// The process ended while it ran something.
    fn exit(&self, exit: Exit) -> Failure {
        let message = match exit {
            Exit::OutOfMemory => return self.memory_failure(),
            Exit::Status(0) => "Runtime exited without providing a reason".to_owned(),
            Exit::Status(status) => format!("Runtime exited with error: exit status {status}"),
            Exit::Signal(signal) => {
                format!("Runtime exited with error: signal: {}", signal_name(signal))
            }
            Exit::NotStarted(..) | Exit::Unknown => {
                "Runtime exited with error: signal: killed".to_owned()
            }
        };
        Failure::new(FailureKind::Crash, message)
    }

    /// The process ended before it asked for anything.
    fn start_exit(&self, exit: Exit, template: &Template) -> Failure {
        let Exit::NotStarted(stage, error) = exit else { return self.exit(exit) };
        let error = std::io::Error::from_raw_os_error(error);
        let failure = |message: String| Failure::new(FailureKind::Start, message);
        match stage {
            Stage::Exec => {
                let path =
                    super::bootstrap::executable(&template.spec.program, &template.spec.package);
                failure(format!("{path} cannot be run: {error}")).named("Runtime.InvalidEntrypoint")
            }
            Stage::Dir => {
                let dir = template.spec.package.display();
                failure(format!("{dir} cannot be entered: {error}"))
                    .named("Runtime.InvalidWorkingDir")
            }
            Stage::Fork | Stage::Prepare => failure(format!("cannot make a process: {error}")),
        }
    }
}

fn ended(result: Result<Bytes, Failure>, usable: bool) -> Called {
    Called::Ended { result, usable }
}

/// What a signal is called where Lambda names it.
fn signal_name(signal: i32) -> String {
    let known = match signal {
        6 => "aborted",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        15 => "terminated",
        _ => return format!("signal {signal}"),
    };
    known.to_owned()
}
