//! Routes of what happened: to a record, in an invocation.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Json, Router};

use crate::api::{InvocationInfo, RecordAccount, TailLines, TailQuestion};
use crate::problem::Refusal;
use crate::routes::App;
use crate::topics::find;
use crate::triggers::node;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/records/{topic}/{partition}/{offset}", get(record))
        .route("/v1/invocations/{id}", get(invocation))
        .route("/v1/tail", get(tail))
}

async fn record(
    State(app): State<Arc<App>>,
    Path((topic, partition, offset)): Path<(String, i32, i64)>,
) -> Result<Json<RecordAccount>, Refusal> {
    find(&*app.bus, &topic)?;
    Ok(Json(node(&app)?.record(topic, partition, offset).await?))
}

async fn invocation(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<InvocationInfo>, Refusal> {
    Ok(Json(node(&app)?.invocation(id).await?))
}

async fn tail(
    State(app): State<Arc<App>>,
    asked: Result<Query<TailQuestion>, QueryRejection>,
) -> Result<Json<TailLines>, Refusal> {
    let Query(asked) = asked.map_err(|error| Refusal::bad(error.body_text()))?;
    tokio::select! {
        said = node(&app)?.tail(asked) => Ok(Json(said?)),
        () = app.stopping.cancelled() => Err(bus::Error::Closed.into()),
    }
}
