//! The rules of `bus::conformance` on real buses: the embedded one and Kafka. A crate of its own, so
//! that its binary for the rules over TLS is built anew without the whole system.

mod stage;

use std::time::Duration;

use bus::conformance::{self, Stage};

pub use stage::{EmbeddedStage, KafkaStage, positions};

/// How long all rules may take.
pub const SUITE_PATIENCE: Duration = Duration::from_secs(600);

/// Checks all rules; how many there are.
///
/// # Errors
///
/// The rule that is broken or hangs, and how.
pub fn check(stage: impl Stage + 'static) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    let checked = runtime.block_on(async {
        let rules = tokio::spawn(async move { conformance::check(&stage).await });
        tokio::time::timeout(SUITE_PATIENCE, rules).await
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    let checked = checked.map_err(|_elapsed| format!("a rule hangs; {}", stage::rule()))?;
    checked.map_err(|panic| format!("{}: {panic}", stage::rule()))
}
