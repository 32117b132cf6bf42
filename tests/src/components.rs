//! The promise that the committed components are what their sources say: each is built anew with
//! cargo and behaves the same on the same batches, and those of the example stay small.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use frame::{Context, Order, RequestBuilder, Response};
use runtime::{
    Calling, Engine, EngineConfig, FailureKind, Invocation, Invoke, LoadError, PoolConfig,
};
use serde_json::{Map, Value};

use crate::demand;
use crate::harness::{binaries, command};
use crate::promise::{During, Figures, NotShown, Run, broken};

const TARGET: &str = "wasm32-wasip2";
/// What a component of the example may weigh.
const EXAMPLE_BYTES_MAX: usize = 200 << 10;
/// From nothing, with all dependencies.
const BUILD_MAX: Duration = Duration::from_secs(600);

/// A component, its source, and a value that shows what it is about.
struct Sample {
    name: &'static str,
    values: &'static [&'static str],
}

/// A reading that the component of the benches keeps.
const READING: &str = r#"{"device":"dev-000001","site":"plant-7","seq":1,"at":2,"celsius":20.5,"humidity":50.0,"hectopascal":1013.2,"volt":3.7,"rssi":-70,"status":"ok","firmware":"2.4.1","note":""}"#;

/// Those of the tests; the last value of each is the one that its name speaks of.
const SAMPLES: &[Sample] = &[
    Sample { name: "identity", values: &["a", "b", ""] },
    Sample { name: "iot", values: &[READING, "{}", READING] },
    Sample { name: "work", values: &["a", "b", ""] },
    Sample { name: "trap", values: &["a", "b", "trap"] },
    Sample { name: "spin", values: &["a", "b", "spin"] },
    Sample { name: "bomb", values: &["a", "b", "bomb"] },
    Sample { name: "misbehave", values: &["a", "fail", "topic"] },
    Sample { name: "map_upper", values: &["a", "", "fail"] },
    Sample { name: "probe", values: &["count", "holes", "reach"] },
    Sample { name: "wants_more", values: &["a"] },
    Sample { name: "stamp", values: &["a", "b", ""] },
];

/// Shows it.
///
/// # Errors
///
/// When a component is another than its source; unchecked without the wasm target.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let root = binaries::root();
    let into = binaries::target().join("prove-components");
    let built = into.join(TARGET).join("release");
    all_are_sampled(&root.join("tests/components"))?;
    run.note("building the components of the tests");
    build(&root.join("tests/components"), &into, &["--examples"])?;
    for function in ["tidy", "gale"] {
        run.note(format!("building {function}"));
        build(&example(function), &into, &[])?;
    }
    run.note("comparing what they do");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.during("start a runtime")?;
    let engine = Engine::new(EngineConfig::new(run.evidence.join("cache"))).during("an engine")?;
    let (mut same, mut count) = (0, 0);
    for sample in SAMPLES {
        let pair = Pair {
            name: sample.name,
            committed: read(&binaries::component(sample.name))?,
            rebuilt: read(&built.join("examples").join(format!("{}.wasm", sample.name)))?,
        };
        runtime.block_on(pair.behaves(&engine, &request(sample.values)))?;
        same += u64::from(pair.committed == pair.rebuilt);
        count += 1;
    }
    let readings = readings()?;
    let readings: Vec<&str> = readings.iter().map(String::as_str).collect();
    let mut request_of_function = request(&readings);
    for function in ["tidy", "gale"] {
        let file = format!("{function}.wasm");
        let pair = Pair {
            name: function,
            committed: read(&example(function).join(&file))?,
            rebuilt: read(&built.join(&file))?,
        };
        for bytes in [&pair.committed, &pair.rebuilt] {
            demand!(bytes.len() <= EXAMPLE_BYTES_MAX, "{file} has {} bytes", bytes.len());
        }
        let values = runtime.block_on(pair.behaves(&engine, &request_of_function))?;
        demand!(!values.is_empty(), "{function} made nothing of {} readings", readings.len());
        // What tidy gives is what gale takes.
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        request_of_function = request(&values);
        same += u64::from(pair.committed == pair.rebuilt);
        count += 1;
    }
    Ok(Figures::default().with("components", count).with("same_bytes", same))
}

fn example(function: &str) -> PathBuf {
    binaries::root().join("examples/weather/functions").join(function)
}

fn read(path: &Path) -> Result<Vec<u8>, NotShown> {
    std::fs::read(path).during(format!("read {}", path.display()))
}

fn build(folder: &Path, into: &Path, more: &[&str]) -> Result<(), NotShown> {
    let cargo = || {
        let mut cargo = binaries::cargo();
        cargo.current_dir(folder).env("CARGO_TARGET_DIR", into).env("RUSTFLAGS", remapped());
        cargo.args(["build", "--release", "--locked", "--target", TARGET]).args(more);
        cargo
    };
    let mut said = command::run(&mut cargo(), BUILD_MAX)?;
    if said.status != Some(0) && said.stderr.contains("rustup target add") {
        let mut rustup = std::process::Command::new("rustup");
        let added = command::run(rustup.args(["target", "add", TARGET]), BUILD_MAX);
        if !added.is_ok_and(|added| added.status == Some(0)) {
            return Err(NotShown::Unchecked(format!("the target {TARGET} cannot be added")));
        }
        said = command::run(&mut cargo(), BUILD_MAX)?;
    }
    demand!(said.status == Some(0), "{} does not build: {}", folder.display(), said.stderr);
    Ok(())
}

/// As `tests/components/make.sh`: without paths of the machine, so that bytes can be the same, and
/// with the memory of `millrace build`.
fn remapped() -> String {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    format!(
        "--remap-path-prefix={}=millrace --remap-path-prefix={}=registry \
         -C link-arg=--initial-memory=2097152",
        binaries::root().display(),
        home.join("registry/src").display()
    )
}

/// That no committed component goes unwatched.
fn all_are_sampled(folder: &Path) -> Result<(), NotShown> {
    for entry in std::fs::read_dir(folder).during("list the components")? {
        let path = entry.during("list the components")?.path();
        let is_component = path.extension().is_some_and(|it| it == "wasm");
        let is_sampled =
            SAMPLES.iter().any(|it| path.file_stem().is_some_and(|stem| stem == it.name));
        demand!(!is_component || is_sampled, "{} has no sample here", path.display());
    }
    Ok(())
}

/// A component as it was committed, and as it is built now.
struct Pair {
    name: &'static str,
    committed: Vec<u8>,
    rebuilt: Vec<u8>,
}

/// What became of a batch.
#[derive(Debug, PartialEq)]
enum Became {
    Refused(String),
    Failed(FailureKind),
    Answer(Bytes),
}

impl Pair {
    /// Demands that both do the same with a batch; the values they gave.
    async fn behaves(
        &self,
        engine: &Arc<Engine>,
        request: &Request,
    ) -> Result<Vec<String>, NotShown> {
        let committed = self.became(engine, &self.committed, request).await?;
        let rebuilt = self.became(engine, &self.rebuilt, request).await?;
        let name = self.name;
        demand!(committed == rebuilt, "{name}: committed {committed:?}, rebuilt {rebuilt:?}");
        let Became::Answer(answer) = committed else { return Ok(Vec::new()) };
        let response = Response::parse(&answer, request.batch_id, request.records);
        let Ok(response) = response else { return Ok(Vec::new()) };
        let values = response.outputs().filter_map(|output| output.value);
        Ok(values.map(|value| String::from_utf8_lossy(value).into_owned()).collect())
    }

    async fn became(
        &self,
        engine: &Arc<Engine>,
        component: &[u8],
        request: &Request,
    ) -> Result<Became, NotShown> {
        let module = match engine.load(component) {
            Ok(module) => module,
            Err(LoadError::MissingImport { import, .. }) => return Ok(Became::Refused(import)),
            Err(error) => return Err(broken(format!("{}: {error}", self.name))),
        };
        let mut config = PoolConfig::new(self.name);
        config.memory_bytes_max = 16 << 20;
        let pool = engine.pool(&module, config);
        let invocation = Invocation {
            frame: request.frame.clone(),
            batch_id: request.batch_id,
            records: u32::try_from(request.records).unwrap_or(u32::MAX),
            timeout: Duration::from_millis(500),
            calling: Calling::default(),
            is_risky: false,
            ends_with_caller: false,
            named: runtime::Named::default(),
        };
        let answer = pool.invoke(invocation).await;
        pool.drain().await;
        Ok(match answer {
            Ok(answer) => Became::Answer(answer.frame),
            Err(failure) => Became::Failed(failure.kind),
        })
    }
}

struct Request {
    frame: Bytes,
    batch_id: u64,
    records: usize,
}

fn request(values: &[&str]) -> Request {
    let context = Context {
        cluster: "prove",
        function: "components",
        revision: "r1",
        trigger: "prove/components/components",
        trace: "",
        deadline_ms: 0,
    };
    let batch_id = 4_711;
    let mut builder = RequestBuilder::new(batch_id, Order::None, &context, &[("in", 0)]);
    for (index, value) in values.iter().enumerate() {
        let (offset, key) = (i64::try_from(index).unwrap_or(0), format!("key-{index}"));
        builder.push(0, offset, 0, 1, Some(key.as_bytes()), Some(value.as_bytes()), &[], 0);
    }
    Request { frame: builder.finish().into(), batch_id, records: values.len() }
}

/// Rows of the example's file as the feed sends them: numbers as numbers, `NA` as null.
fn readings() -> Result<Vec<String>, NotShown> {
    let path = binaries::root().join("examples/weather/weather.csv");
    let text = std::fs::read_to_string(path).during("read weather.csv")?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let row = |line: &str| {
        let cells = names.iter().zip(line.split(','));
        let cells = cells.map(|(name, cell)| {
            let value = match cell {
                "NA" => Value::Null,
                cell => cell.parse::<f64>().map_or_else(|_| cell.into(), Value::from),
            };
            ((*name).to_owned(), value)
        });
        Value::Object(cells.collect::<Map<String, Value>>()).to_string()
    };
    Ok(lines.map(row).collect())
}
