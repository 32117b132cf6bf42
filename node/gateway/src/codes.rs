//! The codes of the control API, by name. Each has its page in `millrace explain`.

/// Not the name of a topic.
pub(crate) const TOPIC_NAME: &str = "E0209";
/// The disk is full.
pub(crate) const DISK_FULL: &str = "E0401";
/// The journal is damaged.
pub(crate) const CORRUPT: &str = "E0403";
/// No such topic.
pub(crate) const UNKNOWN_TOPIC: &str = "E0404";
/// No such partition.
pub(crate) const UNKNOWN_PARTITION: &str = "E0405";
/// An offset that is not there.
pub(crate) const OFFSET: &str = "E0406";
/// A record over its topic's limit.
pub(crate) const RECORD_TOO_LARGE: &str = "E0407";
/// An assignment that is over.
pub(crate) const FENCED: &str = "E0409";
/// The topic exists, with other settings.
pub(crate) const TOPIC_EXISTS: &str = "E0408";
/// The journal cannot be read or written.
pub(crate) const DISK_ERROR: &str = "E0412";
/// A batch that is not one.
pub(crate) const BAD_BATCH: &str = "E0413";
/// The address to listen on is taken.
pub(crate) const PORT_IN_USE: &str = "E0501";
/// No token, or not the token of this node.
pub(crate) const UNAUTHORISED: &str = "E0505";
/// No such route.
pub(crate) const NO_ROUTE: &str = "E0506";
/// The request took too long.
pub(crate) const TIMEOUT: &str = "E0508";
/// The address to listen on cannot be had, or must not be.
pub(crate) const LISTEN: &str = "E0509";
/// A topic that a function reads or writes cannot be deleted.
pub(crate) const TOPIC_IN_USE: &str = "E0510";
/// The node's own fault.
pub(crate) const INTERNAL: &str = "E0511";
/// The node drains, or its bus is closed.
pub(crate) const CLOSING: &str = "E0512";
/// A request that says what cannot be, says it in the wrong way, or is over a limit.
pub(crate) const BAD_REQUEST: &str = "E0513";
/// Too much is waiting.
pub(crate) const BUSY: &str = "E0515";
/// A `Host` that is not this machine, or a browser's `Origin`.
pub(crate) const FOREIGN: &str = "E0516";
/// The brokers of Kafka do not answer.
pub(crate) const BROKERS_AWAY: &str = "E0415";
/// The brokers of Kafka refuse the credentials.
pub(crate) const BROKERS_REFUSE: &str = "E0416";
/// A topic was deleted and made again.
pub(crate) const TOPIC_RECREATED: &str = "E0417";
/// The application is at another version than the one that was looked at.
pub(crate) const OTHER_VERSION: &str = "E0520";
/// No such revision or alias.
pub(crate) const UNKNOWN_REVISION: &str = "E0522";
/// Bytes that are no package, or not the one that they were said to be.
pub(crate) const NOT_THE_PACKAGE: &str = "E0523";
/// A package that the node does not have.
pub(crate) const PACKAGE_MISSING: &str = "E0524";
/// The node is alone, and was asked for its cluster.
pub(crate) const NO_CLUSTER: &str = "E0575";
/// No quorum of the cluster answers.
pub(crate) const NO_QUORUM: &str = "E0570";
/// Whether a change of the cluster was made is not known.
pub(crate) const IN_DOUBT: &str = "E0571";
/// No such node in the cluster.
pub(crate) const UNKNOWN_MEMBER: &str = "E0572";
/// Another node runs what is asked for, or none does.
pub(crate) const ELSEWHERE: &str = "E0576";
/// A node of the cluster does not answer.
pub(crate) const UNHEARD: &str = "E0578";
/// Dead letters of a topic are being put back already.
pub(crate) const REDRIVE_RUNS: &str = "E0540";
/// A function that was called failed.
pub(crate) const FUNCTION_FAILED: &str = "E0550";
/// A call whose time was over.
pub(crate) const FUNCTION_LATE: &str = "E0551";
/// Too many calls of a function wait.
pub(crate) const FUNCTION_BUSY: &str = "E0552";
/// A call that may have run.
pub(crate) const MAY_HAVE_RUN: &str = "E0553";
/// A function that no node can run now.
pub(crate) const RUNS_NOWHERE: &str = "E0554";
/// A replay of the trigger runs already.
pub(crate) const REPLAY_RUNS: &str = "E0561";
/// What a seek may be refused with by the owner of a partition.
pub(crate) const FORWARDED: &[&str] = &[
    DISK_FULL,
    UNKNOWN_TOPIC,
    UNKNOWN_PARTITION,
    OFFSET,
    FENCED,
    BROKERS_AWAY,
    BROKERS_REFUSE,
    TOPIC_RECREATED,
    NO_ROUTE,
    CLOSING,
    BAD_REQUEST,
    NO_QUORUM,
    IN_DOUBT,
    ELSEWHERE,
];
/// The cluster refuses a change of its members.
pub(crate) const MEMBERS: &str = "E0573";
