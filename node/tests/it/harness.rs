//! A gateway in this process with a node file in a temporary state directory, and the binary run
//! against it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::embedded::{Embedded, EmbeddedConfig};
use bus::{Bus as _, TopicSpec};
use gateway::api::{FunctionStatus, NodeInfo, ShardStatus, Status};
use gateway::{Gateway, GatewayConfig, NodeView, ProcessFigures, Readiness};
use millrace::discovery::{NodeFile, new_token};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct View;

impl NodeView for View {
    fn status(&self) -> Status {
        let function = FunctionStatus {
            app: "greenhouse".into(),
            name: "hot-alert".into(),
            runtime: "wasm".into(),
            reads: vec!["readings".into()],
            ..FunctionStatus::default()
        };
        Status {
            node: NodeInfo { name: "greenhouse".into(), ..NodeInfo::default() },
            apps: vec!["greenhouse".into()],
            functions: vec![function],
            ..Status::default()
        }
    }

    fn shards(&self) -> Vec<ShardStatus> {
        vec![ShardStatus {
            shard: 1,
            trigger: "greenhouse/hot-alert/hot-alert".into(),
            function: "greenhouse/hot-alert".into(),
            topic: "readings".into(),
            next: Some(0),
            ..ShardStatus::default()
        }]
    }

    fn process(&self) -> ProcessFigures {
        ProcessFigures::default()
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn request_shutdown(&self) {}
}

/// A user's state directory, with or without nodes.
pub(crate) struct User {
    dir: tempfile::TempDir,
    stop: CancellationToken,
    runtime: Runtime,
}

impl User {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, stop: CancellationToken::new(), runtime: Runtime::new().unwrap() }
    }

    /// Where the node files are.
    pub(crate) fn nodes(&self) -> PathBuf {
        self.dir.path().join("millrace/nodes")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a node of this name, with the topic `readings` of two partitions.
    pub(crate) fn start(&self, name: &str) -> NodeFile {
        let data = self.dir.path().join(name);
        let token = new_token().unwrap();
        let config = GatewayConfig::new("127.0.0.1:0".parse().unwrap(), token.as_str());
        let bus = Embedded::open(EmbeddedConfig::new(&data), None).unwrap();
        let gateway = self.runtime.block_on(async {
            bus.create_topic(TopicSpec::new("readings", 2)).await.unwrap();
            Gateway::bind(config, bus, Arc::new(View), None).await.unwrap()
        });
        let file = NodeFile::of_this_process(name, gateway.url(), token, &data);
        self.runtime.spawn(gateway.serve(self.stop.clone()));
        self.register(&file);
        file
    }

    pub(crate) fn register(&self, file: &NodeFile) {
        std::fs::create_dir_all(self.nodes()).unwrap();
        let path = self.nodes().join(format!("{}.json", file.name));
        std::fs::write(path, serde_json::to_vec(file).unwrap()).unwrap();
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command
            .args(line.split_whitespace())
            .current_dir(self.dir.path())
            .env("XDG_STATE_HOME", self.dir.path())
            .env_remove("MILLRACE_NODE")
            .env_remove("MILLRACE_TOKEN")
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR_FORCE");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, line: &str) -> Said {
        Said::of(&self.command(line).stdin(Stdio::null()).output().unwrap())
    }

    /// Runs a command with this on its stdin.
    pub(crate) fn run_with(&self, line: &str, input: &[u8]) -> Said {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Said::of(&child.wait_with_output().unwrap())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it printed; it must have succeeded, without a word on stderr.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.status, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    /// Asserts a failure, with nothing on stdout and a page for its code.
    #[track_caller]
    pub(crate) fn failed(&self, status: i32, code: &str) {
        assert_eq!(self.out, "", "{self:?}");
        self.failed_after_its_plan(status, code);
    }

    /// The same of a command that has shown what it was about to do.
    #[track_caller]
    pub(crate) fn failed_after_its_plan(&self, status: i32, code: &str) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(self.err.starts_with(&format!("error[{code}]: ")), "{self:?}");
        assert!(self.err.contains(&format!(" explain {code}")), "{self:?}");
        assert!(function::explain(code).is_some(), "{self:?}");
    }
}

/// Waits, but not for ever.
pub(crate) fn ended(child: &mut std::process::Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::yield_now();
    }
}
