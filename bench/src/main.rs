//! `millrace-bench`: measures, and prints what it measured on beside it. The rules: the same
//! contender twice first, rounds in turn, medians of ratios, outputs counted.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks on its streams")]

mod cold;
mod environment;
mod exchange;
mod figures;
mod kafka;
mod mill;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use figures::{Sorted, ratios, rounded};
use mill::{Outcome, Plan};
use millrace_bench::passthrough;

/// As in the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why there is no figure.
type Failed = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "\
usage: millrace-bench embedded [--records N] [--partitions N] [--functions N] [--rate N] [--backlog]
       millrace-bench scale [--records N]
       millrace-bench history [--records N] [--partitions N] [--rate N] [--backlog]
       millrace-bench cold
       millrace-bench exchange
       millrace-bench kafka --brokers HOST:PORT [--broker-pid N] [--records N] [--order WORD]
                            [--before PROGRAM] [--only WORD]
       millrace-bench kafka-idle --brokers HOST:PORT [--broker-pid N] [--triggers N] [--seconds N]
each:  [--rounds N] [--json] [--dir DIR]    DIR: where the data lies, else target/bench";

/// What the command line asked for.
#[derive(Debug)]
struct Asked {
    bench: String,
    plan: Plan,
    kafka: kafka::Plan,
    rounds: usize,
    json: bool,
    dir: PathBuf,
}

fn main() -> ExitCode {
    let Some(asked) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match measure(&asked) {
        Ok(figures) if asked.json => println!("{figures}"),
        Ok(figures) => {
            for (name, value) in figures.as_object().into_iter().flatten() {
                println!("{name:34} {value}");
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Asked> {
    let bench = arguments.next()?;
    let records = if bench == "scale" { 4_096_000 } else { 2_000_000 };
    let on_kafka = kafka::Plan {
        brokers: String::new(),
        broker_pid: None,
        records,
        rounds: 5,
        order: "partition".to_owned(),
        before: None,
        only: String::new(),
        triggers: 500,
        seconds: 20,
    };
    let plan =
        Plan { records, partitions: 8, functions: 1, rate: None, backlog: false, history: true };
    let dir = PathBuf::from("target/bench");
    let mut asked = Asked { bench, plan, kafka: on_kafka, rounds: 5, json: false, dir };
    while let Some(flag) = arguments.next() {
        let mut number = || arguments.next()?.replace('_', "").parse::<u64>().ok();
        match flag.as_str() {
            "--json" => asked.json = true,
            "--backlog" => asked.plan.backlog = true,
            "--records" => asked.plan.records = number()?,
            "--partitions" => asked.plan.partitions = i32::try_from(number()?).ok()?,
            "--functions" => asked.plan.functions = number()?,
            "--rate" => asked.plan.rate = Some(number()?),
            "--rounds" => asked.rounds = usize::try_from(number()?).ok()?.max(1),
            "--brokers" => asked.kafka.brokers = arguments.next()?,
            "--broker-pid" => asked.kafka.broker_pid = u32::try_from(number()?).ok(),
            "--order" => asked.kafka.order = arguments.next()?,
            "--before" => asked.kafka.before = Some(arguments.next()?.into()),
            "--only" => asked.kafka.only = arguments.next()?,
            "--triggers" => asked.kafka.triggers = usize::try_from(number()?).ok()?,
            "--seconds" => asked.kafka.seconds = number()?,
            "--dir" => asked.dir = arguments.next()?.into(),
            _ => return None,
        }
    }
    asked.kafka = kafka::Plan { records: asked.plan.records, rounds: asked.rounds, ..asked.kafka };
    let is_named = !asked.bench.starts_with("kafka") || !asked.kafka.brokers.is_empty();
    is_named.then_some(asked)
}

fn measure(asked: &Asked) -> Result<Value, Failed> {
    std::fs::create_dir_all(&asked.dir)?;
    let dir = tempfile::tempdir_in(&asked.dir)?;
    let mut all = environment::describe(dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        match asked.bench.as_str() {
            "embedded" => embedded(dir.path(), asked).await,
            "history" => history(dir.path(), asked).await,
            "scale" => scale(dir.path(), asked).await,
            "cold" => cold::run(dir.path()).await,
            "exchange" => exchange::run(asked.rounds).await,
            "kafka" => kafka::run(dir.path(), &asked.kafka).await,
            "kafka-idle" => kafka::idle(dir.path(), &asked.kafka).await,
            other => Err(format!("there is no bench {other:?}\n{USAGE}").into()),
        }
    })?;
    if let Value::Object(figures) = figures {
        all.extend(figures);
    }
    Ok(all.into())
}

async fn embedded(dir: &Path, asked: &Asked) -> Result<Value, Failed> {
    let plan = asked.plan;
    // Warm-up: the component is compiled, the allocator has its memory.
    let warm_up = Plan { records: plan.records / 4, ..plan };
    mill::run(dir, warm_up).await?;
    let mut outcomes = Vec::new();
    for _ in 0..asked.rounds.max(2) {
        outcomes.push(mill::run(dir, plan).await?);
    }
    let of = |figure: fn(&Outcome) -> f64| Sorted::new(outcomes.iter().map(figure).collect());
    let a_a = outcomes[1].per_second() / outcomes[0].per_second();
    let others = of(|it| it.seen.others).at(0.5);
    Ok(json!({
        "records": plan.records,
        "partitions": plan.partitions,
        "functions": plan.functions,
        "backlog": plan.backlog,
        "rounds": outcomes.len(),
        "outputs": plan.records,
        "per_second": of(|it| it.per_second().round()).spread(),
        "cpu_us": of(Outcome::cpu_us).spread(),
        "batch": of(|it| it.batch).at(0.5),
        "latency_p50_ms": of(|it| it.latency_ms.at(0.5)).at(0.5),
        "latency_p99_ms": of(|it| it.latency_ms.at(0.99)).at(0.5),
        "open_loop": plan.rate.is_some(),
        "resident_mib": outcomes.iter().map(|it| it.resident_mib).max(),
        "a_a": rounded(a_a, 3),
        "others": others,
        "noisy": environment::is_noisy(a_a, others),
    }))
}

/// What the history costs: runs with it and without, in turn.
async fn history(dir: &Path, asked: &Asked) -> Result<Value, Failed> {
    let without = Plan { history: false, ..asked.plan };
    mill::run(dir, Plan { records: without.records / 4, ..without }).await?;
    let a = mill::run(dir, without).await?;
    let (mut cpu, mut per_second): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
    let (mut batch, mut bytes, mut others) = (0.0, 0, Vec::new());
    for round in 0..asked.rounds {
        // Each comes first in half of the rounds.
        for turn in 0..2 {
            let with = (round + turn) % 2;
            let outcome = mill::run(dir, Plan { history: with == 1, ..without }).await?;
            cpu[with].push(outcome.cpu_us());
            per_second[with].push(outcome.per_second());
            others.push(outcome.seen.others);
            if with == 1 {
                (batch, bytes) = (outcome.batch, outcome.history_bytes);
            }
        }
    }
    let a_a = per_second[0][0] / a.per_second();
    let others = Sorted::new(others).at(0.5);
    Ok(json!({
        "records": without.records,
        "partitions": without.partitions,
        "backlog": without.backlog,
        "rounds": asked.rounds,
        "per_second_without": Sorted::new(per_second[0].clone()).spread(),
        "per_second_with": Sorted::new(per_second[1].clone()).spread(),
        "ratio_per_second": ratios(&per_second[0], &per_second[1]).spread(),
        "ratio_cpu": ratios(&cpu[0], &cpu[1]).spread(),
        "batch": batch,
        "history_bytes_a_record": rounded(bytes as f64 / without.records as f64, 2),
        "a_a": rounded(a_a, 3),
        "others": others,
        "noisy": environment::is_noisy(a_a, others),
    }))
}

async fn scale(dir: &Path, asked: &Asked) -> Result<Value, Failed> {
    let few = Plan { records: asked.plan.records, backlog: true, ..asked.plan };
    let many = Plan { partitions: 1_024, ..few };
    let idle = Plan { functions: 1_000, ..few };
    mill::run(dir, Plan { records: few.records / 4, ..few }).await?;
    let a = mill::run(dir, few).await?.cpu_us();
    let mut cpu: [Vec<f64>; 3] = Default::default();
    let mut batches = [0.0; 3];
    let mut resident = [0; 3];
    let mut others = Vec::new();
    for _ in 0..asked.rounds {
        for (index, plan) in [few, many, idle].into_iter().enumerate() {
            let outcome = mill::run(dir, plan).await?;
            cpu[index].push(outcome.cpu_us());
            batches[index] = rounded(outcome.batch, 1);
            resident[index] = resident[index].max(outcome.resident_mib);
            others.push(outcome.seen.others);
        }
    }
    let a_a = cpu[0][0] / a;
    let others = Sorted::new(others).at(0.5);
    let [few_us, many_us, idle_us] = &cpu;
    Ok(json!({
        "records": few.records,
        "rounds": asked.rounds,
        "cpu_us_8_partitions": Sorted::new(few_us.clone()).spread(),
        "cpu_us_1024_partitions": Sorted::new(many_us.clone()).spread(),
        "cpu_us_1000_functions": Sorted::new(idle_us.clone()).spread(),
        "ratio_partitions": ratios(few_us, many_us).spread(),
        "ratio_functions": ratios(few_us, idle_us).spread(),
        "batch": batches,
        "resident_mib": resident,
        "a_a": rounded(a_a, 3),
        "others": others,
        "noisy": environment::is_noisy(a_a, others),
    }))
}
