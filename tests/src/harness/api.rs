//! A client of a node's control API of its own: finds the node by the file in the user's state
//! directory, as the command line does, and speaks HTTP to it.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::node::Node;
use crate::harness::{binaries, wait};
use crate::promise::{NotShown, broken};

/// A record to produce.
#[derive(Clone, Debug)]
pub struct ToProduce {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Why a call did not succeed.
#[derive(Clone, Debug)]
pub enum ApiError {
    /// No answer: whether it was carried out is unknown.
    Lost(String),
    /// The node answered with an error.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code of the problem, if it has one.
        code: String,
        /// The whole answer.
        body: String,
    },
}

impl From<ApiError> for NotShown {
    fn from(error: ApiError) -> Self {
        broken(format!("the control API: {error}"))
    }
}

impl Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "no answer: {why}"),
            Self::Refused { status, code, body } => write!(f, "{status} {code}: {body}"),
        }
    }
}

/// What a node answered, good or bad.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Of HTTP.
    pub status: u16,
    /// Names are in lower case.
    pub headers: std::collections::BTreeMap<String, String>,
    /// As it came.
    pub body: Vec<u8>,
}

/// A node's control API.
#[derive(Clone, Debug)]
pub struct Api {
    url: String,
    token: String,
    agent: ureq::Agent,
}

impl Api {
    /// Starts `millrace serve` on an application, with all it writes in `folder`.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time.
    pub fn serve(app: &Path, folder: &Path, within: Duration) -> Result<(Node, Self), NotShown> {
        Self::serve_with(app, folder, &[], within)
    }

    /// The same with more words on the command line.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time.
    pub fn serve_with(
        app: &Path,
        folder: &Path,
        words: &[&str],
        within: Duration,
    ) -> Result<(Node, Self), NotShown> {
        let state = folder.join("state");
        let mut serve = Command::new(binaries::millrace());
        serve.arg("serve").arg("--app").arg(app).arg("--data").arg(folder.join("data"));
        serve
            .args(words)
            .env("XDG_STATE_HOME", &state)
            .env_remove("MILLRACE_NODE")
            .env("NO_COLOR", "1");
        let mut node = Node::start(&mut serve, &folder.join("node.log"))?;
        let api = Self::of(&state, &mut node, within)?;
        Ok((node, api))
    }

    /// Waits until the node has written its file and is ready.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time.
    pub fn of(state: &Path, node: &mut Node, within: Duration) -> Result<Self, NotShown> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        let agent = ureq::Agent::new_with_config(config);
        let found = wait::until(within, || {
            if !node.is_running() {
                return Some(None);
            }
            let (url, token) = node_file(state, node.pid())?;
            let api = Self { url, token, agent: agent.clone() };
            api.is_ready().then_some(Some(api))
        });
        match found {
            Some(Some(api)) => Ok(api),
            Some(None) => Err(broken(format!("the node ended: {}", node.tail()))),
            None => Err(broken(format!("not ready within {within:?}: {}", node.tail()))),
        }
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok()
    }

    /// A GET; the body as text.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn get(&self, path: &str) -> Result<String, ApiError> {
        let request = self.agent.get(format!("{}{path}", self.url));
        taken(request.header("authorization", format!("Bearer {}", self.token)).call())
    }

    /// A POST of JSON; the body as text.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn post(&self, path: &str, body: &Value) -> Result<String, ApiError> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        taken(request.send_json(body))
    }

    /// A POST of bytes, whatever is answered: its status, its headers in lower case, its body.
    ///
    /// # Errors
    ///
    /// When there is no answer within that time.
    pub fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        within: Duration,
    ) -> Result<Reply, ApiError> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let request = headers.iter().fold(request, |it, (name, value)| it.header(*name, *value));
        let request = request.config().timeout_global(Some(within)).build();
        let unanswered = |error: ureq::Error| ApiError::Lost(error.to_string());
        let mut response = request.send(body).map_err(unanswered)?;
        let status = response.status().as_u16();
        let all = response.headers().iter();
        let headers = all
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned()))
            .collect();
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec();
        Ok(Reply { status, headers, body: body.map_err(unanswered)? })
    }

    /// Where it listens, as host:port, and its token: for who speaks HTTP by hand.
    #[must_use]
    pub fn place(&self) -> (&str, &str) {
        (self.url.trim_start_matches("http://"), &self.token)
    }

    /// A PUT of JSON; the body as text.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn put(&self, path: &str, body: &Value) -> Result<String, ApiError> {
        let request = self.agent.put(format!("{}{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        taken(request.send_json(body))
    }

    /// Appends records to a topic as one request: durable when it returns.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn produce(&self, topic: &str, records: &[ToProduce]) -> Result<(), ApiError> {
        self.produce_with(topic, records, &json!([]))
    }

    /// The same, each record with these headers.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn produce_with(
        &self,
        topic: &str,
        records: &[ToProduce],
        headers: &Value,
    ) -> Result<(), ApiError> {
        let records: Vec<Value> = records
            .iter()
            .map(|record| {
                json!({
                    "key": String::from_utf8_lossy(&record.key),
                    "value": String::from_utf8_lossy(&record.value),
                    "headers": headers,
                })
            })
            .collect();
        self.post(&format!("/v1/topics/{topic}/records"), &json!({ "records": records })).map(drop)
    }

    fn json(&self, path: &str) -> Result<Value, ApiError> {
        let body = self.get(path)?;
        serde_json::from_str(&body).map_err(|error| ApiError::Lost(error.to_string()))
    }

    /// The sum of a topic's ends: how many records it has ever taken.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn end_of(&self, topic: &str) -> Result<i64, ApiError> {
        let topic = self.json(&format!("/v1/topics/{topic}"))?;
        let partitions = topic["watermarks"].as_array().into_iter().flatten();
        Ok(partitions.filter_map(|partition| partition["end"].as_i64()).sum())
    }

    /// The lag of all triggers together.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn lag(&self) -> Result<u64, ApiError> {
        let lag = self.json("/v1/lag")?;
        lag_of(&lag).ok_or_else(|| ApiError::Lost(format!("no lag in {lag}")))
    }

    /// How many invocations are in flight now: started and not ended. Asks nobody but the node.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn in_flight(&self) -> Result<u64, ApiError> {
        let metrics = self.get("/metrics")?;
        let started = metric_of(&metrics, "millrace_trigger_invocations_total");
        let ended = metric_of(&metrics, "millrace_invocation_run_seconds_count");
        Ok(started.saturating_sub(ended))
    }

    /// What the node says of itself.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn status(&self) -> Result<Value, ApiError> {
        self.json("/v1/status")
    }

    /// The records of a topic, from the earliest on, at most `max`.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn records(&self, topic: &str, max: usize) -> Result<Vec<Value>, ApiError> {
        let body = json!({ "from": "earliest", "max": max, "wait_ms": 0 });
        let answer = self.post(&format!("/v1/topics/{topic}:fetch"), &body)?;
        let answer: Value =
            serde_json::from_str(&answer).map_err(|error| ApiError::Lost(error.to_string()))?;
        Ok(answer["records"].as_array().cloned().unwrap_or_default())
    }

    /// The sum of a metric over its labels; 0 when it is not there.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    pub fn metric(&self, name: &str) -> Result<u64, ApiError> {
        Ok(metric_of(&self.get("/metrics")?, name))
    }
}

/// The sum of a metric over its labels, in Prometheus' text.
#[must_use]
pub fn metric_of(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let lines = lines.filter(|rest| rest.starts_with(['{', ' ']));
    let values = lines.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    values.map(|value| value as u64).sum()
}

/// The lag of all triggers together, from what `millrace lag -o json` prints.
#[must_use]
pub fn lag_of(lag: &Value) -> Option<u64> {
    lag["total"].as_u64()
}

/// What the node wrote about itself: where it listens, and the token.
fn node_file(state: &Path, pid: u32) -> Option<(String, String)> {
    let files = std::fs::read_dir(state.join("millrace/nodes")).ok()?;
    let mut paths: Vec<PathBuf> = files.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.iter().find_map(|path| {
        let file: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (file["pid"].as_u64() == Some(u64::from(pid))).then_some(())?;
        Some((file["url"].as_str()?.to_owned(), file["token"].as_str()?.to_owned()))
    })
}

fn taken(
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<String, ApiError> {
    let mut response = response.map_err(|error| ApiError::Lost(error.to_string()))?;
    let status = response.status();
    let body = response.body_mut().with_config().limit(256 << 20).read_to_string();
    let body = body.map_err(|error| ApiError::Lost(error.to_string()))?;
    if status.is_success() {
        return Ok(body);
    }
    let problem: Value = serde_json::from_str(&body).unwrap_or_default();
    let code = problem["code"].as_str().unwrap_or_default().to_owned();
    Err(ApiError::Refused { status: status.as_u16(), code, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text =
            "# HELP a_total x\na_total{f=\"1\"} 3\na_total{f=\"2\"} 4\na_total_more 9\nb 2\n";
        assert_eq!((metric_of(text, "a_total"), metric_of(text, "b")), (7, 2));
        assert_eq!(metric_of(text, "c"), 0);
    }
}
