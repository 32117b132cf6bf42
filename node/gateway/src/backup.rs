//! Routes of backups. What is asked is given to the node's [`Backups`].

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;

use crate::api::{Backup, Restore, Restored};
use crate::problem::Refusal;
use crate::routes::{App, question};
use crate::triggers::no_such;
use crate::view::Refused;

/// The largest description of a backup: a state may have so much, and more is no cluster's.
const BACKUP_BYTES_MAX: usize = 256 << 20;

/// What a node gives for a backup and takes of one. A restore that has begun is carried to its end
/// whether or not anybody waits for the answer.
#[async_trait]
pub trait Backups: Send + Sync + Debug {
    /// Everything but packages.
    ///
    /// # Errors
    ///
    /// When there is no quorum, or the bus does not answer.
    async fn backup(&self) -> Result<Backup, Refused>;

    /// A package, as it is sent for a deploy.
    ///
    /// # Errors
    ///
    /// When it is not here.
    async fn package(&self, digest: String) -> Result<Bytes, Refused>;

    /// Makes applications what they were.
    ///
    /// # Errors
    ///
    /// When one is there and is not to be replaced, or the bus does not take a position.
    async fn restore(&self, asked: Restore) -> Result<Restored, Refused>;
}

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/backup", get(make))
        .route("/v1/backup/packages/{digest}", get(package))
        .route("/v1/backup:restore", post(restore))
}

/// Whether a request may take as long as reading park topics and setting positions takes.
pub(crate) fn is_long(path: &str) -> bool {
    path.starts_with("/v1/backup")
}

fn node(app: &App) -> Result<&dyn Backups, Refusal> {
    app.backups.as_deref().ok_or_else(no_such)
}

async fn make(State(app): State<Arc<App>>) -> Result<Json<Backup>, Refusal> {
    Ok(Json(node(&app)?.backup().await?))
}

async fn package(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
) -> Result<Response, Refusal> {
    // Each is held in memory until it is sent.
    let _one = app.uploads.acquire().await.expect("the semaphore is never closed");
    let archive = node(&app)?.package(digest).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], archive).into_response())
}

async fn restore(State(app): State<Arc<App>>, content: Body) -> Result<Json<Restored>, Refusal> {
    let asked: Restore = question(content, BACKUP_BYTES_MAX).await?;
    Ok(Json(node(&app)?.restore(asked).await?))
}
