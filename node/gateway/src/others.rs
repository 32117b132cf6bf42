//! The other nodes of a cluster: what the control API of this one may ask theirs, and how it
//! answers them. A question that crosses is about the node that is asked, and nothing else.

use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::problem::Refusal;
use crate::routes::{self, App};
use crate::whole::Scope;

/// The largest answer that crosses: more than all the lines that a node remembers.
pub const REPLY_BYTES_MAX: usize = 32 << 20;

/// What is done with what is under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// It is read.
    Get,
    /// Something is done to it.
    Post,
    /// It is stopped.
    Delete,
}

impl Verb {
    pub(crate) fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET => Some(Self::Get),
            Method::POST => Some(Self::Post),
            Method::DELETE => Some(Self::Delete),
            _ => None,
        }
    }

    const fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Post => Method::POST,
            Self::Delete => Method::DELETE,
        }
    }
}

/// A question to the control API of another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What is done.
    pub verb: Verb,
    /// To what: a path and its query.
    pub target: String,
    /// JSON, or empty.
    pub body: String,
}

impl Question {
    /// What is under a path.
    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self { verb: Verb::Get, target: target.into(), body: String::new() }
    }

    pub(crate) fn delete(target: impl Into<String>) -> Self {
        Self { verb: Verb::Delete, ..Self::get(target) }
    }

    pub(crate) fn post(target: impl Into<String>, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("texts and numbers can be written");
        Self { verb: Verb::Post, target: target.into(), body }
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether nodes ask this of each other. Nearly all of it only reads; a seek and the end of
    /// what runs in the background are for the node alone that has it.
    #[must_use]
    pub fn may_cross(&self) -> bool {
        let path: Vec<&str> = self.path().split('/').skip(1).collect();
        match (self.verb, path.as_slice()) {
            (
                Verb::Get,
                [
                    "v1",
                    "status" | "lag" | "instances" | "logs" | "doctor" | "triggers" | "config"
                    | "raft" | "weights",
                ]
                | ["v1", "records", _, _, _],
            )
            | (Verb::Get | Verb::Delete, ["v1", "triggers", _, _, _, "replay"])
            | (Verb::Get | Verb::Delete, ["v1", "dead-letters", _, "redrive"]) => true,
            (Verb::Post, ["v1", "node:try"]) => true,
            (Verb::Post, ["v1", "triggers", _, _, trigger]) => trigger.ends_with(":seek"),
            _ => false,
        }
    }
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status of HTTP.
    pub status: u16,
    /// JSON: of what was asked, or a problem.
    pub body: Bytes,
}

impl Reply {
    pub(crate) const fn is_ok(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotHeard {
    /// In a few words.
    pub why: String,
    /// Whether what was asked may have been done all the same.
    pub maybe_done: bool,
}

/// A shard that somebody owns, or nobody just now, as the cluster agreed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Its id.
    pub shard: u64,
    /// Its assignment.
    pub epoch: u64,
    /// `app/function/name`.
    pub trigger: String,
    /// `app/name`.
    pub function: String,
    /// Its input.
    pub topic: String,
    /// Of that topic.
    pub partition: i32,
    /// The node's name.
    pub owner: Option<String>,
}

/// The other nodes of a cluster.
#[async_trait]
pub trait Others: Send + Sync + Debug {
    /// What all of them are called together.
    fn cluster(&self) -> String;

    /// What this node is called.
    fn own_name(&self) -> String;

    /// What the others are called.
    fn names(&self) -> Vec<String>;

    /// Every shard of a trigger.
    fn shards(&self) -> Vec<Owned>;

    /// Asks one of them, for `within` at most once it is there; that takes two seconds at most.
    ///
    /// # Errors
    ///
    /// When it is not there, or its time is over first.
    async fn ask(
        &self,
        node: &str,
        question: Question,
        within: Duration,
    ) -> Result<Reply, NotHeard>;
}

/// Answers the questions of other nodes, for as long as the gateway does.
#[derive(Clone)]
pub struct Own(Weak<App>);

impl Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").finish_non_exhaustive()
    }
}

impl Own {
    pub(crate) fn of(app: &Arc<App>) -> Self {
        Self(Arc::downgrade(app))
    }

    /// Answers about this node alone. That it is a member who asks was seen to before.
    pub async fn answer(&self, question: Question) -> Reply {
        let response = self.respond(question).await;
        let status = response.status().as_u16();
        match to_bytes(response.into_body(), REPLY_BYTES_MAX).await {
            Ok(body) => Reply { status, body },
            Err(error) => {
                let refusal = Refusal::broken(codes::INTERNAL, &error).into_response();
                let body = to_bytes(refusal.into_body(), REPLY_BYTES_MAX).await;
                Reply { status: 500, body: body.unwrap_or_default() }
            }
        }
    }

    async fn respond(&self, question: Question) -> Response {
        let Some(app) = self.0.upgrade() else {
            return Refusal::from(bus::Error::Closed).into_response();
        };
        if !question.may_cross() {
            let detail = format!("no node asks this of another: {}", question.path());
            return Refusal::new(StatusCode::FORBIDDEN, codes::FOREIGN, detail).into_response();
        }
        let Question { verb, target, body } = question;
        let request = Request::builder().method(verb.method()).uri(target).extension(Scope::Own);
        match request.body(Body::from(body)) {
            Ok(request) => {
                let router = routes::routes().with_state(app);
                TowerToHyperService::new(router)
                    .call(request)
                    .await
                    .unwrap_or_else(|never| match never {})
            }
            Err(error) => Refusal::bad(error.to_string()).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_crosses() {
        let may = |verb, target: &str| {
            Question { verb, target: target.to_owned(), body: String::new() }.may_cross()
        };
        for target in [
            "/v1/status",
            "/v1/logs?from=7&function=f",
            "/v1/records/in/0/7",
            "/v1/triggers/a/f/t/replay",
            "/v1/dead-letters/t.dead/redrive",
        ] {
            assert!(may(Verb::Get, target), "{target}");
        }
        assert!(may(Verb::Post, "/v1/triggers/a/f/t:seek"));
        assert!(may(Verb::Post, "/v1/node:try"));
        assert!(may(Verb::Delete, "/v1/triggers/a/f/t/replay"));
        for target in [
            "/v1/topics/in/records",
            "/v1/dead-letters/t",
            "/v1/members",
            "/metrics",
            "/v1/status/",
            "v1/status",
            "/v1/../v1/status",
            "",
        ] {
            assert!(!may(Verb::Get, target), "{target}");
        }
        for target in [
            "/v1/node:shutdown",
            "/v1/apps/a:deploy",
            "/v1/triggers/a/f/t:pause",
            "/v1/triggers/a/f/t:replay",
            "/v1/dead-letters/t:purge",
            "/v1/status",
        ] {
            assert!(!may(Verb::Post, target), "{target}");
        }
        for target in ["/v1/apps/a", "/v1/topics/in", "/v1/members/edge-1", "/v1/logs"] {
            assert!(!may(Verb::Delete, target), "{target}");
        }
    }
}
