//! The promise that both buses keep the same rules: the one suite of `bus::conformance` against
//! the embedded bus and a real Kafka, once in plaintext and once over TLS with SCRAM; and that
//! records and partitions are the same for Kafka's own Java client.

mod java;
mod owners;
pub mod stage;
mod wire;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bus::conformance;
use bus::kafka::{KafkaBus, KafkaConfig};

use crate::demand;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::{binaries, command};
use crate::promise::{During, Figures, NotShown, Run, broken};
use stage::{EmbeddedStage, KafkaStage};

/// librdkafka and what names it are built anew with TLS.
const BUILD_PATIENCE: Duration = Duration::from_secs(900);
const SUITE_PATIENCE: Duration = Duration::from_secs(600);
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
fn suite(run: &Run, stage: impl conformance::Stage + 'static) -> Result<u64, NotShown> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.during("start a runtime")?;
    let checked = runtime.block_on(async {
        tokio::time::timeout(
            SUITE_PATIENCE,
            tokio::spawn(async move { conformance::check(&stage).await }),
        )
        .await
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    let checked = checked.map_err(|_elapsed| broken(format!("a rule hangs; {}", stage::rule())))?;
    let rules = checked.map_err(|panic| broken(format!("{}: {panic}", stage::rule())))?;
    run.note(format!("{rules} rules hold"));
    Ok(rules)
}

/// The suite in a build with TLS, which is another binary: this one is built as people build it.
fn over_scram(run: &Run, broker: &Broker) -> Result<u64, NotShown> {
    let mut cargo = binaries::cargo();
    cargo.args(["build", "--quiet", "--bin", TLS_BINARY]);
    cargo.args(["--features", &format!("millrace-tests/{TLS_FEATURE}")]);
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
    suite.arg(run.evidence.join("stage-scram"));
    let said = command::run(&mut suite, SUITE_PATIENCE)?;
    demand!(said.status == Some(0), "over TLS with SCRAM: {}", said.all());
    said.stdout.trim().parse().during("read how many rules hold")
}

/// What [`TLS_BINARY`] does: the rules over an encrypted listener, and what happens with a wrong
/// password.
///
/// # Errors
///
/// When a rule is broken.
pub fn scram(address: &str, authority: &Path, dir: &Path, run: &Run) -> Result<u64, NotShown> {
    use crate::harness::kafka::{PASSWORD, USER};
    let authority = authority.to_string_lossy();
    let with = |password: &'static str| {
        [
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanisms", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", USER.to_owned()),
            ("sasl.password", password.to_owned()),
            ("ssl.ca.location", authority.clone().into_owned()),
        ]
    };
    refused(address, &with("another"), &dir.join("refused"))?;
    suite(run, KafkaStage::new(address, &with(PASSWORD), dir))
}

/// A wrong password is an error of its own, and soon.
fn refused(address: &str, settings: &[(&str, String)], dir: &Path) -> Result<(), NotShown> {
    let runtime = tokio::runtime::Runtime::new().during("start a runtime")?;
    let positions = stage::positions(dir)?;
    let mut config = KafkaConfig::new(address, "refused");
    for (key, value) in settings {
        config.settings.insert((*key).to_owned(), value.clone());
    }
    config.request_timeout = Duration::from_secs(10);
    match runtime.block_on(KafkaBus::open(config, positions)) {
        Err(bus::Error::Authentication { .. }) => Ok(()),
        other => Err(broken(format!("with a wrong password: {other:?}"))),
    }
}
