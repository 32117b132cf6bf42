//! The promise about the runtime clients that AWS publishes: unmodified, they run handlers here in
//! both event modes, and AWS's own helpers for Python accept our event.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::demand;
use crate::harness::api::{Api, ToProduce};
use crate::harness::{binaries, command, wait};
use crate::promise::{During, Figures, NotShown, Run, broken};

/// A client, how its package is made, and what it calls an error.
struct Client {
    name: &'static str,
    /// How it is started: a manifest's runtime and handler.
    runtime: &'static str,
    make: fn(&Path) -> Result<(), NotShown>,
    /// The name of the dead letter of a record that raised, and of one whose process ended.
    raised: &'static str,
    ended: &'static str,
}

const CLIENTS: &[Client] = &[
    Client {
        name: "awslambdaric",
        runtime: "runtime = \"provided\"",
        make: awslambdaric,
        raised: "ValueError",
        ended: "Runtime.ExitError",
    },
    Client {
        name: "aws-lambda-go",
        runtime: "runtime = \"provided\"",
        make: aws_lambda_go,
        raised: "errorString",
        ended: "Runtime.ExitError",
    },
    Client {
        name: "lambda-runtime",
        runtime: "runtime = \"provided\"",
        make: lambda_runtime,
        raised: "Negative",
        ended: "Runtime.ExitError",
    },
    Client {
        name: "aws-lambda-ric",
        runtime: "runtime = \"provided\"",
        make: aws_lambda_ric,
        raised: "RangeError",
        ended: "Runtime.ExitError",
    },
    Client {
        name: "powertools",
        runtime: "runtime = \"python3\"\nhandler = \"app.handler\"",
        make: powertools,
        raised: "ValueError",
        ended: "Runtime.ExitError",
    },
];

const PATIENCE: Duration = Duration::from_secs(60);

/// What a handler does in either mode: doubles a number, says where its record lies, raises below
/// zero, ends at 99.
const PYTHON: &str = include_str!("../clients/app.py");
/// With the helpers that AWS publishes for Python: its event class and its batch processor.
const POWERTOOLS: &str = include_str!("../clients/powertools.py");
const NODE: &str = include_str!("../clients/app.js");
const GO: &str = include_str!("../clients/main.go");
const RUST: &str = include_str!("../clients/main.rs");
const RUST_MANIFEST: &str = r#"[package]
name = "bootstrap"
version = "0.0.0"
edition = "2024"

[dependencies]
aws_lambda_events = { version = "=1.2.1", default-features = false, features = ["kafka"] }
base64 = "0.22"
lambda_runtime = { version = "=1.5.0", default-features = false }
serde_json = "1"
tokio = { version = "1", features = ["macros", "rt"] }

[profile.release]
debug = false
strip = true

[workspace]
"#;

/// Shows it.
///
/// # Errors
///
/// When a client is broken; unchecked when one cannot be had here.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let app = run.evidence.join("app");
    let mut missing = Vec::new();
    let mut there = Vec::new();
    for client in CLIENTS {
        run.note(format!("fetch {}", client.name));
        let folder = app.join(client.name);
        std::fs::create_dir_all(&folder).during("make a package's folder")?;
        match (client.make)(&folder) {
            Ok(()) => there.push(client),
            Err(NotShown::Unchecked(why)) => missing.push(format!("{}: {why}", client.name)),
            Err(error) => return Err(error),
        }
    }
    let manifest: String = "[app]\nname = \"clients\"\n".to_owned()
        + &there.iter().map(|client| functions(client)).collect::<String>();
    std::fs::write(app.join("millrace.toml"), manifest).during("write the manifest")?;
    let (mut node, api) = Api::serve(&app, &run.evidence, PATIENCE)?;
    let mut records = 0;
    for client in &there {
        for mode in ["record", "lambda"] {
            run.note(format!("{} with event = {mode:?}", client.name));
            records += one(&api, client, mode)
                .map_err(|error| broken(format!("{} {mode}: {error}", client.name)))?;
        }
    }
    let (status, _) = node.stop(Signal::TERM, PATIENCE)?;
    demand!(status == 0, "SIGTERM ended with status {status}: {}", node.tail());
    if !missing.is_empty() {
        return Err(NotShown::Unchecked(missing.join("; ")));
    }
    Ok(Figures::default().with("clients", there.len()).with("records", records))
}

/// The two functions of a client, one for each mode.
fn functions(client: &Client) -> String {
    let (name, runtime) = (client.name, client.runtime);
    ["record", "lambda"]
        .map(|mode| {
            format!(
                r#"
[topic."{name}.{mode}.in"]
partitions = 1

[function.{name}-{mode}]
{runtime}
path = "{name}"
timeout = "5s"

[[function.{name}-{mode}.trigger]]
topics = ["{name}.{mode}.in"]
order = "none"
event = "{mode}"
output = {{ topic = "{name}.{mode}.out" }}
retry = {{ attempts = 1 }}
dead-letter = "{name}.{mode}.dead"
"#
            )
        })
        .concat()
}

/// Good records, one that raises and one that ends the process, in one mode.
fn one(api: &Api, client: &Client, mode: &str) -> Result<usize, NotShown> {
    let topic = |kind: &str| format!("{}.{mode}.{kind}", client.name);
    let numbers = [1, -1, 2, 99, 3];
    let record = |n: &i32| ToProduce {
        key: n.to_string().into_bytes(),
        value: format!("{{\"n\":{n}}}").into_bytes(),
    };
    let records: Vec<ToProduce> = numbers.iter().map(record).collect();
    // 200 is -56 in the event, and 200 again where a client reads it.
    let headers = json!([{ "name": "trace", "value": { "$bytes": "yA==" } }]);
    api.produce_with(&topic("in"), &records, &headers)?;
    let arrived = |kind: &str, count: usize| {
        wait::until(PATIENCE, || {
            let found = api.records(&topic(kind), 100).ok()?;
            (count <= found.len()).then_some(found)
        })
        .ok_or_else(|| broken(format!("not {count} in {}: {:?}", topic(kind), api.status())))
    };
    let dead = arrived("dead", 2)?;
    let out = arrived("out", 3)?;
    demand!(dead.len() == 2 && out.len() == 3, "{} dead, {} out", dead.len(), out.len());
    let mut found: Vec<String> =
        out.iter().filter_map(|it| it["value"].as_str()).map(str::to_owned).collect();
    found.sort();
    for (n, offset) in [(1, 0), (2, 2), (3, 4)] {
        let is_it = |text: &String| {
            let value: Value = serde_json::from_str(text).unwrap_or_default();
            value["twice"] == 2 * n && value["offset"] == offset
        };
        demand!(found.iter().any(is_it), "no answer to {n} at {offset}: {found:?}");
    }
    let raised = if mode == "lambda" { "Function.BatchItemFailure" } else { client.raised };
    for (value, code) in [("{\"n\":-1}", raised), ("{\"n\":99}", client.ended)] {
        let letter = dead.iter().find(|it| it["value"] == value);
        let headers = letter.and_then(|it| it["headers"].as_array()).into_iter().flatten();
        let codes: Vec<&Value> = headers
            .filter(|it| it["name"] == "millrace-dead-error-type")
            .map(|it| &it["value"])
            .collect();
        demand!(codes == [code], "{value} is a dead letter with {codes:?}, not {code}");
    }
    Ok(numbers.len())
}

pub(crate) fn write(folder: &Path, name: &str, text: &str) -> Result<(), NotShown> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    std::fs::write(&path, text).during("write a handler")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).during("make it run")
}

pub(crate) fn pip(folder: &Path, package: &str) -> Result<(), NotShown> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.arg("--no-compile").arg("--target").arg(folder).arg(package);
    command::fetch(&mut pip)
}

fn awslambdaric(folder: &Path) -> Result<(), NotShown> {
    pip(folder, "awslambdaric==4.2.2")?;
    write(folder, "app.py", PYTHON)?;
    write(folder, "bootstrap", "#!/bin/sh\nexec python3 -m awslambdaric app.handler\n")
}

fn powertools(folder: &Path) -> Result<(), NotShown> {
    pip(folder, "aws-lambda-powertools==3.37.0")?;
    write(folder, "app.py", POWERTOOLS)
}

fn aws_lambda_go(folder: &Path) -> Result<(), NotShown> {
    // Sources are no part of the package.
    let source = folder.with_extension("src");
    std::fs::create_dir_all(&source).during("make a folder")?;
    write(&source, "main.go", GO)?;
    let go = |words: &[&str]| {
        let mut go = Command::new("go");
        go.args(words).current_dir(&source).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod");
        command::fetch(&mut go)
    };
    go(&["mod", "init", "handler"])?;
    go(&["get", "github.com/aws/aws-lambda-go@v1.55.1"])?;
    let target = folder.join("bootstrap");
    go(&["build", "-ldflags", "-s -w", "-o", &target.to_string_lossy(), "."])
}

/// Built in one folder for all runs: its dependencies take a minute.
fn lambda_runtime(folder: &Path) -> Result<(), NotShown> {
    let source = binaries::target().join("clients/lambda-runtime");
    std::fs::create_dir_all(source.join("src")).during("make a folder")?;
    write(&source, "Cargo.toml", RUST_MANIFEST)?;
    write(&source, "src/main.rs", RUST)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--quiet"]).current_dir(&source);
    cargo.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_NET_OFFLINE");
    command::fetch(&mut cargo)?;
    let built = source.join("target/release/bootstrap");
    std::fs::copy(built, folder.join("bootstrap")).during("copy the handler").map(drop)
}

/// Its native half is compiled as it is installed; once for all runs. The package gets what is
/// loaded of it, without the sources of what was compiled.
fn aws_lambda_ric(folder: &Path) -> Result<(), NotShown> {
    const NAME: &str = "aws-lambda-ric";
    let installed = binaries::target().join("clients").join(NAME);
    std::fs::create_dir_all(&installed).during("make a folder")?;
    let client = installed.join("node_modules").join(NAME);
    if !client.join("dist/rapid-client.node").is_file() {
        // npm asks before a package may run what it brought.
        write(
            &installed,
            "package.json",
            r#"{"private":true,"allowScripts":{"aws-lambda-ric":true}}"#,
        )?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "aws-lambda-ric@3.3.0"]);
        command::fetch(npm.current_dir(&installed))?;
    }
    let target = folder.join("node_modules").join(NAME);
    std::fs::create_dir_all(&target).during("make a folder")?;
    let mut copy = Command::new("cp");
    copy.arg("-R").args(["bin", "dist", "package.json"].map(|part| client.join(part)));
    command::fetch(copy.arg(&target))?;
    write(folder, "app.js", NODE)?;
    let start = "#!/bin/sh\nexec node node_modules/aws-lambda-ric/bin/index.mjs app.handler\n";
    write(folder, "bootstrap", start)
}
