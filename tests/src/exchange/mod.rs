//! The promise about what crosses between nodes, with real sockets on loopback: `exchange`.
//!
//! ```text
//! who must not come in ─▶ refused, counted, logged, by name
//! three nodes, calls all the time ─▶ renewals, a CA rotation ─▶ cuts ─▶ each call has its answer
//! ```
//!
//! Who must not come in is a peer of its own (`stranger.rs`), with bytes written by hand.

mod load;
mod log;
mod nodes;
mod refusals;
pub(crate) mod stranger;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use exchange::{NodeId, Trust};
use tokio::time::{Instant, sleep};

use crate::demand;
use crate::harness::rng::Rng;
use crate::promise::{During, Figures, NotShown, Run, broken};
use load::Callers;
use nodes::{Desk, Node, Table, answer, authority, identity, lasting, name, renewed, start};
use stranger::Shown;

/// Renewals of each node under load, before and beside those of the rotation.
const RENEWALS: u64 = 3;
/// Calls at a time.
const CALLERS: u64 = 12;
const PATIENCE: Duration = Duration::from_secs(10);

/// Three nodes of one cluster, all connected.
struct Cluster {
    nodes: Vec<Node>,
    table: Arc<Table>,
    desk: Arc<Desk>,
}

impl Cluster {
    fn node(&self, id: u64) -> &Node {
        &self.nodes[usize::try_from(id - 1).unwrap_or(0)]
    }

    /// Every pair of them, as (node, the other's id).
    fn pairs(&self) -> impl Iterator<Item = (&Node, NodeId)> {
        self.nodes.iter().flat_map(|node| {
            let own = node.identity.name().node;
            (1..=3).map(NodeId).filter(move |other| *other != own).map(move |other| (node, other))
        })
    }

    /// Until every pair has one connection that both sides agree on.
    async fn settle(&self) -> Result<(), NotShown> {
        let until = Instant::now() + PATIENCE;
        loop {
            let agree = self.pairs().all(|(node, other)| {
                let own = node.identity.name().node;
                let both = [node.exchange.link(other), self.node(other.0).exchange.link(own)];
                let both = both.map(|it| it.map(|it| (it.dialer, it.generation)));
                both[0].is_some() && both[0] == both[1]
            });
            if agree {
                return Ok(());
            }
            demand!(Instant::now() < until, "not every pair agrees on a connection");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Shows it.
///
/// # Errors
///
/// When it is broken.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    log::listen()?;
    let cuts = run.count("cuts", 100, 1_000);
    let mut rng = Rng::new(run.seed, 0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.during("start a runtime")?;
    let mut figures = Figures::default();
    let shown = runtime.block_on(async {
        let (old, new) = (authority("mill")?, authority("mill")?);
        let first = Trust::new(vec![old.certificate().clone()]).during("trust a CA")?;
        let table = Arc::new(Table::default());
        let desk = Arc::new(Desk::new(authority_of(&old, run)?, first.clone()));
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let identity = identity(&old, id)?;
            table.admit(&identity);
            nodes.push(start(identity, &first, &table, &desk)?);
        }
        let mut cluster = Cluster { nodes, table, desk };
        for (node, other) in cluster.pairs() {
            node.exchange.set_peer(other, cluster.node(other.0).address);
        }
        cluster.settle().await?;
        run.note("refusing who must not come in");
        figures.extend("", refusals::run(&cluster, &old).await?);
        run.note("renewing and rotating under load");
        figures.extend("", rotate(&mut cluster, (&old, &new), &first).await?);
        run.note("cutting connections");
        figures.extend("", reconnect(&cluster, cuts, &mut rng).await?);
        for node in cluster.nodes {
            node.exchange.close().await;
        }
        Ok::<_, NotShown>(())
    });
    shown?;
    let red = figures.number("refusal_red").unwrap_or(0) + figures.number("load_red").unwrap_or(0);
    Ok(figures.with("red_controls", red))
}

/// The same CA as a second process would have it: from its file.
fn authority_of(ca: &exchange::Authority, run: &Run) -> Result<exchange::Authority, NotShown> {
    let path = run.evidence.join("ca.json");
    ca.save(&path).during("save the CA")?;
    exchange::Authority::load(&path).during("load the CA")
}

/// Every node renews several times, then the CA is replaced, and no call may notice.
async fn rotate(
    cluster: &mut Cluster,
    (old, new): (&exchange::Authority, &exchange::Authority),
    first: &Trust,
) -> Result<Figures, NotShown> {
    let both = Trust::new(vec![old.certificate().clone(), new.certificate().clone()]);
    let both = both.during("trust two CAs")?;
    let second = Trust::new(vec![new.certificate().clone()]).during("trust a CA")?;
    let callers = Callers::start(cluster, CALLERS, false);
    let mut renewals = 0;
    let mut renew = async |cluster: &mut Cluster, ca| {
        for node in &mut cluster.nodes {
            let other = NodeId(node.identity.name().node.0 % 3 + 1);
            let before = node.exchange.link(other).map(|link| link.generation);
            node.identity = renewed(ca, &node.identity)?;
            let left = node.exchange.renew(&node.identity).await.during("renew")?;
            demand!(left == 0, "{left} connections were not replaced by a renewal");
            let after = node.exchange.link(other).map(|link| link.generation);
            demand!(before < after, "a renewal left generation {before:?} at {after:?}");
            renewals += 1;
        }
        Ok::<_, NotShown>(())
    };
    for _ in 0..RENEWALS {
        renew(cluster, old).await?;
    }
    // Whoever has not heard of the new CA when the old one goes is refused.
    let straggler = Shown::by(old, &name("mill", 3), lasting())?;
    cluster.nodes.iter().for_each(|node| node.exchange.trust(&both));
    renew(cluster, new).await?;
    cluster.settle().await?;
    cluster.nodes.iter().for_each(|node| node.exchange.trust(&second));
    cluster.nodes.iter().for_each(|node| node.exchange.recheck());
    sleep(Duration::from_millis(300)).await;
    cluster.settle().await?;
    let seen = refusals::straggler(cluster, &straggler).await?;
    seen.judge().map_err(broken)?;
    demand!(first != &second, "the rotation led back to the old CA");
    let (load, blobs) = callers.stop().await?;
    demand!(200 <= load.last, "only {} calls while certificates changed", load.last);
    demand!(0 < blobs, "no blob while certificates changed");
    load.judge(|number| answer(number).to_vec()).map_err(broken)?;
    Ok(Figures::default()
        .with("renewals", renewals)
        .with("calls_while_renewing", load.last)
        .with("blobs_while_renewing", blobs)
        .with("dropped", 0))
}

/// Connections are cut while calls are on their way: whoever asks again has every answer.
async fn reconnect(cluster: &Cluster, cuts: u64, rng: &mut Rng) -> Result<Figures, NotShown> {
    let callers = Callers::start(cluster, CALLERS, true);
    let (mut effective, mut slowest) = (0, Duration::ZERO);
    for _ in 0..cuts {
        let own = 1 + rng.draw(3);
        let other = 1 + (own + rng.draw(2)) % 3;
        let (own, other) = (cluster.node(own), NodeId(other));
        let before = own.exchange.link(other).map(|link| link.generation);
        let began = Instant::now();
        own.exchange.cut(other);
        loop {
            let now = own.exchange.link(other).map(|link| link.generation);
            if before < now {
                break;
            }
            demand!(began.elapsed() < PATIENCE, "not connected again after {before:?}");
            sleep(Duration::from_millis(1)).await;
        }
        slowest = slowest.max(began.elapsed());
        effective += u64::from(before.is_some());
        sleep(rng.time(Duration::from_millis(1), Duration::from_millis(30))).await;
    }
    let lost = callers.lost();
    let (load, _) = callers.stop().await?;
    cluster.settle().await?;
    load.judge(|number| answer(number).to_vec()).map_err(broken)?;
    demand!(0 < lost, "no call met a cut: nothing was shown");
    let mut red = 0;
    for planted in load.planted() {
        demand!(planted.judge(|it| answer(it).to_vec()).is_err(), "a planted fault stayed green");
        red += 1;
    }
    Ok(Figures::default()
        .with("reconnects", effective)
        .with("slowest_reconnect_ms", u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX))
        .with("calls_while_cut", load.last)
        .with("asked_again", lost)
        .with("load_red", red))
}
