//! Why somebody was refused: one name for the log, the metric and whoever asks; and how often.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics;

/// Why a peer, a request or a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A peer that showed no certificate.
    NoCertificate,
    /// A certificate that cannot be read, is for another use, or does not name one node.
    MalformedCertificate,
    /// No CA that is trusted here made it.
    UnknownIssuer,
    /// Its life is over.
    Expired,
    /// Its life has not begun.
    NotYetValid,
    /// It names another cluster.
    ForeignCluster,
    /// The member table has no such node.
    UnknownMember,
    /// The member table says that the node was removed.
    RemovedMember,
    /// The node has another incarnation by now.
    StaleIncarnation,
    /// The key is not the one that the member table has for the node.
    ForeignKey,
    /// Another node answered than the one that was dialled.
    WrongNode,
    /// No protocol, or no version of it, that both speak.
    UnknownProtocol,
    /// A connection that did not say what it is for in time.
    NoHello,
    /// Bytes that are no frame.
    BadFrame,
    /// A frame of a version that is not spoken here.
    UnknownVersion,
    /// A request of a kind that is not known here.
    UnknownKind,
    /// A request that may not be asked over this connection.
    ForeignKind,
    /// The other side has not shown the CA that the token names.
    WrongCa,
    /// A join token that was never made here.
    UnknownToken,
    /// A join token of another cluster, or of a CA that is not trusted any more.
    ForeignToken,
    /// A join token that was used.
    UsedToken,
    /// A join token whose time is over.
    ExpiredToken,
    /// A joiner that has not shown that it has the key that it wants certified.
    UnprovenKey,
    /// An address from which too many tokens were refused of late.
    TooManyTries,
    /// A build that does not read what the cluster writes.
    UnreadFormat,
}

impl Refusal {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 25] = [
        Self::NoCertificate,
        Self::MalformedCertificate,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotYetValid,
        Self::ForeignCluster,
        Self::UnknownMember,
        Self::RemovedMember,
        Self::StaleIncarnation,
        Self::ForeignKey,
        Self::WrongNode,
        Self::UnknownProtocol,
        Self::NoHello,
        Self::BadFrame,
        Self::UnknownVersion,
        Self::UnknownKind,
        Self::ForeignKind,
        Self::WrongCa,
        Self::UnknownToken,
        Self::ForeignToken,
        Self::UsedToken,
        Self::ExpiredToken,
        Self::UnprovenKey,
        Self::TooManyTries,
        Self::UnreadFormat,
    ];

    /// Its name: the label of the metric, and what crosses to who was refused.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::MalformedCertificate => "malformed-certificate",
            Self::UnknownIssuer => "unknown-issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::ForeignCluster => "foreign-cluster",
            Self::UnknownMember => "unknown-member",
            Self::RemovedMember => "removed-member",
            Self::StaleIncarnation => "stale-incarnation",
            Self::ForeignKey => "foreign-key",
            Self::WrongNode => "wrong-node",
            Self::UnknownProtocol => "unknown-protocol",
            Self::NoHello => "no-hello",
            Self::BadFrame => "bad-frame",
            Self::UnknownVersion => "unknown-version",
            Self::UnknownKind => "unknown-kind",
            Self::ForeignKind => "foreign-kind",
            Self::WrongCa => "wrong-ca",
            Self::UnknownToken => "unknown-token",
            Self::ForeignToken => "foreign-token",
            Self::UsedToken => "used-token",
            Self::ExpiredToken => "expired-token",
            Self::UnprovenKey => "unproven-key",
            Self::TooManyTries => "too-many-tries",
            Self::UnreadFormat => "unread-format",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Refusal {}

/// How often each reason came up.
#[derive(Debug, Default)]
pub(crate) struct Refusals([AtomicU64; Refusal::ALL.len()]);

impl Refusals {
    /// Counts and logs a refusal; `who` is what is known of the other side.
    pub(crate) fn note(&self, refusal: Refusal, who: &dyn fmt::Display) {
        self.0[refusal as usize].fetch_add(1, Ordering::Relaxed);
        metrics::refused(refusal);
        tracing::warn!(reason = refusal.name(), who = %who, "refused");
    }

    pub(crate) fn count(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let names: BTreeSet<&str> = Refusal::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index, "{refusal}");
        }
    }
}
