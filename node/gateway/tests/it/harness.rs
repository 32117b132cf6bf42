//! A gateway on a free port, its bus in a temporary folder, and a client that says everything.

use std::fmt::Debug;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bus::embedded::{Embedded, EmbeddedConfig};
use bus::{Bus, TopicSpec};
use millrace_gateway::api::{FunctionStatus, ShardStatus, Status};
use millrace_gateway::{Gateway, GatewayConfig, NodeView, ProcessFigures, Readiness};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::apps::Asked;
use crate::watched::Watched;

pub(crate) const TOKEN: &str = "mr_0_0123456789012345678901234567890123456789";

/// A node with one function that reads `in` and writes `out`, on shard 7.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) was_asked_to_end: AtomicBool,
    pub(crate) is_not_ready: AtomicBool,
}

impl NodeView for View {
    fn status(&self) -> Status {
        let function = FunctionStatus {
            app: "a".into(),
            name: "f".into(),
            reads: vec!["in".into()],
            writes: vec!["out".into()],
            ..FunctionStatus::default()
        };
        Status { functions: vec![function], ..Status::default() }
    }

    fn shards(&self) -> Vec<ShardStatus> {
        let shard = |shard, partition| ShardStatus {
            shard,
            epoch: 3,
            trigger: "a/f/f".into(),
            function: "a/f".into(),
            topic: "in".into(),
            partition,
            next: Some(0),
            ..ShardStatus::default()
        };
        vec![shard(7, 0), shard(8, 1)]
    }

    fn process(&self) -> ProcessFigures {
        ProcessFigures::default()
    }

    fn readiness(&self) -> Readiness {
        match self.is_not_ready.load(Ordering::Relaxed) {
            true => Readiness::NotReady("shards are starting".into()),
            false => Readiness::Ready,
        }
    }

    fn request_shutdown(&self) {
        self.was_asked_to_end.store(true, Ordering::Relaxed);
    }
}

/// A gateway that answers until it is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) bus: Arc<Watched>,
    pub(crate) view: Arc<View>,
    pub(crate) asked: Arc<Asked>,
    pub(crate) stop: CancellationToken,
    pub(crate) runtime: Runtime,
    agent: ureq::Agent,
    _dir: tempfile::TempDir,
}

impl Served {
    /// With topics `in` and `out` of two partitions.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = Embedded::open(EmbeddedConfig::new(dir.path()), None).unwrap();
        let bus = Arc::new(Watched::new(bus));
        let runtime = Runtime::new().unwrap();
        let view = Arc::new(View::default());
        let asked = Arc::new(Asked::default());
        let stop = CancellationToken::new();
        let (on, node) = (Arc::clone(&bus), Arc::clone(&view));
        let gateway = runtime.block_on(async {
            for topic in ["in", "out"] {
                on.create_topic(TopicSpec::new(topic, 2)).await.unwrap();
            }
            let gateway = Gateway::bind(config(), on, node, None).await.unwrap();
            gateway.with_applications(asked.clone()).with_operations(asked.clone())
        });
        let address = gateway.address();
        runtime.spawn(gateway.serve(stop.clone()));
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(40)))
            .proxy(None)
            .build();
        let agent = ureq::Agent::new_with_config(config);
        Self { address, bus, view, asked, stop, runtime, agent, _dir: dir }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::of(self.agent.get(self.url(path)).header("authorization", bearer()).call())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        Answer::of(self.agent.delete(self.url(path)).header("authorization", bearer()).call())
    }

    pub(crate) fn post(&self, path: &str, question: &Value) -> Answer {
        let request = self.agent.post(self.url(path)).header("authorization", bearer());
        Answer::of(request.send_json(question))
    }

    /// Only if what it is about is at the version of this tag.
    pub(crate) fn post_at(&self, path: &str, tag: &str, question: &Value) -> Answer {
        let request = self.agent.post(self.url(path)).header("authorization", bearer());
        Answer::of(request.header("if-match", tag).send_json(question))
    }

    pub(crate) fn put(&self, path: &str, body: &[u8]) -> Answer {
        let request = self.agent.put(self.url(path)).header("authorization", bearer());
        Answer::of(request.send(body))
    }

    pub(crate) fn post_raw(&self, path: &str, kind: &str, body: &[u8]) -> Answer {
        let request = self.agent.post(self.url(path)).header("authorization", bearer());
        Answer::of(request.header("content-type", kind).send(body))
    }

    /// Waits until somebody has begun to read.
    pub(crate) fn wait_for_reader(&self, before: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.bus.readers() == before {
            assert!(Instant::now() < deadline, "nobody reads");
            std::thread::yield_now();
        }
    }

    /// Sends these very bytes; everything that comes back until the connection is closed.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The other side may close before it has read all, which is an answer too.
        drop(stream.write_all(request));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn config() -> GatewayConfig {
    GatewayConfig::new("127.0.0.1:0".parse().unwrap(), TOKEN)
}

fn bearer() -> String {
    format!("Bearer {TOKEN}")
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) retry_after: Option<String>,
    pub(crate) next: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) text: String,
}

impl Answer {
    fn of(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Self {
        let mut response = response.unwrap();
        let text = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let kind = text("content-type").unwrap_or_default();
        let (retry_after, next) = (text("retry-after"), text("millrace-next"));
        let tag = text("etag");
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().unwrap();
        Self { status, kind, retry_after, next, tag, text }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer of a request that succeeds.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.status < 300, "{self:?}");
        self.json()
    }

    /// Asserts a refusal: its status, its code, and the form that all have.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.kind, "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(problem["status"], status, "{self:?}");
        assert_eq!(problem["type"], format!("urn:millrace:{code}"), "{self:?}");
        assert!(!problem["title"].as_str().unwrap().is_empty(), "{self:?}");
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{self:?}");
    }
}
