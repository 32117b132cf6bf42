//! Who follows topics from outside, over QUIC: whether a token is good for what is asked, for as
//! long as it is asked, and where each partition begins. session.rs reads and sends.
//!
//! - **SU-1** a subscriber gets what its token lists and nothing else, from the moment it shows the
//!   token until that is over, revoked, or gone: a change of the state is looked at when it comes.

mod begin;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use cluster::{Cluster, State, SubscriberToken};
use exchange::{Ended, Following, Outlet, Subscriptions};
use live::{Reason, Subscribe, Token};
use serde::Deserialize;
use tokio::time::sleep;

use super::peers::now;

/// The longest wait between two looks at a token.
const LOOK: Duration = Duration::from_secs(60);

/// `[subscribers]` of the node's file. Without an address nobody is let in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct SubscriberSettings {
    /// Where subscribers are let in, by UDP.
    pub listen: Option<SocketAddr>,
    /// How many at a time. Each holds 1 MiB and a reader of the bus.
    pub max: usize,
}

impl Default for SubscriberSettings {
    fn default() -> Self {
        Self { listen: None, max: 256 }
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) cluster: Cluster,
    pub(crate) bus: Arc<dyn Bus>,
}

impl Subscriptions for Desk {
    fn follow<'a>(&'a self, asked: Subscribe, outlet: &'a mut Outlet) -> Following<'a> {
        Box::pin(async move {
            if let Err(ended) = check(&self.cluster.state(), &asked, now()) {
                return Ok(ended);
            }
            let session = session::Session::open(&*self.bus, self.cluster.name(), &asked);
            tokio::select! {
                ended = self.watch(&asked) => Ok(ended),
                followed = async {
                    match session.await {
                        Ok(session) => session.run(outlet).await,
                        Err(ended) => Ok(ended),
                    }
                } => followed,
            }
        })
    }
}

impl Desk {
    /// Until the token is good for it no more (SU-1).
    async fn watch(&self, asked: &Subscribe) -> Ended {
        let mut changes = self.cluster.changes();
        loop {
            let until = match check(&self.cluster.state(), asked, now()) {
                Ok(token) => token.until,
                Err(ended) => return ended,
            };
            let left = Duration::from_secs(until.saturating_sub(now())).min(LOOK);
            tokio::select! {
                // The sender lives as long as the cluster.
                _changed = changes.changed() => {}
                () = sleep(left) => {}
            }
        }
    }
}

/// Whether a token is good for what is asked at this second.
fn check(state: &State, asked: &Subscribe, now: u64) -> Result<SubscriberToken, Ended> {
    let id = asked.token;
    let token = state.subscribers().tokens().get(&id.0);
    // Who does not know the secret learns nothing of a token, not even whether there is one.
    let Some(token) = token.filter(|it| Token::is_same(&it.hash, &asked.hash)) else {
        return Err(Ended::new(Reason::UnknownToken, "no such token was made in this cluster"));
    };
    if token.revoked.is_some() {
        return Err(Ended::new(Reason::RevokedToken, format!("token {id} was revoked")));
    }
    if token.until <= now {
        return Err(Ended::new(Reason::ExpiredToken, format!("the time of token {id} is over")));
    }
    match asked.topics.iter().find(|topic| !token.topics.iter().any(|it| lists(it, topic))) {
        Some(topic) => {
            let said = format!("token {id} does not list topic {}", topic.escape_debug());
            Err(Ended::new(Reason::UnlistedTopic, said))
        }
        None => Ok(token.clone()),
    }
}

/// Topics of Millrace's own: parked records and histories.
const OWN: &str = "millrace.";

/// Whether a pattern means a topic: its name, or the start of it and a star. Millrace's own topics
/// are meant by patterns that begin as they do.
fn lists(pattern: &str, topic: &str) -> bool {
    if topic.starts_with(OWN) && !pattern.starts_with(OWN) {
        return false;
    }
    match pattern.strip_suffix('*') {
        Some(start) => topic.starts_with(start),
        None => pattern == topic,
    }
}

/// Whether this can be a pattern.
pub(crate) fn is_pattern(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.len() <= 249 && name.bytes().all(is_legal)
}

#[cfg(test)]
mod tests {
    use cluster::{Command, SubscriberChange};
    use live::{Start, TokenId};

    use super::*;

    #[test]
    fn a_star_means_what_begins_so_but_never_what_is_millraces_own() {
        assert!(lists("alerts", "alerts") && !lists("alerts", "alerts.dead"));
        assert!(lists("alerts*", "alerts") && lists("alerts*", "alerts.dead"));
        assert!(lists("*", "a") && !lists("*", "millrace.history.a.b.c"));
        assert!(lists("millrace.history*", "millrace.history.a.b.c"));
        assert!(!lists("mill*", "millrace.history.a.b.c") && lists("mill*", "mill"));
        for good in ["*", "a", "a.b-c_d*"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in ["", "a*b", "**", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }

    #[test]
    fn a_token_is_good_for_its_topics_and_its_time() {
        let mut state = State::default();
        let token = Token::new([1; 32], TokenId(7), [2; 32]);
        let made = SubscriberToken {
            hash: token.hash(),
            name: String::new(),
            topics: vec!["alerts*".to_owned()],
            at: 100,
            until: 200,
            revoked: None,
        };
        state.apply(&Command::Subscriber { id: 7, change: SubscriberChange::Make(made) }).unwrap();
        let asked = |topics: &[&str], hash| Subscribe {
            token: TokenId(7),
            hash,
            topics: topics.iter().map(|it| (*it).to_owned()).collect(),
            start: Start::Latest,
        };
        let good = asked(&["alerts", "alerts.dead"], token.hash());
        let judge = |state: &State, asked: &Subscribe, now| {
            check(state, asked, now).map(|_| ()).map_err(|ended| ended.reason)
        };
        assert_eq!(judge(&state, &good, 199), Ok(()));
        assert_eq!(judge(&state, &good, 200), Err(Reason::ExpiredToken));
        let greedy = asked(&["alerts", "readings"], token.hash());
        assert_eq!(judge(&state, &greedy, 150), Err(Reason::UnlistedTopic), "SU-1");
        let other = Token::new([1; 32], TokenId(7), [3; 32]);
        let forged = asked(&["alerts"], other.hash());
        assert_eq!(judge(&state, &forged, 150), Err(Reason::UnknownToken), "SU-1");
        let nobody = Subscribe { token: TokenId(8), ..good.clone() };
        assert_eq!(judge(&state, &nobody, 150), Err(Reason::UnknownToken));
        let revoke = SubscriberChange::Revoke { at: 160 };
        state.apply(&Command::Subscriber { id: 7, change: revoke }).unwrap();
        assert_eq!(judge(&state, &good, 170), Err(Reason::RevokedToken), "SU-1");
        assert_eq!(judge(&state, &forged, 170), Err(Reason::UnknownToken), "nothing is told");
    }
}
