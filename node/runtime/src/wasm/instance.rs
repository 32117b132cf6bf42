//! One instance: calls it with a frame, and says what went wrong in the words of its author.

use std::time::{Duration, Instant};

use bytes::Bytes;
use frame::{End, Output, Request, RequestBuilder, Response, ResponseBuilder};
use wasmtime::component::{TypedFunc, WasmList};
use wasmtime::{Store, Trap, UpdateDeadline};

use super::engine::{Template, World};
use super::host::Host;
use crate::{Failure, FailureKind, Invocation};

/// How long past the deadline a guest that waits in the host is let be.
const GRACE: Duration = Duration::from_millis(30);

/// The result of a call in the world `map`.
type Mapped = Result<Option<Vec<u8>>, String>;

#[derive(Clone, Copy)]
enum Handle {
    Batch(TypedFunc<(&'static [u8],), (WasmList<u8>,)>),
    Map(TypedFunc<(&'static [u8],), (Mapped,)>),
}

/// An instance and its store.
pub(crate) struct Instance {
    store: Store<Host>,
    handle: Handle,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Instance")
    }
}

impl Instance {
    /// Makes one.
    pub(crate) async fn start(template: &Template) -> Result<Self, Failure> {
        let module = &template.module;
        let logs = template.logs.as_ref().map(|logs| &logs.0);
        let host = Host::new(template.memory_bytes_max, &template.function, logs);
        let mut store = Store::new(module.engine(), host);
        store.limiter(|host| host);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            let over = context.data().deadline.is_some_and(|at| at <= Instant::now());
            Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        let started = module.pre().instantiate_async(&mut store).await;
        let instance = started.map_err(|error| start_failure(&store, &error))?;
        let handle = match module.world() {
            World::Batch => instance.get_typed_func(&mut store, module.handle()).map(Handle::Batch),
            World::Map => instance.get_typed_func(&mut store, module.handle()).map(Handle::Map),
        };
        let handle = handle.map_err(|error| start_failure(&store, &error))?;
        Ok(Self { store, handle })
    }

    /// Runs one batch.
    pub(crate) async fn call(
        &mut self,
        invocation: &Invocation,
        answer_bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        let deadline = Instant::now() + invocation.timeout;
        self.store.data_mut().deadline = Some(deadline);
        self.store.data().out.reset();
        let answer = match self.handle {
            Handle::Batch(handle) => {
                self.call_batch(handle, &invocation.frame, deadline, answer_bytes_max).await
            }
            Handle::Map(handle) => self.call_map(handle, &invocation.frame, deadline).await,
        };
        let said = self.store.data().out.finish();
        answer.map_err(|error| self.failure(error, invocation.timeout, &said))
    }

    /// Runs every record of a batch in an instance of its own; this one takes the first.
    pub(crate) async fn call_per_record(
        &mut self,
        template: &Template,
        invocation: &Invocation,
        answer_bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        let request = parse(&invocation.frame)?;
        let mut response = ResponseBuilder::new(request.batch_id(), request.len());
        let until = Instant::now() + invocation.timeout;
        let mut held = Held::default();
        for index in 0..request.len() {
            let record = request.get(index);
            if held.holds(request.order(), &record) {
                continue;
            }
            if index != 0 {
                *self = Self::start(template).await?;
            }
            let table = [(record.topic, record.partition)];
            let order = request.order();
            let mut one = RequestBuilder::new(request.batch_id(), order, request.context(), &table);
            one.push(
                0,
                record.offset,
                record.timestamp,
                record.attempt,
                record.key,
                record.value,
                record.headers.as_bytes(),
                record.headers.len(),
            );
            let timeout = until.saturating_duration_since(Instant::now());
            let frame = one.finish().into();
            let one = Invocation { frame, batch_id: request.batch_id(), records: 1, timeout };
            let answer = self.call(&one, answer_bytes_max).await?;
            let answer =
                Response::parse(&answer, request.batch_id(), 1).map_err(|error| broken(error.0))?;
            match answer.end(0) {
                End::Ok => response.ok(index),
                End::NotRun => {}
                End::Failed { code, message } => {
                    held.failed(&record);
                    response.failed(index, code, message);
                }
            }
            for output in answer.outputs() {
                response.output(&Output { source: index as u32, ..output });
            }
        }
        capped(response.finish().into(), answer_bytes_max)
    }

    async fn call_batch(
        &mut self,
        handle: TypedFunc<(&'static [u8],), (WasmList<u8>,)>,
        frame: &[u8],
        deadline: Instant,
        answer_bytes_max: usize,
    ) -> Result<Bytes, CallError> {
        let call = async {
            // The typed function is keyed by its parameters' type; the borrow ends with the call.
            let handle = handle.func();
            let handle = handle.typed::<(&[u8],), (WasmList<u8>,)>(&self.store)?;
            handle.call_async(&mut self.store, (frame,)).await
        };
        let (answer,) = bounded(call, deadline).await?;
        let bytes = answer.as_le_slice(&self.store);
        if answer_bytes_max < bytes.len() {
            let message =
                format!("an answer of {} bytes; the limit is {answer_bytes_max}", bytes.len());
            return Err(CallError::Broken(message));
        }
        Ok(Bytes::copy_from_slice(bytes))
    }

    async fn call_map(
        &mut self,
        handle: TypedFunc<(&'static [u8],), (Mapped,)>,
        frame: &[u8],
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let request = Request::parse(frame).map_err(|error| CallError::Broken(error.0.into()))?;
        let mut response = ResponseBuilder::new(request.batch_id(), request.len());
        let mut held = Held::default();
        for (index, record) in request.iter().enumerate() {
            if held.holds(request.order(), &record) {
                continue;
            }
            let value = record.value.unwrap_or_default();
            let call = async {
                let handle = handle.func().typed::<(&[u8],), (Mapped,)>(&self.store)?;
                handle.call_async(&mut self.store, (value,)).await
            };
            match bounded(call, deadline).await?.0 {
                Ok(value) => {
                    response.ok(index);
                    if let Some(value) = &value {
                        let (source, value) = (index as u32, Some(&value[..]));
                        response.output(&Output { source, value, ..Output::default() });
                    }
                }
                Err(message) => {
                    held.failed(&record);
                    response.failed(index, "Function.Error", &message);
                }
            }
        }
        Ok(response.finish().into())
    }

    /// What happened, for the function's author.
    fn failure(&self, error: CallError, timeout: Duration, said: &str) -> Failure {
        let (kind, message) = match error {
            CallError::Broken(message) => (FailureKind::BrokenAnswer, message),
            CallError::Timeout => (FailureKind::Timeout, timed_out(timeout)),
            CallError::Guest(error) => match error.downcast_ref::<Trap>() {
                Some(Trap::Interrupt) => (FailureKind::Timeout, timed_out(timeout)),
                _ if self.store.data().memory_denied => (
                    FailureKind::OutOfMemory,
                    "the function asked for more memory than its limit".into(),
                ),
                Some(trap) if said.is_empty() => (FailureKind::Crash, trap.to_string()),
                _ if said.is_empty() => (FailureKind::Crash, error.root_cause().to_string()),
                _ => (FailureKind::Crash, said.to_owned()),
            },
        };
        Failure { kind, message }
    }
}

/// Which later records a failed one holds back (functions.md section 2).
#[derive(Default)]
struct Held<'a> {
    keys: std::collections::BTreeSet<&'a [u8]>,
    partitions: std::collections::BTreeSet<(&'a str, i32)>,
}

impl<'a> Held<'a> {
    fn failed(&mut self, record: &frame::RequestRecord<'a>) {
        self.keys.extend(record.key);
        self.partitions.insert((record.topic, record.partition));
    }

    fn holds(&self, order: frame::Order, record: &frame::RequestRecord<'a>) -> bool {
        match order {
            frame::Order::None => false,
            frame::Order::Key => record.key.is_some_and(|key| self.keys.contains(key)),
            frame::Order::Partition => self.partitions.contains(&(record.topic, record.partition)),
        }
    }
}

enum CallError {
    Guest(wasmtime::Error),
    Timeout,
    Broken(String),
}

/// A guest that computes is interrupted by its ticks; one that waits in the host, by this.
async fn bounded<T>(
    call: impl Future<Output = wasmtime::Result<T>>,
    deadline: Instant,
) -> Result<T, CallError> {
    match tokio::time::timeout_at((deadline + GRACE).into(), call).await {
        Ok(result) => result.map_err(CallError::Guest),
        Err(_elapsed) => Err(CallError::Timeout),
    }
}

fn parse(frame: &[u8]) -> Result<Request<'_>, Failure> {
    Request::parse(frame).map_err(|error| broken(error.0))
}

fn broken(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::BrokenAnswer, message: message.into() }
}

fn capped(answer: Bytes, answer_bytes_max: usize) -> Result<Bytes, Failure> {
    if answer.len() <= answer_bytes_max {
        return Ok(answer);
    }
    Err(broken(format!("an answer of {} bytes; the limit is {answer_bytes_max}", answer.len())))
}

fn timed_out(timeout: Duration) -> String {
    format!("Task timed out after {:.2} seconds", timeout.as_secs_f64())
}

fn start_failure(store: &Store<Host>, error: &wasmtime::Error) -> Failure {
    if store.data().memory_denied {
        let message = "the function needs more memory to start than its limit".to_owned();
        return Failure { kind: FailureKind::OutOfMemory, message };
    }
    Failure { kind: FailureKind::Start, message: format!("{error:#}") }
}
