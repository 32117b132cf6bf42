//! Joining over loopback: who is let in, who is not, and who never hears a secret (XC-2).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::{HOUR, SOON, Table, authority, identity, lasting, name, now, timing, trust};
use crate::{
    Answer, Authority, CallError, Config, Exchange, Fingerprint, Handler, Handling, JoinAnswer,
    JoinError, JoinRequest, Kind, Life, NodeKey, Peer, Refusal, Request, Token, TokenBook, Trust,
    join,
};

/// Lets joiners in: what a voter will do through Raft.
struct Registrar {
    ca: Authority,
    trust: Trust,
    book: Mutex<TokenBook>,
    asked: Mutex<Vec<Request>>,
}

impl Registrar {
    fn let_in(&self, request: &Request) -> Result<JoinAnswer, Refusal> {
        let join = JoinRequest::decode(&request.payload)?;
        self.book.lock().unwrap().redeem(&join.token, &self.trust, now())?;
        let name = name("mill", 7);
        let issued = self.ca.issue(&name, &join.key, lasting()).unwrap();
        let ca = self.ca.certificate().clone();
        let about = join.about.to_uppercase();
        Ok(JoinAnswer { name, issued, ca, trust: self.trust.clone(), about })
    }
}

impl Handler for Registrar {
    fn handle(&self, request: Request) -> Handling<'_> {
        self.asked.lock().unwrap().push(request.clone());
        Box::pin(async move {
            match self.let_in(&request) {
                Ok(answer) => Answer::Bytes(answer.encode().into()),
                Err(refusal) => Answer::Refused(refusal),
            }
        })
    }
}

fn registrar() -> (Arc<Registrar>, Exchange, SocketAddr) {
    let ca = authority("mill");
    let (own, trust) = (identity(&ca, name("mill", 1), lasting()), trust(&[&ca]));
    let (book, asked) = (Mutex::default(), Mutex::default());
    let registrar = Arc::new(Registrar { ca, trust: trust.clone(), book, asked });
    let config = Config { bind: ([127, 0, 0, 1], 0).into(), timing: timing() };
    let (members, handler) = (Arc::new(Table::default()), Arc::clone(&registrar) as _);
    let exchange = Exchange::start(config, (&own, &trust), members, handler).unwrap();
    let address = exchange.local_address().unwrap();
    (registrar, exchange, address)
}

fn mint(registrar: &Registrar, ca: Fingerprint, life: Life) -> Token {
    registrar.book.lock().unwrap().mint(ca, life, rand::random()).unwrap()
}

async fn try_join(address: SocketAddr, token: &Token) -> Result<(), JoinError> {
    let key = NodeKey::generate().unwrap();
    let fingerprint = key.public().fingerprint();
    let (identity, trust, about) =
        join(address, token.clone(), key, "from the cellar".to_owned(), SOON).await?;
    assert_eq!(about, "FROM THE CELLAR");
    assert_eq!(identity.name(), &name("mill", 7));
    assert_eq!(identity.public_key().fingerprint(), fingerprint);
    assert!(trust.fingerprints().contains(&token.ca()));
    Ok(())
}

#[tokio::test]
async fn a_token_lets_one_in_and_others_are_refused_by_name() {
    let (registrar, exchange, address) = registrar();
    let ca = registrar.ca.certificate().fingerprint();
    let token = mint(&registrar, ca, Life::new(now(), HOUR));
    try_join(address, &token).await.unwrap();
    let from = registrar.asked.lock().unwrap()[0].clone();
    assert!(matches!(from, Request { peer: Peer::Joiner(_), kind: Kind::JOIN, .. }));

    let expired = mint(&registrar, ca, Life::new(now() - HOUR, HOUR));
    let made_up = format!("mrj1-{ca}-{}", "00".repeat(16)).parse().unwrap();
    for (token, refusal) in [
        (&token, Refusal::UsedToken),
        (&expired, Refusal::ExpiredToken),
        (&made_up, Refusal::UnknownToken),
    ] {
        let refused = try_join(address, token).await;
        let Err(JoinError::Call(CallError::Refused(said))) = refused else { panic!("{refused:?}") };
        assert_eq!((said.as_str(), exchange.refused(refusal)), (refusal.name(), 1));
    }
}

#[tokio::test]
async fn a_secret_is_not_told_to_who_has_another_ca() {
    let (mill, _exchange, _) = registrar();
    let token = mint(&mill, mill.ca.certificate().fingerprint(), Life::new(now(), HOUR));
    // One with a CA of its own for a cluster of the same name.
    let (other, _other_exchange, address) = registrar();
    let refused = try_join(address, &token).await;
    assert!(matches!(refused, Err(JoinError::NotTold(Refusal::WrongCa))), "{refused:?}");
    assert!(other.asked.lock().unwrap().is_empty(), "nothing was asked");
}

#[tokio::test]
async fn a_ca_that_is_shown_but_did_not_sign_is_not_believed() {
    // Its certificate is public: anybody can put it behind one of his own.
    let (mill, fake) = (authority("mill"), authority("mill"));
    let own = identity(&fake, name("mill", 1), lasting());
    let shown = own.renewed(
        fake.issue(own.name(), &own.public_key(), lasting()).unwrap(),
        mill.certificate().clone(),
    );
    let trusted = trust(&[&fake]);
    let config = Config { bind: ([127, 0, 0, 1], 0).into(), timing: timing() };
    let echo = Arc::new(super::Echo::default());
    let members = Arc::new(Table::default());
    let exchange = Exchange::start(config, (&shown.unwrap(), &trusted), members, echo).unwrap();
    let token = TokenBook::default()
        .mint(mill.certificate().fingerprint(), Life::new(now(), HOUR), [7; 16])
        .unwrap();
    let refused = try_join(exchange.local_address().unwrap(), &token).await;
    assert!(matches!(refused, Err(JoinError::NotTold(Refusal::WrongCa))), "{refused:?}");
}
