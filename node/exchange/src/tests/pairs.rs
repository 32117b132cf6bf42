//! Connections of a pair: one is kept, it is made again, renewals and removals show (XC-1, XC-3).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Node, SOON, authority, identity, lasting, name, pair, start, trust, until};
use crate::{CallError, FORMATS, Kind, Member, NodeId, Refusal};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

fn link_of(node: &Node, other: NodeId) -> Option<(NodeId, u64)> {
    node.exchange.link(other).map(|link| (link.dialer, link.generation))
}

async fn ping(node: &Node, other: NodeId) -> Result<Bytes, CallError> {
    node.exchange.call(other, Kind::PING, Bytes::from_static(b"x"), SOON).await
}

#[tokio::test]
async fn when_both_dial_both_keep_the_same_connection() {
    for _ in 0..10 {
        let (_, _, [one, two]) = pair();
        one.exchange.set_peer(TWO, two.address);
        two.exchange.set_peer(ONE, one.address);
        let both = tokio::join!(ping(&one, TWO), ping(&two, ONE));
        assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
        until("one connection", || {
            let links = (link_of(&one, TWO), link_of(&two, ONE));
            let open = [&one, &two].map(|it| it.exchange.inner.quic.open_connections());
            links.0.is_some() && links.0 == links.1 && open == [1, 1]
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_that_was_cut_is_made_again_and_calls_wait_for_it() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    for round in 1..=5 {
        assert!(ping(&one, TWO).await.is_ok());
        let (_, generation) = link_of(&one, TWO).unwrap();
        assert_eq!(generation, round);
        let node = if round % 2 == 0 { &one } else { &two };
        node.exchange.cut(if round % 2 == 0 { TWO } else { ONE });
        until("it is over", || link_of(&one, TWO) != Some((ONE, generation))).await;
    }
}

#[tokio::test]
async fn a_node_that_starts_again_is_taken_back_at_once() {
    let (ca, identities, [one, two]) = pair();
    two.exchange.set_peer(ONE, one.address);
    assert!(ping(&two, ONE).await.is_ok());
    drop(two.exchange);
    let again = start(&identities[1], &trust(&[&ca]));
    identities.iter().for_each(|identity| again.table.admit(identity));
    again.exchange.set_peer(ONE, one.address);
    assert!(ping(&again, ONE).await.is_ok());
    assert!(ping(&one, TWO).await.is_ok(), "and asked over the connection that it made");
}

#[tokio::test]
async fn a_renewal_shows_at_the_other_side_without_a_call_that_fails() {
    let (ca, identities, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    assert!(ping(&one, TWO).await.is_ok());
    let shown = two.exchange.link(ONE).unwrap().certificate;
    // On its way over the old connection when it is replaced.
    let fetch = Bytes::from(format!("{} right", 4 << 20));
    let fetched = one.exchange.fetch(TWO, Kind::BLOB, fetch, SOON, u64::MAX).await;
    let issued = ca.issue(identities[0].name(), &identities[0].public_key(), lasting()).unwrap();
    let renewed = identities[0].renewed(issued, ca.certificate().clone()).unwrap();
    assert_eq!(one.exchange.renew(&renewed).await.unwrap(), 0);
    let link = two.exchange.link(ONE).unwrap();
    assert_ne!(link.certificate, shown);
    assert_eq!(link.generation, 2);
    assert!(ping(&one, TWO).await.is_ok());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut reader = fetched.unwrap();
    while reader.next().await.unwrap().is_some() {}
    drop(reader);
    until("the old one is gone", || one.exchange.inner.quic.open_connections() == 1).await;
    // The other side renews: it has no address of this one but the connection's.
    let issued = ca.issue(identities[1].name(), &identities[1].public_key(), lasting()).unwrap();
    let renewed = identities[1].renewed(issued, ca.certificate().clone()).unwrap();
    assert_eq!(two.exchange.renew(&renewed).await.unwrap(), 0);
    assert_eq!(link_of(&one, TWO), Some((TWO, 3)));
    assert!(ping(&one, TWO).await.is_ok());
}

#[tokio::test]
async fn who_is_removed_is_cut_off_and_stays_out() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    assert!(ping(&one, TWO).await.is_ok());
    two.table.set(1, Member::Removed);
    assert!(ping(&one, TWO).await.is_ok(), "the table is asked when it changes");
    two.exchange.recheck();
    let both = || link_of(&two, ONE).is_none() && link_of(&one, TWO).is_none();
    until("it is cut off", both).await;
    let before = two.exchange.refused(Refusal::RemovedMember);
    assert!(before != 0);
    let short = Duration::from_millis(500);
    let answer = one.exchange.call(TWO, Kind::PING, Bytes::new(), short).await;
    assert_eq!(answer, Err(CallError::Deadline));
    assert!(before < two.exchange.refused(Refusal::RemovedMember), "it tried again");
}

#[tokio::test]
async fn who_answers_is_judged_as_who_dials_is() {
    let (ca, _, [one, two]) = pair();
    // A third node where the second should be.
    let third = identity(&ca, name("mill", 3), lasting());
    let other = start(&third, &trust(&[&ca]));
    one.table.admit(&third);
    one.exchange.set_peer(TWO, other.address);
    until("another node", || one.exchange.refused(Refusal::WrongNode) != 0).await;
    // Another cluster.
    let foreign = authority("other");
    let foreign = (identity(&foreign, name("other", 2), lasting()), trust(&[&foreign]));
    let other = start(&foreign.0, &foreign.1);
    one.exchange.set_peer(TWO, other.address);
    until("another cluster", || one.exchange.refused(Refusal::ForeignCluster) != 0).await;
    assert_eq!(link_of(&one, TWO), None);
    one.exchange.set_peer(TWO, two.address);
    assert!(ping(&one, TWO).await.is_ok());
    assert!(Arc::strong_count(&two.table) != 0);
}

/// XC-6: a format that one of a pair does not read ends their connection, by name on both sides,
/// also where it was dialled before; nobody who reads it is refused.
#[tokio::test]
async fn who_does_not_read_the_active_format_is_refused_and_told() {
    let (_, _, [one, two]) = pair();
    one.exchange.set_peer(TWO, two.address);
    one.exchange.inner.wait_link(TWO).await.unwrap();
    let later = FORMATS.newest + 1;
    let mut unread = two.exchange.unread();
    one.exchange.speak(later);
    let told = unread.wait_for(|by| !by.is_empty()).await.unwrap().clone();
    assert_eq!(told, [(ONE, later)].into());
    // One dials again and is told by the answer what two reads; two dials and is told no.
    two.exchange.set_peer(ONE, one.address);
    let refused = one.exchange.refused(Refusal::UnreadFormat);
    until("refused again and again", || refused + 3 <= one.exchange.refused(Refusal::UnreadFormat))
        .await;
    assert!(one.exchange.link(TWO).is_none(), "XC-6");
    assert!(one.exchange.unread().borrow().is_empty(), "who refuses was not refused");
    one.exchange.speak(FORMATS.newest);
    assert_eq!(ping(&one, TWO).await.unwrap(), "x");
}
