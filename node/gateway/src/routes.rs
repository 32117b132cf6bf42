//! Which route is whose, and what no route answers.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use bus::Bus;
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::api::{API, Lag, ShardState, Status, Weights};
use crate::backup::Backups;
use crate::door::{self, Token};
use crate::invoke::Invocations;
use crate::metrics as gauges;
use crate::others::Others;
use crate::problem::Refusal;
use crate::view::{Applications, Membership, NodeView, Operations, Readiness};
use crate::whole::{self, PATIENCE, Scope, gather};
use crate::{
    apps, backup, codes, dead_letters, history, lag, members, merge, produce, read, topics,
    triggers, upgrade,
};

/// The largest body that is not records.
pub(crate) const QUESTION_BYTES_MAX: usize = 256 << 10;

/// What is read beyond a limit to be thrown away.
const THROWN_AWAY_MAX: usize = 32 << 20;

/// How long a scrape waits for what the bus knows of the ends of topics.
const LAG_PATIENCE: Duration = Duration::from_secs(5);

/// What the routes share.
pub(crate) struct App {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) node: Arc<dyn NodeView>,
    /// `None`: nothing can be deployed here.
    pub(crate) applications: Option<Arc<dyn Applications>>,
    /// `None`: nothing is operated here.
    pub(crate) operations: Option<Arc<dyn Operations>>,
    /// `None`: the node is alone.
    pub(crate) membership: Option<Arc<dyn Membership>>,
    /// `None`: there are no other nodes.
    pub(crate) others: Option<Arc<dyn Others>>,
    /// `None`: nothing can be called here.
    pub(crate) invocations: Option<Arc<dyn Invocations>>,
    /// `None`: nothing is backed up from here.
    pub(crate) backups: Option<Arc<dyn Backups>>,
    pub(crate) metrics: Option<PrometheusHandle>,
    pub(crate) token: Token,
    pub(crate) body_bytes_max: usize,
    /// One package is received at a time.
    pub(crate) uploads: Semaphore,
    /// Turns of records that have neither key nor partition.
    pub(crate) keyless: AtomicU32,
    /// Ends waits, so that the node need not wait for them.
    pub(crate) stopping: CancellationToken,
}

/// What answers clients.
pub(crate) fn router(app: Arc<App>) -> Router {
    routes()
        .layer(middleware::from_fn_with_state(Arc::clone(&app), whole::narrow))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), door::pass))
        .with_state(app)
}

/// Who comes here has passed the door, or is another node.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/lag", get(lag_of_all))
        .route("/v1/weights", get(weights))
        .route("/v1/topics", get(topics::list).post(topics::create))
        .route("/v1/topics/{topic}", get(topics::describe).delete(topics::delete).post(read::fetch))
        .route("/v1/topics/{topic}/records", get(read::browse).post(produce::produce))
        .route("/v1/node:shutdown", post(shutdown))
        .merge(apps::routes())
        .merge(triggers::routes())
        .merge(dead_letters::routes())
        .merge(history::routes())
        .merge(members::routes())
        .merge(upgrade::routes())
        .merge(backup::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
}

/// The body, up to a limit. What is over it is read and thrown away, as far as that is worth it:
/// a client that is still writing would find a closed connection instead of the refusal.
pub(crate) async fn body(mut body: Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut kept = Vec::with_capacity(announced.min(bytes_max));
    let mut seen = 0_usize;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame =
            frame.map_err(|error| Refusal::bad(format!("the body ended early: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= bytes_max && announced <= bytes_max {
            kept.extend_from_slice(&data);
        } else {
            kept = Vec::new();
            if THROWN_AWAY_MAX < seen - bytes_max.min(seen) {
                break;
            }
        }
    }
    let bytes = seen.max(announced);
    if bytes_max < bytes {
        let detail = format!("the body has {bytes} bytes or more, the limit is {bytes_max}");
        return Err(Refusal::too_large(detail));
    }
    Ok(kept.into())
}

/// A question in JSON.
pub(crate) async fn question<T: DeserializeOwned>(
    content: Body,
    bytes_max: usize,
) -> Result<T, Refusal> {
    let bytes = body(content, bytes_max).await?;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::bad(format!("the body: {error}")))
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.node.readiness() {
        Readiness::Ready => "ready\n".into_response(),
        Readiness::NotReady(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
        }
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = app.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default();
    let shards = app.node.shards();
    let lag = tokio::time::timeout(LAG_PATIENCE, lag::compute(&*app.bus, &shards)).await;
    let lag = lag.ok().and_then(Result::ok);
    text.push_str(&gauges::render(&app.node.status(), lag.as_ref(), &app.node.process()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// What keeps this node busy: the leader asks each for its own.
async fn weights(State(app): State<Arc<App>>) -> Json<Weights> {
    Json(Weights::of(&app.node.shards()))
}

async fn status(State(app): State<Arc<App>>, scope: Scope) -> Result<Json<Status>, Refusal> {
    let own = async {
        let mut status = app.node.status();
        status.api = API;
        Ok(status)
    };
    let Some(others) = scope.others(&app) else {
        let (mut status, lag) = (own.await?, own_lag(&app).await?);
        for function in &mut status.functions {
            function.lag = lag.of_function(&format!("{}/{}", function.app, function.name));
        }
        return Ok(Json(status));
    };
    let asked = gather(others, "/v1/status", PATIENCE, own);
    let (heard, lag) = tokio::join!(asked, whole_lag(&app, others));
    Ok(Json(merge::status(heard?, &others.own_name(), others.cluster(), &lag?)))
}

async fn own_lag(app: &App) -> Result<Lag, Refusal> {
    Ok(lag::compute(&*app.bus, &app.node.shards()).await?)
}

/// That of all partitions, whoever owns them.
pub(crate) async fn whole_lag(app: &App, others: &Arc<dyn Others>) -> Result<Lag, Refusal> {
    let heard = gather(others, "/v1/lag", PATIENCE, own_lag(app)).await?;
    let mut lag = merge::lag(heard, &others.shards());
    let unknown = lag.triggers.iter_mut().flat_map(|it| &mut it.partitions);
    for it in unknown.filter(|it| it.state == ShardState::Unknown) {
        // Where it ends anybody can see.
        let place = bus::TopicPartition::new(it.topic.as_str(), it.partition);
        if let Ok(marks) = app.bus.watermarks(&place).await {
            (it.start, it.end) = (marks.start.0, marks.end.0);
        }
    }
    Ok(lag)
}

async fn lag_of_all(State(app): State<Arc<App>>, scope: Scope) -> Result<Json<Lag>, Refusal> {
    match scope.others(&app) {
        Some(others) => Ok(Json(whole_lag(&app, others).await?)),
        None => Ok(Json(own_lag(&app).await?)),
    }
}

async fn shutdown(State(app): State<Arc<App>>) -> StatusCode {
    app.node.request_shutdown();
    StatusCode::ACCEPTED
}

async fn no_route() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, codes::NO_ROUTE, "there is nothing under this path")
}

async fn no_method() -> Refusal {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Refusal::new(status, codes::NO_ROUTE, "the path takes other methods")
}
