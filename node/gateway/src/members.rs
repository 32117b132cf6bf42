//! Routes of a cluster: its nodes, tokens to join and to subscribe, and what its nodes agree by. What is asked is given
//! to the node's [`Membership`].

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};

use crate::api::{
    API, CaStatus, JoinToken, LeadChoice, MadeSubscriberToken, MemberList, RaftCheckpoint,
    RaftStatus, RotationWish, SubscriberTokenList, SubscriberTokenWish,
};
use crate::codes;
use crate::problem::Refusal;
use crate::routes::{App, QUESTION_BYTES_MAX, question};
use crate::triggers::no_such;
use crate::view::Membership;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/members", get(list))
        .route("/v1/members:token", post(token))
        .route("/v1/members/{member}", delete(remove).post(verb))
        .route("/v1/tokens", get(tokens).post(make_token))
        .route("/v1/tokens/{id}", delete(revoke_token))
        .route("/v1/ca", get(authorities))
        .route("/v1/ca:rotate", post(rotate))
        .route("/v1/ca:finish", post(finish))
        .route("/v1/ca:abort", post(abort))
        .route("/v1/raft", get(status))
        .route("/v1/raft:transfer", post(transfer))
        .route("/v1/raft:snapshot", post(snapshot))
}

fn cluster(app: &App) -> Result<&dyn Membership, Refusal> {
    app.membership.as_deref().ok_or_else(|| {
        Refusal::new(StatusCode::CONFLICT, codes::NO_CLUSTER, "this node is alone, in no cluster")
            .hint("`millrace init` founds one, `millrace join` enters one")
    })
}

async fn list(State(app): State<Arc<App>>) -> Result<Json<MemberList>, Refusal> {
    Ok(Json(cluster(&app)?.members().await))
}

async fn token(State(app): State<Arc<App>>) -> Result<Json<JoinToken>, Refusal> {
    Ok(Json(cluster(&app)?.join_token().await?))
}

async fn remove(
    State(app): State<Arc<App>>,
    Path(member): Path<String>,
) -> Result<StatusCode, Refusal> {
    cluster(&app)?.remove(member).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn verb(State(app): State<Arc<App>>, Path(verb): Path<String>) -> Result<Response, Refusal> {
    let (member, verb) = verb.split_once(':').ok_or_else(no_such)?;
    let drains = match verb {
        "drain" => true,
        "undrain" => false,
        _ => return Err(no_such()),
    };
    let cluster = cluster(&app)?;
    cluster.set_draining(member.to_owned(), drains).await?;
    Ok(Json(cluster.members().await).into_response())
}

async fn tokens(State(app): State<Arc<App>>) -> Result<Json<SubscriberTokenList>, Refusal> {
    Ok(Json(cluster(&app)?.subscriber_tokens()))
}

async fn make_token(
    State(app): State<Arc<App>>,
    content: Body,
) -> Result<Json<MadeSubscriberToken>, Refusal> {
    let wish: SubscriberTokenWish = question(content, QUESTION_BYTES_MAX).await?;
    Ok(Json(cluster(&app)?.make_subscriber_token(wish).await?))
}

async fn revoke_token(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    cluster(&app)?.revoke_subscriber_token(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn authorities(State(app): State<Arc<App>>) -> Result<Json<CaStatus>, Refusal> {
    Ok(Json(cluster(&app)?.authorities()))
}

async fn rotate(State(app): State<Arc<App>>, content: Body) -> Result<Json<CaStatus>, Refusal> {
    let wish: RotationWish = question(content, QUESTION_BYTES_MAX).await?;
    Ok(Json(cluster(&app)?.rotate(wish).await?))
}

async fn finish(State(app): State<Arc<App>>) -> Result<Json<CaStatus>, Refusal> {
    Ok(Json(cluster(&app)?.finish_rotation().await?))
}

async fn abort(State(app): State<Arc<App>>) -> Result<Json<CaStatus>, Refusal> {
    Ok(Json(cluster(&app)?.abort_rotation().await?))
}

async fn status(State(app): State<Arc<App>>) -> Result<Json<RaftStatus>, Refusal> {
    Ok(Json(cluster(&app)?.raft()))
}

async fn transfer(State(app): State<Arc<App>>, content: Body) -> Result<Json<LeadChoice>, Refusal> {
    let LeadChoice { to } = question(content, QUESTION_BYTES_MAX).await?;
    let leads = cluster(&app)?.transfer(to).await?;
    Ok(Json(LeadChoice { to: Some(leads) }))
}

async fn snapshot(State(app): State<Arc<App>>) -> Result<Json<RaftCheckpoint>, Refusal> {
    let index = cluster(&app)?.checkpoint().await?;
    Ok(Json(RaftCheckpoint { api: API, index }))
}
