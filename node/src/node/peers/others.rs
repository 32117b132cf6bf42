//! Questions to the control APIs of the other nodes, and the answers to theirs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use cluster::Role;
use exchange::{Answer, Blob, CallError, Kind, NodeId, Refusal};
use gateway::{NotHeard, Others, Own, Owned, Question, REPLY_BYTES_MAX, Reply};
use sha2::{Digest as _, Sha256};

use super::desk::Desk;
use super::{ASK, Peers};
use crate::node::handed::Inheritance;

/// How long one that is not connected has to come back.
const RETURN: Duration = Duration::from_secs(1);
/// Before the body: the status.
const STATUS_BYTES: usize = 2;

impl Desk {
    /// Answers another member about this node.
    pub(super) async fn answer_about_itself(&self, asked: &[u8]) -> Answer {
        let Ok(question) = serde_json::from_slice::<Question>(asked) else {
            return Answer::Refused(Refusal::BadFrame);
        };
        let Some(own) = self.own.get() else {
            return Answer::Failed("it is starting".to_owned());
        };
        let reply = own.answer(question).await;
        let mut bytes = BytesMut::with_capacity(STATUS_BYTES + reply.body.len());
        bytes.put_u16_le(reply.status);
        bytes.put(reply.body);
        let bytes = bytes.freeze();
        let digest = Sha256::digest(&bytes).into();
        Answer::Blob(Blob::of(bytes, digest))
    }
}

impl Peers {
    /// From here on other nodes are answered.
    pub(crate) fn answer_with(&self, own: Own) {
        // It is called once.
        drop(self.desk.own.set(own));
    }

    /// From here on owners of shards may hand them over to this node.
    pub(in crate::node) fn inherit_with(&self, inheritance: Arc<Inheritance>) {
        // It is called once.
        drop(self.desk.inheritance.set(inheritance));
    }

    /// Tells a node where shards have ended that it gets.
    pub(in crate::node) async fn hand_over(
        &self,
        to: u64,
        message: Vec<u8>,
        within: Duration,
    ) -> Result<(), CallError> {
        self.exchange.call(NodeId(to), Kind::HAND_OVER, message.into(), within).await.map(drop)
    }

    /// Whether a node is there: it says so sooner than an answer could come.
    async fn greet(&self, node: NodeId) -> Result<(), CallError> {
        let within = if self.exchange.link(node).is_some() { ASK } else { RETURN };
        self.exchange.call(node, Kind::PING, Bytes::new(), within).await.map(drop)
    }

    async fn ask_node(
        &self,
        node: NodeId,
        question: &Question,
        within: Duration,
    ) -> Result<Reply, CallError> {
        let asked = serde_json::to_vec(question).expect("texts can be written").into();
        let most = (STATUS_BYTES + REPLY_BYTES_MAX) as u64;
        let mut blob = self.exchange.fetch(node, Kind::CONTROL, asked, within, most).await?;
        let mut bytes = BytesMut::new();
        while let Some(more) = blob.next().await? {
            bytes.extend_from_slice(&more);
        }
        let Some((status, _)) = bytes.split_first_chunk::<STATUS_BYTES>() else {
            return Err(CallError::Length);
        };
        let status = u16::from_le_bytes(*status);
        Ok(Reply { status, body: bytes.freeze().slice(STATUS_BYTES..) })
    }
}

#[async_trait]
impl Others for Peers {
    fn cluster(&self) -> String {
        self.whole.clone()
    }

    fn own_name(&self) -> String {
        self.name.clone()
    }

    fn names(&self) -> Vec<String> {
        let (state, me) = (self.desk.cluster.state(), self.desk.cluster.me());
        let members = state.roster().members().iter();
        let others = members.filter(|(id, it)| **id != me && it.role != Role::Removed);
        others.map(|(_, it)| it.name.clone()).collect()
    }

    fn shards(&self) -> Vec<Owned> {
        let state = self.desk.cluster.state();
        let members = state.roster().members();
        let owned = |(shard, it): (&bus::ShardId, &cluster::Shard)| {
            let (app, rest) = it.trigger.split_once('/').unwrap_or_default();
            let function = rest.split('/').next().unwrap_or_default();
            Owned {
                shard: shard.0,
                epoch: it.epoch.0,
                function: format!("{app}/{function}"),
                trigger: it.trigger.clone(),
                topic: it.topic.clone(),
                partition: it.partition.cast_signed(),
                owner: it.owner.and_then(|id| members.get(&id)).map(|it| it.name.clone()),
            }
        };
        state.shards().iter().map(owned).collect()
    }

    async fn ask(
        &self,
        node: &str,
        question: Question,
        within: Duration,
    ) -> Result<Reply, NotHeard> {
        let id = self.desk.cluster.state().roster().named(node).map(|(id, _)| id);
        let Some(id) = id else {
            return Err(NotHeard { why: "it has left the cluster".to_owned(), maybe_done: false });
        };
        if let Err(error) = self.greet(NodeId(id)).await {
            return Err(NotHeard { why: error.to_string(), maybe_done: false });
        }
        let reply = self.ask_node(NodeId(id), &question, within).await;
        reply.map_err(|error| {
            let reads = question.verb == gateway::Verb::Get;
            NotHeard { why: error.to_string(), maybe_done: !reads && error.is_outcome_unknown() }
        })
    }
}
