//! A node with many triggers and nothing to do: what it costs to wait, in CPU and threads. Then
//! every topic gets a record, so that a node that merely stopped does not look cheap.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};

use super::Plan;
use super::broker::Broker;
use super::contender::{App, Function, beside};
use crate::Failed;
use crate::environment::{Ticks, own_cpu};
use crate::figures::rounded;

/// Where all outputs go.
const OUTPUT: &str = "idle-out";
/// How long a node may take to bring its triggers up.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// How long the threads that helped it start may linger.
const SETTLE: Duration = Duration::from_secs(15);
const WAKE_PATIENCE: Duration = Duration::from_secs(60);

/// Measures it.
pub(crate) async fn run(dir: &Path, plan: &Plan) -> Result<Value, Failed> {
    let broker = Broker::connect(&plan.brokers, plan.broker_pid)?;
    let topics: Vec<String> = (0..plan.triggers).map(|index| format!("idle-{index}")).collect();
    broker.make(&topics, 1).await?;
    broker.make(&[OUTPUT.to_owned()], 1).await?;
    let node = dir.join("idle");
    let app = App { manifest: manifest(&topics), function: Function::Identity };
    let started_at = Instant::now();
    let mut service = app.start("idle", plan, &node, &beside("millrace"))?;
    let log = || std::fs::read_to_string(node.join("log")).unwrap_or_default();
    while !log().contains("the node is ready") {
        if START_PATIENCE <= started_at.elapsed() {
            return Err(format!("the node is not ready; it said {}", log()).into());
        }
        // It may have ended.
        service.cpu()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let start = started_at.elapsed();
    tokio::time::sleep(SETTLE).await;

    let ours = || Ok::<_, Failed>((broker.cpu()?, own_cpu(), Ticks::now()));
    let (at, cpu) = (Instant::now(), service.cpu()?);
    let (broker_cpu, own, machine) = ours()?;
    let mut threads = 0;
    for _second in 0..plan.seconds.max(1) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        threads = threads.max(service.threads()?);
    }
    let (took, cpu) = (at.elapsed(), service.cpu()? - cpu);
    let (broker_after, own_after, machine_after) = ours()?;
    let broker_cpu = broker_after - broker_cpu;
    let others = machine_after.others_since(machine, cpu + broker_cpu + (own_after - own));
    let woken = wake(&broker, &topics).await?;
    service.end().await?;
    let share = |cpu: Duration| rounded(cpu.as_secs_f64() / took.as_secs_f64(), 4);
    Ok(json!({
        "triggers": topics.len(),
        "seconds": rounded(took.as_secs_f64(), 1),
        "start_seconds": rounded(start.as_secs_f64(), 2),
        "core": share(cpu),
        "broker_core": share(broker_cpu),
        "threads": threads,
        "woken_seconds": rounded(woken.as_secs_f64(), 2),
        "others": rounded(others, 3),
    }))
}

fn manifest(topics: &[String]) -> String {
    let name = Function::Identity.name();
    let mut manifest = format!(
        "[app]\nname = \"bench\"\n[function.{name}]\nruntime = \"wasm\"\npath = \"function\"\n\
         handler = \"{name}.wasm\"\n"
    );
    for topic in topics {
        write!(
            manifest,
            "[[function.{name}.trigger]]\nname = \"{topic}\"\ntopics = [\"{topic}\"]\n\
             output = {{ topic = \"{OUTPUT}\" }}\ndead-letter = \"idle-dead\"\n"
        )
        .expect("a string takes any text");
    }
    for topic in topics {
        write!(manifest, "[topic.{topic}]\npartitions = 1\n").expect("a string takes any text");
    }
    write!(manifest, "[topic.{OUTPUT}]\npartitions = 1\n").expect("a string takes any text");
    manifest
}

/// A record for every trigger: how long until all have an output.
async fn wake(broker: &Broker, topics: &[String]) -> Result<Duration, Failed> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &broker.address).create()?;
    let at = Instant::now();
    for topic in topics {
        producer.send(BaseRecord::to(topic).key("k").payload("v")).map_err(|(error, _)| error)?;
    }
    producer.flush(WAKE_PATIENCE)?;
    loop {
        let outputs = broker.reach(OUTPUT, 1)?;
        if outputs == topics.len() as u64 {
            return Ok(at.elapsed());
        }
        if WAKE_PATIENCE <= at.elapsed() {
            return Err(format!("{outputs} outputs of {} triggers", topics.len()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
