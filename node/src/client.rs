//! The control API from a command's side: one node, its token, and every refusal turned into the
//! error that a person reads.

use std::time::Duration;

use gateway::api::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::Globals;
use crate::commands::error::{CommandError, exit};
use crate::commands::program::program;
use crate::discovery::{self, NodeFile};

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the node's own limit, so that no request meets a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// The largest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// One node.
#[derive(Debug)]
pub struct Client {
    node: NodeFile,
    /// The one node of the cluster that everything is asked about.
    about: Option<String>,
    agent: ureq::Agent,
}

/// A refusal, with what decides whether to ask again.
#[derive(Debug)]
pub struct Refused {
    /// What a person reads.
    pub error: CommandError,
    /// When the same request may succeed.
    pub retry_after: Option<Duration>,
}

/// An answer that is no JSON of ours.
#[derive(Debug)]
pub struct Answered {
    /// The status of HTTP; a success.
    pub status: u16,
    /// What was answered.
    pub body: Vec<u8>,
    headers: ureq::http::HeaderMap,
}

impl Answered {
    /// A header, where it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    /// Finds the node that is meant. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// Those of [`discovery::find`].
    pub fn connect(globals: &Globals) -> Result<Self, CommandError> {
        Ok(Self::of(discovery::find(globals.node.as_deref())?))
    }

    /// Finds a node that answers for the whole cluster, or about the one node of it that is meant.
    ///
    /// # Errors
    ///
    /// Those of [`discovery::find_about`].
    pub fn connect_about(globals: &Globals) -> Result<Self, CommandError> {
        let (node, about) = discovery::find_about(globals.node.as_deref())?;
        Ok(Self { about, ..Self::of(node) })
    }

    /// A client of this node.
    #[must_use]
    pub fn of(node: NodeFile) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy has no business between two processes of one machine.
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(TIMEOUT))
            .max_idle_age(IDLE_MAX)
            .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { node, about: None, agent: ureq::Agent::new_with_config(config) }
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> &NodeFile {
        &self.node
    }

    /// Asks for what is under a path.
    ///
    /// # Errors
    ///
    /// What the node says, `E0503` if it does not answer, `E0508` if that takes too long.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        let request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        self.answer(request.call()).map_err(|refused| refused.error)
    }

    /// Asks for what is under a path with a query, and waits `wait` longer than usual.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_with<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        wait: Duration,
    ) -> Result<T, CommandError> {
        let request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        let request = request.query_pairs(query.iter().copied());
        let request = request.config().timeout_global(Some(TIMEOUT + wait)).build();
        self.answer(request.call()).map_err(|refused| refused.error)
    }

    /// Deletes what is under a path.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn delete(&self, path: &str) -> Result<(), CommandError> {
        let request = self.agent.delete(self.url(path)).header("authorization", self.bearer());
        self.bytes(request.call()).map(drop).map_err(|refused| refused.error)
    }

    /// Sends a question, and waits `wait` longer than usual for the answer.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), with the time after which it may be asked again.
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
        wait: Duration,
    ) -> Result<T, Refused> {
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        let request = request.config().timeout_global(Some(TIMEOUT + wait)).build();
        self.answer(request.send_json(question))
    }

    /// The same, but only if what it is about is at this version.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); `E0520` if it is at another.
    pub fn post_at<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
        version: u64,
        wait: Duration,
    ) -> Result<T, CommandError> {
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        let request = request.header("if-match", format!("\"{version}\""));
        let request = request.config().timeout_global(Some(TIMEOUT + wait)).build();
        self.answer(request.send_json(question)).map_err(|refused| refused.error)
    }

    /// Sends bytes, and waits `wait` longer than usual for bytes.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), with the time after which it may be asked again.
    pub fn send(
        &self,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        bytes: &[u8],
        wait: Duration,
    ) -> Result<Answered, Refused> {
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        let request = request.header("content-type", "application/octet-stream");
        let request = headers.iter().fold(request, |it, (name, value)| it.header(*name, *value));
        let request = request.query_pairs(query.iter().copied());
        let request = request.config().timeout_global(Some(TIMEOUT + wait)).build();
        let response = request.send(bytes).map_err(|error| self.unanswered(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.bytes(Ok(response))?;
        Ok(Answered { status, headers, body })
    }

    /// Puts an answer to a question under a path.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        question: &impl Serialize,
    ) -> Result<T, CommandError> {
        let request = self.agent.put(self.url(path)).header("authorization", self.bearer());
        self.answer(request.send_json(question)).map_err(|refused| refused.error)
    }

    /// Puts bytes under a path, and waits `wait` longer than usual.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn put_bytes(&self, path: &str, bytes: &[u8], wait: Duration) -> Result<(), CommandError> {
        let request = self.agent.put(self.url(path)).header("authorization", self.bearer());
        let request = request.header("content-type", "application/octet-stream");
        let request = request.config().timeout_global(Some(TIMEOUT + wait)).build();
        self.bytes(request.send(bytes)).map(drop).map_err(|refused| refused.error)
    }

    /// Asks for the bytes of a package, and waits `wait` longer than usual.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn download(&self, path: &str, wait: Duration) -> Result<Vec<u8>, CommandError> {
        let request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        let request = request.config().timeout_global(Some(TIMEOUT + wait)).build();
        let limit = function::ARCHIVE_BYTES_MAX as u64 + 1;
        self.bytes_up_to(request.call(), limit).map_err(|refused| refused.error)
    }

    /// Asks for text.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn text(&self, path: &str) -> Result<String, CommandError> {
        let request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        let body = self.bytes(request.call()).map_err(|refused| refused.error)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn url(&self, path: &str) -> String {
        match &self.about {
            Some(name) => format!("{}{path}?node={}", self.node.url, segment(name)),
            None => format!("{}{path}", self.node.url),
        }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.node.token)
    }

    fn answer<T: DeserializeOwned>(&self, response: Response) -> Result<T, Refused> {
        let body = self.bytes(response)?;
        serde_json::from_slice(&body).map_err(|error| {
            let message = format!("the answer of {} cannot be read: {error}", self.node.name);
            Refused::from(
                CommandError::new(exit::FAILED, "E0503", message)
                    .help("the node may be of another version; `millrace status` shows it"),
            )
        })
    }

    fn bytes(&self, response: Response) -> Result<Vec<u8>, Refused> {
        self.bytes_up_to(response, ANSWER_BYTES_MAX)
    }

    fn bytes_up_to(&self, response: Response, limit: u64) -> Result<Vec<u8>, Refused> {
        let mut response = response.map_err(|error| self.unanswered(&error))?;
        let status = response.status();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|it| it.to_str().ok()?.parse().ok());
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        let body = body.map_err(|error| self.unanswered(&error))?;
        if status.is_success() {
            return Ok(body);
        }
        let error = refusal(status.as_u16(), &body);
        Err(Refused { error, retry_after: retry_after.map(Duration::from_secs) })
    }

    fn unanswered(&self, error: &ureq::Error) -> CommandError {
        let NodeFile { name, url, .. } = &self.node;
        if let ureq::Error::Timeout(_) = error {
            let message = format!("node {name} at {url} did not answer in time");
            return CommandError::new(exit::TIMED_OUT, "E0508", message);
        }
        let message = format!("node {name} at {url} does not answer: {error}");
        CommandError::new(exit::UNREACHABLE, "E0503", message)
            .help(format!("`{} status` shows whether it runs", program()))
    }
}

/// What may be in a name; whatever else is in one, there is no such node.
fn segment(name: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.');
    name.chars().map(|it| if is_plain(it) { it } else { '_' }).collect()
}

type Response = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

impl From<CommandError> for Refused {
    fn from(error: CommandError) -> Self {
        Self { error, retry_after: None }
    }
}

/// What a person reads of a problem, and what the process ends with.
fn refusal(status: u16, body: &[u8]) -> CommandError {
    let exit = match status {
        401 | 403 => exit::DENIED,
        404 => exit::NOT_FOUND,
        408 | 504 => exit::TIMED_OUT,
        409 | 412 => exit::CONFLICT,
        422 => exit::UNUSABLE,
        503 => exit::UNREACHABLE,
        _ => exit::FAILED,
    };
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let message = match (problem.detail.as_str(), problem.title.as_str()) {
        ("", "") => format!("the node answered with status {status}"),
        ("", title) => title.to_owned(),
        (detail, _) => detail.to_owned(),
    };
    // Codes of a newer node have no page here.
    let code = function::codes().into_iter().find(|known| known.code == problem.code);
    let help = match problem.hints.as_slice() {
        [] => None,
        hints => Some(as_typed(&hints.join("; "))),
    };
    CommandError {
        exit,
        code: code.map(|known| known.code),
        message: crate::output::printable(&message).into_owned(),
        help,
        diagnostics: None,
    }
}

/// A node does not know how this program is typed here.
fn as_typed(hint: &str) -> String {
    let typed = hint.replace("`millrace ", &format!("`{} ", program()));
    crate::output::printable(&typed).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_an_error_with_its_code_and_the_next_step() {
        let body = br#"{"type":"urn:millrace:E0404","title":"no such topic","status":404,
            "detail":"unknown topic alrets","code":"E0404","hints":["`millrace topic list` shows them"]}"#;
        let error = refusal(404, body);
        assert_eq!((error.exit, error.code), (exit::NOT_FOUND, Some("E0404")));
        assert_eq!(error.message, "unknown topic alrets");
        assert!(error.help.unwrap().contains("topic list` shows them"));
    }

    #[test]
    fn statuses_have_exit_statuses_even_without_a_problem() {
        for (status, exit) in [
            (401, exit::DENIED),
            (403, exit::DENIED),
            (404, exit::NOT_FOUND),
            (408, exit::TIMED_OUT),
            (409, exit::CONFLICT),
            (422, exit::UNUSABLE),
            (503, exit::UNREACHABLE),
            (507, exit::FAILED),
            (500, exit::FAILED),
        ] {
            let error = refusal(status, b"<html>");
            assert_eq!((error.exit, error.code), (exit, None), "{status}");
            assert_eq!(error.message, format!("the node answered with status {status}"));
        }
    }
}
