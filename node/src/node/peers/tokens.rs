//! Tokens of subscribers, as an operator makes, lists and revokes them. What is kept of one is in the
//! replicated state, so that every node knows it.

use cluster::{Command, Error, SubscriberChange, SubscriberToken as Kept};
use gateway::api::{
    API, MadeSubscriberToken, SubscriberTokenInfo, SubscriberTokenList, SubscriberTokenState,
    SubscriberTokenWish,
};
use live::{Token, TokenId};

use super::Peers;
use super::desk::now;
use super::members::of_cluster;
use crate::commands::error::{CommandError, exit};
use crate::node::subscribers::is_pattern;

/// Topics that one token may list.
const TOPICS_MAX: usize = 64;
/// The longest name of one, in bytes.
const NAME_MAX: usize = 64;
/// How often an id is drawn again when another token has it.
const DRAWS: u32 = 8;

fn bad(message: String) -> CommandError {
    CommandError::new(exit::USAGE, "E0592", message)
        .help("`millrace token create --topic 'alerts*' --expires 30d`")
}

fn check(wish: &SubscriberTokenWish) -> Result<(), CommandError> {
    if wish.topics.is_empty() || TOPICS_MAX < wish.topics.len() {
        return Err(bad(format!("{} topics: 1 to {TOPICS_MAX} can be listed", wish.topics.len())));
    }
    if let Some(wrong) = wish.topics.iter().find(|it| !is_pattern(it)) {
        let wrong = wrong.escape_debug();
        return Err(bad(format!("`{wrong}` is no topic, and no start of one with a * behind it")));
    }
    if wish.expires_s == 0 {
        return Err(bad("a token has to hold for a second at least".to_owned()));
    }
    if NAME_MAX < wish.name.len() || wish.name.chars().any(char::is_control) {
        return Err(bad(format!("a token's name has {NAME_MAX} bytes at most, in one line")));
    }
    Ok(())
}

fn rfc3339(seconds: u64) -> String {
    let ms = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
    crate::node::status::rfc3339(bus::Timestamp(ms))
}

fn info(id: u32, token: &Kept, now: u64, finds_nobody: bool) -> SubscriberTokenInfo {
    let state = match token {
        Kept { revoked: Some(_), .. } => SubscriberTokenState::Revoked,
        Kept { until, .. } if *until <= now => SubscriberTokenState::Expired,
        Kept { .. } if finds_nobody => SubscriberTokenState::Outdated,
        Kept { .. } => SubscriberTokenState::Good,
    };
    SubscriberTokenInfo {
        id: TokenId(id).to_string(),
        name: token.name.clone(),
        role: "subscriber".to_owned(),
        topics: token.topics.clone(),
        state,
        made: rfc3339(token.at),
        expires: rfc3339(token.until),
    }
}

impl Peers {
    pub(super) fn list_tokens(&self) -> SubscriberTokenList {
        let (state, now) = (self.desk.cluster.state(), now());
        let tokens = state.subscribers().tokens();
        let cas = state.authorities();
        let is_trusted = |key| cas.trusted().iter().any(|ca| ca.key == key);
        let finds_nobody = |id| cas.outdated(id).is_some_and(|key| !is_trusted(key));
        let mut tokens: Vec<_> =
            tokens.iter().map(|(id, it)| (it.at, info(*id, it, now, finds_nobody(*id)))).collect();
        tokens.sort_by(|one, other| (one.0, &one.1.id).cmp(&(other.0, &other.1.id)));
        SubscriberTokenList { api: API, tokens: tokens.into_iter().map(|(_, it)| it).collect() }
    }

    pub(super) async fn make_live_token(
        &self,
        wish: SubscriberTokenWish,
    ) -> Result<MadeSubscriberToken, CommandError> {
        check(&wish)?;
        let at = now();
        let until = at.saturating_add(wish.expires_s);
        let mut draws = 0;
        loop {
            draws += 1;
            let id = TokenId(rand::random());
            let ca = self.desk.issuer(&self.desk.cluster.state());
            let token = Token::new(ca.0, id, rand::random());
            let kept = Kept {
                hash: token.hash(),
                name: wish.name.clone(),
                topics: wish.topics.clone(),
                at,
                until,
                revoked: None,
            };
            let about = info(id.0, &kept, at, false);
            let change = SubscriberChange::Make(kept);
            match self.desk.cluster.propose(Command::Subscriber { id: id.0, change }).await {
                // A rotation went on meanwhile, and the token names the CA that goes.
                Ok(_) if ca != self.desk.issuer(&self.desk.cluster.state()) => {
                    self.revoke_token(&id.to_string()).await?;
                }
                Ok(_) => {
                    let address = self.subscribers_at().map(|it| it.to_string());
                    let token = token.to_string();
                    return Ok(MadeSubscriberToken { api: API, token, about, address });
                }
                Err(Error::Refused(cluster::Refused::UsedSubscriber(_))) if draws < DRAWS => {}
                Err(error) => return Err(of_cluster(&error)),
            }
        }
    }

    pub(super) async fn revoke_token(&self, id: &str) -> Result<(), CommandError> {
        let unknown = || {
            let message = format!("no token {}", id.escape_debug());
            CommandError::new(exit::NOT_FOUND, "E0593", message)
                .help("`millrace token list` lists those there are")
        };
        let TokenId(id) = id.parse().map_err(|_bad| unknown())?;
        let change = SubscriberChange::Revoke { at: now() };
        match self.desk.cluster.propose(Command::Subscriber { id, change }).await {
            Ok(_) => Ok(()),
            Err(Error::Refused(cluster::Refused::UnknownSubscriber(_))) => Err(unknown()),
            Err(error) => Err(of_cluster(&error)),
        }
    }
}
