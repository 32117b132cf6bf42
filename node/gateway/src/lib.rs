//! The control API of a node: HTTP on loopback, with a bearer token.
//!
//! ```text
//! connection ─▶ door (Host, Origin, limits, token) ─▶ routes ─▶ bus, or the node's view
//! ```
//!
//! | route | what |
//! |---|---|
//! | `GET /healthz`, `/readyz`, `/metrics` | no token: they say nothing of records |
//! | `GET /v1/status`, `/v1/lag` | [`Status`](api::Status), [`Lag`](api::Lag) |
//! | `GET`, `POST /v1/topics` | [`TopicList`](api::TopicList); [`CreateTopic`](api::CreateTopic) |
//! | `GET`, `DELETE /v1/topics/{t}` | [`Topic`](api::Topic) |
//! | `GET /v1/topics/{t}/records` | [`RecordData`](api::RecordData), a line each |
//! | `POST /v1/topics/{t}/records` | [`Produce`](api::Produce), or raw batches |
//! | `POST /v1/topics/{t}:fetch` | [`Fetch`](api::Fetch): reads on from positions, and waits |
//! | `GET /v1/functions` | [`FunctionList`](api::FunctionList) |
//! | `GET /v1/functions/{a}/{f}/revisions` | [`RevisionList`](api::RevisionList) |
//! | `POST /v1/functions/{a}/{f}:rollback` | [`Target`](api::Target): what to be again |
//! | `POST /v1/functions/{a}/{f}:invoke` | calls it with the body, and answers with what it answers |
//! | `GET /v1/functions/{a}/{f}/aliases` | [`AliasList`](api::AliasList) |
//! | `PUT`, `DELETE /v1/functions/{a}/{f}/aliases/{alias}` | [`Target`](api::Target) |
//! | `POST /v1/apps/{a}:plan` | [`Proposal`](api::Proposal): what a deploy would change |
//! | `PUT /v1/packages/{digest}` | an archive, in the layout of node/function/src/archive.rs |
//! | `POST /v1/apps/{a}:deploy` | [`Proposal`](api::Proposal), with the plan's version in `If-Match` |
//! | `POST /v1/node:try` | [`Trial`](api::Trial): whether a function starts here that another node deploys |
//! | `DELETE /v1/apps/{a}` | ends it; topics stay |
//! | `GET /v1/config` | [`Effective`](api::Effective): settings, without secrets |
//! | `GET /v1/doctor` | [`Examination`](api::Examination) |
//! | `GET /v1/instances` | [`InstanceList`](api::InstanceList) |
//! | `GET /v1/logs` | [`LogQuestion`](api::LogQuestion): what functions said; waits for more |
//! | `GET /v1/triggers` | [`TriggerList`](api::TriggerList) |
//! | `POST /v1/triggers/{a}/{f}/{t}:pause`, `:resume` | takes no records any more, or goes on |
//! | `POST /v1/triggers/{a}/{f}/{t}:replay` | [`Replay`](api::Replay): runs records again, beside the trigger |
//! | `GET`, `DELETE /v1/triggers/{a}/{f}/{t}/replay` | how far it is; stops it |
//! | `POST /v1/triggers/{a}/{f}/{t}:seek` | [`Seek`](api::Seek): moves positions, or previews it |
//! | `GET /v1/dead-letters/{t}` | [`DeadLetterList`](api::DeadLetterList): the open ones, by cause |
//! | `GET`, `PUT /v1/dead-letters/{t}/{p}/{offset}` | [`DeadLetterInfo`](api::DeadLetterInfo); [`DeadLetterEdit`](api::DeadLetterEdit) |
//! | `POST /v1/dead-letters/{t}:redrive`, `:purge` | [`Redrive`](api::Redrive): put back, or let be |
//! | `GET`, `DELETE /v1/dead-letters/{t}/redrive` | [`RedriveStatus`](api::RedriveStatus); stops it |
//! | `GET /v1/records/{t}/{p}/{offset}` | [`RecordAccount`](api::RecordAccount): what became of it |
//! | `GET /v1/invocations/{id}` | [`InvocationInfo`](api::InvocationInfo) |
//! | `GET /v1/tail` | [`TailQuestion`](api::TailQuestion): invocations as they end; waits for more |
//! | `GET /v1/members`, `POST /v1/members:token` | [`MemberList`](api::MemberList); [`JoinToken`](api::JoinToken) |
//! | `POST /v1/members/{m}:drain`, `:undrain`, `DELETE /v1/members/{m}` | what becomes of a node |
//! | `GET`, `POST /v1/tokens`, `DELETE /v1/tokens/{id}` | [`SubscriberTokenList`](api::SubscriberTokenList); [`SubscriberTokenWish`](api::SubscriberTokenWish) |
//! | `GET /v1/ca`, `POST /v1/ca:rotate`, `:finish`, `:abort` | [`CaStatus`](api::CaStatus); a rotation of the CA |
//! | `GET /v1/upgrade`, `POST /v1/upgrade:finish` | [`UpgradeStatus`](api::UpgradeStatus): what is written, and by whom it is read |
//! | `GET /v1/raft`, `POST /v1/raft:transfer`, `:snapshot` | [`RaftStatus`](api::RaftStatus); the lead, a checkpoint |
//! | `GET /v1/backup`, `GET /v1/backup/packages/{digest}`, `POST /v1/backup:restore` | [`Backup`](api::Backup); [`Restored`](api::Restored) |
//! | `POST /v1/node:shutdown` | drains the node and ends it |
//!
//! At a member of a cluster of several, `status`, `lag`, `config`, `doctor`, `instances`, `logs`,
//! `triggers`, `records` and what is known of redrives and replays are those of all nodes that
//! answer, and say who does not; `?node=NAME` asks one of them alone.
//!
//! Errors are [`Problem`](api::Problem)s. The crate runs nothing and decides nothing: what a node
//! is stands behind [`NodeView`], what runs on it behind [`Applications`] and [`Operations`], its
//! cluster behind [`Membership`] and [`Backups`], its other nodes behind [`Others`], what a topic is
//! behind `bus::Bus`, what calls functions behind [`Invocations`].

pub mod api;
mod apps;
mod backup;
mod codes;
mod data;
mod dead_letters;
mod door;
mod history;
mod invoke;
mod lag;
mod logs;
mod members;
mod merge;
mod metrics;
mod others;
mod owners;
mod problem;
mod produce;
mod read;
mod routes;
mod server;
mod topics;
mod triggers;
mod upgrade;
mod view;
mod whole;

pub use backup::Backups;
pub use data::Data;
pub use invoke::{Call, Called, Invocations, NotCalled, VALUE_BYTES_MAX, Why};
pub use others::{NotHeard, Others, Own, Owned, Question, REPLY_BYTES_MAX, Reply, Verb};
pub use read::{Begin, record_data};
pub use server::{BindError, Gateway, GatewayConfig};
pub use view::{
    Applications, Membership, NodeView, Operations, ProcessFigures, Readiness, Refused,
};
