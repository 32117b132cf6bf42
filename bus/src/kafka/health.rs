//! What the clients say beside their answers: their log, and errors that belong to no call. An
//! error of a call is turned into the bus's own here, with what is known of the connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka_ffi::AdminError;

use crate::Error;

/// What is known of the connection to the brokers.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Why the brokers refuse us, since the last time they did not.
    refused: Option<String>,
    /// What was said when all were gone, until one answers.
    down: Option<String>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A broker answered.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        state.refused = None;
        if state.down.take().is_some() {
            tracing::info!("the brokers answer again");
        }
    }

    /// Whether no broker has answered since all were gone.
    pub(super) fn is_down(&self) -> bool {
        self.state().down.is_some()
    }

    /// What keeps all clients from working.
    pub(super) fn trouble(&self) -> Option<Error> {
        let action = "reach Kafka";
        let state = self.state();
        if let Some(reason) = state.refused.clone() {
            return Some(Error::Authentication { action, reason });
        }
        state.down.clone().map(|reason| Error::Unreachable { action, reason })
    }

    fn down(&self, reason: &str) {
        let before = self.state().down.replace(reason.to_owned());
        if before.is_none() {
            tracing::warn!(reason, "the brokers do not answer");
        }
    }

    fn refused(&self, reason: &str) {
        let mut state = self.state();
        if state.refused.is_none() {
            tracing::error!(reason, "the brokers refuse the credentials");
        }
        state.refused = Some(reason.to_owned());
    }

    /// The bus's error for a call that failed.
    pub(super) fn error(&self, action: &'static str, code: Code, reason: String) -> Error {
        match code {
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState => Error::Authentication { action, reason },
            Code::PurgeQueue | Code::PurgeInflight | Code::BrokerDestroy => Error::Closed,
            Code::BrokerTransportFailure
            // The request waited at a connection that the client has given up.
            | Code::DestroyBroker
            | Code::Resolve
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::WaitingForCoordinator
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::NotController
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::SSL => match self.state().refused.clone() {
                Some(reason) => Error::Authentication { action, reason },
                None => Error::Unreachable { action, reason },
            },
            _ => Error::Kafka { action, reason },
        }
    }

    pub(super) fn admin_error(&self, action: &'static str, error: AdminError) -> Error {
        self.error(action, error.code, error.reason)
    }

    pub(super) fn client_error(&self, action: &'static str, error: &KafkaError) -> Error {
        let code = match error {
            KafkaError::AdminOp(code) => *code,
            other => other.rdkafka_error_code().unwrap_or(Code::Fail),
        };
        self.error(action, code, error.to_string())
    }
}

/// The context of a client.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) health: Arc<Health>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters of it comes as an error, too; a broker that is away would repeat itself.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::warn!(facility, "librdkafka: {message}");
            }
            RDKafkaLogLevel::Debug => tracing::trace!(facility, "librdkafka: {message}"),
            _ => tracing::debug!(facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
                self.health.refused(reason);
            }
            Some(Code::AllBrokersDown) => self.health.down(reason),
            _ => tracing::debug!(%error, "librdkafka: {reason}"),
        }
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_again_is_told_from_what_may_not() {
        let health = Health::default();
        let error = |code| health.error("make a topic", code, String::new());
        for code in [Code::DestroyBroker, Code::NotCoordinator, Code::BrokerTransportFailure] {
            assert!(matches!(error(code), Error::Unreachable { .. }), "{code}");
        }
        assert!(matches!(error(Code::TopicAuthorizationFailed), Error::Kafka { .. }));
        assert!(matches!(error(Code::BrokerDestroy), Error::Closed));
    }
}
