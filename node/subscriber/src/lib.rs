//! Follows topics of a Millrace cluster over QUIC, without a Kafka client: records come as they are
//! appended, and a resume token says where to go on, so that none is missed and none comes twice.
//!
//! ```no_run
//! use millrace_client::{Client, From};
//!
//! # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
//! // `millrace token create --topic 'alerts*' > alerts.token` on a node of the cluster.
//! let token = std::fs::read_to_string("alerts.token")?.parse()?;
//! let client = Client::new(token, ["edge-1.example:7500", "edge-2.example:7500"])?;
//! let mut alerts = client.subscribe(&["alerts"], From::Earliest).await?;
//! loop {
//!     let record = alerts.next().await?;
//!     println!("{}[{}]@{}: {:?}", record.topic, record.partition, record.offset, record.value);
//!     // Keep it together with what you made of the record, in one transaction, and you have seen
//!     // every record once. Go on with `From::Resume(text.parse()?)`.
//!     let _keep = alerts.resume_token().to_string();
//! }
//! # }
//! ```
//!
//! - **Whom it talks to.** The token names the cluster's CA. A node that does not show a certificate
//!   of that CA is told nothing.
//! - **When it is cut off** it dials again by itself, one address after the other, with pauses that
//!   double up to a few seconds, and goes on behind the last record that [`Subscription::next`] gave.
//! - **When it is slow** it slows down nobody else: records stay where they are until it reads on.
//!   Where retention takes them meanwhile it is told ([`Reason::RecordsGone`]), never served a gap.
//! - **What it holds** is one frame of records, 256 KiB or one large record, and a window of 1 MiB.
//!
//! Rules, held by `cargo prove subscribers`:
//!
//! - **SC-1** records of a partition come in order, each once, whatever is cut meanwhile.
//! - **SC-2** [`Subscription::resume_token`] is behind exactly the records that were given.
//! - **SC-3** the secret crosses only after the node has shown the CA that the token names.

mod dial;
mod subscription;

use std::time::Duration;

pub use live::{Reason, Resume as ResumeToken, ResumeError, Token, TokenError, TokenId};
pub use subscription::{Header, Record, Subscription};

/// Where a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// With the first record there is.
    Earliest,
    /// With what is appended from now on.
    Latest,
    /// Behind what was seen: the topics have to be those of the token, in the same order.
    Resume(ResumeToken),
}

/// Times of a client.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A connection that was silent for so long is over. A node says something every second.
    pub idle: Duration,
    /// A dial, up to the first answer of the node, may take this long.
    pub dial: Duration,
    /// The first pause between two rounds of dials, which doubles.
    pub pause_first: Duration,
    /// The longest one.
    pub pause_longest: Duration,
    /// How long [`Client::subscribe`] tries; [`Subscription::next`] tries for ever.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(5),
            dial: Duration::from_secs(5),
            pause_first: Duration::from_millis(50),
            pause_longest: Duration::from_secs(2),
            patience: Duration::from_secs(15),
        }
    }
}

/// Why there are no records, or no more.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A client needs an address at least.
    #[error("no address to dial")]
    NoAddress,
    /// Nobody answers.
    #[error("reach {address}: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// What happened.
        why: String,
    },
    /// Another cluster's node answers, or none: it was told nothing.
    #[error("{address} does not show the CA that the token names; it was told nothing")]
    Untrusted {
        /// Where.
        address: String,
    },
    /// The node refuses, or has ended the subscription for good.
    #[error("{said} ({reason})")]
    Refused {
        /// Why.
        reason: Reason,
        /// In a sentence.
        said: String,
    },
    /// What the node says cannot be understood: it may be of another version.
    #[error("{address} says what cannot be understood: {why}")]
    Protocol {
        /// Where.
        address: String,
        /// What is wrong.
        why: String,
    },
}

impl Error {
    /// Whether the same may be asked again without a person's help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { reason, .. } => reason.is_retryable(),
            Self::NoAddress | Self::Untrusted { .. } | Self::Protocol { .. } => false,
        }
    }
}

/// Who subscribes, and where. Cheap to clone; it dials when it is asked to subscribe.
#[derive(Clone, Debug)]
pub struct Client {
    token: Token,
    addresses: Vec<String>,
    timing: Timing,
}

impl Client {
    /// A client of the cluster whose nodes let subscribers in at these addresses: host:port.
    ///
    /// # Errors
    ///
    /// [`Error::NoAddress`].
    pub fn new<T: Into<String>>(
        token: Token,
        addresses: impl IntoIterator<Item = T>,
    ) -> Result<Self, Error> {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        if addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        Ok(Self { token, addresses, timing: Timing::default() })
    }

    /// The same with other times.
    #[must_use]
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// Follows topics; returns when a node has let it in.
    ///
    /// # Errors
    ///
    /// What every address says; [`Error::Unreachable`] when none is reached in time.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn subscribe(&self, topics: &[&str], from: From) -> Result<Subscription, Error> {
        let topics = topics.iter().map(|it| (*it).to_owned()).collect();
        Subscription::begin(self.clone(), topics, from).await
    }
}
