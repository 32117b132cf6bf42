//! Why a command changes nothing.

use bus::ShardId;

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such application.
    #[error("no application {0}")]
    UnknownApp(String),
    /// No such shard.
    #[error("no shard {0}")]
    UnknownShard(ShardId),
    /// The application has no such function.
    #[error("no function {0}")]
    UnknownFunction(String),
    /// No application has such a trigger.
    #[error("no trigger {0}")]
    UnknownTrigger(String),
    /// No revision of this name is kept.
    #[error("no revision {revision} of {function} is kept")]
    UnknownRevision {
        /// Whose.
        function: String,
        /// Which.
        revision: String,
    },
    /// No such alias.
    #[error("{function} has no alias {alias}")]
    UnknownAlias {
        /// Whose.
        function: String,
        /// Which.
        alias: String,
    },
    /// Somebody changed the application since it was looked at.
    #[error("the application is at version {found}, not at {expected}")]
    Version {
        /// The version that the command was made for.
        expected: u64,
        /// The version there is; 0 = none.
        found: u64,
    },
    /// The id of a member that there is or was.
    #[error("the id {0} was given to a member before")]
    UsedMember(u64),
    /// The name of a member that there is.
    #[error("a member is called {0} already")]
    UsedName(String),
    /// A join token that was never made here.
    #[error("no such join token was made here")]
    UnknownToken,
    /// A join token that let somebody in.
    #[error("the join token was used")]
    UsedToken,
    /// A join token whose time is over.
    #[error("the join token's time is over")]
    ExpiredToken,
    /// More join tokens than are kept.
    #[error("too many join tokens wait to be used")]
    ManyTokens,
    /// No token of a subscriber has this id.
    #[error("no subscriber's token {0:08x}")]
    UnknownSubscriber(u32),
    /// The id of a token that there is or was.
    #[error("the id {0:08x} was given to a subscriber's token before")]
    UsedSubscriber(u32),
    /// More tokens of subscribers than are kept.
    #[error("too many tokens of subscribers; revoke some that nobody uses")]
    ManySubscribers,
    /// No such member, or it was removed.
    #[error("no member {0}")]
    UnknownMember(u64),
    /// A start that is not newer than one that is known.
    #[error("start {incarnation} of member {member}, which has started as {newest}")]
    StaleStart {
        /// Whose.
        member: u64,
        /// Which start.
        incarnation: u64,
        /// The newest start that is known.
        newest: u64,
    },
    /// A revision's name with other content than before.
    #[error("revision {revision} of {function} exists with another content")]
    Revision {
        /// Whose.
        function: String,
        /// Which.
        revision: String,
    },
    /// A trigger whose function is not part of the application.
    #[error("trigger {trigger} names function {function}, which the application does not have")]
    Dangling {
        /// Which.
        trigger: String,
        /// Its function.
        function: String,
    },
    /// A topic has fewer partitions than before.
    #[error("topic {topic} has {now} partitions, and had {before}")]
    Shrunk {
        /// Which.
        topic: String,
        /// Partitions with shards.
        before: u32,
        /// Partitions named now.
        now: u32,
    },
    /// Another rotation of the CA is on its way.
    #[error("a rotation of the CA is on its way already")]
    Rotating,
    /// No rotation of the CA is on its way.
    #[error("no rotation of the CA is on its way")]
    NotRotating,
    /// A rotation that does not begin with the CA that the cluster has.
    #[error("it is not the cluster's CA")]
    ForeignCa,
    /// What was said of a stage of a rotation that is over.
    #[error("that was stage {turn} of rotations of the CA, they are at {now}")]
    StaleTurn {
        /// Which.
        turn: u64,
        /// The one that is on its way.
        now: u64,
    },
    /// Members that have not done what a rotation of the CA needs of them.
    #[error("members {0:?} have not done their part of the rotation")]
    Unrotated(Vec<u64>),
    /// Nobody said that the window ends before its time.
    #[error("the window of the rotation is not over")]
    EarlyEnd,
    /// A member that is not known to read a format.
    #[error("{member} is not known to read format {format}")]
    Unread {
        /// Its name.
        member: String,
        /// Which format.
        format: u8,
    },
    /// The cluster has this format, or a later one.
    #[error("format {format} is no later one: the cluster has {active}")]
    NoLater {
        /// Which was wished.
        format: u8,
        /// The one there is.
        active: u8,
    },
    /// A command of a format that is not active yet.
    #[error("the change needs format {format}, and the cluster has {active}")]
    Early {
        /// Which it needs.
        format: u8,
        /// The one there is.
        active: u8,
    },
}
