//! A pure core: why a subscription ended. The number crosses as the application's code of QUIC's
//! CONNECTION_CLOSE (RFC 9000 section 19.19), the name is for people, logs and metrics.

use std::fmt;

/// Why a subscription ended, or never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Bytes that are no request.
    BadFrame,
    /// A request of a version that is not spoken here.
    UnknownVersion,
    /// No protocol that both speak.
    UnknownProtocol,
    /// No request came in time.
    NoRequest,
    /// A token that was never made here.
    UnknownToken,
    /// A token whose time is over.
    ExpiredToken,
    /// A token that somebody revoked.
    RevokedToken,
    /// A topic that the token does not list.
    UnlistedTopic,
    /// There is no such topic, or it is gone.
    UnknownTopic,
    /// A resume token that is not whole.
    DamagedResume,
    /// A resume token of another cluster, of other topics, or of a topic that was made again.
    ForeignResume,
    /// Records behind the resume token, or behind a slow subscriber, are gone.
    RecordsGone,
    /// A resume token behind the end of a partition: the topic lost records that were seen.
    BeyondEnd,
    /// As many subscribers as the node takes.
    TooMany,
    /// The topic cannot be read at the moment.
    Unavailable,
    /// The node ends.
    Closing,
}

impl Reason {
    /// Every reason, in the order of the numbers.
    pub const ALL: [Self; 16] = [
        Self::BadFrame,
        Self::UnknownVersion,
        Self::UnknownProtocol,
        Self::NoRequest,
        Self::UnknownToken,
        Self::ExpiredToken,
        Self::RevokedToken,
        Self::UnlistedTopic,
        Self::UnknownTopic,
        Self::DamagedResume,
        Self::ForeignResume,
        Self::RecordsGone,
        Self::BeyondEnd,
        Self::TooMany,
        Self::Unavailable,
        Self::Closing,
    ];

    /// What crosses: from 1 on; 0 is an end without a reason.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32 + 1
    }

    /// What crossed.
    #[must_use]
    pub fn of_code(code: u64) -> Option<Self> {
        let index = usize::try_from(code).ok()?.checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadFrame => "bad-frame",
            Self::UnknownVersion => "unknown-version",
            Self::UnknownProtocol => "unknown-protocol",
            Self::NoRequest => "no-request",
            Self::UnknownToken => "unknown-token",
            Self::ExpiredToken => "expired-token",
            Self::RevokedToken => "revoked-token",
            Self::UnlistedTopic => "unlisted-topic",
            Self::UnknownTopic => "unknown-topic",
            Self::DamagedResume => "damaged-resume",
            Self::ForeignResume => "foreign-resume",
            Self::RecordsGone => "records-gone",
            Self::BeyondEnd => "beyond-end",
            Self::TooMany => "too-many",
            Self::Unavailable => "unavailable",
            Self::Closing => "closing",
        }
    }

    /// Whether the same may be asked again, here or of another node, without a person's help.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::TooMany | Self::Unavailable | Self::Closing)
    }

    /// Whether it is about the resume token, and another start would do.
    #[must_use]
    pub const fn is_about_resume(self) -> bool {
        matches!(
            self,
            Self::DamagedResume | Self::ForeignResume | Self::RecordsGone | Self::BeyondEnd
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_number_and_a_name_of_its_own() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.code() as usize, index + 1, "{reason}");
            assert_eq!(Reason::of_code(u64::from(reason.code())), Some(reason));
        }
        let mut names: Vec<&str> = Reason::ALL.iter().map(|it| it.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        assert_eq!((Reason::of_code(0), Reason::of_code(17)), (None, None));
        assert_eq!(Reason::of_code(u64::MAX), None);
    }
}
