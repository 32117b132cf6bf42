//! What nodes of a cluster say to each other, over QUIC with TLS 1.3 both ways: who a node is, who
//! may talk to it, and how requests, answers and blobs cross. What they mean is not known here.
//!
//! ```text
//! identity   a CA, node certificates, keys on disk     token   a single use to join
//! gate       chain and member table decide             frame   heads of what crosses (a core)
//! endpoint   one connection per pair, a stream per request, blobs with their digest
//! subscribers  a door of its own for those who follow topics
//! ```
//!
//! Rules, held by tests here and by `cargo prove exchange`:
//!
//! - **XC-1** who is not a member by the table is refused, whatever its chain; each refusal has a
//!   name, is counted under it, and is logged.
//! - **XC-2** what a joiner knows of a secret crosses only after the other side has shown the CA
//!   that the token names.
//! - **XC-3** of two connections of a pair both sides keep the same one; the other one ends when
//!   what was on its way has its answer.
//! - **XC-4** no bytes of a peer make us reserve memory that they do not themselves fill.
//! - **XC-6** a node that does not read the active format has no connection: it is refused by name,
//!   counted, and told.
//! - **XC-5** a call ends by its deadline, with an answer or a named error, and its handler with it.

mod backoff;
mod blob;
mod call;
mod certificate;
mod credentials;
mod endpoint;
mod frame;
mod gate;
mod identity;
mod join;
mod keyfile;
mod link;
mod metrics;
mod peers;
mod refusal;
mod serve;
mod subscribers;
mod tls;
mod token;
mod tries;
mod udp;
mod validity;

pub use blob::{Blob, BlobReader};
pub use call::CallError;
pub use certificate::{Authority, Bridge, CaCertificate, Issued, Trust};
pub use endpoint::{Config, Exchange, StartError, Timing};
pub use frame::{
    BLOB_HEAD, Decoder, FIRST, FORMATS, Formats, Frame, FrameError, HEAD, Head, Kind, PAYLOAD_MAX,
    Status,
};
pub use gate::{Member, Members};
pub use identity::{Fingerprint, Identity, Life, NodeId, NodeKey, NodeName, PublicKey};
pub use join::{JoinAnswer, JoinError, JoinRequest, join};
pub use keyfile::KeyError;
pub use metrics::describe_metrics;
pub use peers::LinkInfo;
pub use refusal::Refusal;
pub use serve::{Answer, Handler, Handling, Peer, Request};
pub use subscribers::{Door, DoorConfig, Ended, Following, Gone, Outlet, Subscriptions};
pub use token::{Token, TokenBook};
pub use tries::Tries;

/// The protocol between members, with its version, as TLS negotiates it.
pub const ALPN_PEER: &[u8] = b"millrace-peer/1";
/// The protocol of who is no member yet.
pub const ALPN_JOIN: &[u8] = b"millrace-join/1";

#[cfg(test)]
mod tests;
