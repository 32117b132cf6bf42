//! `millrace serve`: a node with applications, as a service.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use function::Manifest;
use gateway::{Gateway, GatewayConfig, NodeView as _};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use runtime::{LogSink, Spawner};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::error::{CommandError, exit};
use crate::cli::{Globals, SPAWNER, ServeArgs};
use crate::discovery::{self, NodeFile, Registered};
use crate::journal::{self, Journal};
use crate::node::{Deployed, Node, Settings, describe_call_metrics, describe_trace_metrics};
use crate::output::{self, Format};
use crate::service;

/// Seconds; from a wasm call to a slow disk.
const BUCKETS_S: [f64; 12] = [1e-5, 5e-5, 2e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0];

/// Carries it out: returns when the node has drained.
///
/// # Errors
///
/// What keeps the node from starting, with status 78 for what must be configured otherwise.
pub fn run(args: &ServeArgs, globals: &Globals) -> Result<(), CommandError> {
    let manifests = args
        .apps
        .iter()
        .map(|dir| Ok((dir.clone(), Manifest::load(dir)?)))
        .collect::<Result<Vec<_>, CommandError>>()?;
    let settings = Settings::choose(&args.settings, false)?;
    let site = settings.site.clone();
    let first = manifests.first().map(|(_, manifest)| manifest.app.to_string());
    let name = args.name.clone().or(site.name).or(first).unwrap_or_else(|| "millrace".to_owned());
    let Some(data) = args.data.clone().or(site.data) else {
        let failed = CommandError::new(exit::UNUSABLE, "E0414", "nothing names the data folder");
        return Err(failed.help("name it: --data DIR, MILLRACE_DATA, or `data` in [node]"));
    };
    let listen = args.listen.or(site.listen);
    let socket = args.spawner.clone().or(site.spawner);
    if args.check {
        return checked(globals, &name, &data, listen);
    }
    // First of all: it must be there before the second thread is.
    let spawner = match &socket {
        Some(path) => reach(path)?,
        None => spawner()?,
    };
    let journal = start_logging(globals, "info");
    let logs = journal.map(|journal| -> LogSink { Arc::new(move |line| journal.line(&line)) });
    runtime()?.block_on(async {
        let starting = service::excuse(None);
        let up = Up::start(&data, &name, listen, spawner, logs, settings).await?;
        let name = up.node.name();
        tracing::info!(name, url = up.url, data = %data.display(), "the node listens");
        let started = tokio::select! {
            started = start(&up.node, &manifests) => started,
            error = up.node.lost_membership() => Err(error),
        };
        if let Err(error) = started {
            let was_asked_to_end = up.node.shutdown().is_cancelled();
            up.end().await;
            return if was_asked_to_end { Ok(()) } else { Err(error) };
        }
        drop(starting);
        service::ready("ready");
        let watch = service::watch(up.node.clone());
        let ended = tokio::select! {
            () = wait_for_end(&up.node) => Ok(()),
            error = up.node.lost_membership() => Err(error),
        };
        tracing::info!("draining");
        drop(watch);
        service::stopping("draining");
        let draining = service::excuse(Some(up.node.clone()));
        up.end().await;
        drop(draining);
        tracing::info!("drained");
        ended
    })
}

/// What `--check` says of settings that can be used.
fn checked(
    globals: &Globals,
    name: &str,
    data: &Path,
    listen: Option<SocketAddr>,
) -> Result<(), CommandError> {
    if globals.output == Format::Json {
        let listen = listen.map(|it| it.to_string());
        return output::print_json(&serde_json::json!({
            "name": name, "data": data, "listen": listen,
        }));
    }
    output::print(&format!("ok    node {name}, data in {}", data.display()))
}

/// Brings up what was deployed into the node before, then the folders it was started with.
async fn start(node: &Node, manifests: &[(PathBuf, Manifest)]) -> Result<(), CommandError> {
    let folders: Vec<&Manifest> = manifests.iter().map(|(_, manifest)| manifest).collect();
    for (app, deployed) in node.restore(&folders).await? {
        log_deployed(&app, &deployed);
    }
    for (dir, manifest) in manifests {
        let deployed = node.deploy(dir, manifest).await?;
        log_deployed(manifest.app.as_ref(), &deployed);
    }
    node.mark_up();
    tracing::info!(functions = node.status().functions.len(), "the node is ready");
    Ok(())
}

fn log_deployed(app: &str, deployed: &Deployed) {
    for (function, revision) in &deployed.changed {
        tracing::info!(app, function, revision, "the function runs");
    }
    for refusal in &deployed.refused {
        let (function, code) = (&refusal.function, refusal.code);
        tracing::error!(
            app,
            function,
            code,
            "error[{code}]: function `{function}` cannot start: {}",
            refusal.message
        );
    }
}

/// A node that listens and is registered.
pub(super) struct Up {
    pub(super) node: Node,
    pub(super) url: String,
    _registered: Registered,
    stop_gateway: CancellationToken,
    gateway: tokio::task::JoinHandle<()>,
}

impl Up {
    pub(super) async fn start(
        data: &Path,
        name: &str,
        listen: Option<SocketAddr>,
        spawner: Spawner,
        logs: Option<LogSink>,
        settings: Settings,
    ) -> Result<Self, CommandError> {
        let metrics = start_metrics();
        let node = Node::open(data, name, spawner, logs, settings).await?;
        let token = discovery::new_token()?;
        let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = GatewayConfig::new(listen, token.clone());
        let view = Arc::new(node.clone());
        let bound = Gateway::bind(config, node.bus(), view, metrics).await;
        let gateway = match bound {
            Ok(gateway) => gateway
                .with_applications(Arc::new(node.clone()))
                .with_operations(Arc::new(node.clone()))
                .with_backups(Arc::new(node.clone()))
                .with_invocations(Arc::new(node.clone())),
            Err(error) => {
                node.end().await;
                let message = format!("cannot listen: {}", crate::node::chain(&error));
                let failed = CommandError::new(exit::UNUSABLE, error.code(), message);
                return Err(failed.help(error.help()));
            }
        };
        let gateway = match node.peers() {
            Some(peers) => {
                let gateway = gateway.with_membership(Arc::clone(&peers) as _);
                let gateway = gateway.with_others(Arc::clone(&peers) as _);
                peers.answer_with(gateway.own());
                gateway
            }
            None => gateway,
        };
        let url = gateway.url();
        let mut file = NodeFile::of_this_process(node.name(), url.clone(), token, data);
        file.cluster = node.peers().map(|peers| peers.cluster_name().to_owned());
        let registered = discovery::register(&file)?;
        let stop_gateway = CancellationToken::new();
        let gateway = tokio::spawn(gateway.serve(stop_gateway.clone()));
        Ok(Self { node, url, _registered: registered, stop_gateway, gateway })
    }

    pub(super) async fn end(self) {
        self.node.end().await;
        self.stop_gateway.cancel();
        // The listener ends by itself; a panic in it is logged by tokio already.
        drop(self.gateway.await);
    }
}

/// Until SIGTERM, Ctrl-C, or somebody who asks through the control API.
pub(super) async fn wait_for_end(node: &Node) {
    let mut terminate = signal(SignalKind::terminate()).ok();
    let terminated = async {
        match &mut terminate {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ctrl_c = tokio::signal::ctrl_c() => {}
        () = terminated => {}
        () = node.shutdown().cancelled() => {}
    }
}

/// Starts the process that starts worker processes: this same binary, by whatever name and place
/// it has now.
pub(super) fn spawner() -> Result<Spawner, CommandError> {
    Spawner::launch(Path::new("/proc/self/exe"), &[SPAWNER]).map_err(|error| {
        let message = format!("cannot start the process for workers: {error}");
        CommandError::new(exit::FAILED, "E0312", message)
    })
}

/// Uses the process that starts worker processes and listens there.
fn reach(path: &Path) -> Result<Spawner, CommandError> {
    Spawner::reach(path).map_err(|error| {
        let message = format!("no spawner answers at {}: {error}", path.display());
        CommandError::new(exit::FAILED, "E0312", message)
            .help("start it first: systemctl start millrace-spawner, or millrace spawner --listen")
    })
}

/// How long a thread for what blocks waits for more; tokio's ten seconds keep as many of them as
/// there are such calls in ten seconds.
const THREAD_IDLE_MAX: Duration = Duration::from_secs(1);

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(THREAD_IDLE_MAX)
        .build();
    runtime.map_err(|error| {
        CommandError::new(exit::FAILED, "E0312", format!("cannot start threads: {error}"))
    })
}

/// To the system's journal where standard error is its, which is given back, else to standard error.
pub(super) fn start_logging(globals: &Globals, level: &str) -> Option<Journal> {
    use std::io::IsTerminal as _;
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let level = match globals.verbose {
        0 => level,
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("MILLRACE_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,millrace={level}")));
    let journal = Journal::of_this_process();
    if let Some(journal) = &journal {
        let subscriber = tracing_subscriber::registry().with(filter).with(journal.clone());
        drop(subscriber.try_init());
        return Some(journal.clone());
    }
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start in one process keeps the first one's.
    drop(subscriber.try_init());
    None
}

fn start_metrics() -> Option<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS_S)
        .ok()?;
    let handle = builder.install_recorder().ok()?;
    bus::describe_metrics();
    cluster::describe_metrics();
    exchange::describe_metrics();
    dispatch::describe_metrics();
    runtime::describe_metrics();
    describe_trace_metrics();
    describe_call_metrics();
    journal::describe_metrics();
    Some(handle)
}
