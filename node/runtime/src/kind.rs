//! What a pool's instances are: components or processes. Everything that a pool asks of either.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use crate::{Failure, Fresh, Invocation, PoolConfig, process, wasm};

/// What instances of one pool are made from.
#[derive(Debug)]
pub(crate) enum Template {
    Wasm(wasm::Template),
    Process(Box<process::Template>),
}

/// A started runtime.
#[derive(Debug)]
pub(crate) enum Instance {
    Wasm(Box<wasm::Instance>),
    Process(process::Instance),
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Called {
    /// The batch was given to the instance. One that is not usable goes like one that crashed: its
    /// health is unknown.
    Ended { result: Result<Bytes, Failure>, usable: bool },
    /// The instance ended before it had the batch.
    Gone,
}

impl Template {
    /// Makes an instance.
    pub(crate) async fn start(&self) -> Result<Instance, Failure> {
        match self {
            Self::Wasm(template) => template.start().await.map(|it| Instance::Wasm(Box::new(it))),
            Self::Process(template) => template.start().await.map(Instance::Process),
        }
    }
}

impl Instance {
    /// Runs one batch.
    pub(crate) async fn call(
        &mut self,
        template: &Template,
        invocation: &Invocation,
        config: &PoolConfig,
    ) -> Called {
        let limit = config.answer_bytes_max;
        match (self, template) {
            (Self::Wasm(instance), Template::Wasm(template)) => {
                let result = match config.fresh {
                    Fresh::Record => instance.call_per_record(template, invocation, limit).await,
                    Fresh::Batch | Fresh::Never => instance.call(invocation, limit).await,
                };
                Called::Ended { usable: result.is_ok(), result }
            }
            (Self::Process(instance), _) => instance.call(invocation, limit).await,
            (Self::Wasm(_), Template::Process(_)) => unreachable!("a pool has one template"),
        }
    }

    /// The process that watches over its own, once there is one; `None` for a component.
    pub(crate) fn guardian(&self) -> Option<Arc<OnceLock<u32>>> {
        match self {
            Self::Wasm(_) => None,
            Self::Process(instance) => Some(instance.guardian()),
        }
    }

    /// Whether it has not ended by itself.
    pub(crate) fn is_alive(&self) -> bool {
        match self {
            Self::Wasm(_) => true,
            Self::Process(instance) => instance.is_alive(),
        }
    }

    /// Whether it can take another batch now.
    pub(crate) fn is_free(&self) -> bool {
        match self {
            Self::Wasm(_) => true,
            Self::Process(instance) => instance.is_free(),
        }
    }

    /// Waits until it can take another batch; false when it ends, or takes longer than that.
    pub(crate) async fn freed(&mut self, patience: Duration) -> bool {
        match self {
            Self::Wasm(_) => true,
            Self::Process(instance) => instance.freed(patience).await,
        }
    }
}
