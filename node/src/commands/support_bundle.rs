//! `millrace support-bundle`: what somebody else needs to help with a node, in one file, without
//! secrets and without anything that a record held.

mod redact;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Value, json};

use super::error::CommandError;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, bytes};

/// An examination waits for brokers.
const PATIENCE: Duration = Duration::from_secs(30);

const README: &str = "\
What a node of Millrace says of itself, for whoever helps with it.

versions.json   the program and the machine
config.json     settings in effect, without values of environments and of Kafka's client
status.json doctor.json triggers.json topics.json instances.json functions.json
                what the node says, without the accounts that functions give of failures
positions.json  how far each trigger is, by partition
metrics.txt     as Prometheus reads them
logs.jsonl      when which function said how much, without what it said
missing.json    what could not be had, and why

Left out: records, keys, headers, dead letters, log texts, failures' accounts, tokens, secrets.
What the node itself said is in the system's journal (journalctl -u millrace) or where its standard
error goes.
";

/// Puts what somebody else needs to help with a node into one file, without secrets and records.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace support-bundle                      a file in this folder
  millrace support-bundle --to /tmp/node.tar.gz
  millrace support-bundle -o json              says which file, for programs")]
pub struct SupportBundleArgs {
    /// The file to make [default: millrace-support-NODE-TIME.tar.gz].
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    file: PathBuf,
    bytes: u64,
    entries: Vec<&'static str>,
    missing: Vec<&'static str>,
}

/// Carries it out.
///
/// # Errors
///
/// When no node answers, or the file is there already or cannot be written.
pub fn run(args: &SupportBundleArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let status: Value = client.get("/v1/status")?;
    let (entries, missing) = gather(&client, status.clone());
    let name = status["node"]["name"].as_str().unwrap_or("node");
    let now = bus::Timestamp::now();
    let time = jiff::Timestamp::from_millisecond(now.0).unwrap_or_default();
    let time = format!("{time:.0}").replace([':', '-'], "");
    let file = args.to.clone();
    let file = file.unwrap_or_else(|| format!("millrace-support-{name}-{time}.tar.gz").into());
    let archive = pack(&entries, now).map_err(|it| CommandError::file("make", &file, &it))?;
    let mut made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .map_err(|error| CommandError::file("make", &file, &error))?;
    made.write_all(&archive).map_err(|error| CommandError::file("write", &file, &error))?;
    let made = Made {
        file,
        bytes: archive.len() as u64,
        entries: entries.iter().map(|(name, _)| *name).collect(),
        missing: missing.iter().map(|(name, _)| *name).collect(),
    };
    if globals.output == Format::Json {
        return output::print_json(&made);
    }
    let (file, size) = (made.file.display(), bytes(made.bytes));
    output::print(&format!("{file}  {size}, {} files\n", made.entries.len()))?;
    output::print(
        "it holds no secrets, no records and no log texts; look at it before you send it\n",
    )
}

type Entries = Vec<(&'static str, Vec<u8>)>;

/// Asks for everything; what cannot be had is named, and the rest is of use.
fn gather(client: &Client, mut status: Value) -> (Entries, Vec<(&'static str, String)>) {
    let (mut entries, mut missing) = (Entries::new(), Vec::new());
    entries.push(("README.txt", README.as_bytes().to_vec()));
    entries.push(("versions.json", pretty(&versions(&status))));
    redact::answer(&mut status);
    entries.push(("status.json", pretty(&status)));
    for (name, path) in [
        ("config.json", "/v1/config"),
        ("doctor.json", "/v1/doctor"),
        ("triggers.json", "/v1/triggers"),
        ("positions.json", "/v1/lag"),
        ("topics.json", "/v1/topics"),
        ("instances.json", "/v1/instances"),
        ("functions.json", "/v1/functions"),
    ] {
        match client.get_with::<Value>(path, &[], PATIENCE) {
            Ok(mut answer) => {
                redact::answer(&mut answer);
                entries.push((name, pretty(&answer)));
            }
            Err(error) => missing.push((name, error.message)),
        }
    }
    match client.text("/metrics") {
        Ok(text) => entries.push(("metrics.txt", text.into_bytes())),
        Err(error) => missing.push(("metrics.txt", error.message)),
    }
    match client.get_with::<Value>("/v1/logs", &[("max", "10000")], PATIENCE) {
        Ok(logs) => entries.push(("logs.jsonl", redact::logs(&logs).into_bytes())),
        Err(error) => missing.push(("logs.jsonl", error.message)),
    }
    let told: serde_json::Map<String, Value> =
        missing.iter().map(|(name, why)| ((*name).to_owned(), why.as_str().into())).collect();
    entries.push(("missing.json", pretty(&Value::Object(told))));
    (entries, missing)
}

fn versions(status: &Value) -> Value {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let system = text("/etc/os-release");
    let system = system.lines().find_map(|it| it.strip_prefix("PRETTY_NAME="));
    json!({
        "node": status["node"]["version"],
        "client": env!("CARGO_PKG_VERSION"),
        "system": system.map(|it| it.trim_matches('"')),
        "kernel": text("/proc/sys/kernel/osrelease"),
        "architecture": std::env::consts::ARCH,
        "processors": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
    })
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// One folder of plain files, for their owner alone.
fn pack(entries: &Entries, at: bus::Timestamp) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in entries {
        let mut head = tar::Header::new_gnu();
        head.set_size(text.len() as u64);
        head.set_mode(0o600);
        head.set_mtime(u64::try_from(at.0 / 1_000).unwrap_or(0));
        archive.append_data(&mut head, format!("millrace-support/{name}"), text.as_slice())?;
    }
    archive.into_inner()?.finish()
}
