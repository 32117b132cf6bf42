//! The promise about who follows topics from outside: `subscribers`.
//!
//! ```text
//! numbers ─▶ node (embedded bus, then Kafka) ─▶ a proxy that is cut ─▶ client
//!            SIGKILL twice                      and clients that begin anew by their resume token
//! ```
//!
//! What was seen is compared with the numbers that were acknowledged (`verdict.rs`), which knows
//! nothing of tokens and frames.

mod proxy;
mod refusals;
mod stage;
mod verdict;

use std::time::Duration;

use subscriber::{Client, From, ResumeToken, Subscription, Timing, Token};
use tokio::time::{Instant, timeout};

use crate::demand;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::rng::Rng;
use crate::promise::{During, Figures, NotShown, Run, broken};
use proxy::Proxy;
use stage::{Producer, Stage, topic};
use verdict::Seen;

const TOPIC: &str = "alerts";
/// Until a subscriber is there again, also while its node starts.
const PATIENCE: Duration = Duration::from_secs(60);
/// Every so many reconnects are by a client that has nothing but the resume token.
const ANEW: u64 = 4;

fn timing() -> Timing {
    Timing {
        idle: Duration::from_millis(600),
        dial: Duration::from_secs(2),
        pause_first: Duration::from_millis(20),
        pause_longest: Duration::from_millis(200),
        patience: PATIENCE,
    }
}

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let reconnects = run.count("reconnects", 100, 1_000);
    let mut figures = Figures::default();
    let mut stage = Stage::open(&run.evidence.join("embedded"), None)?;
    run.note("refusing who must not follow");
    figures.extend("", refusals::run(&stage)?);
    run.note(format!("{reconnects} reconnects on the embedded bus"));
    figures.extend("embedded_", follow(&mut stage, reconnects, &mut Rng::new(run.seed, 1))?);
    drop(stage);
    run.note("reconnects on Kafka");
    let kafka = Kafka::fetch()?;
    let broker = Broker::start(&kafka, &run.evidence.join("broker"), Listeners::Plain)?;
    let mut stage = Stage::open(&run.evidence.join("kafka"), Some(broker.address()))?;
    let few = reconnects.div_ceil(5);
    figures.extend("kafka_", follow(&mut stage, few, &mut Rng::new(run.seed, 2))?);
    let red = ["embedded_red", "kafka_red", "refusals_red"];
    let red: u64 = red.iter().filter_map(|it| figures.number(it)).sum();
    Ok(figures.with("red_controls", red))
}

fn follow(stage: &mut Stage, reconnects: u64, rng: &mut Rng) -> Result<Figures, NotShown> {
    stage.topic(&topic(TOPIC, 3))?;
    let (token, _id) = stage.token(TOPIC, "1h")?;
    let token: Token = token.parse().during("read a token")?;
    let producer = Producer::start(std::sync::Arc::clone(&stage.api), TOPIC);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.during("start a runtime")?;
    let mut follower = runtime.block_on(Follower::start(stage, token))?;
    let mut kills = 0;
    for number in 1..=reconnects {
        runtime.block_on(follower.collect(rng.time(Duration::ZERO, Duration::from_millis(60))))?;
        if number == reconnects.div_ceil(3) || number == (2 * reconnects).div_ceil(3) {
            stage.kill_and_start()?;
            kills += 1;
        }
        match number % ANEW {
            0 => runtime.block_on(follower.anew())?,
            _ => runtime.block_on(follower.cut())?,
        }
    }
    let (acknowledged, last) = producer.end()?;
    runtime.block_on(follower.rest(acknowledged.len()))?;
    let seen = Seen { acknowledged, last, got: follower.got };
    seen.judge().map_err(broken)?;
    let mut red = 0;
    for planted in seen.planted() {
        demand!(planted.judge().is_err(), "a planted fault stayed green");
        red += 1;
    }
    Ok(Figures::default()
        .with("reconnects", follower.cuts + follower.anews)
        .with("cuts", follower.cuts)
        .with("by_resume_token", follower.anews)
        .with("kills", kills)
        .with("records", seen.got.len())
        .with("slowest_reconnect_ms", follower.slowest_ms)
        .with("red", red))
}

/// A subscriber, with all that it saw.
struct Follower {
    client: Client,
    proxy: Proxy,
    records: Subscription,
    got: Vec<(u32, i64, String, u64)>,
    cuts: u64,
    anews: u64,
    slowest_ms: u64,
}

impl Follower {
    async fn start(stage: &Stage, token: Token) -> Result<Self, NotShown> {
        let proxy = Proxy::start(stage.door).await?;
        let client = Client::new(token, [proxy.address.to_string()]).during("make a client")?;
        let client = client.with_timing(timing());
        let records = client.subscribe(&[TOPIC], From::Earliest).await.during("subscribe")?;
        let (got, cuts, anews, slowest_ms) = (Vec::new(), 0, 0, 0);
        Ok(Self { client, proxy, records, got, cuts, anews, slowest_ms })
    }

    /// Takes what comes for so long.
    async fn collect(&mut self, within: Duration) -> Result<(), NotShown> {
        let until = Instant::now() + within;
        while let Ok(next) = tokio::time::timeout_at(until, self.records.next()).await {
            let record = next.during("follow")?;
            let text = |bytes: Option<bytes::Bytes>| {
                String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
            };
            let number = text(record.value).parse().during("read a number")?;
            self.got.push((record.partition, record.offset, text(record.key), number));
        }
        Ok(())
    }

    /// Cuts the connection, and waits until the client has another one by itself.
    async fn cut(&mut self) -> Result<(), NotShown> {
        let (before, began) = (self.records.reconnects(), Instant::now());
        self.proxy.cut().await?;
        while self.records.reconnects() == before {
            demand!(began.elapsed() < PATIENCE, "not connected again in {PATIENCE:?}");
            self.collect(Duration::from_millis(20)).await?;
        }
        self.cuts += 1;
        self.note(began);
        Ok(())
    }

    /// Another client, which has the resume token as text and nothing else.
    async fn anew(&mut self) -> Result<(), NotShown> {
        let began = Instant::now();
        let text = self.records.resume_token().to_string();
        let resume: ResumeToken = text.parse().during("read a resume token")?;
        let begun = self.client.subscribe(&[TOPIC], From::Resume(resume)).await;
        self.records = begun.during("go on by a resume token")?;
        self.anews += 1;
        self.note(began);
        Ok(())
    }

    fn note(&mut self, began: Instant) {
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.slowest_ms = self.slowest_ms.max(took);
    }

    /// Takes what is left, and looks whether anything comes behind it.
    async fn rest(&mut self, wanted: usize) -> Result<(), NotShown> {
        let all = async {
            while self.got.len() < wanted {
                self.collect(Duration::from_millis(100)).await?;
            }
            self.collect(Duration::from_secs(1)).await
        };
        // What is missing then is the verdict's to say.
        timeout(PATIENCE, all).await.unwrap_or(Ok(()))
    }
}
