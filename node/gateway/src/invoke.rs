//! A synchronous invocation over HTTP: the input is the body, the function's answer is the answer's
//! body, and headers say where it ran. Who hangs up ends it.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Deserialize;

use crate::codes;
use crate::problem::Refusal;
use crate::routes::{App, body};

/// The largest input, and the largest answer: as Lambda's.
pub const VALUE_BYTES_MAX: usize = 6 << 20;
/// The longest that a call may be given.
const WITHIN_MAX: Duration = Duration::from_secs(590);

const TRACEPARENT: &str = "traceparent";
const NODE: HeaderName = HeaderName::from_static("millrace-node");
const REVISION: HeaderName = HeaderName::from_static("millrace-revision");
const INVOCATION: HeaderName = HeaderName::from_static("millrace-invocation");
const COLD: HeaderName = HeaderName::from_static("millrace-cold");
const QUEUE_US: HeaderName = HeaderName::from_static("millrace-queue-us");
const RUN_US: HeaderName = HeaderName::from_static("millrace-run-us");

/// One call, as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The node that has to run it; `None` = whichever is best.
    pub only: Option<String>,
    /// How long the caller waits; `None` = as long as the function may take, and its start.
    pub within: Option<Duration>,
    /// The caller's `traceparent`.
    pub trace: Option<String>,
    /// What the function is given.
    pub input: Bytes,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// The function's answer; `None` when it gave none.
    pub value: Option<Bytes>,
    /// Where it ran.
    pub node: String,
    /// On which revision.
    pub revision: String,
    /// What log lines name it by.
    pub invocation: String,
    /// Whether an instance was started for it.
    pub cold: bool,
    /// How long it waited for an instance, microseconds.
    pub queue_us: u32,
    /// How long it ran, microseconds.
    pub run_us: u32,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCalled {
    /// What kind of reason.
    pub why: Why,
    /// For people.
    pub detail: String,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no such function.
    Unknown,
    /// There is no such node.
    UnknownNode,
    /// The function failed.
    Failed,
    /// Its time was over first; it was ended.
    Late,
    /// Too many wait for it. It did not run.
    Busy,
    /// It may have run: nobody tries it again.
    MayHaveRun,
    /// No node that answers can run it. It did not run.
    Nowhere,
}

impl Why {
    /// How it is counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown | Self::UnknownNode => "unknown",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::Busy => "busy",
            Self::MayHaveRun => "may-have-run",
            Self::Nowhere => "nowhere",
        }
    }
}

/// What runs calls.
#[async_trait]
pub trait Invocations: Send + Sync + Debug {
    /// Runs one, here or at another node. Dropping it ends it, wherever it runs.
    ///
    /// # Errors
    ///
    /// [`NotCalled`], by kind.
    async fn invoke(&self, app: String, function: String, call: Call) -> Result<Called, NotCalled>;
}

/// The node that a query names.
#[derive(Clone, Debug, Default)]
pub(crate) struct At(pub(crate) Option<String>);

impl<S: Sync> FromRequestParts<S> for At {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// What a query says.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wishes {
    timeout_ms: Option<u64>,
}

/// Whether a path is that of a call.
pub(crate) fn is_call(path: &str) -> bool {
    path.starts_with("/v1/functions/") && path.ends_with(":invoke")
}

pub(crate) async fn invoke(
    app: &App,
    (name, function): (String, String),
    (At(only), wishes): (At, Wishes),
    headers: &HeaderMap,
    content: Body,
) -> Result<Response, Refusal> {
    let node = app.invocations.as_deref().ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, codes::NO_ROUTE, "there is nothing under this path")
    })?;
    let within = match wishes.timeout_ms.map(Duration::from_millis) {
        Some(within) if within.is_zero() || WITHIN_MAX < within => {
            let detail = format!("timeout_ms is 1 to {}", WITHIN_MAX.as_millis());
            return Err(Refusal::bad(detail));
        }
        within => within,
    };
    let input = body(content, VALUE_BYTES_MAX).await?;
    let trace = headers.get(TRACEPARENT).and_then(|it| it.to_str().ok()).map(str::to_owned);
    let call = Call { only, within, trace, input };
    match node.invoke(name.clone(), function.clone(), call).await {
        Ok(called) => Ok(answer(called)),
        Err(not) => Err(refusal(not, &format!("{name}/{function}"))),
    }
}

fn answer(called: Called) -> Response {
    let Called { value, node, revision, invocation, cold, queue_us, run_us } = called;
    let mut response = match value {
        Some(value) => {
            let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&value).is_ok();
            let kind = if is_json { "application/json" } else { "application/octet-stream" };
            ([(header::CONTENT_TYPE, kind)], Body::from(value)).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    };
    let texts = [(NODE, node), (REVISION, revision), (INVOCATION, invocation)];
    let numbers = [(QUEUE_US, queue_us.to_string()), (RUN_US, run_us.to_string())];
    let all = texts.into_iter().chain(numbers).chain([(COLD, cold.to_string())]);
    for (name, text) in all {
        // Names of nodes, revisions and numbers are plain; what another node says may not be.
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn refusal(NotCalled { why, detail }: NotCalled, function: &str) -> Refusal {
    let refusal = |status, code| Refusal::new(status, code, detail.clone());
    match why {
        Why::Unknown => refusal(StatusCode::NOT_FOUND, codes::NO_ROUTE)
            .hint("`millrace functions` lists those there are"),
        Why::UnknownNode => refusal(StatusCode::NOT_FOUND, codes::UNKNOWN_MEMBER)
            .hint("`millrace node list` lists those there are"),
        Why::Failed => refusal(StatusCode::BAD_GATEWAY, codes::FUNCTION_FAILED)
            .hint(format!("`millrace logs {function}` shows what it said")),
        Why::Late => refusal(StatusCode::GATEWAY_TIMEOUT, codes::FUNCTION_LATE)
            .hint("give it more time, with --timeout here or `timeout` in the manifest"),
        Why::Busy => refusal(StatusCode::TOO_MANY_REQUESTS, codes::FUNCTION_BUSY)
            .hint("send it again in a moment, or raise `instances.max`")
            .header(header::RETRY_AFTER, "1"),
        Why::MayHaveRun => refusal(StatusCode::BAD_GATEWAY, codes::MAY_HAVE_RUN)
            .hint("send it again only if it may run twice"),
        Why::Nowhere => refusal(StatusCode::SERVICE_UNAVAILABLE, codes::RUNS_NOWHERE)
            .hint(format!("`millrace describe {function}` shows where it runs, and why not"))
            .header(header::RETRY_AFTER, "1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_status_of_its_own_kind() {
        let status = |why| {
            let not = NotCalled { why, detail: String::new() };
            refusal(not, "a/f").into_response().status().as_u16()
        };
        assert_eq!(status(Why::Unknown), 404);
        assert_eq!(status(Why::Failed), 502);
        assert_eq!(status(Why::Late), 504);
        assert_eq!(status(Why::Busy), 429);
        assert_eq!(status(Why::MayHaveRun), 502, "no client sends that again by itself");
        assert_eq!(status(Why::Nowhere), 503);
    }

    #[test]
    fn an_answer_is_as_the_function_gave_it() {
        let of = |value: Option<&'static [u8]>| {
            let value = value.map(Bytes::from_static);
            let response = answer(Called { value, node: "edge-1".into(), ..Called::default() });
            assert_eq!(response.headers()[NODE], "edge-1");
            let kind = response.headers().get(header::CONTENT_TYPE).cloned();
            (response.status().as_u16(), kind.map(|it| it.to_str().unwrap().to_owned()))
        };
        assert_eq!(of(Some(b"{\"a\":1}")), (200, Some("application/json".to_owned())));
        assert_eq!(of(Some(b"\xff")), (200, Some("application/octet-stream".to_owned())));
        assert_eq!(of(None), (204, None));
    }

    #[test]
    fn only_calls_are_calls() {
        assert!(is_call("/v1/functions/a/f:invoke"));
        assert!(!is_call("/v1/functions/a/f:rollback"));
        assert!(!is_call("/v1/topics/x:invoke"));
    }
}
