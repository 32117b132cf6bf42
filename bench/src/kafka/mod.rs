//! A node on a real broker against a passthrough that reads and writes the same records: what a
//! record costs each of them in CPU time, round by round, and what the broker pays beside it.
//!
//! The records lie in the topic before anybody is started, so that all run as fast as they can
//! and batches are full. A figure is the slope between a fifth and nine tenths of the outputs:
//! starting up and the end of the topic are left out of it. Outputs are counted by the broker's
//! ends, and the first ones are compared.

mod broker;
mod contender;
mod idle;
mod load;
mod service;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failed;
use crate::environment::{Ticks, is_noisy, own_cpu};
use crate::figures::{Sorted, ratios, rounded};
use crate::passthrough;
use broker::{Broker, Sample};
use contender::{Contender, Function, Program};
use load::Loaded;

pub(crate) use idle::run as idle;

/// The topic that all read.
const INPUT: &str = "in";
const PARTITIONS: i32 = 8;
/// The part of the outputs that is measured.
const FROM: f64 = 0.2;
const TO: f64 = 0.9;
/// How often a look is taken.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Without an output for so long, a run failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// After the last output, whether there is one more than there should be.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Outputs that are compared.
const COMPARED: usize = 300;

/// What the command line says of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) brokers: String,
    /// For the split.
    pub(crate) broker_pid: Option<u32>,
    pub(crate) records: u64,
    pub(crate) rounds: usize,
    /// The order of the node's trigger; the peer's is that of the partition.
    pub(crate) order: String,
    /// A node of another build that is measured beside this one's.
    pub(crate) before: Option<PathBuf>,
    /// Measures only those whose name contains this.
    pub(crate) only: String,
    /// Triggers of the idle node, and for how long it is watched.
    pub(crate) triggers: usize,
    pub(crate) seconds: u64,
}

/// A look at a run.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    outputs: u64,
    cpu: Duration,
    broker: Duration,
    own: Duration,
    machine: Ticks,
}

/// What one run came to, by record of the input.
#[derive(Clone, Debug, Default)]
struct Outcome {
    cpu_us: f64,
    broker_us: f64,
    watch_us: f64,
    per_second: f64,
    others: f64,
}

const SYSTEM: Contender = Contender::new("identity_peer_system", Program::Peer, Function::Identity);
const CONTENDERS: [Contender; 9] = [
    SYSTEM,
    Contender::new("identity_peer_mimalloc", Program::PeerMimalloc, Function::Identity),
    Contender::new("identity_node", Program::Node, Function::Identity),
    Contender::new("identity_node_before", Program::NodeBefore, Function::Identity),
    Contender { name: "identity_peer_again", ..SYSTEM },
    Contender::new("iot_peer_system", Program::Peer, Function::Iot),
    Contender::new("iot_peer_mimalloc", Program::PeerMimalloc, Function::Iot),
    Contender::new("iot_node", Program::Node, Function::Iot),
    Contender::new("iot_node_before", Program::NodeBefore, Function::Iot),
];

impl Plan {
    /// Those that are measured.
    fn contenders(&self) -> impl Iterator<Item = &'static Contender> {
        CONTENDERS.iter().filter(|contender| {
            (contender.program != Program::NodeBefore || self.before.is_some())
                && contender.name.contains(&self.only)
        })
    }
}

/// Measures all of them, in turn.
pub(crate) async fn run(dir: &Path, plan: &Plan) -> Result<Value, Failed> {
    let broker = Broker::connect(&plan.brokers, plan.broker_pid)?;
    broker.make(&[INPUT.to_owned()], PARTITIONS).await?;
    let loaded = load::fill(&broker, plan.records)?;
    let mut samples = BTreeMap::new();
    // Warm-up: the broker's code is compiled, the records are in the page cache.
    measure(&broker, &SYSTEM, &loaded, (dir, "warm-up", plan), &mut samples).await?;
    let mut outcomes: BTreeMap<&str, Vec<Outcome>> = BTreeMap::new();
    for round in 0..plan.rounds {
        for contender in plan.contenders() {
            let output = format!("{}-{round}", contender.name);
            let with = (dir, output.as_str(), plan);
            let outcome = measure(&broker, contender, &loaded, with, &mut samples).await?;
            outcomes.entry(contender.name).or_default().push(outcome);
        }
    }
    broker.delete(INPUT).await?;
    compare(plan, &samples)?;
    Ok(figures(plan, &loaded, &outcomes))
}

async fn measure(
    broker: &Broker,
    contender: &Contender,
    loaded: &Loaded,
    (dir, output, plan): (&Path, &str, &Plan),
    samples: &mut BTreeMap<&'static str, Sample>,
) -> Result<Outcome, Failed> {
    let output_topic = output.replace('_', "-");
    broker.make(std::slice::from_ref(&output_topic), PARTITIONS).await?;
    let expected = match contender.function {
        Function::Identity => loaded.records,
        Function::Iot => loaded.kept,
    };
    let mut service = contender.start(plan, &dir.join(&output_topic), &output_topic)?;
    let mut looks: Vec<Look> = Vec::new();
    let mut came_at = Instant::now();
    loop {
        let outputs = broker.reach(&output_topic, PARTITIONS)?;
        let before = looks.last().map_or(0, |look| look.outputs);
        looks.push(Look {
            at: Instant::now(),
            outputs,
            cpu: service.cpu()?,
            broker: broker.cpu()?,
            own: own_cpu(),
            machine: Ticks::now(),
        });
        if expected <= outputs {
            break;
        }
        if before < outputs {
            came_at = Instant::now();
        } else if PATIENCE <= came_at.elapsed() {
            let log = std::fs::read_to_string(dir.join(&output_topic).join("log"));
            let log = log.unwrap_or_default();
            let name = contender.name;
            return Err(format!("{name}: {outputs} outputs of {expected}; it said {log}").into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tokio::time::sleep(AFTERWARDS).await;
    let outputs = broker.reach(&output_topic, PARTITIONS)?;
    if outputs != expected {
        let name = contender.name;
        return Err(format!("{name}: {outputs} outputs where {expected} belong").into());
    }
    service.end().await?;
    if !samples.contains_key(contender.name) {
        samples.insert(contender.name, broker.sample(&output_topic, COMPARED)?);
    }
    broker.delete(&output_topic).await?;
    slope(&looks, expected, loaded.records)
}

/// What a record cost between the two looks that lie furthest apart within the measured part.
fn slope(looks: &[Look], expected: u64, records: u64) -> Result<Outcome, Failed> {
    let part = |look: &Look| look.outputs as f64 / expected as f64;
    let from = looks.iter().find(|look| FROM <= part(look));
    let to = looks.iter().rfind(|look| part(look) <= TO);
    let (Some(from), Some(to)) = (from, to) else { return Err("too few looks".into()) };
    let share = part(to) - part(from);
    if share < 0.3 {
        return Err("it was over before it could be measured: give more --records".into());
    }
    let records = records as f64 * share;
    let took = to.at - from.at;
    let ours = (to.cpu - from.cpu) + (to.broker - from.broker) + (to.own - from.own);
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / records;
    Ok(Outcome {
        cpu_us: each(to.cpu - from.cpu),
        broker_us: each(to.broker - from.broker),
        watch_us: each(to.own - from.own),
        per_second: records / took.as_secs_f64(),
        others: to.machine.others_since(from.machine, ours),
    })
}

/// The first outputs of each function are the same, whoever made them.
fn compare(plan: &Plan, samples: &BTreeMap<&'static str, Sample>) -> Result<(), Failed> {
    for function in [Function::Identity, Function::Iot] {
        let same = plan.contenders().filter(|contender| contender.function == function);
        let mut samples = same.map(|contender| (contender.name, &samples[contender.name]));
        let Some((first, values)) = samples.next() else { continue };
        for (other, others) in samples {
            let common = values.iter().filter(|(offset, _)| others.contains_key(offset));
            let (common, differing) =
                common.fold((0, 0), |(common, differing), (offset, value)| {
                    (common + 1, differing + usize::from(others[offset] != *value))
                });
            if common < COMPARED / 2 || 0 < differing {
                let what = format!("of {common} records that both began with, {differing} differ");
                return Err(format!("{first} and {other}: {what}").into());
            }
        }
    }
    Ok(())
}

fn figures(plan: &Plan, loaded: &Loaded, all: &BTreeMap<&str, Vec<Outcome>>) -> Value {
    let of = |name: &str, figure: fn(&Outcome) -> f64| -> Vec<f64> {
        all.get(name).into_iter().flatten().map(figure).collect()
    };
    let cpu = |name: &str| of(name, |outcome| outcome.cpu_us);
    let mut contenders = serde_json::Map::new();
    for Contender { name, .. } in plan.contenders() {
        let of = |figure| Sorted::new(of(name, figure));
        let figures = json!({
            "cpu_us": of(|outcome| outcome.cpu_us).spread(),
            "broker_us": of(|outcome| outcome.broker_us).at(0.5),
            "watch_us": of(|outcome| outcome.watch_us).at(0.5),
            "per_second": of(|outcome| outcome.per_second.round()).at(0.5),
        });
        contenders.insert((*name).to_owned(), figures);
    }
    let ratio = |node: &str, peer: &str| ratios(&cpu(node), &cpu(peer)).spread();
    let a_a = ratios(&cpu("identity_peer_system"), &cpu("identity_peer_again")).at(0.5);
    let others = all.values().flatten().map(|outcome| outcome.others).collect();
    let others = Sorted::new(others).at(0.5);
    let settings = |settings: &[(&str, &str)]| -> BTreeMap<String, String> {
        settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    json!({
        "records": loaded.records,
        "kept": loaded.kept,
        "partitions": PARTITIONS,
        "rounds": plan.rounds,
        "order": plan.order,
        "librdkafka": rdkafka::util::get_rdkafka_version().1,
        "peer_consumer": settings(passthrough::CONSUMER),
        "peer_producer": settings(passthrough::PRODUCER),
        "load": loaded.figures,
        "contenders": contenders,
        "identity_to_system": ratio("identity_node", "identity_peer_system"),
        "identity_to_mimalloc": ratio("identity_node", "identity_peer_mimalloc"),
        "identity_to_before": ratio("identity_node", "identity_node_before"),
        "iot_to_before": ratio("iot_node", "iot_node_before"),
        "iot_to_system": ratio("iot_node", "iot_peer_system"),
        "iot_to_mimalloc": ratio("iot_node", "iot_peer_mimalloc"),
        "a_a": rounded(a_a, 3),
        "others": others,
        "noisy": is_noisy(a_a, others),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, ms: u64, outputs: u64) -> Look {
        let cpu = Duration::from_millis(2 * ms);
        let (broker, own) = (Duration::from_millis(ms), Duration::ZERO);
        let at = at + Duration::from_millis(ms);
        Look { at, outputs, cpu, broker, own, machine: Ticks::default() }
    }

    #[test]
    fn start_and_end_are_left_out() {
        let now = Instant::now();
        let looks = [look(now, 0, 0), look(now, 500, 20), look(now, 600, 70), look(now, 900, 100)];
        let outcome = slope(&looks, 100, 1_000).unwrap();
        assert!((outcome.cpu_us - 400.0).abs() < 0.001, "{outcome:?}");
        assert!((outcome.broker_us - 200.0).abs() < 0.001, "{outcome:?}");
        assert!((outcome.per_second - 5_000.0).abs() < 0.001, "{outcome:?}");
        assert!(slope(&looks[..2], 100, 1_000).is_err());
    }
}
