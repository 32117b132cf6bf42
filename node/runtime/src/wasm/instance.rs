//! One instance: calls it with a frame, and says what went wrong in the words of its author.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use frame::{End, Output, Request, Response, ResponseBuilder};
use wasmtime::component::TypedFunc;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use super::engine::{Template, World};
use super::host::Host;
use super::ticks::Guests;
use crate::held::{Held, alone};
use crate::logs::{self, escaped};
use crate::{Failure, FailureKind, Invocation};

/// How long past the deadline a guest that waits in the host is let be.
const GRACE: Duration = Duration::from_millis(30);
/// What a failure says at most, bytes.
const MESSAGE_BYTES_MAX: usize = 1_000;

/// The result of a call in the world `batch`. Lifted whole: the guest frees its own copy before
/// the call returns, so a view of its memory (`WasmList`) would show what came after.
type Batched = Vec<u8>;
/// The result of a call in the world `map`.
type Mapped = Result<Option<Vec<u8>>, String>;

#[derive(Clone, Copy)]
enum Handle {
    Batch(TypedFunc<(&'static [u8],), (Batched,)>),
    Map(TypedFunc<(&'static [u8],), (Mapped,)>),
}

/// An instance and its store.
pub(crate) struct Instance {
    store: Store<Host>,
    handle: Handle,
    running: Arc<Guests>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Instance")
    }
}

impl Instance {
    /// Makes one.
    pub(crate) async fn start(template: &Template) -> Result<Self, Failure> {
        let out = Arc::new(logs::Output::new(&template.function, template.logs.as_ref()));
        Self::start_by(template, out, Instant::now() + template.start_max).await
    }

    async fn start_by(
        template: &Template,
        out: Arc<logs::Output>,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let module = &template.module;
        let running = Arc::clone(module.running());
        let _runs = running.enter();
        let host = Host::new(template.memory_bytes_max, out, deadline);
        let mut store = Store::new(module.engine(), host);
        store.limiter(|host| host);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            let over = context.data().deadline <= Instant::now();
            Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        let started = bounded(module.pre().instantiate_async(&mut store), deadline).await;
        let instance = started.map_err(|error| start_failure(template, &store, &error))?;
        let handle = match module.world() {
            World::Batch => instance.get_typed_func(&mut store, module.handle()).map(Handle::Batch),
            World::Map => instance.get_typed_func(&mut store, module.handle()).map(Handle::Map),
        };
        let handle =
            handle.map_err(|error| start_failure(template, &store, &CallError::Guest(error)))?;
        Ok(Self { store, handle, running })
    }

    /// Runs one batch.
    pub(crate) async fn call(
        &mut self,
        invocation: &Invocation,
        answer_bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        self.store.data().out.reset(&invocation.named);
        let until = Instant::now() + invocation.timeout;
        self.call_by(&invocation.frame, until, invocation.timeout, answer_bytes_max).await
    }

    async fn call_by(
        &mut self,
        frame: &[u8],
        until: Instant,
        timeout: Duration,
        answer_bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        let _runs = self.running.enter();
        let host = self.store.data_mut();
        host.deadline = until;
        host.memory_denied = false;
        let answer = match self.handle {
            Handle::Batch(handle) => self.call_batch(handle, frame, until).await,
            Handle::Map(handle) => self.call_map(handle, frame, until, answer_bytes_max).await,
        };
        let said = self.store.data().out.finish();
        let answer = answer.map_err(|error| self.failure(error, timeout, &said))?;
        within(answer_bytes_max, answer.len())?;
        Ok(answer)
    }

    /// Runs every record of a batch in an instance of its own; this one takes the first.
    pub(crate) async fn call_per_record(
        &mut self,
        template: &Template,
        invocation: &Invocation,
        answer_bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        let timeout = invocation.timeout;
        let until = Instant::now() + timeout;
        let request = Request::parse(&invocation.frame).map_err(|error| broken(error.0))?;
        let mut response = ResponseBuilder::new(request.batch_id(), request.len());
        let mut held = Held::default();
        let mut bytes = 0;
        self.store.data().out.reset(&invocation.named);
        for (index, record) in request.iter().enumerate() {
            if held.holds(request.order(), &record) {
                continue;
            }
            if index != 0 {
                let out = Arc::clone(&self.store.data().out);
                *self = Self::start_by(template, out, until).await.map_err(|failure| {
                    let over = until <= Instant::now();
                    if over { timed_out(timeout) } else { failure }
                })?;
            }
            let one = alone(&request, &record);
            let answer = self.call_by(&one, until, timeout, answer_bytes_max).await?;
            bytes += answer.len();
            within(answer_bytes_max, bytes)?;
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
        Ok(response.finish().into())
    }

    async fn call_batch(
        &mut self,
        handle: TypedFunc<(&'static [u8],), (Batched,)>,
        frame: &[u8],
        until: Instant,
    ) -> Result<Bytes, CallError> {
        let call = async {
            // The typed function is keyed by its parameters' type; the borrow ends with the call.
            let handle = handle.func();
            let handle = handle.typed::<(&[u8],), (Batched,)>(&self.store)?;
            handle.call_async(&mut self.store, (frame,)).await
        };
        Ok(bounded(call, until).await?.0.into())
    }

    async fn call_map(
        &mut self,
        handle: TypedFunc<(&'static [u8],), (Mapped,)>,
        frame: &[u8],
        until: Instant,
        answer_bytes_max: usize,
    ) -> Result<Bytes, CallError> {
        let request = Request::parse(frame).map_err(|error| CallError::Broken(error.0.into()))?;
        let mut response = ResponseBuilder::new(request.batch_id(), request.len());
        let mut held = Held::default();
        let mut bytes = 0_usize;
        for (index, record) in request.iter().enumerate() {
            if held.holds(request.order(), &record) {
                continue;
            }
            let value = record.value.unwrap_or_default();
            let call = async {
                let handle = handle.func().typed::<(&[u8],), (Mapped,)>(&self.store)?;
                handle.call_async(&mut self.store, (value,)).await
            };
            let (mapped,) = bounded(call, until).await?;
            bytes += match &mapped {
                Ok(value) => value.as_ref().map_or(0, Vec::len),
                Err(message) => message.len(),
            };
            within(answer_bytes_max, bytes)
                .map_err(|failure| CallError::Broken(failure.message))?;
            match mapped {
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
        let error = match error {
            CallError::Broken(message) => return broken(message),
            CallError::Timeout => return timed_out(timeout),
            CallError::Guest(error) => error,
        };
        let trap = error.downcast_ref::<Trap>();
        if trap == Some(&Trap::Interrupt) {
            return timed_out(timeout);
        }
        if self.store.data().memory_denied {
            let limit = memory_limit(&self.store);
            let message = format!("the function asked for more than its {limit} of memory");
            return Failure::new(FailureKind::OutOfMemory, message);
        }
        let mut message = match trap {
            _ if !said.is_empty() => escaped(said),
            Some(trap) => trap.to_string(),
            None => escaped(&error.root_cause().to_string()),
        };
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Failure::new(FailureKind::Crash, message)
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
    until: Instant,
) -> Result<T, CallError> {
    match tokio::time::timeout_at((until + GRACE).into(), call).await {
        Ok(result) => result.map_err(CallError::Guest),
        Err(_elapsed) => Err(CallError::Timeout),
    }
}

fn broken(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BrokenAnswer, message)
}

/// Refuses an answer over its limit.
fn within(answer_bytes_max: usize, bytes: usize) -> Result<(), Failure> {
    if bytes <= answer_bytes_max {
        return Ok(());
    }
    Err(broken(format!("an answer of {bytes} bytes; the limit is {answer_bytes_max}")))
}

fn timed_out(timeout: Duration) -> Failure {
    let message = format!("Task timed out after {:.2} seconds", timeout.as_secs_f64());
    Failure::new(FailureKind::Timeout, message)
}

/// A limit as people write it.
fn memory_limit(store: &Store<Host>) -> String {
    format!("{} MiB", store.data().memory_bytes_max >> 20)
}

fn start_failure(template: &Template, store: &Store<Host>, error: &CallError) -> Failure {
    let slow = || format!("the instance did not start within {:?}", template.start_max);
    let error = match error {
        CallError::Guest(error) => error,
        CallError::Timeout => return Failure::new(FailureKind::Start, slow()),
        CallError::Broken(message) => return broken(message.as_str()),
    };
    let (kind, message) = if store.data().memory_denied {
        let limit = memory_limit(store);
        let message = format!("the function needs more than its {limit} of memory to start");
        (FailureKind::OutOfMemory, message)
    } else if error.is::<PoolConcurrencyLimitError>() {
        let message = "the node runs as many instances as it may".to_owned();
        (FailureKind::NoCapacity, message)
    } else if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
        (FailureKind::Start, slow())
    } else {
        let mut message = escaped(&format!("{error:#}"));
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        (FailureKind::Start, message)
    };
    Failure::new(kind, message)
}
