//! Routes of an operator: triggers are listed, paused, resumed and sought, the node examines itself
//! and tells what functions said. What is asked is given to the node.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::api::{
    Effective, Examination, InstanceList, LogLines, LogQuestion, Replay, ReplayState, ReplayStatus,
    Seek, TriggerList,
};
use crate::problem::Refusal;
use crate::read::Begin;
use crate::routes::{App, question, whole_lag};
use crate::view::Operations;
use crate::whole::{PATIENCE, Scope, gather};
use crate::{codes, lag, logs, merge, owners};

/// The largest question.
const QUESTION_BYTES_MAX: usize = 4 << 10;
/// How long another node may take to examine itself, with brokers that do not answer it.
const EXAMINATION_PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to read what its processes have in memory.
const INSTANCES_PATIENCE: Duration = Duration::from_secs(5);

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

async fn doctor(State(app): State<Arc<App>>, scope: Scope) -> Result<Json<Examination>, Refusal> {
    let own = async { Ok(node(&app)?.examine().await) };
    let Some(others) = scope.others(&app) else { return own.await.map(Json) };
    let heard = gather(others, "/v1/doctor", EXAMINATION_PATIENCE, own).await?;
    Ok(Json(merge::examinations(heard)))
}

async fn instances(
    State(app): State<Arc<App>>,
    scope: Scope,
) -> Result<Json<InstanceList>, Refusal> {
    let own = async { Ok(node(&app)?.instances().await) };
    let Some(others) = scope.others(&app) else { return own.await.map(Json) };
    let heard = gather(others, "/v1/instances", INSTANCES_PATIENCE, own).await?;
    Ok(Json(merge::instances(heard)))
}

async fn logs(
    State(app): State<Arc<App>>,
    scope: Scope,
    RawQuery(query): RawQuery,
    asked: Result<Query<LogQuestion>, QueryRejection>,
) -> Result<Json<LogLines>, Refusal> {
    let Query(asked) = asked.map_err(|error| Refusal::bad(error.body_text()))?;
    let said = async {
        match scope.others(&app) {
            Some(others) => logs::of_all(&app, others, asked, &query.unwrap_or_default()).await,
            None => Ok(node(&app)?.logs(asked).await?),
        }
    };
    tokio::select! {
        said = said => Ok(Json(said?)),
        () = app.stopping.cancelled() => Err(bus::Error::Closed.into()),
    }
}

async fn list(State(app): State<Arc<App>>, scope: Scope) -> Result<Json<TriggerList>, Refusal> {
    let mut list = node(&app)?.triggers();
    if let Some(others) = scope.others(&app) {
        let asked = gather(others, "/v1/triggers", PATIENCE, async { Ok(list) });
        let (heard, lag) = tokio::join!(asked, whole_lag(&app, others));
        return Ok(Json(merge::triggers(heard?, &others.own_name(), &lag?)));
    }
    let lag = lag::compute(&*app.bus, &app.node.shards()).await?;
    for trigger in &mut list.triggers {
        let known = lag.triggers.iter().find(|it| it.trigger == trigger.trigger);
        trigger.lag = known.and_then(|it| it.lag);
    }
    Ok(Json(list))
}

async fn verb(
    State(app): State<Arc<App>>,
    scope: Scope,
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
            let sought = match scope.others(&app) {
                Some(others) => owners::seek(others, node, trigger, to, asked).await?,
                None => node.seek(trigger, to, asked).await?,
            };
            Ok(Json(sought).into_response())
        }
        "replay" => {
            let asked: Replay = question(content, QUESTION_BYTES_MAX).await?;
            let range = (Begin::parse(&asked.from)?, Begin::parse(&asked.to)?);
            let others = scope.others(&app).filter(|_| !asked.dry_run);
            let own = node.replay_status(&trigger);
            let running = match others {
                Some(others) => owners::newest(others, &replay_path(&trigger), own).await,
                None => None,
            };
            if let Some(node) = running.filter(|it| it.state == ReplayState::Running)
                && let Some(node) = node.node
            {
                let detail = format!("a replay of {trigger} runs on {node}");
                return Err(Refusal::new(StatusCode::CONFLICT, codes::REPLAY_RUNS, detail)
                    .hint("wait for it, or stop it: `millrace replay TRIGGER --stop`"));
            }
            Ok(Json(node.replay(trigger, range, asked).await?).into_response())
        }
        _ => Err(no_such()),
    }
}

fn replay_path(trigger: &str) -> String {
    format!("/v1/triggers/{trigger}/replay")
}

impl owners::Background for ReplayStatus {
    fn runs(&self) -> bool {
        self.state == ReplayState::Running
    }

    fn started(&self) -> &str {
        &self.started
    }

    fn of(self, node: String) -> Self {
        Self { node: Some(node), ..self }
    }
}

async fn replay_status(
    State(app): State<Arc<App>>,
    scope: Scope,
    Path((name, function, trigger)): Path<(String, String, String)>,
) -> Result<Json<ReplayStatus>, Refusal> {
    let trigger = format!("{name}/{function}/{trigger}");
    let own = node(&app)?.replay_status(&trigger);
    let known = match scope.others(&app) {
        Some(others) => owners::newest(others, &replay_path(&trigger), own).await,
        None => own,
    };
    Ok(Json(known.ok_or_else(no_such)?))
}

async fn stop_replay(
    State(app): State<Arc<App>>,
    scope: Scope,
    Path((name, function, trigger)): Path<(String, String, String)>,
) -> Result<StatusCode, Refusal> {
    let trigger = format!("{name}/{function}/{trigger}");
    node(&app)?.stop_replay(&trigger);
    if let Some(others) = scope.others(&app) {
        owners::stop(others, &replay_path(&trigger)).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
