//! Buses for the rules: the embedded one in a folder of its own, and Kafka with all topics of the
//! broker deleted first. Positions are sled's in both.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bus::conformance::{Capabilities, Stage};
use bus::embedded::{Embedded, EmbeddedConfig};
use bus::kafka::{KafkaBus, KafkaConfig};
use bus::{Bus, Timestamp};
use storage::SledPositions;

/// The rule that is being checked: what a panic or a wait was about.
static RULE: Mutex<String> = Mutex::new(String::new());

/// The rule that was begun last.
pub(crate) fn rule() -> String {
    RULE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn begin(rule: &str) {
    rule.clone_into(&mut RULE.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Positions in a folder that need not exist. Blocks on the disk.
///
/// # Errors
///
/// The folder, and the store's account.
pub fn positions(dir: &Path) -> Result<Arc<SledPositions>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("positions in {}: {error}", dir.display());
    std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    let opened = SledPositions::open(dir).map_err(|error| failed(&error))?;
    Ok(Arc::new(opened.store))
}

/// Folders of their own for embedded buses.
#[derive(Debug)]
pub struct EmbeddedStage {
    dir: tempfile::TempDir,
    made: AtomicU64,
}

impl EmbeddedStage {
    /// In a temporary folder.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self { dir, made: AtomicU64::new(0) }
    }

    fn open(&self, number: u64) -> Arc<Embedded> {
        let dir = self.dir.path().join(number.to_string());
        let positions = positions(&dir.join("sled")).expect("positions");
        Embedded::open(EmbeddedConfig::new(&dir), Some(positions)).expect("an embedded bus")
    }
}

impl Default for EmbeddedStage {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Stage for EmbeddedStage {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            commits_are_atomic: true,
            timestamps: i64::MIN..=i64::MAX,
            zero_bytes_in_names: true,
            fetches_ahead: false,
        }
    }

    fn begins(&self, rule: &str) {
        begin(rule);
    }

    async fn empty(&self) -> Arc<dyn Bus> {
        self.open(self.made.fetch_add(1, Ordering::Relaxed) + 1)
    }

    async fn reopen(&self, bus: Arc<dyn Bus>) -> Arc<dyn Bus> {
        drop(bus);
        let bus = self.open(self.made.load(Ordering::Relaxed));
        bus.apply_retention(Timestamp::now()).await.expect("it is open");
        bus
    }
}

/// One broker for all rules; each has a cluster name and positions of its own.
#[derive(Debug)]
pub struct KafkaStage {
    brokers: String,
    settings: Vec<(String, String)>,
    dir: PathBuf,
    made: AtomicU64,
}

impl KafkaStage {
    /// On these brokers, with these settings; positions go into `dir`.
    #[must_use]
    pub fn new(brokers: &str, settings: &[(&str, String)], dir: &Path) -> Self {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        let settings = settings.collect();
        let made = AtomicU64::new(0);
        Self { brokers: brokers.to_owned(), settings, dir: dir.to_owned(), made }
    }

    async fn open(&self) -> Arc<KafkaBus> {
        let number = self.made.load(Ordering::Relaxed);
        let mut config = KafkaConfig::new(&self.brokers, format!("stage-{number}"));
        config.settings.extend(self.settings.iter().cloned());
        let dir = self.dir.join(number.to_string());
        let opening = tokio::task::spawn_blocking(move || positions(&dir));
        let positions = opening.await.expect("it does not panic").expect("positions");
        KafkaBus::open(config, positions).await.expect("the brokers are there")
    }
}

#[async_trait]
impl Stage for KafkaStage {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            commits_are_atomic: false,
            // 0 means "now" to librdkafka, and brokers refuse what is far in the future.
            timestamps: 1..=Timestamp::now().0,
            zero_bytes_in_names: false,
            fetches_ahead: true,
        }
    }

    fn begins(&self, rule: &str) {
        begin(rule);
    }

    async fn empty(&self) -> Arc<dyn Bus> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let bus = self.open().await;
        for topic in bus.topics().await.expect("the brokers are there") {
            bus.delete_topic(&topic.spec.name).await.expect("it was there");
        }
        bus
    }

    async fn reopen(&self, bus: Arc<dyn Bus>) -> Arc<dyn Bus> {
        drop(bus);
        self.open().await
    }
}
