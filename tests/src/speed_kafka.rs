//! The promise about the speed of a node on Kafka: the load generator measures nodes and a
//! passthrough on rdkafka against one real broker, in turn, and its ratios are held against their
//! bounds here; then a node with 500 triggers that has nothing to do.

use serde_json::Value;

use crate::demand;
use crate::harness::bench::{self, number};
use crate::harness::kafka::{Broker, Kafka};
use crate::promise::{Figures, NotShown, Run};

/// Records a CPU-second of the node to that of the passthrough: what it does, whose malloc, bound.
const RATIOS_MIN: &[(&str, f64)] = &[
    ("identity_to_system", 0.9),
    ("identity_to_mimalloc", 0.5),
    ("iot_to_system", 0.5),
    ("iot_to_mimalloc", 0.5),
];
/// CPU of the three processes for a record, microseconds: the split.
const SPLIT: &[(&str, &str)] = &[
    ("node_us", "/contenders/identity_node/cpu_us/median"),
    ("passthrough_us", "/contenders/identity_peer_system/cpu_us/median"),
    ("passthrough_mimalloc_us", "/contenders/identity_peer_mimalloc/cpu_us/median"),
    ("broker_beside_node_us", "/contenders/identity_node/broker_us"),
    ("broker_beside_passthrough_us", "/contenders/identity_peer_system/broker_us"),
    ("client_us", "/contenders/identity_node/watch_us"),
    ("iot_node_us", "/contenders/iot_node/cpu_us/median"),
    ("iot_passthrough_us", "/contenders/iot_peer_system/cpu_us/median"),
];
/// Part of a core, and threads, of a node whose triggers wait.
const IDLE_CORE_MAX: f64 = 0.03;
const IDLE_THREADS_MAX: f64 = 40.0;

/// Shows it.
///
/// # Errors
///
/// When outputs were lost or changed, and in a full run when a figure is out of its bound.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let records = run.count("records", 500_000, 2_000_000).to_string();
    let rounds = run.count("rounds", 3, 5).to_string();
    let seconds = run.count("idle", 8, 60).to_string();
    let kafka = Kafka::fetch()?;
    let mut broker = Broker::start_for_figures(&kafka, &run.evidence.join("broker"))?;
    let (address, pid) = (broker.address(), broker.pid()?.to_string());
    let at = ["--brokers", &address, "--broker-pid", &pid];
    let mut late = Vec::new();

    let mut words = vec!["kafka", "--records", &records, "--rounds", &rounds];
    words.extend(at);
    let measured = bench::run(run, &words)?;
    let mut figures = Figures::default().with("records", measured["records"].clone());
    figures.set("noisy", measured["noisy"].as_bool().unwrap_or(true));
    figures.set("a_a", number(&measured, "/a_a")?);
    figures.set("others", number(&measured, "/others")?);
    figures.set("librdkafka", measured["librdkafka"].clone());
    for (name, bound) in RATIOS_MIN {
        figures.set(name, spread(&measured[*name]));
        let ratio = number(&measured, &format!("/{name}/median"))?;
        if ratio < *bound {
            late.push(format!("{name} is {ratio:.2}, the bound is {bound}"));
        }
    }
    for (name, pointer) in SPLIT {
        figures.set(name, crate::promise::rounded(number(&measured, pointer)?, 2));
    }

    let mut words = vec!["kafka-idle", "--triggers", "500", "--seconds", &seconds];
    words.extend(at);
    let idle = bench::run(run, &words)?;
    for (name, bound) in [("core", IDLE_CORE_MAX), ("threads", IDLE_THREADS_MAX)] {
        let value = number(&idle, &format!("/{name}"))?;
        figures.set(&format!("idle_{name}"), value);
        if bound < value {
            late.push(format!("{name} of an idle node: {value}, the bound is {bound}"));
        }
    }
    figures.set("idle_triggers", idle["triggers"].clone());
    broker.stop()?;
    // Speed on a shared machine gates nothing but a run that asks for it.
    demand!(!run.full || late.is_empty(), "{}; {figures}", late.join("; "));
    figures.set("missed", late.join("; "));
    Ok(figures)
}

/// `median (lowest-highest)`.
fn spread(figure: &Value) -> String {
    let part = |name: &str| figure[name].as_f64().unwrap_or(f64::NAN);
    format!("{:.2} ({:.2}-{:.2})", part("median"), part("min"), part("max"))
}
