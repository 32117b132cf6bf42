//! Synchronous invocations on their way between members: the bytes and the stream, not what is in
//! them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use exchange::{Answer, CallError, Kind, NodeId, Refusal, Request};

use super::Peers;
use super::desk::Desk;
use crate::node::{Inner, Node};

impl Desk {
    /// Answers another member's question about calls.
    pub(super) async fn answer_call(&self, request: Request) -> Answer {
        let Some(inner) = self.node.get().and_then(Weak::upgrade) else {
            return Answer::Refused(Refusal::UnknownKind);
        };
        let deadline = request.deadline.into_std();
        match (Node { inner }).answer_call(deadline, request.payload).await {
            Some(bytes) => Answer::Bytes(bytes),
            None => Answer::Refused(Refusal::BadFrame),
        }
    }
}

impl Peers {
    /// From here on calls of other members are run.
    pub(in crate::node) fn run_with(&self, node: &Arc<Inner>) {
        // It is called once.
        drop(self.desk.node.set(Arc::downgrade(node)));
    }

    /// Whether there is a connection to it.
    pub(in crate::node) fn is_linked(&self, member: u64) -> bool {
        self.exchange.link(NodeId(member)).is_some()
    }

    /// Asks another member, once, over the connection that there is.
    pub(in crate::node) async fn invoke(
        &self,
        member: u64,
        question: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        self.exchange.call_once(NodeId(member), Kind::INVOKE, question, within).await
    }
}
