//! Routes of an upgrade: what the cluster writes, and the step that ends one.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::api::UpgradeStatus;
use crate::problem::Refusal;
use crate::routes::App;
use crate::triggers::node;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/upgrade", get(status)).route("/v1/upgrade:finish", post(finish))
}

async fn status(State(app): State<Arc<App>>) -> Result<Json<UpgradeStatus>, Refusal> {
    Ok(Json(node(&app)?.upgrade()))
}

async fn finish(State(app): State<Arc<App>>) -> Result<Json<UpgradeStatus>, Refusal> {
    Ok(Json(node(&app)?.finish_upgrade().await?))
}
