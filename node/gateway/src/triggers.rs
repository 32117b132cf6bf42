//! Routes of an operator: triggers are listed, paused, resumed and sought, the node examines itself
//! and tells what functions said. What is asked is given to the node.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::api::{
    Effective, Examination, InstanceList, LogLines, LogQuestion, Replay, ReplayStatus, Seek,
    TriggerList,
};
use crate::problem::Refusal;
use crate::read::Begin;
use crate::routes::{App, question};
use crate::view::Operations;
use crate::{codes, lag};

/// The largest question.
const QUESTION_BYTES_MAX: usize = 4 << 10;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/config", get(config))
        .route("/v1/doctor", get(doctor))
        .route("/v1/instances", get(instances))
        .route("/v1/logs", get(logs))
        .route("/v1/triggers", get(list))
        .route("/v1/triggers/{app}/{function}/{trigger}", post(verb))
        .route(
            "/v1/triggers/{app}/{function}/{trigger}/replay",
            get(replay_status).delete(stop_replay),
        )
}

pub(crate) fn node(app: &App) -> Result<&dyn Operations, Refusal> {
    app.operations.as_deref().ok_or_else(no_such)
}

pub(crate) fn no_such() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, codes::NO_ROUTE, "there is nothing under this path")
}

async fn config(State(app): State<Arc<App>>) -> Result<Json<Effective>, Refusal> {
    Ok(Json(node(&app)?.effective()))
}

async fn doctor(State(app): State<Arc<App>>) -> Result<Json<Examination>, Refusal> {
    Ok(Json(node(&app)?.examine().await))
}

async fn instances(State(app): State<Arc<App>>) -> Result<Json<InstanceList>, Refusal> {
    Ok(Json(node(&app)?.instances().await))
}

async fn logs(
    State(app): State<Arc<App>>,
    asked: Result<Query<LogQuestion>, QueryRejection>,
) -> Result<Json<LogLines>, Refusal> {
    let Query(asked) = asked.map_err(|error| Refusal::bad(error.body_text()))?;
    tokio::select! {
        said = node(&app)?.logs(asked) => Ok(Json(said?)),
        () = app.stopping.cancelled() => Err(bus::Error::Closed.into()),
    }
}

async fn list(State(app): State<Arc<App>>) -> Result<Json<TriggerList>, Refusal> {
    let mut list = node(&app)?.triggers();
    let lag = lag::compute(&*app.bus, &app.node.shards()).await?;
    for trigger in &mut list.triggers {
        let known = lag.triggers.iter().find(|it| it.trigger == trigger.trigger);
        trigger.lag = known.and_then(|it| it.lag);
    }
    Ok(Json(list))
}

async fn verb(
    State(app): State<Arc<App>>,
    Path((name, function, verb)): Path<(String, String, String)>,
    content: Body,
) -> Result<Response, Refusal> {
    let node = node(&app)?;
    let (trigger, verb) = verb.split_once(':').ok_or_else(no_such)?;
    let trigger = format!("{name}/{function}/{trigger}");
    match verb {
        "pause" => Ok(Json(node.set_paused(trigger, true).await?).into_response()),
        "resume" => Ok(Json(node.set_paused(trigger, false).await?).into_response()),
        "seek" => {
            let asked: Seek = question(content, QUESTION_BYTES_MAX).await?;
            let to = Begin::parse(&asked.to)?;
            Ok(Json(node.seek(trigger, to, asked).await?).into_response())
        }
        "replay" => {
            let asked: Replay = question(content, QUESTION_BYTES_MAX).await?;
            let range = (Begin::parse(&asked.from)?, Begin::parse(&asked.to)?);
            Ok(Json(node.replay(trigger, range, asked).await?).into_response())
        }
        _ => Err(no_such()),
    }
}

async fn replay_status(
    State(app): State<Arc<App>>,
    Path((name, function, trigger)): Path<(String, String, String)>,
) -> Result<Json<ReplayStatus>, Refusal> {
    let trigger = format!("{name}/{function}/{trigger}");
    Ok(Json(node(&app)?.replay_status(&trigger).ok_or_else(no_such)?))
}

async fn stop_replay(
    State(app): State<Arc<App>>,
    Path((name, function, trigger)): Path<(String, String, String)>,
) -> Result<StatusCode, Refusal> {
    node(&app)?.stop_replay(&format!("{name}/{function}/{trigger}"));
    Ok(StatusCode::NO_CONTENT)
}
