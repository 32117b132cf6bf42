//! Answers for the whole cluster, from any of its nodes: what this one knows and what the others
//! answer, all asked at once. A node that does not answer in time is named.
//!
//! ```text
//! ?node=edge-2 ─▶ narrow ─┬─▶ another node, whose answer is the answer
//!                         └─▶ Scope::Own ─▶ the route, about this node
//!                Scope::Whole ─▶ the route ─▶ gather ─▶ merge
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::api::{Problem, Unheard};
use crate::codes;
use crate::invoke::{self, At};
use crate::merge::Heard;
use crate::others::{NotHeard, Others, Question, Reply, Verb};
use crate::problem::{PROBLEM_MEDIA_TYPE, Refusal};
use crate::routes::{App, body};

/// How long another node may take to say what it has in memory.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to carry something out.
pub(crate) const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// The largest body that crosses.
const QUESTION_BYTES_MAX: usize = 4 << 10;

/// Whom a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The node that answers it.
    Own,
    /// All of the cluster.
    Whole,
}

impl<S: Sync> FromRequestParts<S> for Scope {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self::Whole))
    }
}

impl Scope {
    /// The others, where they are meant and there are some.
    pub(crate) fn others(self, app: &App) -> Option<&Arc<dyn Others>> {
        let others = app.others.as_ref().filter(|_| self == Self::Whole)?;
        (!others.names().is_empty()).then_some(others)
    }
}

/// The middleware: `node=NAME` in a query is who is meant, and no route sees it.
pub(crate) async fn narrow(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let (node, rest) = named(request.uri());
    let (Some(node), Some(rest)) = (node, rest) else { return next.run(request).await };
    *request.uri_mut() = rest;
    if invoke::is_call(request.uri().path()) {
        // It crosses by a way of its own.
        request.extensions_mut().insert(At(Some(node)));
        return next.run(request).await;
    }
    let own = app.others.as_ref().map_or_else(|| app.node.status().node.name, |it| it.own_name());
    if node == own {
        request.extensions_mut().insert(Scope::Own);
        return next.run(request).await;
    }
    match app.others.as_ref().filter(|others| others.names().contains(&node)) {
        Some(others) => match elsewhere(&**others, &node, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        },
        None => {
            let detail = format!("no node {}", node.escape_debug());
            Refusal::new(StatusCode::NOT_FOUND, codes::UNKNOWN_MEMBER, detail)
                .hint("`millrace node list` lists those there are")
                .into_response()
        }
    }
}

/// The node that a query names, and the address without it. Names need no escapes.
fn named(uri: &Uri) -> (Option<String>, Option<Uri>) {
    let pairs = || uri.query().unwrap_or_default().split('&').filter(|it| !it.is_empty());
    let node = pairs().find_map(|it| it.strip_prefix("node=")).map(str::to_owned);
    let rest: Vec<&str> = pairs().filter(|it| !it.starts_with("node=")).collect();
    let rest = match rest.as_slice() {
        [] => uri.path().to_owned(),
        rest => format!("{}?{}", uri.path(), rest.join("&")),
    };
    (node, rest.parse().ok())
}

/// Another node's answer, as it gave it.
async fn elsewhere(others: &dyn Others, node: &str, request: Request) -> Result<Response, Refusal> {
    let refused = || Refusal::bad("this cannot be asked of another node");
    let verb = Verb::of(request.method()).ok_or_else(refused)?;
    let target = request.uri().path_and_query().map_or("", |it| it.as_str()).to_owned();
    let body = body(request.into_body(), QUESTION_BYTES_MAX).await?;
    let body = String::from_utf8(body.to_vec()).map_err(|error| Refusal::bad(error.to_string()))?;
    let question = Question { verb, target, body };
    if !question.may_cross() {
        return Err(refused());
    }
    let reply = others.ask(node, question, LONG_PATIENCE).await;
    Ok(as_response(reply.map_err(|it| not_heard(node, &it))?))
}

fn as_response(Reply { status, body }: Reply) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = if status.is_success() { "application/json" } else { PROBLEM_MEDIA_TYPE };
    (status, [(header::CONTENT_TYPE, kind)], Body::from(body)).into_response()
}

/// As the one who asks for that node alone is told.
pub(crate) fn not_heard(node: &str, it: &NotHeard) -> Refusal {
    let detail = format!("{node} does not answer: {}", it.why);
    let code = if it.maybe_done { codes::IN_DOUBT } else { codes::UNHEARD };
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        .hint("`millrace node list` shows which nodes are not heard of")
}

/// Asks nodes at once; the answers come as they do.
pub(crate) fn ask(
    others: &Arc<dyn Others>,
    questions: impl IntoIterator<Item = (String, Question)>,
    within: Duration,
) -> JoinSet<(String, Result<Reply, NotHeard>)> {
    let mut asked = JoinSet::new();
    for (node, question) in questions {
        let others = Arc::clone(others);
        asked.spawn(async move {
            let reply = others.ask(&node, question, within).await;
            (node, reply)
        });
    }
    asked
}

/// Asks all of the others the same.
pub(crate) async fn ask_all(
    others: &Arc<dyn Others>,
    question: &Question,
    within: Duration,
) -> Vec<(String, Result<Reply, NotHeard>)> {
    let questions = others.names().into_iter().map(|node| (node, question.clone()));
    let mut answers = ask(others, questions, within).join_all().await;
    answers.sort_by(|a, b| a.0.cmp(&b.0));
    answers
}

/// What this node says, and what the others do.
pub(crate) async fn gather<T: DeserializeOwned>(
    others: &Arc<dyn Others>,
    target: &str,
    within: Duration,
    own: impl Future<Output = Result<T, Refusal>>,
) -> Result<Heard<T>, Refusal> {
    let question = Question::get(target);
    let (own, replies) = tokio::join!(own, ask_all(others, &question, within));
    let mut heard = Heard { answers: vec![(others.own_name(), own?)], unheard: Vec::new() };
    for (node, reply) in replies {
        match understood(reply) {
            Ok(answer) => heard.answers.push((node, answer)),
            Err(why) => heard.unheard.push(Unheard { node, why }),
        }
    }
    heard.answers.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(heard)
}

/// The answer, or why there is none.
pub(crate) fn understood<T: DeserializeOwned>(reply: Result<Reply, NotHeard>) -> Result<T, String> {
    let reply = reply.map_err(|it| it.why)?;
    if !reply.is_ok() {
        return Err(problem_of(&reply).detail);
    }
    serde_json::from_slice(&reply.body).map_err(|error| {
        format!("its answer cannot be read, it may be of another version: {error}")
    })
}

pub(crate) fn problem_of(reply: &Reply) -> Problem {
    let unnamed = || Problem {
        detail: format!("it answered with status {}", reply.status),
        ..Problem::default()
    };
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| unnamed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_that_is_meant_is_taken_out_of_the_query() {
        let told = |uri: &str| {
            let (node, rest) = named(&uri.parse().unwrap());
            (node.unwrap_or_default(), rest.unwrap().to_string())
        };
        let told_ = |node: &str, rest: &str| (node.to_owned(), rest.to_owned());
        assert_eq!(told("/v1/lag"), told_("", "/v1/lag"));
        assert_eq!(told("/v1/lag?node=edge-2"), told_("edge-2", "/v1/lag"));
        let expected = told_("b", "/v1/logs?from=7&max=3");
        assert_eq!(told("/v1/logs?from=7&node=b&max=3"), expected);
        assert_eq!(told("/v1/logs?nodes=1"), told_("", "/v1/logs?nodes=1"));
    }
}
