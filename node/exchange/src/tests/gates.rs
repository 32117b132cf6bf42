//! Each certificate that may not come in, by the name of its refusal (XC-1).

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::{HOUR, Table, authority, identity, lasting, name, now, trust};
use crate::credentials::Credentials;
use crate::gate::{Gate, Side};
use crate::refusal::Refusals;
use crate::{Authority, Identity, Life, Member, NodeName, Refusal, Trust};

fn gate(own: &Identity, trust: &Trust, table: &Arc<Table>) -> Gate {
    let credentials = Arc::new(Credentials::new(own, trust).unwrap());
    Gate { credentials, members: Arc::clone(table) as _, refusals: Refusals::default() }
}

fn judge(gate: &Gate, identity: &Identity) -> Result<NodeName, Refusal> {
    let shown = CertificateDer::from(identity.issued().der.clone());
    let both = [Side::Client, Side::Server];
    let both = both.map(|side| gate.judge(&shown, side, UnixTime::now()));
    assert_eq!(both[0], both[1], "each half of a handshake judges alike");
    both[0].clone()
}

#[test]
fn the_table_decides_who_comes_in_and_each_refusal_has_its_name() {
    let (ca, other) = (authority("mill"), authority("other"));
    let twin = authority("mill");
    let own = identity(&ca, name("mill", 1), lasting());
    let table = Arc::new(Table::default());
    let gate = gate(&own, &trust(&[&ca]), &table);
    let of = |ca: &Authority, life| {
        let identity = identity(ca, name(ca.cluster(), 2), life);
        table.admit(&identity);
        identity
    };

    let member = of(&ca, lasting());
    assert_eq!(judge(&gate, &member), Ok(name("mill", 2)));
    table.set(2, Member::Removed);
    assert_eq!(judge(&gate, &member), Err(Refusal::RemovedMember));
    table.set(2, Member::Unknown);
    assert_eq!(judge(&gate, &member), Err(Refusal::UnknownMember));
    let key = member.public_key().fingerprint();
    table.set(2, Member::Is { incarnation: 2, keys: vec![key] });
    assert_eq!(judge(&gate, &member), Err(Refusal::StaleIncarnation));
    table.set(2, Member::Is { incarnation: 1, keys: vec![own.public_key().fingerprint()] });
    assert_eq!(judge(&gate, &member), Err(Refusal::ForeignKey));
    let keys = vec![own.public_key().fingerprint(), key];
    table.set(2, Member::Is { incarnation: 1, keys });
    assert_eq!(judge(&gate, &member), Ok(name("mill", 2)), "either key, while it is replaced");

    assert_eq!(judge(&gate, &of(&ca, Life::new(now() - 2 * HOUR, HOUR))), Err(Refusal::Expired));
    assert_eq!(judge(&gate, &of(&ca, Life::new(now() + HOUR, HOUR))), Err(Refusal::NotYetValid));
    assert_eq!(judge(&gate, &of(&other, lasting())), Err(Refusal::ForeignCluster));
    assert_eq!(judge(&gate, &of(&twin, lasting())), Err(Refusal::UnknownIssuer));

    let side = Side::Client;
    let ca_itself = CertificateDer::from(ca.certificate().der());
    let malformed = Err(Refusal::MalformedCertificate);
    assert_eq!(gate.judge(&ca_itself, side, UnixTime::now()), malformed, "a CA is no node");
    let bytes = CertificateDer::from(vec![0x30, 3, 2, 1, 1]);
    assert_eq!(gate.judge(&bytes, side, UnixTime::now()), malformed);
}

#[test]
fn a_rotation_has_a_window_in_which_both_cas_are_trusted() {
    let (old, new) = (authority("mill"), authority("mill"));
    let own = identity(&old, name("mill", 1), lasting());
    let table = Arc::new(Table::default());
    let gate = gate(&own, &trust(&[&old]), &table);
    let before = identity(&old, name("mill", 2), lasting());
    table.admit(&before);
    let issued = new.issue(before.name(), &before.public_key(), lasting()).unwrap();
    let after = before.renewed(issued, new.certificate().clone()).unwrap();

    let judged = |gate: &Gate| [judge(gate, &before).is_ok(), judge(gate, &after).is_ok()];
    assert_eq!(judged(&gate), [true, false]);
    gate.credentials.trust(&trust(&[&old, &new]));
    assert_eq!(judged(&gate), [true, true]);
    gate.credentials.trust(&trust(&[&new]));
    assert_eq!(judged(&gate), [false, true]);
    assert_eq!(judge(&gate, &before), Err(Refusal::UnknownIssuer));
}
