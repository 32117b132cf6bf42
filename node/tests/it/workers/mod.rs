//! Process workers with the real interpreters of this machine: what handlers give back, how they
//! fail, and that nothing of them is left.

mod api;
mod dev;
mod failures;
mod life;
mod node;
mod python;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use frame::{Context, End, HeadersBuilder, Order, OutputKey, Request, RequestBuilder, Response};
use runtime::{
    Calling, Decode, Event, Failure, Invocation, Invoke as _, Language, LogLine, Pool, PoolConfig,
    Spawner, WorkerSpec, Workers, WorkersConfig,
};

/// A record of a batch: its key and its value.
type Record<'a> = (Option<&'a str>, &'a str);

pub(crate) const JSON: Calling =
    Calling { event: Event::Record, decode: Decode::Json, has_output: true };
pub(crate) const BYTES: Calling =
    Calling { event: Event::Record, decode: Decode::None, has_output: true };
pub(crate) const LAMBDA: Calling =
    Calling { event: Event::Lambda, decode: Decode::None, has_output: true };

/// Workers, and a place for packages.
pub(crate) struct Ground {
    pub(crate) workers: Arc<Workers>,
    pub(crate) dir: tempfile::TempDir,
    logs: Arc<Mutex<Vec<LogLine>>>,
}

/// A function under test. What it is not told otherwise is what a manifest leaves out.
pub(crate) struct Function<'a> {
    pub(crate) language: Language,
    pub(crate) handler: &'a str,
    pub(crate) files: &'a [(&'a str, &'a str)],
    pub(crate) memory_bytes: usize,
    pub(crate) timeout: Duration,
    pub(crate) start_max: Duration,
    pub(crate) env: &'a [(&'a str, &'a str)],
}

impl<'a> Function<'a> {
    pub(crate) fn python(files: &'a [(&'a str, &'a str)]) -> Self {
        Self {
            language: Language::Python(None),
            handler: "app.handler",
            files,
            memory_bytes: 256 << 20,
            timeout: Duration::from_secs(10),
            start_max: Duration::from_secs(10),
            env: &[],
        }
    }

    pub(crate) fn node(files: &'a [(&'a str, &'a str)]) -> Self {
        Self { language: Language::Node(None), handler: "index.handler", ..Self::python(files) }
    }

    pub(crate) fn provided(files: &'a [(&'a str, &'a str)]) -> Self {
        Self { language: Language::Provided, handler: "", ..Self::python(files) }
    }
}

impl Ground {
    /// In a runtime of the caller's.
    pub(crate) fn new() -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_millrace"));
        Self::with(Spawner::launch(binary, &[millrace::cli::SPAWNER]).unwrap(), true)
    }

    /// With the node itself as the one who sees to memory limits.
    pub(crate) fn without_control_groups() -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_millrace"));
        Self::with(Spawner::launch(binary, &[millrace::cli::SPAWNER]).unwrap(), false)
    }

    /// With a spawner that may make no namespaces, as it is for most users.
    pub(crate) fn without_namespaces() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::new();
        }
        let binary = env!("CARGO_BIN_EXE_millrace");
        let words =
            ["--bounding-set=-sys_admin", "--inh-caps=-all", binary, millrace::cli::SPAWNER];
        Self::with(Spawner::launch(Path::new("/usr/bin/setpriv"), &words).unwrap(), true)
    }

    fn with(spawner: Spawner, control_groups: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let logs: Arc<Mutex<Vec<LogLine>>> = Arc::default();
        let sink = Arc::clone(&logs);
        let config = WorkersConfig {
            dir: dir.path().join("workers"),
            path: std::env::var_os("PATH"),
            brokers: "b-1:9092".to_owned(),
            control_groups,
            logs: Some(Arc::new(move |line| sink.lock().unwrap().push(line))),
        };
        Self { workers: Workers::new(spawner, config).unwrap(), dir, logs }
    }

    /// A pool of the function's processes; none runs yet.
    pub(crate) async fn pool(&self, function: &Function<'_>) -> Arc<Pool> {
        let package = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        for (name, text) in function.files {
            let path = package.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        let own = function.env.iter().map(|(name, it)| ((*name).to_owned(), (*it).to_owned()));
        let spec = WorkerSpec {
            program: self.workers.program(function.language).await.unwrap(),
            handler: function.handler.to_owned(),
            package,
            env: own.collect::<BTreeMap<_, _>>(),
            revision: "0123456789ab".to_owned(),
            timeout: function.timeout,
        };
        let config = PoolConfig {
            memory_bytes_max: function.memory_bytes,
            max: 1,
            fresh: runtime::Fresh::Never,
            start_max: function.start_max,
            ..PoolConfig::new("probe")
        };
        self.workers.pool(spec, config)
    }

    /// What functions wrote, a line each.
    pub(crate) fn log(&self) -> Vec<String> {
        self.logs.lock().unwrap().iter().map(|line| line.message.clone()).collect()
    }
}

/// A batch through a pool; its records have the offsets 10, 11, ... of partition 3 of `in`.
pub(crate) async fn call(
    pool: &Pool,
    calling: Calling,
    order: Order,
    timeout: Duration,
    records: &[Record<'_>],
) -> Result<Answered, Failure> {
    let millis = i64::try_from(timeout.as_millis()).unwrap();
    let context = Context {
        cluster: "dev",
        function: "probe",
        revision: "0123456789ab",
        trigger: "app/probe/main",
        trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        deadline_ms: bus::Timestamp::now().0 + millis,
    };
    let mut builder = RequestBuilder::new(7, order, &context, &[("in", 3)]);
    let mut headers = HeadersBuilder::default();
    headers.push(b"trace", Some(&[118, 220, 0]));
    headers.push(b"none", None);
    for (index, (key, value)) in records.iter().enumerate() {
        let (offset, headers) = (10 + index as i64, headers.headers());
        let value = (*value != "-").then_some(value.as_bytes());
        let key = key.map(str::as_bytes);
        builder.push(0, offset, 1_000, 2, key, value, headers.as_bytes(), headers.len());
    }
    let frame: bytes::Bytes = builder.finish().into();
    let count = Request::parse(&frame).unwrap().len();
    let (records, named, is_risky) = (count as u32, runtime::Named::default(), false);
    let invocation = Invocation {
        frame,
        batch_id: 7,
        records,
        timeout,
        calling,
        is_risky,
        ends_with_caller: false,
        named,
    };
    let answer = pool.invoke(invocation).await?;
    let response = Response::parse(&answer.frame, 7, count).unwrap();
    let ends = (0..count).map(|index| match response.end(index) {
        End::Ok => "ok".to_owned(),
        End::Failed { code, message } => format!("{code}: {message}"),
        End::NotRun => "not run".to_owned(),
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let outputs = response.outputs().map(|output| {
        let mut shown = format!("{} ", output.source);
        shown += output.value.map(text).as_deref().unwrap_or("tombstone");
        if let Some(topic) = output.topic {
            shown += &format!(" to {topic}");
        }
        match output.key {
            OutputKey::Keep => {}
            OutputKey::None => shown += " no key",
            OutputKey::Bytes(key) => shown += &format!(" key {}", text(key)),
        }
        if let Some(partition) = output.partition {
            shown += &format!(" in {partition}");
        }
        for (name, value) in output.headers.iter() {
            shown += &format!(" {}={}", text(name), value.map(text).as_deref().unwrap_or("-"));
        }
        shown
    });
    Ok(Answered { ends: ends.collect(), outputs: outputs.collect() })
}

/// How each record ended, and what came out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) ends: Vec<String>,
    pub(crate) outputs: Vec<String>,
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Records without a key, by themselves.
pub(crate) async fn call_each(pool: &Pool, values: &[&str]) -> Result<Answered, Failure> {
    let records: Vec<Record<'_>> = values.iter().map(|value| (None, *value)).collect();
    call(pool, JSON, Order::None, PATIENCE, &records).await
}

/// Polls until it holds, for at most so long.
pub(crate) fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        std::thread::yield_now();
    }
}
