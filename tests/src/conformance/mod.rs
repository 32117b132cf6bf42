//! The promise that both buses keep the same rules: the one suite of `bus::conformance` against
//! the embedded bus and a real Kafka, once in plaintext and once over TLS with SCRAM; and that
//! records and partitions are the same for Kafka's own Java client.

mod java;
mod owners;
mod wire;

use std::process::Command;
use std::time::Duration;

use ::conformance::{EmbeddedStage, KafkaStage, SUITE_PATIENCE};

use crate::demand;
use crate::harness::kafka::{Broker, Kafka, Listeners, PASSWORD, USER};
use crate::harness::{binaries, command};
use crate::promise::{During, Figures, NotShown, Run, broken};

/// librdkafka and what names it are built anew with TLS.
const BUILD_PATIENCE: Duration = Duration::from_secs(900);
/// The feature that links the system's OpenSSL: minutes less than one of its own.
const TLS_FEATURE: &str = "tls-system";
/// The binary that has it.
const TLS_BINARY: &str = "kafka-conformance";

/// Shows it.
///
/// # Errors
///
/// When it is broken, or could not be checked.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let kafka = Kafka::fetch()?;
    let mut figures = Figures::default();
    run.note("the rules on the embedded bus");
    figures.set("rules_embedded", suite(run, EmbeddedStage::new())?);
    let mut broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::PlainAndScram)?;
    run.note("the rules on Kafka");
    let plain = KafkaStage::new(&broker.address(), &[], &run.evidence.join("stage"));
    figures.set("rules_kafka", suite(run, plain)?);
    run.note("one shard, two owners");
    figures.set("owners", owners::check(run, &kafka, &mut broker)?);
    run.note("keys and codecs, against the Java client");
    let keys = run.count("keys", 10_000, 10_000);
    wire::check(run, &kafka, &broker, keys, &mut figures)?;
    run.note("the rules over TLS with SCRAM-SHA-512");
    figures.set("rules_scram", over_scram(run, &broker)?);
    Ok(figures)
}

/// All rules; how many.
fn suite(run: &Run, stage: impl bus::conformance::Stage + 'static) -> Result<u64, NotShown> {
    let rules = ::conformance::check(stage).map_err(broken)?;
    run.note(format!("{rules} rules hold"));
    Ok(rules)
}

/// The suite in a build with TLS, which is another binary: this one is built as people build it.
fn over_scram(run: &Run, broker: &Broker) -> Result<u64, NotShown> {
    let mut cargo = binaries::cargo();
    cargo.args(["build", "--quiet", "--bin", TLS_BINARY]);
    cargo.args(["--features", &format!("millrace-conformance/{TLS_FEATURE}")]);
    if binaries::is_release() {
        cargo.arg("--release");
    }
    cargo.env("CARGO_TARGET_DIR", binaries::target());
    let built = command::run(&mut cargo, BUILD_PATIENCE)?;
    if built.status != Some(0) {
        let said: String = built.stderr.chars().take(2_000).collect();
        let why = format!("a build with the system's OpenSSL (libssl-dev): {said}");
        return Err(NotShown::Unchecked(why));
    }
    let mut suite = Command::new(binaries::binary(TLS_BINARY));
    suite.arg(broker.scram_address()).arg(broker.authority());
    suite.args([USER, PASSWORD]).arg(run.evidence.join("stage-scram"));
    let said = command::run(&mut suite, SUITE_PATIENCE)?;
    demand!(said.status == Some(0), "over TLS with SCRAM: {}", said.all());
    said.stdout.trim().parse().during("read how many rules hold")
}
