//! Each thing that must not come in, and what was seen of it: counter, log, and whether it got
//! anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use exchange::{Authority, Fingerprint, JoinError, Kind, Life, Member, NodeId, NodeKey, Refusal};
use exchange::{Token, Trust, join};
use tokio::time::{Instant, sleep};

use super::nodes::{HOUR, Node, authority, identity, lasting, name, now, start};
use super::stranger::{self, Shown, hello, request};
use super::verdict::Seen;
use super::{Cluster, PATIENCE, log};
use crate::demand;
use crate::promise::{During, Figures, NotShown, broken};

const PEER: &[u8] = b"millrace-peer/1";
const JOIN: &[u8] = b"millrace-join/1";
const PING: u16 = 2;

/// What node 1 has counted and logged so far; taken before and after.
struct Watch<'a> {
    node: &'a Node,
    before: BTreeMap<&'static str, u64>,
}

fn counted(node: &Node) -> BTreeMap<&'static str, u64> {
    Refusal::ALL.into_iter().map(|it| (it.name(), node.exchange.refused(it))).collect()
}

impl<'a> Watch<'a> {
    fn new(node: &'a Node) -> Self {
        drop(log::take());
        Self { node, before: counted(node) }
    }

    /// What was seen since then, once the reason that it must have was counted, or after a while.
    async fn seen(self, wanted: Refusal, got_in: bool) -> Seen {
        let until = Instant::now() + Duration::from_secs(3);
        let mut logged = Vec::new();
        loop {
            let grew: BTreeMap<&'static str, u64> = counted(self.node)
                .into_iter()
                .map(|(reason, count)| (reason, count - self.before[reason]))
                .filter(|(_, grew)| *grew != 0)
                .collect();
            logged.extend(log::take());
            let is_there = grew.contains_key(wanted.name()) && !logged.is_empty();
            if is_there || until < Instant::now() {
                return Seen { wanted: wanted.name(), grew, logged, got_in };
            }
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Refuses all of them; how many, and how many planted faults were red.
pub(super) async fn run(cluster: &Cluster, ca: &Authority) -> Result<Figures, NotShown> {
    let mut all = peers(cluster, ca).await?;
    all.extend(requests(cluster, ca).await?);
    all.extend(joiners(cluster, ca).await?);
    all.push(removed_while_connected(cluster, ca).await?);
    all.extend(answerers(cluster).await?);
    let mut red = 0;
    for seen in &all {
        seen.judge().map_err(broken)?;
        for planted in seen.planted() {
            demand!(planted.judge().is_err(), "a planted fault stayed green: {planted:?}");
            red += 1;
        }
    }
    Ok(Figures::default().with("refused", all.len()).with("refusal_red", red))
}

/// Dials node 1 and sends a hello; whether it was let in.
async fn try_peer(
    cluster: &Cluster,
    protocol: &[u8],
    shown: Option<&Shown>,
    first: &[u8],
) -> Result<bool, NotShown> {
    let (_quic, connection) = stranger::dial(cluster.node(1).address, protocol, shown).await?;
    let Ok(connection) = connection else { return Ok(false) };
    // An answer with status 0 is one of somebody who was let in.
    let answer = stranger::send(&connection, first).await;
    Ok(answer.is_ok_and(|answer| answer.get(2..4) == Some(&[0, 0])))
}

/// Certificates and protocols.
async fn peers(cluster: &Cluster, ca: &Authority) -> Result<Vec<Seen>, NotShown> {
    let (other, twin) = (authority("other")?, authority("mill")?);
    let table = &cluster.table;
    let member = |shown: &Shown, node| {
        table.set(node, Member::Is { incarnation: 1, keys: vec![shown.fingerprint] });
    };
    let by = |ca: &Authority, node, life| Shown::by(ca, &name(ca.cluster(), node), life);
    let foreign = by(&other, 5, lasting())?;
    let of_twin = by(&twin, 5, lasting())?;
    let expired = by(ca, 5, Life::new(now() - 2 * HOUR, HOUR))?;
    let early = by(ca, 5, Life::new(now() + HOUR, HOUR))?;
    let unknown = by(ca, 9, lasting())?;
    let removed = by(ca, 8, lasting())?;
    table.set(8, Member::Removed);
    let stale = by(ca, 7, lasting())?;
    table.set(7, Member::Is { incarnation: 2, keys: vec![stale.fingerprint] });
    let another_key = by(ca, 2, lasting())?;
    let good = by(ca, 6, lasting())?;
    member(&good, 6);
    let ping = request(1, PING, 0, b"");
    let mut all = Vec::new();
    for (refusal, protocol, shown, first) in [
        (Refusal::NoCertificate, PEER, None, hello()),
        (Refusal::ForeignCluster, PEER, Some(&foreign), hello()),
        (Refusal::UnknownIssuer, PEER, Some(&of_twin), hello()),
        (Refusal::Expired, PEER, Some(&expired), hello()),
        (Refusal::NotYetValid, PEER, Some(&early), hello()),
        (Refusal::UnknownMember, PEER, Some(&unknown), hello()),
        (Refusal::RemovedMember, PEER, Some(&removed), hello()),
        (Refusal::StaleIncarnation, PEER, Some(&stale), hello()),
        (Refusal::ForeignKey, PEER, Some(&another_key), hello()),
        (Refusal::UnknownProtocol, b"millrace-peer/9".as_slice(), Some(&good), hello()),
        (Refusal::NoHello, PEER, Some(&good), ping),
    ] {
        // The chain alone would let these in where the table does not.
        if refusal == Refusal::Expired {
            member(&expired, 5);
        }
        if refusal == Refusal::NotYetValid {
            member(&early, 5);
        }
        let watch = Watch::new(cluster.node(1));
        let got_in = try_peer(cluster, protocol, shown, &first).await?;
        all.push(watch.seen(refusal, got_in).await);
    }
    // That the stranger can come in at all, or nothing was shown.
    let got_in = try_peer(cluster, PEER, Some(&good), &hello()).await?;
    demand!(got_in, "a member with all that it needs was not let in");
    Ok(all)
}

/// Requests of a member that must not be served.
async fn requests(cluster: &Cluster, ca: &Authority) -> Result<Vec<Seen>, NotShown> {
    let good = Shown::by(ca, &name("mill", 6), lasting())?;
    let keys = vec![good.fingerprint];
    cluster.table.set(6, Member::Is { incarnation: 1, keys });
    let (_quic, connection) = stranger::dial(cluster.node(1).address, PEER, Some(&good)).await?;
    let connection = connection.map_err(broken)?;
    stranger::send(&connection, &hello()).await.map_err(broken)?;
    let too_long = (8 << 20) + 1;
    let mut all = Vec::new();
    for (refusal, bytes, said) in [
        (Refusal::UnknownVersion, request(2, PING, 0, b""), "unknown-version: unknown version 2"),
        (Refusal::UnknownKind, request(1, 77, 0, b""), "unknown-kind: 77"),
        (Refusal::ForeignKind, request(1, 8, 0, b""), "foreign-kind: join"),
        (Refusal::ForeignKind, hello(), "foreign-kind: hello"),
        (Refusal::BadFrame, request(1, PING, 9, b"short"), "inside a frame"),
        (Refusal::BadFrame, request(1, PING, 0, b"more"), "behind the end"),
        (Refusal::BadFrame, request(1, PING, too_long, b""), "8388609 bytes, 8388608 may be"),
        (Refusal::BadFrame, b"\x01GET / HTTP/1.1".to_vec(), "unknown shape 71"),
    ] {
        let watch = Watch::new(cluster.node(1));
        let answer = stranger::send(&connection, &bytes).await.map_err(broken)?;
        // Status 2, and the reason in words.
        let text = String::from_utf8_lossy(answer.get(24..).unwrap_or_default()).into_owned();
        let is_refusal = answer.get(2..4) == Some(&[2, 0]) && text.contains(said);
        all.push(watch.seen(refusal, !is_refusal).await);
    }
    let served = stranger::send(&connection, &request(1, PING, 8, &[7; 8])).await;
    let is_served = served.is_ok_and(|answer| answer.get(2..4) == Some(&[0, 0]));
    demand!(is_served, "a request after those that were refused was not served");
    Ok(all)
}

fn mint(cluster: &Cluster, ca: Fingerprint, life: Life) -> Result<Token, NotShown> {
    let mut book = cluster.desk.book.lock().during("open the book")?;
    book.mint(ca, life, rand::random()).ok_or_else(|| broken("the book is full"))
}

/// Tokens, and who must never hear one.
async fn joiners(cluster: &Cluster, ca: &Authority) -> Result<Vec<Seen>, NotShown> {
    let address = cluster.node(1).address;
    let own = ca.certificate().fingerprint();
    let key = || NodeKey::generate().during("make a key");
    let token = mint(cluster, own, Life::new(now(), HOUR))?;
    let joined =
        join(address, token.clone(), key()?, String::new(), PATIENCE).await.during("join")?;
    demand!(joined.0.name() == &name("mill", 20), "joined as {}", joined.0.name());
    let expired = mint(cluster, own, Life::new(now() - HOUR, HOUR))?;
    let made_up = format!("mrj1-{own}-{}", "00".repeat(16)).parse().during("read a token")?;
    let mut all = Vec::new();
    for (refusal, token) in [
        (Refusal::UsedToken, token.clone()),
        (Refusal::ExpiredToken, expired),
        (Refusal::UnknownToken, made_up),
    ] {
        let watch = Watch::new(cluster.node(1));
        let ended = join(address, token, key()?, String::new(), PATIENCE).await;
        all.push(watch.seen(refusal, ended.is_ok()).await);
    }
    // Whoever does not look at the CA sends a token of another cluster, by hand.
    let foreign = authority("other")?;
    let foreign_token = mint(cluster, foreign.certificate().fingerprint(), Life::new(now(), HOUR))?;
    let key = key()?;
    let told = exchange::JoinRequest::new(foreign_token, &key, String::new());
    let told = told.during("ask to join")?.encode();
    let length = u32::try_from(told.len()).during("write a request")?;
    for (refusal, bytes) in [
        (Refusal::ForeignToken, request(1, 8, length, &told)),
        (Refusal::ForeignKind, request(1, PING, 0, b"")),
        (Refusal::BadFrame, request(1, 8, 5_000, &[0; 5_000])),
    ] {
        let watch = Watch::new(cluster.node(1));
        let got_in = try_peer(cluster, JOIN, None, &bytes).await?;
        all.push(watch.seen(refusal, got_in).await);
    }
    // Another cluster's node where the joiner looks for this one: it is told nothing.
    let before = *cluster.desk.told.lock().during("read what was told")?;
    let (node, desk) = elsewhere("mill")?;
    let token = mint(cluster, own, Life::new(now(), HOUR))?;
    let ended = join(
        node.address,
        token,
        NodeKey::generate().during("make a key")?,
        String::new(),
        PATIENCE,
    )
    .await;
    let is_wrong = matches!(ended, Err(JoinError::NotTold(Refusal::WrongCa)));
    demand!(is_wrong, "a joiner did not see another CA: {ended:?}");
    let told = *desk.told.lock().during("read what was told")?;
    let own_told = *cluster.desk.told.lock().during("read what was told")?;
    demand!(told == 0 && own_told == before, "a secret was told to another CA");
    Ok(all)
}

/// An endpoint of a cluster of its own, with a CA of its own.
fn elsewhere(cluster: &str) -> Result<(Node, std::sync::Arc<super::Desk>), NotShown> {
    let ca = authority(cluster)?;
    let trust = Trust::new(vec![ca.certificate().clone()]).during("trust a CA")?;
    let identity = identity(&ca, 4)?;
    let table = std::sync::Arc::new(super::Table::default());
    table.admit(&identity);
    let desk = std::sync::Arc::new(super::Desk::new(ca, trust.clone()));
    Ok((start(identity, &trust, &table, &desk)?, desk))
}

/// A member that is removed while it has a connection.
async fn removed_while_connected(cluster: &Cluster, ca: &Authority) -> Result<Seen, NotShown> {
    let shown = Shown::by(ca, &name("mill", 6), lasting())?;
    let keys = vec![shown.fingerprint];
    cluster.table.set(6, Member::Is { incarnation: 1, keys });
    let (_quic, connection) = stranger::dial(cluster.node(1).address, PEER, Some(&shown)).await?;
    let connection = connection.map_err(broken)?;
    stranger::send(&connection, &hello()).await.map_err(broken)?;
    let watch = Watch::new(cluster.node(1));
    cluster.table.set(6, Member::Removed);
    cluster.node(1).exchange.recheck();
    let ended = tokio::time::timeout(PATIENCE, connection.closed()).await;
    let said = ended.map(|ended| ended.to_string()).unwrap_or_default();
    Ok(watch.seen(Refusal::RemovedMember, !said.contains("removed-member")).await)
}

/// Who is dialled and is another than it should be.
async fn answerers(cluster: &Cluster) -> Result<Vec<Seen>, NotShown> {
    let (node, _desk) = elsewhere("other")?;
    let one = cluster.node(1);
    let mut all = Vec::new();
    for (refusal, address) in
        [(Refusal::ForeignCluster, node.address), (Refusal::WrongNode, cluster.node(2).address)]
    {
        let watch = Watch::new(one);
        one.exchange.set_peer(NodeId(30), address);
        let short = Duration::from_millis(300);
        let got_in =
            one.exchange.call(NodeId(30), Kind::PING, vec![7; 8].into(), short).await.is_ok();
        one.exchange.forget_peer(NodeId(30));
        all.push(watch.seen(refusal, got_in).await);
    }
    Ok(all)
}

/// A member whose certificate is of the CA that was replaced.
pub(super) async fn straggler(cluster: &Cluster, shown: &Shown) -> Result<Seen, NotShown> {
    let watch = Watch::new(cluster.node(1));
    let got_in = try_peer(cluster, PEER, Some(shown), &hello()).await?;
    Ok(watch.seen(Refusal::UnknownIssuer, got_in).await)
}
