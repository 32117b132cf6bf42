//! Routes of dead letters: by cause, one by one, edits, redrives and purges. What is asked is given
//! to the node, which carries it out whether or not the client waits.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};

use crate::api::{
    DeadLetterChoice, DeadLetterEdit, DeadLetterInfo, DeadLetterList, Redrive, RedriveState,
    RedriveStatus,
};
use crate::problem::Refusal;
use crate::routes::{App, question};
use crate::topics::find;
use crate::triggers::{no_such, node};
use crate::whole::Scope;
use crate::{codes, owners};

/// The largest question but an edit.
const QUESTION_BYTES_MAX: usize = 4 << 10;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/dead-letters/{topic}", get(list).post(verb))
        .route("/v1/dead-letters/{topic}/redrive", get(progress).delete(stop))
        .route("/v1/dead-letters/{topic}/{partition}/{offset}", get(show).put(edit))
}

async fn list(
    State(app): State<Arc<App>>,
    Path(topic): Path<String>,
    asked: Result<Query<DeadLetterChoice>, QueryRejection>,
) -> Result<Json<DeadLetterList>, Refusal> {
    let Query(asked) = asked.map_err(|error| Refusal::bad(error.body_text()))?;
    find(&*app.bus, &topic)?;
    Ok(Json(node(&app)?.dead_letters(topic, asked).await?))
}

async fn show(
    State(app): State<Arc<App>>,
    Path((topic, partition, offset)): Path<(String, i32, i64)>,
) -> Result<Json<DeadLetterInfo>, Refusal> {
    find(&*app.bus, &topic)?;
    Ok(Json(node(&app)?.dead_letter(topic, partition, offset).await?))
}

async fn edit(
    State(app): State<Arc<App>>,
    Path((topic, partition, offset)): Path<(String, i32, i64)>,
    content: Body,
) -> Result<Json<DeadLetterInfo>, Refusal> {
    let asked: DeadLetterEdit = question(content, app.body_bytes_max).await?;
    find(&*app.bus, &topic)?;
    Ok(Json(node(&app)?.edit_dead_letter(topic, partition, offset, asked.value).await?))
}

async fn verb(
    State(app): State<Arc<App>>,
    scope: Scope,
    Path(segment): Path<String>,
    content: Body,
) -> Result<Json<RedriveStatus>, Refusal> {
    let (topic, verb) = segment.split_once(':').ok_or_else(no_such)?;
    let purge = match verb {
        "redrive" => false,
        "purge" => true,
        _ => return Err(no_such()),
    };
    let asked: Redrive = question(content, QUESTION_BYTES_MAX).await?;
    if asked.rate == Some(0) || asked.limit == Some(0) {
        return Err(Refusal::bad("rate and limit are 1 or more"));
    }
    find(&*app.bus, topic)?;
    if let Some(others) = scope.others(&app).filter(|_| !asked.dry_run) {
        let own = node(&app)?.redrive_status(topic);
        let known = owners::newest(others, &redrive_path(topic), own).await;
        if let Some(RedriveStatus { node: Some(node), .. }) = known.filter(owners::Background::runs)
        {
            let detail = format!("dead letters of {topic} are being put back or purged on {node}");
            return Err(Refusal::new(StatusCode::CONFLICT, codes::REDRIVE_RUNS, detail)
                .hint("wait for it, or stop it: `millrace dead-letter redrive NAME --stop`"));
        }
    }
    Ok(Json(node(&app)?.redrive(topic.to_owned(), asked, purge).await?))
}

fn redrive_path(topic: &str) -> String {
    format!("/v1/dead-letters/{topic}/redrive")
}

impl owners::Background for RedriveStatus {
    fn runs(&self) -> bool {
        matches!(self.state, RedriveState::Running | RedriveState::Waiting)
    }

    fn started(&self) -> &str {
        &self.started
    }

    fn of(self, node: String) -> Self {
        Self { node: Some(node), ..self }
    }
}

async fn progress(
    State(app): State<Arc<App>>,
    scope: Scope,
    Path(topic): Path<String>,
) -> Result<Json<RedriveStatus>, Refusal> {
    let own = node(&app)?.redrive_status(&topic);
    let known = match scope.others(&app) {
        Some(others) => owners::newest(others, &redrive_path(&topic), own).await,
        None => own,
    };
    known.map(Json).ok_or_else(|| {
        let detail = format!("nothing of {topic} was put back or purged since the node started");
        Refusal::new(StatusCode::NOT_FOUND, codes::NO_ROUTE, detail)
    })
}

async fn stop(
    State(app): State<Arc<App>>,
    scope: Scope,
    Path(topic): Path<String>,
) -> Result<StatusCode, Refusal> {
    node(&app)?.stop_redrive(&topic);
    if let Some(others) = scope.others(&app) {
        owners::stop(others, &redrive_path(&topic)).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
