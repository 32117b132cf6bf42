//! Routes of applications: what a deploy would change, packages, the deploy, revisions and aliases.
//! What is asked is given to the node's [`Applications`]; here stand limits, paths and versions.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::Serialize;

use crate::api::{AliasList, FunctionList, Proposal, RevisionList, Target, Trial, Tried};
use crate::codes;
use crate::invoke::{self, At, Wishes};
use crate::problem::Refusal;
use crate::routes::{App, body, question};
use crate::view::Applications;

/// The largest manifest, with the digests beside it.
const PROPOSAL_BYTES_MAX: usize = 4 << 20;
/// The largest question but that.
const TARGET_BYTES_MAX: usize = 4 << 10;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/functions", get(functions))
        .route("/v1/functions/{app}/{function}", post(function_verb))
        .route("/v1/functions/{app}/{function}/revisions", get(revisions))
        .route("/v1/functions/{app}/{function}/aliases", get(aliases))
        .route(
            "/v1/functions/{app}/{function}/aliases/{alias}",
            put(set_alias).delete(delete_alias),
        )
        .route("/v1/apps/{app}", post(app_verb).delete(remove))
        .route("/v1/packages/{digest}", put(receive))
        .route("/v1/node:try", post(try_here))
}

/// Whether a request may take as long as compiling, starting, draining or reading a whole topic
/// takes.
pub(crate) fn is_long(path: &str) -> bool {
    [":deploy", ":rollback", ":seek", ":invoke", ":try"].iter().any(|verb| path.ends_with(verb))
        || path.starts_with("/v1/packages/")
        || path.starts_with("/v1/dead-letters/")
}

fn node(app: &App) -> Result<&dyn Applications, Refusal> {
    app.applications.as_deref().ok_or_else(no_such)
}

fn no_such() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, codes::NO_ROUTE, "there is nothing under this path")
}

async fn functions(State(app): State<Arc<App>>) -> Result<Json<FunctionList>, Refusal> {
    Ok(Json(node(&app)?.functions()))
}

async fn revisions(
    State(app): State<Arc<App>>,
    Path((name, function)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let list: RevisionList = node(&app)?.revisions(&name, &function)?;
    Ok(tagged(list.version, &list))
}

async fn aliases(
    State(app): State<Arc<App>>,
    Path((name, function)): Path<(String, String)>,
) -> Result<Json<AliasList>, Refusal> {
    Ok(Json(node(&app)?.aliases(&name, &function)?))
}

async fn set_alias(
    State(app): State<Arc<App>>,
    Path((name, function, alias)): Path<(String, String, String)>,
    content: Body,
) -> Result<Json<AliasList>, Refusal> {
    let target: Target = question(content, TARGET_BYTES_MAX).await?;
    Ok(Json(node(&app)?.set_alias(name, function, alias, target).await?))
}

async fn delete_alias(
    State(app): State<Arc<App>>,
    Path((name, function, alias)): Path<(String, String, String)>,
) -> Result<Json<AliasList>, Refusal> {
    Ok(Json(node(&app)?.delete_alias(name, function, alias).await?))
}

async fn function_verb(
    State(app): State<Arc<App>>,
    Path((name, verb)): Path<(String, String)>,
    Query(wishes): Query<Wishes>,
    at: At,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Refusal> {
    if let Some(function) = verb.strip_suffix(":invoke") {
        let function = (name, function.to_owned());
        return invoke::invoke(&app, function, (at, wishes), &headers, content).await;
    }
    let function = verb.strip_suffix(":rollback").ok_or_else(no_such)?.to_owned();
    let expects = expected(&headers)?;
    let target: Target = question(content, TARGET_BYTES_MAX).await?;
    let answer = node(&app)?.roll_back(name, function, target, expects).await?;
    Ok(tagged(answer.version, &answer))
}

async fn app_verb(
    State(app): State<Arc<App>>,
    Path(verb): Path<String>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Refusal> {
    let (name, verb) = verb.split_once(':').ok_or_else(no_such)?;
    let name = name.to_owned();
    match verb {
        "plan" => {
            let proposal: Proposal = question(content, PROPOSAL_BYTES_MAX).await?;
            let plan = node(&app)?.plan(name, proposal).await?;
            Ok(tagged(plan.version, &plan))
        }
        "deploy" => {
            let expects = expected(&headers)?;
            let proposal: Proposal = question(content, PROPOSAL_BYTES_MAX).await?;
            let deployed = node(&app)?.deploy(name, proposal, expects).await?;
            Ok(tagged(deployed.version, &deployed))
        }
        _ => Err(no_such()),
    }
}

async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let expects = expected(&headers)?;
    Ok(Json(node(&app)?.remove(name, expects).await?).into_response())
}

async fn receive(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
    content: Body,
) -> Result<StatusCode, Refusal> {
    let node = node(&app)?;
    // Each is held in memory until it is on the disk.
    let _one = app.uploads.acquire().await.expect("the semaphore is never closed");
    let archive = body(content, node.package_bytes_max()).await?;
    node.receive(digest, archive).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn try_here(State(app): State<Arc<App>>, content: Body) -> Result<Json<Tried>, Refusal> {
    let trial: Trial = question(content, PROPOSAL_BYTES_MAX).await?;
    Ok(Json(node(&app)?.try_here(trial).await))
}

/// The version that `If-Match` names, as `"7"`; without it, or with `*`, any will do.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let value = value.to_str().unwrap_or_default().trim();
    if value == "*" {
        return Ok(None);
    }
    let digits = value.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(value);
    let bad = |_| Refusal::bad("If-Match holds one version, as a plan gives it: \"7\"");
    digits.parse().map(Some).map_err(bad)
}

/// The answer, with the version in its `ETag`.
fn tagged(version: u64, answer: &impl Serialize) -> Response {
    let mut response = Json(answer).into_response();
    let tag = HeaderValue::from_str(&format!("\"{version}\"")).expect("digits and quotes");
    response.headers_mut().insert(header::ETAG, tag);
    response
}
