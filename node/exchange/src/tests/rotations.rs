//! Two CAs at a time: who knows one of them alone finds the other, and nobody else does.

use std::sync::Arc;

use super::{SOON, Table, authority, identity, lasting, name, now, timing, trust};
use crate::{
    Answer, Config, Exchange, Handler, Handling, JoinError, JoinRequest, Life, NodeKey, Refusal,
    Request, Token, Trust, join,
};

/// Refuses whoever tells it a token.
struct Deaf;

impl Handler for Deaf {
    fn handle(&self, request: Request) -> Handling<'_> {
        Box::pin(async move {
            match JoinRequest::decode(&request.payload) {
                Ok(_) => Answer::Refused(Refusal::UsedToken),
                Err(refusal) => Answer::Refused(refusal),
            }
        })
    }
}

/// Whether a joiner with a token of this CA told it.
async fn is_told(exchange: &Exchange, token: Token) -> bool {
    let address = exchange.local_address().unwrap();
    let ended = join(address, token, NodeKey::generate().unwrap(), String::new(), SOON).await;
    match ended {
        Err(JoinError::NotTold(refusal)) => {
            assert_eq!(refusal, Refusal::WrongCa);
            false
        }
        Err(JoinError::Call(_)) => true,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_of_either_ca_is_good_while_both_are_trusted() {
    let (old, new, other) = (authority("mill"), authority("mill"), authority("mill"));
    let [of_old, of_new, of_other] =
        [&old, &new, &other].map(|ca| Token::new(ca.certificate().fingerprint(), [7; 16]));
    let own = identity(&old, name("mill", 1), lasting());
    let config = Config { bind: ([127, 0, 0, 1], 0).into(), timing: timing() };
    let parts = (Arc::new(Table::default()), Arc::new(Deaf));
    let exchange = Exchange::start(config, (&own, &trust(&[&old])), parts.0, parts.1).unwrap();
    assert!(is_told(&exchange, of_old.clone()).await);
    assert!(!is_told(&exchange, of_new.clone()).await);

    let bridges = vec![old.vouch_for(&new).unwrap(), new.vouch_for(&old).unwrap()];
    let both = trust(&[&old, &new]).with_bridges(bridges.clone());
    exchange.trust(&both);
    for issuer in [&old, &new] {
        let issued = issuer.issue(own.name(), &own.public_key(), lasting()).unwrap();
        let renewed = own.renewed(issued, issuer.certificate().clone()).unwrap();
        assert_eq!(exchange.renew(&renewed).await.unwrap(), 0);
        assert!(is_told(&exchange, of_old.clone()).await);
        assert!(is_told(&exchange, of_new.clone()).await);
        assert!(!is_told(&exchange, of_other.clone()).await);
    }
    exchange.trust(&trust(&[&new]));
    assert!(is_told(&exchange, of_new).await);
    assert!(!is_told(&exchange, of_old).await, "the window is over");
    // What another CA says of this one leads nobody here.
    let stray: Trust = trust(&[&new, &other]).with_bridges(bridges);
    exchange.trust(&stray);
    assert!(!is_told(&exchange, of_other).await);
    assert!(old.vouch_for(&authority("other")).is_err());
}

#[test]
fn a_bridge_ends_with_the_first_of_the_two() {
    let (short, long) = (Life::new(now() - 10, 1_000), Life::new(now() - 10, 9_000));
    let [short, long] = [short, long].map(|life| super::Authority::create("mill", life).unwrap());
    for bridge in [short.vouch_for(&long).unwrap(), long.vouch_for(&short).unwrap()] {
        let life = crate::validity::life(&bridge.der).unwrap();
        assert_eq!(Some(life.until), short.certificate().life().map(|it| it.until));
    }
}

#[test]
fn who_has_not_the_key_has_no_proof_of_it() {
    let token = Token::new(crate::Fingerprint([7; 32]), [8; 16]);
    let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let request = JoinRequest::new(token.clone(), &key, "edge-2".to_owned()).unwrap();
    assert_eq!(JoinRequest::decode(&request.encode()), Ok(request.clone()));
    let foreign = JoinRequest { key: other.public(), ..request.clone() };
    let renamed = JoinRequest { about: "edge-3".to_owned(), ..request.clone() };
    let retold = JoinRequest { token: Token::new(token.ca(), [9; 16]), ..request.clone() };
    for bad in [foreign, renamed, retold] {
        assert_eq!(JoinRequest::decode(&bad.encode()), Err(Refusal::UnprovenKey), "{bad:?}");
    }
    let mut former: serde_json::Value = serde_json::from_slice(&request.encode()).unwrap();
    former.as_object_mut().unwrap().remove("proof");
    let former = serde_json::to_vec(&former).unwrap();
    assert_eq!(JoinRequest::decode(&former), Err(Refusal::UnprovenKey));
}
