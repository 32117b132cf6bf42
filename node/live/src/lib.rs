//! What crosses between a node and those who follow its topics, as bytes: tokens, resume tokens,
//! frames, and the reasons for an end. Both sides use it; neither is known here.
//!
//! ```text
//! subscriber                                    node
//!   QUIC, TLS 1.3, ALPN "millrace-subscribe/1"
//!   the node shows the CA that the token names
//!   SUBSCRIBE token, topics, start      ─────▶
//!                                       ◀─────  WELCOME the resume token of the start
//!                                       ◀─────  RECORDS ...
//!                                       ◀─────  the connection is closed with a reason
//! ```
//!
//! - **LV-1** no bytes of the other side make anybody reserve memory that they do not themselves
//!   fill, and none make it panic.
//! - **LV-2** a resume token that is not whole, or of another cluster or topic, is told from one that
//!   is: it never leads to another place than the one it was made at.

mod frame;
mod reason;
mod resume;
mod token;

pub use frame::{
    Decoder, FRAME_MAX, Frame, FrameError, HEAD, Header, REQUEST_MAX, Record, RecordsWriter, Start,
    Subscribe, TOPICS_MAX, VERSION, subscribe, welcome,
};
pub use reason::Reason;
pub use resume::{Resume, ResumeError, TopicPlace};
pub use token::{CaDigest, Token, TokenError, TokenId, digest};

/// The protocol, with its version, as TLS negotiates it.
pub const ALPN: &[u8] = b"millrace-subscribe/1";
