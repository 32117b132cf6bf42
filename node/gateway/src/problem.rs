//! What a refused request is answered with: RFC 9457 problems with a stable code and the next
//! step, and which error of the bus is which.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::Problem;
use crate::codes;
use crate::view::Refused;

/// What RFC 9457 calls its JSON.
pub(crate) const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// A refusal on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
    hints: Vec<String>,
    header: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), hints: Vec::new(), header: None }
    }

    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, codes::BAD_REQUEST, detail)
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, codes::BAD_REQUEST, detail)
    }

    /// Something that no request should lead to: logged here, with all its causes.
    pub(crate) fn broken(code: &'static str, error: &dyn std::error::Error) -> Self {
        let mut detail = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            detail = format!("{detail}: {cause}");
            source = cause.source();
        }
        tracing::error!(detail, "could not answer a request");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The same for every problem of the code.
    fn title(&self) -> &'static str {
        match self.code {
            codes::TOPIC_NAME => "not the name of a topic",
            codes::DISK_FULL => "the disk is full",
            codes::CORRUPT => "the data is damaged",
            codes::UNKNOWN_TOPIC => "no such topic",
            codes::UNKNOWN_PARTITION => "no such partition",
            codes::OFFSET => "the offset is not there",
            codes::RECORD_TOO_LARGE => "the record is too large",
            codes::TOPIC_EXISTS => "the topic exists with other settings",
            codes::DISK_ERROR => "the disk answers with an error",
            codes::BAD_BATCH => "the record is not valid",
            codes::UNAUTHORISED => "the node refuses the token",
            codes::NO_ROUTE => "there is nothing of that name",
            codes::TIMEOUT => "it took too long",
            codes::TOPIC_IN_USE => "it conflicts with what is there",
            codes::CLOSING => "the node is draining",
            codes::BAD_REQUEST => "the request is not valid",
            codes::BUSY => "the node is busy",
            codes::NO_CLUSTER => "the node is in no cluster",
            codes::NO_QUORUM => "no quorum of the cluster answers",
            codes::IN_DOUBT => "whether it was done is not known",
            codes::UNKNOWN_MEMBER => "no such node",
            codes::ELSEWHERE => "another node has it",
            codes::UNHEARD => "a node does not answer",
            codes::MEMBERS => "the cluster refuses the change",
            codes::BROKERS_AWAY => "the brokers do not answer",
            codes::BROKERS_REFUSE => "the brokers refuse the credentials",
            codes::TOPIC_RECREATED => "the topic was deleted and made again",
            codes::OTHER_VERSION => "somebody else changed the application",
            codes::UNKNOWN_REVISION => "no such revision",
            codes::NOT_THE_PACKAGE => "not the package that it was said to be",
            codes::PACKAGE_MISSING => "the node does not have a package",
            codes::FUNCTION_FAILED => "the function failed",
            codes::FUNCTION_LATE => "the function took too long",
            codes::FUNCTION_BUSY => "too many calls of the function wait",
            codes::MAY_HAVE_RUN => "the function may have run",
            codes::RUNS_NOWHERE => "no node can run the function now",
            codes::FOREIGN => "the request does not come from this machine",
            _ if self.status.is_client_error() => "it cannot be done as asked",
            _ => "the node failed at something of its own",
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let Refused { status, code, detail, hints } = refused;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::error!(code, detail, "could not answer a request");
        }
        Self { hints, ..Self::new(status, code, detail) }
    }
}

impl From<bus::Error> for Refusal {
    fn from(error: bus::Error) -> Self {
        use bus::Error as E;
        let detail = error.to_string();
        let refusal = |status, code| Self::new(status, code, detail.clone());
        match &error {
            E::UnknownTopic { .. } => refusal(StatusCode::NOT_FOUND, codes::UNKNOWN_TOPIC)
                .hint("`millrace topic list` shows those there are"),
            E::UnknownPartition(place) => refusal(StatusCode::NOT_FOUND, codes::UNKNOWN_PARTITION)
                .hint(format!("`millrace topic describe {}` shows its partitions", place.topic)),
            E::TopicExists { .. } => refusal(StatusCode::CONFLICT, codes::TOPIC_EXISTS)
                .hint("the number of partitions of a topic does not change"),
            E::TopicName { .. } => refusal(StatusCode::BAD_REQUEST, codes::TOPIC_NAME),
            E::NoKey(_) => Self::bad(detail.clone()).hint("send each record with a key"),
            E::TooLarge { .. } => refusal(StatusCode::PAYLOAD_TOO_LARGE, codes::RECORD_TOO_LARGE),
            E::OffsetOutOfRange { .. } => refusal(StatusCode::RANGE_NOT_SATISFIABLE, codes::OFFSET)
                .hint("start from `earliest`, or from an offset in the range"),
            E::DiskFull { .. } => refusal(StatusCode::INSUFFICIENT_STORAGE, codes::DISK_FULL)
                .hint("free some room: the node goes on by itself")
                .header(header::RETRY_AFTER, "5"),
            E::Busy => refusal(StatusCode::TOO_MANY_REQUESTS, codes::BUSY)
                .hint("send it again in a moment")
                .header(header::RETRY_AFTER, "1"),
            E::Closed => refusal(StatusCode::SERVICE_UNAVAILABLE, codes::CLOSING)
                .hint("send it again when the node is back")
                .header(header::RETRY_AFTER, "2"),
            E::Unreachable { .. } => refusal(StatusCode::SERVICE_UNAVAILABLE, codes::BROKERS_AWAY)
                .hint("send it again when a broker answers")
                .header(header::RETRY_AFTER, "2"),
            E::Authentication { .. } => {
                refusal(StatusCode::SERVICE_UNAVAILABLE, codes::BROKERS_REFUSE)
                    .hint("look at [kafka.settings] of the node's file")
            }
            E::TopicRecreated { .. } | E::TopicReplaced { .. } => {
                refusal(StatusCode::CONFLICT, codes::TOPIC_RECREATED)
            }
            E::Corrupt(_) => Self::broken(codes::CORRUPT, &error),
            E::Io { .. } | E::Journal { .. } => Self::broken(codes::DISK_ERROR, &error),
            _ => Self::broken(codes::INTERNAL, &error),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: format!("urn:millrace:{}", self.code),
            title: self.title().to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code.to_owned(),
            hints: self.hints,
        };
        let body = serde_json::to_vec(&problem).expect("strings and a number are JSON");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
        if let Some((name, value)) = self.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
