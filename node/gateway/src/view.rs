//! What the gateway asks of the node that it belongs to. The binary implements it.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::api::{
    AliasList, CaStatus, DeadLetterChoice, DeadLetterInfo, DeadLetterList, Deployed, Effective,
    Examination, FunctionList, InstanceList, InvocationInfo, JoinToken, LogLines, LogQuestion,
    MadeSubscriberToken, MemberList, Plan, Proposal, RaftStatus, RecordAccount, Redrive,
    RedriveStatus, Replay, ReplayStatus, RevisionList, RolledBack, RotationWish, Seek, ShardStatus,
    Sought, Status, SubscriberTokenList, SubscriberTokenWish, TailLines, TailQuestion, Target,
    Trial, Tried, TriggerInfo, TriggerList, UpgradeStatus,
};
use crate::data::Data;
use crate::read::Begin;

/// Whether a node takes work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not, and why.
    NotReady(String),
}

/// The process of a node and the disk under its data, as the system says; `None` = it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// CPU time so far, in seconds, without worker processes.
    pub cpu_s: f64,
    /// When it started, in seconds since the Unix epoch.
    pub started_s: f64,
    /// Memory that is resident.
    pub resident_bytes: Option<u64>,
    /// Descriptors that are open.
    pub open_fds: Option<u64>,
    /// Descriptors that may be open.
    pub max_fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// What the file system of the data folder has left for this user.
    pub data_available_bytes: Option<u64>,
    /// How large that file system is.
    pub data_size_bytes: Option<u64>,
}

/// The node, as the control API sees it. Every call is answered from memory, at once.
pub trait NodeView: Send + Sync + Debug {
    /// A snapshot. `lag` of the functions is left to the gateway, which asks the bus.
    fn status(&self) -> Status;

    /// Every shard this node owns.
    fn shards(&self) -> Vec<ShardStatus>;

    /// Its process and disk.
    fn process(&self) -> ProcessFigures;

    /// For `/readyz`.
    fn readiness(&self) -> Readiness;

    /// Asks the node to drain and end. Returns at once.
    fn request_shutdown(&self);
}

/// Why the node refuses something, as a problem says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// For `millrace explain`.
    pub code: &'static str,
    /// What is wrong.
    pub detail: String,
    /// The next step.
    pub hints: Vec<String>,
}

/// What can be done with the applications of a node. A change that has begun is carried to its end
/// whether or not anybody waits for the answer; when that comes, the change is durable.
#[async_trait]
pub trait Applications: Send + Sync + Debug {
    /// Everything that is deployed.
    fn functions(&self) -> FunctionList;

    /// What is kept of a function.
    ///
    /// # Errors
    ///
    /// When there is no such function.
    fn revisions(&self, app: &str, function: &str) -> Result<RevisionList, Refused>;

    /// The aliases of a function.
    ///
    /// # Errors
    ///
    /// When there is no such function.
    fn aliases(&self, app: &str, function: &str) -> Result<AliasList, Refused>;

    /// Lets an alias name a revision.
    ///
    /// # Errors
    ///
    /// When there is no such function or revision, or the alias cannot be one.
    async fn set_alias(
        &self,
        app: String,
        function: String,
        alias: String,
        target: Target,
    ) -> Result<AliasList, Refused>;

    /// Takes an alias away.
    ///
    /// # Errors
    ///
    /// When there is no such function or alias.
    async fn delete_alias(
        &self,
        app: String,
        function: String,
        alias: String,
    ) -> Result<AliasList, Refused>;

    /// What a deploy would change. Changes nothing.
    ///
    /// # Errors
    ///
    /// When the proposal cannot be understood.
    async fn plan(&self, app: String, proposal: Proposal) -> Result<Plan, Refused>;

    /// The largest archive of a package.
    fn package_bytes_max(&self) -> usize;

    /// Keeps a package for a deploy that follows soon; durable when it returns.
    ///
    /// # Errors
    ///
    /// When the bytes are no package, or not that of the digest.
    async fn receive(&self, digest: String, archive: Bytes) -> Result<(), Refused>;

    /// Deploys: functions that cannot start are named in the answer, the others run.
    ///
    /// # Errors
    ///
    /// When nothing was changed, because the application is at another version than the one that is
    /// expected, packages are missing, or topics cannot be made.
    async fn deploy(
        &self,
        app: String,
        proposal: Proposal,
        expects: Option<u64>,
    ) -> Result<Deployed, Refused>;

    /// Lets a function be a revision again that it was before.
    ///
    /// # Errors
    ///
    /// When nothing was changed, because there is no such revision or it cannot start.
    async fn roll_back(
        &self,
        app: String,
        function: String,
        target: Target,
        expects: Option<u64>,
    ) -> Result<RolledBack, Refused>;

    /// Whether a function starts here that another node deploys, which lacks its labels.
    async fn try_here(&self, trial: Trial) -> Tried;

    /// Ends an application, with its positions, revisions and aliases. Topics stay.
    ///
    /// # Errors
    ///
    /// When there is none of this name.
    async fn remove(&self, app: String, expects: Option<u64>) -> Result<Deployed, Refused>;
}

/// The cluster that a node belongs to.
#[async_trait]
pub trait Membership: Send + Sync + Debug {
    /// Who is in it, and how each is.
    async fn members(&self) -> MemberList;

    /// Makes a token that lets in one node.
    ///
    /// # Errors
    ///
    /// When the cluster does not agree in time.
    async fn join_token(&self) -> Result<JoinToken, Refused>;

    /// Lets a node give away its shards, or have some again.
    ///
    /// # Errors
    ///
    /// When there is no such node, or the cluster does not agree in time.
    async fn set_draining(&self, member: String, drains: bool) -> Result<(), Refused>;

    /// Takes a node out of the cluster for good.
    ///
    /// # Errors
    ///
    /// When there is no such node, or too few would be left.
    async fn remove(&self, member: String) -> Result<(), Refused>;

    /// How this node takes part.
    fn raft(&self) -> RaftStatus;

    /// Lets another node lead; which one does then.
    ///
    /// # Errors
    ///
    /// When there is no such node, or it cannot lead.
    async fn transfer(&self, to: Option<String>) -> Result<String, Refused>;

    /// The tokens of subscribers that were made, without their secrets.
    fn subscriber_tokens(&self) -> SubscriberTokenList;

    /// Makes a token for a subscriber; it is shown once.
    ///
    /// # Errors
    ///
    /// When what is wished cannot be, or the cluster does not agree in time.
    async fn make_subscriber_token(
        &self,
        wish: SubscriberTokenWish,
    ) -> Result<MadeSubscriberToken, Refused>;

    /// Ends a token for good, and who follows by it.
    ///
    /// # Errors
    ///
    /// When there is no such token, or the cluster does not agree in time.
    async fn revoke_subscriber_token(&self, id: String) -> Result<(), Refused>;

    /// The CAs of the cluster.
    fn authorities(&self) -> CaStatus;

    /// Lets another CA take the place of the one there is.
    ///
    /// # Errors
    ///
    /// When one does so already, or the cluster does not agree in time.
    async fn rotate(&self, wish: RotationWish) -> Result<CaStatus, Refused>;

    /// Ends the window of a rotation before its time.
    ///
    /// # Errors
    ///
    /// When a node has no certificate of the next CA, or the cluster does not agree in time.
    async fn finish_rotation(&self) -> Result<CaStatus, Refused>;

    /// Goes back to the CA that was to go.
    ///
    /// # Errors
    ///
    /// When there is no rotation, or the cluster does not agree in time.
    async fn abort_rotation(&self) -> Result<CaStatus, Refused>;

    /// Makes a checkpoint of this node's state; the index that it is of.
    ///
    /// # Errors
    ///
    /// When the node takes no part any more.
    async fn checkpoint(&self) -> Result<u64, Refused>;
}

/// What an operator does to what runs. As with [`Applications`], a change that has begun is carried
/// to its end whether or not anybody waits for the answer.
#[async_trait]
pub trait Operations: Send + Sync + Debug {
    /// What the cluster writes, and which builds read it.
    fn upgrade(&self) -> UpgradeStatus;

    /// Has the cluster write the newest format of this node's build.
    ///
    /// # Errors
    ///
    /// When a node does not read it, or the cluster does not agree in time.
    async fn finish_upgrade(&self) -> Result<UpgradeStatus, Refused>;

    /// Examines the node and the machine under it.
    async fn examine(&self) -> Examination;

    /// What functions said of late; waits for a first line as long as it is asked to.
    ///
    /// # Errors
    ///
    /// When there is no such level.
    async fn logs(&self, asked: LogQuestion) -> Result<LogLines, Refused>;

    /// Its settings in effect, without secrets.
    fn effective(&self) -> Effective;

    /// Every instance of its functions that there is now.
    async fn instances(&self) -> InstanceList;

    /// Every trigger. `lag` is left to the gateway, which asks the bus.
    fn triggers(&self) -> TriggerList;

    /// Lets a trigger, `app/function/name`, take no records any more, or go on. Durable when it
    /// returns; what is in flight then ends.
    ///
    /// # Errors
    ///
    /// When there is no such trigger.
    async fn set_paused(&self, trigger: String, paused: bool) -> Result<TriggerInfo, Refused>;

    /// Moves positions of a trigger, or says what that would do. Nothing of what ran before moves
    /// them afterwards.
    ///
    /// # Errors
    ///
    /// When there is no such trigger, topic, partition or offset.
    async fn seek(&self, trigger: String, to: Begin, asked: Seek) -> Result<Sought, Refused>;

    /// Begins to run a range of a trigger's records again, with outputs of their own, or says what
    /// that would do. No position of the trigger moves.
    ///
    /// # Errors
    ///
    /// When there is no such trigger, topic, partition or offset, its function does not run, one
    /// runs already, or somebody reads the topic for the outputs.
    async fn replay(
        &self,
        trigger: String,
        range: (Begin, Begin),
        asked: Replay,
    ) -> Result<ReplayStatus, Refused>;

    /// How far the last replay of a trigger is; `None` when there was none since the node started.
    fn replay_status(&self, trigger: &str) -> Option<ReplayStatus>;

    /// Stops one that runs.
    fn stop_replay(&self, trigger: &str);

    /// The open dead letters of a topic that are meant, by cause.
    ///
    /// # Errors
    ///
    /// When the choice cannot be understood, or the topic cannot be read.
    async fn dead_letters(
        &self,
        topic: String,
        asked: DeadLetterChoice,
    ) -> Result<DeadLetterList, Refused>;

    /// One dead letter.
    ///
    /// # Errors
    ///
    /// When there is none at that place.
    async fn dead_letter(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
    ) -> Result<DeadLetterInfo, Refused>;

    /// Lets a dead letter be put back with another value than its own; durable when it returns.
    ///
    /// # Errors
    ///
    /// When there is none at that place, it is done with, or the value is too large.
    async fn edit_dead_letter(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
        value: Data,
    ) -> Result<DeadLetterInfo, Refused>;

    /// Begins to put dead letters back to where they came from, or to purge them, or says what that
    /// would do.
    ///
    /// # Errors
    ///
    /// When the choice cannot be understood, one runs already for the topic, or a topic that they
    /// go to is not there.
    async fn redrive(
        &self,
        topic: String,
        asked: Redrive,
        purge: bool,
    ) -> Result<RedriveStatus, Refused>;

    /// How far the last redrive or purge of a topic is; `None` when there was none since the node
    /// started.
    fn redrive_status(&self, topic: &str) -> Option<RedriveStatus>;

    /// Lets one that runs end after its commit in flight.
    fn stop_redrive(&self, topic: &str);

    /// What became of a record, at every trigger that reads it.
    ///
    /// # Errors
    ///
    /// When there is no such record yet, or topics cannot be read.
    async fn record(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
    ) -> Result<RecordAccount, Refused>;

    /// What an invocation was.
    ///
    /// # Errors
    ///
    /// When the name is none, or nothing tells of it.
    async fn invocation(&self, id: String) -> Result<InvocationInfo, Refused>;

    /// Invocations that ended; waits for a first one as long as it is asked to.
    ///
    /// # Errors
    ///
    /// When there is no such function, or the place to go on from is none.
    async fn tail(&self, asked: TailQuestion) -> Result<TailLines, Refused>;
}
