//! HTTP around the Runtime API: one write per message, no delay, no idle timeout, every read
//! capped.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::repoll::Repoll;
use super::{Answered, Api, BATCH, Refusal};

/// Where the API's paths begin.
const VERSION: &str = "/2018-06-01/";
/// Connections of one worker at the same time.
const CONNECTIONS_MAX: usize = 32;
/// All headers of a request: an error's cause may have 1 MiB.
const HEAD_BYTES_MAX: usize = 1_200 << 10;
/// What the body of an error may have, bytes.
const ERROR_BYTES_MAX: usize = 1 << 20;
/// What is read of a body that is too large, bytes: then its connection is closed.
const DRAINED_BYTES_MAX: usize = 64 << 20;

const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");
const ERROR_TYPE: HeaderName = HeaderName::from_static("lambda-runtime-function-error-type");
const ERROR_BODY: HeaderName = HeaderName::from_static("lambda-runtime-function-error-body");
const MODE: HeaderName = HeaderName::from_static("lambda-runtime-function-response-mode");

type Reply = Response<Full<Bytes>>;

/// Serves one connection until it closes.
pub(crate) async fn serve_connection(
    api: Api,
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(route(&api, request).await) }
    });
    let serving = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        // Clients in C read names as they were always written.
        .title_case_headers(true)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(connection), service);
    let served = Repoll::new(serving).await;
    // A worker that is killed, or that speaks no HTTP, hangs up or is hung up on.
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the Runtime API ended");
    }
}

/// Serves whoever connects, which is the worker.
pub(crate) async fn serve_port(api: Api, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((connection, _)) => {
                // Without it a header and a body that come apart cost 40 ms.
                drop(connection.set_nodelay(true));
                let api = api.clone();
                connections.spawn(async move {
                    serve_connection(api, connection).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others may close theirs.
                tracing::warn!(%error, "the Runtime API takes no connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn route(api: &Api, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let Some(path) = path.strip_prefix(VERSION) else {
        return problem(StatusCode::NOT_FOUND, "NotFound", "no such path");
    };
    let known = match path.strip_prefix("runtime/invocation/") {
        Some("next") => Some((Method::GET, Call::Next)),
        Some(rest) => match rest.split_once('/') {
            Some((id, "response")) => Some((Method::POST, Call::Response(id))),
            Some((id, "error")) => Some((Method::POST, Call::Error(id))),
            _ => None,
        },
        None if path == "runtime/init/error" => Some((Method::POST, Call::InitError)),
        None if path == "ping" => Some((Method::GET, Call::Ping)),
        None => None,
    };
    let header = |name: &HeaderName| {
        head.headers.get(name).and_then(|it| it.to_str().ok()).map(str::to_owned)
    };
    let takes_batches = head.headers.get(ACCEPT).is_some_and(|it| it == BATCH);
    match known {
        None => problem(StatusCode::NOT_FOUND, "NotFound", "no such path"),
        Some((method, _)) if method != head.method => {
            problem(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not with this method")
        }
        Some((_, Call::Ping)) => reply(StatusCode::OK, "text/plain", "pong"),
        Some((_, Call::Next)) => next(api, takes_batches).await,
        Some((_, Call::InitError)) => {
            let name = header(&ERROR_TYPE);
            let body = match collect(body, ERROR_BYTES_MAX).await {
                Ok((body, _)) => body,
                Err(_too_large_or_cut) => Bytes::new(),
            };
            accepted(api.init_error(Answered::Error { name, body }))
        }
        Some((_, Call::Error(id))) => {
            let name = header(&ERROR_TYPE);
            if let Err(refusal) = api.begin(id) {
                return refused_unread(refusal, body).await;
            }
            let answering = Answering { api, over: false };
            let body = match collect(body, ERROR_BYTES_MAX).await {
                Ok((body, _)) => body,
                Err(_too_large_or_cut) => Bytes::new(),
            };
            answering.with(Answered::Error { name, body });
            taken(api, takes_batches).await
        }
        Some((_, Call::Response(id))) => {
            let batch = head.headers.get(CONTENT_TYPE).is_some_and(|it| it == BATCH);
            match response(api, id, header(&MODE), batch, body).await {
                Ok(()) => taken(api, takes_batches).await,
                Err(reply) => reply,
            }
        }
    }
}

/// An answer was taken: who takes batches gets its next event in reply, without another question.
async fn taken(api: &Api, takes_batches: bool) -> Reply {
    if takes_batches { next(api, true).await } else { accepted(Ok(())) }
}

#[derive(Clone, Copy)]
enum Call<'a> {
    Next,
    Response(&'a str),
    Error(&'a str),
    InitError,
    Ping,
}

/// An answer that has begun: cut short if it does not come to its end.
struct Answering<'a> {
    api: &'a Api,
    over: bool,
}

impl Answering<'_> {
    fn with(mut self, answered: Answered) {
        self.over = true;
        self.api.end(answered);
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.api.end(Answered::Truncated);
        }
    }
}

async fn next(api: &Api, takes_batches: bool) -> Reply {
    match api.next(takes_batches).await {
        Ok((id, event)) => {
            let mut reply = Response::new(Full::new(event.body.clone()));
            let headers = reply.headers_mut();
            headers.extend(event.headers.iter().cloned());
            let id = HeaderValue::from_str(&id).expect("an id is digits and dashes");
            headers.insert(REQUEST_ID, id);
            reply
        }
        Err(refusal) => refused(refusal),
    }
}

async fn response(
    api: &Api,
    id: &str,
    mode: Option<String>,
    batch: bool,
    body: Incoming,
) -> Result<(), Reply> {
    let bytes_max = match api.begin(id) {
        Ok(bytes_max) => bytes_max,
        Err(refusal) => return Err(refused_unread(refusal, body).await),
    };
    let answering = Answering { api, over: false };
    if let Some(mode) = mode.filter(|it| it != "streaming") {
        let message = format!("no response mode {mode:?}");
        answering.with(Answered::BadMode(mode));
        collect(body, 0).await.ok();
        return Err(problem(StatusCode::BAD_REQUEST, "InvalidFunctionResponseMode", &message));
    }
    match collect(body, bytes_max).await {
        Ok((body, trailers)) => {
            // An answer that streams may end with an error.
            let late = trailers.and_then(|trailers| {
                let name = trailers.get(&ERROR_TYPE)?.to_str().ok()?.to_owned();
                let body = trailers.get(&ERROR_BODY).map(HeaderValue::as_bytes);
                Some(Answered::Error { name: Some(name), body: decoded(body.unwrap_or_default()) })
            });
            answering.with(late.unwrap_or(Answered::Response { body, batch }));
            Ok(())
        }
        Err(Cut::TooLarge) => {
            answering.with(Answered::TooLarge { bytes_max });
            let message = format!("an answer of more than {bytes_max} bytes");
            Err(problem(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message))
        }
        Err(Cut::Short) => {
            answering.with(Answered::Truncated);
            let message = "the body was cut short";
            Err(problem(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", message))
        }
    }
}

fn decoded(base64: &[u8]) -> Bytes {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
    bytes.unwrap_or_else(|_| base64.to_vec()).into()
}

enum Cut {
    TooLarge,
    Short,
}

/// All of a body and its trailers, if it is no longer than that.
async fn collect(
    mut body: Incoming,
    bytes_max: usize,
) -> Result<(Bytes, Option<hyper::HeaderMap>), Cut> {
    let announced = body.size_hint().exact().and_then(|it| usize::try_from(it).ok());
    let (mut bytes, mut trailers) = (Bytes::new(), None);
    let mut gathered = BytesMut::new();
    let mut thrown_away = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_connection| Cut::Short)?;
        match frame.into_data() {
            Ok(data) if bytes_max < thrown_away + gathered.len() + bytes.len() + data.len() => {
                // Read on, so that the client gets to hear why; but not for ever.
                thrown_away += gathered.len() + bytes.len() + data.len();
                (bytes, gathered) = (Bytes::new(), BytesMut::new());
                if DRAINED_BYTES_MAX < thrown_away {
                    return Err(Cut::TooLarge);
                }
            }
            Ok(data) if bytes.is_empty() && gathered.is_empty() => bytes = data,
            Ok(data) => {
                if gathered.is_empty() {
                    // What was announced is believed as far as it came: room grows with the data.
                    gathered.reserve(announced.unwrap_or(0).min(4 * (bytes.len() + data.len())));
                    gathered.extend_from_slice(&bytes);
                    bytes = Bytes::new();
                }
                gathered.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    if 0 < thrown_away {
        return Err(Cut::TooLarge);
    }
    let bytes = if gathered.is_empty() { bytes } else { gathered.freeze() };
    Ok((bytes, trailers))
}

fn accepted(result: Result<(), Refusal>) -> Reply {
    match result {
        Ok(()) => reply(StatusCode::ACCEPTED, "application/json", "{\"status\":\"OK\"}\n"),
        Err(refusal) => refused(refusal),
    }
}

/// A refusal that the client gets to hear: with its body unread, its connection would close.
async fn refused_unread(refusal: Refusal, body: Incoming) -> Reply {
    collect(body, 0).await.ok();
    refused(refusal)
}

fn refused(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::InvalidRequestId => {
            problem(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID")
        }
        Refusal::InvalidStateTransition => {
            problem(StatusCode::FORBIDDEN, "InvalidStateTransition", "Transition is not allowed")
        }
    }
}

fn problem(status: StatusCode, name: &str, message: &str) -> Reply {
    let body = serde_json::json!({ "errorMessage": message, "errorType": name });
    reply(status, "application/json", body.to_string())
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
