//! Routes of what happened: to a record, in an invocation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Json, Router};

use crate::api::{InvocationInfo, RecordAccount, TailLines, TailQuestion};
use crate::merge;
use crate::others::{Others, Owned, Question};
use crate::problem::Refusal;
use crate::routes::App;
use crate::topics::find;
use crate::triggers::node;
use crate::whole::{Scope, ask, understood};

/// How long another node may take to read a history that it has not in memory.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/records/{topic}/{partition}/{offset}", get(record))
        .route("/v1/invocations/{id}", get(invocation))
        .route("/v1/tail", get(tail))
}

async fn record(
    State(app): State<Arc<App>>,
    scope: Scope,
    Path((topic, partition, offset)): Path<(String, i32, i64)>,
) -> Result<Json<RecordAccount>, Refusal> {
    find(&*app.bus, &topic)?;
    let own = node(&app)?.record(topic.clone(), partition, offset);
    let Some(others) = scope.others(&app) else { return Ok(Json(own.await?)) };
    let is_of = |it: &Owned| it.topic == topic && it.partition == partition;
    let owned: Vec<Owned> = others.shards().into_iter().filter(is_of).collect();
    let place = format!("/v1/records/{topic}/{partition}/{offset}");
    let (own, told) = tokio::join!(own, of_owners(others, &owned, &place));
    Ok(Json(merge::record(own?, &others.own_name(), &told, &owned)))
}

/// What other nodes that own one of these say.
async fn of_owners(
    others: &Arc<dyn Others>,
    owned: &[Owned],
    place: &str,
) -> Vec<(String, Result<RecordAccount, String>)> {
    let me = others.own_name();
    let owners: BTreeSet<String> = owned.iter().filter_map(|it| it.owner.clone()).collect();
    let questions = owners.into_iter().filter(|owner| *owner != me);
    let questions = questions.map(|owner| (owner, Question::get(place)));
    let told = ask(others, questions, PATIENCE).join_all().await;
    told.into_iter().map(|(node, reply)| (node, understood(reply))).collect()
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
