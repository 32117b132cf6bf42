//! What the exchange between nodes costs beside raw quinn, on loopback, in one process: blobs one
//! after the other, and requests one at a time.
//!
//! The raw side has the same provider, packet size and windows, a self-signed certificate, and no
//! frames, digests, member tables or deadlines. Both send the same bytes from memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use exchange::{
    Answer, Authority, Blob, Config, Exchange, Fingerprint, Handler, Handling, Identity, Kind,
    Life, Member, Members, NodeId, NodeKey, NodeName, Request, Timing, Trust,
};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig};
use quinn::{TokioRuntime, TransportConfig, VarInt};
use rustls::pki_types::{PrivatePkcs8KeyDer, UnixTime};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Failed;
use crate::environment::{self, Meter};
use crate::figures::{Sorted, ratios, rounded};

/// Bytes of a blob, blobs of a round, and requests of a round.
const BLOB: usize = 32 << 20;
const BLOBS: usize = 8;
const REQUESTS: usize = 5_000;
/// As the exchange has them.
const UDP_PAYLOAD: u16 = 8_972;
const STREAM_WINDOW: u32 = 2 << 20;
const WINDOW: u32 = 16 << 20;
const WITHIN: Duration = Duration::from_secs(60);
const HOUR: u64 = 3_600;

/// What a contender did in a round.
struct Round {
    mib_per_second: f64,
    /// Microseconds of each request.
    round_trips: Vec<f64>,
}

/// Runs both in turn.
pub(crate) async fn run(rounds: usize) -> Result<Value, Failed> {
    let blob = Bytes::from((0..BLOB).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    let (one, _two) = ours(&blob)?;
    let (_quic, raw) = raw(&blob).await?;
    // Warm-up: the packet size is found, the window has opened.
    our_round(&one).await?;
    raw_round(&raw).await?;
    let a = raw_round(&raw).await?.mib_per_second;
    let (mut rates, mut trips): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
    let meter = Meter::start();
    for turn in 0..rounds.max(2) * 2 {
        // Each comes first in half of the rounds.
        let is_ours = (turn + turn / 2) % 2 == 1;
        let round = if is_ours { our_round(&one).await? } else { raw_round(&raw).await? };
        rates[usize::from(is_ours)].push(round.mib_per_second);
        trips[usize::from(is_ours)].extend(round.round_trips);
    }
    let others = meter.stop().others;
    let a_a = rates[0][0] / a;
    let [raw_trips, our_trips] = trips.map(Sorted::new);
    Ok(json!({
        "blob_mib": BLOB >> 20,
        "blobs": BLOBS,
        "requests": REQUESTS,
        "rounds": rounds.max(2),
        "raw_mib_per_second": Sorted::new(rates[0].clone()).spread(),
        "exchange_mib_per_second": Sorted::new(rates[1].clone()).spread(),
        "ratio": ratios(&rates[0], &rates[1]).spread(),
        "raw_round_trip_us_p50": raw_trips.at(0.5),
        "raw_round_trip_us_p99": raw_trips.at(0.99),
        "exchange_round_trip_us_p50": our_trips.at(0.5),
        "exchange_round_trip_us_p99": our_trips.at(0.99),
        "a_a": rounded(a_a, 3),
        "others": others,
        "noisy": environment::is_noisy(a_a, others),
    }))
}

fn round(bytes: usize, took: Duration, round_trips: Vec<f64>) -> Round {
    Round { mib_per_second: bytes as f64 / f64::from(1 << 20) / took.as_secs_f64(), round_trips }
}

/// Two nodes know each other.
struct Table(BTreeMap<NodeId, Fingerprint>);

impl Members for Table {
    fn member(&self, node: NodeId) -> Member {
        let key = self.0.get(&node);
        key.map_or(Member::Unknown, |key| Member::Is { incarnation: 1, keys: vec![*key] })
    }
}

/// Echoes, and sends the blob.
struct Server {
    blob: Bytes,
    digest: [u8; 32],
}

impl Handler for Server {
    fn handle(&self, request: Request) -> Handling<'_> {
        Box::pin(async move {
            match request.kind {
                Kind::BLOB => Answer::Blob(Blob::of(self.blob.clone(), self.digest)),
                _ => Answer::Bytes(request.payload),
            }
        })
    }
}

fn ours(blob: &Bytes) -> Result<(Exchange, Exchange), Failed> {
    let life = Life::new(UnixTime::now().as_secs() - HOUR, 24 * HOUR);
    let ca = Authority::create("bench", life)?;
    let trust = Trust::new(vec![ca.certificate().clone()])?;
    let node = |node| -> Result<Identity, Failed> {
        let name = NodeName { cluster: "bench".to_owned(), node: NodeId(node), incarnation: 1 };
        let key = NodeKey::generate()?;
        let issued = ca.issue(&name, &key.public(), life)?;
        Ok(Identity::new(name, key, issued, ca.certificate().clone()))
    };
    let (one, two) = (node(1)?, node(2)?);
    let members = [&one, &two].map(|it| (it.name().node, it.public_key().fingerprint()));
    let members: Arc<dyn Members> = Arc::new(Table(members.into_iter().collect()));
    let digest = Sha256::digest(blob).into();
    let start = |identity: &Identity| {
        let config = Config { bind: ([127, 0, 0, 1], 0).into(), timing: Timing::default() };
        let server = Arc::new(Server { blob: blob.clone(), digest });
        Exchange::start(config, (identity, &trust), Arc::clone(&members), server)
    };
    let (one, two) = (start(&one)?, start(&two)?);
    one.set_peer(NodeId(2), two.local_address()?);
    Ok((one, two))
}

async fn our_round(one: &Exchange) -> Result<Round, Failed> {
    let began = Instant::now();
    for _ in 0..BLOBS {
        let nothing = Bytes::new();
        let most = BLOB as u64;
        let mut reader = one.fetch(NodeId(2), Kind::BLOB, nothing, WITHIN, most).await?;
        while reader.next().await?.is_some() {}
    }
    let took = began.elapsed();
    let mut trips = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let began = Instant::now();
        let payload = Bytes::from_static(&[7; 128]);
        let answer = one.call(NodeId(2), Kind::INVOKE, payload, WITHIN).await?;
        trips.push(began.elapsed().as_secs_f64() * 1e6);
        if answer.len() != 128 {
            return Err("another answer than was asked for".into());
        }
    }
    Ok(round(BLOB * BLOBS, took, trips))
}

/// A server that sends the blob when a stream's request is one byte, else the request.
async fn raw(blob: &Bytes) -> Result<(Endpoint, Connection), Failed> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let certificate = made.cert.der().clone();
    let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], key.into())?;
    server.transport_config(Arc::new(transport()));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    client.transport_config(Arc::new(transport()));
    let endpoint = |server| -> Result<Endpoint, Failed> {
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(UDP_PAYLOAD)?;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        Ok(Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
    };
    let (served, dialling) = (endpoint(Some(server))?, endpoint(None)?);
    let address = served.local_addr()?;
    let blob = blob.clone();
    tokio::spawn(async move {
        let connection = served.accept().await?.await.ok()?;
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let blob = blob.clone();
            tokio::spawn(async move {
                let asked = receive.read_to_end(1 << 10).await.ok()?;
                let answer = if asked.len() == 1 { blob } else { asked.into() };
                send.write_chunk(answer).await.ok()?;
                send.finish().ok()
            });
        }
        Some(())
    });
    let connection = dialling.connect_with(client, address, "localhost")?.await?;
    Ok((dialling, connection))
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW));
    transport
}

async fn raw_round(connection: &Connection) -> Result<Round, Failed> {
    let began = Instant::now();
    for _ in 0..BLOBS {
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&[1]).await?;
        send.finish()?;
        let mut read = 0;
        while let Some(chunk) = receive.read_chunk(1 << 20, true).await? {
            read += chunk.bytes.len();
        }
        if read != BLOB {
            return Err(format!("{read} bytes of a blob").into());
        }
    }
    let took = began.elapsed();
    let mut trips = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let began = Instant::now();
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&[7; 128]).await?;
        send.finish()?;
        let answer = receive.read_to_end(1 << 10).await?;
        trips.push(began.elapsed().as_secs_f64() * 1e6);
        if answer.len() != 128 {
            return Err("another answer than was asked for".into());
        }
    }
    Ok(round(BLOB * BLOBS, took, trips))
}
