//! Becoming a member: the joiner finds the CA that its token names, tells it the secret and a
//! public key, and is given a name and a certificate. Who gives them, and when, is the handler's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::call::{self, CallError};
use crate::certificate::{CaCertificate, Issued, Trust};
use crate::endpoint::{Timing, endpoint_config, transport};
use crate::frame::{FIRST, Kind};
use crate::identity::{Identity, Life, NodeKey, NodeName, PublicKey};
use crate::keyfile::{KeyError, decode, encode};
use crate::link::{Stream, code};
use crate::peers::SERVER_NAME;
use crate::refusal::Refusal;
use crate::tls;
use crate::token::Token;
use crate::udp::Quiet;

/// What a joiner sends, and that it has the key that it wants certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Its token.
    pub token: Token,
    /// The key that it wants certified.
    pub key: PublicKey,
    /// What it says of itself, for the handler: not known here.
    pub about: String,
    /// By that key, over all of this.
    pub(crate) proof: Vec<u8>,
}

/// What it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// Who it is from here on.
    pub name: NodeName,
    /// Its certificate.
    pub issued: Issued,
    /// The CA that made it.
    pub ca: CaCertificate,
    /// Whom to trust.
    pub trust: Trust,
    /// What it is told of the cluster: not known here.
    pub about: String,
}

#[derive(Serialize, Deserialize)]
struct WireRequest {
    token: String,
    key: String,
    about: String,
    /// Joiners of earlier versions have none.
    #[serde(default)]
    proof: String,
}

#[derive(Serialize, Deserialize)]
struct WireAnswer {
    name: String,
    certificate: String,
    from: u64,
    until: u64,
    ca: String,
    trust: Vec<String>,
    about: String,
}

impl JoinRequest {
    /// Of who has this key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Crypto`] when the key does not sign.
    pub fn new(token: Token, key: &NodeKey, about: String) -> Result<Self, KeyError> {
        let mut request = Self { token, key: key.public(), about, proof: Vec::new() };
        request.proof = key.sign(&request.signed())?;
        Ok(request)
    }

    /// What the proof is of. The token is what makes it new each time: it is taken once.
    fn signed(&self) -> Vec<u8> {
        let parts: [&[u8]; 4] = [
            b"millrace join request 1\0",
            &self.token.hash(),
            self.key.as_bytes(),
            self.about.as_bytes(),
        ];
        parts.concat()
    }

    /// As it crosses, as JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (key, proof) = (encode(self.key.as_bytes()), encode(&self.proof));
        let (token, about) = (self.token.to_string(), self.about.clone());
        let wire = WireRequest { token, key, about, proof };
        serde_json::to_vec(&wire).expect("texts can be written")
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`Refusal::BadFrame`] when it is not what [`encode`](Self::encode) gives,
    /// [`Refusal::UnprovenKey`] when who sent it has not shown that the key is its own.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let wire: WireRequest = serde_json::from_slice(bytes).map_err(|_bad| Refusal::BadFrame)?;
        let read = || -> Result<Self, KeyError> {
            let key = PublicKey::new(&decode(&wire.key)?)?;
            let (token, proof) = (wire.token.parse()?, decode(&wire.proof)?);
            Ok(Self { token, key, about: wire.about, proof })
        };
        let request = read().map_err(|_bad| Refusal::BadFrame)?;
        match request.key.has_signed(&request.signed(), &request.proof) {
            true => Ok(request),
            false => Err(Refusal::UnprovenKey),
        }
    }
}

impl JoinAnswer {
    /// As it crosses, as JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let wire = WireAnswer {
            name: self.name.to_string(),
            certificate: encode(&self.issued.der),
            from: self.issued.life.from,
            until: self.issued.life.until,
            ca: encode(self.ca.der()),
            trust: self.trust.cas().iter().map(|ca| encode(ca.der())).collect(),
            about: self.about.clone(),
        };
        serde_json::to_vec(&wire).expect("texts and numbers can be written")
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when it is not what [`encode`](Self::encode) gives.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let wire: WireAnswer = serde_json::from_slice(bytes).map_err(|_bad| KeyError::Name)?;
        let ca = |text: &String| CaCertificate::new(decode(text)?);
        let trust: Result<Vec<CaCertificate>, KeyError> = wire.trust.iter().map(ca).collect();
        Ok(Self {
            name: wire.name.parse()?,
            issued: Issued {
                der: decode(&wire.certificate)?,
                life: Life { from: wire.from, until: wire.until },
            },
            ca: ca(&wire.ca)?,
            trust: Trust::new(trust?)?,
            about: wire.about,
        })
    }
}

/// Why somebody did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The other side is not who the token says; it was not told the secret.
    #[error("the other side was refused before it was told the secret: {0}")]
    NotTold(Refusal),
    /// It is not there, or not in time.
    #[error("reach {address}: {why}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// It said no, or the answer did not come; the token may be used up then.
    #[error("join: {0}")]
    Call(#[from] CallError),
    /// What it gave is not usable.
    #[error("join: {0}")]
    Key(#[from] KeyError),
}

/// Asks the node at `address` to be let into its cluster, within this time; `about` is what it is
/// told of who asks, and what it tells of the cluster comes back.
///
/// # Errors
///
/// [`JoinError`].
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn join(
    address: SocketAddr,
    token: Token,
    key: NodeKey,
    about: String,
    within: Duration,
) -> Result<(Identity, Trust, String), JoinError> {
    let deadline = Instant::now() + within;
    let unreachable =
        |why: &dyn std::fmt::Display| JoinError::Unreachable { address, why: why.to_string() };
    let why = tls::Why::default();
    let tls = tls::joiner(token.ca(), &why).map_err(|error| unreachable(&error))?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport(&Timing::default(), 0)));
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any).map_err(|error| unreachable(&error))?;
    let quic = quinn::Endpoint::new(endpoint_config(), None, socket, Arc::new(Quiet));
    let quic = quic.map_err(|error| unreachable(&error))?;
    let dialling = quic.connect_with(config, address, SERVER_NAME);
    let dialling = dialling.map_err(|error| unreachable(&error))?;
    let connection = match timeout_at(deadline, dialling).await {
        Err(_) => return Err(unreachable(&"no answer in time")),
        Ok(Err(error)) => {
            let refusal = *why.lock().expect("nothing panics while it holds this");
            return Err(refusal.map_or_else(|| unreachable(&error), JoinError::NotTold));
        }
        Ok(Ok(connection)) => connection,
    };
    let request = JoinRequest::new(token, &key, about)?.encode();
    let asked = async {
        let opened = connection.open_bi().await.map_err(|_lost| CallError::Lost)?;
        let mut stream = Stream::new(opened, code::CANCELLED);
        let sent = call::send(&mut stream, (FIRST, Kind::JOIN), 1, request.into(), deadline).await;
        sent.map_err(|_lost| CallError::Lost)?;
        let frame = call::answer(&mut stream, 1).await?;
        stream.done();
        Ok::<_, CallError>(frame.payload)
    };
    let answer = timeout_at(deadline, asked).await.unwrap_or(Err(CallError::Deadline));
    connection.close(code::CLOSED, b"read");
    let answer = JoinAnswer::decode(&answer?)?;
    quic.wait_idle().await;
    let identity = Identity::new(answer.name, key, answer.issued, answer.ca);
    Ok((identity, answer.trust, answer.about))
}
