//! What an operator asks of a cluster: who is in it, who goes, who leads. What only the leader
//! knows or can do is sent to it.

use std::time::Duration;

use cluster::{Change, Cluster, Command, Error, MemberChange, NotChanged, Refused, Role};
use exchange::{Kind, NodeId, Token};
use gateway::api::{JoinToken, MemberInfo, MemberList, MemberState, RaftStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Peers;
use super::authorities::CaOrder;
use super::desk::{Desk, now};
use crate::commands::error::{CommandError, exit};
use crate::node::chain;

/// How long a join token holds.
const TOKEN_S: u64 = 3_600;
/// How long an order is tried again while there is no leader, or another change is on its way.
const PATIENCE: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(100);
/// Who was not heard of for so long is not there: an election timeout, twice.
const UNHEARD: Duration = Duration::from_secs(2);

/// What the leader has to do or say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// Who there is, and how each is.
    List,
    /// This member goes, by name or id.
    Remove(String),
    /// This member leads, or any other where none is named.
    Transfer(Option<String>),
    /// Something about the CA.
    Ca(CaOrder),
}

/// Why an order was not carried out, as it crosses.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    exit: u8,
    code: String,
    message: String,
    help: Option<String>,
    /// Whether another node, or the same a little later, may do it.
    is_retryable: bool,
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        let Failure { exit, code, message, help, .. } = failure;
        // Codes of a newer node have no page here.
        let known = function::codes().into_iter().find(|known| known.code == code);
        Self { exit, code: known.map(|it| it.code), message, help, diagnostics: None }
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        let CommandError { exit, code, message, help, .. } = error;
        let code = code.unwrap_or_default().to_owned();
        Self { exit, code, message, help, is_retryable: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let is_retryable = error.is_retryable();
        let CommandError { exit, code, message, help, .. } = of_cluster(&error);
        let code = code.unwrap_or_default().to_owned();
        Self { exit, code, message, help, is_retryable }
    }
}

/// An error of the cluster as a person reads it.
pub(crate) fn of_cluster(error: &Error) -> CommandError {
    let (exit, code, help) = match error {
        Error::Unavailable | Error::Busy | Error::Closed => {
            (exit::UNREACHABLE, "E0570", "`millrace node list` shows which nodes are not heard of")
        }
        Error::Unknown => (
            exit::TIMED_OUT,
            "E0571",
            "look whether it is done, then try again: `millrace node list`",
        ),
        Error::Refused(Refused::UnknownMember(_)) => {
            (exit::NOT_FOUND, "E0572", "`millrace node list` lists those there are")
        }
        Error::NotChanged(_) | Error::Refused(_) => {
            (exit::CONFLICT, "E0573", "`millrace node list` shows how each node is")
        }
        _ => return CommandError::new(exit::FAILED, "E0511", chain(error)),
    };
    CommandError::new(exit, code, chain(error)).help(help)
}

fn unknown(name: &str) -> Failure {
    Failure {
        exit: exit::NOT_FOUND,
        code: "E0572".to_owned(),
        message: format!("no node {}", name.escape_debug()),
        help: Some("`millrace node list` lists those there are".to_owned()),
        is_retryable: false,
    }
}

/// A member by its name or its id.
fn find(cluster: &Cluster, name: &str) -> Result<u64, Failure> {
    let state = cluster.state();
    let by_id = name.parse().ok().filter(|id| {
        let member = state.roster().members().get(id);
        member.is_some_and(|it| it.role != Role::Removed)
    });
    let by_name = state.roster().named(name).map(|(id, _)| id);
    by_name.or(by_id).ok_or_else(|| unknown(name))
}

/// Carries out an order on the leader.
pub(super) async fn carry_out(desk: &Desk, order: Order) -> Result<Value, Failure> {
    let cluster = &desk.cluster;
    if !cluster.leads() {
        return Err(Error::NotChanged(NotChanged::Dropped).into());
    }
    match order {
        Order::List => {
            let list = list(cluster, Some(&cluster.unheard()));
            Ok(serde_json::to_value(list).expect("texts and numbers can be written"))
        }
        Order::Remove(name) => remove(cluster, find(cluster, &name)?).await,
        Order::Transfer(to) => {
            let to = match to {
                Some(name) => find(cluster, &name)?,
                None => successor(cluster).ok_or(Error::NotChanged(NotChanged::Dropped))?,
            };
            if to != cluster.me() {
                cluster.transfer(to).await?;
            }
            let state = cluster.state();
            let name = state.roster().members().get(&to).map(|it| it.name.clone());
            Ok(name.into())
        }
        Order::Ca(order) => {
            let status = desk.order_ca(order).await?;
            Ok(serde_json::to_value(status).expect("texts and numbers can be written"))
        }
    }
}

/// Another voter that is there: the one that was heard of last.
fn successor(cluster: &Cluster) -> Option<u64> {
    let voters = cluster.vitals().members;
    let unheard = cluster.unheard().into_iter();
    let there = unheard.filter(|(id, since)| voters.voters().contains(id) && *since < UNHEARD);
    there.min_by_key(|(_, since)| *since).map(|(id, _)| id)
}

async fn remove(cluster: &Cluster, id: u64) -> Result<Value, Failure> {
    if id == cluster.me() {
        // Whoever leads next does it.
        let next = successor(cluster).ok_or(Error::NotChanged(NotChanged::Last(id)))?;
        cluster.transfer(next).await?;
        return Err(Error::NotChanged(NotChanged::Dropped).into());
    }
    match cluster.change(Change::Remove(id)).await {
        // It joined, and the group has not taken it in yet.
        Err(Error::NotChanged(NotChanged::Unknown(_))) => {
            let change = MemberChange::Remove;
            cluster.propose(Command::Member { member: id, change }).await?;
        }
        changed => changed?,
    }
    Ok(Value::Null)
}

fn list(
    cluster: &Cluster,
    unheard: Option<&std::collections::BTreeMap<u64, Duration>>,
) -> MemberList {
    let (state, leader) = (cluster.state(), cluster.leadership().leader);
    let present = state.roster().members().iter().filter(|(_, it)| it.role != Role::Removed);
    let members = present.map(|(id, it)| {
        let since = unheard.and_then(|unheard| unheard.get(id));
        let is_up = match (unheard, since) {
            (None, _) => MemberState::Unknown,
            (Some(_), Some(since)) if UNHEARD < *since => MemberState::Unheard,
            // The leader itself, or one that answers.
            (Some(_), Some(_)) => MemberState::Up,
            (Some(_), None) if *id == cluster.me() => MemberState::Up,
            // It has joined, and the group has not taken it in yet.
            (Some(_), None) => MemberState::Unheard,
        };
        let owns = |shard: &&cluster::Shard| shard.owner == Some(*id);
        let shards = state.shards().values().filter(owns).count() as u64;
        MemberInfo {
            id: *id,
            name: it.name.clone(),
            address: it.address.clone(),
            role: if it.role == Role::Voter { "voter" } else { "learner" }.to_owned(),
            state: is_up,
            leads: leader == Some(*id),
            draining: it.is_draining,
            version: it.version.clone(),
            starts: it.incarnation,
            shards,
            unheard_ms: since.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        }
    });
    MemberList {
        api: gateway::api::API,
        cluster: cluster.name().to_owned(),
        members: members.collect(),
    }
}

impl Peers {
    /// Has the leader carry out an order; tries again while there is none.
    pub(super) async fn order(&self, order: Order) -> Result<Value, CommandError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.order_once(&order).await;
            match ended {
                Err(failure) if failure.is_retryable && Instant::now() < until => {
                    sleep(PAUSE).await
                }
                ended => return ended.map_err(CommandError::from),
            }
        }
    }

    async fn order_once(&self, order: &Order) -> Result<Value, Failure> {
        let cluster = &self.desk.cluster;
        let leader = cluster.leadership().leader.ok_or(Error::Unavailable)?;
        if leader == cluster.me() {
            return carry_out(&self.desk, order.clone()).await;
        }
        let asked = serde_json::to_vec(order).expect("texts can be written");
        let asked = self.exchange.call(NodeId(leader), Kind::ORDER, asked.into(), PATIENCE).await;
        let answer = asked.map_err(|error| match error.is_outcome_unknown() {
            true => Failure::from(Error::Unknown),
            false => Failure::from(Error::Unavailable),
        })?;
        serde_json::from_slice(&answer).unwrap_or_else(|_| Err(Error::Unknown.into()))
    }

    pub(crate) async fn list_members(&self) -> MemberList {
        let asked = tokio::time::timeout(UNHEARD, self.order(Order::List)).await;
        let listed = asked.ok().and_then(Result::ok);
        let listed = listed.and_then(|list| serde_json::from_value(list).ok());
        // Without a leader nobody knows who is there.
        listed.unwrap_or_else(|| list(&self.desk.cluster, None))
    }

    pub(crate) async fn make_token(&self) -> Result<JoinToken, CommandError> {
        if !self.has_kafka && !self.desk.cluster.state().apps().is_empty() {
            return Err(super::super::without_kafka());
        }
        let ca = self.desk.issuer(&self.desk.cluster.state());
        let token = Token::new(ca, rand::random());
        let (hash, at) = (token.hash(), now());
        let until = at + TOKEN_S;
        let command = Command::Token { hash, at, until };
        self.desk.cluster.propose(command).await.map_err(|error| of_cluster(&error))?;
        let expires = i64::try_from(until).unwrap_or(i64::MAX).saturating_mul(1_000);
        let (cluster, address) = (self.desk.cluster.name().to_owned(), self.advertise.clone());
        let expires = crate::node::status::rfc3339(bus::Timestamp(expires));
        Ok(JoinToken {
            api: gateway::api::API,
            token: token.to_string(),
            expires,
            cluster,
            address,
        })
    }

    pub(crate) async fn drain_member(&self, name: &str, drains: bool) -> Result<(), CommandError> {
        let member = find(&self.desk.cluster, name)?;
        let change = if drains { MemberChange::Drain } else { MemberChange::Undrain };
        let command = Command::Member { member, change };
        let done = self.desk.cluster.propose(command).await;
        done.map(drop).map_err(|error| of_cluster(&error))
    }

    pub(crate) async fn remove_member(&self, name: &str) -> Result<(), CommandError> {
        self.order(Order::Remove(name.to_owned())).await.map(drop)
    }

    /// Who leads then.
    pub(crate) async fn transfer_lead(&self, to: Option<String>) -> Result<String, CommandError> {
        let leads = self.order(Order::Transfer(to)).await?;
        Ok(leads.as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn make_checkpoint(&self) -> Result<u64, CommandError> {
        self.desk.cluster.checkpoint().await.map_err(|error| of_cluster(&error))
    }

    pub(crate) fn raft_status(&self) -> RaftStatus {
        let (cluster, vitals) = (&self.desk.cluster, self.desk.cluster.vitals());
        let state = cluster.state();
        let name = |id: &u64| {
            let member = state.roster().members().get(id);
            member.map_or_else(|| id.to_string(), |it| it.name.clone())
        };
        RaftStatus {
            api: gateway::api::API,
            cluster: cluster.name().to_owned(),
            id: cluster.me(),
            name: name(&cluster.me()),
            term: vitals.term,
            leader: vitals.leader.as_ref().map(name),
            voters: vitals.members.voters().iter().map(name).collect(),
            learners: vitals.members.learners().iter().map(name).collect(),
            first: vitals.first,
            last: vitals.last,
            committed: vitals.committed,
            applied: vitals.applied,
            checkpoint: vitals.checkpoint,
            dropped: vitals.dropped.into_iter().map(|(it, n)| (it.to_owned(), n)).collect(),
        }
    }
}
