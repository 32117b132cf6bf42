//! What goes into the shard's core and what comes out of it.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bus::{Offset, Position, RecordBatch, Timestamp};

use crate::records::RecordId;
use crate::{CircuitPolicy, Order, RetryPolicy};

/// The records of one batch run by the function, once. Never reused within a shard's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InvocationId(pub u64);

/// One commit of a shard. Never reused within a shard's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommitId(pub u64);

/// What the shell must carry out next, in the order in which it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the function on the records of [`records`](crate::ShardDispatch::records), then report
    /// [`on_outcome`](crate::ShardDispatch::on_outcome).
    Invoke {
        /// Which.
        id: InvocationId,
        /// How many records it has.
        records: u32,
    },
    /// Add the outputs of these records, from the answer of this invocation, to the commit that
    /// is being gathered. Outputs of its other records are dropped.
    Gather {
        /// Whose answer.
        id: InvocationId,
        /// Which records.
        kept: Kept,
    },
    /// Add this dead letter to the commit that is being gathered.
    DeadLetter(DeadLetter),
    /// Add the envelope of this record to the commit that is being gathered.
    Park(Park),
    /// Add the tombstone of this record to what the commit that is being gathered settles: it was
    /// parked, and needs nothing more.
    Unpark(RecordId),
    /// Read these records back from the park topic, by place; then report
    /// [`on_loaded`](crate::ShardDispatch::on_loaded). One is in flight at a time.
    Load(Vec<Wanted>),
    /// Commit all that was gathered since the last `Commit`, with these positions, as one. Then
    /// report [`on_committed`](crate::ShardDispatch::on_committed) or
    /// [`on_commit_failed`](crate::ShardDispatch::on_commit_failed). One is in flight at a time.
    Commit {
        /// Which.
        id: CommitId,
        /// How many records its positions settle that no position settled before, filtered ones
        /// too.
        records: u64,
        /// By index of the partition in the shard.
        positions: Vec<(u32, Position)>,
    },
    /// The last commit failed and may succeed now: try the very same again.
    CommitAgain {
        /// Which.
        id: CommitId,
    },
    /// A drain is over: nothing is in flight, and all that ended is durable.
    Drained,
    /// Stop working on the shard: it takes no more input.
    Stop(StopReason),
}

/// Which records of an invocation a [`Command::Gather`] keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Every record of the invocation, by its index in the batch.
    pub records: Vec<RecordId>,
    /// `None` keeps all, else a flag for each.
    pub only: Option<Vec<bool>>,
}

impl Kept {
    /// Whether the outputs of the record at `index` of the batch are kept.
    #[must_use]
    pub fn keeps(&self, index: usize) -> bool {
        self.only.as_ref().is_none_or(|only| only[index])
    }
}

/// A record given up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which: ask [`record`](crate::ShardDispatch::record).
    pub record: RecordId,
    /// How many attempts were made.
    pub attempts: u32,
    /// The name of the last failure.
    pub code: String,
    /// Its account.
    pub message: String,
}

/// A record that waits in the park topic from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Park {
    /// Which: ask [`record`](crate::ShardDispatch::record).
    pub record: RecordId,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it may be tried, by the wall clock.
    pub due: Timestamp,
    /// The name and the account of the last failure; empty where it waits behind another record.
    pub failure: (String, String),
    /// How many nodes may have ended while it ran, this one counted that it is about to run on; 0 once
    /// one has outlived it.
    pub ended: u32,
}

/// A parked record to be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Index of the partition in the shard.
    pub partition: u32,
    /// Its offset there.
    pub offset: Offset,
    /// Where its envelope lies in the park topic, or before it.
    pub place: Offset,
}

/// A parked record that was read back.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Index of the partition in the shard.
    pub partition: u32,
    /// The record alone, at its offset.
    pub batch: RecordBatch,
    /// The name and the account of its last failure.
    pub failure: (String, String),
}

/// A parked record that a shard begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Which, and where.
    pub at: Wanted,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Key, value and headers.
    pub bytes: u32,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it may be tried, by the wall clock.
    pub due: Timestamp,
    /// How many nodes may have ended while it ran.
    pub ended: u32,
}

/// Why a shard stopped for good, or cannot go on for the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// Another assignment owns the shard.
    #[error("fenced: another assignment owns the shard")]
    Fenced,
    /// Retention passed the position, or the position lies beyond the log. Someone must decide.
    #[error("{0}")]
    OffsetOutOfRange(String),
    /// A topic was deleted, or lost the partition.
    #[error("{0}")]
    TopicGone(String),
    /// A topic was deleted, and another of its name was made. Someone must decide.
    #[error("{0}")]
    TopicRecreated(String),
    /// The brokers do not answer.
    #[error("{0}")]
    Unreachable(String),
    /// The brokers refuse who we are.
    #[error("{0}")]
    Refused(String),
    /// The bus cannot do it for another reason.
    #[error("{0}")]
    Bus(String),
}

impl StopReason {
    /// What an error of the bus means for a shard.
    #[must_use]
    pub fn of(error: &bus::Error) -> Self {
        use bus::Error as E;
        let message = error.to_string();
        match error {
            E::Fenced { .. } => Self::Fenced,
            E::OffsetOutOfRange { .. } => Self::OffsetOutOfRange(message),
            E::UnknownTopic { .. } | E::UnknownPartition(_) => Self::TopicGone(message),
            E::TopicRecreated { .. } | E::TopicReplaced { .. } => Self::TopicRecreated(message),
            E::Unreachable { .. } => Self::Unreachable(message),
            E::Authentication { .. } => Self::Refused(message),
            _ => Self::Bus(message),
        }
    }

    /// The name under which it is shown, with a page of its own in `millrace explain`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Fenced => "E0409",
            Self::Unreachable(_) => "E0415",
            Self::Refused(_) => "E0416",
            Self::TopicRecreated(_) => "E0417",
            Self::TopicGone(_) => "E0419",
            Self::OffsetOutOfRange(_) => "E0420",
            Self::Bus(_) => "E0421",
        }
    }
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered.
    Ended {
        /// Records that did not end well, by ascending index in the batch. All others are ok.
        exceptions: Vec<(u32, End)>,
        /// How much the outputs take until they are committed.
        output_bytes: usize,
    },
    /// The batch as a whole had a failure.
    Failed {
        /// Who pays for it.
        blame: Blame,
        /// Its name.
        code: String,
        /// Its account.
        message: String,
    },
}

impl Outcome {
    /// Every record ended well.
    #[must_use]
    pub const fn ok(output_bytes: usize) -> Self {
        Self::Ended { exceptions: Vec::new(), output_bytes }
    }
}

/// Who is charged for the failure of a whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// One of its records: timeout, crash, memory, broken answer.
    Batch,
    /// Nobody: there was no capacity, or no instance started.
    Nobody,
}

/// How a record ended that is not ok.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The function failed it, or an output of it was refused. Costs an attempt.
    Failed {
        /// The failure's name.
        code: String,
        /// Its account.
        message: String,
    },
    /// No attempt will ever succeed, and none was made: dead-lettered at once.
    Undecodable {
        /// The failure's name.
        code: String,
        /// Its account.
        message: String,
    },
    /// The function did not get to it.
    NotRun,
}

impl End {
    /// The failure's name and account, if it is one.
    #[must_use]
    pub fn failure(&self) -> Option<(&str, &str)> {
        match self {
            Self::Failed { code, message } | Self::Undecodable { code, message } => {
                Some((code, message))
            }
            Self::NotRun => None,
        }
    }
}

/// Why a commit is not durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitFailure {
    /// It may succeed later.
    Retryable {
        /// The failure's name.
        code: String,
        /// Its account.
        message: String,
    },
    /// It will not.
    Final(StopReason),
}

/// Why nothing moves for the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// A name.
    pub code: String,
    /// An account.
    pub message: String,
    /// When it is tried again.
    pub until: Instant,
}

/// How batches are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records in a batch.
    pub records: NonZeroUsize,
    /// Bytes of keys, values and headers in a batch; one record may be more.
    pub bytes: usize,
    /// How long a record may wait for a fuller batch. Zero never waits.
    pub window: Duration,
}

/// What a shard may hold in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// Records read and not settled.
    pub records: NonZeroUsize,
    /// Bytes of the batches they lie in.
    pub bytes: NonZeroUsize,
    /// How many records beyond the oldest one that is not settled are read. Costs a bit each,
    /// and how much is skipped one by one after a restart.
    pub span: NonZeroUsize,
    /// Bytes of outputs that wait for their commit before no further invocation starts.
    pub output_bytes: NonZeroUsize,
}

/// When records that wait for a retry leave the memory for the park topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkLimits {
    /// Records behind the failed one of a token.
    pub token_records: NonZeroUsize,
    /// Records that wait for a retry or behind one, of all tokens; as many may be read back.
    pub records: NonZeroUsize,
    /// Their bytes.
    pub bytes: u64,
    /// Records in the park topic. Past it they are held in the window again, which then fills.
    pub parked_max: usize,
}

impl Default for ParkLimits {
    fn default() -> Self {
        let count = |count| NonZeroUsize::new(count).expect("not zero");
        Self {
            token_records: count(128),
            records: count(1024),
            bytes: 4 << 20,
            parked_max: 1_000_000,
        }
    }
}

/// The policy of one shard.
#[derive(Clone, Debug)]
pub struct DispatchConfig {
    /// In which order records run.
    pub order: Order,
    /// How batches are cut.
    pub batch: BatchLimits,
    /// Invocations at a time.
    pub invocations_max: NonZeroUsize,
    /// When the circuit opens; never without.
    pub circuit: Option<CircuitPolicy>,
    /// What becomes of records that fail.
    pub retry: RetryPolicy,
    /// What is held in memory.
    pub window: WindowLimits,
    /// When records are parked. Without it, or with order by partition, none is: what waits for a
    /// retry fills the window.
    pub park: Option<ParkLimits>,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        let count = |count| NonZeroUsize::new(count).expect("not zero");
        Self {
            order: Order::Key,
            batch: BatchLimits { records: count(500), bytes: 1 << 20, window: Duration::ZERO },
            invocations_max: count(2),
            circuit: None,
            retry: RetryPolicy::default(),
            park: None,
            window: WindowLimits {
                records: count(4096),
                bytes: count(16 << 20),
                span: count(1 << 20),
                output_bytes: count(32 << 20),
            },
        }
    }
}

/// What a shard did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records let into the window.
    pub admitted: u64,
    /// Records of these that the filter kept from the function.
    pub filtered: u64,
    /// Records that were seen before, or settled before a restart.
    pub skipped: u64,
    /// Invocations started.
    pub invocations: u64,
    /// Records in them.
    pub attempts: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Failed attempts after which the record is tried again.
    pub retried: u64,
    /// Records given up on.
    pub dead_lettered: u64,
    /// Records put into the park topic.
    pub parked: u64,
    /// Parked records that the shard began with.
    pub resumed: u64,
    /// Batches halved.
    pub bisected: u64,
    /// Records settled, durably, filtered ones too.
    pub settled: u64,
    /// Commits that are durable.
    pub commits: u64,
}
